"""The header of NRRD files, .nrrd: `field: value` lines up to an empty one, then the voxels, plain or as a gzip stream.

Format: https://teem.sourceforge.net/nrrd/format.html, versions 1 to 5. An axis without a direction in space (or whose kind is no
space: vector, list, RGB-color, time) holds the channels; the others are the volume's, in the order of the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from medseg.errors import ImageError
from medseg.volumes.fields import Fields, header_lines, numbers
from medseg.volumes.header import LPS, check_spacing, header_of, ras_affine
from medseg.volumes.stream import Layout, judged

_SIGNS = {
    "left-posterior-superior": LPS, "lps": LPS, "right-anterior-superior": (1.0, 1.0, 1.0), "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0), "las": (-1.0, 1.0, 1.0),
}  # fmt: skip
_WIDTHS = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPES = {name: width for width, names in _WIDTHS.items() for name in names}
_OF_SPACE = ("domain", "space", "none", "???")  # kinds of an axis that may be one of the volume's
_TO_MM = {"um": 0.001, "\u00b5m": 0.001, "\u03bcm": 0.001, "micron": 0.001, "microns": 0.001, "cm": 10.0, "m": 1000.0}
_OTHER_NAMES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_VECTOR = re.compile(r"none|\(([^()]*)\)")


@dataclass(frozen=True, slots=True)
class _Grid:
    """Which axes of the file are the volume's, and how they lie.

    axes: numbers of those in space.  channel: number of the one that holds the channels.  vectors: (S,) each, the steps along `axes` in
    the units of the file; None where only their lengths are known.
    """

    sizes: list[int]
    axes: list[int]
    channel: int | None
    vectors: list[np.ndarray] | None


def nrrd_layout(path: Path, stream: IO[bytes]) -> Layout:
    """The Layout of a NRRD file; raises ImageError."""
    fields = _fields(path, stream)
    packed = _check_storage(fields)
    grid = _grid(fields)
    lengths = [grid.sizes[axis] for axis in grid.axes]
    channels = 1 if grid.channel is None else grid.sizes[grid.channel]
    axes = [*lengths, *[1] * (3 - len(lengths)), channels]
    placed = grid.vectors is not None and fields.texts.get("space", "").lower() in _SIGNS
    header = header_of(axes, _dtype(fields), _affine(fields, grid), placed, path)
    return judged(Layout(header, stream.tell(), "gzip" if packed else "none", channels_first=grid.channel == 0), path)


def _fields(path: Path, stream: IO[bytes]) -> Fields:
    """All fields up to the empty line, by their names in small letters; the stream then stands at the first voxel."""
    if not re.fullmatch(rb"NRRD000[1-5]\s*\n", stream.readline(16)):
        raise ImageError(path, "not a NRRD file (of version 1 to 5)", "export it as NRRD (.nrrd), MetaImage or NIfTI")
    found: dict[str, str] = {}
    for line in header_lines(stream, path):
        if not line:
            break
        name, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):  # a comment, or a pair of the writer's own
            continue
        name = _OTHER_NAMES.get(name.lower(), name.lower())
        if not colon or name in found:
            rule = f"its header says {name} twice" if colon else f"its header has a line without a field ({line[:40]!r})"
            raise ImageError(path, rule, "export it again")
        found[name] = value.strip()
    return Fields(path, found)


def _check_storage(fields: Fields) -> bool:
    """Whether the voxels are a gzip stream; ImageError where they lie elsewhere, or are written in a way that is not read."""
    if "data file" in fields:
        rule = f"the header alone; its voxels lie in another file ({fields.text('data file')[:80]})"
        raise ImageError(fields.path, rule, "save it as one file: .mha, .nrrd or .nii.gz")
    for key in ("line skip", "byte skip"):
        if fields.texts.get(key, "0") != "0":
            fields.refuse(key, "0")
    encoding = fields.text("encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ImageError(fields.path, f"its voxels are written as {encoding[:80]}", "export it with encoding raw or gzip")
    return encoding != "raw"


def _dtype(fields: Fields) -> np.dtype[Any]:
    name = fields.text("type").lower()
    if name not in _TYPES:
        rule = f"the voxels are of type {name[:80]}, one number each is needed"
        raise ImageError(fields.path, rule, "export it with whole or real numbers")
    dtype = np.dtype(_TYPES[name])
    if dtype.itemsize == 1:
        return dtype
    if fields.text("endian").lower() not in ("little", "big"):
        fields.refuse("endian", "little or big")
    return dtype.newbyteorder("<" if fields.text("endian").lower() == "little" else ">")


# --- the axes


def _grid(fields: Fields) -> _Grid:
    sizes = fields.wholes("sizes")
    if fields.wholes("dimension", 1) != [len(sizes)]:
        fields.refuse("dimension", f"{len(sizes)}, as there are sizes")
    if len(sizes) > 4:
        raise ImageError(fields.path, f"{len(sizes)} axes; a volume has three, or four with channels", "save one volume a file")
    vectors = _vectors(fields, "space directions", len(sizes)) if "space directions" in fields else None
    channel = _channel(fields, sizes, vectors)
    axes = [axis for axis in range(len(sizes)) if axis != channel]
    if not 2 <= len(axes) <= 3:
        raise ImageError(fields.path, f"its header gives {len(axes)} axes in space, a volume has three", "export it again")
    if vectors is None:
        return _Grid(sizes, axes, channel, None)
    return _Grid(sizes, axes, channel, _in_space(fields, [vectors[axis] for axis in axes]))


def _vectors(fields: Fields, key: str, count: int) -> list[np.ndarray | None]:
    """`(1,0,0) none (0,1,0)` -> `count` vectors of one length, None for none."""
    text = fields.text(key)
    found = [None if match[1] is None else np.array(numbers(match[1].split(","))) for match in _VECTOR.finditer(text)]
    given = {len(vector) for vector in found if vector is not None}
    if len(found) != count or len(given) > 1 or 0 in given or _VECTOR.sub("", text).strip():
        fields.refuse(key, f"{count} vectors of one length, such as (1,0,0)")
    return found


def _channel(fields: Fields, sizes: Sequence[int], vectors: Sequence[np.ndarray | None] | None) -> int | None:
    """The number of the axis that holds the channels; ImageError where it cannot be told."""
    kinds = fields.texts.get("kinds", "").lower().split() or ["none"] * len(sizes)
    if len(kinds) != len(sizes):
        fields.refuse("kinds", f"{len(sizes)} words")
    of_kind = [axis for axis, kind in enumerate(kinds) if kind not in _OF_SPACE]
    outside = of_kind if vectors is None else [axis for axis, vector in enumerate(vectors) if vector is None]
    if vectors and not outside and _has_time(vectors):
        outside = [3]
    if len(sizes) == 4 and len(outside) != 1 or len(outside) > 1:
        rule = f"its header gives {len(outside)} of {len(sizes)} axes for channels; a volume has three axes, or four with channels"
        raise ImageError(fields.path, rule, "export it with `kinds`, or save one volume a file")
    if outside and outside[0] not in (0, len(sizes) - 1):
        raise ImageError(fields.path, "its channels are neither the first nor the last axis", "move them to the front")
    return outside[0] if outside else None


def _has_time(vectors: Sequence[np.ndarray | None]) -> bool:
    """Whether the last of four axes runs along a fourth dimension alone, as ITK writes four axes."""
    last = vectors[-1]
    return len(vectors) == 4 and last is not None and len(last) == 4 and not last[:3].any()


def _in_space(fields: Fields, vectors: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The steps along the axes in two or three dimensions; of a space with time, the part in space."""
    steps = [vector for vector in vectors if vector is not None]
    assert len(steps) == len(vectors)  # `_channel` took the one axis that has none
    if len(steps[0]) == 4 and not any(step[3] for step in steps):
        steps = [step[:3] for step in steps]
    if not len(steps) <= len(steps[0]) <= 3:
        fields.refuse("space directions", f"{len(steps)} vectors in space")
    return steps


