"""What one mask file holds: its distinct values, the pixels of each, and the colours they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medseg.images import RawMask, byte_counts

FileKind = Literal["grey", "palette", "colour"]
LIMIT = 4096  # distinct values kept of a file: all of any sound mask
BLOCK = 1 << 22  # pixels counted at a time
WHITE = 255


@dataclass(frozen=True, slots=True)
class Content:
    """What one mask file holds, cheap to keep for a whole set.

    values: the distinct grey values or palette indices, ascending; for a colour file packed 0xRRGGBB; of more than LIMIT the most
    frequent.  counts: the pixels of each.  colours: the palette's colour of each, else ().  solid: the pixels of each whose four
    neighbours are equal to them: what tells a class from a blurred edge.
    """

    kind_of_file: FileKind
    values: tuple[int, ...]
    counts: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...]
    solid: tuple[int, ...] = ()


def content_of(raw: RawMask, stored: tuple[FileKind, np.ndarray] | None = None) -> Content:
    """The distinct values of a mask with their pixels. A colour image whose channels are equal counts as grey, as does a palette of
    greys whose order is the encoder's. stored: what `stored_values` gives, where the caller has it."""
    kind, values_HW = stored or stored_values(raw)
    values, counts, solid = _counted(values_HW)
    colours: tuple[tuple[int, int, int], ...] = ()
    if kind == "palette" and raw.palette is not None:
        colours = tuple(_colour_at(raw.palette, value) for value in values.tolist())
    return Content(kind, tuple(values.tolist()), tuple(counts.tolist()), colours, tuple(solid.tolist()))


def stored_values(raw: RawMask) -> tuple[FileKind, np.ndarray]:
    """(kind of file, the values that carry the meaning (H, W)): grey values, palette indices or packed colours.

    A GIF or BMP encoder numbers its colours as it likes (Pillow stores the grey values 0 and 2 in a GIF as 0 and 1), so where all
    of a palette's used colours are grey, the greys are the values; in a PNG or TIFF only where they run against the indices.
    """
    if raw.values.ndim == 3:
        red, green, blue = (raw.values[..., channel] for channel in range(3))
        if (red == green).all() and (green == blue).all():
            return "grey", red
        packed_HW = np.empty(red.shape, np.int32)
        for top, bottom in blocks(red):
            rows = raw.values[top:bottom].astype(np.int32)
            packed_HW[top:bottom] = rows[..., 0] << 16 | rows[..., 1] << 8 | rows[..., 2]
        return "colour", packed_HW
    if raw.palette is None:
        return "grey", raw.values
    if _greys_carry_the_meaning(raw):
        return "grey", _padded(raw.palette)[:, 0][raw.values]
    return "palette", raw.values


def reads_as_stored(raw: RawMask) -> bool:
    """True where `images.read_mask` gives the values that `content_of` counts, so that a file of ids may stay as it is."""
    kind, values_HW = stored_values(raw)
    return raw.values.ndim == 2 and (kind == "palette" or values_HW is raw.values or bool((values_HW == raw.values).all()))


def _greys_carry_the_meaning(raw: RawMask) -> bool:
    assert raw.palette is not None
    encoders_own = raw.format in ("GIF", "BMP")
    first = np.arange(0 if encoders_own else min(2, len(raw.palette)))
    if (raw.palette[first] != raw.palette[first, :1]).any():
        return False  # settles it for nearly every file without a look at the pixels
    used = np.union1d(np.flatnonzero(byte_counts(raw.values.astype(np.uint8, copy=False))), first)
    colours = _padded(raw.palette)[used]
    grey = (colours == colours[:, :1]).all() and len(np.unique(colours[:, 0])) == len(colours)
    if not grey or len(np.unique(raw.palette, axis=0)) < 2:
        return False
    return encoders_own or not (np.diff(colours[:, 0].astype(int)) > 0).all()


def _padded(palette: np.ndarray) -> np.ndarray:
    """uint8 (256, 3): an index beyond the palette is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette[:256]
    return table


def _colour_at(palette: np.ndarray, index: int) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in palette[index]) if 0 <= index < len(palette) else (0, 0, 0)
    return red, green, blue


# --- counting


def _counted(values_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distinct values, pixels, solid pixels), the most frequent LIMIT of them, ascending; by blocks of rows."""
    if values_HW.dtype == np.uint8:
        counts = byte_counts(values_HW)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = _counted_wide(values_HW)
    solid = np.zeros(len(values), np.int64)
    for top, bottom in blocks(values_HW) if len(values) > 2 else ():  # for two values nothing lies between
        first = max(0, top - 1)
        inner = _solid(values_HW[first : bottom + 1])[top - first : bottom - first]
        met, pixels = _tally(values_HW[top:bottom][inner], None)
        solid[np.searchsorted(values, met[np.isin(met, values)])] += pixels[np.isin(met, values)]
    return values, counts, solid


def blocks(values_HW: np.ndarray) -> Iterator[tuple[int, int]]:
    """(top, bottom) of blocks of rows of about BLOCK pixels."""
    rows = max(1, BLOCK // max(1, values_HW.shape[1]))
    return ((top, min(top + rows, len(values_HW))) for top in range(0, len(values_HW), rows))


def _counted_wide(values_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, counts = values_HW.ravel()[:0], np.zeros(0, np.int64)
    for top, bottom in blocks(values_HW):
        block = values_HW[top:bottom].ravel()
        starts = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))  # a mask is runs: sort those, not the pixels
        lengths = np.diff(np.append(starts, len(block)))
        values, counts = _tally(np.concatenate([values, block[starts]]), np.concatenate([counts, lengths]))
        values, counts = _most_frequent(values, counts, 16 * LIMIT)
    return _most_frequent(values, counts, LIMIT)


def _tally(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if weights is None:
        distinct, counts = np.unique(values, return_counts=True)
        return distinct, counts.astype(np.int64)
    distinct, inverse = np.unique(values, return_inverse=True)
    return distinct, np.bincount(inverse, weights=weights, minlength=len(distinct)).astype(np.int64)


def _most_frequent(values: np.ndarray, counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    if len(values) <= most:
        return values, counts
    kept = np.sort(np.argsort(-counts, kind="stable")[:most])
    return values[kept], counts[kept]


def _solid(values_HW: np.ndarray) -> np.ndarray:
    """bool (H, W): pixels equal to their four neighbours; those outside the image count as equal."""
    solid = np.ones(values_HW.shape, bool)
    down, right = values_HW[1:] == values_HW[:-1], values_HW[:, 1:] == values_HW[:, :-1]
    solid[1:] &= down
    solid[:-1] &= down
    solid[:, 1:] &= right
    solid[:, :-1] &= right
    return solid


# --- values of several files, colours as numbers


def values_of(group: Iterable[Content]) -> tuple[int, ...]:
    """All values that occur in any of the files, ascending."""
    return tuple(sorted({value for content in group for value in content.values}))


def packed(colour: tuple[int, int, int]) -> int:
    """0xRRGGBB of a colour.

    >>> hex(packed((255, 128, 0)))
    '0xff8000'
    """
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def unpacked(value: int) -> tuple[int, int, int]:
    """The red, green and blue, each 0 to 255, of a packed 0xRRGGBB."""
    return value >> 16 & 255, value >> 8 & 255, value & 255
