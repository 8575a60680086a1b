"""The verb annotate: photographs in, labelme files with predicted outlines out, the most uncertain first, so that a person corrects
where a person would have drawn. `medseg manifest import labelme` takes the corrected files back.

OUT/
  order.csv               rank, file, photograph, uncertainty, pixels of each class
  0001_<stem>.json, .jpg  one pair a photograph, numbered so that labelme, which lists a folder by name, shows the most uncertain first
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from medseg.deploy.model import Model
from medseg.deployed import open_model
from medseg.errors import AnnotationError, ConfigError, ImageError, counted
from medseg.files import staged_folder, write_json, write_text
from medseg.images import read_image
from medseg.manifest.history import is_prediction, provenance
from medseg.manifest.importers.labelme import Draft, read_draft
from medseg.outlines import TOLERANCE_PX, labelme_content, outlines
from medseg.predicting import find_images
from medseg.segmenters.exports import ExportSegmenter
from medseg.types import Size
from medseg.watching import PathLike, Progress

ORDER = "order.csv"
DIGITS = 4  # of a rank, at the least
MOST_TOLERANCE_PX = 50.0


@dataclass(frozen=True, slots=True)
class Annotated:
    """What annotate wrote of one photograph.

    copied: the photograph beside its file, None where none is wanted.  uncertainty: in [0, 1].  area_px: pixels of each class but
    background.
    """

    photograph: Path
    file: Path
    copied: Path | None
    uncertainty: float
    area_px: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Job:
    """A photograph, its sample id, and the steps by which an annotation that lies beside it came to be."""

    photograph: Path
    sample: str
    steps: tuple[str, ...]

    @property
    def stem(self) -> str:
        return self.sample.rsplit("/", 1)[-1]


def annotate(
    where: PathLike,
    paths: Sequence[PathLike],
    out: PathLike,
    tolerance_px: float = TOLERANCE_PX,
    backend: str = "auto",
    checkpoint: str = "best",
    overwrite: bool = False,
    copy: bool = True,
    progress: Progress | None = None,
) -> list[Annotated]:
    """Write a labelme file with the predicted outlines of each photograph into the folder `out`, the most uncertain first.

    where, backend, checkpoint: as `medseg.deployed.open_model` has them.  tolerance_px: how far an outline may pass by the border of what
    was predicted; where a class would come back with an IoU below 0.99, it is less, and the file says how much.  copy: put a copy of each
    photograph beside its file, numbered with it; without, files are called as the photographs are, and point to them.

    All or nothing. Raises ImageError for a photograph that cannot be read and for two that would have one name; AnnotationError where
    `out` holds anything, unless `overwrite`, and then too where a person has changed it; ConfigError for a tolerance that is none.
    """
    if not 0 <= tolerance_px <= MOST_TOLERANCE_PX:
        raise ConfigError("--tolerance", f"{tolerance_px:g} px is not from 0 to {MOST_TOLERANCE_PX:g}", "such as 0.5")
    out, progress = Path(out), progress or Progress()
    jobs = _jobs([Path(path) for path in paths], out, copy)
    _check_out(out, overwrite)
    with open_model(where, backend, checkpoint) as model, TemporaryDirectory(prefix="medseg-") as waiting, staged_folder(out) as stage:
        done: list[tuple[_Job, Annotated]] = []
        for number, job in enumerate(jobs, start=1):
            done.append((job, _write(job, model, tolerance_px, Path(waiting, f"{number}.json"), out, copy)))
            progress.on_case(number, len(jobs))
        ranked = sorted(done, key=lambda pair: (-pair[1].uncertainty, pair[0].sample))
        digits = max(DIGITS, len(str(len(jobs))))
        named = [
            _place(job, one, f"{rank:0{digits}d}_{job.stem}" if copy else "", stage) for rank, (job, one) in enumerate(ranked, start=1)
        ]
        write_text(stage / ORDER, _order(named))
        _check_out(out, overwrite)  # again: predicting takes minutes, in which a person may have gone on correcting
    return [replace(one, file=out / one.file.name, copied=out / one.copied.name if one.copied else None) for one in named]


# --- before anything is predicted


def _jobs(paths: Sequence[Path], out: Path, copy: bool) -> list[_Job]:
    jobs = [_job(path, name) for path, name in find_images(paths, out, ExportSegmenter(""))]
    seen: dict[str, Path] = {}
    for job in jobs:
        name = job.sample if copy else job.stem
        if (other := seen.setdefault(name, job.photograph)) is not job.photograph:
            fix = "annotate them into two folders" if copy else "annotate them into two folders, or let them be copied"
            raise ImageError(job.photograph, f"and {other} would both be called {name}", fix)
    return jobs


def _job(photograph: Path, name: Path) -> _Job:
    beside = photograph.with_suffix(".json")
    draft = read_draft(beside) if beside.is_file() else None
    sample = draft.history.sample if draft and draft.history else None
    return _Job(photograph, sample or name.with_suffix("").as_posix(), draft.steps if draft else ())


def _check_out(out: Path, overwrite: bool) -> None:
    """AnnotationError where writing would take away what a person has made."""
    if out.exists() and not out.is_dir():
        raise AnnotationError(out, "is a file, and a folder is to be written", "choose another --out")
    found = sorted(path for path in out.rglob("*") if path.is_file()) if out.is_dir() else []
    if found and not overwrite:
        raise AnnotationError(out, f"holds {counted(len(found), 'file')} already", "choose another --out, or allow it with --overwrite")
    written = _written(out / ORDER)
    for path in found:
        if path.name != ORDER and path.relative_to(out).as_posix() not in written:
            raise AnnotationError(path, "was not written by an earlier annotate, and would be lost", "choose another --out")
        if path.suffix == ".json" and not _is_untouched(read_draft(path)):
            raise AnnotationError(path, "has been corrected or checked since it was written, and would be lost", "choose another --out")


def _written(order: Path) -> set[str]:
    """The names of the files that an order.csv lists, photographs' copies among them."""
    if not order.is_file():
        return set()
    with order.open(newline="", encoding="utf-8") as stream:
        return {row[column] for row in csv.DictReader(stream) for column in ("file", "copy") if row.get(column)}


