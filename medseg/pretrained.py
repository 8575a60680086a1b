"""`zoo:NAME`: a network with its published weights and their classes, as the field's tutorials show it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from medseg import palettes
from medseg.config import NetworkConfig
from medseg.engine.infer import objects_to_original_grid
from medseg.errors import ConfigError, WeightsError
from medseg.instances import class_mask, painted
from medseg.letterbox import place_image
from medseg.models.contract import Adapter, SemanticNetwork, Task
from medseg.models.listed import PREFIX
from medseg.models.listing import config_of
from medseg.models.weights import load, read_source, with_source
from medseg.models.zoo import adapt, build_network
from medseg.report.legend import overlay_with_legend
from medseg.types import Letterbox, Size

MOST_CLASSES = 256  # of a mask of bytes
CLASSES_AT_ONCE = 8  # that are brought to the photograph's size: all of them at once would be gigabytes


@dataclass(frozen=True)
class Showcase:
    """How a network is shown. short_px: the shorter side of what it sees, most_px: the longer one at most, four times the shorter where
    not given; square_px: both sides, the aspect is given up.

    upsampling: of the logits to the photograph's size.
    """

    weights: str
    classes: Literal["voc", "coco", "ade20k"]
    short_px: int | None = None
    most_px: int | None = None
    square_px: int | None = None
    upsampling: Literal["bilinear", "bicubic"] = "bilinear"

    def frame(self, size: Size) -> Size:
        """What the network sees of a photograph of this size."""
        if self.square_px:
            return Size(self.square_px, self.square_px)
        assert self.short_px is not None
        scale = min(self.short_px / min(size), (self.most_px or 4 * self.short_px) / max(size))
        return Size(max(1, round(size.height_px * scale)), max(1, round(size.width_px * scale)))


_VOC = Showcase("torchvision:DEFAULT", "voc", short_px=520)  # torchvision's own preset of these weights
_COCO = Showcase("torchvision:DEFAULT", "coco", short_px=800, most_px=1333)
SHOWCASES = {
    "fcn_resnet50": _VOC, "fcn_resnet101": _VOC, "deeplabv3_resnet50": _VOC, "deeplabv3_resnet101": _VOC,
    "deeplabv3_mobilenet_v3_large": _VOC, "lraspp_mobilenet_v3_large": _VOC,
    "dpt": Showcase("hf:Intel/dpt-large-ade", "ade20k", square_px=480, upsampling="bicubic"),
    "segformer": Showcase("hf:nvidia/segformer-b0-finetuned-ade-512-512", "ade20k", square_px=512),
    "mask2former": Showcase("hf:facebook/mask2former-swin-small-ade-semantic", "ade20k", short_px=512, most_px=2048),
    "maskrcnn_resnet50_fpn": _COCO, "maskrcnn_resnet50_fpn_v2": _COCO,
}  # fmt: skip


@dataclass(frozen=True)
class Segmenter:
    """A network that is ready for photographs. palette: uint8 (256, 3).  background: the class that is none; None in ADE20K."""

    model: Adapter
    showcase: Showcase
    classes: tuple[str, ...]
    palette: np.ndarray
    background: int | None
    device: torch.device

    @torch.inference_mode()
    def mask(self, image_HWC: np.ndarray) -> np.ndarray:
        """uint8 (H, W) of a photograph, uint8 (H, W, 3): class ids at its own size."""
        size = Size(*image_HWC.shape[:2])
        frame = self.showcase.frame(size)
        letterbox = Letterbox(size, frame, frame, 0, 0)
        image = torch.from_numpy(place_image(image_HWC, letterbox)).to(self.device).float().div_(255.0)[None]
        if isinstance(self.model, SemanticNetwork):
            return largest_at(self.model.logits(image), size, self.showcase.upsampling)
        prediction = self.model(image)
        if prediction.found is None:
            return largest_at(prediction.probs_BKHW, size, self.showcase.upsampling)
        found = [
            each._replace(patch=each.patch._replace(pixels_HW=ndimage.binary_fill_holes(each.patch.pixels_HW)))
            for each in objects_to_original_grid(prediction.found[0], letterbox)
        ]
        return class_mask(found, painted(found, size))

    def overlay(self, image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
        """The classes over the photograph, with a legend."""
        return overlay_with_legend(image_HWC, mask_HW, self.classes, self.palette[: len(self.classes)], self.background)


def largest_at(values_1KHW: torch.Tensor, size: Size, mode: str) -> np.ndarray:
    """uint8 (H, W): the class of the largest value once all are brought to `size`, a few classes at a time."""
    best_HW, ids_HW = None, torch.zeros(tuple(size), dtype=torch.uint8, device=values_1KHW.device)
    for first in range(0, values_1KHW.shape[1], CLASSES_AT_ONCE):
        some = interpolate(values_1KHW[:, first : first + CLASSES_AT_ONCE].float(), size=tuple(size), mode=mode, align_corners=False)
        top_HW, place_HW = some[0].max(dim=0)
        better = top_HW > best_HW if best_HW is not None else torch.ones_like(top_HW, dtype=torch.bool)
        ids_HW = torch.where(better, (place_HW + first).to(torch.uint8), ids_HW)
        best_HW = top_HW if best_HW is None else torch.maximum(best_HW, top_HW)
    return ids_HW.cpu().numpy()


def segmenter(name: str, score_threshold: float | None = None, weights: str | None = None) -> Segmenter:
    """The network `name` of `medseg zoo`. weights: others of the same classes, such as a folder of the same files.

    score_threshold: in [0, 1], of the objects that are shown, of a network that finds objects. ConfigError for a network without published
    weights of everyday classes, WeightsError where they cannot be had.
    """
    if name not in SHOWCASES:
        rule = f"there are no published weights of everyday classes for {name!r}"
        near = get_close_matches(name, SHOWCASES, 1)
        fix = f"did you mean {PREFIX}{near[0]}?" if near else f"name one of {', '.join(SHOWCASES)}, or a run folder"
        raise ConfigError(f"{PREFIX}{name}", rule, fix)
    showcase = SHOWCASES[name]
    config = with_threshold(config_of(name), score_threshold)
    without = {"auxiliary_weight": 0.0} if "auxiliary_weight" in type(config).model_fields else {}  # it has no say in inference
    config = config.model_copy(update={"weights": weights or showcase.weights, **without})
    side = showcase.square_px or showcase.short_px
    assert side is not None
    source = read_source(config, Task(2, (side, side)))
    if source is None or source.classes is None:
        raise WeightsError(str(config.weights), "the weights do not say their classes", "name published ones, as `medseg zoo` lists them")
    config, task = with_source(config, source), Task(len(source.classes), (side, side))
    with torch.random.fork_rng():
        network = build_network(config, task)
    if (missing := load(network, source, config, source.classes).new) or len(source.classes) > MOST_CLASSES:
        rule = f"{len(missing)} tensors of {name} are not among the weights" if missing else f"{len(source.classes)} classes are too many"
        raise WeightsError(source.origin, rule, "name weights of the whole network, its head included")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    palette, background = _colours(showcase, len(source.classes))
    return Segmenter(adapt(network, config, task).to(device).eval(), showcase, source.classes, palette, background, device)


def with_threshold(config: NetworkConfig, score_threshold: float | None) -> NetworkConfig:
    """A network that shows objects of at least this score, in [0, 1]; None leaves it. ConfigError for one that finds no objects."""
    if score_threshold is None:
        return config
    if not config.objects:
        raise ConfigError("--score-threshold", f"{config.name} gives classes of pixels, not objects with scores", "leave it out")
    if not 0 <= score_threshold <= 1:
        raise ConfigError("--score-threshold", f"must be in [0, 1], got {score_threshold:g}", "0.5 is usual")
    return config.model_copy(update={"score_threshold": score_threshold})


def _colours(showcase: Showcase, classes: int) -> tuple[np.ndarray, int | None]:
    """uint8 (256, 3), and the class that is not coloured. COCO has no colours of its own: VOC's map goes on."""
    if showcase.classes == "ade20k":
        colours = palettes.ade20k()
        return np.concatenate([colours, np.zeros((256 - len(colours), 3), np.uint8)]), None
    return palettes.voc(256), 0
