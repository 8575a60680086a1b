"""Matching, detection scores and average precision against hand cases, slow oracles, scipy and pycocotools."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment
from torchmetrics.detection import PanopticQuality

from medseg.instances import FoundObject, patch_of
from medseg.metrics.average_precision import AveragePrecision, ScoredObjects, found_objects, scored_objects
from medseg.metrics.detection import Detection, DetectionTally, Matches, Objects, components, detection_of, match


def ids(*rows: str) -> np.ndarray:
    return np.array([[int(cell) for cell in row] for row in rows], np.int32)


def random_ids(draw: np.random.Generator, size: tuple[int, int] = (14, 16), most: int = 6) -> np.ndarray:
    """Rectangles that hide each other; some ids may be missing."""
    mask = np.zeros(size, np.int32)
    for number in range(1, int(draw.integers(0, most + 1)) + 1):
        top, left = draw.integers(0, size[0]), draw.integers(0, size[1])
        mask[top : top + draw.integers(1, 7), left : left + draw.integers(1, 7)] = number
    return mask


def shaken(draw: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A prediction that overlaps with `mask`: moved by a pixel or so, renumbered, some objects gone, some new."""
    moved = np.roll(mask, draw.integers(-1, 2, 2), (0, 1))
    numbers = np.concatenate([[0], 1 + draw.permutation(moved.max())]).astype(np.int32)
    numbers[1:][draw.random(moved.max()) < 0.2] = 0
    moved = numbers[moved]
    extra = random_ids(draw, mask.shape, 2)
    return np.where(extra > 0, extra + moved.max(), moved).astype(np.int32)


def iou_table(reference: np.ndarray, prediction: np.ndarray) -> tuple[list[int], list[int], np.ndarray]:
    """By a loop over all pairs."""
    ones, others = ([int(number) for number in np.unique(mask) if number] for mask in (reference, prediction))
    table = np.zeros((len(ones), len(others)))
    for i, one in enumerate(ones):
        for j, other in enumerate(others):
            a, b = reference == one, prediction == other
            table[i, j] = (a & b).sum() / (a | b).sum()
    return ones, others, table


def slow_match(reference: np.ndarray, prediction: np.ndarray, iou: float) -> Matches:
    """Take the best pair that is left until none is good enough."""
    ones, others, table = iou_table(reference, prediction)
    found = []
    while table.size and table.max() >= iou:
        i, j = np.unravel_index(table.argmax(), table.shape)  # the first of equal ones: lower reference id, then lower predicted id
        found.append(float(table[i, j]))
        table[i, :] = table[:, j] = -1
    return Matches(len(found), len(others) - len(found), len(ones) - len(found), tuple(found))


# --- components


def test_components_touch_at_corners_too():
    assert components(ids("1001", "0100", "0011") > 0).tolist() == ids("1002", "0100", "0011").tolist()
    assert components(ids("1001", "0100", "0001") > 0).tolist() == ids("1002", "0100", "0003").tolist()
    assert components(np.zeros((3, 4), bool)).max() == 0


def test_components_of_a_volume():
    volume = np.zeros((3, 3, 3), bool)
    volume[0, 0, 0] = volume[1, 1, 1] = volume[2, 2, 2] = volume[2, 0, 0] = True
    found = components(volume)
    assert found.dtype == np.int32 and found.max() == 1  # all touch the middle by a corner
    volume[1, 1, 1] = False
    assert components(volume).max() == 3


# --- matching


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("1122", "3344", Matches(2, 0, 0, (1.0, 1.0))),  # ids need not agree
        ("111100", "111200", Matches(1, 1, 0, (0.75,))),  # split: the larger part is it, the other is invented
        ("1111000", "1122000", Matches(1, 1, 0, (0.5,))),  # split in halves: one of them is exactly at 0.5
        ("111222", "111111", Matches(1, 0, 1, (0.5,))),  # merged: exactly 0.5 with both, one is found
        ("112222", "111111", Matches(1, 0, 1, (4 / 6,))),
        ("1100", "0000", Matches(0, 0, 1, ())),  # missed
        ("0000", "0110", Matches(0, 1, 0, ())),  # invented
        ("0000", "0000", Matches(0, 0, 0, ())),
        ("1110", "0001", Matches(0, 1, 1, ())),
        ("1110", "0111", Matches(1, 0, 0, (0.5,))),
        ("11100", "00111", Matches(0, 1, 1, (),)),
        ("9900", "7700", Matches(1, 0, 0, (1.0,))),  # gaps in the ids
    ],
)  # fmt: skip
def test_hand_cases(reference, prediction, expected):
    assert match(ids(reference), ids(prediction)) == expected
    assert match(ids(reference)[None], ids(prediction)[None]) == expected  # the same as a volume


