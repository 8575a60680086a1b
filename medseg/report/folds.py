"""Out-of-fold scores of a cross-validation: every image outside test predicted once a seed, by a network that has not learnt from it.

Legend: S seeds. A score is made of all images of one seed together; the table gives the mean of the S scores, and the lowest and highest
of them: what another seed changes, which is not an interval for other patients.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import RunError
from medseg.files import write_json, write_text
from medseg.labels import LabelSet
from medseg.metrics.protocol import Protocol
from medseg.metrics.scores import HEADLINE, Mean, Scores, score
from medseg.report.tables import (
    SUMMARY_TITLES,
    TITLES,
    blank_nan,
    boundary_title,
    markdown_table,
    number,
    plain,
    printed,
    read_cases,
    read_scores,
    to_csv,
)  # fmt: skip
from medseg.types import CaseResult


@dataclass(frozen=True)
class Folds:
    """cases[seed][fold]: the evaluation folders of the networks' held-out parts."""

    folders: Mapping[int, Sequence[Path]]
    labels: LabelSet
    title: str
    notes: Sequence[str]


def write_folds(out: Path, folds: Folds) -> str:
    """Write scores.json, per_case.csv, table.csv and table.md of a whole cross-validation into `out`; returns the Markdown."""
    protocol = _one_protocol(folds)
    by_seed = {seed: [read_cases(folder) for folder in folders] for seed, folders in folds.folders.items()}
    _each_once(by_seed)
    scores = {seed: score([case for fold in parts for case in fold], folds.labels) for seed, parts in by_seed.items()}
    write_text(out / "per_case.csv", _per_case(folds))
    seeds = {str(seed): plain(one) | {"confusion": one.confusion_KK.tolist()} for seed, one in scores.items()}
    write_json(out / "scores.json", {"protocol": protocol.to_dict(), "seeds": seeds})
    rows = _rows(list(scores.values()))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_text(out / "table.csv", to_csv(columns, [{key: _cell(value) for key, value in row.items()} for row in rows]))
    text = _markdown(rows, scores, protocol, folds)
    write_text(out / "table.md", text)
    return text


def _one_protocol(folds: Folds) -> Protocol:
    """All parts' protocol; RunError where one differs from the first."""
    first, *others = [folder for each in folds.folders.values() for folder in each]
    protocol = read_scores(first / "scores.json")["protocol"]
    for folder in others:
        theirs = read_scores(folder / "scores.json")["protocol"]
        if keys := [key for key in {**protocol, **theirs} if protocol.get(key) != theirs.get(key)]:
            rule = f"was scored by other rules ({', '.join(keys)}) than {first}"
            raise RunError(folder, rule, "remove this folder, and the same command evaluates the part again")
    return Protocol.read(protocol, first)


def _each_once(by_seed: Mapping[int, Sequence[Sequence[CaseResult]]]) -> None:
    ids = {seed: [case.sample_id for fold in parts for case in fold] for seed, parts in by_seed.items()}
    first = sorted(next(iter(ids.values())))
    for seed, samples in ids.items():
        assert len(set(samples)) == len(samples) and sorted(samples) == first, f"seed {seed} does not predict each image once"


def _per_case(folds: Folds) -> str:
    """The parts' per_case.csv below each other, with seed and fold in front."""
    lines: list[dict[str, Any]] = []
    for seed, folders in folds.folders.items():
        for fold, folder in enumerate(folders):
            with (folder / "per_case.csv").open(encoding="utf-8", newline="") as stream:
                lines += [{"seed": seed, "fold": fold, **line} for line in csv.DictReader(stream)]
    return to_csv(list(lines[0]), lines)


def _rows(scores: Sequence[Scores]) -> list[dict[str, Any]]:
    """One record a class and region: of each score the mean over the seeds, the lowest and the highest; n of the means over images."""
    rows = []
    for name in scores[0].pooled:
        row: dict[str, Any] = {"class": name}
        for metric in HEADLINE:
            row |= _spread(f"{metric}_pooled", [one.pooled[name][metric] for one in scores])
            row |= _spread(f"{metric}_per_image", [one.per_image[name][metric].mean for one in scores])
            row[f"n_{metric}"] = _n([one.per_image[name][metric] for one in scores])
        row |= {key: _once(getattr(one.occurrence[name], key) for one in scores) for key in ("missed", "invented")}
        for metric in scores[0].boundary.get(name, {}):
            row |= _spread(metric, [one.boundary[name][metric].mean for one in scores])
            row[f"n_{metric}"] = _n([one.boundary[name][metric] for one in scores])
        rows.append(row)
    return rows


def _n(means: Sequence[Mean]) -> str:
    return _once(mean.n for mean in means)


def _once(numbers: Iterable[int]) -> str:
    """One of each seed, or one alone where all have the same."""
    return "/".join(dict.fromkeys(map(str, numbers)))


def _spread(key: str, values: Sequence[float]) -> dict[str, float]:
    """Undefined where one of the seeds is."""
    if any(map(math.isnan, values)):
        return dict.fromkeys((key, f"{key}_lowest", f"{key}_highest"), math.nan)
    return {key: math.fsum(values) / len(values), f"{key}_lowest": min(values), f"{key}_highest": max(values)}


def _cell(value: Any) -> Any:
    return blank_nan(value) if isinstance(value, float) else value


def _markdown(rows: Sequence[dict[str, Any]], scores: Mapping[int, Scores], protocol: Protocol, folds: Folds) -> str:
    heads = [TITLES[metric] for metric in HEADLINE]
    header = ["Class", *(f"{head}, pooled" for head in heads), *(f"{head}, mean over images (n)" for head in heads)]
    body = [
        [row["class"], *(_text(row, f"{metric}_pooled") for metric in HEADLINE)]
        + [f"{_text(row, f'{metric}_per_image')} ({row[f'n_{metric}']})" for metric in HEADLINE]
        for row in rows
    ]
    summary = [
        [text, _text(_spread("value", [one.summary[key].mean for one in scores.values()]), "value")] for key, text in SUMMARY_TITLES.items()
    ]
    one, seeds = next(iter(scores.values())), ", ".join(map(str, scores))
    sentence = (
        f"{one.n_cases} images of {one.n_groups} groups, each predicted out of fold. Mean over the seeds {seeds} [lowest, highest]: the "
        f"spread over seeds, not an interval. {protocol.sentence()}"
    )
    lines = [f"# {folds.title}", "", *markdown_table(header, body), "", *_boundary_table(rows, one), ""]
    lines += [*markdown_table(["Summary", "Value"], summary), "", sentence, ""]
    return "\n".join([*lines, *(f"- {note}" for note in folds.notes)]) + "\n"


def _boundary_table(rows: Sequence[Mapping[str, Any]], one: Scores) -> list[str]:
    """Distances, beside the structures that have none."""
    measured = [row for row in rows if row["class"] in one.boundary]
    if not measured:
        return []
    metrics = printed(one.boundary[measured[0]["class"]])
    header = ["Class", "Missed", "Invented", *(f"{boundary_title(metric)}, mean over images (n)" for metric in metrics)]
    body = [
        [row["class"], row["missed"], row["invented"], *(f"{_text(row, metric)} ({row[f'n_{metric}']})" for metric in metrics)]
        for row in measured
    ]
    return markdown_table(header, body)


def _text(row: Mapping[str, float], key: str) -> str:
    """Mean, and of several seeds their range."""
    if row[f"{key}_lowest"] == row[f"{key}_highest"] or math.isnan(row[key]):
        return number(row[key])
    return f"{number(row[key])} [{number(row[f'{key}_lowest'])}, {number(row[f'{key}_highest'])}]"
