"""torchvision's Mask R-CNN (He et al., ICCV 2017; v2: Li et al. 2021, arXiv 2111.11429) behind the contract, with its own losses.

Differences from torchvision and its reference training:

- Images keep their size: the experiment's grid stands for the library's 800 to 1333 pixels, and the adapter normalises.
- Anchors of 32 to 512 pixels are of images of 800: here they shrink with the grid, where `anchor_sizes` says nothing else.
- From scratch v1 has batch norms that learn; with weights, whichever, it has the library's frozen ones, as there. `model.weights` stays in
  a run's config.yaml, so a run is built again as it was. v2 has batch norms that learn, as in the library.
- `torchvision:DEFAULT` of v1 has frozen batch norms without an epsilon, as there; the same weights by `file:` or `run:` have the usual one.
- All five stages of the encoder learn, unless `trainable_layers` says less (the library's default with weights is 3).
- An object is what the mask shows of it: what another one hides, or lies outside a crop, is in neither its box nor its mask (COCO's masks
  too are of visible parts). Objects below two pixels of height or width are left out.
- The library's losses know no ignored pixels: they belong to no object, and are learned as background where a proposal holds some.
- In mixed precision the convolutions alone are in bfloat16: boxes need more than its 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops.misc import FrozenBatchNorm2d

from medseg.config.model import MaskRcnnConfig
from medseg.errors import ConfigError
from medseg.instances import INSIDE, class_mask, found_objects, painted
from medseg.models.contract import Adapter, Network, Task, fitting, is_below, padded
from medseg.models.families.torchvision import LICENCE, named, put, take_channels
from medseg.models.weights import IMAGENET_DEVIATION, IMAGENET_MEAN, Source, fetch_torch
from medseg.models.zoo import Entry
from medseg.types import Found, Prediction, Size

ANCHORS_PX, OF_SIDE_PX = (32.0, 64.0, 128.0, 256.0, 512.0), 800  # torchvision's, of images with this shorter side
LEAST_ANCHOR_PX = 4.0  # the finest level's stride; below it, anchors would round to nothing
RATIOS = (0.5, 1.0, 2.0)
DIVISOR, LEAST_PX = 32, 64  # the coarsest stage then has 2 x 2 values, with which a batch norm can train
LEAST_OBJECT_PX = 2
_BODY = "backbone.body"
_STAGES = ((f"{_BODY}.conv1", f"{_BODY}.bn1"), *((f"{_BODY}.layer{level}",) for level in range(1, 5)))
_HEAD = ("roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits")  # what depends on the classes
_WEIGHTS = {
    "maskrcnn_resnet50_fpn": detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "maskrcnn_resnet50_fpn_v2": detection.MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
}


@dataclass(frozen=True)
class MaskRcnn(Network):
    """score_threshold: of the objects that are painted into the class mask."""

    score_threshold: float = 0.5


def build(config: MaskRcnnConfig, task: Task) -> Network:
    """A fresh network; ConfigError for volumes."""
    if task.spatial_dims != 2:
        raise ConfigError("model.name", f"{config.name} takes images, not volumes", "choose a network that `medseg zoo` lists for 3")
    sizes = {"num_classes": task.num_classes, "box_batch_size_per_image": config.roi_samples}
    net = getattr(detection, config.name)(weights=None, weights_backbone=None, **sizes)
    take_channels(net, f"{_BODY}.conv1", task.in_channels)
    if config.weights is not None and config.name == "maskrcnn_resnet50_fpn":
        freeze_norms(net.get_submodule(_BODY))
        if config.weights == "torchvision:DEFAULT":
            overwrite_eps(net, 0.0)  # as the library does for these weights, which are older than its epsilon
    hold_stages(net, 5 - config.trainable_layers)
    anchor_sizes = config.anchor_sizes or scaled_anchors(task.grid)
    net.rpn.anchor_generator = anchors(anchor_sizes)
    keep_boxes_exact(net)
    net.roi_heads.score_thresh = min(net.roi_heads.score_thresh, config.score_threshold)  # what the library drops is never asked for
    return MaskRcnn(
        net, divisor=DIVISOR, least=LEAST_PX, head=_HEAD, encoder=_STAGES, first_conv=f"{_BODY}.conv1", adapter=MaskRcnnNetwork,
        score_threshold=config.score_threshold, chosen={"anchor_sizes": list(anchor_sizes)},
    )  # fmt: skip


def scaled_anchors(grid: tuple[int, ...]) -> tuple[float, ...]:
    """torchvision's, as much smaller as the grid's shorter side is than 800 pixels.

    >>> scaled_anchors((400, 600)), scaled_anchors((64, 64))
    ((16.0, 32.0, 64.0, 128.0, 256.0), (4.0, 5.12, 10.24, 20.48, 40.96))
    """
    return tuple(max(LEAST_ANCHOR_PX, size * min(grid) / OF_SIDE_PX) for size in ANCHORS_PX)


def anchors(sizes: Sequence[float]) -> AnchorGenerator:
    """One size a level, in the library's three shapes."""
    return AnchorGenerator(tuple((size,) for size in sizes), (RATIOS,) * len(sizes))


