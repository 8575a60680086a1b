"""Decoded images on disk: one file each, memory-mapped when read, bounded as a whole.

A file is named by the digest of what makes its pixels (the image's and the mask's hashes, the grid, the classes), so a changed file or
grid makes a new one, nothing is ever stale, and all folds and seeds of a data set share what they have in common. Processes may share
the folder: files appear whole, and one that another process has removed is decoded again. Class positions (patches.py) lie there too,
below the same bound. Each file ends with the CRC-32 of what stands before it, so that a damaged one is made again, not believed.
"""

from __future__ import annotations

import mmap
import os
import time
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.errors import ConfigError
from medseg.files import atomic_path
from medseg.types import Size

RECORD, POSITIONS = ".u8", ".i32"
SUFFIXES = (RECORD, POSITIONS, ".npz")  # .npz: positions as earlier versions kept them
CHANNELS = 4  # red, green, blue, mask; a fifth are the objects, where a network learns from them
SEAL_BYTES = 4
ORPHANED_S = 3600  # after which a temporary file is taken for a killed process's: the largest takes minutes to write


class Keyed:
    """Where the files of a bounded folder lie, by their keys: of photographs, and of volumes (data.volume.store)."""

    folder: Path

    def path(self, key: str) -> Path:
        """Where the record of this key lies; spread over 256 folders, as some file systems slow down in a large one."""
        return self.folder / key[:2] / f"{key}{RECORD}"

    def positions_path(self, key: str) -> Path:
        """Where the class positions of this key lie."""
        return self.folder / "positions" / f"{key}{POSITIONS}"


@dataclass(frozen=True)
class Cache(Keyed):
    """A folder of records on one grid, each uint8 (channels, H, W): the image's three channels, the mask, then maybe the objects."""

    folder: Path
    frame: Size
    limit_bytes: int
    channels: int = CHANNELS
    _checked: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def record_bytes(self) -> int:
        """Size of one record's file."""
        return self.channels * self.frame.height_px * self.frame.width_px + SEAL_BYTES

    def has(self, key: str) -> bool:
        """True where the record is there, whole; whether it is damaged shows when it is read."""
        try:
            return self.path(key).stat().st_size == self.record_bytes
        except OSError:
            return False

    def read(self, key: str) -> np.ndarray | None:
        """uint8 (channels, H, W), memory-mapped and read-only; None where the record is not there, or damaged.

        Damage is looked for the first time a record is read: at 0.1 ms for 256 x 256 it would nearly double the cost of each draw.
        """
        content = map_sealed(self.path(key), check=key not in self._checked)
        if content is None or len(content) != self.record_bytes - SEAL_BYTES:
            return None
        self._checked.add(key)
        return np.frombuffer(content, np.uint8).reshape(self.channels, *self.frame)

    def write(self, key: str, image_CHW: np.ndarray, mask_HW: np.ndarray, *objects_HW: np.ndarray) -> None:
        """Keep a record, whole or not at all; not at all where somebody empties the folder at the same time."""
        with suppress(FileNotFoundError), atomic_path(self.path(key)) as temporary, sealed(temporary) as write:
            for planes in (image_CHW, mask_HW, *objects_HW):
                write(planes)

    def make_room(self, keys: Iterable[str], positions: Path | None = None, positions_bytes: int = 0) -> None:
        """Before records are added: mark those of `keys` as in use, and where some are missing remove what was not used the longest, as
        far as the limit asks.

        positions: a file of class positions that is used beside them, and the most it may take.  Raises ConfigError where all this alone
        is larger than the limit.
        """
        needed = {self.path(key): self.record_bytes for key in keys}
        what = f"these {len(needed):,} images{' and the positions of their classes' if positions else ''}"
        if positions:
            needed[positions] = positions_bytes
        make_room(self.folder, self.limit_bytes, needed, what, "raise it, or choose a smaller data.size_px")


def make_room(folder: Path, limit_bytes: int, needed: Mapping[Path, int], what: str, fix: str) -> None:
    """Mark the files that will be used, and where some are missing remove what was not used the longest, as far as the limit asks.

    needed: path -> the most bytes it may take.  ConfigError, which says `what` and the `fix`, where all this alone is over the limit.
    """
    total = sum(needed.values())
    if total > limit_bytes:
        raise ConfigError("data.cache_gib", f"{what} take {in_units(total)} decoded, the limit is {in_units(limit_bytes)}", fix)
    missing = [path for path in needed if not _touched(path)]
    if missing:
        _shrink_others(folder, limit_bytes - total, needed.keys())


def _shrink_others(folder: Path, size_bytes: int, kept: Container[Path]) -> None:
    found = [(status.st_mtime, status.st_size, path) for path, status in _files(folder) if path not in kept]
    excess = sum(size for _, size, _ in found) - size_bytes
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What counts. A temporary is its writer's, who will rename it: only one that a killed process left behind is removed."""
    for inner in (*folder.glob("??"), folder / "positions"):
        for path in _listed(inner):
            if path.suffix not in SUFFIXES or (status := _stat(path)) is None:
                continue
            if not path.match(".*.part.*"):
                yield path, status
            elif time.time() - status.st_mtime > ORPHANED_S:
                path.unlink(missing_ok=True)


@contextmanager
def sealed(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield what appends an array to the new file `path`; in the end its CRC-32 is added, for `map_sealed`."""
    crc = 0
    with path.open("wb") as stream:

        def write(array: np.ndarray) -> None:
            nonlocal crc
            content = np.ascontiguousarray(array).data
            crc = zlib.crc32(content, crc)
            stream.write(content)

        yield write
        stream.write(crc.to_bytes(SEAL_BYTES, "little"))


def map_sealed(path: Path, check: bool = True) -> memoryview | None:
    """What was written to a file of `sealed`, memory-mapped and read-only; None where it is not there or not as it was written.

    check: compare its CRC-32 too, which reads all of it.
    """
    try:
        with path.open("rb") as stream:
            mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    content, seal = mapped[:-SEAL_BYTES], mapped[-SEAL_BYTES:]
    return None if check and zlib.crc32(content) != int.from_bytes(seal, "little") else content


def in_units(size_bytes: int) -> str:
    """A size for a message.

    >>> in_units(1000), in_units(79_876), in_units(20 * 2**30)
    ('1000 bytes', '78 KiB', '20 GiB')
    """
    power = max(0, min(3, (size_bytes.bit_length() - 1) // 10))
    return f"{size_bytes / 2 ** (10 * power):.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def _touched(path: Path) -> bool:
    """Marked as in use; False where it is not there, or another process has just removed it."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not there, or just removed, or no folder
        return []


def _stat(path: Path) -> os.stat_result | None:
    """None where another process has just removed it."""
    try:
        return path.stat()
    except OSError:
        return None
