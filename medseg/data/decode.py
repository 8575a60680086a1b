"""Row -> Sample: decode, check against the manifest, letterbox; once, into memory-mapped arrays on disk.

The arrays of a list of rows lie in `<cache>/<key>.{images,masks}.npy`; the key is the digest of the files' hashes and of all that
shapes the pixels, so a changed file or grid makes new arrays and nothing is ever stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medseg import images
from medseg.errors import ManifestError
from medseg.files import atomic_path, sha256_array, sha256_file
from medseg.labels import LabelSet
from medseg.manifest.schema import Manifest
from medseg.types import Letterbox, Row, Sample, Size

VERSION = 1  # raise when the pixels a Row decodes to change
THREADS = 2
Progress = Callable[[int, int], None]


def fit_letterbox(original: Size, frame: Size) -> Letterbox:
    """The largest place of an image in a frame with its aspect kept, centred.

    >>> fit_letterbox(Size(100, 200), Size(64, 64))
    Letterbox(original=Size(height_px=100, width_px=200), inner=Size(height_px=32, width_px=64), frame=Size(height_px=64, width_px=64), top_px=16, left_px=0)
    """  # noqa: E501
    scale = min(frame.height_px / original.height_px, frame.width_px / original.width_px)
    inner = Size(max(1, round(original.height_px * scale)), max(1, round(original.width_px * scale)))
    return Letterbox(original, inner, frame, (frame.height_px - inner.height_px) // 2, (frame.width_px - inner.width_px) // 2)


def place_image(image_HWC: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """uint8 (3, H, W) on the frame, black around it."""
    framed = np.zeros((3, *letterbox.frame), np.uint8)
    framed[(slice(None), *_window(letterbox))] = images.resize_image(image_HWC, letterbox.inner).transpose(2, 0, 1)
    return framed


def place_mask(mask_HW: np.ndarray, letterbox: Letterbox, ignore_id: int) -> np.ndarray:
    """uint8 (H, W) on the frame, the ignore id around it: padding is neither learned nor scored."""
    framed = np.full(letterbox.frame, ignore_id, np.uint8)
    framed[_window(letterbox)] = images.resize_mask(mask_HW, letterbox.inner)
    return framed


def _window(letterbox: Letterbox) -> tuple[slice, slice]:
    top, left, inner = letterbox.top_px, letterbox.left_px, letterbox.inner
    return slice(top, top + inner.height_px), slice(left, left + inner.width_px)


def read_original_image(manifest: Manifest, row: Row, data_root: Path) -> np.ndarray:
    """The photograph as annotated, uint8 (H, W, 3); ManifestError where the file is not the one the manifest describes."""
    if row.channels > 1:
        rule = f"the image is {row.channels} files, one a channel; such images can be imported, checked and split, but training on them is"
        raise ManifestError(manifest.where(row), f"{rule} not yet possible", "train on a manifest whose images are one file each")
    path = manifest.image_path(row, data_root)
    image = images.read_image(path)
    derived = manifest.dataset.images_under == "manifest"
    _check(manifest, row, path, image.shape[:2], row.image_sha256, sha256_array(image) if derived else sha256_file(path))
    return image


def read_original_mask(manifest: Manifest, row: Row, data_root: Path) -> np.ndarray:
    """The class ids on the image's own grid, uint8 (H, W); raises ManifestError or LabelError."""
    _refuse_as_stored(manifest, row)
    path = manifest.mask_path(row, data_root)
    mask = images.read_mask(path)
    assert row.mask_sha256 is not None
    derived = manifest.dataset.masks_under == "manifest"
    _check(manifest, row, path, mask.shape, row.mask_sha256, sha256_array(mask) if derived else sha256_file(path))
    manifest.labels.check(mask, path)
    return mask


def _refuse_as_stored(manifest: Manifest, row: Row) -> None:
    if row.mask_as_stored:
        fix = f"run `medseg manifest check {manifest.folder} --fix OUT`, then use the new version"
        raise ManifestError(manifest.where(row), "its mask was imported --as-is and is not an id mask", fix)


