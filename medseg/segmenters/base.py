"""What every segmenter of files can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from medseg import images


class Segmenter(ABC):
    """Of one kind of files. Nothing heavy is loaded before `load`, so that a file that cannot be read is told at once."""

    suffixes: tuple[str, ...] = images.IMAGE_SUFFIXES
    mask_suffix = ".png"
    what = "photographs"
    at_once = 1  # images that threads may have it write at one time

    def stem(self, path: Path) -> str:
        """A file's name without its suffix."""
        return path.stem

    def case(self, path: Path) -> str:
        """The name that an image's results should have: its file's stem, without what only tells one of its files from another."""
        return self.stem(path)

    def firsts(self, files: Sequence[Path]) -> list[Path]:
        """Of a folder's files those that name an image."""
        return list(files)

    def check(self, path: Path) -> None:
        """ImageError where the header cannot be read."""
        images.read_size(path)

    @abstractmethod
    def load(self) -> None:
        """The network."""

    @abstractmethod
    def write(self, path: Path, mask: Path, overlay: Path | None) -> bool:
        """The files of one image; no overlay where None is given. Whether the mask holds anything but background."""
