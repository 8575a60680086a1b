"""Memory that is freed: how often the kernel must hand it out anew, and where it is afterwards."""

from __future__ import annotations

import platform
import resource

import pytest

from medseg.heap import kept_blocks

BLOCK_BYTES = 256 * 1024**2  # far above what glibc keeps by itself
PAGES = BLOCK_BYTES // resource.getpagesize()

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")


def faults() -> int:
    """Pages that the kernel hands out for a block that is filled and freed."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    assert len(b"1" * BLOCK_BYTES) == BLOCK_BYTES
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_a_block_that_is_freed_is_taken_again_inside_and_goes_back_to_the_system_afterwards():
    before = resident_bytes()
    with kept_blocks():
        faults()
        assert faults() < PAGES / 10
        assert resident_bytes() > before + BLOCK_BYTES / 2
    assert resident_bytes() < before + BLOCK_BYTES / 2
    assert faults() > PAGES / 2


def test_it_ends_with_an_error_too():
    with pytest.raises(ValueError), kept_blocks():
        raise ValueError
    assert faults() > PAGES / 2
