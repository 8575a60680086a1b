"""Two runs on the same cases: is one better, by how much, and which groups decide it. Nothing is resampled below the group (patient).

Legend: G groups, C scores, P permutations. A difference is of the second run minus the first.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests

from medseg.statistics.intervals import REPLICATES, Estimate, Ratios, Replicates, estimates

PERMUTATIONS = 9_999
_EXACT_UP_TO = 13  # groups: all 8,192 swaps are tried
_BLOCK = 4_000_000
_TIE = 1e-12  # two ways to add the same numbers differ by less


@dataclass(frozen=True, slots=True)
class PairedTest:
    """One score of two runs. difference: second minus first, with its interval.

    p_permutation: two-sided, the runs swapped within groups at random.  p_holm: the same, adjusted for all tests that were made together.
    p_wilcoxon: signed-rank test of the groups' own differences.  effect: Cohen's d_z, the mean of these over their standard deviation.
    p_better: share of the bootstrap's replicates in which the second is better, ties half.  n_groups: in which both are defined.
    influential: position of the group without which the difference is the furthest from what it is, and `without` what it is then.
    NaN and None where there is nothing to tell.
    """

    first: float
    second: float
    difference: Estimate
    p_permutation: float
    p_wilcoxon: float
    effect: float
    p_better: float
    n_groups: int
    influential: int | None
    without: float
    p_holm: float = math.nan

    def not_inferior(self, margin: float, higher_is_better: bool = True) -> bool | None:
        """Whether the interval excludes that the second is worse by `margin` > 0 or more; None without an interval."""
        assert margin > 0, margin
        worst = self.difference.low if higher_is_better else -self.difference.high
        return None if math.isnan(worst) else worst > -margin


def compare(
    first: Ratios, second: Ratios, higher_is_better: Sequence[bool], bounds: Sequence[tuple[float, float]], seed: int = 0
) -> list[PairedTest]:
    """Every score of two runs, of the same groups in the same order. bounds: of each score's difference. p_holm is left to `holm`."""
    assert first.over_GC.shape == second.over_GC.shape, (first.over_GC.shape, second.over_GC.shape)
    both, scores = first.with_sums_of(second), first.over_GC.shape[1]
    drawn = Replicates(both, REPLICATES, seed)
    tests = []
    for c in range(scores):
        weights = np.zeros((1, 2 * scores))
        weights[0, [c, scores + c]] = -1, 1
        one, other = _column(first, c), _column(second, c)
        better = drawn.of(np.array([c, scores + c]), np.array([-1.0, 1.0]))
        apart_G = _apart(one, other)
        influential, without = _influence(one, other)
        tests.append(
            PairedTest(
                first=float(one.values()[0]),
                second=float(other.values()[0]),
                difference=estimates(both, weights, bounds=bounds[c], seed=seed)[0],
                p_permutation=permutation_test(one, other, seed),
                p_wilcoxon=_wilcoxon(apart_G),
                effect=_effect(apart_G),
                p_better=_share_above_0(better if higher_is_better[c] else -better),
                n_groups=len(apart_G),
                influential=influential,
                without=without,
            )
        )
    return tests


def holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """The tests with p_holm (Holm 1979, by statsmodels): of all that have a p value, which therefore must be all that are looked at."""
    defined = [number for number, test in enumerate(tests) if not math.isnan(test.p_permutation)]
    if not defined:
        return list(tests)
    adjusted = multipletests([tests[number].p_permutation for number in defined], method="holm")[1]
    by_number = dict(zip(defined, adjusted.tolist(), strict=True))
    return [replace(test, p_holm=by_number.get(number, math.nan)) for number, test in enumerate(tests)]


