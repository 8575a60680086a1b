"""Draws, and what holds of the augmentation as a whole whatever is switched on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.config import AugmentConfig
from medseg.data.augment import apply_changes, draw_change
from medseg.data.augment.change import FRAME, NOTHING, Change, Window
from medseg.types import Batch
from tests.data.changes import COLOURLESS, EVERYTHING, LABELS, MOTIONLESS, STILL, random_batch

RARE = ("crop", "elastic", "noise", "blur_px", "cutout")
CONFIGS = {
    "default": AugmentConfig(),
    "everything": EVERYTHING,
    "flips alone": AugmentConfig(**{**MOTIONLESS, "flip_probability": 0.5}, **COLOURLESS),
    "no colours": AugmentConfig(**COLOURLESS, crop=0.4, elastic=0.1, blur_px=2.0),
    "spoilt alone": AugmentConfig(**MOTIONLESS, **COLOURLESS, noise=0.2, blur_px=3.0, cutout=0.6),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def draws(config: AugmentConfig, count: int, seed: int = 7, epoch: int = 3) -> list[Change]:
    return [draw_change(config, seed, epoch, place) for place in range(count)]


def test_no_change_is_the_identity_in_memory_of_its_own():
    batch = random_batch()
    out = apply_changes(batch, [STILL] * 3, LABELS)
    assert torch.equal(out.image_BCHW, batch.image_BCHW) and torch.equal(out.mask_BHW, batch.mask_BHW)
    out.image_BCHW.zero_(), out.mask_BHW.zero_()
    assert batch.image_BCHW.any() and batch.mask_BHW.any() and out.sample_ids == batch.sample_ids


@every_config
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_batch_is_left_as_it_was_and_so_is_the_memory_format(config, layout):
    image, mask, ids, _ = random_batch(count=8)
    image = image.contiguous(memory_format=layout)
    before = image.clone(), mask.clone()
    out = apply_changes(Batch(image, mask, ids), draws(config, 8), LABELS)
    assert torch.equal(image, before[0]) and torch.equal(mask, before[1]) and not torch.equal(out.image_BCHW, image)
    assert out.image_BCHW.is_contiguous(memory_format=layout) and out.mask_BHW.is_contiguous()


@every_config
def test_the_memory_format_changes_no_value(config):
    image, mask, ids, _ = random_batch(count=8)
    plain, last = (
        apply_changes(Batch(image.contiguous(memory_format=layout), mask, ids), draws(config, 8), LABELS)
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    assert torch.equal(plain.image_BCHW, last.image_BCHW) and torch.equal(plain.mask_BHW, last.mask_BHW)


@every_config
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_one_draw_replayed_alone_equals_its_place_in_the_batch_to_the_bit(config, size):
    batch, changes = random_batch(size, 8), draws(config, 8)
    together = apply_changes(batch, changes, LABELS)
    for place in range(8):
        one = slice(place, place + 1)
        alone = apply_changes(Batch(batch.image_BCHW[one], batch.mask_BHW[one], ("a",)), [draw_change(config, 7, 3, place)], LABELS)
        assert torch.equal(alone.image_BCHW[0], together.image_BCHW[place]) and torch.equal(alone.mask_BHW[0], together.mask_BHW[place])


@every_config
@pytest.mark.parametrize("fill", [0.0, 1.0, None])
def test_images_stay_float32_in_0_to_1_and_masks_keep_to_the_ids(config, fill):
    image, mask, ids, _ = random_batch(count=8)
    image = image.sub(0.5).sign().mul(0.5).add(0.5) if fill is None else torch.full_like(image, fill)  # the ends of the range
    out = apply_changes(Batch(image, mask, ids), draws(config, 8), LABELS)
    assert out.image_BCHW.dtype == torch.float32 and out.mask_BHW.dtype == torch.int64
    assert out.image_BCHW.min() >= 0 and out.image_BCHW.max() <= 1
    assert set(out.mask_BHW.unique().tolist()) == {0, 1, 2, 3, 255}


def test_a_mask_of_bytes_gives_what_one_of_int64_gives():
    image, mask, ids, _ = random_batch(count=8)
    wide, narrow = (apply_changes(Batch(image, each, ids), draws(EVERYTHING, 8), LABELS).mask_BHW for each in (mask, mask.byte()))
    assert narrow.dtype == torch.int64 and torch.equal(wide, narrow)


@every_config
def test_autocast_changes_nothing_and_no_gradient_is_kept(config):
    batch, changes = random_batch(count=8), draws(config, 8)
    plain = apply_changes(batch, changes, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        under = apply_changes(batch._replace(image_BCHW=batch.image_BCHW.clone().requires_grad_()), changes, LABELS)
    assert torch.equal(plain.image_BCHW, under.image_BCHW) and torch.equal(plain.mask_BHW, under.mask_BHW)
    assert under.image_BCHW.dtype == torch.float32 and not under.image_BCHW.requires_grad


def test_global_random_state_is_left_as_found():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    apply_changes(random_batch(count=8), draws(EVERYTHING, 8), LABELS)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


def test_optics_then_sensor_then_what_hides_the_picture():
    hidden = Window(0.2, 0.1, 0.5, 0.4)
    steps = [{"turn_rad": 0.3}, {"blur_px": 1.5}, {"gamma": 1.7, "contrast": 1.2}, {"noise": 0.1, "field_seed": 5}, {"cutout": hidden}]
    batch = step_by_step = random_batch((40, 40), 1)
    for step in steps:
        step_by_step = apply_changes(step_by_step, [STILL._replace(**step)], LABELS)
    change = STILL._replace(**dict(pair for step in steps for pair in step.items()))
    at_once = apply_changes(batch, [change], LABELS)
    assert torch.equal(at_once.mask_BHW, step_by_step.mask_BHW)
    torch.testing.assert_close(at_once.image_BCHW, step_by_step.image_BCHW, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [AugmentConfig(), EVERYTHING.model_copy(update={**MOTIONLESS, **COLOURLESS, "probability": 1.0})])
def test_a_draw_depends_on_its_identity_alone(config):
    """So an image drawn twice in an epoch is changed in two ways; the frequent changes and the rare ones have a generator each."""
    seen = {draw_change(config, *identity) for identity in ((0, 1, 4), (1, 0, 4), (0, 4, 1), (0, 1, 5), (0, 2, 4), (1, 1, 4))}
    assert len(seen) == 6
    assert draw_change(config, 0, 1, 4) == draw_change(config, 0, 1, 4) in seen


@pytest.mark.parametrize("key", RARE)
def test_a_rare_change_switched_on_leaves_the_others_as_they_were(key):
    """Whether it is alone or among the others."""
    only, without = AugmentConfig(**{key: getattr(EVERYTHING, key)}), EVERYTHING.model_copy(update={key: 0.0})
    hushed = {key: getattr(STILL, key), "field_seed": 0}
    for every, alone, off, plain in zip(*(draws(config, 60) for config in (EVERYTHING, only, without, AugmentConfig())), strict=True):
        assert getattr(alone, key) == getattr(every, key)
        assert alone._replace(**hushed) == plain and every._replace(**hushed) == off._replace(field_seed=0)


def test_another_range_of_one_change_scales_it_and_leaves_the_others():
    wide, narrow = (draws(AugmentConfig(rotate_deg=degrees), 50) for degrees in (20.0, 10.0))
    assert [change._replace(turn_rad=change.turn_rad / 2) for change in wide] == narrow


def test_ranges_are_kept_and_filled():
    changes = draws(
        AugmentConfig(rotate_deg=10, scale=0.2, shift=0.1, brightness=0.3, contrast=0.4, gamma=0.5, saturation=0.6, hue=0.1), 500
    )
    ends = {
        "turn_rad": np.radians([-10, 10]), "zoom": (0.8, 1.25), "shift_x": (-0.2, 0.2), "shift_y": (-0.2, 0.2), "brightness": (0.7, 1.3),
        "contrast": (0.6, 1.4), "gamma": (1 / 1.5, 1.5), "saturation": (0.4, 1.6), "hue_rad": (-0.2 * np.pi, 0.2 * np.pi),
    }  # fmt: skip
    for field, (low, high) in ends.items():
        values = [getattr(change, field) for change in changes]
        reach = 0.05 * (high - low)
        assert low <= min(values) < low + reach < high - reach < max(values) <= high, field
    assert 0.4 < np.mean([change.flip for change in changes]) < 0.6
    assert np.mean([change.zoom > 1 for change in changes]) == pytest.approx(0.5, abs=0.1)  # enlarged as often as reduced


def test_ranges_of_the_rare_changes_are_kept_and_filled():
    changes = draws(EVERYTHING, 1000)
    for field, high in {"elastic": 0.1, "noise": 0.1, "blur_px": 2.0}.items():
        values = [getattr(change, field) for change in changes if getattr(change, field)]
        assert 0 < min(values) < 0.05 * high < 0.95 * high < max(values) <= high and 400 < len(values) < 600, field
    for field, none, low, high in (("crop", FRAME, 0.6, 1.0), ("cutout", NOTHING, 0.0, 0.5)):
        windows = np.array([getattr(change, field) for change in changes if getattr(change, field) != none])
        assert 400 < len(windows) < 600 and (low < windows[:, 2:]).all() and (windows[:, 2:] <= high).all()
        room = 1 - windows[:, 2:]
        assert (windows[:, :2] >= 0).all() and (windows[:, :2] <= room).all()
        assert np.median(windows[:, :2] / room, axis=0) == pytest.approx([0.5, 0.5], abs=0.08)  # anywhere in the frame
        assert (windows[:, 2] == windows[:, 3]).all() if field == "crop" else (windows[:, 2] != windows[:, 3]).any()
    apart = np.array([[bool(change.elastic), bool(change.noise), bool(change.blur_px)] for change in changes], float)
    assert np.abs(np.corrcoef(apart.T) - np.eye(3)).max() < 0.1


def test_0_switches_off_and_so_does_probability_0():
    assert draw_change(AugmentConfig(**MOTIONLESS, **COLOURLESS), 0, 1, 0) == STILL
    assert draws(EVERYTHING.model_copy(update={"probability": 0.0}), 50) == draws(AugmentConfig(), 50)
    always = draws(EVERYTHING.model_copy(update={"probability": 1.0}), 50)
    assert all(c.crop != FRAME and c.elastic and c.noise and c.blur_px and c.cutout != NOTHING for c in always)
