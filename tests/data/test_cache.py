"""The cache of decoded images: bounded, shared, and never a wrong pixel, whatever was lost or cut short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg import images
from medseg.data.cache import Cache
from medseg.data.decode import decode
from medseg.data.decoded import DecodedSet, decode_all
from medseg.errors import ConfigError, ImageError
from medseg.labels import LabelSet
from medseg.manifest.importers.masks import import_masks
from medseg.manifest.table import read_manifest
from medseg.types import Size
from tests.tiny import CLASSES, make_data

FRAME = Size(4, 6)
RECORD = 4 * 4 * 6
GRID = Size(32, 48)
GIB = 0.001


def filled(folder: Path, records: int, frame: Size = FRAME) -> Cache:
    """A cache with room for so many records of FRAME, as many in it: 'aa0', 'aa1', ..., the first not used the longest."""
    cache = Cache(folder, frame, records * RECORD)
    for place in range(records):
        cache.write(f"aa{place}", np.full((3, *frame), place, np.uint8), np.full(frame, 100 + place, np.uint8))
        os.utime(cache.path(f"aa{place}"), (1000 + place, 1000 + place))
    return cache


def keys(cache: Cache) -> set[str]:
    return {path.stem for path in cache.folder.glob("??/*")}


def test_a_record_comes_back_read_only(tmp_path):
    cache = filled(tmp_path, 2)
    record = cache.read("aa1")
    assert record.shape == (4, *FRAME) and record.dtype == np.uint8
    assert (record[:3] == 1).all() and (record[3] == 101).all()
    with pytest.raises(ValueError, match="read-only"):
        record[0, 0, 0] = 7
    assert cache.read("ab0") is None and not cache.has("ab0")


def test_what_was_not_used_the_longest_goes_first(tmp_path):
    cache = filled(tmp_path, 4)
    cache.make_room(["aa0", "ab7"], missing=1)
    assert keys(cache) == {"aa0", "aa2", "aa3"}, "aa0 is the oldest, and in use"
    for path in tmp_path.glob("??/*"):
        assert cache.has(path.stem)


def test_using_a_set_makes_it_young(tmp_path):
    cache = filled(tmp_path, 4)
    cache.make_room(["aa0", "aa1"], missing=0)
    assert keys(cache) == {"aa0", "aa1", "aa2", "aa3"}, "nothing is to come, so nothing goes"
    cache.make_room(["ab0", "ab1"], missing=2)
    assert keys(cache) == {"aa0", "aa1"}


def test_what_is_in_use_stays_where_another_machine_s_clock_goes_ahead(tmp_path):
    cache = filled(tmp_path, 4)
    for key in ("aa2", "aa3"):
        os.utime(cache.path(key), (4e9, 4e9))
    cache.make_room(["aa0", "aa1", "ab0"], missing=1)
    assert {"aa0", "aa1"} < keys(cache) and len(keys(cache)) == 3


def test_the_folder_stays_within_its_bound(tmp_path):
    """Thirty sets of three through a cache of seven, and records of another grid before them."""
    filled(tmp_path, 3, Size(4, 12))
    cache = Cache(tmp_path, FRAME, 7 * RECORD)
    for number in range(30):
        wanted = [f"{number:02x}{place}" for place in range(3)]
        cache.make_room(wanted, missing=3)
        for key in wanted:
            cache.write(key, np.zeros((3, *FRAME), np.uint8), np.zeros(FRAME, np.uint8))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 7 * RECORD
        assert all(cache.has(key) for key in wanted)


def test_a_set_larger_than_the_bound_is_refused_before_anything_goes(tmp_path):
    cache = filled(tmp_path, 2)
    said = r"data.cache_gib: these 3 images take 0.0 GiB decoded, the limit is .*; raise it, or choose a smaller data.size_px"
    with pytest.raises(ConfigError, match=said):
        cache.make_room(["aa0", "ab0", "ac0"], missing=2)
    assert keys(cache) == {"aa0", "aa1"}


def test_a_data_set_larger_than_the_bound_is_refused_before_it_is_decoded(tmp_path):
    manifest = make_data(tmp_path, 3)
    with pytest.raises(ConfigError, match="data.cache_gib: these 3 images take"):
        decode_all(manifest, list(manifest), tmp_path / "data", GRID, tmp_path / "cache", 1e-6)
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def decoded(tmp_path) -> DecodedSet:
    manifest = make_data(tmp_path, 4)
    return decode_all(manifest, list(manifest), tmp_path / "data", GRID, tmp_path / "cache", GIB)


def as_decoded(data: DecodedSet, place: int) -> np.ndarray:
    """The record by decode itself, without the cache."""
    sample = decode(data.manifest, data.rows[place], data.data_root, data.frame)
    return np.concatenate([sample.image_CHW, sample.mask_HW[None]])


def record_files(data: DecodedSet) -> list[Path]:
    return sorted(data.cache.folder.glob("??/*"))


@pytest.mark.parametrize("size", [0, 1, 100, 4 * 32 * 48 - 1, 4 * 32 * 48 + 1])
def test_a_record_of_a_wrong_length_is_decoded_anew(decoded, size):
    for path in record_files(decoded):
        os.truncate(path, size)
    for place in range(4):
        assert (decoded.record(place) == as_decoded(decoded, place)).all()
    assert {path.stat().st_size for path in record_files(decoded)} == {4 * 32 * 48}, "and kept"
    os.truncate(record_files(decoded)[0], size)
    told = []
    decoded.fill(lambda done, total: told.append((done, total)))
    assert told == [(1, 1)], "the next run sees it too"


def test_an_image_lost_from_the_cache_while_in_use(decoded):
    """Another process makes room: what is held stays readable, and what is asked for again is decoded again."""
    held, before = decoded.record(2), decoded.record(2).copy()
    for path in record_files(decoded):
        path.unlink()
    assert (held == before).all()
    assert (decoded.records([2, 0]) == np.stack([before, as_decoded(decoded, 0)])).all()
    assert len(record_files(decoded)) == 2


def test_an_image_lost_from_cache_and_data_root_is_one_clear_error(decoded):
    record_files(decoded)[0].unlink()
    for path in (decoded.data_root / "images").iterdir():
        path.unlink()
    with pytest.raises(ImageError, match="there is no such file"):
        decoded.records(range(4))


def test_a_changed_mask_makes_another_record(tmp_path, decoded):
    root = tmp_path / "data"
    row = decoded.rows[1]
    mask = np.ones(row.size, np.uint8)
    images.write_mask(decoded.manifest.mask_path(row, root), mask, LabelSet.of(*CLASSES).palette)
    import_masks(root / "images", root / "masks", tmp_path / "v2", classes=list(CLASSES))
    second = read_manifest(tmp_path / "v2")
    told = []
    changed = decode_all(second, list(second), root, GRID, tmp_path / "cache", GIB, lambda done, total: told.append(total))
    assert told == [1] and len(record_files(decoded)) == 5, "the other three are shared"
    assert set(np.unique(changed.mask(1))) == {1, 255} and 0 in decoded.mask(1), "the old record is still its own"


def test_two_processes_share_a_folder(tmp_path):
    """Both fill it at once, in opposite order; no record is half there, and each process reads what decode gives."""
    manifest, root = make_data(tmp_path, 12), tmp_path / "data"
    code = f"""
