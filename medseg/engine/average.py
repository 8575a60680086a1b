"""The exponential moving average of a network's weights, which is validated and kept in their place where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """avg <- d * avg + (1 - d) * weights after each step, with d = min(decay, (1 + step) / (10 + step)).

    The smaller d at the start is TensorFlow's: the first weights are of no network yet, and would stay in the average for 1 / (1 - decay)
    steps. Integer buffers are copied. weights: name -> tensor, on the network's device, in its state dict's names.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After optimiser step `step` (1, 2, ...)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, share)
            else:
                self.weights[name].copy_(tensor)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The network holds the average inside, and its own weights again afterwards, to the bit."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        copy_into(model.state_dict(), self.weights)
        try:
            yield
        finally:
            copy_into(model.state_dict(), own)


@torch.no_grad()
def copy_into(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
    """Values by name; each target keeps its device, type and memory format."""
    for name, target in targets.items():
        target.copy_(sources[name])
