"""The optimiser, without decay on biases and norms, and the course of its rate over the steps of a training."""

from __future__ import annotations

import math

import torch
from torch import nn

from medseg.config import OptimConfig
from medseg.models.contract import Adapter, is_below

ONE_CYCLE_START = 1 / 25  # of the largest rate, as in fastai and torch


def make_optimizer(config: OptimConfig, model: Adapter) -> torch.optim.Optimizer:
    """AdamW or SGD in groups: weights of two or more axes decay, biases, norms and activations' slopes do not.

    Each group's `lr_scale` is the share of the rate that its parameters learn at: see `lr_scale`.
    """
    parts: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.learning_parameters():
        parts.setdefault((lr_scale(config, model, name), parameter.ndim > 1), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0, "lr_scale": scale}
        for (scale, decays), parameters in parts.items()
    ]
    if config.name == "sgd":  # not fused: that fails where a group's parameters do not all begin at one step, as when an encoder is let go
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def lr_scale(config: OptimConfig, model: Adapter, name: str) -> float:
    """Of a parameter, by its name in the network: head_lr_multiplier in the head, layer_decay ** n in the encoder's stage that is followed
    by n - 1 others (Howard and Ruder, ACL 2018; Clark et al., ICLR 2020), else 1."""
    if is_below(name, model.network.head):
        return config.head_lr_multiplier
    stage = model.stage_of(name)
    return 1.0 if stage is None else config.layer_decay ** (len(model.network.encoder) - stage)


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The rate of step 0 .. total_steps - 1: up over the warm-up, then down to `lr * final_lr_share`, with p the share of it that is done:

    cosine      half a cosine (SGDR, Loshchilov and Hutter, ICLR 2017)
    polynomial  (1 - p) ** power (DeepLab, Chen et al., TPAMI 2018; nnU-Net with 0.9)
    constant    not at all
    one_cycle   half a cosine up from lr / 25, too (Smith and Topin 2018, as torch.optim.lr_scheduler.OneCycleLR; momentum stays)

    >>> config = OptimConfig(lr=1.0, warmup_share=0.1)
    >>> [round(learning_rate(config, step, 100), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    if config.schedule == "one_cycle":
        return config.lr * _one_cycle(config, step, total_steps)
    warmup = math.ceil(config.warmup_share * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    if config.schedule == "constant":
        return config.lr
    fallen = _half_cosine(done) if config.schedule == "cosine" else (1 - done) ** config.power
    return config.lr * (config.final_lr_share + (1 - config.final_lr_share) * fallen)


def _one_cycle(config: OptimConfig, step: int, total_steps: int) -> float:
    top = config.warmup_share * total_steps - 1
    if step <= top:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - _half_cosine(step / top if top else 1.0))
    done = (step - max(top, 0)) / max(1e-9, total_steps - 1 - max(top, 0))
    return config.final_lr_share + (1 - config.final_lr_share) * _half_cosine(done)


def _half_cosine(done: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * done))
