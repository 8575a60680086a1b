"""One upload's way: judged by its header, decoded, through the network in company, answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import ParamSpec, TypeVar, get_args

import numpy as np
from fastapi import Response

from medseg.deploy.model import Model
from medseg.errors import ImageError
from medseg.images import encode_jpeg, one_at_a_time
from medseg.parallel import processors
from medseg.serving.answers import Asked, Ready, Result, answer
from medseg.serving.batching import Batcher, Done
from medseg.serving.decoding import Placed, hold_pixels, judged, placed
from medseg.serving.limits import Limits, Shared
from medseg.serving.refusals import of_image
from medseg.serving.visit import Visit

P = ParamSpec("P")
T = TypeVar("T")


class Segmenter:
    """A model with the threads that serve it."""

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.batcher = Batcher(model.probs, model.description.size, limits.batch, limits.queue, self._answer_once)
        # two, so that nobody's photograph is read behind everybody's answers, and waits once in all
        self._reading = ThreadPoolExecutor(max(2, processors()), thread_name_prefix="medseg-reading")
        self._answering = ThreadPoolExecutor(max(2, processors()), thread_name_prefix="medseg-answering")

    def start(self) -> None:
        """The network warms up beside what is done meanwhile."""
        self.batcher.start()

    def stop(self) -> None:
        """When all is done."""
        self.batcher.stop()
        self._reading.shutdown()
        self._answering.shutdown()

    def _answer_once(self) -> None:
        """What it imports takes seconds, which nobody's request shall wait for."""
        height, width = self.model.description.size
        at = placed(encode_jpeg(np.zeros((height, width, 3), np.uint8)), height * width, self.model, keep_image=True)
        probs_Khw = np.zeros((self.model.labels.num_classes, height, width), np.float32)
        probs_Khw[1, height // 4 : height // 2, width // 4 : width // 2] = 1  # something with an outline
        done = Done(probs_Khw, 0.0, 0.0)
        for result in get_args(Result):
            self._answer(Asked(result=result), at, done, 0.0)

    async def answer(self, content: bytes, asked: Asked, visit: Visit) -> Response:
        """RequestError for a photograph that cannot be read."""
        began = time.perf_counter()
        with ExitStack() as held:  # until the answer is made: whoever is slow to fetch it holds up nobody else's photograph
            try:
                with self.batcher.company():
                    ready_for_network = await self._placed(content, asked, visit.desk.pixels, held)
            except ImageError as error:
                raise of_image(error) from None
            done = await self.batcher.put(ready_for_network.frame_Chw)
            waited_s = time.perf_counter() - began - ready_for_network.decoding_s - done.network_s
            return await _in_thread(self._answering, self._answer, asked, ready_for_network, done, waited_s)

    async def _placed(self, content: bytes, asked: Asked, shared: Shared, held: ExitStack) -> Placed:
        most = self.limits.pixels
        await hold_pixels(shared, await _in_thread(self._reading, judged, content, most), held)
        return await _in_thread(self._reading, placed, content, most, self.model, asked.result == "overlay")

    def _answer(self, asked: Asked, at: Placed, done: Done, waited_s: float) -> Response:
        started = time.perf_counter()
        with one_at_a_time(at.letterbox.original):
            found = self.model.on_own_pixels(done.probs_Khw, at.letterbox)
            return answer(Ready(self.model, asked, at, found, waited_s, done.network_s, started))


async def _in_thread(pool: ThreadPoolExecutor, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    assert not named
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
