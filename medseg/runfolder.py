"""A run's folder: the truth about a run, written first and whole without any server.

runs/<id>/
  run.json            status, process, command, times          config.yaml       the resolved config
  dataset.yaml        classes, colours, regions
  digests.json        manifest and split                       environment.json  commit, packages, hardware; dirty.diff
  network.json        its size, and what its builder chose     weights.json      what became of those it started from, if of any
  metrics.jsonl       one line an epoch, no times              timings.jsonl     the times
  checkpoints/        best.safetensors, last.safetensors       previews/         strips of val predictions
  resume.safetensors  what an unfinished training goes on from
  sampling.png        each class: in the set, asked, shown     postprocess.json  what is done to predicted masks, if anything
  evaluation/<split>/ per_case.csv, scores.json, confusion.npy, table.md, table.csv, overlays.jpg
  report/             what `medseg experiment` publishes of its test
  mlflow.json         what the tracker has sent
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medseg.errors import RunError
from medseg.files import write_json

log = logging.getLogger(__name__)
Status = Literal["running", "finished", "failed", "interrupted", "killed"]
FORMAT = 1
STATE_KEYS = {"status", "error", "dataset", "name", "host", "pid", "process_started"}
# What a copy of a run is made of, for all who make one or read it.
IDENTITY_FILES = ("config.yaml", "digests.json", "environment.json", "run.json")  # which run it is: every run has them
NETWORK_FILES = ("network.json", "weights.json")  # runs of old have neither, trainings from scratch no weights.json
COURSE_FILES = ("metrics.jsonl", "timings.jsonl", "sampling.png")  # as far as the training came


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run and its status."""

    path: Path

    @property
    def id(self) -> str:
        """The run's name: that of its folder."""
        return self.path.name

    @property
    def config_yaml(self) -> Path:
        """The whole configuration, nothing left to a default."""
        return self.path / "config.yaml"

    @property
    def dataset_yaml(self) -> Path:
        """The data set's description as it was."""
        return self.path / "dataset.yaml"

    @property
    def digests_json(self) -> Path:
        """Hashes of manifest, split and configuration."""
        return self.path / "digests.json"

    @property
    def environment_json(self) -> Path:
        """Commit, packages, processor."""
        return self.path / "environment.json"

    @property
    def dirty_diff(self) -> Path:
        """Uncommitted changes the run was made with."""
        return self.path / "dirty.diff"

    @property
    def metrics_jsonl(self) -> Path:
        """What was measured, a line an epoch or log step."""
        return self.path / "metrics.jsonl"

    @property
    def timings_jsonl(self) -> Path:
        """Times, apart from the metrics so that equal runs have equal metrics."""
        return self.path / "timings.jsonl"

    @property
    def mlflow_json(self) -> Path:
        """What the tracking server has been sent."""
        return self.path / "mlflow.json"

    @property
    def sampling_png(self) -> Path:
        """Figure of each class's share: in the training set, asked of the sampler, shown in each epoch."""
        return self.path / "sampling.png"

    @property
    def previews(self) -> Path:
        """Folder of the previews drawn in training."""
        return self.path / "previews"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint `best` or `last`."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    @property
    def postprocess_json(self) -> Path:
        """What is done to predicted masks afterwards, and why; only where it was looked for."""
        return self.path / "postprocess.json"

    @property
    def weights_json(self) -> Path:
        """What became of the weights that training started from; a training from scratch has none."""
        return self.path / "weights.json"

    @property
    def network_json(self) -> Path:
        """How large the network is, and what the settings became that were left to its builder; runs of old have none."""
        return self.path / "network.json"

    @property
    def resume_point(self) -> Path:
        """From where an unfinished training goes on; a finished one has none."""
        return self.path / "resume.safetensors"

    @property
    def resumable(self) -> bool:
        """Whether it has a place to go on from."""
        return self.resume_point.exists()

    def evaluation(self, split: str) -> Path:
        """The folder of the scores on `split`."""
        return self.path / "evaluation" / split

    def state(self) -> dict[str, Any]:
        """The content of run.json; RunError where this is not a run folder."""
        try:
            state = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            rule = "not a medseg run folder (no readable run.json)" if self.path.exists() else "there is no such run folder"
            raise RunError(self.path, rule, "give a folder below runs/") from None
        if not isinstance(state, dict) or state.get("format") != FORMAT or not set(state) >= STATE_KEYS:
            raise RunError(self.path, f"run.json is not whole, or not of format {FORMAT}", "use the medseg version that made the run")
        return state

    def set_status(self, status: Status, error: str | None = None) -> None:
        """Record how the run stands; the end time goes with every status but running."""
        state = self.state() | {"status": status, "error": error}
        state["ended"] = None if status == "running" else _now()
        write_json(self.path / "run.json", state)

    def check_resumable(self) -> None:
        """RunError where there is nothing to go on with, or a process is at it. One that runs on another machine cannot be asked."""
        state = self.state()
        if state["status"] == "finished":
            raise RunError(self.path, "this training has finished", "evaluate it, or train the experiment again")
        if not self.digests_json.is_file():
            raise RunError(self.path, "this training ended before it had begun", "remove the folder and train the experiment again")
        if state["status"] == "running" and state["host"] != socket.gethostname():
            log.warning("%s was at work on %s, which cannot be asked from here; it must have ended there", self.path, state["host"])
        elif state["status"] == "running" and _alive(state):
            raise RunError(self.path, f"process {state['pid']} is at work on it", "wait for it, or stop it first")

    def take_over(self) -> None:
        """This process goes on with the run: its status is running, and when it was resumed is kept."""
        for part in (part for place in ("", "checkpoints", "previews") for part in (self.path / place).glob(".*.part*") if part.is_file()):
            part.unlink(missing_ok=True)  # what a process was killed in
        state = self.state()
        again = {"status": "running", "error": None, "ended": None, "host": socket.gethostname(), **_process(os.getpid())}
        write_json(self.path / "run.json", state | again | {"resumed": [*state.get("resumed", []), _now()]})

    def append(self, path: Path, record: dict[str, Any]) -> None:
        """Append one JSON line and flush it, so that a follower sees whole lines."""
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: epoch, step and metrics; none before the first epoch has ended."""
        if not self.metrics_jsonl.exists():
            return []
        return [json.loads(line) for line in self.metrics_jsonl.read_text(encoding="utf-8").splitlines()]


def create_run(runs: Path, dataset: str, name: str, seed: int, parent: str | None = None) -> RunFolder:
    """Make a new run folder `<dataset>-<name>-s<seed>-<UTC time>-<4 hex digits>` with status running; parent: what it is a part of."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run = RunFolder(runs / f"{dataset}-{name}-s{seed}-{stamp}-{secrets.token_hex(2)}")
    (run.path / "checkpoints").mkdir(parents=True)
    state = {
        "format": FORMAT, "status": "running", "error": None, "dataset": dataset, "name": name, "parent": parent, "command": sys.argv,
        "started": _now(), "ended": None, "host": socket.gethostname(), **_process(os.getpid()),
    }  # fmt: skip
    write_json(run.path / "run.json", state)
    return run


