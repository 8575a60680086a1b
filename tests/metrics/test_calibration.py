"""Calibration errors and the Brier score against hand cases, a slow oracle and other libraries."""

from __future__ import annotations

import json
import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from medseg.files import json_text
from medseg.metrics import calibration
from medseg.metrics.calibration import Calibration, CalibrationCounts, calibration_of, count_calibration

UNIT = 2**24


def measured(probs: list[list[float]] | Tensor, reference: list[int] | Tensor, bins: int = 15) -> Calibration:
    """`probs`: a row a class."""
    probs_KN = torch.as_tensor(probs, dtype=torch.float32)
    names = [f"class {number}" for number in range(len(probs_KN))]
    return calibration_of(count_calibration(probs_KN, torch.as_tensor(reference), bins), names)


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """Probabilities (K, N) of any sharpness, some of them 0, 1, equal or on an edge of a bin, and a reference that often agrees."""
    draw = np.random.default_rng(seed)
    k, n = int(draw.integers(2, 7)), int(draw.integers(1, 120))
    probs = draw.dirichlet(np.full(k, 10.0 ** draw.uniform(-1.5, 1.5)), n)
    plain = np.eye(k) if draw.random() < 0.5 else np.full((1, k), 1 / k)
    kind = draw.random(n)
    probs[kind < 0.1] = plain[draw.integers(len(plain), size=np.count_nonzero(kind < 0.1))]
    fifteenths = draw.multinomial(15, np.full(k, 1 / k), n) / 15
    probs[kind > 0.9] = fifteenths[kind > 0.9]
    guess = probs.argmax(1)
    reference = np.where(draw.random(n) < draw.random(), guess, draw.integers(0, k, n))
    return torch.as_tensor(probs.T.astype(np.float32)), torch.as_tensor(reference)


def rounded(p: float) -> float:
    """To 2**-24, halves down."""
    return math.ceil(p * UNIT - 0.5) / UNIT


def slow_ece(probability: list[float], right: list[bool], bins: int) -> float:
    """By visiting every pixel and every bin, on probabilities and edges to 2**-24; sums as fractions of Python's own floats."""
    error = 0.0
    for b in range(bins):
        low, high = (round(edge * UNIT / bins) / UNIT for edge in (b, b + 1))
        held = [i for i, p in enumerate(probability) if low < rounded(p) <= high or (b == 0 and rounded(p) == 0)]
        if held:
            accuracy, confidence = (math.fsum(values[i] for i in held) / len(held) for values in (right, probability))
            error += len(held) / len(right) * abs(accuracy - confidence)
    return error


def check_against_the_oracle(seed: int) -> None:
    probs_KN, reference_N = random_case(seed)
    bins = 15 if seed % 2 else 1 + seed % 20
    found = measured(probs_KN, reference_N, bins)
    reference, rows = reference_N.tolist(), probs_KN.tolist()
    classwise = [slow_ece(row, [truth == k for truth in reference], bins) for k, row in enumerate(rows)]
    assert list(found.classwise_ece.values()) == pytest.approx(classwise, abs=1e-6)
    assert found.mean_classwise_ece == pytest.approx(sum(classwise) / len(rows), abs=1e-6)
    guess = [max(range(len(rows)), key=lambda k: column[k]) for column in zip(*rows, strict=True)]  # the first of equal ones
    top = slow_ece([max(column) for column in zip(*rows, strict=True)], [a == b for a, b in zip(guess, reference, strict=True)], bins)
    assert found.ece == pytest.approx(top, abs=1e-6)
    brier = math.fsum((rows[k][i] - (truth == k)) ** 2 for k in range(len(rows)) for i, truth in enumerate(reference)) / len(reference)
    assert found.brier == pytest.approx(brier, abs=1e-6) and found.n_pixels == len(reference)


