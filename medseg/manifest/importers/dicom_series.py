"""DICOM slices -> a series in its order -> voxels: headers read, geometry checked, values rescaled.

Headers are hostile until checked: sizes are bounded before pixels are decoded, and whatever pydicom raises becomes an ImageError.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.pixels import get_decoder
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medseg.errors import ImageError, MedsegError
from medseg.types import Spacing
from medseg.volumes import MAX_VOXELS, rounded

MAX_SLICE_PIXELS = 2**26
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
SAME_DIRECTION = 1e-3  # between the cosines of two slices of one series
OFF_LINE = 0.1  # of the slice distance: scanners round positions
_PIXEL_TAGS = [
    "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PhotometricInterpretation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept", "PixelData",
]  # fmt: skip


_FIRST_TAGS = {
    bytes((*group, *number)) for group, number in [
        *(((group, 0), (low, 0)) for group in (2, 8) for low in range(256)), *(((0, 8), (0, low)) for low in range(256)),
    ]
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One image file of a series, its pixels not read.

    position, along_row, along_column: (3,), mm and cosines in LPS.  naming: see `naming_parts`.  inverted: MONOCHROME1, where a
    higher value is darker.
    """

    path: Path
    instance: str = field(repr=False)  # no message may show what identifies a patient
    series: str = field(repr=False)
    study: str = field(repr=False)
    patient: str = field(repr=False)  # PatientID, and the issuer after a NUL where one is stated: two hospitals may give one number
    naming: frozenset[str] = field(repr=False)
    frame_of_reference: str = field(repr=False)
    rows: int
    columns: int
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]  # mm between rows, between columns
    thickness: float | None
    inverted: bool

    @property
    def normal(self) -> np.ndarray:
        """(3,) direction perpendicular to the slice, cosines in LPS: along_row x along_column."""
        return np.cross(self.along_row, self.along_column)


