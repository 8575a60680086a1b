"""A volume's bytes: where the voxels lie in a file, and how they come out of it in pieces, never more than the header says."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, cast

import numpy as np

from medseg.errors import ImageError
from medseg.volumes.header import MAX_VOXELS, Header

SLACK = 4096  # bytes after the last voxel that some writers pad with
CHUNK = 8 * 1024**2
_FED = 64 * 1024  # compressed bytes taken at a time


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the voxels lie in the stream and how they are written.

    offset: of the first byte.  packing: of the voxels alone, after a header in plain text.  packed_bytes: their length, where the header
    tells it.  channels_first: whether a voxel's channels lie side by side.  slope, intercept: what turns a stored value into the one
    meant; slope None for as it is.
    """

    header: Header
    offset: int
    packing: Literal["none", "gzip", "zlib"] = "none"
    packed_bytes: int | None = None
    channels_first: bool = False
    slope: float | None = None
    intercept: float = 0.0

    @property
    def voxels(self) -> int:
        return math.prod(self.header.shape) * self.header.channels

    @property
    def nbytes(self) -> int:
        return self.voxels * self.header.dtype.itemsize

    @property
    def full_shape(self) -> tuple[int, ...]:
        return (*self.header.shape, self.header.channels) if self.header.channels > 1 else self.header.shape

    def shaped(self, flat: np.ndarray) -> np.ndarray:
        """(X, Y, Z[, C]), a view of values in the order of the file, where the first axis runs fastest."""
        if self.header.channels > 1 and self.channels_first:
            return np.moveaxis(flat.reshape((self.header.channels, *self.header.shape), order="F"), 0, -1)
        return flat.reshape(self.full_shape, order="F")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Inflated:
    """The voxels behind a zlib stream, as MetaImage holds them (or gzip: its readers take both); as many bytes as asked for."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)

    def read(self, size: int, /) -> bytes:
        parts: list[bytes] = []
        while size > 0 and not self._zlib.eof:
            fed = self._zlib.unconsumed_tail or self._stream.read(_FED)
            if not fed:
                raise EOFError
            parts.append(self._zlib.decompress(fed, size))
            size -= len(parts[-1])
        return b"".join(parts)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, inflated where it is named .gz; ImageError for whatever goes wrong while they are read."""
    whole = path.name.lower().endswith(".gz")
    try:
        with path.open("rb") as raw:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if whole else raw
    except FileNotFoundError:
        raise ImageError(path, "there is no such file", "check the path") from None
    except gzip.BadGzipFile as cause:
        rule = f"{'named .gz' if whole else 'its header says gzip'}, but it is no whole gzip file ({cause})"
        raise ImageError(path, rule, "rename it, or copy or export it again" if whole else "copy or export it again") from None
    except (EOFError, zlib.error):
        rule = "the volume is truncated or damaged (its compressed stream breaks off)"
        raise ImageError(path, rule, "copy or export it again") from None
    except OSError as cause:
        raise ImageError(path, f"cannot be read ({cause.strerror})", "check its permissions") from None


def judged(layout: Layout, path: Path) -> Layout:
    """`layout`, or ImageError where it claims too many voxels, or more bytes than the file has."""
    if layout.voxels > MAX_VOXELS:
        rule = f"its header claims {' x '.join(map(str, layout.full_shape))} voxels, the limit is {MAX_VOXELS:,} in all"
        raise ImageError(path, rule, "crop or resample it first")
    stored, needed = path.stat().st_size, layout.nbytes if layout.packing == "none" else layout.packed_bytes
    if path.name.lower().endswith(".gz") or needed is None:
        return layout
    if stored < layout.offset + needed:
        rule = f"the volume is truncated: {stored:,} bytes, its header needs {layout.offset + needed:,}"
        raise ImageError(path, rule, "copy or export it again")
    return layout


def each_chunk(path: Path, stream: IO[bytes], layout: Layout, take: Callable[[np.ndarray, int], None]) -> None:
    """Give the voxels in file order to `take(values, position of the first)`; ImageError where they end early or do not end."""
    stream.seek(layout.offset)
    voxels = _unpacked(stream, layout)
    step = CHUNK // 8 * layout.header.dtype.itemsize  # a whole number of voxels; the widest working copy stays at CHUNK bytes
    for start in range(0, layout.nbytes, step):
        block = voxels.read(min(step, layout.nbytes - start))
        if len(block) < min(step, layout.nbytes - start):
            rule = f"the volume is truncated: {start + len(block):,} bytes of voxels, its header needs {layout.nbytes:,}"
            raise ImageError(path, rule, "copy or export it again")
        take(np.frombuffer(block, layout.header.dtype), start // layout.header.dtype.itemsize)
    if len(voxels.read(SLACK + 1)) > SLACK:  # at the end of a compressed stream this also compares its checksum
        raise ImageError(path, "it goes on after the last voxel that its header knows of", "export it again")


def _unpacked(stream: IO[bytes], layout: Layout) -> _Readable:
    if layout.packing == "gzip":
        return gzip.GzipFile(fileobj=stream)
    return _Inflated(stream) if layout.packing == "zlib" else stream
