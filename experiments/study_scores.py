"""Pooled scores of a study's arms on one test set, with intervals over its groups of images; no file is read here.

Legend: A arms, S seeds, N images, G groups, K classes, B resamples, Q quantities (QUANTITIES).

An answer may change with other test images and with other seeds, and the interval of the mean over the seeds holds both. The images' part
is a bootstrap: a resample draws G of the G groups with replacement, the same for all arms and seeds, so that a difference between two arms
is paired, and averages the seeds. The seeds' part is their variance over S. Student's t spans the sum, with the degrees of freedom of
Satterthwaite (Biometrics Bulletin 1946): of three seeds that differ, few. One seed says nothing about others: it has no interval.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import DegenerateDataWarning, bootstrap, t

from medseg.metrics.counts import Counts
from medseg.metrics.scores import nan_mean, ratios

QUANTITIES = ("iou", "recall", "precision", "others_iou", "iou_difference")
LOWEST_Q, HIGHEST_Q = np.array([0.0, 0.0, 0.0, 0.0, -1.0]), np.ones(5)
RESAMPLES, LEVEL = 2000, 0.95


@dataclass(frozen=True, slots=True)
class Estimates:
    """value_AQ: mean over seeds on the test set as it is; low_AQ, high_AQ: its interval, NaN of one seed, and where a resample leaves it
    undefined.

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
    """Each quantity with its interval over groups of images, two or more, and seeds; always the same."""
    groups_ASGKK = by_group(confusion_ASNKK, group_ids)
    groups, seeds = groups_ASGKK.shape[2], groups_ASGKK.shape[1]
    seeds_ASQ = resampled(groups_ASGKK, np.arange(groups)[None], class_id)[..., 0]
    value_AQ = seeds_ASQ.mean(axis=1)
    if seeds == 1:
        undefined_AQ = np.full_like(value_AQ, np.nan)
        return Estimates(value_AQ, undefined_AQ, undefined_AQ, seeds_ASQ)
    half_AQ = half_width(_images_variance(groups_ASGKK, class_id), groups - 1, seeds_ASQ.var(axis=1, ddof=1) / seeds, seeds - 1)
    return Estimates(value_AQ, np.maximum(value_AQ - half_AQ, LOWEST_Q), np.minimum(value_AQ + half_AQ, HIGHEST_Q), seeds_ASQ)


def _images_variance(groups_ASGKK: np.ndarray, class_id: int) -> np.ndarray:
    """float64 (A, Q): the variance of the mean over the seeds that other test images would bring; NaN where a resample is undefined."""

    def statistic(index: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1, axis
        index_BG = np.atleast_2d(index).astype(np.int64)
        means_AQB = resampled(groups_ASGKK, index_BG, class_id).mean(axis=1)
        return means_AQB if index.ndim == 2 else means_AQB[..., 0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # of the interval that SciPy makes too, which is not used
        found = bootstrap(
            (np.arange(groups_ASGKK.shape[2]),), statistic, n_resamples=RESAMPLES, vectorized=True, axis=-1, method="percentile",
            rng=np.random.default_rng(0),
        )  # fmt: skip
    return np.square(found.standard_error)


def half_width(images: np.ndarray, images_df: int, seeds: np.ndarray, seeds_df: int) -> np.ndarray:
    """Half the interval about a value whose error has two independent variances, each known with so many degrees of freedom.

    >>> half_width(np.array([1.0, 0.0, 1.0]), 10, np.array([0.0, 1.0, 1.0]), 2).round(3)  # t of 10, of 2, of 20/3 degrees
    array([2.228, 4.303, 3.378])
    """
    total = images + seeds
    doubt = np.square(images) / images_df + np.square(seeds) / seeds_df
    freedom = np.square(total) / np.where(doubt > 0, doubt, 1.0)
    return np.where(total == 0, 0.0, t.ppf((1 + LEVEL) / 2, np.where(total == 0, 1.0, freedom)) * np.sqrt(total))
