"""The verb cv: every fold with every seed trained, its held-out images predicted, and one table of all of them.

<runs>/cv-<dataset>-<name>-<digest>/
  cv.json             what it is of; its digest names the folder, so the same command finds it again
  <run folders>       one a fold and seed
  table.md, table.csv, scores.json, per_case.csv    of the whole, once every part is there
"""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.build import resolve
from medseg.config import Config, load_config, read_config
from medseg.errors import ConfigError, MedsegError, RunError
from medseg.evaluation import evaluate
from medseg.files import write_json
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import check_data_root, read_manifest, read_split
from medseg.report.folds import Folds, write_folds
from medseg.runfolder import RunFolder, mark_dead_runs
from medseg.training import check_tracking, resume, train
from medseg.watching import PathLike, Progress, as_path

log = logging.getLogger(__name__)
CHECKPOINT = "last"  # the best one was chosen on the very images that are predicted here
CV_FORMAT = 1
OnPart = Callable[["Part", int, int], None]  # the part that begins, how many are done, how many there are


@dataclass(frozen=True, slots=True)
class Part:
    """One training of a cross-validation."""

    fold: int
    seed: int

    def __str__(self) -> str:
        return f"fold {self.fold}, seed {self.seed}"


@dataclass(frozen=True)
class CrossValidation:
    """What is to be done, and where."""

    experiment: Path
    overrides: tuple[str, ...]
    config: Config
    manifest: Manifest
    split: Split
    seeds: int
    root: Path
    runs: Path

    @property
    def parts(self) -> list[Part]:
        """Seed by seed, so that the first seed's table could be made first."""
        return [Part(fold, self.config.seed + seed) for seed in range(self.seeds) for fold in range(self.split.folds)]

    @property
    def folder(self) -> Path:
        """Named after everything the outcome follows from but the number of seeds: more of them use those that are there."""
        facts = (self.config.to_yaml(), self.manifest.digest, self.split.digest)
        return self.runs / f"cv-{self.manifest.dataset.name}-{self.config.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:10]}"


@dataclass
class Outcome:
    """The folder of a cross-validation, its table once all parts are there, and what went wrong with those that failed."""

    folder: Path
    table: str | None = None
    failed: dict[Part, MedsegError | OSError] = field(default_factory=dict)


def cross_validate(
    experiment: PathLike,
    folds: int | None = None,
    seeds: int = 1,
    overrides: Iterable[str] = (),
    data_root: PathLike | None = None,
    runs: PathLike = "runs",
    progress: Progress | None = None,
    on_part: OnPart = lambda part, done, total: None,
) -> Outcome:
    """Train each fold of the experiment's split with each of `seeds` seeds (the config's and those after it), and score them together.

    What is finished is used again, what was stopped goes on, what failed is tried again. A part that fails does not stop the others; the
    table is made when none is missing. Test is not touched. folds: must be the split's number where given.
    """
    cv = _plan(Path(experiment), folds, seeds, tuple(overrides), data_root, Path(runs))
    cv.folder.mkdir(parents=True, exist_ok=True)
    write_json(cv.folder / "cv.json", _facts(cv))
    mark_dead_runs(cv.folder)
    outcome, found, parts = Outcome(cv.folder), dict[Part, RunFolder](), cv.parts
    with _tracked(cv, outcome):
        for done, part in enumerate(parts):
            on_part(part, done, len(parts))
            try:
                found[part] = _finish(cv, part, progress or Progress())
            except (MedsegError, OSError) as cause:
                log.warning("%s has failed: %s", part, cause)
                outcome.failed[part] = cause
        if not outcome.failed:
            outcome.table = write_folds(cv.folder, _folds(cv, found))
    return outcome


