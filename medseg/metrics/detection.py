"""Instances of one class: which were found, and how well.

Objects come as masks of ids (0 = none, each other id an object), so no two share a pixel; memory goes with the largest id, so ids should be
dense. Where pixels are ignored, the caller sets them to 0 in both masks. A score with nothing to divide by is NaN, as in `scores.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from scipy import sparse
from skimage.measure import label


def components(mask: np.ndarray) -> np.ndarray:
    """int32 ids 1, 2, ... of the connected parts of a bool mask (H, W) or (D, H, W); parts that touch at a corner are one (8 or 26
    neighbours). Numbered in the order of their first pixel.

    >>> components(np.array([[1, 0, 0, 1], [0, 1, 0, 0]], bool)).tolist()
    [[1, 0, 0, 2], [0, 1, 0, 0]]
    """
    assert mask.dtype == bool and mask.ndim in (2, 3), (mask.dtype, mask.shape)
    return np.asarray(label(mask, connectivity=mask.ndim), np.int32)


# --- matching


@dataclass(frozen=True)
class Objects:
    """The objects of one class in one image, as two masks of ids of one shape."""

    reference: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Objects of one class in one image: found, invented, missed, and the IoUs of the found ones, largest first, each in (0, 1]."""

    tp: int
    fp: int
    fn: int
    ious: tuple[float, ...]


def match(reference: np.ndarray, prediction: np.ndarray, iou: float = 0.5) -> Matches:
    """Pair the objects of two masks of ids (int, one shape) one to one, where their IoU is at least `iou`, in (0, 1].

    Pairs above 0.5 are unique (Kirillov et al. 2019, theorem 1). At 0.5 and below an object may have several partners: pairs are taken by
    IoU, largest first, then by the lower reference id, then by the lower predicted id, which need not give the most pairs.

    >>> match(np.array([1, 1, 1, 0, 2]), np.array([1, 1, 0, 3, 0]))
    Matches(tp=1, fp=1, fn=1, ious=(0.6666666666666666,))
    """
    assert reference.shape == prediction.shape and 0 < iou <= 1, (reference.shape, prediction.shape, iou)
    area_R, area_P = np.bincount(reference.ravel()), np.bincount(prediction.ravel())
    both_R, both_P, iou_of_pair = _overlaps(reference, prediction, area_R, area_P)
    order = np.lexsort((both_P, both_R, -iou_of_pair))
    free_R, free_P = area_R > 0, area_P > 0
    ious = []
    for pair in order[iou_of_pair[order] >= iou]:
        if free_R[both_R[pair]] and free_P[both_P[pair]]:
            free_R[both_R[pair]] = free_P[both_P[pair]] = False
            ious.append(float(iou_of_pair[pair]))
    n_reference, n_predicted = int(np.count_nonzero(area_R[1:])), int(np.count_nonzero(area_P[1:]))
    return Matches(len(ious), n_predicted - len(ious), n_reference - len(ious), tuple(ious))


def _overlaps(
    reference: np.ndarray, prediction: np.ndarray, area_R: np.ndarray, area_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference id, predicted id and IoU of every pair that shares a pixel.

    The pixels are counted into a sparse table: a full one is gigabytes where a poor prediction falls into tens of thousands of parts.
    """
    both = (reference > 0) & (prediction > 0)
    pixels = sparse.coo_matrix((np.ones(np.count_nonzero(both), np.int64), (reference[both], prediction[both])), (len(area_R), len(area_P)))
    shared = pixels.tocsr().tocoo()  # tocsr adds up the entries of a pair
    ids_R, ids_P = shared.row, shared.col
    return ids_R, ids_P, shared.data / (area_R[ids_R] + area_P[ids_P] - shared.data)


# --- detection scores


@dataclass(frozen=True)
class Detection:
    """Scores of one class, counts pooled over all cases; each in [0, 1] or NaN.

    recall: found of the reference objects, NaN where there is none.  precision: found of the predicted, 0 where all are missed.
    f1 = tp / (tp + fp / 2 + fn / 2), Kirillov's recognition quality.  segmentation_quality: mean IoU of the found, NaN where none is.
    panoptic_quality: sum of those IoUs / (tp + fp / 2 + fn / 2) (Kirillov et al. 2019, eq. 1), 0 where none is found.
    All are NaN where no image holds or predicts an object.
    """

    recall: float
    precision: float
    f1: float
    segmentation_quality: float
    panoptic_quality: float
    n_reference: int
    n_predicted: int
    n_matched: int


@dataclass
class DetectionTally:
    """Matches of many cases by class, in constant memory; the scores do not depend on the order of the cases."""

    _pooled: dict[str, _Pooled] = field(default_factory=dict)

    def add(self, name: str, matches: Matches) -> None:
        """Count one case of the class `name`; a case without an object counts nothing, but names the class."""
        self._pooled.setdefault(name, _Pooled()).add(matches)

    def result(self) -> dict[str, Detection]:
        """The scores of every class that was added."""
        return {name: _detection(pooled) for name, pooled in self._pooled.items()}


@dataclass
class _Pooled:
    """Sums of matches; that of the IoUs is exact, so that the order does not change it."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    quality: Fraction = Fraction()

    def add(self, matches: Matches) -> None:
        self.tp, self.fp, self.fn = self.tp + matches.tp, self.fp + matches.fp, self.fn + matches.fn
        self.quality += sum(map(Fraction, matches.ious), Fraction())


def detection_of(matches: Matches) -> Detection:
    """The scores of pooled matches.

    >>> detection_of(Matches(tp=1, fp=1, fn=0, ious=(0.75,))).panoptic_quality
    0.5
    """
    pooled = _Pooled()
    pooled.add(matches)
    return _detection(pooled)


def _detection(pooled: _Pooled) -> Detection:
    tp, fp, fn, quality = pooled.tp, pooled.fp, pooled.fn, float(pooled.quality)
    weight = tp + fp / 2 + fn / 2
    return Detection(
        recall=tp / (tp + fn) if tp + fn else math.nan,
        precision=(tp / (tp + fp) if tp + fp else 0.0) if weight else math.nan,
        f1=tp / weight if weight else math.nan,
        segmentation_quality=quality / tp if tp else math.nan,
        panoptic_quality=quality / weight if weight else math.nan,
        n_reference=tp + fn,
        n_predicted=tp + fp,
        n_matched=tp,
    )
