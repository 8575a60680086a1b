"""The rules of other libraries: against MONAI and torchmetrics, against transcriptions of the rest, and by hand.

bench/check_rules.py runs the real code of the libraries that are only transcribed here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU
from torchmetrics import segmentation
from torchmetrics.classification import MulticlassJaccardIndex

from medseg.labels import LabelSet
from medseg.metrics.counts import confusion
from medseg.metrics.rules import OtherRules, RuleScores

NAN = math.nan
Pairs = list[tuple[np.ndarray, np.ndarray]]  # reference and prediction of each image, int64 (N), ignored pixels left out
Theirs = dict[tuple[str, str], Any]  # (rule, field of RuleScores) -> their float or list of floats by class

MONAI = {
    (True, True): "MONAI 1.6, ignore_empty=True (default)",
    (True, False): "MONAI 1.6, ignore_empty=True (default), include_background=False",
    (False, True): "MONAI 1.6, ignore_empty=False",
    (False, False): "MONAI 1.6, ignore_empty=False, include_background=False",
}
NNUNET = "nnU-Net v2, summary.json"
MEAN_IOU = "torchmetrics 1.9, segmentation.MeanIoU"
DICE_SCORE = "torchmetrics 1.9, segmentation.DiceScore (samplewise, macro: default)"
JACCARD = "torchmetrics 1.9, MulticlassJaccardIndex"
SMP = "segmentation_models.pytorch 0.6, "
MMSEG, FSCORE = "MMSegmentation 1.2, mIoU and mDice", "MMSegmentation 1.2, mFscore"
MISEVAL_IOU, MISEVAL_DICE = "MISeval 1.3, IoU", "MISeval 1.3, DSC"
TOTALSEGMENTATOR = "TotalSegmentator, resources/evaluate.py"


def labels_of(k: int) -> LabelSet:
    return LabelSet.of(*(f"class {c}" for c in range(1, k)))


def scores_of(pairs: Pairs, k: int) -> dict[str, RuleScores]:
    rules = OtherRules(labels_of(k))
    for pair in pairs:
        rules.add(confusion(*pair, labels_of(k)))
    return {scores.rule: scores for scores in rules.results()}


def images(*rows: str) -> Pairs:
    """Images written "reference prediction", a digit a pixel."""
    return [tuple(np.array([int(cell) for cell in mask]) for mask in row.split()) for row in rows]  # type: ignore[misc]


def random_set(generator: np.random.Generator) -> tuple[Pairs, int]:
    """1 to 6 images of 2 to 5 classes, each mask with some of them: absent, missed, invented and found nowhere; some pixels are ignored."""
    k, pairs = int(generator.integers(2, 6)), []
    for _ in range(generator.integers(1, 7)):
        there, guessed = (generator.choice(k, size=generator.integers(1, k + 1), replace=False) for _ in range(2))
        reference, prediction = (np.repeat(generator.choice(some, size=9), 17) for some in (there, guessed))
        prediction = np.where(generator.random(reference.shape) < 0.5, reference, prediction)
        valid = generator.random(reference.shape) > 0.1
        pairs.append((reference[valid], prediction[valid]))
    return pairs, k


def by_monai(pairs: Pairs, k: int) -> Theirs:
    """The real DiceMetric and MeanIoU, an image at a time, since images differ in size."""
    found: Theirs = {}
    for (ignore_empty, background), rule in MONAI.items():
        options = {"ignore_empty": ignore_empty, "include_background": background}
        for field, metric in (("dice", DiceMetric(**options)), ("iou", MeanIoU(**options))):
            for reference, prediction in pairs:
                one_hot = [torch.as_tensor(np.eye(k, dtype=np.float32)[mask].T[None]) for mask in (prediction, reference)]
                metric(*one_hot)
            found[rule, field] = metric.aggregate("mean_batch").tolist()
            found[rule, f"mean_{field}"] = metric.aggregate("mean").item()
    return found


def by_torchmetrics(pairs: Pairs, k: int) -> Theirs:
    """The real MulticlassJaccardIndex, MeanIoU and DiceScore."""
    metrics = {
        (JACCARD, "iou"): MulticlassJaccardIndex(k, average=None),
        (JACCARD, "mean_iou"): MulticlassJaccardIndex(k),
        (MEAN_IOU, "iou"): segmentation.MeanIoU(k, per_class=True, input_format="index"),
        (MEAN_IOU, "mean_iou"): segmentation.MeanIoU(k, input_format="index"),
        (DICE_SCORE, "dice"): segmentation.DiceScore(k, average="none", input_format="index"),
        (DICE_SCORE, "mean_dice"): segmentation.DiceScore(k, input_format="index"),
    }
    for metric in metrics.values():
        for reference, prediction in pairs:
            metric.update(torch.as_tensor(prediction)[None], torch.as_tensor(reference)[None])
    return {key: metric.compute().tolist() for key, metric in metrics.items()}


def image_counts(pairs: Pairs, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tp, fp, fn of each image and class, float (images, K), by comparing masks: not by way of a confusion matrix."""
    truth, guess = ([[pair[side] == c for c in range(k)] for pair in pairs] for side in (0, 1))
    cells = [[(t & g, ~t & g, t & ~g) for t, g in zip(*image, strict=True)] for image in zip(truth, guess, strict=True)]
    return tuple(np.array([[float(c[i].sum()) for c in image] for image in cells]) for i in range(3))  # type: ignore[return-value]


