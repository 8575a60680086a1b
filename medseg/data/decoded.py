"""A part of a split on the network's grid: decoded once, then read from the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medseg.data.cache import CHANNELS, Cache
from medseg.data.decode import decode, refuse_as_stored, refuse_channel_files, refuse_volumes
from medseg.data.objects import refuse_without_objects
from medseg.errors import ManifestError
from medseg.labels import LabelSet
from medseg.manifest.schema import Manifest
from medseg.types import Row, Size

VERSION = 2  # raise when the pixels a Row decodes to change, or a record holds other things
THREADS = 2
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DecodedSet:
    """Labelled rows on the network's grid, read from the cache one at a time, so that a long set takes no memory.

    objects: whether a record holds the annotated objects, too.
    """

    rows: tuple[Row, ...]
    manifest: Manifest
    data_root: Path
    cache: Cache
    objects: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> LabelSet:
        """The data set's classes."""
        return self.manifest.labels

    @property
    def frame(self) -> Size:
        """The network's grid."""
        return self.cache.frame

    def record(self, position: int) -> np.ndarray:
        """uint8 (4, H, W): red, green, blue and the mask of one row; read-only. Decoded anew where the cache has lost it.

        (5, H, W) with the objects: numbers, 0 where there is none.
        """
        found = self.cache.read(self.keys[position])
        return self._decoded(position) if found is None else found

    def mask(self, position: int) -> np.ndarray:
        """uint8 (H, W) of one row: class ids or the ignore id; read-only."""
        return self.record(position)[3]

    def records(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (N, 4 or 5, H, W): a copy of the records at these positions."""
        gathered = np.empty((len(positions), self.cache.channels, *self.frame), np.uint8)
        for place, position in enumerate(positions):
            gathered[place] = self.record(int(position))
        return gathered

    @cached_property
    def keys(self) -> list[str]:
        """The name of each row's record in the cache."""
        grid = f"{VERSION} {tuple(self.frame)} {self.labels.ignore_id} {self.labels.num_classes}"
        texts: Iterable[str] = (f"{grid} {row.image_sha256} {row.mask_sha256}" for row in self.rows)
        if self.objects:  # which of them there are follows from the classes' names
            texts = (f"{text} {row.instances_sha256} {self.labels.names}" for text, row in zip(texts, self.rows, strict=True))
        return [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]

    def fill(self, progress: Progress | None = None) -> None:
        """Decode what the cache lacks, once it has made room; `progress(done, total)` is called as it goes.

        Raises ImageError, LabelError, ManifestError.
        """
        missing = list({key: place for place, key in enumerate(self.keys) if not self.cache.has(key)}.values())  # equal files once
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow lets go of the interpreter's lock while it decodes
            try:
                for done, _ in enumerate(pool.map(self._decoded, missing), start=1):
                    if progress:
                        progress(done, len(missing))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _decoded(self, position: int) -> np.ndarray:
        row = self.rows[position]
        sample = decode(self.manifest, row, self.data_root, self.frame, self.objects)
        assert sample.mask_HW is not None, row.sample_id
        more = () if sample.objects_HW is None else (sample.objects_HW,)
        self.cache.write(self.keys[position], sample.image_CHW, sample.mask_HW, *more)
        return np.concatenate([sample.image_CHW, sample.mask_HW[None], *(each[None] for each in more)])


def undecoded(manifest: Manifest, rows: Sequence[Row], data_root: Path, cache: Cache) -> DecodedSet:
    """Labelled rows before any is decoded: `cache.make_room` and `fill` come next. A cache of five channels asks for the objects, too.

    Every image must be there, cached or not: a wrong data root must not go unseen until a file is opened.
    """
    refuse_volumes(manifest, rows)
    if objects := cache.channels > CHANNELS:
        refuse_without_objects(manifest, rows)
    for row in rows:
        refuse_as_stored(manifest, row)  # here too: the cache may hold the same file from a manifest that took it for ids
        refuse_channel_files(manifest, row)
        if not (path := manifest.image_path(row, data_root)).is_file():
            raise ManifestError(manifest.where(row), f"there is no image {path}", "check --data-root")
    return DecodedSet(tuple(rows), manifest, data_root, cache, objects)


def decode_all(
    manifest: Manifest,
    rows: Sequence[Row],
    data_root: Path,
    frame: Size,
    folder: Path,
    limit_gib: float,
    progress: Progress | None = None,
) -> DecodedSet:
    """Labelled rows, decoded into the cache `folder` of at most `limit_gib` where they are not there yet."""
    decoded = undecoded(manifest, rows, data_root, Cache(folder, frame, int(limit_gib * 2**30)))
    decoded.cache.make_room(decoded.keys)
    decoded.fill(progress)
    return decoded
