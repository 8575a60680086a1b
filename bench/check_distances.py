"""medseg's boundary distances against MONAI's, which must be equal, and beside those of DeepMind's surface-distance, which are shorter.

python bench/check_distances.py [--pairs 2000] [--record]

surface-distance is no dependency: pip install --no-deps --target DIR surface-distance, and put DIR on PYTHONPATH. Where it cannot be
imported it is named and skipped, and medseg is held against MONAI alone. Prints one JSON line; exits 1 where a number is further from
MONAI's than LIMITS allows. surface-distance gives one mean distance a direction; its ASSD here is the mean by area over both put together,
of its own lists of distances and areas.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from record import command_line, tell

from medseg.metrics.surface import surface_distances

Pair = tuple[np.ndarray, np.ndarray]  # reference and prediction, bool, neither empty: there no distance is defined
Spacing = tuple[float, ...]

SHAPES = {2: (24, 31), 3: (12, 14, 9)}
SPACINGS: dict[int, list[Spacing]] = {
    2: [(1.0, 1.0), (0.1, 0.1), (0.7, 2.5)],
    3: [(1.0, 1.0, 1.0), (3.0, 0.78, 0.78), (0.1, 0.1, 0.3)],
}
TOLERANCES = (0.3, 2.0)  # three steps of 0.1 and two of 1 lie on them exactly, where rounding decides

# MONAI keeps distances in float32. Its torch.quantile finds the rank, 0.95 (n - 1), in float32 too, so an HD95 errs by the rank's rounding
# times the gap between two distances: "HD95" is MONAI's as it comes, with the wider limit, "HD95, rank in float64" is the same code with
# that one call widened, which shows that nothing else differs.
LIMITS = {"HD": 1e-6, "HD95": 1e-5, "HD95, rank in float64": 1e-6, "ASSD": 1e-6} | {f"NSD at {t:g}": 1e-6 for t in TOLERANCES}


def by_medseg(pair: Pair, spacing: Spacing) -> dict[str, float]:
    """The names of LIMITS -> number."""
    found = surface_distances(*pair, spacing, TOLERANCES)
    values = (found.hd, found.hd95, found.hd95, found.assd, *found.nsd)
    return dict(zip(LIMITS, values, strict=True))


def by_monai(pair: Pair, spacing: Spacing) -> dict[str, float]:
    """As by_medseg."""
    reference, prediction = (torch.as_tensor(mask)[None, None] for mask in pair)
    how = {"include_background": True, "spacing": list(spacing)}
    hd95 = compute_hausdorff_distance(prediction, reference, percentile=95, **how)
    quantile = torch.quantile
    with patch("torch.quantile", lambda distances, share: quantile(distances.double(), share)):
        widened = compute_hausdorff_distance(prediction, reference, percentile=95, **how)
    hd = compute_hausdorff_distance(prediction, reference, **how)
    assd = compute_average_surface_distance(prediction, reference, symmetric=True, **how)
    nsd = (compute_surface_dice(prediction, reference, [tolerance], **how) for tolerance in TOLERANCES)
    return dict(zip(LIMITS, map(float, (hd, hd95, widened, assd, *nsd)), strict=True))


def differences(pair: Pair, spacing: Spacing) -> dict[str, float]:
    """Between the two: a distance's as a share of the coarsest step or of the distance, whichever is larger; a share's as it is."""
    ours, theirs = by_medseg(pair, spacing), by_monai(pair, spacing)
    scale = {name: 1.0 if name.startswith("NSD") else max(*spacing, theirs[name]) for name in LIMITS}
    found = {name: abs(ours[name] - theirs[name]) / scale[name] for name in LIMITS}
    return {name: math.inf if math.isnan(value) else value for name, value in found.items()}  # a NaN must not pass for small


def hand_made(axes: int) -> list[Pair]:
    """What chance seldom draws: single elements, the border, equal masks, thin things, a far speck."""
    shape = SHAPES[axes]

    def filled(*parts: slice | int) -> np.ndarray:
        mask = np.zeros(shape, bool)
        mask[parts] = True
        return mask

    first, last, middle = filled(*[0] * axes), filled(*[-1] * axes), filled(*[size // 2 for size in shape])
    full, block, rim = filled(...), filled(*[slice(2, 7)] * axes), filled(0)
    shell = block & ~filled(*[slice(3, 6)] * axes)
    alone = [middle, first, last, block, rim, full, shell, full & ~middle, block | last, filled(2, 3), filled(slice(0, 4), slice(0, 4))]
    return [(reference, prediction) for reference in alone for prediction in alone]  # each with itself too: all distances 0


def random_mask(generator: np.random.Generator, axes: int) -> np.ndarray:
    """A blob with holes and specks, boxes, noise or a single element, at the border or not; never empty."""
    shape, mask = SHAPES[axes], np.zeros(SHAPES[axes], bool)
    kind = generator.choice(["blob", "boxes", "noise", "dot"], p=[0.5, 0.2, 0.2, 0.1])
    if kind == "blob":
        centre, radii = generator.uniform(0, shape), generator.uniform(1, np.array(shape) / 2)
        inside = (((np.moveaxis(np.indices(shape), 0, -1) - centre) / radii) ** 2).sum(axis=-1) < 1
        mask = (inside & (generator.random(shape) > 0.02)) | (generator.random(shape) < 0.002)
    elif kind == "boxes":
        for corner in generator.integers(0, shape, (3, axes)):
            mask[tuple(slice(low, low + generator.integers(1, 8)) for low in corner)] ^= True
    elif kind == "noise":
        mask = generator.random(shape) < generator.choice([0.03, 0.3, 0.9])
    mask[tuple(generator.integers(0, shape))] = True
    return mask


def random_pair(generator: np.random.Generator, axes: int) -> Pair:
    """Two masks of nothing in common, or one and the same, moved by up to two elements and sprinkled."""
    reference, other = (random_mask(generator, axes) for _ in range(2))
    if generator.random() < 0.5:
        return reference, other
    moved = np.roll(reference, generator.integers(-2, 3, axes), tuple(range(axes)))
    sprinkled = moved ^ (generator.random(moved.shape) < generator.choice([0.0, 0.005, 0.1]))
    return reference, sprinkled if sprinkled.any() else moved


def random_pairs(n: int, seed: int = 0) -> Iterator[tuple[Pair, Spacing]]:
    """In turn 2-D and 3-D, and through the spacings."""
    generator = np.random.default_rng(seed)
    for number in range(n):
        axes = 2 + number % 2
        yield random_pair(generator, axes), SPACINGS[axes][number // 2 % 3]


def balls() -> Pair:
    """Radius 5 and 3 voxels around one centre."""
    squared = ((np.indices((13, 13, 13)) - 6) ** 2).sum(axis=0)
    return squared <= 5**2, squared <= 3**2


def ellipsoids(spacing: Spacing, n: int = 200, seed: int = 0) -> Iterator[Pair]:
    """Semi-axes of 5 to 12 mm in a cube of 40 mm; the prediction lies up to 2 mm off along each axis, its semi-axes up to 20 %."""
    generator = np.random.default_rng(seed)
    steps = np.array(spacing)
    millimetres = np.moveaxis(np.indices(np.ceil(40 / steps).astype(int)), 0, -1) * steps
    for _ in range(n):
        centre, radii = generator.uniform(18, 22, 3), generator.uniform(5, 12, 3)
        places = ((centre, radii), (centre + generator.uniform(-2, 2, 3), radii * generator.uniform(0.8, 1.2, 3)))
        reference, prediction = ((((millimetres - place) / size) ** 2).sum(axis=-1) < 1 for place, size in places)
        yield reference, prediction


def by_deepmind(package: ModuleType, pair: Pair, spacing: Spacing, tolerance: float) -> dict[str, float]:
    """HD95, ASSD and NSD by surface-distance."""
    found = package.compute_surface_distances(*pair, spacing)
    distances = np.concatenate([found["distances_gt_to_pred"], found["distances_pred_to_gt"]])
    areas = np.concatenate([found["surfel_areas_gt"], found["surfel_areas_pred"]])
    hd95, nsd = package.compute_robust_hausdorff(found, 95), package.compute_surface_dice_at_tolerance(found, tolerance)
    return {"HD95": float(hd95), "ASSD": float(np.average(distances, weights=areas)), f"NSD at {tolerance:g}": float(nsd)}


def shorter(package: ModuleType, spacing: Spacing) -> dict[str, str]:
    """Over the ellipsoids, DeepMind's number as a share of medseg's: the median and what nine of ten lie between."""
    ratios: dict[str, list[float]] = {"HD95": [], "ASSD": []}
    for pair in ellipsoids(spacing):
        ours, theirs = by_medseg(pair, spacing), by_deepmind(package, pair, spacing, TOLERANCES[1])
        for name, values in ratios.items():
            values.append(theirs[name] / ours[name])
    spread = {name: np.percentile(values, [50, 5, 95]) for name, values in ratios.items()}
    return {name: f"median {middle:.3f}, 5 to 95 % {low:.3f} to {high:.3f}" for name, (middle, low, high) in spread.items()}


def rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(found[name], 3) for name in ("HD95", "ASSD", "NSD at 2")}


def against_monai(cases: Sequence[tuple[Pair, Spacing]]) -> tuple[dict[str, str], list[str]]:
    """(the largest difference of each number and its limit, the numbers that are over it)."""
    largest = dict.fromkeys(LIMITS, 0.0)
    for case in cases:
        for name, value in differences(*case).items():
            largest[name] = max(largest[name], value)
    told = {name: f"{value:.1e}, limit {LIMITS[name]:.0e}" for name, value in largest.items()}
    return told, [f"{name} ({value:.1e})" for name, value in largest.items() if value > LIMITS[name]]


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--pairs", type=int, default=2000, help="726 at least, which are made by hand")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # surface-distance names scipy's old modules
    torch.set_num_threads(1)  # masks are small: threads would only wait for each other
    unit = (1.0, 1.0, 1.0)
    made = [(pair, spacing) for axes in SPACINGS for pair in hand_made(axes) for spacing in SPACINGS[axes]]
    told, wrong = against_monai([(balls(), unit), *made, *random_pairs(options.pairs - len(made))])
    figures: dict[str, object] = {"pairs": options.pairs, "hand_made": len(made), "monai": importlib.metadata.version("monai")}
    figures["largest_difference"] = told
    two_balls = {"medseg": rounded(by_medseg(balls(), unit)), "MONAI": rounded(by_monai(balls(), unit))}
    try:
        package = importlib.import_module("surface_distance")
    except ImportError as problem:
        figures["surface_distance"] = f"not run: {problem}"
    else:
        figures["surface_distance"] = importlib.metadata.version("surface-distance")
        two_balls["surface-distance"] = rounded(by_deepmind(package, balls(), unit, TOLERANCES[1]))
        steps = {spacing: " x ".join(f"{step:g}" for step in spacing) for spacing in SPACINGS[3][:2]}
        figures["ellipsoids_surface_distance_over_medseg"] = {f"{name} mm": shorter(package, spacing) for spacing, name in steps.items()}
    figures |= {"balls_of_radius_5_and_3": two_balls, "disagreements": wrong or "none"}
    command = f"python bench/{Path(__file__).name} --pairs {options.pairs}"
    tell("Boundary distances, against MONAI and beside DeepMind's", command, figures, options.record)
    sys.exit(1 if wrong else 0)
