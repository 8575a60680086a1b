"""Photographs of any size -> masks on their own pixels, by an exported network or any other that gives probabilities.

Legend: B batch, K classes, H W an image's own pixels, h w the frame's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.deploy.description import AGAIN, CARD, Description, read_description
from medseg.deploy.networks import SCALE, Backend, Network, open_network
from medseg.errors import ExportError
from medseg.labels import LabelSet
from medseg.letterbox import bands, fit_letterbox, inside, most_probable, place_image
from medseg.postprocess import apply_steps
from medseg.types import Letterbox, Size

WINDOWS_AT_ONCE = 8
SMOOTH = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """One image's answer on its own pixels.

    mask_HW: class ids, uint8.  confidence_HW: float32 in [0, 1], the probability of the class that the mask shows.  probs_Khw: the
    probabilities as the network gave them, of the image's place in the frame.
    """

    mask_HW: np.ndarray
    confidence_HW: np.ndarray
    probs_Khw: np.ndarray

    @property
    def uncertainty(self) -> float:
        """In [0, 1], 0 where the network is sure of the whole mask; computed when it is asked for."""
        return uncertainty(self.probs_Khw)


class Model:
    """A network with what brings photographs to it and back. Any thread may call it. card: the model card, Markdown."""

    def __init__(self, description: Description, network: Network, card: str | None = None):
        self.description, self.network, self.card = description, network, card

    @property
    def labels(self) -> LabelSet:
        """The classes."""
        return self.description.labels

    def segment(self, image_HWC: np.ndarray) -> Segmented:
        """One photograph, uint8 (H, W, 3), at its own size."""
        return self.segment_all([image_HWC])[0]

    def segment_all(self, images: Sequence[np.ndarray]) -> list[Segmented]:
        """Several, of any sizes, in one pass of the network."""
        placed = [self.place(image) for image in images]
        probs_BKhw = self.probs(np.stack([frame for frame, _ in placed]))
        return [self.on_own_pixels(probs_Khw, letterbox) for probs_Khw, (_, letterbox) in zip(probs_BKhw, placed, strict=True)]

    def place(self, image_HWC: np.ndarray) -> tuple[np.ndarray, Letterbox]:
        """(uint8 (3, h, w) on the frame, how it lies there)."""
        letterbox = fit_letterbox(Size(*image_HWC.shape[:2]), self.description.size)
        return place_image(image_HWC, letterbox), letterbox

    def probs(self, frames_BChw: np.ndarray) -> np.ndarray:
        """float32 (B, K, h, w) of uint8 (B, 3, h, w); the mean over the image and its mirror image where the run was scored so."""
        image_BChw = frames_BChw * SCALE
        if not self.description.frame.mirrored_too:
            return self._frame_probs(image_BChw)
        straight, mirrored = np.split(self._frame_probs(np.concatenate([image_BChw, image_BChw[..., ::-1]])), 2)
        return np.asarray((straight + mirrored[:, list(self.labels.mirrored_ids), :, ::-1]) / 2)

    def _frame_probs(self, image_BChw: np.ndarray) -> np.ndarray:
        if self.description.frame.window_px:
            return _by_windows(self._network_probs, image_BChw, self.description)
        return self._network_probs(image_BChw)

    def _network_probs(self, image_BChw: np.ndarray) -> np.ndarray:
        """One after the other where the graph takes one image only."""
        graph = self.description.graphs.get("onnx")
        if graph is None or "batch" in graph.varying or len(image_BChw) == 1:
            return self.network.probs(image_BChw)
        return np.concatenate([self.network.probs(image_BChw[place : place + 1]) for place in range(len(image_BChw))])

    def on_own_pixels(self, probs_Khw: np.ndarray, letterbox: Letterbox) -> Segmented:
        """The answer on the frame, float32 (K, h, w), brought to the photograph's own pixels, and the steps done to it."""
        mask_HW, confidence_HW = most_probable(probs_Khw, letterbox)
        changed_HW = apply_steps(mask_HW, self.description.post_steps, self.labels)
        if changed_HW is not mask_HW:
            confidence_HW = _of_shown(probs_Khw, letterbox, changed_HW)
        return Segmented(changed_HW, confidence_HW, probs_Khw[(slice(None), *inside(letterbox))])


