"""Layers that torch trains slowly or wrongly on a processor, computed in another way that gives the same up to rounding.

- Instance norm is a batch norm of batch x channels channels to torch, for which it wants channels first: a network in channels-last is
  copied to and fro at every norm. Image by image it is a batch norm that torch has for channels-last, too. Torch sums that one in float32
  without care, so the means are taken off before, which a norm does not feel, and it is for small images alone.
- Torch's gradient of the instance norm of a single image is wrong where what it is given lies in channels-last (2.15; by as much as the
  gradient is large). A batch norm's is right, so one image goes that way whatever its size.
- PReLU's gradient is computed value by value; leaky ReLU's, which with one slope for all is the same, by vectors.
- The gradient of a 1 x 1 convolution with a stride, of fewer than 16 channels in channels-last, writes past its memory in oneDNN (its issue
  6035): a crash, or wrong numbers. The values between the strides go first here, which is the same without the fault.

A torch that keeps the layout itself (pytorch/pytorch, pull request 194616 for issue 59168) makes the norms here needless.
In evaluation, on other devices and in compiled or exported networks the library's own code runs. Neither gradients of gradients nor
torch.func go through the quick PReLU. `python bench/bench_quick.py` measures what it is worth.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.instancenorm import _InstanceNorm

SAFE_CHANNELS = 16  # as many as a vector of AVX-512 holds
MOST_VALUES = 2**16  # of a channel of an image that is normalised in channels-last


def hasten(net: nn.Module) -> None:
    """Give the plain instance norms and PReLUs of a network their quick way; parameters, their names and what is computed stay."""
    for module in net.modules():
        if type(module) in _QUICK:  # no subclass: its forward is its own
            module.__class__ = _QUICK[type(module)]
        elif type(module) is nn.Conv2d and _overruns(module):
            module.__class__ = QuickConv2d


def _overruns(conv: nn.Conv2d) -> bool:
    """Whether oneDNN may write past its memory in the gradient."""
    is_plain = conv.groups == 1 and conv.padding in ("valid", (0, 0))
    return is_plain and conv.kernel_size == (1, 1) and max(conv.stride) > 1 and conv.in_channels < SAFE_CHANNELS


class _ByImage(_InstanceNorm):
    axes: ClassVar[int]
    layout: ClassVar[torch.memory_format]

    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        if not _is_quick(self.training, values) or not self._is_usual(values):
            return super().forward(values)
        norm = (None, None, self.weight, self.bias, True, 0.0, self.eps)
        is_last = values.is_contiguous(memory_format=self.layout) and not values.is_contiguous()  # both, where a side is 1
        if not is_last or values[0, 0].numel() > MOST_VALUES:
            return F.batch_norm(values.contiguous(), *norm) if len(values) == 1 else super().forward(values)
        if values.dtype == torch.float32:  # bfloat16 would round what is left, and has rounded more than the sums lose
            values = values - values.detach().mean(tuple(range(2, values.ndim)), keepdim=True)
        return torch.cat([F.batch_norm(image, *norm) for image in values.split(1)])

    def _is_usual(self, values: Tensor) -> bool:
        """A batch of what the library takes and does not refuse, without running statistics."""
        fits = values.ndim == self.axes and len(values) > 0 and values.shape[1] == self.num_features
        return fits and values[0, 0].numel() > 1 and not self.track_running_stats


class QuickInstanceNorm2d(_ByImage, nn.InstanceNorm2d):
    """Of images (B, C, H, W)."""

    axes, layout = 4, torch.channels_last


class QuickInstanceNorm3d(_ByImage, nn.InstanceNorm3d):
    """Of volumes (B, C, D, H, W)."""

    axes, layout = 5, torch.channels_last_3d


class QuickConv2d(nn.Conv2d):
    """Of 1 x 1, with a stride and without padding."""

    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        down, right = self.stride
        return F.conv2d(values[..., ::down, ::right], self.weight, self.bias)


class QuickPReLU(nn.PReLU):
    """With one slope for all channels."""

    def forward(self, values: Tensor) -> Tensor:  # noqa: D102
        expected = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.weight.dtype
        if not _is_quick(self.training, values) or self.weight.numel() > 1 or values.dtype != expected:
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
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor | None]:
        (values,) = ctx.saved_tensors
        below = torch.ops.aten.leaky_relu_backward(above, values, ctx.slope, False)
        if not ctx.needs_input_grad[1]:
            return below, None
        depth = values.neg().relu_()  # below zero; torch.where would say it in one line, and takes ten times as long
        of_slope = depth * torch.ops.aten.threshold_backward(above, depth, 0)  # 0 where depth is, even of an infinite gradient
        return below, -of_slope.sum(dtype=ctx.dtype).reshape(1)


_QUICK: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: QuickInstanceNorm2d,
    nn.InstanceNorm3d: QuickInstanceNorm3d,
    nn.PReLU: QuickPReLU,
}


def _is_quick(training: bool, values: Tensor) -> bool:
    return training and values.device.type == "cpu" and not torch.compiler.is_compiling()
