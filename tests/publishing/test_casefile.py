"""per_case.csv of anybody's making: a table whose numbers cannot be is refused, with the line."""

from __future__ import annotations

import pandas as pd
import pytest

from medseg.errors import RunError
from medseg.publishing.casefile import read_cases


@pytest.fixture(scope="module")
def table(scored) -> pd.DataFrame:
    return pd.read_csv(scored / "baseline" / "per_case.csv", dtype={"group_id": str})


def test_what_medseg_writes_is_taken(scored):
    assert len(read_cases(scored / "baseline" / "per_case.csv")) == 28 * 3


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("fp", -50, "line 6: a count is no whole number from 0 on"),
        ("tp", 0.5, "line 6: a count is no whole number"),
        ("tp", None, "line 6: a count is no whole number"),
        ("iou", 7.5, "line 6: its ratios are not those of its counts"),
        ("iou", float("inf"), "line 6: its ratios are not those of its counts"),
        ("recall", None, "line 6: its ratios are not those of its counts"),
        ("hd95_px", -1.0, "line 6: a distance is negative or infinite"),
        ("hd95_px", float("inf"), "line 6: a distance is negative or infinite"),
        ("kind", "organ", "line 6: kind must be class or region"),
        ("kind", "region", "its class is a region elsewhere"),
        ("name", "", "line 6: a name is empty"),
        ("name", "kidney", "its sample lacks a row of some class"),
        ("name", "background", "line 6: stands there twice"),
        ("group_id", "somebody", "its sample is in two groups"),
    ],
)
def test_one_cell_that_cannot_be(table, tmp_path, column, value, problem):
    changed = table.astype({column: object})
    changed.loc[4, column] = value
    changed.to_csv(tmp_path / "per_case.csv", index=False)
    with pytest.raises(RunError, match=problem):
        read_cases(tmp_path / "per_case.csv")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: pd.concat([table, table]), r"line 86: stands there twice \(84 such rows\)"),
        (lambda table: table[table["name"] == "background"], "holds no case of a foreground class"),
        (lambda table: table.iloc[:0], "holds no case of a foreground class"),
        (lambda table: table.drop(index=4), "its sample lacks a row of some class"),
        (lambda table: table.assign(hd95_furlong=1.0), "has a column that is no score: 'hd95_furlong'"),
        (lambda table: table.drop(columns="fn"), "has no column fn"),
    ],
)
def test_a_table_that_cannot_be(table, tmp_path, change, problem):
    change(table).to_csv(tmp_path / "per_case.csv", index=False)
    with pytest.raises(RunError, match=problem):
        read_cases(tmp_path / "per_case.csv")
