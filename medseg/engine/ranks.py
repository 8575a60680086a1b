"""The processes of one training, by Lightning Fabric: what they share out and what they add up. One process alone waits for nobody.

Legend: W processes (the "world"), of which this one has the rank 0 ... W - 1; rank 0 alone writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medseg.data.realised import Seen

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Of a Fabric. Every method must be called by all processes, or by none."""

    fabric: Fabric

    @property
    def world(self) -> int:
        """W."""
        return self.fabric.world_size

    @property
    def rank(self) -> int:
        """This process's."""
        return self.fabric.global_rank

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This process's."""
        return self.fabric.device

    def sum(self, tensor: Tensor) -> Tensor:
        """Over the processes."""
        return tensor if self.world == 1 else self.fabric.all_reduce(tensor.clone(), reduce_op="sum")  # type: ignore[return-value]

    def gather(self, tensor: Tensor) -> Tensor:
        """(W, ...) of tensors of one shape."""
        if self.world == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        torch.distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    def part_of(self, gathered_W: Tensor) -> Tensor:
        """This process's row of what `gather` gave; their mean where they were of another number of processes."""
        return gathered_W[self.rank] if len(gathered_W) == self.world else gathered_W.mean(0)

    def any(self, asked: bool) -> bool:
        """Whether any process says so: all hear the same answer."""
        return bool(self.sum(torch.tensor(int(asked), device=self.device))) if self.world > 1 else asked

    def same(self, value: T) -> T:
        """The first process's, for all."""
        return value if self.world == 1 else self.fabric.broadcast(value)

    def to_first(self, items: list[T]) -> list[T]:
        """All processes' items, in the order of their ranks, at the first process; none at the others."""
        if self.world == 1:
            return items
        found: list[Any] | None = [None] * self.world if self.first else None
        torch.distributed.gather_object(items, found)
        return [item for part in found or [] for item in part]

    def sum_seen(self, seen: Seen) -> Seen:
        """The counts of all processes together."""
        if self.world == 1:
            return seen
        together, counts_2K = Seen(seen.num_classes), seen.counts_2K
        if counts_2K is None:
            counts_2K = torch.zeros(2, seen.num_classes, dtype=torch.int64, device=self.device)
        together.counts_2K = self.sum(counts_2K)
        together.images = int(self.sum(torch.tensor(seen.images, device=self.device)))
        return together


class Alone(nn.Module):
    """A network in a Fabric's precision without its wrapper, which may have processes wait for each other at each forward.

    So each process predicts images of its own, and as many as it likes.
    """

    def __init__(self, network: nn.Module, fabric: Fabric):
        super().__init__()
        self.network, self.precision = network, fabric.strategy.precision

    def forward(self, inputs: Tensor) -> Any:
        """As the network's."""
        with self.precision.forward_context():
            return self.network(self.precision.convert_input(inputs))
