"""What is sent after a training is made of: scores as metrics, a table, a note, data sets; and how long anybody waits for it."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric

from medseg.errors import RunError
from medseg.tracking.address import reason
from medseg.tracking.sender import is_number, metric_name

log = logging.getLogger("medseg.tracking")

SECTIONS = {"pooled": "pooled", "per_image": "per_image", "per_group": "per_group", "boundary": "per_image"}  # of scores.json -> in a name
NOTE, OURS, MAX_NOTE_CHARS = "mlflow.note.content", "<!-- written by medseg -->", 7900  # MLflow refuses a tag of more than 8000


def prefix_of(split: str) -> str:
    """What stands in front of an evaluation's metrics: at step 0 of `val/...` they would bend the curve of the training's own validation,
    so that test alone has its plain name.

    >>> prefix_of("test"), prefix_of("val")
    ('test', 'evaluation/val')
    """
    return split if split == "test" else f"evaluation/{split}"


def flat_scores(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of scores.json; what is undefined or not a number has no line.

    >>> dict(flat_scores({"pooled": {"t": {"iou": 0.5}}, "summary": {"miou": {"mean": None, "n": 0}, "acc": {"mean": 0.75, "n": 4}}}))
    {'iou_pooled/t': 0.5, 'acc': 0.75}
    >>> dict(flat_scores({"per_image": {"t": {"iou": {"mean": 0.25, "n": 2}}}}))
    {'iou_per_image/t': 0.25, 'iou_per_image_n/t': 2.0}
    >>> dict(flat_scores({"boundary": {"t": {"hd95_px": {"mean": 3.5, "n": 1}}}, "calibration": {"ece": 0.125, "reliability": {}}}))
    {'hd95_px_per_image/t': 3.5, 'hd95_px_per_image_n/t': 1.0, 'calibration/ece': 0.125}
    """
    for section, kind in SECTIONS.items():
        for name, values in items(scores.get(section)):
            for score, value in items(values):
                for part, number in items(value) if isinstance(value, dict) else [("mean", value)]:
                    suffix = "" if part == "mean" else f"_{part}"
                    yield from _defined(f"{score}_{kind}{suffix}/{name}", number)
    for name, mean in items(scores.get("summary")):
        yield from _defined(name, mean.get("mean") if isinstance(mean, dict) else mean)
    for name, value in items(scores.get("calibration")):
        yield from _defined(f"calibration/{name}", value)


def items(content: Any) -> list[tuple[str, Any]]:
    """Of what may be a mapping."""
    return list(content.items()) if isinstance(content, dict) else []


def _defined(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if is_number(value):
        yield name, float(value)


def log_new(client: MlflowClient, run_id: str, scores: Mapping[str, float]) -> None:
    """At step 0, those that are not there with this value: sent again they would stand twice."""
    known, now_ms = client.get_run(run_id).data.metrics, int(time.time() * 1000)
    named = {metric_name(name): value for name, value in scores.items()}
    client.log_batch(run_id, metrics=[Metric(name, value, now_ms, 0) for name, value in named.items() if known.get(name) != value])


def send_table(client: MlflowClient, run_id: str, path: Path, name: str) -> None:
    """What MlflowClient.log_table writes, except that a second time it replaces the table: log_table would append to it."""
    client.log_text(run_id, pd.read_csv(path).to_json(orient="split", index=False), name)
    tables = json.loads(client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
    if (entry := {"path": name, "type": "table"}) not in tables:
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*tables, entry]))


def send_note(client: MlflowClient, run_id: str, page: Path) -> None:
    """A page of tables as the run's description, on top of its page in the UI; one that somebody has written there is left alone."""
    there = client.get_run(run_id).data.tags.get(NOTE, "")
    if page.is_file() and (not there.strip() or OURS in there):
        # the UI folds it after a few lines, which a large heading would fill, and takes "[a, b] (n)" for a link
        text = re.sub(r"\A# (.*)", r"**\1**", page.read_text(encoding="utf-8")).replace("] (", r"] \(")
        if len(text) > MAX_NOTE_CHARS:
            text = text[: MAX_NOTE_CHARS - 100].rpartition("\n")[0] + f"\n\n... the whole is in {page.name} among the artifacts."
        client.set_tag(run_id, NOTE, f"{text.rstrip()}\n\n{OURS}\n")


def within(seconds: float, action: Callable[[], None], what: str, given_up: threading.Event | None = None) -> bool:
    """Run `action` for `seconds` at most; False where it was not done, which is a warning. given_up: set where nobody waits any longer."""
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
    return not (thread.is_alive() or problems)


@contextmanager
def told(path: Path, uri: str) -> Iterator[None]:
    """MLflow's errors, which are of many kinds, as one of ours."""
    try:
        yield
    except Exception as cause:
        raise RunError(path, f"{uri} did not take it ({reason(cause)})", "start the server and give the command again") from cause
