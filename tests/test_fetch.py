"""Fetching public sets, from a server on this machine: resumed, verified, pinned, unpacked, and each hostile archive refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import FetchError
from medseg.fetch.entries import ENTRIES, Entry, entry
from medseg.fetch.fetcher import PINNED_FILE, Fetched, Patience, fetch
from medseg.fetch.unpack import Limits, unpack

QUICK = Patience(attempts=2, wait_s=0.01, timeout_s=5)
Get = Callable[..., Fetched]


@dataclass
class Served:
    """What the server holds and how it fails. cut: bytes after which the next answers break off.  ranges: those asked for."""

    content: bytes
    tag: str | None = '"v1"'
    cuts: list[int] = field(default_factory=list)
    status: int | None = None
    ranges: list[str | None] = field(default_factory=list)
    ignore_range: bool = False
    wrong_range: bool = False


@pytest.fixture
def server() -> Iterator[tuple[Served, str]]:
    served = Served(zipped({"images/a.txt": b"a" * 1000, "images/b.bin": np.random.default_rng(0).bytes(300_000)}))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            served.ranges.append(asked)
            if served.status:
                self.send_error(served.status)
                return
            fresh = self.headers.get("If-Range") in (None, served.tag)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and fresh and not served.ignore_range else 0
            body, total = served.content[start:], len(served.content)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if served.tag:
                self.send_header("ETag", served.tag)
            if start:
                self.send_header("Content-Range", f"bytes {start + 1 if served.wrong_range else start}-{total - 1}/{total}")
            self.end_headers()
            self.wfile.write(body[: served.cuts.pop(0)] if served.cuts else body)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield served, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def an_entry(url: str, content: bytes | None = None, **changes: object) -> Entry:
    plain = Entry("tiny", "a set", f"{url}/tiny.zip", "tiny.zip", "CC0", "nobody", "https://example.org", "import {folder}", 10**9)
    checksum = None if content is None else f"md5:{hashlib.md5(content).hexdigest()}"
    return replace(plain, checksum=checksum, checksum_source=checksum and "the test", **changes)  # type: ignore[arg-type]


@pytest.fixture
def get(tmp_path: Path) -> Get:
    def fetch_it(item: Entry, **options: object) -> Fetched:
        return fetch(item, tmp_path / "data", tmp_path / "cache", patience=QUICK, **options)  # type: ignore[arg-type]

    return fetch_it


def test_a_whole_fetch(server: tuple[Served, str], get: Get, tmp_path: Path) -> None:
    served, url = server
    seen: list[tuple[int, int]] = []
    done = get(an_entry(url, served.content), on_progress=lambda at, total: seen.append((at, total)))
    assert (done.files, done.newly_pinned, done.folder) == (2, False, tmp_path / "data/tiny")
    assert (done.folder / "images/a.txt").read_bytes() == b"a" * 1000
    assert done.sha256 == hashlib.sha256(served.content).hexdigest() and seen[-1] == (len(served.content),) * 2
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"tiny.zip", ".tiny.zip.lock"}
    with pytest.raises(FetchError, match=r"data/tiny: the folder exists; remove it, or pass --force"):
        get(an_entry(url, served.content))
    get(an_entry(url, served.content), force=True)
    assert len(served.ranges) == 1, "the archive in the cache is used again"


def test_a_broken_download_goes_on(server: tuple[Served, str], get: Get) -> None:
    served, url = server
    served.cuts = [131_072, 65_536]
    assert get(an_entry(url, served.content)).files == 2
    assert served.ranges == [None, "bytes=131072-", "bytes=196608-"]


def test_a_later_fetch_goes_on_too(server: tuple[Served, str], get: Get, tmp_path: Path) -> None:
    served, url = server
    served.cuts = [131_072, 0, 0]
    with pytest.raises(FetchError, match=r"tiny.zip: the download broke off .*it goes on from 131072 bytes.*by hand to .*cache/tiny.zip"):
        get(an_entry(url, served.content))
    assert not (tmp_path / "data").exists()
    get(an_entry(url, served.content))
    assert served.ranges[-1] == "bytes=131072-"


@pytest.mark.parametrize("change", ["tag", "no tag", "range ignored", "range wrong"])
def test_a_partial_file_of_something_else_is_dropped(server: tuple[Served, str], get: Get, change: str) -> None:
    served, url = server
    served.cuts = [131_072, 0, 0]
    served.tag = None if change == "no tag" else served.tag
    with pytest.raises(FetchError, match="broke off"):
        get(an_entry(url))
    if change == "tag":
        served.content, served.tag = zipped({"new.txt": b"new"}), '"v2"'
    served.ignore_range = change == "range ignored"
    served.wrong_range = change == "range wrong"
    done = get(an_entry(url))
    assert done.sha256 == hashlib.sha256(served.content).hexdigest()


def test_a_wrong_checksum(server: tuple[Served, str], get: Get, tmp_path: Path) -> None:
    served, url = server
    with pytest.raises(FetchError, match=r"tiny.zip: the file differs from its checksum \(md5:.* by the test\); fetch again"):
        get(an_entry(url, b"something else"))
    assert not (tmp_path / "data").exists() and not (tmp_path / "cache/tiny.zip").exists()


def test_the_first_fetch_pins_what_it_saw(server: tuple[Served, str], get: Get, tmp_path: Path) -> None:
    served, url = server
    first = get(an_entry(url))
    assert first.newly_pinned and json.loads((tmp_path / "cache" / PINNED_FILE).read_text()) == {"tiny": first.sha256}
    assert not get(an_entry(url), force=True).newly_pinned
    (tmp_path / "cache/tiny.zip").unlink()
    served.content = zipped({"other.txt": b"other"})
    with pytest.raises(
        FetchError, match=r"differs from its checksum \(sha256:.*, pinned by the first fetch\); ask the publisher.*pinned.json"
    ):
        get(an_entry(url), force=True)
    assert (tmp_path / "data/tiny/images/a.txt").exists(), "what was fetched before is left"


@pytest.mark.parametrize("first", ["an HTML page", "a cut archive"])
def test_what_cannot_be_unpacked_is_neither_pinned_nor_kept(server: tuple[Served, str], get: Get, tmp_path: Path, first: str) -> None:
    """The server says "try later" with status 200: the good archive must be taken afterwards."""
    served, url = server
    good, served.tag = served.content, None
    served.content = b"<html>try again later</html>" * 40 if first == "an HTML page" else good[:-200]
    with pytest.raises(FetchError, match=r"cache/tiny.zip: not a readable zip.*; it is removed from the cache: fetch again.*example.org"):
        get(an_entry(url))
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "cache/tiny.zip").exists() and not (tmp_path / "cache" / PINNED_FILE).exists()
    served.content = good
    done = get(an_entry(url))
    assert done.newly_pinned and done.sha256 == hashlib.sha256(good).hexdigest() and done.files == 2


def test_a_file_that_a_source_vouches_for_stays_in_the_cache(server: tuple[Served, str], get: Get, tmp_path: Path) -> None:
    served, url = server
    served.content = b"no archive, and yet what the source states"
    with pytest.raises(FetchError, match=r"not a readable zip, tar or tar.gz .*; remove it and fetch again"):
        get(an_entry(url, served.content))
    assert (tmp_path / "cache/tiny.zip").exists()


def test_a_broken_list_of_pins(server: tuple[Served, str], get: Get, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / PINNED_FILE).write_text("[1]")
    with pytest.raises(FetchError, match=r"pinned.json: not a readable list of pinned checksums; correct it"):
        get(an_entry(server[1]))


def test_a_file_placed_by_hand_is_verified_and_used(server: tuple[Served, str], get: Get, tmp_path: Path) -> None:
    served, _ = server
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/tiny.zip").write_bytes(served.content)
    assert get(an_entry("https://nowhere.invalid", served.content)).files == 2


def test_answers_that_end_it(server: tuple[Served, str], get: Get) -> None:
    served, url = server
    served.status = 404
    with pytest.raises(FetchError, match=r"tiny.zip: the server answers 404 Not Found; see https://example.org"):
        get(an_entry(url))
    assert len(served.ranges) == 1
    served.status = 503
    with pytest.raises(FetchError, match=r"the download broke off \(ConnectionError: the server answers 503"):
        get(an_entry(url))
    served.status = None
    with pytest.raises(FetchError, match=r"the file is larger than 1000 bytes, the most that is expected of tiny"):
        get(an_entry(url, limit_bytes=1000))


def test_no_server(get: Get) -> None:
    with pytest.raises(FetchError, match=r"http://127.0.0.1:9/tiny.zip: the download broke off .*by hand"):
        get(an_entry("http://127.0.0.1:9"))


def test_a_mirror(server: tuple[Served, str], get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    served, url = server
    monkeypatch.setenv("MEDSEG_MIRROR", f"{url}/sets/")
    assert get(an_entry("https://nowhere.invalid", served.content)).files == 2


@pytest.mark.parametrize("url", ["http://example.org", "ftp://127.0.0.1", "file:///etc"])
def test_addresses_that_cannot_be_trusted(get: Get, url: str) -> None:
    with pytest.raises(FetchError, match=r"addresses are https, or http where a source states the checksum"):
        get(an_entry(url))


# --- unpacking

LIMITS = Limits(most_bytes=10**6, most_files=50, free_bytes=10**5)


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tar(tmp_path: Path, name: str) -> None:
    path = tarred(tmp_path / name, (member(".", tarfile.DIRTYPE), b""), (member("./x/1.txt"), b"one"), (member("x/2.txt"), b"two"))
    assert unpack(path, tmp_path / "out", LIMITS) == 2
    assert {file.relative_to(tmp_path / "out").as_posix(): file.read_text() for file in (tmp_path / "out").rglob("*.txt")} == {
        "x/1.txt": "one",
        "x/2.txt": "two",
    }


def twenty(path: Path) -> Path:
    """A tar of 20 files of 600 bytes: each takes a block of header and two of content."""
    noise = np.random.default_rng(0)
    return tarred(path, *((member(f"{number:02d}.bin"), noise.bytes(600)) for number in range(20)))


@pytest.mark.parametrize("kept", [5 * 1536, 5 * 1536 - 1, 5 * 1536 + 100, 5 * 1536 + 512, 20 * 1536, 20 * 1536 + 511])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_that_stops_before_its_end_is_broken(tmp_path: Path, kept: int, name: str) -> None:
    """Cut between two members (5 of 20), within one, and before the end-of-archive block; the .gz is whole, what it holds is not."""
    content = twenty(tmp_path / "whole.tar").read_bytes()[:kept]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(FetchError, match=rf"{name}: the archive is broken \((it stops without an end-of-archive|unexpected end of data)"):
        unpack(tmp_path / name, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_a_tar_that_goes_on_in_garbage_is_broken(tmp_path: Path) -> None:
    """tarfile takes a header with a wrong checksum for the end."""
    content = bytearray(twenty(tmp_path / "a.tar").read_bytes())
    content[5 * 1536 + 3] ^= 1
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(FetchError, match="it stops without an end-of-archive block"):
        unpack(tmp_path / "a.tar", tmp_path / "out", LIMITS)


def test_a_tar_with_one_block_of_zeros_at_its_end_is_whole(tmp_path: Path) -> None:
    """Old writers leave one where POSIX asks for two."""
    content = twenty(tmp_path / "a.tar").read_bytes()[: 20 * 1536 + 512]
    (tmp_path / "a.tar").write_bytes(content)
    assert unpack(tmp_path / "a.tar", tmp_path / "out", LIMITS) == 20


@pytest.mark.parametrize("cut", [1, 4, 8, 20, 60])
def test_a_gzip_without_its_end_is_broken(tmp_path: Path, cut: int) -> None:
    path = twenty(tmp_path / "a.tar.gz")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(FetchError, match=r"the archive is broken \(Compressed file ended before the end-of-stream marker"):
        unpack(path, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("place", "told"), [(-8, "CRC check failed"), (-4, "Incorrect length")])
def test_a_gzip_whose_checksum_or_length_is_wrong_is_broken(tmp_path: Path, place: int, told: str) -> None:
    path = twenty(tmp_path / "a.tar.gz")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(FetchError, match=told):
        unpack(path, tmp_path / "out", LIMITS)


def test_zeros_without_end_behind_a_tar_are_stopped(tmp_path: Path) -> None:
    whole = twenty(tmp_path / "whole.tar").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole + bytes(50 * 2**20)))
    with pytest.raises(FetchError, match="a decompression bomb"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", LIMITS)


LEAVING = ["../evil", "/evil", "x/../../evil", "C:/evil", "..\\evil", "x/../evil"]


@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_path_traversal(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "inner" / f"a.{kind}"
    path.parent.mkdir()
    if kind == "zip":
        path.write_bytes(zipped({"good": b"good", name: b"evil"}))
    else:
        tarred(path, (member("good"), b"good"), (member(name), b"evil"))
    with pytest.raises(FetchError, match=r"the member .*evil' would leave the folder it is unpacked into; do not use"):
        unpack(path, tmp_path / "inner/deep/out", LIMITS)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file != path]


SPECIAL = {"symlink": (tarfile.SYMTYPE, "link"), "hard link": (tarfile.LNKTYPE, "link"), "device": (tarfile.CHRTYPE, "device"),
           "pipe": (tarfile.FIFOTYPE, "device")}  # fmt: skip


@pytest.mark.parametrize(("kind", "told"), SPECIAL.values(), ids=SPECIAL)
def test_links_and_devices(tmp_path: Path, kind: bytes, told: str) -> None:
    path = tarred(tmp_path / "a.tar", (member("x", kind, "/etc"), b""), (member("x/passwd"), b"evil"))
    with pytest.raises(FetchError, match=rf"a.tar: the member 'x' is a {told}; only files and folders"):
        unpack(path, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(FetchError, match=r"the member 'x' is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out", LIMITS)


def test_bombs_are_stopped_while_they_unpack(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    bomb.write_bytes(zipped({"zeros": bytes(900_000)}))
    with pytest.raises(FetchError, match=r"bomb.zip: it unpacks to more than \d+ bytes from \d+: a decompression bomb"):
        unpack(bomb, tmp_path / "out", LIMITS)
    many = tmp_path / "many.zip"
    many.write_bytes(zipped({f"{number}": b"" for number in range(51)}))
    with pytest.raises(FetchError, match=r"it holds more than 50 files"):
        unpack(many, tmp_path / "out", LIMITS)
    large = tarred(tmp_path / "large.tar", (member("noise"), np.random.default_rng(0).bytes(1_100_000)))
    with pytest.raises(FetchError, match=r"it unpacks to more than 1000000 bytes"):
        unpack(large, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*.part"))


def test_a_zip_that_lies_about_a_size(tmp_path: Path) -> None:
    """Both headers declare 10 bytes for 900,000: no more than those are read, and the checksum then does not fit."""
    content = bytearray(zipped({"zeros": bytes(900_000)}))
    size = (900_000).to_bytes(4, "little")
    assert content.count(size) == 2
    (tmp_path / "a.zip").write_bytes(bytes(content).replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(FetchError, match=r"a.zip: the archive is broken"):
        unpack(tmp_path / "a.zip", tmp_path / "out", LIMITS)


def zip64(members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A zip64 archive: the old end record says 0xFFFFFFFF for the table's size and place, the new record has the numbers."""
    with monkeypatch.context() as patched:
        patched.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
        content = bytearray(zipped(members))
    assert content[-42:-38] == b"PK\x06\x07" and content[-98:-94] == b"PK\x06\x06" and content[-22:-18] == b"PK\x05\x06"
    content[-10:-2] = b"\xff" * 8
    return bytes(content)


