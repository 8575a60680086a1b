"""The verb serve as a short story: an address, a model, uvicorn until a signal."""

from __future__ import annotations

import logging
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from medseg.deployed import open_model
from medseg.errors import ConfigError
from medseg.heap import give_back
from medseg.serving.app import Served, make_app
from medseg.serving.auth import token_for
from medseg.serving.limits import Desk, Limits
from medseg.serving.protocol import ImpatientProtocol

HEAD_BYTES = 16_384
CONNECTIONS = 1000
GRACE_S = 60.0
KEEP_ALIVE_S = 15
LARGE_BLOCK_BYTES = 4 * 1024**2  # less than a photograph takes: glibc learns otherwise to keep those


class Server(uvicorn.Server):
    """uvicorn that goes on listening while it finishes what it has taken, so that whoever comes is told (503); then it ends.

    A second signal ends it at once.
    """

    def __init__(self, served: Served, host: str) -> None:
        super().__init__(_config(served, host))
        quiet()
        give_back(LARGE_BLOCK_BYTES)
        self._desk: Desk = served.desk
        self._signal, self._since = 0, 0.0

    @property
    def exit_code(self) -> int:
        """Of the process: a stop by SIGTERM is no failure; Ctrl-C is told as shells do."""
        return 130 if self._signal == signal.SIGINT else 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: D102
        if self._desk.stopping:
            self.should_exit = self.force_exit = True
        self._signal = self._signal or sig
        self.stop()

    def stop(self) -> None:
        """Take no more, end when all is answered."""
        self._desk.stopping, self._since = True, self._since or time.monotonic()

    async def on_tick(self, counter: int) -> bool:  # noqa: D102
        if self._desk.stopping and (not self._desk.in_hand or time.monotonic() - self._since > GRACE_S):
            self.should_exit = True
        return await super().on_tick(counter)


def quiet() -> None:
    """Libraries that tell bytes or tags of what they read."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="PIL")


def _config(served: Served, host: str) -> uvicorn.Config:
    return uvicorn.Config(
        served.app, host=host, http=ImpatientProtocol, ws="none", loop="asyncio", lifespan="on", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, h11_max_incomplete_event_size=HEAD_BYTES, limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=int(GRACE_S),
    )  # fmt: skip


def serve(
    where: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    backend: str = "auto",
    limits: Limits | None = None,
    token_file: Path | None = None,
    checkpoint: str = "best",
    tell: Callable[[str], None] = print,
) -> int:
    """Serve what `where` names (see `open_model`) until SIGTERM or Ctrl-C; the exit code, 0 or 130.

    ConfigError where the address is taken, or needs a token and none is given; nothing is loaded before that is known.
    """
    logging.getLogger("medseg.serving").setLevel(logging.INFO)
    token = token_for(host, token_file)
    with bound(host, port) as listener, open_model(where, backend, checkpoint) as model:
        served = make_app(model, limits or Limits(), host, token)
        server = Server(served, host)
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        tell(f"{url}/ is the page, {url}/docs the API; Ctrl-C stops it")
        server.run([listener])
    return server.exit_code


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at an address, not listening yet: who comes while the model is loaded is refused by the system, and may try again.

    Of a socket that is not told its protocol asyncio does not turn off Nagle's algorithm, which held the end of every second answer
    back for 40 ms.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as cause:
            raise ConfigError(
                f"--host {host} --port {port}", f"cannot be had ({cause.strerror or cause})", "choose another --port"
            ) from None
        yield listener
