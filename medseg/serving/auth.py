"""Who may come in: by the name that the server was called by, by token, and not while it stops.

A name that a stranger's page has pointed at 127.0.0.1 (DNS rebinding) would let that page read answers as its own: on loopback only the
names of loopback are answered.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Collection
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from medseg.errors import ConfigError
from medseg.serving.limits import Desk
from medseg.serving.refusals import RequestError

VARIABLE = "MEDSEG_SERVE_TOKEN"
LEAST_CHARACTERS, MOST_CHARACTERS = 16, 512
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
HEALTH = "/healthz"
MAKE_ONE = f"make one: export {VARIABLE}=$(openssl rand -hex 32)"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_for(host: str, token_file: Path | None) -> str | None:
    """From the file, else from MEDSEG_SERVE_TOKEN; None where there is none. ConfigError where `host` needs one, or it is a poor one."""
    token = _of_file(token_file) if token_file else os.environ.get(VARIABLE)
    if token is None:
        if not is_loopback(host):
            raise ConfigError(f"--host {host}", "an address that others can reach needs a token", f"{MAKE_ONE}, or give --token-file PATH")
        return None
    whole = token.strip()
    if not (LEAST_CHARACTERS <= len(whole) <= MOST_CHARACTERS and whole.isascii() and whole.isprintable() and " " not in whole):
        rule = f"a token has {LEAST_CHARACTERS} to {MOST_CHARACTERS} letters, digits or signs and no space"
        raise ConfigError(token_file or VARIABLE, rule, MAKE_ONE)
    return whole


def _of_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(2 * MOST_CHARACTERS)
    except (OSError, ValueError) as cause:
        raise ConfigError(path, f"no token can be read ({getattr(cause, 'strerror', None) or 'not text'})", "check --token-file") from None


def names_of(host: str) -> frozenset[str] | None:
    """What a request may call the server; None for any name, where others can reach it and a token guards it."""
    return frozenset({*LOCAL_NAMES, host.lower()}) if is_loopback(host) else None


def called(host_header: str) -> str:
    """The name alone.

    >>> called("LocalHost:8000"), called("[::1]:8000"), called("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    name = host_header.lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


class Guard:
    """ASGI, outside of FastAPI. open_paths: what needs no token; everything else does, where there is one."""

    def __init__(self, app: ASGIApp, desk: Desk, names: frozenset[str] | None, token: str | None, open_paths: Collection[str]) -> None:
        self._app, self._desk, self._names, self._open = app, desk, names, frozenset(open_paths)
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(scope["path"], Headers(scope=scope))
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if self._names is not None and called(headers.get("host", "")) not in self._names:
            raise RequestError(421, "bad_host", "the server was called by a name that is not its own", "call it by 127.0.0.1 or localhost")
        if self._desk.stopping and path != HEALTH:
            raise RequestError(503, "stopping", "the server is stopping", "try another, or this one later")
        if path in self._open:
            return
        if headers.get("sec-fetch-site") == "cross-site":
            raise RequestError(403, "cross_site", "another site's page has sent this", "use the server's own page, or a program")
        self._check_token(headers.get("authorization", ""))

    def _check_token(self, said: str) -> None:
        if self._token is None:
            return
        scheme, _, token = said.partition(" ")
        # both sides as bytes and no early end, so that the time taken tells nothing
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._token):
            raise RequestError(401, "token", "the token is missing or wrong", "send the header Authorization: Bearer TOKEN")
