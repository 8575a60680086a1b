"""Batch -> Batch: random geometry and colour on the training device, parameters drawn per draw, then applied to the whole batch.

Legend: B batch, C channels, H height, W width. A draw is named by (seed, epoch, position), so an image drawn twice in an epoch is changed
in two ways, and one draw replayed alone equals its place in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from medseg.config import AugmentConfig
from medseg.labels import LabelSet
from medseg.seeding import numpy_generator
from medseg.types import Batch

# RGB -> YIQ (NTSC): hue turns the I-Q plane, saturation stretches it, both linear in RGB
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


class Change(NamedTuple):
    """One draw's parameters: geometry as a map from output to input in units of half the frame's sides, colour as factors."""

    flip: bool
    turn_rad: float
    zoom: float
    shift_x: float
    shift_y: float
    brightness: float
    contrast: float
    gamma: float
    saturation: float
    hue_rad: float


def draw_change(config: AugmentConfig, seed: int, epoch: int, position: int) -> Change:
    """The change of one draw; depends on its identity alone."""
    generator = numpy_generator(seed, epoch, position, "augment")
    u = generator.uniform(-1.0, 1.0, size=9)
    return Change(
        flip=bool(generator.random() < config.flip_probability),
        turn_rad=math.radians(config.rotate_deg) * u[0],
        zoom=(1.0 - config.scale) ** u[1],
        shift_x=2.0 * config.shift * u[2],
        shift_y=2.0 * config.shift * u[3],
        brightness=1.0 + config.brightness * u[4],
        contrast=1.0 + config.contrast * u[5],
        gamma=(1.0 + config.gamma) ** u[6],
        saturation=1.0 + config.saturation * u[7],
        hue_rad=2.0 * math.pi * config.hue * u[8],
    )


def apply_changes(batch: Batch, changes: Sequence[Change], labels: LabelSet) -> Batch:
    """Warp and recolour a batch; what comes from outside the frame has the ignore id (and is black before the change of contrast)."""
    image, mask = _warp(batch, changes, labels)
    return batch._replace(image_BCHW=_recolour(image, changes), mask_BHW=mask)


def _warp(batch: Batch, changes: Sequence[Change], labels: LabelSet) -> tuple[Tensor, Tensor]:
    image = batch.image_BCHW
    aspect = image.shape[-2] / image.shape[-1]
    theta = torch.tensor(np.stack([_matrix(change, aspect) for change in changes]), dtype=image.dtype, device=image.device)
    grid = affine_grid(theta, list(image.shape), align_corners=False)
    warped = grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # shifted by one, so that the zeros of the padding can be told from class 0
    shifted = (batch.mask_BHW + 1).to(image.dtype)[:, None]
    picked = grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0].long() - 1
    mask = torch.where(picked < 0, labels.ignore_id, picked)
    return warped, _swap_sides(mask, [change.flip for change in changes], labels)


def _matrix(change: Change, aspect: float) -> np.ndarray:
    """2 x 3, output -> input in [-1, 1] coordinates; `aspect` = height / width keeps a turn rigid on a frame that is not square."""
    cos, sin = math.cos(change.turn_rad) / change.zoom, math.sin(change.turn_rad) / change.zoom
    mirror = -1.0 if change.flip else 1.0
    return np.array([[mirror * cos, -mirror * sin * aspect, change.shift_x], [sin / aspect, cos, change.shift_y]])


def _swap_sides(mask: Tensor, flipped: Sequence[bool], labels: LabelSet) -> Tensor:
    """Exchange the ids of left-right pairs in mirrored images."""
    if not labels.left_right_pairs or not any(flipped):
        return mask
    table = torch.arange(256, device=mask.device)
    table[: labels.num_classes] = torch.tensor(labels.mirrored_ids, device=mask.device)
    chosen = torch.tensor(flipped, device=mask.device)[:, None, None]
    return torch.where(chosen, table[mask], mask)


def _recolour(image: Tensor, changes: Sequence[Change]) -> Tensor:
    """Hue, saturation and brightness as one 3 x 3 matrix, contrast about the image's mean, then gamma; clipped to [0, 1]."""
    matrix = torch.tensor(np.stack([_colour_matrix(change) for change in changes]), dtype=image.dtype, device=image.device)
    contrast, gamma = (
        torch.tensor([getattr(change, name) for change in changes], dtype=image.dtype, device=image.device)[:, None, None, None]
        for name in ("contrast", "gamma")
    )
    mixed = torch.einsum("bij,bjhw->bihw", matrix, image)
    mean = mixed.mean(dim=(1, 2, 3), keepdim=True)
    return mixed.sub_(mean).mul_(contrast).add_(mean).clamp_(0.0, 1.0).pow_(gamma)


def _colour_matrix(change: Change) -> np.ndarray:
    cos, sin = (change.saturation * f(change.hue_rad) for f in (math.cos, math.sin))
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    return change.brightness * (_FROM_YIQ @ turn @ _TO_YIQ)
