"""How far a run has come to MLflow: mlflow.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medseg.files import write_json
from medseg.runfolder import RunFolder


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
        content = read_json(run.mlflow_json)
        try:
            return None if content is None else cls(**content)
        except TypeError:
            return None

    def write(self, run: RunFolder) -> None:
        """Keep it in the run folder."""
        write_json(run.mlflow_json, asdict(self))


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none that can be read."""
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
