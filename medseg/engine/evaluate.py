"""A model and a decoded set -> masks and counts, image by image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from medseg.data.decode import fit_letterbox
from medseg.data.decoded import DecodedSet
from medseg.data.loaders import eval_batches
from medseg.engine.infer import Passes, predict_probs, to_original_grid
from medseg.metrics.counts import confusion
from medseg.types import CaseResult, Row


def network_grid_cases(model: nn.Module, data: DecodedSet, batch_size: int, passes: Passes, device: torch.device) -> list[CaseResult]:
    """Counts on the network's grid, padding ignored: what an epoch's validation and the choice of a checkpoint go by."""
    return [
        CaseResult(row.sample_id, row.group_id, confusion(data.mask(place), mask, data.labels))
        for place, (row, mask) in enumerate(_network_grid_masks(model, data, batch_size, passes, device))
    ]


def _network_grid_masks(
    model: nn.Module, data: DecodedSet, batch_size: int, passes: Passes, device: torch.device
) -> Iterator[tuple[Row, np.ndarray]]:
    rows = iter(data.rows)
    for batch in eval_batches(data, batch_size, device):
        masks = predict_probs(model, batch.image_BCHW, passes).argmax(dim=1).to(torch.uint8).cpu().numpy()
        yield from ((next(rows), mask) for mask in masks)


def original_grid_masks(
    model: nn.Module, data: DecodedSet, batch_size: int, passes: Passes, device: torch.device
) -> Iterator[tuple[Row, np.ndarray]]:
    """Each row with its predicted class ids, uint8 (H, W), on the image's own pixel grid."""
    rows = iter(data.rows)
    for batch in eval_batches(data, batch_size, device):
        for probs in predict_probs(model, batch.image_BCHW, passes):
            row = next(rows)
            yield row, to_original_grid(probs, fit_letterbox(row.size, data.frame)).cpu().numpy()
