"""Class-balanced sampling of images, from the manifest's pixel counts alone.

repeat_factor      r(c) = max(1, sqrt(t / f(c))), r(i) = max of r(c) over the classes in image i   (Gupta, Dollar, Girshick: LVIS,
                   CVPR 2019, section 4.1); f(c) = share of the images that hold class c, t = threshold
inverse_frequency  w(i) = max of 1 / f(c) over the classes in image i
uniform            every image once

An epoch has a fixed number of draws, so that samplers are compared at equal optimiser steps. The draws follow the weights by systematic
resampling: an image of expected count m is drawn floor(m) or ceil(m) times, and by a uniform sampler exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.config import SamplingConfig
from medseg.labels import LabelSet
from medseg.seeding import numpy_generator
from medseg.types import Row


def presence(rows: Sequence[Row], labels: LabelSet) -> np.ndarray:
    """bool (N, K - 1): which image holds which foreground class."""
    return np.array([[row.px[name] > 0 for name in labels.foreground] for row in rows], dtype=bool).reshape(len(rows), -1)


def image_weights(config: SamplingConfig, present: np.ndarray) -> np.ndarray:
    """float64 (N,): relative frequency of each image, at least 1. `present` is bool (N, classes); a class in no image has no say."""
    share = present.mean(axis=0)
    factor = np.ones_like(share)
    seen = share > 0
    if config.name == "repeat_factor":
        factor[seen] = np.maximum(1.0, np.sqrt(config.threshold / share[seen]))
    elif config.name == "inverse_frequency":
        factor[seen] = 1.0 / share[seen]
    return np.where(present, factor, 1.0).max(axis=1, initial=1.0)


def epoch_draws(weights: np.ndarray, draws: int, seed: int, epoch: int) -> np.ndarray:
    """int64 (draws,): image positions of one epoch, shuffled; depends on (seed, epoch) alone.

    Raises nothing; `weights` must be positive. Systematic resampling in a random order of the images.
    """
    generator = numpy_generator(seed, epoch, "draws")
    order = generator.permutation(len(weights))
    edges = np.cumsum(weights[order]) * (draws / weights.sum())
    ticks = np.arange(draws) + generator.random()
    chosen = order[np.minimum(np.searchsorted(edges, ticks, side="right"), len(weights) - 1)]
    return generator.permutation(chosen)


def equals_uniform(weights: np.ndarray, present: np.ndarray) -> bool:
    """True where drawing by the weights shows each class in the same share of images as drawing uniformly (within half a per cent)."""
    drawn = weights @ present / weights.sum()
    return bool(np.allclose(drawn, present.mean(axis=0), atol=0.005))


def realised_shares(present: np.ndarray, drawn: np.ndarray, labels: LabelSet) -> dict[str, float]:
    """Share of the drawn images that hold each foreground class, as {class: share in [0, 1]}."""
    return dict(zip(labels.foreground, present[drawn].mean(axis=0).tolist(), strict=True))
