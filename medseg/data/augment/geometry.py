"""Flip, turn, zoom, shift, crop and elastic warp: one sampling grid a batch, by which image and mask are each sampled once.

Legend: B batch, C channels, H height, W width, N control points a side. A point of the frame is a pair (x, y) in [-1, 1], from the left
edge of the first pixel to the right edge of the last; where it is kept as one complex number x + iy, a whole grid takes one addition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from medseg.data.augment.change import FRAME, Change
from medseg.labels import LabelSet
from medseg.seeding import numpy_generator

# A cubic B-spline over 4 x 4 cells. Its displacements are weighted means of the control points' displacements, hence never larger than the
# largest of them, and up to 1 / 2.046 of a cell (0.122 of the side) the warp cannot fold (Choi and Lee 2000, Graphical Models 62).
CELLS = 4
CONTROLS = CELLS + 3


def warp(image_BCHW: Tensor, mask_BHW: Tensor, changes: Sequence[Change], labels: LabelSet) -> tuple[Tensor, Tensor]:
    """Sample image (bilinear) and mask (nearest) where the changes say; in memory of their own, the mask int64.

    An image that does not move is copied, not sampled. What comes from outside the frame is 0 in the image, the ignore id in the mask.
    """
    moved = [place for place, change in enumerate(changes) if _moves(change)]
    if len(moved) == len(changes):
        return _sample(image_BCHW, mask_BHW, changes, labels)
    image, mask = image_BCHW.clone(), mask_BHW.to(torch.int64, copy=True)
    if moved:
        image[moved], mask[moved] = _sample(image[moved], mask[moved], [changes[place] for place in moved], labels)
    return image, mask


def warp_objects(objects_BHW: Tensor, changes: Sequence[Change]) -> Tensor:
    """Sample the numbers of objects where `warp` samples the mask; int64, in memory of their own, 0 from outside the frame.

    Apart from `warp`, so that a network that learns from classes alone pays nothing; the grid is made twice for the others.
    """
    objects = objects_BHW.to(torch.int64, copy=True)
    if moved := [place for place, change in enumerate(changes) if _moves(change)]:
        grid = sampling_grid([changes[place] for place in moved], objects.shape[1], objects.shape[2], objects.device)
        shown = objects[moved].to(torch.float32)[:, None]
        objects[moved] = grid_sample(shown, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0].long()
    return objects


def _moves(change: Change) -> bool:
    still = change.turn_rad == 0.0 and change.zoom == 1.0 and change.shift_x == 0.0 and change.shift_y == 0.0
    return change.flip or not still or change.crop != FRAME or change.elastic > 0.0


def _sample(image: Tensor, mask: Tensor, changes: Sequence[Change], labels: LabelSet) -> tuple[Tensor, Tensor]:
    grid = sampling_grid(changes, image.shape[-2], image.shape[-1], image.device)
    warped = grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # less the ignore id, so that the zeros of the padding are the ignore id when it is added again; ids up to 255 are exact in float32
    shifted = mask.to(torch.float32).sub_(labels.ignore_id)[:, None]
    picked = grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0]
    return warped, _swap_sides(picked.add_(labels.ignore_id).long(), changes, labels)


def sampling_grid(changes: Sequence[Change], height: int, width: int, device: torch.device) -> Tensor:
    """float32 (B, H, W, 2): the point (x, y) of the input that each pixel of the output shows."""
    maps = np.stack([affine_map(change, height / width) for change in changes])
    x_axis, y_axis, origin = (maps[:, 0] + 1j * maps[:, 1]).T
    columns = torch.tensor(x_axis[:, None] * _centres(width), dtype=torch.complex64, device=device)
    rows = torch.tensor(y_axis[:, None] * _centres(height) + origin[:, None], dtype=torch.complex64, device=device)
    grid = rows[:, :, None] + columns[:, None, :]
    for place, change in enumerate(changes):
        if change.elastic > 0.0:
            down, right = (torch.tensor(part, dtype=torch.complex64, device=device) for part in _bends(change, maps[place], height, width))
            grid[place].addmm_(down, right)
    return torch.view_as_real(grid)


def affine_map(change: Change, aspect: float) -> np.ndarray:
    """2 x 3, output -> input: mirrored, turned, zoomed and shifted in the cropped window, the window then placed in the frame.

    `aspect` = height / width keeps a turn rigid on a frame that is not square.
    """
    cos, sin = math.cos(change.turn_rad) / change.zoom, math.sin(change.turn_rad) / change.zoom
    mirror = -1.0 if change.flip else 1.0
    inner = np.array([[mirror * cos, -mirror * sin * aspect, change.shift_x], [sin / aspect, cos, change.shift_y]])
    top, left, height, width = change.crop
    placed = inner * np.array([[width], [height]])
    placed[:, 2] += 2.0 * left + width - 1.0, 2.0 * top + height - 1.0
    return placed


def _centres(pixels: int) -> np.ndarray:
    """The pixels' centres in [-1, 1]."""
    return (2.0 * np.arange(pixels) + 1.0) / pixels - 1.0


def _bends(change: Change, affine: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, N) and (N, W), complex: their product is what the elastic warp adds to the grid.

    The warp displaces the points of the output, so that its size is what one sees; the affine map carries it into the input.
    """
    x, y = 2.0 * change.elastic * numpy_generator(change.field_seed, "elastic").uniform(-1.0, 1.0, size=(2, CONTROLS, CONTROLS))
    controls = (affine[0, 0] + 1j * affine[1, 0]) * x + (affine[0, 1] + 1j * affine[1, 1]) * y
    return _spline(height) @ controls, _spline(width).T


@lru_cache(maxsize=8)
def _spline(pixels: int) -> np.ndarray:
    """(pixels, N): each pixel's weights of the control points of a uniform cubic B-spline; a row adds up to 1."""
    cell, t = np.divmod((np.arange(pixels) + 0.5) / pixels * CELLS, 1.0)
    four = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6.0
    weights = np.zeros((pixels, CONTROLS))
    for step in range(4):
        weights[np.arange(pixels), cell.astype(int) + step] = four[step]
    return weights


def _swap_sides(mask: Tensor, changes: Sequence[Change], labels: LabelSet) -> Tensor:
    """Exchange the ids of left-right pairs in mirrored images, in place."""
    if labels.left_right_pairs and any(change.flip for change in changes):
        table = torch.arange(256, device=mask.device)
        table[: labels.num_classes] = torch.tensor(labels.mirrored_ids, device=mask.device)
        for one, change in zip(mask, changes, strict=True):
            if change.flip:
                one.copy_(table.index_select(0, one.flatten()).view_as(one))
    return mask
