"""Pooled scores of a study's arms on one test set, with intervals over its groups of images; no file is read here.

Legend: A arms, S seeds, N images, G groups, K classes, B resamples, Q quantities (QUANTITIES). A resample draws G of the G groups with
replacement, the same for all arms and seeds, so that a difference between two arms is paired; seeds are averaged within a resample.
The interval therefore tells how the answer may change with other test images, and not how it may change with other seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import DegenerateDataWarning, bootstrap

from medseg.metrics.counts import Counts
from medseg.metrics.scores import nan_mean, ratios

QUANTITIES = ("iou", "recall", "precision", "others_iou", "iou_difference")
RESAMPLES, LEVEL = 2000, 0.95


@dataclass(frozen=True, slots=True)
class Estimates:
    """value_AQ: mean over seeds on the test set as it is; low_AQ, high_AQ: its interval, NaN where a resample leaves it undefined.

    seeds_ASQ: each seed's own value. `iou_difference` is an arm's IoU less that of the first arm, seed by seed.
    """

    value_AQ: np.ndarray
    low_AQ: np.ndarray
    high_AQ: np.ndarray
    seeds_ASQ: np.ndarray


def by_group(confusion_ASNKK: np.ndarray, group_ids: Sequence[str]) -> np.ndarray:
    """int64 (A, S, G, K, K): the images' confusions summed within their groups."""
    codes, names = pd.factorize(np.asarray(group_ids, dtype=object))
    summed = np.zeros((len(names), *np.moveaxis(confusion_ASNKK, 2, 0).shape[1:]), np.int64)
    np.add.at(summed, codes, np.moveaxis(confusion_ASNKK, 2, 0))
    return np.moveaxis(summed, 0, 2)


def class_scores(confusion_KK: np.ndarray, class_id: int) -> tuple[float, float, float, float]:
    """IoU, recall and precision of one class, and the mean IoU of the other foreground classes; NaN where undefined."""
    tp, fp_tp, fn_tp = np.diagonal(confusion_KK).tolist(), confusion_KK.sum(axis=0).tolist(), confusion_KK.sum(axis=1).tolist()
    each = [ratios(Counts(tp[k], fp_tp[k] - tp[k], fn_tp[k] - tp[k], 0)) for k in range(len(tp))]  # no ratio asks for the tn
    wanted, others = each[class_id], [one["iou"] for k, one in enumerate(each) if k not in (0, class_id)]
    return wanted["iou"], wanted["recall"], wanted["precision"], nan_mean(others).mean


def resampled(groups_ASGKK: np.ndarray, index_BG: np.ndarray, class_id: int) -> np.ndarray:
    """float64 (A, S, Q, B): every quantity of each resample, given as the positions of the groups drawn."""
    draws, groups = index_BG.shape
    flat = index_BG + groups * np.arange(draws)[:, None]
    times_BG = np.bincount(flat.ravel(), minlength=draws * groups).reshape(draws, groups)
    pooled_ASBKK = np.einsum("bg,asgkl->asbkl", times_BG, groups_ASGKK, optimize=True)
    arms, seeds, _, classes, _ = pooled_ASBKK.shape
    rows = [class_scores(one, class_id) for one in pooled_ASBKK.reshape(-1, classes, classes)]
    scores_ASBQ = np.array(rows, np.float64).reshape(arms, seeds, draws, -1)
    difference = scores_ASBQ[..., :1] - scores_ASBQ[:1, ..., :1]
    return np.moveaxis(np.concatenate([scores_ASBQ, difference], axis=-1), 2, -1)


def estimate(confusion_ASNKK: np.ndarray, group_ids: Sequence[str], class_id: int) -> Estimates:
    """Each quantity with its percentile interval over resampled groups; of two groups or more, and always the same."""
    groups_ASGKK = by_group(confusion_ASNKK, group_ids)
    places = np.arange(groups_ASGKK.shape[2])

    def statistic(index: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1, axis
        index_BG = np.atleast_2d(index).astype(np.int64)
        means_AQB = resampled(groups_ASGKK, index_BG, class_id).mean(axis=1)
        return means_AQB if index.ndim == 2 else means_AQB[..., 0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # a NaN interval; the table says why, SciPy speaks of another method
        found = bootstrap(
            (places,), statistic, n_resamples=RESAMPLES, vectorized=True, axis=-1, confidence_level=LEVEL, method="percentile",
            rng=np.random.default_rng(0),
        )  # fmt: skip
    seeds_ASQ = resampled(groups_ASGKK, places[None], class_id)[..., 0]
    return Estimates(seeds_ASQ.mean(axis=1), found.confidence_interval.low, found.confidence_interval.high, seeds_ASQ)
