"""MONAI's networks, in two or three dimensions. Sides that a network cannot take are padded by the adapter, so any image will do.

A norm over the pixels of one image cannot train on a single pixel, so the smallest side is twice what all levels together divide by.
What differs from a network's paper is MONAI's choice, but where its builder says otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg import monai_parts as monai
from medseg.config import NetworkConfig
from medseg.config.model import (
    AttentionUnetConfig,
    BasicUnetConfig,
    DynUnetConfig,
    FlexibleUnetConfig,
    SegResNetConfig,
    SwinUnetrConfig,
    UnetConfig,
    UnetPlusPlusConfig,
    UnetrConfig,
)
from medseg.errors import ConfigError, WeightsError, counted
from medseg.models.contract import Heads, Network, Task, retire
from medseg.models.weights import IMAGENET_DEVIATION, IMAGENET_MEAN, Source, fetch_torch
from medseg.models.zoo import Entry

LICENCE = "Apache-2.0"
SMALLEST_PX = 4  # of the coarsest level of nnU-Net's plan
MOST_FEATURES = {2: 512, 3: 320}  # nnU-Net's
TRANSFORMER_PATCH_PX = 16
Names = tuple[tuple[str, ...], ...]


def build(config: NetworkConfig, task: Task) -> Network:
    """A fresh network; ConfigError where the task is not one for it."""
    builder: Callable[[Any, Task], Network] = _BUILDERS[type(config)]
    return builder(config, task)


def _unet(config: UnetConfig, task: Task) -> Network:
    """Ronneberger et al., MICCAI 2015, with residual units (Kerfoot et al., STACOM 2018).

    Differences from the first: strided convolutions in place of pooling, transposed ones on the way up, instance norm and PReLU, padded
    convolutions, 32 to 512 channels for its 64 to 1024.
    """
    net = monai.UNet(
        spatial_dims=task.spatial_dims,
        in_channels=task.in_channels,
        out_channels=task.num_classes,
        channels=config.channels,
        strides=config.strides,
        num_res_units=config.num_res_units,
        dropout=config.dropout,
    )
    factor, depth = math.prod(config.strides), len(config.strides)
    encoder = tuple((f"model.{'1.submodule.' * level}0",) for level in range(depth))
    bottom = (f"model.{'1.submodule.' * (depth - 1)}1.submodule",)
    return Network(net, divisor=factor, least=2 * factor, head=("model.2",), encoder=(*encoder, bottom))


def _attention_unet(config: AttentionUnetConfig, task: Task) -> Network:
    """Oktay et al., MIDL 2018. Differences: strided convolutions in place of pooling, no deep supervision."""
    net = monai.AttentionUnet(
        task.spatial_dims, task.in_channels, task.num_classes, config.channels, config.strides, dropout=config.dropout
    )
    factor, depth = math.prod(config.strides), len(config.strides)
    encoder = tuple((f"model.1{'.submodule.1' * level}.submodule.0",) for level in range(depth - 1))
    bottom = (f"model.1{'.submodule.1' * (depth - 1)}.submodule",)
    return Network(net, divisor=factor, least=2 * factor, head=("model.2",), encoder=(("model.0",), *encoder, bottom))


def _basic_unet(config: BasicUnetConfig, task: Task) -> Network:
    """Falk et al., Nature Methods 2019. Differences: instance norm, leaky ReLU, padded convolutions, 32 to 256 channels."""
    net = monai.BasicUNet(task.spatial_dims, task.in_channels, task.num_classes, config.features, dropout=config.dropout)
    encoder = (("conv_0",), *((f"down_{level}",) for level in range(1, 5)))
    return Network(net, divisor=16, least=32, head=("final_conv",), encoder=encoder)


def _unetplusplus(config: UnetPlusPlusConfig, task: Task) -> Network:
    """Zhou et al., DLMIA 2018. Differences: instance norm and leaky ReLU; deep supervision only where it is asked for."""
    net = monai.BasicUNetPlusPlus(
        task.spatial_dims, task.in_channels, task.num_classes, config.features, config.deep_supervision, dropout=config.dropout
    )
    heads = tuple(f"final_conv_0_{place}" for place in range(1, 5))
    if not config.deep_supervision:
        for name in heads[:3]:  # MONAI computes them, and nothing reads them
            setattr(net, name, nn.Identity())
        heads = heads[3:]
    encoder = tuple((f"conv_{level}_0",) for level in range(5))
    return Network(net, _nested_heads, divisor=16, least=32, head=heads, encoder=encoder)


def _nested_heads(net: nn.Module, image: Tensor) -> Heads:
    """The deepest output; with deep supervision the three before it train as heads of the same weight."""
    *others, deepest = net(image)
    if not (net.training and net.deep_supervision):
        return Heads(deepest)
    return Heads(deepest, auxiliary={f"output{place}": (1.0, logits) for place, logits in enumerate(others, 1)})


def _dynunet(config: DynUnetConfig, task: Task) -> Network:
    """Isensee et al., Nature Methods 2021: 3 x 3 convolutions, instance norm, leaky ReLU, strides of 2 until a side is 4 pixels.

    Differences: deep supervision looks at three levels below the full resolution at most, nnU-Net at more in deeper networks; the strides
    found here go by the number of pixels alone, `medseg plan` writes those that heed the spacing.
    """
    strides = _dynunet_strides(config, task)
    kernels = _per_axis("kernels", config.kernels or (3,) * len(strides), task.spatial_dims)
    most = MOST_FEATURES[task.spatial_dims]
    filters = config.channels or tuple(min(32 * 2**level, most) for level in range(len(strides)))
    levels = min(len(strides) - 2, 3) if config.deep_supervision else 1
    net = _DynUNet(
        task.spatial_dims, task.in_channels, task.num_classes, kernels, strides, strides[1:], filters,
        dropout=config.dropout or None, deep_supervision=config.deep_supervision, deep_supr_num=levels, res_block=config.residual,
        trans_bias=True,
    )  # fmt: skip
    _know_once(net)
    factors = tuple(math.prod(step[axis] for step in strides) for axis in range(task.spatial_dims))
    encoder = (("input_block",), *((f"downsamples.{level}",) for level in range(len(strides) - 2)), ("bottleneck",))
    head = ("output_block", *(("deep_supervision_heads",) if config.deep_supervision else ()))
    least = tuple(2 * factor for factor in factors)
    chosen = {"channels": list(filters), "strides": strides[1:], "kernels": kernels}
    return Network(net, _supervised, factors, least, head=head, encoder=encoder, chosen=chosen)


def _dynunet_strides(config: DynUnetConfig, task: Task) -> list[list[int]]:
    """Of each level, the first without any: as told, else nnU-Net's for the grid."""
    if config.strides is not None:
        return [[1] * task.spatial_dims, *_per_axis("strides", config.strides, task.spatial_dims)]
    levels = config.channels or config.kernels
    return nnunet_strides(task.grid, len(levels) if levels else None)


