"""A mask -> polygons that paint it back: what an annotator corrects in labelme, in place of drawing.

labelme knows no holes and paints shape over shape by Pillow's rule (`medseg.rasterise`): corners are cut off to whole pixels, the inside
is filled by the even-odd rule, and the outline is drawn, too. So an outline runs through the middles of a region's own border pixels,
not along the half-pixel isoline around it. A class inside another is painted over it, later; background inside a class is cut out by a
key-hole: a slit, walked both ways, joins the inner ring to the outer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medseg.rasterise import Point, Shape, draw
from medseg.types import Size

if TYPE_CHECKING:
    from medseg.labels import LabelSet

TOLERANCE_PX = 0.5
LEAST_IOU = 0.99
FINEST_PX = 0.1  # a tolerance below it moves no corner that a whole one does not: it becomes 0
LABELME_VERSION = "5.5.0"  # whose keys are written; 3.x to 6.x read them
MIDDLE_PX, ASIDE_PX = 0.5, 0.25
ALL_AROUND = np.ones((3, 3), bool)  # a region's pixels touch by edges or corners, as an outline's do; a hole's by edges


class Outline(NamedTuple):
    """A region's outline as labelme paints it.

    name: its class.  points: (x, y) in px, at least three, the middles of pixels; the corner (0, 0) is that of the image.
    tolerance_px: how far the polygon may pass by the region's border pixels; 0 is all of them.
    """

    name: str
    points: tuple[Point, ...]
    tolerance_px: float


class _Region(NamedTuple):
    """The pixels of one class that touch: bool (h, w) crops with their corner.  filled: with every hole that is not cut out."""

    class_id: int
    top: int
    left: int
    pixels_hw: np.ndarray
    filled_hw: np.ndarray


class _Path(NamedTuple):
    """A closed walk over border pixels, int (N, 2) rows and columns of the image.  kept: bool (N,), what no simplification may drop."""

    class_id: int
    walk_N2: np.ndarray
    kept_N: np.ndarray


def outlines(mask_HW: np.ndarray, labels: LabelSet, tolerance_px: float = TOLERANCE_PX, least_iou: float = LEAST_IOU) -> list[Outline]:
    """The outlines of every class but background, in the order in which they are to be painted: the larger first.

    mask_HW: class ids, uint8.  Corners are left out where the polygon stays within `tolerance_px` of the border (Douglas and Peucker 1973).
    A class that would not come back with an IoU of `least_iou` is given half the tolerance, and so on down to 0; where that is not
    enough, because another class reaches into it, all classes are. At 0 the mask comes back pixel by pixel.

    Nothing is left out, so the time has no bound but the mask's own: about a millisecond a region, and less a hole. Noise of four classes
    on 256 x 256, enlarged to 1024 x 1024, is 12,000 regions; without the smallest ones its classes would not come back. Who must
    answer in time asks `pieces` first.
    """
    assert mask_HW.ndim == 2 and tolerance_px >= 0, (mask_HW.shape, tolerance_px)
    paths = [_path(region) for region in _regions(mask_HW, len(labels.names))]
    tolerances = dict.fromkeys((path.class_id for path in paths), tolerance_px)
    found = [_outline(path, labels, tolerance_px) for path in paths]
    while failing := [each for each, iou in ious(mask_HW, painted(found, labels, mask_HW.shape)).items() if iou < least_iou]:
        halved = {each for each in failing if tolerances.get(each)} or {each for each in tolerances if tolerances[each]}
        assert halved, "whole outlines paint the mask itself"
        tolerances |= {each: _halved(tolerances[each]) for each in halved}
        found = [
            _outline(path, labels, tolerances[path.class_id]) if path.class_id in halved else one
            for path, one in zip(paths, found, strict=True)
        ]
    return found


def pieces(mask_HW: np.ndarray, classes: int) -> int:
    """How many regions the classes and the background have: a bound of outlines and holes, without finding them. 0 <= ids < classes."""
    from scipy.ndimage import label

    return sum(label(mask_HW == class_id, ALL_AROUND if class_id else None)[1] for class_id in range(classes))


def _halved(tolerance_px: float) -> float:
    return tolerance_px / 2 if tolerance_px / 2 >= FINEST_PX else 0.0


def painted(found: Sequence[Outline], labels: LabelSet, size: Sequence[int]) -> np.ndarray:
    """The mask that an import makes of outlines: uint8 (H, W)."""
    return draw([(Shape(one.name, "polygon", one.points), labels.id_of(one.name)) for one in found], Size(*size))


def ious(wanted_HW: np.ndarray, found_HW: np.ndarray) -> dict[int, float]:
    """Class id -> IoU of two masks, of each class but background that either holds; in [0, 1]."""
    both = np.bincount(wanted_HW[wanted_HW == found_HW], minlength=256)
    either = np.bincount(wanted_HW.ravel(), minlength=256) + np.bincount(found_HW.ravel(), minlength=256) - both
    return {class_id: float(both[class_id] / either[class_id]) for class_id in range(1, 256) if either[class_id]}


def labelme_shapes(found: Sequence[Outline]) -> list[dict[str, Any]]:
    """The `shapes` of a labelme file, as labelme itself writes them."""
    return [
        {
            "label": one.name, "points": [list(point) for point in one.points], "group_id": None, "description": "",
            "shape_type": "polygon", "flags": {}, "mask": None,
        }
        for one in found
    ]  # fmt: skip


def labelme_content(found: Sequence[Outline], image_path: str, size: Size, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """A whole labelme file, to be written as JSON.

    image_path: the photograph, relative to the file's folder.  size: that of the upright photograph, which labelme refuses where it is
    another.  more: further keys, which labelme keeps when it saves (its `other_data`).
    """
    return {
        "version": LABELME_VERSION, "flags": {}, "shapes": labelme_shapes(found), "imagePath": image_path, "imageData": None,
        "imageHeight": size.height_px, "imageWidth": size.width_px, **(more or {}),
    }  # fmt: skip


# --- regions


def _regions(mask_HW: np.ndarray, classes: int) -> list[_Region]:
    """Every region, larger ones first, with its holes filled where all in them is painted later."""
    found = [region for class_id in range(1, classes) for region in _of_class(mask_HW == class_id, class_id)]
    found.sort(key=lambda region: -int(region.filled_hw.sum()))  # what lies in a hole has less area than what is around it
    order_HW = np.full(mask_HW.shape, -1, np.int32)
    for place, region in enumerate(found):
        _crop(order_HW, region)[region.pixels_hw] = place
    return [_with_holes(region, _crop(order_HW, region) > place) for place, region in enumerate(found)]


def _crop(array_HW: np.ndarray, region: _Region) -> np.ndarray:
    height, width = region.pixels_hw.shape
    return array_HW[region.top : region.top + height, region.left : region.left + width]


def _of_class(pixels_HW: np.ndarray, class_id: int) -> list[_Region]:
    from scipy.ndimage import find_objects, label

    numbers_HW, _ = label(pixels_HW, ALL_AROUND)
    crops = ((place, numbers_HW[place] == number) for number, place in enumerate(find_objects(numbers_HW), start=1))
    return [_Region(class_id, rows.start, columns.start, crop, _filled(crop)) for (rows, columns), crop in crops]


def _filled(pixels_hw: np.ndarray) -> np.ndarray:
    """With all its holes. On small regions many times as fast as `scipy.ndimage.binary_fill_holes`, and a mask may have thousands."""
    from scipy.ndimage import label

    framed = np.ones([side + 2 for side in pixels_hw.shape], bool)
    framed[1:-1, 1:-1] = ~pixels_hw
    numbers, _ = label(framed)
    return np.asarray(numbers[1:-1, 1:-1] != numbers[0, 0])


def _with_holes(region: _Region, later_hw: np.ndarray) -> _Region:
    """The region with those holes left open in which a pixel is background, or painted before it."""
    from scipy.ndimage import label

    holes_hw = region.filled_hw & ~region.pixels_hw
    if not holes_hw.any():
        return region
    numbers_hw, _ = label(holes_hw)
    open_ = np.unique(numbers_hw[(numbers_hw > 0) & ~later_hw])
    return region._replace(filled_hw=region.filled_hw & ~np.isin(numbers_hw, open_[open_ > 0]))


# --- walks


def _path(region: _Region) -> _Path:
    """The region's outer ring with the ring of each open hole let in where a slit to the left meets what is there already.

    The walk is a linked list until all holes are in it: thousands of them would else each copy all of it.
    """
    outer, *holes = _rings(region.filled_hw)
    outer = np.roll(outer, -int(((outer - outer.mean(axis=0)) ** 2).sum(axis=1).argmax()), axis=0)  # no simplification drops the first
    walks, after, kept, count = [outer], [*range(1, len(outer)), -1], [], len(outer)
    place_hw = np.full(region.filled_hw.shape, -1)  # where in the walks a pixel is
    place_hw[tuple(outer.T)] = np.arange(len(outer))
    for hole in holes:
        meets = _left_of(hole[0], region.filled_hw)
        aside = np.concatenate([hole, hole[:1], [meets]])
        place, last = int(place_hw[meets]), count + len(aside) - 1
        place_hw[tuple(hole.T)] = np.arange(count, count + len(hole))
        after += [*range(count + 1, last + 1), after[place]]
        after[place] = count
        kept += [place, count, last - 1, last]
        walks.append(aside)
        count = last + 1
    order, held = _followed(after), np.zeros(count, bool)
    held[kept] = True
    return _Path(region.class_id, np.concatenate(walks)[order] + (region.top, region.left), held[order])


def _rings(filled_hw: np.ndarray) -> list[np.ndarray]:
    """int (N, 2) each: the region's pixels along its outer edge, then around each hole, from left to right and from a leftmost pixel on.

    An isoline at a level above 0.5 lies nearer to the middles of the region's own pixels: outwards of them, and within a hole.
    """
    from skimage.measure import find_contours

    framed = np.zeros([side + 2 for side in filled_hw.shape])
    framed[1:-1, 1:-1] = filled_hw
    lines = sorted(find_contours(framed, 0.75, fully_connected="high"), key=lambda line: float(line[:, 1].min()))
    return [_ring(line) for line in lines]


def _ring(line: np.ndarray) -> np.ndarray:
    """The pixels that an isoline, whose first point is its last, passes by. One step is one pixel."""
    ring = np.rint(line).astype(np.int64) - 1
    moved = (ring[1:] != ring[:-1]).any(axis=1)
    ring = ring[1:][moved] if moved.any() else ring[:1]
    first = int(ring[:, 1].argmin())
    return np.concatenate([ring[first:], ring[:first]])


def _left_of(pixel: np.ndarray, filled_hw: np.ndarray) -> tuple[int, int]:
    """Where a slit through the region's pixels to the left comes to an end: at a pixel of a ring further left."""
    row, column = int(pixel[0]), int(pixel[1])
    free = np.flatnonzero(~filled_hw[row, :column])
    return row, int(free[-1]) + 1 if len(free) else 0


