"""The split of variance against hand cases and drawn effects of known size."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.statistics.components import variance_components


def test_by_hand():
    found = variance_components(np.array([[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]]))
    assert found is not None and (found.n_groups, found.n_seeds) == (3, 2)
    assert found.rest.deviation == pytest.approx(0, abs=1e-12)
    assert found.group.deviation == pytest.approx(4.0)  # of 1, 5, 9
    assert found.seed.deviation == pytest.approx(2**0.5)  # of 4 and 6


def test_a_negative_estimate_is_none():
    found = variance_components(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    assert found is not None and found.group.deviation == found.seed.deviation == 0


def test_undefined_groups_are_left_out_and_too_few_have_none():
    scores = np.array([[0.5, 0.6], [np.nan, 0.5], [0.7, 0.7], [0.2, 0.4]])
    found = variance_components(scores)
    assert found is not None and found.n_groups == 3
    assert variance_components(scores[:2]) is None and variance_components(scores[:, :1]) is None


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_the_true_deviations(seeds):
    draw, held = np.random.default_rng(seeds), np.zeros(3)
    for number in range(100):
        scores = 0.8 + draw.normal(0, 0.1, (40, 1)) + draw.normal(0, 0.02, (1, seeds)) + draw.normal(0, 0.03, (40, seeds))
        found = variance_components(scores, seed=number)
        assert found is not None
        for place, (component, true) in enumerate(((found.group, 0.1), (found.seed, 0.02), (found.rest, 0.03))):
            assert component.low <= component.deviation <= component.high
            held[place] += component.low <= true <= component.high
    assert (held / 100 > 0.88).all() and (held / 100 <= 1).all()