def by_nnunet(pairs: Pairs, k: int) -> Theirs:
    """nnunetv2 2.8.1 (Apache-2.0), evaluation/evaluate_predictions.py: compute_metrics and the two means of compute_metrics_on_folder."""
    tp, fp, fn = (part[:, 1:] for part in image_counts(pairs, k))  # foreground labels
    empty = tp + fp + fn == 0
    found: Theirs = {}
    for field, ratio in (("dice", 2 * tp / (2 * tp + fp + fn)), ("iou", tp / (tp + fp + fn))):
        means = np.nanmean(np.where(empty, np.nan, ratio), axis=0)
        found |= {(NNUNET, field): means.tolist(), (NNUNET, f"mean_{field}"): float(np.mean(means))}
    return found


def by_smp(pairs: Pairs, k: int) -> Theirs:
    """segmentation_models_pytorch 0.6.0 (MIT), metrics/functional.py: iou_score and f1_score by _compute_metric, zero_division=1.0."""
    stats, found = image_counts(pairs, k), {}
    ratios: dict[str, Callable] = {"iou": lambda tp, fp, fn: tp / (tp + fp + fn), "dice": lambda tp, fp, fn: 2 * tp / (2 * tp + fn + fp)}
    for field, ratio in ratios.items():
        imagewise, pooled = (np.nan_to_num(ratio(*parts), nan=1.0) for parts in (stats, [part.sum(axis=0) for part in stats]))
        found[SMP + "micro", f"mean_{field}"] = ratio(*(part.sum() for part in stats))
        found |= {(SMP + "macro", field): pooled, (SMP + "macro", f"mean_{field}"): pooled.mean()}
        found[SMP + "micro-imagewise", f"mean_{field}"] = np.nan_to_num(ratio(*(part.sum(axis=1) for part in stats)), nan=1.0).mean()
        found[SMP + "macro-imagewise", field] = imagewise.mean(axis=0)
        found[SMP + "macro-imagewise", f"mean_{field}"] = imagewise.mean(axis=0).mean()
    return found


def by_mmseg(pairs: Pairs, k: int) -> Theirs:
    """mmsegmentation 1.2.2 (Apache-2.0), evaluation/metrics/iou_metric.py: total_area_to_metrics, and the nanmean of compute_metrics."""
    tp, fp, fn = (part.sum(axis=0) for part in image_counts(pairs, k))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    by_class = {
        (MMSEG, "iou"): tp / (tp + fp + fn),
        (MMSEG, "dice"): 2 * tp / (tp + fp + tp + fn),
        (FSCORE, "dice"): 2 * (precision * recall) / (precision + recall),
    }
    return by_class | {(rule, f"mean_{field}"): np.nanmean(values) for (rule, field), values in by_class.items()}


def by_miseval_and_totalsegmentator(pairs: Pairs, k: int) -> Theirs:
    """Written from their rules: miseval 1.3.0 calc_IoU_Sets, calc_DSC_Enhanced; TotalSegmentator 398ff34, resources/evaluate.py."""
    tp, fp, fn = image_counts(pairs, k)
    iou, dice, empty = tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn), tp + fp + fn == 0
    annotated = np.where(tp + fn > 0, dice, np.nan)[:, 1:]
    return {
        (MISEVAL_IOU, "iou"): np.where(empty, 0, iou).mean(axis=0),
        (MISEVAL_DICE, "dice"): np.where(empty, 1, dice).mean(axis=0),
        (TOTALSEGMENTATOR, "dice"): np.nanmean(annotated, axis=0),
    }


