"""The only decoder and encoder of volume files (NIfTI-1 and NIfTI-2, plain or gzip).

Arrays lie on the grid as stored, (X, Y, Z[, C]); the affine takes an index to millimetres in RAS. The header is judged before a voxel
is read, and a stream is read no further than the header says, so neither a false header nor a gzip bomb costs memory.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medseg.errors import ImageError
from medseg.files import atomic_path
from medseg.images import VOLUME_SUFFIXES

MAX_VOXELS = 2**29  # 536,870,912, channels counted: room for a CT of 512 x 512 x 2048, and a label volume stays at 512 MiB
MAX_OFFSET = 64 * 1024**2  # header extensions before the voxels
SLACK = 4096  # bytes after the last voxel that some writers pad with
CHUNK = 8 * 1024**2
TOLERANCE = 1e-3  # of the spacing, between two affines that shall be one
_TO_MM = {"meter": 1000.0, "micron": 0.001}


@dataclass(frozen=True, eq=False, slots=True)
class Header:
    """What the header of a volume says.

    shape: (X, Y, Z).  affine: float64 (4, 4), index -> mm in RAS.  spacing_mm: along the three axes, from the affine.  orientation:
    where each axis points, "RAS" for right, anterior, superior.  placed: False where neither sform nor qform is set, so that the
    orientation is only a convention.  channels: length of the fourth axis, 1 where there is none.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    orientation: str
    dtype: np.dtype[Any]
    channels: int
    placed: bool = True


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the voxels lie in the stream and how they are scaled."""

    header: Header
    offset: int
    slope: float | None
    intercept: float

    @property
    def voxels(self) -> int:
        return math.prod(self.header.shape) * self.header.channels

    @property
    def nbytes(self) -> int:
        return self.voxels * self.header.dtype.itemsize

    @property
    def full_shape(self) -> tuple[int, ...]:
        return (*self.header.shape, self.header.channels) if self.header.channels > 1 else self.header.shape


def volume_stem(name: str) -> str:
    """A file name without the suffix of a volume.

    >>> volume_stem("a/case.1.nii.gz"), volume_stem("x.NII")
    ('a/case.1', 'x')
    """
    suffix = next((suffix for suffix in reversed(VOLUME_SUFFIXES) if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


# --- the header


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, inflated; ImageError for whatever goes wrong while they are read."""
    try:
        with path.open("rb") as raw:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.name.lower().endswith(".gz") else raw
    except FileNotFoundError:
        raise ImageError(path, "there is no such file", "check the path") from None
    except gzip.BadGzipFile as cause:
        raise ImageError(path, f"named .gz, but it is no whole gzip file ({cause})", "rename it, or copy or export it again") from None
    except (EOFError, zlib.error):
        raise ImageError(path, "the volume is truncated or damaged (its gzip stream breaks off)", "copy or export it again") from None
    except OSError as cause:
        raise ImageError(path, f"cannot be read ({cause.strerror})", "check its permissions") from None


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


