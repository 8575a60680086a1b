"""What tracking costs a training when the server is gone, hangs, or is there: steps a second against a training that is not tracked.

python bench/bench_tracking.py [--turns 20] [--record]

Four programs take turns of a few seconds (bench/turns.py), each `medseg train` on drawn tongues with short epochs, so that there is a
line to send every few steps: untracked, tracked to a port where nobody listens, to one that takes connections and never answers, and to an
SQLite file. `lost_share_...`: the share of the untracked speed that each misses, as steady as the machine. `thread_share_...`: what
the tracker's thread took of the processor's time that its process used, exact to a hundredth of a second. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench_train import drawn, prepare
from record import command_line, tell
from turns import in_turn

TURN_S, CLOCK_STEPS = 10.0, 10
SHORT = [
    "train.epochs=100000",
    "train.validate_every=100000",
    "train.preview_every=100000",
    "sampling.draws_per_epoch=16",
    "train.compile=never",
]
SMALL = ["train.batch_size=4", "data.size_px=[128, 128]"]


def train_steps(experiment: Path, data_root: Path, overrides: list[str]) -> None:
    """Train without end, a line a step, and now and then one with the seconds of processor of the tracker's thread and of all."""
    from medseg import api

    def on_step(step: int, score: float | None) -> None:
        print("step", flush=True)
        if step % CLOCK_STEPS == 0:
            print("clock", tracker_cpu_s(), time.process_time(), flush=True)

    api.train(experiment, overrides, data_root, experiment.parent / "runs", api.Progress(on_step=on_step))


def tracker_cpu_s() -> float:
    """Of the thread that sends, by the kernel's account (Linux); 0 where there is none."""
    found = 0
    for thread in threading.enumerate():
        if thread.name == "medseg-mlflow":
            fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
            found += int(fields[11]) + int(fields[12])  # utime, stime
    return found / os.sysconf("SC_CLK_TCK")


def thread_share(lines: list[str]) -> float:
    """Between the first and the last clock."""
    clocks = [tuple(map(float, line.split()[1:])) for line in lines if line.startswith("clock")]
    (thread_0, all_0), (thread_1, all_1) = clocks[0], clocks[-1]
    return (thread_1 - thread_0) / (all_1 - all_0)


def compare(turns: int) -> dict[str, object]:
    """All four in turn."""
    with tempfile.TemporaryDirectory() as temporary, socket.create_server(("127.0.0.1", 0)) as hanging, socket.socket() as unused:
        folder = Path(temporary)
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        data_root = drawn(folder)
        experiment = prepare(data_root, folder)
        uris = {
            "gone": f"http://127.0.0.1:{unused.getsockname()[1]}",
            "hanging": f"http://127.0.0.1:{hanging.getsockname()[1]}",
            "sqlite": f"sqlite:///{folder}/mlflow.db",
        }
        program = [sys.executable, __file__, "--experiment", str(experiment), "--root", str(data_root), "--set", *SHORT, *SMALL]
        commands = {"untracked": [*program, "tracking.enabled=false"]}
        commands |= {name: [*program, "tracking.enabled=true", f"tracking.uri={uri}"] for name, uri in uris.items()}
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        speed, programs = in_turn(commands, folder, turns, TURN_S)
    lost = {f"lost_share_{name}": round(1 - speed[name] / speed["untracked"], 4) for name in uris}
    lost |= {f"thread_share_{name}": round(thread_share(programs[name].lines), 5) for name in uris}
    return {**lost, "turns": turns, **{f"{name}_steps_per_s": round(value, 3) for name, value in speed.items()}}


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--experiment", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--set", nargs="+", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.experiment:
        train_steps(options.experiment, options.root, options.set)
        raise SystemExit
    figures = compare(options.turns)
    tell("What tracking costs a training", "python bench/bench_tracking.py", figures, options.record)
