"""What MLflow is told after a training: that it was killed, its evaluations, what it has missed, the end of a cross-validation."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from medseg.config import Config, read_config, validate_config
from medseg.errors import MedsegError, RunError
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import read_manifest, read_split
from medseg.runfolder import RunFolder
from medseg.tracking.address import connect, live_uri, reason, tracking_uri, without_secrets
from medseg.tracking.description import describe, flat_params
from medseg.tracking.follower import MLFLOW_STATUS, End, sender_of
from medseg.tracking.sender import Sender, experiment_id_of, is_number, metric_name, run_id_of, terminate
from medseg.tracking.sent import Sent, read_json

log = logging.getLogger("medseg.tracking")

EVALUATION_PREFIX = "evaluation"
SECTIONS = {"pooled": "pooled", "per_image": "per_image", "per_group": "per_group", "boundary": "per_image"}  # of scores.json -> in a name
MARK_KILLED_S, LOG_EVALUATION_S = 10.0, 60.0


def mark_killed(run: RunFolder) -> None:
    """Set the MLflow run of a training that died to KILLED and send its last lines; a warning where the server is away."""
    sent = Sent.read(run)
    if sent is None or sent.run_id is None or sent.status is not None:
        return
    sender = Sender(run, sent, live_uri(sent.uri))
    _within(MARK_KILLED_S, lambda: _end_killed(sender), f"the killed run {run.id}", sender.given_up)


def _end_killed(sender: Sender) -> None:
    """Not of a run that somebody else has ended meanwhile."""
    found = connect(sender.uri).get_run(sender.sent.run_id).info.status
    if found in ("RUNNING", "SCHEDULED"):
        sender.terminate("KILLED")
    else:
        sender.keep_status(found)
    sender.follow()


def log_evaluation(run: RunFolder, split: str) -> None:
    """Send the scores, files and table of an evaluation to the run's MLflow run, where it has one; may be repeated.

    Scores become `test/<score>_pooled/<class>`. Call it after Tracker.close: until then there may be no run.
    """
    sent = Sent.read(run)
    if sent is None:
        return
    if sent.run_id is None:
        log.warning(
            "the evaluation of %s is not in MLflow: %s was away when the run was trained; it is whole in %s", run.id, sent.uri, run.path
        )
        return
    run_id, uri = sent.run_id, live_uri(sent.uri)
    _within(
        LOG_EVALUATION_S,
        lambda: _send_evaluation(connect(uri), run_id, run.evaluation(split), split),
        f"the evaluation of {run.id}",
    )


def _send_evaluation(client: MlflowClient, run_id: str, folder: Path, split: str) -> None:
    # at step 0 of `val/...` the scores would bend the curve of the training's own validation, so only test has its plain name
    prefix = split if split == "test" else f"{EVALUATION_PREFIX}/{split}"
    _log_new(client, run_id, {f"{prefix}/{name}": value for name, value in _flat_scores(read_json(folder / "scores.json") or {})})
    for path in sorted(path for path in folder.iterdir() if path.is_file()):  # the folder of predicted masks stays at home
        client.log_artifact(run_id, str(path), f"evaluation/{split}")
    if (folder / "table.csv").is_file():
        _send_table(client, run_id, folder / "table.csv", f"tables/{split}.json")


def _flat_scores(scores: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of scores.json; what is undefined or not a number has no line.

    >>> dict(_flat_scores({"pooled": {"t": {"iou": 0.5}}, "summary": {"miou": {"mean": None, "n": 0}, "acc": {"mean": 0.75, "n": 4}}}))
    {'iou_pooled/t': 0.5, 'acc': 0.75}
    >>> dict(_flat_scores({"per_image": {"t": {"iou": {"mean": 0.25, "n": 2}}}}))
    {'iou_per_image/t': 0.25, 'iou_per_image_n/t': 2.0}
    >>> dict(_flat_scores({"boundary": {"t": {"hd95_px": {"mean": 3.5, "n": 1}}}, "calibration": {"ece": 0.125, "reliability": {}}}))
    {'hd95_px_per_image/t': 3.5, 'hd95_px_per_image_n/t': 1.0, 'calibration/ece': 0.125}
    """
    for section, kind in SECTIONS.items():
        for name, values in _items(scores.get(section)):
            for score, value in _items(values):
                for part, number in _items(value) if isinstance(value, dict) else [("mean", value)]:
                    suffix = "" if part == "mean" else f"_{part}"
                    yield from _defined(f"{score}_{kind}{suffix}/{name}", number)
    for name, mean in _items(scores.get("summary")):
        yield from _defined(name, mean.get("mean") if isinstance(mean, dict) else mean)
    for name, value in _items(scores.get("calibration")):
        yield from _defined(f"calibration/{name}", value)


def _items(content: Any) -> list[tuple[str, Any]]:
    return list(content.items()) if isinstance(content, dict) else []


def _defined(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if is_number(value):
        yield name, float(value)


def _send_table(client: MlflowClient, run_id: str, path: Path, name: str) -> None:
    """What MlflowClient.log_table writes, except that a second time it replaces the table: log_table would append to it."""
    client.log_text(run_id, pd.read_csv(path).to_json(orient="split", index=False), name)
    tables = json.loads(client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
    if (entry := {"path": name, "type": "table"}) not in tables:
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*tables, entry]))