def _followed(after: Sequence[int]) -> list[int]:
    """The places of a linked list in its order, from 0 to the one that -1 comes after."""
    order = [0]
    while (place := after[order[-1]]) >= 0:
        order.append(place)
    return order


# --- polygons


def _outline(path: _Path, labels: LabelSet, tolerance_px: float) -> Outline:
    return Outline(labels.names[path.class_id], _points(_simplified(path, tolerance_px)), tolerance_px)


def _simplified(path: _Path, tolerance_px: float) -> np.ndarray:
    """int (N, 2): the corners that are left, of each piece between those that are kept, its ends too."""
    bent = path.kept_N | _bends(path.walk_N2)
    bent[0] = True
    closed, kept = np.concatenate([path.walk_N2[bent], path.walk_N2[:1]]), path.kept_N[bent]
    ends = np.unique([0, *np.flatnonzero(kept), len(closed) - 1]).tolist()
    return closed[_corners(closed.tolist(), ends, tolerance_px)[:-1]]


def _corners(points: Sequence[Sequence[int]], ends: Sequence[int], tolerance_px: float) -> list[int]:
    """The places of `ends`, and between each two those of the points without which some point would be over `tolerance_px` from the line.

    Douglas and Peucker (1973). `skimage.measure.approximate_polygon` finds the same, in forty calls of numpy a corner, which takes
    several times as long on the few points between two corners of an outline.
    """
    found, waiting = set(ends), list(zip(ends, ends[1:], strict=False))
    while waiting:
        first, last = waiting.pop()
        farthest = _farthest(points, first, last, tolerance_px**2)
        if farthest is not None:
            found.add(farthest)
            waiting += [(first, farthest), (farthest, last)]
    return sorted(found)


