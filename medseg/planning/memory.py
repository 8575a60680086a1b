"""What a training step takes of memory, counted without a number being computed (on torch's meta device).

nnU-Net compares the sum of its feature maps with a table of GPUs. Here the tensors that autograd keeps for the way back are counted, loss
and deep supervision included, which are most of what a step holds; the rest is told by two constants, measured.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch

from medseg.config import LossConfig, NetworkConfig
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.models.contract import Task
from medseg.models.zoo import adapt, build_network
from medseg.types import Batch

# Peaks of three steps above what the process held before them, float32, on a processor (torch 2.15; tests/planning/test_memory.py measures
# one anew), where a training keeps the memory it frees. MiB by this count and as measured: dynunet, two patches of 40 x 56 x 40, 622 and
# 683; of 64 x 64 x 64, 1541 and 1763 to 1891; unet, eight photographs of 160 x 160, 474 and 391 to 398.
PASSING = 1.3  # of the kept tensors: with the gradients that are there at one time
LIBRARIES_BYTES = 150 * 2**20  # what they hold for themselves, once they compute
WEIGHT_BYTES = 16  # of a weight: itself, its gradient and AdamW's two means, four bytes each


class Use(NamedTuple):
    """Bytes, in float32: of the network, whatever the batch; and of each image of a batch. bfloat16, which a GPU may choose, takes less."""

    network_bytes: float
    image_bytes: float

    def of(self, batch: int) -> float:
        """Bytes at the peak of a step."""
        return self.network_bytes + batch * self.image_bytes

    def most(self, budget_bytes: float) -> int:
        """The largest batch within a budget, 0 where none is."""
        return max(0, int((budget_bytes - self.network_bytes) // self.image_bytes))


def use_of(config: NetworkConfig, task: Task, labels: LabelSet, loss: LossConfig) -> Use:
    """Of a network that learns from images of the task's grid, padded as it pads them."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        warnings.simplefilter("ignore")
        model = adapt(build_network(config, task), config, task, make_loss(loss, labels, None)).train()
        image = torch.zeros(1, task.in_channels, *task.grid)
        batch = Batch(image, torch.zeros(1, *task.grid, dtype=torch.int64), ("",))
        kept = dict[int, torch.UntypedStorage]()

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage  # held, so that no other takes its place in memory
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(batch)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    image_bytes = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    count = sum(parameter.numel() for parameter in model.parameters())
    return Use(LIBRARIES_BYTES + WEIGHT_BYTES * count, PASSING * image_bytes)
