"""Colours: torchvision's, skimage's YIQ with slow NumPy, colorsys's hues."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2yiq, yiq2rgb
from torchvision.transforms import functional

from medseg.data.augment import Change
from medseg.data.augment.colour import recolour
from tests.data.changes import STILL, random_batch


def slow(image_CHW: np.ndarray, change: Change) -> np.ndarray:
    """One step after the other, in float64, as the configuration describes them."""
    yiq = rgb2yiq(image_CHW.astype(np.float64), channel_axis=0)
    turned = (yiq[1] + 1j * yiq[2]) * change.saturation * np.exp(1j * change.hue_rad)
    rgb = change.brightness * yiq2rgb(np.stack([yiq[0], turned.real, turned.imag]), channel_axis=0)
    stretched = rgb.mean() + change.contrast * (rgb - rgb.mean())
    return np.clip(stretched, 0.0, 1.0) ** change.gamma


CHANGES = [
    STILL._replace(hue_rad=0.7), STILL._replace(saturation=1.4, gamma=0.8), STILL._replace(contrast=0.6),
    STILL._replace(brightness=1.3, contrast=1.4, gamma=1.2, saturation=0.5, hue_rad=-0.4), STILL,
    STILL._replace(brightness=0.0), STILL._replace(contrast=0.0), STILL._replace(saturation=0.0, contrast=2.0),
]  # fmt: skip


def test_a_batch_of_colours_equals_slow_numpy():
    image = random_batch(count=len(CHANGES)).image_BCHW
    ours = recolour(image.clone(), CHANGES)
    for one, out, change in zip(image.numpy(), ours.numpy(), CHANGES, strict=True):
        np.testing.assert_allclose(out, slow(one, change), atol=1e-3, err_msg=str(change))  # skimage's matrix has more digits


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.7])
@pytest.mark.parametrize("key", ["brightness", "saturation", "gamma"])
def test_single_colours_equal_torchvision_s(key, factor):
    if key == "gamma" and factor == 0.0:
        factor = 0.1
    image = random_batch().image_BCHW
    theirs = getattr(functional, f"adjust_{key}")(image, factor)
    torch.testing.assert_close(recolour(image.clone(), [STILL._replace(**{key: factor})] * 3), theirs, rtol=0, atol=5e-4)


def test_contrast_is_about_the_mean_of_the_image_and_keeps_it():
    image = 0.5 + 0.2 * random_batch().image_BCHW
    out = recolour(image.clone(), [STILL._replace(contrast=factor) for factor in (0.5, 1.0, 1.5)])
    torch.testing.assert_close(out.mean(dim=(1, 2, 3)), image.mean(dim=(1, 2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(dim=(1, 2, 3)), image.std(dim=(1, 2, 3)) * torch.tensor([0.5, 1.0, 1.5]), rtol=1e-4, atol=0)


def hue_of(rgb: torch.Tensor) -> float:
    return colorsys.rgb_to_hsv(*rgb.tolist())[0]


@pytest.mark.parametrize("share", [-0.1, -0.02, 0.05, 0.1])
def test_hues_turn_about_as_far_as_asked(share):
    """A turn in the I-Q plane goes round the hues the other way and not at one speed: right within a factor of 2, on average a tenth."""
    colours = torch.tensor([colorsys.hsv_to_rgb(hue, 0.4, 0.6) for hue in np.arange(36) / 36], dtype=torch.float32)
    out = recolour(colours.T[None, :, None].clone(), [STILL._replace(hue_rad=2 * math.pi * share)])[0, :, 0].T
    turned = [(hue_of(before) - hue_of(after) + 0.5) % 1 - 0.5 for before, after in zip(colours, out, strict=True)]
    assert all(0.5 < turn / share < 2.0 for turn in turned) and np.mean(turned) == pytest.approx(share, rel=0.1)
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(out @ luma, colours @ luma, rtol=0, atol=1e-5)


def test_greys_and_the_whole_circle_keep_their_colours():
    grey = random_batch().image_BCHW[:, :1].expand(-1, 3, -1, -1).contiguous()
    torch.testing.assert_close(recolour(grey.clone(), [STILL._replace(hue_rad=2.0, saturation=1.9)] * 3), grey, rtol=0, atol=1e-3)
    image = random_batch().image_BCHW
    torch.testing.assert_close(recolour(image.clone(), [STILL._replace(hue_rad=2 * math.pi)] * 3), image, rtol=0, atol=1e-5)


def test_black_and_white_stay_under_any_gamma():
    ends = torch.tensor([0.0, 1.0]).repeat(2, 3, 4, 1)
    assert torch.equal(recolour(ends.clone(), [STILL._replace(gamma=0.3), STILL._replace(gamma=3.0)]), ends)
