"""Every score against hand cases, a slow oracle and other libraries."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.metrics import compute_confusion_matrix_metric, get_confusion_matrix
from sklearn.metrics import confusion_matrix, jaccard_score, precision_recall_fscore_support
from torchmetrics.classification import MulticlassJaccardIndex

from medseg.labels import LabelSet
from medseg.metrics.counts import Counts, confusion, counts_of, scored_names
from medseg.metrics.running import RunningMeans
from medseg.metrics.scores import METRICS, Occurrence, nan_mean, ratios, score
from medseg.types import CaseResult
from tests.oracles import random_mask, slow_scores

LABELS = LabelSet.of("tongue", "coating", "lesion", regions={"whole_tongue": ["tongue", "coating", "lesion"]})


def case(reference: np.ndarray, prediction: np.ndarray, name: str = "a") -> CaseResult:
    return CaseResult(name, name, confusion(reference, prediction, LABELS))


def mask(*rows: str) -> np.ndarray:
    return np.array([[255 if cell == "x" else int(cell) for cell in row] for row in rows], np.uint8)


def test_hand_case():
    reference, prediction = mask("0011", "0012"), mask("0111", "0022")
    counts = counts_of(confusion(reference, prediction, LABELS), (1,))
    assert counts == Counts(tp=2, fp=1, fn=1, tn=4)
    expected = {"iou": 2 / 4, "recall": 2 / 3, "precision": 2 / 3, "dice": 4 / 6, "specificity": 4 / 5, "volume_similarity": 1.0}
    assert ratios(counts) == expected


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("00", "00", [math.nan] * 4 + [1, math.nan]),  # rightly absent, and rightly left alone
        ("11", "00", [0, 0, 0, 0, math.nan, 0]),  # missed: precision too; no pixel is outside the reference
        ("110", "000", [0, 0, 0, 0, 1, 0]),
        ("00", "11", [0, math.nan, 0, 0, 0, 0]),  # invented: nothing to recall
        ("000", "110", [0, math.nan, 0, 0, 1 / 3, 0]),
        ("11", "11", [1, 1, 1, 1, math.nan, 1]),
        ("1x", "12", [1, 1, 1, 1, math.nan, 1]),  # the ignored pixel does not count
        ("xx", "11", [math.nan] * 6),
    ],
)
def test_the_undefined(reference, prediction, expected):
    found = ratios(counts_of(confusion(mask(reference), mask(prediction), LABELS), (1,)))
    assert found == pytest.approx(dict(zip(METRICS, expected, strict=True)), nan_ok=True)


@pytest.mark.parametrize("cases", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_masks_against_the_slow_oracle(cases):
    generator = np.random.default_rng(0)
    for _ in range(cases):
        reference, prediction = random_mask(generator, [0, 1, 2, 3, 255]), random_mask(generator, [0, 1, 2, 3])
        matrix = confusion(reference, prediction, LABELS)
        for ids in scored_names(LABELS).values():
            assert ratios(counts_of(matrix, ids)) == pytest.approx(slow_scores(reference, prediction, set(ids), 255), nan_ok=True)


@pytest.mark.parametrize("cases", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_against_scikit_learn(cases):
    generator = np.random.default_rng(1)
    for _ in range(cases):
        reference, prediction = random_mask(generator, [0, 1, 2, 3]), random_mask(generator, [0, 1, 2, 3])
        matrix = confusion(reference, prediction, LABELS)
        flat = reference.ravel(), prediction.ravel()
        assert (matrix == confusion_matrix(*flat, labels=range(4))).all()
        present = [k for k in range(4) if matrix[k].sum()]  # where scikit-learn's zero_division does not enter
        precision, recall, f1, _ = precision_recall_fscore_support(*flat, labels=present, zero_division=0)
        iou = jaccard_score(*flat, labels=present, average=None)
        for k, *theirs in zip(present, iou, recall, precision, f1, strict=True):
            assert list(ratios(counts_of(matrix, (k,))).values())[:4] == pytest.approx(theirs, abs=1e-12)


def test_pooled_iou_against_torchmetrics():
    generator = np.random.default_rng(2)
    cases = [(random_mask(generator, [0, 1, 2, 255]), random_mask(generator, [0, 1, 2])) for _ in range(30)]
    theirs = MulticlassJaccardIndex(num_classes=4, average=None, ignore_index=255)
    for reference, prediction in cases:
        theirs.update(torch.as_tensor(prediction.astype(np.int64)), torch.as_tensor(reference.astype(np.int64)))
    ours = score([case(*pair) for pair in cases], LABELS).pooled
    assert [ours[name]["iou"] for name in LABELS.names[:3]] == pytest.approx(theirs.compute()[:3].tolist(), abs=1e-6)
    assert math.isnan(ours["lesion"]["iou"])  # absent from the whole set is undefined, where torchmetrics says 0


def test_dice_and_iou_belong_together():
    generator = np.random.default_rng(3)
    for _ in range(50):
        found = ratios(counts_of(confusion(random_mask(generator, [0, 1]), random_mask(generator, [0, 1]), LABELS), (1,)))
        if not math.isnan(found["iou"]):
            assert found["dice"] == pytest.approx(2 * found["iou"] / (1 + found["iou"]))


def test_pooled_and_per_image_are_different_averages_with_their_n():
    small, large = case(mask("1000"), mask("0000"), "a"), case(mask("1111"), mask("1111"), "b")
    absent = case(mask("0000"), mask("0000"), "c")
    scores = score([small, large, absent], LABELS)
    assert scores.pooled["tongue"]["iou"] == 4 / 5
    assert (scores.per_image["tongue"]["iou"].mean, scores.per_image["tongue"]["iou"].n) == (0.5, 2)
    assert scores.per_image["background"]["iou"].n == 2  # image b holds none
    assert (scores.n_cases, scores.n_groups) == (3, 3)


def test_a_false_positive_on_an_empty_image_is_never_dropped():
    right, invented = case(mask("1111"), mask("1111"), "a"), case(mask("0000"), mask("0001"), "b")
    assert score([right, invented], LABELS).per_image["tongue"]["iou"].mean == 0.5


def test_missing_more_never_improves_a_mean():
    half = case(mask("1111"), mask("1100"), "a")
    found, missed = case(mask("1111"), mask("1111"), "b"), case(mask("1111"), mask("0000"), "b")
    for metric in ("iou", "recall", "precision", "dice"):
        better, worse = (score([half, other], LABELS).per_image["tongue"][metric].mean for other in (found, missed))
        assert worse < better, metric


def test_a_region_is_the_union_and_stays_out_of_the_means():
    scores = score([case(mask("0123"), mask("0111"))], LABELS)
    assert scores.pooled["whole_tongue"]["iou"] == 1.0
    assert scores.summary["miou_pooled/without_background"].mean == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert scores.summary["miou_pooled/with_background"].mean == pytest.approx((1 + 1 / 3) / 4)
    assert scores.summary["pixel_accuracy"].mean == 0.5
    assert (scores.summary["miou_pooled/with_background"].n, scores.summary["pixel_accuracy"].n) == (4, 4)
    assert scores.summary["mean_class_accuracy/with_background"].mean == pytest.approx((1 + 1 + 0 + 0) / 4)


def test_counts_survive_sizes_past_32_bits():
    matrix = np.array([[3_000_000_000, 1], [1, 3_000_000_000]])
    two = LabelSet.of("tongue")
    scores = score([CaseResult(str(i), str(i), matrix) for i in range(3)], two)
    assert counts_of(scores.confusion_KK, (1,)).tp == 9_000_000_000


def test_nan_mean_of_nothing():
    assert nan_mean([math.nan]).n == 0 and math.isnan(nan_mean([]).mean)


@pytest.mark.parametrize("cases", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_specificity_against_monai_and_volume_similarity_against_sizes(cases):
    generator = np.random.default_rng(4)
    for _ in range(cases):
        reference, prediction = random_mask(generator, [0, 1, 2]), random_mask(generator, [0, 1, 2])
        found = ratios(counts_of(confusion(reference, prediction, LABELS), (1,)))
        if math.isnan(found["iou"]):
            continue
        both = [torch.as_tensor(mask == 1)[None, None].float() for mask in (prediction, reference)]
        theirs = compute_confusion_matrix_metric("specificity", get_confusion_matrix(*both)).item()
        assert found["specificity"] == pytest.approx(theirs, abs=1e-6, nan_ok=True)
        sizes = (prediction == 1).sum(), (reference == 1).sum()
        assert found["volume_similarity"] == pytest.approx(1 - abs(float(sizes[0]) - float(sizes[1])) / float(sum(sizes)))


def test_means_over_groups_sum_counts_within_a_group():
    """One patient with two images, one with one: counts of the two add up before the ratio."""
    cases = [replace(case(mask("1100"), mask("1000"), name), group_id=group) for name, group in (("a", "p"), ("b", "p"), ("c", "q"))]
    cases[1] = replace(case(mask("1111"), mask("1111"), "b"), group_id="p")
    scores = score(cases, LABELS)
    assert scores.per_group["tongue"]["iou"].mean == pytest.approx((5 / 6 + 1 / 2) / 2) and scores.per_group["tongue"]["iou"].n == 2
    assert scores.per_image["tongue"]["iou"].mean == pytest.approx((1 / 2 + 1 + 1 / 2) / 3) and scores.n_groups == 2
    assert score(cases[:1], LABELS).per_group == {}  # every image is a group of its own


def test_missed_and_invented_are_counted():
    cases = [case(mask("11"), mask("00")), case(mask("11"), mask("10")), case(mask("00"), mask("01")), case(mask("00"), mask("00"))]
    assert score(cases, LABELS).occurrence["tongue"] == Occurrence(reference=2, missed=1, invented=1)


def test_frequency_weighted_iou_by_hand():
    """Of 4 background pixels 3 are right (IoU 3/4), of 2 tongue pixels both (IoU 2/3)."""
    summary = score([case(mask("000011"), mask("000111"))], LABELS).summary
    assert summary["frequency_weighted_iou/with_background"].mean == pytest.approx((4 * 3 / 4 + 2 * 2 / 3) / 6)


def test_running_means_lose_nothing_and_leave_the_undefined_out():
    values = np.random.default_rng(5).uniform(0, 1, (20_000, 3)) * np.array([1e-9, 1.0, 1e9])
    values[::7, 1] = np.nan
    running = RunningMeans(3)
    for row in values:
        running.add(row)
    for column, (mean, n) in enumerate(zip(running.mean, running.n, strict=True)):
        assert (mean, n) == (nan_mean(values[:, column].tolist()).mean, nan_mean(values[:, column].tolist()).n)
    assert math.isnan(RunningMeans(1).mean[0])


@pytest.mark.parametrize("k", [2, 20, 255])
def test_large_masks_are_counted_in_pieces_in_any_memory_order(k):
    labels = LabelSet.of(*(f"c{i}" for i in range(1, k)))
    generator = np.random.default_rng(k)
    reference, prediction = generator.integers(0, k, (2, 61, 53, 47)).astype(np.uint8)
    reference[generator.random(reference.shape) < 0.1] = 255
    valid = reference != 255
    expected = confusion_matrix(reference[valid], prediction[valid], labels=range(k))
    assert (confusion(np.asfortranarray(reference), prediction, labels) == expected).all()
    given = np.where(valid, prediction, 255)  # what stands under ignored pixels is nobody's business
    assert (confusion(reference, given.astype(np.uint8), labels) == expected).all()


@pytest.mark.parametrize("sets", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_frequency_weighted_iou_against_torchmetrics(sets):
    generator = np.random.default_rng(5)
    for _ in range(sets):
        theirs, cases = MulticlassJaccardIndex(4, average="weighted"), []
        for number in range(3):
            reference, prediction = random_mask(generator, [0, 1, 2, 3]), random_mask(generator, [0, 1, 2, 3])
            theirs.update(torch.tensor(prediction.ravel()).long(), torch.tensor(reference.ravel()).long())
            cases.append(case(reference, prediction, str(number)))
        found = score(cases, LABELS).summary["frequency_weighted_iou/with_background"].mean
        assert found == pytest.approx(theirs.compute().item(), abs=1e-6)
