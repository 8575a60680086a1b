"""The convention row: the same predictions scored by the rules of other libraries, to lay a published number beside ours.

All of it follows from the K x K confusion of each image. Ignored pixels are already out, also for the libraries that know no ignore id.
Each rule was read in the source of the version it names and is run against it: tests/metrics/test_rules.py (MONAI, torchmetrics) and
bench/check_rules.py (nnU-Net, segmentation_models.pytorch, MMSegmentation, MISeval). medseg's own rule is in scores.py and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from medseg.labels import LabelSet
from medseg.metrics.scores import nan_mean


@dataclass(frozen=True)
class RuleScores:
    """What a library would print, as a fraction. `iou` and `dice` hold the classes the library scores; a score it lacks is {} or NaN.

    Values are in [0, 1], NaN where the library gives NaN, and -1 where torchmetrics' MeanIoU gives -1. `sentence` tells the rule in a line.
    """

    rule: str
    sentence: str
    iou: dict[str, float]
    dice: dict[str, float]
    mean_iou: float
    mean_dice: float


class _PerImage(NamedTuple):
    """A rule that takes each image's ratio. Fields of a ratio are NaN where the library leaves the image out of the class's mean.

    `both_empty`: the ratio where neither mask holds the class. `invented`: where the prediction alone does. `nowhere`: what a class without
    any ratio gets. `single`: how the one number is made, see _Average.single. `first`: 1 leaves the background out.
    """

    rule: str
    sentence: str
    both_empty: float
    invented: float
    nowhere: float
    single: Literal["images", "pairs", "classes", "none"]
    first: int = 0
    has_iou: bool = True
    has_dice: bool = True


_DROPS = (
    "per image; an image whose reference lacks the class is left out, also where it is invented; missed = 0; a class never annotated = 0"
)
_KEEPS = "per image; both empty = 1; invented = 0; missed = 0"
_BY_IMAGE = "one number: mean over an image's classes, then over images"
_BY_CLASS = "one number: mean over classes, with background"
_WITH, _WITHOUT = "with background", "without background"

_PER_IMAGE = (
    _PerImage("MONAI 1.6, ignore_empty=True (default)", f"{_DROPS}; {_BY_IMAGE}, {_WITH}", math.nan, math.nan, 0.0, "images"),
    _PerImage(
        "MONAI 1.6, ignore_empty=True (default), include_background=False",
        f"{_DROPS}; {_BY_IMAGE}, {_WITHOUT}",
        both_empty=math.nan,
        invented=math.nan,
        nowhere=0.0,
        single="images",
        first=1,
    ),
    _PerImage("MONAI 1.6, ignore_empty=False", f"{_KEEPS}; {_BY_IMAGE}, {_WITH}", 1.0, 0.0, 0.0, "images"),
    _PerImage(
        "MONAI 1.6, ignore_empty=False, include_background=False", f"{_KEEPS}; {_BY_IMAGE}, {_WITHOUT}", 1.0, 0.0, 0.0, "images", first=1
    ),
    _PerImage(
        "nnU-Net v2, summary.json",
        "per image; both empty is left out; invented = 0; missed = 0; one number (foreground_mean): plain mean over the foreground classes "
        "of their means over images, NaN where one class has none",
        both_empty=math.nan,
        invented=0.0,
        nowhere=math.nan,
        single="classes",
        first=1,
    ),
    _PerImage(
        "torchmetrics 1.9, segmentation.MeanIoU",
        "per image; both empty is left out; invented = 0; missed = 0; a class found nowhere = -1; one number: mean over all pairs of image "
        "and class that have a ratio, with background",
        both_empty=math.nan,
        invented=0.0,
        nowhere=-1.0,
        single="pairs",
        has_dice=False,
    ),
    _PerImage(
        "torchmetrics 1.9, segmentation.DiceScore (samplewise, macro: default)",
        f"per image; both empty is left out; invented = 0; missed = 0; a class found nowhere is NaN; {_BY_IMAGE}, {_WITH}",
        both_empty=math.nan,
        invented=0.0,
        nowhere=math.nan,
        single="images",
        has_iou=False,
    ),
    _PerImage(
        "segmentation_models.pytorch 0.6, macro-imagewise",
        f"{_KEEPS} (zero_division=1, the default); one number: mean over images and all classes, {_WITH}",
        both_empty=1.0,
        invented=0.0,
        nowhere=math.nan,
        single="classes",
    ),
    _PerImage(
        "MISeval 1.3, IoU",
        "per image; both empty = 0; invented = 0; missed = 0; scores one image: the mean over images is the caller's; none over classes",
        both_empty=0.0,
        invented=0.0,
        nowhere=math.nan,
        single="none",
        has_dice=False,
    ),
    _PerImage(
        "MISeval 1.3, DSC",
        f"{_KEEPS} (its IoU says 0 where both are empty); scores one image: the mean over images is the caller's; none over classes",
        both_empty=1.0,
        invented=0.0,
        nowhere=math.nan,
        single="none",
        has_iou=False,
    ),
    _PerImage(
        "TotalSegmentator, resources/evaluate.py",
        "per image; an image whose reference lacks the class is left out, also where it is invented; missed = 0; foreground classes; no "
        "mean over classes (its 1e-6 in the denominator is left out here)",
        both_empty=math.nan,
        invented=math.nan,
        nowhere=math.nan,
        single="none",
        first=1,
        has_iou=False,
    ),
)


class OtherRules:
    """One pass over the images' confusions, in constant memory; then one RuleScores a rule.

    >>> rules = OtherRules(LabelSet.of("tongue"))
    >>> rules.add(np.array([[4, 0], [0, 0]]))  # tongue in neither mask
    >>> rules.add(np.array([[2, 1], [0, 1]]))  # half of the predicted tongue is right
    >>> default, _, keeps_empty, *_ = rules.results()
    >>> default.rule, default.iou["tongue"], keeps_empty.rule, keeps_empty.iou["tongue"]
    ('MONAI 1.6, ignore_empty=True (default)', 0.5, 'MONAI 1.6, ignore_empty=False', 0.75)
    """

    def __init__(self, labels: LabelSet) -> None:
        self.names = labels.names
        self.total_KK = np.zeros((labels.num_classes, labels.num_classes), np.int64)
        self.averages = [_Average(how, labels.num_classes) for how in _PER_IMAGE]
        self.micro_imagewise_2 = np.zeros(2)
        self.n_images = 0

    def add(self, confusion_KK: np.ndarray) -> None:
        """Count one image: int64 (K, K), rows = reference, columns = prediction."""
        assert confusion_KK.shape == self.total_KK.shape, (confusion_KK.shape, self.total_KK.shape)
        tp_K, reference_K, prediction_K = _sizes(confusion_KK)
        ratio_2K = _iou_and_dice(tp_K, reference_K, prediction_K, both_empty=math.nan)
        for average in self.averages:
            average.add(ratio_2K, (reference_K == 0) & (prediction_K > 0))
        self.total_KK += confusion_KK
        self.micro_imagewise_2 += _iou_and_dice(tp_K.sum(), reference_K.sum(), prediction_K.sum(), both_empty=1.0)
        self.n_images += 1

    def results(self) -> list[RuleScores]:
        """The scores by every rule, in a fixed order. At least one image must have been added."""
        assert self.n_images > 0, "no image was added"
        imagewise = RuleScores(
            "segmentation_models.pytorch 0.6, micro-imagewise",
            "per image over the pixels of all classes, background too, so Dice = pixel accuracy; then mean over images",
            {},
            {},
            *(self.micro_imagewise_2 / self.n_images).tolist(),
        )
        return [*(average.scores(self.names) for average in self.averages), imagewise, *_pooled(self.total_KK, self.names)]


class _Average:
    """The running means of one per-image rule."""

    def __init__(self, how: _PerImage, num_classes: int) -> None:
        self.how = how
        self.sum_2K = np.zeros((2, num_classes - how.first))
        self.n_K = np.zeros(num_classes - how.first, np.int64)
        self.sum_of_images_2 = np.zeros(2)
        self.n_images = 0

    def add(self, ratio_2K: np.ndarray, invented_K: np.ndarray) -> None:
        """Count one image: its IoU and Dice, float64 (2, K), NaN where both masks are empty; bool (K), the classes it invents."""
        filled_2K = np.where(np.isnan(ratio_2K), self.how.both_empty, ratio_2K)
        filled_2K[:, invented_K] = self.how.invented
        filled_2K = filled_2K[:, self.how.first :]
        defined_K = ~np.isnan(filled_2K[0])
        self.sum_2K[:, defined_K] += filled_2K[:, defined_K]
        self.n_K += defined_K
        if defined_K.any():
            self.sum_of_images_2 += filled_2K[:, defined_K].mean(axis=1)
            self.n_images += 1

    def scores(self, names: tuple[str, ...]) -> RuleScores:
        """The rule's scores of the images so far; `names` are those of all K classes."""
        how, per_class_2K = self.how, _divide(self.sum_2K, self.n_K, self.how.nowhere)
        iou, dice = ({name: float(value) for name, value in zip(names[how.first :], row, strict=True)} for row in per_class_2K)
        mean_iou, mean_dice = self.single(per_class_2K)
        return RuleScores(
            how.rule,
            how.sentence,
            iou if how.has_iou else {},
            dice if how.has_dice else {},
            mean_iou if how.has_iou else math.nan,
            mean_dice if how.has_dice else math.nan,
        )

    def single(self, per_class_2K: np.ndarray) -> list[float]:
        """The one number for IoU and for Dice."""
        means_2 = {
            "images": _divide(self.sum_of_images_2, self.n_images, self.how.nowhere),
            "pairs": _divide(self.sum_2K.sum(axis=1), self.n_K.sum(), math.nan),
            "classes": per_class_2K.mean(axis=1),
            "none": np.full(2, math.nan),
        }
        return [float(value) for value in means_2[self.how.single]]


