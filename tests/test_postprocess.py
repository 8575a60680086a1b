"""Steps after the prediction: by hand, and that only what helps on val is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medseg.errors import RunError
from medseg.labels import LabelSet
from medseg.postprocess import Step, apply_steps, choose_steps, read_steps, write_steps

LABELS = LabelSet.of("liver", "lesion", regions={"organ": ["liver", "lesion"]})


def mask(*rows: str) -> np.ndarray:
    return np.array([[int(sign) for sign in row.replace(".", "0")] for row in rows], np.uint8)


BEFORE = mask(
    "111..1",
    "1.1...",
    "111..2",
    "......",
    "12....",
)


def test_the_largest_component_stays_and_another_class_is_left():
    expected = mask("111...", "1.1...", "111..2", "......", ".2....")
    assert np.array_equal(apply_steps(BEFORE, [Step("liver", "largest")], LABELS), expected)


def test_holes_are_filled_where_nothing_else_is():
    ringed = mask("111", "121", "111")
    assert np.array_equal(apply_steps(ringed, [Step("liver", "holes")], LABELS), ringed), "a lesion in the liver is no hole"
    assert apply_steps(BEFORE, [Step("liver", "holes")], LABELS)[1, 1] == 1


def test_components_smaller_than_the_least_are_dropped_and_as_large_ones_stay():
    dropped = apply_steps(BEFORE, [Step("liver", "small", 2)], LABELS)
    assert (dropped == 1).sum() == 8 and (apply_steps(BEFORE, [Step("liver", "small", 1)], LABELS) == BEFORE).all()
    assert (apply_steps(BEFORE, [Step("liver", "small", 8)], LABELS) == 1).sum() == 8
    assert (apply_steps(BEFORE, [Step("liver", "small", 9)], LABELS) == 1).sum() == 0


def test_corners_join_components_of_pictures_and_of_volumes():
    diagonal = mask("1..", ".1.", "..1")
    assert np.array_equal(apply_steps(diagonal, [Step("liver", "largest")], LABELS), diagonal)
    cube = np.zeros((3, 3, 3), np.uint8)
    cube[0, 0, 0] = cube[1, 1, 1] = cube[2, 2, 2] = 1
    assert np.array_equal(apply_steps(cube, [Step("liver", "largest")], LABELS), cube)


def test_steps_follow_each_other_and_the_mask_given_stays():
    before = BEFORE.copy()
    after = apply_steps(BEFORE, [Step("liver", "largest"), Step("liver", "holes")], LABELS)
    assert (after == 1).sum() == 9 and np.array_equal(BEFORE, before)


def test_a_class_that_is_not_there_changes_nothing():
    empty = np.zeros((4, 4), np.uint8)
    assert np.array_equal(apply_steps(empty, [Step("liver", "largest"), Step("lesion", "holes")], LABELS), empty)


def test_only_what_helps_is_kept():
    """The liver has false islands; the lesions are two in truth, so that the largest alone would lose one."""
    truth = np.zeros((20, 20), np.uint8)
    truth[2:12, 2:12] = 1
    truth[14:17, 2:5] = truth[14:16, 14:16] = 2
    found = truth.copy()
    found[18, 18] = found[0, 19] = 1
    tried = choose_steps([(truth, found)], LABELS)
    kept = [each.step for each in tried if each.kept]
    assert [step.name for step in kept] == ["liver"] and kept[0].kind in ("largest", "small")
    [largest] = [each for each in tried if each.step == Step("lesion", "largest")]
    assert not largest.kept and largest.after < largest.before == 1.0
    assert np.array_equal(apply_steps(found, kept, LABELS), truth)


def test_a_step_that_helps_its_class_and_harms_a_region_is_left():
    """An island that is called liver and is lesion: without it liver is better, the organ worse."""
    truth = np.zeros((12, 12), np.uint8)
    truth[1:7, 1:7], truth[9:11, 9:11] = 1, 2
    found = truth.copy()
    found[9:11, 9:11] = 1
    tried = {each.step: each for each in choose_steps([(truth, found)], LABELS)}
    assert tried[Step("liver", "largest")].after > tried[Step("liver", "largest")].before
    assert not tried[Step("liver", "largest")].kept and "organ gets worse" in tried[Step("liver", "largest")].why


def test_ignored_pixels_have_no_say():
    truth = np.zeros((12, 12), np.uint8)
    truth[1:7, 1:7], truth[9:, 9:] = 1, 255
    found = np.where(truth == 255, 1, truth).astype(np.uint8)
    assert not any(each.kept for each in choose_steps([(truth, found)], LABELS))


def test_the_file_of_a_run_says_what_was_tried(tmp_path):
    truth = np.zeros((12, 12), np.uint8)
    truth[1:7, 1:7] = 1
    found = truth.copy()
    found[10, 10] = 1
    tried = choose_steps([(truth, found)], LABELS)
    path = tmp_path / "postprocess.json"
    assert read_steps(path, LABELS) == ()
    write_steps(path, tried, {"part": "val", "runs": ["a"], "cases": 1})
    assert read_steps(path, LABELS) == tuple(each.step for each in tried if each.kept) != ()
    assert len(json.loads(path.read_text())["tried"]) == len(tried)


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"steps": [{"name": "spleen", "kind": "largest"}]}', '{"steps": [{"name": "liver", "kind": "x"}]}']
)
def test_a_damaged_file_is_one_error(tmp_path, content):
    path = tmp_path / "postprocess.json"
    path.write_text(content)
    with pytest.raises(RunError, match="choose them again: medseg postprocess"):
        read_steps(path, LABELS)