# --- the affine


def _affine(fields: Fields, grid: _Grid) -> np.ndarray:
    """Affine to mm in RAS. A space that is none of the patient's is taken for LPS, as ITK takes it."""
    if grid.vectors is None:
        return _bare_affine(fields, grid)
    columns = np.array(grid.vectors).T
    origin = np.zeros(len(columns))
    if "space origin" in fields:
        stated = _vectors(fields, "space origin", 1)[0]
        if stated is None or len(stated) < len(origin):
            fields.refuse("space origin", f"a vector of {len(origin)} numbers")
        origin = stated[: len(origin)]
    scale = np.array(_to_mm(fields, "space units", range(len(columns))))
    with np.errstate(all="ignore"):
        return ras_affine(columns * scale[:, None], origin * scale, _SIGNS.get(fields.texts.get("space", "").lower(), LPS))


def _bare_affine(fields: Fields, grid: _Grid) -> np.ndarray:
    """From `spacings` alone."""
    if "spacings" not in fields:
        raise ImageError(fields.path, "its header has neither space directions nor spacings", "export it with its spacing")
    spacings = fields.reals("spacings", len(grid.sizes))
    used = [spacings[axis] for axis in grid.axes]
    check_spacing(used, "spacings", fields.path)
    return ras_affine(np.diag(used) * _to_mm(fields, "units", grid.axes), np.zeros(len(used)))


def _to_mm(fields: Fields, key: str, axes: Sequence[int]) -> list[float]:
    """Millimetres in the unit of each of `axes`; a unit that is not stated or not known is mm."""
    units = re.findall(r'"([^"]*)"', fields.texts.get(key, ""))
    return [_TO_MM.get(units[axis].strip().lower(), 1.0) if axis < len(units) else 1.0 for axis in axes]
