"""The header of NIfTI-1 and NIfTI-2 files, .nii or .nii.gz.

Cox et al., A (sort of) new image data format standard: NIfTI-1, 2004; its fields by nibabel.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medseg.errors import ImageError
from medseg.volumes.header import TOLERANCE, check_spacing, check_type, header_of, same_affine
from medseg.volumes.stream import Layout, judged, opened

MAX_OFFSET = 64 * 1024**2  # header extensions before the voxels
_TO_MM = {"meter": 1000.0, "micron": 0.001}


def nifti_layout(path: Path, stream: IO[bytes]) -> Layout:
    """The Layout of a NIfTI file; raises ImageError."""
    raw = _raw_header(stream, path)
    axes = _axes(raw, path)
    header = header_of(axes, _dtype(raw, path), _affine(raw, path), bool(raw["sform_code"] > 0 or raw["qform_code"] > 0), path)
    slope, intercept = _scaling(raw, path)
    return judged(Layout(header, _offset(raw, path), slope=slope, intercept=intercept), path)


def nifti_placing(path: Path) -> nib.Nifti1Header | None:
    """The header of a NIfTI-1 file whose unit is the millimetre, for another to be placed as it; None for every other file."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return None
    with opened(path) as stream:
        nifti_layout(path, stream)
        raw = _raw_header(stream, path)
    in_mm = _TO_MM.get(raw.get_xyzt_units()[0], 1.0) == 1.0
    return raw if in_mm and type(raw) is nib.Nifti1Header else None  # NIfTI-2 has the fields in float64


def _raw_header(stream: IO[bytes], path: Path) -> nib.Nifti1Header:
    """The header's fields as nibabel names them; nothing after them is read, because an extension may claim any length."""
    for kind, magic in ((nib.Nifti1Header, (b"n+1", b"ni1")), (nib.Nifti2Header, (b"n+2", b"ni2"))):
        size = kind.template_dtype.itemsize
        stream.seek(0)
        block = stream.read(size)
        at = slice(344, 347) if size == 348 else slice(4, 7)
        if len(block) == size and block[at] in magic:
            if block[at].startswith(b"ni"):
                raise ImageError(path, "the header alone; its voxels lie in an .img file beside it", "save it as one .nii.gz file")
            return kind(block, check=False)
    raise ImageError(path, "not a NIfTI file", "export it as NIfTI (.nii or .nii.gz)")


def _axes(raw: nib.Nifti1Header, path: Path) -> list[int]:
    """The lengths of the axes from the header's dim."""
    dim = [int(value) for value in raw["dim"]]
    axes = dim[1 : dim[0] + 1] if 1 <= dim[0] <= 7 else []
    if not axes or min(axes) < 1:
        raise ImageError(path, f"the header's dimensions make no sense (dim {dim})", "export it again")
    return axes


def _dtype(raw: nib.Nifti1Header, path: Path) -> np.dtype[Any]:
    try:
        dtype = np.dtype(raw.get_data_dtype())
    except (HeaderDataError, KeyError):
        raise ImageError(path, f"unknown data type {int(raw['datatype'])}", "export it with whole or real numbers") from None
    return check_type(dtype, path)


def _affine(raw: nib.Nifti1Header, path: Path) -> np.ndarray:
    """The sform where it is set, else the qform, else the bare spacing; in mm."""
    zooms = [float(value) for value in raw["pixdim"][1:4]]
    check_spacing(zooms[: min(3, int(raw["dim"][0]))], "pixdim", path)
    try:
        with np.errstate(all="ignore"):
            affine = np.array(raw.get_best_affine(), np.float64)
            affine[:3] *= _TO_MM.get(raw.get_xyzt_units()[0], 1.0)
    except (HeaderDataError, ValueError, KeyError, np.linalg.LinAlgError) as cause:
        raise ImageError(path, f"its affine cannot be read ({cause})", "export it again") from None
    return affine


def _offset(raw: nib.Nifti1Header, path: Path) -> int:
    least = raw.single_vox_offset
    value = float(raw["vox_offset"])
    if value == 0:  # written by some tools for "right after the header"
        return int(least)
    if not (math.isfinite(value) and least <= value <= MAX_OFFSET):
        raise ImageError(path, f"its voxels would begin at byte {value:g}", "export it again")
    return int(value)


def _scaling(raw: nib.Nifti1Header, path: Path) -> tuple[float | None, float]:
    try:
        slope, intercept = raw.get_slope_inter()
    except HeaderDataError as cause:
        raise ImageError(path, f"its scaling cannot be used ({cause})", "export it again") from None
    return (None, 0.0) if slope is None or (slope, intercept) == (1.0, 0.0) else (float(slope), float(intercept))


def nifti_forms_disagree(path: Path) -> bool:
    """True where qform and sform are both set and place the volume differently, or the sform contradicts the header's pixdim."""
    with opened(path) as stream:
        nifti_layout(path, stream)
        raw = _raw_header(stream, path)
    sform, code = raw.get_sform(coded=True)
    if not code:
        return False
    lengths, zooms = np.sqrt((sform[:3, :3] ** 2).sum(axis=0)), np.asarray(raw["pixdim"][1:4], np.float64)
    if int(raw["dim"][0]) >= 3 and not np.allclose(lengths, zooms, rtol=TOLERANCE, atol=0):
        return True
    if not raw["qform_code"] > 0:
        return False
    try:
        with np.errstate(all="ignore"):
            return not same_affine(raw.get_qform(), sform)
    except (HeaderDataError, ValueError):  # a quaternion that is none
        return True
