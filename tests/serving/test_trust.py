"""Who may ask, by which name, and what every answer forbids."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from medseg.deploy.model import Model
from medseg.errors import ConfigError
from medseg.serving import protocol
from medseg.serving.app import WHY
from medseg.serving.auth import VARIABLE, names_of, token_for
from medseg.serving.headers import HEADERS
from medseg.serving.refusals import PARAMETERS
from tests.serving.exports import photograph
from tests.serving.server import Running, encoded, running

TOKEN = "a-token-of-some-length"


def test_loopback_needs_no_token_and_any_other_address_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert token_for("127.0.0.1", None) is None
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(ConfigError, match="an address that others can reach needs a token; make one"):
            token_for(host, None)
    monkeypatch.setenv(VARIABLE, TOKEN)
    assert token_for("0.0.0.0", None) == TOKEN == token_for("127.0.0.1", None)


def test_a_token_file_is_read_and_a_poor_token_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="no token can be read"):
        token_for("127.0.0.1", file)
    file.write_text(f"{TOKEN}\n")
    assert token_for("0.0.0.0", file) == TOKEN
    for poor in ("short", "", "two words of a token here", "x" * 600):
        file.write_text(poor)
        with pytest.raises(ConfigError, match="a token has 16 to 512"):
            token_for("127.0.0.1", file)


def test_only_who_has_the_token_is_answered(model: Model) -> None:
    with running(model, token=TOKEN) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong-token-of-length"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer "},
        ):
            found = server.send(encoded(photograph()), **headers)
            assert (found.status, found.code, found.headers["www-authenticate"]) == (401, "token", "Bearer")
        assert server.get("/v1/model").status == 401
        assert server.get("//v1/model").status == 401 and server.get("/anything").status == 401
        assert server.send(encoded(photograph()), Authorization=f"Bearer {TOKEN}").status == 200
        assert {server.get(path).status for path in ("/", "/docs", "/healthz", "/readyz", "/openapi.json")} == {200}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "[::2]:80", ""])
def test_another_name_is_not_answered_on_loopback(server: Running, host: str) -> None:
    found = server.get("/v1/model", Host=host)
    assert (found.status, found.code) == (421, "bad_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "[::1]:8000"])
def test_a_name_of_loopback_is(server: Running, host: str) -> None:
    assert server.get("/v1/model", Host=host).status == 200


def test_elsewhere_any_name_is_answered() -> None:
    assert names_of("0.0.0.0") is None


def test_another_sites_page_gets_nothing(server: Running) -> None:
    crossed = server.send(encoded(photograph()), **{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"})
    assert (crossed.status, crossed.code) == (403, "cross_site")
    own = server.send(encoded(photograph()), **{"Sec-Fetch-Site": "same-origin", "Origin": f"http://127.0.0.1:{server.port}"})
    assert own.status == 200
    assert not [name for name in own.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/v1/model", "/nowhere", "/page/nothing.js", "/openapi.json"])
def test_every_answer_has_the_headers_of_safety(server: Running, path: str) -> None:
    found = server.get(path)
    assert {name: found.headers.get(name) for name in HEADERS} == HEADERS
    assert "frame-ancestors 'none'" in HEADERS["content-security-policy"] and "http" not in HEADERS["content-security-policy"]


def test_an_error_has_them_too_and_no_server_tells_its_name(server: Running) -> None:
    for found in (server.send(b"no image"), server.get("/", Host="evil.example"), server.ask("DELETE", "/v1/segment")):
        assert found.status in (415, 421, 405) and HEADERS.items() <= found.headers.items() and "server" not in found.headers


@pytest.mark.parametrize(
    "path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd", "/page/", "/page/index.html"]
)
def test_only_the_pages_files_are_sent(server: Running, path: str) -> None:
    assert server.get(path).status == 404


def test_the_page_and_its_files_are_sent(server: Running) -> None:
    page = server.get("/")
    assert page.headers["content-type"].startswith("text/html")
    names = re.findall(r'(?:src|href)="(/?page/[\w.]+)"', page.body.decode())
    assert names
    for name in names:
        assert server.get("/" + name.lstrip("/")).status == 200


def test_the_documentation_needs_no_other_host(server: Running) -> None:
    text = server.get("/docs").body.decode()
    assert "POST /v1/segment" in text and "spacing_mm" in text and "<script" not in text
    assert f"http://127.0.0.1:{server.port}/v1/segment?" in text
    addresses = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert addresses and all(address.startswith("/") for address in addresses)
    assert {server.get(address).status for address in addresses} == {200}


def test_openapi_describes_what_is_sent_and_answered(server: Running) -> None:
    paths = server.get("/openapi.json").json["paths"]
    assert {"401", "403", "421"} <= set(paths["/v1/model"]["get"]["responses"])
    route = paths["/v1/segment"]["post"]
    assert list(route["requestBody"]["content"]) == ["multipart/form-data"]
    assert {each["name"] for each in route["parameters"]} == set(PARAMETERS)
    told = "200 400 401 403 405 408 413 415 421 422 429 500 503 default"
    assert set(route["responses"]) == set(told.split())
    assert route["responses"]["422"] == route["responses"]["413"] | {"description": WHY[422]}, (
        "ours, not the one that FastAPI adds by itself"
    )
    assert "Medseg-Model" in route["responses"]["200"]["headers"]


def test_a_head_that_does_not_come_ends_the_connection(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    with socket.create_connection(("127.0.0.1", server.port), 5) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        with suppress(ConnectionResetError):
            assert line.recv(100) == b""
