"""What a training set is like: measured on the training rows alone (of a split with folds and none chosen, on all folds'): test rows never.

Legend: Z Y X the axes of RAS, in which spacings and shapes are told; C channels. A record of a fingerprint is written beside its plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from medseg.config.volume import ChannelConfig, VolumeConfig
from medseg.data.decode import read_original_image
from medseg.data.volume.decode import Stored, read_image, read_mask, stored
from medseg.errors import ConfigError, ImageError, ManifestError, counted
from medseg.images import one_at_a_time
from medseg.labels import LabelSet
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import select
from medseg.metrics.detection import components
from medseg.normalise import nonzero_box
from medseg.parallel import in_order
from medseg.resample import Triple
from medseg.seeding import numpy_generator
from medseg.types import Row
from medseg.volumes import read_header

Progress = Callable[[int, int], None]
SAMPLE = 10_000  # foreground voxels of a case, as many of a small organ as of a large one (nnU-Net's, with replacement, too)
MOST_SAMPLED = 20_000_000  # numbers in all
PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True, slots=True)
class Intensities:
    """Of a channel, in the files' own unit: of the foreground's voxels in all cases, and the least of a whole volume, the cases' median."""

    mean: float
    deviation: float
    percentile_00_5: float
    median: float
    percentile_99_5: float
    least: float


@dataclass(frozen=True, slots=True)
class ClassSize:
    """How large a class is: in how many cases; its median pixels or voxels and mm3 in those; its share of all that is labelled.

    components_median, components_most: connected parts of a case that holds it. None where they are not known: mm3 and parts of a
    photograph's, everything of a class that no case holds.
    """

    name: str
    cases: int
    share: float
    voxels: float | None
    volume_mm3: float | None = None
    components_median: float | None = None
    components_most: int | None = None


@dataclass(frozen=True, slots=True)
class VolumeFingerprint:
    """Of volumes. Each list has an entry a case, along Z, Y, X: spacing in mm, shape as stored, and after the crop to what is not 0.

    kept_share: median share of the voxels that this crop leaves.
    """

    spacings_mm: tuple[tuple[float, float, float], ...]
    shapes: tuple[Triple, ...]
    cropped_shapes: tuple[Triple, ...]
    kept_share: float
    intensities: tuple[Intensities, ...]
    classes: tuple[ClassSize, ...]

    @property
    def cases(self) -> int:
        """How many training volumes were measured."""
        return len(self.shapes)


@dataclass(frozen=True, slots=True)
class PhotographFingerprint:
    """Of photographs. sizes_px: height and width of each.  mean_rgb, deviation_rgb: in [0, 1], of all pixels, each image counting alike."""

    sizes_px: tuple[tuple[int, int], ...]
    mean_rgb: tuple[float, ...]
    deviation_rgb: tuple[float, ...]
    classes: tuple[ClassSize, ...]

    @property
    def cases(self) -> int:
        """How many training photographs were measured."""
        return len(self.sizes_px)


Fingerprint = VolumeFingerprint | PhotographFingerprint


def measure(manifest: Manifest, split: Split, data_root: Path, progress: Progress | None = None, jobs: int = 0) -> Fingerprint:
    """The fingerprint of a split's training rows, by all processors (or `jobs`), `progress(done, total)` called as it goes.

    Raises ManifestError where no labelled row trains, photographs stand among volumes or channels differ, and as reading a row does.
    """
    rows = select(manifest, split, "train")
    flat = [row for row in rows if row.depth_px is None]
    if flat and len(flat) < len(rows):
        rule = f"a photograph among volumes: {len(flat)} of the {len(rows)} training rows have no depth"
        raise ManifestError(manifest.where(flat[0]), rule, "make a manifest of each kind")
    if not any(row.px[name] for row in rows for name in manifest.labels.foreground):
        rule = "no training row holds a class: all that is labelled is background"
        raise ManifestError(split.path, rule, "annotate some, or make the split again")
    return _photographs(manifest, rows, data_root, progress, jobs) if flat else _volumes(manifest, rows, data_root, progress, jobs)


