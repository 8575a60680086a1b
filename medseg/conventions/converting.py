"""Stored values to class ids: by a map, or by the nearest class where a mask is interpolated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medseg.conventions.blur import is_blurred, reading_of, seen
from medseg.conventions.colours import colour_reading
from medseg.conventions.content import FileKind, blocks, content_of, stored_values, unpacked
from medseg.conventions.readings import ValueMap
from medseg.errors import LabelError
from medseg.images import RawMask, byte_counts
from medseg.labels import LabelSet


def convert(raw: RawMask, value_map: ValueMap) -> np.ndarray:
    """Class ids, uint8 (H, W). Raises LabelError for a value that the map does not know."""
    _, values_HW = stored_values(raw)
    return look_up(values_HW, value_map.table)


def look_up(values_HW: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """uint8 (H, W): `table[value]` for each value. Raises LabelError for one that the table does not know."""
    keys = np.array(sorted(table), np.int64)
    ids = np.array([table[int(key)] for key in keys], np.uint8)
    if values_HW.dtype == np.uint8:
        lut, known = np.zeros(256, np.uint8), np.zeros(256, bool)
        inside = (keys >= 0) & (keys < 256)
        lut[keys[inside]], known[keys[inside]] = ids[inside], True
        if (strays := byte_counts(values_HW) * ~known).any():
            raise _unknown(int(strays.nonzero()[0][0]), int(strays.sum()))
        return lut[values_HW]
    out = np.empty(values_HW.shape, np.uint8)
    for top, bottom in blocks(values_HW):
        block = values_HW[top:bottom]
        places = np.minimum(np.searchsorted(keys, block), len(keys) - 1)
        if not (keys[places] == block).all():
            strays = block[keys[places] != block]
            raise _unknown(int(strays.flat[0]), strays.size)
        out[top:bottom] = ids[places]
    return out


def _unknown(value: int, pixels: int) -> LabelError:
    return LabelError("mask", f"the value {value} has no class ({pixels:,} pixels)", "map it with --map VALUE=CLASS")


def snap(raw: RawMask, labels: LabelSet, value_map: ValueMap | None = None) -> np.ndarray:
    """Each pixel to the class of the nearest legal value or colour, uint8 (H, W): for interpolated or JPEG-edited masks.

    value_map: the reading of the sound masks of the set; without it that of the file's own modes. Between the ids of three classes
    an interpolated edge passes through the one in the middle, which no rule can tell from a true pixel. Raises LabelError where the
    file is not an interpolated one of any convention.
    """
    kind, values_HW = stored_values(raw)
    content = content_of(raw, (kind, values_HW))
    if value_map is not None:
        table = dict(value_map.table)
    elif kind == "colour":
        table = colour_reading(content, labels)
    else:
        table = reading_of(content, labels) or {}
    if not is_blurred(content, seen(content, table)):
        raise LabelError("mask", "its stray values do not lie between those of the classes, so none is nearest", "draw the mask again")
    values = np.unique(values_HW)
    keys = sorted(table)
    ids = all(key == class_id for key, class_id in table.items())
    nearest = {int(value): table[_nearest(int(value), keys, kind)] for value in values}
    if ids:  # beside the ignore id: what lies between an id and 255 is no nearer to any other id
        nearest = {value: table.get(value, labels.ignore_id) for value in nearest}
    return look_up(values_HW, nearest)


def _nearest(value: int, keys: Sequence[int], kind: FileKind) -> int:
    if kind != "colour":
        return min(keys, key=lambda key: (abs(key - value), key))
    own = unpacked(value)
    return min(keys, key=lambda key: sum((a - b) ** 2 for a, b in zip(own, unpacked(key), strict=True)))
