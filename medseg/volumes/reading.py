"""Volumes and label volumes from files of any of the formats; the file's name chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from medseg.errors import ImageError
from medseg.volumes.header import Header
from medseg.volumes.metaimage import metaimage_layout
from medseg.volumes.names import DETACHED_SUFFIXES
from medseg.volumes.nifti import nifti_forms_disagree, nifti_layout
from medseg.volumes.nrrd import nrrd_layout
from medseg.volumes.stream import Layout, each_chunk, opened

_OTHERS = {".mha": metaimage_layout, ".nrrd": nrrd_layout}


def _layout(path: Path, stream: IO[bytes]) -> Layout:
    refuse_detached(path)
    return _OTHERS.get(path.suffix.lower(), nifti_layout)(path, stream)


def refuse_detached(path: Path) -> None:
    """ImageError for a file whose name says that it is a header alone."""
    if path.name.lower().endswith(DETACHED_SUFFIXES):
        raise ImageError(path, "a header alone; its voxels lie in another file", "save it as one file: .mha, .nrrd or .nii.gz")


def read_header(path: Path) -> Header:
    """The header of a volume, no voxel read.

    Raises ImageError where it is no file of its format or a header alone (.mhd, .nhdr), has more than four axes or MAX_VOXELS voxels, a
    spacing or affine that is missing, not finite or flat, or (uncompressed) is shorter than its header says.
    """
    with opened(path) as stream:
        return _layout(path, stream).header


def forms_disagree(path: Path) -> bool:
    """True where a NIfTI file places its volume in two ways that contradict each other; the other formats know one way alone."""
    return path.suffix.lower() not in _OTHERS and nifti_forms_disagree(path)


def _decode(path: Path, dtype_of: Callable[[Layout], Any], convert: Callable[[np.ndarray, Layout], np.ndarray]) -> tuple[Any, Layout]:
    with opened(path) as stream:
        layout = _layout(path, stream)
        flat = np.empty(layout.voxels, dtype_of(layout))  # touched, and so taken from memory, only as voxels arrive

        def take(values: np.ndarray, at: int) -> None:
            flat[at : at + len(values)] = convert(values, layout)

        each_chunk(path, stream, layout, take)
    return layout.shaped(flat), layout


def verify_volume(path: Path) -> Header:
    """Read a volume to its last voxel without keeping one; ImageError where it is truncated, damaged or goes on too long."""
    with opened(path) as stream:
        layout = _layout(path, stream)
        each_chunk(path, stream, layout, lambda values, at: None)
    return layout.header


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(array (X, Y, Z[, C]), affine (4, 4)) of a volume on its grid as stored.

    Whole numbers keep their type; real numbers and scaled ones become float32, where NaN and infinite voxels stay as they are and
    what float32 cannot hold becomes infinite. Raises ImageError.
    """

    def dtype_of(layout: Layout) -> Any:
        dtype = layout.header.dtype
        return np.float32 if layout.slope is not None or dtype.kind == "f" else dtype.newbyteorder("=")

    with np.errstate(over="ignore", invalid="ignore"):
        array, layout = _decode(path, dtype_of, _scaled)
    return array, layout.header.affine


def _scaled(values: np.ndarray, layout: Layout) -> np.ndarray:
    return values if layout.slope is None else values.astype(np.float64) * layout.slope + layout.intercept


def read_label_volume(path: Path, given: Mapping[int, int] | None = None) -> np.ndarray:
    """uint8 (X, Y, Z) class ids of a label volume; whole numbers stored as real ones are taken. `given` maps stored values to ids.

    Raises ImageError for several channels, NaN, and values that are not whole or not in 0..255.
    """
    array, layout = _decode(path, lambda layout: np.uint8, lambda values, layout: _ids(values, layout, given or {}, path))
    if layout.header.channels > 1:
        rule = f"a label volume has three axes, this one is {' x '.join(map(str, layout.full_shape))}"
        raise ImageError(path, rule, "export the class ids as one volume")
    return array


def _ids(values: np.ndarray, layout: Layout, given: Mapping[int, int], path: Path) -> np.ndarray:
    scaled = _scaled(values, layout)
    if scaled.dtype.kind == "f":
        whole = np.rint(scaled)
        allowed = 0.0 if layout.slope is None else 1e-4  # a slope is a rounded number itself
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(scaled - whole) <= allowed)
        if bad.any():
            found = scaled[bad][0]
            raise ImageError(path, f"label values must be whole numbers, found {found:g}", "resample labels by the nearest neighbour only")
        scaled = whole
    if given:
        scaled = np.select([scaled == value for value in given], [np.int64(one) for one in given.values()], scaled)
    if scaled.min() < 0 or scaled.max() > 255:
        raise ImageError(path, f"label values must lie in 0..255, found {scaled.min():g}..{scaled.max():g}", _map_them(scaled))
    return scaled.astype(np.uint8)


def _map_them(values: np.ndarray) -> str:
    outside = np.unique(values[(values < 0) | (values > 255)])
    shown = " ".join(f"--map {value:g}=CLASS" for value in outside[:3])
    return f"map them to class ids: {shown}{' ...' if len(outside) > 3 else ''}"
