"""The verb postprocess as a short story: the val predictions of runs, such as the folds of a cross-validation -> which steps help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medseg.errors import RunError
from medseg.evaluation import Asked, evaluate, evaluation_name
from medseg.files import staging
from medseg.labels import LabelSet
from medseg.manifest.schema import Manifest
from medseg.manifest.table import check_data_root, select
from medseg.postprocess import Case, Tried, Unit, choose_steps, write_steps
from medseg.report.casefiles import CaseFiles, case_files
from medseg.runfolder import RunFolder, open_run
from medseg.training import config_of_run, same_data
from medseg.types import Row
from medseg.watching import PathLike, Progress, as_path

PART = "val"
ASKED = Asked(boundary=False, calibration=False, steps=False)


class _Run(NamedTuple):
    """A run and the rows that it is asked about."""

    folder: RunFolder
    files: CaseFiles
    rows: list[Row]
    unit: Unit


def choose_postprocessing(runs: Sequence[PathLike], data_root: PathLike | None = None, progress: Progress | None = None) -> list[Tried]:
    """Predict each run's val part anew, without steps (evaluation/val_without_steps), try every step on all of them together, and write
    those that help into each run's postprocess.json, from where `evaluate` and `predict` take them. Says what was tried.

    RunError for runs of different classes, regions or ignore ids. What was chosen before stays until the end, and where it fails.
    """
    root = check_data_root(as_path(data_root))
    found = [_opened(Path(run), root) for run in runs]
    assert found, "the command line asks for a run"
    labels, unit = _shared(found)
    for run in found:
        evaluate(run.folder.path, PART, root, progress=progress, asked=ASKED)
    with ExitStack() as stack:
        cases = [case for run in found for case in _cases(run, stack.enter_context(staging(run.folder.path)))]
        tried = choose_steps(cases, labels, unit)
    facts = {"part": PART, "runs": [run.folder.id for run in found], "cases": len(cases)}
    for run in found:
        write_steps(run.folder.postprocess_json, tried, facts)
    return tried


def _opened(path: Path, root: Path) -> _Run:
    folder = open_run(path)
    config = config_of_run(folder)
    manifest, split = same_data(folder, config)
    files = case_files(manifest, root, config.data.volume is not None)
    return _Run(folder, files, select(manifest, split, PART), _unit(files))


def _unit(files: CaseFiles) -> Unit:
    """Of all rows of the manifest, so that every part that is scored can be told it."""
    rows = [row for row in files.manifest if row.mask]
    if any(row.depth_px is None for row in rows):
        return "px"
    return "mm3" if all(files.spacing_mm(row) for row in rows) else "voxels"


def _shared(runs: Sequence[_Run]) -> tuple[LabelSet, Unit]:
    first, shared = runs[0], _judged_by(runs[0].files.manifest, runs[0].unit)
    for run in runs[1:]:
        for what, value in _judged_by(run.files.manifest, run.unit).items():
            if value != shared[what]:
                raise RunError(run.folder.path, f"has {what} than {first.folder.path}", "name runs of one experiment")
    return first.files.manifest.labels, first.unit


def _judged_by(manifest: Manifest, unit: Unit) -> dict[str, object]:
    """What makes two runs' cases ones of one set; the names are said where it differs."""
    labels = manifest.labels
    named = {"other classes": labels.names, "other regions": labels.regions, "another ignore id": labels.ignore_id}
    return named | {"another unit of sizes": unit}


def _cases(run: _Run, stage: Path) -> Iterator[Case]:
    """Each case in a file of its own, which is mapped when it is asked for: together they may be larger than memory."""
    predictions = run.folder.evaluation(evaluation_name(PART, steps=False))
    for place, row in enumerate(run.rows):
        path = stage / f"{place}.npy"
        np.save(path, np.stack([run.files.reference(row), run.files.read(predictions, row)]))
        yield Case(partial(_mapped, path), run.files.spacing_mm(row))


def _mapped(path: Path) -> tuple[np.ndarray, np.ndarray]:
    reference, prediction = np.load(path, mmap_mode="r+")
    return reference, prediction
