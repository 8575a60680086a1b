"""Solids: by hand, and the box that spares most points against asking all of them."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.phantom.solids import Places, Solid, tube, union_depth, waves


def places(turn: float = 0.0, side: int = 21) -> Places:
    """A grid of 1 mm about the origin, turned about z and sheared a little by a wave."""
    x, y, z = np.mgrid[:side, :side, :side].astype(np.float32) - side // 2
    bent = np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y, z + np.sin(x / 4)])
    return Places.of(bent.astype(np.float32))


def test_depth_by_hand() -> None:
    solid = Solid((1, 0, 0), (2, 4, 8))
    points = np.array([[1, 0, 0], [3, 0, 0], [1, 8, 0], [1, 0, 4]], np.float32).T
    assert solid.depth(points) == pytest.approx([1, 0, -1, 0.5])


def test_a_solid_is_turned_about_its_centre() -> None:
    solid = Solid((5, 5, 0), (1, 4, 1), turn=(0, 0, np.pi / 2))  # its long axis, y, now lies along x
    points = np.array([[8, 5, 0], [5, 8, 0]], np.float32).T
    assert (solid.depth(points) > 0).tolist() == [True, False]


def test_taper_widens_the_upper_end_and_bend_leans_both_to_x() -> None:
    points = np.array([[1.2, 0, 2], [1.2, 0, -2], [-1.2, 0, 2]], np.float32).T
    plain, tapered = (Solid((0, 0, 0), (2, 2, 4), taper=taper).depth(points) for taper in (0.0, 0.5))
    assert (tapered > plain).tolist() == [True, False, True]
    up, down, left = Solid((0, 0, 0), (2, 2, 4), bend=1.0).depth(points)
    assert up == down > left


@pytest.mark.parametrize("turn", [0.0, 0.1, 1.2])
@pytest.mark.parametrize(
    "solid",
    [
        Solid((0, 0, 0), (3, 5, 8)),
        Solid((-9, 4, 2), (2, 2, 9), turn=(0.5, 0.4, 0.3), taper=-0.6, bend=0.5),
        tube(3, -2, 4, 2),
        Solid((40, 0, 0), (3, 3, 3)),
    ],
)
def test_holds_leaves_no_point_out(solid: Solid, turn: float) -> None:
    grid = places(turn)
    assert np.array_equal(solid.holds(grid), solid.depth(grid.points_3XYZ) > 0)


def test_a_varied_solid_stays_near() -> None:
    base, rng = Solid((1, 2, 3), (10, 20, 30)), np.random.default_rng(0)
    for solid in (base.varied(rng, 3, 0.1, 0.2) for _ in range(50)):
        assert np.abs(np.subtract(solid.centre_mm, base.centre_mm)).max() <= 6
        assert np.abs(np.divide(solid.semi_mm, base.semi_mm) - 1).max() <= 0.1 and np.abs(solid.turn).max() <= 0.4


def test_a_union_holds_both_and_rounds_the_seam() -> None:
    two = [Solid((-3, 0, 0), (4, 4, 4)), Solid((3, 0, 0), (4, 4, 4))]
    points = places().points_3XYZ
    union, either = union_depth(two, points), np.maximum(two[0].depth(points), two[1].depth(points))
    assert (union >= either - 1e-6).all() and 0 < (union > 0).sum() - (either > 0).sum() < 0.1 * (either > 0).sum()


def test_waves_are_smooth_and_of_the_promised_size() -> None:
    wave = waves(np.random.default_rng(1), places(side=41).points_3XYZ, 6, (15, 25))
    assert 0.6 < np.sqrt((wave**2).mean()) < 1.5
    assert np.abs(np.diff(wave, axis=0)).max() < 2 * np.pi / 15 * np.sqrt(2 * 6)  # every sine at its steepest, all at one point
