"""Geometry: against scipy.ndimage on pixel coordinates worked out anew, B-splines of SciPy, hand cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates

from medseg.data.augment import Change, apply_changes
from medseg.data.augment.change import Window
from medseg.data.augment.geometry import CONTROLS, _spline, affine_map, sampling_grid, warp
from medseg.labels import LabelSet
from medseg.types import Batch
from tests.data.changes import LABELS, STILL, random_batch

CPU = torch.device("cpu")
MOVES = [
    STILL._replace(flip=True), STILL._replace(turn_rad=0.5), STILL._replace(zoom=0.7), STILL._replace(shift_x=0.3, shift_y=-0.2),
    STILL._replace(crop=Window(0.1, 0.3, 0.6, 0.5)),
    Change(True, -0.8, 1.3, 0.2, 0.4, 1.0, 1.0, 1.0, 1.0, 0.0, crop=Window(0.2, 0.05, 0.7, 0.8)),
]  # fmt: skip


def source_px(change: Change, height: int, width: int) -> np.ndarray:
    """(2, H, W): row and column of the input that each pixel of the output shows, from what the settings say.

    The turn is one of the picture on the screen, in square pixels about the frame's middle; `zoom` enlarges it.
    """
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y = columns - width / 2, rows - height / 2
    x, y = (
        (math.cos(change.turn_rad) * x - math.sin(change.turn_rad) * y) / change.zoom,
        (math.sin(change.turn_rad) * x + math.cos(change.turn_rad) * y) / change.zoom,
    )
    x = (-x if change.flip else x) + change.shift_x * width / 2
    y = y + change.shift_y * height / 2
    top, left, share_y, share_x = change.crop
    in_crop_y, in_crop_x = (y + height / 2) * share_y, (x + width / 2) * share_x
    return np.stack([top * height + in_crop_y - 0.5, left * width + in_crop_x - 0.5])


@pytest.mark.parametrize("size", [(24, 32), (33, 20)])
@pytest.mark.parametrize("change", MOVES)
def test_affine_maps_equal_scipy_s(change, size):
    batch = random_batch(size, 1)
    no_pairs = LabelSet.of("left", "right", "tongue")
    image, mask = warp(batch.image_BCHW, batch.mask_BHW, [change], no_pairs)
    where = source_px(change, *size)
    for ours, channel in zip(image[0].numpy(), batch.image_BCHW[0].numpy(), strict=True):
        theirs = map_coordinates(channel.astype(np.float64), where, order=1, mode="grid-constant", cval=0.0)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    theirs = map_coordinates(batch.mask_BHW[0].numpy(), np.rint(where), order=0, mode="grid-constant", cval=255)
    clear = (np.abs(where - np.floor(where) - 0.5) > 1e-3).all(axis=0)  # not between two pixels
    assert clear.mean() > 0.4 and (mask[0].numpy() == theirs)[clear].all()


def test_a_flip_mirrors_both_and_swaps_the_sides():
    batch = random_batch()
    out = apply_changes(batch, [STILL._replace(flip=flip) for flip in (True, False, True)], LABELS)
    swapped = batch.mask_BHW.clone()
    swapped[batch.mask_BHW == 1], swapped[batch.mask_BHW == 2] = 2, 1
    for place in (0, 2):
        torch.testing.assert_close(out.image_BCHW[place], batch.image_BCHW[place].flip(-1), rtol=0, atol=2e-5)
        assert torch.equal(out.mask_BHW[place], swapped[place].flip(-1))
    assert torch.equal(out.image_BCHW[1], batch.image_BCHW[1]) and torch.equal(out.mask_BHW[1], batch.mask_BHW[1])


def test_what_comes_from_outside_is_black_and_has_the_ignore_id_whichever_it_is():
    image, mask, ids, _ = random_batch()
    labels = LabelSet.of("left", "right", "tongue", ignore_id=7, left_right_pairs=[["left", "right"]])
    mask[mask == 255] = 7
    out = apply_changes(Batch(image, mask, ids), [STILL._replace(shift_x=1.0, flip=flip) for flip in (True, False, True)], labels)
    assert (out.mask_BHW[:, :, 16:] == 7)[1].all() and (out.image_BCHW[1, :, :, 16:] == 0).all()
    assert (out.mask_BHW[:, :2] == 7).all() and set(out.mask_BHW.unique().tolist()) == {0, 1, 2, 3, 7}


def test_a_turn_is_rigid_on_a_frame_that_is_not_square():
    mask = torch.zeros(1, 40, 120, dtype=torch.long)
    mask[:, 15:25, 40:80] = 3  # 10 x 40 turned by 90 degrees is 40 x 10
    out = apply_changes(Batch(torch.rand(1, 3, 40, 120), mask, ("a",)), [STILL._replace(turn_rad=np.pi / 2)], LABELS)
    ys, xs = torch.nonzero(out.mask_BHW[0] == 3, as_tuple=True)
    assert abs((ys.max() - ys.min() + 1).item() - 40) <= 1 and abs((xs.max() - xs.min() + 1).item() - 10) <= 1


@pytest.mark.parametrize("elastic", [0.0, 0.08])
def test_image_and_mask_move_together(elastic):
    mask = torch.zeros(1, 64, 48, dtype=torch.long)
    mask[:, 20:40, 10:30] = 3
    painted = Batch((mask[:, None] * 0.3).repeat(1, 3, 1, 1), mask, ("a",))
    moved = STILL._replace(turn_rad=0.4, zoom=1.2, shift_x=0.1, shift_y=-0.2, crop=Window(0.1, 0.0, 0.8, 0.8))
    out = apply_changes(painted, [moved._replace(elastic=elastic, field_seed=3)], LABELS)
    inside = out.mask_BHW == 3
    agree = ((out.image_BCHW[:, 0] > 0.45) == inside).float().mean()
    assert agree > 0.99 and 100 < inside.sum() < 2500


def test_a_crop_of_a_quarter_is_that_quarter_at_twice_the_size():
    batch = random_batch((32, 40), 1)
    image, mask = warp(batch.image_BCHW, batch.mask_BHW, [STILL._replace(crop=Window(0.25, 0.5, 0.5, 0.5))], LABELS)
    quarter = batch.image_BCHW[..., 8:24, 20:40]
    enlarged = torch.nn.functional.interpolate(quarter, scale_factor=2, mode="bilinear")
    inner = (..., slice(1, -1), slice(1, -1))  # the edge mixes with what was cut away
    torch.testing.assert_close(image[inner], enlarged[inner], rtol=0, atol=1e-5)
    assert torch.equal(mask, batch.mask_BHW[:, 8:24, 20:40].repeat_interleave(2, 1).repeat_interleave(2, 2))


def displaced(change: Change, height: int, width: int) -> np.ndarray:
    """(H, W, 2): displacements x, y as shares of the frame's sides."""
    still = sampling_grid([change._replace(elastic=0.0)], height, width, CPU)
    return ((sampling_grid([change], height, width, CPU) - still)[0].double() / 2).numpy()


