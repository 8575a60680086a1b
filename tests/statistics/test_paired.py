"""Paired tests against hand cases, scipy, and a slow swap of every group."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from medseg.statistics.intervals import Estimate, Ratios
from medseg.statistics.paired import PairedTest, compare, holm, permutation_test

BOUNDS = (-1.0, 1.0)


def means(scores: list[list[float]]) -> Ratios:
    """Of each group's images; NaN is undefined."""
    over = np.array([[np.nansum(each)] for each in scores])
    return Ratios(over, np.array([[np.isfinite(each).sum()] for each in scores], float))


def column(values: np.ndarray) -> Ratios:
    return Ratios(values[:, None], np.ones((len(values), 1)))


def one_test(first: Ratios, second: Ratios, higher: bool = True) -> PairedTest:
    return compare(first, second, higher, BOUNDS)


def slow_p(first: Ratios, second: Ratios) -> float:
    """Every swap of every group, added up anew."""
    groups = len(first.over_GC)

    def difference(swaps: tuple[bool, ...]) -> float:
        sums = np.zeros((2, 2))
        for g, swap in enumerate(swaps):
            for run, each in enumerate((second, first) if swap else (first, second)):
                sums[run] += each.over_GC[g, 0], each.under_GC[g, 0]
        return sums[1, 0] / sums[1, 1] - sums[0, 0] / sums[0, 1] if sums[:, 1].all() else math.nan

    observed = abs(difference((False,) * groups))
    return float(np.mean([abs(difference(swaps)) >= observed - 1e-12 for swaps in itertools.product((False, True), repeat=groups)]))


def test_all_swaps_against_a_slow_one():
    draw = np.random.default_rng(0)
    for _ in range(20):
        first, second = ([list(draw.choice([0.2, 0.5, 0.9, np.nan], draw.integers(1, 4))) for _ in range(7)] for _ in range(2))
        first[0], second[0] = [0.5], [0.9]
        assert permutation_test(means(first), means(second)) == pytest.approx(slow_p(means(first), means(second)))


def test_random_swaps_against_scipy():
    draw = np.random.default_rng(1)
    first = draw.beta(8, 2, 40)
    second = np.clip(first + draw.normal(0.02, 0.06, 40), 0, 1)
    ours = permutation_test(column(first), column(second))
    theirs = stats.permutation_test(
        (first, second), lambda a, b: np.mean(b - a), permutation_type="samples", n_resamples=50_000, rng=2
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.01) and 0.001 < ours < 0.5
    assert ours == permutation_test(column(first), column(second)) != permutation_test(column(first), column(second), seed=5)


def test_one_image_invented_counts_though_it_has_no_partner():
    """The second run invents the class in three patients, where the first has rightly nothing: undefined there, 0 here."""
    first = means([[0.8], [0.8], [0.8], [np.nan], [np.nan], [np.nan]])
    second = means([[0.8], [0.8], [0.8], [0.0], [0.0], [0.0]])
    test = one_test(first, second)
    assert (test.first, test.second) == pytest.approx((0.8, 0.4)) and test.difference.value == pytest.approx(-0.4)
    assert test.n_groups == 3 and test.p_permutation == pytest.approx(slow_p(first, second)) and test.p_permutation < 0.5


def test_equal_runs():
    scores = column(np.linspace(0.1, 0.9, 30))
    test = one_test(scores, scores)
    assert (test.p_permutation, test.p_wilcoxon, test.p_better) == (1.0, 1.0, 0.5) and math.isnan(test.effect)
    assert test.difference.value == 0 and math.isnan(test.difference.low) and test.not_inferior(0.01) is None


def test_a_clear_difference_by_hand():
    apart = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2])
    test = one_test(column(np.full(8, 0.5)), column(0.5 + apart))
    assert test.p_permutation == 2 / 2**8 == test.p_wilcoxon  # all signs alike: two of all swaps are as far
    assert test.effect == pytest.approx(apart.mean() / apart.std(ddof=1)) and test.p_better == 1.0
    assert test.difference.value == pytest.approx(0.1875) and test.difference.low > 0.1


def test_smaller_is_better_turns_the_better_alone():
    near, far = column(np.array([1.0, 2, 3, 4, 5, 6])), column(np.array([2.0, 2, 4, 5, 7, 7]))
    test = compare(far, near, False, (-math.inf, math.inf))
    assert test.difference.value < 0 and test.p_better > 0.95
    assert test.not_inferior(1e-6, higher_is_better=False) and not test.not_inferior(1e-6)


def test_the_group_that_decides():
    apart = np.array([0.0, 0.01, 0.0, 0.6, -0.01, 0.0])
    test = one_test(column(np.full(6, 0.3)), column(0.3 + apart))
    assert test.influential == 3 and test.without == pytest.approx(0.0)


def test_nothing_to_compare():
    empty = Ratios(np.zeros((6, 1)), np.zeros((6, 1)))
    test = one_test(empty, empty)
    assert all(map(math.isnan, (test.p_permutation, test.p_wilcoxon, test.effect, test.p_better, test.difference.low)))
    assert test.influential is None and test.not_inferior(0.05) is None and holm([test])[0].p_holm != test.p_permutation


def of_p(p: float) -> PairedTest:
    return PairedTest(0.5, 0.5, Estimate(0.0, -0.1, 0.1, 9), p, p, 0.0, 0.5, 9, None, math.nan)


def test_holm_by_hand():
    found = [test.p_holm for test in holm([of_p(p) for p in (0.01, 0.04, math.nan, 0.03)])]
    assert found[:2] == pytest.approx([0.03, 0.06]) and math.isnan(found[2]) and found[3] == pytest.approx(0.06)
    assert holm([]) == []


def test_not_inferior_by_the_lower_end():
    assert of_p(0.5).not_inferior(0.11) is True and of_p(0.5).not_inferior(0.1) is False


def slow_mean_p(first: Ratios, second: Ratios) -> float:
    """Every swap of every group with all its seeds; a run's score is the mean of its seeds' ratios."""
    groups = len(first.over_GC)

    def score(pick: list[Ratios]) -> float:
        columns = range(first.over_GC.shape[1])
        sums = [
            (sum(one.over_GC[g, c] for g, one in enumerate(pick)), sum(one.under_GC[g, c] for g, one in enumerate(pick))) for c in columns
        ]
        return float(np.mean([over / under if under else math.nan for over, under in sums]))

    def difference(swaps: tuple[bool, ...]) -> float:
        return score([first if swap else second for swap in swaps]) - score([second if swap else first for swap in swaps])

    observed = abs(difference((False,) * groups))
    return float(np.mean([abs(difference(swaps)) >= observed - 1e-12 for swaps in itertools.product((False, True), repeat=groups)]))


def test_seeds_that_are_undefined_elsewhere_weigh_as_in_the_table():
    """A seed that invents the class in one more image has one more n: the mean is of the seeds' means, not of all images together."""
    draw = np.random.default_rng(4)
    for _ in range(10):
        under = draw.integers(0, 3, (7, 4)).astype(float)
        over = under * draw.random((7, 4))
        under[0], over[0] = 1, draw.random(4)
        first, second = Ratios(over[:, :2], under[:, :2]), Ratios(over[:, 2:], under[:, 2:])
        test = one_test(first, second)
        assert test.first == pytest.approx(np.mean(over[:, :2].sum(0) / under[:, :2].sum(0)))
        assert test.second == pytest.approx(np.mean(over[:, 2:].sum(0) / under[:, 2:].sum(0)))
        assert test.difference.value == pytest.approx(test.second - test.first)
        assert test.p_permutation == pytest.approx(slow_mean_p(first, second))
