"""The MLflow run of a cross-validation, which its parts hang on."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag

from medseg.config import Config, read_config, validate_config
from medseg.errors import RunError
from medseg.tracking.address import connect, tracking_uri, without_secrets
from medseg.tracking.description import flat_params
from medseg.tracking.follower import MLFLOW_STATUS, End
from medseg.tracking.pieces import items, log_new, send_note, send_table, told, within
from medseg.tracking.sender import experiment_id_of, is_number, run_id_of, terminate
from medseg.tracking.sent import read_json

END_PARENT_S = 60.0
PREFIX, HELD_OUT = "cv", "evaluation/val_last"  # of its metrics; where the folder of a part holds the scores of its fold


def end_parent(folder: Path, config: Config, experiment: str, status: End) -> None:
    """Send its params, its table and scores so far, and how it ended; a warning where the server is away."""

    def send() -> None:
        _send(connect(tracking_uri(config)), folder, config, experiment, MLFLOW_STATUS[status])

    within(END_PARENT_S, send, folder.name)


def sync_parent(folder: Path) -> None:
    """Send the MLflow run of a cross-validation, by its cv.json; RunError where that is broken or the server does not take it."""
    config, experiment = read_facts(folder)
    uri, status = tracking_uri(config), "finished" if (folder / "table.csv").exists() else "failed"
    with told(folder, without_secrets(uri)):
        _send(connect(uri), folder, config, experiment, MLFLOW_STATUS[status])


def read_facts(folder: Path) -> tuple[Config, str]:
    """(config, name of the experiment) of a cross-validation, of its cv.json."""
    facts = read_json(folder / "cv.json") or {}
    try:
        return validate_config(facts["config"], folder / "cv.json"), str(facts["dataset"])
    except KeyError:
        raise RunError(folder, "cv.json is not whole, or of another version", "give the command `medseg cv ...` again") from None


def parent_id(client: MlflowClient, folder: Path, experiment: str) -> str:
    """Its MLflow run, made where there is none."""
    return run_id_of(client, experiment_id_of(client, experiment), folder.name, folder.name, {})


def _send(client: MlflowClient, folder: Path, config: Config, experiment: str, status: str) -> None:
    run_id = parent_id(client, folder, experiment)
    facts = read_json(folder / "cv.json") or {}
    tags = {f"medseg.{of}_digest": str(facts.get(f"{of}_sha256", "")) for of in ("manifest", "split")} | {"mlflow.source.name": "medseg"}
    params = [Param(key, value) for key, value in flat_params(config).items()]
    client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items() if value])
    if (table := folder / "table.csv").is_file():
        scores = dict(_columns(table))
        scores |= dict(_per_fold(folder, [name.split("_pooled/")[0] for name in scores if "_pooled/" in name]))
        log_new(client, run_id, {f"{PREFIX}/{name}": value for name, value in scores.items()})
        send_table(client, run_id, table, f"tables/{PREFIX}.json")
        send_note(client, run_id, folder / "table.md")
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        client.log_artifact(run_id, str(path))
    if client.get_run(run_id).info.status != status:  # sent again, its end stays that of the first time
        terminate(client, run_id, status)


def _columns(table: Path) -> Iterator[tuple[str, float]]:
    """`<score>/<class>` of each defined number of a table."""
    for row in pd.read_csv(table).to_dict("records"):
        for name, value in row.items():
            if name != "class" and is_number(value):
                yield f"{name}/{row['class']}", float(value)


def _per_fold(folder: Path, scores: Iterable[str]) -> Iterator[tuple[str, float]]:
    """`<score>_per_fold/<class>`, the mean over the folds of each one's own pooled score, and `_sd`, their standard deviation.

    A fold's score is the mean over its seeds. What one part leaves undefined has no mean: of other folds it would be another number.
    """
    parts = _parts(folder)
    folds = sorted({fold for _, fold in parts})
    classes = dict.fromkeys(name for pooled in parts.values() for name, _ in items(pooled))
    for score, name in itertools.product(dict.fromkeys(scores), classes if len(folds) > 1 else ()):
        found = [[pooled.get(name, {}).get(score) for (_, at), pooled in parts.items() if at == fold] for fold in folds]
        if all(is_number(value) for fold in found for value in fold):
            means = [statistics.fmean(fold) for fold in found]
            yield f"{score}_per_fold/{name}", statistics.fmean(means)
            yield f"{score}_per_fold_sd/{name}", statistics.stdev(means)


def _parts(folder: Path) -> dict[tuple[int, int], Mapping[str, Any]]:
    """The pooled scores of each seed and fold that the table is of; of a part that was begun again, of the last time."""
    seeds, found = (read_json(folder / "cv.json") or {}).get("seeds", []), {}
    for path in sorted(folder.glob(f"*/{HELD_OUT}/scores.json")):
        config = read_config(path.parents[2] / "config.yaml")
        if config.data.fold is not None and config.seed in seeds:
            found[config.seed, config.data.fold] = (read_json(path) or {}).get("pooled") or {}
    return found
