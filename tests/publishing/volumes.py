"""Masks of volumes as somebody else's folders hold them, small, in files of two orientations: reference/, one/ and other/."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data.volume.made import draw, stored

SPACING_MM = (1.0, 1.0, 2.0)
SHAPE = (18, 22, 14)  # X, Y, Z
WORST = {"one": 9, "other": 3}  # the axial slice, from the feet on, in which a run is furthest from the reference
MANY = {"one": 12 * 10, "other": 6 * 6}  # voxels of it


def masks(place: int) -> dict[str, np.ndarray]:
    """By folder, uint8 (X, Y, Z) of RAS. Each run is right but for a block in one axial slice; the reference ignores a corner."""
    _, reference = draw(place, SHAPE)
    reference[:, :, list(WORST.values())] = 0
    reference[-1, -1, -1] = 255
    one, other = np.where(reference == 255, 1, reference), np.where(reference == 255, 0, reference)
    one[:12, :10, WORST["one"]] = 1
    other[:6, :6, WORST["other"]] = 2
    return {"reference": reference, "one": one.astype(np.uint8), "other": other.astype(np.uint8)}


def write_masks(root: Path, count: int = 3) -> Path:
    """The folders below `root`."""
    for place in range(count):
        for folder, mask in masks(place).items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            stored(mask, SPACING_MM, ("LPS", "PIR")[place % 2]).to_filename(root / folder / f"case_{place}.nii.gz")
    return root
