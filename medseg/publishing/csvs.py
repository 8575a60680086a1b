"""Cells, tests and cases as CSV, to all their digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from medseg.publishing.compared import Compared
from medseg.publishing.estimated import Cell, higher_is_better
from medseg.publishing.sources import Source
from medseg.report.tables import blank_nan, to_csv


def cells_csv(cells: Sequence[Cell], level: float) -> str:
    """Every cell to all its digits; the key (run, class) names the rows of cases.csv that it is made of."""
    rows: list[dict[str, Any]] = [
        {
            "run": cell.label, "class": cell.name, "score": cell.metric, "average": cell.average, "value": _number(cell.estimate.value),
            "low": _number(cell.estimate.low), "high": _number(cell.estimate.high), "level": level, "method": cell.estimate.method or "",
            "n_defined": cell.n_defined[0], "n_defined_most": cell.n_defined[1], "n_cases": cell.n_cases,
            "n_groups_defined": cell.estimate.n_groups, "n_groups": cell.n_groups, "seeds": len(cell.seeds),
            "of_seeds": " ".join(_number(value) for value in cell.seeds), **_components(cell),
        }
        for cell in cells
    ]  # fmt: skip
    return to_csv(list(rows[0]), rows)


def _components(cell: Cell) -> dict[str, str]:
    parts = cell.components
    found = {}
    for name in ("group", "seed", "rest"):
        part = getattr(parts, name) if parts else None
        for end in ("deviation", "low", "high"):
            found[f"sd_{name}{'' if end == 'deviation' else '_' + end}"] = _number(getattr(part, end)) if part else ""
    return found


def tests_csv(tests: Sequence[Compared], margin: float | None) -> str:
    """Every test to all its digits."""
    rows: list[dict[str, Any]] = []
    for one in tests:
        test = one.test
        row: dict[str, Any] = {"run": one.label, "against": one.against, "class": one.name, "score": one.metric, "average": one.average}
        row |= {key: _number(getattr(test, key)) for key in ("first", "second")}
        row |= {"n_first": one.n_first[0], "n_second": one.n_second[0], "n_cases": one.n_cases}
        row |= {"difference": _number(test.difference.value), "low": _number(test.difference.low), "high": _number(test.difference.high)}
        row |= {key: _number(getattr(test, key)) for key in ("p_permutation", "p_holm", "p_wilcoxon")}
        row |= {"d_z": _number(test.effect), "p_better": _number(test.p_better)}
        row |= {"n_groups": test.n_groups, "influential_group": one.influential or "", "difference_without_it": _number(test.without)}
        if margin is not None:
            row["not_inferior"] = {True: "yes", False: "no", None: ""}[test.not_inferior(margin, higher_is_better(one.metric))]
        rows.append(row)
    return to_csv(list(rows[0]), rows)


def _number(value: float) -> str:
    return blank_nan(float(value))


def cases_csv(sources: Sequence[Source]) -> str:
    """One long table: a row per run, seed, image and class; with the folder that holds its prediction, as it was named."""
    frames = []
    for source in sources:
        frame = source.cases.copy()
        frame.insert(0, "run", source.label)
        frame["folder"] = [source.shown(seed, fold) for seed, fold in zip(frame["seed"], frame["fold"], strict=True)]
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    for column in table.columns:
        if table[column].dtype == float:
            whole = column in ("tp", "fp", "fn", "tn")
            table[column] = [str(int(value)) if whole else blank_nan(value) for value in table[column].tolist()]
    table = table.rename(columns={"name": "class"})  # as in table.csv, so that a cell and its rows have one key
    return str(table.to_csv(index=False, lineterminator="\n"))
