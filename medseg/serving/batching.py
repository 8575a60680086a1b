"""Frames of several requests through the network together, by one thread.

A batch has 1, 2, 4, ... frames, so that a network that is planned for its shape meets few of them, all of them before the first request.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import compress
from typing import NamedTuple

import numpy as np

from medseg.types import Size

logger = logging.getLogger("medseg.serving")
PATIENCE_S = 0.004  # for company that is being decoded; alone nobody waits


class Done(NamedTuple):
    """probs_Khw: float32, of one frame.  waited_s: for the network.  network_s: what its batch took."""

    probs_Khw: np.ndarray
    waited_s: float
    network_s: float


class _Job(NamedTuple):
    frame_Chw: np.ndarray
    future: Future[Done]
    since: float


class Batcher:
    """probs: uint8 (B, 3, h, w) -> float32 (B, K, h, w), called by one thread only.  most: of a batch.  queue_size: jobs that wait.
    warm_up: what else is done once, in the same thread, before `ready`."""

    def __init__(
        self, probs: Callable[[np.ndarray], np.ndarray], frame: Size, most: int, queue_size: int, warm_up: Callable[[], object]
    ) -> None:
        self._probs, self._frame, self._more_warmth = probs, frame, warm_up
        self.sizes = [1 << power for power in range(most.bit_length())]
        self._jobs: queue.Queue[_Job | None] = queue.Queue(queue_size + 1)
        self._kept: deque[_Job] = deque()
        self._thread = threading.Thread(target=self._work, name="medseg-network", daemon=True)
        self.coming = 0  # requests that will bring a frame soon; written by the event loop alone
        self.ready = False

    def start(self) -> None:
        """Warm up, then work."""
        self._thread.start()

    def stop(self) -> None:
        """When all that was put has been done."""
        self._jobs.put(None)
        self._thread.join()

    @contextmanager
    def company(self) -> Iterator[None]:
        """A frame is being made: a batch may wait a moment for it."""
        self.coming += 1
        try:
            yield
        finally:
            self.coming -= 1

    async def put(self, frame_Chw: np.ndarray) -> Done:
        """One frame, uint8 (3, h, w); raises what the network raises."""
        job = _Job(frame_Chw, Future(), time.perf_counter())
        self._jobs.put_nowait(job)  # no more jobs than places, see `Limits.queue`
        return await asyncio.wrap_future(job.future)

    def _work(self) -> None:
        try:
            self._warm_up()
        except Exception:
            logger.exception("the network does not run; /readyz says so")
        while jobs := self._next():
            self._run(jobs)

    def _warm_up(self) -> None:
        for size in reversed(self.sizes):
            self._probs(np.zeros((size, 3, *self._frame), np.uint8))
        self._more_warmth()
        self.ready = True

    def _next(self) -> list[_Job]:
        """The oldest of what waits, as many as a batch has; none when all is done."""
        if not self._kept and not self._take(None):
            return []
        until = time.perf_counter() + PATIENCE_S
        while len(self._kept) < self.sizes[-1] and self._take(until - time.perf_counter() if self.coming else 0):
            pass
        size = max(size for size in self.sizes if size <= len(self._kept))
        return [self._kept.popleft() for _ in range(size)]

    def _take(self, wait_s: float | None) -> bool:
        """Whether one more has come; None waits for ever."""
        try:
            job = self._jobs.get(block=wait_s is None or wait_s > 0, timeout=wait_s)
        except queue.Empty:
            return False
        if job is None:
            if self._kept:
                self._jobs.put(None)  # met again when these are done
            return False
        self._kept.append(job)
        return True

    def _run(self, jobs: list[_Job]) -> None:
        wanted = [job.future.set_running_or_notify_cancel() for job in jobs]
        started = time.perf_counter()
        try:
            probs_BKhw = self._probs(np.stack([job.frame_Chw for job in jobs]))
            answers = list(zip(jobs, probs_BKhw, strict=True))  # a graph may answer with fewer rows; nobody shall wait for those
        except Exception as fault:
            for job in compress(jobs, wanted):
                job.future.set_exception(fault)
            return
        took = time.perf_counter() - started
        for job, probs_Khw in compress(answers, wanted):
            job.future.set_result(Done(probs_Khw, started - job.since, took))
