"""MLflow -> folders that read as those of runs and cross-validations do: for reports where the folders themselves are elsewhere.

Names come from a server and become paths here: a folder's and a file's name must be a plain one, so that none leaves `scratch`.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType

from medseg.config import read_config
from medseg.errors import MedsegError, RunError, counted
from medseg.runfolder import COURSE_FILES, IDENTITY_FILES, NETWORK_FILES, RunFolder
from medseg.tracking.address import connect_to_read, reading_uri, reason, without_secrets
from medseg.tracking.sent import read_json

log = logging.getLogger("medseg.tracking")

SCHEME = "mlflow:"
NAME, RUN_ID = re.compile(r"\w[\w.-]{0,250}"), re.compile(r"[A-Za-z0-9_-]{1,64}")
FURTHER = ("dataset.yaml", *NETWORK_FILES, *COURSE_FILES)  # those that are there
OF_CV, WHOLE_CV = ("cv.json", "scores.json", "per_case.csv", "table.csv"), {"cv.json", "scores.json", "per_case.csv"}
PAGE = 1000  # runs in one answer


@dataclass(frozen=True)
class Fetched:
    """path: the copy, of a run folder or a cross-validation.  names: of each run folder in it, `mlflow:EXPERIMENT/RUN_ID`."""

    path: Path
    names: Mapping[Path, str]


@dataclass(frozen=True)
class _Server:
    """One experiment of a server, and where its files are copied to."""

    client: MlflowClient
    experiment: Experiment
    scratch: Path

    def name(self, run: Run) -> str:
        return f"{SCHEME}{self.experiment.name}/{run.info.run_id}"

    def runs(self) -> list[Run]:
        """All that medseg has made, but those that somebody has deleted; the names they ask for as folders are plain."""
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([self.experiment.experiment_id], "", ViewType.ACTIVE_ONLY, PAGE, None, token)
            found += page
            if not (token := page.token):
                return [run for run in found if NAME.fullmatch(_folder_of(run)) and RUN_ID.fullmatch(run.info.run_id)]

    def files(self, run: Run, folder: str = "") -> dict[str, str]:
        """name -> artifact path of the plain files in one folder of a run's artifacts; subfolders are left out."""
        found = self.client.list_artifacts(run.info.run_id, folder or None)
        paths = [each.path for each in found if not each.is_dir and posixpath.dirname(each.path) == folder]
        return {name: path for path in paths if NAME.fullmatch(name := posixpath.basename(path))}

    def copy(self, run: Run, paths: Sequence[str], target: Path) -> None:
        """Artifacts to the same places below `target`. Each by itself: MLflow's own download draws a progress bar for every file."""
        artifacts = self.client._tracking_client._get_artifact_repo(run.info.run_id)
        for path in paths:
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            artifacts._download_file(path, str(place))

    def folder(self, run: Run) -> Path:
        """Where a run's copy comes to lie; the last part is its own folder's name, because that is what a report calls it."""
        return self.scratch / run.info.run_id / _folder_of(run)


def fetch(where: str, split: str, scratch: Path) -> list[Fetched]:
    """Copies below `scratch` of what `mlflow:EXPERIMENT` or `mlflow:EXPERIMENT/RUN` names, in the order in which they were begun.

    Of an experiment, its finished runs whose `split` was scored, of those of equal configuration, data and seed the latest; where there is
    none, its cross-validations. RUN: a run's name, the name of its folder, or its MLflow id. RunError where there is nothing such, or
    nobody answers.
    """
    if not NAME.fullmatch(split):
        raise RunError(split, "cannot be the name of a part", "name train, val or test")
    uri = reading_uri()
    try:
        client = connect_to_read(uri)
        experiment, name = _experiment(client, where, uri)
        return _fetch(_Server(client, experiment, scratch), where, name, split)
    except MedsegError:
        raise
    except Exception as cause:  # MLflow's errors are of many kinds
        fix = "start the server, or set MLFLOW_TRACKING_URI to the one that holds the runs"
        raise RunError(where, f"{without_secrets(uri)} cannot be read ({reason(cause)})", fix) from cause


