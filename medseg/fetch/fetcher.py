"""Fetch a public data set: resumed where it broke off, verified, unpacked, or refused in words."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests

from medseg.errors import FetchError
from medseg.fetch.entries import Entry
from medseg.fetch.unpack import Limits, unpack
from medseg.files import sha256_file, write_json

MIRROR = "MEDSEG_MIRROR"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PINNED_FILE = "pinned.json"
CHUNK = 2**16  # what a broken connection costs at most
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download waits and how often it is tried again; a try that brought bytes does not count."""

    attempts: int = 5
    wait_s: float = 2.0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch did. newly_pinned: no source states a checksum, so this file's is now the one to expect."""

    folder: Path
    archive: Path
    files: int
    sha256: str
    newly_pinned: bool


def default_cache() -> Path:
    """Where archives are kept: MEDSEG_CACHE, else the user's cache folder."""
    return Path(os.environ.get("MEDSEG_CACHE") or pooch.os_cache("medseg"))


def fetch(
    entry: Entry,
    out: Path,
    cache: Path | None = None,
    force: bool = False,
    on_progress: Progress | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """Download `entry` into the cache, verify it and unpack it into out/<name>.

    Raises FetchError where the folder exists (unless `force`, which replaces it), the address or the archive cannot be trusted, or the
    server cannot be reached.
    """
    folder = out / entry.name
    if folder.exists() and not force:
        raise FetchError(folder, "the folder exists", "remove it, or pass --force to replace it")
    cache = cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f".{entry.file}.lock", entry):
        archive = _verified(entry, cache, on_progress, patience or Patience())
        sha256 = sha256_file(archive)
        files = _unpacked(entry, archive, folder)
        newly_pinned = _pin(entry, cache, sha256)  # last: a page that says "try later" must not be what is expected from now on
    return Fetched(folder, archive, files, sha256, newly_pinned)


def _unpacked(entry: Entry, archive: Path, folder: Path) -> int:
    """The number of files; FetchError for what cannot be unpacked, which goes from the cache where no source says that it is the one."""
    try:
        return unpack(archive, folder, Limits(entry.limit_bytes))
    except FetchError as error:
        if entry.checksum:
            raise
        archive.unlink(missing_ok=True)
        fix = f"it is removed from the cache: fetch again; where the same comes again, see {entry.page}"
        raise FetchError(error.where, error.rule, fix) from None


@contextmanager
def _alone(lock: Path, entry: Entry) -> Iterator[None]:
    """Two processes would write one partial file."""
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(entry.name, "another process is fetching it", "wait until that one is done") from None
        yield


# --- addresses


def address(entry: Entry) -> str:
    """The address to fetch from: the entry's own, or MEDSEG_MIRROR/<file>. FetchError for one that cannot be trusted."""
    mirror = os.environ.get(MIRROR, "").strip()
    url = f"{mirror.rstrip('/')}/{entry.file}" if mirror else entry.url
    check_address(url, entry)
    return url


def check_address(url: str, entry: Entry) -> None:
    """Only https; http on this machine, or where a checksum tells what was tampered with."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and (parts.hostname in LOOPBACK or entry.checksum)):
        return
    rule = "addresses are https, or http where a source states the checksum"
    raise FetchError(url, rule, f"correct {MIRROR}" if os.environ.get(MIRROR) else "report this entry")


# --- checksums


def pinned(cache: Path) -> dict[str, str]:
    """The SHA-256 that first fetches saw, by the entry's name. FetchError where the file is broken: nothing would be verified."""
    path = cache / PINNED_FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(content, dict) and all(isinstance(value, str) for value in content.values())
    except (ValueError, AssertionError, RecursionError):
        raise FetchError(path, "not a readable list of pinned checksums", "correct it, or remove it to pin anew") from None
    return content


def _pin(entry: Entry, cache: Path, sha256: str) -> bool:
    known = pinned(cache)
    if entry.checksum or entry.name in known:
        return False
    write_json(cache / PINNED_FILE, {**known, entry.name: sha256})
    return True


