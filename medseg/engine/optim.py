"""AdamW without decay on biases and norms; linear warm-up, then cosine decay, counted in steps."""

from __future__ import annotations

import math

import torch
from torch import nn

from medseg.config import OptimConfig


def make_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.AdamW:
    """AdamW in two groups: weights of two or more axes decay, biases, norms and activations' slopes do not."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The rate of step 0 .. total_steps - 1: up linearly over the warm-up, down by a half cosine (SGDR, Loshchilov and Hutter 2017).

    >>> config = OptimConfig(lr=1.0, warmup_share=0.1)
    >>> [round(learning_rate(config, step, 100), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = math.ceil(config.warmup_share * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    floor = config.final_lr_share
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