def _pooled(total_KK: np.ndarray, names: tuple[str, ...]) -> list[RuleScores]:
    """The rules that sum the counts of all images before they divide."""
    tp_K, reference_K, prediction_K = _sizes(total_KK)
    iou_K, dice_K = _iou_and_dice(tp_K, reference_K, prediction_K, both_empty=math.nan)
    # precision and recall are 0 / 0 or both 0 without a true positive, and so is their harmonic mean
    fscore_K = np.where(tp_K > 0, dice_K, math.nan)
    micro = _iou_and_dice(tp_K.sum(), reference_K.sum(), prediction_K.sum(), both_empty=math.nan).tolist()
    alike = "pooled over all images and the pixels of all classes, background too, so Dice = pixel accuracy"
    by_class = partial(_by_class, names)
    return [
        RuleScores("segmentation_models.pytorch 0.6, micro", alike, {}, {}, *micro),
        by_class(
            "segmentation_models.pytorch 0.6, macro",
            f"pooled; a class found nowhere = 1 (zero_division=1, the default); missed = 0; {_BY_CLASS}",
            np.nan_to_num(iou_K, nan=1.0),
            np.nan_to_num(dice_K, nan=1.0),
        ),
        by_class(
            "torchmetrics 1.9, MulticlassJaccardIndex",
            f"pooled; a class found nowhere = 0, and not in the mean; missed = 0; {_BY_CLASS} (macro)",
            iou_K,
            nowhere=0.0,
        ),
        by_class(
            "MMSegmentation 1.2, mIoU and mDice",
            f"pooled; a class found nowhere is NaN, and not in the mean; missed = 0; {_BY_CLASS} (it prints percent of two decimals)",
            iou_K,
            dice_K,
        ),
        by_class(
            "MMSegmentation 1.2, mFscore",
            f"pooled; a class without one true positive, so a missed one too, is NaN and not in the mean; {_BY_CLASS}",
            dice_K=fscore_K,
        ),
    ]