def test_the_largest_iou_goes_first_though_another_choice_finds_more():
    """1 with 3 has 4/8; 1 with 2 (2/6) and 2 with 3 (2/7) would be two pairs above 0.25."""
    assert match(ids("111111222"), ids("223333330"), iou=0.25) == Matches(1, 1, 1, (0.5,))


@pytest.mark.parametrize("cases", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_masks_against_the_slow_oracle(cases):
    draw, found = np.random.default_rng(0), 0
    for _ in range(cases):
        reference = random_ids(draw)
        prediction = shaken(draw, reference)
        for iou in (0.1, 0.3, 0.5, 0.55, 0.75, 1.0):
            ours = match(reference, prediction, iou)
            assert ours == slow_match(reference, prediction, iou)
            found += ours.tp
    assert found > 3 * cases


@pytest.mark.parametrize("cases", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_above_one_half_the_best_assignment_is_the_same(cases):
    draw = np.random.default_rng(1)
    for _ in range(cases):
        reference = random_ids(draw)
        prediction = shaken(draw, reference)
        _, _, table = iou_table(reference, prediction)
        for iou in (0.51, 0.6, 0.8):
            good = np.where(table >= iou, table, 0.0)
            chosen = good[linear_sum_assignment(good, maximize=True)]
            assert match(reference, prediction, iou).ious == tuple(sorted(chosen[chosen > 0].tolist(), reverse=True))


def test_many_parts_are_matched_in_little_memory():
    parts = np.arange(1, 40_001, dtype=np.int32).reshape(200, 200)  # a full table of pairs would be 12 GB
    assert match(parts, parts) == Matches(40_000, 0, 0, (1.0,) * 40_000)


# --- detection scores


def tally(*each: Matches) -> Detection:
    counting = DetectionTally()
    for matches in each:
        counting.add("lesion", matches)
    return counting.result()["lesion"]


def test_pooled_scores_by_hand():
    found = tally(Matches(2, 1, 0, (1.0, 0.5)), Matches(0, 0, 2, ()), Matches(1, 0, 0, (0.6,)))
    assert found.recall == 3 / 5 and found.precision == 3 / 4 and found.f1 == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert found.segmentation_quality == pytest.approx(2.1 / 3) and found.panoptic_quality == pytest.approx(2.1 / 4.5)
    assert found.panoptic_quality == pytest.approx(found.segmentation_quality * found.f1)
    assert (found.n_reference, found.n_predicted, found.n_matched) == (5, 4, 3)


NAN = math.nan


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        (Matches(0, 0, 0, ()), (NAN, NAN, NAN, NAN, NAN)),  # nothing to find, nothing found
        (Matches(0, 0, 2, ()), (0, 0, 0, NAN, 0)),  # missed: precision too, as for pixels
        (Matches(0, 2, 0, ()), (NAN, 0, 0, NAN, 0)),  # invented: nothing to recall
        (Matches(1, 0, 0, (1.0,)), (1, 1, 1, 1, 1)),
    ],
)
def test_the_undefined(matches, expected):
    found = detection_of(matches)
    ratios = (found.recall, found.precision, found.f1, found.segmentation_quality, found.panoptic_quality)
    assert ratios == pytest.approx(expected, nan_ok=True)


def test_classes_are_apart_and_the_order_of_cases_is_nothing():
    draw = np.random.default_rng(2)
    cases = [Matches(3, 1, 0, tuple(draw.uniform(0.5, 1, 3).tolist())) for _ in range(50)]
    assert tally(*cases) == tally(*cases[::-1])
    counting = DetectionTally()
    counting.add("lesion", cases[0])
    counting.add("crack", Matches(0, 0, 1, ()))
    assert counting.result()["crack"].recall == 0 and counting.result()["lesion"].recall == 1


