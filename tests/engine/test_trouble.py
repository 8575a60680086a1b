"""Memory that runs out is one error, with what can be done about it: in training, and of a run that is done."""

from __future__ import annotations

import pytest
import torch

from medseg.config import Config
from medseg.engine.trouble import trouble_named
from medseg.errors import RunError, TrainingError

CPU = torch.device("cpu")


def config(**sampling) -> Config:
    data = {"manifest": "m", "split": "s", "size_px": [32, 48]}
    return Config.model_validate({"name": "a", "data": data, "infer": {"batch_size": 3}, "sampling": sampling})


def run_out() -> None:
    torch.empty(2**55, dtype=torch.uint8)


def test_training_is_told_the_knobs_of_the_config(tmp_path):
    for sampling, shown, size in [({}, "32 x 48", "data.size_px"), ({"patch_px": [16, 24]}, "16 x 24", "sampling.patch_px")]:
        message = (
            f"cpu memory ran out, with infer.batch_size 3 and images of {shown} pixels; lower infer.batch_size, or choose a smaller {size}"
        )
        with pytest.raises(TrainingError, match=message), trouble_named(config(**sampling), CPU, "infer.batch_size"):
            run_out()
    with pytest.raises(TrainingError, match="raise train.accumulate by as much"), trouble_named(config(), CPU, "train.batch_size"):
        raise MemoryError


def test_a_run_that_is_done_is_told_what_still_can_be_changed(tmp_path):
    message = "run_1: cpu memory ran out, .*; lower infer.batch_size in its config.yaml, or take a machine with more memory"
    with pytest.raises(RunError, match=message), trouble_named(config(), CPU, "infer.batch_size", tmp_path / "run_1"):
        run_out()
    no_kernel = pytest.raises(TrainingError, match=r"set it to false in .*run_1/config.yaml")
    with no_kernel, trouble_named(config(), CPU, "infer.batch_size", tmp_path / "run_1"):
        raise RuntimeError("bincount_cuda does not have a deterministic implementation")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="size of tensor"), trouble_named(config(), CPU, "infer.batch_size"):
        torch.zeros(2) + torch.zeros(3)
