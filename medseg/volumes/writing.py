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
from medseg.volumes.nifti import nifti_placing

# Of a NIfTI header, beside pixdim: where the volume lies, and what says so.
_PLACING = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
            "srow_x", "srow_y", "srow_z")  # fmt: skip


def write_labels(path: Path, mask_XYZ: np.ndarray, affine: np.ndarray, like: Path | None = None) -> None:
    """Write class ids as uint8 NIfTI; like, and the ImageError raised, as in write_volume."""
    write_volume(path, np.asarray(mask_XYZ, np.uint8), affine, like)


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray, like: Path | None = None) -> None:
    """Write (X, Y, Z[, C]) as NIfTI-1 in its own type; equal arrays make equal files. The qform is set where it can hold the affine.

    like: the image on whose grid the array lies. Where that is a NIfTI-1 file in mm, its qform and sform are taken as they stand: what a
    quaternion says no sform can hold to the last bit, and whichever form a program prefers, it must find both files in one place.
    Raises ImageError where an axis is longer than NIfTI-1 can say (32,767).
    """
    if max(array.shape) > 32_767:
        raise ImageError(path, f"{max(array.shape)} voxels along one axis, NIfTI holds 32,767", "split the volume first")
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    source = nifti_placing(like) if like else None
    if source is None:
        _place(image, affine)
    else:
        _place_as(image.header, source)
        assert same_affine(affine, image.header.get_best_affine()), f"{like} lies elsewhere"
    with atomic_path(path) as temporary, temporary.open("wb") as raw:
        if not path.name.lower().endswith(".gz"):
            image.to_stream(raw)
            return
        with gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as stream:
            image.to_stream(cast(io.IOBase, stream))


def _place(image: nib.Nifti1Image, affine: np.ndarray) -> None:
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    if not same_affine(affine, image.get_qform()):  # a sheared grid (a tilted gantry) is no rotation
        image.set_qform(None, 0)


def _place_as(header: nib.Nifti1Header, source: nib.Nifti1Header) -> None:
    for field in _PLACING:
        header[field] = source[field]
    zooms, own = np.array(source["pixdim"]), np.array(header["pixdim"])
    own[0] = zooms[0]  # the quaternion's sign
    own[1:4] = np.where(zooms[1:4] > 0, zooms[1:4], own[1:4])  # of a picture, the third may say nothing
    header["pixdim"] = own
