"""The textbook FCN: Long, Shelhamer and Darrell, CVPR 2015, as FCN-32s on ResNet-18 (Zhang et al., Dive into Deep Learning, 14.11).

ResNet-18 without its pooling and classes, a 1 x 1 convolution to the classes, and a transposed convolution of kernel 64, stride 32 and
padding 16 that starts as bilinear interpolation. Differences: the paper has VGG-16, and learns no upsampling in FCN-32s' first training;
sides that 32 does not divide are padded by the adapter, where the book crops its images to 320 x 480.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision import models

from medseg.config.model import FcnResnet18Config
from medseg.models.contract import Network, Task
from medseg.models.families.torchvision import LICENCE, take_channels
from medseg.models.weights import IMAGENET_DEVIATION, IMAGENET_MEAN, Source, fetch_torch
from medseg.models.zoo import Entry

STRIDE = 32
_TRUNK = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def build(config: FcnResnet18Config, task: Task) -> Network:
    """A fresh network; the upsampling starts as bilinear interpolation, the rest at random."""
    resnet = models.resnet18(weights=None)
    take_channels(resnet, "conv1", task.in_channels)
    trunk = nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in _TRUNK))
    classes = task.num_classes
    upsample = nn.ConvTranspose2d(classes, classes, kernel_size=2 * STRIDE, stride=STRIDE, padding=STRIDE // 2)
    with torch.no_grad():
        upsample.weight.copy_(bilinear_kernel(classes, 2 * STRIDE))
        nn.init.zeros_(upsample.bias)  # type: ignore[arg-type]
    score = nn.Conv2d(512, classes, kernel_size=1)
    nn.init.xavier_uniform_(score.weight)
    net = nn.Sequential(OrderedDict(trunk=trunk, score=score, upsample=upsample))
    encoder = (("trunk.conv1", "trunk.bn1"), *((f"trunk.layer{level}",) for level in range(1, 5)))
    return Network(net, divisor=STRIDE, least=2 * STRIDE, head=("score", "upsample"), encoder=encoder, first_conv="trunk.conv1")


def bilinear_kernel(channels: int, kernel: int) -> Tensor:
    """Weights (channels, channels, kernel, kernel) of a transposed convolution of stride kernel / 2 that interpolates each channel alone.

    >>> bilinear_kernel(1, 4)[0, 0, 1].tolist()
    [0.1875, 0.5625, 0.5625, 0.1875]
    """
    centre = (kernel - 1) / 2
    ramp = 1 - (torch.arange(kernel) - centre).abs() / (kernel / 2)
    weight = torch.zeros(channels, channels, kernel, kernel)
    weight[range(channels), range(channels)] = ramp[:, None] * ramp[None]
    return weight


def published(config: FcnResnet18Config, spec: str, task: Task) -> Source | None:
    """torchvision:BACKBONE, the trunk trained on ImageNet: nobody publishes the rest."""
    if spec != "torchvision:BACKBONE":
        return None
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    state = {f"trunk.{name}": value for name, value in fetch_torch(weights.url).items()}
    return Source(state, f"{spec} ({weights})", IMAGENET_MEAN, IMAGENET_DEVIATION)


ENTRIES = (Entry("fcn_resnet18", "medseg", "Long et al. 2015; Zhang et al. 2023", LICENCE, ("torchvision:BACKBONE",)),)
