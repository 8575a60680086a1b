from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.config import AugmentConfig
from medseg.data.augment import Change, apply_changes, draw_change
from medseg.labels import LabelSet
from medseg.types import Batch

LABELS = LabelSet.of("left", "right", left_right_pairs=[["left", "right"]])
STILL = Change(
    flip=False, turn_rad=0.0, zoom=1.0, shift_x=0.0, shift_y=0.0, brightness=1.0, contrast=1.0, gamma=1.0, saturation=1.0, hue_rad=0.0
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 3, 24, 32, generator=generator)
    mask = torch.randint(0, 3, (3, 24, 32), generator=generator)
    mask[:, :2] = 255
    return Batch(image, mask, ("a", "b", "c"))


def test_no_change_is_the_identity(batch):
    out = apply_changes(batch, [STILL] * 3, LABELS)
    assert torch.allclose(out.image_BCHW, batch.image_BCHW, atol=2e-5)
    assert (out.mask_BHW == batch.mask_BHW).all()


def test_a_flip_mirrors_both_and_swaps_the_sides(batch):
    out = apply_changes(batch, [STILL._replace(flip=True)] * 3, LABELS)
    assert torch.allclose(out.image_BCHW, batch.image_BCHW.flip(-1), atol=2e-5)
    swapped = torch.where(batch.mask_BHW == 1, 2, torch.where(batch.mask_BHW == 2, 1, batch.mask_BHW))
    assert (out.mask_BHW == swapped.flip(-1)).all()


def test_image_and_mask_move_together(batch):
    mask = torch.zeros(1, 64, 48, dtype=torch.long)
    mask[:, 20:40, 10:30] = 1
    painted = Batch((mask[:, None] * 0.8).repeat(1, 3, 1, 1), mask, ("a",))
    change = STILL._replace(turn_rad=0.4, zoom=1.2, shift_x=0.1, shift_y=-0.2)
    out = apply_changes(painted, [change], LABELS)
    agree = ((out.image_BCHW[:, 0] > 0.4) == (out.mask_BHW == 1)).float().mean()
    assert agree > 0.99 and (out.mask_BHW == 1).any()


def test_a_turn_is_rigid_on_a_frame_that_is_not_square():
    mask = torch.zeros(1, 40, 120, dtype=torch.long)
    mask[:, 15:25, 40:80] = 1  # 10 x 40 turned by 90 degrees is 40 x 10
    out = apply_changes(Batch(torch.rand(1, 3, 40, 120), mask, ("a",)), [STILL._replace(turn_rad=np.pi / 2)], LABELS)
    ys, xs = torch.nonzero(out.mask_BHW[0] == 1, as_tuple=True)
    assert abs((ys.max() - ys.min() + 1).item() - 40) <= 1 and abs((xs.max() - xs.min() + 1).item() - 10) <= 1


def test_what_comes_from_outside_is_ignored_and_black(batch):
    out = apply_changes(batch, [STILL._replace(shift_x=1.0)] * 3, LABELS)
    assert (out.mask_BHW[:, :, 17:] == 255).all() and (out.image_BCHW[..., 18:] == 0).all()


def test_one_draw_replayed_alone_equals_its_place_in_the_batch(batch):
    config = AugmentConfig()
    changes = [draw_change(config, 7, 3, place) for place in range(3)]
    together = apply_changes(batch, changes, LABELS)
    alone = apply_changes(Batch(batch.image_BCHW[1:2], batch.mask_BHW[1:2], ("b",)), [draw_change(config, 7, 3, 1)], LABELS)
    assert torch.allclose(alone.image_BCHW[0], together.image_BCHW[1], atol=1e-6)
    assert (alone.mask_BHW[0] == together.mask_BHW[1]).all()


def test_an_image_drawn_twice_is_changed_in_two_ways():
    assert draw_change(AugmentConfig(), 0, 1, 4) != draw_change(AugmentConfig(), 0, 1, 5)


def test_ranges_are_kept_and_zero_switches_off():
    config = AugmentConfig(rotate_deg=10, scale=0.2, shift=0.1)
    changes = [draw_change(config, 0, 1, place) for place in range(500)]
    assert max(abs(c.turn_rad) for c in changes) <= np.radians(10)
    assert 0.8 <= min(c.zoom for c in changes) < 0.85 < 1.2 < max(c.zoom for c in changes) <= 1.25
    assert 0.4 < np.mean([c.flip for c in changes]) < 0.6
    off = AugmentConfig(flip_probability=0, rotate_deg=0, scale=0, shift=0, brightness=0, contrast=0, gamma=0, saturation=0, hue=0)
    assert draw_change(off, 0, 1, 0) == STILL


def test_colour_changes_by_hand():
    grey = Batch(torch.full((1, 3, 4, 4), 0.25), torch.zeros(1, 4, 4, dtype=torch.long), ("a",))
    for change, expected in [({"brightness": 1.2}, 0.3), ({"gamma": 2.0}, 0.0625), ({"saturation": 0.0}, 0.25), ({"hue_rad": 1.0}, 0.25)]:
        out = apply_changes(grey, [STILL._replace(**change)], LABELS)
        assert torch.allclose(out.image_BCHW, torch.full((1, 3, 4, 4), expected), atol=1e-3), change


def test_global_random_state_is_left_as_found(batch):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    apply_changes(batch, [draw_change(AugmentConfig(), 0, 0, place) for place in range(3)], LABELS)
    assert (torch.get_rng_state() == before[0]).all() and (np.random.get_state()[1] == before[1]).all()
