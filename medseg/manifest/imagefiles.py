"""The files of a row's image, and their hash: one file, or one a channel as nnU-Net stores them (`<case>_0000`, `<case>_0001`, ...).

The manifest names the first file; its column `channels` says how many there are, because a name alone cannot: a photograph may be
called `tongue_0000.png` beside a `tongue_0001.png` of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import ImageError
from medseg.files import sha256_file

FIRST_CHANNEL = r"[^/\\]_0000\.[A-Za-z0-9.]+$"  # in the path of the first of several files


def image_files(path: Path, channels: int = 1) -> tuple[Path, ...]:
    """The files of the image that a row names by `path`, in the order of their channels; ImageError where one is missing.

    channels: `Row.channels`.
    """
    if channels == 1:
        return (path,)
    if not re.search(FIRST_CHANNEL, path.name):
        raise ImageError(path, f"an image of {channels} files must be named <case>_0000", "import the data set again")
    case, ending = path.name.rsplit("_0000", 1)
    files = tuple(path.with_name(f"{case}_{channel:04d}{ending}") for channel in range(channels))
    for file in files:
        if not file.is_file():
            raise ImageError(file, f"the image has {channels} channels, one a file, and this one is missing", "put it back")
    return files


def image_hash(path: Path, channels: int = 1) -> str:
    """image_sha256 of an image stored in its own files, by their bytes: `combined` of all channels. Raises ImageError or OSError."""
    return combined([sha256_file(file) for file in image_files(path, channels)])


def combined(digests: Sequence[str]) -> str:
    """One digest for the files of one image: its own where it is one file, else the SHA-256 of the hex digests in order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
