"""Memory that is freed: whether it stays with the process."""

from __future__ import annotations

import os
import platform
import resource

import pytest

from medseg import api
from medseg.heap import give_back, kept_blocks
from tests.tiny import make_all

BLOCK_BYTES = 256 * 1024**2  # far above what glibc keeps by itself

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """What whoever runs the tests has set for malloc would stand."""
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)


def kept_bytes(block_bytes: int = BLOCK_BYTES) -> int:
    """By how much a block that is filled and freed leaves the process larger."""
    before = _resident_bytes()
    assert len(b"1" * block_bytes) == block_bytes
    return _resident_bytes() - before


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_a_block_stays_inside_and_all_go_back_afterwards():
    before = _resident_bytes()
    with kept_blocks():
        assert kept_bytes() > BLOCK_BYTES / 2
    assert _resident_bytes() - before < BLOCK_BYTES / 2
    assert kept_bytes() < BLOCK_BYTES / 2


def test_it_ends_with_an_error_too():
    with pytest.raises(ValueError), kept_blocks():
        raise ValueError
    assert kept_bytes() < BLOCK_BYTES / 2


def test_a_server_gives_back_what_glibc_would_have_learnt_to_keep():
    less = 24 * 1024**2
    with kept_blocks():
        pass
    try:
        give_back(less // 2)
        assert kept_bytes(less) < less / 2
    finally:
        give_back(32 * 1024**2)


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")])
def test_what_the_user_has_set_stands(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with kept_blocks():
        assert kept_bytes() < BLOCK_BYTES / 2


def test_a_training_on_a_processor_keeps_its_blocks(tmp_path):
    _, _, data_root, experiment = make_all(tmp_path)
    found = []
    progress = api.Progress(on_step=lambda step, val_score: found.append(kept_bytes()))
    api.train(experiment, ["train.epochs=1", "train.device=cpu"], data_root, tmp_path / "runs", progress)
    assert max(found) > BLOCK_BYTES / 2  # at one of the steps; at the next it is there already
    assert kept_bytes() < BLOCK_BYTES / 2
