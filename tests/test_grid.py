"""The way onto the network's grid and back: nibabel agrees on all 48 orientations, and no voxel is lost."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medseg.errors import ImageError
from medseg.grid import DepthAxis, turn_of

SHAPE = (4, 5, 6)
SPACING_MM = (0.5, 1.25, 3.0)
ORIENTATIONS = [(axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
ORDERS: dict[DepthAxis, str] = {"z": "zyx", "y": "yzx", "x": "xzy"}


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


def affine_of(axes: tuple[int, ...], signs: tuple[int, ...], rotation: np.ndarray | None = None) -> np.ndarray:
    """Stored axis i runs along world axis axes[i], in the direction of signs[i], at SPACING_MM[i]; then the whole is rotated."""
    matrix = np.zeros((3, 3))
    matrix[list(axes), range(3)] = np.multiply(signs, SPACING_MM)
    return nib.affines.from_matvec((np.eye(3) if rotation is None else rotation) @ matrix, (-10, 20, 30))


def canonical(array: np.ndarray, affine: np.ndarray, depth_axis: DepthAxis) -> tuple[np.ndarray, tuple[float, ...]]:
    """(D, H, W) and its spacing by nibabel alone."""
    image = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    order = ["xyz".index(axis) for axis in ORDERS[depth_axis]]
    zooms = nib.affines.voxel_sizes(image.affine)
    return np.asarray(image.dataobj).transpose(order), tuple(float(zooms[axis]) for axis in order)


@pytest.mark.parametrize("depth_axis", ["x", "y", "z"])
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_all_orientations(axes: tuple[int, ...], signs: tuple[int, ...], depth_axis: DepthAxis) -> None:
    stored, affine = numbered(*SHAPE), affine_of(axes, signs)
    turn = turn_of(SHAPE, affine, "a.nii", depth_axis)
    expected, spacing_mm = canonical(stored, affine, depth_axis)
    turned = turn.forward(stored)
    assert np.array_equal(turned, expected) and turn.shape == expected.shape and turn.stored_shape == SHAPE
    assert turn.spacing_mm == pytest.approx(spacing_mm) and np.shares_memory(turned, stored)
    assert np.array_equal(turn.backward(turned), stored)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[::5])
def test_channels_come_first(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    stored = numbered(*SHAPE, 2)
    turn = turn_of(SHAPE, affine_of(axes, signs), "a.nii")
    turned = turn.forward(stored)
    assert turned.shape == (2, *turn.shape)
    assert all(np.array_equal(turned[channel], turn.forward(stored[..., channel])) for channel in range(2))
    assert np.array_equal(turn.backward(turned), stored)


@pytest.mark.parametrize(("depth_axis", "axis"), [("z", 2), ("y", 2), ("x", 0)])
def test_left_and_right(depth_axis: DepthAxis, axis: int) -> None:
    """Towards the patient's right along the axis that is named, however the file stores it."""
    for axes, signs in ORIENTATIONS:
        affine = affine_of(axes, signs)
        right_mm = np.einsum("ai,ixyz->axyz", affine[:3, :3], np.indices(SHAPE))[0] + affine[0, 3]
        turn = turn_of(SHAPE, affine, "a.nii", depth_axis)
        assert (np.diff(turn.forward(right_mm), axis=axis) > 0).all()


def test_oblique_grids_take_the_closest_axes() -> None:
    tilt = Rotation.from_euler("xyz", (20, -15, 30), degrees=True).as_matrix()
    for axes, signs in ORIENTATIONS:
        straight, oblique = (turn_of(SHAPE, affine_of(axes, signs, by), "a.nii") for by in (None, tilt))
        assert (straight.axes, straight.flips) == (oblique.axes, oblique.flips)
        assert oblique.spacing_mm == pytest.approx(straight.spacing_mm)


def test_every_rotation_has_its_permutation() -> None:
    """At 45 degrees two stored axes are as close to one world axis, and none may go without."""
    angles = (np.pi / 4, np.arctan(2**0.5), -np.pi / 4)
    even = [Rotation.from_euler("xyz", three) for three in itertools.product(angles, repeat=3)]
    stored = numbered(*SHAPE)
    for rotation in [*even, *Rotation.random(20, rng=0)]:
        affine = affine_of((0, 1, 2), (1, 1, 1), rotation.as_matrix())
        turn = turn_of(SHAPE, affine, "a.nii")
        assert sorted(turn.axes) == [0, 1, 2]
        assert np.array_equal(turn.backward(turn.forward(stored)), stored)
        assert np.array_equal(turn.forward(stored), canonical(stored, affine, "z")[0])


def test_another_volume_is_our_mistake() -> None:
    turn = turn_of(SHAPE, np.eye(4), "a.nii")
    with pytest.raises(AssertionError, match=r"the turn is of \(4, 5, 6\)"):
        turn.forward(numbered(4, 6, 5))
    with pytest.raises(AssertionError, match=r"the turn is of \(6, 5, 4\)"):
        turn.backward(numbered(4, 5, 6))


def test_a_tilted_gantry_is_refused() -> None:
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[1, 2] = 5 * np.tan(np.radians(12))
    rule = r"scan\.nii: its axes y and z meet at 78\.0 degrees, not 90 \(a tilted gantry.*; resample it .*dcm2niix"
    with pytest.raises(ImageError, match=rule):
        turn_of(SHAPE, affine, "scan.nii")


def test_shear_by_rounding_passes() -> None:
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[1, 2] = 5 * 0.009
    assert turn_of(SHAPE, affine, "a.nii").spacing_mm == pytest.approx((5, 1, 1), rel=1e-4)
    affine[1, 2] = 5 * 0.011
    with pytest.raises(ImageError, match=r"89\.4 degrees"):
        turn_of(SHAPE, affine, "a.nii")


@pytest.mark.parametrize(("value", "shown"), [(0.0, "1 x 0 x 1"), (np.nan, "1 x nan x 1"), (np.inf, "1 x inf x 1"), (1e300, "1 x inf x 1")])
def test_spacing_must_be_positive(value: float, shown: str) -> None:
    affine = np.diag([1.0, value, 1.0, 1.0])
    with pytest.raises(ImageError, match=f"a.nii: the spacing must be positive and finite, its affine says {shown} mm"):
        turn_of(SHAPE, affine, "a.nii")