@dataclass(frozen=True, slots=True)
class SegFile:
    """A segmentation file: the series it refers to, its frame of reference, the labels of its segments by number.

    naming: see `naming_parts`.
    """

    path: Path
    series: tuple[str, ...] = field(repr=False)
    frame_of_reference: str = field(repr=False)
    labels: Mapping[int, str] = field(repr=False)
    naming: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The slices of a volume in their order, and the segmentations on its grid. affine: voxel (column, row, slice) -> mm in LPS."""

    slices: tuple[Slice, ...]
    affine: np.ndarray
    spacing_mm: Spacing
    segs: list[SegFile] = field(default_factory=list)


# --- a file


def is_bare(path: Path) -> bool | None:
    """False for a DICOM file, True for one that begins with its elements, as old exports do, without the preamble; None for any other.

    A bare file begins with an element of group 2 or 8 whose number is below 256; other kinds of file seldom do.
    """
    with path.open("rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        return False
    return True if len(head) > 8 and head[:4] in _FIRST_TAGS else None


def read_elements(path: Path, tags: list[str]) -> pydicom.Dataset:
    """The given elements of a file; other values are passed over unread. ImageError where it cannot be parsed or is deflated."""
    try:
        bare = bool(is_bare(path))
        if _stated_syntax(path, bare) not in DEFLATED:  # such a file is inflated whole before anything can be checked
            dataset = pydicom.dcmread(path, specific_tags=list(tags), stop_before_pixels="PixelData" not in tags, force=bare)
            return _with_syntax(dataset) if bare else dataset
    except OSError:
        raise
    except Exception as cause:  # a hostile file makes the parser raise anything
        raise ImageError(path, f"not a readable DICOM file ({type(cause).__name__})", "export it again") from None
    raise ImageError(path, "a deflated file", "store it as Explicit VR Little Endian (dcmconv +te)")


def _stated_syntax(path: Path, bare: bool) -> str:
    if not bare:
        return str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
    with path.open("rb") as stream:
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    return str(meta.get("TransferSyntaxUID", ""))


def _with_syntax(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """A bare file may not say how it is written; what pydicom found is what its pixels are decoded by."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def slice_of(dataset: pydicom.Dataset, path: Path) -> Slice:
    """The Slice that a header describes; ImageError where it is no single grey slice in space, of a size that can be read."""
    _check_kind(dataset, path)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= MAX_SLICE_PIXELS or max(rows, columns) > 32_767:
        raise ImageError(path, f"{columns} x {rows} pixels, the limit is {MAX_SLICE_PIXELS:,} in all", "scale it down first")
    numbers = _geometry(dataset, path)
    ids = [str(dataset.get(name) or "").strip() for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")]
    if not all(ids):
        raise ImageError(path, "it does not say of which series and study it is", "export it again")
    names = ("PatientID", "IssuerOfPatientID", "FrameOfReferenceUID")
    patient, issuer, place = (str(dataset.get(name) or "").strip() for name in names)
    thickness = float(dataset.get("SliceThickness") or 0)
    spacing = (float(numbers["PixelSpacing"][0]), float(numbers["PixelSpacing"][1]))
    return Slice(
        path, ids[0], ids[1], ids[2], f"{patient}\0{issuer}" if patient and issuer else patient, naming_parts(dataset), place,
        rows, columns, numbers["ImagePositionPatient"],
        numbers["ImageOrientationPatient"][:3], numbers["ImageOrientationPatient"][3:],
        spacing, thickness if 0 < thickness < 1e4 else None, dataset.get("PhotometricInterpretation") == "MONOCHROME1",
    )  # fmt: skip


def naming_parts(dataset: pydicom.Dataset) -> frozenset[str]:
    """What a label may not repeat: the parts of the patient's name, number and birth date, in lower case.

    A part has three letters or digits, two where it is not Latin. They are compared and never written.
    """
    fields = (plain(str(dataset.get(name) or "")) for name in ("PatientName", "PatientID", "PatientBirthDate"))
    parts = {part for text in fields for part in re.findall(r"[^\W_]+", text)}
    return frozenset(part for part in parts if len(part) > 2 or (len(part) == 2 and not part.isascii()))


def plain(text: str) -> str:
    """Text as it is compared: one form of each letter, lower case."""
    return unicodedata.normalize("NFKC", text).casefold()


def _geometry(dataset: pydicom.Dataset, path: Path) -> dict[str, np.ndarray]:
    """Position (3,), orientation (6,) and pixel spacing (2,) by their DICOM names, float64; ImageError where they make no sense."""
    numbers = {}
    for name, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        value = np.array([float(one) for one in dataset.get(name) or ()], np.float64)
        if value.shape != (count,) or not np.isfinite(value).all():
            raise ImageError(path, f"{name} is missing or not {count} numbers: it is no slice in space", "convert it to PNG or NIfTI")
        numbers[name] = value
    along_row, along_column = numbers["ImageOrientationPatient"][:3], numbers["ImageOrientationPatient"][3:]
    gram = np.array([along_row @ along_row, along_column @ along_column, 1 + along_row @ along_column])
    if np.abs(gram - 1).max() > 1e-2 or (numbers["PixelSpacing"] <= 0).any():
        raise ImageError(path, "its orientation or pixel spacing makes no sense", "export it again")
    return numbers


def _check_kind(dataset: pydicom.Dataset, path: Path) -> None:
    """Refuse what is no single grey slice, or cannot be decoded here."""
    if int(dataset.get("NumberOfFrames") or 1) > 1 or "Enhanced" in dataset.get("SOPClassUID", pydicom.uid.UID("")).name:
        raise ImageError(path, "a multi-frame (enhanced) file", "convert it to single frames (dcmtk, highdicom), or to NIfTI by dcm2niix")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise ImageError(path, "a colour image, not a slice of a volume", "convert it to PNG and import it as a photograph")
    if str(dataset.get("PhotometricInterpretation") or "MONOCHROME2") not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(path, "its values are no brightness but an index of colours", "convert it to PNG and import it as a photograph")
    if str(dataset.get("BurnedInAnnotation") or "").upper() == "YES":
        fix = "blank the text and say BurnedInAnnotation NO, or leave the series out"
        raise ImageError(path, "BurnedInAnnotation is YES: names may stand in its pixels", fix)
    if "ModalityLUTSequence" in dataset:
        raise ImageError(path, "its values hang on a modality LUT, which is not supported", "convert it to NIfTI by dcm2niix")
    syntax = pydicom.uid.UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    try:
        decodable = get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        rule = f"compressed as {syntax.name or 'nothing known'}, which no decoder installed here reads"
        raise ImageError(path, rule, "install pylibjpeg with pylibjpeg-libjpeg, or decompress it first (gdcmconv --raw, dcmdjpeg)")


# --- a series


def all_series(slices: Iterable[Slice], spoilt: set[str]) -> tuple[dict[str, Series], list[MedsegError]]:
    """The series whose slices form a volume, and why others do not; those of `spoilt` are already refused."""
    groups: dict[str, list[Slice]] = {}
    for one in slices:
        groups.setdefault(one.series, []).append(one)
    found: dict[str, Series] = {}
    refused: list[MedsegError] = []
    for uid, group in groups.items():
        if uid in spoilt:
            continue
        try:
            found[uid] = series_of(group)
        except MedsegError as error:
            refused.append(error)
    return found, refused


def series_of(group: Sequence[Slice]) -> Series:
    """Sort and check the slices of one series; ImageError names the files where it is no volume."""
    first = min(group, key=lambda one: one.path)
    _check_alike(group, first)
    if first.rows * first.columns * len(group) > MAX_VOXELS:
        raise ImageError(first.path, f"its series has over {MAX_VOXELS:,} voxels", "crop or resample it first")
    slices = sorted(group, key=lambda one: (float(one.position @ first.normal), one.path))
    _check_distances(slices)
    step, spacing_z = _step(slices)
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[1]
    affine[:3, 1] = first.along_column * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, slices[0].position
    x, y, _ = rounded((first.spacing[1], first.spacing[0], 1.0))
    return Series(tuple(slices), affine, (x, y, None if spacing_z is None else rounded((spacing_z,) * 3)[2]))


def _check_alike(group: Sequence[Slice], first: Slice) -> None:
    """Refuse slices of another size, spacing, direction or patient, and files that are one slice twice."""
    owner: dict[str, Path] = {}
    for one in group:
        if (other := owner.setdefault(one.instance, one.path)) != one.path:
            raise ImageError(one.path, f"the same instance as {other.name}", "remove one of the two copies")
        alike = {
            f"{one.columns} x {one.rows} pixels, {first.path.name} is {first.columns} x {first.rows}":
                (one.rows, one.columns) == (first.rows, first.columns),
            f"a pixel spacing of {one.spacing}, {first.path.name} has {first.spacing}": np.allclose(one.spacing, first.spacing, 1e-4, 0),
            f"another direction than {first.path.name} (a localizer in the series?)":
                np.abs(np.concatenate([one.along_row - first.along_row, one.along_column - first.along_column])).max() <= SAME_DIRECTION,
            f"another patient or study than {first.path.name}": (one.patient, one.study) == (first.patient, first.study),
            f"the opposite order of brightness than {first.path.name} (MONOCHROME1)": one.inverted == first.inverted,
        }  # fmt: skip
        for difference, same in alike.items():
            if not same:
                raise ImageError(one.path, f"a slice with {difference}, in one series", "remove what does not belong to the series")


def _check_distances(slices: Sequence[Slice]) -> None:
    """Refuse two slices in one place, a gap, and uneven distances; slices are sorted along the normal."""
    heights = np.array([one.position @ slices[0].normal for one in slices])
    gaps = np.diff(heights)
    if not gaps.size:
        return
    if gaps.min() < 1e-3:
        at = int(gaps.argmin())
        rule = f"two slices in one place ({slices[at].path.name} and {slices[at + 1].path.name})"
        raise ImageError(slices[at + 1].path, rule, "split the phases of the series, or remove the copy")
    if gaps.max() > 1.5 * gaps.min():
        at = int(gaps.argmax())
        between = f"{slices[at].path.name} and {slices[at + 1].path.name}"
        rule = f"a slice is missing: {gaps[at]:.4g} mm between {between}, elsewhere {gaps.min():.4g} mm"
        raise ImageError(slices[at].path, rule, "export the whole series")
    positions = np.array([one.position for one in slices])
    line = positions[0] + np.linspace(0, 1, len(slices))[:, None] * (positions[-1] - positions[0])
    off = np.abs(positions - line).max(axis=1)
    if off.max() > OFF_LINE * gaps.mean():
        worst = slices[int(off.argmax())].path
        rule = f"the slices do not lie evenly on a line (this one is {off.max():.3g} mm off)"
        raise ImageError(worst, rule, "export the series again, or resample it")


def _step(slices: Sequence[Slice]) -> tuple[np.ndarray, float | None]:
    """(mm from a slice to the next (3,), their distance); of one slice its thickness, None where it states none."""
    if len(slices) == 1:
        thickness = slices[0].thickness
        return slices[0].normal * (thickness or 1.0), thickness
    step = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    return step, float(np.linalg.norm(step))


# --- pixels


def voxels_of(series: Series) -> np.ndarray:
    """(X, Y, Z) rescaled values: int16 where all are whole and fit, else float32. Raises ImageError.

    Those of MONOCHROME1 are mirrored within the volume's own range (v -> max + min - v), so that higher is brighter and the type holds.
    """
    first = series.slices[0]
    shape = (first.columns, first.rows, len(series.slices))
    array = np.empty(shape, np.int16, order="F")
    for index, one in enumerate(series.slices):
        values = _rescaled(one)
        whole = values.dtype.kind != "f" or bool((values == np.rint(values)).all())
        if array.dtype == np.int16 and not (whole and values.min() >= -32768 and values.max() <= 32767):
            kept = array[:, :, :index].astype(np.float32)
            array = np.empty(shape, np.float32, order="F")
            array[:, :, :index] = kept
        array[:, :, index] = values.T
    if first.inverted:
        turning = float(array.max()) + float(array.min())
        for index in range(shape[2]):
            array[:, :, index] = turning - array[:, :, index].astype(np.float64)
    return array


def _rescaled(one: Slice) -> np.ndarray:
    """(rows, columns) of one slice: stored values, or float64 after its own slope and intercept (they differ by slice in PET)."""
    dataset = read_elements(one.path, _PIXEL_TAGS)
    try:
        slope, intercept = (float(dataset.get(name) if dataset.get(name) not in (None, "") else plain)
                            for name, plain in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)))  # fmt: skip
        if not (np.isfinite([slope, intercept]).all() and slope != 0):
            raise ImageError(one.path, f"a rescale slope of {slope} and intercept of {intercept}", "export it again")
        _check_coded(dataset, one)
        stored = dataset.pixel_array
    except MedsegError:
        raise
    except Exception as cause:  # each decoder raises what it likes
        raise ImageError(one.path, f"its pixels cannot be decoded ({reason(cause)})", "export or copy it again") from None
    if stored.shape != (one.rows, one.columns):
        raise ImageError(one.path, f"its pixels are {stored.shape}, its header says {(one.rows, one.columns)}", "export it again")
    return stored if (slope, intercept) == (1.0, 0.0) else stored.astype(np.float64) * slope + intercept


