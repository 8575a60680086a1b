"""Workers: how many, of how much each, and how they end."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from medseg.errors import MedsegError
from medseg.parallel import affordable, in_order, memory_left, processors

GIB = 2**30


def test_no_more_workers_than_the_memory_holds():
    assert affordable(0, GIB) == affordable(GIB, None) == processors()
    assert affordable(3 * GIB, 1 * GIB) == 1, "one works in any case"
    assert affordable(1, 10 * GIB) == processors()
    assert affordable(GIB, int(1.3 * GIB)) == 1 and affordable(GIB // 2, int(1.3 * GIB)) == min(2, processors())


def test_work_that_takes_all_memory_is_done_here():
    assert set(in_order(_pid, range(3), chunk=1, item_bytes=2**60)) == {os.getpid()}


def _pid(number: int) -> int:
    return os.getpid()


def test_the_memory_left_is_the_machine_s_or_the_container_s(tmp_path):
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    assert memory_left(meminfo, group) is None
    meminfo.write_text("MemTotal:       32000000 kB\nMemAvailable:   20000000 kB\n")
    assert memory_left(meminfo, group) == 20_000_000 * 1024
    group.mkdir()
    for name, content in (("memory.max", "max"), ("memory.current", "3000"), ("memory.stat", "anon 2000\ninactive_file 500\n")):
        (group / name).write_text(f"{content}\n")
    assert memory_left(meminfo, group) == 20_000_000 * 1024, "a container without a limit"
    (group / "memory.max").write_text("10000\n")
    assert memory_left(meminfo, group) == 7500
    (group / "memory.max").write_text("1000\n")
    assert memory_left(meminfo, group) == 0


def test_one_item_at_a_time_is_shared_out_where_there_are_few(tmp_path):
    """Either waits for the other: in one worker, a chunk of both, the first would wait in vain."""
    assert list(in_order(partial(_meets, tmp_path), ["a", "b"], workers=2, chunk=1)) == [True, True]


def _meets(folder: Path, name: str) -> bool:
    (folder / name).touch()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if len(list(folder.iterdir())) == 2:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_with_what_can_be_done():
    with pytest.raises(MedsegError, match="one of the processes was killed, .* memory ran out; buy more"):
        list(in_order(_die, list(range(500)), 2, chunk=1, fewer="buy more"))


def _die(number: int) -> int:
    if number == 100:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
