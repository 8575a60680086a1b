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
from typing import TypeVar

from medseg.errors import MedsegError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 8  # items taken at a time
FEW = 200  # up to which threads, which share one interpreter, are done before fresh processes have imported anything
WAITING = 2  # chunks a worker has before it: results that nobody has taken yet must not pile up


def in_order(work: Callable[[Item], Result], items: Sequence[Item], workers: int = 0) -> Iterator[Result]:
    """`work` of each item, over `workers` processes (0: as many as there are processors). `work` and its results must be picklable.

    What `work` raises is raised here, and what has not begun is dropped.
    """
    chunks = (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    number = min(workers or processors(), max(1, -(-len(items) // CHUNK)))
    task, waiting = partial(_each, work), deque[Future[list[Result]]]()
    with _kept_whole(), _pool(number, len(items)) as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(task, chunk))
                if len(waiting) == WAITING * number:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            rule = "one of the processes was killed, by the system where memory ran out"
            raise MedsegError("processes", rule, "take fewer of them: --jobs 1") from None
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
