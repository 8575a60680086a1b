"""Intervals of scores by resampling whole groups (patients), so that images of one patient do not pass for independent ones.

Every score here is a ratio of two sums over groups: a mean over images is (sum of the defined scores) / (how many are defined), a pooled
score (sum of some pixels) / (sum of others). A statistic is a weighted sum of ratios: one of them, a mean over classes, a difference.

Legend: G groups, C ratios, M statistics, B replicates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from scipy.special import ndtr, ndtri
from statsmodels.stats.proportion import proportion_confint

Method = Literal["bootstrap_t", "bca", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT: Method = "bootstrap_t"  # by the coverage study: bench/check_coverage.py
REPLICATES = 5_000
FEWEST_GROUPS = 5  # that the ratio is of; below, the groups' own spread is not known well enough for any interval
_NO_SPREAD = 1e-9
_ENDS = 6  # decimals of an interval's ends: drawn at random, the rest means nothing and differs between processors
_BLOCK = 4_000_000  # numbers held at once: some 32 MB
_KEPT = 40_000_000  # counts that are kept for the next statistic, at two bytes each
# Share of the replicates that hold only groups that are all alike; without k special groups it is about exp(-k). Studentised intervals
# shrink to nothing there, and of a single special group no method knows what others would have been (bench/check_coverage.py).
_ALIKE_FOR_T, _ALIKE_FOR_ANY = 0.01, 0.2
# Times the width of BCa: beyond, one or two large groups decide, and replicates without them have a standard error that is far too small.
# Of fewer groups it is as wide for good reason: there the cap would cost coverage, from 10 on it costs none.
_WIDEST_T, _WIDEST_FROM = 2.0, 10


@dataclass(frozen=True)
class Ratios:
    """over_GC / under_GC: float64 (G, C), what each group adds to the two sums of each ratio; no NaN, under >= 0."""

    over_GC: np.ndarray
    under_GC: np.ndarray

    def __post_init__(self) -> None:
        assert self.over_GC.ndim == 2 and self.over_GC.shape == self.under_GC.shape, (self.over_GC.shape, self.under_GC.shape)
        assert np.isfinite(self.over_GC).all() and (self.under_GC >= 0).all()

    def values(self) -> np.ndarray:
        """float64 (C,): the ratios over all groups; NaN where there is nothing to divide by."""
        return _divide(self.over_GC.sum(axis=0), self.under_GC.sum(axis=0))

    def with_sums_of(self, other: Ratios) -> Ratios:
        """The columns of both, of the same groups in the same order."""
        return Ratios(np.hstack([self.over_GC, other.over_GC]), np.hstack([self.under_GC, other.under_GC]))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic with its interval. n_groups: those that it is of, in the ratio that has fewest. low and high are NaN without an interval:
    where it is not defined, of fewer than FEWEST_GROUPS groups, or where all groups but one are alike. method: of the interval."""

    value: float
    low: float
    high: float
    n_groups: int
    method: Method | None = None

    @property
    def half_width(self) -> float:
        """Half of the interval's width; NaN without one."""
        return (self.high - self.low) / 2


