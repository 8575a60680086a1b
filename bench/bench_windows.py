"""Memory of one volume's prediction: `medseg predict` on 512 x 512 x 600 voxels, 5 classes, at their own spacing.

python bench/bench_windows.py [--depth 600] [--record]

A run is trained for an epoch on small volumes first; windows of 64 x 128 x 128 overlap by a quarter. The network is small, since its own
activations are the user's choice: what is measured is the anonymous memory (RssAnon) of all the rest, from the file's voxels to the file's
class ids and the picture beside them. Exits 1 where it is over 4 GiB. MONAI's own sliding window keeps 5 classes of float32 and the
counts, 24 bytes a voxel or 3.5 GiB, before anything is on the file's grid.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from anonymous import Peak
from record import command_line, tell

from medseg.volumes import write_labels, write_volume

SIDE, CLASSES, LIMIT_MIB = 512, 5, 4096
AFFINE = np.diag([0.8, 0.8, 1.0, 1.0])
EXPERIMENT = """
data: {{manifest: {folder}/v1, split: main, cache: {folder}/cache, volume: {{spacing_mm: [1, 0.8, 0.8]}}}}
model: {{channels: [4, 8], strides: [2], num_res_units: 0}}
sampling: {{name: uniform, patch_px: [64, 128, 128], draws_per_epoch: 1}}
train: {{epochs: 1, batch_size: 1, preview_every: 1}}
infer: {{overlap: 0.25, batch_size: 1}}
tracking: {{enabled: false}}
"""


def medseg(*arguments: object) -> list[str]:
    """As a command."""
    return [sys.executable, "-m", "medseg", *map(str, arguments)]


def train(folder: Path) -> Path:
    """A run on six blocks of noise with four organs each; its folder."""
    generator = np.random.default_rng(0)
    for place in range(6):
        for name in ("images", "labels"):
            (folder / name).mkdir(exist_ok=True)
        mask = np.zeros((64, 64, 32), np.uint8)
        for organ in range(1, CLASSES):
            mask[12 * organ : 12 * organ + 8, 8:24, 8:24] = organ
        write_volume(folder / "images" / f"{place}.nii.gz", (100 * mask + generator.integers(0, 50, mask.shape)).astype(np.int16), AFFINE)
        write_labels(folder / "labels" / f"{place}.nii.gz", mask, AFFINE)
    files = ["--images", folder / "images", "--masks", folder / "labels", "--classes", "a,b,c,d", "--out", folder / "v1"]
    experiment = folder / "large.yaml"
    experiment.write_text(EXPERIMENT.format(folder=folder))
    for command in (
        medseg("manifest", "import", "nifti", *files),
        medseg("manifest", "split", folder / "v1", "--name", "main"),
        medseg("train", experiment, "--data-root", folder, "--runs", folder / "runs"),
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    [run] = [path for path in (folder / "runs").iterdir() if path.is_dir()]
    return run


def write(path: Path, depth: int) -> None:
    """An int16 volume, (X, Y, Z), of which nothing is 0, so that nothing is cropped."""
    plane = np.random.default_rng(0).integers(1, 1000, (SIDE, SIDE, 1), dtype=np.int16)
    write_volume(path, np.repeat(plane, depth, axis=2), AFFINE)


def measure(folder: Path, depth: int) -> dict[str, object]:
    """One prediction, in a process of its own."""
    run, volume = train(folder), folder / "ct.nii"
    write(volume, depth)
    started = time.perf_counter()
    process = subprocess.Popen(medseg("predict", run, volume, "--out", folder / "masks"), stdout=sys.stderr)
    with Peak(process.pid) as peak:
        code = process.wait()
    if code:
        sys.exit(f"medseg predict ended with {code}")
    figures: dict[str, object] = {"peak_mib": round(peak.mib), "limit_mib": LIMIT_MIB, "seconds": round(time.perf_counter() - started, 1)}
    return figures | {"voxels": f"{SIDE} x {SIDE} x {depth}", "classes": CLASSES}


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--depth", type=int, default=600)
    options: argparse.Namespace = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(Path(temporary), options.depth)
    tell("Memory of a large volume's prediction", "python bench/bench_windows.py", figures, options.record)
    if figures["peak_mib"] > LIMIT_MIB:  # type: ignore[operator]
        sys.exit(f"{figures['peak_mib']} MiB is over the limit of {LIMIT_MIB}")
