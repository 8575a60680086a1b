"""A real uvicorn on a free port in a thread, and requests of every kind to it."""

from __future__ import annotations

import http.client
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from medseg.deploy.model import Model
from medseg.deploy.networks import Network
from medseg.serving.app import Served, make_app
from medseg.serving.limits import Limits
from medseg.serving.run import Server, bound

BOUNDARY = "----a-boundary"


class Answered(NamedTuple):
    """What a client has read."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error."""
        error = self.json["error"]
        assert set(error) == {"rule", "fix", "code"} and all(error.values()), error
        return str(error["code"])


class Counting(Network):
    """Passes on, counts what came, and can be held up."""

    def __init__(self, within: Network) -> None:
        self.within, self.backend = within, within.backend
        self.sizes: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def probs(self, image_BCHW: np.ndarray) -> np.ndarray:
        self.open.wait(20)
        self.sizes.append(len(image_BCHW))
        return self.within.probs(image_BCHW)


class Running(NamedTuple):
    port: int
    served: Served
    server: Server
    network: Counting

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answered:
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answered:
        return self.ask("GET", path, None, headers)

    def send(self, content: bytes, query: str = "", name: str = "photo.png", **headers: str) -> Answered:
        """One photograph."""
        return self.ask("POST", f"/v1/segment{query}", form(content, name=name), {"Content-Type": FORM_TYPE, **headers})


FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(content: bytes, field: str = "image", name: str = "photo.png") -> bytes:
    """A file of a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(content: bytes, field: str = "image", name: str = "photo.png") -> bytes:
    """A form with one file."""
    return part(content, field, name) + END


END = f"--{BOUNDARY}--\r\n".encode()


def encoded(image_HWC: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """A photograph's file."""
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, kind, **options)
    return stream.getvalue()


@contextmanager
def running(model: Model, limits: Limits | None = None, token: str | None = None) -> Iterator[Running]:
    """Started, warmed up, and stopped in the end."""
    network = Counting(model.network)
    logging.getLogger("medseg.serving").setLevel(logging.INFO)
    served = make_app(Model(model.description, network, "# Tiny\n"), limits or Limits(), "127.0.0.1", token)
    server = Server(served, "127.0.0.1")
    with bound("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            wait(lambda: served.segmenter.batcher.ready and server.started)
            network.sizes.clear()
            yield Running(port, served, server, network)
        finally:
            network.open.set()
            server.stop()
            thread.join(20)
            assert not thread.is_alive()


def wait(until: Any, seconds: float = 20) -> None:
    """For something that another thread does."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)
