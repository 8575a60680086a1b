"""`medseg compare` on simulated runs: how often it sees a difference that is not there, and one that is.

python bench/check_power.py [--simulations 2000] [--record]

50 patients of 1 to 6 images; a run's score is left-skewed with failures at 0, correlated within a patient and between the two runs.
Null: the second run is as good. Effect: the patients' own differences have a mean of half their standard deviation (d = 0.5).
Significant is p < 0.05 of the permutation test, which swaps the runs within patients; `images` swaps them within images, as if no two
were of one patient. Exits 1 where false positives are over 6 % or power is under 0.80.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial

import numpy as np
from check_coverage import scores
from record import command_line, tell

from medseg.statistics.intervals import Ratios
from medseg.statistics.paired import differences, permutation_test, signed_rank_test

GROUPS, MOST_IMAGES, OWN, CORRELATION = 50, 6, 0.6, 0.5
EFFECT, LEVEL, FALSE_POSITIVES, POWER = 0.5, 0.05, 0.06, 0.80


def runs(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first, second, group) of each image. How a run fares with a patient is partly its own, so differences are correlated, too."""
    images = draw.integers(1, MOST_IMAGES + 1, GROUPS)
    of_group = np.repeat(np.arange(GROUPS), images)
    patient = draw.standard_normal(GROUPS)
    of_run = draw.standard_normal((2, GROUPS))
    of_image = draw.standard_normal((2, len(of_group)))
    shared = np.sqrt(CORRELATION) * (np.sqrt(1 - OWN) * patient + np.sqrt(OWN) * of_run)
    first, second = scores(shared[:, of_group] + np.sqrt(1 - CORRELATION) * of_image)
    return first, second, of_group


def by_group(score: np.ndarray, group: np.ndarray) -> Ratios:
    """Sums of a mean over images."""
    return Ratios(np.bincount(group, score)[:, None], np.bincount(group).astype(float)[:, None])


def simulate(seed: int, effect: float) -> dict[str, bool]:
    """Whether each test calls the runs different."""
    first, second, group = runs(np.random.default_rng((seed, round(effect * 10))))
    second = second + effect * spread_of_differences()  # a shift, so that nothing but the mean of the differences changes
    mine, theirs = by_group(first, group), by_group(second, group)
    each = np.arange(len(group))
    found = {"permutation": permutation_test(mine, theirs, seed), "wilcoxon": signed_rank_test(differences(mine, theirs))}
    found["images"] = permutation_test(by_group(first, each), by_group(second, each), seed)
    return {name: p < LEVEL for name, p in found.items()}


@cache
def spread_of_differences() -> float:
    """The standard deviation of patients' own differences under the null, of many patients."""
    apart = []
    for seed in range(400):
        first, second, group = runs(np.random.default_rng((seed, 99)))
        apart.append(differences(by_group(first, group), by_group(second, group)))
    return float(np.concatenate(apart).std())


def measure(simulations: int) -> dict[str, float]:
    """Share of the simulations that are called significant."""
    figures: dict[str, float] = {"simulations": simulations, "groups": GROUPS}
    with ProcessPoolExecutor() as pool:
        for what, effect in (("false positives", 0.0), ("power", EFFECT)):
            found = list(pool.map(partial(simulate, effect=effect), range(simulations), chunksize=50))
            figures |= {f"{what}: {name}": round(float(np.mean([one[name] for one in found])), 4) for name in found[0]}
    return figures


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    options = parser.parse_args()
    figures = measure(options.simulations)
    tell("Paired tests of 50 groups", f"python bench/check_power.py --simulations {options.simulations}", figures, options.record)
    sys.exit(figures["false positives: permutation"] > FALSE_POSITIVES or figures["power: permutation"] < POWER)