def estimates(
    ratios: Ratios,
    weights_MC: np.ndarray | None = None,
    method: Method = DEFAULT,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Estimate]:
    """Each statistic with its two-sided interval; one a ratio where no weights are given.

    bootstrap_t: Studentised by the linearised standard error of the ratios (Efron 1981; Davison and Hinkley 1997, 5.2).
    bca: bias-corrected and accelerated, the acceleration by leaving out a group (Efron 1987); in place of bootstrap_t where a few groups
    decide: all others are alike, or bootstrap_t would be over twice as wide.  percentile: Efron 1979.
    Intervals are cut at `bounds`, which no value of the statistic can leave. The same seed draws the same groups.
    """
    weights_MC = np.eye(ratios.over_GC.shape[1]) if weights_MC is None else weights_MC
    found = []
    drawn = Replicates(ratios, replicates, seed)
    for weights_C in weights_MC:
        columns = np.flatnonzero(weights_C)
        one, weight = Ratios(ratios.over_GC[:, columns], ratios.under_GC[:, columns]), weights_C[columns]
        value = float(one.values() @ weight)
        n_groups = int((one.under_GC > 0).sum(axis=0).min(initial=len(one.under_GC)))
        ends = None
        if not math.isnan(value) and n_groups >= FEWEST_GROUPS:
            ends = _interval(one, weight, value, drawn.of(columns, weight, studentised=True), method, level)
        if ends is None:
            found.append(Estimate(value, math.nan, math.nan, n_groups))
            continue
        low, high, by = ends
        low, high = max(min(low, value), bounds[0]), min(max(high, value), bounds[1])
        found.append(Estimate(value, round(low, _ENDS), round(high, _ENDS), n_groups, by))
    return found


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share of independent cases or groups, never of pixels (Wilson 1927, by statsmodels); NaN where n is 0.

    >>> [round(end, 4) for end in wilson(0, 20)]
    [0.0, 0.1611]
    """
    if n == 0:
        return math.nan, math.nan
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return max(float(low), 0.0), min(float(high), 1.0)


class Replicates:
    """The same drawn groups for every statistic, so that what is compared was drawn together.

    A group's count in each replicate is kept, not its members: a replicate's sums are one matrix product.
    """

    def __init__(self, ratios: Ratios, replicates: int = REPLICATES, seed: int = 0) -> None:
        self._ratios, self._replicates, self._seed = ratios, replicates, seed

    def of(self, columns: np.ndarray, weight_C: np.ndarray, studentised: bool = False) -> np.ndarray:
        """float64 (B,): the statistic of each replicate, or (B, 2) with its standard error. NaN where a ratio is not defined there."""
        over_GC, under_GC = self._ratios.over_GC[:, columns], self._ratios.under_GC[:, columns]
        found = []
        for counts_BG in _drawn(len(over_GC), self._replicates, self._seed):
            sums_BC = counts_BG @ under_GC
            ratio_BC = _divide(counts_BG @ over_GC, sums_BC)
            value_B = ratio_BC @ weight_C
            if studentised:
                error_B = _standard_error(counts_BG, over_GC, under_GC, ratio_BC, sums_BC, weight_C)
                value_B = np.stack([value_B, error_B], axis=1)
            found.append(value_B)
        return np.concatenate(found)


def _drawn(groups: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """float64 (some of B, G): how often each group is drawn. Drawn once for all statistics, where all of them are not too many to keep."""
    blocks = _kept(groups, replicates, seed) if groups * replicates <= _KEPT else _draw(groups, replicates, seed)
    yield from (counts_BG.astype(np.float64) for counts_BG in blocks)


@lru_cache(maxsize=2)
def _kept(groups: int, replicates: int, seed: int) -> list[np.ndarray]:
    return list(_draw(groups, replicates, seed))


def _draw(groups: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    generator, left = np.random.default_rng(seed), replicates
    while left:
        block = min(left, max(1, _BLOCK // groups))
        counts_BG = generator.multinomial(groups, np.full(groups, 1 / groups), size=block)
        yield counts_BG.astype(np.uint16 if groups < 2**16 else np.uint32)
        left -= block


def _standard_error(
    counts_BG: np.ndarray, over_GC: np.ndarray, under_GC: np.ndarray, ratio_BC: np.ndarray, sums_BC: np.ndarray, weight_C: np.ndarray
) -> np.ndarray:
    """By linearisation: the residual of a group is sum_c weight_c (over - ratio_c under) / sum_c (Davison and Hinkley 1997, 2.7.2)."""
    groups = len(over_GC)
    per_sum_BC = _divide(np.broadcast_to(weight_C, sums_BC.shape), sums_BC)
    residual_BG = per_sum_BC @ over_GC.T - (per_sum_BC * ratio_BC) @ under_GC.T
    error_B: np.ndarray = np.sqrt(groups / (groups - 1) * (counts_BG * residual_BG**2).sum(axis=1))
    return error_B


def _interval(
    ratios: Ratios, weight_C: np.ndarray, value: float, drawn_B2: np.ndarray, method: Method, level: float
) -> tuple[float, float, Method] | None:
    """(low, high, by which method), of the replicates' values and standard errors; None where too many groups are alike for any."""
    tails = (1 - level) / 2, (1 + level) / 2
    ones, sums = np.ones((1, len(ratios.over_GC))), ratios.under_GC.sum(axis=0)[None]
    error = float(_standard_error(ones, ratios.over_GC, ratios.under_GC, ratios.values()[None], sums, weight_C)[0])
    drawn_B2 = drawn_B2[np.isfinite(drawn_B2[:, 0])]
    spread_B = drawn_B2[:, 1] > _NO_SPREAD * error
    alike = 1 - float(spread_B.mean()) if error > _NO_SPREAD else 1.0
    if alike > _ALIKE_FOR_ANY:
        return None
    if method == "percentile":
        return *_quantiles(drawn_B2[:, 0], tails), method
    bca = _quantiles(drawn_B2[:, 0], _bca_tails(ratios, weight_C, value, drawn_B2[:, 0], tails))
    if method == "bootstrap_t" and alike <= _ALIKE_FOR_T:
        upper, lower = _quantiles((drawn_B2[spread_B, 0] - value) / drawn_B2[spread_B, 1], tails)[::-1]
        if len(ratios.over_GC) < _WIDEST_FROM or (upper - lower) * error <= _WIDEST_T * (bca[1] - bca[0]):
            return value - upper * error, value - lower * error, method
    return *bca, "bca"


def _quantiles(values_B: np.ndarray, tails: tuple[float, float]) -> tuple[float, float]:
    low, high = np.quantile(values_B, tails)
    return float(low), float(high)


def _bca_tails(ratios: Ratios, weight_C: np.ndarray, value: float, drawn_B: np.ndarray, tails: tuple[float, float]) -> tuple[float, float]:
    """Efron 1987, equations 2.3 and 6.6; ties count half, because scores at 0 and 1 make many."""
    below = float(((drawn_B < value).mean() + (drawn_B <= value).mean()) / 2)
    shift = float(ndtri(np.clip(below, 1 / (2 * len(drawn_B)), 1 - 1 / (2 * len(drawn_B)))))
    over, under = ratios.over_GC.sum(axis=0) - ratios.over_GC, ratios.under_GC.sum(axis=0) - ratios.under_GC
    without_G = _divide(over, under) @ weight_C
    apart_G = np.nanmean(without_G) - without_G[np.isfinite(without_G)]
    squares = float((apart_G**2).sum())
    acceleration = float((apart_G**3).sum()) / (6 * squares**1.5) if squares else 0.0
    shifted = [shift + float(ndtri(tail)) for tail in tails]
    low, high = (float(ndtr(shift + each / (1 - acceleration * each))) for each in shifted)
    return low, high


def _divide(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.broadcast(over, under).shape, np.nan), where=under > 0)
