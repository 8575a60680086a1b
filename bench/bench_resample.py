"""Resampling against nnU-Net's own code and SimpleITK, on volumes of the Decathlon's hippocampus; labels there and back.

pip install --no-deps --target DIR nnunetv2 acvl-utils batchgenerators        # the yardstick, kept out of medseg's environment
python bench/bench_resample.py --data-root HIPPOCAMPUS --nnunet DIR [--volumes 20] [--ct] [--record]

HIPPOCAMPUS holds imagesTr and labelsTr.  Images: the largest difference from nnU-Net's `resample_data_or_seg_to_shape` and, away from
the border, from SimpleITK's linear interpolation, each as a share of the volume's range of intensities.  Labels: the share of voxels
that nnU-Net decides otherwise, its ties settled as ours (by itself it gives them to the class of the nearest old voxel); and the Dice
after a grid of 3 x 0.7 x 0.7 mm and back, of drawn balls by their radius and of the hippocampus's two halves. Nothing is interpolated
between slices of 3 mm, so what is thin loses: the limit is that of balls of 30 mm and more, and nnU-Net's own figures stand beside.
--ct: the time and memory of a volume of 300 x 512 x 512.  The last line is one JSON object.
"""

from __future__ import annotations

import importlib
import resource
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import SimpleITK as sitk
import skimage
from record import command_line, tell

from medseg.grid import turn_of
from medseg.resample import Triple, coarse_axis, grid_shape, resample_image, resample_labels, resample_linear
from medseg.volumes import read_label_volume, read_volume

LIMIT = 1e-3  # of the range of intensities
LEAST_DICE = 0.98
AS_IF_MM = ((1.0, 1.0, 1.0), (4.0, 1.0, 1.0))  # what the volumes' spacing is taken for: they are 1 mm, and one says so
TARGETS_MM = ((0.7, 0.7, 0.7), (1.5, 1.5, 1.5), (2.0, 1.0, 1.0), (1.3, 0.8, 2.1), (3.5, 0.7, 0.7), (0.7, 4.0, 0.7))
THICK_MM = (3.0, 0.7, 0.7)
RADII_MM = (10, 15, 20, 30, 45, 60)
LARGE_MM = 30  # the radius from which the limit holds: organs, not their vessels


