"""Row -> Preprocessed: read, check against the manifest, turn, crop, normalise, resample (Isensee et al. 2021, in nnU-Net v2's order).

Legend: X Y Z the axes as stored, D H W those of the network's grid (medseg.grid), C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.config.volume import ChannelConfig, VolumeConfig
from medseg.data.decode import refuse_as_stored
from medseg.errors import ConfigError, ImageError, ManifestError, counted
from medseg.files import sha256_array, sha256_file
from medseg.grid import Turn, turn_of
from medseg.labels import LabelSet
from medseg.manifest.imagefiles import image_files, image_hash
from medseg.manifest.schema import Manifest
from medseg.normalise import inside_of, nonzero_box, unit_range, window, zscore
from medseg.resample import coarse_axis, grid_shape, resample_image, resample_labels
from medseg.types import Row
from medseg.volumes import Header, read_header, read_label_volume, read_volume, same_affine

MAX_GRID = 2**31  # voxels of a network's grid, channels counted: 8 GiB as float32, four times what a file may hold (volumes.MAX_VOXELS)
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # (first, one after the last) along D, H, W


@dataclass(frozen=True, slots=True)
class Stored:
    """A volume as its files have it. turn: from there to D, H, W.  affine: index -> mm in RAS.  channels: of all its files."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    turn: Turn
    channels: int

    def grid(self, target_mm: Sequence[float], box: Box | None = None) -> tuple[int, int, int]:
        """(D, H, W) of the network's grid; of the part in the box, where one is cut out."""
        return grid_shape(self.turn.shape if box is None else sides_of(box), self.turn.spacing_mm, target_mm)


@dataclass(frozen=True, slots=True, eq=False)
class Preprocessed:
    """A volume on the network's grid.

    image_CDHW: float32.  mask_DHW: uint8 class ids or the ignore id; None if unlabelled.  box: what was kept of the turned volume, before
    it was resampled.
    """

    image_CDHW: np.ndarray
    mask_DHW: np.ndarray | None
    box: Box


def stored(manifest: Manifest, row: Row, data_root: Path, config: VolumeConfig) -> Stored:
    """From the headers alone. ManifestError, ImageError or ConfigError where the row is not what manifest and config say."""
    path = manifest.image_path(row, data_root)
    if not path.is_file():
        raise ManifestError(manifest.where(row), f"there is no image {path}", "check --data-root")
    header = read_header(path)
    told = row.size.width_px, row.size.height_px, row.depth_px
    if header.shape != told:
        rule = f"{path} is {' x '.join(map(str, header.shape))} voxels, the manifest says {' x '.join(map(str, told))}"
        raise ManifestError(manifest.where(row), rule, "import the data set again as a new version")
    return volume_of(path, header, row.channels * header.channels, config)


def volume_of(path: Path, header: Header, channels: int, config: VolumeConfig) -> Stored:
    """What a header says, held against the config: ConfigError for another number of channels, ImageError for a sheared grid."""
    if channels != len(config.channels):
        rule = f"{counted(len(config.channels), 'channel')} {'is' if len(config.channels) == 1 else 'are'} told, and {path} has {channels}"
        raise ConfigError("data.volume.channels", rule, "name one a channel of the images, or let `medseg plan` write them")
    return Stored(header.shape, header.affine, turn_of(header.shape, header.affine, path, config.depth_axis), channels)


def read_image(manifest: Manifest, row: Row, data_root: Path) -> np.ndarray:
    """float32 (X, Y, Z, C), as stored; ManifestError where the files are not those that the manifest describes, ImageError where they do
    not lie on one grid."""
    path = manifest.image_path(row, data_root)
    files = image_files(path, row.channels)
    shared_header(files, manifest.where(row))
    arrays = [read_volume(file)[0] for file in files]
    derived = manifest.dataset.images_under == "manifest"
    found = sha256_array(arrays[0]) if derived else image_hash(path, row.channels)
    if found != row.image_sha256:
        raise ManifestError(manifest.where(row), f"{path} has changed since the import", "import it again as a new version")
    return stacked(arrays)


def shared_header(files: Sequence[Path], where: object) -> Header:
    """Of the files of one image, a channel each: the first's. ImageError, at `where`, for a file on another grid than the first."""
    first, *others = (read_header(file) for file in files)
    for file, header in zip(files[1:], others, strict=True):
        one_size = (header.shape, header.channels) == (first.shape, first.channels)
        if not (one_size and same_affine(header.affine, first.affine)):
            raise ImageError(where, f"{file} lies on another grid than {files[0]}", "export the channels on one grid")
    return first


def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """float32 (X, Y, Z, C) of the voxels of one image's files, (X, Y, Z[, C]) each."""
    return np.concatenate([array.astype(np.float32, copy=False).reshape(*array.shape[:3], -1) for array in arrays], axis=3)


