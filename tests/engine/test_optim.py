"""The course of the rate: against torch's own schedulers and by hand; which weights decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, PolynomialLR

from medseg.config import OptimConfig
from medseg.engine.optim import learning_rate, make_optimizer

STEPS = 50


def rates(config: OptimConfig) -> list[float]:
    return [learning_rate(config, step, STEPS) for step in range(STEPS)]


def torchs(make) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, found = make(optimizer), []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(found) < STEPS:
            scheduler.step()
    return found


def test_without_warm_up_cosine_and_polynomial_are_torchs():
    assert rates(OptimConfig(lr=0.1, warmup_share=0.0)) == pytest.approx(torchs(lambda o: CosineAnnealingLR(o, STEPS)))
    polynomial = OptimConfig(lr=0.1, warmup_share=0.0, schedule="polynomial", power=0.7)
    assert rates(polynomial) == pytest.approx(torchs(lambda o: PolynomialLR(o, STEPS, power=0.7)))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_one_cycle_is_torchs(share):
    config = OptimConfig(lr=0.1, schedule="one_cycle", warmup_share=share, final_lr_share=1 / 25e4)
    theirs = torchs(lambda o: OneCycleLR(o, 0.1, total_steps=STEPS, pct_start=share, cycle_momentum=False))
    assert rates(config) == pytest.approx(theirs)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "constant"])
def test_the_warm_up_rises_in_equal_steps_and_the_fall_ends_where_asked(schedule):
    config = OptimConfig(lr=1.0, schedule=schedule, warmup_share=0.1, final_lr_share=0.0 if schedule == "constant" else 0.25)
    found = rates(config)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert all(later <= earlier for earlier, later in zip(found[5:], found[6:], strict=False))
    assert found[-1] == pytest.approx(1.0) if schedule == "constant" else 0.25 < found[-1] < 0.3


def test_one_step_is_a_course_too():
    for schedule in ("cosine", "polynomial", "constant", "one_cycle"):
        assert 0 < learning_rate(OptimConfig(lr=1.0, schedule=schedule), 0, 1) <= 1


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_biases_and_norms_do_not_decay(name, kind):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.PReLU())
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.5), model)
    assert isinstance(optimizer, kind)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in model.parameters()] == [0.5, 0, 0, 0, 0]