def reason(cause: Exception) -> str:
    """The first line of what another library raised, cut at 120 characters."""
    return (str(cause) or type(cause).__name__).splitlines()[0][:120]


def _check_coded(dataset: pydicom.Dataset, one: Slice) -> None:
    """Refuse a compressed picture whose own header claims another size, before a decoder takes memory for it."""
    if "PixelData" not in dataset:
        raise ImageError(one.path, "it holds no pixels", "export it again")
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    code = next(iter(generate_frames(dataset.PixelData, number_of_frames=1)))
    raw_bytes = one.rows * one.columns * max(1, int(dataset.BitsAllocated) // 8)
    size = coded_size(code)
    if len(code) > 2 * raw_bytes + 65_536 or (size is not None and size != (one.rows, one.columns)):
        found = f"{size[1]} x {size[0]}" if size else f"{len(code):,} bytes"
        rule = f"the compressed picture in it is {found}, its header says {one.columns} x {one.rows}"
        raise ImageError(one.path, rule, "export it again")


def coded_size(code: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 stream claims; None for another kind (RLE).

    >>> coded_size(b"\\xff\\xd8\\xff\\xc0\\x00\\x0b\\x08\\x00\\x02\\x00\\x03" + b"\\0" * 9)
    (2, 3)
    """
    siz = code.find(b"\xff\x4f\xff\x51")
    if 0 <= siz < 4096 and len(code) >= siz + 24:
        right, bottom, left, top = struct.unpack(">4I", code[siz + 8 : siz + 24])
        return bottom - top, right - left
    at = 2
    while code[:2] == b"\xff\xd8" and at + 9 <= len(code) and code[at] == 0xFF:
        marker, length = code[at + 1], int.from_bytes(code[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(code[at + 5 : at + 7], "big"), int.from_bytes(code[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + length
    return None
