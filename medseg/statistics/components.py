"""Where the variance of a score comes from: the patients, the seed of the training, or neither.

Two-way random effects without replication: score of group g by seed s = mean + group + seed + rest. A generalised interval (Weerahandi
1993; Tsui and Weerahandi 1989): the sums of squares over drawn chi-squares, which assumes normal effects.

Legend: G groups, S seeds, B draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Component:
    """A standard deviation, in units of the score, with its interval."""

    deviation: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Components:
    """group: between patients.  seed: between trainings that differ in the seed alone.  rest: what a seed changes in single patients."""

    group: Component
    seed: Component
    rest: Component
    n_groups: int
    n_seeds: int


def variance_components(score_GS: np.ndarray, level: float = 0.95, seed: int = 0) -> Components | None:
    """Of the groups' scores by each seed, float64 (G, S); groups with an undefined score are left out. None of fewer than two of either.

    Estimates by analysis of variance; a negative one is 0 (Searle, Casella and McCulloch 1992, chapter 4).
    """
    score_GS = score_GS[np.isfinite(score_GS).all(axis=1)]
    n_groups, n_seeds = score_GS.shape
    if n_groups < 2 or n_seeds < 2:
        return None
    squares, freedom = _squares(score_GS), _freedom(n_groups, n_seeds)
    point = _split(squares / freedom, n_groups, n_seeds)
    drawn_3B = squares[:, None] / np.random.default_rng(seed).chisquare(freedom[:, None], (3, DRAWS))
    low, high = np.quantile(_split(drawn_3B, n_groups, n_seeds), [(1 - level) / 2, (1 + level) / 2], axis=1)
    group, of_seed, rest = (Component(*map(math.sqrt, ends)) for ends in zip(point, low, high, strict=True))
    return Components(group, of_seed, rest, n_groups, n_seeds)


def _squares(score_GS: np.ndarray) -> np.ndarray:
    """Sums of squares between groups, between seeds, and the rest."""
    mean = score_GS.mean()
    of_group, of_seed = score_GS.mean(axis=1) - mean, score_GS.mean(axis=0) - mean
    rest = score_GS - mean - of_group[:, None] - of_seed
    return np.array([score_GS.shape[1] * (of_group**2).sum(), score_GS.shape[0] * (of_seed**2).sum(), (rest**2).sum()])


def _freedom(groups: int, seeds: int) -> np.ndarray:
    return np.array([groups - 1, seeds - 1, (groups - 1) * (seeds - 1)], np.float64)


def _split(mean_squares: np.ndarray, groups: int, seeds: int) -> np.ndarray:
    """Mean squares (3, ...) -> variances of group, seed and rest."""
    group, seed, rest = mean_squares
    return np.maximum(np.stack([(group - rest) / seeds, (seed - rest) / groups, rest]), 0.0)