def test_a_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(zip64({"x/a": b"a" * 100, "b": b"b"}, monkeypatch))
    assert unpack(tmp_path / "a.zip", tmp_path / "out", LIMITS) == 2 and (tmp_path / "out/x/a").read_bytes() == b"a" * 100


@pytest.mark.parametrize("end_says", [0xFFFFFFFF, 46])
def test_a_zip64_whose_table_of_contents_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end_says: int) -> None:
    """zipfile believes the zip64 record, whatever the old end record says; 300 MiB of it (a hole in the file) must not be read."""
    content = bytearray(zip64({"a": b"a"}, monkeypatch))
    size = 300 * 2**20
    content[-98 + 40 : -98 + 56] = size.to_bytes(8, "little") + (0).to_bytes(8, "little")
    content[-10:-6] = end_says.to_bytes(4, "little")
    path = tmp_path / "a.zip"
    with path.open("wb") as stream:
        stream.write(content[:4])
        stream.seek(size)
        stream.write(content[-98:])
    with pytest.raises(FetchError, match="its table of contents is over 64 MiB; unpack it by hand"):
        unpack(path, tmp_path / "out", LIMITS)
    lying = bytearray(zip64({"a": b"a"}, monkeypatch))
    lying[-98 + 40 : -98 + 48] = (2**40).to_bytes(8, "little")
    path.write_bytes(lying)
    with pytest.raises(FetchError, match=r"not a readable zip, tar or tar.gz \(Bad offset"):
        unpack(path, tmp_path / "out", LIMITS)


