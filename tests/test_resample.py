"""Resampling against skimage's resize, which nnU-Net calls, against slow oracles, and by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from skimage.transform import resize

from medseg.resample import coarse_axis, grid_shape, linear_slabs, resample_image, resample_labels, resample_linear

SHAPES = [
    ((13, 17, 9), (13, 24, 6)),
    ((8, 9, 10), (20, 5, 11)),
    ((1, 7, 30), (4, 1, 30)),
    ((70, 5, 6), (140, 5, 7)),
    ((9, 9, 9), (1, 1, 1)),
]


def noise(*shape: int) -> np.ndarray:
    """Harder on a spline than any image: each voxel on its own."""
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def labels(*shape: int, classes: int = 4) -> np.ndarray:
    """Blobs: the class whose smooth field is the highest."""
    coarse = np.random.default_rng(1).normal(size=(classes, *(max(1, side // 4) for side in shape)))
    return np.stack([resize(field, shape, 1) for field in coarse]).argmax(0).astype(np.uint8)


def by_skimage(volume: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    return resize(volume.astype(np.float64), shape, order, mode="edge", anti_aliasing=False, clip=True)


def nearest(old: int, new: int) -> np.ndarray:
    """The slice whose extent holds the new slice's centre; the upper one on a border."""
    return np.clip(np.floor((np.arange(new) + 0.5) * old / new), 0, old - 1).astype(int)


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_images_as_skimage_resizes_them(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    image = noise(2, *old)
    resampled = resample_image(image, new)
    assert resampled.dtype == np.float32 and resampled.shape == (2, *new)
    for channel, source in zip(resampled, image, strict=True):
        assert np.abs(channel - by_skimage(source, new, 3)).max() < 1e-5


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), SHAPES[:2])
def test_slices_of_a_coarse_axis_stay_apart(old: tuple[int, int, int], new: tuple[int, int, int], axis: int) -> None:
    """Each slice resized on its own, clipped on its own, then the nearest one taken."""
    image = noise(1, *old)
    plane = new[:axis] + new[axis + 1 :]
    slices = np.stack([by_skimage(one, plane, 3) for one in np.moveaxis(image[0], axis, 0)], axis)
    expected = slices.take(nearest(old[axis], new[axis]), axis)
    assert np.abs(resample_image(image, new, axis)[0] - expected).max() < 1e-5


def test_values_stay_within_what_they_were() -> None:
    image = np.zeros((1, 12, 12, 12), np.int16)
    image[0, 6:] = 1000
    resampled = resample_image(image, (31, 12, 12))
    assert (resampled.min(), resampled.max()) == (0, 1000)
    assert resample_image(np.full((1, 5, 6, 7), 0.1, np.float32), (9, 4, 11)).tolist() == np.full((1, 9, 4, 11), np.float32(0.1)).tolist()


def test_the_same_shape_is_the_same_volume() -> None:
    image, mask = noise(2, 5, 6, 7), labels(5, 6, 7)
    assert np.array_equal(resample_image(image, (5, 6, 7)), image) and np.array_equal(resample_image(image, (5, 6, 7), 0), image)
    assert np.array_equal(resample_linear(image, (5, 6, 7)), image)
    assert np.array_equal(resample_labels(mask, (5, 6, 7), None, range(4)), mask)
    assert not np.shares_memory(resample_labels(mask, (5, 6, 7), None, range(4)), mask)


def test_views_are_taken() -> None:
    """`Turn.forward` gives views that run backwards."""
    image, mask = noise(1, 9, 6, 7), labels(9, 6, 7)
    straight, turned = image[:, ::-1].transpose(0, 3, 2, 1), mask[::-1].transpose(2, 1, 0)
    assert np.array_equal(resample_image(straight, (8, 8, 8)), resample_image(straight.copy(), (8, 8, 8)))
    assert np.array_equal(resample_linear(straight, (8, 8, 8)), resample_linear(straight.copy(), (8, 8, 8)))
    assert np.array_equal(resample_labels(turned, (8, 8, 8), 0, range(4)), resample_labels(turned.copy(), (8, 8, 8), 0, range(4)))


# --- labels


def voted(mask: np.ndarray, shape: tuple[int, int, int], classes: int) -> np.ndarray:
    """The oracle: every class's share of the whole volume, in float64; rounded, so that equal shares are equal."""
    return np.stack([by_skimage(mask == class_id, shape, 1) for class_id in range(classes)]).round(6).argmax(0)


