"""A Source -> its scores with intervals. A score is a mean over images, a ratio of pooled counts, or a mean over groups; with several seeds
it is the mean of the seeds' scores, and the interval is of the groups: which other patients might have come, not which other seeds.

Legend: G groups, S seeds, C = S ratios of one score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from medseg.metrics.counts import Counts
from medseg.metrics.scores import METRICS, ratio_table
from medseg.publishing.sources import Source
from medseg.statistics.components import Components, variance_components
from medseg.statistics.intervals import DEFAULT, Estimate, Method, Ratios, estimates, wilson

Average = Literal["per_image", "pooled", "per_group"]
AVERAGES: tuple[Average, ...] = get_args(Average)
MEAN = "mean of classes"  # foreground, regions left out; only where there are several
_POOLED: dict[str, tuple[dict[str, float], dict[str, float]]] = {  # score -> numerator and denominator, weighted sums of counts
    "iou": ({"tp": 1}, {"tp": 1, "fp": 1, "fn": 1}),
    "recall": ({"tp": 1}, {"tp": 1, "fn": 1}),
    "precision": ({"tp": 1}, {"tp": 1, "fp": 1}),
    "dice": ({"tp": 2}, {"tp": 2, "fp": 1, "fn": 1}),
    "specificity": ({"tn": 1}, {"tn": 1, "fp": 1}),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One published number. n_defined: the images in which it is defined, the fewest and the most over the seeds; n_cases: all images.
    seeds: the score of each seed.  names: the classes it is of, several of a mean over classes.  components: where its variance comes from,
    of the groups' own scores, with two seeds or more."""

    label: str
    name: str
    metric: str
    average: Average
    estimate: Estimate
    n_defined: tuple[int, int]
    n_cases: int
    n_groups: int
    seeds: tuple[float, ...]
    names: tuple[str, ...]
    components: Components | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """How many structures are missed, or invented, by one seed's predictions (-1 where nobody knows): of the images whose reference holds
    the class, or does not. The interval (Wilson) is of images where each is a group of its own, else of groups in which it happens at least
    once; `unit` says which."""

    label: str
    name: str
    kind: Literal["missed", "invented"]
    successes: int
    n: int
    low: float
    high: float
    unit: Literal["images", "groups"]
    seed: int


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of this score is the better one: all ratios and NSD, not distances."""
    return metric in METRICS or metric.startswith("nsd_")


def bounds(metric: str) -> tuple[float, float]:
    """What a value of this score cannot leave."""
    return (0.0, 1.0) if higher_is_better(metric) else (0.0, math.inf)


def ratios_of(source: Source, name: str, metric: str, average: Average) -> Ratios | None:
    """What each group adds to a score, a column a seed; groups in the order of their names. None for a score that has no such average."""
    if average == "pooled" and metric not in _POOLED:
        return None
    columns = [_sums(source.parts[name, seed], metric, average, len(source.groups)) for seed in source.seeds]
    over, under = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
    return Ratios(over, under)


def _sums(cases: pd.DataFrame, metric: str, average: Average, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of each group, float64 (G,)."""
    place = cases["place"].to_numpy()
    if average == "per_image" or metric not in _POOLED:
        score = cases[metric].to_numpy(np.float64)
        over_G = np.bincount(place, np.nan_to_num(score), groups)
        under_G = np.bincount(place, np.isfinite(score), groups).astype(np.float64)
        if average == "per_image":
            return over_G, under_G
        return _as_one(np.divide(over_G, under_G, out=np.full_like(over_G, np.nan), where=under_G > 0))
    counts_G4 = np.stack([np.bincount(place, cases[count].to_numpy(np.float64), groups) for count in Counts._fields], axis=1)
    if average == "per_group":
        return _as_one(ratio_table(counts_G4)[:, METRICS.index(metric)])
    over_4, under_4 = (np.array([weights.get(count, 0.0) for count in Counts._fields]) for weights in _POOLED[metric])
    over_G, under_G = counts_G4 @ over_4, counts_G4 @ under_4
    if not under_G.any():  # a class that is predicted nowhere: its precision is 0 where there is a reference, as in scores.py
        under_G = (counts_G4[:, 2] > 0).astype(np.float64)
    return over_G, under_G


