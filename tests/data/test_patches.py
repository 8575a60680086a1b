from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest

from medseg.data import patches
from medseg.data.patches import LIMIT, PatchIndex, build_index, crop_window, limit_for, most_bytes, read_index
from medseg.labels import LabelSet
from medseg.seeding import numpy_generator
from medseg.types import Size

LABELS = LabelSet.of("tongue", "lesion")
FRAME = Size(60, 80)
KEYS = [f"hash {place}" for place in range(7)]


def mask_of(place: int) -> np.ndarray:
    """Blocks of all three classes and of the ignore id; the last mask holds background only."""
    if place == len(KEYS) - 1:
        return np.zeros(FRAME, np.uint8)
    blocks = np.random.default_rng(place).choice([0, 0, 0, 1, 2, 255], (6, 8)).astype(np.uint8)
    return np.kron(blocks, np.ones((10, 10), np.uint8))


@pytest.fixture(scope="module")
def index() -> PatchIndex:
    return build_index(KEYS, mask_of, LABELS, FRAME)


def same(first: PatchIndex, second: PatchIndex) -> bool:
    arrays = ("positions", "offsets", "pixels_NK")
    return (first.names, first.frame) == (second.names, second.frame) and all(
        np.array_equal(getattr(first, name), getattr(second, name)) and getattr(first, name).dtype == getattr(second, name).dtype
        for name in arrays
    )


def test_the_index_holds_positions_of_each_class_and_no_others(index):
    for place in range(len(KEYS)):
        mask = mask_of(place).ravel()
        for class_id in range(3):
            every = np.flatnonzero(mask == class_id)
            some = index.of(place, class_id)
            assert index.pixels_NK[place, class_id] == len(every)
            assert len(some) == min(LIMIT, len(every)) == len(set(some.tolist()))
            assert set(some.tolist()) <= set(every.tolist())
    assert index.of(0, 0).size == LIMIT < index.pixels_NK[0, 0], "the limit is met by this set"


def test_positions_found_piece_by_piece_are_those_of_the_whole(index, monkeypatch):
    """And the same as ever for the same file, for an index may be older than this code."""
    monkeypatch.setattr(patches, "PIECE", 37)
    assert same(build_index(KEYS, mask_of, LABELS, FRAME), index)
    every = np.flatnonzero(mask_of(0) == 0)
    drawn = numpy_generator(KEYS[0], 0, "positions").choice(len(every), LIMIT, replace=False, shuffle=False)
    assert np.array_equal(index.of(0, 0), every[np.sort(drawn)])