def _experiment(client: MlflowClient, where: str, uri: str) -> tuple[Experiment, str | None]:
    """The experiment, and which run of it; an experiment's own name may hold a slash."""
    text = where.removeprefix(SCHEME)
    front, _, back = text.rpartition("/")
    for experiment, run in ((text, None), (front, back)):
        found = client.get_experiment_by_name(experiment) if experiment else None
        if found and found.lifecycle_stage == "active":
            return found, run or None
    there = ", ".join(sorted(each.name for each in client.search_experiments(max_results=20)))
    rule = f"there is no experiment {text!r} at {without_secrets(uri)}, there are: {there}"
    raise RunError(where, rule, "an experiment is named after its data set; MLFLOW_TRACKING_URI says where it is looked for")


def _fetch(server: _Server, where: str, name: str | None, split: str) -> list[Fetched]:
    everything = server.runs()
    asked = [run for run in everything if _is_called(run, name)] if name else [run for run in everything if _is_line(run)]
    if name and not asked:
        called = ", ".join(sorted({run.info.run_name for run in everything})[:20])
        raise RunError(where, f"no run of {server.experiment.name!r} is called {name!r}; there are: {called or 'none'}", "name one of them")
    scored = [run for run in asked if "scores.json" in server.files(run, f"evaluation/{split}")]
    if whole := [run for run in scored if _begin(server, run)]:
        return [_run(server, run, split) for run in _latest(server, whole, where)]
    parents = [run for run in asked if set(server.files(run)) >= WHOLE_CV]
    if not parents:
        runs = f"{counted(len(asked), 'run')} of that name" if name else f"{counted(len(asked), 'finished run')}"
        rule = f"of {runs}, {'none is whole at the server' if scored else f'none has its {split} scored'}, and none is a cross-validation"
        fix = "send them again: medseg track sync RUN..." if scored else f"medseg evaluate RUN --split {split}, or name another --split"
        raise RunError(where, rule, fix)
    return [_cross_validation(server, run, everything) for run in sorted(parents, key=_folder_of)]


def _folder_of(run: Run) -> str:
    return str(run.data.tags.get("medseg.run_id", ""))


def _is_line(run: Run) -> bool:
    return run.info.status == "FINISHED" and "mlflow.parentRunId" not in run.data.tags


def _is_called(run: Run, name: str) -> bool:
    return name in (run.info.run_id, run.info.run_name, _folder_of(run))


def _begin(server: _Server, run: Run) -> bool:
    """Copy what says which run it is; False, and a warning, where the server has not got that."""
    if missing := sorted(set(IDENTITY_FILES) - set(server.files(run))):
        log.warning("%s is passed by: %s not at the server; `medseg track sync` sends it", server.name(run), ", ".join(missing))
        return False
    server.copy(run, IDENTITY_FILES, server.folder(run))
    return True


def _latest(server: _Server, runs: Sequence[Run], where: str) -> Iterator[Run]:
    """Of runs that are the same but for when they were made the latest; in the order in which they were begun."""
    latest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: _began(server, run)):
        if earlier := latest.pop(key := _what(server.folder(run)), None):
            log.warning("%s: %s is passed by, %s is the same later", where, _folder_of(earlier), _folder_of(run))
        latest[key] = run
    return iter(latest.values())


def _began(server: _Server, run: Run) -> tuple[str, str]:
    return str(RunFolder(server.folder(run)).state().get("started")), _folder_of(run)


def _what(folder: Path) -> str:
    """Configuration, seed and data; where it was tracked makes no other run."""
    run = RunFolder(folder)
    digests: dict[str, Any] = read_json(run.digests_json) or {}
    config = read_config(run.config_yaml).model_dump(mode="json", exclude={"tracking"})
    return json.dumps([config, digests.get("manifest_sha256"), digests.get("split_sha256")], sort_keys=True)


def _run(server: _Server, run: Run, split: str) -> Fetched:
    folder, there = server.folder(run), server.files(run)
    further = [there[name] for name in FURTHER if name in there]
    server.copy(run, [*further, *server.files(run, f"evaluation/{split}").values()], folder)
    return Fetched(folder, {folder: server.name(run)})


def _cross_validation(server: _Server, parent: Run, runs: Sequence[Run]) -> Fetched:
    """Its table's files, and of its parts what their learning curves are drawn from."""
    folder, there = server.folder(parent), server.files(parent)
    server.copy(parent, [name for name in OF_CV if name in there], folder)
    names = {folder: server.name(parent)}
    for run in (run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id):
        there = server.files(run)
        if set(there) >= set(IDENTITY_FILES):
            part = folder / _folder_of(run)
            server.copy(run, [name for name in (*IDENTITY_FILES, *FURTHER) if name in there], part)
            names[part] = server.name(run)
    return Fetched(folder, names)
