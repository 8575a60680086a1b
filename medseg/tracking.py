"""Run folder -> MLflow. The only file that imports mlflow, and itself imported only where tracking is on.

The run folder is the truth. A thread follows its metrics.jsonl, timings.jsonl and files and sends what is new; mlflow.json keeps
how far it came, so that sending again, after a crash or a dead server, is the same code. Nothing here stops or fails a training:
a server that is away costs one warning.
"""

from __future__ import annotations

import json
import logging
import math
import os
import posixpath
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

# Read by mlflow at its import; setdefault, so that who wants it may have it. By default mlflow reports its use to its makers over
# the network, which a package for patients' images must not do unasked.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pandas as pd  # noqa: E402
import requests  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag  # noqa: E402

from medseg.config import Config  # noqa: E402
from medseg.errors import ConfigError  # noqa: E402
from medseg.files import write_json  # noqa: E402
from medseg.manifest.schema import PIXEL_PREFIX, Manifest, Split  # noqa: E402
from medseg.runfolder import RunFolder  # noqa: E402

log = logging.getLogger("medseg.tracking")

End = Literal["finished", "failed", "interrupted"]
MLFLOW_STATUS: dict[str, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# Scores of an evaluation live beside the curves, not in them: at step 0 of `val/...` they would bend the training's own curve.
EVALUATION_PREFIX = "evaluation"
MAX_PARAM_CHARS, MAX_TAG_CHARS, MAX_DIGEST_CHARS, MAX_KEY_CHARS = 6000, 5000, 36, 250
POLL_S, LONGEST_BACKOFF_S, PROBE_S = 2.0, 30.0, 5.0
LAST_ATTEMPTS, LAST_PAUSE_S = 3, 0.5
MARK_KILLED_S, LOG_EVALUATION_S = 10.0, 60.0
SQLITE_FILE = re.compile(r"^(sqlite(?:\+\w+)?:///)([^:?][^?]*)(.*)$")  # before, path, query; no match for :memory:
EARLY_FILES = ("config.yaml", "digests.json", "environment.json", "dirty.diff", "previews/*")
LATE_FILES = ("metrics.jsonl", "timings.jsonl", "sampling.png", "checkpoints/*")

# Migrations tell each step, and a database that is away is announced at each of ten attempts: our one warning stands for them.
for _noisy in ("alembic", "mlflow.store.db.utils"):
    if logging.getLogger(_noisy).level in (logging.NOTSET, logging.INFO):
        logging.getLogger(_noisy).setLevel(logging.ERROR)


# ---- the address ----


def tracking_uri(config: Config) -> str:
    """Where MLflow is: MLFLOW_TRACKING_URI where set, else `tracking.uri`.

    ConfigError for a folder, and for a password in the config. A relative SQLite path is made absolute, because a later command
    may be started in another folder.
    """
    if _parts(config.tracking.uri, "tracking.uri").password:
        raise ConfigError(
            "tracking.uri",
            "holds a password, and the config is copied into every run",
            "set MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, in the environment",
        )
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    where, uri = ("MLFLOW_TRACKING_URI", from_environment) if from_environment else ("tracking.uri", config.tracking.uri)
    scheme = _parts(uri, where).scheme
    if scheme == "file" or len(scheme) < 2:  # no scheme is a path, one letter a Windows drive
        raise ConfigError(where, f"MLflow no longer keeps runs in plain folders, got {uri!r}", "use sqlite:///mlflow.db or a server's URL")
    return _absolute(uri)


def _parts(uri: str, where: str) -> Any:
    try:
        return urlsplit(uri)
    except ValueError as cause:
        raise ConfigError(where, f"not a URI ({cause})", "use sqlite:///mlflow.db or a server's URL") from None


def _absolute(uri: str) -> str:
    """
    >>> _absolute("sqlite:////data/mlflow.db"), _absolute("https://example.org/mlflow"), _absolute("sqlite:///:memory:")
    ('sqlite:////data/mlflow.db', 'https://example.org/mlflow', 'sqlite:///:memory:')
    """
    found = SQLITE_FILE.match(uri)
    return f"{found[1]}{Path(found[2]).absolute()}{found[3]}" if found else uri


def _without_secrets(text: str) -> str:
    """A URI, or a message with URIs in it, without `user:password@` and, for servers, without the query.

    >>> _without_secrets("postgresql://me:pw@host/db?password=pw"), _without_secrets("no https://me:pw@host/x here")
    ('postgresql://host/db', 'no https://host/x here')
    """
    text = re.sub(r"://[^/\s]*@", "://", text)
    return re.sub(r"(://[^\s?/][^\s?]*)\?[^\s'\")]*", r"\1", text)


def _live_uri(stored: str) -> str:
    """The address kept in mlflow.json, with the credentials again where MLFLOW_TRACKING_URI means the same place."""
    from_environment = _absolute(os.environ.get("MLFLOW_TRACKING_URI", "").strip())
    return from_environment if _without_secrets(from_environment) == stored else stored


def _connect(uri: str) -> MlflowClient:
    """A client of its own: the global tracking URI of a notebook stays as it is. Raises where nobody answers.

    The probes are there because mlflow itself retries a dead server or database for minutes, and only environment variables of
    the whole process could shorten that.
    """
    if uri.startswith(("http://", "https://")):
        _probe_server(uri)
    elif (found := SQLITE_FILE.match(uri)) and (Path(found[2]).is_dir() or not Path(found[2]).parent.is_dir()):
        raise ConnectionError(f"{found[2]} cannot be a database: its folder is missing, or it is a folder")
    return MlflowClient(tracking_uri=uri)


def _probe_server(uri: str) -> None:
    """Any answer but a gateway's 502 to 504 counts as alive; a certificate is mlflow's to judge."""
    try:
        answer = requests.get(uri.rstrip("/") + "/health", timeout=PROBE_S)
    except requests.exceptions.SSLError:
        return
    if answer.status_code in (502, 503, 504):
        raise ConnectionError(f"{uri} answers {answer.status_code}")


# ---- what is sent once: tags, params and inputs ----


@dataclass(frozen=True)
class Description:
    """What MLflow is told about a run once."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    inputs: Sequence[DatasetInput]


def _describe(run: RunFolder, config: Config, manifest: Manifest, split: Split) -> Description:
    flat = {key: value[:MAX_PARAM_CHARS] for key, value in config.flat().items()}
    flat["tracking.uri"] = _without_secrets(flat["tracking.uri"])
    tags = _code_tags(run) | {
        "medseg.run_id": run.id,
        "medseg.seed": str(config.seed),
        "medseg.manifest_digest": manifest.digest,
        "medseg.split_digest": split.digest,
    }
    return Description(config.name, {key: value[:MAX_TAG_CHARS] for key, value in tags.items()}, flat, _inputs(manifest, split))


def _code_tags(run: RunFolder) -> dict[str, str]:
    """Commit, branch and command, read from the run folder; what it does not know has no tag."""
    git = (_read_json(run.environment_json) or {}).get("git") or {}
    command = (_read_json(run.path / "run.json") or {}).get("command") or []
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "medseg",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "medseg.git_dirty": None if git.get("dirty") is None else str(git["dirty"]).lower(),
        "medseg.command": _without_secrets(shlex.join(str(part) for part in command)) or None,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _inputs(manifest: Manifest, split: Split) -> list[DatasetInput]:
    """The manifest as a whole, and the two parts of the split that a training reads."""
    name = manifest.dataset.name
    inputs = [_input(name, manifest.digest, manifest.folder / "manifest.csv", manifest, manifest.frame, "manifest")]
    for part in ("train", "val"):
        ids = split.frame.loc[split.frame["split"] == part, "sample_id"]
        rows = manifest.frame[manifest.frame["sample_id"].isin(ids)]
        if len(rows):
            inputs.append(_input(f"{name}/{split.name}/{part}", split.digest, split.path, manifest, rows, part))
    return inputs


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


# ---- how far we came ----


@dataclass
class Sent:
    """mlflow.json: where the run is tracked and what has arrived there.

    offsets: bytes of each .jsonl that have arrived.  pending: stream -> (end, timestamp in ms) of a block, written down before it
    is sent: sent again with the same timestamp after a crash, its rows are the same to MLflow, and no point stands twice.
    files: path -> (bytes, mtime in ns) as uploaded.  status: MLflow's word for how the run ended, None while it goes on.
    """

    uri: str
    experiment: str
    experiment_id: str | None = None
    run_id: str | None = None
    described: bool = False
    sent_offset: int = 0
    timings_offset: int = 0
    pending: dict[str, list[int]] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)
    status: str | None = None

    @classmethod
    def read(cls, run: RunFolder) -> Sent | None:
        """The record of an earlier tracker; None where there is none that can be read."""
        content = _read_json(run.mlflow_json)
        try:
            return None if content is None else cls(**content)
        except TypeError:
            return None

    def write(self, run: RunFolder) -> None:
        """Keep it in the run folder."""
        write_json(run.mlflow_json, asdict(self))


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@dataclass(frozen=True)
class Stream:
    """A .jsonl of the run folder: the key of its numbers, what precedes their names, the field of `Sent` with its offset."""

    file: str
    key: str
    prefix: str
    offset: str


STREAMS = (Stream("metrics.jsonl", "metrics", "", "sent_offset"), Stream("timings.jsonl", "timings", "time/", "timings_offset"))


# ---- sending ----


class Sender:
    """Sends what is new in a run folder. Every method raises where the server does, and may be called again."""

    def __init__(self, run: RunFolder, sent: Sent, uri: str):
        self.run, self.sent, self.uri = run, sent, uri

    def has_news(self) -> bool:
        """Whether there is anything to send; asks no server."""
        waiting = (self._end_of_lines(stream) > getattr(self.sent, stream.offset) for stream in STREAMS)
        return not self.sent.described or any(waiting) or any(self._new_files(EARLY_FILES))

    def open(self, description: Description) -> None:
        """Find or make the experiment and the run, and send what is sent once."""
        if self.sent.described:
            return
        client = _connect(self.uri)
        self.sent.experiment_id = self.sent.experiment_id or _experiment_id(client, self.sent.experiment)
        self.sent.run_id = self.sent.run_id or _run_id(client, self.sent.experiment_id, self.run.id, description)
        self.sent.write(self.run)
        client.update_run(self.sent.run_id, status="RUNNING")  # it may have ended in an earlier attempt
        self._send_description(client, description)

    def _send_description(self, client: MlflowClient, description: Description) -> None:
        params = [Param(key, value) for key, value in description.params.items()]
        tags = [RunTag(key, value) for key, value in description.tags.items()]
        client.log_batch(self.sent.run_id, params=params, tags=tags)  # mlflow cuts it into batches of 100
        client.log_inputs(self.sent.run_id, list(description.inputs))
        self.sent.described = True
        self.sent.write(self.run)

    def follow(self, files: Sequence[str] = EARLY_FILES) -> None:
        """Send the new lines and the new files."""
        client = _connect(self.uri)
        for stream in STREAMS:
            self._send_lines(client, stream)
        for path in self._new_files(files):
            self._send_file(client, path)

    def end(self, status: str) -> None:
        """End the run, then upload what is large: a slow upload that is cut off leaves a run whose status is right."""
        _terminate(_connect(self.uri), self.sent.run_id, status)
        self.sent.status = status
        self.sent.write(self.run)
        self.follow(EARLY_FILES + LATE_FILES)

    def _send_lines(self, client: MlflowClient, stream: Stream) -> None:
        start: int = getattr(self.sent, stream.offset)
        if stream.key not in self.sent.pending:
            end = self._end_of_lines(stream)
            if end <= start:
                return
            self.sent.pending[stream.key] = [end, int(time.time() * 1000)]
            self.sent.write(self.run)
        end, timestamp_ms = self.sent.pending[stream.key]
        metrics = list(_metrics(self._records(stream, start, end), stream, timestamp_ms))
        client.log_batch(self.sent.run_id, metrics=metrics)  # mlflow cuts it into batches of 1000
        setattr(self.sent, stream.offset, end)
        del self.sent.pending[stream.key]
        self.sent.write(self.run)

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
        self.sent.write(self.run)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()


def _experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _run_id(client: MlflowClient, experiment_id: str, folder_id: str, description: Description) -> str:
    """A new MLflow run, or the one an earlier attempt made for this very folder and died before it could note it."""
    quoted = folder_id.replace("'", "")
    if found := client.search_runs([experiment_id], f"tags.`medseg.run_id` = '{quoted}'", max_results=1):
        return str(found[0].info.run_id)
    return str(client.create_run(experiment_id, tags=dict(description.tags), run_name=description.name).info.run_id)


def _terminate(client: MlflowClient, run_id: str | None, status: str) -> None:
    """MlflowClient.set_terminated without its print: that puts the server's address, password included, on standard output."""
    now_ms = int(time.time() * 1000)
    client._tracking_client.store.update_run_info(run_id, RunStatus.from_string(status), now_ms, None)


def _metrics(records: Iterator[dict[str, Any]], stream: Stream, timestamp_ms: int) -> Iterator[Metric]:
    """MLflow's points; an undefined number (null, NaN) is no point."""
    for record in records:
        numbers, step = record.get(stream.key), record.get("step")
        if isinstance(numbers, dict) and isinstance(step, int):
            for name, value in numbers.items():
                if _is_number(value):
                    yield Metric(_metric_name(stream.prefix + name), float(value), timestamp_ms, step)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _metric_name(name: str) -> str:
    """A name MLflow takes: one bad name would have the whole batch refused, now and on every later attempt.

    >>> _metric_name("val/iou_pooled/CD4+ cell"), _metric_name("a//b/")
    ('val/iou_pooled/CD4_ cell', 'a/b')
    """
    return posixpath.normpath(re.sub(r"[^/\w.\- ]", "_", name)).lstrip("/")[:MAX_KEY_CHARS]


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


# ---- the follower ----


class Tracker:
    """The thread that follows a run folder. Nothing it meets is raised into the training."""

    def __init__(self, sender: Sender, description: Description, poll_s: float):
        self._sender, self._description, self._poll_s = sender, description, poll_s
        self._closing = threading.Event()
        self._status = ""
        self._problem: str | None = None
        self._warned = False
        # A daemon, so that a server that hangs cannot keep the process alive.
        self._thread = threading.Thread(target=self._live, name="medseg-mlflow", daemon=True)
        self._thread.start()

    def close(self, status: End, timeout_s: float = 30) -> None:
        """Send what is left, end the MLflow run and stop; back within `timeout_s`, with a warning where something is missing."""
        self._status = MLFLOW_STATUS[status]
        self._closing.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive() or self._problem:
            sent, reason = self._sender.sent, self._problem or f"not done after {timeout_s:g} s"
            log.warning(
                "MLflow run %s at %s is not complete (%s); the run folder is whole: %s",
                sent.run_id or "(never made)", sent.uri, reason, self._sender.run.path,
            )  # fmt: skip

    def _live(self) -> None:
        wait_s, last_attempts = 0.0, 0
        while last_attempts < LAST_ATTEMPTS:
            closing = self._closing.wait(wait_s)
            try:
                self._send(closing)
                self._problem, wait_s = None, self._poll_s
                if closing:
                    return
            except Exception as cause:  # whatever a server, a driver or a full disk comes up with: the training goes on
                self._note(cause)
                wait_s = min(max(2 * wait_s, 1.0), LONGEST_BACKOFF_S)
                last_attempts += closing
                time.sleep(LAST_PAUSE_S if closing else 0)

    def _send(self, closing: bool) -> None:
        if not closing and not self._sender.has_news():
            return
        self._sender.open(self._description)
        self._sender.follow()
        if closing:
            self._sender.end(self._status)

    def _note(self, cause: Exception) -> None:
        self._problem = _reason(cause)
        if not self._warned:
            log.warning("MLflow at %s: %s; the training goes on and sending is tried again", self._sender.sent.uri, self._problem)
        self._warned = True


def start_tracking(run: RunFolder, config: Config, manifest: Manifest, split: Split, poll_s: float = POLL_S) -> Tracker:
    """Follow `run` from now on; returns at once, whatever the server does. ConfigError for an address that can never work.

    A run folder that was tracked before goes on where it stopped, in the same MLflow run.
    """
    uri = tracking_uri(config)
    sent = Sent.read(run) or Sent(_without_secrets(uri), manifest.dataset.name)
    sent.described, sent.status = False, None
    sent.write(run)
    live = uri if _without_secrets(uri) == sent.uri else _live_uri(sent.uri)
    return Tracker(Sender(run, sent, live), _describe(run, config, manifest, split), poll_s)


# ---- after the training ----


def mark_killed(run: RunFolder) -> None:
    """Set the MLflow run of a training that died to KILLED and send its last lines; a warning where the server is away."""
    sent = Sent.read(run)
    if sent is None or sent.run_id is None or sent.status is not None:
        return
    _within(MARK_KILLED_S, lambda: _end_killed(Sender(run, sent, _live_uri(sent.uri))), f"the killed run {run.id}")


def _end_killed(sender: Sender) -> None:
    client, sent = _connect(sender.uri), sender.sent
    status = client.get_run(sent.run_id).info.status
    if status in ("RUNNING", "SCHEDULED"):
        _terminate(client, sent.run_id, "KILLED")
        status = "KILLED"
    sent.status = status
    sent.write(sender.run)
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
    run_id, uri = sent.run_id, _live_uri(sent.uri)
    _within(
        LOG_EVALUATION_S,
        lambda: _send_evaluation(_connect(uri), run_id, run.evaluation(split), split),
        f"the evaluation of {run.id}",
    )


def _send_evaluation(client: MlflowClient, run_id: str, folder: Path, split: str) -> None:
    known = client.get_run(run_id).data.metrics
    flat = _flat_scores(_read_json(folder / "scores.json") or {})
    # at step 0 of `val/...` the scores would bend the curve of the training's own validation, so only test has its plain name
    prefix = split if split == "test" else f"evaluation/{split}"
    scores = {_metric_name(f"{prefix}/{name}"): value for name, value in flat}
    now_ms = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now_ms, 0) for name, value in scores.items() if known.get(name) != value])
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
    """
    for section in ("pooled", "per_image"):
        for name, values in _items(scores.get(section)):
            for score, value in _items(values):
                for part, number in _items(value) if isinstance(value, dict) else [("mean", value)]:
                    suffix = "" if part == "mean" else f"_{part}"
                    yield from _defined(f"{score}_{section}{suffix}/{name}", number)
    for name, mean in _items(scores.get("summary")):
        yield from _defined(name, mean.get("mean") if isinstance(mean, dict) else mean)


def _items(content: Any) -> list[tuple[str, Any]]:
    return list(content.items()) if isinstance(content, dict) else []


def _defined(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if _is_number(value):
        yield name, float(value)


def _send_table(client: MlflowClient, run_id: str, path: Path, name: str) -> None:
    """What MlflowClient.log_table writes, except that a second time it replaces the table: log_table would append to it."""
    client.log_text(run_id, pd.read_csv(path).to_json(orient="split", index=False), name)
    tables = json.loads(client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
    if (entry := {"path": name, "type": "table"}) not in tables:
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*tables, entry]))


def _within(seconds: float, action: Callable[[], None], what: str) -> None:
    """Run `action` for `seconds` at most; what goes wrong becomes a warning."""
    problems: list[str] = []

    def guarded() -> None:
        try:
            action()
        except Exception as cause:  # as in Tracker: MLflow's trouble is never the caller's
            problems.append(_reason(cause))

    thread = threading.Thread(target=guarded, name="medseg-mlflow", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() or problems:
        log.warning("MLflow has not got %s (%s); the run folder is whole", what, *(problems or [f"no answer in {seconds:g} s"]))


def _reason(cause: Exception) -> str:
    """One line without credentials."""
    return f"{type(cause).__name__}: {' '.join(_without_secrets(str(cause)).split())[:300]}"