def _plan(
    experiment: Path, folds: int | None, seeds: int, overrides: tuple[str, ...], data_root: PathLike | None, runs: Path
) -> CrossValidation:
    """Everything that can be refused before the first training."""
    if seeds < 1:
        raise ConfigError("--seeds", f"must be 1 or more, got {seeds}", "such as 3")
    config = resolve(load_config(experiment, overrides))
    if config.data.fold is not None:
        raise ConfigError("data.fold", f"is {config.data.fold}, and cv takes every fold in turn", "leave it out")
    root, manifest = check_data_root(as_path(data_root)), read_manifest(Path(config.data.manifest))
    split = read_split(manifest, config.data.split)
    if split.folds == 0 or folds not in (None, split.folds):
        has, asked = f"{split.folds} folds" if split.folds else "no folds", folds or 5
        command = f"medseg manifest split {shlex.quote(str(manifest.folder))} --name cv{asked} --folds {asked}"
        raise ConfigError("data.split", f"the split {split.name!r} has {has}", f"make one by `{command}` and set data.split=cv{asked}")
    check_tracking(config)
    return CrossValidation(experiment, overrides, config, manifest, split, seeds, root, runs)


def _facts(cv: CrossValidation) -> dict[str, Any]:
    return {
        "format": CV_FORMAT, "name": cv.config.name, "manifest": cv.config.data.manifest, "manifest_sha256": cv.manifest.digest,
        "split": cv.split.name, "split_sha256": cv.split.digest, "folds": cv.split.folds, "seeds": sorted({part.seed for part in cv.parts}),
        "dataset": cv.manifest.dataset.name, "config": cv.config.model_dump(mode="json"),
    }  # fmt: skip


def _finish(cv: CrossValidation, part: Part, progress: Progress) -> RunFolder:
    """The part's run, trained to its end and its held-out images predicted."""
    run = _latest(cv, part)
    if run is None:
        overrides = [*cv.overrides, f"data.fold={part.fold}", f"seed={part.seed}", f"name={cv.config.name}-f{part.fold}"]
        run = train(cv.experiment, overrides, cv.root, cv.folder, progress, parent=cv.folder.name)
    elif run.state()["status"] != "finished":
        run = resume(run.path, cv.root, progress)
    if not (_held_out(run) / "scores.json").exists():
        evaluate(run.path, "val", cv.root, CHECKPOINT, progress)
    return run


def _latest(cv: CrossValidation, part: Part) -> RunFolder | None:
    """The part's run folder, where there is one that can be used; a folder that was never begun in is passed by."""
    found = []
    for path in cv.folder.glob("*/run.json"):
        run = RunFolder(path.parent)
        try:
            state, config = run.state(), read_config(run.config_yaml)
        except MedsegError:
            continue
        if (config.data.fold, config.seed) == (part.fold, part.seed) and run.digests_json.exists():
            found.append((state["status"] == "finished", state["started"], run))
    return max(found, key=lambda each: each[:2])[2] if found else None


def _held_out(run: RunFolder) -> Path:
    return run.evaluation(f"val_{CHECKPOINT}")


def _folds(cv: CrossValidation, found: dict[Part, RunFolder]) -> Folds:
    folders: dict[int, list[Path]] = {}
    for part in cv.parts:
        folders.setdefault(part.seed, []).append(_held_out(found[part]))
    title = f"{cv.manifest.dataset.name} / {cv.config.name}: {cv.split.folds}-fold cross-validation"
    notes = [
        "Checkpoint `last`: the best one was chosen on the images that are scored here.",
        f"Manifest {cv.manifest.digest[:12]}, split `{cv.split.name}` {cv.split.digest[:12]}; its test images were not touched.",
    ]
    return Folds(folders, cv.manifest.labels, title, notes)


@contextmanager
def _tracked(cv: CrossValidation, outcome: Outcome) -> Iterator[None]:
    """MLflow's parent run ends as the cross-validation does."""
    if not cv.config.tracking.enabled:
        yield
        return
    from medseg.tracking import end_parent  # see training.check_tracking

    try:
        yield
    except BaseException as cause:
        end_parent(cv.folder, cv.config, cv.manifest.dataset.name, "interrupted" if isinstance(cause, KeyboardInterrupt) else "failed")
        raise
    end_parent(cv.folder, cv.config, cv.manifest.dataset.name, "failed" if outcome.failed else "finished")


def failures(outcome: Outcome) -> RunError:
    """What the command line ends with where parts have failed."""
    first, cause = next(iter(outcome.failed.items()))
    rule = f"{len(outcome.failed)} of its parts failed, the first ({first}): {cause}"
    return RunError(outcome.folder, rule, "the same command tries these again and keeps the rest")
