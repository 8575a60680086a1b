"""DICOM SEG -> label volumes: each file given to its series, its frames painted onto the slices they lie on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom

from medseg.errors import AnnotationError, LabelError, MedsegError
from medseg.labels import LabelSet
from medseg.manifest.importers.dicom_series import OFF_LINE, SAME_DIRECTION, SegFile, Series, naming_parts, plain, reason

Overlap = Literal["refuse", "order"]
MAX_SEG_BYTES = 512 * 1024**2


@dataclass(frozen=True, slots=True)
class Choices:
    """What shapes the masks. id_of: class id by segment label."""

    labels: LabelSet
    id_of: Mapping[str, int]
    threshold: float
    overlap: Overlap


def seg_file_of(dataset: pydicom.Dataset, path: Path) -> SegFile:
    """The SegFile that a header describes; AnnotationError where its segments have no labels."""
    series = tuple(str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence") or ())
    padding = 0  # a labelmap describes its background as a segment of that number
    labels = {int(item.SegmentNumber): str(item.SegmentLabel).strip() for item in dataset.get("SegmentSequence") or ()}
    labels = {number: label for number, label in sorted(labels.items()) if number != padding}
    if not labels or not all(labels.values()):
        raise AnnotationError(path, "its segments have no labels", "export the segmentation again")
    return SegFile(path, series, str(dataset.get("FrameOfReferenceUID") or ""), labels, naming_parts(dataset))


def refuse_naming(segs: Iterable[tuple[SegFile, frozenset[str]]], vouched: Collection[str]) -> None:
    """LabelError for a segment label that repeats a part of what names its patient: it would reach the manifest as a class name.

    segs: each file with the parts that its series states.  vouched: class names that the user gave; those are no longer the file's.
    """
    for seg, parts in segs:
        for label in set(seg.labels.values()) - set(vouched):
            text = plain(label)
            squeezed = re.sub(r"[\W_]+", "", text)  # 1970-02-03 is 19700203 too
            if any(part in text or part in squeezed for part in seg.naming | parts):
                rule = "the label of a segment repeats an identifying field (a part of the patient's name, number or birth date)"
                raise LabelError(seg.path, rule, "rename the segment; or, if it names nobody, name the classes yourself by --classes")


def attach(segs: Sequence[SegFile], series: dict[str, Series], known: set[str]) -> list[MedsegError]:
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
                _paint_segment(mask[:, :, index], inside.T, choices.id_of[seg.labels[value]], clashes)
    except (MedsegError, OSError):
        raise
    except Exception as cause:  # highdicom and pydicom raise what they like for a broken file
        raise AnnotationError(seg.path, f"the segmentation cannot be read ({reason(cause)})", "export it again") from None
    if kind == "FRACTIONAL":
        notes.append(f"fractional segments, taken from a share of {choices.threshold:g}")
    return clashes


def _paint_segment(there: np.ndarray, inside: np.ndarray, class_id: int, clashes: Counter[tuple[int, int]]) -> None:
    """Paint `class_id` into one slice, `there` (X, Y), where `inside`; voxels of another class there are added to `clashes`."""
    hit = inside & (there != 0) & (there != class_id)
    for below, count in zip(*np.unique(there[hit], return_counts=True), strict=True):
        clashes[(int(below), class_id)] += int(count)
    if class_id:
        there[inside] = class_id


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