def _layout(path: Path, stream: IO[bytes]) -> _Layout:
    raw = _raw_header(stream, path)
    shape, channels = _shape(raw, path)
    dtype = _dtype(raw, path)
    affine = _affine(raw, path)
    spacing = tuple(float(length) for length in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    placed = bool(raw["sform_code"] > 0 or raw["qform_code"] > 0)
    header = Header(
        shape, affine, cast(tuple[float, float, float], spacing), "".join(nib.aff2axcodes(affine)), dtype, channels, placed
    )  # fmt: skip
    slope, intercept = _scaling(raw, path)
    layout = _Layout(header, _offset(raw, path), slope, intercept)
    if layout.voxels > MAX_VOXELS:
        rule = f"its header claims {' x '.join(map(str, layout.full_shape))} voxels, the limit is {MAX_VOXELS:,} in all"
        raise ImageError(path, rule, "crop or resample it first")
    stored = path.stat().st_size
    if not path.name.lower().endswith(".gz") and stored < layout.offset + layout.nbytes:
        rule = f"the volume is truncated: {stored:,} bytes, its header needs {layout.offset + layout.nbytes:,}"
        raise ImageError(path, rule, "copy or export it again")
    return layout


def _shape(raw: nib.Nifti1Header, path: Path) -> tuple[tuple[int, int, int], int]:
    """((X, Y, Z), channels) from the header's dim."""
    dim = [int(value) for value in raw["dim"]]
    axes = dim[1 : dim[0] + 1] if 1 <= dim[0] <= 7 else []
    if not axes or min(axes) < 1:
        raise ImageError(path, f"the header's dimensions make no sense (dim {dim})", "export it again")
    while len(axes) > 3 and axes[-1] == 1:
        axes.pop()
    if len(axes) > 4:
        rule = f"{len(axes)} axes ({' x '.join(map(str, axes))}); a volume has three, or four with channels"
        raise ImageError(path, rule, "save one volume a file")
    x, y, z, channels = (*axes, 1, 1, 1)[:4]
    return (x, y, z), channels


def _dtype(raw: nib.Nifti1Header, path: Path) -> np.dtype[Any]:
    try:
        dtype = np.dtype(raw.get_data_dtype())
    except (HeaderDataError, KeyError):
        raise ImageError(path, f"unknown data type {int(raw['datatype'])}", "export it with whole or real numbers") from None
    if dtype.kind not in "iuf" or not 1 <= dtype.itemsize <= 8:
        raise ImageError(path, f"the voxels are of type {dtype}, one number each is needed", "export it with whole or real numbers")
    return dtype


def _affine(raw: nib.Nifti1Header, path: Path) -> np.ndarray:
    """The sform where it is set, else the qform, else the bare spacing; in mm."""
    zooms = [float(value) for value in raw["pixdim"][1:4]]
    used = zooms[: min(3, int(raw["dim"][0]))]
    if not all(math.isfinite(zoom) and zoom > 0 for zoom in used):
        shown = ", ".join(f"{zoom:g}" for zoom in used)
        raise ImageError(path, f"the spacing must be positive, the header's pixdim says {shown}", "export it with its spacing")
    try:
        with np.errstate(all="ignore"):
            affine = np.array(raw.get_best_affine(), np.float64)
            affine[:3] *= _TO_MM.get(raw.get_xyzt_units()[0], 1.0)
            lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
            volume = np.abs(np.linalg.det(affine[:3, :3])) / np.prod(lengths)  # of a cell, as a share of its box
    except (HeaderDataError, ValueError, KeyError, np.linalg.LinAlgError) as cause:
        raise ImageError(path, f"its affine cannot be read ({cause})", "export it again") from None
    if not (np.isfinite(affine).all() and (lengths > 0).all() and volume > 1e-6):
        raise ImageError(path, f"its affine is not finite or flat: {np.array2string(affine[:3], precision=4)}", "export it again")
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


def read_header(path: Path) -> Header:
    """The header of a volume, no voxel read.

    Raises ImageError where it is no NIfTI file, has more than four axes or MAX_VOXELS voxels, a spacing or affine that is not finite
    and positive, or (uncompressed) is shorter than its header says.
    """
    with _opened(path) as stream:
        return _layout(path, stream).header


def forms_disagree(path: Path) -> bool:
    """True where qform and sform are both set and place the volume differently, or the sform contradicts the header's pixdim."""
    with _opened(path) as stream:
        _layout(path, stream)
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


def same_affine(one: np.ndarray, other: np.ndarray) -> bool:
    """True where two affines differ nowhere by more than TOLERANCE of the spacing along that axis.

    >>> same_affine(np.eye(4), np.diag([1.0005, 1, 1, 1])), same_affine(np.eye(4), np.diag([1.01, 1, 1, 1]))
    (True, False)
    """
    lengths = np.sqrt((one[:3, :3] ** 2).sum(axis=0))
    allowed = TOLERANCE * np.append(lengths, lengths.min())
    return bool((np.abs(one - other)[:3] <= allowed).all())


def rounded(spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Spacing to a millionth of a millimetre, as manifests state it: an affine in float32 holds no more.

    >>> rounded((0.699999988, 0.5, 3e-7))
    (0.7, 0.5, 3e-07)
    """
    x, y, z = (round(value, 6) or value for value in spacing_mm)
    return x, y, z


# --- voxels


def _each_chunk(path: Path, stream: IO[bytes], layout: _Layout, take: Callable[[np.ndarray, int], None]) -> None:
    """Give the voxels in file order to `take(values, position of the first)`; ImageError where they end early or do not end."""
    stream.seek(layout.offset)
    step = CHUNK // 8 * layout.header.dtype.itemsize  # a whole number of voxels; the widest working copy stays at CHUNK bytes
    for start in range(0, layout.nbytes, step):
        block = stream.read(min(step, layout.nbytes - start))
        if len(block) < min(step, layout.nbytes - start):
            rule = f"the volume is truncated: {start + len(block):,} bytes of voxels, its header needs {layout.nbytes:,}"
            raise ImageError(path, rule, "copy or export it again")
        take(np.frombuffer(block, layout.header.dtype), start // layout.header.dtype.itemsize)
    if len(stream.read(SLACK + 1)) > SLACK:  # at the end of a gzip stream this also compares its checksum
        raise ImageError(path, "it goes on after the last voxel that its header knows of", "export it again")


def _decode(path: Path, dtype_of: Callable[[_Layout], Any], convert: Callable[[np.ndarray, _Layout], np.ndarray]) -> tuple[Any, _Layout]:
    with _opened(path) as stream:
        layout = _layout(path, stream)
        flat = np.empty(layout.voxels, dtype_of(layout))  # touched, and so taken from memory, only as voxels arrive

        def take(values: np.ndarray, at: int) -> None:
            flat[at : at + len(values)] = convert(values, layout)

        _each_chunk(path, stream, layout, take)
    return np.reshape(flat, layout.full_shape, order="F"), layout


def verify_volume(path: Path) -> Header:
    """Read a volume to its last voxel without keeping one; ImageError where it is truncated, damaged or goes on too long."""
    with _opened(path) as stream:
        layout = _layout(path, stream)
        _each_chunk(path, stream, layout, lambda values, at: None)
    return layout.header


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(array (X, Y, Z[, C]), affine (4, 4)) of a volume on its grid as stored.

    Whole numbers keep their type; real numbers and scaled ones become float32. Raises ImageError.
    """

    def dtype_of(layout: _Layout) -> Any:
        dtype = layout.header.dtype
        return np.float32 if layout.slope is not None or dtype.kind == "f" else dtype.newbyteorder("=")

    with np.errstate(over="ignore", invalid="ignore"):
        array, layout = _decode(path, dtype_of, _scaled)
    return array, layout.header.affine


def _scaled(values: np.ndarray, layout: _Layout) -> np.ndarray:
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


def _ids(values: np.ndarray, layout: _Layout, given: Mapping[int, int], path: Path) -> np.ndarray:
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


def id_counts(mask_XYZ: np.ndarray) -> np.ndarray:
    """int64 (256,): voxels by id, counted in pieces, because numpy counts on a copy eight times as large."""
    flat = mask_XYZ.ravel(order="K")
    counts = np.zeros(256, np.int64)
    for start in range(0, flat.size, CHUNK):
        counts += np.bincount(flat[start : start + CHUNK], minlength=256)
    return counts


# --- writing


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
