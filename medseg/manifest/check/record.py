"""The records of a check: a row with the places of its files, and what was seen of it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.conventions import Content
from medseg.errors import ImageError
from medseg.files import sha256_array
from medseg.manifest.check.shapes import Blemishes
from medseg.manifest.imagefiles import image_hash
from medseg.types import Row

if TYPE_CHECKING:
    from medseg.volumes import Header  # which imports nibabel

Fault = tuple[str, str, str, str]  # code, file, rule, fix
AGAIN = "put the annotated file back, or import the set again as a new version"


class FractionError(ImageError):
    """A label volume whose values are no whole numbers."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row with the places of its files (None: it has none, or its path leaves the root) and how they are hashed.

    folder: the manifest's, which the row's file of objects hangs on.  instances_sha256: what the manifest states of that file.
    """

    row: Row
    image: Path | None
    mask: Path | None
    folder: Path
    instances_sha256: str | None
    image_derived: bool
    mask_derived: bool


@dataclass(slots=True)
class Facts:
    """What was seen of a row.

    local: what is wrong with it on its own.  of_instances: likewise with its file of objects, which says nothing against image and
    mask.  pixels: `fingerprint` of the decoded image, None where it cannot be
    read.  content: the mask's stored values.  own: stored value -> class id by the mask's own convention, None where the file alone
    does not tell.  stored_border: share of the mask's edge by stored value.  class_px, border: pixels and share of the edge by class
    id (by `own`, until the set is known).
    """

    sample_id: str
    local: list[Fault] = field(default_factory=list)
    of_instances: list[Fault] = field(default_factory=list)
    pixels: str | None = None
    image_px: int = 0
    orientation: int = 1
    thumb: np.ndarray | None = None
    mask_orientation_wrong: bool = False
    content: Content | None = None
    own: Mapping[int, int] | None = None
    stored_border: Mapping[int, float] = field(default_factory=dict)
    mask_sha256: str | None = None
    class_px: Mapping[int, int] = field(default_factory=dict)
    border: Mapping[int, float] = field(default_factory=dict)
    blemishes: Blemishes | None = None
    fit: float | None = None

    def add(self, code: str, file: object, rule: str, fix: str) -> None:
        """Note one thing wrong with this row."""
        self.local.append((code, str(file), rule, fix))


@dataclass(frozen=True, slots=True)
class Seen:
    """A decoded image: upright RGB to lay the mask on (None for a volume) and the same `reduced`, its size as the manifest writes it,
    its header."""

    upright_HWC: np.ndarray | None
    small_HWC: np.ndarray | None
    shape: tuple[int, ...]
    orientation: int = 1
    header: Header | None = None


def fingerprint(array: np.ndarray) -> str:
    """What tells equal pictures from others: shape, type and two 32-bit checksums, a tenth of the work of a SHA-256. Not proof against
    a forger, who could at most have two pictures called equal."""
    pixels = np.ascontiguousarray(array)
    return f"{array.shape} {array.dtype.str} {zlib.crc32(pixels.data):08x} {zlib.adler32(pixels.data):08x}"


def check_hash(facts: Facts, path: Path, stated: str | None, decoded: np.ndarray | None, channels: int = 1) -> str:
    """Compare the file's hash, or the decoded array's where the manifest hashes that, with the manifest's."""
    found = image_hash(path, channels) if decoded is None else sha256_array(decoded)
    if stated and found != stated:
        facts.add("hash-changed", path, changed(found, stated), AGAIN)
    return found


def changed(found: str, stated: str) -> str:
    """The rule that another hash breaks."""
    return f"the file has changed since the manifest was written (SHA-256 {found[:12]}, the manifest says {stated[:12]})"