def open_run(path: Path) -> RunFolder:
    """An existing run by its folder; RunError where it is not one."""
    run = RunFolder(path)
    run.state()
    return run


def mark_dead_runs(runs: Path) -> list[RunFolder]:
    """Mark each run of this host that says `running` and whose process is gone as killed; returns those marked."""
    marked = []
    for run in _all_runs(runs):
        state = run.state()
        if state["status"] == "running" and state["host"] == socket.gethostname() and not _alive(state):
            with suppress(OSError):  # somebody else's folder, or a full disk: not this command's business
                run.set_status("killed", "the process is gone")
                marked.append(run)
    return marked


def _all_runs(runs: Path) -> Iterator[RunFolder]:
    for path in sorted(runs.glob("*/run.json")):
        try:
            run = RunFolder(path.parent)
            run.state()
        except RunError:
            continue
        yield run


def _process(pid: int) -> dict[str, Any]:
    return {"pid": pid, "process_started": _process_start(pid)}


def _alive(state: dict[str, Any]) -> bool:
    """A pid is used again after a while; its start time tells the two apart (where /proc has it)."""
    try:
        os.kill(state["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return state["process_started"] == _process_start(state["pid"])


def _process_start(pid: int) -> str | None:
    """Boot id and start time in clock ticks from /proc (Linux); None elsewhere."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else f"{boot}:{fields[19]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
