"""Probabilities and reference -> integer counts -> calibration errors and the Brier score. Means pool all valid pixels of all images.

K classes (background included), N pixels, B bins, M = K + 1 rows of counts: each class's probability against "is it this class", then the
top label's, the largest probability against "is it right".

Everything is a sum of integers: a probability is rounded to a multiple of 2**-24 (the step of float32 below 1: 3e-8 at most is lost), and
bins and squares are made of that integer. So the sums are the same bits in any order, on any device and from any number of processes.
int64 holds them up to 2**38 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

BINS = 15  # as Guo et al. 2017
STEPS = 24
UNIT = 2**STEPS  # a probability of 1
CHUNK_PX = 2**20  # bounds the memory beside the probabilities to some 50 MB
TOLERANCE = 1e-5  # an average of probabilities may be this far above 1


@dataclass(frozen=True, eq=False)
class CalibrationCounts:
    """Sums over pixels, int64 tensors of one device; they add up over images and processes.

    pixels_MB: how many.  confidence_MB: sum of their probabilities, in 2**-24.  correct_MB: how many are of the class, or right (last row).
    brier: scalar, sum of (p - y)**2 over pixels and classes, in 2**-24, rounded once a pixel.
    """

    pixels_MB: Tensor
    confidence_MB: Tensor
    correct_MB: Tensor
    brier: Tensor

    @classmethod
    def zeros(cls, num_classes: int, bins: int = BINS, device: torch.device | str = "cpu") -> CalibrationCounts:
        """The counts of no pixel."""
        table_MB = torch.zeros(num_classes + 1, bins, dtype=torch.int64, device=device)
        return cls(table_MB, table_MB.clone(), table_MB.clone(), torch.zeros((), dtype=torch.int64, device=device))

    def __add__(self, other: CalibrationCounts) -> CalibrationCounts:
        return CalibrationCounts(
            self.pixels_MB + other.pixels_MB,
            self.confidence_MB + other.confidence_MB,
            self.correct_MB + other.correct_MB,
            self.brier + other.brier,
        )


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram, B values each, and its error.

    pixels: how many fall in a bin.  confidence: their mean probability, accuracy: the share that is of the class (or right), both in [0, 1]
    and NaN in an empty bin.  ece: mean over pixels of |accuracy - confidence| of their bin, in [0, 1]; NaN without a pixel.
    """

    pixels: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    ece: float

    def to_dict(self) -> dict[str, list[Any]]:
        """The bins, for JSON."""
        return {"pixels": list(self.pixels), "confidence": list(self.confidence), "accuracy": list(self.accuracy)}