def sync(run: RunFolder) -> str:
    """Send everything that MLflow has not got of a run that is not at work; returns its MLflow run id. May be repeated.

    RunError where the server cannot be reached or refuses: here, unlike in a training, somebody waits for it.
    """
    state = run.state()
    if state["status"] == "running":
        raise RunError(run.path, "is at work and sends by itself", "wait for its end, or resume it where its process is gone")
    config = read_config(run.config_yaml)
    uri = tracking_uri(config)
    sender = sender_of(run, uri, str(state["dataset"]))
    if os.environ.get("MLFLOW_TRACKING_URI") and without_secrets(uri) != sender.sent.uri:
        rule = f"its MLflow run is at {sender.sent.uri}, and MLFLOW_TRACKING_URI says {without_secrets(uri)}"
        raise RunError(run.path, rule, "unset the variable to send it where it is; remove mlflow.json to begin a new MLflow run")
    with _told(run.path, sender.sent.uri):
        return _send_all(sender, config, MLFLOW_STATUS[state["status"]])


def sync_parent(folder: Path) -> None:
    """Send the MLflow run of a cross-validation, by its cv.json; RunError as of `sync`."""
    facts = read_json(folder / "cv.json") or {}
    try:
        config, experiment = validate_config(facts["config"], folder / "cv.json"), str(facts["dataset"])
    except KeyError:
        raise RunError(folder, "cv.json is not whole, or of another version", "give the command `medseg cv ...` again") from None
    uri, status = tracking_uri(config), "finished" if (folder / "table.csv").exists() else "failed"
    with _told(folder, without_secrets(uri)):
        _send_parent(connect(uri), folder, config, experiment, MLFLOW_STATUS[status])


@contextmanager
def _told(path: Path, uri: str) -> Iterator[None]:
    """MLflow's errors, which are of many kinds, as one of ours."""
    try:
        yield
    except Exception as cause:
        raise RunError(path, f"{uri} did not take it ({reason(cause)})", "start the server and give the command again") from cause


def _send_all(sender: Sender, config: Config, status: str) -> str:
    if not sender.sent.described:
        sender.open(describe(sender.run, config, *_data_of(sender.run, config)))
    sender.end(status)
    assert sender.sent.run_id is not None
    for scores in sorted(sender.run.path.glob("evaluation/*/scores.json")):
        _send_evaluation(connect(sender.uri), sender.sent.run_id, scores.parent, scores.parent.name)
    return sender.sent.run_id


def _data_of(run: RunFolder, config: Config) -> tuple[Manifest | None, Split | None]:
    """The run's manifest and split where they are still at their places, and the same; else MLflow gets their digests alone."""
    try:
        manifest = read_manifest(Path(config.data.manifest))
        split = read_split(manifest, config.data.split, config.data.fold)
    except MedsegError as cause:
        log.warning("the data sets are not sent as inputs: %s", cause)
        return None, None
    digests = read_json(run.digests_json) or {}
    if (digests.get("manifest_sha256"), digests.get("split_sha256")) != (manifest.digest, split.digest):
        log.warning("the data sets are not sent as inputs: manifest or split of %s have changed since", run.id)
        return None, None
    return manifest, split


def end_parent(folder: Path, config: Config, experiment: str, status: End) -> None:
    """The MLflow run of a cross-validation, which its parts hang on: its params, its table and scores so far, and how it ended."""

    def send() -> None:
        _send_parent(connect(tracking_uri(config)), folder, config, experiment, MLFLOW_STATUS[status])

    _within(LOG_EVALUATION_S, send, folder.name)


def _send_parent(client: MlflowClient, folder: Path, config: Config, experiment: str, status: str) -> None:
    run_id = run_id_of(client, experiment_id_of(client, experiment), folder.name, folder.name, {})
    client.log_batch(run_id, params=[Param(key, value) for key, value in flat_params(config).items()])
    if (table := folder / "table.csv").is_file():
        _log_new(client, run_id, {f"cv/{name}": value for name, value in _columns(table)})
        _send_table(client, run_id, table, "tables/cv.json")
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        client.log_artifact(run_id, str(path))
    terminate(client, run_id, status)


def _columns(table: Path) -> Iterator[tuple[str, float]]:
    """`<score>/<class>` of each defined number of a table."""
    for row in pd.read_csv(table).to_dict("records"):
        for name, value in row.items():
            if name != "class" and is_number(value):
                yield f"{name}/{row['class']}", float(value)


def _log_new(client: MlflowClient, run_id: str, scores: Mapping[str, float]) -> None:
    """At step 0, those that are not there with this value: sent again they would stand twice."""
    known, now_ms = client.get_run(run_id).data.metrics, int(time.time() * 1000)
    named = {metric_name(name): value for name, value in scores.items()}
    client.log_batch(run_id, metrics=[Metric(name, value, now_ms, 0) for name, value in named.items() if known.get(name) != value])


def _within(seconds: float, action: Callable[[], None], what: str, given_up: threading.Event | None = None) -> None:
    """Run `action` for `seconds` at most; what goes wrong becomes a warning. given_up: set where it is not waited for any longer."""
    problems: list[str] = []

    def guarded() -> None:
        try:
            action()
        except Exception as cause:  # as in Tracker: MLflow's trouble is never the caller's
            problems.append(reason(cause))

    thread = threading.Thread(target=guarded, name="medseg-mlflow", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() and given_up:
        given_up.set()
    if thread.is_alive() or problems:
        log.warning("MLflow has not got %s (%s); the run folder is whole", what, *(problems or [f"no answer in {seconds:g} s"]))
