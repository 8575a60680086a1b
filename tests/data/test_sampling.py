from __future__ import annotations

import math

import numpy as np
import pytest

from medseg.config import SamplingConfig
from medseg.data.sampling import epoch_draws, equals_uniform, image_weights, presence, realised_shares
from medseg.labels import LabelSet
from medseg.types import Row, Size

# ten images: class a in all, class b in the first alone
PRESENT = np.array([[True, place == 0] for place in range(10)])


def test_repeat_factor_by_hand():
    weights = image_weights(SamplingConfig(threshold=0.4), PRESENT)
    assert weights.tolist() == [pytest.approx(math.sqrt(0.4 / 0.1)), *[1.0] * 9]


def test_inverse_frequency_by_hand():
    weights = image_weights(SamplingConfig(name="inverse_frequency"), PRESENT)
    assert weights.tolist() == [10.0, *[1.0] * 9]


def test_an_image_without_any_class_has_weight_one():
    present = np.array([[True], [False]])
    assert image_weights(SamplingConfig(name="inverse_frequency"), present).tolist() == [2.0, 1.0]


def test_a_class_in_no_image_has_no_say():
    present = np.array([[True, False], [True, False]])
    assert equals_uniform(image_weights(SamplingConfig(), present), present)


def test_weights_that_differ_without_changing_any_class_s_share_are_uniform():
    present = np.array([[True], [True], [False], [False]])
    assert equals_uniform(np.array([3.0, 1.0, 2.0, 2.0]), present) and not equals_uniform(np.array([3.0, 1.0, 1.0, 1.0]), present)


def test_uniform_draws_each_image_once():
    assert sorted(epoch_draws(np.ones(17), 17, seed=3, epoch=1).tolist()) == list(range(17))


def test_draws_are_within_one_of_the_weights():
    weights = np.array([5.0, 1.0, 2.5, 1.0, 0.5])
    for epoch in range(50):
        times = np.bincount(epoch_draws(weights, 40, seed=0, epoch=epoch), minlength=5)
        assert (abs(times - weights * 4) < 1).all()


def test_draws_follow_the_weights_in_the_long_run():
    weights = np.array([3.0, 1.0, 1.0])
    times = sum(np.bincount(epoch_draws(weights, 3, seed=0, epoch=epoch), minlength=3) for epoch in range(2000))
    assert times / 6000 == pytest.approx(weights / 5, abs=0.02)


def test_draws_depend_on_seed_and_epoch_alone_and_leave_the_global_state():
    state = np.random.get_state()[1].copy()
    first = epoch_draws(np.ones(50), 50, seed=1, epoch=2)
    assert (first == epoch_draws(np.ones(50), 50, seed=1, epoch=2)).all()
    assert (first != epoch_draws(np.ones(50), 50, seed=1, epoch=3)).any()
    assert (first != epoch_draws(np.ones(50), 50, seed=2, epoch=2)).any()
    assert (np.random.get_state()[1] == state).all()


def test_presence_and_realised_shares():
    labels = LabelSet.of("a", "b")
    rows = [Row(str(i), str(i), "x", "y", Size(2, 2), "h", "h", {"background": 1, "a": 3, "b": int(i == 0)}) for i in range(4)]
    present = presence(rows, labels)
    assert realised_shares(present, np.array([0, 0, 1, 2]), labels) == {"a": 1.0, "b": 0.5}
