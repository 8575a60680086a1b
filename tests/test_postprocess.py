"""Steps after the prediction: by hand, and that only what helps on val is kept."""

from __future__ import annotations

import json
import tracemalloc
import weakref

import numpy as np
import pytest
from scipy import ndimage

from medseg import api
from medseg.errors import RunError
from medseg.labels import LabelSet
from medseg.postprocess import Case, Step, apply_steps, choose_steps, read_steps, write_steps
from tests.tiny import make_all

LABELS = LabelSet.of("liver", "lesion", regions={"organ": ["liver", "lesion"]})


def mask(*rows: str) -> np.ndarray:
    return np.array([[int(sign) for sign in row.replace(".", "0")] for row in rows], np.uint8)


def case(truth: np.ndarray, found: np.ndarray, spacing_mm=None) -> Case:
    worked_on = found.copy()
    return Case(lambda: (truth, worked_on), spacing_mm)


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


def blobs(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Ids 0 to 2 in connected parts of many sizes; of seed 0 with many holes, of seed 3 with many islands."""
    smooth = ndimage.uniform_filter(np.random.default_rng(seed).random(shape), 3)
    return np.digitize(smooth, np.quantile(smooth, [(0.1, 0.3, 0.6, 0.85)[seed % 4], 0.95])).astype(np.uint8)


def slowly(mask: np.ndarray, step: Step, least: float) -> np.ndarray:
    """Part by part on the whole grid, by SciPy alone."""
    changed, class_id = mask.copy(), LABELS.id_of(step.name)
    inside = mask == class_id
    if step.kind == "holes":
        changed[ndimage.binary_fill_holes(inside) & (mask == 0)] = class_id
        return changed
    parts, count = ndimage.label(inside, np.ones((3,) * mask.ndim))
    sizes = {part: int((parts == part).sum()) for part in range(1, count + 1)}
    kept = [part for part, size in sizes.items() if size >= least]
    if step.kind == "largest":
        kept = [part for part, size in sizes.items() if size == max(sizes.values())][:1]
    changed[inside & ~np.isin(parts, kept)] = 0
    return changed


@pytest.mark.parametrize("shape", [(24, 30), (12, 9, 10)])
@pytest.mark.parametrize("kind", ["largest", "holes", "small"])
def test_the_box_around_a_class_is_all_that_a_step_needs(kind, shape):
    inner, changed = tuple(slice(2, side - 3) for side in shape), 0
    for seed in range(8):
        drawn = blobs(seed, shape)
        framed = np.zeros_like(drawn)
        framed[inner] = drawn[inner]
        for before in (drawn, framed):  # to the edge of the picture, and clear of it
            step = Step("liver", kind, 5, "px")
            after = slowly(before, step, 5)
            assert np.array_equal(apply_steps(before, [step], LABELS), after)
            changed += not np.array_equal(before, after)
    assert changed > 1


def test_steps_take_little_memory_for_a_small_class_in_a_large_volume():
    volume = np.zeros((160, 160, 160), np.uint8)
    volume[50:60, 50:60, 50:60] = volume[70, 70, 70] = 1
    tracemalloc.start()
    try:
        after = apply_steps(volume, [Step("liver", kind, 2, "voxels") for kind in ("largest", "small", "holes")], LABELS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert after.sum() == 1000 and peak < 1.5 * volume.nbytes, "the copy that is changed, and little else"


def test_a_size_in_mm3_is_one_on_every_grid():
    """An organ of 2 x 10 x 10 mm in slices of 1 mm and of 5 mm; a speck of 2 x 2 mm in one slice of either."""
    step = [Step("liver", "small", 100, "mm3")]
    for thick_mm, slices, speck in ((1.0, 10, 4.0), (5.0, 2, 20.0)):
        volume = np.zeros((20, 20, 12), np.uint8)
        volume[2:4, 2:12, :slices] = volume[10:12, 10:12, 0] = 1
        after = apply_steps(volume, step, LABELS, (1.0, 1.0, thick_mm))
        assert after.sum() * thick_mm == 200 and volume.sum() * thick_mm == 200 + speck
    assert not apply_steps(volume, [Step("liver", "small", 100, "voxels")], LABELS, (1.0, 1.0, 5.0)).any(), "40 voxels"


def test_a_component_of_exactly_the_least_size_stays():
    volume = np.zeros((8, 8, 3), np.uint8)
    volume[:5, :4, 0] = 1
    spacing_mm = (0.7, 0.7, 1.0)  # 20 voxels of 0.49: 9.8 / 0.49 is 20.000000000000004
    assert apply_steps(volume, [Step("liver", "small", 9.8, "mm3")], LABELS, spacing_mm).any()
    assert not apply_steps(volume, [Step("liver", "small", 9.81, "mm3")], LABELS, spacing_mm).any()


def test_a_size_in_mm3_needs_a_spacing():
    with pytest.raises(RunError, match="liver: components below 9.8 mm3 dropped, and an image has no spacing along three axes; choose"):
        apply_steps(BEFORE, [Step("liver", "small", 9.8, "mm3")], LABELS)


def test_sizes_are_tried_in_mm3_where_they_are_asked_for():
    """800 voxels in slices of 1 mm are 160 in slices of 5 mm; a speck is a tenth of either."""
    cases = []
    for thick_mm, slices in ((1.0, 10), (5.0, 2)):
        truth = np.zeros((20, 20, 12), np.uint8)
        truth[2:12, 2:10, :slices] = 1
        found = truth.copy()
        found[15:17, 15:19, : 10 // int(thick_mm)] = 1
        cases.append(case(truth, found, (1.0, 1.0, thick_mm)))
    tried = choose_steps(cases, LABELS, "mm3")
    sizes = {each.step.least: each for each in tried if each.step.kind == "small" and each.step.name == "liver"}
    assert sorted(sizes) == [16.0, 40.0, 80.0, 200.0] and {each.step.unit for each in sizes.values()} == {"mm3"}
    assert sizes[200.0].after == 1.0 and sizes[80.0].after == sizes[80.0].before
    assert sizes[200.0].step.told() == "liver: components below 200 mm3 dropped"


def test_what_val_says_is_what_a_slow_count_says():
    """Each step on top of those kept before it, the Dice counted on whole masks."""
    labels = LabelSet.of("liver", "lesion", regions={"organ": ["liver", "lesion"]})
    pairs = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        smooth = ndimage.uniform_filter(random.random((30, 30)), 7)
        truth = np.digitize(smooth, np.quantile(smooth, [0.5, 0.8])).astype(np.uint8)
        found = np.where(random.random(truth.shape) < 0.05, random.integers(0, 3, truth.shape), truth).astype(np.uint8)
        truth[:5] = 255
        pairs.append((truth, found))
    cases = [case(*pair) for pair in pairs]
    tried = choose_steps(cases, labels, "px")
    assert {each.kept for each in tried} == {True, False}
    masks, waiting = [found for _, found in pairs], None
    for each in tried:
        if waiting and (waiting.name, waiting.kind == "holes") != (each.step.name, each.step.kind == "holes"):
            masks, waiting = [apply_steps(one, [waiting], labels) for one in masks], None
        after = [slowly(one, each.step, each.step.least) for one in masks]
        assert each.before == pytest.approx(dice(pairs, masks, labels.id_of(each.step.name)))
        assert each.after == pytest.approx(dice(pairs, after, labels.id_of(each.step.name)))
        waiting = each.step if each.kept else waiting
    masks = [apply_steps(one, [waiting], labels) for one in masks] if waiting else masks
    assert all(np.array_equal(one.read()[1], expected) for one, expected in zip(cases, masks, strict=True))


def dice(pairs, masks, class_id: int) -> float:
    found = []
    for (truth, _), one in zip(pairs, masks, strict=True):
        wanted, given = truth == class_id, (one == class_id) & (truth != 255)
        found.append(2 * (wanted & given).sum() / (wanted.sum() + given.sum()))
    return float(np.mean(found))


def test_no_more_than_two_cases_are_held_at_once():
    """The one that is looked at, and the one before it while the next is read."""
    given = []

    def read(seed: int):
        assert sum(one() is not None for one in given) <= 2, "reference and prediction of the case before"
        pair = blobs(seed, (10, 10)), blobs(seed + 100, (10, 10))
        given.extend(map(weakref.ref, pair))
        return pair

    choose_steps([Case(lambda seed=seed: read(seed)) for seed in range(8)], LABELS, "px")


def test_only_what_helps_is_kept():
    """The liver has false islands; the lesions are two in truth, so that the largest alone would lose one."""
    truth = np.zeros((20, 20), np.uint8)
    truth[2:12, 2:12] = 1
    truth[14:17, 2:5] = truth[14:16, 14:16] = 2
    found = truth.copy()
    found[18, 18] = found[0, 19] = 1
    tried = choose_steps([case(truth, found)], LABELS, "px")
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
    tried = {each.step: each for each in choose_steps([case(truth, found)], LABELS, "px")}
    assert tried[Step("liver", "largest")].after > tried[Step("liver", "largest")].before
    assert not tried[Step("liver", "largest")].kept and "organ gets worse" in tried[Step("liver", "largest")].why


def test_ignored_pixels_have_no_say():
    truth = np.zeros((12, 12), np.uint8)
    truth[1:7, 1:7], truth[9:, 9:] = 1, 255
    found = np.where(truth == 255, 1, truth).astype(np.uint8)
    assert not any(each.kept for each in choose_steps([case(truth, found)], LABELS, "px"))


@pytest.mark.slow
def test_two_runs_on_photographs_get_one_choice_in_px(tmp_path):
    _, split, data_root, experiment = make_all(tmp_path)
    runs = [api.train(experiment, ["train.epochs=1", f"seed={seed}"], data_root, tmp_path / "runs") for seed in (0, 1)]
    tried = api.choose_postprocessing([run.path for run in runs], data_root)
    assert {each.step.unit for each in tried if each.step.kind == "small"} == {"px"}
    first, second = (json.loads(run.postprocess_json.read_text()) for run in runs)
    assert first == second and first["cases"] == 2 * len(split.ids("val"))


def test_the_file_of_a_run_says_what_was_tried(tmp_path):
    truth = np.zeros((12, 12, 3), np.uint8)
    truth[1:7, 1:7] = truth[9:12, 9:12, 2] = 1
    found = truth.copy()
    found[1, 10] = 1
    tried = choose_steps([case(truth, found, (1.0, 1.0, 5.0))], LABELS, "mm3")
    path = tmp_path / "postprocess.json"
    assert read_steps(path, LABELS) == ()
    write_steps(path, tried, {"part": "val", "runs": ["a"], "cases": 1})
    assert read_steps(path, LABELS) == tuple(each.step for each in tried if each.kept) != ()
    [step] = read_steps(path, LABELS)
    assert (step.kind, step.unit) == ("small", "mm3") and step.least > 0
    assert len(json.loads(path.read_text())["tried"]) == len(tried)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "is not of format 1"),
        ('{"steps": [{"name": "liver", "kind": "small", "least": 400}]}', "is not of format 1"),
        ('{"format": 1}', "does not say its steps"),
        ('{"format": 1, "steps": [{"name": "liver", "kind": "small", "least": 400}]}', "does not say its steps"),
        ('{"format": 1, "steps": [{"name": "spleen", "kind": "largest"}]}', "names a class or a step that there is not"),
        ('{"format": 1, "steps": [{"name": "liver", "kind": []}]}', "names a class or a step that there is not"),
        ('{"format": 1, "steps": [{"name": "liver", "kind": "small", "least": 4, "unit": "ml"}]}', r"not above 0 with a unit \(mm3"),
        ('{"format": 1, "steps": [{"name": "liver", "kind": "small", "least": NaN, "unit": "mm3"}]}', "not above 0 with a unit"),
    ],
)
def test_a_damaged_file_is_one_error(tmp_path, content, message):
    path = tmp_path / "postprocess.json"
    path.write_text(content)
    with pytest.raises(RunError, match=f"{message}.*; choose them again: medseg postprocess"):
        read_steps(path, LABELS)
