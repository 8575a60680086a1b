"""DecodedSet -> batches: in the order of an epoch's draws for training, in file order for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from medseg.config import AugmentConfig
from medseg.data.augment import apply_changes, draw_change
from medseg.data.decode import DecodedSet
from medseg.types import Batch


def collate(data: DecodedSet, positions: Sequence[int] | np.ndarray, device: torch.device) -> Batch:
    """Images to float32 in [0, 1] and masks to int64, both on the device."""
    image = torch.from_numpy(data.images_NCHW[positions]).to(device).float().div_(255.0)
    mask = torch.from_numpy(data.masks_NHW[positions]).to(device).long()
    return Batch(image, mask, tuple(data.rows[position].sample_id for position in positions))


def train_batches(
    data: DecodedSet, draws: np.ndarray, batch_size: int, augment: AugmentConfig, seed: int, epoch: int, device: torch.device
) -> Iterator[Batch]:
    """Augmented batches of one epoch; `draws` holds image positions, a multiple of the batch size."""
    for start in range(0, len(draws), batch_size):
        places = range(start, start + batch_size)
        changes = [draw_change(augment, seed, epoch, place) for place in places]
        yield apply_changes(collate(data, draws[start : start + batch_size], device), changes, data.labels)


def eval_batches(data: DecodedSet, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Every image once, in order, unchanged; the last batch may be smaller."""
    for start in range(0, len(data), batch_size):
        yield collate(data, range(start, min(start + batch_size, len(data))), device)
