"""Memory that is freed: whether it stays with the process. In processes of their own, whose heap no other test has left holes in."""

from __future__ import annotations

import inspect
import json
import os
import platform
import resource
import subprocess
import sys

import pytest

from tests.tiny import make_all


def resident() -> int:
    """MiB of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() // 2**20


def kept(mib: int = 256) -> int:
    """By how many MiB a block that is filled and freed leaves the process larger."""
    before = resident()
    assert len(b"1" * (mib * 2**20)) > 0
    return resident() - before


PARTS = "import json, resource\nfrom medseg.heap import give_back, kept_blocks\nfound = []\n" + "".join(
    map(inspect.getsource, (resident, kept))
)
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")


def set_for_malloc() -> list[str]:
    """The variables that whoever runs the tests has set for it, and that would stand."""
    return [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]


def told(script: str, **said: str) -> list[int]:
    """The MiB that a script collects in `found`."""
    own = {name: os.environ[name] for name in os.environ.keys() - set_for_malloc()}
    command = [sys.executable, "-c", f"{PARTS}{script}\nprint(json.dumps(found))"]
    return list(json.loads(subprocess.run(command, env=own | said, capture_output=True, text=True, check=True).stdout))


def test_a_block_stays_inside_and_all_go_back_afterwards():
    start, inside, after, later = told("""
found.append(resident())
with kept_blocks():
    found.append(kept())
found += resident(), kept()""")
    assert inside > 200 and after - start < 50 and later < 50


def test_it_ends_with_an_error_too():
    (later,) = told("""
try:
    with kept_blocks():
        raise ValueError
except ValueError:
    found.append(kept())""")
    assert later < 50


def test_a_server_gives_back_what_glibc_would_have_learnt_to_keep():
    start, learnt, left = told("""
found.append(resident())
kept(24)
found.append(kept(23))
give_back(4 * 2**20)
kept(23)
found.append(resident())""")
    assert learnt > 20 and left - start < 10


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")])
def test_what_the_user_has_set_stands(name, value):
    (inside,) = told("with kept_blocks(): found.append(kept())", **{name: value})
    assert inside < 50


def test_a_training_on_a_processor_keeps_its_blocks(tmp_path):
    _, _, data_root, experiment = make_all(tmp_path)
    places = f"{str(experiment)!r}, ['train.epochs=1', 'train.device=cpu'], {str(data_root)!r}, {str(tmp_path / 'runs')!r}"
    found = told(f"""
from medseg import api
api.train({places}, api.Progress(on_step=lambda step, val_score: found.append(kept())))""")
    assert max(found) > 200  # at one of the steps; at the next it is there already
