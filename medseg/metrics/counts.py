"""Mask pairs -> integer counts. K x K confusion of one image; classes and regions are sums of its cells.

Legend: K classes, N names scored (classes, then regions), H W (D) space.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medseg.labels import LabelSet

BLOCK = 2**16  # pixels counted at a time: numpy counts on a copy eight times as large, which should stay in the cache


class Counts(NamedTuple):
    """Pixels of one class or region: true positive, false positive, false negative, true negative."""

    tp: int
    fp: int
    fn: int
    tn: int


def confusion(reference_HW: np.ndarray, prediction_HW: np.ndarray, labels: LabelSet) -> np.ndarray:
    """int64 (K, K), rows = reference, columns = prediction, over the valid pixels. Masks of class ids of one shape, 2-D or 3-D.

    The prediction must hold class ids alone where the reference is valid.
    """
    assert reference_HW.shape == prediction_HW.shape, (reference_HW.shape, prediction_HW.shape)
    k = labels.num_classes
    # ignored pixels get a row behind the classes and strays a column: cheaper than picking the valid pixels out
    row_of, column_of = np.full(256, k * (k + 1), np.uint16), np.full(256, k, np.uint16)
    row_of[:k], column_of[:k] = np.arange(k) * (k + 1), np.arange(k)
    counts, reference, prediction = np.zeros((k + 1) ** 2, np.int64), reference_HW.ravel(), prediction_HW.ravel()
    for start in range(0, reference.size, BLOCK):
        cells = row_of[reference[start : start + BLOCK]] + column_of[prediction[start : start + BLOCK]]
        counts += np.bincount(cells, minlength=counts.size)
    table = counts.reshape(k + 1, k + 1)
    assert not table[:k, k].any(), "the prediction holds ids that are no class where the reference is valid"
    return table[:k, :k].copy()


def counts_of(confusion_KK: np.ndarray, ids: tuple[int, ...]) -> Counts:
    """The counts of the union of the classes `ids`.

    >>> counts_of(np.array([[5, 1], [2, 3]]), (1,))
    Counts(tp=3, fp=1, fn=2, tn=5)
    """
    inside = np.zeros(len(confusion_KK), np.int64)
    inside[list(ids)] = 1
    return Counts(*counts_table(confusion_KK, inside[None])[0].tolist())


def counts_table(confusion_KK: np.ndarray, members_NK: np.ndarray) -> np.ndarray:
    """int64 (N, 4): tp, fp, fn, tn of each union of classes. members_NK: int64, 1 where a class belongs to it."""
    predicted_NK = members_NK @ confusion_KK.T  # of each class's pixels, how many are predicted within the union
    tp = (predicted_NK * members_NK).sum(axis=1)
    fp = predicted_NK.sum(axis=1) - tp
    fn = members_NK @ confusion_KK.sum(axis=1) - tp
    return np.stack([tp, fp, fn, confusion_KK.sum() - tp - fp - fn], axis=1)


def scored_names(labels: LabelSet) -> dict[str, tuple[int, ...]]:
    """Everything that is scored: each class by id (background first), then each region with the ids it unites."""
    classes = {name: (class_id,) for class_id, name in labels.classes.items()}
    return classes | {region: labels.region_ids(region) for region in labels.regions}


def members(labels: LabelSet) -> np.ndarray:
    """int64 (N, K): which classes each of `scored_names` unites."""
    names = scored_names(labels)
    table = np.zeros((len(names), labels.num_classes), np.int64)
    for row, ids in enumerate(names.values()):
        table[row, list(ids)] = 1
    return table
