"""Headers in plain text, as MetaImage and NRRD have them: lines up to a bound, and numbers that are what they claim to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from medseg.errors import ImageError

MAX_HEADER = 1024**2  # bytes; NRRD files of some scanners and of 3D Slicer carry kilobytes of words
MAX_DIGITS = 19  # so that a number of voxels or bytes fits in 64 bits


def header_lines(stream: IO[bytes], path: Path) -> Iterator[str]:
    """The lines of a header, without their ends; the caller stops at the last one, where the stream then stands.

    Raises ImageError where the file ends before, or the header has not after MAX_HEADER bytes.
    """
    left = MAX_HEADER
    while left > 0:
        line = stream.readline(left)
        if not line.endswith(b"\n") and len(line) < left:
            raise ImageError(path, "the volume is truncated: the file ends within its header", "copy or export it again")
        left -= len(line)
        if line.endswith(b"\n"):
            yield line.decode("utf-8", "replace").strip()
    raise ImageError(path, f"its header does not end within {MAX_HEADER:,} bytes", "export it again")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a header, as text by name."""

    path: Path
    texts: Mapping[str, str]

    def __contains__(self, key: str) -> bool:
        return key in self.texts

    def text(self, key: str) -> str:
        """The text of a field; ImageError where there is none."""
        if key not in self.texts:
            raise ImageError(self.path, f"its header has no {key}", "export it again")
        return self.texts[key]

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Raise the ImageError of a field that is not what it should be."""
        raise ImageError(self.path, f"its header's {key} must be {wanted}, it is {self.text(key)[:80]!r}", "export it again")

    def wholes(self, key: str, count: int | None = None) -> list[int]:
        """Whole numbers of 1 or more, `count` of them where it is given."""
        try:
            values = [int(word) if len(word) < MAX_DIGITS else 0 for word in self.text(key).split()]
        except ValueError:
            values = []
        if not values or min(values) < 1 or (count is not None and len(values) != count):
            self.refuse(key, "whole numbers of 1 or more" if count is None else f"{count} whole number{'s' * (count > 1)} of 1 or more")
        return values

    def reals(self, key: str, count: int) -> list[float]:
        """`count` numbers; NaN and infinity are left to the caller to judge."""
        values = numbers(self.text(key).split())
        if len(values) != count:
            self.refuse(key, f"{count} numbers")
        return values


def numbers(words: list[str]) -> list[float]:
    """The words as numbers; none where one of them is no number."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return []