def check_against_libraries(seed: int) -> None:
    probs_KN, reference_N = random_case(seed)
    found, k = measured(probs_KN, reference_N), len(probs_KN)
    apart = _off_edges(probs_KN)  # there torchmetrics differs, as pinned below
    if apart.any():
        off = measured(probs_KN[:, apart], reference_N[apart])
        theirs = multiclass_calibration_error(probs_KN.T[apart], reference_N[apart], k, n_bins=15, norm="l1")
        assert off.ece == pytest.approx(float(theirs), abs=1e-6)
        for number, error in enumerate(off.classwise_ece.values()):
            theirs = binary_calibration_error(probs_KN[number, apart], (reference_N[apart] == number).long(), n_bins=15, norm="l1")
            assert error == pytest.approx(float(theirs), abs=1e-6)
    probs = probs_KN.T.double()
    theirs = brier_score_loss(reference_N.numpy(), (probs / probs.sum(1, keepdim=True)).numpy(), labels=range(k), scale_by_half=False)
    assert found.brier == pytest.approx(theirs, abs=1e-6)


def _off_edges(probs_KN: Tensor) -> Tensor:
    """Pixels without a probability within 2**-23 of an upper edge, 1 among them."""
    edges = torch.arange(1, 16, dtype=torch.float64) / 15
    return ((probs_KN.double()[..., None] - edges).abs() > 2**-23).all(-1).all(0)


@pytest.mark.parametrize("check", [check_against_the_oracle, check_against_libraries])
def test_random_cases(check):
    for seed in range(15):
        check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_against_the_oracle, check_against_libraries])
def test_many_random_cases(check):
    for seed in range(50, 2050):
        check(seed)


def test_hand_case():
    found = measured([[0.75, 0.75, 0.25, 0.25], [0.25, 0.25, 0.75, 0.75]], [0, 1, 1, 1], bins=2)
    assert found.ece == 0  # 0.75 sure, three of four right
    assert found.classwise_ece == {"class 0": 0.25, "class 1": 0.25}  # 0.75 sure, half are; 0.25 sure, none is
    assert found.brier == pytest.approx((3 * 2 * 0.25**2 + 2 * 0.75**2) / 4)
    assert found.top.pixels == (0, 4) and found.top.accuracy[1] == 0.75 and math.isnan(found.top.accuracy[0])
    assert found.by_class["class 0"].confidence == (0.25, 0.75) and found.by_class["class 0"].accuracy == (0, 0.5)


@pytest.mark.parametrize(
    ("probs", "reference", "ece", "brier"),
    [
        ([[1.0], [0.0]], [0], 0, 0),  # sure and right
        ([[1.0], [0.0]], [1], 1, 2),  # sure and wrong: the largest Brier score
        ([[0.5], [0.5]], [0], 0.5, 0.5),  # of equal probabilities the lower id is the guess
        ([[0.5], [0.5]], [1], 0.5, 0.5),
        ([[0.25], [0.25], [0.25], [0.25]], [3], 0.25, 0.75),
    ],
)
def test_one_pixel(probs, reference, ece, brier):
    found = measured(probs, reference)
    assert (found.ece, found.brier, found.n_pixels) == (ece, brier, 1)


def test_no_pixel_is_undefined():
    found = measured(torch.zeros(3, 0), torch.zeros(0, dtype=torch.int64))
    assert found.n_pixels == 0
    assert all(math.isnan(value) for value in (found.ece, found.brier, found.mean_classwise_ece, *found.classwise_ece.values()))


def test_an_absent_class_that_is_never_predicted_has_no_error():
    assert measured([[1.0, 0.5], [0.0, 0.5], [0.0, 0.0]], [0, 1]).classwise_ece["class 2"] == 0


@pytest.mark.parametrize("bins", [1, 2, 7, 15, 20, 1000])
def test_the_upper_edge_belongs_to_the_bin(bins):
    edges = torch.arange(bins + 1, dtype=torch.float64) / bins
    above = ((edges[:-1] * UNIT).round() + 1) / UNIT
    probs = torch.cat([edges, above]).float()
    counts = count_calibration(torch.stack([probs, 1 - probs]), torch.zeros(len(probs), dtype=torch.int64), bins)
    assert counts.pixels_MB[0].tolist() == [3] + [2] * (bins - 1)  # the first holds 0 too


