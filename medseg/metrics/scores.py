"""Counts -> ratios. The rule for the undefined lives here and only here.

iou = tp / (tp + fp + fn)   dice = 2 tp / (2 tp + fp + fn)   recall = tp / (tp + fn)   precision = tp / (tp + fp)

A class in neither reference nor prediction has no score: NaN, and it is not in n. A class missed altogether scores 0 in all four, precision
included (it is 0 / 0 there; leaving it out would reward missing more). A class predicted where the reference has none scores 0 in IoU, Dice
and precision; its recall is NaN, since there was nothing to find. So IoU, Dice and precision share one n, and recall counts references.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.labels import LabelSet
from medseg.metrics.counts import Counts, counts_of, scored_names
from medseg.types import CaseResult

METRICS = ("iou", "recall", "precision", "dice")


def ratios(counts: Counts) -> dict[str, float]:
    """The four scores of one class, each in [0, 1] or NaN.

    >>> ratios(Counts(tp=2, fp=1, fn=1, tn=0))["iou"], ratios(Counts(0, 0, 5, 0))["precision"], ratios(Counts(0, 3, 0, 0))["recall"]
    (0.5, 0.0, nan)
    """
    tp, fp, fn, _ = counts
    if tp + fp + fn == 0:
        return dict.fromkeys(METRICS, math.nan)
    return {
        "iou": tp / (tp + fp + fn),
        "recall": tp / (tp + fn) if tp + fn else math.nan,
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "dice": 2 * tp / (2 * tp + fp + fn),
    }


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over the cases in which a score is defined, and how many those are."""

    mean: float
    n: int


@dataclass(frozen=True)
class Scores:
    """pooled[name][metric]: one ratio of the summed counts. per_image[name][metric]: mean of the images' ratios, with n.

    `summary` holds the means over classes and the accuracies, each by a name that says which. A mean's n is the number of classes (regions
    never enter one), an accuracy's the number of pixels.
    """

    n_cases: int
    n_groups: int
    pooled: dict[str, dict[str, float]]
    per_image: dict[str, dict[str, Mean]]
    summary: dict[str, Mean]
    confusion_KK: np.ndarray


def nan_mean(values: Sequence[float]) -> Mean:
    """Mean of the values that are defined; NaN with n = 0 where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return Mean(math.fsum(defined) / len(defined) if defined else math.nan, len(defined))


def score(cases: Sequence[CaseResult], labels: LabelSet) -> Scores:
    """Pooled and per-image scores of every class and region. `cases` must not be empty."""
    total = np.sum([case.confusion_KK for case in cases], axis=0)
    names = scored_names(labels)
    pooled = {name: ratios(counts_of(total, ids)) for name, ids in names.items()}
    by_case = {name: [ratios(counts_of(case.confusion_KK, ids)) for case in cases] for name, ids in names.items()}
    per_image = {name: {metric: nan_mean([one[metric] for one in each]) for metric in METRICS} for name, each in by_case.items()}
    groups = len({case.group_id for case in cases})
    return Scores(len(cases), groups, pooled, per_image, _summary(total, pooled, per_image, labels), total)


def _summary(
    total: np.ndarray, pooled: dict[str, dict[str, float]], per_image: dict[str, dict[str, Mean]], labels: LabelSet
) -> dict[str, Mean]:
    every, foreground = labels.names, labels.foreground
    pixels = int(total.sum())
    return {
        "miou_pooled/with_background": nan_mean([pooled[name]["iou"] for name in every]),
        "miou_pooled/without_background": nan_mean([pooled[name]["iou"] for name in foreground]),
        "miou_per_image/with_background": nan_mean([per_image[name]["iou"].mean for name in every]),
        "miou_per_image/without_background": nan_mean([per_image[name]["iou"].mean for name in foreground]),
        "mean_dice_pooled/without_background": nan_mean([pooled[name]["dice"] for name in foreground]),
        "mean_class_accuracy/with_background": nan_mean([pooled[name]["recall"] for name in every]),
        "pixel_accuracy": Mean(int(np.trace(total)) / pixels if pixels else math.nan, pixels),
    }