def _check(manifest: Manifest, row: Row, path: Path, shape: tuple[int, ...], stated: str, found: str) -> None:
    if shape != tuple(row.size):
        rule = f"{path} is {shape[1]} x {shape[0]} pixels, the manifest says {row.size.width_px} x {row.size.height_px}"
        raise ManifestError(manifest.where(row), rule, "import the data set again as a new version")
    if found != stated:
        raise ManifestError(manifest.where(row), f"{path} has changed since the import", "import it again as a new version")


def decode(manifest: Manifest, row: Row, data_root: Path, frame: Size) -> Sample:
    """Read, check and letterbox one row. Raises ImageError, LabelError or ManifestError."""
    letterbox = fit_letterbox(row.size, frame)
    with images.one_at_a_time(row.size):
        image_CHW = place_image(read_original_image(manifest, row, data_root), letterbox)
    mask_HW = None
    if row.mask is not None:
        mask_HW = place_mask(read_original_mask(manifest, row, data_root), letterbox, manifest.labels.ignore_id)
    return Sample(row.sample_id, row.group_id, image_CHW, mask_HW, letterbox)


@dataclass(frozen=True)
class DecodedSet:
    """Labelled rows on the network's grid: images_NCHW uint8 and masks_NHW uint8, memory-mapped and read-only."""

    rows: tuple[Row, ...]
    labels: LabelSet
    frame: Size
    images_NCHW: np.ndarray
    masks_NHW: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def decode_all(
    manifest: Manifest, rows: Sequence[Row], data_root: Path, frame: Size, cache: Path, progress: Progress | None = None
) -> DecodedSet:
    """Decode labelled rows into the cache, or map what is there. `progress(done, total)` is called as it goes.

    Every image must be there, cached or not: a wrong data root must not go unseen until a file is opened.
    """
    _refuse_volumes(manifest, rows)
    for row in rows:
        _refuse_as_stored(manifest, row)  # here too: the cache may hold the same file from a manifest that took it for ids
        if not (path := manifest.image_path(row, data_root)).is_file():
            raise ManifestError(manifest.where(row), f"there is no image {path}", "check --data-root")
    paths = tuple(cache / f"{_key(manifest, rows, frame)}.{kind}.npy" for kind in ("images", "masks"))
    if not all(path.exists() for path in paths):
        _fill(manifest, rows, data_root, frame, paths, progress)
    mapped = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    return DecodedSet(tuple(rows), manifest.labels, frame, *mapped)


def _refuse_volumes(manifest: Manifest, rows: Sequence[Row]) -> None:
    volume = next((row for row in rows if row.depth_px is not None), None)
    if volume is not None:
        rule = "the row is a volume; volumes can be imported, checked and split, but training on them is not yet possible"
        raise ManifestError(manifest.where(volume), rule, "train on a manifest of 2-D images")


def _key(manifest: Manifest, rows: Sequence[Row], frame: Size) -> str:
    digest = hashlib.sha256(f"{VERSION} {tuple(frame)} {manifest.labels.ignore_id} {manifest.labels.num_classes}".encode())
    for row in rows:
        digest.update(f"{row.image_sha256} {row.mask_sha256}\n".encode())
    return digest.hexdigest()[:24]


def _fill(
    manifest: Manifest, rows: Sequence[Row], data_root: Path, frame: Size, paths: tuple[Path, ...], progress: Progress | None
) -> None:
    with atomic_path(paths[0]) as images_part, atomic_path(paths[1]) as masks_part:
        arrays = [
            np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
            for part, shape in ((images_part, (len(rows), 3, *frame)), (masks_part, (len(rows), *frame)))
        ]
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow lets go of the interpreter's lock while it decodes
            samples = pool.map(partial(_decode_into, arrays, manifest, data_root, frame), range(len(rows)), rows)
            for done, _ in enumerate(samples, start=1):
                if progress:
                    progress(done, len(rows))
        for array in arrays:
            array.flush()


def _decode_into(arrays: Sequence[np.ndarray], manifest: Manifest, data_root: Path, frame: Size, position: int, row: Row) -> None:
    sample = decode(manifest, row, data_root, frame)
    arrays[0][position], arrays[1][position] = sample.image_CHW, sample.mask_HW
