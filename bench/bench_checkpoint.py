"""What keeping a training's place costs: a U-Net of about 30 million parameters with AdamW's state, written and read.

python bench/bench_checkpoint.py [--repeats 5] [--record]

`write_s` is all of it, from the state dicts to the rename, fsync included; `raw_write_s` the same bytes written and fsynced by Python
alone, which is what the disk gives: the ratio is what this code adds. The last line is one JSON object.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from bench_train import drawn, prepare
from record import command_line, tell

from medseg.build import build_training, make_fabric, resolve
from medseg.config import load_config
from medseg.data.loaders import train_batches
from medseg.data.realised import Seen
from medseg.engine.course import Course, resume, save_course
from medseg.engine.train import Training, optimise
from medseg.manifest.table import read_manifest, read_split
from medseg.runfolder import RunFolder, create_run

LARGE = ["model.channels=[64, 128, 256, 512, 1152]", "train.batch_size=2", "train.compile=never"]


def trained_one_step(folder: Path) -> tuple[Training, Course]:
    """A training whose optimiser has a state."""
    config = resolve(load_config(prepare(drawn(folder), folder), LARGE))
    manifest = read_manifest(Path(config.data.manifest))
    training = build_training(config, manifest, read_split(manifest, config.data.split), folder / "root", make_fabric(config))
    course = Course(Seen(manifest.labels.num_classes))
    batches = train_batches(training.train_set, training.draws(1), 1, training.loading)
    training.model.train()
    optimise(training, [next(batches)], config.optim.lr, course)
    return training, course


def seconds(action: Callable[[], object], repeats: int) -> float:
    """The median."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return median(taken)


def write_raw(path: Path, content: bytes) -> None:
    """As little as there must be for the bytes to be safe."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def measure(repeats: int) -> dict[str, object]:
    """Seconds and megabytes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        training, course = trained_one_step(folder)
        run: RunFolder = create_run(folder / "runs", "bench", "checkpoint", 0)
        write_s = seconds(lambda: save_course(run, training, course), repeats)
        content = run.resume_point.read_bytes()
        raw_s = seconds(lambda: write_raw(folder / "raw", content), repeats)
        read_s = seconds(lambda: resume(run, training), repeats)
        parameters = sum(parameter.numel() for parameter in training.model.parameters())
    figures = {"parameters_m": round(parameters / 1e6, 1), "file_mib": round(len(content) / 2**20), "repeats": repeats}
    figures |= {
        "write_s": round(write_s, 2),
        "raw_write_s": round(raw_s, 2),
        "of_raw": round(write_s / raw_s, 2),
        "read_s": round(read_s, 2),
    }
    return figures | {"torch": torch.__version__}


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    figures = measure(options.repeats)
    tell("Keeping a training's place", "python bench/bench_checkpoint.py", figures, options.record)
