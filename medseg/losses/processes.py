"""Sums over the processes of a training, with a gradient: how a loss over a batch stays one where processes hold a part of it each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


class _Sum(torch.autograd.Function):
    """The sum s = s_1 + ... + s_W over the processes, at each of them.

    Each then has the same loss L(s), and DDP takes the mean over the processes of what each hands back. So that this mean is the gradient
    of L, sum_r dL/ds * ds_r/dw, each hands back W times dL/ds. No second message is sent: dL/ds is the same everywhere.
    """

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * distributed.get_world_size()


@torch.compiler.disable  # a message is not a kernel: the compiled program stops here and goes on behind it
def sum_of_processes(part: Tensor) -> Tensor:
    """The sum of a tensor over all processes; every one must call it."""
    return _Sum.apply(part)  # type: ignore[no-any-return, no-untyped-call]
