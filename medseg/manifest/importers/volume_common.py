"""What the importers of volumes share: pairs checked against each other, class ids counted, one end for all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError, MedsegError
from medseg.files import nfc, read_json, walk
from medseg.images import VOLUME_SUFFIXES
from medseg.labels import BACKGROUND, LabelSet
from medseg.manifest.imagefiles import combined
from medseg.manifest.importers.common import (
    ImportReport,
    MasksUnder,
    Notes,
    Progress,
    Record,
    counter,
    described,
    each,
    frame_of,
    hashed,
    note_twins,
    raise_refused,
    refused_file,
    refused_rows,
    relative,
    without_clashes,
    without_mask,
    write_all,
)  # fmt: skip
from medseg.manifest.schema import Dataset
from medseg.manifest.table import DATASET_FILE
from medseg.types import Size
from medseg.volumes import (
    DETACHED_SUFFIXES,
    Header,
    forms_disagree,
    id_counts,
    read_header,
    read_label_volume,
    refuse_detached,
    rounded,
    same_affine,
    verify_volume,
    volume_stem,
)  # fmt: skip

UNPLACED = "the header does not say where left and right are (NIfTI: neither sform nor qform is set)"
TORN = "qform and sform disagree; the sform is used"


@dataclass(frozen=True, slots=True)
class Case:
    """A volume to import.

    images: its files, one a channel where they are several; the manifest names the first.  channels: how many channels the one file
    must hold.
    """

    sample_id: str
    images: tuple[Path, ...]
    mask: Path | None = None
    channels: int = 1


def volumes_under(root: Path, skip: Sequence[Path] = ()) -> list[Path]:
    """The volume files under a folder, sorted."""
    return walk(root, VOLUME_SUFFIXES, skip)


def refused_detached(root: Path, skip: Sequence[Path] = ()) -> list[MedsegError]:
    """An error for each header under a folder whose voxels lie in another file, so that no such volume is left out in silence."""
    refused: list[MedsegError] = []
    for path in walk(root, DETACHED_SUFFIXES, skip):
        try:
            refuse_detached(path)
        except ImageError as error:
            refused.append(error)
    return refused


def volume_id(path: Path, root: Path) -> str:
    """The sample id of a volume: its path under `root` without the suffix, in one Unicode form, so that volume and mask match."""
    return nfc(volume_stem(path.relative_to(root).as_posix()))


# --- descriptions (dataset.json)


def read_description(path: Path) -> dict[str, Any]:
    """A dataset.json; AnnotationError for a file that is missing, a folder, too large, no JSON or no mapping."""
    fix = "check the path, or correct the file"
    if path.is_dir():
        raise AnnotationError(path, "a folder, where a file is expected", fix)
    if not path.exists():
        fix = "check the path; volumes without such a description are taken by `medseg manifest import nifti --images DIR --masks DIR`"
        raise AnnotationError(path, "there is no such file", fix)
    content = read_json(path, AnnotationError, fix, larger=fix)
    if not isinstance(content, dict):
        raise AnnotationError(path, "must hold a mapping of keys to values", fix)
    return content


def ordered_names(content: Mapping[str, Any], key: str, path: Path) -> list[str]:
    """A list of names, or a mapping "0": name, "1": name, in order; AnnotationError for anything else."""
    found = content.get(key)
    names = found
    if isinstance(found, dict) and set(found) == {str(index) for index in range(len(found))}:
        names = [found[str(index)] for index in range(len(found))]
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    raise AnnotationError(path, f'`{key}` must name the channels, as {{"0": "CT"}}, got {found!r:.80}', "correct the file")


def column_names(names: Sequence[str], notes: Notes) -> list[str]:
    """Names that can head a column: signs that cannot stand there become '_'; a note says which.

    >>> column_names(["Prostate (PZ)", "edema/tumour"], Notes())
    ['Prostate _PZ', 'edema_tumour']
    """
    result: list[str] = []
    for number, name in enumerate(names, start=1):
        plain = re.sub(r"[^\w .+-]+", "_", name.strip()).strip("_ .+-")[:60]
        if not re.match(r"[A-Za-z0-9]", plain):
            plain = f"class_{number}"
        if plain in result or (plain == BACKGROUND and name != BACKGROUND):
            plain = f"{plain}_{number}"
        if plain != name:
            notes.add("a name that cannot head a column was changed", f"{name!r} -> {plain!r}")
        result.append(plain)
    return result


def described_as(
    out: Path, labels: LabelSet, name: str | None, stated: str, facts: Mapping[str, str], under: MasksUnder = "data_root"
) -> Dataset:
    """The Dataset of a set that describes itself: `labels` and `facts`, or the dataset.yaml in `out`, which must agree in the labels.

    name: as the user gave it.  stated: as the set's own description does; used where there is no other.
    """
    there = (out / DATASET_FILE).exists()
    own = re.sub(r"[^\w.-]+", "_", stated, flags=re.ASCII).strip("_.-")
    dataset = described(out, labels.foreground, name if there else name or own or None, under, [])
    if not there:
        return dataset.model_copy(update={"labels": labels, **facts})
    if dataset.labels.ignore_id != labels.ignore_id:
        rule = f"it says ignore_id {dataset.labels.ignore_id}, the set's own description {labels.ignore_id}"
        raise ManifestError(out / DATASET_FILE, rule, "correct the file")
    return dataset


# --- one case


def record_of(case: Case, root: Path, labels: LabelSet) -> tuple[Record, list[str]]:
    """(record, notes) of a case whose files decode to their last voxel and fit each other.

    image_sha256: as `imagefiles.image_hash` finds it. Raises ImageError, LabelError or AnnotationError.
    """
    header = _image_header(case)
    notes = _notes(case.images[0], header)
    digests = [hashed(path) for path in case.images]
    record = Record(
        case.sample_id, image_path(case, root), Size(header.shape[1], header.shape[0]), combined(digests),
        depth_px=header.shape[2], spacing_mm=rounded(header.spacing_mm), more=channel_cell(case),
    )  # fmt: skip
    if case.mask is None:
        return record, notes
    check_fit(case.images[0], header, case.mask, read_header(case.mask))
    counts = id_counts(read_label_volume(case.mask))
    check_ids(counts, labels, case.mask)
    px = {name: int(counts[class_id]) for class_id, name in labels.classes.items()}
    if forms_disagree(case.mask):
        notes.append(f"the mask's {TORN}")
    return replace(record, mask=relative(case.mask, root), mask_sha256=hashed(case.mask), px=px), notes


def _image_header(case: Case) -> Header:
    """The header of the first file, after reading all of them to the end; the channels must lie on one grid."""
    headers = [verify_volume(path) for path in case.images]
    for path, header in zip(case.images, headers, strict=True):
        if header.channels != case.channels:
            rule = f"its fourth axis holds {header.channels} channels, {case.channels} expected"
            fix = "name the channels in a dataset.json (import decathlon), or save one volume a file"
            raise ImageError(path, rule, fix if case.channels == 1 else "correct the list of modalities, or the file")
        if path is not case.images[0]:
            check_fit(case.images[0], headers[0], path, header, "the channel")
    return headers[0]


def _notes(path: Path, header: Header) -> list[str]:
    return [*([] if header.placed else [UNPLACED]), *([TORN] if forms_disagree(path) else [])]


def image_path(case: Case, root: Path) -> str:
    """The first file relative to `root`; AnnotationError where a symbolic link leads any of the files out of it."""
    return [relative(path, root) for path in case.images][0]


def channel_cell(case: Case) -> dict[str, str]:
    """The manifest's cell `channels`, of a case whose channels are files of their own."""
    return {"channels": str(len(case.images))} if len(case.images) > 1 else {}


