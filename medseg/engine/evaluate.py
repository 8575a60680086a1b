"""A model and a decoded set -> masks and counts, image by image. Processes share out whole batches, so a batch is the same computation
whoever has it, and the counts do not depend on their number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from medseg.data.decode import fit_letterbox
from medseg.data.decoded import DecodedSet
from medseg.data.loaders import eval_batch
from medseg.engine.infer import Passes, predict_probs, to_original_grid
from medseg.engine.ranks import Ranks
from medseg.metrics.counts import confusion
from medseg.types import CaseResult, Row


def network_grid_cases(model: nn.Module, data: DecodedSet, batch_size: int, passes: Passes, ranks: Ranks) -> list[CaseResult]:
    """Counts on the network's grid, padding ignored: what an epoch's validation and the choice of a checkpoint go by."""
    counts_NKK = np.zeros((len(data), data.labels.num_classes, data.labels.num_classes), np.int64)
    for places in _rounds(len(data), batch_size, ranks):
        for place, probs in zip(places, _probs(model, data, places, passes, ranks), strict=True):
            counts_NKK[place] = confusion(data.mask(place), probs.argmax(dim=0).to(torch.uint8).cpu().numpy(), data.labels)
    summed = ranks.sum(torch.from_numpy(counts_NKK).to(ranks.device)).cpu().numpy()
    return [CaseResult(row.sample_id, row.group_id, counts) for row, counts in zip(data.rows, summed, strict=True)]


def original_grid_masks(
    model: nn.Module, data: DecodedSet, batch_size: int, passes: Passes, ranks: Ranks
) -> Iterator[tuple[Row, np.ndarray]]:
    """Each row with its predicted class ids, uint8 (H, W), on the image's own pixel grid; at the first process, in the order of the rows.

    The other processes must go through it, too, and find nothing.
    """
    for places in _rounds(len(data), batch_size, ranks):
        rows = [data.rows[place] for place in places]
        masks = [
            (row, to_original_grid(probs, fit_letterbox(row.size, data.frame)).cpu().numpy())
            for row, probs in zip(rows, _probs(model, data, places, passes, ranks), strict=True)
        ]
        yield from ranks.to_first(masks)


def _rounds(images: int, batch_size: int, ranks: Ranks) -> Iterator[range]:
    """The places of this process's batches: in each round the processes take one each, the last of them maybe none."""
    starts = range(0, images, batch_size)
    for first in range(0, len(starts), ranks.world):
        mine = first + ranks.rank
        yield range(starts[mine], min(starts[mine] + batch_size, images)) if mine < len(starts) else range(0)


def _probs(model: nn.Module, data: DecodedSet, places: range, passes: Passes, ranks: Ranks) -> Tensor | list[Tensor]:
    return predict_probs(model, eval_batch(data, places, ranks.device).image_BCHW, passes) if places else []
