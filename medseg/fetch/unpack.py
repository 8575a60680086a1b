"""Unpack an archive from elsewhere: no path leaves the folder, no link, no device, and no more bytes than agreed.

What an archive declares of itself is not believed: bytes are counted as they are written, and the folder appears when all is in it.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from medseg.errors import FetchError
from medseg.files import leaves_root, posix, staged_folder

CHUNK = 2**20
MOST_HEADER = 2**26  # one read of an archive's headers; a hostile one asks for gigabytes
MOST_CONTENTS = 64 * 2**20  # of a table of contents: about a million entries, which take some hundred MiB in memory
FREE_BYTES = 2**26  # small archives of blank masks are packed well: the ratio is asked about only beyond this
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold. most_ratio: bytes unpacked for each byte packed, beyond `free_bytes`."""

    most_bytes: int
    most_files: int = 2_000_000
    most_ratio: int = 100
    free_bytes: int = FREE_BYTES


@dataclass(frozen=True, slots=True)
class _Member:
    """kind: file, folder, or the word for what it is instead.  open: a stream of its bytes."""

    name: str
    kind: str
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, limits: Limits) -> int:
    """Unpack a zip, tar or tar.gz into `folder`, whole or not at all, in place of what is there; returns the number of files.

    Raises FetchError for an archive that is broken or not of these kinds, and for any member that could do harm.
    """
    meter = _Meter(archive, limits)
    with staged_folder(folder) as stage, _opened(archive, meter) as members:
        try:
            for member in members:
                _unpack_one(member, stage, archive, meter)
        except BROKEN as cause:
            rule = f"the archive is broken ({' '.join(str(cause).split()) or type(cause).__name__})"
            raise FetchError(archive, rule, "remove it and fetch again") from None
    return meter.files


class _Meter:
    """Counts what is written, and stops what goes beyond the limits."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits, self.files, self.bytes = archive, limits, 0, 0
        packed = archive.stat().st_size
        self._most = min(limits.most_bytes, max(limits.free_bytes, packed * limits.most_ratio))

    def one_more(self) -> None:
        """A member is about to be unpacked."""
        self.files += 1
        if self.files > self.limits.most_files:
            raise FetchError(self.archive, f"it holds more than {self.limits.most_files} files", "unpack it by hand if you trust it")

    def wrote(self, count: int) -> None:
        """`count` more bytes are about to be written."""
        self.bytes += count
        if self.bytes > self._most:
            rule = f"it unpacks to more than {self._most} bytes from {self.archive.stat().st_size}: a decompression bomb"
            raise FetchError(self.archive, rule, "unpack it by hand if you trust it")


def _unpack_one(member: _Member, stage: Path, archive: Path, meter: _Meter) -> None:
    name = posix(member.name)
    if not name.strip("/.") or "\0" in name or leaves_root(name) or ".." in PurePosixPath(name).parts:
        if member.kind == "folder" and name.strip("/") in ("", "."):
            return
        raise FetchError(archive, f"the member {member.name!r} would leave the folder it is unpacked into", "do not use this archive")
    if member.kind not in ("file", "folder"):
        raise FetchError(archive, f"the member {member.name!r} is a {member.kind}", "only files and folders are unpacked")
    meter.one_more()
    try:
        _write(member, stage / name, meter)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise FetchError(archive, f"the member {member.name!r} stands twice, or is both file and folder", "do not use it") from None


def _write(member: _Member, path: Path, meter: _Meter) -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, path.open("xb") as target:
        while chunk := source.read(CHUNK):
            meter.wrote(len(chunk))
            target.write(chunk)


@contextmanager
def _opened(archive: Path, meter: _Meter) -> Iterator[Iterator[_Member]]:
    """The members of an archive, whose kind its first bytes tell."""
    with archive.open("rb") as stream:
        head = stream.read(4)
        stream.seek(0)
        if head[:2] == b"PK":
            with _readable(lambda: zipfile.ZipFile(_BoundedZip(stream, archive)), archive) as opened:  # type: ignore[call-overload]
                yield (_zip_member(opened, info) for info in opened.infolist())
            return
        plain: Any = gzip.GzipFile(fileobj=stream) if head[:2] == b"\x1f\x8b" else stream
        bounded = _Bounded(plain)
        with _readable(lambda: tarfile.open(fileobj=bounded, mode="r:"), archive) as opened:  # type: ignore[call-overload]
            yield _tar_members(opened, bounded, meter)


def _readable(open_it: Callable[[], Any], archive: Path) -> Any:
    try:
        return open_it()
    except BROKEN as cause:
        rule = f"not a readable zip, tar or tar.gz ({' '.join(str(cause).split()) or type(cause).__name__})"
        raise FetchError(archive, rule, "remove it and fetch again") from None


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    mode = info.external_attr >> 16
    kind = "folder" if info.is_dir() else "file"
    if stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "link" if stat.S_ISLNK(mode) else "device"
    if info.flag_bits & 1:
        kind = "file under a password"
    return _Member(info.filename, kind, lambda: opened.open(info))


def _tar_members(opened: tarfile.TarFile, bounded: _Bounded, meter: _Meter) -> Iterator[_Member]:
    def opener(info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
        return lambda: opened.extractfile(info) or io.BytesIO()

    while (info := opened.next()) is not None:
        kind = "file" if info.isreg() else "folder" if info.isdir() else "link" if info.issym() or info.islnk() else "device"
        yield _Member(info.name, kind, opener(info))
        opened.members = []  # type: ignore[attr-defined]  # it would keep the header of every member
    _check_ended(bounded, meter)


def _check_ended(bounded: _Bounded, meter: _Meter) -> None:
    """Raise where a tar stops without its end: tarfile takes one that was cut between two members, or goes on in garbage, for whole.

    POSIX asks for two blocks of zeros at the end; one is enough here, as for GNU tar, because it shows that no member is missing. What
    is left is read, since gzip's checksum and length come last; it counts as unpacked, so that it cannot go on for ever.
    """
    if bounded.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it stops without an end-of-archive block: the rest is missing")
    while chunk := bounded.read(CHUNK):
        meter.wrote(len(chunk))


class _Bounded:
    """A stream that refuses to hand out more than MOST_HEADER bytes at once: tarfile reads a long header whole.

    last: what it handed out last.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.last: bytes = b""
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; tarfile.ReadError where that is over MOST_HEADER, or all that is left."""
        if not 0 <= count <= MOST_HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        self.last = self._stream.read(count)
        return self.last


class _BoundedZip:
    """A zip file that refuses to hand out more than MOST_CONTENTS bytes at once.

    zipfile reads the table of contents whole. How long that is, the end record says or, in a zip64 archive, a second record that it
    points to; the bound is put where the reading happens, so that it holds for whichever of the two zipfile believes.
    """

    def __init__(self, stream: IO[bytes], archive: Path) -> None:
        self._stream, self._archive = stream, archive
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes, or all to the end of the file; FetchError where that is too much."""
        if count < 0:  # the end of the file, where the end record is looked for
            here, end = self._stream.tell(), self._stream.seek(0, io.SEEK_END)
            count = end - self._stream.seek(here)
        if count > MOST_CONTENTS:
            rule = f"its table of contents is over {MOST_CONTENTS >> 20} MiB"
            raise FetchError(self._archive, rule, "unpack it by hand if you trust it")
        return self._stream.read(count)
