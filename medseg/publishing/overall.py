"""Two Sources of the same cases -> one paired test of the mean over their classes: is the second, all in all, no worse than the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.errors import ConfigError, RunError
from medseg.metrics.scores import METRICS
from medseg.publishing.estimated import bounds, higher_is_better, ratios_of
from medseg.publishing.sources import Source, check_alike
from medseg.statistics.intervals import Ratios
from medseg.statistics.paired import PairedTest, compare


@dataclass(frozen=True, slots=True)
class Overall:
    """One score's mean over `names`, per image, of two sources. equal: in every group and class the same, so that there is no spread
    from which an interval could come, and no difference either."""

    metric: str
    names: tuple[str, ...]
    test: PairedTest
    n_cases: int
    equal: bool

    def not_inferior(self, margin: float) -> bool | None:
        """Whether the second is worse by less than `margin` > 0, by the interval of 95 %; None where there is none."""
        return True if self.equal else self.test.not_inferior(margin)

    def told(self) -> str:
        """The difference, second minus first, with its interval."""
        found = self.test.difference
        ends = "the same in every image" if self.equal else f"95 % interval {found.low:+.4f} to {found.high:+.4f}"
        ends = ends if self.equal or found.low == found.low else "too few groups that differ for an interval"
        return f"{self.metric} per image, mean of {', '.join(self.names)}: {found.value:+.4f} ({ends}; {self.n_cases} images)"


def compare_overall(first: Source, second: Source, metric: str) -> Overall:
    """Of the foreground classes, regions left out, those in which the score is defined for both, as means in tables are.

    RunError unless both are of the same cases by the same rules and one class at least is defined; ConfigError for a score that is no
    share of pixels: a mean over classes is of these.
    """
    check_metric(metric)
    check_alike([first, second])
    pairs = {name: tuple(_ratios(each, name, metric) for each in (first, second)) for name in first.classes if name in second.classes}
    defined = {name: pair for name, pair in pairs.items() if all(np.isfinite(each.values()).all() for each in pair)}
    if not defined:
        raise RunError(second.label, f"has no class in which the {metric} of both is defined", "score a part that holds the classes")
    mine, theirs = (_side_by_side([pair[which] for pair in defined.values()]) for which in (0, 1))
    low, high = bounds(metric)
    test = compare(mine, theirs, higher_is_better(metric), (low - high, high - low))
    return Overall(metric, tuple(defined), test, first.n_cases, _equal(mine, theirs))


def check_metric(metric: str) -> str:
    """ConfigError for a score that has no mean over classes."""
    if metric not in METRICS:
        raise ConfigError("--metric", f"{metric!r} is not among {', '.join(METRICS)}", "take one of these")
    return metric


def _ratios(source: Source, name: str, metric: str) -> Ratios:
    found = ratios_of(source, name, metric, "per_image")
    assert found is not None, metric  # every ratio has a mean over images
    return found


def _side_by_side(ratios: list[Ratios]) -> Ratios:
    """A column a class: the test is of the mean of the columns."""
    return Ratios(*(np.hstack([getattr(each, side) for each in ratios]) for side in ("over_GC", "under_GC")))


def _equal(first: Ratios, second: Ratios) -> bool:
    return bool(np.array_equal(first.over_GC, second.over_GC) and np.array_equal(first.under_GC, second.under_GC))