def _per_axis(name: str, told: Sequence[int | tuple[int, ...]], dims: int) -> list[list[int]]:
    """One number an axis of each level; ConfigError where a level has another number of them.

    >>> _per_axis("kernels", (3, (1, 3, 3)), 3)
    [[3, 3, 3], [1, 3, 3]]
    """
    each = [[level] * dims if isinstance(level, int) else list(level) for level in told]
    if wrong := next((level for level in each if len(level) != dims), None):
        rule = f"{wrong} is {counted(len(wrong), 'number')}, and the network is of {dims} dimensions"
        raise ConfigError(f"model.{name}", rule, "give one number a level, or one an axis")
    return each


def nnunet_strides(grid: tuple[int, ...], levels: int | None = None) -> list[list[int]]:
    """Steps of each level, one number an axis: an axis is halved as long as 4 pixels stay, the whole net as long as any is.

    >>> nnunet_strides((32, 16))
    [[1, 1], [2, 2], [2, 2], [2, 1]]
    """
    sides, strides = list(grid), [[1] * len(grid)]
    while len(strides) != levels:
        step = [2 if side >= 2 * SMALLEST_PX else 1 for side in sides]
        if levels is None and step == [1] * len(grid):
            break
        strides.append(step)
        sides = [side // each for side, each in zip(sides, step, strict=True)]
    if len(strides) < 3:
        raise ConfigError("data.size_px", f"{grid} is too small for dynunet, which needs three levels", "take 16 pixels or more a side")
    return strides


class _DynUNet(monai.DynUNet):
    """Its decoder reaches as far as the encoder does on the same level, as nnU-Net's; MONAI's takes the kernels of the level below."""

    def get_upsamples(self) -> nn.ModuleList:
        own = self.kernel_size  # type: ignore[has-type]
        self.kernel_size = [own[0], *own[:-1]]  # of these it takes all but the first
        try:
            return super().get_upsamples()
        finally:
            self.kernel_size = own


def _know_once(net: nn.Module) -> None:
    """MONAI registers each block twice, alone and in the chain that calls it; a state dict holds it once."""
    object.__setattr__(net, "skip_layers", net._modules.pop("skip_layers"))


def _supervised(net: Any, image: Tensor) -> Heads:
    """The levels on their own resolution, as nnU-Net compares them; MONAI's forward would bring all to the full one."""
    out = net.output_block(net.skip_layers(image))
    return Heads(out, tuple(net.heads) if net.training and net.deep_supervision else ())


def _flexible_unet(config: FlexibleUnetConfig, task: Task) -> Network:
    """A U-Net's decoder on an encoder of EfficientNet (Tan and Le, ICML 2019) or ResNet (He et al., CVPR 2016)."""
    net = monai.FlexibleUNet(
        task.in_channels, task.num_classes, config.encoder, decoder_channels=config.decoder_channels, spatial_dims=task.spatial_dims,
        dropout=config.dropout,
    )  # fmt: skip
    if config.encoder.startswith("resnet"):
        stages: Names = (("encoder.conv1", "encoder.bn1"), *((f"encoder.layer{level}",) for level in range(1, 5)))
        first = "encoder.conv1"
    else:
        blocks = tuple((f"encoder._blocks.{place}",) for place in range(len(net.encoder._blocks)))
        stages, first = (("encoder._conv_stem", "encoder._bn0"), *blocks), "encoder._conv_stem"
        retire(net, "encoder._conv_head", "encoder._bn1", "encoder._fc")  # they are of ImageNet's classes
    return Network(net, divisor=32, least=64, head=("segmentation_head",), encoder=stages, first_conv=first)


def _segresnet(config: SegResNetConfig, task: Task) -> Network:
    """Myronenko, BrainLes 2018; group norm, bilinear upsampling, no autoencoder branch."""
    net = monai.SegResNet(
        task.spatial_dims, config.init_filters, task.in_channels, task.num_classes, config.dropout or None,
        blocks_down=config.blocks_down, blocks_up=config.blocks_up,
    )  # fmt: skip
    factor = 2 ** (len(config.blocks_down) - 1)
    encoder = (("convInit",), *((f"down_layers.{level}",) for level in range(len(config.blocks_down))))
    return Network(net, divisor=factor, least=factor, head=("conv_final",), encoder=encoder)


def _unetr(config: UnetrConfig, task: Task) -> Network:
    """Hatamizadeh et al., WACV 2022.

    Its position embedding has one size: the adapter scales other images to it, in training too, whatever their aspect, and the logits back.
    """
    grid = tuple(max(2, math.ceil(side / TRANSFORMER_PATCH_PX)) * TRANSFORMER_PATCH_PX for side in task.grid)
    net = monai.UNETR(
        task.in_channels, task.num_classes, grid, config.feature_size, config.hidden_size, config.mlp_dim, config.num_heads,
        dropout_rate=config.dropout, spatial_dims=task.spatial_dims,
    )  # fmt: skip
    retire(net, *(f"vit.blocks.{place}.norm_cross_attn" for place in range(len(net.vit.blocks))))  # of attention to another image
    encoder = (("vit.patch_embedding",), *((f"vit.blocks.{place}",) for place in range(len(net.vit.blocks))), ("vit.norm",))
    return Network(net, grid=grid, head=("out",), encoder=encoder)


def _swin_unetr(config: SwinUnetrConfig, task: Task) -> Network:
    """Hatamizadeh et al. 2022, in the proceedings of BrainLes 2021. Difference: 24 features where the paper has 48."""
    net = monai.SwinUNETR(
        task.in_channels, task.num_classes, depths=config.depths, num_heads=config.num_heads, feature_size=config.feature_size,
        drop_rate=config.dropout, spatial_dims=task.spatial_dims,
    )  # fmt: skip
    encoder = (("swinViT.patch_embed",), *((f"swinViT.layers{level}",) for level in range(1, 5)))
    return Network(net, divisor=32, least=64, head=("out",), encoder=encoder)


_BUILDERS: dict[type[NetworkConfig], Callable[..., Network]] = {
    UnetConfig: _unet, BasicUnetConfig: _basic_unet, DynUnetConfig: _dynunet, AttentionUnetConfig: _attention_unet,
    UnetPlusPlusConfig: _unetplusplus, FlexibleUnetConfig: _flexible_unet, SegResNetConfig: _segresnet, UnetrConfig: _unetr,
    SwinUnetrConfig: _swin_unetr,
}  # fmt: skip


# --- published weights


def published(config: NetworkConfig, spec: str, task: Task) -> Source | None:
    """monai:DEFAULT, the ImageNet weights that MONAI's EfficientNets fetch; None for another network."""
    if spec != "monai:DEFAULT" or not isinstance(config, FlexibleUnetConfig) or task.spatial_dims != 2:
        return None
    if (url := monai.EFFICIENTNET_URLS.get(config.encoder)) is None:
        raise WeightsError(spec, f"MONAI names no weights for {config.encoder}", f"take one of {', '.join(sorted(_with_weights()))}")
    with torch.device("meta"):
        own = [name for name in _flexible_unet(config, task).net.state_dict() if name.startswith("encoder.")]
    state = fetch_torch(url)
    there = {name: _STAGE.sub(r"\1\2", name.removeprefix("encoder.")) for name in own}
    found = {name: state[theirs] for name, theirs in there.items() if theirs in state}
    return Source(found, f"{spec} ({config.encoder})", IMAGENET_MEAN, IMAGENET_DEVIATION)


_STAGE = re.compile(r"(.+)\.\d+(\.\d+\..+)")  # MONAI numbers stages, too, which the published names do not


def _with_weights() -> list[str]:
    return [name for name in monai.EFFICIENTNET_URLS if name.startswith("efficientnet")]


ENTRIES = (
    Entry("unet", "MONAI", "Kerfoot et al. 2019", LICENCE, dims=(2, 3)),
    Entry("basic_unet", "MONAI", "Falk et al. 2019", LICENCE, dims=(2, 3)),
    Entry("dynunet", "MONAI", "Isensee et al. 2021", LICENCE, dims=(2, 3)),
    Entry("attention_unet", "MONAI", "Oktay et al. 2018", LICENCE, dims=(2, 3)),
    Entry("unetplusplus", "MONAI", "Zhou et al. 2018", LICENCE, dims=(2, 3)),
    Entry("flexible_unet", "MONAI", "Tan and Le 2019", LICENCE, ("monai:DEFAULT",), dims=(2, 3)),
    Entry("segresnet", "MONAI", "Myronenko 2018", LICENCE, dims=(2, 3)),
    Entry("unetr", "MONAI", "Hatamizadeh et al. 2022", LICENCE, dims=(2, 3)),
    Entry("swin_unetr", "MONAI", "Hatamizadeh et al. 2022", LICENCE, dims=(2, 3)),
)
