"""A user's own network by its import path, held to the contract before anything is trained: each part that it breaks has its own error."""

from __future__ import annotations

import copy
import importlib
import random
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.config.model import OwnConfig
from medseg.errors import ConfigError
from medseg.models.contract import Heads, Network, Task
from medseg.models.weights import first_words

CONTRACT = "a torch module that takes float32 (B, C, H, W), or (B, C, D, H, W), and gives logits (B, num_classes, h, w), or (..., d, h, w)"
IN_FULL = "train in float32: train.precision=float32; or mend it"
AUXILIARY_WEIGHT = 0.4  # of a mapping's `aux`; Heads say their own
MOST_APART = 1e-2  # of the largest logit: kernels add in another order for another batch
ENTRIES = ()


def build(config: OwnConfig, task: Task) -> Network:
    """The network that `name` makes of num_classes and `arguments`. ConfigError, which says what of the contract it breaks.

    It is imported, so its code runs: whoever calls this has been told that it may.
    """
    factory = _imported(config.name)
    if not task.trains:  # a checkpoint will say what it has learned; it was held to the contract before it did
        network = _network(config, _made(config, factory, task))
        _heads(config, network, torch.zeros(1, task.in_channels, *task.grid), task, training=False)
        return network
    with _own_generators(config):
        network = _network(config, _made(config, factory, task))
        with torch.random.fork_rng():
            return replace(network, least_batch=_check(config, network, task))


def _network(config: OwnConfig, net: nn.Module) -> Network:
    _check_parts(config, net)
    return Network(net, _call, head=config.head, encoder=tuple((name,) for name in config.encoder))


@contextmanager
def _own_generators(config: OwnConfig) -> Iterator[None]:
    """Inside, the generators of Python and numpy must not be drawn from: no seed of a run would give the same network again. They are left
    as they were found."""
    drawn, numbers = random.getstate(), np.random.get_state()
    try:
        yield
        same = random.getstate() == drawn, all(map(np.array_equal, np.random.get_state(), numbers))
    finally:
        random.setstate(drawn)
        np.random.set_state(numbers)
    touched = [name for name, left in zip(("Python's random", "numpy.random"), same, strict=True) if not left]
    if touched:
        raise _broken(config, f"draws from {' and '.join(touched)}, or seeds it", "draw from torch's generator, which the run's seed sets")


def _made(config: OwnConfig, factory: Any, task: Task) -> nn.Module:
    try:
        net = factory(num_classes=task.num_classes, **config.arguments)
    except Exception as cause:  # of a user's code
        raise _broken(config, f"cannot be made: {_told(config, cause)}", "it is called with num_classes and model.arguments") from cause
    if not isinstance(net, nn.Module):
        raise _broken(config, f"gives a {type(net).__name__}", f"it must give {CONTRACT}")
    return net


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last: a file of the working folder must not stand in for a library
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as cause:  # a user's module may raise anything when it is imported
        missing = isinstance(cause, ModuleNotFoundError) and cause.name in (module, module.partition(".")[0])
        fix = "run where the module can be found" if missing else f"mend {_place(cause) or module}"
        raise ConfigError(f"model.name={path}", f"cannot be imported: {_words(cause)}", fix) from cause
    if not callable(found):
        raise ConfigError(f"model.name={path}", f"is of type {type(found).__name__}", "name a class or a function that makes the network")
    return found


def _place(cause: Exception) -> str:
    """The line of the user's file where it was raised; '' where it was the import itself."""
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if "importlib" not in frame.filename]
    return f"{frames[-1].filename} line {frames[-1].lineno}" if len(frames) > 1 else ""


