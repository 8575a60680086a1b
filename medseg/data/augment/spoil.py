"""Blur, noise and cut-out: what spoils a picture. Each works in place, image by image, and on the chosen images only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import hankel, toeplitz
from torch import Tensor

from medseg.data.augment.change import Change
from medseg.seeding import numpy_generator


def blur(image_BCHW: Tensor, changes: Sequence[Change]) -> None:
    """Gaussian blur, the frame mirrored at its edges, so that the mean is kept.

    Rows and columns by a product with a square matrix each: on 2 cores at 256 x 256 this took 1 ms an image for any width, a grouped
    convolution 1 to 10 ms, more for wider kernels, and it knows the mirrored edge without padding.
    """
    for image, change in zip(image_BCHW, changes, strict=True):
        if change.blur_px > 0.0:
            down, across = (torch.from_numpy(gaussian_matrix(side, change.blur_px)).to(image) for side in image.shape[1:])
            image.copy_(down @ image @ across)


def gaussian_matrix(side_px: int, sd_px: float) -> np.ndarray:
    """float32 (side, side), symmetric: row i holds the weights of pixel i. Cut off at 4 standard deviations, as SciPy does.

    Where these are longer than the side, cut off there: SciPy would mirror once more.
    """
    distance = np.arange(2 * side_px)
    taps = np.exp(-0.5 * (distance / sd_px) ** 2) * (distance <= min(int(4.0 * sd_px + 0.5), side_px - 1))
    taps /= 2.0 * taps.sum() - taps[0]
    mirrored = hankel(taps[1 : side_px + 1], taps[side_px:])  # i + j + 1: the distance to pixel j seen in the mirror at the first edge
    return (toeplitz(taps[:side_px]) + mirrored + mirrored[::-1, ::-1]).astype(np.float32)


def add_noise(image_BCHW: Tensor, changes: Sequence[Change]) -> None:
    """Gaussian noise on each pixel and channel; clipped to [0, 1]."""
    for image, change in zip(image_BCHW, changes, strict=True):
        if change.noise > 0.0:
            image.add_(normal_field(change.field_seed, image), alpha=change.noise).clamp_(0.0, 1.0)


def normal_field(seed: int, like: Tensor) -> Tensor:
    """A standard normal field of the shape and on the device of `like`, from its seed alone, and equal on every device to rounding.

    16 random bits a value through the inverse of the normal distribution, hence within 4.33 standard deviations: a seventh of the time of
    `torch.randn` on a CPU, which would also give another field on a GPU.
    """
    raw = numpy_generator(seed, "noise").bit_generator.random_raw(-(-like.numel() // 4)).view(np.int16)[: like.numel()]
    uniform = torch.from_numpy(raw).to(like).add_(0.5).mul_(2.0**-15)  # in (-1, 1), symmetric about 0
    return uniform.erfinv_().mul_(math.sqrt(2.0)).view_as(like)


def cut_out(image_BCHW: Tensor, mask_BHW: Tensor, changes: Sequence[Change], ignore_id: int) -> None:
    """A black rectangle whose pixels are ignored, because nothing can be known there."""
    height, width = mask_BHW.shape[1:]
    for image, mask, change in zip(image_BCHW, mask_BHW, changes, strict=True):
        top, left = round(change.cutout.top * height), round(change.cutout.left * width)
        hole = (slice(top, top + round(change.cutout.height * height)), slice(left, left + round(change.cutout.width * width)))
        if change.cutout.height * change.cutout.width > 0.0:
            image[(slice(None), *hole)] = 0.0
            mask[hole] = ignore_id
