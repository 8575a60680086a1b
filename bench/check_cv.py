"""A cross-validation of 5 folds x 2 seeds on a drawn phantom, killed twice by kill -9 and finished by the same command.

Its table is held against that of one left alone.

python bench/check_cv.py [--count 100] [--record]

The kills come while the third and the eighth part are at work, some steps after they have begun. The last line is one JSON object:
which of the files that tell the outcome are equal byte for byte. It exits 1 where one is not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from record import command_line, tell

FOLDS, SEEDS, KILLED_IN = 5, 2, (3, 8)
TOLD = ("table.md", "table.csv", "scores.json", "per_case.csv")
EXPERIMENT = """
data: {{manifest: {folder}/v1, split: cv5, size_px: [64, 64], cache: {folder}/cache}}
model: {{channels: [16, 32, 64, 128], strides: [2, 2, 2]}}
sampling: {{draws_per_epoch: 64}}
train: {{epochs: 3, batch_size: 8, preview_every: 100}}
tracking: {{enabled: false}}
"""


def medseg(*arguments: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "medseg", *arguments]


def prepare(folder: Path, count: int) -> Path:
    """Tongues drawn, imported and split into folds; the experiment on them."""
    for command in (
        medseg("phantom", "--out", f"{folder}/phantom", "--count", str(count)),
        medseg("manifest", "import", "labelme", f"{folder}/phantom", "--out", f"{folder}/v1"),
        medseg("manifest", "split", f"{folder}/v1", "--name", "cv5", "--folds", str(FOLDS)),
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    path = folder / "phantom.yaml"
    path.write_text(EXPERIMENT.format(folder=folder))
    return path


def command(folder: Path, experiment: Path, runs: Path) -> list[str]:
    """The one command that begins, goes on and finishes."""
    numbers = ["--folds", str(FOLDS), "--seeds", str(SEEDS)]
    return medseg("cv", str(experiment), *numbers, "--data-root", f"{folder}/phantom", "--runs", str(runs))


def killed_in_part(program: Sequence[str], runs: Path, part: int) -> None:
    """Start the command; kill it in the part of that number, once its first epoch is written."""
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(list(runs.glob("cv-*/*/metrics.jsonl"))) < part:
        time.sleep(0.02)
    time.sleep(0.5)
    if process.poll() is not None:
        raise SystemExit(f"it ended before it could be killed:\n{process.communicate()[1]}")
    process.kill()
    process.wait()


def compare(count: int) -> dict[str, object]:
    """Which files are equal, and how often parts were gone on with."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        experiment = prepare(folder, count)
        whole, killed = folder / "whole", folder / "killed"
        subprocess.run(command(folder, experiment, whole), check=True, stdout=sys.stderr)
        for part in KILLED_IN:
            killed_in_part(command(folder, experiment, killed), killed, part)
        subprocess.run(command(folder, experiment, killed), check=True, stdout=sys.stderr)
        [one], [other] = whole.glob("cv-*"), killed.glob("cv-*")
        states = [json.loads(path.read_text()) for path in other.glob("*/run.json")]
        equal = {name: (one / name).read_bytes() == (other / name).read_bytes() for name in TOLD}
        table = (other / "table.md").read_text()
    print(table, file=sys.stderr)
    return {"equal": equal, "parts": len(states), "resumed": sum(len(state.get("resumed", [])) for state in states), "images": count}


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    figures = compare(options.count)
    tell(f"Cross-validation of {FOLDS} folds x {SEEDS} seeds, killed twice", "python bench/check_cv.py", figures, options.record)
    sys.exit(not all(figures["equal"].values()))  # type: ignore[attr-defined]
