"""A model and a decoded set -> masks and counts, image by image. Processes share out whole batches, so a batch is the same computation
whoever has it, and the counts do not depend on their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from medseg.data.decode import fit_letterbox
from medseg.data.decoded import DecodedSet
from medseg.data.loaders import eval_batch
from medseg.engine.infer import OnGrid, Passes, on_own_grid, predict
from medseg.engine.ranks import Ranks
from medseg.labels import LabelSet
from medseg.types import CaseResult, Row

Looked = TypeVar("Looked")


def network_grid_cases(model: nn.Module, data: DecodedSet, batch_size: int, passes: Passes, ranks: Ranks) -> list[CaseResult]:
    """Counts on the network's grid, padding ignored: what an epoch's validation and the choice of a checkpoint go by."""
    counts_NKK = torch.zeros((len(data), data.labels.num_classes, data.labels.num_classes), dtype=torch.int64, device=ranks.device)
    for places in _rounds(len(data), batch_size, ranks):
        if places:
            masks_BHW = predict(model, eval_batch(data, places, ranks.device).image_BCHW, passes).mask_BHW
            for place, mask_HW in zip(places, masks_BHW, strict=True):
                counts_NKK[place] = _confusion(torch.tensor(data.mask(place)).to(ranks.device), mask_HW, data.labels)
    summed = ranks.sum(counts_NKK).cpu().numpy()
    return [CaseResult(row.sample_id, row.group_id, counts) for row, counts in zip(data.rows, summed, strict=True)]


def on_original_grid(
    model: nn.Module, data: DecodedSet, batch_size: int, passes: Passes, ranks: Ranks, look: Callable[[Row, OnGrid], Looked]
) -> Iterator[tuple[Row, Looked]]:
    """Each row with what `look` makes of its prediction on the image's own pixel grid, in the process that has predicted it; at the first
    process, in the order of the rows. The other processes must go through it, too, and find nothing.
    """
    for places in _rounds(len(data), batch_size, ranks):
        looked = list[tuple[Row, Looked]]()
        if places:
            prediction = predict(model, eval_batch(data, places, ranks.device).image_BCHW, passes)
            for place_in_batch, row in enumerate(data.rows[place] for place in places):
                looked.append((row, look(row, on_own_grid(prediction, place_in_batch, fit_letterbox(row.size, data.frame)))))
        yield from ranks.to_first(looked)


def _confusion(reference_HW: Tensor, prediction_HW: Tensor, labels: LabelSet) -> Tensor:
    """What `metrics.counts.confusion` counts, where the network is: the mask goes there, K x K numbers stay there until the end."""
    k, valid = labels.num_classes, labels.valid(reference_HW)
    cells = torch.where(valid, reference_HW.long() * k + prediction_HW, k * k)  # one cell more, for the ignored
    return torch.bincount(cells.flatten(), minlength=k * k + 1)[: k * k].view(k, k)


def _rounds(images: int, batch_size: int, ranks: Ranks) -> Iterator[range]:
    """The places of this process's batches: in each round the processes take one each, the last of them maybe none."""
    starts = range(0, images, batch_size)
    for first in range(0, len(starts), ranks.world):
        mine = first + ranks.rank
        yield range(starts[mine], min(starts[mine] + batch_size, images)) if mine < len(starts) else range(0)
