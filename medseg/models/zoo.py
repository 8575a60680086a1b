"""Names -> networks. One builder a family, its reference beside it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from medseg.config import ModelConfig
from medseg.monai_parts import UNet

RGB = 3


def _unet(config: ModelConfig, num_classes: int) -> nn.Module:
    """MONAI's residual U-Net: Ronneberger et al., MICCAI 2015, with residual units (Kerfoot et al., STACOM 2018)."""
    return UNet(
        spatial_dims=2,
        in_channels=RGB,
        out_channels=num_classes,
        channels=config.channels,
        strides=config.strides,
        num_res_units=config.num_res_units,
        dropout=config.dropout,
    )


BUILDERS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {"unet": _unet}


def build_network(config: ModelConfig, num_classes: int) -> nn.Module:
    """The bare network of a config, freshly initialised from torch's global generator; image_BCHW -> logits_BKHW."""
    return BUILDERS[config.name](config, num_classes)
