"""DICOM series and DICOM SEG -> volumes, label volumes and manifest, with no name in them.

A series becomes one NIfTI volume: slices sorted by their position along the normal, rescaled, LPS turned to RAS. Segments land on the
grid of the series they refer to. Patient, study and series appear as keyed hashes (HMAC-SHA256); the key lies outside of what is
written, so nobody without it can try out patient numbers. Nothing else of a DICOM header reaches OUT, its file names included.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pydicom

from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError, MedsegError
from medseg.files import sha256_array, staging, walk
from medseg.manifest.importers.common import (
    ImportReport,
    Notes,
    Progress,
    Record,
    alike_names,
    check_out,
    counter,
    described,
    each,
    folder_at,
    frame_of,
    note_background,
    note_twins,
    raise_refused,
    refused_links,
    refused_rows,
    relative,
    told_full,
    write_all,
)  # fmt: skip
from medseg.manifest.importers.dicom_key import key_at, pseudonym, write_key
from medseg.manifest.importers.dicom_seg import Choices, Overlap, attach, labels_of, refuse_naming, seg_file_of
from medseg.manifest.importers.dicom_series import SegFile, Series, Slice, all_series, is_bare, read_elements, slice_of, voxels_of
from medseg.manifest.importers.volume_common import check_ids, column_names
from medseg.manifest.schema import Dataset
from medseg.manifest.table import DATASET_FILE, read_dataset
from medseg.types import Size
from medseg.volumes import id_counts, write_labels, write_volume

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")  # of names that say DICOM
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "ModalityLUTSequence", "PatientName", "PatientBirthDate", "IssuerOfPatientID", "PhotometricInterpretation",
    "BurnedInAnnotation", "ImageType", "ReferencedSeriesSequence", "SegmentSequence",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that holds neither slice nor segmentation, and why.

    unread: it is no DICOM that can be read, but may have been.  error: it is refused, and of which series it is cannot be told.
    """

    path: Path
    why: str
    unread: bool = False
    error: MedsegError | None = None


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
    key, fresh = key_at(key_file, [*folders, out])
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
    check_out(job.out, folders, SUFFIXES)
    note_background(job.classes, notes)
    files = sorted({path for folder in folders for path in walk(folder, ("",), [job.out])})
    slices, segs, refused, spoilt = _read_all(files, folders, notes, counter(len(files), job.on_progress))
    refused += [error for folder in folders for error in refused_links(folder, ("",), [job.out], notes)]
    series, bad = all_series(slices, spoilt)
    refused += bad + attach(segs, series, spoilt | {one.series for one in slices})
    if not series and not refused:
        raise AnnotationError(root, "no DICOM image series under this folder", "check the path")
    if not job.skip_refused or not series:
        raise_refused(refused, str(root))
    dataset, choices = _described(job, list(series.values()), notes)
    _note_issuers(series.values(), notes)
    with told_full(job.out), staging(job.out / "images") as images, staging(job.out / "masks") as masks:
        work = partial(_convert, key=job.key, choices=choices, images=images, masks=masks)
        records = _converted(list(each(work, list(series.values()), counter(len(series), job.on_progress))), refused, notes)
        if not job.skip_refused or not records:
            raise_refused(refused, str(root))
        mirrored = {_sample_id(one.slices[0], job.key) for one in series.values() if one.slices[0].inverted}
        how = {"monochrome1_mirrored": sorted(mirrored & {record.sample_id for record in records})}
        _write(job, records, dataset, how, [(images, job.out / "images"), (masks, job.out / "masks")], refused, notes)
    labelled = sum(record.mask is not None for record in records)
    return ImportReport(job.out, labelled, len(records) - labelled, refused_rows(refused, root), notes.lines(), job.out)


def _write(
    job: _Job,
    records: Sequence[Record],
    dataset: Dataset,
    more: Mapping[str, object],
    staged: Sequence[tuple[Path, Path]],
    refused: Sequence[MedsegError],
    notes: Notes,
) -> None:
    """Write a new key, then what is staged (stage, target) and the manifest; `notes` is told of what was left out and of the key.

    more: what import.json shall say beside the options.
    """
    if refused:
        notes.add("left out; not written to refused.csv, because file names may name patients", f"{len(refused)} in all")
    if job.new_key:
        write_key(job.new_key, job.key)
        notes.add("a new key was made; whoever holds it can find patients again, so keep it apart from the data", job.new_key.name)
    how = {"importer": "dicom", "threshold": job.threshold, "overlap": job.overlap, "refused": len(refused), **more}
    write_all(job.out, frame_of(records, dataset.labels, None), dataset, staged, how)


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


