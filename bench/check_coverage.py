"""How often does a 95 % interval hold the true mean? Simulated studies, each method, 5 to 100 groups; the default was chosen by this.

python bench/check_coverage.py [--studies 2000] [--record]

A study: groups of 1 to 6 images; an image's score is 0 in one of twenty (a failure), else left-skewed, Beta(8, 1.5), mean 0.84; the scores
of a group's images correlate by 0.3. `mean` is the mean over images, `pooled` weighs them by lognormal areas. `images` is the percentile
interval that takes every image for a patient of its own. Exits 1 where the default leaves 92 to 97 % at 50 groups or more.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from record import command_line, tell
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import beta

from medseg.statistics.intervals import DEFAULT, METHODS, Ratios, estimates

GROUPS, MOST_IMAGES, CORRELATION, FAILURES, SHAPE = (5, 10, 20, 50, 100), 6, 0.3, 0.05, (8.0, 1.5)
LEVEL, REPLICATES, ALLOWED = 0.95, 2_000, (0.92, 0.97)


def scores(latent: np.ndarray) -> np.ndarray:
    """Standard normal -> scores: the lowest twentieth has failed."""
    share = ndtr(latent)
    return np.where(share < FAILURES, 0.0, beta.ppf((share - FAILURES) / (1 - FAILURES), *SHAPE))


def true_mean() -> float:
    """Of the scores: (1 - failures) x the mean of the beta distribution."""
    return (1 - FAILURES) * SHAPE[0] / sum(SHAPE)


def latent_correlation() -> float:
    """That of the normal variables below the scores by which the scores themselves correlate by CORRELATION."""
    draw = np.random.default_rng(0)
    shared, own, other = draw.standard_normal((3, 200_000))

    def off(rho: float) -> float:
        one, two = (scores(np.sqrt(rho) * shared + np.sqrt(1 - rho) * each) for each in (own, other))
        return float(np.corrcoef(one, two)[0, 1]) - CORRELATION

    return float(brentq(off, 0.1, 0.9, xtol=1e-4))


def study(seed: int, groups: int, rho: float) -> dict[str, tuple[float, float]]:
    """(whether it held the true mean, width) by estimate and method; NaN where there is no interval."""
    draw = np.random.default_rng((seed, groups))
    images = draw.integers(1, MOST_IMAGES + 1, groups)
    of_group = np.repeat(np.arange(groups), images)
    latent = np.sqrt(rho) * draw.standard_normal(groups)[of_group] + np.sqrt(1 - rho) * draw.standard_normal(len(of_group))
    score, area = scores(latent), draw.lognormal(0, 0.5, len(of_group))
    by_group = _ratios(score, area, of_group, groups)
    found = {}
    for method in METHODS:
        for name, one in zip(("mean", "pooled"), estimates(by_group, None, method, LEVEL, replicates=REPLICATES, seed=seed), strict=True):
            found[f"{name}_{method}"] = one
    alone = _ratios(score, area, np.arange(len(score)), len(score))
    found["mean_images"] = estimates(alone, None, "percentile", LEVEL, replicates=REPLICATES, seed=seed)[0]
    return {name: (np.nan if np.isnan(one.low) else one.low <= true_mean() <= one.high, one.high - one.low) for name, one in found.items()}


def _ratios(score: np.ndarray, area: np.ndarray, of_group: np.ndarray, groups: int) -> Ratios:
    over, under = np.zeros((groups, 2)), np.zeros((groups, 2))
    np.add.at(over, of_group, np.stack([score, area * score], axis=1))
    np.add.at(under, of_group, np.stack([np.ones_like(area), area], axis=1))
    return Ratios(over, under)


def measure(studies: int) -> dict[str, float]:
    """Coverage and mean width of every method, by the number of groups."""
    rho = latent_correlation()
    figures: dict[str, float] = {"studies": studies, "latent_correlation": round(rho, 3)}
    with ProcessPoolExecutor() as pool:
        for groups in GROUPS:
            found = list(pool.map(partial(study, groups=groups, rho=rho), range(studies), chunksize=50))
            for name in found[0]:
                held, widths = zip(*(one[name] for one in found), strict=True)
                figures[f"{groups}_groups: {name}"] = round(float(np.nanmean(held)), 4)
                figures[f"{groups}_groups: {name}_width"] = round(float(np.nanmean(widths)), 4)
                if none := int(np.isnan(held).sum()):
                    figures[f"{groups}_groups: {name}_no_interval"] = none
    return figures


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args()
    figures = measure(options.studies)
    tell("Coverage of 95 % intervals", f"python bench/check_coverage.py --studies {options.studies}", figures, options.record)
    default = [figures[f"{groups}_groups: {name}_{DEFAULT}"] for groups in GROUPS if groups >= 50 for name in ("mean", "pooled")]
    sys.exit(not all(ALLOWED[0] <= each <= ALLOWED[1] for each in default))
