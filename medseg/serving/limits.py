"""What a server takes in, and what it has in hand: bytes, pixels, seconds, requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from medseg.serving.refusals import RequestError

MEGABYTE = MEGAPIXEL = 1_000_000
LEAST_HELD_BYTES = 256 * MEGABYTE
FORM_BYTES = 8192  # what a form has around its file: boundaries and the head of its part


@dataclass(frozen=True, slots=True)
class Limits:
    """bytes, pixels: of one photograph.  seconds: in which it must have come.  queue: requests that are in hand at one
    time, further ones are answered 429.  batch: frames that go through the network together at most."""

    bytes: int = 20 * MEGABYTE
    pixels: int = 50 * MEGAPIXEL
    seconds: float = 30.0
    queue: int = 64
    batch: int = 8

    @property
    def body_bytes(self) -> int:
        """Of a whole request."""
        return self.bytes + FORM_BYTES

    @property
    def held_bytes(self) -> int:
        """Of all uploads together."""
        return max(LEAST_HELD_BYTES, 4 * self.bytes)

    @property
    def held_pixels(self) -> int:
        """Of all photographs that are being decoded and segmented, up to where their answers are made."""
        return 2 * self.pixels


def too_many_bytes(limits: Limits) -> RequestError:
    """Of one photograph."""
    rule = f"the upload is larger than {limits.bytes / MEGABYTE:g} MB"
    return RequestError(413, "too_many_bytes", rule, "send a smaller photograph, or as JPEG")


class Counted:
    """So many of something. Who asks for more than is left is sent away."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def take(self, count: int = 1) -> None:
        """RequestError (429) where so many are not left."""
        self.check(count)
        self.taken += count

    def check(self, count: int = 1) -> None:
        """RequestError (429) where so many are not left; nothing is taken."""
        if self.taken + count > self.most:
            raise RequestError(429, "busy", "the server has as much in hand as it takes", "come again after the time of Retry-After")

    def give(self, count: int = 1) -> None:
        """Back what was taken."""
        self.taken -= count


class Shared:
    """Pixels that requests share. Who asks for more than is left waits; in the order of arrival, so that a large one gets its turn."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, amount: int) -> None:
        """Hold `amount`, which must not be more than there is in all."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(amount)
            raise

    def give(self, amount: int) -> None:
        """Back what was taken."""
        self._left += amount
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._left):
            amount, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._left -= amount
                turn.set_result(None)


@dataclass(slots=True)
class Desk:
    """What all requests share. stopping: no new ones are taken.  in_hand: those that were taken before, and are not answered yet."""

    limits: Limits
    bytes: Counted = field(init=False)
    places: Counted = field(init=False)
    pixels: Shared = field(init=False)
    stopping: bool = False
    in_hand: int = 0

    def __post_init__(self) -> None:
        self.bytes, self.places = Counted(self.limits.held_bytes), Counted(self.limits.queue)
        self.pixels = Shared(self.limits.held_pixels)

    @contextmanager
    def visit(self) -> Iterator[None]:
        """For as long as one request takes. Those that come after the stop are answered 503 and waited for by nobody."""
        counted = not self.stopping
        self.in_hand += counted
        try:
            yield
        finally:
            self.in_hand -= counted
