"""HTTP/1.1 by uvicorn, with less patience: a head that does not come, or an answer that nobody fetches, ends the connection."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
FETCH_S = 60.0  # in which a further piece of the answer must have been taken


class ImpatientProtocol(H11Protocol):
    """uvicorn waits for ever for both. Its own access log, which tells queries and addresses, is off even where logging is set up so
    that all is shown."""

    access_log = property(lambda self: False, lambda self, shown: None)
    _head: asyncio.TimerHandle | None = None
    _fetch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # noqa: D102
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        super().data_received(data)
        self._await_head()

    def _await_head(self) -> None:
        waiting = self.cycle is None or (self.cycle.response_complete and self.timeout_keep_alive_task is None)
        if waiting and self._head is None:
            self._head = self.loop.call_later(HEAD_S, self.transport.abort)
        elif not waiting:
            self._head = cancelled(self._head)

    def pause_writing(self) -> None:  # noqa: D102
        super().pause_writing()
        self._fetch = self._fetch or self.loop.call_later(FETCH_S, self.transport.abort)

    def resume_writing(self) -> None:  # noqa: D102
        super().resume_writing()
        self._fetch = cancelled(self._fetch)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._head, self._fetch = cancelled(self._head), cancelled(self._fetch)
        super().connection_lost(exc)


def cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What stands for no timer, after one that was running was stopped."""
    if timer is not None:
        timer.cancel()
    return None
