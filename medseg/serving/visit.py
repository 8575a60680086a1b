"""One request from its head to the last byte of its answer: what it may send is counted and timed, what it holds is given back.

Pure ASGI, outside of FastAPI, so that no body is read before it was judged. An upload that is refused is read on for a while after the
answer has gone out: closing at once would reset the connection, and most clients would never see why.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, suppress

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medseg.serving.limits import Desk, too_many_bytes
from medseg.serving.refusals import RequestError

KEY = "medseg.visit"
DRAINED_BYTES, DRAINED_S = 128_000_000, 30.0  # on a busy machine 100 MB take their time


class Visit:
    """kept: what is given back when the answer has been sent."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, desk: Desk) -> None:
        headers = Headers(scope=scope)
        self._receive, self._send, self.desk = receive, send, desk
        self._until = time.monotonic() + desk.limits.seconds
        self._claimed = int(headers.get("content-length", "0"))
        self._unread = self._claimed > 0 or "transfer-encoding" in headers
        self._invited = "expect" not in headers  # a client that asks first has not begun to send
        self._got = 0
        self.answered = False
        self.kept = ExitStack()
        self.kept.callback(self._give_bytes)

    async def receive(self) -> Message:
        """The next piece of the body. RequestError where it is too much, too slow, or more than the server can hold at present."""
        if not self._unread:
            return await self._receive()
        self._check_size(self._claimed)
        self._invited = True
        message = await self._in_time()
        piece = len(message.get("body", b""))
        self._unread = message["type"] == "http.request" and message.get("more_body", False)
        self._check_size(self._got + piece)
        self.desk.bytes.take(piece)
        self._got += piece
        return message

    def _give_bytes(self) -> None:
        self.desk.bytes.give(self._got)
        self._got = 0

    async def _in_time(self) -> Message:
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                return await self._receive()
        except TimeoutError:
            rule = f"the upload did not end within {self.desk.limits.seconds:g} s"
            raise RequestError(408, "too_slow", rule, "send a smaller photograph, or over a faster line") from None

    def _check_size(self, size: int) -> None:
        if size > self.desk.limits.body_bytes:
            raise too_many_bytes(self.desk.limits)

    async def send(self, message: Message) -> None:
        """The answer; the connection is closed after one that did not wait for the whole body."""
        self.answered = True
        if message["type"] == "http.response.start" and self._unread:
            message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        ends = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (ends and self._unread and self._invited):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._drain()
        await self._send({"type": "http.response.body"})

    async def _drain(self) -> None:
        """Read on and keep nothing."""
        self._give_bytes()
        left = DRAINED_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAINED_S):
                while self._unread and left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self._unread = message["type"] == "http.request" and message.get("more_body", False)


def visit_of(request: Request) -> Visit:
    """The one that a request belongs to."""
    visit: Visit = request.scope[KEY]
    return visit


class Visits:
    """ASGI: gives each request its `Visit`, and answers what was refused outside of FastAPI."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = Visit(scope, receive, send, self._desk)
        with self._desk.visit(), visit.kept:
            try:
                await self._app({**scope, KEY: visit}, visit.receive, visit.send)
            except RequestError as refused:
                assert not visit.answered, refused.code
                await refused.response()(scope, visit.receive, visit.send)