def _described(job: _Job, series: Sequence[Series], notes: Notes) -> tuple[Dataset, Choices]:
    """The Dataset, and the class id of each segment label; LabelError where a label is no class, or may name a patient."""
    segs = [seg for one in series for seg in one.segs]
    naming = [(seg, frozenset().union(*(slice_.naming for slice_ in one.slices))) for one in series for seg in one.segs]
    refuse_naming(naming, _vouched(job))  # before anything that could show a label
    met = sorted({label for seg in segs for label in seg.labels.values()})
    there = job.out / DATASET_FILE
    if not met and not job.classes and not there.exists():
        raise ManifestError(job.out, "no SEG file was found, so no class has a name", "give --classes NAME,NAME, or --seg DIR")
    if not job.classes and not there.exists():
        for seg in segs:
            notes.add(f"class names come from the SEG files: {', '.join(met)}; check that none names a person", seg.path.name)
        for line in alike_names(met):
            notes.say(line)
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


def _vouched(job: _Job) -> set[str]:
    """The class names that the user gave, by --classes or in dataset.yaml."""
    there = job.out / DATASET_FILE
    return {*(job.classes or ()), *(read_dataset(there).labels.names if there.exists() else ())}


def _note_issuers(series: Iterable[Series], notes: Notes) -> None:
    """Note series that share a patient ID and not its issuer: if it is one patient after all, a split could tear the two apart."""
    issuers: dict[str, set[str]] = {}
    firsts = [one.slices[0] for one in series]
    for first in firsts:
        issuers.setdefault(first.patient.partition("\0")[0], set()).add(first.patient)
    for first in firsts:
        if len(issuers[first.patient.partition("\0")[0]]) > 1:
            rule = "its patient ID stands under another issuer (or none) too, and is taken as another patient there"
            notes.add(rule, first.path.name)


# --- reading headers


def _read_all(
    files: Sequence[Path], folders: Sequence[Path], notes: Notes, advance: Callable[[], None]
) -> tuple[list[Slice], list[SegFile], list[MedsegError], set[str]]:
    """(slices, segmentations, what is refused, series of which a slice is refused)."""
    slices: list[Slice] = []
    segs: list[SegFile] = []
    left_out: list[LeftOut] = []
    refused: list[MedsegError] = []
    spoilt: set[str] = set()
    for result in each(partial(read_file, folders=folders, spoilt=spoilt), files, advance):
        if isinstance(result, MedsegError):
            refused.append(result)
        elif isinstance(result, LeftOut):
            left_out.append(result)
        elif isinstance(result, SegFile):
            segs.append(result)
        else:
            slices.append(result)
    return slices, segs, [*refused, *_lost(left_out, slices, notes, spoilt)], spoilt


def _lost(left_out: Sequence[LeftOut], slices: Sequence[Slice], notes: Notes, spoilt: set[str]) -> list[MedsegError]:
    """An error for each file that may be a slice gone bad, which `spoilt` is given the series beside it for; the others are noted."""
    beside: dict[Path, list[Slice]] = {}
    for one in slices:
        beside.setdefault(one.path.parent, []).append(one)
    refused: list[MedsegError] = []
    for file in left_out:
        near = beside.get(file.path.parent, [])
        if error := file.error or _may_be_lost(file, near):
            spoilt |= {one.series for one in near}  # with a slice fewer they would only look whole
            refused.append(error)
        else:
            notes.add(file.why, file.path.name)
    return refused


def _may_be_lost(file: LeftOut, near: Sequence[Slice]) -> ImageError | None:
    """The error for a file that may have been a slice of the series in its folder; None where its name says that it is another kind."""
    if not file.unread:
        return None
    name, suffix = file.path.name, file.path.suffix.lower()
    alike = next((one.path.name for one in near if _pattern(one.path.name) == _pattern(name)), "")
    empty = not file.path.stat().st_size
    if suffix in SUFFIXES or alike or (empty and not re.search("[a-z]", suffix)):
        said = f", though named like the slice {alike}" if alike else ""
        why = "the file is empty" if empty else f"not DICOM, or damaged{said}"
        rule = f"{why}: it may be a slice, so no series of its folder can be told whole"
        return ImageError(file.path, rule, "export or copy it again, or move it out of the folder if it is none")
    return None


def _pattern(name: str) -> str:
    """A name with each number as one sign.

    >>> _pattern("IM0012.dcm") == _pattern("IM7.dcm")
    True
    """
    return re.sub(r"\d+", "#", name)


