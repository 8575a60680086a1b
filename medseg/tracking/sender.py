"""Sends what is new in a run folder."""

from __future__ import annotations

import json
import math
import posixpath
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag

from medseg.runfolder import COURSE_FILES, IDENTITY_FILES, NETWORK_FILES, RunFolder
from medseg.tracking.address import connect
from medseg.tracking.description import Description
from medseg.tracking.sent import STREAMS, Sent, Stream

MAX_KEY_CHARS = 250
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI takes it for an experiment with language models
AT_THE_END = "run.json"  # until then it says that the training is at work
EARLY_FILES = (*(name for name in IDENTITY_FILES if name != AT_THE_END), *NETWORK_FILES, "dataset.yaml", "dirty.diff", "previews/*")
LATE_FILES = (*COURSE_FILES, "postprocess.json", "checkpoints/*")


class Sender:
    """Sends what is new in a run folder. Every method raises where the server does, and may be called again."""

    def __init__(self, run: RunFolder, sent: Sent, uri: str):
        self.run, self.sent, self.uri = run, sent, uri
        self.given_up = threading.Event()  # set by who waits no longer: another sender may be at this run by now

    def _note(self) -> None:
        """Keep how far we came."""
        self._go_on()
        self.sent.write(self.run)

    def _go_on(self) -> None:
        if self.given_up.is_set():
            raise TimeoutError("nobody waits for this any more")

    def has_news(self) -> bool:
        """Whether there is anything to send; asks no server."""
        waiting = (self._end_of_lines(stream) > getattr(self.sent, stream.offset) for stream in STREAMS)
        return not self.sent.described or any(waiting) or any(self._new_files(EARLY_FILES))

    def open(self, description: Description) -> None:
        """Find or make the experiment and the run, and send what is sent once."""
        if self.sent.described:
            return
        client = connect(self.uri)
        self.sent.experiment_id = self.sent.experiment_id or experiment_id_of(client, self.sent.experiment)
        if not self.sent.run_id:
            began_ms = _ms(self.run.state().get("started"))
            self.sent.run_id = run_id_of(client, self.sent.experiment_id, self.run.id, description.name, description.tags, began_ms)
        self._note()
        client.update_run(self.sent.run_id, status="RUNNING")  # it may have ended in an earlier attempt
        self._send_description(client, description)

    def _send_description(self, client: MlflowClient, description: Description) -> None:
        params = [Param(key, value) for key, value in description.params.items()]
        tags = [RunTag(key, value) for key, value in description.tags.items()]
        if description.parent:
            assert self.sent.experiment_id is not None
            parent = run_id_of(client, self.sent.experiment_id, description.parent, description.parent, {})
            tags.append(RunTag("mlflow.parentRunId", parent))
        client.log_batch(self.sent.run_id, params=params, tags=tags)  # mlflow cuts it into batches of 100
        client.log_inputs(self.sent.run_id, list(description.inputs))
        self.sent.described = True
        self._note()

    def follow(self, files: Sequence[str] = EARLY_FILES) -> None:
        """Send the new lines and the new files."""
        client = connect(self.uri)
        for stream in STREAMS:
            self._send_lines(client, stream)
        for path in self._new_files(files):
            self._send_file(client, path)

    def end(self, status: str) -> None:
        """End the run, then upload what is large: a slow upload that is cut off leaves a run whose status is right."""
        if self.sent.status != status:  # its end time stays that of the first time
            self.terminate(status)
        ended = self.run.state()["status"] != "running"  # a training says so only when all of it has been sent
        self.follow(EARLY_FILES + LATE_FILES + ((AT_THE_END,) if ended else ()))

    def terminate(self, status: str) -> None:
        """Have MLflow mark the run as ended so."""
        client = connect(self.uri)
        self._go_on()
        terminate(client, self.sent.run_id, status, _ms(self.run.state().get("ended")))
        self.keep_status(status)

    def keep_status(self, status: str) -> None:
        """MLflow's word for how the run has ended, as it has it already."""
        self.sent.status = status
        self._note()

    def _send_lines(self, client: MlflowClient, stream: Stream) -> None:
        if stream.key in self.sent.pending:
            self._send_block(client, stream)  # as an earlier attempt began it: it may have arrived
        end = self._end_of_lines(stream)
        if end > getattr(self.sent, stream.offset):
            self.sent.pending[stream.key] = [end, int(time.time() * 1000)]
            self._note()
            self._send_block(client, stream)

    def _send_block(self, client: MlflowClient, stream: Stream) -> None:
        end, timestamp_ms = self.sent.pending[stream.key]
        metrics = list(_metrics(self._records(stream, getattr(self.sent, stream.offset), end), stream, timestamp_ms))
        self._go_on()
        client.log_batch(self.sent.run_id, metrics=metrics)  # mlflow cuts it into batches of 1000
        setattr(self.sent, stream.offset, end)
        del self.sent.pending[stream.key]
        self._note()

    def _end_of_lines(self, stream: Stream) -> int:
        """The offset after the last whole line: a line may be half written while we look."""
        start: int = getattr(self.sent, stream.offset)
        return start + self._bytes(stream, start, None).rfind(b"\n") + 1

    def _records(self, stream: Stream, start: int, end: int) -> Iterator[dict[str, Any]]:
        for line in self._bytes(stream, start, end).splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # one broken line must not hold up those after it
                continue
            if isinstance(record, dict):
                yield record

    def _bytes(self, stream: Stream, start: int, end: int | None) -> bytes:
        try:
            with (self.run.path / stream.file).open("rb") as file:
                file.seek(start)
                return file.read(-1 if end is None else end - start)
        except FileNotFoundError:
            return b""

    def _new_files(self, patterns: Sequence[str]) -> Iterator[Path]:
        """Files not uploaded as they are now. A leading dot marks one that is being written."""
        for pattern in patterns:
            for path in sorted(self.run.path.glob(pattern)):
                if path.is_file() and not path.name.startswith(".") and self.sent.files.get(self._name(path)) != _stamp(path):
                    yield path

    def _send_file(self, client: MlflowClient, path: Path) -> None:
        stamp, name = _stamp(path), self._name(path)
        client.log_artifact(self.sent.run_id, str(path), posixpath.dirname(name) or None)
        self.sent.files[name] = stamp
        self._note()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()