def test_a_volume_is_indexed_without_a_copy_eight_times_as_large():
    mask = np.zeros((24, 512, 512), np.uint8)
    mask[3:6, 100:200, 100:200] = 2
    tracemalloc.start()
    built = build_index(["a"], lambda _: mask, LABELS, (mask.shape,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert built.pixels_NK.tolist() == [[mask.size - 30_000, 0, 30_000]] and peak < 4 * mask.size


def test_the_images_that_hold_a_class(index):
    for class_id in range(3):
        assert index.holding(class_id).tolist() == [place for place in range(len(KEYS)) if (mask_of(place) == class_id).any()]
    assert len(KEYS) - 1 not in index.holding(1)


def test_an_image_s_positions_depend_on_its_file_alone(index):
    order = [5, 2, 0, 6, 3]
    turned = build_index([KEYS[place] for place in order], lambda place: mask_of(order[place]), LABELS, FRAME)
    for place, original in enumerate(order):
        for class_id in range(3):
            assert np.array_equal(turned.of(place, class_id), index.of(original, class_id))
    renamed = build_index([f"other {key}" for key in KEYS], mask_of, LABELS, FRAME)
    assert not np.array_equal(renamed.of(0, 0), index.of(0, 0))


def test_the_pixels_above_the_limit_are_chosen_uniformly():
    """A class of 4800 pixels in 60 files: of each row of 80 pixels the share LIMIT / 4800 is indexed."""
    index = build_index([f"{place}" for place in range(60)], lambda _: np.zeros(FRAME, np.uint8), LABELS, FRAME)
    by_row = np.bincount(index.positions // 80, minlength=60) / 60
    expected = 80 * LIMIT / 4800
    assert abs(by_row - expected).max() < 5 * np.sqrt(expected * (1 - LIMIT / 4800) / 60)


def test_each_mask_is_read_once_and_progress_told():
    read, told = [], []

    def reading(place: int) -> np.ndarray:
        read.append(place)
        return mask_of(place)

    build_index(KEYS, reading, LABELS, FRAME, lambda done, total: told.append((done, total)))
    assert read == list(range(7)) and told == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize("images", [1, 100, 24_000, 24_001, 100_000, 1_000_000])
@pytest.mark.parametrize("classes", [2, 3, 20, 255])
def test_the_positions_stay_within_the_bound(images, classes):
    limit = limit_for(images, classes)
    assert 1 <= limit <= LIMIT
    assert 4 * images * classes * limit <= max(patches.MAX_BYTES, 4 * images * classes)
    assert limit == LIMIT or 4 * images * classes * (limit + 1) > patches.MAX_BYTES


def test_24_000_images_of_three_classes_keep_the_limit_and_cost_under_600_mb():
    cells = 24_000 * 3
    assert limit_for(24_000, 3) == LIMIT
    assert 4 * cells * LIMIT + 8 * (cells + 1) + 4 * cells < 600e6


def test_an_index_takes_no_memory(monkeypatch, tmp_path):
    """Positions far beyond what is allotted, built and read: both stay in the file. A bound below what LIMIT would need is obeyed."""
    monkeypatch.setattr(patches, "MAX_BYTES", 2_000_000)
    masks, path = {place: mask_of(place) for place in range(len(KEYS))}, tmp_path / "index"
    tracemalloc.start()
    built = build_index([f"{place}" for place in range(300)], lambda place: masks[place % len(KEYS)], LABELS, FRAME, path=path)
    read = read_index(path, 300, built.names, FRAME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1_000_000 < built.positions.nbytes <= 2_000_000 and same(built, read)
    assert np.diff(built.offsets).max() == 2_000_000 // (4 * 900)
    assert peak < 400_000


@pytest.mark.parametrize(("images", "frame"), [(1, FRAME), (7, FRAME), (7, Size(20, 20)), (7, Size(600, 800))])
@pytest.mark.parametrize("limit", [40, 80_000_000])
def test_the_file_takes_no_more_than_is_said_before(monkeypatch, tmp_path, images, frame, limit):
    """By equal parts of each class, the worst there is; the cache makes room by it before a mask is decoded."""
    monkeypatch.setattr(patches, "MAX_BYTES", limit)
    mask = (np.arange(frame.height_px * frame.width_px) % 3).astype(np.uint8).reshape(frame)
    build_index(KEYS[:images], lambda _: mask, LABELS, frame, path=tmp_path / "index")
    assert (tmp_path / "index").stat().st_size == most_bytes(images, 3, frame)


def test_what_is_left_over_is_given_back():
    sparse = build_index(KEYS, lambda _: np.full(FRAME, 255, np.uint8), LABELS, FRAME)
    assert len(sparse) == 7 and sparse.positions.nbytes == 0 and sparse.holding(0).size == 0


def test_draw_gives_pixels_of_the_class(index):
    images = np.repeat(index.holding(2), 50)
    centres = index.draw(images, 2, numpy_generator(0))
    assert centres.dtype == np.int32 and centres.shape == (len(images), 2)
    assert all(mask_of(image)[tuple(centre)] == 2 for image, centre in zip(images, centres, strict=True))
    assert len({tuple(centre) for centre in centres.tolist()}) > 100


def test_an_index_survives_the_disk(tmp_path, index):
    path = tmp_path / "index.i32"
    assert same(build_index(KEYS, mask_of, LABELS, FRAME, path=path), index)
    found = read_index(path, len(KEYS), index.names, FRAME)
    assert same(found, index) and [path] == list(tmp_path.iterdir())
    path.unlink()
    images = np.repeat(index.holding(2), 50)
    drawn = [each.draw(images, 2, numpy_generator(0)) for each in (index, found)]
    assert np.array_equal(*drawn), "what is in use stays readable where another process removes the file"


def test_a_missing_or_damaged_file_is_not_there(tmp_path, index):
    path = tmp_path / "index.i32"
    build_index(KEYS, mask_of, LABELS, FRAME, path=path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    for content in (b"", bytes(4), bytes(400), whole[: len(whole) // 2], whole[:-4], whole + bytes(4), b"no index", flipped):
        path.write_bytes(content)
        assert read_index(path, len(KEYS), index.names, FRAME) is None
    path.write_bytes(whole)
    assert same(read_index(path, len(KEYS), index.names, FRAME), index)
    assert read_index(path, len(KEYS) + 1, index.names, FRAME) is None
    assert read_index(path, len(KEYS), index.names[:2], FRAME) is None
    assert read_index(tmp_path / "missing", len(KEYS), index.names, FRAME) is None


def test_an_index_whose_making_fails_leaves_nothing(tmp_path):
    def failing(place: int) -> np.ndarray:
        if place == 3:
            raise FileNotFoundError("a mask")
        return mask_of(place)

    with pytest.raises(FileNotFoundError, match="a mask"):
        build_index(KEYS, failing, LABELS, FRAME, path=tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_an_index_that_is_taken_away_as_it_is_kept_can_be_used(tmp_path, monkeypatch, index):
    replace = os.replace

    def taken(source, target):
        source.unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", taken)
    assert same(build_index(KEYS, mask_of, LABELS, FRAME, path=tmp_path / "index"), index)


@pytest.mark.parametrize("patch", [Size(1, 1), Size(2, 3), Size(5, 4), Size(7, 9), Size(9, 11)])
def test_every_window_is_inside_contains_its_centre_and_is_centred_where_it_can_be(patch):
    frame = Size(9, 11)
    for row, column in np.ndindex(frame):
        top, left = crop_window((row, column), frame, patch)
        assert 0 <= top <= row < top + patch.height_px <= frame.height_px
        assert 0 <= left <= column < left + patch.width_px <= frame.width_px
        if 0 < top < frame.height_px - patch.height_px:
            assert top == row - patch.height_px // 2
        if 0 < left < frame.width_px - patch.width_px:
            assert left == column - patch.width_px // 2


def test_a_patch_larger_than_a_volume_is_laid_around_it():
    for centre in ((0, 0, 0), (2, 8, 10)):
        depth, height, width = crop_window(centre, (3, 9, 11), (8, 4, 11))
        assert (depth, width) == (-2, 0) and height == (0 if centre[1] == 0 else 5)