def test_elastic_stays_within_its_bound_and_fills_it():
    largest = [np.abs(displaced(STILL._replace(elastic=0.1, field_seed=seed), 40, 56)).max() for seed in range(100)]
    assert 0.07 < max(largest) <= 0.1 and min(largest) > 0.02


@pytest.mark.parametrize("size", [(48, 48), (64, 32)])
def test_elastic_folds_nothing_up_to_the_bound_of_the_spline(size):
    """At 0.12 of the side, the largest that Choi and Lee's condition allows: the map's determinant is positive in each cell of pixels."""
    for seed in range(100):
        grid = sampling_grid([STILL._replace(elastic=0.12, field_seed=seed)], *size, CPU)[0].double().numpy()
        down, right = np.diff(grid, axis=0)[:, :-1], np.diff(grid, axis=1)[:-1]
        assert (right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]).min() > 0


def test_elastic_differs_by_seed_and_grows_with_its_size():
    one, other = (displaced(STILL._replace(elastic=0.1, field_seed=seed), 24, 24) for seed in (1, 2))
    assert np.abs(one - other).max() > 0.02
    np.testing.assert_allclose(displaced(STILL._replace(elastic=0.05, field_seed=1), 24, 24), one / 2, atol=1e-6)


def test_elastic_bends_what_one_sees_and_the_affine_map_carries_it():
    """The grid of both is the affine map of the bent points of the output."""
    bend = {"elastic": 0.1, "field_seed": 4}
    bent = sampling_grid([STILL._replace(**bend)], 24, 32, CPU)[0].double().numpy()
    for change in MOVES:
        matrix = affine_map(change, 24 / 32)
        both = sampling_grid([change._replace(**bend)], 24, 32, CPU)[0].numpy()
        np.testing.assert_allclose(both, bent @ matrix[:, :2].T + matrix[:, 2], atol=2e-6)


@pytest.mark.parametrize("pixels", [16, 33, 256])
def test_the_spline_is_scipy_s(pixels):
    centres = (np.arange(pixels) + 0.5) / pixels * 4  # four cells a side
    theirs = BSpline.design_matrix(centres, np.arange(-3.0, 8.0), 3).toarray()
    assert theirs.shape == (pixels, CONTROLS)
    np.testing.assert_allclose(_spline(pixels), theirs, atol=1e-12)
