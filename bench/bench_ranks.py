"""Two processes on two cores against one process with two threads: how fast, and how far apart after 50 steps.

python bench/bench_ranks.py [--turns 8] [--record]

The speeds are taken in turns (bench/turns.py) on drawn tongues of 256 x 256, batch 8 in all. The differences are the largest of any weight
after 50 steps from the same start: in float64 with SGD, loss by image and by batch, where processes must agree, and in float32 with AdamW,
where each step's rounding is divided by its own size and they may not. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_train import drawn, prepare
from record import command_line, tell
from turns import in_turn

TURN_S = 20.0
ENDLESS = ["train.epochs=100000", "train.validate_every=100000", "train.preview_every=100000", "train.compile=never"]
STEPS = ["train.epochs=1", "sampling.draws_per_epoch=400", "train.precision=float32", "data.size_px=[64, 64]", "train.compile=never"]
CHECKS = {
    "float64_sgd_by_image": ["train.precision=float64", "optim.name=sgd", "loss.reduction=image"],
    "float64_sgd_by_batch": ["train.precision=float64", "optim.name=sgd"],
    "float32_adamw": [],
}


def program(processes: int, experiment: Path, data_root: Path, runs: Path, overrides: Sequence[str]) -> list[str]:
    """This file's `train_steps`, in one process or by torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    where = ["--experiment", str(experiment), "--root", str(data_root), "--runs", str(runs)]
    return [sys.executable, *launcher, __file__, *where, "--set", *overrides]


def train_steps(experiment: Path, data_root: Path, runs: Path, overrides: Sequence[str]) -> None:
    """Train; the first process prints a line a step."""
    from medseg import api

    api.train(experiment, overrides, data_root, runs, api.Progress(on_step=lambda step, score: print("step", flush=True)))


def difference(experiment: Path, data_root: Path, folder: Path, overrides: Sequence[str]) -> float:
    """The largest of any weight between one process and two, trained alike."""
    from medseg.engine.checkpoint import read_checkpoint

    found = []
    for processes in (1, 2):
        runs = folder / f"{processes}"
        subprocess.run(program(processes, experiment, data_root, runs, [*STEPS, *overrides]), check=True, stdout=subprocess.DEVNULL)
        found.append(read_checkpoint(next(runs.glob("*/checkpoints/last.safetensors")))[0])
    return max(float((found[0][name].double() - found[1][name].double()).abs().max()) for name in found[0])


def compare(turns: int) -> dict[str, object]:
    """Speeds, then differences."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data_root = drawn(folder)
        experiment = prepare(data_root, folder)
        names = {"one_process": 1, "two_processes": 2}
        commands = {name: program(count, experiment, data_root, folder / name, ENDLESS) for name, count in names.items()}
        speed, _ = in_turn(commands, folder, turns, TURN_S)
        apart = {f"apart_{name}": difference(experiment, data_root, folder / name, overrides) for name, overrides in CHECKS.items()}
    ratio = round(speed["two_processes"] / speed["one_process"], 3)
    return {"ratio": ratio, **{f"{name}_steps_per_s": round(value, 3) for name, value in speed.items()}, **apart, "turns": turns}


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--experiment", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--set", nargs="+", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.experiment:
        train_steps(options.experiment, options.root, options.runs, options.set)
        raise SystemExit
    figures = compare(options.turns)
    tell("Two processes against one", "python bench/bench_ranks.py", figures, options.record)