ORACLES = (by_monai, by_torchmetrics, by_nnunet, by_smp, by_mmseg, by_miseval_and_totalsegmentator)


def check(pairs: Pairs, k: int) -> None:
    """Ours equal every oracle within 1e-6, NaN where it has NaN, and no score that a library has goes unchecked."""
    ours, checked = scores_of(pairs, k), set()
    for oracle in ORACLES:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # nanmean of nothing
            theirs = oracle(pairs, k)
        for (rule, field), expected in theirs.items():
            found = getattr(ours[rule], field)
            found = list(found.values()) if isinstance(found, dict) else found
            assert found == pytest.approx(np.array(expected).tolist(), abs=1e-6, nan_ok=True), (rule, field)
            checked.add((rule, field))
    for scores in ours.values():
        fields = {field for field in ("iou", "dice") if getattr(scores, field)}
        fields |= {field for field in ("mean_iou", "mean_dice") if not math.isnan(getattr(scores, field))}
        assert {(scores.rule, field) for field in fields} <= checked


def test_against_the_libraries():
    generator = np.random.default_rng(0)
    for _ in range(15):
        check(*random_set(generator))


@pytest.mark.slow
def test_against_the_libraries_at_length():
    generator = np.random.default_rng(1)
    for _ in range(2000):
        check(*random_set(generator))


# The example of docs/metrics.md. Lesion (2) is found in the first image, invented in the second, in neither mask of the third, missed in
# the fourth: IoU 2/3, 0, -, 0 and Dice 4/5, 0, -, 0. Tongue (1): -, 1/2, 1, 1/2 and -, 2/3, 1, 2/3. Background: 1/2, 1, 1, 1 and
# 2/3, 1, 1, 1.
EXAMPLE = ("0022 0222", "0011 0012", "0111 0111", "0012 0011")
# rule -> lesion's IoU, lesion's Dice, mean IoU, mean Dice; - where the library has none
BY_HAND = {
    MONAI[True, True]: "1/3 2/5 17/24 281/360",
    MONAI[True, False]: "1/3 2/5 29/48 7/10",
    MONAI[False, True]: "5/12 9/20 49/72 11/15",
    MONAI[False, False]: "5/12 9/20 7/12 77/120",
    NNUNET: "2/9 4/15 4/9 47/90",
    MEAN_IOU: "2/9 - 37/60 -",
    DICE_SCORE: "- 4/15 - 32/45",
    SMP + "macro-imagewise": "5/12 9/20 49/72 11/15",
    MISEVAL_IOU: "1/6 - - -",
    MISEVAL_DICE: "- 9/20 - -",
    TOTALSEGMENTATOR: "- 2/5 - -",
    SMP + "micro-imagewise": "- - 7/10 13/16",
    SMP + "micro": "- - 13/19 13/16",
    SMP + "macro": "2/5 4/7 23/35 1271/1638",
    JACCARD: "2/5 - 23/35 -",
    MMSEG: "2/5 4/7 23/35 1271/1638",
    FSCORE: "- 4/7 - 1271/1638",
}


def numbers(scores: RuleScores, name: str) -> tuple[float, float, float, float]:
    """IoU and Dice of a class, then the two means; NaN where the library has none."""
    return scores.iou.get(name, NAN), scores.dice.get(name, NAN), scores.mean_iou, scores.mean_dice


def fractions(written: str) -> tuple[float, ...]:
    return tuple(NAN if number == "-" else float(Fraction(number)) for number in written.split())


def test_the_example_by_hand():
    ours = scores_of(images(*EXAMPLE), 3)
    assert list(ours) == list(BY_HAND)
    for rule, written in BY_HAND.items():
        assert numbers(ours[rule], "class 2") == pytest.approx(fractions(written), abs=1e-12, nan_ok=True), rule
    check(images(*EXAMPLE), 3)


def test_four_predictions_of_two_classes_by_every_convention():
    """One class: IoU 15/25, 29/30, 38/50, then 32 invented pixels. A rare one: 35/46, and rightly absent in three images."""
    rules = OtherRules(LabelSet.of("common", "rare"))
    for (tp, fp), (rare, rare_fp) in zip([(15, 10), (29, 1), (38, 12), (0, 32)], [(35, 11), (0, 0), (0, 0), (0, 0)], strict=True):
        rules.add(np.array([[20, fp, rare_fp], [0, tp, 0], [0, 0, rare]]))
    found = {scores.rule: (round(scores.iou["common"], 3), round(scores.iou["rare"], 3)) for scores in rules.results() if scores.iou}
    pooled, nan_mean, dropped, kept = (0.599, 0.761), (0.582, 0.761), (0.776, 0.761), (0.582, 0.94)
    assert found == {
        MMSEG: pooled, JACCARD: pooled, SMP + "macro": pooled, NNUNET: nan_mean, MEAN_IOU: nan_mean,
        MONAI[True, True]: dropped, MONAI[True, False]: dropped, MONAI[False, True]: kept, MONAI[False, False]: kept,
        SMP + "macro-imagewise": kept, MISEVAL_IOU: (0.582, 0.19),
    }  # fmt: skip


