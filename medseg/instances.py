"""The separate objects of an image, beside its class mask: instances/<sample_id>.json.

Each object keeps its own whole outline, also where the class mask shows another one painted over it, as a run-length code in COCO's
compressed text (pixels counted down the columns). pycocotools writes the text; a text of unknown origin is decoded here and never
reaches its C code, which trusts what it is given. And the objects that a network finds, which may overlap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_rle

from medseg.errors import AnnotationError, ManifestError, MedsegError
from medseg.files import read_json, write_text
from medseg.images import MAX_PIXELS
from medseg.types import Found, Size

FORMAT = "medseg-instances 1"
_KEYS = {"label", "group_id", "crowd", "area_px", "bbox_xywh", "rle"}
_MAX_CHARS = 7  # of one count: 35 bits, more than any image needs
_AGAIN = "import the set again"
INSIDE = 0.5  # how sure a pixel's being of an object must be, as in COCO's and torchvision's own evaluation


@dataclass(frozen=True, slots=True)
class Instance:
    """One object: its class, the annotator's group (None where there is none), whether it is a crowd, its pixels and its image's size."""

    label: str
    group_id: str | None
    crowd: bool
    rle: str
    size: Size


# --- run-length codes


def counts_of(rle: str, size: Size, where: object, error: type[MedsegError] = AnnotationError) -> np.ndarray:
    """The run lengths int64 (n,) of a compressed code, off and on in turn; `error` where they do not fill the image exactly.

    >>> counts_of("05cb0", Size(20, 30), "here").tolist()
    [0, 5, 595]
    """
    codes = np.frombuffer(rle.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    more = codes & 32 > 0
    ends = np.flatnonzero(~more)
    lengths = np.diff(ends, prepend=-1)
    if ((codes < 0) | (codes > 63)).any() or (len(codes) and more[-1]) or (lengths > _MAX_CHARS).any():
        raise error(where, f"the run-length code {_shown(rle)} is not COCO's compressed text", "export the annotation again")
    return checked_counts(_undelta(codes, ends, lengths), size, where, error)


def _undelta(codes: np.ndarray, ends: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Numbers of 5 bits a character, lowest first, the last with the sign; from the fourth on each is added to the last but one."""
    shifts = 5 * (np.arange(len(codes)) - np.repeat(ends - lengths + 1, lengths))
    values = np.add.reduceat((codes & 31) << shifts, ends - lengths + 1) if len(ends) else np.zeros(0, np.int64)
    values = values - np.where(codes[ends] & 16 > 0, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def checked_counts(counts: Any, size: Size, where: object, error: type[MedsegError] = AnnotationError) -> np.ndarray:
    """`counts` as int64, checked to be at least 0 and to fill the image; `error` says by how much they miss it."""
    area = size.height_px * size.width_px
    values = np.asarray(counts, np.int64)
    if values.size and (values.min() < 0 or values.max() > area):
        stray = values[(values < 0) | (values > area)][0]
        raise error(where, f"the run-length code has a run of {stray} pixels, the image has {area}", "export the annotation again")
    total = int(values.sum())
    if total != area:
        rule = f"the run-length code is {'longer' if total > area else 'shorter'} than the image: {total} of {area} pixels"
        raise error(where, rule, "export the annotation at the image's size")
    return values


def encode_counts(counts: np.ndarray, size: Size) -> str:
    """Run lengths that fill the image, in COCO's compressed text."""
    content = {"counts": counts.tolist(), "size": list(size)}
    return str(coco_rle.frPyObjects(content, size.height_px, size.width_px)["counts"].decode("ascii"))


def encode_patch(patch_HW: np.ndarray, top_px: int, left_px: int, size: Size) -> str:
    """The code of bool pixels that lie at (top_px, left_px) of an image of `size`, off everywhere else."""
    height, width = size
    columns = np.zeros((patch_HW.shape[1], patch_HW.shape[0] + 2), np.int8)
    columns[:, 1:-1] = patch_HW.T
    column, row = np.nonzero(np.diff(columns, axis=1))  # each column's runs: start, end, start, end
    edges = (left_px + column.astype(np.int64)) * height + top_px + row
    inner = np.ones(len(edges), bool)  # a run that ends where the next column's begins goes on
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
    inner[2 * joined + 1] = inner[2 * joined + 2] = False
    counts = np.diff(edges[inner], prepend=0, append=height * width)
    return encode_counts(counts if counts[-1] else counts[:-1], size)


def paint_counts(flat: np.ndarray, counts: np.ndarray, value: int) -> None:
    """Set the pixels that are on in `flat`, an image counted down its columns, in place; one byte a pixel of the object's columns."""
    if len(counts) < 2:
        return
    inner, start = counts[1 : len(counts) // 2 * 2], int(counts[0])  # up to the last run that is on
    on = np.repeat(np.arange(len(inner)) % 2 == 0, inner)
    flat[start : start + len(on)][on] = value


def united(codes: Sequence[str], size: Size) -> str:
    """The code of the union of objects whose codes are sound."""
    if len(codes) == 1:
        return codes[0]
    parts = [{"size": list(size), "counts": code.encode("ascii")} for code in codes]
    return str(coco_rle.merge(parts, intersect=False)["counts"].decode("ascii"))


def decode(instance: Instance) -> np.ndarray:
    """The pixels of an object, bool (H, W); AnnotationError where its code does not fit its size."""
    counts = counts_of(instance.rle, instance.size, f"instance {instance.label!r}")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(instance.size.width_px, instance.size.height_px).T


# --- found by a network


class Patch(NamedTuple):
    """The pixels of an object: bool (h, w), their corner at (top_px, left_px) of the image; (0, 0) where it has none."""

    pixels_HW: np.ndarray
    top_px: int
    left_px: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Where it lies in the image."""
        height, width = self.pixels_HW.shape
        return slice(self.top_px, self.top_px + height), slice(self.left_px, self.left_px + width)


def patch_of(pixels_HW: np.ndarray) -> Patch:
    """The smallest patch of a bool mask of a whole image.

    >>> patch_of(np.array([[0, 0, 0], [0, 1, 1]], bool))
    Patch(pixels_HW=array([[ True,  True]]), top_px=1, left_px=1)
    """
    rows, columns = np.flatnonzero(pixels_HW.any(axis=1)), np.flatnonzero(pixels_HW.any(axis=0))
    if not len(rows):
        return Patch(np.zeros((0, 0), bool), 0, 0)
    top, left = int(rows[0]), int(columns[0])
    return Patch(pixels_HW[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1].copy(), top, left)


class FoundObject(NamedTuple):
    """An object that a network has found. box: left, top, right, bottom in px, the network's own.  shown: whether it is painted."""

    class_id: int
    score: float
    box: tuple[float, float, float, float]
    patch: Patch
    shown: bool


def found_objects(found: Found, pixels: Iterable[np.ndarray], boxes: Iterable[Sequence[float]]) -> list[FoundObject]:
    """A network's objects with their pixels, bool (H, W) each, and boxes on another grid, or its own."""
    columns = zip(found.ids_N.tolist(), found.scores_N.tolist(), boxes, pixels, found.shown_N.tolist(), strict=True)
    return [
        FoundObject(class_id, score, (box[0], box[1], box[2], box[3]), patch_of(pixels_HW), shown)
        for class_id, score, box, pixels_HW, shown in columns
    ]


def painted(objects: Sequence[FoundObject], size: Size) -> np.ndarray:
    """int32 (H, W): 1 + the place of the object that each pixel shows, 0 for none. They come by falling score: the surest lies on top."""
    numbers_HW = np.zeros(size, np.int32)
    for place, each in reversed(list(enumerate(objects))):
        if each.shown:
            numbers_HW[each.patch.window][each.patch.pixels_HW] = place + 1
    return numbers_HW


def class_mask(objects: Sequence[FoundObject], numbers_HW: np.ndarray) -> np.ndarray:
    """uint8 (H, W): the class ids of what `painted` shows."""
    return np.array([0, *(each.class_id for each in objects)], np.uint8)[numbers_HW]


# --- files


def instances_text(size: Size, instances: Sequence[Instance]) -> str:
    """One image's objects as JSON, an object a line; the same objects give the same text."""
    lines = ",\n".join("  " + json.dumps(_entry(instance)) for instance in instances)
    return f'{{"format": "{FORMAT}", "size": {list(size)}, "instances": [\n{lines}\n]}}\n'


def _entry(instance: Instance) -> dict[str, Any]:
    counts = counts_of(instance.rle, instance.size, instance.label)
    return {
        "label": instance.label, "group_id": instance.group_id, "crowd": instance.crowd, "area_px": int(counts[1::2].sum()),
        "bbox_xywh": _bbox(counts, instance.size), "rle": instance.rle,
    }  # fmt: skip


def _bbox(counts: np.ndarray, size: Size) -> list[int]:
    """Left, top, width, height in px of the pixels that are on; zeros where none is."""
    lengths = counts[1::2]
    starts = np.cumsum(counts)[: 2 * len(lengths) : 2][lengths > 0]
    ends = starts + lengths[lengths > 0] - 1
    if not len(starts):
        return [0, 0, 0, 0]
    left, right = starts[0] // size.height_px, ends[-1] // size.height_px
    wraps = (starts // size.height_px != ends // size.height_px).any()
    top = 0 if wraps else (starts % size.height_px).min()
    bottom = size.height_px - 1 if wraps else (ends % size.height_px).max()
    return [int(left), int(top), int(right - left + 1), int(bottom - top + 1)]


def write_instances(path: Path, size: Size, instances: Sequence[Instance]) -> None:
    """Write one image's objects."""
    write_text(path, instances_text(size, instances))


def read_instances(path: Path) -> list[Instance]:
    """The objects of one image; ManifestError for a file that is missing, not ours, or holds a code that does not fit its size."""
    try:
        content = read_json(path, ManifestError, _AGAIN)
    except FileNotFoundError:
        raise ManifestError(path, "there is no such file", "check the path, or import the set again") from None
    return checked_instances(content, path)


def checked_instances(content: Any, path: Path) -> list[Instance]:
    """The objects of a parsed file; ManifestError as `read_instances` raises it."""
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("instances"), list):
        raise ManifestError(path, f"the file is not a {FORMAT!r}", _AGAIN)
    size = _size(content.get("size"), path)
    return [_instance(entry, size, f"{path} instance {index}") for index, entry in enumerate(content["instances"])]


def _size(stated: Any, path: Path) -> Size:
    if not isinstance(stated, list) or len(stated) != 2 or not all(type(side) is int and side > 0 for side in stated):
        raise ManifestError(path, "`size` must be [height, width] in pixels", _AGAIN)
    if stated[0] * stated[1] > MAX_PIXELS:
        raise ManifestError(path, f"`size` is over {MAX_PIXELS:,} pixels", "scale the image down first")
    return Size(*stated)


def _instance(entry: Any, size: Size, where: str) -> Instance:
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise ManifestError(where, f"the keys must be {', '.join(sorted(_KEYS))}", _AGAIN)
    label, group_id, crowd, rle = entry["label"], entry["group_id"], entry["crowd"], entry["rle"]
    sound = isinstance(label, str) and isinstance(rle, str) and isinstance(crowd, bool)
    if not sound or not (group_id is None or isinstance(group_id, str)):
        raise ManifestError(where, "label and rle must be text, group_id text or null, crowd true or false", _AGAIN)
    counts = counts_of(rle, size, where, ManifestError)
    if entry["area_px"] != int(counts[1::2].sum()) or entry["bbox_xywh"] != _bbox(counts, size):
        raise ManifestError(where, "area_px or bbox_xywh is not that of its rle", _AGAIN)
    return Instance(label, group_id, crowd, rle, size)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