def _by_class(
    names: tuple[str, ...],
    rule: str,
    sentence: str,
    iou_K: np.ndarray | None = None,
    dice_K: np.ndarray | None = None,
    nowhere: float = math.nan,
) -> RuleScores:
    """Of float64 (K,) with NaN for what is not in the mean, which is printed as `nowhere`; None for a score that the rule has not."""
    iou, dice = (
        {} if each is None else dict(zip(names, np.nan_to_num(each, nan=nowhere).tolist(), strict=True)) for each in (iou_K, dice_K)
    )
    means = (math.nan if each is None else _mean(each) for each in (iou_K, dice_K))
    return RuleScores(rule, sentence, iou, dice, *means)


def _sizes(confusion_KK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, reference pixels and predicted pixels of each class, int64 (K)."""
    return np.diagonal(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)


def _iou_and_dice(tp: np.ndarray, reference: np.ndarray, prediction: np.ndarray, both_empty: float) -> np.ndarray:
    """float64 (2, ...): IoU and Dice, `both_empty` where neither mask has a pixel."""
    both = reference + prediction
    return np.stack([_divide(tp, both - tp, both_empty), _divide(2 * tp, both, both_empty)])


def _divide(numerator: np.ndarray, denominator: np.ndarray | int, of_nothing: float) -> np.ndarray:
    """numerator / denominator in float64, `of_nothing` where the denominator is 0."""
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), of_nothing, np.float64)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)


def _mean(values_K: Iterable[float]) -> float:
    return nan_mean([float(value) for value in values_K]).mean
