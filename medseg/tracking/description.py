"""What MLflow is told about a run once: tags, params, data sets."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag

from medseg.config import Config
from medseg.manifest.schema import PIXEL_PREFIX, Manifest, Split
from medseg.runfolder import RunFolder
from medseg.tracking.address import without_secrets
from medseg.tracking.sent import read_json

MAX_PARAM_CHARS, MAX_TAG_CHARS, MAX_DIGEST_CHARS = 6000, 5000, 36


@dataclass(frozen=True)
class Description:
    """What MLflow is told about a run once."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    inputs: Sequence[DatasetInput]
    parent: str | None = None  # the name of the run that MLflow shows this one below


def describe(run: RunFolder, config: Config, manifest: Manifest | None = None, split: Split | None = None) -> Description:
    """From the run folder; of the data sets it knows the digests alone, so they are no inputs where they are not given."""
    digests = read_json(run.digests_json) or {}
    tags = _code_tags(run) | {
        "medseg.run_id": run.id,
        "medseg.seed": str(config.seed),
        "medseg.manifest_digest": str(digests.get("manifest_sha256", "")),
        "medseg.split_digest": str(digests.get("split_sha256", "")),
    }
    inputs = _inputs(manifest, split) if manifest and split else []
    parent = (read_json(run.path / "run.json") or {}).get("parent")
    return Description(
        config.name, {key: value[:MAX_TAG_CHARS] for key, value in tags.items() if value}, flat_params(config), inputs, parent
    )


def flat_params(config: Config) -> dict[str, str]:
    """A config as MLflow's params."""
    flat = {key: value[:MAX_PARAM_CHARS] for key, value in config.flat().items()}
    return flat | {"tracking.uri": without_secrets(flat["tracking.uri"])}


def _code_tags(run: RunFolder) -> dict[str, str]:
    """Commit, branch and command, read from the run folder; what it does not know has no tag."""
    git = (read_json(run.environment_json) or {}).get("git") or {}
    command = (read_json(run.path / "run.json") or {}).get("command") or []
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "medseg",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "medseg.git_dirty": None if git.get("dirty") is None else str(git["dirty"]).lower(),
        "medseg.command": without_secrets(shlex.join(str(part) for part in command)) or None,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _inputs(manifest: Manifest, split: Split) -> list[DatasetInput]:
    """The manifest as a whole, and the two parts of the split that a training reads."""
    whole = _input(manifest.dataset.name, manifest.digest, manifest.folder / "manifest.csv", manifest, manifest.frame, "manifest")
    return [whole, *(found for part in ("train", "val") if (found := part_input(manifest, split, part)))]


def part_input(manifest: Manifest, split: Split, part: str) -> DatasetInput | None:
    """One part of a split, in the context of that name; None where it has no rows. MLflow knows a set by name and digest."""
    split_name = split.name if split.chosen is None else f"{split.name}-fold{split.chosen}"
    ids = split.frame.loc[split.frame["split"] == part, "sample_id"]
    rows = manifest.frame[manifest.frame["sample_id"].isin(ids)]
    name = f"{manifest.dataset.name}/{split_name}/{part}"
    return _input(name, split.digest, split.path, manifest, rows, part) if len(rows) else None


def _input(name: str, digest: str, path: Path, manifest: Manifest, rows: pd.DataFrame, context: str) -> DatasetInput:
    """One dataset input in the form of MLflow's local files; MLflow takes the first 36 digits of a digest at most."""
    columns = [{"name": str(column), "type": _column_type(rows[column]), "required": False} for column in rows.columns]
    px = {name: int(rows[PIXEL_PREFIX + name].sum()) for name in manifest.labels.names if PIXEL_PREFIX + name in rows.columns}
    profile = {"num_rows": len(rows), "num_groups": int(rows["group_id"].nunique()), "px": px}
    source = {"uri": Path(os.path.relpath(path)).as_posix()}
    dataset = Dataset(
        name, digest[:MAX_DIGEST_CHARS], "local", json.dumps(source), json.dumps({"mlflow_colspec": columns}), json.dumps(profile)
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _column_type(column: pd.Series) -> str:
    return {"i": "long", "u": "long", "f": "double", "b": "boolean"}.get(column.dtype.kind, "string")
