"""The cache of decoded images: bounded, shared, and never a wrong pixel, whatever was lost or cut short."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
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
RECORD = 4 * 4 * 6 + 4
GRID = Size(32, 48)
GRID_RECORD = 4 * 32 * 48 + 4
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
    cache.make_room(["aa0", "ab7"])
    assert keys(cache) == {"aa0", "aa2", "aa3"}, "aa0 is the oldest, and in use"
    for path in tmp_path.glob("??/*"):
        assert cache.has(path.stem)


def test_using_a_set_makes_it_young(tmp_path):
    cache = filled(tmp_path, 4)
    cache.make_room(["aa0", "aa1"])
    assert keys(cache) == {"aa0", "aa1", "aa2", "aa3"}, "nothing is to come, so nothing goes"
    cache.make_room(["ab0", "ab1"])
    assert keys(cache) == {"aa0", "aa1"}


def test_what_is_in_use_stays_where_another_machine_s_clock_goes_ahead(tmp_path):
    cache = filled(tmp_path, 4)
    for key in ("aa2", "aa3"):
        os.utime(cache.path(key), (4e9, 4e9))
    cache.make_room(["aa0", "aa1", "ab0"])
    assert {"aa0", "aa1"} < keys(cache) and len(keys(cache)) == 3


def test_the_folder_stays_within_its_bound(tmp_path):
    """Thirty sets of three through a cache of seven, and records of another grid before them."""
    filled(tmp_path, 3, Size(4, 12))
    cache = Cache(tmp_path, FRAME, 7 * RECORD)
    for number in range(30):
        wanted = [f"{number:02x}{place}" for place in range(3)]
        cache.make_room(wanted)
        for key in wanted:
            cache.write(key, np.zeros((3, *FRAME), np.uint8), np.zeros(FRAME, np.uint8))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 7 * RECORD
        assert all(cache.has(key) for key in wanted)


def test_a_set_larger_than_the_bound_is_refused_before_anything_goes(tmp_path):
    cache = filled(tmp_path, 2)
    said = r"^data.cache_gib: these 3 images take 300 bytes decoded, the limit is 200 bytes; raise it, or choose a smaller data.size_px$"
    with pytest.raises(ConfigError, match=said):
        cache.make_room(["aa0", "ab0", "ac0"])
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


@pytest.mark.parametrize("size", [0, 1, 4, 100, GRID_RECORD - 4, GRID_RECORD - 1, GRID_RECORD + 1])
def test_a_record_of_a_wrong_length_is_decoded_anew(decoded, size):
    for path in record_files(decoded):
        os.truncate(path, size)
    for place in range(4):
        assert (decoded.record(place) == as_decoded(decoded, place)).all()
    assert {path.stat().st_size for path in record_files(decoded)} == {GRID_RECORD}, "and kept"
    os.truncate(record_files(decoded)[0], size)
    told = []
    decoded.fill(lambda done, total: told.append((done, total)))
    assert told == [(1, 1)], "the next run sees it too"


@pytest.mark.parametrize("place", [0, 3 * 32 * 48 + 100, GRID_RECORD - 1])
def test_a_damaged_record_is_decoded_anew(decoded, place):
    """A flipped bit in the image, in the mask, in the seal; the length is right."""
    for path in record_files(decoded):
        content = bytearray(path.read_bytes())
        content[place] ^= 64
        path.write_bytes(content)
    assert (decoded.records(range(4)) == np.stack([as_decoded(decoded, position) for position in range(4)])).all()
    again = Cache(decoded.cache.folder, GRID, 1)
    assert all(again.read(key) is not None for key in decoded.keys), "and kept"


def test_a_record_is_checked_the_first_time_it_is_read(decoded, monkeypatch):
    """Not at each draw."""
    asked, crc32 = [], zlib.crc32
    decoded = decode_all(decoded.manifest, decoded.rows, decoded.data_root, GRID, decoded.cache.folder, GIB)
    monkeypatch.setattr(zlib, "crc32", lambda *content: asked.append(content) or crc32(*content))
    for _ in range(3):
        decoded.records([0, 1])
    assert len(asked) == 2


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


def both(code: str, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """One process an argument, started at once when all are ready; how each ended."""
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([sys.executable, "-c", code, argument], stdin=pipe, stdout=pipe, stderr=pipe, text=True) for argument in arguments
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [(process, *process.communicate(timeout=120)) for process in started]
    return [subprocess.CompletedProcess(process.args, process.returncode, out, err) for process, out, err in ends]


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
    sums = [int(process.stdout) for process in both(code, "1", "-1")]
    data = decode_all(manifest, list(manifest), root, GRID, tmp_path / "cache", GIB)
    true = [as_decoded(data, place) for place in range(12)]
    assert sums == [int(sum(record.astype(np.int64).sum() for record in true))] * 2
    assert all((data.record(place) == record).all() for place, record in enumerate(true))
    assert len(record_files(data)) == 12 and not [path for path in data.cache.folder.rglob(".*") if path.is_file()]


def test_two_processes_that_push_each_other_out_both_go_on(tmp_path):
    """Two sets, each as large as the bound: each process removes the other's records, but never a file while it is written."""
    code = f"""
import sys
from pathlib import Path
import numpy as np
from medseg.data.cache import Cache
from medseg.types import Size
cache, keys = Cache(Path({str(tmp_path)!r}), Size(32, 48), 12 * {GRID_RECORD}), [sys.argv[1] + "%02d" % place for place in range(12)]
print("ready", flush=True)
sys.stdin.readline()
lost = 0
for _ in range(20):
    for value, key in enumerate(keys):
        cache.make_room(keys)
        cache.write(key, np.full((3, 32, 48), value, np.uint8), np.full((32, 48), value, np.uint8))
        record = cache.read(key)
        lost += record is None
        assert record is None or (record == value).all()
print(lost)
"""
    for process in (done := both(code, "aa", "bb")):
        assert process.returncode == 0, process.stderr
    assert sum(int(process.stdout) for process in done) < 2 * 20 * 12, "some were there to be read"
    cache = Cache(tmp_path, GRID, 12 * GRID_RECORD)
    cache.make_room(["cc00"])
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in left) <= 11 * GRID_RECORD and {path.suffix for path in left} == {".u8"}
    assert not [path for path in left if path.name.startswith(".")]


