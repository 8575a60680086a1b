"""Shapes -> pixels: equal to labelme's rule as tests/oracles.py states it, for every kind of shape."""

from __future__ import annotations

import base64
import io
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg import rasterise
from medseg.rasterise import Shape, corners, draw, packed, patches
from medseg.types import Size
from tests.oracles import labelme_mask, labelme_shape

SIZE = Size(20, 30)
EXACT = {"rectangle": 2, "oriented_rectangle": 4, "circle": 2, "line": 2, "point": 1}
COORDINATE = st.one_of(st.integers(-40, 60), st.floats(-40, 60, width=32))


@st.composite
def shapes(draw_from: st.DrawFn) -> dict[str, object]:
    """One shape as labelme writes it, of any kind but mask."""
    kind = draw_from(st.sampled_from(["polygon", "linestrip", *EXACT]))
    least, most = (EXACT[kind], EXACT[kind]) if kind in EXACT else (3, 8)
    points = draw_from(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=least, max_size=most))
    label = draw_from(st.sampled_from(["tongue", "coating"]))
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points]}


def shape_of(content: dict) -> Shape:
    return Shape(content["label"], content["shape_type"], tuple((float(x), float(y)) for x, y in content["points"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes(), max_size=6))
def test_masks_and_single_shapes_equal_labelmes(contents):
    ids = {"tongue": 1, "coating": 2}
    found = [shape_of(content) for content in contents]
    mask = draw([(shape, ids[shape.label]) for shape in found], SIZE)
    assert np.array_equal(mask, labelme_mask({"shapes": contents}, ids, *SIZE))
    for content, patch in zip(contents, patches(found, SIZE), strict=True):
        whole = np.zeros(tuple(SIZE), bool)
        height, width = patch.pixels_HW.shape
        whole[patch.top_px : patch.top_px + height, patch.left_px : patch.left_px + width] = patch.pixels_HW
        assert np.array_equal(whole, labelme_shape(content, *SIZE))


@pytest.mark.parametrize("points", [((4.9, 3.9), (8.2, 5.0)), ((4, 3), (8, 5))])
def test_a_bitmap_is_pasted_by_corners_cut_off_towards_zero(points):
    bitmap = np.random.default_rng(0).random((3, 5)) < 0.5
    stream = io.BytesIO()
    Image.fromarray(bitmap.astype(np.uint8)).save(stream, "PNG")
    content = {"label": "tongue", "shape_type": "mask", "points": points, "mask": base64.b64encode(stream.getvalue())}
    shape = Shape("tongue", "mask", points, packed(bitmap))
    assert corners(shape) == (4, 3, 8, 5)
    mask = draw([(shape, 1)], SIZE)
    assert np.array_equal(mask[3:6, 4:9], bitmap) and mask.sum() == bitmap.sum()
    assert np.array_equal(mask, labelme_mask({"shapes": [content]}, {"tongue": 1}, *SIZE))


def test_later_shapes_lie_over_earlier_ones():
    box = ((2.0, 2.0), (6.0, 6.0))
    assert set(np.unique(draw([(Shape("a", "rectangle", box), 1), (Shape("b", "rectangle", box), 2)], SIZE))) == {0, 2}


@pytest.mark.parametrize("place", [(-500.0, 5.0), (500.0, 5.0), (5.0, -500.0), (5.0, 500.0)])
def test_a_shape_outside_the_image_paints_nothing(place):
    assert not draw([(Shape("a", "point", (place,)), 1)], SIZE).any()


FAR = 1e6  # as far as an importer lets a point lie


def seconds_in_a_process_of_its_own(shape: Shape) -> float:
    """Pillow holds the interpreter while it draws, so a shape that never ends can only be stopped from outside."""
    code = "from medseg.rasterise import Shape, draw\nfrom medseg.types import Size\nimport time\nstart = time.perf_counter()\n"
    code += f"draw([({shape!r}, 1)], Size(64, 64))\nprint(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=20).stdout)


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("circle", ((5.0, 5.0), (900_000.0, 5.0))),
        ("circle", ((-FAR, -FAR), (FAR, FAR))),
        ("line", ((-FAR, -FAR), (FAR, FAR))),
        ("linestrip", ((-FAR, 5.0), (FAR, 6.0), (5.0, -FAR), (5.0, FAR))),
        ("rectangle", ((-FAR, -FAR), (FAR, FAR))),
        ("oriented_rectangle", ((0.0, -FAR), (FAR, 0.0), (0.0, FAR), (-FAR, 0.0))),
        ("polygon", ((-FAR, -FAR), (FAR, 3.0), (0.0, FAR))),
        ("point", ((-FAR, 5.0),)),
    ],
)
def test_far_points_do_not_take_long(kind, points):
    assert seconds_in_a_process_of_its_own(Shape("a", kind, points)) < 2


@pytest.mark.parametrize("angle", range(7, 360, 15))
@pytest.mark.parametrize("radius", [3_000.3, 90_000.0, 590_000.7])
def test_a_huge_disc_is_pillows_where_pillow_draws_it(monkeypatch, radius, angle):
    """The edge crosses the image at the angle; both ways give the same pixels, across tiles too."""
    size, edge = Size(80, 90), (43.3, 41.7)
    centre = (edge[0] - radius * math.cos(math.radians(angle)), edge[1] - radius * math.sin(math.radians(angle)))
    shape = Shape("a", "circle", (centre, edge))
    by_pillow = draw([(shape, 1)], size)
    monkeypatch.setattr(rasterise, "PILLOW_RADIUS_PX", 1)
    monkeypatch.setattr(rasterise, "TILE", 32)
    assert 0.1 < by_pillow.mean() < 0.9 and np.array_equal(draw([(shape, 1)], size), by_pillow)


@pytest.mark.parametrize(("centre", "whole"), [((5.0, 5.0), True), ((-900_000.0, 40.0), False)])
def test_a_circle_beyond_pillow_is_filled_up_to_its_edge(centre, whole):
    edge = (50.0, 40.0) if not whole else (900_000.0, 5.0)
    mask = draw([(Shape("a", "circle", (centre, edge)), 1)], Size(80, 90))
    assert mask.all() if whole else (mask[:, :50].all() and mask[40, 50] and not mask[:, 51:].any())
