"""Intensities by hand, and the box around what is not zero."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.errors import ImageError
from medseg.normalise import inside_of, nonzero_box, unit_range, window, zscore

VOLUME = np.array([1, 3, 5, 7], np.int16).reshape(1, 2, 2)


def test_zscore_by_hand() -> None:
    """Mean 4, deviation sqrt((9 + 1 + 1 + 9) / 4) = sqrt 5."""
    scored = zscore(VOLUME)
    assert scored.dtype == np.float32
    assert np.allclose(scored.ravel() * 5**0.5, [-3, -1, 1, 3])


def test_zscore_inside_leaves_the_rest() -> None:
    image = np.array([[[0, 2, 6], [0, 0, 0]]], np.float32)
    assert zscore(image, image != 0).tolist() == [[[0, -1, 1], [0, 0, 0]]]
    assert np.array_equal(zscore(image, np.zeros(image.shape, bool)), image)


def test_zscore_of_one_value_is_zero() -> None:
    """1000.1 is none in float32: a mean rounded to it would be blown up 10^8 times."""
    assert not zscore(np.full((30, 31, 33), 1000.1, np.float32)).any()


def test_zscore_of_large_numbers() -> None:
    """More voxels than are summed at once, far from 0, against numpy in float64."""
    image = np.random.default_rng(0).normal(30_000, 5, (90, 120, 120)).astype(np.float32)
    wide = image.astype(np.float64)
    assert np.abs(zscore(image) - (wide - wide.mean()) / wide.std()).max() < 1e-3


def test_window_by_hand() -> None:
    image = np.array([[[-1000, -50, 50, 3000]]], np.int16)
    assert window(image, -100, 300, 100, 50).tolist() == [[[-4, -3, -1, 4]]]
    assert not window(np.full((2, 2, 2), 7), 0, 10, 7, 0).any()  # nnU-Net's floor below the deviation


def test_unit_range_by_hand() -> None:
    assert np.allclose(unit_range(VOLUME).ravel(), [0, 1 / 3, 2 / 3, 1])
    assert not unit_range(np.full((2, 2, 2), 5.0)).any()


def test_the_image_given_stays() -> None:
    image = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    before = image.copy()
    zscore(image), zscore(image, image > 0), window(image, -0.5, 0.5, 0, 1), unit_range(image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_no_number_is_refused(bad: float) -> None:
    image = np.ones((2, 3, 4))
    image[1, 1, 1] = bad
    rule = r"a\.nii: 1 voxel of 24 is NaN or infinite; export it again"
    with pytest.raises(ImageError, match=rule):
        zscore(image, where="a.nii")
    with pytest.raises(ImageError, match=rule):
        zscore(image, np.zeros(image.shape, bool), where="a.nii")
    with pytest.raises(ImageError, match=rule):
        window(image, 0, 1, 0, 1, where="a.nii")
    with pytest.raises(ImageError, match=rule):
        unit_range(image, where="a.nii")


def test_several_are_counted() -> None:
    with pytest.raises(ImageError, match="8 voxels of 8 are NaN"):
        zscore(np.full((2, 2, 2), np.nan))


def test_box_of_what_is_not_zero() -> None:
    image = np.zeros((2, 5, 6, 7), np.int16)
    image[0, 1, 2, 3] = -4
    image[1, 3, 2, 5] = 1
    assert nonzero_box(image) == (slice(1, 4), slice(2, 3), slice(3, 6))
    image[0, 4, 5, 6] = image[0, 0, 0, 0] = 1
    assert nonzero_box(image) == (slice(0, 5), slice(0, 6), slice(0, 7))


def test_holes_are_inside_and_bays_are_not() -> None:
    """A shell of 3 x 3 x 3 around a 0; the other channel closes the one door in it."""
    image = np.zeros((2, 5, 5, 5), np.int16)
    image[0, 1:4, 1:4, 1:4] = 7
    cube = image[0] != 0
    image[0, 2, 2, 2] = 0
    assert np.array_equal(inside_of(image), cube)
    image[0, 2, 2, 3] = 0
    assert np.array_equal(inside_of(image), image[0] != 0), "open to the outside"
    image[1, 2, 2, 3] = -1
    assert np.array_equal(inside_of(image), cube)


def test_box_of_an_empty_volume_is_all_of_it() -> None:
    assert nonzero_box(np.zeros((1, 2, 3, 4))) == (slice(0, 2), slice(0, 3), slice(0, 4))
