"""Memory of one volume's prediction: 512 x 512 x 600 voxels, 5 classes, windows of 64 x 128 x 128 that overlap by half.

python bench/bench_windows.py [--depth 600] [--record]

The network is small, since its own activations are the user's choice; what is measured is the anonymous memory that the way from the file's
voxels to the file's class ids asks for: read, normalised, resampled to half the depth and back, in a process of its own. Exits 1 where
it is over 4 GiB. MONAI's own sliding window is run beside it on a volume that fits, to see what it would need (5 classes of float32 and
the counts: 24 bytes a voxel, 3.5 GiB, before the result is on the file's grid).
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

SIDE, CLASSES, LIMIT_MIB = 512, 5, 4096


def write(path: Path, depth: int) -> None:
    """An int16 volume, (X, Y, Z)."""
    from medseg.volumes import write_volume

    generator = np.random.default_rng(0)
    plane = generator.integers(0, 1000, (SIDE, SIDE, 1), dtype=np.int16)
    write_volume(path, np.repeat(plane, depth, axis=2), np.diag([0.8, 0.8, 1.0, 1.0]))


def predict(path: Path) -> None:
    """As `medseg predict` does, with a network that has not learned."""
    import torch
    from torch import nn

    from medseg.config.volume import VolumeConfig
    from medseg.data.volume.decode import prepared, volume_of
    from medseg.engine.volumes import Windows, on_file_grid
    from medseg.types import Prediction
    from medseg.volumes import read_header, read_volume, write_labels

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1, stride=4), nn.Upsample(scale_factor=4), nn.Conv3d(4, CLASSES, 1))

        def forward(self, image: torch.Tensor) -> Prediction:
            probs = torch.softmax(self.layers(image), dim=1)
            return Prediction(probs, probs.argmax(dim=1))

    config = VolumeConfig(spacing_mm=(2.0, 0.8, 0.8))
    header = read_header(path)
    volume = volume_of(path, header, 1, config)
    image, box = prepared(volume.turn.forward(read_volume(path)[0][..., None]), volume, config, path)
    found = on_file_grid([Net().eval()], image, box, volume, Windows((64, 128, 128)), torch.device("cpu"))
    write_labels(path.with_name("labels.nii"), found.mask_XYZ, header.affine)


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--depth", type=int, default=600)
    parser.add_argument("--predict", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.predict:
        predict(options.predict)
        sys.exit()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "ct.nii", options.depth)
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, __file__, "--predict", str(Path(folder) / "ct.nii")])
        with Peak(process.pid) as peak:
            code = process.wait()
    figures = {"peak_mib": round(peak.mib), "limit_mib": LIMIT_MIB, "seconds": round(time.perf_counter() - started, 1)}
    figures |= {"voxels": f"{SIDE} x {SIDE} x {options.depth}", "classes": CLASSES}
    tell("Memory of a large volume's prediction", "python bench/bench_windows.py", figures, options.record)
    sys.exit(code or peak.mib > LIMIT_MIB)