def _told(config: OwnConfig, cause: Exception) -> str:
    """An exception and the last line of the user's module that it went through."""
    file = getattr(sys.modules[config.name.partition(":")[0]], "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if frame.filename == file]
    return _words(cause) + (f" ({file} line {lines[-1]})" if lines else "")


def _words(cause: Exception) -> str:
    """Of what kind, and what it says, on one line."""
    return f"{type(cause).__name__}: {first_words(cause)}"


def _call(net: nn.Module, image: Tensor) -> Heads:
    """Of a module that gives logits, Heads, or a mapping with `out` and maybe `aux`, as torchvision's networks do."""
    found = net(image)
    if isinstance(found, Mapping) and "out" in found:
        auxiliary = {"auxiliary": (AUXILIARY_WEIGHT, found["aux"])} if net.training and "aux" in found else {}
        return Heads(found["out"], auxiliary=auxiliary)
    return found if isinstance(found, Heads) else Heads(found)


def _check_parts(config: OwnConfig, net: nn.Module) -> None:
    names = {name for name, _ in net.named_modules()}
    for key in ("head", "encoder"):
        for name in getattr(config, key):
            if name not in names:
                there = ", ".join(inner for inner, _ in net.named_children())
                raise ConfigError(
                    f"model.{key}", f"{config.name} has no module {name!r}", f"it has {there}, and print(net) shows those inside"
                )


def _check(config: OwnConfig, network: Network, task: Task) -> int:
    """What it says and how it learns, on a copy that is thrown away. How many images it needs in a batch to train: a batch norm of one
    value cannot."""
    trial = replace(network, net=_copied(config, network.net))
    image = torch.rand(2, task.in_channels, *task.grid)
    _check_answers(config, trial, image, task)
    least_batch = _check_learning(config, trial, image, task)
    _check_state(config, trial, replace(network, net=_copied(config, network.net)), image, task)
    return least_batch


def _check_answers(config: OwnConfig, trial: Network, image: Tensor, task: Task) -> None:
    """Finite logits in eval mode, of one image and of two, the same ones each time."""
    before = torch.get_rng_state()
    first, second = (_heads(config, trial, image, task, training=False).out for _ in range(2))
    alone = _heads(config, trial, image[:1], task, training=False).out
    if not torch.isfinite(first).all():
        raise _broken(config, "gives logits that are not finite", "look at its initialisation")
    if _are_probabilities(first):
        raise _broken(config, "gives probabilities: over the classes they add up to 1", "leave its softmax out: the loss wants logits")
    if not torch.equal(first, second):
        raise _broken(config, "gives two answers to one image in eval mode", "switch off what is random when self.training is False")
    if (first[:1] - alone).abs().max() > MOST_APART * first.abs().max():
        rule = "answers otherwise to an image in eval mode where another one is beside it"
        raise _broken(config, rule, "look for a mean over the batch, or a norm that takes it in eval mode, too")
    if not torch.equal(before, torch.get_rng_state()):
        rule = "draws from torch's generator in eval mode, or seeds it"
        raise _broken(config, rule, "switch off what is random when self.training is False, and seed nothing")


def _check_learning(config: OwnConfig, trial: Network, image: Tensor, task: Task) -> int:
    """One step's gradients in train mode, and the images that it takes; the weights are moved by it."""
    heads = _heads(config, trial, image, task, training=True)
    total = _squares(heads)
    if not (isinstance(total, Tensor) and total.requires_grad):
        fix = "let its forward run with gradients, and its parameters require them"
        raise _broken(config, "learns nothing: its logits depend on no parameter in train mode", fix)
    total.backward()
    learning = {name: parameter for name, parameter in trial.net.named_parameters() if parameter.requires_grad}
    if without := [name for name, parameter in learning.items() if parameter.grad is None]:
        fix = "leave the parameter out, or set requires_grad_(False) on it"
        raise _broken(config, f"has {len(without)} parameters that get no gradient, first {without[0]!r}", fix)
    if odd := [name for name, parameter in learning.items() if not torch.isfinite(parameter.grad).all()]:  # type: ignore[arg-type]
        fix = "look for a root, a logarithm or a quotient of 0 in its forward"
        raise _broken(config, f"has {len(odd)} parameters whose gradients are not finite, first {odd[0]!r}", fix)
    if task.autocast:
        _check_half(config, trial, image, task)
    with torch.no_grad():
        for parameter in learning.values():  # a little, whatever the gradient's size
            parameter.add_(parameter.grad.sign() * parameter.abs().mean(), alpha=-1e-3)  # type: ignore[union-attr]
    trial.net.zero_grad(set_to_none=True)
    return 1 if _learns_from_one(config, trial, image[:1], task) else 2


def _check_half(config: OwnConfig, trial: Network, image: Tensor, task: Task) -> None:
    """An image's way in both modes, and the gradients' way back, in bfloat16. The gradients of the float32 step stay."""
    with torch.autocast("cpu", torch.bfloat16):
        _heads(config, trial, image, task, training=False, fix=IN_FULL)
        total = _squares(_heads(config, trial, image, task, training=True, fix=IN_FULL))
    try:
        torch.autograd.grad(total, [parameter for parameter in trial.net.parameters() if parameter.requires_grad], allow_unused=True)
    except Exception as cause:  # of a user's code
        raise _broken(config, f"cannot learn in bfloat16: {_told(config, cause)}", IN_FULL) from cause


def _squares(heads: Heads) -> Any:
    """A loss that asks every logit."""
    return sum(each.float().square().mean() for each in _all_logits(heads))


def _check_state(config: OwnConfig, trial: Network, fresh: Network, image: Tensor, task: Task) -> None:
    """What was learned is all in the state dict: a checkpoint, and so the run's scores, know nothing else."""
    try:
        fresh.net.load_state_dict(trial.net.state_dict())
    except Exception as cause:  # of a user's code, which may have a state dict of its own
        raise _broken(config, f"does not take its own state dict: {_words(cause)}", "make all its layers in __init__") from cause
    theirs, ours = (_heads(config, each, image, task, training=False).out for each in (trial, fresh))
    if not torch.allclose(theirs, ours, rtol=0, atol=0, equal_nan=True):
        fix = "keep what it learns in parameters and buffers (register_buffer): a checkpoint holds these alone"
        raise _broken(config, "answers otherwise once its state dict is loaded into another copy", fix)


def _copied(config: OwnConfig, net: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(net)
    except Exception as cause:  # of whatever a user's module holds: a lock, an open file, a tensor with a history
        raise _broken(
            config, f"cannot be copied: {_words(cause)}", "keep only modules, parameters, buffers and plain values in it"
        ) from cause


def _learns_from_one(config: OwnConfig, network: Network, image: Tensor, task: Task) -> bool:
    try:
        _heads(config, network, image, task, training=True)
    except ConfigError:
        return False
    return True


def _are_probabilities(logits: Tensor) -> bool:
    sums = logits.float().sum(dim=1)
    return bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _heads(config: OwnConfig, network: Network, image: Tensor, task: Task, training: bool, fix: str = f"it must be {CONTRACT}") -> Heads:
    """What the network says, each of its heads with the right number of axes and channels."""
    mode = "train" if training else "eval"
    try:
        with torch.set_grad_enabled(training):
            heads = network.call(network.net.train(training), image)
    except Exception as cause:  # of a user's code
        precision = " in bfloat16" if torch.is_autocast_enabled("cpu") else ""
        rule = f"fails in {mode} mode on {tuple(image.shape)}{precision}: {_told(config, cause)}"
        raise _broken(config, rule, fix) from cause
    for logits in _all_logits(heads):
        if not isinstance(logits, Tensor):
            raise _broken(config, f"gives a {type(logits).__name__} in {mode} mode", f"it must be {CONTRACT}")
        if logits.ndim != image.ndim or logits.shape[:2] != (len(image), task.num_classes):
            rule = f"gives {tuple(logits.shape)} for {tuple(image.shape)} in {mode} mode"
            sides = ", ".join("dhw"[-task.spatial_dims :])
            fix = f"the logits must be ({len(image)}, {task.num_classes}, {sides}), one channel a class with the background"
            raise _broken(config, rule, fix)
    return heads


def _all_logits(heads: Heads) -> list[Any]:
    return [heads.out, *heads.levels, *(logits for _, logits in heads.auxiliary.values())]


def _broken(config: OwnConfig, rule: str, fix: str) -> ConfigError:
    return ConfigError(f"model.name={config.name}", rule, fix)
