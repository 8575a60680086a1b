"""Shapes -> masks by the annotation tool's own rule.

labelme draws each shape by Pillow's ImageDraw (outline and fill), in the order of the file, later shapes over earlier ones
(labelme/utils/shape.py, `shape_to_mask`). Drawing an id straight into the class mask paints the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from medseg.types import Size

Point = tuple[float, float]
LINE_WIDTH_PX = 10  # labelme's line_width
POINT_RADIUS_PX = 5  # labelme's point_size
MIN_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1}


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotated shape: its class, its kind (a key of MIN_POINTS) and its (x, y) points in pixels."""

    label: str
    kind: str
    points: tuple[Point, ...]


def draw(shapes: Iterable[tuple[Shape, int]], size: Size) -> np.ndarray:
    """Paint (shape, class id) pairs in order onto background 0; uint8 (H, W)."""
    canvas = Image.new("L", (size.width_px, size.height_px), 0)
    pen = ImageDraw.Draw(canvas)
    for shape, class_id in shapes:
        _paint(pen, shape, class_id)
    return np.array(canvas)


def _paint(pen: ImageDraw.ImageDraw, shape: Shape, value: int) -> None:
    points = list(shape.points)
    if shape.kind == "polygon":
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
