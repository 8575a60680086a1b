"""What a network costs: parameters, and multiply-adds of one image, by torch's own counter."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from medseg.config import NetworkConfig
from medseg.models.contract import Adapter, Task
from medseg.models.zoo import adapt, build_network
from medseg.quieting import quieted


@dataclass(frozen=True)
class Cost:
    """parameters: of the whole network, auxiliary heads included.  multiply_adds: of convolutions and matrix products of one image in eval
    mode, what is counted as FLOPs / 2; torch's counter leaves out norms, activations and interpolation."""

    parameters: int
    multiply_adds: int


def cost_of(config: NetworkConfig, task: Task) -> Cost:
    """Of one image of the task's grid. No number is computed where the network runs without (on torch's meta device); else it is run."""
    with quieted("torch.utils.flop_counter"), warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return _counted(adapt(build_network(config, task), config, task), task)
        except Exception:  # of many kinds: what depends on values, such as a choice of boxes; what is truly wrong is raised again below
            return _counted(adapt(build_network(config, task), config, task), task)


def _counted(model: Adapter, task: Task) -> Cost:
    device = next(model.parameters()).device
    image = torch.zeros(1, task.in_channels, *task.grid, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    return Cost(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2)
