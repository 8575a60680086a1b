"""per_case.csv, read and held against what it must be: everything published is made of it, and it may be anybody's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from medseg.errors import RunError
from medseg.labels import BACKGROUND
from medseg.metrics.counts import Counts
from medseg.metrics.scores import METRICS, ratio_table
from medseg.report.tables import CASE_COLUMNS

TEXT, WHOLE, COUNTS = ("sample_id", "group_id", "name", "kind"), ("seed", "fold"), Counts._fields
_DISTANCE = re.compile(r"(hd|hd95|hd95_pooled|assd|nsd_[\d.]+?)_?(mm|px|pct)")
_ROUNDED = 1e-9
FIX = "evaluate, or score, again"


def read_cases(path: Path) -> pd.DataFrame:
    """The cases, text as text, so that a sample named 001 or NA keeps its name. RunError, which names the row, for a table whose scores are
    not those of its counts, or that lacks a case or has one twice."""
    cases = _read(path)
    if missing := sorted(set(CASE_COLUMNS) - set(cases.columns)):
        raise RunError(path, f"has no column {', '.join(missing)}", "it was written by another version: evaluate the run again")
    if unknown := [name for name in cases.columns if name not in {*CASE_COLUMNS, *WHOLE} and not _DISTANCE.fullmatch(name)]:
        raise RunError(path, f"has a column that is no score: {unknown[0]!r}", FIX)
    if not (cases["name"] != BACKGROUND).any():
        raise RunError(path, "holds no case of a foreground class", FIX)
    _check_rows(cases, path)
    _check_whole(cases, path)
    return cases


def _read(path: Path) -> pd.DataFrame:
    try:
        columns = pd.read_csv(path, nrows=0).columns
        numbers = [column for column in columns if column not in (*TEXT, *WHOLE)]
        types = dict.fromkeys(TEXT, str) | dict.fromkeys(WHOLE, int) | dict.fromkeys(numbers, float)
        blank = {column: [""] for column in numbers}
        return pd.read_csv(path, dtype={column: types[column] for column in columns}, keep_default_na=False, na_values=blank)
    except (OSError, ValueError, OverflowError) as cause:
        raise RunError(path, f"cannot be read ({cause})", FIX) from None


def _check_rows(cases: pd.DataFrame, path: Path) -> None:
    """Each row by itself."""
    counts_N4 = cases[list(COUNTS)].to_numpy(np.float64)
    whole = (counts_N4 >= 0) & (counts_N4 == np.floor(counts_N4)) & np.isfinite(counts_N4)
    _refuse(~whole.all(axis=1), "a count is no whole number from 0 on", path)
    _refuse(~cases["kind"].isin(["class", "region"]), "kind must be class or region", path)
    _refuse((cases[["sample_id", "group_id", "name"]] == "").any(axis=1), "a name is empty", path)
    ratios_NR = cases[list(METRICS)].to_numpy(np.float64)
    same = np.isclose(ratios_NR, ratio_table(counts_N4), rtol=0, atol=_ROUNDED, equal_nan=True)
    _refuse(~same.all(axis=1), "its ratios are not those of its counts", path)
    distances = cases[[name for name in cases.columns if name not in {*CASE_COLUMNS, *WHOLE}]].to_numpy(np.float64)
    _refuse(((distances < 0) | np.isinf(distances)).any(axis=1), "a distance is negative or infinite", path)


def _check_whole(cases: pd.DataFrame, path: Path) -> None:
    """All rows together: each sample once with every class, in one group."""
    keys = [*(["seed"] if "seed" in cases else []), "sample_id", "name"]
    _refuse(cases.duplicated(keys), "stands there twice", path)
    sizes = cases.groupby(keys[:-1])["name"].transform("size")
    _refuse(sizes < cases["name"].nunique(), "its sample lacks a row of some class", path)
    _refuse(cases.groupby("sample_id")["group_id"].transform("nunique") > 1, "its sample is in two groups", path)
    _refuse(cases.groupby("name")["kind"].transform("nunique") > 1, "its class is a region elsewhere", path)


def _refuse(bad: pd.Series | np.ndarray, rule: str, path: Path) -> None:
    places = np.flatnonzero(np.asarray(bad))
    if len(places):
        raise RunError(f"{path}, line {places[0] + 2}", f"{rule} ({len(places)} such rows)", FIX)
