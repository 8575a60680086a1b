"""Preprocessed volumes on disk: one file each, memory-mapped when read, below the same bound as decoded photographs (data.cache).

A file: twelve int64 (channels, the three sides, the box in six, whether there is a mask, 0), the image as float32, the mask as uint8, and
the seal of cache.py. It is named by the digest of what makes its voxels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.data.cache import SEAL_BYTES, Keyed, make_room, map_sealed, sealed
from medseg.data.volume.decode import Preprocessed
from medseg.files import atomic_path

HEAD = 12
HEAD_BYTES = 8 * HEAD


def most_bytes(channels: int, voxels: int) -> int:
    """What a record takes at the most: nothing is known of its crop before it is read."""
    return HEAD_BYTES + voxels * (4 * channels + 1) + SEAL_BYTES


@dataclass(frozen=True)
class VolumeStore(Keyed):
    """A folder of preprocessed volumes, which photographs and class positions may share."""

    folder: Path
    limit_bytes: int
    _checked: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def shape(self, key: str) -> tuple[int, int, int] | None:
        """(D, H, W) of a record that is there, whole; None where it is not. Whether it is damaged shows when it is read: a large set is not
        read through for this."""
        try:
            with self.path(key).open("rb") as stream:
                size, head = os.fstat(stream.fileno()).st_size, stream.read(HEAD_BYTES)
        except OSError:
            return None
        if len(head) < HEAD_BYTES:
            return None
        channels, depth, height, width, *rest = np.frombuffer(head, np.int64).tolist()
        expected = HEAD_BYTES + depth * height * width * (4 * channels + rest[6]) + SEAL_BYTES
        return (depth, height, width) if size == expected else None

    def read(self, key: str) -> Preprocessed | None:
        """Memory-mapped and read-only; None where the record is not there, or damaged (looked for the first time it is read)."""
        content = map_sealed(self.path(key), check=key not in self._checked)
        if content is None or len(content) < HEAD_BYTES:
            return None
        channels, *rest = np.frombuffer(content, np.int64, HEAD).tolist()
        shape, box, labelled = tuple(rest[:3]), tuple(zip(rest[3:9:2], rest[4:9:2], strict=True)), bool(rest[9])
        voxels = int(np.prod(shape))
        if len(content) != HEAD_BYTES + voxels * (4 * channels + labelled):
            return None
        self._checked.add(key)
        image = np.frombuffer(content, np.float32, channels * voxels, HEAD_BYTES).reshape(channels, *shape)
        mask = np.frombuffer(content, np.uint8, voxels, HEAD_BYTES + 4 * channels * voxels).reshape(shape) if labelled else None
        return Preprocessed(image, mask, box)  # type: ignore[arg-type]

    def write(self, key: str, record: Preprocessed) -> None:
        """Keep a record, whole or not at all; not at all where somebody empties the folder at the same time."""
        labelled = record.mask_DHW is not None
        head = np.array([*record.image_CDHW.shape, *(end for side in record.box for end in side), labelled, 0], np.int64)
        with suppress(FileNotFoundError), atomic_path(self.path(key)) as temporary, sealed(temporary) as write:
            write(head)
            write(record.image_CDHW)
            if record.mask_DHW is not None:
                write(record.mask_DHW)

    def make_room(self, most: Mapping[str, int], positions: Path | None = None, positions_bytes: int = 0) -> None:
        """Before records are added: see `cache.make_room`. most: key -> the most bytes its record may take."""
        needed = {self.path(key): self._size(key, bytes_) for key, bytes_ in most.items()}
        if positions:
            needed[positions] = positions_bytes
        what = f"these {len(most):,} volumes{' and the positions of their classes' if positions else ''}"
        make_room(self.folder, self.limit_bytes, needed, what, "raise it, or choose a coarser data.volume.spacing_mm")

    def _size(self, key: str, most: int) -> int:
        """What a record takes, where it is there; its crop makes it smaller than one could know before."""
        try:
            return self.path(key).stat().st_size
        except OSError:
            return most
