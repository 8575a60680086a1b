"""The tables below the main one: other libraries' rules, found objects, calibration, two observers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from medseg.metrics.detection import Detection
from medseg.metrics.rules import RuleScores
from medseg.metrics.scores import Scores
from medseg.report.tables import markdown_table, mean_cell, number

if TYPE_CHECKING:
    from medseg.metrics.calibration import Calibration

DETECTION = {
    "f1": "F1", "recall": "Recall", "precision": "Precision", "segmentation_quality": "Mean IoU of the found", "panoptic_quality": "PQ",
}  # fmt: skip
AVERAGE_PRECISION = {"mask_ap": "Mask AP", "mask_ap50": "Mask AP50", "box_ap": "Box AP", "box_ap50": "Box AP50"}


def conventions_table(ours: Scores, others: Iterable[RuleScores], names: Sequence[str]) -> list[str]:
    """The same predictions by every rule: IoU and Dice of each class, and the one number that each library prints."""
    header = ["Rule", *(f"{score} {name}" for name in names for score in ("IoU", "Dice")), "Mean IoU", "Mean Dice", "What it does"]
    own = [
        ("medseg, pooled", {name: (each["iou"], each["dice"]) for name, each in ours.pooled.items()}),
        ("medseg, mean over images", {name: (each["iou"].mean, each["dice"].mean) for name, each in ours.per_image.items()}),
    ]
    means = {"medseg, pooled": ("miou_pooled/without_background", "mean_dice_pooled/without_background")}
    means["medseg, mean over images"] = ("miou_per_image/without_background", "mean_dice_per_image/without_background")
    body = [
        [rule, *(number(value) for name in names for value in of[name])]
        + [number(ours.summary[key].mean) for key in means[rule]]
        + ["the protocol below; means without background"]
        for rule, of in own
    ]
    body += [
        [one.rule, *(number(scores.get(name)) for name in names for scores in (one.iou, one.dice))]
        + [number(one.mean_iou), number(one.mean_dice), one.sentence]
        for one in others
    ]
    return ["The same predictions by other libraries' rules:", "", *markdown_table(header, body), ""]


def detection_table(found: Mapping[str, Detection], precision: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Objects found, of each class; average precision where the objects have scores."""
    header = [
        "Objects of",
        "in the reference",
        "predicted",
        "found",
        *DETECTION.values(),
        *(AVERAGE_PRECISION.values() if precision else ()),
    ]
    body = [
        [name, str(one.n_reference), str(one.n_predicted), str(one.n_matched), *(number(getattr(one, key)) for key in DETECTION)]
        + [number(precision[name][key]) for key in AVERAGE_PRECISION if precision]
        for name, one in found.items()
    ]
    return [*markdown_table(header, body), ""]


def calibration_table(calibration: Calibration) -> list[str]:
    """The errors of the probabilities."""
    header = ["Calibration, pooled over pixels", "Value"]
    body = [["ECE of the predicted class", number(calibration.ece)], ["Brier score", number(calibration.brier)]]
    body += [["Mean classwise ECE, with background", number(calibration.mean_classwise_ece)]]
    body += [[f"ECE of {name}", number(value)] for name, value in calibration.classwise_ece.items() if not math.isnan(value)]
    return [*markdown_table(header, body), ""]


def observers_table(pairs: Mapping[str, Scores], names: Sequence[str]) -> list[str]:
    """A line for each two that were held against each other; that of the two observers is the line to measure the run by."""
    scores = [(name, metric, title) for name in names for metric, title in (("iou", "IoU"), ("dice", "Dice"))]
    header = ["Who against whom", *(f"{title} {name}, pooled" for name, _, title in scores)]
    header += [f"{title} {name}, mean over images (n)" for name, _, title in scores]
    body = [
        [who, *(number(one.pooled[name][metric]) for name, metric, _ in scores)]
        + [mean_cell(one.per_image[name][metric]) for name, metric, _ in scores]
        for who, one in pairs.items()
    ]
    return ["Two observers:", "", *markdown_table(header, body), ""]