def _is_untouched(draft: Draft | None) -> bool:
    return draft is not None and is_prediction(draft.steps[-1])


# --- one photograph


def _write(job: _Job, model: Model, tolerance_px: float, path: Path, out: Path, copy: bool) -> Annotated:
    """The labelme file of one photograph at `path`, where it waits for its rank."""
    image_HWC = read_image(job.photograph)
    segmented = model.segment(image_HWC)
    found = outlines(segmented.mask_HW, model.labels, tolerance_px)
    image_path = "" if copy else Path(os.path.relpath(job.photograph.resolve(), out.resolve())).as_posix()
    origin, sample = model.description.origin, job.sample if copy else None
    more = provenance(found, origin.run, origin.weights_sha256, segmented.uncertainty, job.steps, sample)
    write_json(path, labelme_content(found, image_path, Size(*image_HWC.shape[:2]), more))
    counts = np.bincount(segmented.mask_HW.ravel(), minlength=len(model.labels.names))
    area_px = {name: int(counts[model.labels.id_of(name)]) for name in model.labels.foreground}
    return Annotated(job.photograph, path, None, segmented.uncertainty, area_px)


# --- all of them, ranked


def _place(job: _Job, one: Annotated, numbered: str, stage: Path) -> Annotated:
    """The file under its own name, with a copy of its photograph beside it where it is numbered."""
    content = json.loads(one.file.read_bytes())
    if not numbered:
        file, copied = stage / f"{job.stem}.json", None
    else:
        file, copied = stage / f"{numbered}.json", stage / f"{numbered}{job.photograph.suffix.lower()}"
        shutil.copyfile(job.photograph, copied)
        content["imagePath"] = copied.name
    write_json(file, content)
    return replace(one, file=file, copied=copied)


def _order(named: Sequence[Annotated]) -> str:
    """order.csv: the whole list, also where the files' own names do not give the order."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["rank", "file", "copy", "photograph", "uncertainty", *(f"px_{name}" for name in named[0].area_px)])
    for rank, one in enumerate(named, start=1):
        copied = one.copied.name if one.copied else ""
        table.writerow([rank, one.file.name, copied, one.photograph, f"{one.uncertainty:.6f}", *one.area_px.values()])
    return text.getvalue()
