"""Outlines: what labelme paints of them is the mask they were taken from, exactly at a tolerance of 0 and to an IoU of 0.99 else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import approximate_polygon

from medseg.labels import LabelSet
from medseg.outlines import Outline, ious, labelme_content, outlines, painted
from medseg.types import Size
from tests.oracles import labelme_mask

LABELS = LabelSet.of("tongue", "coating", "lesion")
Y, X = np.mgrid[:60, :80]


def blank() -> np.ndarray:
    return np.zeros((60, 80), np.uint8)


def disc(y: float, x: float, radius: float) -> np.ndarray:
    return np.asarray((Y - y) ** 2 + (X - x) ** 2 <= radius**2)


def nested() -> np.ndarray:
    """Coating in the tongue, a lesion in the coating, a bit of tongue in the lesion."""
    mask = blank()
    for class_id, radius in ((1, 28), (2, 20), (3, 11), (1, 4)):
        mask[disc(30, 40, radius)] = class_id
    return mask


def ring() -> np.ndarray:
    mask = blank()
    mask[disc(30, 40, 25) & ~disc(30, 40, 12)] = 1
    return mask


def holes_behind_holes() -> np.ndarray:
    """Four holes in a row, so that the slit of one ends at another; one holds another class and background."""
    mask = blank()
    mask[5:55, 5:75] = 2
    for x in (15, 30, 45, 60):
        mask[disc(30, x, 5)] = 0
    mask[disc(30, 45, 3)] = 3
    mask[20:24, 30:50] = 0
    return mask


def hole_with_a_class_at_its_edge() -> np.ndarray:
    mask = ring()
    mask[30:36, 29:40][mask[30:36, 29:40] == 0] = 2
    return mask


def thin() -> np.ndarray:
    """Lines of one pixel, straight and slanting, that cross, and a spiral."""
    mask = blank()
    mask[10, 5:70] = mask[5:50, 20] = 1
    mask[np.arange(40) + 5, np.arange(40) + 30] = 2
    mask[40:55, 5] = mask[54, 5:30] = mask[44:55, 29] = mask[44, 9:30] = mask[44:51, 9] = 3
    return mask


def specks() -> np.ndarray:
    mask = blank()
    mask[3, 3] = 1
    mask[10, 10:12] = 2
    mask[20:22, 20] = 3
    mask[30, 30] = mask[31, 31] = 1
    mask[0, 0] = mask[59, 79] = mask[0, 79] = mask[59, 0] = 2
    mask[40, 40] = mask[41, 41] = mask[40, 42] = 3
    mask[50:52, 50:52] = 1
    mask[50, 51] = 0
    return mask


def touching() -> np.ndarray:
    mask = blank()
    mask[:, :27], mask[:, 27:53], mask[:, 53:] = 1, 2, 3
    return mask


def checkerboard() -> np.ndarray:
    """Every ring of a class runs through the gaps of another's."""
    return np.where((Y + X) % 2, 1, 2).astype(np.uint8)[:9, :12]


def frame_and_border() -> np.ndarray:
    mask = np.ones((60, 80), np.uint8)
    mask[1:-1, 1:-1] = 0
    mask[20:40, 70:80] = 3
    return mask


