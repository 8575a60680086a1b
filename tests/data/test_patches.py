from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from medseg.data import patches
from medseg.data.patches import LIMIT, PatchIndex, build_index, crop_window, limit_for
from medseg.errors import ConfigError
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


def test_building_costs_no_more_than_the_bound(monkeypatch):
    """A bound far below what LIMIT would need: the index obeys it, and the building does not hold things twice."""
    monkeypatch.setattr(patches, "MAX_BYTES", 400_000)
    masks = {place: mask_of(place) for place in range(len(KEYS))}
    tracemalloc.start()
    index = build_index([f"{place}" for place in range(200)], lambda place: masks[place % len(KEYS)], LABELS, FRAME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.positions.nbytes <= 400_000
    assert np.diff(index.offsets).max() == 400_000 // (4 * 600)
    assert peak < 400_000 + 12 * 600 * 2 + 200_000, "positions twice would be 800 kB"


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
    for number, each in enumerate((index, PatchIndex.anywhere(FRAME))):
        index_file = tmp_path / f"{number}.npz"
        each.save(index_file)
        assert same(PatchIndex.load(index_file), each)
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["0.npz", "1.npz"]
    assert not list(tmp_path.glob(".*.part*"))


def test_a_damaged_or_foreign_file_is_refused(tmp_path, index):
    path = tmp_path / "index.npz"
    index.save(path)
    whole = path.read_bytes()
    harm = {"no": b"", "short": whole[: len(whole) // 2], "text": b"not an archive"}
    for content in harm.values():
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="index.npz: no index of class positions .*; remove it"):
            PatchIndex.load(path)
    with pytest.raises(ConfigError, match="no index of class positions"):
        PatchIndex.load(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"version": np.array(0)},
        {"offsets": np.zeros(22, np.int64)},
        {"positions": np.array([60 * 80], np.int32)},
        {"names": np.array(["background", "tongue"])},
        {"pixels_NK": np.zeros((7, 3), np.int32)},
        {"positions": np.array([None])},
        {"pixels_NK": np.zeros(3, np.int32)},
    ],
)
def test_an_index_whose_parts_do_not_fit_is_refused(tmp_path, index, change):
    parts = {"version": np.array(patches.VERSION), "names": np.array(index.names), "frame": np.array(index.frame)}
    parts |= {"positions": index.positions, "offsets": index.offsets, "pixels_NK": index.pixels_NK}
    np.savez(tmp_path / "index.npz", **(parts | change))
    with pytest.raises(ConfigError, match="remove it; it will be made again"):
        PatchIndex.load(tmp_path / "index.npz")


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


def test_a_patch_larger_than_the_frame_is_our_own_mistake():
    with pytest.raises(AssertionError, match="is larger than"):
        crop_window((0, 0), Size(9, 11), Size(10, 4))