def test_a_class_found_nowhere():
    pairs = images("0011 0011")
    expected = {
        MONAI[True, True]: "0 0 1 1", MONAI[True, False]: "0 0 1 1", MONAI[False, True]: "1 1 1 1", MONAI[False, False]: "1 1 1 1",
        NNUNET: "- - - -", MEAN_IOU: "-1 - 1 -", DICE_SCORE: "- - - 1", JACCARD: "0 - 1 -", MMSEG: "- - 1 1", FSCORE: "- - - 1",
        SMP + "macro-imagewise": "1 1 1 1", SMP + "micro-imagewise": "- - 1 1", SMP + "micro": "- - 1 1", SMP + "macro": "1 1 1 1",
        MISEVAL_IOU: "0 - - -", MISEVAL_DICE: "- 1 - -", TOTALSEGMENTATOR: "- - - -",
    }  # fmt: skip
    for rule, scores in scores_of(pairs, 3).items():
        assert numbers(scores, "class 2") == pytest.approx(fractions(expected[rule]), nan_ok=True), rule
    check(pairs, 3)


def test_only_rules_that_drop_an_empty_reference_forgive_what_is_invented():
    ours = scores_of(images("0011 0011", "0000 0001"), 2)
    forgiving = {rule for rule, scores in ours.items() if 1.0 in (scores.iou.get("class 1"), scores.dice.get("class 1"))}
    assert forgiving == {MONAI[True, True], MONAI[True, False], TOTALSEGMENTATOR}


def test_a_missed_class_leaves_mmsegmentation_s_fscore():
    ours = scores_of(images("0012 0011"), 3)
    assert (ours[MMSEG].mean_iou, ours[MMSEG].mean_dice) == pytest.approx((1 / 2, 5 / 9))
    assert ours[FSCORE].mean_dice == pytest.approx(5 / 6)
    assert math.isnan(ours[FSCORE].dice["class 2"])


def test_an_image_without_a_valid_pixel_and_counts_past_32_bits():
    rules = OtherRules(labels_of(2))
    rules.add(np.zeros((2, 2), np.int64))
    for _ in range(2):
        rules.add(np.array([[3_000_000_000, 0], [0, 3_000_000_000]]))
    found = {scores.rule: scores for scores in rules.results()}
    assert rules.total_KK[1, 1] == 6_000_000_000
    assert (found[NNUNET].mean_iou, found[MONAI[True, True]].mean_dice, found[SMP + "micro-imagewise"].mean_iou) == (1, 1, 1)
    assert found[MISEVAL_IOU].iou["class 1"] == pytest.approx(2 / 3)


def test_no_image_has_no_scores():
    with pytest.raises(AssertionError, match="no image"):
        OtherRules(labels_of(2)).results()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_monai_s_hd95_improves_when_a_structure_is_missed():
    """The example of docs/metrics.md: the distance of a missed structure is NaN, and the mean leaves it out."""
    reference, off_by_2 = np.zeros((2, 9, 9), np.float32)
    reference[3:6, 2:5], off_by_2[3:6, 4:7] = 1, 1
    for second, expected in ((off_by_2, 2.0), (np.zeros_like(reference), 0.0)):
        metric = HausdorffDistanceMetric(include_background=True, percentile=95)
        for prediction in (reference, second):
            metric(torch.as_tensor(prediction)[None, None], torch.as_tensor(reference)[None, None])
        assert metric.aggregate().item() == pytest.approx(expected / 2)


def test_the_two_definitions_of_hd95():
    """The example of docs/metrics.md: 97 contour points of the reference lie on the prediction, 2 of its 20 points lie 100 px away."""
    from_reference, from_prediction = [0] * 97, [0] * 18 + [100] * 2
    assert max(np.percentile(from_reference, 95), np.percentile(from_prediction, 95)) == 100
    assert np.percentile(from_reference + from_prediction, 95) == 0
