"""Tiny made volumes with a manifest and a split, for the tests of planning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.split import make_split
from medseg.manifest.table import read_manifest
from medseg.volumes import write_labels, write_volume


def make_volumes(
    root: Path,
    shape: tuple[int, int, int] = (20, 24, 16),
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    count: int = 6,
    air: float = 0.0,
    holes: int = 0,
) -> tuple[Manifest, Split]:
    """root/data with a ball (1) of intensity 100 and two cubes (2) of 200 on `air`, whose outer two planes of x are bare; the first
    `holes` voxels are NaN."""
    affine = np.diag([*spacing_mm, 1.0])
    grid = np.indices(shape)
    for place in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[sum((axis - side / 2) ** 2 for axis, side in zip(grid, shape, strict=True)) < 16] = 1
        mask[3:5, 3:5, 3:5] = mask[-5:-3, 3:5, 3:5] = 2
        noise = np.random.default_rng(place).normal(0, 1, shape)
        image = (np.array([air + 10, 100, 200], np.float32)[mask] + noise).astype(np.float32)
        image[:2] = image[-2:] = air
        image.flat[:holes] = np.nan
        write_volume(root / f"data/images/case_{place}.nii.gz", image, affine)
        write_labels(root / f"data/masks/case_{place}.nii.gz", mask, affine)
    import_nifti(root / "data/images", root / "data/masks", root / "manifest", classes=["ball", "cube"], dataset_name="made")
    manifest = read_manifest(root / "manifest")
    return manifest, make_split(manifest, "main", (0.5, 0.2, 0.3), seed=0)
