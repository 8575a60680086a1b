"""A tiny data set of volumes: a bright ball and a box, one left and one right, in files of different orientations."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.schema import Manifest
from medseg.manifest.split import make_split
from medseg.manifest.table import read_manifest

EXPERIMENT = """
name: tiny3d
data: {{manifest: {manifest}, split: main, cache: {cache}, volume: {{spacing_mm: [2, 1, 1]}}}}
model: {{channels: [8, 16], strides: [2], num_res_units: 0}}
sampling: {{name: uniform, patch_px: [8, 16, 16], draws_per_epoch: 24, centre_ratios: {{ball: 1, box: 1}}}}
augment: {{rotate_deg: 10, scale: 0.1, flip_probability: 0}}
optim: {{lr: 0.02}}
train: {{epochs: 8, batch_size: 4, preview_every: 8, precision: float32, compile: never}}
tracking: {{enabled: false}}
"""
CODES = ("RAS", "LPS", "PIR", "SAL")


def draw(place: int, shape=(18, 22, 14)) -> tuple[np.ndarray, np.ndarray]:
    """(image, mask) as (X, Y, Z) of RAS: class 1 on the left (x small), 2 on the right."""
    generator = np.random.default_rng(place)
    x, y, z = np.mgrid[: shape[0], : shape[1], : shape[2]]
    mask = np.zeros(shape, np.uint8)
    centre = generator.uniform(0.4, 0.6, 3) * shape
    mask[(x - shape[0] * 0.28) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < 14] = 1
    mask[(abs(x - shape[0] * 0.75) < 3) & (abs(y - centre[1]) < 4) & (abs(z - centre[2]) < 3)] = 2
    image = np.array([100.0, 300.0, 500.0])[mask] + generator.normal(0, 20, shape)
    return np.rint(image.clip(1)).astype(np.int16), mask


def stored(array: np.ndarray, spacing: tuple[float, float, float], code: str) -> nib.Nifti1Image:
    """A volume of RAS, its axes turned to the orientation `code`."""
    image = nib.Nifti1Image(array, np.diag([*spacing, 1.0]))
    target = nib.orientations.axcodes2ornt(code)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target))


def make_volumes(root: Path, count: int = 6, spacing=(1.0, 1.0, 2.0), out: Path | None = None) -> tuple[Manifest, Path]:
    """(manifest, data root): images and label volumes of different orientations and sizes."""
    data = root / "data"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    for place in range(count):
        image, mask = draw(place, (18 + place, 22, 14 + place % 3))
        for folder, array in (("images", image), ("labels", mask)):
            stored(array, spacing, CODES[place % len(CODES)]).to_filename(data / folder / f"case_{place}.nii.gz")
    out = out or root / "manifest"
    import_nifti(data / "images", data / "labels", out, classes=["ball", "box"])
    return read_manifest(out), data


def make_experiment(root: Path, count: int, ratios: tuple[float, float, float]) -> tuple[Path, Path]:
    """(data root, experiment file): `make_volumes`, split into train, val and test."""
    manifest, data = make_volumes(root, count)
    make_split(manifest, "main", ratios, seed=0)
    experiment = root / "tiny3d.yaml"
    experiment.write_text(EXPERIMENT.format(manifest=root / "manifest", cache=root / "cache"))
    return data, experiment
