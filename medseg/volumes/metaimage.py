"""The header of MetaImage files, .mha: `Key = value` lines, then the voxels, plain or as one zlib stream.

Fields and their meaning as ITK reads them (MetaIO, https://docs.itk.org/en/latest/learn/metaio.html): millimetres in LPS, one row of
TransformMatrix an axis; channels lie side by side, but for those of a fourth axis. Beyond ITK, DistanceUnits counts, and a spacing that
is missing is no spacing of 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from medseg.errors import ImageError
from medseg.volumes.fields import Fields, header_lines
from medseg.volumes.header import check_spacing, header_of, ras_affine
from medseg.volumes.stream import Layout, judged

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4",  # 4 bytes on every machine (metaTypes.h)
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_TO_MM = {"um": 0.001, "cm": 10.0}
_ORIGIN = ("Offset", "Position", "Origin")  # three names of one thing each
_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
_KEYS = {
    *_ORIGIN, *_DIRECTIONS, "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData",
    "CompressedDataSize", "HeaderSize", "DistanceUnits", "ElementSpacing", "ElementSize", "DimSize", "ElementNumberOfChannels",
    "ElementType", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ElementDataFile",
}  # fmt: skip
_HARMLESS = {"Comment", "ObjectSubType", "TransformType", "Name", "ID", "ParentID", "Color"}  # any other key may follow, but not lead


def metaimage_layout(path: Path, stream: IO[bytes]) -> Layout:
    """The Layout of a MetaImage file; raises ImageError."""
    fields = _fields(path, stream)
    _check_storage(fields)
    axes, channels_first = _axes(fields)
    placed = len(_dims(fields)) > 2 and _first(fields, _DIRECTIONS) is not None
    header = header_of(axes, _dtype(fields), _affine(fields), placed, path)
    packed = _flag(fields, "CompressedData")
    length = fields.wholes("CompressedDataSize", 1)[0] if packed and "CompressedDataSize" in fields else None
    return judged(Layout(header, stream.tell(), "zlib" if packed else "none", length, channels_first), path)


def _fields(path: Path, stream: IO[bytes]) -> Fields:
    """The fields up to ElementDataFile, which is the last one; the stream then stands at the first voxel.

    Any other line is passed by: ITK writes the words that an image brought from NIfTI or DICOM in between, as they are.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(header_lines(stream, path)):
        key, sign, value = (part.strip() for part in line.partition("="))
        if number == 0 and not (sign and key in _KEYS | _HARMLESS):
            raise ImageError(path, "not a MetaImage file", "export it as MetaImage (.mha), NRRD or NIfTI")
        if key in found:
            raise ImageError(path, f"its header says {key} twice", "export it again")
        if sign and key in _KEYS:
            found[key] = value
        if key == "ElementDataFile":
            break
    return Fields(path, found)


def _check_storage(fields: Fields) -> None:
    """ImageError for voxels in another file, as text, or to be rescaled: on the last, readers do not agree."""
    if fields.text("ElementDataFile").upper() != "LOCAL":
        rule = f"the header alone; its voxels lie in another file ({fields.text('ElementDataFile')[:80]})"
        raise ImageError(fields.path, rule, "save it as one file: .mha, .nrrd or .nii.gz")
    if fields.texts.get("ObjectType", "Image") != "Image":
        fields.refuse("ObjectType", "Image")
    if "BinaryData" in fields and not _flag(fields, "BinaryData"):
        raise ImageError(fields.path, "its voxels are written as text", "export it with BinaryData = True")
    for key, plain in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in fields and fields.reals(key, 1) != [plain]:
            fields.refuse(key, f"{plain:g}")
    if "HeaderSize" in fields and fields.reals("HeaderSize", 1) != [0.0]:
        fields.refuse("HeaderSize", "0")


def _flag(fields: Fields, key: str) -> bool:
    """A field that is True or False; False where there is none."""
    text = fields.texts.get(key, "False").lower()
    if text not in ("true", "t", "1", "false", "f", "0"):
        fields.refuse(key, "True or False")
    return text in ("true", "t", "1")


def _first(fields: Fields, names: tuple[str, ...]) -> str | None:
    """The first of several names for one thing that the header has; ImageError where two of them say different things."""
    there = [name for name in names if name in fields]
    for name in there[1:]:
        if fields.text(name).split() != fields.text(there[0]).split():
            raise ImageError(fields.path, f"its header's {there[0]} and {name} contradict each other", "export it again")
    return there[0] if there else None


def _dims(fields: Fields) -> list[int]:
    dims = fields.wholes("DimSize", fields.wholes("NDims", 1)[0])
    if not 2 <= len(dims) <= 4:
        raise ImageError(fields.path, f"{len(dims)} axes; a volume has three, or four with channels", "save one volume a file")
    return dims


def _axes(fields: Fields) -> tuple[list[int], bool]:
    """(lengths of the axes, channels last; whether the channels of a voxel lie side by side)."""
    axes = _dims(fields)
    channels = fields.wholes("ElementNumberOfChannels", 1)[0] if "ElementNumberOfChannels" in fields else 1
    if channels == 1:
        return axes, False
    while len(axes) > 3 and axes[-1] == 1:
        axes.pop()
    return [*axes, *[1] * (3 - len(axes)), channels], True


def _dtype(fields: Fields) -> np.dtype[Any]:
    name = fields.text("ElementType").removesuffix("_ARRAY")  # as older writers call a type with channels
    if name not in _TYPES:
        rule = f"the voxels are of type {name[:80]}, one number each is needed"
        raise ImageError(fields.path, rule, "export it with whole or real numbers")
    key = _first(fields, ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    return np.dtype(_TYPES[name]).newbyteorder(">" if key and _flag(fields, key) else "<")


def _affine(fields: Fields) -> np.ndarray:
    """Affine to mm in RAS. Without directions ITK's are taken, the axes of LPS."""
    dims = len(_dims(fields))
    scale = _TO_MM.get(fields.texts.get("DistanceUnits", "mm").lower(), 1.0)
    key = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"  # MetaIO's own order
    if key not in fields:
        raise ImageError(fields.path, "its header has no ElementSpacing", "export it with its spacing")
    used = min(dims, 3)
    spacing = np.array(fields.reals(key, dims)[:used])
    check_spacing(spacing.tolist(), key, fields.path)
    name, origin = _first(fields, _DIRECTIONS), _first(fields, _ORIGIN)
    rows = np.array(fields.reals(name, dims * dims)).reshape(dims, dims) if name else np.eye(dims)
    if rows[:used, used:].any() or rows[used:, :used].any():
        raise ImageError(fields.path, f"its {name} turns space into the fourth axis", "save one volume a file")
    position = np.array(fields.reals(origin, dims)[:used]) if origin else np.zeros(used)
    with np.errstate(all="ignore"):
        return ras_affine((rows[:used, :used] * spacing[:, None]).T * scale, position * scale)
