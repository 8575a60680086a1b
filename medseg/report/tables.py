"""Scores -> per_case.csv, scores.json, table.csv, table.md. Every printed number says which mean it is, with n beside it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import RunError
from medseg.files import write_json, write_text
from medseg.labels import BACKGROUND, LabelSet
from medseg.metrics.counts import Counts, counts_of, scored_names
from medseg.metrics.protocol import Protocol
from medseg.metrics.scores import METRICS, Scores, ratios
from medseg.types import CaseResult

TITLES = {"iou": "IoU", "recall": "Recall", "precision": "Precision", "dice": "Dice"}
KEYS = {"protocol", "split", "checkpoint", "manifest_sha256", "split_sha256", "pooled", "per_image", "summary", "n_cases"}
SUMMARY_TITLES = {
    "miou_pooled/with_background": "mIoU, pooled, with background",
    "miou_pooled/without_background": "mIoU, pooled, without background",
    "miou_per_image/with_background": "mIoU, mean over images, with background",
    "miou_per_image/without_background": "mIoU, mean over images, without background",
    "mean_dice_pooled/without_background": "Mean Dice, pooled, without background",
    "pixel_accuracy": "Pixel accuracy",
    "mean_class_accuracy/with_background": "Mean class accuracy (recall), pooled, with background",
}


def write_per_case(path: Path, cases: Sequence[CaseResult], labels: LabelSet) -> None:
    """One line per image and class or region: counts, then ratios; an undefined ratio is left blank."""
    rows = [
        {
            "sample_id": case.sample_id,
            "group_id": case.group_id,
            "name": name,
            "kind": "region" if name in labels.regions else "class",
            **(counts := counts_of(case.confusion_KK, ids))._asdict(),
            **{metric: blank_nan(value) for metric, value in ratios(counts).items()},
        }
        for case in cases
        for name, ids in scored_names(labels).items()
    ]
    write_text(path, to_csv(["sample_id", "group_id", "name", "kind", *Counts._fields, *METRICS], rows))


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
    content = {
        "protocol": protocol.to_dict(),
        "n_cases": scores.n_cases,
        "n_groups": scores.n_groups,
        "pooled": scores.pooled,
        "per_image": {
            name: {metric: {"mean": mean.mean, "n": mean.n} for metric, mean in each.items()} for name, each in scores.per_image.items()
        },
        "summary": {name: {"mean": mean.mean, "n": mean.n} for name, mean in scores.summary.items()},
        "confusion": scores.confusion_KK.tolist(),
    }
    write_json(path, facts | content)


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
    """One record per class and region: pooled ratios, means over images, and the n of each."""
    return [
        {
            "class": name,
            **{f"{metric}_pooled": value for metric, value in pooled.items()},
            **{f"{metric}_per_image": scores.per_image[name][metric].mean for metric in METRICS},
            **{f"n_{metric}": scores.per_image[name][metric].n for metric in METRICS},
        }
        for name, pooled in scores.pooled.items()
    ]


def write_tables(folder: Path, scores: Scores, protocol: Protocol, title: str, notes: Sequence[str]) -> str:
    """Write table.csv and table.md; returns the Markdown."""
    rows = table_rows(scores)
    plain = [{key: blank_nan(value) if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    write_text(folder / "table.csv", to_csv(list(rows[0]), plain))
    text = markdown(scores, protocol, title, notes)
    write_text(folder / "table.md", text)
    return text


def markdown(scores: Scores, protocol: Protocol, title: str, notes: Sequence[str]) -> str:
    """The table for people: pooled beside mean over images, n in each cell that is a mean."""
    heads = [TITLES[metric] for metric in METRICS]
    header = ["Class", *(f"{head}, pooled" for head in heads), *(f"{head}, mean over images (n)" for head in heads)]
    body = [
        [name, *(number(pooled[metric]) for metric in METRICS), *(_mean_cell(scores, name, metric) for metric in METRICS)]
        for name, pooled in scores.pooled.items()
    ]
    summary = [[text, number(scores.summary[key].mean), f"{scores.summary[key].n:,}"] for key, text in SUMMARY_TITLES.items()]
    lines = [f"# {title}", "", *markdown_table(header, body), ""]
    lines += [*markdown_table(["Summary", "Value", "n (classes; pixels of the pixel accuracy)"], summary), ""]
    lines += [f"{scores.n_cases} images of {scores.n_groups} groups. {protocol.sentence()}", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def _mean_cell(scores: Scores, name: str, metric: str) -> str:
    mean = scores.per_image[name][metric]
    return f"{number(mean.mean)} ({mean.n})"


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, numbers to the right.

    >>> markdown_table(["Class", "IoU"], [["tongue", "0.97"]])
    ['| Class | IoU |', '| --- | ---: |', '| tongue | 0.97 |']
    """
    rule = ["---", *("---:" for _ in header[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *body)]


def comparison(runs: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """A Markdown table of several runs' scores.json, a row a run; RunError unless all have one protocol and the same cases.

    `runs` are (label, scores.json) pairs.
    """
    first_label, first = runs[0]
    for label, content in runs[1:]:
        for key in ("protocol", "split", "manifest_sha256", "split_sha256"):
            if content[key] != first[key]:
                raise RunError(label, f"its {key} differs from that of {first_label}", "evaluate both on one split by one protocol")
    names = [name for name in first["pooled"] if name != BACKGROUND]
    header = ["Run", *(f"{TITLES[m]} {name}" for name in names for m in METRICS), "mIoU without background"]
    body = [
        [
            label,
            *(number(content["pooled"][name][m]) for name in names for m in METRICS),
            number(content["summary"]["miou_pooled/without_background"]["mean"]),
        ]
        for label, content in runs
    ]
    note = f"Pooled over {first['n_cases']} images of the split `{first['split']}`. {Protocol(**first['protocol']).sentence()}"
    return "\n".join([*markdown_table(header, body), "", note]) + "\n"
