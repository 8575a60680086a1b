"""A part of a split of volumes on the network's grid: preprocessed once, by all processors, then read from the store."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from medseg.config.volume import VolumeConfig
from medseg.data.volume.decode import Preprocessed, Stored, most_voxels, preprocess, stored
from medseg.data.volume.store import VolumeStore, most_bytes
from medseg.errors import ConfigError, ManifestError
from medseg.labels import LabelSet
from medseg.manifest.schema import Manifest
from medseg.parallel import in_order
from medseg.types import Row

FEWER = "let go of memory elsewhere, or run it on one processor: taskset -c 0 medseg ..."
VERSION = 2  # raise when the voxels a Row is preprocessed to change, or a record holds other things
Progress = Callable[[int, int], None]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class VolumeSet:
    """Labelled rows on the network's grid, read from the store one at a time. volumes: what the headers say of each row."""

    rows: tuple[Row, ...]
    manifest: Manifest
    data_root: Path
    store: VolumeStore
    config: VolumeConfig
    volumes: tuple[Stored, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> LabelSet:
        """The data set's classes."""
        return self.manifest.labels

    @property
    def frame(self) -> tuple[Shape, ...]:
        """(D, H, W) of each volume's grid, once they are preprocessed."""
        return self._shapes

    @cached_property
    def _shapes(self) -> tuple[Shape, ...]:
        return tuple(self._shape(place) for place in range(len(self)))

    def _shape(self, position: int) -> Shape:
        found = self.store.shape(self.keys[position])
        depth, height, width = found or self.record(position).image_CDHW.shape[1:]
        return depth, height, width

    @property
    def largest(self) -> tuple[Shape, ...]:
        """(D, H, W) of each grid if nothing is cropped: known before a voxel is read."""
        return tuple(volume.grid(self.config.spacing_mm) for volume in self.volumes)

    def pixel_counts(self) -> np.ndarray:
        """float64 (N, K): voxels of each class on the network's grid, to within rounding."""
        scales = [math.prod(volume.grid(self.config.spacing_mm)) / math.prod(volume.shape) for volume in self.volumes]
        counts = [[row.px[name] * scale for name in self.labels.names] for row, scale in zip(self.rows, scales, strict=True)]
        return np.array(counts, dtype=np.float64).reshape(len(self), self.labels.num_classes)

    def record(self, position: int) -> Preprocessed:
        """One row, memory-mapped and read-only. Preprocessed anew where the store has lost it."""
        found = self.store.read(self.keys[position])
        return self.preprocessed(position) if found is None else found

    def mask(self, position: int) -> np.ndarray:
        """uint8 (D, H, W) of one row: class ids or the ignore id; read-only."""
        mask_DHW = self.record(position).mask_DHW
        assert mask_DHW is not None, self.rows[position].sample_id
        return mask_DHW

    @cached_property
    def keys(self) -> list[str]:
        """The name of each row's record in the store.

        How the file lies is told beside the row's hashes, because those of a derived volume are of its voxels alone.
        """
        grid = f"volume {VERSION} {self.config.model_dump_json()} {self.labels.ignore_id} {self.labels.num_classes}"
        turns = (volume.turn for volume in self.volumes)
        lies = (f"{turn.axes} {turn.flips} {turn.spacing_mm}" for turn in turns)
        texts = (f"{grid} {row.image_sha256} {row.mask_sha256} {lie}" for row, lie in zip(self.rows, lies, strict=True))
        return [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]

    @property
    def most(self) -> dict[str, int]:
        """key -> the most bytes its record may take."""
        channels = len(self.config.channels)
        sizes = (most_bytes(channels, most_voxels(volume, self.config)) for volume in self.volumes)
        return dict(zip(self.keys, sizes, strict=True))

    def fill(self, progress: Progress | None = None) -> None:
        """Preprocess what the store lacks, once it has made room; `progress(done, total)` is called as it goes.

        Raises ImageError, LabelError, ManifestError.
        """
        missing = [place for place, key in enumerate(self.keys) if self.store.shape(key) is None]
        most = max((working_bytes(self.volumes[place], self.config) for place in missing), default=0)
        work = partial(_fill_one, self)
        for done, _ in enumerate(in_order(work, missing, chunk=1, item_bytes=most, fewer=FEWER), start=1):
            if progress:
                progress(done, len(missing))

    def preprocessed(self, position: int) -> Preprocessed:
        """Made anew, and kept."""
        record = preprocess(self.manifest, self.rows[position], self.data_root, self.config)
        self.store.write(self.keys[position], record)
        return record


def _fill_one(data: VolumeSet, position: int) -> None:
    data.preprocessed(position)


def working_bytes(volume: Stored, config: VolumeConfig) -> int:
    """What preprocessing a volume takes at its peak, rounded up, as measured: the channels in float32 three times as stored and once on the
    network's grid, one of them on its way from axis to axis, the masks."""
    stored_px, grid_px = math.prod(volume.shape), most_voxels(volume, config)
    return 4 * volume.channels * (3 * stored_px + grid_px) + 12 * max(stored_px, grid_px)


def unprepared(manifest: Manifest, rows: Sequence[Row], data_root: Path, store: VolumeStore, config: VolumeConfig) -> VolumeSet:
    """Labelled rows before any is read: `store.make_room` and `fill` come next. Every header is judged; ManifestError, ImageError or
    ConfigError where one cannot be used."""
    for row in rows:
        if row.depth_px is None:
            rule = "the row is a photograph, and data.volume is of volumes"
            raise ManifestError(manifest.where(row), rule, "leave data.volume out, or train on a manifest of volumes")
    return VolumeSet(
        tuple(rows), manifest, data_root, store, config, tuple(stored(manifest, row, data_root, config) for row in rows)
    )  # fmt: skip


def check_patch(patch: tuple[int, ...] | None) -> None:
    """ConfigError where volumes are to be learned from whole."""
    if patch is None:
        rule = "a network learns from patches of volumes, and no size of them is told"
        raise ConfigError("sampling.patch_px", rule, "give D, H, W (or H, W for slices); `medseg plan` proposes them")