def blobs(seed: int, sigma: float, shape: tuple[int, int] = (30, 36)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    fields = [gaussian_filter(generator.normal(size=shape), sigma) for _ in range(4)]
    return np.argmax(fields, axis=0).astype(np.uint8)


SHAPES: list[Callable[[], np.ndarray]] = [
    nested, ring, holes_behind_holes, hole_with_a_class_at_its_edge, thin, specks, touching, checkerboard, frame_and_border, blank,
]  # fmt: skip


def painted_by_labelme(found: list[Outline], shape: tuple[int, int]) -> np.ndarray:
    """By the rule as tests/oracles.py has it, of the file's own content."""
    content = labelme_content(found, "a.jpg", Size(*shape))
    return labelme_mask(content, {name: class_id for class_id, name in LABELS.classes.items()}, *shape)


@pytest.mark.parametrize("tolerance_px", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
def test_shapes_come_back(make: Callable[[], np.ndarray], tolerance_px: float) -> None:
    mask = make()
    found = outlines(mask, LABELS, tolerance_px)
    back = painted_by_labelme(found, mask.shape)
    assert np.array_equal(back, painted(found, LABELS, mask.shape)), "the import paints as labelme does"
    assert min(ious(mask, back).values(), default=1) >= 0.99
    assert tolerance_px or np.array_equal(back, mask), "all corners paint the mask itself"
    assert all(len(outline.points) >= 3 and outline.tolerance_px <= tolerance_px for outline in found)


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_come_back_to_the_pixel(seed: int) -> None:
    mask = blobs(seed, sigma=(0.5, 0.8, 1.2, 2, 3, 5)[seed])
    assert np.array_equal(painted_by_labelme(outlines(mask, LABELS, 0), mask.shape), mask)
    assert min(ious(mask, painted_by_labelme(outlines(mask, LABELS, 0.5), mask.shape)).values()) >= 0.99


def test_a_smooth_outline_needs_few_points_and_a_small_class_gets_more_of_its_own() -> None:
    mask = np.zeros((300, 300), np.uint8)
    y, x = np.mgrid[:300, :300]
    mask[(y - 150) ** 2 + (x - 150) ** 2 < 120**2] = 1
    mask[(y - 150) ** 2 + (x - 140) ** 2 < 6.2**2] = 3
    tongue, lesion = outlines(mask, LABELS, 0.75)
    assert (tongue.name, lesion.name) == ("tongue", "lesion"), "what lies within comes later"
    assert len(tongue.points) < 60 < len(outlines(mask, LABELS, 0)[0].points)
    assert tongue.tolerance_px == 0.75 > lesion.tolerance_px, "one pixel of a lesion is more than a hundredth of it"


@pytest.mark.parametrize("tolerance_px", [0.3, 1.0, 2.0])
def test_no_border_pixel_is_farther_from_its_outline_than_the_tolerance(tolerance_px: float) -> None:
    mask = (blobs(3, 4, (80, 90)) > 1).astype(np.uint8)
    for close, loose in zip(outlines(mask, LABELS, 0), outlines(mask, LABELS, tolerance_px, least_iou=0), strict=True):
        ends = np.array([*loose.points, loose.points[0]])
        starts, steps = ends[:-1], np.diff(ends, axis=0)
        for point in np.array(close.points):
            along = np.clip(((point - starts) * steps).sum(1) / np.maximum((steps**2).sum(1), 1e-9), 0, 1)
            assert np.linalg.norm(starts + along[:, None] * steps - point, axis=1).min() <= tolerance_px + 1e-9
        assert set(loose.points) <= set(close.points)


def test_as_few_corners_are_left_as_scikit_image_leaves() -> None:
    mask = (blobs(4, 6, (90, 90)) == 1).astype(np.uint8)
    for close, loose in zip(outlines(mask, LABELS, 0), outlines(mask, LABELS, 1.0, least_iou=0), strict=True):
        if len(set(close.points)) == len(close.points):  # no slit, whose ends are kept
            theirs = approximate_polygon(np.array([*close.points, close.points[0]]), 1.0)[:-1]
            assert abs(len(loose.points) - max(3, len(theirs))) <= 2, "equal distances may be told apart otherwise"


def test_a_tolerance_is_halved_until_the_class_comes_back() -> None:
    mask = ring()
    loose, close = outlines(mask, LABELS, 3.0, least_iou=0.0), outlines(mask, LABELS, 3.0, least_iou=0.99)
    assert {one.tolerance_px for one in loose} == {3.0}
    assert {one.tolerance_px for one in close} < {3.0 / 2**step for step in range(1, 6)}
    assert ious(mask, painted(loose, LABELS, mask.shape))[1] < 0.99 <= ious(mask, painted(close, LABELS, mask.shape))[1]


def test_a_whole_hole_is_left_to_the_class_in_it_and_background_is_cut_out() -> None:
    full, empty = nested(), ring()
    assert len(outlines(full, LABELS, 0)[0].points) < len(outlines(empty, LABELS, 0)[0].points), "the ring walks around its hole, too"
    covered = painted(outlines(full, LABELS, 0)[:1], LABELS, full.shape)
    assert covered[30, 40] == 1, "the tongue's outline is its outer one alone"


def test_the_first_point_does_not_come_twice() -> None:
    """labelme 3 to 5 drop a point that equals the first one as the end of the polygon."""
    for make in SHAPES:
        for outline in outlines(make(), LABELS, 0):
            assert outline.points.count(outline.points[0]) == 1
    single = next(one for one in outlines(specks(), LABELS) if (3.5, 3.5) in one.points)
    assert len(set(single.points)) == 3 and {(int(x), int(y)) for x, y in single.points} == {(3, 3)}, "three corners of one pixel"


def test_points_are_the_middles_of_border_pixels() -> None:
    mask = blank()
    mask[10:20, 30:50] = 1
    (outline,) = outlines(mask, LABELS)
    assert sorted(outline.points) == [(30.5, 10.5), (30.5, 19.5), (49.5, 10.5), (49.5, 19.5)]


def test_the_file_has_labelmes_keys() -> None:
    content = labelme_content(outlines(ring(), LABELS), "../a.jpg", Size(60, 80), {"more": 1})
    assert set(content) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth", "more"}
    assert (content["imagePath"], content["imageData"], content["imageHeight"], content["imageWidth"]) == ("../a.jpg", None, 60, 80)
    (shape,) = content["shapes"]
    assert set(shape) == {"label", "points", "group_id", "description", "shape_type", "flags", "mask"}
    assert (shape["label"], shape["shape_type"]) == ("tongue", "polygon")
