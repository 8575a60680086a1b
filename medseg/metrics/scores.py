"""Counts -> ratios. The rule for the undefined lives here and only here.

iou = tp / (tp + fp + fn)   dice = 2 tp / (2 tp + fp + fn)   recall = tp / (tp + fn)   precision = tp / (tp + fp)
specificity = tn / (tn + fp)   volume_similarity = 1 - |fn - fp| / (2 tp + fp + fn)   (Taha and Hanbury 2015, BMC Med Imaging 15:29)

A class in neither reference nor prediction has no score: NaN, and it is not in n. A class missed altogether scores 0 in the first four,
precision included (it is 0 / 0 there; leaving it out would reward missing more), and in volume similarity. A class predicted where the
reference has none scores 0 in IoU, Dice, precision and volume similarity; its recall is NaN, since there was nothing to find. So all of
these share one n, but recall, which counts references. Specificity asks about the pixels outside the reference: it is NaN where there are
none, and 1 for a class in neither mask, whose every pixel was rightly left alone.

Legend: K classes, N names scored (classes, then regions), R ratios.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medseg.labels import LabelSet
from medseg.metrics.counts import Counts, counts_table, members, scored_names
from medseg.metrics.running import RunningMeans
from medseg.types import CaseResult

HEADLINE = ("iou", "recall", "precision", "dice")  # what tables and a training's log show
METRICS = (*HEADLINE, "specificity", "volume_similarity")


def ratios(counts: Counts) -> dict[str, float]:
    """The scores of one class, each in [0, 1] or NaN.

    >>> ratios(Counts(tp=2, fp=1, fn=1, tn=0))["iou"], ratios(Counts(0, 0, 5, 0))["precision"], ratios(Counts(0, 3, 0, 0))["recall"]
    (0.5, 0.0, nan)
    """
    return dict(zip(METRICS, ratio_table(np.array([counts]))[0].tolist(), strict=True))


def ratio_table(counts_N4: np.ndarray) -> np.ndarray:
    """float64 (N, R): the METRICS of each row of tp, fp, fn, tn."""
    tp, fp, fn, tn = counts_N4.T
    there = tp + fp + fn > 0
    over = np.stack([tp, tp, tp, 2 * tp, tn, 2 * tp + fp + fn - abs(fn - fp)])
    under = np.stack([tp + fp + fn, tp + fn, np.maximum(tp + fp, 1), 2 * tp + fp + fn, tn + fp, 2 * tp + fp + fn])
    defined = (there | (np.array(METRICS) == "specificity")[:, None]) & (under > 0)
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=defined).T


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over the cases in which a score is defined, and how many those are."""

    mean: float
    n: int


@dataclass(frozen=True, slots=True)
class Occurrence:
    """In how many images the reference holds a class; of these, how many predictions hold none of it (missed); and how many predictions
    hold it where the reference does not (invented)."""

    reference: int
    missed: int
    invented: int


@dataclass(frozen=True)
class Scores:
    """pooled[name][metric]: one ratio of the summed counts. per_image[name][metric]: mean of the images' ratios, with n.

    per_group: the same of the groups' ratios, counts summed within each; empty where every image is a group of its own. boundary: means
    over images of distances and NSD, by the names that `Boundary.metrics` gives; empty where none were measured. `summary` holds the means
    over classes and the accuracies, each by a name that says which. A mean's n is the number of classes (regions never enter one), an
    accuracy's the number of pixels.
    """

    n_cases: int
    n_groups: int
    pooled: dict[str, dict[str, float]]
    per_image: dict[str, dict[str, Mean]]
    per_group: dict[str, dict[str, Mean]]
    occurrence: dict[str, Occurrence]
    boundary: dict[str, dict[str, Mean]]
    summary: dict[str, Mean]
    confusion_KK: np.ndarray


