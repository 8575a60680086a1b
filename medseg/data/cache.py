"""Decoded images on disk: one file each, memory-mapped when read, bounded as a whole.

A file is named by the digest of what makes its pixels (the image's and the mask's hashes, the grid, the classes), so a changed file or
grid makes a new one, nothing is ever stale, and all folds and seeds of a data set share what they have in common. Processes may share
the folder: files appear whole, and one that another process has removed is decoded again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.errors import ConfigError
from medseg.files import atomic_path
from medseg.types import Size

SUFFIX = ".u8"
CHANNELS = 4  # red, green, blue, mask


@dataclass(frozen=True)
class Cache:
    """A folder of records on one grid, each uint8 (4, H, W): the image's three channels, then the mask."""

    folder: Path
    frame: Size
    limit_bytes: int

    @property
    def record_bytes(self) -> int:
        """Size of one record."""
        return CHANNELS * self.frame.height_px * self.frame.width_px

    def path(self, key: str) -> Path:
        """Where the record of this key lies; spread over 256 folders, as some file systems slow down in a large one."""
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def has(self, key: str) -> bool:
        """True where the record is there, whole."""
        try:
            return self.path(key).stat().st_size == self.record_bytes
        except OSError:
            return False

    def read(self, key: str) -> np.ndarray | None:
        """uint8 (4, H, W), memory-mapped and read-only; None where the record is not there."""
        try:
            with self.path(key).open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
            return None
        return np.frombuffer(mapped, np.uint8).reshape(CHANNELS, *self.frame) if len(mapped) == self.record_bytes else None

    def write(self, key: str, image_CHW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Keep a record, whole or not at all."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(np.concatenate([image_CHW, mask_HW[None]]).tobytes())

    def make_room(self, keys: Iterable[str], missing: int) -> None:
        """Before `missing` records are added: mark `keys` as in use, and remove those not used the longest as far as the limit asks.

        Raises ConfigError where the set alone is larger than the limit.
        """
        kept = {self.path(key) for key in keys}
        if (needed := len(kept) * self.record_bytes) > self.limit_bytes:
            rule = f"these {len(kept):,} images take {needed / 2**30:.1f} GiB decoded, the limit is {self.limit_bytes / 2**30:g}"
            raise ConfigError("data.cache_gib", rule, "raise it, or choose a smaller data.size_px")
        for path in kept:
            if path.exists():
                os.utime(path)
        if missing:
            self._shrink_to(self.limit_bytes - missing * self.record_bytes, kept)

    def _shrink_to(self, size_bytes: int, kept: set[Path]) -> None:
        found = [(status.st_mtime, status.st_size, path) for path in self.folder.glob(f"??/*{SUFFIX}") if (status := _stat(path))]
        excess = sum(size for _, size, _ in found) - size_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            if path not in kept:
                path.unlink(missing_ok=True)
                excess -= size


def _stat(path: Path) -> os.stat_result | None:
    """None where another process has just removed it."""
    try:
        return path.stat()
    except OSError:
        return None