@pytest.mark.parametrize("sets", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_panoptic_quality_against_torchmetrics(sets):
    """Of connected parts of one class; torchmetrics pairs above 0.5, medseg at 0.5 too, so sets with such a pair are left out."""
    draw, compared = np.random.default_rng(4), 0
    for _ in range(sets):
        theirs = PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
        counting, halves = DetectionTally(), 0
        for _ in range(3):
            reference = random_ids(draw)
            prediction = shaken(draw, reference)
            theirs.update(*(torch.tensor(np.stack([ids > 0, ids], axis=-1))[None] for ids in (prediction, reference)))
            counting.add("lesion", match(reference, prediction))
            halves += int((iou_table(reference, prediction)[2] == 0.5).sum())
        ours = counting.result()["lesion"]
        if halves or ours.n_matched == 0:  # without a match theirs is NaN or 0 by another rule
            continue
        quality = (ours.panoptic_quality, ours.segmentation_quality, ours.f1)
        assert quality == pytest.approx(theirs.compute()[0].tolist(), abs=1e-6)
        compared += 1
    assert compared > sets / 3


# --- average precision


def scored(reference: np.ndarray, prediction: np.ndarray, scores: list[float] | np.ndarray) -> ScoredObjects:
    return scored_objects(Objects(reference, prediction), scores)


def test_average_precision_of_hand_cases():
    both, first = ids("110022", "110022"), ids("110000", "110000")
    precision = AveragePrecision()
    precision.add("a", "perfect", scored(both, both, [0.9, 0.8]))
    precision.add("a", "half", scored(both, first, [0.9]))
    precision.add("a", "wrong first", scored(both, ids("110330", "110330"), [0.5, 0.9]))
    precision.add("a", "none predicted", scored(both, both * 0, []))
    precision.add("a", "none there", scored(both * 0, both, [0.5, 0.5]))
    found = precision.result()
    assert found["perfect"] == pytest.approx(dict.fromkeys(("mask_ap", "mask_ap50", "box_ap", "box_ap50"), 1.0))
    assert found["half"]["mask_ap"] == pytest.approx(51 / 101)  # precision 1 at the recalls 0.00 .. 0.50
    assert found["wrong first"]["mask_ap50"] == pytest.approx(51 / 101 / 2)  # the better score is on an IoU of 1/3
    assert set(found["none predicted"].values()) == {0.0}
    assert all(math.isnan(value) for value in found["none there"].values())


def test_mask_and_box_are_told_apart():
    precision = AveragePrecision()
    precision.add("a", "ring", scored(ids("1111", "1001", "1001", "1111"), ids("1111", "1111", "1111", "1111"), [1.0]))
    found = precision.result()["ring"]  # mask IoU 12/16: six of the ten thresholds
    assert found == pytest.approx({"mask_ap": 0.6, "mask_ap50": 1.0, "box_ap": 1.0, "box_ap50": 1.0})


def test_nothing_added():
    assert AveragePrecision().result() == {}


def test_no_object_anywhere_is_undefined():
    precision = AveragePrecision()
    precision.add("a", "lesion", scored(np.zeros((4, 5), np.int32), np.zeros((4, 5), np.int32), []))
    assert math.isnan(precision.result()["lesion"]["mask_ap"])


def test_more_than_a_hundred_objects_all_enter():
    grid = np.zeros((22, 22), np.int32)
    grid[::2, ::2] = np.arange(1, 122).reshape(11, 11)
    precision = AveragePrecision()
    precision.add("a", "dot", scored(grid, grid, np.linspace(0, 1, 121)))
    assert precision.result()["dot"]["mask_ap"] == pytest.approx(1.0)  # COCO's 100 would give a recall of 0.83


def test_it_prints_nothing(capsys):
    precision = AveragePrecision()
    precision.add("a", "lesion", scored(ids("11"), ids("11"), [1.0]))
    precision.result()
    assert capsys.readouterr().out == ""


def test_what_does_not_fit_is_refused():
    precision, mask = AveragePrecision(), ids("1100")
    with pytest.raises(AssertionError, match="average precision is of images"):
        precision.add("a", "lesion", scored(mask[None], mask[None], [1.0]))
    with pytest.raises(AssertionError, match="2 scores for 1 objects"):
        precision.add("a", "lesion", scored(mask, mask, [1.0, 0.5]))
    precision.add("a", "lesion", scored(mask, mask, [1.0]))
    with pytest.raises(AssertionError, match="comes twice"):
        precision.add("a", "lesion", scored(mask, mask, [1.0]))


Images = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # reference, prediction, scores by rising id


def random_images(draw: np.random.Generator) -> Images:
    images: Images = []
    for _ in range(int(draw.integers(1, 6))):
        reference = random_ids(draw)
        prediction = shaken(draw, reference)
        scores = np.round(draw.random(len(np.unique(prediction[prediction > 0]))), int(draw.integers(1, 6)))  # some are equal
        images.append((reference, prediction, scores))
    return images


def measured(images: Images) -> dict[str, float]:
    precision = AveragePrecision()
    for number, (reference, prediction, scores) in reversed(list(enumerate(images))):
        precision.add(f"image {number}", "lesion", scored(reference, prediction, scores))
    return precision.result()["lesion"]


def own_ap(images: Images, box: bool) -> tuple[float, float]:
    """Average precision without pycocotools: greedy by score in each image, then the 101 points (mean over thresholds, at 0.5)."""
    values = []
    for threshold in np.linspace(0.5, 0.95, 10):
        hits: list[tuple[float, bool]] = []
        total = 0
        for reference, prediction, scores in images:
            table = box_ious(reference, prediction) if box else iou_table(reference, prediction)[2]
            total += len(table)
            free = np.ones(len(table), bool)
            for j in np.argsort(-scores, kind="stable"):
                good = [i for i in range(len(table)) if free[i] and table[i, j] >= threshold]
                best = max(good, key=lambda i: (table[i, j], i), default=None)  # noqa: B023
                if best is not None:
                    free[best] = False
                hits.append((float(scores[j]), best is not None))
        values.append(interpolated(hits, total))
    return float(np.mean(values)), values[0]


def interpolated(hits: list[tuple[float, bool]], total: int) -> float:
    """Mean over the recalls 0.00, 0.01 .. 1.00 of the best precision at that recall or a higher one; 0 beyond the last."""
    if total == 0:
        return math.nan
    found = np.array([hit for _, hit in sorted(hits, key=lambda pair: -pair[0])], bool)
    right = np.cumsum(found)
    recall, precision = right / total, right / np.arange(1, len(found) + 1)
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in np.linspace(0, 1, 101)]))


