"""Shapes -> masks by the annotation tool's own rule.

labelme draws each shape by Pillow's ImageDraw (outline and fill) and pastes the bitmaps of `mask` shapes, in the order of the file,
later shapes over earlier ones (labelme/utils/shape.py, `shape_to_mask` and `shapes_to_label`, versions 3.x to 6.3).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from medseg.types import Size

Point = tuple[float, float]
LINE_WIDTH_PX = 10  # labelme's line_width
POINT_RADIUS_PX = 5  # labelme's point_size
# Pillow steps along an ellipse by comparing terms of up to 4 diameter^3 in 64 bits: beyond a radius of 660,000 px they overflow, and it
# steps on for ever. All other shapes it clips to the image before it draws.
PILLOW_RADIUS_PX = 600_000
TILE = 2048  # pixels along a side of a larger circle's part that is worked on at a time
MIN_POINTS = {
    "polygon": 3, "rectangle": 2, "oriented_rectangle": 4, "circle": 2, "line": 2, "linestrip": 2, "point": 1, "mask": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotated shape: its class, its kind (a key of MIN_POINTS) and its (x, y) points in pixels.

    bitmap: of a `mask`, its pixels as `packed` makes them; they fill the box of its two points, both corners in it.  group_id: shapes
    of one label and one group are one object; None is none.
    """

    label: str
    kind: str
    points: tuple[Point, ...]
    bitmap: bytes = b""
    group_id: str | None = None


class Patch(NamedTuple):
    """The pixels of one shape: bool (H', W'), its corner at (top_px, left_px) of the image."""

    top_px: int
    left_px: int
    pixels_HW: np.ndarray


def packed(bitmap_HW: np.ndarray) -> bytes:
    """A bool bitmap in few bytes, for a Shape; thousands of them wait in memory."""
    return zlib.compress(np.packbits(bitmap_HW).tobytes())


def corners(shape: Shape) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a `mask` shape, both ends in it: labelme cuts its corners off towards 0."""
    (x0, y0), (x1, y1) = shape.points
    return int(x0), int(y0), int(x1), int(y1)


def draw(shapes: Iterable[tuple[Shape, int]], size: Size) -> np.ndarray:
    """Paint (shape, class id) pairs in order onto background 0; uint8 (H, W)."""
    mask_HW = np.zeros(tuple(size), np.uint8)
    pairs = list(shapes)
    for (_, class_id), patch in zip(pairs, patches((shape for shape, _ in pairs), size), strict=True):
        paint(mask_HW, patch, class_id)
    return mask_HW


def paint(mask_HW: np.ndarray, patch: Patch, class_id: int) -> None:
    """Set the pixels of one shape in a mask, in place."""
    height, width = patch.pixels_HW.shape
    mask_HW[patch.top_px : patch.top_px + height, patch.left_px : patch.left_px + width][patch.pixels_HW] = class_id


def patches(shapes: Iterable[Shape], size: Size) -> Iterator[Patch]:
    """The pixels of each shape by itself, clipped to the image; they may be none. One canvas serves all, so memory stays at one."""
    canvas = Image.new("L", (size.width_px, size.height_px), 0)
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        if shape.kind == "mask":
            yield _pasted(shape)
            continue
        box = _reach(shape, size)
        if shape.kind == "circle" and math.dist(*shape.points) > PILLOW_RADIUS_PX:
            yield _disc(shape, box)
            continue
        _paint(pen, shape)
        yield Patch(box[1], box[0], np.asarray(canvas.crop(box)) != 0)
        canvas.paste(0, box)


def _pasted(shape: Shape) -> Patch:
    left, top, right, bottom = corners(shape)
    height, width = bottom - top + 1, right - left + 1
    bits = np.unpackbits(np.frombuffer(zlib.decompress(shape.bitmap), np.uint8), count=height * width)
    return Patch(top, left, bits.reshape(height, width).astype(bool))


def _reach(shape: Shape, size: Size) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) that holds all a shape paints, right and bottom beyond it; clipped to the image."""
    margin = LINE_WIDTH_PX + 2.0
    if shape.kind == "circle":
        margin += math.dist(*shape.points)
    (left, right), (top, bottom) = (
        (min(max(math.floor(min(values) - margin), 0), end), min(max(math.ceil(max(values) + margin), 0), end))
        for values, end in zip(zip(*shape.points, strict=True), (size.width_px, size.height_px), strict=True)
    )
    return left, top, right, bottom


def _disc(shape: Shape, box: tuple[int, int, int, int]) -> Patch:
    """The pixels of a circle by its equation, where Pillow cannot draw it; by tiles, so that memory stays at one canvas."""
    left, top, right, bottom = box
    place = tuple(map(int, _box(shape.points[0], math.dist(*shape.points))))  # Pillow cuts the corners off towards 0
    pixels_HW = np.empty((max(bottom - top, 0), max(right - left, 0)), bool)
    for y in range(0, pixels_HW.shape[0], TILE):
        for x in range(0, pixels_HW.shape[1], TILE):
            tile_HW = pixels_HW[y : y + TILE, x : x + TILE]
            rows, columns = top + y + np.arange(tile_HW.shape[0]), left + x + np.arange(tile_HW.shape[1])
            tile_HW[:] = _in_ellipse(rows, columns, *place)
    return Patch(top, left, pixels_HW)


def _in_ellipse(rows: np.ndarray, columns: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """bool (rows, columns). As Pillow's, the edge goes to the nearest pixel of a row where it is steep, of a column where it is flat."""
    (first, last), (highest, lowest) = _ends(rows, y0, y1, x0, x1), _ends(columns, x0, x1, y0, y1)
    by_row = (columns >= first[:, None]) & (columns <= last[:, None])
    by_column = (rows[:, None] >= highest) & (rows[:, None] <= lowest)
    return np.asarray(by_row | by_column)


def _ends(along: np.ndarray, a0: int, a1: int, b0: int, b1: int) -> tuple[np.ndarray, np.ndarray]:
    """(first, last) pixel across an ellipse at each place `along` it, to the nearest; first > last outside.

    It reaches from a0 to a1 along and from b0 to b1 across.
    """
    length, width = a1 - a0, b1 - b0
    place = (2 * (along - a0) - length) / length  # -1 at one end, 1 at the other
    reach = np.rint((width * np.sqrt(np.clip(1 - place**2, 0, None)) - width % 2) / 2).astype(np.int64)
    inside = np.abs(place) <= 1
    return np.where(inside, b0 + width // 2 - reach, 1), np.where(inside, b0 + (width + 1) // 2 + reach, 0)


def _paint(pen: ImageDraw.ImageDraw, shape: Shape, value: int = 1) -> None:
    points = list(shape.points)
    if shape.kind in ("polygon", "oriented_rectangle"):
        pen.polygon(points, outline=value, fill=value)
    elif shape.kind == "rectangle":
        (x0, y0), (x1, y1) = points[:2]
        pen.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], outline=value, fill=value)
    elif shape.kind == "circle":
        radius = math.dist(points[0], points[1])
        pen.ellipse(_box(points[0], radius), outline=value, fill=value)
    elif shape.kind == "point":
        pen.ellipse(_box(points[0], POINT_RADIUS_PX), outline=value, fill=value)
    else:
        pen.line(points, fill=value, width=LINE_WIDTH_PX)


def _box(centre: Point, radius: float) -> list[float]:
    return [centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius]
