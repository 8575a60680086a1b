"""The verb postprocess as a short story: the val predictions of runs, such as the folds of a cross-validation -> which steps help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.errors import RunError
from medseg.evaluation import Asked, evaluate
from medseg.labels import LabelSet
from medseg.manifest.table import check_data_root, select
from medseg.postprocess import Tried, choose_steps, write_steps
from medseg.report.casefiles import case_files
from medseg.runfolder import RunFolder, open_run
from medseg.training import PathLike, Progress, as_path, config_of_run, same_data

PART = "val"
Pair = tuple[np.ndarray, np.ndarray]  # reference, prediction


def choose_postprocessing(runs: Sequence[PathLike], data_root: PathLike | None = None, progress: Progress | None = None) -> list[Tried]:
    """Predict each run's val part anew, without steps, try every step on all of them together, and write those that help into each run's
    postprocess.json, from where `evaluate` and `predict` take them. Says what was tried. RunError for runs of different classes."""
    folders, pairs, labels = [open_run(Path(run)) for run in runs], list[Pair](), None
    for folder in folders:
        folder.postprocess_json.unlink(missing_ok=True)
        evaluate(folder.path, PART, data_root, progress=progress, asked=Asked(boundary=False, calibration=False))
        found, more = _pairs(folder, as_path(data_root))
        if labels is not None and found.names != labels.names:
            raise RunError(folder.path, f"its classes are not those of {folders[0].path}", "name runs of one experiment")
        labels, pairs = found, [*pairs, *more]
    assert labels is not None, "the command line asks for a run"
    tried = choose_steps(pairs, labels)
    facts = {"part": PART, "runs": [folder.id for folder in folders], "cases": len(pairs)}
    for folder in folders:
        write_steps(folder.postprocess_json, tried, facts)
    return tried


def _pairs(folder: RunFolder, data_root: Path | None) -> tuple[LabelSet, list[Pair]]:
    config = config_of_run(folder)
    manifest, split = same_data(folder, config)
    files = case_files(manifest, check_data_root(data_root), config.data.volume is not None)
    rows = select(manifest, split, PART)
    return manifest.labels, [(files.reference(row), files.read(folder.evaluation(PART), row)) for row in rows]
