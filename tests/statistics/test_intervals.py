"""Intervals against hand cases, scipy's bootstrap, a slow bootstrap of patients, and the coverage they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medseg.statistics.intervals import FEWEST_GROUPS, METHODS, Ratios, Replicates, estimates, wilson


def studied(seed: int, groups: int = 30) -> Ratios:
    """Means over 1 to 4 images a group, and a pooled score."""
    draw = np.random.default_rng(seed)
    under = np.stack([draw.integers(1, 5, groups).astype(float), draw.lognormal(3, 0.5, groups)], axis=1)
    return Ratios(under * draw.beta(8, 2, (groups, 2)), under)


def test_values_are_ratios_of_sums():
    ratios = Ratios(np.array([[1.0, 0.0], [1.5, 0.0]]), np.array([[1.0, 0.0], [4.0, 0.0]]))
    assert ratios.values()[0] == 0.5 and math.isnan(ratios.values()[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("special", [0, 1])
def test_no_interval_where_all_groups_but_one_are_alike(method, special):
    """What is seen says nothing of how other patients would fare: an interval without width, or one of a single failure, would lie."""
    under = np.arange(1.0, 21.0)[:, None]
    over = 0.75 * under
    over[:special] = 0
    (found,) = estimates(Ratios(over, under), method=method)
    assert found.value > 0.7 and math.isnan(found.low) and math.isnan(found.high) and found.method is None and found.n_groups == 20


def test_three_failures_among_equals_have_no_studentised_interval():
    """It would end at the value itself; BCa is as wide to either side as it should be."""
    over = np.array([1.0] * 47 + [0.0] * 3)[:, None]
    studentised, bca = (estimates(Ratios(over, np.ones_like(over)), method=method)[0] for method in ("bootstrap_t", "bca"))
    assert studentised == bca and bca.method == "bca" and bca.low < 0.88 and bca.high > 0.97
    (many,) = estimates(Ratios(over[20:], np.ones_like(over[20:])), method="percentile")
    assert many.method == "percentile"


@pytest.mark.parametrize("method", METHODS)
def test_no_interval_of_few_groups_or_of_nothing(method):
    under = np.ones((20, 2))
    under[FEWEST_GROUPS - 1 :, 0] = 0
    under[:, 1] = 0
    few, none = estimates(Ratios(np.linspace(0, 1, 20)[:, None] * under, under), method=method)
    assert not math.isnan(few.value) and math.isnan(few.low) and math.isnan(few.high) and few.n_groups == FEWEST_GROUPS - 1
    assert math.isnan(none.value) and math.isnan(none.low) and none.n_groups == 0


def _ratio(over, under, axis=-1):
    return over.sum(axis=axis) / under.sum(axis=axis)


@pytest.mark.parametrize(("method", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
def test_against_scipy(method, theirs):
    ratios = studied(0, groups=40)
    for c, ours in enumerate(estimates(ratios, method=method, replicates=20_000)):
        data = ratios.over_GC[:, c], ratios.under_GC[:, c]
        found = stats.bootstrap(data, _ratio, paired=True, vectorized=True, n_resamples=20_000, method=theirs, rng=1).confidence_interval
        assert (ours.low, ours.high) == pytest.approx((found.low, found.high), abs=0.07 * (found.high - found.low))


def slow_bootstrap_t(over: np.ndarray, under: np.ndarray, seed: int) -> tuple[float, float]:
    """Patient by patient, the standard error written out."""

    def value_and_error(chosen: np.ndarray) -> tuple[float, float]:
        n, d = over[chosen], under[chosen]
        value, groups = n.sum() / d.sum(), len(chosen)
        return value, math.sqrt(groups / (groups - 1) * sum((n - value * d) ** 2)) / d.sum()

    value, error = value_and_error(np.arange(len(over)))
    draw, t = np.random.default_rng(seed), []
    for _ in range(8_000):
        one, its_error = value_and_error(draw.integers(0, len(over), len(over)))
        t.append((one - value) / its_error)
    return value - np.quantile(t, 0.975) * error, value - np.quantile(t, 0.025) * error


def test_bootstrap_t_against_a_slow_one():
    ratios = studied(1)
    ours = estimates(ratios, method="bootstrap_t", replicates=20_000)
    for c in range(2):
        theirs = slow_bootstrap_t(ratios.over_GC[:, c], ratios.under_GC[:, c], seed=2)
        assert (ours[c].low, ours[c].high) == pytest.approx(theirs, abs=0.07 * (theirs[1] - theirs[0]))


def test_one_group_that_decides_a_pooled_score():
    """A photograph of a third of all pixels, and a poor one: Studentised by replicates that lack it, the interval would reach to 0."""
    draw = np.random.default_rng(0)
    under = np.append(draw.uniform(80, 120, 30), 1600.0)[:, None]
    over = under * np.append(draw.uniform(0.45, 0.55, 30), 0.1)[:, None]
    studentised, bca = (estimates(Ratios(over, under), method=method)[0] for method in ("bootstrap_t", "bca"))
    assert studentised == bca and 0.15 < bca.low < bca.value < bca.high < 0.6


def test_a_mean_over_classes_and_a_difference_are_drawn_together():
    ratios = studied(3)
    same = ratios.with_sums_of(ratios)
    zero, mean = estimates(same, np.array([[1, 0, -1, 0], [0.5, 0.5, 0, 0]]), bounds=(-1, 1))
    assert zero.value == 0 and math.isnan(zero.low)
    assert mean.value == pytest.approx(ratios.values().mean()) and mean.low < mean.value < mean.high


def test_the_interval_stays_in_its_bounds_and_holds_its_value():
    over = np.array([1.0] * 14 + [0.9] * 4 + [0.4, 0.0])[:, None]
    for method in METHODS:
        (found,) = estimates(Ratios(over, np.ones_like(over)), method=method)
        assert 0 <= found.low <= found.value == pytest.approx(0.9) and found.value <= found.high <= 1 and found.method in (method, "bca")


def test_the_same_seed_draws_the_same_groups_whatever_else_is_asked():
    ratios = studied(4)
    both, alone = estimates(ratios, seed=3), estimates(Ratios(ratios.over_GC[:, :1], ratios.under_GC[:, :1]), seed=3)
    assert both[0] == alone[0] and estimates(ratios, seed=4)[0] != both[0]


def test_patients_are_drawn_not_images():
    """Ten copies of every image in its group change nothing; as patients of their own they make the interval far narrower."""
    ratios = studied(5)
    copied, alone = (
        Ratios(10 * ratios.over_GC, 10 * ratios.under_GC),
        Ratios(*(np.repeat(x, 10, axis=0) for x in (ratios.over_GC, ratios.under_GC))),
    )
    ours, tenfold, wrong = (estimates(each)[0] for each in (ratios, copied, alone))
    assert (tenfold.low, tenfold.high) == pytest.approx((ours.low, ours.high))
    assert wrong.half_width < 0.5 * ours.half_width


def test_a_large_set_is_drawn_in_blocks(monkeypatch):
    ratios = studied(6)
    whole = Replicates(ratios, 100, 0).of(np.array([0]), np.ones(1), studentised=True)
    monkeypatch.setattr("medseg.statistics.intervals._BLOCK", 30 * 7)
    monkeypatch.setattr("medseg.statistics.intervals._KEPT", 0)
    in_blocks = Replicates(ratios, 100, 0).of(np.array([0]), np.ones(1), studentised=True)
    assert in_blocks == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("successes", "n", "expected"), [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (1, 20, (0.0089, 0.2361))])
def test_wilson_by_hand(successes, n, expected):
    """Newcombe 1998, Statistics in Medicine 17:857, method 3."""
    assert wilson(successes, n) == pytest.approx(expected, abs=1e-4)
    share, z = successes / n, 1.959964
    middle, half = (share + z**2 / (2 * n)) / (1 + z**2 / n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert wilson(successes, n) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_wilson_of_nothing():
    assert all(map(math.isnan, wilson(0, 0)))
