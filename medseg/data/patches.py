"""Crops: where the pixels of each class lie, drawn once per training set, and the window around a centre.

A crop centred on a class needs one of its pixels. Searching a mask at each draw would cost a pass over it; all positions would fill the
memory. So an index holds for each image and class some of its pixels, LIMIT at the most, drawn uniformly without replacement by a
generator of (file, class): equal for a file whatever stands beside it, but for a set so large that MAX_BYTES lowers the limit.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.errors import ConfigError
from medseg.files import atomic_path
from medseg.labels import LabelSet
from medseg.seeding import numpy_generator
from medseg.types import Size

ANYWHERE = "anywhere"
VERSION = 1  # raise when a file holds other things, or other positions for the same masks
LIMIT = 2_000  # positions of a class in an image: more than a training draws there
MAX_BYTES = 580_000_000  # of positions, four bytes each: 24,000 images of 3 classes at LIMIT
MaskOf = Callable[[int], np.ndarray]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class PatchIndex:
    """Some pixels of each class of each of N training images on the network's grid.

    names: the K classes, background first.  positions: int32 (M,), row * width + column, image by image and class by class, ascending
    within a class.  offsets: int64 (N * K + 1,), where each image's class begins in them.  pixels_NK: int32, how many pixels there are.

    Costs 4 bytes a position and 12 an image and class: 577 MB for 24,000 images of 3 classes, and never above about MAX_BYTES.
    """

    names: tuple[str, ...]
    frame: Size
    positions: np.ndarray
    offsets: np.ndarray
    pixels_NK: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels_NK)

    @classmethod
    def anywhere(cls, frame: Size) -> PatchIndex:
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
        """int32 (D, 2): for each of the images (int64 (D,), all holding the class) the row and column of one of its pixels."""
        cells = images * len(self.names) + class_id
        start, stop = self.offsets[cells], self.offsets[cells + 1]
        chosen = self.positions[generator.integers(start, stop)]
        return np.stack(np.divmod(chosen, np.int32(self.frame.width_px)), axis=1)

    def save(self, path: Path) -> None:
        """Write a .npz of plain arrays, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:  # a stream: savez would add a suffix to a path without
            np.savez(
                stream,
                version=np.array(VERSION),
                names=np.array(self.names, dtype=np.str_),
                frame=np.array(self.frame),
                positions=self.positions,
                offsets=self.offsets,
                pixels_NK=self.pixels_NK,
            )

    @classmethod
    def load(cls, path: Path) -> PatchIndex:
        """Read what `save` wrote; ConfigError where it is damaged or of another version. Nothing in the file is run (no pickle).

        That the file is of these masks is the caller's care: name it by a digest of the masks' hashes in order, the classes and the frame.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names, frame = tuple(arrays["names"].tolist()), Size(*arrays["frame"].tolist())
                index = cls(names, frame, arrays["positions"], arrays["offsets"], arrays["pixels_NK"])
                whole = int(arrays["version"]) == VERSION and index._fits_together()
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as cause:
            raise ConfigError(path, f"no index of class positions ({cause})", "remove it; it will be made again") from None
        if not whole:
            raise ConfigError(path, "an index of class positions that is damaged or of another version", "remove it; it will be made again")
        return index

    def _fits_together(self) -> bool:
        cells = len(self) * len(self.names)
        counts = np.diff(self.offsets)
        return (
            (self.positions.dtype, self.offsets.dtype, self.pixels_NK.dtype) == (np.int32, np.int64, np.int32)
            and self.pixels_NK.shape[1:] == (len(self.names),)
            and len(self.offsets) == cells + 1
            and (int(self.offsets[0]), int(self.offsets[-1])) == (0, len(self.positions))
            and bool(((counts > 0) == (self.pixels_NK.ravel() > 0)).all() and (counts >= 0).all())
            and (len(self.positions) == 0 or 0 <= self.positions.min() <= self.positions.max() < self.frame.height_px * self.frame.width_px)
        )


def limit_for(images: int, classes: int) -> int:
    """Positions kept of a class in an image: LIMIT, or as many as MAX_BYTES allow if each image held each class, at least 1.

    >>> limit_for(24_000, 3), limit_for(24_000, 20)
    (2000, 302)
    """
    return max(1, min(LIMIT, MAX_BYTES // (4 * max(1, images * classes))))


def build_index(keys: Sequence[str], mask_of: MaskOf, labels: LabelSet, frame: Size, progress: Progress | None = None) -> PatchIndex:
    """Read each mask once, one at a time, and index the pixels of every class, background included; the ignore id is no class.

    keys: what names each image's file, such as its mask's hash.  mask_of: place in `keys` -> uint8 (H, W) on the frame.
    progress: called with (done, total) after each mask.
    """
    classes, limit = labels.num_classes, limit_for(len(keys), labels.num_classes)
    # All that may be needed, in one piece: the system gives memory as it is written to, and a list of parts would need it twice in the end.
    positions = np.empty(len(keys) * classes * limit, np.int32)
    ends, pixels_NK = np.zeros((len(keys), classes), np.int64), np.zeros((len(keys), classes), np.int32)
    used = 0
    for image, key in enumerate(keys):
        mask = mask_of(image)
        assert mask.shape == tuple(frame), f"mask {image} is {mask.shape}, the frame {tuple(frame)}"
        pixels_NK[image] = np.bincount(mask.ravel(), minlength=256)[:classes]
        for class_id in range(classes):
            if pixels_NK[image, class_id]:
                some = _some_positions(mask, class_id, limit, key)
                positions[used : used + len(some)] = some
                used += len(some)
            ends[image, class_id] = used
        if progress:
            progress(image + 1, len(keys))
    positions.resize(used, refcheck=False)  # in place; a slice would keep what is left over
    return PatchIndex(labels.names, frame, positions, np.concatenate([np.zeros(1, np.int64), ends.ravel()]), pixels_NK)


def _some_positions(mask: np.ndarray, class_id: int, limit: int, key: str) -> np.ndarray:
    """Up to `limit` pixels of a class, ascending, drawn uniformly without replacement."""
    every = np.flatnonzero(mask == class_id)
    if len(every) <= limit:
        return every
    generator = numpy_generator(key, class_id, "positions")
    return every[np.sort(generator.choice(len(every), limit, replace=False, shuffle=False))]


def crop_window(centre: tuple[int, int] | np.ndarray, frame: Size, patch: Size) -> tuple[int, int]:
    """(top, left) of the patch around a pixel (row, column), moved inside the frame; it always contains the pixel.

    The patch must fit in the frame: `sampling.check_patches` refuses it otherwise.

    >>> crop_window((5, 9), Size(10, 10), Size(4, 4)), crop_window((0, 5), Size(10, 10), Size(4, 4))
    ((3, 6), (0, 3))
    """
    assert patch.height_px <= frame.height_px and patch.width_px <= frame.width_px, f"{patch} is larger than {frame}"
    top = min(max(int(centre[0]) - patch.height_px // 2, 0), frame.height_px - patch.height_px)
    left = min(max(int(centre[1]) - patch.width_px // 2, 0), frame.width_px - patch.width_px)
    return top, left
