"""A folder of scores -> a Source, a line of the published table: a run (or several that differ in the seed alone), a cross-validation, or
what `medseg score` has written. Everything published is made of its long table of cases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medseg.config import read_config
from medseg.errors import RunError, counted
from medseg.labels import BACKGROUND
from medseg.manifest.ledger import count_rows
from medseg.metrics.protocol import Protocol
from medseg.publishing.casefile import COUNTS, TEXT, WHOLE, read_cases
from medseg.runfolder import open_run
from medseg.yamlio import read_yaml

_OF_PREDICTIONS = {"test_time", "checkpoint"}  # what was predicted with, not how it was scored
_BESIDE = {"calibration", "detection"}  # made of other things than the cases' table
_BOUNDARY = {"boundary", "spacing", "tolerances"}
MLFLOW = "mlflow:"  # and an experiment's name: read from the tracking server


@dataclass(frozen=True)
class Source:
    """One line of a table.

    cases: a row per seed, image and class or region, as per_case.csv has them, with the columns seed and fold in front (-1 where there is
    no such thing).  folders: where each row's pictures lie, by (seed, fold).  facts: of the data and the code, for captions and footnotes.
    """

    label: str
    cases: pd.DataFrame
    protocol: Protocol
    folders: Mapping[tuple[int, int], Path]
    facts: Mapping[str, Any]
    runs: Mapping[tuple[int, int], Path] = field(default_factory=dict)  # the run folders, by (seed, fold); none of a scored folder
    fingerprint: str | None = None  # equal for runs that differ in the seed alone
    named: Mapping[tuple[int, int], str] = field(default_factory=dict)  # of folders that are copies: what they are copies of

    def shown(self, seed: int, fold: int) -> str:
        """What is said of the folder of a row: where it lies, or what it is a copy of."""
        return self.named.get((seed, fold)) or str(self.folders.get((seed, fold), ""))

    @cached_property
    def n_cases(self) -> int:
        """Images, whatever the number of classes and seeds."""
        return int(self.cases["sample_id"].nunique())

    @cached_property
    def groups(self) -> list[str]:
        """Of all cases, sorted; a group's place here is its row wherever groups are counted."""
        return sorted(self.cases["group_id"].unique())

    @cached_property
    def parts(self) -> Mapping[tuple[str, int], pd.DataFrame]:
        """The cases of each class or region and seed, with the column `place`: their group's, in `groups`."""
        placed = self.cases.assign(place=np.searchsorted(self.groups, self.cases["group_id"].to_numpy(object)))
        return {(str(name), int(str(seed))): part for (name, seed), part in placed.groupby(["name", "seed"], sort=False)}

    @cached_property
    def names(self) -> list[str]:
        """Foreground classes, then regions."""
        return [name for name in self.cases["name"].unique().tolist() if name != BACKGROUND]

    @cached_property
    def classes(self) -> list[str]:
        """The foreground classes; a mean over classes is of these."""
        of_class = self.cases.loc[self.cases["kind"] == "class", "name"].unique().tolist()
        return [name for name in of_class if name != BACKGROUND]

    @property
    def metrics(self) -> list[str]:
        """Every score that a case has: ratios, then distances."""
        return [column for column in self.cases.columns if column not in {*TEXT, *WHOLE, *COUNTS}]

    @cached_property
    def seeds(self) -> list[int]:
        """Of the trainings; one -1 where nobody knows."""
        return [int(seed) for seed in self.cases["seed"].unique()]


def read_sources(texts: Sequence[str], split: str = "test", scratch: Path | None = None) -> list[Source]:
    """A Source of each PATH or LABEL=PATH; those of one label, and runs that differ in the seed alone, become one.

    In place of a path `mlflow:EXPERIMENT` or `mlflow:EXPERIMENT/RUN` is read from the tracking server, by copies below `scratch`, which
    must outlive the sources. Raises RunError for a folder that holds no scores, and where two labels are the same by accident.
    """
    found: dict[str, list[Source]] = {}
    seen = set[Path]()
    for text in texts:
        label, where = _label(text)
        for path, names in _folders(where, split, scratch):
            if path.resolve() in seen:
                raise RunError(where, "is named twice", "name each run once: it cannot be held against itself")
            seen.add(path.resolve())
            source = _named(_read(path, split), names)
            if label is not None:
                source = replace(source, label=label, fingerprint=f"label {label}")
            found.setdefault(source.fingerprint or f"path {path.resolve()}", []).append(source)
    return _told_apart([_joined(each) for each in found.values()])


