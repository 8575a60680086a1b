"""Losses over logits that leave the ignored pixels out.

Legend: B batch, K classes, H W space. Soft Dice: Milletari et al., V-Net, 3DV 2016. Focal: Lin et al., ICCV 2017, equation 4 without alpha.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from medseg.config import LossConfig
from medseg.labels import LabelSet
from medseg.monai_parts import DiceLoss
from medseg.types import Loss

DEFAULT_GAMMA = 2.0
SMALLEST_MISS = 1e-7  # of 1 - p_t: the gradient of a power below 1 is infinite at 0


def soft_dice(logits_BKHW: Tensor, mask_BHW: Tensor, valid_BHW: Tensor, over_batch: bool, include_background: bool) -> Tensor:
    """1 - mean soft Dice over classes (and images unless `over_batch`), in [0, 1]; by MONAI, on ignored pixels taken out of both sides."""
    keep = valid_BHW[:, None]
    probs = torch.softmax(logits_BKHW, dim=1) * keep
    truth = one_hot(torch.where(valid_BHW, mask_BHW, 0), logits_BKHW.shape[1]).movedim(-1, 1) * keep
    return DiceLoss(include_background=include_background, batch=over_batch)(probs, truth.to(probs.dtype))


def focal(logits_BKHW: Tensor, mask_BHW: Tensor, valid_BHW: Tensor, gamma: float) -> Tensor:
    """Mean of (1 - p_t)^gamma * -log p_t over the valid pixels; gamma 0 is the cross-entropy. 0 where no pixel is valid."""
    log_p = torch.log_softmax(logits_BKHW, dim=1)
    log_pt = log_p.gather(1, torch.where(valid_BHW, mask_BHW, 0)[:, None])[:, 0]
    per_pixel = -log_pt if gamma == 0 else -((1.0 - log_pt.exp()).clamp(min=SMALLEST_MISS) ** gamma) * log_pt
    return (per_pixel * valid_BHW).sum() / valid_BHW.sum().clamp(min=1)


def make_loss(config: LossConfig, labels: LabelSet) -> Loss:
    """The loss an experiment names: (logits_BKHW, mask_BHW) -> named weighted terms, computed in float32."""
    gamma = 0.0 if config.name == "dice_ce" else (DEFAULT_GAMMA if config.gamma is None else config.gamma)
    pixel_term = "cross_entropy" if config.name == "dice_ce" else "focal"

    def loss(logits_BKHW: Tensor, mask_BHW: Tensor) -> dict[str, Tensor]:
        logits, valid = logits_BKHW.float(), labels.valid(mask_BHW)
        dice = soft_dice(logits, mask_BHW, valid, config.dice_over == "batch", config.include_background)
        pixel = focal(logits, mask_BHW, valid, gamma)
        return {"dice": config.dice_weight * dice, pixel_term: config.pixel_weight * pixel}

    return loss