@pytest.mark.parametrize(("old", "new"), [((40, 37, 50), (70, 20, 61)), ((12, 70, 9), (6, 140, 9)), ((1, 7, 30), (4, 1, 31))])
def test_labels_by_the_largest_share(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    mask = labels(*old)
    resampled = resample_labels(mask, new, None, range(4))
    assert resampled.dtype == np.uint8
    assert np.array_equal(resampled, voted(mask, new, 4))


def test_labels_take_the_nearest_slice_along_a_coarse_axis() -> None:
    mask = labels(11, 30, 28)
    slices = np.stack([voted(plane[None], (1, 41, 20), 4)[0] for plane in mask])
    assert np.array_equal(resample_labels(mask, (26, 41, 20), 0, range(4)), slices[nearest(11, 26)])
    assert np.array_equal(resample_labels(mask, (4, 41, 20), 0, range(4)), slices[nearest(11, 4)])


def test_equal_shares_go_to_the_lower_id() -> None:
    """Halved, each voxel is shared by two."""
    assert resample_labels(np.array([[[1, 2, 5, 3]]], np.uint8), (1, 1, 2), None, range(6)).tolist() == [[[1, 3]]]
    assert resample_labels(np.array([[[2, 1, 255, 7]]], np.uint8), (1, 1, 2), None, (1, 2, 7, 255)).tolist() == [[[1, 7]]]


def test_rounding_breaks_no_tie() -> None:
    """Thirds and sixths, which are none in float32: a class in several pieces must not lose to the same share in one."""
    mask = np.random.default_rng(2).integers(0, 3, (9, 9, 9)).astype(np.uint8)
    assert np.array_equal(resample_labels(mask, (27, 27, 27), None, range(3)), voted(mask, (27, 27, 27), 3))
    assert np.array_equal(resample_labels(mask, (6, 6, 6), None, range(3)), voted(mask, (6, 6, 6), 3))


def test_no_class_is_invented() -> None:
    """Between 1 and 3 lies no 2, as an interpolated id would be; and no 0, as nnU-Net wrote where no share reached a half."""
    mask = np.repeat([1, 3], 8).astype(np.uint8).reshape(1, 1, 16)
    assert set(np.unique(resample_labels(mask, (1, 1, 37), None, (1, 3)))) == {1, 3}
    corner = np.array([[[1, 2], [3, 3]]], np.uint8)
    assert 0 not in resample_labels(corner, (1, 7, 7), None, (0, 1, 2, 3))


def test_an_unknown_id_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match=r"the mask holds ids \[0, 5\], known are \[0, 1\]"):
        resample_labels(np.array([[[0, 5]]], np.uint8), (1, 1, 3), None, (0, 1))


# --- probabilities


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_linear_as_skimage_resizes_it(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    array = noise(3, *old)
    resampled = resample_linear(array, new)
    assert resampled.dtype == np.float32
    assert np.abs(resampled - np.stack([by_skimage(channel, new, 1) for channel in array])).max() < 1e-5


def test_linear_by_hand() -> None:
    """Half-pixel centres: of [0, 4] doubled, the new centres lie at -1/4, 1/4, 3/4 and 5/4, the outer ones on the edge's value."""
    assert resample_linear(np.array([[[[0.0, 4.0]]]]), (1, 1, 4)).tolist() == [[[[0, 1, 3, 4]]]]


def test_probabilities_still_sum_to_one() -> None:
    probs = np.exp(noise(5, 9, 11, 12))
    probs /= probs.sum(axis=0)
    assert np.allclose(resample_linear(probs.astype(np.float16), (19, 7, 30)).sum(axis=0), 1, atol=2e-3)
    assert np.allclose(resample_linear(probs, (19, 7, 30)).sum(axis=0), 1, atol=1e-5)


def test_slabs_follow_one_another() -> None:
    array = noise(2, 50, 4, 5)
    slabs = list(linear_slabs(array, (80, 3, 5)))
    assert [rows for rows, _ in slabs] == [slice(0, 32), slice(32, 64), slice(64, 80)]
    assert np.array_equal(np.concatenate([slab for _, slab in slabs], axis=1), resample_linear(array, (80, 3, 5)))


# --- shapes and the coarse axis


def test_shapes_round_as_nnunet() -> None:
    assert grid_shape((35, 51, 35), (1.0, 1.0, 1.0), (2.0, 2.0, 0.7)) == (18, 26, 50)  # 17.5 and 25.5 to even
    assert grid_shape((1, 3, 100), (1.0, 1.0, 1.0), (9.0, 9.0, 1.0)) == (1, 1, 100)


@pytest.mark.parametrize(
    ("spacing_mm", "target_mm", "axis"),
    [
        ((5.0, 0.8, 0.8), (1.0, 1.0, 1.0), 0),
        ((0.8, 0.8, 5.0), (1.0, 1.0, 1.0), 2),
        ((1.0, 1.0, 1.0), (0.7, 3.0, 0.7), 1),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),  # three times is not more than three times
        ((4.0, 4.0, 1.0), (5.0, 1.0, 1.0), None),  # two coarse axes, and the target is not asked then
        ((4.0, 4.0000002, 1.0), (1.0, 1.0, 1.0), None),  # the same two, from an affine
        ((1.0, 2.0, 2.5), (1.0, 1.0, 1.0), None),
    ],
)  # fmt: skip
def test_the_coarse_axis(spacing_mm: tuple[float, ...], target_mm: tuple[float, ...], axis: int | None) -> None:
    assert coarse_axis(spacing_mm, target_mm) == axis


# --- memory


def test_images_take_a_few_times_their_own_memory() -> None:
    image = np.zeros((1, 60, 128, 128), np.int16)
    resample_image(image[:, :2, :4, :4], (3, 3, 3))  # imports and caches
    tracemalloc.start()
    resampled = resample_image(image, (60, 160, 160))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * resampled.nbytes


def test_labels_take_little_more_than_the_result() -> None:
    """Twelve classes: as many volumes of shares would take 48 times the result."""
    mask = np.arange(72, dtype=np.uint8).repeat(72 * 72).reshape(72, 72, 72) // 6
    tracemalloc.start()
    resampled = resample_labels(mask, (90, 90, 90), None, range(12))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * resampled.nbytes
