"""Abdomens: repeatable, whole, the right way round, and not to be had by a threshold."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, label

from medseg.phantom.organ import HALF_DEPTH_MM, HALF_WIDTH_MM, LEFT_RIGHT_PAIRS, ORGANS, ORIENTATIONS, Abdomen, draw_organs

VOXELS = {"liver": (9_000, 30_000), "kidney_left": (1_100, 4_000), "kidney_right": (1_100, 4_000), "gallbladder": (200, 800)}


@pytest.fixture(scope="module")
def abdomens() -> list[Abdomen]:
    return [draw_organs(1, index) for index in range(8)]


def upright(abdomen: Abdomen, array: np.ndarray) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.Nifti1Image(array, abdomen.affine))


def centre_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return nib.affines.apply_affine(affine, np.argwhere(mask).mean(axis=0))


def body_centre_mm(abdomen: Abdomen) -> np.ndarray:
    """Of what is brighter than air, smoothed by its being many voxels."""
    return centre_mm(abdomen.image_XYZ > np.quantile(abdomen.image_XYZ, 0.4), abdomen.affine)


def test_a_volume_depends_on_its_identity_alone() -> None:
    first = draw_organs(3, 5)
    draw_organs(3, 6)
    again, other = draw_organs(3, 5), draw_organs(4, 5)
    assert np.array_equal(first.image_XYZ, again.image_XYZ) and np.array_equal(first.mask_XYZ, again.mask_XYZ)
    assert np.array_equal(first.affine, again.affine) and not np.array_equal(first.affine, other.affine)


def test_the_global_generator_is_left_alone() -> None:
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    draw_organs(0, 0)
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]


def check_whole(abdomen: Abdomen) -> None:
    """Every organ is there, of its size, in one piece, and not cut by the frame."""
    assert abdomen.mask_XYZ.dtype == np.uint8 and abdomen.mask_XYZ.max() == len(ORGANS)
    inner = np.zeros_like(abdomen.mask_XYZ)
    inner[1:-1, 1:-1, 1:-1] = abdomen.mask_XYZ[1:-1, 1:-1, 1:-1]
    assert np.array_equal(inner, abdomen.mask_XYZ)
    for number, (low, high) in enumerate((VOXELS[organ] for organ in ORGANS), start=1):
        pieces = np.bincount(label(abdomen.mask_XYZ == number)[0].ravel())[1:]
        assert low < pieces.sum() < high and pieces.max() > 0.98 * pieces.sum()


def test_every_organ_is_there_whole_and_of_its_size(abdomens: list[Abdomen]) -> None:
    for abdomen in abdomens:
        check_whole(abdomen)


@pytest.mark.slow
def test_so_it_is_in_many() -> None:
    for index in range(100):
        check_whole(draw_organs(7, index))


def test_grids_differ_and_their_slices_are_thick(abdomens: list[Abdomen]) -> None:
    for abdomen in abdomens:
        image = upright(abdomen, abdomen.image_XYZ)
        x_mm, y_mm, z_mm = image.header.get_zooms()
        assert x_mm == y_mm and 2.5 <= x_mm <= 3.0 and 4.5 <= z_mm <= 5.5
        assert image.shape[0] * x_mm > 2 * 0.95 * HALF_WIDTH_MM and image.shape[1] * y_mm > 2 * 0.94 * HALF_DEPTH_MM
        assert image.shape[0] > image.shape[1] > image.shape[2]
    assert len({abdomen.image_XYZ.shape for abdomen in abdomens}) > 5


def test_the_affine_names_the_axes_of_the_file(abdomens: list[Abdomen]) -> None:
    for abdomen in abdomens:
        assert "".join(nib.aff2axcodes(abdomen.affine)) == abdomen.orientation
    assert len({abdomen.orientation for abdomen in abdomens} & set(ORIENTATIONS)) >= 3


def test_left_is_left_and_the_liver_is_right(abdomens: list[Abdomen]) -> None:
    for abdomen in abdomens:
        body = body_centre_mm(abdomen)
        x, y, z = np.array([centre_mm(abdomen.mask_XYZ == number, abdomen.affine) - body for number in (1, 2, 3, 4)]).T
        assert x[1] < -25 and min(x[0], x[2], x[3]) > 10  # left kidney; liver, right kidney, gallbladder
        assert max(y[1], y[2]) < -10 < 0 < y[3]  # the kidneys lie behind, the gallbladder in front
        assert z[0] > max(z[1:])  # the liver above all


def test_left_and_right_are_pairs_of_organs() -> None:
    assert all(set(pair) <= set(ORGANS) and "left" in pair[0] and "right" in pair[1] for pair in LEFT_RIGHT_PAIRS)


def best_window(image_XYZ: np.ndarray, inside_XYZ: np.ndarray) -> float:
    """The IoU of the best of 16 windows of brightness, chosen on the very volume."""
    edges = np.quantile(image_XYZ[inside_XYZ], [0.0, 0.02, 0.1, 0.25, 0.75, 0.9, 0.98, 1.0])
    found = [(image_XYZ >= low) & (image_XYZ <= high) for low in edges[:4] for high in edges[4:]]
    return max(float((one & inside_XYZ).sum() / (one | inside_XYZ).sum()) for one in found)


@pytest.mark.parametrize("organ", ORGANS)
def test_no_window_of_brightness_finds_an_organ(abdomens: list[Abdomen], organ: str) -> None:
    best = [best_window(abdomen.image_XYZ, abdomen.mask_XYZ == ORGANS.index(organ) + 1) for abdomen in abdomens]
    assert np.mean(best) < 0.7


@pytest.mark.parametrize("organ", ORGANS)
def test_an_organ_stands_out_from_what_surrounds_it(abdomens: list[Abdomen], organ: str) -> None:
    for abdomen in abdomens[:4]:
        whole, others = abdomen.mask_XYZ == ORGANS.index(organ) + 1, abdomen.mask_XYZ > 0
        core = binary_erosion(whole)
        shell = binary_dilation(whole, iterations=2) & ~binary_dilation(whole) & ~others
        image = abdomen.image_XYZ.astype(float)
        assert abs(np.median(image[core]) - np.median(image[shell])) > 1.0 * image[core].std()
