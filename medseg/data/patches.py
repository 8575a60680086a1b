"""Crops: where the pixels (of a volume: voxels) of each class lie, drawn once per training set, and the window around a centre.

A crop centred on a class needs one of its pixels. Searching a mask at each draw would cost a pass over it; all positions would fill the
memory. So an index holds for each image and class some of its pixels, LIMIT at the most, drawn uniformly without replacement by a
generator of (file, class): equal for a file whatever stands beside it, but for a set so large that MAX_BYTES lowers the limit.

The positions stay in a file that is memory-mapped, for a long training set would make hundreds of MiB of them. The file: int32, the
positions, then how many pixels each image has of each class (from which follows where its positions begin), then the seal of cache.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np

from medseg.data.cache import SEAL_BYTES, map_sealed, sealed
from medseg.files import atomic_path
from medseg.labels import LabelSet, id_counts
from medseg.seeding import numpy_generator
from medseg.types import Size

ANYWHERE = "anywhere"
VERSION = 2  # raise when a file holds other things, or other positions for the same masks
LIMIT = 2_000  # positions of a class in an image: more than a training draws there
MAX_BYTES = 580_000_000  # of positions, four bytes each: 24,000 images of 3 classes at LIMIT
PIECE = 2**20  # pixels looked through at a time: their positions take 8 bytes each
MaskOf = Callable[[int], np.ndarray]
Progress = Callable[[int, int], None]
Shape: TypeAlias = tuple[int, ...]
Grids: TypeAlias = "Size | Sequence[Shape]"  # the one (H, W) of photographs, or the (D, H, W) of each volume


@dataclass(frozen=True, slots=True, eq=False)
class PatchIndex:
    """Some pixels of each class of each of N training images on the network's grid.

    names: the K classes, background first.  positions: int32 (M,), flat in the image's grid (row * width + column of a photograph), image
    by image and class by class, ascending within a class.  offsets: int64 (N * K + 1,), where each image's class begins in them.
    pixels_NK: int32, how many pixels there are.

    Costs 8 bytes of memory an image and class, and mapped pages: 4 bytes a position and pixel count, 577 MB for 24,000 images of 3
    classes, and never above about MAX_BYTES.
    """

    names: tuple[str, ...]
    frame: Grids
    positions: np.ndarray
    offsets: np.ndarray
    pixels_NK: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels_NK)

    @classmethod
    def anywhere(cls, frame: Grids) -> PatchIndex:
        """An index of no image, for crops without a wish: they need the frame only, so no mask is read."""
        return cls((), frame, np.empty(0, np.int32), np.zeros(1, np.int64), np.empty((0, 0), np.int32))

    def holding(self, class_id: int) -> np.ndarray:
        """int64: the images that hold a class, ascending."""
        return np.flatnonzero(self.pixels_NK[:, class_id])

    def of(self, image: int, class_id: int) -> np.ndarray:
        """int32: the indexed positions of a class in an image."""
        cell = image * len(self.names) + class_id
        return self.positions[self.offsets[cell] : self.offsets[cell + 1]]

    def draw(self, images: np.ndarray, class_id: int, generator: np.random.Generator) -> np.ndarray:
        """int32 (D, 2 or 3): for each of the images (int64 (D,), all holding the class) the row and column (of a volume: plane, row,
        column) of one of its pixels."""
        cells = images * len(self.names) + class_id
        start, stop = self.offsets[cells], self.offsets[cells + 1]
        chosen = self.positions[generator.integers(start, stop)].astype(np.int64)
        shapes, centres = self.shapes(images), []
        for axis in range(shapes.shape[1] - 1, 0, -1):
            chosen, along = np.divmod(chosen, shapes[:, axis])
            centres.append(along)
        return np.stack([chosen, *reversed(centres)], axis=1).astype(np.int32)

    def shapes(self, images: np.ndarray) -> np.ndarray:
        """int64 (D, 2 or 3): the sides of the grids of these images."""
        if isinstance(self.frame, Size):
            return np.broadcast_to(np.asarray(self.frame, np.int64), (len(images), 2))
        return np.asarray([self.frame[int(image)] for image in images], np.int64)


def limit_for(images: int, classes: int) -> int:
    """Positions kept of a class in an image: LIMIT, or as many as MAX_BYTES allow if each image held each class, at least 1.

    >>> limit_for(24_000, 3), limit_for(24_000, 20)
    (2000, 302)
    """
    return max(1, min(LIMIT, MAX_BYTES // (4 * max(1, images * classes))))


def most_bytes(images: int, classes: int, frame: Grids) -> int:
    """What an index's file takes at the most: as if each image held `limit_for` pixels of each class, or had no others.

    >>> most_bytes(24_000, 3, Size(256, 256))
    576288004
    """
    limit = classes * limit_for(images, classes)
    grids = [(images, frame)] if isinstance(frame, Size) else [(1, shape) for shape in frame]
    return 4 * sum(number * (min(limit, math.prod(shape)) + classes) for number, shape in grids) + SEAL_BYTES


def build_index(
    keys: Sequence[str], mask_of: MaskOf, labels: LabelSet, frame: Grids, progress: Progress | None = None, path: Path | None = None
) -> PatchIndex:
    """Read each mask once, one at a time, and index the pixels of every class, background included; the ignore id is no class.

    keys: what names each image's file, such as its mask's hash.  mask_of: place in `keys` -> uint8, on its grid of `frame`.
    progress: called with (done, total) after each mask.  path: where to keep it for `read_index`; by default it is gone with the index.
    """
    if path is None:
        with TemporaryDirectory() as folder:
            return build_index(keys, mask_of, labels, frame, progress, Path(folder) / "index")
    index = None
    try:
        with atomic_path(path) as temporary:
            _write_index(temporary, keys, mask_of, labels.num_classes, frame, progress)
            index = read_index(temporary, len(keys), labels.names, frame)  # before the rename: then another process may remove it
    except FileNotFoundError:
        if index is None:
            raise
    assert index is not None, f"{path} does not read back as it was written"
    return index


def _write_index(path: Path, keys: Sequence[str], mask_of: MaskOf, classes: int, frame: Grids, progress: Progress | None) -> None:
    limit, pixels_NK = limit_for(len(keys), classes), np.zeros((len(keys), classes), np.int32)
    with sealed(path) as write:
        for image, key in enumerate(keys):
            mask, grid = mask_of(image), tuple(frame if isinstance(frame, Size) else frame[image])
            assert mask.shape == grid, f"mask {image} is {mask.shape}, its grid {grid}"
            pixels_NK[image] = id_counts(mask)[:classes]
            for class_id, pixels in enumerate(pixels_NK[image].tolist()):
                if pixels:
                    write(_some_positions(mask, class_id, pixels, limit, key).astype(np.int32))
            if progress:
                progress(image + 1, len(keys))
        write(pixels_NK)


def read_index(path: Path, images: int, names: tuple[str, ...], frame: Grids) -> PatchIndex | None:
    """The index that `build_index` kept, memory-mapped; None where the file is not there or damaged, so that it is made again.

    That the file is of these masks is the caller's care: name it by a digest of VERSION, the masks' hashes in order, the classes and
    the frame.
    """
    content, cells = map_sealed(path), images * len(names)
    if content is None or len(content) % 4 or len(content) < 4 * cells:
        return None
    values = np.frombuffer(content, np.int32)
    positions, pixels = values[: len(values) - cells], values[len(values) - cells :]
    offsets = np.zeros(cells + 1, np.int64)
    np.cumsum(np.minimum(pixels, limit_for(images, len(names))), out=offsets[1:])
    return PatchIndex(names, frame, positions, offsets, pixels.reshape(images, len(names))) if offsets[-1] == len(positions) else None


def _some_positions(mask: np.ndarray, class_id: int, pixels: int, limit: int, key: str) -> np.ndarray:
    """Up to `limit` of the `pixels` of a class, ascending, drawn uniformly without replacement: which of them is drawn first, and where
    they lie is then found piece by piece."""
    chosen = np.arange(min(pixels, limit))
    if pixels > limit:
        generator = numpy_generator(key, class_id, "positions")
        chosen = np.sort(generator.choice(pixels, limit, replace=False, shuffle=False))
    flat, found, before = mask.ravel(), list[np.ndarray](), 0
    for start in range(0, flat.size, PIECE):
        here = np.flatnonzero(flat[start : start + PIECE] == class_id)
        first, last = np.searchsorted(chosen, (before, before + len(here)))
        found.append(start + here[chosen[first:last] - before])
        before += len(here)
    return np.concatenate(found)


def crop_window(centre: Sequence[int] | np.ndarray, grid: Shape, patch: Shape) -> Shape:
    """The corner of the patch around a pixel or voxel, moved inside the grid; the patch always contains the pixel.

    Along a side that is shorter than the patch it is laid around the grid, its corner not above 0: what sticks out is padding.
    `sampling.check_patches` refuses that of photographs.

    >>> crop_window((5, 9), (10, 10), (4, 4)), crop_window((0, 5), (10, 10), (4, 4)), crop_window((1, 5), (3, 10), (8, 4))
    ((3, 6), (0, 3), (-2, 3))
    """
    return tuple(_start(int(at), side, wanted) for at, side, wanted in zip(centre, grid, patch, strict=True))


def _start(at: int, side: int, wanted: int) -> int:
    return -((wanted - side) // 2) if side < wanted else min(max(at - wanted // 2, 0), side - wanted)
