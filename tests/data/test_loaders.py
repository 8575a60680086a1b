"""Batches: the same whether made beside the computation or not, crops where the draws say, and no thread left behind."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.config import AugmentConfig, SamplingConfig
from medseg.data.decoded import DecodedSet, decode_all
from medseg.data.loaders import Loading, collate, eval_batch, prefetched, train_batches
from medseg.data.patches import build_index, crop_window
from medseg.data.sampling import draw_epoch, of_rank
from medseg.errors import ImageError
from medseg.types import Batch, Draws, Size
from tests.tiny import make_data

CPU = torch.device("cpu")
FRAME, PATCH = Size(32, 48), Size(16, 24)
RANGES = ("flip_probability", "rotate_deg", "scale", "shift", "brightness", "contrast", "gamma", "saturation", "hue")
UNCHANGED = AugmentConfig(**dict.fromkeys(RANGES, 0.0))
LOADING = Loading(4, UNCHANGED, 0, CPU)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DecodedSet:
    root = tmp_path_factory.mktemp("loaders")
    manifest = make_data(root, 10)
    return decode_all(manifest, list(manifest), root / "data", FRAME, root / "cache", 0.001)


@pytest.fixture(scope="module")
def crops(data) -> Draws:
    """Sixteen crops, half of them centred on squares."""
    index = build_index([row.sample_id for row in data.rows], data.mask, data.labels, FRAME)
    config = SamplingConfig(name="uniform", patch_px=tuple(PATCH), centre_ratios={"square": 1.0, "anywhere": 1.0})
    return draw_epoch(config, np.ones(len(data)), index, 16, seed=0, epoch=1)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "medseg-prefetch"]


def equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.image_BCHW, second.image_BCHW)
        and torch.equal(first.mask_BHW, second.mask_BHW)
        and first.sample_ids == second.sample_ids
    )


def test_a_batch_of_rows_is_whole_and_unchanged(data):
    batch = eval_batch(data, range(4, 10), CPU)
    assert list(batch.sample_ids) == [row.sample_id for row in data.rows[4:10]]
    for place in range(4, 10):
        assert torch.equal(batch.image_BCHW[place - 4], torch.from_numpy(data.record(place)[:3].copy()).float() / 255)
        assert (batch.mask_BHW[place - 4].numpy() == data.mask(place)).all()


@pytest.mark.parametrize("channels_last", [False, True])
def test_collate_gives_floats_and_ids_in_the_layout_asked(data, channels_last):
    batch = collate(data.records([2, 5]), ["a", "b"], CPU, channels_last)
    assert batch.image_BCHW.dtype == torch.float32 and 0 <= batch.image_BCHW.min() < batch.image_BCHW.max() <= 1
    assert batch.mask_BHW.dtype == torch.int64 and batch.sample_ids == ("a", "b")
    assert batch.image_BCHW.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert batch.image_BCHW.is_contiguous() is not channels_last
    assert equal(batch, collate(data.records([2, 5]), ["a", "b"], CPU, not channels_last))


@pytest.mark.parametrize("patch", [None, PATCH])
def test_batches_are_equal_whether_prefetched_or_not(data, crops, patch):
    draws = crops if patch else Draws(crops.images)
    loading = replace(LOADING, augment=AugmentConfig(), patch=patch)
    plain = list(train_batches(data, draws, 3, loading))
    assert len(plain) == 4 and not equal(plain[0], plain[1])
    for depth in (1, 2, 16):
        ahead = list(train_batches(data, draws, 3, replace(loading, prefetch=depth)))
        assert len(ahead) == 4 and all(equal(one, other) for one, other in zip(plain, ahead, strict=True))
    assert not threads()


def test_batches_keep_the_layout_through_augmentation_and_change_no_value(data, crops):
    loading = replace(LOADING, augment=AugmentConfig())
    for plain, last in zip(
        train_batches(data, crops, 1, loading), train_batches(data, crops, 1, replace(loading, channels_last=True)), strict=True
    ):
        assert last.image_BCHW.is_contiguous(memory_format=torch.channels_last) and not last.image_BCHW.is_contiguous()
        assert equal(plain, last)


def test_an_image_drawn_again_is_changed_in_another_way(data):
    """In another place of the batch, in another batch, in another epoch."""
    draws, loading = Draws(np.zeros(8, np.int64)), replace(LOADING, augment=AugmentConfig())
    shown = [image for epoch in (1, 2) for batch in train_batches(data, draws, epoch, loading) for image in batch.image_BCHW]
    assert len(shown) == 16 and len({image.numpy().tobytes() for image in shown}) == 16


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("patch", [None, PATCH])
def test_the_ranks_pixels_of_each_step_are_the_single_process_s(data, crops, patch, world):
    """To the last bit, with every change on: a draw is augmented by its place in the epoch's list, not by where it lands in a rank's."""
    draws = crops if patch else Draws(crops.images)
    every = AugmentConfig(crop=0.3, elastic=0.1, noise=0.1, blur_px=1.0, cutout=0.4, probability=1.0)
    loading = replace(LOADING, augment=every, patch=patch)
    single = list(train_batches(data, draws, 2, loading))
    by_rank = replace(loading, batch_size=loading.batch_size // world)
    ranks = [train_batches(data, of_rank(draws, rank, world, loading.batch_size), 2, by_rank) for rank in range(world)]
    steps = list(zip(*ranks, strict=True))
    assert len(steps) == len(single) == 4
    for whole, shares in zip(single, steps, strict=True):
        images, masks = (torch.cat([batch[part] for batch in shares]) for part in (0, 1))
        assert equal(Batch(images, masks, sum((batch.sample_ids for batch in shares), ())), whole)


def test_crops_lie_where_their_centres_say(data, crops):
    batches = list(train_batches(data, crops, 1, replace(LOADING, patch=PATCH)))
    images, masks = (torch.cat([batch[part] for batch in batches]).numpy() for part in (0, 1))
    assert images.shape == (16, 3, *PATCH) and masks.shape == (16, *PATCH)
    assert [name for batch in batches for name in batch.sample_ids] == [data.rows[image].sample_id for image in crops.images]
    squares = 0
    for place, (image, centre, wanted) in enumerate(zip(crops.images, crops.centres, crops.wanted, strict=True)):
        top, left = crop_window(centre, FRAME, PATCH)
        window = data.record(image)[:, top : top + 16, left : left + 24]
        assert np.allclose(images[place], window[:3] / 255, atol=1e-3) and (masks[place] == window[3]).all()
        if wanted == 2:
            squares += 1
            assert masks[place][centre[0] - top, centre[1] - left] == 2
    assert squares == 8


def test_an_error_in_the_making_is_raised_in_the_consumer(tmp_path):
    """After the batches that came before it, and as it was: the command line tells it in one line."""
    manifest = make_data(tmp_path, 8)
    data = decode_all(manifest, list(manifest), tmp_path / "data", FRAME, tmp_path / "cache", 0.001)
    before = data.records(range(4))
    for path in (tmp_path / "cache").glob("??/*"):
        path.unlink()
    (tmp_path / "data" / data.rows[6].image).unlink()
    batches = train_batches(data, Draws(np.arange(8)), 1, replace(LOADING, prefetch=2))
    assert torch.allclose(next(batches).image_BCHW, torch.from_numpy(before[:, :3]).float() / 255, atol=1e-3)
    with pytest.raises(ImageError, match="case_06.png: there is no such file"):
        next(batches)
    assert not threads()


def test_a_consumer_that_stops_early_leaves_no_thread():
    """Whether the maker waits for room or is in the middle of an item."""
    for pause_s in (0.0, 0.3):
        items = prefetched(itertools.count(), depth=2)
        assert [next(items), next(items)] == [0, 1] and len(threads()) == 1
        time.sleep(pause_s)
        items.close()
        assert not threads()


def test_an_error_in_the_consumer_leaves_no_thread(data, crops):
    batches = train_batches(data, crops, 1, replace(LOADING, prefetch=2))

    def consume():
        for _ in batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    batches.close()
    assert not threads()


def test_no_more_than_depth_items_are_made_ahead():
    made = []

    def making():
        for number in range(100):
            made.append(number)
            yield number

    items = prefetched(making(), depth=3)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) == 5, "one taken, three ready, one that waits for room"
    assert list(items) == list(range(1, 100)) and made == list(range(100))


def test_without_depth_each_item_is_made_when_it_is_asked_for():
    made = []
    items = prefetched((made.append(number) or number for number in range(5)), depth=0)
    assert next(items) == 0 and made == [0] and not threads()
