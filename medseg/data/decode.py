"""Row -> Sample: decode, check against the manifest, letterbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg import images
from medseg.data.objects import objects_as_bytes
from medseg.errors import ManifestError
from medseg.files import sha256_array, sha256_file
from medseg.letterbox import fit_letterbox, place_image, place_mask
from medseg.manifest.schema import Manifest
from medseg.types import Row, Sample, Size


def read_original_image(manifest: Manifest, row: Row, data_root: Path) -> np.ndarray:
    """The photograph as annotated, uint8 (H, W, 3); ManifestError where the file is not the one the manifest describes."""
    refuse_channel_files(manifest, row)
    path = manifest.image_path(row, data_root)
    image = images.read_image(path)
    derived = manifest.dataset.images_under == "manifest"
    _check(manifest, row, path, image.shape[:2], row.image_sha256, sha256_array(image) if derived else sha256_file(path))
    return image


def read_original_mask(manifest: Manifest, row: Row, data_root: Path) -> np.ndarray:
    """The class ids on the image's own grid, uint8 (H, W); raises ManifestError or LabelError."""
    refuse_as_stored(manifest, row)
    path = manifest.mask_path(row, data_root)
    mask = images.read_mask(path)
    assert row.mask_sha256 is not None
    derived = manifest.dataset.masks_under == "manifest"
    _check(manifest, row, path, mask.shape, row.mask_sha256, sha256_array(mask) if derived else sha256_file(path))
    manifest.labels.check(mask, path)
    return mask


def refuse_as_stored(manifest: Manifest, row: Row) -> None:
    """ManifestError where a mask was recorded as it was found and is no id mask."""
    if row.mask_as_stored:
        fix = f"run `medseg manifest check {manifest.folder} --fix OUT`, then use the new version"
        raise ManifestError(manifest.where(row), "its mask was imported --as-is and is not an id mask", fix)


def refuse_channel_files(manifest: Manifest, row: Row) -> None:
    """ManifestError where an image is several files, one a channel."""
    if row.channels > 1:
        rule = f"the image is {row.channels} files, one a channel; such images can be imported, checked and split, but training on them is"
        raise ManifestError(manifest.where(row), f"{rule} not yet possible", "train on a manifest whose images are one file each")


def _check(manifest: Manifest, row: Row, path: Path, shape: tuple[int, ...], stated: str, found: str) -> None:
    if shape != tuple(row.size):
        rule = f"{path} is {shape[1]} x {shape[0]} pixels, the manifest says {row.size.width_px} x {row.size.height_px}"
        raise ManifestError(manifest.where(row), rule, "import the data set again as a new version")
    if found != stated:
        raise ManifestError(manifest.where(row), f"{path} has changed since the import", "import it again as a new version")


def decode(manifest: Manifest, row: Row, data_root: Path, frame: Size, objects: bool = False) -> Sample:
    """Read, check and letterbox one row, with its annotated objects where asked. Raises ImageError, LabelError or ManifestError."""
    letterbox = fit_letterbox(row.size, frame)
    with images.one_at_a_time(row.size):
        image_CHW = place_image(read_original_image(manifest, row, data_root), letterbox)
    mask_HW = objects_HW = None
    if row.mask is not None:
        original_HW = read_original_mask(manifest, row, data_root)
        mask_HW = place_mask(original_HW, letterbox, manifest.labels.ignore_id)
        if objects:
            objects_HW = place_mask(objects_as_bytes(manifest, row, original_HW), letterbox, 0)
    return Sample(row.sample_id, row.group_id, image_CHW, mask_HW, letterbox, objects_HW)


def refuse_volumes(manifest: Manifest, rows: Sequence[Row]) -> None:
    """ManifestError where a row is a volume."""
    volume = next((row for row in rows if row.depth_px is not None), None)
    if volume is not None:
        rule = "the row is a volume, and the experiment does not say how volumes come onto the network's grid"
        raise ManifestError(manifest.where(volume), rule, "give data.volume; `medseg plan` writes it")