def test_a_tar_with_a_gigabyte_of_header(tmp_path: Path) -> None:
    """A pax header is read whole by tarfile: 2 GiB of it, packed to 2 MB, must not reach the memory."""
    info = member("pax", tarfile.XHDTYPE)
    info.size = 2**31
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as stream:
        stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(128):
            stream.write(bytes(2**20))
    with pytest.raises(FetchError, match=r"a header of 2147483648 bytes"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", LIMITS)


BROKEN = {
    "text": b"no archive at all",
    "empty": b"",
    "cut zip": zipped({"a": b"a" * 100})[:60],
    "cut gzip": gzip.compress(b"a" * 5000)[:20],
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FetchError, match=r"(not a readable zip, tar or tar.gz|the archive is broken) .*; remove it and fetch again"):
        unpack(tmp_path / "a", tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_one_name_for_two_members(tmp_path: Path) -> None:
    path = tarred(tmp_path / "a.tar", (member("x"), b"1"), (member("x/y"), b"2"))
    with pytest.raises(FetchError, match=r"the member 'x/y' stands twice, or is both file and folder"):
        unpack(path, tmp_path / "out", LIMITS)


# --- the table


def test_entries_state_only_what_a_source_states() -> None:
    names = [item.name for item in ENTRIES]
    assert len(set(names)) == len(names) == 15 and len({item.file for item in ENTRIES}) == 15
    for item in ENTRIES:
        assert item.url.startswith("https://") and item.licence and item.citation and "{folder}" in item.next_step or item.name in (
            "isbi2012", "dsb2018",
        )  # fmt: skip
        assert (item.checksum is None) == (item.checksum_source is None) and (item.size_bytes is None) == (item.size_source is None)
    assert entry("TASK09_spleen").name == "Task09_Spleen"
    with pytest.raises(FetchError, match=r"mnist: there is no such data set; choose one of biohit"):
        entry("mnist")


@pytest.mark.parametrize("name", [item.name for item in ENTRIES])
def test_next_steps_are_commands_that_exist(name: str) -> None:
    """Each word after `medseg` up to the first option or path is a command, each option one of its own."""
    from typer.main import get_command

    from medseg.cli import app

    commands = re.findall(r"medseg ((?:(?!, then|, whose|\bmedseg\b).)+)", entry(name).next_step)
    assert commands
    for text in commands:
        words, command = text.split(), get_command(app)
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, text


def test_kvasir_is_imported_as_it_is_and_repaired() -> None:
    step = entry("kvasir-seg").next_step
    places = [step.index(word) for word in ("import masks", " --as-is ", "medseg manifest check", "--fix data_manifests/kvasir-seg/v2")]
    assert places == sorted(places)


def test_checksums_are_those_of_the_sources_cited() -> None:
    from monai.apps.datasets import DecathlonDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    for item in ENTRIES:
        if item.name.startswith("Task"):
            assert item.checksum == f"md5:{DecathlonDataset.md5[item.name]}" and item.url == DecathlonDataset.resource[item.name]
    assert entry("voc2012").checksum == f"md5:{DATASET_YEAR_DICT['2012']['md5']}"
    assert entry("voc2012").url == DATASET_YEAR_DICT["2012"]["url"]


def test_the_command_lists_without_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys; from medseg.cli import app; app(['data', 'list', '--json'], standalone_mode=False);"
        "assert not {'torch', 'pandas', 'monai'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [item["name"] for item in json.loads(done.stdout)] == [item.name for item in ENTRIES]
    done = subprocess.run([sys.executable, "-m", "medseg", "data", "list"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 80 and "…" not in done.stdout
    assert "medseg data list --json" in done.stdout


def test_the_table_has_all_facts_of_each_set() -> None:
    """Values are wrapped and folded, so they are looked for without spaces."""
    done = subprocess.run([sys.executable, "-m", "medseg", "data", "list"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    starts = [next(place for place, line in enumerate(lines) if line.startswith(f"{item.name} ")) for item in ENTRIES]
    assert starts == sorted(starts)
    for item, start, end in zip(ENTRIES, starts, [*starts[1:], len(lines)], strict=True):
        block = lines[start:end]
        said = "".join("".join(line[20:].split()) for line in block)
        facts = [item.what, item.url, item.licence, item.citation, item.checksum, item.checksum_source, item.size_source]
        assert all("".join(fact.split()) in said for fact in facts if fact), item.name
        for field_name, fact in (("size", item.size_bytes), ("checksum", item.checksum), ("licence", item.licence)):
            line = next(line for line in block if line.startswith(f"  {field_name} "))
            assert ("not stated" in line) == (fact in (None, "not stated")), line


def test_the_command_fetches(server: tuple[Served, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_MIRROR", server[1])
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "medseg", "data", "fetch", "kvasir-seg", "--out", "sets"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for told in (
        "licence: research and education only",
        "cite: Jha et al.",
        "2 files are in sets/kvasir-seg",
        "is pinned",
        "next: medseg manifest",
    ):
        assert told in done.stdout, done.stdout
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: sets/kvasir-seg: the folder exists; ")
