"""Surface distances of medseg against MONAI's three metrics: HD95, NSD and ASSD of volumes of 128^3 with three structures each.

python bench/bench_surface.py [--volumes 100] [--record]

The same drawn masks to both, in turn volume by volume, so that a machine that slows down slows both; one thread each. MONAI is given
one-hot tensors, made before its clock starts. Asserts equal values. The last line is one JSON object; `ratio` is MONAI's seconds over
medseg's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import monai
import numpy as np
import scipy
import torch
from monai.metrics import HausdorffDistanceMetric, SurfaceDiceMetric, SurfaceDistanceMetric
from record import command_line, tell
from scipy.ndimage import binary_erosion

from medseg.metrics.surface import surface_distances

SIDE_VX = 128
SPACING_MM = (1.5, 0.8, 0.8)
TOLERANCE_MM = 2.0
STRUCTURES = 3
WITHIN_MM = 1e-4  # torch.quantile finds its rank in float32


def ellipsoid(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """bool (128, 128, 128)."""
    z, y, x = np.ogrid[:SIDE_VX, :SIDE_VX, :SIDE_VX]
    sides = zip((z, y, x), centre, radii, strict=True)
    inside: np.ndarray = sum(((place - middle) / radius) ** 2 for place, middle, radius in sides) < 1
    return inside


def drawn_volume(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction, bool (3, 128, 128, 128): ellipsoids; one predicted shifted, one a voxel too small, one with a rough rim."""
    generator = np.random.default_rng(number)
    centres, radii = generator.uniform(48, 80, (STRUCTURES, 3)), generator.uniform(12, 44, (STRUCTURES, 3))
    reference = np.stack([ellipsoid(centre, radius) for centre, radius in zip(centres, radii, strict=True)])
    shift = generator.integers(1, 4, 3)
    rough = ellipsoid(centres[2], radii[2] + 2) & (generator.random((SIDE_VX,) * 3) < 0.5)
    prediction = np.stack([np.roll(reference[0], shift, (0, 1, 2)), binary_erosion(reference[1]), reference[2] | rough])
    return reference, prediction


def by_medseg(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """float (3 structures, 3 scores): HD95, ASSD, NSD."""
    found = [surface_distances(*pair, SPACING_MM, (TOLERANCE_MM,)) for pair in zip(reference, prediction, strict=True)]
    return np.array([[one.hd95, one.assd, one.nsd[0]] for one in found])


def by_monai(reference_1KDHW: torch.Tensor, prediction_1KDHW: torch.Tensor) -> np.ndarray:
    """As by_medseg. The tensors hold structures only, so each channel is counted."""
    metrics = [
        HausdorffDistanceMetric(include_background=True, percentile=95),
        SurfaceDistanceMetric(include_background=True, symmetric=True),
        SurfaceDiceMetric(class_thresholds=[TOLERANCE_MM] * STRUCTURES, include_background=True),
    ]
    return np.stack([metric(prediction_1KDHW, reference_1KDHW, spacing=list(SPACING_MM))[0].numpy() for metric in metrics], axis=1)


def measure(volumes: Sequence[int]) -> dict[str, object]:
    """Seconds of both over all volumes."""
    ours_s = theirs_s = differs = 0.0
    for number in volumes:
        pair = drawn_volume(number)
        tensors = [torch.as_tensor(masks)[None] for masks in pair]
        started = time.perf_counter()
        ours = by_medseg(*pair)
        turned = time.perf_counter()
        theirs = by_monai(*tensors)
        ours_s, theirs_s = ours_s + turned - started, theirs_s + time.perf_counter() - turned
        assert (np.abs(ours - theirs) < WITHIN_MM).all(), (number, ours, theirs)  # a NaN fails too
        differs = max(differs, float(np.abs(ours - theirs).max()))
        print(f"{number + 1:4d}  medseg {ours_s:.1f} s  MONAI {theirs_s:.1f} s", flush=True)
    figures: dict[str, object] = {"volumes": len(volumes), "structures": STRUCTURES, "side_vx": SIDE_VX}
    figures |= {"medseg_s": round(ours_s, 2), "monai_s": round(theirs_s, 2), "ratio": round(theirs_s / ours_s, 2)}
    return figures | {"largest_difference": float(f"{differs:.1e}"), "monai": monai.__version__, "scipy": scipy.__version__}


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--volumes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(range(options.volumes))
    tell("Surface distances, medseg against MONAI", f"python bench/bench_surface.py --volumes {options.volumes}", figures, options.record)
    sys.exit(float(str(figures["ratio"])) < 2)
