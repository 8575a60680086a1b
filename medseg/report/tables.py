"""Scores -> per_case.csv, scores.json, table.csv, table.md. Every printed number says which mean it is, with n beside it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import RunError
from medseg.files import write_json, write_text
from medseg.labels import BACKGROUND, LabelSet
from medseg.metrics.boundary import Boundary
from medseg.metrics.counts import Counts, counts_table, members, scored_names
from medseg.metrics.protocol import Protocol
from medseg.metrics.scores import HEADLINE, METRICS, Mean, Scores, ratio_table
from medseg.types import CaseResult

TITLES = {
    "iou": "IoU", "recall": "Recall", "precision": "Precision", "dice": "Dice",
    "specificity": "Specificity", "volume_similarity": "Volume similarity",
}  # fmt: skip
UNITS = {"mm": "mm", "px": "px", "pct": "% of the diagonal"}
CASE_COLUMNS = ("sample_id", "group_id", "name", "kind", *Counts._fields, *METRICS)
KEYS = {"protocol", "split", "checkpoint", "manifest_sha256", "split_sha256", "pooled", "per_image", "summary", "n_cases"}
SUMMARY_TITLES = {
    "miou_pooled/with_background": "mIoU, pooled, with background",
    "miou_pooled/without_background": "mIoU, pooled, without background",
    "miou_per_image/with_background": "mIoU, mean over images, with background",
    "miou_per_image/without_background": "mIoU, mean over images, without background",
    "mean_dice_pooled/without_background": "Mean Dice, pooled, without background",
    "mean_dice_per_image/without_background": "Mean Dice, mean over images, without background",
    "frequency_weighted_iou/with_background": "Frequency-weighted IoU, pooled, with background",
    "pixel_accuracy": "Pixel accuracy",
    "mean_class_accuracy/with_background": "Mean class accuracy (recall), pooled, with background",
}


class CaseFiles:
    """per_case.csv and confusion.npy of an evaluation, written case by case; what is written is forgotten.

    per_case.csv: a line per image and class or region: counts, ratios, then distances; an undefined number is left blank.
    confusion.npy: int64 (cases, K, K), in the same order.
    """

    def __init__(self, folder: Path, labels: LabelSet, number: int, boundary: Boundary | None = None) -> None:
        self._labels, self._names = labels, scored_names(labels)
        self._members_NK, self._measured = members(labels), boundary.metrics if boundary else ()
        self._stream = (folder / "per_case.csv").open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._stream, lineterminator="\n")
        self._writer.writerow([*CASE_COLUMNS, *self._measured])
        self._confusions = (folder / "confusion.npy").open("wb")  # no memory map: a full disk would kill the process without a word
        shape = (number, labels.num_classes, labels.num_classes)
        np.lib.format.write_array_header_1_0(self._confusions, {"descr": "<i8", "fortran_order": False, "shape": shape})

    def close(self) -> None:
        """The last case was written."""
        self._stream.close()
        self._confusions.close()

    def add(self, case: CaseResult) -> None:
        """The next case."""
        counts = counts_table(case.confusion_KK, self._members_NK)
        for name, numbers, values in zip(self._names, counts.tolist(), ratio_table(counts).tolist(), strict=True):
            measured = case.boundary.get(name, {})
            kind = "region" if name in self._labels.regions else "class"
            distances = [measured.get(metric, math.nan) for metric in self._measured]
            self._writer.writerow([case.sample_id, case.group_id, name, kind, *numbers, *map(blank_nan, (*values, *distances))])
        self._confusions.write(np.ascontiguousarray(case.confusion_KK, "<i8").tobytes())


def read_cases(folder: Path) -> list[CaseResult]:
    """The cases of an evaluation folder, from confusion.npy and per_case.csv; RunError where they do not belong together."""
    with (folder / "per_case.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    groups = {line["sample_id"]: line["group_id"] for line in lines}
    try:
        confusions = np.load(folder / "confusion.npy", allow_pickle=False)
    except ValueError as cause:
        raise RunError(folder / "confusion.npy", f"cannot be read ({cause})", "evaluate the run again") from None
    if len(groups) != len(confusions):
        raise RunError(folder, "confusion.npy and per_case.csv hold other cases", "evaluate the run again")
    measured = [column for column in (lines[0] if lines else ()) if column not in CASE_COLUMNS]
    boundary: dict[str, dict[str, dict[str, float]]] = {sample: {} for sample in groups}
    for line in lines if measured else ():
        if line["name"] != BACKGROUND:
            boundary[line["sample_id"]][line["name"]] = {key: float(line[key]) if line[key] else math.nan for key in measured}
    return [CaseResult(sample, group, one, boundary[sample]) for (sample, group), one in zip(groups.items(), confusions, strict=True)]


def blank_nan(value: float) -> str:
    """A float to all its digits; blank where it is undefined."""
    return "" if math.isnan(value) else repr(value)


def to_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV text with `\\n` line ends."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_scores(path: Path, scores: Scores, protocol: Protocol, facts: dict[str, Any]) -> None:
    """scores.json: every score with its protocol; `facts` (split, digests, checkpoint) must hold no time and no run id."""
    write_json(path, facts | {"protocol": protocol.to_dict(), **plain(scores), "confusion": scores.confusion_KK.tolist()})


def plain(scores: Scores) -> dict[str, Any]:
    """The scores as scores.json has them, without the confusion matrix."""
    return {key: value for key, value in asdict(scores).items() if key != "confusion_KK"}


def read_scores(path: Path) -> dict[str, Any]:
    """A scores.json; RunError where it is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunError(path, "no readable scores.json", "run `medseg evaluate RUN --split test` first") from None
    if not isinstance(content, dict) or not set(content) >= KEYS:
        raise RunError(path, "not a scores.json of this version", "run `medseg evaluate RUN --split test` again")
    return content