def nan_mean(values: Sequence[float]) -> Mean:
    """Mean of the values that are defined; NaN with n = 0 where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return Mean(math.fsum(defined) / len(defined) if defined else math.nan, len(defined))


def score(cases: Iterable[CaseResult], labels: LabelSet) -> Scores:
    """The scores of every class and region over all cases, of which there must be one at least."""
    tally = Tally(labels)
    for case in cases:
        tally.add(case)
    return tally.scores()


@dataclass
class Tally:
    """Cases in, scores out; each case is forgotten once it is counted.

    grouped: whether cases may be of one group, whose counts, N x 4 numbers a group, must be kept then.
    """

    labels: LabelSet
    grouped: bool = True
    n_cases: int = 0
    _groups: dict[str, np.ndarray] = field(default_factory=dict)
    _boundary: dict[tuple[str, ...], RunningMeans] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = tuple(scored_names(self.labels))
        self._members_NK = members(self.labels)
        self._total_KK = np.zeros((self.labels.num_classes, self.labels.num_classes), np.int64)
        self._per_image = RunningMeans(len(self._names), len(METRICS))
        self._occurrence = np.zeros((len(self._names), 3), np.int64)

    def add(self, case: CaseResult) -> None:
        """Count one more case."""
        counts = counts_table(case.confusion_KK, self._members_NK)
        self.n_cases += 1
        self._total_KK += case.confusion_KK
        self._per_image.add(ratio_table(counts))
        in_reference, in_prediction = counts[:, 0] + counts[:, 2] > 0, counts[:, 0] + counts[:, 1] > 0
        self._occurrence += np.stack([in_reference, in_reference & ~in_prediction, in_prediction & ~in_reference], axis=1)
        if self.grouped:
            self._groups[case.group_id] = self._groups.get(case.group_id, 0) + counts
        for name, values in case.boundary.items():
            self._boundary.setdefault((name, *values), RunningMeans(len(values))).add(np.array(list(values.values())))

    @property
    def never_in_reference(self) -> list[str]:
        """The foreground classes that no reference so far holds."""
        held_K: np.ndarray = np.asarray(self._total_KK.any(axis=1))
        return [name for name in self.labels.foreground if not held_K[self.labels.id_of(name)]]

    def scores(self) -> Scores:
        """Of the cases so far."""
        assert self.n_cases, "there is no case to score"
        table = ratio_table(counts_table(self._total_KK, self._members_NK))
        pooled = {name: dict(zip(METRICS, row.tolist(), strict=True)) for name, row in zip(self._names, table, strict=True)}
        per_image = self._named(self._per_image)
        boundary = {name: _means(metrics, found.mean, found.n) for (name, *metrics), found in self._boundary.items()}
        occurrence = {name: Occurrence(*row) for name, row in zip(self._names, self._occurrence.tolist(), strict=True)}
        summary = _summary(self._total_KK, pooled, per_image, self.labels)
        n_groups = len(self._groups) if self.grouped else self.n_cases
        return Scores(
            self.n_cases, n_groups, pooled, per_image, self._per_group(), occurrence, boundary, summary, self._total_KK.copy()
        )  # fmt: skip

    def _per_group(self) -> dict[str, dict[str, Mean]]:
        if len(self._groups) in (0, self.n_cases):
            return {}
        means = RunningMeans(len(self._names), len(METRICS))
        for counts in self._groups.values():
            means.add(ratio_table(counts))
        return self._named(means)

    def _named(self, means: RunningMeans) -> dict[str, dict[str, Mean]]:
        return {name: _means(METRICS, *row) for name, *row in zip(self._names, means.mean, means.n, strict=True)}


def _means(metrics: Sequence[str], mean: np.ndarray, n: np.ndarray) -> dict[str, Mean]:
    return {metric: Mean(float(one), int(number)) for metric, one, number in zip(metrics, mean, n, strict=True)}


def _summary(
    total_KK: np.ndarray, pooled: Mapping[str, Mapping[str, float]], per_image: Mapping[str, Mapping[str, Mean]], labels: LabelSet
) -> dict[str, Mean]:
    every, foreground = labels.names, labels.foreground
    pixels, of_class_K = int(total_KK.sum()), total_KK.sum(axis=1)
    present = [(share, pooled[name]["iou"]) for share, name in zip(of_class_K.tolist(), every, strict=True) if share]
    weighted = math.fsum(share * iou for share, iou in present) / pixels if pixels else math.nan
    return {
        "miou_pooled/with_background": nan_mean([pooled[name]["iou"] for name in every]),
        "miou_pooled/without_background": nan_mean([pooled[name]["iou"] for name in foreground]),
        "miou_per_image/with_background": nan_mean([per_image[name]["iou"].mean for name in every]),
        "miou_per_image/without_background": nan_mean([per_image[name]["iou"].mean for name in foreground]),
        "mean_dice_pooled/without_background": nan_mean([pooled[name]["dice"] for name in foreground]),
        "mean_dice_per_image/without_background": nan_mean([per_image[name]["dice"].mean for name in foreground]),
        "mean_class_accuracy/with_background": nan_mean([pooled[name]["recall"] for name in every]),
        "frequency_weighted_iou/with_background": Mean(weighted, len(present)),
        "pixel_accuracy": Mean(int(np.trace(total_KK)) / pixels if pixels else math.nan, pixels),
    }
