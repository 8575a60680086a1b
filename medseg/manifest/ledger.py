"""splits/<name>.ledger.jsonl: the making of a split, each time its test rows were scored, and each time a test set was unlocked.

A test set that is scored again and again is a second validation set; nobody sees that unless somebody counts. The line of its making
outlives the split's table, so that a removed table leaves a trace. Lines are only ever appended. A folder that cannot be written to
costs a warning, never the split or the scores.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.manifest.schema import Split

log = logging.getLogger(__name__)
SUFFIX = ".ledger.jsonl"
MADE, SCORING, UNLOCK = "made", "scoring", "unlock"


@dataclass(frozen=True, slots=True)
class Fixed:
    """The test rows of a split as its ledger last told them: the digest of the split's file, how many rows, `rows_digest` of them."""

    split_sha256: str
    rows: int
    rows_sha256: str


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


def record_made(split: Split) -> None:
    """Append one line that says which test rows the split fixes; nothing where the last such line is of the same file."""
    path = ledger_path(split.path)
    made = [line for line in read_ledger(path) if line.get("event") == MADE]
    if made and made[-1].get("split_sha256") == split.digest:
        return
    rows = split.frame.loc[split.frame["split"] == "test", "sample_id"].tolist()
    append(path, MADE, {"split_sha256": split.digest, "test_rows": len(rows), "rows_sha256": rows_digest(rows)})


def fixed_rows(split_path: Path) -> Fixed | None:
    """The test rows that the ledger of a split says are fixed; None where it tells of none, or where their removal was unlocked."""
    found: Fixed | None = None
    for line in read_ledger(ledger_path(split_path)):
        rows = line.get("test_rows" if line.get("event") == MADE else "rows")
        if line.get("event") in (MADE, SCORING) and isinstance(rows, int):
            found = Fixed(str(line.get("split_sha256")), rows, str(line.get("rows_sha256")))
        elif line.get("event") == UNLOCK and found and line.get("removed_sha256") == found.split_sha256:
            found = None
    return found if found and found.rows else None


def record_unlock(split_path: Path, reason: str, facts: dict[str, Any]) -> None:
    """Append one line that says why rows of test were moved."""
    append(ledger_path(split_path), UNLOCK, {"reason": reason, **facts})


def count(split: Split) -> int:
    """How often exactly these test rows have been scored, by this split or by another of its folder that has the same test rows."""
    return count_rows(split.path.parent, split.ids("test"))


def count_rows(folder: Path, sample_ids: Iterable[str]) -> int:
    """The same of these rows, by the ledgers of a folder of splits."""
    wanted = rows_digest(sample_ids)
    lines = (line for path in sorted(folder.glob(f"*{SUFFIX}")) for line in read_ledger(path))
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
        log.warning("%s cannot be written (%s): the line %r is not counted", path, cause.strerror or cause, event)
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
