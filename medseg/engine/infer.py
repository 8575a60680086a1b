"""Images -> predictions on each image's own grid. Legend: B batch, C channels, K classes, H W space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medseg.instances import INSIDE, FoundObject, class_mask, found_objects, painted
from medseg.labels import LabelSet
from medseg.letterbox import fit_letterbox, place_image
from medseg.monai_parts import sliding_window_inference
from medseg.types import Found, Letterbox, Prediction, Size

_FLIP_DIM = -1
WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Passes:
    """How probabilities are made of an image.

    mirror: the label set where the mean over the image and its mirror image is asked, because that one shows left-right pairs
    exchanged.  window: the size a network was trained on, where it was trained on crops; else the frame is taken as a whole.
    overlap: of the windows, a share of their sides.  axes: of RAS, along which volumes are mirrored.
    """

    mirror: LabelSet | None = None
    window: tuple[int, ...] | None = None
    overlap: float = 0.5
    axes: tuple[str, ...] = ("x",)


ONE_PASS = Passes()


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """What a network has found in one image, by falling score. numbers_HW: int32, 1 + the place of the object that each pixel shows."""

    found: tuple[FoundObject, ...]
    numbers_HW: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class OnGrid:
    """One image's prediction on its own pixel grid; of a volume on (X, Y, Z), as its file has it. mask_HW: class ids, uint8.

    probs_KHW: float32 probabilities of the classes; None of a network that has none, and of volumes that are large.  objects: None of a
    network that finds none.
    """

    mask_HW: np.ndarray
    probs_KHW: Tensor | None = None
    objects: Objects | None = None


@torch.inference_mode()
def predict(model: nn.Module, image_BCHW: Tensor, passes: Passes = ONE_PASS) -> Prediction:
    """On the network's grid. Several passes make one result of probabilities alone; the config is checked for it (build.check_objects)."""
    assert not model.training
    if passes.mirror is not None or passes.window is not None:
        probs = predict_probs(model, image_BCHW, passes)
        return Prediction(probs, probs.argmax(dim=1))
    prediction: Prediction = model(image_BCHW)
    return prediction


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
    assert prediction.probs_BKHW is not None, "the network gives no probabilities"
    return prediction.probs_BKHW


class Ensemble(nn.Module):
    """Several networks of one task as one: the mean of their probabilities."""

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, image_BCHW: Tensor) -> Prediction:
        """As one network's; AssertionError of networks that give no probabilities."""
        probs = torch.stack([_probs(model, image_BCHW) for model in self.models]).mean(dim=0)
        return Prediction(probs, probs.argmax(dim=1))


def on_own_grid(prediction: Prediction, place: int, letterbox: Letterbox) -> OnGrid:
    """An image of a batch, brought to its own size."""
    if prediction.probs_BKHW is not None:
        probs_KHW = to_original_grid(prediction.probs_BKHW[place], letterbox)
        return OnGrid(class_ids(probs_KHW), probs_KHW)
    assert prediction.found is not None, "the network gives neither probabilities nor objects"
    found = objects_to_original_grid(prediction.found[place], letterbox)
    numbers_HW = painted(found, letterbox.original)
    return OnGrid(class_mask(found, numbers_HW), objects=Objects(tuple(found), numbers_HW))


@torch.inference_mode()
def to_original_grid(probs_KHW: Tensor, letterbox: Letterbox) -> Tensor:
    """Cut the padding off and bring the probabilities to the image's own size (bilinear): float32 (K, H, W)."""
    inner = probs_KHW[
        :,
        letterbox.top_px : letterbox.top_px + letterbox.inner.height_px,
        letterbox.left_px : letterbox.left_px + letterbox.inner.width_px,
    ]
    return interpolate(inner[None].float(), size=tuple(letterbox.original), mode="bilinear", align_corners=False)[0]


@torch.inference_mode()
def objects_to_original_grid(found: Found, letterbox: Letterbox) -> list[FoundObject]:
    """The same for objects, one at a time, for a hundred of them at a photograph's size would fill the memory."""
    pixels = (to_original_grid(soft_HW[None], letterbox)[0].cpu().numpy() >= INSIDE for soft_HW in found.soft_NHW)
    original, inner = letterbox.original, letterbox.inner
    corner = torch.tensor([letterbox.left_px, letterbox.top_px] * 2, dtype=torch.float64)
    scale = torch.tensor([original.width_px / inner.width_px, original.height_px / inner.height_px] * 2, dtype=torch.float64)
    most = torch.tensor([original.width_px, original.height_px] * 2, dtype=torch.float64)
    boxes = ((found.boxes_N4.double().cpu() - corner) * scale).clamp(min=torch.zeros(4, dtype=torch.float64), max=most)
    return found_objects(found, pixels, boxes.tolist())


def class_ids(probs_KHW: Tensor) -> np.ndarray:
    """The most probable class of each pixel, uint8 (H, W)."""
    return probs_KHW.argmax(dim=0).to(torch.uint8).cpu().numpy()


def predict_image(model: nn.Module, image_HWC: np.ndarray, frame: Size, device: torch.device, passes: Passes = ONE_PASS) -> np.ndarray:
    """One photograph, uint8 (H, W, 3), to class ids, uint8 (H, W), at its own size."""
    letterbox = fit_letterbox(Size(*image_HWC.shape[:2]), frame)
    image = torch.from_numpy(place_image(image_HWC, letterbox)).to(device).float().div_(255.0)
    return on_own_grid(predict(model, image[None], passes), 0, letterbox).mask_HW