@dataclass(frozen=True)
class Calibration:
    """How far the probabilities of a set of pixels can be believed. 0 is perfect; NaN where there was no pixel.

    ece: of the top label, in [0, 1] (Naeini et al. 2015; Guo et al. 2017, eq. 3).  classwise_ece: of each class's own probability, in
    [0, 1], mean_classwise_ece: their mean, background included (Kull et al. 2019).  brier: mean over pixels of the squared error summed
    over the classes, in [0, 2] (Brier 1950).  top, by_class: the reliability diagrams behind them.
    """

    ece: float
    classwise_ece: dict[str, float]
    mean_classwise_ece: float
    brier: float
    n_pixels: int
    top: Reliability
    by_class: dict[str, Reliability]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; NaN stays NaN, which `files.write_json` makes null."""
        return {
            "ece": self.ece,
            "classwise_ece": dict(self.classwise_ece),
            "mean_classwise_ece": self.mean_classwise_ece,
            "brier": self.brier,
            "n_pixels": self.n_pixels,
            "reliability": {"top": self.top.to_dict(), "by_class": {name: each.to_dict() for name, each in self.by_class.items()}},
        }


# --- probabilities -> counts


def count_calibration(probs_KN: Tensor, reference_N: Tensor, bins: int = BINS) -> CalibrationCounts:
    """The counts of valid pixels (the caller leaves the ignored ones out), on the device of `probs_KN`.

    probs_KN: float32 in [0, 1].  reference_N: int64 in 0 .. K - 1.  Bins of equal width: p in (b / B, (b + 1) / B], p = 0 in the first; the
    edges are rounded to 2**-24 as p is, so that a p written as b / B lies on its edge. Of equal largest probabilities the lowest id is the
    top label. CPU-GPU sync point.
    """
    _check(probs_KN, reference_N, bins)
    total = CalibrationCounts.zeros(len(probs_KN), bins, probs_KN.device)
    for probs_KP, reference_P in zip(probs_KN.split(CHUNK_PX, dim=1), reference_N.split(CHUNK_PX), strict=True):
        total = total + _count_chunk(probs_KP, reference_P, bins)
    return total


def _check(probs_KN: Tensor, reference_N: Tensor, bins: int) -> None:
    assert probs_KN.dtype == torch.float32 and reference_N.dtype == torch.int64, (probs_KN.dtype, reference_N.dtype)
    assert probs_KN.ndim == 2 and probs_KN.shape[1:] == reference_N.shape and 0 < bins < UNIT, (probs_KN.shape, reference_N.shape, bins)
    if reference_N.numel():
        low, high = (float(value) for value in torch.aminmax(probs_KN))  # a NaN comes through and fails
        assert low >= 0 and high <= 1 + TOLERANCE, f"probabilities in [{low}, {high}]"
        first, last = (int(value) for value in torch.aminmax(reference_N))
        assert first >= 0 and last < len(probs_KN), f"reference ids in [{first}, {last}] for {len(probs_KN)} classes"


def _count_chunk(probs_KP: Tensor, reference_P: Tensor, bins: int) -> CalibrationCounts:
    """The counts of a few pixels, class by class."""
    rows, squared_P = [], torch.zeros_like(reference_P)
    for class_id, probs_P in enumerate(probs_KP):
        is_class_P, units_P = reference_P == class_id, _units(probs_P)
        rows.append(_count_row(units_P, is_class_P, bins))
        squared_P += (units_P - is_class_P * UNIT).square_()  # in 2**-48, at most 2**49 a pixel
    top_P, guess_P = probs_KP.max(dim=0)
    rows.append(_count_row(_units(top_P), guess_P == reference_P, bins))
    brier = ((squared_P + UNIT // 2) >> STEPS).sum()
    pixels_MB, confidence_MB, correct_MB = torch.stack(rows, dim=1)
    return CalibrationCounts(pixels_MB, confidence_MB, correct_MB, brier)


def _units(probs_P: Tensor) -> Tensor:
    """Probabilities as int64 multiples of 2**-24, halves rounded down: float32(b / B) may lie a half above the edge, and stays on it."""
    scaled_P = probs_P * UNIT  # exact in float32, as is what follows
    whole_P = scaled_P.floor()
    return whole_P.add_(scaled_P.sub_(whole_P) > 0.5).clamp_(max=UNIT).long()


def _count_row(units_P: Tensor, correct_P: Tensor, bins: int) -> Tensor:
    """int64 (3, B): pixels, sum of probabilities in 2**-24, correct pixels.

    Integers are added, in which the order of CUDA's atomic adds leaves no trace; bincount with float weights would show it.
    """
    bin_P = ((2 * units_P - 1) * bins >> (STEPS + 1)).clamp_(min=0)  # how many of the rounded edges b / B, b > 0, lie below p
    by_correct_2B = torch.bincount(bin_P + bins * correct_P, minlength=2 * bins).view(2, bins)
    confidence_B = torch.zeros(bins, dtype=torch.int64, device=units_P.device).index_add_(0, bin_P, units_P)
    return torch.stack([by_correct_2B.sum(0), confidence_B, by_correct_2B[1]])


# --- counts -> errors


def calibration_of(counts: CalibrationCounts, names: Sequence[str]) -> Calibration:
    """The errors of the counted pixels; `names` are the K classes' by id. Each error is one division of exact integers."""
    tables = (counts.pixels_MB, counts.confidence_MB, counts.correct_MB)
    rows = [_reliability(*row) for row in zip(*(table.cpu().numpy() for table in tables), strict=True)]
    assert len(rows) == len(names) + 1, (len(rows), names)
    by_class, top = dict(zip(names, rows[:-1], strict=True)), rows[-1]
    classwise = {name: each.ece for name, each in by_class.items()}
    n_pixels = sum(top.pixels)
    brier = _ratio(int(counts.brier), n_pixels * UNIT)
    return Calibration(top.ece, classwise, float(np.mean(list(classwise.values()))), brier, n_pixels, top, by_class)


def _reliability(pixels_B: np.ndarray, confidence_B: np.ndarray, correct_B: np.ndarray) -> Reliability:
    gaps = int(np.abs(correct_B * UNIT - confidence_B).sum())  # of a bin: its pixels times |accuracy - confidence|
    n_B = pixels_B.tolist()
    confidence = tuple(_ratio(total, n * UNIT) for total, n in zip(confidence_B.tolist(), n_B, strict=True))
    accuracy = tuple(_ratio(right, n) for right, n in zip(correct_B.tolist(), n_B, strict=True))
    return Reliability(tuple(n_B), confidence, accuracy, _ratio(gaps, sum(n_B) * UNIT))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
