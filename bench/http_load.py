"""Many clients of an HTTP server on this machine, in one cheap loop: each has a connection of its own and does as Retry-After says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import NamedTuple

BOUNDARY = b"----medseg-bench"
PIECE = bytes(1 << 20)
PATIENCE_S, TRIES = 300.0, 10_000


class Request(NamedTuple):
    """What is sent. kind: for the counts.  content: a file; of `padding` more bytes, without a length where chunked.  reads_early: a client
    that takes an answer before it has sent all."""

    kind: str
    content: bytes
    query: str = ""
    name: str = "photo.jpg"
    padding: int = 0
    chunked: bool = False
    reads_early: bool = True


class Reply(NamedTuple):
    """status: 0 where the connection ended without an answer.  retries: answers of 429 and 503 before it."""

    request: Request
    status: int
    body: bytes
    retries: int = 0


async def send_all(port: int, requests: Iterable[Request], at_once: int, on_reply: Callable[[Reply], None]) -> None:
    """Each until it is answered by something other than "come again"."""
    shared = iter(requests)
    await asyncio.gather(*(_client(port, shared, on_reply) for _ in range(at_once)))


async def _client(port: int, shared: Iterator[Request], on_reply: Callable[[Reply], None]) -> None:
    line = Line(port)
    for request in shared:
        retries = 0
        while True:
            status, headers, body = await line.ask(request)
            if "retry-after" not in headers or retries == TRIES:
                break
            retries += 1
            await asyncio.sleep(float(headers["retry-after"]))
        on_reply(Reply(request, status, body, retries))
    await line.close()


class Line:
    """A connection that is opened again where the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); status 0 where there is no answer."""
        fresh = self.reader is None
        try:
            return await asyncio.wait_for(self._ask(request), PATIENCE_S)
        except (OSError, EOFError, TimeoutError):
            await self.close()
            return (0, {}, b"") if fresh else await self.ask(request)  # an idle connection may have been closed meanwhile

    async def _ask(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        sending = asyncio.create_task(_send(self.writer, request))
        try:
            if not request.reads_early:
                await asyncio.wait([sending])
            status, headers, body = await _read(self.reader)
        finally:
            sending.cancel()
            await asyncio.wait([sending])
            if not sending.cancelled():
                sending.exception()  # seen: the server may close while a refused body is sent
        if headers.get("connection") == "close":
            await self.close()
        return status, headers, body

    async def close(self) -> None:
        """Without waiting for what was not read."""
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None


async def _send(writer: asyncio.StreamWriter, request: Request) -> None:
    head, tail = _form(request)
    size = len(head) + request.padding + len(tail)
    length = b"Transfer-Encoding: chunked" if request.chunked else b"Content-Length: %d" % size
    lines = [b"POST /v1/segment" + request.query.encode() + b" HTTP/1.1", b"Host: 127.0.0.1", length]
    writer.write(b"\r\n".join([*lines, b"Content-Type: multipart/form-data; boundary=" + BOUNDARY, b"", b""]))
    async for piece in _pieces(head, request.padding, tail):
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if request.chunked else piece)
        await writer.drain()
    if request.chunked:
        writer.write(b"0\r\n\r\n")


def _form(request: Request) -> tuple[bytes, bytes]:
    disposition = b'Content-Disposition: form-data; name="image"; filename="%b"' % request.name.encode()
    head = b"\r\n".join([b"--" + BOUNDARY, disposition, b"Content-Type: image/jpeg", b"", request.content])
    return head, b"\r\n--" + BOUNDARY + b"--\r\n"


async def _pieces(head: bytes, padding: int, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    for start in range(0, padding, len(PIECE)):
        yield PIECE[: padding - start]
    yield tail


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))
