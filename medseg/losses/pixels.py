"""Pixel terms: means over the valid pixels of something of -log p_t, p_t the probability of a pixel's true class. 0 or more.

Where classes have weights, a mean is the weighted one, as in torch: sum of weight * loss over the sum of the weights. A common factor of
the weights then changes nothing. 0 without gradient where no pixel is valid.

Legend: B batch, K classes, H W space (or D H W).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseg.losses.grid import SMALLEST_MISS, Grid


def cross_entropy(grid: Grid) -> Tensor:
    """Mean of -log p_t."""
    return weighted_mean(-log_pt(grid), grid.weight_BHW)


def focal(grid: Grid, gamma: float) -> Tensor:
    """Mean of (1 - p_t)^gamma * -log p_t (Lin et al., ICCV 2017, equation 4; with class weights equation 5). gamma 0: cross-entropy."""
    log_p = log_pt(grid)
    return weighted_mean(-log_p if gamma == 0 else modulation(log_p, gamma) * -log_p, grid.weight_BHW)


def topk_cross_entropy(grid: Grid, share: float, over_batch: bool) -> Tensor:
    """Mean of -log p_t over the worst `share` of the valid pixels of the batch, or of each image and then over the images.

    nnU-Net's TopKLoss (after Wu et al., arXiv 1605.06885), which counts the ignored pixels in what `share` is of. The number is rounded,
    and 1 at least. With class weights the worst are those of the largest weight * loss; the mean weight of all valid pixels divides, so
    that a share of 1 is the weighted cross-entropy. An image without a valid pixel counts as 0.
    """
    images = 1 if over_batch else len(grid.valid_BHW)
    weight = grid.weight_BHW.reshape(images, -1)
    loss = -log_pt(grid).reshape(images, -1) * weight
    valid = grid.valid_BHW.reshape(images, -1).sum(dim=1)
    chosen = (valid * share).round().clamp(min=1)
    # As many as can be chosen at most: a number that depends on no value, so the device is never waited for.
    worst = loss.topk(min(loss.shape[1], math.ceil(share * loss.shape[1]) + 1), dim=1).values
    counted = torch.arange(worst.shape[1], device=worst.device) < chosen[:, None]
    total = chosen * (weight.sum(dim=1) / valid.clamp(min=1))
    return ((worst * counted).sum(dim=1) / torch.where(total > 0, total, 1)).mean()


def log_pt(grid: Grid) -> Tensor:
    """log p_t of each pixel (B, H, W); that of the background where ignored."""
    return torch.log_softmax(grid.logits_BKHW, dim=1).gather(1, grid.target_BHW[:, None])[:, 0]


def modulation(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p_t)^gamma, with a finite gradient at p_t = 1 for a gamma below 1 too."""
    return (1.0 - log_p.exp()).clamp(min=SMALLEST_MISS) ** gamma


def weighted_mean(values_BHW: Tensor, weight_BHW: Tensor) -> Tensor:
    """Sum of weight * value over the sum of the weights (bool: their number); 0 where that is 0."""
    total = weight_BHW.sum()
    return (values_BHW * weight_BHW).sum() / torch.where(total > 0, total, 1)
