"""Weights of the classes in a pixel term, from the manifest's pixel counts: no pass over the images is needed.

inverse_frequency  1 / share of all pixels that are of the class
median_frequency   1 / freq(c), freq(c) = pixels of c / pixels of the images that hold c   (Eigen and Fergus, ICCV 2015, section 6.3.2)

A rare class in few images is thus heavy by the first and, where it fills those images, light by the second. The weights are scaled to a
mean of 1 over the classes present. The median of the frequencies, over which Eigen and Fergus divide, is a common factor and falls out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.config import LossConfig
from medseg.labels import LabelSet
from medseg.types import Row


def class_weights(config: LossConfig, rows: Sequence[Row], labels: LabelSet) -> np.ndarray | None:
    """float64 (K,), positive, background first; None where the loss weighs no classes. `rows` are the training images.

    A class in none of them gets 1, the mean: no training pixel asks for its weight, and a validation loss that meets one divides by
    the weights, so 0 would make it vanish. Unlabelled rows are passed over. Pixels count as they are in the files, ignored ones not.
    """
    if config.class_weights == "none":
        return None
    counts = np.array([[row.px[name] for name in labels.names] for row in rows if row.px], np.float64).reshape(-1, labels.num_classes)
    pixels_K = counts.sum(axis=0)
    if config.class_weights == "median_frequency":
        total_K = (counts.sum(axis=1, keepdims=True) * (counts > 0)).sum(axis=0)
    else:
        total_K = np.full_like(pixels_K, counts.sum())
    weights, present = np.ones_like(pixels_K), pixels_K > 0
    weights[present] = total_K[present] / pixels_K[present]
    weights[present] /= weights[present].mean() if present.any() else 1.0
    return weights