def _folders(where: str, split: str, scratch: Path | None) -> list[tuple[Path, Mapping[Path, str]]]:
    """The folders to read, with the names of those in them that are copies."""
    if not where.startswith(MLFLOW):
        return [(Path(where), {})]
    if scratch is None:
        raise RunError(where, "is read by copies, and there is no folder for them", "give one, which must stay: scratch=Path(...)")
    from medseg.tracking import fetch  # mlflow takes seconds to import

    return [(found.path, found.names) for found in fetch(where, split, scratch)]


def _named(source: Source, names: Mapping[Path, str]) -> Source:
    parts = {part: (run, source.folders[part]) for part, run in source.runs.items() if run in names}
    return replace(source, named={part: f"{names[run]}/{folder.relative_to(run).as_posix()}" for part, (run, folder) in parts.items()})


def check_alike(sources: Sequence[Source]) -> None:
    """RunError unless all are of the same cases, references and groups, scored by the same rules."""
    first, *others = sources
    for other in others:
        keys = differing_rules(first.protocol, other.protocol)
        if keys:
            rule = f"its scores were made by other rules ({', '.join(keys)}) than those of {first.label}"
            raise RunError(other.label, rule, "score both by one protocol, with the same options")
        _check_cases(first, other)


def differing_rules(one: Protocol, other: Protocol) -> list[str]:
    """The rules in which two protocols differ. Distances are ruled by those that both have; what one lacks is not compared."""
    left_out = _OF_PREDICTIONS | _BESIDE | (set() if one.boundary and other.boundary else _BOUNDARY)
    mine, theirs = one.to_dict(), other.to_dict()
    return [key for key in mine if key not in left_out and mine[key] != theirs[key]]


def _check_cases(first: Source, other: Source) -> None:
    """The same images, in the same groups, with the same reference: as many pixels of each class in each."""
    mine, theirs = (_references(source) for source in (first, other))
    fix = "evaluate both on one split of one manifest"
    alone = mine.index.symmetric_difference(theirs.index)
    if len(alone):
        sample, name = alone[0]
        whose = first.label if (sample, name) in mine.index else other.label
        images = alone.get_level_values(0).nunique()
        what = f"{counted(len(alone), 'row')} of {counted(images, 'image')} in one alone, such as {sample} ({name}) in {whose}"
        raise RunError(other.label, f"its cases are not those of {first.label}: {what}", fix)
    for column, what in (("group_id", "group"), ("pixels", "reference")):
        if len(apart := mine.index[mine[column] != theirs.loc[mine.index, column]]):
            rule = f"the {what} of {apart[0][0]} ({apart[0][1]}) is another than in {first.label}"
            raise RunError(other.label, rule, fix)


def _references(source: Source) -> pd.DataFrame:
    first = source.cases[source.cases["seed"] == source.seeds[0]].set_index(["sample_id", "name"])
    return pd.DataFrame({"group_id": first["group_id"], "pixels": first["tp"] + first["fn"]}).sort_index()


def _label(text: str) -> tuple[str | None, str]:
    """A path, or an experiment's name, may hold "=": what is there as it stands is a path."""
    label, found, where = text.partition("=")
    if not found or text.startswith(MLFLOW) or Path(text).exists() or not label.strip():
        return None, text
    return label.strip(), where


def _read(path: Path, split: str) -> Source:
    if (path / "run.json").exists():
        return _read_run(path, split)
    if (path / "cv.json").exists():
        return _read_cross_validation(path)
    if (path / "scores.json").exists():
        return _read_folder(path, path.name)
    raise RunError(path, "holds no scores", "name a run folder, a cross-validation, or what `medseg score --out` has written")


def _read_run(path: Path, split: str) -> Source:
    run = open_run(path)
    config = read_config(run.config_yaml)
    folder = run.evaluation(split)
    if not (folder / "scores.json").exists():
        raise RunError(path, f"its {split} was not scored", f"run `medseg evaluate {path} --split {split}` first")
    source = _read_folder(folder, config.name)
    git = _section(_json(run.environment_json), "git", run.environment_json)
    cases = source.cases.assign(seed=config.seed)
    facts = {**source.facts, "run": [run.id], "commit": [_commit(git)], "dataset": str(run.state().get("dataset"))}
    facts |= {"split_name": config.data.split, "epoch": [source.facts["checkpoint"].get("epoch")]}
    splits = Path(config.data.manifest) / "splits"
    if split == "test" and splits.is_dir():
        facts["test_scorings"] = count_rows(splits, cases["sample_id"].unique())
    folders = {(config.seed, -1): folder}
    digests = read_yaml(run.digests_json, RunError)
    fingerprint = json.dumps([config.model_copy(update={"seed": 0}).to_yaml(), digests.get("manifest_sha256"), digests.get("split_sha256")])
    return replace(source, cases=cases, facts=facts, folders=folders, runs={(config.seed, -1): path}, fingerprint=fingerprint)


