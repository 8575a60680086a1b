"""Surface distances against hand cases, all pairs by loops, and MONAI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_edge_surface_distance
from scipy.ndimage import binary_erosion

from medseg.metrics import surface
from medseg.metrics.surface import Distances, surface_distances

TOLERANCES = (0.0, 0.3, 1.0, 2.5)
SPACINGS = {2: [(1.0, 1.0), (0.1, 0.1), (0.7, 2.5)], 3: [(1.0, 1.0, 1.0), (3.0, 0.78, 0.78), (0.1, 0.1, 0.3)]}
SHAPES = {2: (24, 31), 3: (12, 14, 9)}


def dots(*places: tuple[int, ...], shape: tuple[int, ...] = (9, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(np.transpose(places))] = True
    return mask


def block(*slices: slice, shape: tuple[int, ...] = (9, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def values(distances: Distances) -> list[float]:
    """Flat, in the order of the fields."""
    *four, nsd = astuple(distances)
    return [*four, *nsd]


def alike(distances: Distances, expected: Sequence[float], within: float = 1e-9) -> bool:
    return values(distances) == pytest.approx(list(expected), abs=within, rel=within, nan_ok=True)


@pytest.mark.parametrize(
    ("reference", "prediction", "spacing", "expected"),
    [
        (dots((2, 1)), dots((2, 1)), (1, 1), [0, 0, 0, 0, 1, 1, 1, 1]),
        (dots((2, 1)), dots((2, 3)), (1, 1), [2, 2, 2, 2, 0, 0, 0, 1]),
        (dots((2, 1)), dots((5, 5)), (1, 1), [5, 5, 5, 5, 0, 0, 0, 0]),  # 3, 4, 5
        (dots((2, 1)), dots((5, 5)), (4, 0.5), [math.hypot(12, 2)] * 4 + [0] * 4),  # spacing goes with its own axis
        (dots((2, 1)), dots((2, 4)), (0.1, 0.1), [0.3] * 4 + [0, 1, 1, 1]),  # exactly at the tolerance is within it
        (dots((0, 0)), dots((8, 11)), (1, 1), [math.hypot(8, 11)] * 4 + [0] * 4),  # the image's corners
        (dots((1, 2, 3), shape=(4, 5, 6)), dots((2, 4, 3), shape=(4, 5, 6)), (3, 2, 1), [5] * 4 + [0] * 4),
        (dots((2, 1)), dots((2, 1), (2, 3)), (1, 1), [2, 1.9, 1.8, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 1]),  # lists [0] and [0, 2]
    ],
)
def test_hand_cases(reference, prediction, spacing, expected):
    assert alike(surface_distances(reference, prediction, spacing, TOLERANCES), expected)


def test_the_undefined():
    something, nothing = dots((2, 1)), np.zeros((9, 12), bool)
    for pair in ((something, nothing), (nothing, something)):  # missed, invented
        assert alike(surface_distances(*pair, (1, 1), TOLERANCES), [math.nan] * 4 + [0.0] * 4)
    assert alike(surface_distances(nothing, nothing, (1, 1), TOLERANCES), [math.nan] * 8)


def test_a_far_speck_parts_the_two_hd95():
    """36 reference elements at 0; of the prediction's 20, one in ten is 30 away: 10 % of one list, 3.6 % of both."""
    shape = (12, 60)
    reference = block(slice(0, 10), slice(0, 10), shape=shape)
    prediction = dots(*[(0, x) for x in range(10)], *[(9, x) for x in range(8)], (0, 39), (9, 39), shape=shape)
    found = surface_distances(reference, prediction, (1, 1), ())
    assert (found.hd, found.hd95) == (30, 30)
    assert found.hd95_pooled < 5


def test_at_the_image_border_the_mask_ends():
    """A mask that fills the image has the image's rim for its surface, cropped or not."""
    full, hole = np.ones((5, 5), bool), np.ones((5, 5), bool)
    hole[2, 2] = False
    assert surface_distances(full, full, (1, 1), (0.0,)) == Distances(0, 0, 0, 0, (1,))
    found = surface_distances(full, hole, (1, 1), (0.0,))  # the hole's four neighbours are surface of one alone, 1 from the rim
    assert (found.hd, found.nsd[0]) == (1, 32 / 36)


def test_an_image_larger_by_background_changes_nothing():
    generator = np.random.default_rng(5)
    for _ in range(20):
        pair = random_pair(generator, 3)
        padded = [np.pad(mask, ((2, 0), (0, 3), (1, 1))) for mask in pair]
        assert alike(surface_distances(*padded, (3, 1, 1), TOLERANCES), values(surface_distances(*pair, (3, 1, 1), TOLERANCES)))