def _farthest(points: Sequence[Sequence[int]], first: int, last: int, beyond_px2: float) -> int | None:
    """The point farthest from the line between two others, None where none is further than the root of `beyond_px2`."""
    (y0, x0), (y1, x1) = points[first], points[last]
    dy, dx = y1 - y0, x1 - x0
    length2, found = dy * dy + dx * dx, None
    for place in range(first + 1, last):
        y, x = points[place][0] - y0, points[place][1] - x0
        along = y * dy + x * dx
        if along <= 0:
            distance2: float = y * y + x * x
        elif along >= length2:
            distance2 = (y - dy) ** 2 + (x - dx) ** 2
        else:
            distance2 = (y * dx - x * dy) ** 2 / length2
        if distance2 > beyond_px2:
            beyond_px2, found = distance2, place
    return found


def _bends(walk_N2: np.ndarray) -> np.ndarray:
    """bool (N,): where a walk changes its direction; the other points say nothing, even at a tolerance of 0."""
    steps = np.roll(walk_N2, -1, axis=0) - walk_N2
    return np.any(steps != np.roll(steps, 1, axis=0), axis=1)


def _points(corners: np.ndarray) -> tuple[Point, ...]:
    """At least three points in the middles of their pixels. Where a walk comes back to its first pixel it is a little aside, in the same
    pixel: labelme before 6 takes the first point, met again, for the end of the polygon."""
    padded = np.concatenate([corners, np.repeat(corners[-1:], max(0, 3 - len(corners)), axis=0)])
    again = np.all(padded == padded[0], axis=1) & (np.arange(len(padded)) > 0)
    steps = np.cumsum(again) * again
    shift = np.where(again[:, None], np.where(steps[:, None] % 2 == [1, 0], ASIDE_PX, -ASIDE_PX), 0.0)
    return tuple((float(x), float(y)) for x, y in (padded + MIDDLE_PX + shift)[:, ::-1])