def _commit(git: Mapping[str, Any]) -> str:
    return f"{str(git.get('commit') or 'unknown')[:10]}{' with uncommitted changes' if git.get('dirty') else ''}"


def _read_folder(folder: Path, label: str) -> Source:
    """An evaluation: scores.json says by which rules, per_case.csv holds the cases."""
    content = _json(folder / "scores.json")
    protocol, checkpoint = (_section(content, key, folder / "scores.json") for key in ("protocol", "checkpoint"))
    cases = read_cases(folder / "per_case.csv").assign(seed=-1, fold=-1)
    facts = {key: content.get(key) for key in ("split", "manifest_sha256", "split_sha256", "calibration")}
    return Source(label, cases, Protocol.read(protocol, folder), {(-1, -1): folder}, facts | {"notes": [], "checkpoint": checkpoint})


def _read_cross_validation(path: Path) -> Source:
    content, about = _json(path / "scores.json"), _json(path / "cv.json")
    cases = read_cases(path / "per_case.csv")
    if not {"seed", "fold"} <= set(cases.columns):
        raise RunError(path / "per_case.csv", "has no columns seed and fold", "make the cross-validation's table again: medseg cv")
    if missing := {"name", "dataset", "split", "manifest_sha256", "split_sha256"} - set(about):
        raise RunError(path / "cv.json", f"lacks {', '.join(sorted(missing))}", "give the command `medseg cv ...` again")
    facts = {"split": "out of fold", "manifest_sha256": about["manifest_sha256"], "split_sha256": about["split_sha256"]}
    facts |= {"run": [path.name], "commit": [], "dataset": about["dataset"], "split_name": about["split"], "notes": [], "checkpoint": {}}
    protocol = Protocol.read(_section(content, "protocol", path / "scores.json"), path)
    runs = _parts(path)
    folders = {part: open_run(run).evaluation("val_last") for part, run in runs.items()}
    return Source(str(about["name"]), cases, protocol, folders, facts, runs)


def _parts(path: Path) -> dict[tuple[int, int], Path]:
    """The run folder of each seed and fold; parts that are gone are left out."""
    found = {}
    for run_json in sorted(path.glob("*/run.json")):
        run = open_run(run_json.parent)
        config = read_config(run.config_yaml)
        if config.data.fold is not None:
            found[config.seed, config.data.fold] = run.path
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunError(path, "cannot be read", "evaluate the run again") from None
    if not isinstance(content, dict):
        raise RunError(path, "is no record of scores", "evaluate the run again")
    return content


def _section(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """An object inside a record, empty where there is none."""
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise RunError(path, f"{key} is no object", "evaluate the run again")
    return found


def _joined(sources: Sequence[Source]) -> Source:
    """Runs of one label: a seed each, of the same cases by the same rules."""
    if len(sources) == 1:
        return sources[0]
    check_alike(sources)
    first, *others = sources
    for other in others:
        if keys := [key for key, value in first.protocol.to_dict().items() if other.protocol.to_dict()[key] != value]:
            rule = f"two of its runs were predicted or scored in two ways ({', '.join(keys)}), and cannot be one line"
            raise RunError(first.label, rule, "evaluate both with the same options, or give them labels of their own: LABEL=PATH")
    seeds = [seed for source in sources for seed in source.seeds]
    if len(set(seeds)) < len(seeds):
        rule = f"two of its runs have one seed ({', '.join(map(str, seeds))})" if first.runs else "two folders of masks are no two seeds"
        raise RunError(sources[0].label, rule, "name each run once, or give them labels of their own: LABEL=PATH")
    lists = {key: [one for source in sources for one in source.facts[key]] for key in ("run", "commit", "epoch") if key in first.facts}
    folders = {key: path for source in sources for key, path in source.folders.items()}
    runs = {key: path for source in sources for key, path in source.runs.items()}
    named = {key: name for source in sources for key, name in source.named.items()}
    cases = pd.concat([source.cases for source in sources], ignore_index=True)
    return replace(first, cases=cases, facts={**first.facts, **lists}, folders=folders, runs=runs, named=named)


def _told_apart(sources: Iterable[Source]) -> list[Source]:
    """Two of one label get their run's or folder's name behind it."""
    sources = list(sources)
    labels = [source.label for source in sources]
    return [
        replace(source, label=f"{source.label} ({_whence(source)})") if labels.count(source.label) > 1 else source for source in sources
    ]


def _whence(source: Source) -> str:
    return ", ".join(source.facts.get("run") or [str(next(iter(source.folders.values())))])
