"""The course of the rate: against torch's own schedulers and by hand; which weights decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, PolynomialLR

from medseg.config import OptimConfig
from medseg.engine.optim import learning_rate, make_optimizer
from medseg.models.contract import Network, SemanticNetwork, Task, retire

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
    model = adapter(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.PReLU()))
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.5), model)
    assert isinstance(optimizer, kind)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in model.parameters()] == [0.5, 0, 0, 0, 0]


def adapter(net, **parts):
    return SemanticNetwork(Network(net, **parts), Task(2, (8, 8)))


def test_the_head_learns_faster_and_each_stage_slower_than_the_next():
    """A chain of two stages, a decoder and a head: rates by hand."""
    net = nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(4)))
    model = adapter(net, head=("3",), encoder=(("0",), ("1",)))
    config = OptimConfig(name="sgd", momentum=0, lr=1.0, head_lr_multiplier=10, layer_decay=0.5, weight_decay=0.1)
    optimizer = make_optimizer(config, model)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert [scale[id(layer.weight)] for layer in net] == [scale[id(layer.bias)] for layer in net] == [0.25, 0.5, 1, 10]
    assert len(scale) == 8 and {group["weight_decay"] for group in optimizer.param_groups} == {0.1, 0.0}


def test_a_part_that_nothing_reads_is_not_optimised():
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    retire(net, "1")
    optimizer = make_optimizer(OptimConfig(), adapter(net))
    assert [p.shape for group in optimizer.param_groups for p in group["params"]] == [net[0].weight.shape, net[0].bias.shape]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_part_that_was_held_begins_later(name):
    """Both layers are of one group, and the second has its first gradient after the first has its momentum."""
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    optimizer = make_optimizer(OptimConfig(name=name, lr=0.1), adapter(net))
    start = [p.detach().clone() for p in net.parameters()]
    net[1].requires_grad_(False)
    step(net, optimizer)
    assert [torch.equal(p, was) for p, was in zip(net.parameters(), start, strict=True)] == [False, False, True, True]
    net[1].requires_grad_(True)
    step(net, optimizer)
    assert not any(torch.equal(p, was) for p, was in zip(net.parameters(), start, strict=True))


def step(net, optimizer):
    optimizer.zero_grad(set_to_none=True)
    net(torch.ones(1, 2, 4, 4)).square().sum().backward()
    optimizer.step()
