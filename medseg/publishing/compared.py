"""Two or more Sources of the same cases -> paired tests of each against the first, adjusted together, and the cases that decide them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medseg.errors import ConfigError, RunError
from medseg.publishing.estimated import Average, bounds, higher_is_better, n_defined, ratios_of
from medseg.publishing.sources import Source, check_alike
from medseg.statistics.intervals import DEFAULT, Method, Ratios
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
    """One score of `label` against `against`. n_first, n_second: the images in which it is defined, the fewest and the most over the seeds,
    of `against` and of `label`; n_cases: all images. for_it, against_it: the cases that speak most for the one and for the other.
    influential: the group without which the difference would be the furthest from what it is."""

    label: str
    against: str
    name: str
    metric: str
    average: Average
    test: PairedTest
    n_first: tuple[int, int]
    n_second: tuple[int, int]
    n_cases: int
    influential: str | None
    for_it: tuple[DecidingCase, ...]
    against_it: tuple[DecidingCase, ...]

    @property
    def significant(self) -> bool:
        """After the adjustment for all tests made together."""
        return self.test.p_holm < SIGNIFICANT


def compare_sources(
    sources: Sequence[Source],
    metrics: Sequence[str],
    average: Average = "per_image",
    names: Sequence[str] | None = None,
    method: Method = DEFAULT,
) -> list[Compared]:
    """Every source after the first against the first, each class and region by each score; Holm's adjustment is over all of them.

    Raises RunError unless all are of the same cases by the same rules, ConfigError for a score or a class that they do not have.
    """
    first, *others = sources
    if not others:
        raise RunError("compare", "needs two runs or more, got one", "name the folders below runs/, such as: medseg compare runs/A runs/B")
    check_alike(sources)
    names = check_known("--class", names, first.names)
    check_known("--metric", metrics, [metric for metric in first.metrics if all(metric in other.metrics for other in others)])
    keys = [(other, name, metric) for other in others for name in names for metric in metrics]
    tests = [_test(first, other, name, metric, average, method) for other, name, metric in keys]
    return [_compared(first, *key, average, test) for key, test in zip(keys, holm(tests), strict=True)]


def _test(first: Source, other: Source, name: str, metric: str, average: Average, method: Method) -> PairedTest:
    low, high = bounds(metric)
    columns = math.lcm(len(first.seeds), len(other.seeds))
    mine, theirs = (_of_seeds(source, name, metric, average, columns) for source in (first, other))
    return compare(mine, theirs, higher_is_better(metric), (low - high, high - low), method)


def _compared(first: Source, other: Source, name: str, metric: str, average: Average, test: PairedTest) -> Compared:
    influential = None if test.influential is None else first.groups[test.influential]
    return Compared(
        other.label, first.label, name, metric, average, test, n_defined(first, [name], metric), n_defined(other, [name], metric),
        first.n_cases, influential, *_deciding(first, other, name, metric),
    )  # fmt: skip


def check_known(option: str, asked: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    """What is asked for, or all; ConfigError where one of it is not there."""
    for one in asked or ():
        if one not in there:
            raise ConfigError(option, f"{one!r} is not among {', '.join(there)}", "take one that all of the runs have")
    return list(asked or there)


def _of_seeds(source: Source, name: str, metric: str, average: Average, columns: int) -> Ratios:
    """A column a seed, each repeated so often that there are `columns`: the mean of their ratios stays what it is."""
    ratios = ratios_of(source, name, metric, average)
    if ratios is None:
        raise ConfigError("--average", f"{metric} has no {average} value", "take per_image")
    times = columns // ratios.over_GC.shape[1]
    return Ratios(np.repeat(ratios.over_GC, times, axis=1), np.repeat(ratios.under_GC, times, axis=1))


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
