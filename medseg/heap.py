"""What glibc's malloc does with large blocks that are freed, in this process: keep them for the next step, or give them back at once.

Left alone, it maps every block of over 32 MiB anew (mallopt(3), M_MMAP_THRESHOLD) and the kernel fills it with zeros page by page, which
takes a large part of a training step of networks with wide layers at full resolution (bench/bench_heap.py). Its settings are the whole
process's and cannot be asked for, so it is left alone where the environment sets any; another C library is left as it is, too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # malloc.h
NEVER = -1
MAPPINGS, LEARNT_BYTES = 65_536, 32 * 1024**2  # glibc's own: so many at most, and what it learns from blocks of any size


def give_back(least_bytes: int) -> None:
    """Blocks of at least this size go back to the system when they are freed, from now on."""
    _set(MMAP_MAX, MAPPINGS)
    _set(MMAP_THRESHOLD, least_bytes)
    _set(TRIM_THRESHOLD, 2 * least_bytes)


@contextmanager
def kept_blocks() -> Iterator[None]:
    """Inside, memory that is freed stays, for work that takes blocks of the same sizes over and over; all of it goes back at the end.

    For the main thread: another one's heap takes no block of over 64 MiB.
    """
    _set(MMAP_MAX, 0)
    _set(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        give_back(LEARNT_BYTES)
        _call("malloc_trim", 0)


def _set(parameter: int, value: int) -> None:
    if not any(name.startswith("MALLOC_") for name in os.environ) and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        _call("mallopt", parameter, value)


def _call(name: str, *arguments: int) -> None:
    with suppress(OSError, AttributeError, TypeError):  # a static build, another C library, another system
        getattr(ctypes.CDLL(None), name)(*arguments)
