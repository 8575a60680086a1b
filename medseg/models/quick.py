"""Layers that torch trains slowly on a processor, computed in another way that gives the same: only the speed depends on it.

- Instance norm is a batch norm of batch x channels channels to torch, for which it wants channels first: a network in channels-last is
  copied to and fro at every norm. Image by image it is a batch norm that torch has for channels-last, too.
- PReLU's gradient is computed value by value; leaky ReLU's, which with one slope for all is the same, by vectors.

In evaluation, on other devices and in compiled or exported networks the library's own code runs. `python bench/bench_quick.py` measures it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.instancenorm import _InstanceNorm

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def hasten(net: nn.Module) -> None:
    """Give the plain instance norms and PReLUs of a network their quick way; parameters, their names and what is computed stay."""
    for module in net.modules():
        if type(module) in _QUICK:  # no subclass: its forward is its own
            module.__class__ = _QUICK[type(module)]


class _ByImage(_InstanceNorm):
    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        if not _is_quick(self.training, values) or self.track_running_stats or not _is_channels_last(values):
            return super().forward(values)
        norm = (None, None, self.weight, self.bias, True, 0.0, self.eps)
        return torch.cat([F.batch_norm(image, *norm) for image in values.split(1)])


class QuickInstanceNorm2d(_ByImage, nn.InstanceNorm2d):
    """Of images (B, C, H, W)."""


class QuickInstanceNorm3d(_ByImage, nn.InstanceNorm3d):
    """Of volumes (B, C, D, H, W)."""


class QuickPReLU(nn.PReLU):
    """With one slope for all channels."""

    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        if not _is_quick(self.training, values) or self.weight.numel() > 1:
            return super().forward(values)
        return _OneSlope.apply(values, self.weight)  # type: ignore[no-any-return, no-untyped-call]


class _OneSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        ctx.slope, ctx.dtype = slope.item(), slope.dtype
        return F.leaky_relu(values, ctx.slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor]:
        (values,) = ctx.saved_tensors
        below = torch.ops.aten.leaky_relu_backward(above, values, ctx.slope, False)
        return below, torch.sum(values.clamp(max=0) * above, dtype=ctx.dtype).reshape(1)


_QUICK: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: QuickInstanceNorm2d,
    nn.InstanceNorm3d: QuickInstanceNorm3d,
    nn.PReLU: QuickPReLU,
}


def _is_quick(training: bool, values: Tensor) -> bool:
    return training and values.device.type == "cpu" and not torch.compiler.is_compiling()


def _is_channels_last(values: Tensor) -> bool:
    """False where both layouts are one, as they are with a single channel or a single value."""
    layout = _LAYOUTS.get(values.ndim)
    return layout is not None and values.is_contiguous(memory_format=layout) and not values.is_contiguous()