def freeze_norms(net: nn.Module) -> None:
    """The library's frozen batch norms in place of those that learn, with the same values."""
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, module.eps)
            frozen.load_state_dict({key: value.clone() for key, value in module.state_dict().items()})
            put(net, name, frozen)


def hold_stages(net: nn.Module, number: int) -> None:
    """Keep the weights of the encoder's first stages as they started, as the library's `trainable_backbone_layers` does."""
    held = tuple(part for stage in _STAGES[:number] for part in stage)
    for name, parameter in net.named_parameters():
        if is_below(name, held):
            parameter.requires_grad_(False)


def keep_boxes_exact(net: Any) -> None:
    """Under autocast the heads' results come in bfloat16, of which the library would make boxes; now they come in float32."""
    for part in (net.rpn.head, net.roi_heads.box_predictor, net.roi_heads.mask_predictor):
        part.register_forward_hook(lambda module, inputs, found: _in_full(found))


def _in_full(found: Any) -> Any:
    """Tensors, also inside lists and tuples, in float32, or as they are in float64."""
    if isinstance(found, Tensor):
        return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found
    return type(found)(_in_full(each) for each in found)


class MaskRcnnNetwork(Adapter):
    """The library's proposals and heads on its features; its resizing and normalising transform is not asked.

    Its sampling of anchors and proposals in training draws from torch's global generator, which the engine seeds at each step.
    """

    network: MaskRcnn
    net: Any  # of the library's untyped classes

    def _loss_terms(self, image_BCHW: Tensor, mask_BHW: Tensor, objects_BHW: Tensor | None) -> dict[str, Tensor]:
        images, features = self._features(image_BCHW)
        targets = targets_of(mask_BHW, objects_BHW, self.task, images.tensors.dtype)
        proposals, of_proposals = self.net.rpn(images, features, targets)
        _, of_heads = self.net.roi_heads(features, proposals, images.image_sizes, targets)
        return {name.removeprefix("loss_"): value for name, value in (of_heads | of_proposals).items()}

    def _predict(self, image_BCHW: Tensor) -> Prediction:
        images, features = self._features(image_BCHW)
        proposals, _ = self.net.rpn(images, features)
        detected, _ = self.net.roi_heads(features, proposals, images.image_sizes)
        size = Size(*image_BCHW.shape[2:])
        found = tuple(found_of(each, size, self.network.score_threshold) for each in detected)
        masks = np.stack([shown_classes(each, size) for each in found])
        return Prediction(None, torch.from_numpy(masks).to(image_BCHW.device, torch.int64), found)

    def _features(self, image_BCHW: Tensor) -> tuple[ImageList, dict[str, Tensor]]:
        """The padded images with their own sizes, to which boxes are cut, and the levels of the pyramid."""
        size = (int(image_BCHW.shape[2]), int(image_BCHW.shape[3]))
        image = padded(self._normalised(image_BCHW), fitting(size, DIVISOR, LEAST_PX), 0.0)
        features = {name: _in_full(level) for name, level in self.net.backbone(image).items()}
        return ImageList(image, [size] * len(image)), features


