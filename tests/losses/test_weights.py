"""Class weights from pixel counts: hand cases and what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.config import LossConfig
from medseg.losses import class_weights
from medseg.types import Row, Size
from tests.losses.common import LABELS


def row(*px: int) -> Row:
    counts = dict(zip(LABELS.names, px, strict=True)) if px else {}
    return Row("a", "a", "a.png", "a.png" if px else None, Size(10, 10), "0", "0", counts)


ROWS = [row(80, 20, 0), row(90, 0, 10), row(100, 0, 0), row()]  # the last is unlabelled


def by(name: str, rows: list[Row] = ROWS) -> np.ndarray:
    weights = class_weights(LossConfig(class_weights=name), rows, LABELS)
    assert weights is not None and weights.dtype == np.float64
    return weights


def test_inverse_frequency_by_hand():
    # shares of all 300 pixels: 270, 20, 10
    assert by("inverse_frequency") == pytest.approx(3 * np.array([1 / 270, 1 / 20, 1 / 10]) / (1 / 270 + 1 / 20 + 1 / 10))


def test_median_frequency_by_hand():
    frequency = np.array([270 / 300, 20 / 100, 10 / 100])  # of the pixels of the images that hold the class
    expected = np.median(frequency) / frequency
    assert by("median_frequency") == pytest.approx(expected / expected.mean())


@pytest.mark.parametrize("name", ["median_frequency", "inverse_frequency"])
def test_a_class_in_no_image_gets_1_and_the_others_average_1(name):
    weights = by(name, [row(80, 20, 0), row(90, 10, 0)])
    assert weights[2] == 1 and weights[:2].mean() == pytest.approx(1) and weights[1] > 1 > weights[0] > 0


@pytest.mark.parametrize("name", ["median_frequency", "inverse_frequency"])
def test_equal_classes_get_1_and_so_do_all_where_nothing_is_labelled(name):
    assert by(name, [row(5, 5, 5), row(7, 7, 7)]) == pytest.approx([1, 1, 1])
    assert by(name, [row()]).tolist() == by(name, []).tolist() == [1, 1, 1]


def test_none_is_none():
    assert class_weights(LossConfig(), ROWS, LABELS) is None