def check_fit(image: Path, header: Header, other: Path, found: Header, what: str = "the mask") -> None:
    """ImageError where a mask (or channel) lies on another grid than its image: shape, orientation or affine."""
    fix = "resample it onto the image's grid, or take the image it was drawn on"
    if found.shape != header.shape:
        rule = f"{what} is {_shape(found)}, its image {image.name} is {_shape(header)}"
        raise ImageError(other, rule, fix)
    if same_affine(header.affine, found.affine):
        return
    shown = f"the image's is {_matrix(header.affine)}, {what}'s {_matrix(found.affine)}"
    if found.orientation != header.orientation:
        rule = f"the image {image.name} is {header.orientation}, {what} {found.orientation}: the affines differ, {shown}"
        raise ImageError(other, rule, "write both in one orientation (the voxels too, not the header alone)")
    raise ImageError(other, f"{what} lies elsewhere than its image {image.name}: of the affines, {shown}", fix)


def _shape(header: Header) -> str:
    return " x ".join(map(str, (*header.shape, *([header.channels] if header.channels > 1 else []))))


def _matrix(affine: np.ndarray) -> str:
    return "[" + "; ".join(" ".join(f"{value:.6g}" for value in row) for row in affine[:3]) + "]"


def check_ids(counts: np.ndarray, labels: LabelSet, path: Path) -> None:
    """LabelError for ids that are no class, and for {0, 255}, where 255 would silently be the ignore id. counts: (256,)."""
    values = np.flatnonzero(counts).astype(np.uint8)
    if labels.ignore_id == 255 and 255 in values and set(values.tolist()) <= {0, 255}:
        shown = "only 255" if len(values) == 1 else "only 0 and 255"
        rule = f"the mask holds {shown}; 255 is the ignore id, so nothing would be {' or '.join(labels.foreground)}"
        raise LabelError(path, rule, f"convert 255 to {labels.id_of(labels.foreground[0])}, or set another ignore_id in dataset.yaml")
    labels.check(values, path)


# --- all of them


@dataclass(frozen=True, slots=True)
class Job:
    """What the end of an import needs to know. how: goes to import.json."""

    out: Path
    root: Path
    dataset: Dataset
    how: Mapping[str, object]
    group_pattern: str | None = None
    skip_refused: bool = False
    on_progress: Progress | None = None


def import_cases(
    cases: Sequence[Case],
    job: Job,
    refused: list[MedsegError],
    notes: Notes,
    work: Callable[[Case], tuple[Record, list[str]]] | None = None,
) -> ImportReport:
    """Check every case and write the manifest, or raise one error naming all that cannot be imported (unless skip_refused)."""
    records: list[Record] = []
    work = work or partial(record_of, root=job.root, labels=job.dataset.labels)
    for result in each(work, cases, counter(len(cases), job.on_progress)):
        if isinstance(result, MedsegError):
            refused.append(result)
            continue
        records.append(result[0])
        for note in result[1]:
            notes.add(note, result[0].sample_id)
    records, clashes = without_clashes(records)
    refused += clashes
    if not job.skip_refused or not records:
        raise_refused(refused, str(job.root))
    if not records:
        raise AnnotationError(job.root, "no volume to import", "check the path")
    note_twins(records, notes)
    rows = refused_rows(refused, job.root)
    write_all(job.out, frame_of(records, job.dataset.labels, job.group_pattern), job.dataset, how=job.how, beside=refused_file(rows))
    plain = without_mask(records)
    return ImportReport(job.out, len(records) - len(plain), len(plain), rows, notes.lines(), job.root, plain)
