"""Bytes that were sent to do harm: each is answered by a 4xx that says why, and the server goes on."""

from __future__ import annotations

import logging
import socket
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medseg.deploy.model import Model
from medseg.serving.limits import Limits
from tests.serving.exports import photograph
from tests.serving.server import BOUNDARY, END, FORM_TYPE, Running, encoded, form, part, running, wait

GOOD = encoded(photograph())
HUGE = 100_000_000
HEAD = {"Content-Type": FORM_TYPE}


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A small PNG that promises gigapixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
HOSTILE = {
    "truncated JPEG": (encoded(NOISE, "JPEG")[:-2000], 400, "broken_image"),
    "truncated PNG": (encoded(NOISE)[:-2000], 400, "broken_image"),
    "bomb": (bomb(), 413, "too_many_pixels"),
    "just over the limit": (bomb(7_072, 7_072), 413, "too_many_pixels"),
    "within the limit, without its pixels": (bomb(1_000, 1_000), 400, "broken_image"),
    "text": (b"hello", 415, "no_image"),
    "PDF": (b"%PDF-1.7\n" + bytes(1000), 415, "no_image"),
    "PostScript, which Pillow would run": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "no_image"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no_image"),
    "empty": (b"", 415, "no_image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_4xx_with_a_reason(server: Running, name: str) -> None:
    content, status, code = HOSTILE[name]
    found = server.send(content)
    assert (found.status, found.code) == (status, code)
    assert "/" not in found.json["error"]["rule"] and "0x" not in found.json["error"]["rule"]  # no path, no address
    assert server.send(GOOD).status == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (form(GOOD, field="picture"), HEAD, 400, "missing_image"),
        (part(GOOD) + part(GOOD) + END, HEAD, 400, "two_images"),
        (END, HEAD, 400, "missing_image"),
        (form(GOOD)[: -len(END) - 10], HEAD, 400, "missing_image"),
        (b"no form at all", HEAD, 400, "bad_form"),
        (form(GOOD), {"Content-Type": "multipart/form-data"}, 400, "bad_form"),
        (form(GOOD), {"Content-Type": f"{FORM_TYPE}; charset=undefined"}, 400, "bad_form"),
        (form(GOOD), {"Content-Type": f"{FORM_TYPE}; charset=no-such-thing"}, 200, ""),
        (form(GOOD), {"Content-Type": f"{FORM_TYPE}; charset=zlib"}, 200, ""),
        (GOOD, {"Content-Type": "image/png"}, 415, "no_form"),
        (None, {}, 415, "no_form"),
        (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n'.encode() + END, HEAD, 400, "missing_image"),
    ],
)
def test_a_form_that_is_not_as_asked_for(server: Running, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    found = server.ask("POST", "/v1/segment", body, headers)
    assert (found.status, found.code if code else "") == (status, code)


@pytest.mark.parametrize("query", ["?spacing_mm=0", "?spacing_mm=-1", "?spacing_mm=nan", "?spacing_mm=a", "?result=exe", "?spacing=1"])
def test_a_parameter_that_is_not_known_is_told(server: Running, query: str) -> None:
    found = server.send(GOOD, query)
    assert (found.status, found.code) == (400, "bad_parameter")
    assert query[1:].split("=")[0] in found.json["error"]["rule"] or "none of result, spacing_mm" in found.json["error"]["rule"]


@pytest.mark.parametrize(
    "name", ["../../../../tmp/medseg-was-here.png", "/etc/passwd", "a\\..\\b.png", "C:evil.exe", "%00.png", "x" * 2000]
)
def test_a_path_in_the_name_does_nothing(server: Running, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "medseg.serving"):
        found = server.send(GOOD, "?result=mask", name=name)
    assert found.status == 200 and not Path("/tmp/medseg-was-here.png").exists()
    assert name[-8:].encode() not in found.body and name[-8:] not in caplog.text


def chunked(size: int) -> Iterator[bytes]:
    yield part(b"")[:-2]
    for _ in range(size // 1_000_000):
        yield bytes(1_000_000)


def test_a_huge_upload_is_refused_by_its_length(server: Running) -> None:
    head = {**HEAD, "Content-Length": str(HUGE)}
    found = server.ask("POST", "/v1/segment", chunked(HUGE - 1_000_000), head)  # the client reads only after it has sent all
    assert (found.status, found.code, found.headers["connection"]) == (413, "too_many_bytes", "close")
    wait(lambda: server.served.desk.bytes.taken == 0)


def test_a_huge_upload_without_a_length_is_refused_when_it_is_too_long(server: Running) -> None:
    found = server.ask("POST", "/v1/segment", chunked(HUGE), HEAD)
    assert (found.status, found.code) == (413, "too_many_bytes")
    wait(lambda: server.served.desk.bytes.taken == 0)


def test_a_file_of_the_limit_is_read_and_of_one_byte_more_is_not(model: Model) -> None:
    with running(model, Limits(bytes=len(GOOD))) as small:
        assert small.send(GOOD).status == 200
        assert small.send(GOOD + b"\0").code == "too_many_bytes"


def test_an_upload_that_trickles_in_is_cut_off(model: Model) -> None:
    with running(model, Limits(seconds=0.3)) as hasty, socket.create_connection(("127.0.0.1", hasty.port), 10) as line:
        began = time.monotonic()
        line.sendall(f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM_TYPE}\r\nContent-Length: 5000\r\n\r\n".encode())
        line.sendall(part(b"abc"))
        answer = line.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - began < 3
        line.sendall(bytes(5000))  # what is left; then the server has no more to wait for


def test_nothing_is_written_to_disk(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/there/is/no/such/folder")
    content = encoded(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8))
    assert len(content) > 2_000_000  # Starlette's own parser takes a temporary file from 1 MB on
    assert server.send(content, "?result=mask").status == 200


def test_the_log_tells_no_query_name_or_unknown_path(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        server.send(GOOD, "?spacing_mm=0.123", name="anna-miller.png")
        server.get("/v1/anna-miller")
        server.get("/healthz")
    assert "POST /v1/segment 200" in caplog.text and "GET (other) 404" in caplog.text
    assert "0.123" not in caplog.text and "anna" not in caplog.text


def test_all_that_was_held_is_given_back(server: Running) -> None:
    desk = server.served.desk
    for content, _, _ in HOSTILE.values():
        server.send(content)
    wait(lambda: (desk.bytes.taken, desk.places.taken, desk.in_hand) == (0, 0, 0))
    assert desk.pixels._left == server.served.segmenter.limits.held_pixels
