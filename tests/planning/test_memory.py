"""What a step takes: the count scales as it should, and is near what the process is seen to take."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from medseg.config import LossConfig
from medseg.config.model import DynUnetConfig, UnetConfig
from medseg.labels import LabelSet
from medseg.models.contract import Task
from medseg.planning.memory import LIBRARIES_BYTES, PASSING, Use, use_of

LABELS = LabelSet.of("a", "b")
SMALL = UnetConfig(channels=(8, 16), strides=(2,), num_res_units=0)


def use(config, grid) -> Use:
    return use_of(config, Task(3, grid, 1, normalised=True), LABELS, LossConfig())


def test_twice_the_pixels_are_twice_the_bytes_and_the_weights_stay():
    one, two = use(SMALL, (32, 32)), use(SMALL, (64, 32))
    assert two.image_bytes == pytest.approx(2 * one.image_bytes, rel=0.02)
    assert two.network_bytes == one.network_bytes
    assert one.network_bytes > LIBRARIES_BYTES


def test_at_least_each_convolution_s_result_is_counted():
    """By hand: 8 channels at 32 x 32 behind the first norm's input, at half of it 16, each float four bytes."""
    least = 4 * (8 * 16 * 16 + 16 * 16 * 16 + 3 * 32 * 32)
    assert use(SMALL, (32, 32)).image_bytes > PASSING * least


def test_the_random_state_is_left_as_found():
    before = torch.random.get_rng_state()
    use(SMALL, (32, 32))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_largest_batch_is_within_the_budget():
    needs = Use(100.0, 50.0)
    assert (needs.most(260.0), needs.most(90.0), needs.of(3)) == (3, 0, 250.0)


SCRIPT = """
import json, resource, sys, torch
from medseg.config import LossConfig, OptimConfig
from medseg.config.model import DynUnetConfig, UnetConfig
from medseg.engine.optim import make_optimizer
from medseg.heap import kept_blocks
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.models.contract import Task
from medseg.models.zoo import adapt, build_network, family_of
from medseg.types import Batch
torch.set_num_threads(1)
kind, grid, number = json.loads(sys.argv[1])
config = {"dynunet": DynUnetConfig, "unet": UnetConfig}[kind].model_validate({"name": kind})
task, labels = Task(3, tuple(grid), 1, normalised=True), LabelSet.of("a", "b")
family_of(config)  # imports its library, which is no step's memory
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
model = adapt(build_network(config, task), config, task, make_loss(LossConfig(), labels, None)).train()
optimizer = make_optimizer(OptimConfig(), model)
with kept_blocks():  # as a training does
    for step in range(3):
        optimizer.zero_grad()
        model(Batch(torch.randn(number, 1, *grid), torch.randint(0, 3, (number, *grid)), ("",) * number)).total.backward()
        optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a process tells its memory in another way")
@pytest.mark.parametrize(("kind", "grid", "number"), [("dynunet", (40, 56, 40), 2), ("dynunet", (64, 64, 64), 2), ("unet", (160, 160), 8)])
def test_three_steps_take_about_what_was_counted(kind, grid, number):
    """In a process of its own, whose peak is asked of the system; within a factor of 1.5."""
    asked = json.dumps([kind, grid, number])
    done = subprocess.run([sys.executable, "-c", SCRIPT, asked], capture_output=True, text=True, check=True)
    config = DynUnetConfig(name="dynunet") if kind == "dynunet" else UnetConfig()
    assert 1 / 1.5 < use(config, grid).of(number) / int(done.stdout) < 1.5
