"""Two or more Sources of the same cases -> paired tests of each against the first, adjusted together, and the cases that decide them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medseg.errors import ConfigError, RunError
from medseg.publishing.estimated import Average, bounds, higher_is_better, ratios_of
from medseg.publishing.sources import Source, check_alike
from medseg.statistics.intervals import Ratios
from medseg.statistics.paired import PairedTest, compare, holm

SIGNIFICANT = 0.05
SHOWN = 3  # deciding cases to each side


@dataclass(frozen=True, slots=True)
class DecidingCase:
    """A case and its scores, means over the seeds; NaN where undefined."""

    sample_id: str
    group_id: str
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One score of `label` against `against`. for_it, against_it: the cases that speak most for the one and for the other.
    influential: the group without which the difference would be the furthest from what it is."""

    label: str
    against: str
    name: str
    metric: str
    average: Average
    test: PairedTest
    influential: str | None
    for_it: tuple[DecidingCase, ...]
    against_it: tuple[DecidingCase, ...]

    @property
    def significant(self) -> bool:
        """After the adjustment for all tests made together."""
        return self.test.p_holm < SIGNIFICANT


def compare_sources(
    sources: Sequence[Source], metrics: Sequence[str], average: Average = "per_image", names: Sequence[str] | None = None
) -> list[Compared]:
    """Every source after the first against the first, each class and region by each score; Holm's adjustment is over all of them.

    Raises RunError unless all are of the same cases by the same rules, ConfigError for a score or a class that they do not have.
    """
    first, *others = sources
    if not others:
        raise RunError("compare", "needs two runs or more, got one", "name the folders below runs/, such as: medseg compare runs/A runs/B")
    check_alike(sources)
    names = _known("--class", names, first.names)
    _known("--metric", metrics, [metric for metric in first.metrics if all(metric in other.metrics for other in others)])
    groups = sorted(first.cases["group_id"].unique())
    keys, tests = [], list[PairedTest]()
    for other in others:
        asked = [(name, metric) for name in names for metric in metrics]
        sums = [(_mean_of_seeds(first, *key, average), _mean_of_seeds(other, *key, average)) for key in asked]
        keys += [(other, name, metric) for name, metric in asked]
        for (_, metric), (mine, theirs) in zip(asked, sums, strict=True):
            low, high = bounds(metric)
            tests += compare(mine, theirs, [higher_is_better(metric)], [(low - high, high - low)])
    return [
        Compared(
            other.label, first.label, name, metric, average, test, _named(groups, test.influential), *_deciding(first, other, name, metric)
        )  # fmt: skip
        for (other, name, metric), test in zip(keys, holm(tests), strict=True)
    ]


def _known(option: str, asked: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    for one in asked or ():
        if one not in there:
            raise ConfigError(option, f"{one!r} is not among {', '.join(there)}", "take one that all of the runs have")
    return list(asked or there)


def _mean_of_seeds(source: Source, name: str, metric: str, average: Average) -> Ratios:
    """A group's sums, each the mean of the seeds': their ratio is the mean of the seeds' ratios where all are defined in the same cases."""
    ratios = ratios_of(source, name, metric, average)
    if ratios is None:
        raise ConfigError("--average", f"{metric} has no {average} value", "take per_image")
    return Ratios(ratios.over_GC.mean(axis=1, keepdims=True), ratios.under_GC.mean(axis=1, keepdims=True))


def _named(groups: Sequence[str], position: int | None) -> str | None:
    return None if position is None else groups[position]


def _deciding(first: Source, other: Source, name: str, metric: str) -> tuple[tuple[DecidingCase, ...], tuple[DecidingCase, ...]]:
    """The cases with the largest differences to each side; a class that one run alone invents in an image counts as 0 against nothing."""
    table = pd.DataFrame({"first": _by_case(first, name, metric), "second": _by_case(other, name, metric)})
    scores = table.to_dict("index")
    groups = dict(zip(first.cases["sample_id"], first.cases["group_id"], strict=True))
    sign = 1.0 if higher_is_better(metric) else -1.0
    gain = (sign * (table["second"] - table["first"])).dropna()
    order = gain.iloc[np.lexsort((gain.index.to_numpy(), -gain.to_numpy()))]

    def told(ids: Sequence[str]) -> tuple[DecidingCase, ...]:
        return tuple(DecidingCase(i, groups[i], pair["first"], pair["second"]) for i in ids for pair in [scores[i]])

    return told(order[order > 0].index[:SHOWN].tolist()), told(order[order < 0].index[::-1][:SHOWN].tolist())


def _by_case(source: Source, name: str, metric: str) -> pd.Series:
    of_class = source.cases[source.cases["name"] == name]
    return of_class.groupby("sample_id")[metric].mean()
