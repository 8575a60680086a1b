"""How fast training on volumes is, against MONAI's 3-D tutorial recipe on the same volumes, network, patch and batch, in turn in one run.

python bench/bench_volumes.py --data-root hippocampus [--turns 12] [--set train.precision=float32 ...] [--record]

DIR holds imagesTr/, labelsTr/ and split.csv. Programs take turns of a few seconds (bench/turns.py): the peer (bench/peer_organ.py: float32,
eager, its volumes in memory) with the tutorial's four workers and with none, medseg's training eager and compiled, validation left out, and
the eager optimiser steps alone, on one batch that stays where it is. Ratios are to the faster peer. Memory is the peak of the anonymous
pages (RssAnon). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_train import ours, run_steps
from record import command_line, tell
from turns import in_turn

HERE = Path(__file__).parent
PATCH, BATCH, TURN_S = (40, 56, 40), 8, 24.0
PEERS = {"peer": 0, "peer_with_workers": 4}  # 4 as in the tutorial
MODES = ("eager", "eager_pure", "compiled")
EXPERIMENT = """
data: {{manifest: {folder}/v1, split: official, cache: {folder}/cache, volume: {{spacing_mm: [1, 1, 1]}}}}
model: {{channels: [32, 64, 128, 256], strides: [2, 2, 2], num_res_units: 2}}
loss: {{name: dice}}
sampling: {{name: uniform, patch_px: {patch}, centre_ratios: {{anywhere: 1, anterior: 0.5, posterior: 0.5}}}}
augment: {{flip_probability: 0, rotate_deg: 15, scale: 0.15, brightness: 0.25, contrast: 0.25, gamma: 0, noise: 0.1, probability: 0.15}}
train: {{epochs: 1, batch_size: {batch}}}
tracking: {{enabled: false}}
"""


def prepare(data_root: Path, folder: Path) -> Path:
    """A manifest with the peer's split, and an experiment on it."""
    medseg = [sys.executable, "-m", "medseg", "manifest"]
    pairs = ["--images", str(data_root / "imagesTr"), "--masks", str(data_root / "labelsTr"), "--classes", "anterior,posterior"]
    subprocess.run([*medseg, "import", "nifti", *pairs, "--out", str(folder / "v1")], check=True, stdout=sys.stderr)
    source = ["--from", str(data_root / "split.csv"), "--name", "official"]
    subprocess.run([*medseg, "split", str(folder / "v1"), *source], check=True, stdout=sys.stderr)
    path = folder / "bench.yaml"
    path.write_text(EXPERIMENT.format(folder=folder, patch=list(PATCH), batch=BATCH))
    return path


def compare(data_root: Path, turns: int, overrides: Sequence[str]) -> dict[str, object]:
    """All in turn; ratios of their speeds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        experiment = prepare(data_root, folder)
        in_turn({"fill": ours(experiment, data_root, "eager_pure", overrides, __file__)}, folder, 1, 0.1)  # preprocesses
        peer = [sys.executable, str(HERE / "peer_organ.py"), "--data-root", str(data_root), "--tell", "--steps", "100000"]
        sides = ["--batch", str(BATCH), "--patch", *map(str, reversed(PATCH))]  # the peer's are along x, y, z
        commands = {name: [*peer, *sides, "--workers", str(workers)] for name, workers in PEERS.items()}
        commands |= {mode: ours(experiment, data_root, mode, overrides, __file__) for mode in MODES}
        steps_per_s, programs = in_turn(commands, folder, turns, TURN_S)
    speed = {name: BATCH * value for name, value in steps_per_s.items()}
    best_peer = max(speed[name] for name in PEERS)
    return {
        "ratio_eager": round(speed["eager"] / best_peer, 2), "ratio_compiled": round(speed["compiled"] / best_peer, 2),
        "of_pure_compute_eager": round(speed["eager"] / speed["eager_pure"], 3), "turns": turns,
        **{f"{name}_patches_per_s": round(value, 2) for name, value in speed.items()},
        **{f"{name}_peak_mib": round(programs[name].peak.mib) for name in (*PEERS, "eager", "compiled")},
    }  # fmt: skip


if __name__ == "__main__":
    parser = command_line(__doc__, needs_photographs=True)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--set", nargs="+", default=[], help="overrides of the experiment, medseg's side only")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--experiment", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        run_steps(options.experiment, options.data_root, options.mode, options.set)
    figures = compare(options.data_root, options.turns, options.set)
    told = "".join(f" --set {one}" for one in options.set)
    command = f"python bench/bench_volumes.py --data-root hippocampus --turns {options.turns}{told}"
    tell("Training on volumes against MONAI's tutorial recipe", command, figures, options.record)
