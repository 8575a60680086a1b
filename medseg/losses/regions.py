"""Region terms: how far the soft regions of the classes miss the true ones. All in [0, 1], 0 where they agree.

Sums run over the valid pixels of the whole batch, or of each image (`over_batch=False`); the value is the mean over the classes, and
over the images. An image without a valid pixel counts as 0 among them, and has no gradient.

An absent class: SMOOTH stands in numerator and denominator, as in MONAI, so a class with neither truth nor probability is a perfect
match. Softmax gives each class some probability, though: once that sums to more than SMOOTH pixels, an absent class costs nearly 1,
with nearly no gradient. So sums over the batch, where classes are seldom absent, are the default.

Legend: B batch, K classes, H W space (or D H W).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medseg.losses.grid import Grid, power

SMOOTH = 1e-5  # pixels; MONAI's smooth_nr and smooth_dr


def soft_dice(grid: Grid, over_batch: bool, include_background: bool) -> Tensor:
    """1 - soft Dice (Milletari et al., V-Net, 3DV 2016, without their squares).

    The sums of monai.losses.DiceLoss in its order, equal to the bit: MONAI's own breaks the graph of torch.compile.
    """
    probs, truth, total = _both_sides(grid, over_batch, include_background)
    tp = total(probs * truth)
    fp = 0.5 * (total(probs) - tp)
    fn = 0.5 * (total(truth) - tp)
    return torch.mean(1 - (2 * tp + SMOOTH) / (2 * (tp + fp + fn) + SMOOTH))


def tversky(grid: Grid, alpha: float, beta: float, over_batch: bool, include_background: bool) -> Tensor:
    """1 - Tversky index (Salehi et al., MLMI 2017, equation 3). alpha weighs false positives, beta false negatives; 0.5, 0.5 is Dice."""
    return tversky_misses(grid, alpha, beta, over_batch, include_background).mean()


def focal_tversky(grid: Grid, alpha: float, beta: float, exponent: float, over_batch: bool, include_background: bool) -> Tensor:
    """(1 - Tversky index) ** exponent, mean over the classes (Abraham and Khan, ISBI 2019: exponent 1 / gamma = 0.75, and the sum)."""
    return power(tversky_misses(grid, alpha, beta, over_batch, include_background), exponent).mean()


def tversky_misses(grid: Grid, alpha: float, beta: float, over_batch: bool, include_background: bool) -> Tensor:
    """1 - Tversky index of each class: (K,), or (B, K) image by image; without the background's column where it is not included.

    Written as one fraction: 1 minus an index near 1 would keep few digits, and the powers taken of it are steep there.
    """
    probs, truth, total = _both_sides(grid, over_batch, include_background)
    tp = total(probs * truth)
    missed = alpha * total(probs * (1 - truth)) + beta * total((1 - probs) * truth)
    return missed / (tp + missed + SMOOTH)


def _both_sides(grid: Grid, over_batch: bool, include_background: bool) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Probabilities and truth (B, K or K - 1, H, W), both 0 where ignored, and how such are summed over the pixels of each class."""
    first, num_classes = 0 if include_background else 1, grid.logits_BKHW.shape[1]
    keep = grid.valid_BHW[:, None]
    ids = torch.arange(first, num_classes, device=keep.device).view(-1, *[1] * (keep.ndim - 2))
    probs = (torch.softmax(grid.logits_BKHW, dim=1) * keep)[:, first:]
    truth = ((grid.target_BHW[:, None] == ids) & keep).to(probs.dtype)  # torch's one_hot would hold 8 bytes a class and pixel
    dims = [0, *range(2, probs.ndim)] if over_batch else list(range(2, probs.ndim))
    return probs, truth, lambda values: grid.whole(torch.sum(values, dim=dims), over_batch)
