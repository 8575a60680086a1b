"""The cases behind the cells, as the page's script reads them, and which of them are worth a picture first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from medseg.labels import BACKGROUND
from medseg.publishing.compared import Compared
from medseg.publishing.published import Published
from medseg.publishing.sources import Source
from medseg.publishing.table import score_title

MOST_ROWS = 30_000  # that a page carries; cases.csv has all
WORST = 8  # cases of a run, shown without being asked for
_COUNTS = ["tp", "fp", "fn", "tn"]


def case_rows(published: Published) -> dict[str, Any]:
    """Columns and rows for the script: run and class by their places in `runs` and `names`; null where undefined. Of too many rows those
    with the lowest IoU are kept, and `complete` is false."""
    frame = pd.concat([source.cases.assign(run=place) for place, source in enumerate(published.sources)], ignore_index=True)
    frame = frame[frame["name"] != BACKGROUND]
    names = list(dict.fromkeys(name for source in published.sources for name in source.names))
    complete = len(frame) <= MOST_ROWS
    if not complete:
        frame = frame.sort_values(["iou", "sample_id"], kind="stable").head(MOST_ROWS)
    metrics = list(published.shown)
    columns = ["run", "name", "sample_id", "group_id", "seed", "fold", *_COUNTS, *metrics]
    frame = frame.assign(name=frame["name"].map({name: place for place, name in enumerate(names)}))
    return {
        "runs": [source.label for source in published.sources], "names": names, "metrics": metrics, "columns": columns,
        "titles": {metric: score_title(metric) for metric in metrics},
        "complete": complete, "rows": [[_plain(value) for value in row] for row in frame[columns].itertuples(index=False, name=None)],
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Six decimals are more than anybody reads; NaN is no JSON."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else round(value, 6)
    return value


def mean_by_case(source: Source, metric: str = "iou") -> pd.Series:
    """Each sample's mean over classes and seeds, worst first; samples without a score are left out. Equal ones by name."""
    of_class = source.cases[source.cases["name"].isin(source.classes)]
    scores = of_class.groupby("sample_id")[metric].mean().dropna()
    return scores.iloc[scores.index.argsort()].sort_values(kind="stable")


def worth_a_picture(sources: Sequence[Source], tests: Sequence[Compared]) -> list[str]:
    """Every sample, those that matter most first: the runs' worst in turns, the deciding ones, then the rest from the worst on."""
    worst = [mean_by_case(source).index.tolist() for source in sources]
    first = [sample for places in zip(*(each[:WORST] for each in worst), strict=False) for sample in places]
    deciding = [case.sample_id for test in tests for case in (*test.for_it, *test.against_it)]
    rest = sources[0].cases["sample_id"].drop_duplicates().tolist()
    return list(dict.fromkeys([*first, *deciding, *worst[0], *rest]))
