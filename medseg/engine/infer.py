"""Images -> predictions on each image's own grid. Legend: B batch, C channels, K classes, H W space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medseg.data.decode import fit_letterbox, place_image
from medseg.labels import LabelSet
from medseg.monai_parts import sliding_window_inference
from medseg.types import Letterbox, Prediction, Size

_FLIP_DIM = -1
WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Passes:
    """How probabilities are made of an image.

    mirror: the label set where the mean over the image and its mirror image is asked, because that one shows left-right pairs
    exchanged.  window: the size a network was trained on, where it was trained on crops; else the frame is taken as a whole.
    overlap: of the windows, a share of their sides.
    """

    mirror: LabelSet | None = None
    window: Size | None = None
    overlap: float = 0.5


ONE_PASS = Passes()


@torch.inference_mode()
def predict_probs(model: nn.Module, image_BCHW: Tensor, passes: Passes = ONE_PASS) -> Tensor:
    """float32 probabilities (B, K, H, W) on the network's grid."""
    assert not model.training
    probs = _frame_probs(model, image_BCHW, passes)
    if passes.mirror is None:
        return probs
    mirrored = _frame_probs(model, image_BCHW.flip(_FLIP_DIM), passes)
    return (probs + mirrored[:, list(passes.mirror.mirrored_ids)].flip(_FLIP_DIM)) / 2


def _frame_probs(model: nn.Module, image_BCHW: Tensor, passes: Passes) -> Tensor:
    if passes.window is None:
        return _probs(model, image_BCHW)
    # Gaussian weights, as in nnU-Net (Isensee et al. 2021): a window sees least at its border
    found = sliding_window_inference(
        image_BCHW, tuple(passes.window), WINDOWS_AT_ONCE, lambda windows: _probs(model, windows), passes.overlap, mode="gaussian"
    )
    assert isinstance(found, Tensor)
    return found


def _probs(model: nn.Module, image_BCHW: Tensor) -> Tensor:
    prediction: Prediction = model(image_BCHW)
    assert prediction.probs_BKHW is not None
    return prediction.probs_BKHW


@torch.inference_mode()
def to_original_grid(probs_KHW: Tensor, letterbox: Letterbox) -> Tensor:
    """Cut the padding off and bring the probabilities to the image's own size (bilinear): float32 (K, H, W)."""
    inner = probs_KHW[
        :,
        letterbox.top_px : letterbox.top_px + letterbox.inner.height_px,
        letterbox.left_px : letterbox.left_px + letterbox.inner.width_px,
    ]
    return interpolate(inner[None].float(), size=tuple(letterbox.original), mode="bilinear", align_corners=False)[0]


def class_ids(probs_KHW: Tensor) -> np.ndarray:
    """The most probable class of each pixel, uint8 (H, W)."""
    return probs_KHW.argmax(dim=0).to(torch.uint8).cpu().numpy()


def predict_image(model: nn.Module, image_HWC: np.ndarray, frame: Size, device: torch.device, passes: Passes = ONE_PASS) -> np.ndarray:
    """One photograph, uint8 (H, W, 3), to class ids, uint8 (H, W), at its own size."""
    letterbox = fit_letterbox(Size(*image_HWC.shape[:2]), frame)
    image = torch.from_numpy(place_image(image_HWC, letterbox)).to(device).float().div_(255.0)
    return class_ids(to_original_grid(predict_probs(model, image[None], passes)[0], letterbox))