def read_mask(manifest: Manifest, row: Row, data_root: Path) -> np.ndarray:
    """uint8 (X, Y, Z) class ids, as stored; ManifestError or LabelError where it is not the manifest's, or not of its classes."""
    refuse_as_stored(manifest, row)
    path = manifest.mask_path(row, data_root)
    header, mask = read_header(path), read_label_volume(path)
    image = read_header(manifest.image_path(row, data_root))
    if mask.shape != image.shape or not same_affine(header.affine, image.affine):
        rule = f"the label volume {path} lies on another grid than its image"
        raise ManifestError(manifest.where(row), rule, "resample the labels to the image's grid by the nearest neighbour")
    derived = manifest.dataset.masks_under == "manifest"
    if (sha256_array(mask) if derived else sha256_file(path)) != row.mask_sha256:
        raise ManifestError(manifest.where(row), f"{path} has changed since the import", "import it again as a new version")
    manifest.labels.check(mask, path)
    return mask


def preprocess(manifest: Manifest, row: Row, data_root: Path, config: VolumeConfig) -> Preprocessed:
    """One row on the network's grid. Raises ImageError, LabelError, ManifestError or ConfigError."""
    volume = stored(manifest, row, data_root, config)
    image_CDHW = volume.turn.forward(read_image(manifest, row, data_root))
    image_CDHW, box = prepared(image_CDHW, volume, config, manifest.where(row))
    mask_DHW = None
    if row.mask is not None:
        turned_DHW = volume.turn.forward(read_mask(manifest, row, data_root))[slices(box)]
        mask_DHW = place_mask(turned_DHW, volume, config, manifest.labels)
    return Preprocessed(image_CDHW, mask_DHW, box)


def prepared(image_CDHW: np.ndarray, volume: Stored, config: VolumeConfig, where: object) -> tuple[np.ndarray, Box]:
    """A turned image, cropped, normalised and resampled: float32 (C, D, H, W), and the box that was kept."""
    for channel in image_CDHW:
        if not np.isfinite(channel).all():
            raise ImageError(where, "the volume holds voxels that are no numbers (NaN or infinity)", "mend the file, or leave the row out")
    box = _box(nonzero_box(image_CDHW)) if config.crop == "nonzero" else _box(tuple(slice(0, side) for side in volume.turn.shape))
    depth, height, width = slices(box)
    cut_CDHW = image_CDHW[:, depth, height, width]
    told_apart = any(how.normalise == "zscore_inside" for how in config.channels)  # filling holes takes three times as long as the scaling
    inside_DHW = inside_of(cut_CDHW) if told_apart else None
    scaled = [normalised(channel, inside_DHW, how, where) for channel, how in zip(cut_CDHW, config.channels, strict=True)]
    shape = volume.grid(config.spacing_mm, box)
    coarse = coarse_axis(volume.turn.spacing_mm, config.spacing_mm)
    return resample_image(np.stack(scaled), shape, coarse), box


def place_mask(turned_DHW: np.ndarray, volume: Stored, config: VolumeConfig, labels: LabelSet) -> np.ndarray:
    """uint8 (D, H, W) on the network's grid; the ignore id is resampled as a class of its own.

    Linear along a coarse axis too, where nnU-Net takes the nearest plane: there and back through 3 mm planes that kept less of an organ.
    """
    depth, height, width = turned_DHW.shape
    shape = grid_shape((depth, height, width), volume.turn.spacing_mm, config.spacing_mm)
    return resample_labels(turned_DHW, shape, None, (*range(labels.num_classes), labels.ignore_id))


def normalised(image_DHW: np.ndarray, inside_DHW: np.ndarray | None, config: ChannelConfig, where: object) -> np.ndarray:
    """One channel, float32, as its config says. inside_DHW: what zscore_inside is of."""
    if config.normalise == "window":
        assert config.lower is not None and config.upper is not None and config.mean is not None and config.deviation is not None
        return window(image_DHW, config.lower, config.upper, config.mean, config.deviation)
    if config.normalise == "unit_range":
        return unit_range(image_DHW)
    assert config.normalise == "zscore" or inside_DHW is not None
    return zscore(image_DHW, inside_DHW if config.normalise == "zscore_inside" else None)


def sides_of(box: Box) -> tuple[int, int, int]:
    """(D, H, W) of a box."""
    depth, height, width = (stop - start for start, stop in box)
    return depth, height, width


def slices(box: Box) -> tuple[slice, slice, slice]:
    """To cut a box out of (D, H, W)."""
    depth, height, width = (slice(start, stop) for start, stop in box)
    return depth, height, width


def _box(parts: tuple[slice, ...]) -> Box:
    depth, height, width = ((part.start, part.stop) for part in parts)
    return depth, height, width


def most_voxels(volume: Stored, config: VolumeConfig) -> int:
    """Of the network's grid, if nothing is cropped: known before a voxel is read."""
    return math.prod(volume.grid(config.spacing_mm))


def check_grid(volume: Stored, config: VolumeConfig, where: object) -> None:
    """ImageError for a volume that would take over MAX_GRID on the network's grid: a header that says metres for millimetres."""
    if most_voxels(volume, config) * volume.channels <= MAX_GRID:
        return
    grid = " x ".join(f"{side:,}" for side in volume.grid(config.spacing_mm))
    spacing = " x ".join(f"{length:g}" for length in volume.turn.spacing_mm)
    rule = f"at the spacing that its header says, {spacing} mm, the network's grid would be {grid} voxels, over {MAX_GRID:,} in all"
    raise ImageError(where, rule, "correct the spacing, cut the volume into parts, or train with a coarser data.volume.spacing_mm")
