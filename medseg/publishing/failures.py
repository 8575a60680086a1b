"""A Source -> where it fails, group by group: structures missed, invented, and found but poorly outlined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from medseg.publishing.estimated import higher_is_better
from medseg.publishing.sources import Source


@dataclass(frozen=True, slots=True)
class GroupFailures:
    """One group (patient), foreground classes and regions together. missed, invented, poor: images and classes, summed over the seeds.
    worst_*: of the lowest score, and mean_score of all, each the mean over the seeds; None and NaN where no score is defined."""

    group_id: str
    n_images: int
    missed: int
    invented: int
    poor: int
    worst_sample: str | None
    worst_name: str | None
    worst_score: float
    mean_score: float

    @property
    def failures(self) -> int:
        """Of all three kinds."""
        return self.missed + self.invented + self.poor


def failures_by_group(source: Source, metric: str = "iou", poor_below: float = 0.5) -> list[GroupFailures]:
    """Every group, those with the most failures an image first, then those with the lowest mean score.

    missed: in the reference, nothing predicted.  invented: predicted, not in the reference.  poor: in both, with a score below
    `poor_below`.  metric: a score of which more is better.
    """
    assert higher_is_better(metric), metric
    cases = source.cases[source.cases["name"].isin(source.names)]
    there, found = cases["tp"] + cases["fn"] > 0, cases["tp"] + cases["fp"] > 0
    kinds = {"missed": there & ~found, "invented": ~there & found, "poor": there & found & (cases[metric] < poor_below)}
    groups = [_of_group(str(key), part, metric) for key, part in cases.assign(**kinds).groupby("group_id")]
    return sorted(groups, key=_worst_first)


def _of_group(group_id: str, cases: pd.DataFrame, metric: str) -> GroupFailures:
    scores = cases.groupby(["sample_id", "name"], sort=False)[metric].mean().dropna().sort_values(kind="stable")
    worst_sample, worst_name = scores.index[0] if len(scores) else (None, None)
    missed, invented, poor = (int(cases[kind].sum()) for kind in ("missed", "invented", "poor"))
    worst_score, mean_score = (float(scores.iloc[0]), float(scores.mean())) if len(scores) else (math.nan, math.nan)
    return GroupFailures(
        group_id, cases["sample_id"].nunique(), missed, invented, poor, worst_sample, worst_name, worst_score, mean_score
    )  # fmt: skip


def _worst_first(group: GroupFailures) -> tuple[float, float, str]:
    """A group without any score goes behind those of as many failures."""
    return -group.failures / group.n_images, math.inf if math.isnan(group.mean_score) else group.mean_score, group.group_id
