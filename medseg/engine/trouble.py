"""What a user can mend of torch's errors, in medseg's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from medseg.config import Config
from medseg.errors import MedsegError, RunError, TrainingError
from medseg.types import by


@contextmanager
def trouble_named(config: Config, device: torch.device, knob: str, run: Path | None = None) -> Iterator[None]:
    """Inside, memory that ran out and an operation without deterministic kernel become one error: TrainingError, of a trained run RunError.

    knob: the key of the batch size at work.  run: the folder of a trained run that predicts, whose config.yaml tells the knob.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as cause:
        if "does not have a deterministic implementation" in str(cause):
            what = str(cause).partition(" does not have")[0]
            fix = "set it to false" if run is None else f"set it to false in {run / 'config.yaml'}"
            raise TrainingError("train.deterministic", f"{what} has no deterministic kernel on this device", fix) from cause
        no_memory = isinstance(cause, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(cause)  # the CPU allocator's words
        if not no_memory:
            raise
        raise _no_memory(config, device, knob, run) from cause


def _no_memory(config: Config, device: torch.device, knob: str, run: Path | None) -> MedsegError:
    size = "data.size_px" if config.sampling.patch_px is None else "sampling.patch_px"
    section, _, key = knob.partition(".")
    shown = f"{knob} {getattr(getattr(config, section), key)} and images of {by(config.sampling.patch_px or config.data.size_px)} pixels"
    rule = f"{device.type} memory ran out, with {shown}"
    if run is not None:
        return RunError(run, rule, f"lower {knob} in its config.yaml, or take a machine with more memory")
    more = ", raise train.accumulate by as much" if section == "train" else ""
    return TrainingError("the network", rule, f"lower {knob}{more}, or choose a smaller {size}")
