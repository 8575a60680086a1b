"""Mask pairs -> integer counts. K x K confusion of one image; classes and regions are sums of its cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medseg.labels import LabelSet


class Counts(NamedTuple):
    """Pixels of one class or region: true positive, false positive, false negative, true negative."""

    tp: int
    fp: int
    fn: int
    tn: int


def confusion(reference_HW: np.ndarray, prediction_HW: np.ndarray, labels: LabelSet) -> np.ndarray:
    """int64 (K, K), rows = reference, columns = prediction, over the valid pixels. Both masks must have one shape."""
    assert reference_HW.shape == prediction_HW.shape, (reference_HW.shape, prediction_HW.shape)
    valid, k = labels.valid(reference_HW), labels.num_classes
    cells = reference_HW[valid].astype(np.int64) * k + prediction_HW[valid]
    return np.bincount(cells, minlength=k * k).reshape(k, k)


def counts_of(confusion_KK: np.ndarray, ids: tuple[int, ...]) -> Counts:
    """The counts of the union of the classes `ids`.

    >>> counts_of(np.array([[5, 1], [2, 3]]), (1,))
    Counts(tp=3, fp=1, fn=2, tn=5)
    """
    inside = np.zeros(len(confusion_KK), bool)
    inside[list(ids)] = True
    tp = confusion_KK[np.ix_(inside, inside)].sum()
    fp = confusion_KK[np.ix_(~inside, inside)].sum()
    fn = confusion_KK[np.ix_(inside, ~inside)].sum()
    return Counts(int(tp), int(fp), int(fn), int(confusion_KK.sum() - tp - fp - fn))


def scored_names(labels: LabelSet) -> dict[str, tuple[int, ...]]:
    """Everything that is scored: each class by id (background first), then each region with the ids it unites."""
    classes = {name: (class_id,) for class_id, name in labels.classes.items()}
    return classes | {region: labels.region_ids(region) for region in labels.regions}