@pytest.mark.parametrize(
    ("probs", "is_class", "bins", "ours", "theirs"),
    [
        ([0.4, 0.5], [1, 0], 2, abs(0.5 - 0.45), (0.6 + 0.5) / 2),  # an edge goes up: they take [b / B, (b + 1) / B)
        ([0.95, 1.0], [1, 0], 15, abs(0.5 - 0.975), (0.05 + 1.0) / 2),  # so a probability of 1 has a bin of its own, the 16th
    ],
)
def test_where_torchmetrics_differs(probs, is_class, bins, ours, theirs):
    probs_N, reference_N = torch.tensor(probs), torch.tensor(is_class)
    found = measured(torch.stack([1 - probs_N, probs_N]), reference_N, bins).classwise_ece["class 1"]
    assert found == pytest.approx(ours, abs=1e-6)
    assert float(binary_calibration_error(probs_N, reference_N, n_bins=bins)) == pytest.approx(theirs, abs=1e-6)


def test_sums_are_the_same_bits_however_the_pixels_come(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    probs_KN = torch.randn(5, 30_000, generator=draw).mul(4).softmax(0)
    reference_N = torch.randint(5, (30_000,), generator=draw)
    whole = count_calibration(probs_KN, reference_N)
    order = torch.randperm(30_000, generator=draw)
    parts = [count_calibration(probs_KN[:, some], reference_N[some]) for some in order.split([1, 999, 0, 20_000, 9_000])]
    monkeypatch.setattr(calibration, "CHUNK_PX", 777)
    chunked = count_calibration(probs_KN, reference_N)
    for other in (sum(parts, CalibrationCounts.zeros(5)), sum(parts[::-1], CalibrationCounts.zeros(5)), chunked):
        assert all(torch.equal(a, b) for a, b in zip(vars(whole).values(), vars(other).values(), strict=True))
    assert all(table.dtype == torch.int64 for table in vars(whole).values())
    assert (whole.pixels_MB.sum(1) == 30_000).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_bits():
    draw = torch.Generator().manual_seed(0)
    probs_KN = torch.randn(5, 300_000, generator=draw).mul(4).softmax(0)
    reference_N = torch.randint(5, (300_000,), generator=draw)
    ours, theirs = count_calibration(probs_KN, reference_N), count_calibration(probs_KN.cuda(), reference_N.cuda())
    assert all(b.is_cuda and torch.equal(a, b.cpu()) for a, b in zip(vars(ours).values(), vars(theirs).values(), strict=True))


def test_counts_survive_sizes_past_32_bits():
    counts = count_calibration(torch.tensor([[1.0], [0.0]]), torch.tensor([1]))
    many = CalibrationCounts(*(table * 2**36 for table in vars(counts).values()))
    found = calibration_of(many, ["background", "tongue"])
    assert (found.ece, found.brier, found.n_pixels) == (1, 2, 2**36)


def test_nearest_values_around_one():
    found = measured([[1.0 + 2**-23], [0.0]], [0])  # what an average of windows may give
    assert (found.ece, found.brier) == (0, 0)


@pytest.mark.parametrize(("bad", "message"), [(math.nan, "nan"), (-0.1, "-0.1"), (1.1, "1.1")])
def test_what_is_no_probability_is_refused(bad, message):
    with pytest.raises(AssertionError, match=message):
        measured([[bad], [0.0]], [0])


def test_an_ignore_id_is_refused():
    with pytest.raises(AssertionError, match=r"reference ids in \[0, 255\] for 2 classes"):
        measured([[0.5, 0.5], [0.5, 0.5]], [0, 255])


def test_to_dict_is_json_and_whole():
    found = measured([[0.9, 0.2], [0.1, 0.8]], [0, 0], bins=3)
    content = json.loads(json_text(found.to_dict()))
    assert content["ece"] == found.ece and content["n_pixels"] == 2 and content["brier"] == found.brier
    assert content["reliability"]["by_class"]["class 1"]["pixels"] == [1, 0, 1]
    assert content["reliability"]["top"]["accuracy"] == [None, None, 0.5]
    assert set(content) == {"ece", "classwise_ece", "mean_classwise_ece", "brier", "n_pixels", "reliability"}
    assert len(astuple(found.top)[0]) == 3