def _of_shown(probs_Khw: np.ndarray, letterbox: Letterbox, mask_HW: np.ndarray) -> np.ndarray:
    """The probability of the class that each pixel shows, which a step may have made another than the most probable."""
    shown_HW = np.empty(mask_HW.shape, np.float32)
    for rows, probs_KrW in bands(probs_Khw, letterbox):
        shown_HW[rows] = np.take_along_axis(probs_KrW, mask_HW[rows][None].astype(np.int64), axis=0)[0]
    return shown_HW


def uncertainty(probs_Khw: np.ndarray) -> float:
    """1 - the soft Dice of the foreground's probabilities with the mask that they make, all classes together: in [0, 1].

    An estimate, without a reference, of how far the mask may be off (soft Dice confidence, Borges et al. 2024). A hundredth of the pixels
    is added to both sides, so that a sure "nothing here" is no uncertain one.

    >>> sure = np.zeros((2, 10, 10), np.float32); sure[1, :5] = 1; sure[0, 5:] = 1
    >>> uncertainty(sure), round(uncertainty(np.full((2, 10, 10), 0.5, np.float32)), 2)
    (0.0, 0.98)
    """
    smooth = SMOOTH * probs_Khw[0].size
    mask_hw, classes = probs_Khw.argmax(axis=0), range(1, len(probs_Khw))
    both = sum(float(probs_Khw[each][mask_hw == each].sum(dtype=np.float64)) for each in classes)
    mass, area = float(probs_Khw[1:].sum(dtype=np.float64)), int((mask_hw > 0).sum())
    return max(0.0, 1 - (2 * both + smooth) / (mass + area + smooth))


def _by_windows(probs: Callable[[np.ndarray], np.ndarray], image_BChw: np.ndarray, description: Description) -> np.ndarray:
    """As the run was scored: MONAI's sliding windows, which are torch's; nothing else here is."""
    import torch

    from medseg.monai_parts import sliding_window_inference

    window = description.frame.window_px
    assert window is not None

    def predictor(windows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(probs(np.ascontiguousarray(windows.numpy())))

    image = torch.from_numpy(np.ascontiguousarray(image_BChw))
    found = sliding_window_inference(image, window, WINDOWS_AT_ONCE, predictor, description.frame.overlap, mode="gaussian")
    return np.asarray(found)


def _check_answers(model: Model, graph: Path) -> None:
    """ExportError for a graph that does not give what model.json says: it may be anybody's, beside anybody's description."""
    frame = model.description.frame
    sides = frame.window_px or (frame.height_px, frame.width_px)
    wanted = (1, model.labels.num_classes, *sides)
    try:
        found = model.network.probs(np.zeros((1, 3, *sides), np.float32)).shape
    except Exception as cause:  # the runtimes' own, of many kinds
        raise ExportError(graph, f"does not run ({' '.join(str(cause).split())[:200]})", AGAIN) from None
    if found != wanted:
        raise ExportError(graph, f"gives probabilities of {found}, and model.json says {wanted}", AGAIN)


def open_export(folder: Path, backend: Backend = "openvino", bfloat16: bool = False, at_once: int = 1) -> Model:
    """The model that `medseg export` wrote; ExportError where it is not whole, or holds no ONNX graph.

    at_once: how many threads will ask it at one time.
    """
    description = read_description(folder)
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else None
    graph = description.graph_file(folder)
    model = Model(description, open_network(graph, backend, bfloat16, at_once), card)
    _check_answers(model, graph)
    return model
