"""The verb register as a short story: a run -> a version in MLflow's model registry, which an alias comes to name where it is no worse."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medseg.config import read_config
from medseg.deploy.description import Description, read_description
from medseg.deploy.scored import are_of
from medseg.errors import ConfigError, ExportError, MedsegError, RunError
from medseg.files import read_json, sha256_file
from medseg.publishing.overall import Overall, check_metric, compare_overall
from medseg.publishing.sources import read_sources
from medseg.runfolder import RunFolder, open_run
from medseg.tracking.address import live_uri, tracking_uri
from medseg.tracking.registry import ADDRESS, SCHEME, WAYS_OUT, Registry
from medseg.tracking.sent import Sent

PART = "val"
MARGIN = 0.005
PathLike = str | Path
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Registered:
    """A new version. uri: of the registry.  alias: that names it now, None where none was asked for.  before: the version that it named
    until now.  compared: with that one; None where there was none."""

    name: str
    version: str
    uri: str
    alias: str | None = None
    before: str | None = None
    compared: Overall | None = None


@dataclass(frozen=True)
class _Asked:
    """What a version must be to be given an alias."""

    name: str
    alias: str
    metric: str
    margin: float


@dataclass(frozen=True)
class _Held:
    """holder: the version that has the alias.  compared: a run with it. None where no version has it."""

    holder: str | None = None
    compared: Overall | None = None


def register(
    run: PathLike,
    name: str | None = None,
    alias: str | None = None,
    export: PathLike | None = None,
    metric: str = "iou",
    margin: float = MARGIN,
    tell: Tell | None = None,
) -> Registered:
    """Register a run as a new version of `name` (that of its data set where not given), with its val scores beside it.

    export: what `medseg export` wrote of this very run; made in a scratch folder where not given.  alias: is moved to the version where
    none has it yet, or where the lower end of the 95 % interval of the paired difference to the one that has it (val; mean over the
    classes of the images' own `metric`) is above -margin.

    RunError where val was not scored as the run is now; where the two cannot be compared: nothing is registered then; and where the
    version is not shown to be good enough: it is registered, and the alias stays.
    """
    folder, tell = open_run(Path(run)), tell or (lambda step: None)
    config = read_config(folder.config_yaml)
    name = _checked_name(name or str(folder.state()["dataset"]))
    asked = None if alias is None else _Asked(name, _checked_alias(alias), check_metric(metric), _checked_margin(margin))
    scores = _val_scores(folder)
    registry = Registry(_where(folder, tracking_uri(config)))
    with TemporaryDirectory(prefix="medseg-") as scratch:
        held = _hold(asked, registry, folder, Path(scratch, "now")) if asked else _Held()  # what cannot be compared is told before the work
        exported = Path(export) if export is not None else _exported(folder, Path(scratch, "export"), tell)
        description = _description_of(exported, folder, scores)
        tell("registering")
        version = registry.add(name, folder, exported, description, _tags(folder, description, scores))
        return _give(asked, registry, folder, version, held, Path(scratch)) if asked else Registered(name, version, registry.uri)


def _where(run: RunFolder, configured: str) -> str:
    """The registry that is beside the run's own MLflow run; MLFLOW_TRACKING_URI, which `configured` follows, decides where it is set."""
    sent = Sent.read(run)
    return configured if os.environ.get("MLFLOW_TRACKING_URI") or sent is None else live_uri(sent.uri)


def _checked_name(name: str) -> str:
    if not ADDRESS.fullmatch(f"{SCHEME}{name}/1"):
        raise ConfigError("--name", f"{name!r} cannot be the name of a registered model", "leave out / : and @")
    return name


def _checked_alias(alias: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,250}", alias) or re.fullmatch(r"latest|v\d+", alias.lower()):
        fix = "take letters, digits, _ and -; latest, v1, v2 ... are MLflow's own"
        raise ConfigError("--alias", f"{alias!r} cannot be an alias", fix)
    return alias


def _checked_margin(margin: float) -> float:
    if not 0 < margin <= 1:
        raise ConfigError("--margin", f"must lie above 0 and not above 1, got {margin:g}", "name the largest loss that does not matter")
    return margin


def _val_scores(run: RunFolder) -> dict[str, Any]:
    path = run.evaluation(PART) / "scores.json"
    if not path.is_file():
        raise RunError(run.path, f"its {PART} was not scored", _evaluate(run))
    content: dict[str, Any] = read_json(path, RunError, _evaluate(run))
    return content


def _evaluate(run: RunFolder) -> str:
    return f"run `medseg evaluate {run.path} --split {PART}` first"


def _exported(run: RunFolder, target: Path, tell: Tell) -> Path:
    from medseg.exporting.verb import export  # torch, which an export that is there already does without

    return export(run.path, target, tell=tell).folder


def _description_of(exported: Path, run: RunFolder, scores: dict[str, Any]) -> Description:
    """What the export says of itself; ExportError where it is of another run, RunError where val was scored by another network."""
    description = read_description(exported)
    description.graph_file(exported)
    origin = description.origin
    files = ((run.checkpoint(origin.checkpoint), origin.weights_sha256), (run.config_yaml, origin.config_sha256))
    if origin.run != run.id or any(not path.is_file() or sha256_file(path) != digest for path, digest in files):
        rule = f"is an export of {origin.run} as it was on {origin.exported[:10]}, not of {run.id} as it is"
        raise ExportError(exported, rule, f"export it again: medseg export {run.path}")
    if origin.checkpoint != "best":
        rule = f"is of the checkpoint {origin.checkpoint!r}, and a registered version is of the best, which its val scores are of"
        raise ExportError(exported, rule, f"export that one: medseg export {run.path}")
    if not are_of(scores, description):
        rule = f"its {PART} was scored by another checkpoint or with other steps afterwards than are exported"
        raise RunError(run.path, rule, _evaluate(run))
    return description


def _tags(run: RunFolder, description: Description, scores: dict[str, Any]) -> dict[str, str]:
    """What says in MLflow's pages where a version comes from, and how good it is on val."""
    origin, graph = description.origin, description.graphs["onnx"]
    facts = {
        "run": origin.run, "dataset": origin.dataset, "network": origin.network, "checkpoint": origin.checkpoint, "epoch": origin.epoch,
        "commit": origin.commit, "manifest_sha256": origin.manifest_sha256, "split": origin.split, "split_sha256": origin.split_sha256,
        "weights_sha256": origin.weights_sha256, "config_sha256": origin.config_sha256, "graph_sha256": graph.sha256,
        "bits": 8 if graph.int8 else 32, "medseg": origin.medseg, "classes": ", ".join(description.labels.names),
    }  # fmt: skip
    means = {
        f"{PART}.{key.replace('/', '.')}": f"{found['mean']:.4f}"
        for key, found in (scores.get("summary") or {}).items()
        if key.startswith("miou_") and found.get("mean") is not None
    }
    return {f"medseg.{key}": str(value)[:4000] for key, value in (facts | means).items() if value is not None}


def _hold(asked: _Asked, registry: Registry, run: RunFolder, scratch: Path) -> _Held:
    """The run against the version that has the alias now."""
    holder = registry.holder(asked.name, asked.alias)
    if holder is None:
        return _Held()
    before = registry.scores(asked.name, holder, scratch)
    try:
        first, second = read_sources([f"version {holder} (@{asked.alias})={before}", f"{run.id}={run.path}"], PART)
        return _Held(holder, compare_overall(first, second, asked.metric))
    except MedsegError as cause:
        rule = f"cannot be held against {SCHEME}{asked.name}@{asked.alias}, version {holder}: {cause.where}: {cause.rule}"
        raise RunError(run.path, rule, f"score both on one {PART} part by one protocol; or {WAYS_OUT}") from cause


def _give(asked: _Asked, registry: Registry, run: RunFolder, version: str, held: _Held, scratch: Path) -> Registered:
    """Move the alias, where the version is shown to be good enough for it."""
    if registry.holder(asked.name, asked.alias) != held.holder:  # another was registered while this one was exported
        held = _hold(asked, registry, run, scratch / "again")
    told = "no version had it" if held.compared is None else f"against version {held.holder}: {held.compared.told()}"
    registry.tag(asked.name, version, {f"medseg.alias.{asked.alias}": told})
    if held.compared is not None and not held.compared.not_inferior(asked.margin):
        stays = f"{SCHEME}{asked.name}@{asked.alias} stays version {held.holder}"
        rule = f"is registered as version {version}, and {stays}: {held.compared.told()}"
        fix = f"the lower end must be above {-asked.margin:g}; name another --alias to use it beside"
        raise RunError(run.path, rule, fix)
    registry.give(asked.name, asked.alias, version)
    return Registered(asked.name, version, registry.uri, asked.alias, held.holder, held.compared)