def _verified(entry: Entry, cache: Path, on_progress: Progress | None, patience: Patience) -> Path:
    """The archive in the cache, downloaded where it is not there or differs from its checksum."""
    pin = pinned(cache).get(entry.name)
    expected = entry.checksum or (f"sha256:{pin}" if pin else None)
    pooch.get_logger().setLevel(logging.WARNING)
    download = Resuming(entry, cache, on_progress, patience)
    try:
        return Path(pooch.retrieve(address(entry), expected, fname=entry.file, path=cache, downloader=download))
    except ValueError:  # pooch's word for another hash; it has removed the file
        stated = f"{entry.checksum} by {entry.checksum_source}" if entry.checksum else f"sha256:{pin}, pinned by the first fetch"
        fix = "fetch again; if it differs again, do not use it"
        if not entry.checksum:
            fix = f"ask the publisher what changed; to take the new file, remove its line from {cache / PINNED_FILE}"
        raise FetchError(address(entry), f"the file differs from its checksum ({stated})", fix) from None


# --- the download


class _OutdatedError(Exception):
    """The partial file does not belong to what the server has now."""


class Resuming:
    """A downloader for pooch that goes on where an earlier try broke off (RFC 9110, section 14: range requests)."""

    def __init__(self, entry: Entry, cache: Path, on_progress: Progress | None, patience: Patience) -> None:
        self._entry, self._patience, self._on_progress = entry, patience, on_progress
        self._part, self._facts = cache / f"{entry.file}.part", cache / f"{entry.file}.part.json"

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        """Download `url` to `output_file`; FetchError where it cannot be had."""
        tries = 0
        while True:
            before = self._size()
            try:
                self._once(url)
                break
            except _OutdatedError:
                self._forget()
            except (requests.RequestException, OSError) as cause:
                if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException) and cause.filename:
                    raise  # the disk, not the net
                tries = 0 if self._size() > before else tries + 1
                if tries >= self._patience.attempts:
                    raise self._unreachable(url, cause) from None
                time.sleep(self._patience.wait_s * max(tries, 1))
        os.replace(self._part, output_file)
        self._facts.unlink(missing_ok=True)

    def _unreachable(self, url: str, cause: Exception) -> FetchError:
        reason = " ".join(str(cause).split())[:200]
        place = self._part.with_name(self._entry.file)
        fix = f"try again later (it goes on from {self._size()} bytes), or download it by hand to {place} and run this again"
        return FetchError(url, f"the download broke off ({type(cause).__name__}: {reason})", fix)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)

    def _validator(self, url: str) -> str | None:
        """What tells whether the server's file is still the one that the partial file is of; None where nothing can."""
        try:
            facts = json.loads(self._facts.read_text(encoding="utf-8"))
            return facts["validator"] if facts["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _once(self, url: str) -> None:
        start, validator = self._size(), self._validator(url)
        headers = {"Accept-Encoding": "identity"}
        if start and validator:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator}
        with requests.get(url, headers=headers, stream=True, timeout=self._patience.timeout_s) as answer:
            for step in (*answer.history, answer):
                check_address(step.url, self._entry)
            self._check_status(answer, url)
            if answer.status_code != 206:
                start = 0
                self._remember(url, answer)
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-") or _tag(answer) not in (validator, None):
                raise _OutdatedError
            self._receive(answer, start)

    def _check_status(self, answer: requests.Response, url: str) -> None:
        status = answer.status_code
        if status == 416:  # the partial file is as long as the server's, or longer
            raise _OutdatedError
        if status >= 500 or status in (408, 429):
            raise requests.ConnectionError(f"the server answers {status} {answer.reason}")
        if status not in (200, 206):
            fix = f"see {self._entry.page}; a file downloaded by hand goes to {self._part.with_name(self._entry.file)}"
            raise FetchError(url, f"the server answers {status} {answer.reason}", fix)

    def _remember(self, url: str, answer: requests.Response) -> None:
        self._forget()
        if tag := _tag(answer):
            write_json(self._facts, {"url": url, "validator": tag})

    def _receive(self, answer: requests.Response, start: int) -> None:
        stated = answer.headers.get("Content-Length", "")
        total = start + int(stated) if stated.isdecimal() else None
        self._check_size(total or 0)
        done = start
        with self._part.open("ab" if start else "wb") as stream:
            for chunk in answer.iter_content(CHUNK):
                done += len(chunk)
                self._check_size(done)
                stream.write(chunk)
                if self._on_progress and total:
                    self._on_progress(done, total)
        if total is not None and done != total:
            raise requests.ConnectionError(f"{done} of {total} bytes came")

    def _check_size(self, size: int) -> None:
        if size > self._entry.limit_bytes:
            self._forget()
            rule = f"the file is larger than {self._entry.limit_bytes} bytes, the most that is expected of {self._entry.name}"
            raise FetchError(self._entry.url, rule, f"see {self._entry.page}")


def _tag(answer: requests.Response) -> str | None:
    """A strong ETag or the date of the last change: what If-Range takes."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