# --- masks -> targets


def targets_of(mask_BHW: Tensor, objects_BHW: Tensor | None, task: Task, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Of each image what the library learns from: boxes (N, 4), labels (N,), masks (N, H, W).

    Without annotated objects these are the connected parts of each class, parts that touch at a corner being one.
    """
    masks = mask_BHW.cpu().numpy()
    masks = np.where(masks == task.ignore_id, 0, masks)
    numbers = [label(mask, connectivity=2) for mask in masks] if objects_BHW is None else objects_BHW.cpu().numpy() * (masks > 0)
    return [_targets(mask, of_image, dtype, mask_BHW.device) for mask, of_image in zip(masks, numbers, strict=True)]


def _targets(mask_HW: np.ndarray, numbers_HW: np.ndarray, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """An image without an object has tensors of length 0."""
    boxes, labels, shapes = [], [], []
    for number, where in enumerate(ndimage.find_objects(numbers_HW), start=1):
        if where is None or any(side.stop - side.start < LEAST_OBJECT_PX for side in where):
            continue
        rows, columns = where
        shape_HW = numbers_HW == number
        boxes.append([columns.start, rows.start, columns.stop, rows.stop])
        labels.append(int(mask_HW[shape_HW][0]))
        shapes.append(shape_HW)
    masks = np.stack(shapes) if shapes else np.zeros((0, *mask_HW.shape), bool)
    return {
        "boxes": torch.tensor(boxes, dtype=dtype, device=device).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64, device=device),
        "masks": torch.from_numpy(masks).to(device, torch.uint8),
    }


# --- detections -> objects


def found_of(detected: dict[str, Tensor], size: Size, score_threshold: float) -> Found:
    """The library's detections of an image, their masks pasted at the image's size: on the processor, where it pastes faster."""
    order = detected["scores"].argsort(descending=True, stable=True)
    ids, scores, boxes, masks = (detected[key][order].cpu() for key in ("labels", "scores", "boxes", "masks"))
    return Found(ids, scores, paste_masks_in_image(masks, boxes, size)[:, 0], boxes, scores >= score_threshold)


def shown_classes(found: Found, size: Size) -> np.ndarray:
    """uint8 (H, W): the class ids of the objects that are sure enough, the surest on top."""
    objects = found_objects(found, (soft_HW.numpy() >= INSIDE for soft_HW in found.soft_NHW), found.boxes_N4.tolist())
    return class_mask(objects, painted(objects, size))


# --- published weights


def published(config: MaskRcnnConfig, spec: str, task: Task) -> Source | None:
    """torchvision:DEFAULT, trained on COCO, or torchvision:BACKBONE, the encoder trained on ImageNet."""
    if spec == "torchvision:DEFAULT":
        weights: Any = _WEIGHTS[config.name]
        state, classes = fetch_torch(weights.url), named(weights.meta["categories"])
        return Source(state, f"{spec} ({weights})", IMAGENET_MEAN, IMAGENET_DEVIATION, classes)
    if spec == "torchvision:BACKBONE":
        weights = models.ResNet50_Weights.IMAGENET1K_V1  # what the library's own training started from
        state = {f"{_BODY}.{name}": value for name, value in fetch_torch(weights.url).items() if not is_below(name, ("fc",))}
        return Source(state, f"{spec} ({weights})", IMAGENET_MEAN, IMAGENET_DEVIATION)
    return None


_PUBLISHED = ("torchvision:DEFAULT", "torchvision:BACKBONE")
ENTRIES = (
    Entry("maskrcnn_resnet50_fpn", "torchvision", "He et al. 2017", LICENCE, _PUBLISHED),
    Entry("maskrcnn_resnet50_fpn_v2", "torchvision", "Li et al. 2021", LICENCE, _PUBLISHED),
)