def experiment_id_of(client: MlflowClient, name: str) -> str:
    """The experiment of this name, made where there is none."""
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name, tags=KIND))


def run_id_of(
    client: MlflowClient, experiment_id: str, folder_id: str, name: str, tags: Mapping[str, str], began_ms: int | None = None
) -> str:
    """A new MLflow run, or the one an earlier attempt made for this very folder and died before it could note it."""
    quoted = folder_id.replace("'", "")
    if found := client.search_runs([experiment_id], f"tags.`medseg.run_id` = '{quoted}'", max_results=1):
        return str(found[0].info.run_id)
    return str(client.create_run(experiment_id, began_ms, {**tags, "medseg.run_id": folder_id}, name).info.run_id)


def terminate(client: MlflowClient, run_id: str | None, status: str, ended_ms: int | None = None) -> None:
    """MlflowClient.set_terminated without its print: that puts the server's address, password included, on standard output."""
    ended_ms = ended_ms or int(time.time() * 1000)
    client._tracking_client.store.update_run_info(run_id, RunStatus.from_string(status), ended_ms, None)


def _ms(time_text: object) -> int | None:
    """A time of run.json as MLflow has it; None where there is none.

    >>> _ms("2026-01-01T00:00:01+00:00"), _ms(None)
    (1767225601000, None)
    """
    return int(datetime.fromisoformat(time_text).timestamp() * 1000) if isinstance(time_text, str) else None


def _metrics(records: Iterator[dict[str, Any]], stream: Stream, timestamp_ms: int) -> Iterator[Metric]:
    """MLflow's points; an undefined number (null, NaN) is no point."""
    for record in records:
        numbers, step = record.get(stream.key), record.get("step")
        if isinstance(numbers, dict) and isinstance(step, int):
            for name, value in numbers.items():
                if is_number(value):
                    yield Metric(metric_name(stream.prefix + name), float(value), timestamp_ms, step)


def is_number(value: Any) -> bool:
    """What MLflow takes as a metric."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def metric_name(name: str) -> str:
    """A name MLflow takes: one bad name would have the whole batch refused, now and on every later attempt.

    >>> metric_name("val/iou_pooled/CD4+ cell"), metric_name("a//b/")
    ('val/iou_pooled/CD4_ cell', 'a/b')
    """
    return posixpath.normpath(re.sub(r"[^/\w.\- ]", "_", name)).lstrip("/")[:MAX_KEY_CHARS]


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
