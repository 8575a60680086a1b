"""Two runs on the same cases: is one better, by how much, and which groups decide it. Nothing is resampled below the group (patient).

Legend: G groups, S seeds, P permutations. A score of several seeds is the mean of their ratios, as in the tables; both runs have equally
many columns. A difference is of the second run minus the first.
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

from medseg.statistics.intervals import DEFAULT, REPLICATES, Estimate, Method, Ratios, Replicates, estimates

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
    first: Ratios, second: Ratios, higher_is_better: bool, bounds: tuple[float, float], method: Method = DEFAULT, seed: int = 0
) -> PairedTest:
    """One score of two runs, of the same groups in the same order; a column a seed. bounds, method: of its difference's interval.

    p_holm is left to `holm`.
    """
    assert first.over_GC.shape == second.over_GC.shape, (first.over_GC.shape, second.over_GC.shape)
    both, seeds = first.with_sums_of(second), first.over_GC.shape[1]
    minus = np.repeat([-1.0, 1.0], seeds) / seeds
    better_B = Replicates(both, REPLICATES, seed).of(np.arange(2 * seeds), minus if higher_is_better else -minus)
    apart_G = differences(first, second)
    influential, without = _influence(first, second)
    return PairedTest(
        first=float(first.values().mean()),
        second=float(second.values().mean()),
        difference=estimates(both, minus[None], method, bounds=bounds, seed=seed)[0],
        p_permutation=permutation_test(first, second, seed),
        p_wilcoxon=signed_rank_test(apart_G),
        effect=_effect(apart_G),
        p_better=_share_above_0(better_B),
        n_groups=len(apart_G),
        influential=influential,
        without=without,
    )


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
    over_2GS, under_2GS = _sums(first, second)
    over_2GS, under_2GS = (sums[:, under_2GS.sum(axis=(0, 2)) > 0] for sums in (over_2GS, under_2GS))
    observed = float(_difference(over_2GS.sum(axis=1), under_2GS.sum(axis=1)))
    if math.isnan(observed):
        return math.nan
    groups, extreme, tried = over_2GS.shape[1], 0, 0
    exact = groups <= _EXACT_UP_TO
    for swap_PG in _all_swaps(groups) if exact else _random_swaps(groups, seed):
        swapped_P = _difference(_swapped(over_2GS, swap_PG), _swapped(under_2GS, swap_PG))
        extreme += int((np.abs(swapped_P) >= abs(observed) - _TIE).sum())  # NaN, where a run has nothing left, is not extreme
        tried += len(swap_PG)
    return extreme / tried if exact else (extreme + 1) / (tried + 1)


def _sums(first: Ratios, second: Ratios) -> tuple[np.ndarray, np.ndarray]:
    """What each group adds to one score's two sums, float64 (2, G, S) each: the first run's, then the second's."""
    return np.stack([first.over_GC, second.over_GC]), np.stack([first.under_GC, second.under_GC])


def _swapped(sums_2GS: np.ndarray, swap_PG: np.ndarray) -> np.ndarray:
    """float64 (2, P, S): both runs' sums where the groups marked 1 have changed sides, with all their seeds."""
    moved_PS = swap_PG @ (sums_2GS[1] - sums_2GS[0])
    return np.stack([sums_2GS[0].sum(axis=0) + moved_PS, sums_2GS[1].sum(axis=0) - moved_PS])


def _difference(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Sums (2, ..., S) -> (...): mean over the seeds of the second's ratios minus that of the first's; NaN where one is not defined."""
    ratio = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0).mean(axis=-1)
    apart: np.ndarray = ratio[1] - ratio[0]
    return apart


def _all_swaps(groups: int) -> Iterator[np.ndarray]:
    yield np.array(list(itertools.product((0.0, 1.0), repeat=groups))).reshape(2**groups, groups)


def _random_swaps(groups: int, seed: int) -> Iterator[np.ndarray]:
    generator, left = np.random.default_rng(seed), PERMUTATIONS
    while left:
        block = min(left, max(1, _BLOCK // groups))
        yield generator.integers(0, 2, (block, groups)).astype(np.float64)
        left -= block


def differences(first: Ratios, second: Ratios) -> np.ndarray:
    """The differences of the groups' own scores, over all seeds together, of the groups in which both runs have one."""
    sums = [(each.over_GC.sum(axis=1), each.under_GC.sum(axis=1)) for each in (first, second)]
    both = (sums[0][1] > 0) & (sums[1][1] > 0)
    one, other = (over_G[both] / under_G[both] for over_G, under_G in sums)
    apart_G: np.ndarray = other - one
    return apart_G


def signed_rank_test(apart_G: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's test (by scipy); NaN without groups, 1 where none differs."""
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
    over_2GS, under_2GS = _sums(first, second)
    observed = _difference(over_2GS.sum(axis=1), under_2GS.sum(axis=1))
    without_G = _difference(*(sums.sum(axis=1, keepdims=True) - sums for sums in (over_2GS, under_2GS)))
    moved_G = np.abs(without_G - observed)
    if not np.isfinite(moved_G).any():
        return None, math.nan
    most = int(np.nanargmax(moved_G))
    return most, float(without_G[most])