def permutation_test(first: Ratios, second: Ratios, seed: int = 0) -> float:
    """Two-sided p of one score's difference when the runs' names are swapped within groups; exact up to 13 groups that count.

    Under the null either run could have given either outcome in each group. A sign flip of the groups' differences, where both runs are
    defined in the same images; where they are not, an image that one run alone invents a class in counts against it here, too.
    (Winkler et al. 2014, NeuroImage 92, exchangeability blocks; Phipson and Smyth 2010 for the 1 that is added to both counts.)
    """
    over_2G, under_2G = _sums(first, second)
    over_2G, under_2G = (sums[:, under_2G.sum(axis=0) > 0] for sums in (over_2G, under_2G))
    observed = _difference(over_2G.sum(axis=1), under_2G.sum(axis=1))
    if math.isnan(observed):
        return math.nan
    groups, extreme, tried = over_2G.shape[1], 0, 0
    exact = groups <= _EXACT_UP_TO
    for swap_PG in _all_swaps(groups) if exact else _random_swaps(groups, seed):
        swapped_P = _difference(_swapped(over_2G, swap_PG), _swapped(under_2G, swap_PG))
        extreme += int((np.abs(swapped_P) >= abs(observed) - _TIE).sum())  # NaN, where a run has nothing left, is not extreme
        tried += len(swap_PG)
    return extreme / tried if exact else (extreme + 1) / (tried + 1)


def _sums(first: Ratios, second: Ratios) -> tuple[np.ndarray, np.ndarray]:
    """What each group adds to one score's two sums, float64 (2, G) each: the first run's row, then the second's."""
    return np.stack([first.over_GC[:, 0], second.over_GC[:, 0]]), np.stack([first.under_GC[:, 0], second.under_GC[:, 0]])


def _swapped(sums_2G: np.ndarray, swap_PG: np.ndarray) -> np.ndarray:
    """float64 (2, P): both runs' sums where the groups marked 1 have changed sides."""
    moved_P = swap_PG @ (sums_2G[1] - sums_2G[0])
    return np.stack([sums_2G[0].sum() + moved_P, sums_2G[1].sum() - moved_P])


def _difference(over_2P: np.ndarray, under_2P: np.ndarray) -> np.ndarray:
    """Second ratio minus first; NaN where one is not defined."""
    ratio_2P = np.divide(over_2P, under_2P, out=np.full(over_2P.shape, np.nan), where=under_2P > 0)
    apart: np.ndarray = ratio_2P[1] - ratio_2P[0]
    return apart


def _all_swaps(groups: int) -> Iterator[np.ndarray]:
    yield np.array(list(itertools.product((0.0, 1.0), repeat=groups))).reshape(2**groups, groups)


def _random_swaps(groups: int, seed: int) -> Iterator[np.ndarray]:
    generator, left = np.random.default_rng(seed), PERMUTATIONS
    while left:
        block = min(left, max(1, _BLOCK // groups))
        yield generator.integers(0, 2, (block, groups)).astype(np.float64)
        left -= block


def _column(ratios: Ratios, c: int) -> Ratios:
    return Ratios(ratios.over_GC[:, [c]], ratios.under_GC[:, [c]])


def _apart(first: Ratios, second: Ratios) -> np.ndarray:
    """The differences of the groups' own scores, of the groups in which both runs have one."""
    both = ((first.under_GC > 0) & (second.under_GC > 0))[:, 0]
    one, other = ((each.over_GC[both] / each.under_GC[both])[:, 0] for each in (first, second))
    apart_G: np.ndarray = other - one
    return apart_G


def _wilcoxon(apart_G: np.ndarray) -> float:
    if not len(apart_G):
        return math.nan
    if not np.any(apart_G):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few groups, and of ties
        return float(wilcoxon(apart_G).pvalue)


def _effect(apart_G: np.ndarray) -> float:
    spread = float(apart_G.std(ddof=1)) if len(apart_G) > 1 else 0.0
    return float(apart_G.mean()) / spread if spread > 0 else math.nan


def _share_above_0(drawn_B: np.ndarray) -> float:
    drawn_B = drawn_B[np.isfinite(drawn_B)]
    return float(((drawn_B > 0).mean() + (drawn_B >= 0).mean()) / 2) if len(drawn_B) else math.nan


def _influence(first: Ratios, second: Ratios) -> tuple[int | None, float]:
    """(position of the most influential group, the difference without it)."""
    over_2G, under_2G = _sums(first, second)
    observed = _difference(over_2G.sum(axis=1), under_2G.sum(axis=1))
    without_G = _difference(over_2G.sum(axis=1, keepdims=True) - over_2G, under_2G.sum(axis=1, keepdims=True) - under_2G)
    moved_G = np.abs(without_G - observed)
    if not np.isfinite(moved_G).any():
        return None, math.nan
    most = int(np.nanargmax(moved_G))
    return most, float(without_G[most])
