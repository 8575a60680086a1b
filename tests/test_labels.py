from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError

from medseg.errors import LabelError
from medseg.labels import LabelSet, id_counts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": {0: "background", 2: "tongue"}}, "without a gap"),
        ({"classes": {0: "background"}}, "without a gap"),
        ({"classes": {0: "bg", 1: "tongue"}}, "class 0 must be named 'background', got 'bg'"),
        ({"classes": {0: "background", 1: "a", 2: "a"}}, "two classes have one name"),
        ({"classes": {0: "background", 1: "a"}, "regions": {"all": ["a", "b"]}}, r"do not exist: \['b'\]"),
        ({"classes": {0: "background", 1: "a"}, "regions": {"a": ["a"]}}, r"share the names \['a'\]"),
        ({"classes": {0: "background", 1: "a"}, "regions": {"none": []}}, "at least 1 item"),
        ({"classes": {0: "background", 1: "a"}, "ignore_id": 1}, "ignore_id 1 is also a class id"),
        ({"classes": {0: "background", 1: "a"}, "colours": {"a": [0, 0, 256]}}, "less than or equal to 255"),
        ({"classes": {0: "background", 1: "a,b"}}, "should match pattern"),
    ],
)
def test_label_sets_that_cannot_be(fields, message):
    with pytest.raises(ValidationError, match=message):
        LabelSet(**fields)


def test_check_names_what_is_stray_and_lets_the_ignore_id_pass(labels):
    labels.check(np.array([[0, 1, 2, 255]], np.uint8), "m.png")
    with pytest.raises(LabelError, match=r"m.png: the mask holds ids \{3, 200\}, the classes are \{0..2\} and ignore is 255; name the id"):
        labels.check(np.array([[0, 3, 200]], np.uint8), "m.png")


def test_a_volume_is_counted_without_a_copy_eight_times_as_large(labels):
    mask = np.zeros((24, 512, 512), np.uint8)
    mask[3], mask[5, :2, :3] = 255, 2
    tracemalloc.start()
    labels.check(mask, "m.nii.gz")
    counts, turned = id_counts(mask), id_counts(mask.transpose(2, 1, 0)[::-1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts[[0, 2, 255]].tolist() == [22 * 512**2 + 512**2 - 6, 6, 512**2] and counts.sum() == mask.size
    assert np.array_equal(counts, turned) and peak < 3 * mask.size


def test_valid_is_off_on_the_ignore_id_alone(labels):
    assert labels.valid(np.array([0, 1, 255])).tolist() == [True, True, False]


def test_colours_are_given_or_spread_and_the_palette_has_them():
    labels = LabelSet.of("a", "b", "c", colours={"b": [1, 2, 3]}, regions={"all": ["a", "b"]})
    assert labels.palette[2].tolist() == [1, 2, 3] and labels.palette[0].tolist() == [0, 0, 0]
    assert len({tuple(labels.palette[k]) for k in range(4)}) == 4 and labels.colour_of("all") not in map(tuple, labels.palette[:4])
