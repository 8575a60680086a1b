"""What MLflow is told of a run after its training: that it was killed, its evaluations, what it has missed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from mlflow import MlflowClient

from medseg.config import Config, read_config
from medseg.errors import MedsegError, RunError
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import read_manifest, read_split
from medseg.runfolder import RunFolder
from medseg.tracking.address import connect, live_uri, tracking_uri, without_secrets
from medseg.tracking.description import describe, part_input
from medseg.tracking.follower import MLFLOW_STATUS, sender_of
from medseg.tracking.pieces import NOTE, flat_scores, log_new, prefix_of, send_note, send_table, told, within
from medseg.tracking.sender import Sender
from medseg.tracking.sent import Sent, read_json

log = logging.getLogger("medseg.tracking")

MARK_KILLED_S, LOG_EVALUATION_S = 10.0, 60.0
Data = tuple[Manifest, Split]


def mark_killed(run: RunFolder) -> None:
    """Set the MLflow run of a training that died to KILLED and send its last lines; a warning where the server is away."""
    sent = Sent.read(run)
    if sent is None or sent.run_id is None or sent.status is not None:
        return
    sender = Sender(run, sent, live_uri(sent.uri))
    within(MARK_KILLED_S, lambda: _end_killed(sender), f"the killed run {run.id}", sender.given_up)


def _end_killed(sender: Sender) -> None:
    """Not of a run that somebody else has ended meanwhile."""
    found = connect(sender.uri).get_run(sender.sent.run_id).info.status
    if found in ("RUNNING", "SCHEDULED"):
        sender.terminate("KILLED")
    else:
        sender.keep_status(found)
    sender.follow()


def log_evaluation(run: RunFolder, split: str, data: Data | None = None) -> None:
    """Send the scores, files and table of an evaluation to the run's MLflow run, where it has one; may be repeated.

    Scores become `test/<score>_pooled/<class>`, the tables the run's description, and of `data` the part that was scored a data set of the
    run. Call it after Tracker.close: until then there may be no run.
    """
    sent = Sent.read(run)
    if sent is None:
        return
    if sent.run_id is None:
        log.warning(
            "the evaluation of %s is not in MLflow, because the run is not: %s was away or slow when it was trained; send both by "
            "`medseg track sync %s`", run.id, sent.uri, run.path,
        )  # fmt: skip
        return
    run_id, uri = sent.run_id, live_uri(sent.uri)

    def send() -> None:
        client = connect(uri)
        _send_evaluation(client, run_id, run.evaluation(split), split, data)
        client.log_artifact(run_id, str(run.path / "run.json"))  # how the run ended was not known yet when its training was sent

    within(LOG_EVALUATION_S, send, f"the evaluation of {run.id}")


def _send_evaluation(client: MlflowClient, run_id: str, folder: Path, split: str, data: Data | None) -> None:
    scores = read_json(folder / "scores.json") or {}
    log_new(client, run_id, {f"{prefix_of(split)}/{name}": value for name, value in flat_scores(scores)})
    for path in sorted(path for path in folder.iterdir() if path.is_file()):  # the folder of predicted masks stays at home
        client.log_artifact(run_id, str(path), f"evaluation/{split}")
    if (folder / "table.csv").is_file():
        send_table(client, run_id, folder / "table.csv", f"tables/{split}.json")
    if split == "test" or NOTE not in client.get_run(run_id).data.tags:  # what the run is judged by stands on top
        send_note(client, run_id, folder / "table.md")
    found = part_input(*data, str(scores.get("split", split))) if data else None
    if found:
        client.log_inputs(run_id, [found])  # MLflow has each data set once


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
    with told(run.path, sender.sent.uri):
        return _send_all(sender, config, MLFLOW_STATUS[state["status"]])


def _send_all(sender: Sender, config: Config, status: str) -> str:
    evaluated = sorted(scores.parent for scores in sender.run.path.glob("evaluation/*/scores.json"))
    data = _data_of(sender.run, config) if evaluated or not sender.sent.described else None
    if not sender.sent.described:
        sender.open(describe(sender.run, config, *(data or (None, None))))
    sender.end(status)
    assert sender.sent.run_id is not None
    for folder in evaluated:
        _send_evaluation(connect(sender.uri), sender.sent.run_id, folder, folder.name, data)
    return sender.sent.run_id


def _data_of(run: RunFolder, config: Config) -> Data | None:
    """The run's manifest and split where they are still at their places, and the same; else MLflow gets their digests alone."""
    try:
        manifest = read_manifest(Path(config.data.manifest))
        split = read_split(manifest, config.data.split, config.data.fold)
    except MedsegError as cause:
        log.warning("the data sets are not sent as inputs: %s", cause)
        return None
    digests = read_json(run.digests_json) or {}
    if (digests.get("manifest_sha256"), digests.get("split_sha256")) != (manifest.digest, split.digest):
        log.warning("the data sets are not sent as inputs: manifest or split of %s have changed since", run.id)
        return None
    return manifest, split