def _as_one(score_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A group's own score counts once, where it is defined."""
    return np.nan_to_num(score_G), np.isfinite(score_G).astype(np.float64)


def cells(
    source: Source,
    metrics: Sequence[str],
    averages: Sequence[Average] = ("per_image", "pooled"),
    method: Method = DEFAULT,
    beside: Sequence[Source] = (),
) -> list[Cell]:
    """Every class and region, then the mean over classes where there are several; scores that have no such average are passed by.

    beside: what it stands in a table with. A mean is of the classes in which all of them are defined: means of different classes, one of
    them with a class that it alone has invented, could not be compared.
    """
    return [cell for average in averages for metric in metrics for cell in _of_metric(source, metric, average, method, beside)]


def _of_metric(source: Source, metric: str, average: Average, method: Method, beside: Sequence[Source]) -> Iterator[Cell]:
    found = {name: ratios_of(source, name, metric, average) for name in source.names}
    by_name = {name: ratios for name, ratios in found.items() if ratios is not None}
    for name, ratios in by_name.items():
        weights = np.full((1, len(source.seeds)), 1 / len(source.seeds))
        yield _cell(source, [name], name, metric, average, ratios, weights, method)
    defined = [name for name in source.classes if all(_is_defined(each, name, metric, average) for each in (source, *beside))]
    if len(source.classes) > 1 and defined and metric in METRICS:
        ratios = Ratios(*(np.hstack([getattr(by_name[name], side) for name in defined]) for side in ("over_GC", "under_GC")))
        weights = np.full((1, ratios.over_GC.shape[1]), 1 / ratios.over_GC.shape[1])
        yield _cell(source, defined, MEAN, metric, average, ratios, weights, method)


def _is_defined(source: Source, name: str, metric: str, average: Average) -> bool:
    ratios = ratios_of(source, name, metric, average)
    return ratios is not None and bool(np.isfinite(ratios.values()).all())


def _cell(
    source: Source, names: Sequence[str], title: str, metric: str, average: Average, ratios: Ratios, weights: np.ndarray, method: Method
) -> Cell:
    (estimate,) = estimates(ratios, weights, method, bounds=bounds(metric))
    per_seed = ratios.values().reshape(len(names), len(source.seeds)).mean(axis=0)
    of_group = np.divide(ratios.over_GC, ratios.under_GC, out=np.full(ratios.over_GC.shape, np.nan), where=ratios.under_GC > 0)
    several = len(source.seeds) > 1 and len(names) == 1
    return Cell(
        source.label, title, metric, average, estimate, n_defined(source, names, metric), source.n_cases,
        len(source.groups), tuple(per_seed.tolist()), tuple(names), variance_components(of_group) if several else None,
    )  # fmt: skip


def n_defined(source: Source, names: Sequence[str], metric: str) -> tuple[int, int]:
    """The images in which a score is defined: the fewest and the most over classes and seeds."""
    defined = [int(source.parts[name, seed][metric].notna().sum()) for name in names for seed in source.seeds]
    return min(defined), max(defined)


def shares(source: Source) -> list[Share]:
    """Missed and invented structures of each class and region, of each seed's predictions."""
    return [share for name in source.names for seed in source.seeds for share in _shares_of(source, name, seed)]


def _shares_of(source: Source, name: str, seed: int) -> Iterator[Share]:
    cases = source.parts[name, seed]
    there, found = cases["tp"] + cases["fn"] > 0, cases["tp"] + cases["fp"] > 0
    alone = cases["group_id"].is_unique
    for kind, asked, happened in (("missed", there, there & ~found), ("invented", ~there, ~there & found)):
        of = happened[asked] if alone else happened[asked].groupby(cases["group_id"][asked]).any()
        successes, n = int(of.sum()), len(of)
        yield Share(source.label, name, kind, successes, n, *wilson(successes, n), "images" if alone else "groups", seed)  # type: ignore[arg-type]
