"""The cells of a table: which is best, which differs, how many digits. A third figure within its own uncertainty says nothing, so digits go
by the interval's width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Literal

from medseg.publishing.compared import SIGNIFICANT, Compared
from medseg.publishing.estimated import AVERAGES, Average, Cell, higher_is_better
from medseg.report.tables import TITLES, boundary_title
from medseg.statistics.intervals import Estimate

Mark = Literal["best", "second", None]
AVERAGE_TITLES: dict[Average, str] = {
    "per_image": "mean over images", "pooled": "pooled over all pixels", "per_group": "mean over groups",
}  # fmt: skip
DAGGER = "†"
_FEWEST_DIGITS, _MOST_DIGITS = 2, 4


@dataclass(frozen=True)
class Table:
    """The cells of one average: classes down, scores across, and where there are several sources one line each below the class.
    tests: those of the same average, against the first source."""

    cells: Sequence[Cell]
    average: Average
    tests: Sequence[Compared] = ()

    @cached_property
    def metrics(self) -> list[str]:
        """Across."""
        return list(dict.fromkeys(cell.metric for cell in self.cells))

    @cached_property
    def labels(self) -> list[str]:
        """Of the sources."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @cached_property
    def names(self) -> list[str]:
        """Down: classes and regions, then their mean."""
        return list(dict.fromkeys(cell.name for cell in self.cells))

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, str], Cell]:
        return {(cell.label, cell.name, cell.metric): cell for cell in self.cells}

    @cached_property
    def _significant(self) -> set[tuple[str, str, str]]:
        return {(test.label, test.name, test.metric) for test in self.tests if test.significant}

    @cached_property
    def _digits(self) -> dict[str, int]:
        return {metric: _digits_of(metric, [cell for cell in self.cells if cell.metric == metric]) for metric in self.metrics}

    def cell(self, label: str, name: str, metric: str) -> Cell | None:
        """None where the source has no such score."""
        return self._by_key.get((label, name, metric))

    def digits(self, metric: str) -> int:
        """Of a column: two figures of the median half width, between 2 and 4 (of a distance 0 and 3); without intervals 3 (2)."""
        return self._digits[metric]

    def mark(self, cell: Cell) -> Mark:
        """Best and second best of the sources, by what is printed: equal figures share a mark, and behind two best none is second. None of
        distances to other images: who misses what is hard has none to it."""
        beside = [other for label in self.labels if (other := self.cell(label, cell.name, cell.metric))]
        higher = higher_is_better(cell.metric)
        if not higher and len({other.n_defined for other in beside}) > 1:
            return None
        digits, sign = self.digits(cell.metric), 1 if higher else -1
        printed = [round(sign * other.estimate.value, digits) for other in beside if not math.isnan(other.estimate.value)]
        if len(self.labels) < 2 or math.isnan(cell.estimate.value) or len(set(printed)) < 2:
            return None
        better = sum(other > round(sign * cell.estimate.value, digits) for other in printed)
        return ("best", "second")[better] if better < 2 else None  # type: ignore[return-value]

    def differs(self, cell: Cell) -> bool:
        """Whether it differs from the first source by the adjusted test."""
        return (cell.label, cell.name, cell.metric) in self._significant


def _digits_of(metric: str, cells: Sequence[Cell]) -> int:
    widths = [cell.estimate.half_width for cell in cells if cell.estimate.half_width > 0]
    fewest, most = (_FEWEST_DIGITS, _MOST_DIGITS) if higher_is_better(metric) else (0, 3)
    return min(max(1 - math.floor(math.log10(median(widths))), fewest), most) if widths else most - 1


def score_title(metric: str) -> str:
    """A score's name in a heading, with its unit.

    >>> score_title("iou"), score_title("hd95_mm")
    ('IoU', 'HD95, mm')
    """
    return TITLES[metric] if metric in TITLES else boundary_title(metric)


def figures(value: float, digits: int) -> str:
    """A number as printed; an en dash where it is undefined."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def with_interval(estimate: Estimate, digits: int) -> str:
    """
    >>> with_interval(Estimate(0.7811, 0.7119, 0.8432, 20), 3), with_interval(Estimate(0.5, math.nan, math.nan, 3), 3)
    ('0.781 [0.712, 0.843]', '0.500')
    """
    value = figures(estimate.value, digits)
    return value if math.isnan(estimate.low) else f"{value} [{figures(estimate.low, digits)}, {figures(estimate.high, digits)}]"


def defined(n_defined: tuple[int, int], n_cases: int) -> str:
    """In how many of the images a score is defined, the fewest and the most over seeds.

    >>> defined((41, 41), 60), defined((40, 41), 60)
    ('41/60', '40–41/60')
    """
    fewest, most = n_defined
    return f"{fewest}/{n_cases}" if fewest == most else f"{fewest}–{most}/{n_cases}"


def tests_sentence(tests: Sequence[Compared]) -> str:
    """What a dagger means."""
    if not tests:
        return ""
    count = sum(not math.isnan(one.test.p_permutation) for one in tests)
    return (
        f"{DAGGER}: differs from {tests[0].against} (two-sided permutation test, the runs swapped within groups; Holm's adjustment over "
        f"{count} tests; p < {SIGNIFICANT})."
    )


def by_average(cells: Sequence[Cell], tests: Sequence[Compared]) -> dict[Average, Table]:
    """A table for each average."""
    return {
        average: Table([c for c in cells if c.average == average], average, [t for t in tests if t.average == average])
        for average in AVERAGES
        if any(cell.average == average for cell in cells)
    }
