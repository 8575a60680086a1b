"""Images -> predictions on each image's own grid. Legend: B batch, C channels, K classes, H W space."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medseg.data.decode import fit_letterbox, place_image
from medseg.labels import LabelSet
from medseg.types import Letterbox, Prediction, Size

_FLIP_DIM = -1


@torch.inference_mode()
def predict_probs(model: nn.Module, image_BCHW: Tensor, mirror: LabelSet | None = None) -> Tensor:
    """float32 probabilities (B, K, H, W) on the network's grid; with `mirror` the mean over the image and its mirror image.

    `mirror` is the label set, because the mirror image shows left-right pairs exchanged.
    """
    assert not model.training
    prediction: Prediction = model(image_BCHW)
    assert prediction.probs_BKHW is not None
    if mirror is None:
        return prediction.probs_BKHW
    mirrored: Prediction = model(image_BCHW.flip(_FLIP_DIM))
    assert mirrored.probs_BKHW is not None
    return (prediction.probs_BKHW + mirrored.probs_BKHW[:, list(mirror.mirrored_ids)].flip(_FLIP_DIM)) / 2


@torch.inference_mode()
def to_original_grid(probs_KHW: Tensor, letterbox: Letterbox) -> Tensor:
    """Cut the padding off, bring the probabilities to the image's own size (bilinear), take the most probable class: uint8 (H, W)."""
    inner = probs_KHW[
        :,
        letterbox.top_px : letterbox.top_px + letterbox.inner.height_px,
        letterbox.left_px : letterbox.left_px + letterbox.inner.width_px,
    ]
    full = interpolate(inner[None].float(), size=tuple(letterbox.original), mode="bilinear", align_corners=False)
    return full[0].argmax(dim=0).to(torch.uint8)


def predict_image(model: nn.Module, image_HWC: np.ndarray, frame: Size, device: torch.device, mirror: LabelSet | None = None) -> np.ndarray:
    """One photograph, uint8 (H, W, 3), to class ids, uint8 (H, W), at its own size."""
    letterbox = fit_letterbox(Size(*image_HWC.shape[:2]), frame)
    image = torch.from_numpy(place_image(image_HWC, letterbox)).to(device).float().div_(255.0)
    return to_original_grid(predict_probs(model, image[None], mirror)[0], letterbox).cpu().numpy()