def test_symmetric_in_its_masks():
    generator = np.random.default_rng(6)
    for _ in range(20):
        one, other = random_pair(generator, 2)
        assert alike(surface_distances(one, other, (2, 1), TOLERANCES), values(surface_distances(other, one, (2, 1), TOLERANCES)))


def test_any_memory_order_and_no_mask_is_written():
    one, other = random_pair(np.random.default_rng(7), 3)
    before, expected = one.copy(), surface_distances(one, other, (3, 1, 1), TOLERANCES)
    one.flags.writeable = other.flags.writeable = False
    assert surface_distances(np.asfortranarray(one), other, (3, 1, 1), TOLERANCES) == expected
    assert surface_distances(one[::-1], other[::-1], (3, 1, 1), TOLERANCES).hd == pytest.approx(expected.hd)
    assert (one == before).all()


@pytest.mark.parametrize("spacing", [(1, 0), (1, -1), (1, math.nan), (1, 1, 1)])
def test_a_spacing_that_cannot_be(spacing):
    with pytest.raises(AssertionError):
        surface_distances(dots((2, 1)), dots((2, 1)), spacing, ())


def random_pair(generator: np.random.Generator, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Two masks: blobs with holes and specks, boxes, thin things, noise, full, nearly or wholly empty, at the border or not."""
    reference = _random_mask(generator, SHAPES[axes])
    if generator.random() < 0.5:
        return reference, _random_mask(generator, SHAPES[axes])
    moved = np.roll(reference, generator.integers(-2, 3, axes), tuple(range(axes)))
    return reference, moved ^ (generator.random(moved.shape) < generator.choice([0.0, 0.005, 0.1]))


def _random_mask(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    kind = generator.choice(["blob", "boxes", "noise", "line", "dot", "full", "empty"], p=[0.4, 0.2, 0.15, 0.05, 0.1, 0.05, 0.05])
    if kind == "blob":
        centre, radii = generator.uniform(0, shape), generator.uniform(1, np.array(shape) / 2)
        grid = np.moveaxis(np.indices(shape), 0, -1)
        inside: np.ndarray = (((grid - centre) / radii) ** 2).sum(axis=-1) < 1
        return (inside & (generator.random(shape) > 0.02)) | (generator.random(shape) < 0.002)
    mask = np.zeros(shape, bool)
    if kind == "boxes":
        for _ in range(3):
            low = generator.integers(0, shape)
            mask[tuple(slice(a, a + generator.integers(1, 8)) for a in low)] ^= True
    elif kind == "noise":
        mask = generator.random(shape) < generator.choice([0.03, 0.3, 0.9])
    elif kind == "line":
        mask[generator.integers(shape[0])] = True
    elif kind == "dot":
        mask[tuple(generator.integers(0, shape))] = True
    return mask | (kind == "full")


def slow_distances(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerances: Sequence[float]) -> list[float]:
    """All pairs of elements, in the order of Distances' fields; within a tolerance up to 1e-6, which forgives rounding."""
    surfaces = [slow_surface(mask) for mask in (reference, prediction)]
    if not all(surfaces):
        return [math.nan] * 4 + [0.0 if any(surfaces) else math.nan] * len(tolerances)
    steps = np.asarray(spacing)
    pairs = np.sqrt((((np.array(surfaces[0])[:, None] - np.array(surfaces[1])[None]) * steps) ** 2).sum(axis=-1))
    forth, back = sorted(pairs.min(axis=1).tolist()), sorted(pairs.min(axis=0).tolist())
    both = sorted(forth + back)
    shares = [sum(distance <= tolerance + 1e-6 for distance in both) / len(both) for tolerance in tolerances]
    return [both[-1], max(slow_p95(forth), slow_p95(back)), slow_p95(both), math.fsum(both) / len(both), *shares]


def slow_surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Indices of the elements with a neighbour, across an edge or face, that is background or outside."""
    held = set(map(tuple, np.argwhere(mask).tolist()))
    found = []
    for index in sorted(held):
        neighbours = [index[:axis] + (index[axis] + step,) + index[axis + 1 :] for axis in range(mask.ndim) for step in (-1, 1)]
        if not held.issuperset(neighbours):
            found.append(index)
    return found


def slow_p95(ordered: list[float]) -> float:
    """Linear between the two ranks around 95 (n - 1) / 100."""
    rank, part = divmod(95 * (len(ordered) - 1), 100)
    return ordered[rank] + (ordered[min(rank + 1, len(ordered) - 1)] - ordered[rank]) * part / 100


def monai_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerances: Sequence[float]
) -> tuple[list[float], float]:
    """[hd, hd95, hd95_pooled, assd, *nsd] by MONAI, and the hd95 that its compute_hausdorff_distance says.

    torch.quantile finds the rank 0.95 (n - 1) in float32, so compute_hausdorff_distance errs by that rounding times the gap between two
    distances. The hd95 in the list is numpy's, of MONAI's own distances; so is hd95_pooled, which MONAI does not have.
    """
    one, other = (torch.as_tensor(mask)[None, None] for mask in (prediction, reference))
    how = {"include_background": True, "spacing": list(spacing)}
    _, lists, _ = get_edge_surface_distance(one[0, 0], other[0, 0], spacing=tuple(spacing), symmetric=True)
    forth, back = (distances.double().numpy() for distances in lists)
    hd, hd95, assd = (
        float(found)
        for found in (
            compute_hausdorff_distance(one, other, **how),
            compute_hausdorff_distance(one, other, percentile=95, **how),
            compute_average_surface_distance(one, other, symmetric=True, **how),
        )
    )
    nsd = [float(compute_surface_dice(one, other, [tolerance], **how)) for tolerance in tolerances]
    pooled = float(np.percentile(np.concatenate([forth, back]), 95))
    return [hd, max(float(np.percentile(each, 95)) for each in (forth, back)), pooled, assd, *nsd], hd95


def agrees(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerance: float) -> None:
    """One case against the slow oracle and MONAI."""
    ours = surface_distances(reference, prediction, spacing, (tolerance,))
    assert alike(ours, slow_distances(reference, prediction, spacing, (tolerance,)))
    if not (reference.any() and prediction.any()):
        return  # MONAI's own answers there: test_what_monai_says_of_empty_masks
    theirs, rounded_hd95 = monai_distances(reference, prediction, spacing, (tolerance,))
    assert alike(ours, theirs, within=1e-6)
    assert ours.hd95 == pytest.approx(rounded_hd95, abs=1e-3)


@pytest.mark.parametrize("cases", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_masks_against_the_slow_oracle_and_monai(cases):
    generator = np.random.default_rng(0)
    for number in range(cases):
        axes = 2 + number % 2
        reference, prediction = random_pair(generator, axes)
        agrees(reference, prediction, SPACINGS[axes][number // 2 % 3], TOLERANCES[number // 6 % 4])


@pytest.mark.filterwarnings("ignore:.*is all 0")
def test_what_monai_says_of_empty_masks():
    """Nothing in both: NaN, as here. In one only: MONAI says inf for hd and assd and NaN for hd95 (a quantile of infs); here all are NaN.

    Both say nsd 0. MONAI's reductions leave a NaN out and let an inf make the whole mean inf: neither counts the misses.
    """
    something, nothing = torch.as_tensor(dots((2, 1)))[None, None], torch.zeros(1, 1, 9, 12)
    how = {"include_background": True, "spacing": [1.0, 1.0]}
    for pair in ((something, nothing), (nothing, something)):
        assert math.isinf(compute_hausdorff_distance(*pair, **how)) and math.isnan(compute_hausdorff_distance(*pair, percentile=95, **how))
        assert math.isinf(compute_average_surface_distance(*pair, symmetric=True, **how)) and compute_surface_dice(*pair, [1.0], **how) == 0
    for find in (compute_hausdorff_distance, compute_average_surface_distance):
        assert math.isnan(find(nothing, nothing, **how))
    assert math.isnan(compute_surface_dice(nothing, nothing, [1.0], **how))


@pytest.mark.parametrize("axes", [2, 3])
def test_the_surface_is_what_erosion_takes_away(axes):
    generator = np.random.default_rng(8)
    for _ in range(50):
        mask = random_pair(generator, axes)[0]
        assert (surface._surface(mask) == mask ^ binary_erosion(mask)).all()


@pytest.mark.parametrize("axes", [2, 3])
def test_both_ways_of_searching_find_the_same(axes, monkeypatch):
    generator = np.random.default_rng(9)
    for number in range(30):
        pair, spacing = random_pair(generator, axes), SPACINGS[axes][number % 3]
        found = []
        for dense in (0, 2):
            monkeypatch.setattr(surface, "DENSE", dense)
            found.append(values(surface_distances(*pair, spacing, TOLERANCES)))
        assert found[0] == pytest.approx(found[1], abs=1e-12, nan_ok=True)


def test_what_each_number_means_by_moving_a_square():
    """A square moved by two pixels along the columns, which are 0.5 apart: no distance can be above 1."""
    reference, prediction = block(slice(2, 7), slice(2, 7)), block(slice(2, 7), slice(4, 9))
    found = surface_distances(reference, prediction, (1, 0.5), (0.9, 1.0))
    assert (found.hd, found.hd95, found.nsd[1]) == (1, 1, 1)
    assert 0 < found.nsd[0] < 1 and 0 < found.assd < 1
