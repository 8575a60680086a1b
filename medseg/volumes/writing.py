"""Volumes are written as NIfTI-1 alone."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np

from medseg.errors import ImageError
from medseg.files import atomic_path
from medseg.volumes.header import same_affine


def write_labels(path: Path, mask_XYZ: np.ndarray, affine: np.ndarray) -> None:
    """Write class ids as uint8 NIfTI; raises ImageError as write_volume does."""
    write_volume(path, np.asarray(mask_XYZ, np.uint8), affine)


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write (X, Y, Z[, C]) as NIfTI-1 in its own type; equal arrays make equal files. The qform is set where it can hold the affine.

    Raises ImageError where an axis is longer than NIfTI-1 can say (32,767).
    """
    if max(array.shape) > 32_767:
        raise ImageError(path, f"{max(array.shape)} voxels along one axis, NIfTI holds 32,767", "split the volume first")
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    if not same_affine(affine, image.get_qform()):  # a sheared grid (a tilted gantry) is no rotation
        image.set_qform(None, 0)
    with atomic_path(path) as temporary, temporary.open("wb") as raw:
        if not path.name.lower().endswith(".gz"):
            image.to_stream(raw)
            return
        with gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as stream:
            image.to_stream(cast(io.IOBase, stream))
