"""splits/<name>.ledger.jsonl: each time the test rows of a split were scored, and each time a test set was unlocked.

A test set that is scored again and again is a second validation set; nobody sees that unless somebody counts. Lines are only ever
appended. A folder that cannot be written to costs a warning, never the scores.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.manifest.schema import Split

log = logging.getLogger(__name__)
SUFFIX = ".ledger.jsonl"
SCORING, UNLOCK = "scoring", "unlock"


def ledger_path(split_path: Path) -> Path:
    """The ledger beside a split: splits/main.ledger.jsonl for splits/main.csv."""
    return split_path.with_name(split_path.stem + SUFFIX)


def record_scoring(split: Split, part: str, run: str, checkpoint: str) -> int | None:
    """Append one line for a scoring of the test rows; returns how often they have been scored by now, this time included.

    None for another part than test, and where the ledger cannot be written (a warning says so).
    """
    if part != "test":
        return None
    rows = split.ids(part)
    facts = {"run": run, "checkpoint": checkpoint, "split_sha256": split.digest, "rows": len(rows), "rows_sha256": rows_digest(rows)}
    return count(split) if append(ledger_path(split.path), SCORING, facts) else None


def record_unlock(split_path: Path, reason: str, facts: dict[str, Any]) -> None:
    """Append one line that says why rows of test were moved."""
    append(ledger_path(split_path), UNLOCK, {"reason": reason, **facts})


def count(split: Split) -> int:
    """How often exactly these test rows have been scored, by this split or by another of its folder that has the same test rows."""
    wanted = rows_digest(split.ids("test"))
    lines = (line for path in sorted(split.path.parent.glob(f"*{SUFFIX}")) for line in read_ledger(path))
    return sum(line.get("event") == SCORING and line.get("rows_sha256") == wanted for line in lines)


def rows_digest(sample_ids: Iterable[str]) -> str:
    """The SHA-256 of sample ids, whatever their order."""
    return hashlib.sha256("\n".join(sorted(sample_ids)).encode()).hexdigest()


def read_ledger(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ledger; one that is no JSON object (cut short by a full disk) is told and left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except (json.JSONDecodeError, RecursionError):
            record = None
            log.warning("%s line %d is unreadable and not counted", path, number)
        if isinstance(record, dict):
            yield record


def append(path: Path, event: str, facts: dict[str, Any]) -> bool:
    """Append one line; False and a warning where the folder is read-only or the disk is full.

    One write to a file opened to append: two processes never mix their lines (POSIX write, O_APPEND).
    """
    time = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"time": time, "event": event, **facts, "medseg": __version__}, sort_keys=True) + "\n"
    try:
        _append_line(path, line.encode())
    except OSError as cause:
        log.warning("%s cannot be written (%s): this %s is not counted", path, cause.strerror or cause, event)
        return False
    return True


def _append_line(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # an earlier line without its end must not swallow this one
        written = os.write(descriptor, b"\n" + line if cut else line)
        if written != len(line) + cut:
            raise OSError(28, "no space left: the line is cut short", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