def to_json(fingerprint: Fingerprint, manifest: Manifest, split: Split) -> dict[str, Any]:
    """The fingerprint as plain data, with what it was measured on."""
    measured_on = {"manifest_sha256": manifest.digest, "split": split.name, "fold": split.chosen, "part": "train"}
    kind = "photographs" if isinstance(fingerprint, PhotographFingerprint) else "volumes"
    return {"kind": kind, "measured_on": measured_on, "cases": fingerprint.cases, **asdict(fingerprint)}


# --- volumes


class _Case(NamedTuple):
    """What is kept of a volume. foreground_CN: float32, sampled; parts: components of each foreground class."""

    spacing_mm: tuple[float, float, float]
    shape: Triple
    cropped_shape: Triple
    least: tuple[float, ...]
    foreground_CN: np.ndarray
    parts: tuple[int, ...]


def _volumes(manifest: Manifest, rows: Sequence[Row], data_root: Path, progress: Progress | None, jobs: int) -> VolumeFingerprint:
    channels = _channels(manifest, rows, data_root)
    sample = max(1, min(SAMPLE, MOST_SAMPLED // (len(rows) * channels)))
    work = partial(_case, manifest, data_root, channels, sample)
    cases = _each(work, rows, progress, jobs)
    kept = [math.prod(case.cropped_shape) / math.prod(case.shape) for case in cases]
    return VolumeFingerprint(
        tuple(case.spacing_mm for case in cases),
        tuple(case.shape for case in cases),
        tuple(case.cropped_shape for case in cases),
        float(np.median(kept)),
        tuple(_intensities(cases, channel) for channel in range(channels)),
        tuple(_class_size(rows, place, name, cases) for place, name in enumerate(manifest.labels.foreground)),
    )


def _each(work: Callable[[Row], Any], rows: Sequence[Row], progress: Progress | None, jobs: int) -> list[Any]:
    found = []
    for done, one in enumerate(in_order(work, rows, jobs), start=1):
        found.append(one)
        if progress:
            progress(done, len(rows))
    return found


def _channels(manifest: Manifest, rows: Sequence[Row], data_root: Path) -> int:
    """Of all volumes, from their headers; ManifestError where one has others than the first."""
    first = manifest.image_path(rows[0], data_root)
    if not first.is_file():
        raise ManifestError(manifest.where(rows[0]), f"there is no image {first}", "check --data-root")
    channels = rows[0].channels * read_header(first).channels
    for row in rows:
        try:
            _stored(manifest, data_root, channels, row)
        except ConfigError as error:
            rule = f"{counted(channels, 'channel')} in {rows[0].sample_id}, another number in this volume ({error.rule})"
            raise ManifestError(manifest.where(row), rule, "make a manifest of volumes with the same channels") from None
    return channels


def _stored(manifest: Manifest, data_root: Path, channels: int, row: Row) -> Stored:
    """Turned to D, H, W = Z, Y, X. The spacing that a grid needs is not known yet, and not asked for."""
    return stored(manifest, row, data_root, VolumeConfig(spacing_mm=(1.0, 1.0, 1.0), channels=(ChannelConfig(),) * channels))


def _case(manifest: Manifest, data_root: Path, channels: int, sample: int, row: Row) -> _Case:
    volume = _stored(manifest, data_root, channels, row)
    image_XYZC, mask_XYZ = read_image(manifest, row, data_root), read_mask(manifest, row, data_root)
    if not np.isfinite(image_XYZC).all():
        rule = "the volume holds voxels that are no numbers (NaN or infinity)"
        raise ImageError(manifest.where(row), rule, "mend the file, or leave the row out")
    box = nonzero_box(volume.turn.forward(image_XYZC))
    depth, height, width = (part.stop - part.start for part in box)
    least = tuple(float(value) for value in image_XYZC.min(axis=(0, 1, 2)))
    foreground_CN = _sampled(image_XYZC, mask_XYZ, manifest.labels, sample, row.sample_id)
    parts = _parts(mask_XYZ, manifest.labels)
    return _Case(volume.turn.spacing_mm, volume.turn.shape, (depth, height, width), least, foreground_CN, parts)


def _sampled(image_XYZC: np.ndarray, mask_XYZ: np.ndarray, labels: LabelSet, sample: int, name: str) -> np.ndarray:
    """float32 (C, sample), none where there is no foreground; drawn by the case's name, whatever process measures it."""
    there = np.flatnonzero((mask_XYZ > 0) & labels.valid(mask_XYZ))
    if not len(there):
        return np.empty((image_XYZC.shape[3], 0), np.float32)
    chosen = there[numpy_generator(name, "fingerprint").integers(0, len(there), sample)]
    return np.ascontiguousarray(image_XYZC.reshape(-1, image_XYZC.shape[3])[chosen].T)


def _parts(mask_XYZ: np.ndarray, labels: LabelSet) -> tuple[int, ...]:
    """Connected parts of each foreground class, each looked for in the box around the class only."""
    found = dict(enumerate(ndimage.find_objects(mask_XYZ), start=1))
    boxes = ((place, found.get(place)) for place in range(1, labels.num_classes))
    return tuple(0 if box is None else int(components(mask_XYZ[box] == place).max()) for place, box in boxes)


def _intensities(cases: Sequence[_Case], channel: int) -> Intensities:
    values = np.concatenate([case.foreground_CN[channel] for case in cases]).astype(np.float64)
    low, median, high = np.percentile(values, PERCENTILES).tolist()
    least = float(np.median([case.least[channel] for case in cases]))
    return Intensities(float(values.mean()), float(values.std()), low, median, high, least)


def _class_size(rows: Sequence[Row], place: int, name: str, cases: Sequence[_Case] = ()) -> ClassSize:
    """By the manifest's counts, which every reading checks; `place` counts the foreground classes from 0."""
    held = [number for number, row in enumerate(rows) if row.px[name]]
    share = sum(row.px[name] for row in rows) / sum(sum(row.px.values()) for row in rows)
    if not held:
        return ClassSize(name, 0, 0.0, None)
    voxels = float(np.median([rows[number].px[name] for number in held]))
    if not cases:
        return ClassSize(name, len(held), share, voxels)
    volumes_mm3 = [rows[number].px[name] * math.prod(cases[number].spacing_mm) for number in held]
    parts = [cases[number].parts[place] for number in held]
    return ClassSize(name, len(held), share, voxels, float(np.median(volumes_mm3)), float(np.median(parts)), max(parts))


# --- photographs


def _photographs(manifest: Manifest, rows: Sequence[Row], data_root: Path, progress: Progress | None, jobs: int) -> PhotographFingerprint:
    moments = np.array(_each(partial(_moments, manifest, data_root), rows, progress, jobs)).mean(axis=0)
    deviation = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0.0))
    sizes = tuple((row.size.height_px, row.size.width_px) for row in rows)
    classes = tuple(_class_size(rows, place, name) for place, name in enumerate(manifest.labels.foreground))
    return PhotographFingerprint(sizes, tuple(moments[0].tolist()), tuple(deviation.tolist()), classes)


def _moments(manifest: Manifest, data_root: Path, row: Row) -> np.ndarray:
    """float64 (2, 3): mean and mean square of each channel, in [0, 1]."""
    with one_at_a_time(row.size):
        image_HWC = read_original_image(manifest, row, data_root)
        counts = [np.bincount(image_HWC[..., channel].ravel(), minlength=256) for channel in range(3)]
    values = np.arange(256) / 255
    shares = np.array(counts) / image_HWC[..., 0].size
    return np.stack([shares @ values, shares @ values**2])
