"""The peak of a process's anonymous memory, with its children: what it really asks for, mapped files left out."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

EVERY_S = 0.02


class Peak:
    """Watch a process from outside; `mib` is the largest sum of RssAnon seen. Linux only.

    forks: count children that are copies of their parent too, each page shared out among those that have it (Pss_Anon), which takes longer
    to ask for; else they are left out.
    """

    def __init__(self, pid: int, forks: bool = False):
        self.pid, self.forks = pid, forks
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
        kib = _shared_kib if self.forks else _anonymous_kib
        while not self._done.wait(10 * EVERY_S if self.forks else EVERY_S):
            self.mib = max(self.mib, sum(kib(pid) for pid in _family(self.pid, self.forks)) / 1024)


def _family(pid: int, forks: bool) -> list[int]:
    try:
        children = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    except OSError:  # it has just ended
        children = []
    begun = [child for child in children if forks or _command(child) != _command(pid)]
    return [pid, *(one for child in begun for one in _family(child, forks))]


def _command(pid: int) -> bytes:
    """Equal to its parent's where a process has just been forked, as by `subprocess`: its memory is still the parent's, not its own."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _anonymous_kib(pid: int) -> int:
    return _kib(Path(f"/proc/{pid}/status"), "RssAnon:")


def _shared_kib(pid: int) -> int:
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss_Anon:")


def _kib(path: Path, name: str) -> int:
    """0 where the process is gone."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
