"""The asymmetric unified focal loss for any number of classes.

Yeung, Sala, Schoenlieb and Rundo, Computerized Medical Imaging and Graphics 95 (2022) 102026, arXiv 2102.04525: L_aUF = lambda * L_maF +
(1 - lambda) * L_maFT, a modified asymmetric focal and a modified asymmetric focal Tversky loss. The paper singles out rare classes r,
enhanced and never suppressed; here they are all classes but the background. Its symmetric form (L_sUF) is not offered.

As the authors' code has it, and unlike the paper's sums, L_maFT is the mean over the classes. MONAI's AsymmetricUnifiedFocalLoss takes
two classes alone, wants probabilities though it speaks of logits, and divides L_maF by a further 2.

Legend: B batch, K classes, H W space (or D H W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.losses.grid import Grid, power
from medseg.losses.pixels import log_pt, modulation, weighted_mean
from medseg.losses.regions import tversky_misses

LAMBDA = 0.5  # the paper's, for all its data sets


def asymmetric_focal(grid: Grid, delta: float, gamma: float, over_batch: bool) -> Tensor:
    """L_maF: mean over the valid pixels of delta * -log p_t on the foreground, (1 - delta) * (1 - p_t)^gamma * -log p_t on the background.

    So easy background is suppressed. gamma 0 and delta 0.5: half the cross-entropy. 0 or more.
    """
    log_p = log_pt(grid)
    factor = torch.where(grid.target_BHW == 0, (1 - delta) * modulation(log_p, gamma), delta)
    return weighted_mean(grid, factor * -log_p, grid.valid_BHW, over_batch)


def asymmetric_focal_tversky(grid: Grid, delta: float, gamma: float, over_batch: bool) -> Tensor:
    """L_maFT: mean over the classes of 1 - mTI for the background and (1 - mTI)^(1 - gamma) for the rest, gamma in [0, 1). In [0, 1].

    mTI is the Tversky index with weight delta for false negatives and 1 - delta for false positives. The power enhances a foreground
    class that is nearly right. gamma 0 and delta 0.5: soft Dice over all classes. An absent class as in medseg.losses.regions.
    """
    misses = tversky_misses(grid, 1 - delta, delta, over_batch, include_background=True)
    return torch.cat([misses[..., :1], power(misses[..., 1:], 1 - gamma)], dim=-1).mean()