def number(value: float | None, digits: int = 4) -> str:
    """A score as printed; an en dash where it is undefined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def table_rows(scores: Scores) -> list[dict[str, Any]]:
    """One record per class and region: pooled ratios, means over images and over groups, distances, the n of each, missed and invented."""
    return [
        {
            "class": name,
            **{f"{metric}_pooled": value for metric, value in pooled.items()},
            **_with_n(scores.per_image[name], "_per_image"),
            **_with_n(scores.per_group.get(name, {}), "_per_group"),
            **_with_n(scores.boundary.get(name, {}), "_per_image"),
            **{f"images_{key}": number for key, number in asdict(scores.occurrence[name]).items()},
        }
        for name, pooled in scores.pooled.items()
    ]


def _with_n(means: Mapping[str, Mean], ending: str) -> dict[str, float]:
    return {f"{metric}{ending}": mean.mean for metric, mean in means.items()} | {
        f"n_{metric}{ending}": mean.n for metric, mean in means.items()
    }


def write_tables(folder: Path, scores: Scores, protocol: Protocol, title: str, notes: Sequence[str], more: Sequence[str] = ()) -> str:
    """Write table.csv and table.md; returns the Markdown."""
    rows = table_rows(scores)
    cells = [{key: blank_nan(value) if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    write_text(folder / "table.csv", to_csv(list(dict.fromkeys(key for row in rows for key in row)), cells))
    text = markdown(scores, protocol, title, notes, more)
    write_text(folder / "table.md", text)
    return text


def markdown(scores: Scores, protocol: Protocol, title: str, notes: Sequence[str], more: Sequence[str] = ()) -> str:
    """The tables for people: pooled beside mean over images, n in each cell that is a mean; `more` are the lines of further tables."""
    summary = [[text, number(scores.summary[key].mean), f"{scores.summary[key].n:,}"] for key, text in SUMMARY_TITLES.items()]
    lines = [f"# {title}", "", *overlap_table(scores), "", *_occurrence_table(scores), ""]
    lines += [*_boundary_table(scores), ""] if scores.boundary else []
    lines += [*markdown_table(["Summary", "Value", "n (classes; pixels of the pixel accuracy)"], summary), "", *more]
    lines += [f"{scores.n_cases} images of {scores.n_groups} groups. {protocol.sentence()}", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def overlap_table(scores: Scores) -> list[str]:
    """The headline scores of each class, pooled and as means over images."""
    heads = [TITLES[metric] for metric in HEADLINE]
    header = ["Class", *(f"{head}, pooled" for head in heads), *(f"{head}, mean over images (n)" for head in heads)]
    body = [
        [name, *(number(pooled[metric]) for metric in HEADLINE), *(mean_cell(scores.per_image[name][metric]) for metric in HEADLINE)]
        for name, pooled in scores.pooled.items()
    ]
    return markdown_table(header, body)


def _occurrence_table(scores: Scores) -> list[str]:
    """What the headline leaves out: by how much the sizes differ, and how often a class is missed or invented."""
    others = METRICS[len(HEADLINE) :]
    header = ["Class", "Images with it", "Missed", "Invented", *(f"{TITLES[metric]}, mean over images (n)" for metric in others)]
    header += [f"{TITLES[metric]}, mean over groups (n)" for metric in HEADLINE if scores.per_group]
    body = [
        [name, *(str(count) for count in asdict(seen).values()), *(mean_cell(scores.per_image[name][metric]) for metric in others)]
        + [mean_cell(scores.per_group[name][metric]) for metric in HEADLINE if scores.per_group]
        for name, seen in scores.occurrence.items()
    ]
    return markdown_table(header, body)


def _boundary_table(scores: Scores) -> list[str]:
    metrics = printed(next(iter(scores.boundary.values())))
    header = ["Class", "Missed", "Invented", *(f"{boundary_title(metric)}, mean over images (n)" for metric in metrics)]
    body = [
        [name, str(scores.occurrence[name].missed), str(scores.occurrence[name].invented)]
        + [mean_cell(means[metric], 4 if metric.startswith("nsd") else 2) for metric in metrics]
        for name, means in scores.boundary.items()
    ]
    return markdown_table(header, body)


def printed(metrics: Iterable[str]) -> list[str]:
    """The distances that a table for people shows; table.csv and scores.json have the others."""
    return [metric for metric in metrics if metric.startswith(("hd95_", "assd_", "nsd_")) and "pooled" not in metric]


def boundary_title(metric: str) -> str:
    """A distance's name as printed.

    >>> boundary_title("hd95_pooled_px"), boundary_title("nsd_0.5pct"), boundary_title("assd_mm")
    ('HD95 pooled, px', 'NSD at 0.5 % of the diagonal', 'ASSD, mm')
    """
    name, _, unit = metric.rpartition("_")
    if name == "nsd":
        found = re.fullmatch(r"(.+?)(mm|px|pct)", unit)
        assert found
        return f"NSD at {found[1]} {UNITS[found[2]]}"
    return f"{name.removesuffix('_pooled').upper()}{' pooled' if name.endswith('_pooled') else ''}, {UNITS[unit]}"


def mean_cell(mean: Mean, digits: int = 4) -> str:
    """A mean with its n."""
    return f"{number(mean.mean, digits)} ({mean.n})"


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]], texts: int = 1) -> list[str]:
    """Lines of a Markdown table, numbers to the right; the first `texts` columns are no numbers.

    >>> markdown_table(["Class", "IoU"], [["tongue", "0.97"]])
    ['| Class | IoU |', '| --- | ---: |', '| tongue | 0.97 |']
    """
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *body)]