import sys
from pathlib import Path
from medseg.data.decoded import decode_all
from medseg.manifest.table import read_manifest
from medseg.types import Size
manifest = read_manifest(Path({str(manifest.folder)!r}))
print("ready", flush=True)
sys.stdin.readline()
rows, cache = list(manifest)[:: int(sys.argv[1])], Path({str(tmp_path / "cache")!r})
data = decode_all(manifest, rows, Path({str(root)!r}), Size(32, 48), cache, {GIB})
print(int(data.records(range(len(data))).astype("int64").sum()))
"""
    pipe = subprocess.PIPE
    started = [subprocess.Popen([sys.executable, "-c", code, step], stdin=pipe, stdout=pipe, text=True) for step in ("1", "-1")]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    sums = [int(process.communicate(timeout=60)[0]) for process in started]
    data = decode_all(manifest, list(manifest), root, GRID, tmp_path / "cache", GIB)
    true = [as_decoded(data, place) for place in range(12)]
    assert sums == [int(sum(record.astype(np.int64).sum() for record in true))] * 2
    assert all((data.record(place) == record).all() for place, record in enumerate(true))
    assert len(record_files(data)) == 12 and not [path for path in data.cache.folder.rglob(".*") if path.is_file()]


def test_the_sets_of_one_training_have_room_beside_each_other(tmp_path):
    manifest, root = make_data(tmp_path, 8), tmp_path / "data"
    rows, record_gib = list(manifest), 4 * GRID.height_px * GRID.width_px / 2**30
    enough, too_little = len(rows) * record_gib, (len(rows) - 0.5) * record_gib
    train = decode_all(manifest, rows[:5], root, GRID, tmp_path / "a", too_little)
    with pytest.raises(ConfigError, match="data.cache_gib"):
        decode_all(manifest, rows[5:], root, GRID, tmp_path / "a", too_little, beside=train)
    train = decode_all(manifest, rows[:5], root, GRID, tmp_path / "b", enough)
    decode_all(manifest, rows[5:], root, GRID, tmp_path / "b", enough, beside=train)
    assert all(train.cache.has(key) for key in train.keys)


def test_an_image_that_stands_in_several_rows_is_decoded_once(tmp_path):
    manifest, calls = make_data(tmp_path, 3), []
    rows = [row for row in manifest for _ in range(4)]
    decode_all(manifest, rows, tmp_path / "data", GRID, tmp_path / "cache", GIB, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
