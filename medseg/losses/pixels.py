"""Pixel terms: means over the valid pixels of something of -log p_t, p_t the probability of a pixel's true class. 0 or more.

Where classes have weights, a mean is the weighted one, as in torch: sum of weight * loss over the sum of the weights. A common factor of
the weights then changes nothing. A mean is over the whole batch, or over each image (`over_batch=False`) and then over the images: so a
pixel of an image with many ignored ones counts more. An image without a valid pixel counts as 0 among them, and has no gradient, as in
medseg.losses.regions; so does a batch without one.

Legend: B batch, K classes, H W space (or D H W).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseg.losses.grid import SMALLEST_MISS, Grid


def cross_entropy(grid: Grid, over_batch: bool) -> Tensor:
    """Mean of -log p_t."""
    return weighted_mean(grid, -log_pt(grid), grid.weight_BHW, over_batch)


def focal(grid: Grid, gamma: float, over_batch: bool) -> Tensor:
    """Mean of (1 - p_t)^gamma * -log p_t (Lin et al., ICCV 2017, equation 4; with class weights equation 5). gamma 0: cross-entropy."""
    log_p = log_pt(grid)
    return weighted_mean(grid, -log_p if gamma == 0 else modulation(log_p, gamma) * -log_p, grid.weight_BHW, over_batch)


def topk_cross_entropy(grid: Grid, share: float, over_batch: bool) -> Tensor:
    """Mean of -log p_t over the worst `share` of the valid pixels of the batch, or of each image.

    nnU-Net's TopKLoss (after Wu et al., arXiv 1605.06885), which counts the ignored pixels in what `share` is of. The number is rounded,
    and 1 at least. With class weights the worst are those of the largest weight * loss; the mean weight of all valid pixels divides, so
    that a share of 1 is the weighted cross-entropy.
    """
    weight = pools(grid.weight_BHW, over_batch)
    loss = pools(-log_pt(grid), over_batch) * weight
    assert not (grid.shared and over_batch), "build.check_shared refuses it"
    valid = pools(grid.valid_BHW, over_batch).sum(dim=1)
    chosen = (valid * share).round().clamp(min=1)
    # As many as can be chosen at most: a number that depends on no value, so the device is never waited for.
    worst = loss.topk(min(loss.shape[1], math.ceil(share * loss.shape[1]) + 1), dim=1).values
    counted = torch.arange(worst.shape[1], device=worst.device) < chosen[:, None]
    return mean_of_pools((worst * counted).sum(dim=1), chosen * (weight.sum(dim=1) / valid.clamp(min=1)))


def log_pt(grid: Grid) -> Tensor:
    """log p_t of each pixel (B, H, W); that of the background where ignored."""
    return torch.log_softmax(grid.logits_BKHW, dim=1).gather(1, grid.target_BHW[:, None])[:, 0]


def modulation(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p_t)^gamma, with a finite gradient at p_t = 1 for a gamma below 1 too."""
    return (1.0 - log_p.exp()).clamp(min=SMALLEST_MISS) ** gamma


def weighted_mean(grid: Grid, values_BHW: Tensor, weight_BHW: Tensor, over_batch: bool) -> Tensor:
    """Sum of weight * value over the sum of the weights (bool: their number), of the batch or of each image and then over the images."""
    weight = pools(weight_BHW, over_batch)
    sums, totals = (pools(values_BHW, over_batch) * weight).sum(dim=1), weight.sum(dim=1)
    return mean_of_pools(grid.whole(sums, over_batch), grid.whole(totals, over_batch))


def pools(values_BHW: Tensor, over_batch: bool) -> Tensor:
    """(P, N): a row for each set of pixels that is reduced by itself, the whole batch (P = 1) or each image (P = B)."""
    return values_BHW.reshape(1 if over_batch else len(values_BHW), -1)


def mean_of_pools(sums_P: Tensor, totals_P: Tensor) -> Tensor:
    """Mean over the pools of sum / total; a pool whose total is 0 has no valid pixel, and counts as 0."""
    return (sums_P / torch.where(totals_P > 0, totals_P, 1)).mean()