def box_ious(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    def boxes(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
        where = [np.nonzero(mask == number) for number in np.unique(mask) if number]
        return [(int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1) for y, x in where]

    ones, others = boxes(reference), boxes(prediction)
    table = np.zeros((len(ones), len(others)))
    for i, (top, bottom, left, right) in enumerate(ones):
        for j, (other_top, other_bottom, other_left, other_right) in enumerate(others):
            high, wide = min(bottom, other_bottom) - max(top, other_top), min(right, other_right) - max(left, other_left)
            both = max(high, 0) * max(wide, 0)
            area = (bottom - top) * (right - left) + (other_bottom - other_top) * (other_right - other_left)
            table[i, j] = both / (area - both)
    return table


def coco_ap(images: Images, kind: str) -> tuple[float, float]:
    """pycocotools as its own documentation uses it: loadRes, evaluate, accumulate, summarize."""
    truth, guesses = [], []
    for number, (reference, prediction, scores) in enumerate(images, 1):
        for mask, entries in ((reference, truth), (prediction, guesses)):
            for place, one in enumerate(value for value in np.unique(mask) if value):
                code = coco_rle.encode(np.asfortranarray((mask == one).astype(np.uint8)))
                entry = {"id": len(entries) + 1, "image_id": number, "category_id": 1, "segmentation": code, "iscrowd": 0}
                entry |= {"area": int(coco_rle.area(code)), "bbox": coco_rle.toBbox(code).tolist()}
                entries.append(entry if entries is truth else entry | {"score": float(scores[place])})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        height, width = images[0][0].shape
        coco.dataset = {
            "images": [{"id": number, "height": height, "width": width} for number in range(1, len(images) + 1)],
            "categories": [{"id": 1, "name": "lesion"}],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(guesses), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def check_average_precision(seed: int) -> bool:
    """Whether there was anything to compare with pycocotools, which cannot load an empty prediction."""
    images = random_images(np.random.default_rng(seed))
    found = measured(images)
    assert (found["mask_ap"], found["mask_ap50"]) == pytest.approx(own_ap(images, box=False), abs=1e-9, nan_ok=True)
    assert (found["box_ap"], found["box_ap50"]) == pytest.approx(own_ap(images, box=True), abs=1e-9, nan_ok=True)
    if not any(reference.any() for reference, _, _ in images) or not any(prediction.any() for _, prediction, _ in images):
        return False
    assert (found["mask_ap"], found["mask_ap50"]) == pytest.approx(coco_ap(images, "segm"), abs=1e-12)
    assert (found["box_ap"], found["box_ap50"]) == pytest.approx(coco_ap(images, "bbox"), abs=1e-12)
    return True


def test_average_precision_of_random_images():
    assert sum(check_average_precision(seed) for seed in range(15)) > 10


@pytest.mark.slow
def test_average_precision_of_many_random_images():
    assert sum(check_average_precision(seed) for seed in range(15, 2015)) > 1500


# --- objects with scores of their own, which may overlap


def found_in(draw: np.random.Generator, reference: np.ndarray) -> list[FoundObject]:
    """By falling score: about each reference object and elsewhere, with boxes that are not those of their masks; some have no pixel."""
    found = []
    for score in sorted(draw.random(int(draw.integers(0, 8))), reverse=True):
        pixels = np.roll(reference == draw.integers(1, 7), draw.integers(-1, 2, 2), (0, 1))
        rows, columns = np.nonzero(pixels)
        corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (2, 2, 5, 6)
        box = tuple((np.array(corners) + draw.uniform(-0.4, 0.4, 4)).tolist())
        found.append(FoundObject(1, float(score), box, patch_of(pixels), True))
    return found


def whole(found: FoundObject, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8, order="F")
    mask[found.patch.window] = found.patch.pixels_HW
    return mask


def coco_of_found(cases: list[tuple[np.ndarray, list[FoundObject]]], kind: str) -> tuple[float, float]:
    """pycocotools with each object's whole mask encoded by itself, and loadRes."""
    truth, guesses = [], []
    for number, (reference, found) in enumerate(cases, 1):
        for one in (value for value in np.unique(reference) if value):
            code = coco_rle.encode(np.asfortranarray((reference == one).astype(np.uint8)))
            entry = {"id": len(truth) + 1, "image_id": number, "category_id": 1, "segmentation": code, "iscrowd": 0}
            truth.append(entry | {"area": int(coco_rle.area(code)), "bbox": coco_rle.toBbox(code).tolist()})
        for each in found:
            left, top, right, bottom = each.box
            shape = (
                {"segmentation": coco_rle.encode(whole(each, reference.shape))}
                if kind == "segm"
                else {"bbox": [left, top, right - left, bottom - top]}
            )
            guesses.append({"image_id": number, "category_id": 1, "score": each.score} | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        height, width = cases[0][0].shape
        coco.dataset = {"images": [{"id": number, "height": height, "width": width} for number in range(1, len(cases) + 1)]}
        coco.dataset |= {"categories": [{"id": 1, "name": "lesion"}], "annotations": truth}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(guesses), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


@pytest.mark.parametrize("sets", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_average_precision_of_overlapping_objects_is_pycocotools_s(sets):
    draw, compared, overlapping = np.random.default_rng(5), 0, 0
    for _ in range(sets):
        cases = [(reference, found_in(draw, reference)) for reference in (random_ids(draw) for _ in range(int(draw.integers(1, 5))))]
        if not any(reference.any() for reference, _ in cases) or not any(found for _, found in cases):
            continue
        precision = AveragePrecision()
        for number, (reference, found) in enumerate(cases):
            precision.add(f"image {number}", "lesion", found_objects(reference, found))
            overlapping += int((sum((whole(each, reference.shape).astype(int) for each in found), np.zeros(reference.shape)) > 1).any())
        ours = precision.result()["lesion"]
        assert (ours["mask_ap"], ours["mask_ap50"]) == pytest.approx(coco_of_found(cases, "segm"), abs=1e-12)
        assert (ours["box_ap"], ours["box_ap50"]) == pytest.approx(coco_of_found(cases, "bbox"), abs=1e-12)
        compared += 1
    assert compared > sets / 2 and overlapping > sets / 4


def test_two_found_objects_that_overlap_count_whole():
    """One hides half of the other where they are painted; both have the IoU of their whole masks."""
    reference = ids("112222", "112222")
    first, second = np.zeros((2, 6), bool), np.zeros((2, 6), bool)
    first[:, :4], second[:, 2:] = True, True
    found = [FoundObject(1, 0.9, (0, 0, 4, 2), patch_of(first), True), FoundObject(1, 0.8, (2, 0, 6, 2), patch_of(second), False)]
    precision = AveragePrecision()
    precision.add("a", "lesion", found_objects(reference, found))
    # 2/4 of the first found is right, at the threshold 0.50 alone; the other is exact at all ten
    found = precision.result()["lesion"]
    assert found["mask_ap50"] == pytest.approx(1.0) and found["mask_ap"] == pytest.approx((1.0 + 9 * (51 / 101) / 2) / 10)
