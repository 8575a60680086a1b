"""torchvision's networks of per-pixel classes. The auxiliary head trains with its weight and is not asked in inference.

Differences from torchvision's reference training: the loss is the experiment's, not the plain cross-entropy, and a fresh network has no
ImageNet weights unless `model.weights` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision import models

from medseg.config.model import LrasppConfig, TorchvisionConfig
from medseg.labels import BACKGROUND
from medseg.models.contract import Heads, Network, Task
from medseg.models.weights import IMAGENET_DEVIATION, IMAGENET_MEAN, Source, fetch_torch
from medseg.models.zoo import Entry

LICENCE = "BSD-3-Clause"
_RESNET = (("backbone.conv1", "backbone.bn1"), *((f"backbone.layer{level}",) for level in range(1, 5)))
# an average over all pixels, followed by a batch norm (DeepLabV3's image pooling): one value an image
_POOLED = ("deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large")
_BACKBONES = {
    "resnet50": models.ResNet50_Weights,
    "resnet101": models.ResNet101_Weights,
    "mobilenet_v3_large": models.MobileNet_V3_Large_Weights,
}


def build(config: TorchvisionConfig | LrasppConfig, task: Task) -> Network:
    """A fresh network with the library's own names of its parts."""
    auxiliary = config.auxiliary_weight if isinstance(config, TorchvisionConfig) else 0.0
    arguments: dict[str, Any] = {"aux_loss": auxiliary > 0} if isinstance(config, TorchvisionConfig) else {}
    net = models.get_model(config.name, weights=None, weights_backbone=None, num_classes=task.num_classes, **arguments)
    mobile = "mobilenet" in config.name
    stages = tuple((f"backbone.{place}",) for place in net.backbone) if mobile else _RESNET
    first = "backbone.0.0" if mobile else "backbone.conv1"
    take_channels(net, first, task.in_channels)

    def call(net: Any, image: Tensor) -> Heads:
        features = net.backbone(image)  # not net(image), which asks the auxiliary head in inference, too
        if isinstance(config, LrasppConfig):
            return Heads(net.classifier(features))
        out, asked = net.classifier(features["out"]), net.training and net.aux_classifier is not None
        return Heads(out, auxiliary={"auxiliary": (auxiliary, net.aux_classifier(features["aux"]))} if asked else {})

    least_batch = 2 if config.name in _POOLED else 1
    return Network(net, call, least=32, least_batch=least_batch, head=_head(net, config), encoder=stages, first_conv=first)


def _head(net: nn.Module, config: TorchvisionConfig | LrasppConfig) -> tuple[str, ...]:
    """The last convolution of each head: what depends on the classes."""
    if isinstance(config, LrasppConfig):
        return "classifier.low_classifier", "classifier.high_classifier"
    heads = {name: net.get_submodule(name) for name in ("classifier", "aux_classifier") if getattr(net, name) is not None}
    return tuple(f"{name}.{len(list(head.children())) - 1}" for name, head in heads.items())


def take_channels(net: nn.Module, name: str, channels: int) -> None:
    """A fresh first convolution like the one of this name, initialised as torchvision does it, where the image has other channels."""
    conv = net.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    if channels == conv.in_channels:
        return
    fresh = nn.Conv2d(channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=conv.bias is not None)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
    put(net, name, fresh)


def put(net: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a submodule by its dotted name."""
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, module)


def published(config: TorchvisionConfig | LrasppConfig, spec: str, task: Task) -> Source | None:
    """torchvision:DEFAULT, trained on COCO with VOC's classes, or torchvision:BACKBONE, the encoder trained on ImageNet."""
    if spec == "torchvision:DEFAULT":
        weights: Any = models.get_model_weights(config.name)["DEFAULT"]
        return _source(fetch_torch(weights.url), spec, weights, tuple(weights.meta["categories"]))
    if spec == "torchvision:BACKBONE":
        backbone = config.name.partition("_")[2]
        weights = _BACKBONES[backbone]["IMAGENET1K_V1"]  # what torchvision's segmentation networks start from
        state = fetch_torch(weights.url)
        inner = {name.removeprefix("features."): value for name, value in state.items()} if "mobilenet" in backbone else state
        return _source({f"backbone.{name}": value for name, value in inner.items()}, spec, weights, None)
    return None


def _source(state: dict[str, Tensor], spec: str, weights: Any, classes: tuple[str, ...] | None) -> Source:
    return Source(state, f"{spec} ({weights})", IMAGENET_MEAN, IMAGENET_DEVIATION, named(classes) if classes else None)


def named(categories: Sequence[str]) -> tuple[str, ...]:
    """torchvision's classes by medseg's name of the background."""
    return tuple(BACKGROUND if each == "__background__" else each for each in categories)


_WEIGHTS = ("torchvision:DEFAULT", "torchvision:BACKBONE")
_PAPERS = {"fcn": "Long et al. 2015", "deeplabv3": "Chen et al. 2017", "lraspp": "Howard et al. 2019"}
ENTRIES = tuple(
    Entry(name, "torchvision", _PAPERS[name.partition("_")[0]], LICENCE, _WEIGHTS)
    for name in (
        "fcn_resnet50",
        "fcn_resnet101",
        "deeplabv3_resnet50",
        "deeplabv3_resnet101",
        "deeplabv3_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large",
    )  # fmt: skip
)
