"""What a loss looks at: logits and truth on one grid of pixels, the ignored ones marked.

Legend: B batch, K classes (background 0), H W space, or D H W: every loss takes both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medseg.labels import LabelSet
from medseg.losses.processes import sum_of_processes


class Grid(NamedTuple):
    """One level of a network's output and the truth on it.

    logits_BKHW: float32 (float64 stays).  target_BHW: int64 ids in [0, K), 0 where ignored.  valid_BHW: bool, False where ignored.
    weight_BHW: what a pixel counts in a pixel term: 1, or the weight of its true class; 0 where ignored. bool where all is 1 or 0.
    shared: whether other processes hold the rest of the batch.
    """

    logits_BKHW: Tensor
    target_BHW: Tensor
    valid_BHW: Tensor
    weight_BHW: Tensor
    shared: bool = False

    def whole(self, sums: Tensor, over_batch: bool) -> Tensor:
        """Sums over this process's pixels as those over the whole batch, where they are over the batch."""
        return sum_of_processes(sums) if self.shared and over_batch else sums


def lay(logits_BKHW: Tensor, mask_BHW: Tensor, labels: LabelSet, class_weights_K: Tensor | None = None, shared: bool = False) -> Grid:
    """The Grid of some logits, the mask brought to their size. Half precision becomes float32 first: sums over pixels need it."""
    logits = logits_BKHW.to(torch.promote_types(logits_BKHW.dtype, torch.float32))
    mask = resize(mask_BHW, logits.shape[2:])
    valid = labels.valid(mask)
    target = torch.where(valid, mask, 0).long()
    weight = valid if class_weights_K is None else class_weights_K.to(logits)[target] * valid
    return Grid(logits, target, valid, weight, shared)


def resize(mask_BHW: Tensor, size: torch.Size) -> Tensor:
    """The mask on a coarser or finer grid: each pixel takes the id under its centre, as torch's "nearest-exact" does.

    Ids are picked, never mixed, so the ignore id stays itself: a coarse pixel is ignored where the pixel under its centre is.
    """
    for dim, side in enumerate(size, start=1):
        if mask_BHW.shape[dim] != side:
            places = torch.arange(side, device=mask_BHW.device)  # in whole numbers: no rounding decides which pixel is nearest
            mask_BHW = mask_BHW.index_select(dim, ((2 * places + 1) * mask_BHW.shape[dim]).div(2 * side, rounding_mode="floor"))
    return mask_BHW


def power(miss: Tensor, exponent: float) -> Tensor:
    """miss ** exponent for a miss in [0, 1], a straight line through 0 below SMALLEST_MISS.

    The slope of a power below 1 is infinite at 0; so it stays finite, 0 stays 0, and an exponent of 1 changes no bit.
    """
    return miss * miss.clamp(min=SMALLEST_MISS) ** (exponent - 1)


SMALLEST_MISS = 1e-7
