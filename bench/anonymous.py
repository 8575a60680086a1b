"""The peak of a process's anonymous memory, with its children: what it really asks for, mapped files left out."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

EVERY_S = 0.02


class Peak:
    """Watch a process from outside; `mib` is the largest sum of RssAnon seen. Linux only."""

    def __init__(self, pid: int):
        self.pid = pid
        self.mib = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            self.mib = max(self.mib, sum(_anonymous_kib(pid) for pid in _family(self.pid)) / 1024)


def _family(pid: int) -> list[int]:
    try:
        children = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    except OSError:  # it has just ended
        children = []
    begun = [child for child in children if _command(child) != _command(pid)]
    return [pid, *(one for child in begun for one in _family(child))]


def _command(pid: int) -> bytes:
    """Equal to its parent's where a process has just been forked, as by `subprocess`: its memory is still the parent's, not its own."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _anonymous_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)
