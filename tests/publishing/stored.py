"""Draws the stored predictions below tests/publishing/stored: python -m tests.publishing.stored. The tables made of them are committed.

14 patients of 2 images; liver in all, a lesion in every third patient, which the first run misses or invents here and there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.images import write_mask
from medseg.labels import LabelSet

STORED = Path(__file__).parent / "stored"
RUNS = ("reference", "baseline", "larger")


def disc(centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:32, :40]
    inside: np.ndarray = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    return inside


def draw(number: int) -> dict[str, np.ndarray]:
    """Masks by run, uint8 (32, 40)."""
    generator = np.random.default_rng(number)
    patient = np.random.default_rng(number // 2 + 1000)
    centre, off = (16 + patient.normal(), 18 + patient.normal()), patient.normal(0, 1.2)
    masks = {}
    for run, worse in zip(RUNS, (0.0, 1.0, 0.4), strict=True):
        mask = np.zeros((32, 40), np.uint8)
        mask[disc((centre[0] + worse * off, centre[1] + worse * generator.normal()), 11 + worse * generator.normal(0, 0.8))] = 1
        has_lesion = number // 2 % 3 == 0
        found = generator.random() > 0.3 * worse if has_lesion else generator.random() < 0.1 * worse
        if (run == "reference" and has_lesion) or (run != "reference" and found):
            mask[disc((centre[0] - 3 + worse * generator.normal(), centre[1]), 3.2)] = 2
        masks[run] = mask
    return masks


if __name__ == "__main__":
    for number in range(28):
        for run, mask in draw(number).items():
            name = f"patient{number // 2:02d}_{number % 2}.png"
            (STORED / run).mkdir(parents=True, exist_ok=True)
            write_mask(STORED / run / name, mask, LabelSet.of("liver", "lesion").palette)
