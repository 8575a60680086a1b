"""Patches of volumes: where they lie, what augmentation does to them, and that a draw replayed alone equals its place in the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from medseg.config import AugmentConfig
from medseg.config.volume import VolumeConfig
from medseg.data.loaders import Loading
from medseg.data.volume.augment import (
    VolumeChange,
    draw_volume_change,
    is_flat,
    mirrored,
    region_of,
    reshaded,
    shown,
    voxel_map,
)
from medseg.data.volume.loaders import volume_batches
from medseg.data.volume.store import VolumeStore
from medseg.data.volume.volumeset import unprepared
from medseg.labels import LabelSet
from medseg.types import Draws
from tests.data.volume.made import make_volumes

ALL = (True, True, True)
STILL = AugmentConfig(flip_probability=0, rotate_deg=0, scale=0, shift=0, brightness=0, contrast=0, gamma=0, probability=0)
STRONG = AugmentConfig(rotate_deg=30, scale=0.3, noise=0.2, blur_px=1.5, flip_axes=("x", "y", "z"))
PAIR = LabelSet.of("left", "right", left_right_pairs=[["left", "right"]])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("volumes")
    manifest, data_root = make_volumes(root)
    store = VolumeStore(root / "cache", 2**30)
    volumes = unprepared(manifest, list(manifest), data_root, store, VolumeConfig(spacing_mm=(2, 1, 1)))
    store.make_room(volumes.most)
    volumes.fill()
    return volumes


def draws(data, count: int) -> Draws:
    generator = np.random.default_rng(3)
    images = generator.integers(0, len(data), count)
    centres = np.stack([generator.integers(0, data.frame[image]) for image in images]).astype(np.int32)
    return Draws(images, centres, np.full(count, -1, np.int16))


def loading(patch=(8, 12, 10), augment=STILL, batch_size=4, **more) -> Loading:
    return Loading(batch_size, augment, 0, torch.device("cpu"), patch, **more)


def test_an_unchanged_patch_is_cut_out_of_the_record_and_ignored_outside(data):
    chosen = draws(data, 12)
    batches = list(volume_batches(data, chosen, 1, loading()))
    image, mask = torch.cat([batch.image_BCHW for batch in batches]), torch.cat([batch.mask_BHW for batch in batches])
    assert image.shape == (12, 1, 8, 12, 10) and mask.shape == (12, 8, 12, 10) and image.dtype == torch.float32
    for place in range(12):
        record, outside = data.record(int(chosen.images[place])), mask[place] == 255
        assert (image[place, 0][outside] == 0).all()
        inner = [sorted(set(part.tolist())) for part in torch.nonzero(~outside, as_tuple=True)]
        size = tuple(len(part) for part in inner)
        found = image[place, 0][np.ix_(*inner)].numpy()
        windows = np.lib.stride_tricks.sliding_window_view(record.image_CDHW[0], size)
        same = np.argwhere((windows == found).all(axis=(3, 4, 5)))
        assert len(same) == 1, "once and exactly"
        cut = tuple(slice(at, at + side) for at, side in zip(same[0], size, strict=True))
        assert np.array_equal(record.mask_DHW[cut], mask[place][np.ix_(*inner)].numpy())


def test_one_draw_alone_equals_its_place_in_the_batch_whatever_stands_beside_it(data):
    chosen = draws(data, 8)
    together = next(iter(volume_batches(data, chosen, 2, loading(augment=STRONG, batch_size=8))))
    for place in range(8):
        [alone] = volume_batches(data, chosen.part(slice(place, place + 1)), 2, loading(augment=STRONG, batch_size=1))
        assert torch.equal(alone.image_BCHW[0], together.image_BCHW[place]) and torch.equal(alone.mask_BHW[0], together.mask_BHW[place])


def test_another_epoch_or_place_changes_in_another_way(data):
    chosen = draws(data, 4)
    one, other = (next(iter(volume_batches(data, chosen, epoch, loading(augment=STRONG)))).image_BCHW for epoch in (1, 2))
    assert not torch.equal(one, other)
    twice = Draws(chosen.images[[0, 0]], chosen.centres[[0, 0]], chosen.wanted[[0, 0]])
    pair = next(iter(volume_batches(data, twice, 1, loading(augment=STRONG, batch_size=2)))).image_BCHW
    assert not torch.equal(pair[0], pair[1])


def test_slices_are_planes_across_the_depth(data):
    chosen = draws(data, 4)
    slices = next(iter(volume_batches(data, chosen, 1, loading(patch=(16, 16)))))
    solid = next(iter(volume_batches(data, chosen, 1, loading(patch=(1, 16, 16)))))
    assert slices.image_BCHW.shape == (4, 1, 16, 16) and slices.mask_BHW.shape == (4, 16, 16)
    assert torch.equal(slices.image_BCHW, solid.image_BCHW[:, :, 0])


def test_the_memory_format_and_the_thread_change_no_value(data):
    chosen = draws(data, 8)
    plain = list(volume_batches(data, chosen, 1, loading(augment=STRONG)))
    other = list(volume_batches(data, chosen, 1, loading(augment=STRONG, channels_last=True, prefetch=2)))
    assert all(torch.equal(a.image_BCHW, b.image_BCHW) and torch.equal(a.mask_BHW, b.mask_BHW) for a, b in zip(plain, other, strict=True))


def test_the_global_random_state_is_left(data):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(volume_batches(data, draws(data, 4), 1, loading(augment=STRONG)))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


# --- geometry


def blob(sides=(17, 21, 19)) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(1).normal(size=sides), 2).astype(np.float32) * 10


def changed(volume: np.ndarray, change: VolumeChange, spacing=(1.0, 1.0, 1.0), patch=None) -> torch.Tensor:
    patch = patch or volume.shape
    corner = tuple((side - inner) // 2 for side, inner in zip(volume.shape, patch, strict=True))
    region = region_of(corner, patch, volume.shape, change, spacing)
    cut = volume[tuple(slice(start, start + side) for start, side in zip(region.start, region.shape, strict=True))]
    image, _ = shown(torch.from_numpy(cut.copy())[None], torch.from_numpy((cut > 0).astype(np.uint8)), region, patch, change, spacing, 255)
    return image[0]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.8)])
@pytest.mark.parametrize(
    "change", [VolumeChange(turns_rad=(0.3, 0, 0)), VolumeChange(turns_rad=(0.2, -0.3, 0.1), zoom=1.2), VolumeChange(zoom=0.8)]
)
def test_a_turned_patch_is_scipy_s_affine_transform(change, spacing):
    volume = blob()
    matrix = voxel_map(change, spacing)
    centre = (np.array(volume.shape) - 1) / 2
    expected = ndimage.affine_transform(volume, matrix, centre - matrix @ centre, order=1, mode="grid-constant")
    assert np.abs(changed(volume, change, spacing).numpy() - expected).max() < 1e-3


def test_a_turn_is_rigid_in_millimetres():
    spacing = np.array([4.0, 1.0, 0.5])
    matrix = np.diag(spacing) @ voxel_map(VolumeChange(turns_rad=(0.4, -0.2, 0.7)), tuple(spacing)) @ np.diag(1 / spacing)
    assert np.allclose(matrix @ matrix.T, np.eye(3)) and np.isclose(np.linalg.det(matrix), 1)


def test_what_a_turned_patch_shows_comes_from_beyond_its_own_box():
    """A turn of the patch inside a larger volume has no empty corners."""
    volume = blob((40, 40, 40)) + 50
    turned = changed(volume, VolumeChange(turns_rad=(0.5, 0.4, 0.3)), patch=(12, 14, 10))
    assert turned.shape == (12, 14, 10) and turned.min() > 20


def test_flat_volumes_are_turned_in_their_plane_alone():
    config = AugmentConfig(rotate_deg=30)
    for place in range(20):
        change = draw_volume_change(config, ALL, True, 0, 1, place)
        assert change.turns_rad[0] != 0 and change.turns_rad[1:] == (0.0, 0.0)
    assert is_flat((3.6, 0.6, 0.6), (16, 64, 64)) and is_flat((1, 1, 1), (1, 64, 64)) and not is_flat((2, 1, 1), (16, 64, 64))


def test_axes_that_are_not_mirrored_never_are():
    config = AugmentConfig(flip_probability=1)
    assert draw_volume_change(config, (False, True, False), False, 0, 1, 5).flips == (False, True, False)
    flips = np.array([draw_volume_change(AugmentConfig(), ALL, False, 0, 1, place).flips for place in range(400)])
    assert (np.abs(flips.mean(0) - 0.5) < 0.1).all() and abs(np.corrcoef(flips.T)[0, 1]) < 0.2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_left_and_right_are_exchanged_along_their_own_axis_alone(axis):
    image, mask = torch.arange(24.0).view(1, 2, 3, 4), torch.arange(24).view(2, 3, 4) % 3
    mask[0, 0, 0] = 255
    flips = tuple(place == axis for place in range(3))
    flipped, ids = mirrored(image, mask, VolumeChange(flips=flips), 2, PAIR)
    assert torch.equal(flipped, image.flip(axis + 1))
    plain = mask.flip(axis)
    swapped = torch.where(plain == 1, 2, torch.where(plain == 2, 1, plain))
    assert torch.equal(ids, swapped if axis == 2 else plain)


# --- intensities


def test_contrast_keeps_the_mean_and_gamma_mean_and_deviation():
    image = torch.from_numpy(np.stack([blob(), 3 * blob() + 2]))
    contrasted = reshaded(image, VolumeChange(contrast=1.5))
    assert torch.allclose(contrasted.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-4)
    assert torch.allclose(contrasted.std((1, 2, 3)), 1.5 * image.std((1, 2, 3)), rtol=1e-4)
    raised = reshaded(image, VolumeChange(gamma=1.4))
    assert torch.allclose(raised.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-3)
    assert torch.allclose(raised.std((1, 2, 3)), image.std((1, 2, 3)), rtol=1e-3) and not torch.allclose(raised, image)


def test_brightness_multiplies_all_of_it():
    """A z-scored patch has a mean near 0, so that brightness which moved the mean alone would do nothing."""
    image = torch.from_numpy(blob())[None]
    image = image - image.mean()
    assert torch.allclose(reshaded(image, VolumeChange(brightness=1.2)), 1.2 * image, atol=1e-5)


def test_the_blur_is_scipy_s_and_the_noise_has_its_deviation():
    image = torch.from_numpy(blob())[None]
    expected = ndimage.gaussian_filter(image[0].numpy(), 1.3, mode="reflect")
    assert np.abs(reshaded(image, VolumeChange(blur_px=1.3))[0].numpy() - expected).max() < 1e-4
    noise = reshaded(image, VolumeChange(noise=0.3, field_seed=5)) - image
    assert math.isclose(noise.std().item(), 0.3, rel_tol=0.05) and abs(noise.mean().item()) < 0.02


def test_a_constant_patch_stays_finite():
    flat = torch.full((1, 4, 4, 4), 2.0)
    assert torch.isfinite(reshaded(flat, VolumeChange(gamma=1.3, contrast=1.2, brightness=0.9))).all()