def test_a_file_being_written_is_left_alone_and_one_of_a_killed_process_goes(tmp_path):
    cache = filled(tmp_path, 4)
    new, old = (tmp_path / folder / ".ab7.123.0a1b.part.u8" for folder in ("aa", "ab"))
    index = tmp_path / "positions" / ".0123.123.0a1b.part.i32"
    for path in (new, old, index):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(3 * RECORD))
    for path in (old, index):
        os.utime(path, (time.time() - 3700,) * 2)
    cache.make_room(["ab0"])
    assert new.exists() and not old.exists() and not index.exists()
    assert keys(cache) - {new.stem} == {"aa1", "aa2", "aa3"}, "it does not count yet"


def test_a_record_whose_temporary_is_taken_away_is_not_kept_and_no_error(tmp_path, monkeypatch):
    """As where the folder is removed under a run."""
    cache, replace = Cache(tmp_path, FRAME, 10 * RECORD), os.replace

    def taken(source: Path, target: Path) -> None:
        source.unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", taken)
    cache.write("aa0", np.zeros((3, *FRAME), np.uint8), np.zeros(FRAME, np.uint8))
    assert not cache.has("aa0") and cache.read("aa0") is None


def test_a_record_that_goes_while_it_is_marked_is_no_error(tmp_path, monkeypatch):
    cache, utime = filled(tmp_path, 2), os.utime

    def removed_first(path: Path) -> None:
        path.unlink(missing_ok=True)
        utime(path)

    monkeypatch.setattr(os, "utime", removed_first)
    cache.make_room(["aa0", "aa1"])
    assert not keys(cache)


def test_class_positions_count_and_go_like_images(tmp_path):
    """Those of an earlier version too, and never those in use; what else lies in the folder is not ours to remove."""
    cache = filled(tmp_path, 2)
    used, unused, earlier = (tmp_path / "positions" / name for name in ("0.i32", "1.i32", "2.npz"))
    foreign = tmp_path / "mine.i32"
    used.parent.mkdir()
    for age, path in enumerate((foreign, used, unused, earlier)):
        path.write_bytes(bytes(90))
        os.utime(path, (age, age))
    cache = Cache(tmp_path, FRAME, 2 * RECORD + 190)
    assert used == cache.positions_path("0")
    cache.make_room(["ab0", "aa1"], used, 90)
    assert used.exists() and foreign.exists() and not unused.exists() and not earlier.exists()
    assert keys(cache) == {"aa0", "aa1"}
    cache.make_room(["ab0", "aa1"], unused, 90)
    assert keys(cache) == {"aa1"} and used.exists(), "aa0 was not used for longer"


def test_positions_that_do_not_fit_beside_their_images_are_refused(tmp_path):
    cache = Cache(tmp_path, FRAME, 2 * RECORD + 90)
    cache.make_room(["aa0", "aa1"], cache.positions_path("0"), 90)
    with pytest.raises(
        ConfigError, match="these 2 images and the positions of their classes take 291 bytes decoded, the limit is 290 bytes"
    ):
        cache.make_room(["aa0", "aa1"], cache.positions_path("0"), 91)


def test_an_image_that_stands_in_several_rows_is_decoded_once(tmp_path):
    manifest, calls = make_data(tmp_path, 3), []
    rows = [row for row in manifest for _ in range(4)]
    decode_all(manifest, rows, tmp_path / "data", GRID, tmp_path / "cache", GIB, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