def volumes(root: Path, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """image_DHW float32 and mask_DHW."""
    for path in sorted((root / "imagesTr").glob("[!.]*.nii.gz"))[:count]:
        image, affine = read_volume(path)
        turn = turn_of(image.shape, affine, path)
        yield turn.forward(image).astype(np.float32), turn.forward(read_label_volume(root / "labelsTr" / path.name))


def against_nnunet(image: np.ndarray, mask: np.ndarray, nnunet: Any) -> Iterator[dict[str, float]]:
    """The largest difference of the image, voxels of the mask decided otherwise, and seconds of both, of each pair of spacings."""
    for spacing, target in ((spacing, target) for spacing in AS_IF_MM for target in TARGETS_MM):
        shape, coarse = grid_shape(image.shape, spacing, target), coarse_axis(spacing, target)
        assert shape == tuple(nnunet.compute_new_shape(image.shape, spacing, target)), (shape, spacing, target)
        assert coarse == nnunet.determine_do_sep_z_and_axis(None, spacing, target)[1], (coarse, spacing, target)
        resampled_by = partial(nnunet.resample_data_or_seg_to_shape, force_separate_z=None)
        started = time.perf_counter()
        theirs = resampled_by(image[None], shape, spacing, target)
        turned = time.perf_counter()
        ours = resample_image(image[None], shape, coarse)
        ended = time.perf_counter()
        their_mask = resampled_by(mask[None], shape, spacing, target, is_seg=True, order=1)[0]
        our_mask = resample_labels(mask, shape, coarse, range(3))
        yield {
            "image": float(np.abs(ours - theirs).max() / np.ptp(image)),
            "labels": float(np.mean(our_mask != their_mask)),
            "theirs_s": turned - started,
            "ours_s": ended - turned,
        }


def against_simpleitk(image: np.ndarray, shape: Triple) -> float:
    """The largest difference of the linear image where the new voxel's centre lies between two old ones."""
    steps = [old / new for old, new in zip(image.shape, shape, strict=True)]
    centres = [step * (np.arange(new) + 0.5) - 0.5 for step, new in zip(steps, shape, strict=True)]
    inside = np.ix_(*((place >= 0) & (place <= old - 1) for place, old in zip(centres, image.shape, strict=True)))
    origin = [float(place[0]) for place in centres[::-1]]
    still = sitk.Transform(3, sitk.sitkIdentity)
    theirs = sitk.Resample(sitk.GetImageFromArray(image), shape[::-1], still, sitk.sitkLinear, origin, steps[::-1])
    return float(np.abs(resample_linear(image[None], shape)[0] - sitk.GetArrayFromImage(theirs))[inside].max() / np.ptp(image))


def there_and_back(mask: np.ndarray, nnunet: Any) -> tuple[list[float], list[float]]:
    """The Dice of each foreground class after the thick grid and back, ours and nnU-Net's; voxels of 1 mm."""
    thin_mm = (1.0, 1.0, 1.0)
    shape, coarse, ids = grid_shape(mask.shape, thin_mm, THICK_MM), coarse_axis(thin_mm, THICK_MM), np.unique(mask)
    ours = resample_labels(resample_labels(mask, shape, coarse, ids), mask.shape, coarse, ids)
    resampled_by = partial(nnunet.resample_data_or_seg_to_shape, is_seg=True, order=1, force_separate_z=None)
    theirs = resampled_by(resampled_by(mask[None], shape, thin_mm, THICK_MM), mask.shape, THICK_MM, thin_mm)[0]
    return dices(mask, ours), dices(mask, theirs)


def dices(mask: np.ndarray, other: np.ndarray) -> list[float]:
    """Of each foreground class that the mask holds."""
    return [float(2 * np.sum((mask == i) & (other == i)) / (np.sum(mask == i) + np.sum(other == i))) for i in np.unique(mask) if i]


def ball(radius_mm: float, number: int) -> np.ndarray:
    """uint8, 1 inside; its centre anywhere in a voxel."""
    side = int(2 * radius_mm) + 12
    centre = side / 2 + np.random.default_rng(number).uniform(-1.5, 1.5, 3)
    distances = sum((place - middle) ** 2 for place, middle in zip(np.ogrid[:side, :side, :side], centre, strict=True))
    return (distances < radius_mm**2).astype(np.uint8)


def of_balls(nnunet: Any) -> dict[str, Any]:
    """The least Dice of eight balls of each radius."""
    ours, theirs = {}, {}
    for radius_mm in RADII_MM:
        found = np.array([there_and_back(ball(radius_mm, number), nnunet) for number in range(8)])
        ours[str(radius_mm)], theirs[str(radius_mm)] = np.round(found.min(axis=(0, 2)), 4).tolist()
    return {"dice_by_radius_mm": ours, "dice_by_radius_mm_nnunet": theirs, "large_mm": LARGE_MM, "least_dice": LEAST_DICE}


def of_a_ct() -> dict[str, float]:
    """Seconds, and how far the process's peak of memory rises, for 300 x 512 x 512 float32 (0.29 GiB) to 0.85 of its sides."""
    image = np.random.default_rng(0).standard_normal((1, 300, 512, 512), np.float32)
    before_gib, started = peak_gib(), time.perf_counter()
    resample_image(image, (255, 435, 435))
    return {"ct_s": round(time.perf_counter() - started, 1), "ct_added_gib": round(peak_gib() - before_gib, 2)}


def peak_gib() -> float:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(root: Path, count: int, nnunet: Any) -> dict[str, Any]:
    """All figures but the CT's."""
    spline, linear, votes, seconds, hippocampus = [], [], [], np.zeros(2), []
    for image, mask in volumes(root, count):
        found = list(against_nnunet(image, mask, nnunet))
        spline += [one["image"] for one in found]
        votes += [one["labels"] for one in found]
        seconds += [sum(one["theirs_s"] for one in found), sum(one["ours_s"] for one in found)]
        linear += [against_simpleitk(image, grid_shape(image.shape, (1.0, 1.0, 1.0), target)) for target in TARGETS_MM]
        hippocampus.append(there_and_back(mask, nnunet))
        print(f"{len(hippocampus):3d}  spline {max(spline):.1e}  linear {max(linear):.1e}  labels {max(votes):.1e}", flush=True)
    figures: dict[str, Any] = {"volumes": len(hippocampus), "spacings": len(AS_IF_MM) * len(TARGETS_MM), "limit": LIMIT}
    figures |= {"from_nnunet": float(f"{max(spline):.1e}"), "from_simpleitk": float(f"{max(linear):.1e}")}
    figures |= {"labels_unlike_nnunet": float(f"{np.mean(votes):.1e}"), "labels_unlike_nnunet_worst": float(f"{max(votes):.1e}")}
    ours, theirs = np.round(np.mean(hippocampus, axis=0), 4).tolist()
    figures |= of_balls(nnunet) | {"dice_hippocampus": ours, "dice_hippocampus_nnunet": theirs}
    return figures | {"nnunet_s": round(seconds[0], 1), "medseg_s": round(seconds[1], 1), "ratio": round(seconds[0] / seconds[1], 1)}


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--nnunet", type=Path, help="the folder that nnunetv2 was installed to")
    parser.add_argument("--volumes", type=int, default=20)
    parser.add_argument("--ct", action="store_true", help="also a volume the size of a CT")
    options = parser.parse_args()
    if not (options.nnunet and options.data_root and (options.data_root / "imagesTr").is_dir()):  # `make bench` gives photographs
        print("not measured: --nnunet DIR and a --data-root with imagesTr and labelsTr are needed, see --help")
        sys.exit(0)
    sys.path.append(str(options.nnunet))  # last, so that nothing of medseg's environment is hidden
    nnunet = importlib.import_module("nnunetv2.preprocessing.resampling.default_resampling")
    nnunet.resize_segmentation = partial(nnunet.resize_segmentation, seg_tiebreak="lowest")
    figures = (of_a_ct() if options.ct else {}) | measure(options.data_root, options.volumes, nnunet)
    figures |= {"scipy": scipy.__version__, "skimage": skimage.__version__, "simpleitk": sitk.Version_VersionString()}
    command = f"python bench/bench_resample.py --data-root {options.data_root.name} --nnunet DIR --volumes {options.volumes}"
    tell("Resampling against nnU-Net and SimpleITK", command + " --ct" * options.ct, figures, options.record)
    large = [dice for radius, dice in figures["dice_by_radius_mm"].items() if float(radius) >= LARGE_MM]
    sys.exit(max(figures["from_nnunet"], figures["from_simpleitk"]) > LIMIT or min(large) < LEAST_DICE)
