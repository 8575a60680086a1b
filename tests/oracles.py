"""Slow truth: the same numbers by loops over pixels and by other people's code."""

from __future__ import annotations

import math

import numpy as np


def slow_scores(reference: np.ndarray, prediction: np.ndarray, ids: set[int], ignore_id: int) -> dict[str, float]:
    """The four scores of the union of `ids`, by visiting each pixel."""
    tp = fp = fn = 0
    for truth, guess in zip(reference.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if truth == ignore_id:
            continue
        tp += truth in ids and guess in ids
        fp += truth not in ids and guess in ids
        fn += truth in ids and guess not in ids
    if tp + fp + fn == 0:
        return dict.fromkeys(("iou", "recall", "precision", "dice"), math.nan)
    return {
        "iou": tp / (tp + fp + fn),
        "recall": tp / (tp + fn) if tp + fn else math.nan,
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "dice": 2 * tp / (2 * tp + fp + fn),
    }


def random_mask(generator: np.random.Generator, ids: list[int], size: tuple[int, int] = (12, 15)) -> np.ndarray:
    """Blocky random ids, so that classes are sometimes absent."""
    coarse = generator.choice(ids, size=(3, 3))
    return np.kron(coarse, np.ones((size[0] // 3, size[1] // 3))).astype(np.uint8)
