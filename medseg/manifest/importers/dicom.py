"""DICOM series and DICOM SEG -> volumes, label volumes and manifest, with no name in them.

A series becomes one NIfTI volume: slices sorted by their position along the normal, rescaled, LPS turned to RAS. Segments land on the
grid of the series they refer to. Patient, study and series appear as keyed hashes (HMAC-SHA256); the key lies outside of what is
written, so nobody without it can try out patient numbers. Nothing else of a DICOM header reaches OUT, its file names included.
"""

from __future__ import annotations

import hmac
import os
import secrets
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder

from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError, MedsegError
from medseg.files import sha256_array
from medseg.labels import LabelSet
from medseg.manifest.importers.common import (
    ImportReport,
    Notes,
    Progress,
    Record,
    counter,
    described,
    each,
    folder_at,
    frame_of,
    note_twins,
    raise_refused,
    refused_rows,
    staging,
    write_all,
)  # fmt: skip
from medseg.manifest.importers.volume_common import check_ids, column_names, rounded
from medseg.manifest.schema import Dataset
from medseg.manifest.table import DATASET_FILE
from medseg.types import Size, Spacing
from medseg.volumes import MAX_VOXELS, id_counts, write_labels, write_volume

Overlap = Literal["refuse", "order"]
MAX_SLICE_PIXELS = 2**26
MAX_SEG_BYTES = 512 * 1024**2
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
KEY_BYTES = 32
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_DIRECTION = 1e-3  # between the cosines of two slices of one series
OFF_LINE = 0.1  # of the slice distance: scanners round positions
_HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "ModalityLUTSequence", "ReferencedSeriesSequence",
]  # fmt: skip
_PIXEL_TAGS = [
    "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PhotometricInterpretation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept", "PixelData",
]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One image file of a series, its pixels not read. position, along_row, along_column: (3,), mm and cosines in LPS."""

    path: Path
    instance: str
    series: str
    study: str
    patient: str
    frame_of_reference: str
    rows: int
    columns: int
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]  # mm between rows, between columns
    thickness: float | None

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.along_column)


@dataclass(frozen=True, slots=True)
class SegFile:
    """A segmentation file: the series it refers to, its frame of reference, the labels of its segments by number."""

    path: Path
    series: tuple[str, ...]
    frame_of_reference: str
    labels: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that holds neither slice nor segmentation, and why."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The slices of a volume in their order, and the segmentations on its grid. affine: voxel (column, row, slice) -> mm in LPS."""

    slices: tuple[Slice, ...]
    affine: np.ndarray
    spacing_mm: Spacing
    segs: list[SegFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Choices:
    """What shapes the masks. id_of: class id by segment label."""

    labels: LabelSet
    id_of: Mapping[str, int]
    threshold: float
    overlap: Overlap


def import_dicom(
    src: Path,
    out: Path,
    key_file: Path,
    seg: Path | None = None,
    classes: Sequence[str] | None = None,
    threshold: float = 0.5,
    overlap: Overlap = "refuse",
    dataset_name: str | None = None,
    skip_refused: bool = False,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Write the volumes of all DICOM series under `src`, the label volumes of all SEG files there (or under `seg`) and the manifest.

    key_file: hex of at least 32 bytes, made (readable by its owner alone) where it is not there; it may not lie under `src`, `seg` or
    `out`.  threshold: of a fractional segment, inclusive.  overlap: "order" lets a later segment paint over an earlier one.  Classes
    are dataset.yaml's, `classes`, or all segment labels by name. A series without SEG is an unlabelled row. Raises ImageError or
    AnnotationError naming what cannot be imported (unless `skip_refused`), LabelError for a segment that is no class; then nothing is
    written.
    """
    root = folder_at(src, "source")
    folders = [root, *([folder_at(seg, "SEG")] if seg else [])]
    if not 0 < threshold <= 1:
        raise ManifestError("--threshold", f"must lie above 0 and at most at 1, got {threshold}", "give a share such as 0.5")
    key, fresh = _key(key_file, [*folders, out])
    job = _Job(out, key, key_file if fresh else None, classes, threshold, overlap, dataset_name, skip_refused, on_progress)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of each odd value, and would print patients' data
        return _import(folders, job)


@dataclass(frozen=True, slots=True)
class _Job:
    """The options of an import. new_key: where the key shall be written, None where it is there."""

    out: Path
    key: bytes
    new_key: Path | None
    classes: Sequence[str] | None
    threshold: float
    overlap: Overlap
    name: str | None
    skip_refused: bool
    on_progress: Progress | None


def _import(folders: list[Path], job: _Job) -> ImportReport:
    notes, root = Notes(), folders[0]
    files = _files(folders, job.out)
    slices, segs, refused, spoilt = _read_all(files, notes, counter(len(files), job.on_progress))
    series, bad = _all_series(slices, spoilt)
    refused += bad + _attach(segs, series, spoilt | {one.series for one in slices})
    if not series and not refused:
        raise AnnotationError(root, "no DICOM image series under this folder", "check the path")
    if not job.skip_refused or not series:
        raise_refused(refused, str(root))
    dataset, choices = _described(job, [seg for one in series.values() for seg in one.segs], notes)
    with staging(job.out / "images") as images, staging(job.out / "masks") as masks:
        work = partial(_convert, key=job.key, choices=choices, images=images, masks=masks)
        records = _converted(list(each(work, list(series.values()), counter(len(series), job.on_progress))), refused, notes)
        if not job.skip_refused or not records:
            raise_refused(refused, str(root))
        if refused:
            notes.add("left out; not written to refused.csv, because file names may name patients", f"{len(refused)} in all")
        if job.new_key:
            _write_key(job.new_key, job.key)
            notes.add("a new key was made; whoever holds it can find patients again, so keep it apart from the data", job.new_key.name)
        how = {"importer": "dicom", "threshold": job.threshold, "overlap": job.overlap, "refused": len(refused)}
        staged = [(images, job.out / "images"), (masks, job.out / "masks")]
        write_all(job.out, frame_of(records, dataset.labels, None), dataset, staged, how)
    labelled = sum(record.mask is not None for record in records)
    return ImportReport(job.out, labelled, len(records) - labelled, refused_rows(refused, root), notes.lines(), job.out)


def _converted(results: Sequence[tuple[Record, list[str]] | MedsegError], refused: list[MedsegError], notes: Notes) -> list[Record]:
    """The records of `results`; errors go to `refused`, remarks to `notes`."""
    records = []
    for result in results:
        if isinstance(result, MedsegError):
            refused.append(result)
            continue
        records.append(result[0])
        for remark in result[1]:
            notes.add(remark, result[0].sample_id)
    note_twins(records, notes)
    return records


def _described(job: _Job, segs: Sequence[SegFile], notes: Notes) -> tuple[Dataset, Choices]:
    """The Dataset, and the class id of each segment label; LabelError where a label is no class."""
    met = sorted({label for seg in segs for label in seg.labels.values()})
    there = job.out / DATASET_FILE
    if not met and not job.classes and not there.exists():
        raise ManifestError(job.out, "no SEG file was found, so no class has a name", "give --classes NAME,NAME, or --seg DIR")
    plain = dict(zip(met, column_names(met, notes), strict=True))
    dataset = described(job.out, job.classes, job.name, "manifest", list(plain.values()))
    if there.exists() and dataset.images_under != "manifest":
        rule = "it says `images_under: data_root`, these images are derived"
        raise ManifestError(there, rule, "write `images_under: manifest`")
    dataset = dataset.model_copy(update={"images_under": "manifest"})
    names = {label: label if label in dataset.labels.names else plain[label] for label in met}
    strays = [(seg.path, label) for seg in segs for label in seg.labels.values() if names[label] not in dataset.labels.names]
    if strays:
        path, label = strays[0]
        rule = f"the segment {label!r} is no class of the data set ({', '.join(dataset.labels.foreground)})"
        raise LabelError(path, rule, "name it in dataset.yaml (or --classes), or leave the file out")
    return dataset, Choices(dataset.labels, {label: dataset.labels.id_of(names[label]) for label in met}, job.threshold, job.overlap)


# --- the key


def _key(path: Path, folders: Sequence[Path]) -> tuple[bytes, bool]:
    """(key, whether it is new and still to be written). ManifestError where it lies in the data or is no key."""
    for folder in folders:
        if path.resolve().is_relative_to(folder.resolve()):
            raise ManifestError(path, f"the key may not lie under {folder}: it would travel with the data", "keep it somewhere else")
    try:
        text = path.read_text().strip()
        key = bytes.fromhex(text)
    except FileNotFoundError:
        return secrets.token_bytes(KEY_BYTES), True
    except (OSError, ValueError):
        key = b""
    if len(key) < KEY_BYTES:
        raise ManifestError(
            path, f"a key is at least {2 * KEY_BYTES} hexadecimal digits", "name another file; one that is not there is made"
        )
    return key, False


def _write_key(path: Path, key: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as cause:
        raise ManifestError(path, f"the key cannot be written ({cause.strerror})", "choose another --key-file") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(key.hex() + "\n")


def pseudonym(key: bytes, kind: str, identifier: str) -> str:
    """The first letter of `kind`, '_' and 16 hex digits of HMAC-SHA256 over kind and identifier.

    >>> pseudonym(b"k" * 32, "patient", "123") == pseudonym(b"k" * 32, "study", "123")
    False
    """
    return f"{kind[0]}_{hmac.digest(key, f'{kind} {identifier}'.encode(), 'sha256').hex()[:16]}"


# --- reading headers


def _files(folders: Sequence[Path], out: Path) -> list[Path]:
    """Every file under the folders, each once, sorted; hidden ones and those under `out` left out."""
    found: set[Path] = set()
    for top in folders:
        for folder, below, names in os.walk(top):
            below[:] = [name for name in below if not name.startswith(".") and Path(folder, name).resolve() != out.resolve()]
            found |= {Path(folder, name) for name in names if not name.startswith(".")}
    return sorted(found)


def _read_all(
    files: Sequence[Path], notes: Notes, advance: Callable[[], None]
) -> tuple[list[Slice], list[SegFile], list[MedsegError], set[str]]:
    """(slices, segmentations, what is refused, series of which a slice is refused)."""
    slices: list[Slice] = []
    segs: list[SegFile] = []
    refused: list[MedsegError] = []
    spoilt: set[str] = set()
    for result in each(partial(read_file, spoilt=spoilt), files, advance):
        if isinstance(result, MedsegError):
            refused.append(result)
        elif isinstance(result, LeftOut):
            notes.add(result.why, result.path.name)
        elif isinstance(result, SegFile):
            segs.append(result)
        else:
            slices.append(result)
    return slices, segs, refused, spoilt


def read_file(path: Path, spoilt: set[str]) -> Slice | SegFile | LeftOut:
    """What a file holds, from its header. `spoilt` is given the series of a slice that is refused. Raises ImageError."""
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return LeftOut(path, "not DICOM, left out")
    dataset = _read(path, _HEADER_TAGS + ["SegmentSequence"])
    try:
        return _content(dataset, path)
    except Exception as cause:  # pydicom converts a value when it is asked for, and raises whatever that raises
        with suppress(Exception):
            spoilt.add(str(dataset.get("SeriesInstanceUID", "")))
        if isinstance(cause, MedsegError):
            raise
        raise ImageError(path, f"its DICOM header cannot be used ({type(cause).__name__})", "export it again") from None


def _content(dataset: pydicom.Dataset, path: Path) -> Slice | SegFile | LeftOut:
    kind = pydicom.uid.UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
    if kind in SEGMENTATIONS:
        return _seg_file(dataset, path)
    if "Rows" in dataset and "Columns" in dataset:
        return _slice(dataset, path)
    if not kind or "Image Storage" in kind.name:  # left out in silence, its series would only look whole
        raise ImageError(path, "its DICOM header breaks off before the size of the image", "copy or export it again")
    return LeftOut(path, "no image in it, left out")


def _read(path: Path, tags: list[str]) -> pydicom.Dataset:
    """The given elements of a file; other values are passed over unread. ImageError where it cannot be parsed or is deflated."""
    try:
        syntax = str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", ""))
        if syntax not in DEFLATED:  # such a file is inflated whole before anything can be checked
            return pydicom.dcmread(path, specific_tags=list(tags), stop_before_pixels="PixelData" not in tags)
    except OSError:
        raise
    except Exception as cause:  # a hostile file makes the parser raise anything
        raise ImageError(path, f"not a readable DICOM file ({type(cause).__name__})", "export it again") from None
    raise ImageError(path, "a deflated file", "store it as Explicit VR Little Endian (dcmconv +te)")


def _slice(dataset: pydicom.Dataset, path: Path) -> Slice:
    _check_kind(dataset, path)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= MAX_SLICE_PIXELS or max(rows, columns) > 32_767:
        raise ImageError(path, f"{columns} x {rows} pixels, the limit is {MAX_SLICE_PIXELS:,} in all", "scale it down first")
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
    ids = [str(dataset.get(name) or "").strip() for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")]
    if not all(ids):
        raise ImageError(path, "it does not say of which series and study it is", "export it again")
    patient, place = (str(dataset.get(name) or "").strip() for name in ("PatientID", "FrameOfReferenceUID"))
    thickness = float(dataset.get("SliceThickness") or 0)
    spacing = (float(numbers["PixelSpacing"][0]), float(numbers["PixelSpacing"][1]))
    return Slice(
        path, ids[0], ids[1], ids[2], patient, place, rows, columns, numbers["ImagePositionPatient"], along_row, along_column,
        spacing, thickness if 0 < thickness < 1e4 else None,
    )  # fmt: skip


def _check_kind(dataset: pydicom.Dataset, path: Path) -> None:
    """Refuse what is no single grey slice, or cannot be decoded here."""
    if int(dataset.get("NumberOfFrames") or 1) > 1 or "Enhanced" in dataset.get("SOPClassUID", pydicom.uid.UID("")).name:
        raise ImageError(path, "a multi-frame (enhanced) file", "convert it to single frames (dcmtk, highdicom), or to NIfTI by dcm2niix")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise ImageError(path, "a colour image, not a slice of a volume", "convert it to PNG and import it as a photograph")
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


def _seg_file(dataset: pydicom.Dataset, path: Path) -> SegFile:
    series = tuple(str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence") or ())
    padding = 0  # a labelmap describes its background as a segment of that number
    labels = {int(item.SegmentNumber): str(item.SegmentLabel).strip() for item in dataset.get("SegmentSequence") or ()}
    labels = {number: label for number, label in sorted(labels.items()) if number != padding}
    if not labels or not all(labels.values()):
        raise AnnotationError(path, "its segments have no labels", "export the segmentation again")
    return SegFile(path, series, str(dataset.get("FrameOfReferenceUID") or ""), labels)


# --- series


def _all_series(slices: Iterable[Slice], spoilt: set[str]) -> tuple[dict[str, Series], list[MedsegError]]:
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


def _attach(segs: Sequence[SegFile], series: dict[str, Series], known: set[str]) -> list[MedsegError]:
    """Give each segmentation to its series; an error for one whose series is not here. `known`: also the series that are refused."""
    refused: list[MedsegError] = []
    by_place: dict[str, list[str]] = {}
    for uid, one in series.items():
        by_place.setdefault(one.slices[0].frame_of_reference, []).append(uid)
    for seg in segs:
        named = [uid for uid in seg.series if uid in series]
        if not seg.series and seg.frame_of_reference:
            named = by_place.get(seg.frame_of_reference, [])
        if len(named) == 1:
            series[named[0]].segs.append(seg)
        elif not named and any(uid in known for uid in seg.series):
            continue  # its series is refused by its own name
        else:
            rule = "the series it refers to is not here" if not named else f"it fits {len(named)} series here"
            refused.append(AnnotationError(seg.path, rule, "add its series, or leave the file out"))
    return refused


# --- pixels


def _convert(series: Series, key: bytes, choices: Choices, images: Path, masks: Path) -> tuple[Record, list[str]]:
    """Write one volume, and its labels where it has segmentations, into the stages; (record, notes)."""
    first = series.slices[0]
    notes = []
    patient = pseudonym(key, "patient", first.patient)
    if not first.patient:
        patient = pseudonym(key, "patient", f"of study {first.study}")
        notes.append("no patient ID: the study is taken as the group")
    sample_id = f"{patient}/{pseudonym(key, 'volume', first.series)}"
    affine = LPS_TO_RAS @ series.affine
    mask, remarks = labels_of(series, choices) if series.segs else (None, [])  # before the volume: it is refused more often
    array = voxels_of(series)
    write_volume(images / f"{sample_id}.nii.gz", array, affine)
    size, more = Size(first.rows, first.columns), {"study_id": pseudonym(key, "study", first.study)}
    digest = sha256_array(array)
    depth = len(series.slices)
    plain = Record(
        sample_id, f"images/{sample_id}.nii.gz", size, digest, group_id=patient, depth_px=depth, spacing_mm=series.spacing_mm, more=more
    )
    if mask is None:
        return plain, notes
    counts = id_counts(mask)
    check_ids(counts, choices.labels, series.segs[0].path)
    write_labels(masks / f"{sample_id}.nii.gz", mask, affine)
    px = {name: int(counts[class_id]) for class_id, name in choices.labels.classes.items()}
    labelled = Record(
        sample_id, plain.image, size, digest, f"masks/{sample_id}.nii.gz", sha256_array(mask), px, patient, depth, series.spacing_mm, more
    )
    return labelled, notes + remarks


def voxels_of(series: Series) -> np.ndarray:
    """(X, Y, Z) rescaled values: int16 where all are whole and fit, else float32. Raises ImageError."""
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
    return array


def _rescaled(one: Slice) -> np.ndarray:
    """(rows, columns) of one slice: stored values, or float64 after its own slope and intercept (they differ by slice in PET)."""
    dataset = _read(one.path, _PIXEL_TAGS)
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
        raise ImageError(one.path, f"its pixels cannot be decoded ({_reason(cause)})", "export or copy it again") from None
    if stored.shape != (one.rows, one.columns):
        raise ImageError(one.path, f"its pixels are {stored.shape}, its header says {(one.rows, one.columns)}", "export it again")
    return stored if (slope, intercept) == (1.0, 0.0) else stored.astype(np.float64) * slope + intercept


def _reason(cause: Exception) -> str:
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


# --- segmentations


def labels_of(series: Series, choices: Choices) -> tuple[np.ndarray, list[str]]:
    """(uint8 (X, Y, Z) class ids, notes) of a series' segmentations, painted by file and segment number.

    Raises AnnotationError where two files name one segment, a frame lies off the series' grid, or segments of two classes overlap.
    """
    first = series.slices[0]
    mask = np.zeros((first.columns, first.rows, len(series.slices)), np.uint8, order="F")
    clashes: Counter[tuple[int, int]] = Counter()
    owner: dict[str, Path] = {}
    notes: list[str] = []
    for seg in series.segs:
        for label in sorted(set(seg.labels.values())):
            if owner.setdefault(label, seg.path) != seg.path:
                rule = f"the segment {label!r} of this series is in {owner[label].name} too"
                raise AnnotationError(seg.path, rule, "keep one of the two files")
        clashes += _paint(seg, series, choices, mask, notes)
    if clashes and choices.overlap == "refuse":
        (below, above), count = clashes.most_common(1)[0]
        names = choices.labels.names
        rule = f"the segments {names[below]!r} and {names[above]!r} overlap in {count:,} voxels"
        raise AnnotationError(series.segs[-1].path, rule, "pass --overlap order to let the later segment number win, or correct them")
    if clashes:
        notes.append("segments overlap; the later one wins")
    return mask, notes


def _paint(seg: SegFile, series: Series, choices: Choices, mask: np.ndarray, notes: list[str]) -> Counter[tuple[int, int]]:
    """Paint one file's segments into `mask`; voxels painted over, by (class below, class above)."""
    from highdicom.seg import segread  # slow to import, and only sets with a SEG need it

    clashes: Counter[tuple[int, int]] = Counter()
    try:
        if seg.path.stat().st_size > MAX_SEG_BYTES:
            raise AnnotationError(seg.path, f"over {MAX_SEG_BYTES >> 20} MB", "split it by segment")
        content = segread(seg.path)  # not lazily: highdicom 0.28 then misreads 1-bit frames that do not end at a byte
        kind = str(content.SegmentationType)
        _check_seg_grid(content, seg, series)
        for number, index, frame in sorted(_frames(content, kind, seg, series)):
            for value, inside in _segments_in(content, kind, number, frame, seg, choices):
                class_id = choices.id_of[seg.labels[value]]
                there = mask[:, :, index]
                hit = inside.T & (there != 0) & (there != class_id)
                for below, count in zip(*np.unique(there[hit], return_counts=True), strict=True):
                    clashes[(int(below), class_id)] += int(count)
                if class_id:
                    there[inside.T] = class_id
    except (MedsegError, OSError):
        raise
    except Exception as cause:  # highdicom and pydicom raise what they like for a broken file
        raise AnnotationError(seg.path, f"the segmentation cannot be read ({_reason(cause)})", "export it again") from None
    if kind == "FRACTIONAL":
        notes.append(f"fractional segments, taken from a share of {choices.threshold:g}")
    return clashes


def _check_seg_grid(content: Any, seg: SegFile, series: Series) -> None:
    first = series.slices[0]
    if (int(content.Rows), int(content.Columns)) != (first.rows, first.columns):
        rule = f"its frames are {content.Columns} x {content.Rows}, the slices of its series {first.columns} x {first.rows}"
        raise AnnotationError(seg.path, rule, "resample the segmentation onto its series")
    place = str(content.get("FrameOfReferenceUID") or "")
    if place and first.frame_of_reference and place != first.frame_of_reference:
        raise AnnotationError(seg.path, "it has another frame of reference than its series", "register it to the series first")


def _frames(content: Any, kind: str, seg: SegFile, series: Series) -> list[tuple[int, int, int]]:
    """(segment number, slice index, frame number from 1) of each frame; the number is 0 in a labelmap, which holds all segments."""
    shared = content.SharedFunctionalGroupsSequence[0]
    items = content.PerFrameFunctionalGroupsSequence
    if len(items) != int(content.NumberOfFrames):
        raise AnnotationError(seg.path, f"{content.NumberOfFrames} frames, {len(items)} are described", "export the segmentation again")
    found = []
    for frame, item in enumerate(items, start=1):
        index = _slice_index(*_geometry(item, shared), seg, series)
        number = 0 if kind == "LABELMAP" else int(_group(item, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        if kind != "LABELMAP" and number not in seg.labels:
            raise AnnotationError(seg.path, f"frame {frame} is of segment {number}, which is not described", "export it again")
        found.append((number, index, frame))
    return found


def _group(item: Any, shared: Any, name: str) -> Any:
    return (item if name in item else shared)[name][0]


def _geometry(item: Any, shared: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position, orientation, spacing between rows and columns) of a frame."""
    position = _group(item, shared, "PlanePositionSequence").ImagePositionPatient
    orientation = _group(item, shared, "PlaneOrientationSequence").ImageOrientationPatient
    spacing = _group(item, shared, "PixelMeasuresSequence").PixelSpacing
    position, orientation, spacing = (np.array([float(one) for one in values]) for values in (position, orientation, spacing))
    return position, orientation, spacing


def _slice_index(position: np.ndarray, orientation: np.ndarray, spacing: np.ndarray, seg: SegFile, series: Series) -> int:
    """The slice a frame lies on; AnnotationError where there is none."""
    first = series.slices[0]
    fix = "resample the segmentation onto its series"
    turned = np.abs(orientation - np.concatenate([first.along_row, first.along_column])).max() > SAME_DIRECTION
    if turned or not np.allclose(spacing, first.spacing, 1e-3, 0):
        raise AnnotationError(seg.path, "it lies on another grid than its series (direction or pixel spacing differ)", fix)
    away = np.linalg.norm(np.array([one.position for one in series.slices]) - position, axis=1)
    nearest = int(away.argmin())
    if away[nearest] > OFF_LINE * min(*first.spacing, *(gap for gap in series.spacing_mm if gap)):
        shown = ", ".join(f"{value:g}" for value in position)
        rule = f"it lies on another grid than its series: no slice at ({shown}), the nearest is {away[nearest]:.3g} mm away"
        raise AnnotationError(seg.path, rule, fix)
    return nearest


def _segments_in(content: Any, kind: str, number: int, frame: int, seg: SegFile, choices: Choices) -> list[tuple[int, np.ndarray]]:
    """(segment number, bool (rows, columns)) of what one frame holds."""
    stored = content.get_stored_frame(frame)
    if kind == "LABELMAP":
        values = [int(value) for value in np.unique(stored) if value != int(content.get("PixelPaddingValue", 0))]
        if strays := [value for value in values if value not in seg.labels]:
            raise AnnotationError(seg.path, f"it holds the value {strays[0]}, which no segment describes", "export the segmentation again")
        return [(value, stored == value) for value in values]
    if kind == "FRACTIONAL":
        return [(number, stored.astype(np.float64) / float(content.MaximumFractionalValue) >= choices.threshold)]
    return [(number, stored != 0)]