def read_file(path: Path, folders: Sequence[Path], spoilt: set[str]) -> Slice | SegFile | LeftOut:
    """What a file of one of `folders` holds, from its header. `spoilt` is given the series of a slice that is refused.

    Raises ImageError, or AnnotationError for a segmentation that cannot be used and for a symbolic link out of the folder.
    """
    if path.exists() and not path.is_file():
        return LeftOut(path, "a pipe or device, left out")
    dataset = _header(path)
    if isinstance(dataset, LeftOut):
        return dataset
    try:
        relative(path, next(folder for folder in folders if path.is_relative_to(folder)))
        return _content(dataset, path)
    except Exception as cause:  # pydicom converts a value when it is asked for, and raises whatever that raises
        error = cause if isinstance(cause, MedsegError) else None
        error = error or ImageError(path, f"its DICOM header cannot be used ({type(cause).__name__})", "export it again")
    series = ""
    with suppress(Exception):
        series = str(dataset.get("SeriesInstanceUID", ""))
    if not series:
        return LeftOut(path, "", error=error)
    spoilt.add(series)
    raise error


def _header(path: Path) -> pydicom.Dataset | LeftOut:
    """The elements of a file that are looked at; LeftOut where it is not DICOM, or is but cannot be parsed."""
    not_dicom = LeftOut(path, "not DICOM, left out", unread=True)
    bare: bool | None = False
    try:
        if (bare := is_bare(path)) is None:
            return not_dicom
        dataset = read_elements(path, _HEADER_TAGS)
    except ImageError as error:
        return not_dicom if bare else LeftOut(path, "", error=error)  # of the bare: another kind of file that begins alike
    except OSError as cause:
        unreadable = AnnotationError(path, f"cannot be read ({cause.strerror})", "check its permissions and the disk")
        return LeftOut(path, "", error=unreadable)
    return not_dicom if bare and "SOPClassUID" not in dataset else dataset


def _content(dataset: pydicom.Dataset, path: Path) -> Slice | SegFile | LeftOut:
    """What a parsed header describes; ImageError or AnnotationError where it cannot be used."""
    kind = pydicom.uid.UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
    if kind in SEGMENTATIONS:
        return seg_file_of(dataset, path)
    stated = dataset.get("ImageType") or ()
    if "LOCALIZER" in [str(one).upper() for one in ([stated] if isinstance(stated, str) else stated)]:
        return LeftOut(path, "a localizer, left out")
    if "Rows" in dataset and "Columns" in dataset:
        return slice_of(dataset, path)
    if not kind or "Image Storage" in kind.name:  # left out in silence, its series would only look whole
        raise ImageError(path, "its DICOM header breaks off before the size of the image", "copy or export it again")
    return LeftOut(path, "no image in it, left out")


# --- writing volumes


def _convert(series: Series, key: bytes, choices: Choices, images: Path, masks: Path) -> tuple[Record, list[str]]:
    """Write one volume, and its labels where it has segmentations, into the stages; (record, notes)."""
    first = series.slices[0]
    patient, notes = _group(first, key)
    sample_id = _sample_id(first, key)
    if first.inverted:
        notes.append("MONOCHROME1, a higher value is darker: mirrored within the volume's range of values")
    affine = LPS_TO_RAS @ series.affine
    mask, remarks = labels_of(series, choices) if series.segs else (None, [])  # before the volume: it is refused more often
    array = voxels_of(series)
    write_volume(images / f"{sample_id}.nii.gz", array, affine)
    record = Record(
        sample_id, f"images/{sample_id}.nii.gz", Size(first.rows, first.columns), sha256_array(array), group_id=patient,
        depth_px=len(series.slices), spacing_mm=series.spacing_mm, more={"study_id": pseudonym(key, "study", first.study)},
    )  # fmt: skip
    if mask is None:
        return record, notes
    counts = id_counts(mask)
    check_ids(counts, choices.labels, series.segs[0].path)
    write_labels(masks / f"{sample_id}.nii.gz", mask, affine)
    px = {name: int(counts[class_id]) for class_id, name in choices.labels.classes.items()}
    labelled = replace(record, mask=f"masks/{sample_id}.nii.gz", mask_sha256=sha256_array(mask), px=px)
    return labelled, notes + remarks


def _sample_id(first: Slice, key: bytes) -> str:
    return f"{_group(first, key)[0]}/{pseudonym(key, 'volume', first.series)}"


def _group(first: Slice, key: bytes) -> tuple[str, list[str]]:
    """(keyed hash of the patient, notes); of the study where no patient is named."""
    if first.patient:
        return pseudonym(key, "patient", first.patient), []
    return pseudonym(key, "patient", f"of study {first.study}"), ["no patient ID: the study is taken as the group"]
