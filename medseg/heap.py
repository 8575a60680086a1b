"""What glibc's malloc does with large blocks that are freed, in this process: keep them for the next step, or give them back at once.

Left alone, it maps every block of over 32 MiB anew (mallopt(3), M_MMAP_THRESHOLD) and the kernel fills it with zeros page by page, on which
networks with wide layers at full resolution spend a third of a training step. Another C library is left as it is.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # malloc.h
NEVER = -1
MAPPINGS, LEARNT_BYTES = 65_536, 32 * 1024**2  # glibc's own: so many at most, and what it has learnt after blocks of any size


def give_back(least_bytes: int) -> None:
    """Blocks of at least this size go back to the system when they are freed, for the rest of the process."""
    _set(MMAP_THRESHOLD, least_bytes)


@contextmanager
def kept_blocks() -> Iterator[None]:
    """Inside, memory that is freed stays, for work that takes blocks of the same sizes over and over; all of it goes back at the end."""
    _set(MMAP_MAX, 0)
    _set(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        _set(MMAP_MAX, MAPPINGS)
        _set(MMAP_THRESHOLD, LEARNT_BYTES)
        _set(TRIM_THRESHOLD, 2 * LEARNT_BYTES)
        _call("malloc_trim", 0)


def _set(parameter: int, value: int) -> None:
    _call("mallopt", parameter, value)


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if function := getattr(library, name, None):
        function(*arguments)
