"""Names -> networks. What the libraries offer is told by medseg.models.families, one module a library."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from torch import nn

from medseg.config import NetworkConfig
from medseg.models.contract import Adapter, Network, SemanticNetwork, Task
from medseg.types import Loss

NORM_MOMENTUM = 0.1  # torch's own
FAMILIES = ("monai", "torchvision", "textbook", "huggingface", "smp", "maskrcnn")  # in the order of the table


@dataclass(frozen=True)
class Entry:
    """A line of `medseg zoo`. weights: what `model.weights` may name, beside file: and run:.  licence: of the code alone.

    dims: of the images, 2 or 3.
    """

    name: str
    library: str
    paper: str
    licence: str
    weights: tuple[str, ...] = ()
    dims: tuple[int, ...] = (2,)


def family_of(config: NetworkConfig) -> ModuleType:
    """The module that builds a network."""
    return importlib.import_module(f"medseg.models.families.{config.family}")


def entries() -> list[Entry]:
    """Every network that has a name of its own, and examples of those named by several parts. Imports every library: seconds."""
    modules = [importlib.import_module(f"medseg.models.families.{family}") for family in FAMILIES]
    return [entry for module in modules for entry in module.ENTRIES]


def build_network(config: NetworkConfig, task: Task) -> Network:
    """The bare network of a config, freshly initialised from torch's global generator. ConfigError where it cannot be of this task."""
    network: Network = family_of(config).build(config, task)
    if not config.runs_code:  # what a user has chosen stays
        quick_norms(network.net)
    return network


def quick_norms(net: nn.Module) -> None:
    """Batch norms whose running values follow at torch's usual pace. Some libraries have a tenth of it, made for the hundred thousands of
    steps on ImageNet: after a few hundred, a network would be judged by averages over weights that it had long left behind."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = max(module.momentum, NORM_MOMENTUM)


def adapt(network: Network, config: NetworkConfig, task: Task, loss: Loss | None = None) -> Adapter:
    """The network behind the contract, its image normalised as the config says, where it does not come normalised."""
    numbers = {} if config.mean is None or config.deviation is None else {"mean": config.mean, "deviation": config.deviation}
    if task.normalised:
        numbers = {"mean": (0.0,), "deviation": (1.0,)}
    adapter = (network.adapter or SemanticNetwork)(network, task, loss, **numbers)
    adapter.norms_held = config.batch_norm == "frozen"
    return adapter
