"""A tiny real data set on disk: bright discs and squares on a dark ground, imported by medseg's own importer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg import images
from medseg.labels import LabelSet
from medseg.manifest.importers.masks import import_masks
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.split import make_split
from medseg.manifest.table import read_manifest

CLASSES = ("disc", "square")
EXPERIMENT = """
name: tiny
data: {{manifest: {manifest}, split: main, size_px: [32, 48], cache: {cache}}}
model: {{channels: [8, 16], strides: [2], num_res_units: 0}}
optim: {{lr: 0.01}}
train: {{epochs: 2, batch_size: 4, preview_every: 1, precision: float32}}
tracking: {{enabled: false}}
"""


def draw(place: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(photograph, mask): a disc in each, a square in every third."""
    generator = np.random.default_rng(place)
    height, width = size
    mask = np.zeros(size, np.uint8)
    y, x = np.mgrid[:height, :width]
    mask[(y - height * generator.uniform(0.4, 0.6)) ** 2 + (x - width * 0.35) ** 2 < (height * 0.22) ** 2] = 1
    if place % 3 == 0:
        mask[height // 4 : height // 2, -width // 4 :] = 2
    colours = np.array([[40, 40, 40], [220, 60, 60], [60, 220, 60]])
    return np.clip(colours[mask] + generator.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8), mask


def make_data(root: Path, count: int = 20, out: Path | None = None) -> Manifest:
    """Write images and masks below root/data and their manifest at `out` (root/manifest where not given); sizes vary."""
    out = out or root / "manifest"
    palette = LabelSet.of(*CLASSES).palette
    for place in range(count):
        photograph, mask = draw(place, (40 + 3 * (place % 4), 60 + 7 * (place % 3)))
        images.write_image(root / "data/images" / f"case_{place:02d}.png", photograph)
        images.write_mask(root / "data/masks" / f"case_{place:02d}.png", mask, palette)
    import_masks(root / "data/images", root / "data/masks", out, classes=list(CLASSES))
    return read_manifest(out)


def make_all(root: Path) -> tuple[Manifest, Split, Path, Path]:
    """(manifest, split, data root, experiment file)."""
    manifest = make_data(root)
    split = make_split(manifest, "main", (0.6, 0.2, 0.2), seed=0)
    experiment = root / "tiny.yaml"
    experiment.write_text(EXPERIMENT.format(manifest=root / "manifest", cache=root / "cache"))
    return manifest, split, root / "data", experiment
