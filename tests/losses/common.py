"""Random logits and masks for the tests of the losses, and the configs they run over."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import torch
from torch import Tensor

from medseg.config import LOSS_KEYS, LossConfig, LossName
from medseg.labels import LabelSet
from medseg.losses.grid import Grid, lay

LABELS = LabelSet.of("tongue", "coating")
NAMES: tuple[str, ...] = get_args(LossName)
WEIGHTS = torch.tensor([0.2, 1.1, 1.7])


def random_pair(seed: int = 0, size: tuple[int, ...] = (9, 7), spread: float = 2.0, ignored: bool = True) -> tuple[Tensor, Tensor]:
    """Logits (2, 3, *size) and a mask with all three classes; two rows of it and some pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, 3, *size, generator=generator)
    mask = torch.randint(0, 3, (2, *size), generator=generator)
    if ignored:
        mask[:, 2:4] = 255
        mask[torch.rand(mask.shape, generator=generator) < 0.1] = 255
    return logits, mask


def grid(logits: Tensor, mask: Tensor, weights: Tensor | None = None) -> Grid:
    return lay(logits, mask, LABELS, weights)


def configs(name: str, **settings: Any) -> list[LossConfig]:
    """A loss in every pairing of the reduction and the background, where it has a key for that."""
    choices = {"reduction": ("batch", "image"), "include_background": (False, True)}
    read = {key: values for key, values in choices.items() if name in LOSS_KEYS.get(key, NAMES)}
    return [LossConfig(name=name, **dict(zip(read, values, strict=True)), **settings) for values in product(*read.values())]


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()
