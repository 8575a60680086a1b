"""Objects as run-length codes: equal to pycocotools', and hostile ones refused before its C code sees them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_rle

from medseg.errors import AnnotationError, ManifestError
from medseg.instances import (
    FoundObject,
    Instance,
    checked_counts,
    class_mask,
    counts_of,
    decode,
    encode_patch,
    paint_counts,
    painted,
    patch_of,
    read_instances,
    united,
    write_instances,
)
from medseg.types import Size

SIZE = Size(20, 30)


@st.composite
def placed(draw: st.DrawFn) -> tuple[np.ndarray, int, int, Size]:
    """A bitmap, its place, the image's size."""
    height, width, top, left, below, right = (draw(st.integers(low, 9)) for low in (1, 1, 0, 0, 0, 0))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits).reshape(height, width), top, left, Size(top + height + below, left + width + right)


@settings(max_examples=80, deadline=None)
@given(placed())
def test_codes_are_pycocotools_own(case):
    bitmap, top, left, size = case
    whole = np.zeros(tuple(size), bool)
    whole[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
    expected = coco_rle.encode(np.asfortranarray(whole.astype(np.uint8)))
    code = encode_patch(bitmap, top, left, size)
    assert code == expected["counts"].decode()
    assert np.array_equal(decode(Instance("a", None, False, code, size)), whole)
    flat = np.zeros(whole.size, np.uint8)
    paint_counts(flat, counts_of(code, size, "x"), 7)
    assert np.array_equal(flat.reshape(whole.T.shape).T, 7 * whole)


def test_a_file_comes_back_with_areas_and_boxes(tmp_path):
    tall = encode_patch(np.ones((20, 2), bool), 0, 4, SIZE)  # whole columns: one run
    small = encode_patch(np.ones((2, 3), bool), 5, 6, SIZE)
    objects = [Instance("tongue", "1", False, tall, SIZE), Instance("舌", None, True, small, SIZE)]
    write_instances(tmp_path / "a.json", SIZE, objects)
    assert read_instances(tmp_path / "a.json") == objects
    content = json.loads((tmp_path / "a.json").read_text())
    assert [(entry["area_px"], entry["bbox_xywh"]) for entry in content["instances"]] == [(40, [4, 0, 2, 20]), (6, [6, 5, 3, 2])]
    before = (tmp_path / "a.json").read_bytes()
    write_instances(tmp_path / "a.json", SIZE, objects)
    assert (tmp_path / "a.json").read_bytes() == before
    write_instances(tmp_path / "none.json", SIZE, [])
    assert read_instances(tmp_path / "none.json") == []


def test_a_union_is_that_of_the_pixels():
    left, right = (encode_patch(np.ones((4, 4), bool), 2, place, SIZE) for place in (3, 5))
    both = decode(Instance("a", None, False, united([left, right], SIZE), SIZE))
    assert both.sum() == 24 and both[2:6, 3:9].all()


def encoded(counts: list[int]) -> str:
    return coco_rle.frPyObjects({"counts": counts, "size": list(SIZE)}, *SIZE)["counts"].decode()


HOSTILE = {
    "longer": (encoded([0, 5, 596]), r"longer than the image: 601 of 600 pixels; export"),
    "shorter": (encoded([0, 5, 500]), r"shorter than the image: 505 of 600"),
    "empty": ("", r"shorter than the image: 0 of 600"),
    "huge run": (encoded([0, 5, 2**31 - 1]), r"a run of 2147483647 pixels, the image has 600"),
    "negative": ("O" * 3, r"a run of -1 pixels"),
    "unended": ("05cb", r"is not COCO's compressed text"),
    "endless": ("o" * 50 + "0", r"is not COCO's compressed text"),
    "other signs": ("05 cb0", r"is not COCO's compressed text"),
    "not ascii": ("舌舌\ud800", r"'舌舌.*' is not COCO's compressed text|shorter"),
}


@pytest.mark.parametrize(("code", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_codes_are_refused_before_c(code, message):
    with pytest.raises(AnnotationError, match=message):
        counts_of(code, SIZE, "here")


def test_counts_that_would_overflow():
    with pytest.raises(AnnotationError, match="a run of 9223372036854775807 pixels"):
        checked_counts([2**63 - 1, 2**63 - 1, 602], SIZE, "here")


SOUND = {"label": "a", "group_id": None, "crowd": False, "area_px": 5, "bbox_xywh": [0, 0, 1, 5], "rle": "05cb0"}
BROKEN = {
    "another format": ({"format": "x"}, r"is not a 'medseg-instances 1'"),
    "size": ({"size": [20, -30]}, r"`size` must be \[height, width\]"),
    "huge": ({"size": [10**6, 10**6]}, r"`size` is over 120,000,000 pixels"),
    "list": ({"instances": {}}, r"is not a 'medseg"),
    "keys": ({"instances": [{}]}, r"a.json instance 0: the keys must be area_px, bbox"),
    "types": ({"instances": [SOUND | {"crowd": 1}]}, r"instance 0: label and rle must be text"),
    "code": ({"instances": [SOUND | {"rle": encoded([0, 5, 596])}]}, r"instance 0: the run-length code is longer"),
    "area": ({"instances": [SOUND | {"area_px": 6}]}, r"area_px or bbox_xywh is not that of its rle"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files(tmp_path, changes, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"format": "medseg-instances 1", "size": [20, 30], "instances": [SOUND]} | changes))
    with pytest.raises(ManifestError, match=message):
        read_instances(path)


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(ManifestError, match="there is no such file"):
        read_instances(tmp_path / "gone.json")
    (tmp_path / "a.json").write_text('{"format": ')
    with pytest.raises(ManifestError, match="not valid JSON .*import the set again"):
        read_instances(tmp_path / "a.json")


# --- found by a network


def found(class_id: int, rows: slice, columns: slice, shown: bool = True) -> FoundObject:
    pixels = np.zeros((4, 6), bool)
    pixels[rows, columns] = True
    return FoundObject(class_id, 0.5, (0.0, 0.0, 6.0, 4.0), patch_of(pixels), shown)


def test_the_first_found_object_lies_on_top_and_one_that_is_not_shown_is_not_there():
    objects = [found(2, slice(0, 2), slice(0, 3)), found(1, slice(1, 4), slice(2, 5)), found(3, slice(0, 4), slice(0, 6), shown=False)]
    numbers = painted(objects, Size(4, 6))
    assert numbers.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 2, 2, 0], [0, 0, 2, 2, 2, 0], [0, 0, 2, 2, 2, 0]]
    assert class_mask(objects, numbers).tolist() == np.array([0, 2, 1])[numbers].tolist() and not painted([], Size(4, 6)).any()


def test_a_patch_is_the_pixels_themselves():
    mask = np.random.default_rng(0).random((9, 7)) > 0.8
    for pixels in (mask, mask & False, ~mask):
        patch, again = patch_of(pixels), np.zeros_like(pixels)
        again[patch.window] = patch.pixels_HW
        assert (again == pixels).all()
        assert (decode(Instance("a", None, False, encode_patch(*patch, Size(9, 7)), Size(9, 7))) == pixels).all()
