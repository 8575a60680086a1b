"""Blur against scipy.ndimage, noise against scipy.stats, cut-out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from medseg.data.augment import apply_changes
from medseg.data.augment.change import Window
from medseg.data.augment.spoil import add_noise, blur, cut_out, gaussian_matrix, normal_field
from medseg.seeding import numpy_generator
from tests.data.changes import LABELS, STILL, random_batch


@pytest.mark.parametrize("size", [(64, 64), (50, 71)])
def test_blur_is_scipy_s_on_the_chosen_images_alone(size):
    widths = [0.05, 0.5, 0.0, 1.0, 2.7, 10.0]
    image = random_batch(size, len(widths)).image_BCHW
    out = image.clone()
    blur(out, [STILL._replace(blur_px=sd) for sd in widths])
    for before, after, sd in zip(image.numpy(), out.numpy(), widths, strict=True):
        theirs = gaussian_filter(before.astype(np.float64), (0, sd, sd), mode="reflect")
        np.testing.assert_allclose(after, theirs, atol=1e-6, err_msg=str(sd))
    assert torch.equal(out[2], image[2]) and not torch.equal(out[4], image[4])
    torch.testing.assert_close(out.mean(dim=(2, 3)), image.mean(dim=(2, 3)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side, sd", [(16, 0.3), (16, 3.5), (17, 3.5), (256, 10.0)])
def test_the_matrix_of_a_blur_is_scipy_s(side, sd):
    np.testing.assert_allclose(gaussian_matrix(side, sd), gaussian_filter1d(np.eye(side), sd, axis=0, mode="reflect"), atol=1e-7)


@pytest.mark.parametrize("side, sd", [(16, 10.0), (17, 5.0)])
def test_a_blur_wider_than_the_frame_still_keeps_the_mean(side, sd):
    matrix = gaussian_matrix(side, sd)
    assert np.array_equal(matrix, matrix.T) and (matrix > 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)


def test_the_noise_is_normal():
    field = normal_field(5, torch.empty(3, 128, 128)).double().numpy().ravel()
    assert abs(field.mean()) < 4 / len(field) ** 0.5 and field.std() == pytest.approx(1, abs=4 / (2 * len(field)) ** 0.5)
    assert abs(stats.skew(field)) < 0.05 and abs(stats.kurtosis(field)) < 0.1 and 3.5 < np.abs(field).max() < 4.33
    assert stats.kstest(field, "norm").pvalue > 0.001
    assert np.abs(np.corrcoef(field[:-1], field[1:])[0, 1]) < 0.02


def test_the_noise_is_the_inverse_of_the_normal_distribution_of_16_random_bits():
    like = torch.empty(3, 5, 7)  # 105 values: the last 64 bits are used in part
    bits = np.frombuffer(numpy_generator(11, "noise").bit_generator.random_raw(27).tobytes(), np.int16)[:105].astype(np.float64)
    expected = stats.norm.ppf((bits + 32768.5) / 65536).reshape(3, 5, 7)
    np.testing.assert_allclose(normal_field(11, like).numpy(), expected, rtol=2e-4, atol=1e-6)


def test_noise_has_the_size_asked_for_on_the_chosen_images_and_stays_in_range():
    grey = torch.full((4, 3, 64, 64), 0.5)
    out = grey.clone()
    add_noise(out, [STILL._replace(noise=sd, field_seed=seed) for sd, seed in ((0.05, 1), (0.1, 2), (0.0, 3), (0.5, 4))])
    assert out[:2].std(dim=(1, 2, 3)).tolist() == pytest.approx([0.05, 0.1], rel=0.03) and torch.equal(out[2], grey[2])
    assert out[:2].mean().item() == pytest.approx(0.5, abs=3e-3) and (out[3].min(), out[3].max()) == (0, 1)
    assert np.abs(np.corrcoef(out[0].flatten(), out[1].flatten())[0, 1]) < 0.05
    channels = np.corrcoef(out[0].flatten(1).numpy()) - np.eye(3)
    assert np.abs(channels).max() < 0.08  # each channel has its own


def test_a_cut_out_is_black_and_ignored_and_the_rest_is_left():
    batch = random_batch((20, 30))
    image, mask = batch.image_BCHW.clone(), batch.mask_BHW.clone()
    windows = [Window(0.25, 0.5, 0.5, 0.2), Window(0.7, 0.8, 0.3, 0.2), STILL.cutout]
    cut_out(image, mask, [STILL._replace(cutout=window) for window in windows], 255)
    holes = torch.zeros(3, 20, 30, dtype=torch.bool)
    holes[0, 5:15, 15:21] = holes[1, 14:20, 24:30] = True
    assert (mask[holes] == 255).all() and (image.movedim(1, -1)[holes] == 0).all()
    assert torch.equal(mask[~holes], batch.mask_BHW[~holes])
    assert torch.equal(image.movedim(1, -1)[~holes], batch.image_BCHW.movedim(1, -1)[~holes])


def test_noise_does_not_reach_a_cut_out_and_moves_no_id():
    change = STILL._replace(noise=0.3, field_seed=1, cutout=Window(0.0, 0.0, 0.5, 1.0))
    batch = random_batch()
    out = apply_changes(batch, [change] * 3, LABELS)
    assert (out.image_BCHW[:, :, :12] == 0).all() and (out.mask_BHW[:, :12] == 255).all()
    assert torch.equal(out.mask_BHW[:, 12:], batch.mask_BHW[:, 12:])
