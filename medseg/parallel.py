"""Work shared out over the processors, in chunks, its results in order; Ctrl-C stops it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from medseg.errors import MedsegError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 8  # items taken at a time
FEW = 200  # up to which threads, which share one interpreter, are done before fresh processes have imported anything
WAITING = 2  # chunks a worker has before it: results that nobody has taken yet must not pile up
MEMORY_SHARE = 0.8  # of what is left that workers are given: others take memory, too
MEMINFO, GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def in_order(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int = 0,
    chunk: int = CHUNK,
    item_bytes: int = 0,
    fewer: str = "take fewer of them: --jobs 1",
) -> Iterator[Result]:
    """`work` of each item, over `workers` processes (0: as many as there are processors). `work` and its results must be picklable.

    chunk: items a worker takes at a time; 1 where each takes long.  item_bytes: the memory one takes at the most: of processes that
    nobody has told a number, no more are started than it allows.  fewer: what a user can do where one is killed all the same.
    What `work` raises is raised here, and what has not begun is dropped.
    """
    chunks = (items[start : start + chunk] for start in range(0, len(items), chunk))
    number = min(workers or affordable(item_bytes, memory_left()), max(1, -(-len(items) // chunk)))
    task, waiting = partial(_each, work), deque[Future[list[Result]]]()
    with _kept_whole(), _pool(number, len(items)) as pool:
        try:
            for some in chunks:
                waiting.append(pool.submit(task, some))
                if len(waiting) == WAITING * number:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            rule = "one of the processes was killed, by the system where memory ran out"
            raise MedsegError("processes", rule, fewer) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """`work` of each item, results in order, over threads of this process: for work that lets go of the interpreter's lock.

    What `work` raises is raised here, and what has not begun is dropped.
    """
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _each(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [work(item) for item in items]


def _pool(workers: int, items: int) -> Executor:
    """Processes by fork where no other thread holds a lock that it would copy; else threads for few items and fresh processes for many."""
    alone = threading.active_count() == 1 and sys.platform == "linux"
    if workers == 1 or (items <= FEW and not alone):
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, multiprocessing.get_context("fork" if alone else "spawn"), _begin)


@contextmanager
def _kept_whole() -> Iterator[None]:
    """What is there already is set aside from the garbage collector, whose marks would make a copy of every page that a fork shares."""
    if gc.get_freeze_count():  # somebody else has, and will undo it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _begin() -> None:
    """Ctrl-C is for the parent, which stops the workers; each would print a traceback of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def affordable(item_bytes: int, left_bytes: int | None) -> int:
    """One worker a processor, or as many as the memory that is left can hold items; one at least."""
    if not item_bytes or left_bytes is None:
        return processors()
    return max(1, min(processors(), int(MEMORY_SHARE * left_bytes / item_bytes)))


def memory_left(meminfo: Path = MEMINFO, group: Path = GROUP) -> int | None:
    """Bytes that processes may still take before the system kills one: of the machine, or of the container where that has a limit (cgroup
    v2). None where neither is told."""
    told = [_of_machine(meminfo), _of_container(group)]
    return min((left for left in told if left is not None), default=None)


def _of_machine(meminfo: Path) -> int | None:
    try:
        return 1024 * _field(meminfo, "MemAvailable:")
    except (OSError, ValueError):
        return None


def _of_container(group: Path) -> int | None:
    """Files that are held in memory give way, and do not count."""
    try:
        limit, taken = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        return max(0, limit - taken + _field(group / "memory.stat", "inactive_file"))
    except (OSError, ValueError):  # without a limit its file says "max"
        return None


def _field(path: Path, name: str) -> int:
    """The number behind a name; ValueError where there is none."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    for words in lines:
        if words[:1] == [name]:
            return int(words[1])
    raise ValueError(name)
