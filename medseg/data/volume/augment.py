"""Patches of volumes, changed at random: turned, zoomed and mirrored, blurred, then their intensities.

A draw is named by (seed, epoch, place), as of photographs, and one draw replayed alone equals its place in the batch.

Legend: C channels, D H W the patch (D is 1 of a slice). An intensity is normalised already: about 0 with deviation 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from medseg.config import AugmentConfig
from medseg.data.augment.spoil import gaussian_matrix, normal_field
from medseg.labels import LabelSet
from medseg.seeding import numpy_generator

FLAT = 3.0  # a voxel so many times deeper than wide is not turned out of its plane (Isensee et al. 2021)
Spacing = tuple[float, float, float]


class VolumeChange(NamedTuple):
    """One draw's parameters; the defaults change nothing.

    flips: along D, H, W.  turns_rad: about D, H, W.  zoom, brightness, contrast, gamma: factors and an exponent.  noise: a standard
    deviation, of normalised intensities.  blur_px: a standard deviation.  field_seed: what the noise is drawn from.
    """

    flips: tuple[bool, bool, bool] = (False, False, False)
    turns_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    zoom: float = 1.0
    brightness: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    blur_px: float = 0.0
    field_seed: int = 0

    @property
    def moves(self) -> bool:
        """Whether voxels are sampled between those of the volume; a mirror image needs none."""
        return any(self.turns_rad) or self.zoom != 1.0


def draw_volume_change(config: AugmentConfig, axes: tuple[bool, bool, bool], flat: bool, seed: int, epoch: int, place: int) -> VolumeChange:
    """The change of one draw; depends on its identity alone.

    axes: along which of D, H, W may be mirrored.  flat: turned about D alone, as slices and very anisotropic volumes are.
    """
    generator = numpy_generator(seed, epoch, place, "augment a volume")
    flips, u = generator.random(3) < config.flip_probability, generator.uniform(-1.0, 1.0, size=7)
    noisy, blurred = generator.random(2) < config.probability
    sizes, field_seed = generator.random(2), int(generator.integers(2**63))
    turns = np.radians(config.rotate_deg) * u[:3] * ([1, 0, 0] if flat else [1, 1, 1])
    return VolumeChange(
        flips=tuple(bool(flip and allowed) for flip, allowed in zip(flips, axes, strict=True)),  # type: ignore[arg-type]
        turns_rad=tuple(turns.tolist()),
        zoom=(1.0 - config.scale) ** u[3],
        brightness=1.0 + config.brightness * u[4],
        contrast=1.0 + config.contrast * u[5],
        gamma=(1.0 + config.gamma) ** u[6],
        noise=config.noise * sizes[0] if noisy else 0.0,
        blur_px=config.blur_px * (1.0 - sizes[1]) if blurred else 0.0,
        field_seed=field_seed,
    )


def is_flat(spacing_mm: Spacing, patch: tuple[int, ...]) -> bool:
    """Whether patches are turned about D alone."""
    return patch[0] == 1 or spacing_mm[0] > FLAT * max(spacing_mm[1:])


def voxel_map(change: VolumeChange, spacing_mm: Spacing) -> np.ndarray:
    """float64 (3, 3): offset in the patch from its centre, in voxels -> offset in the volume; rigid in mm but for the zoom."""
    about_d, about_h, about_w = change.turns_rad
    turn = _turn(about_d, 1, 2) @ _turn(about_h, 0, 2) @ _turn(about_w, 0, 1)
    scale = np.diag(spacing_mm)
    return np.asarray(np.linalg.inv(scale) @ turn @ scale / change.zoom)


def _turn(angle: float, one: int, other: int) -> np.ndarray:
    matrix = np.eye(3)
    matrix[one, one] = matrix[other, other] = math.cos(angle)
    matrix[one, other], matrix[other, one] = -math.sin(angle), math.sin(angle)
    return matrix


class Region(NamedTuple):
    """What is read of a volume for one patch.

    start: its first voxel along D, H, W, inside the volume; shape: its sides.  corner: of the patch, in voxels of the volume, may lie
    outside it.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    corner: tuple[int, int, int]


def region_of(corner: tuple[int, ...], patch: tuple[int, ...], grid: tuple[int, ...], change: VolumeChange, spacing_mm: Spacing) -> Region:
    """The part of the volume that a patch shows: larger than the patch where it is turned, cut off where the volume ends."""
    reach = np.asarray(patch) / 2
    if change.moves:
        reach = np.abs(voxel_map(change, spacing_mm)) @ reach + 1
    centre = np.asarray(corner) + np.asarray(patch) / 2
    start = np.clip(np.floor(centre - reach), 0, np.asarray(grid) - 1).astype(int)
    stop = np.clip(np.ceil(centre + reach), start + 1, grid).astype(int)
    return Region(tuple(start.tolist()), tuple((stop - start).tolist()), tuple(int(at) for at in corner))  # type: ignore[arg-type]


def shown(
    image_CDHW: Tensor, mask_DHW: Tensor, region: Region, patch: tuple[int, ...], change: VolumeChange, spacing_mm: Spacing, ignore_id: int
) -> tuple[Tensor, Tensor]:
    """float32 (C, D, H, W) and int64 (D, H, W): the patch, from the region of the volume; 0 and the ignore id outside the volume."""
    if change.moves:
        return _sampled(image_CDHW, mask_DHW, region, patch, change, spacing_mm, ignore_id)
    image = image_CDHW.new_zeros(len(image_CDHW), *patch)
    mask = torch.full(patch, ignore_id, dtype=torch.int64, device=mask_DHW.device)
    inner = tuple(slice(s - c, s - c + n) for s, n, c in zip(region.start, region.shape, region.corner, strict=True))
    image[(slice(None), *inner)], mask[inner] = image_CDHW, mask_DHW.long()
    return image, mask


def _sampled(
    image: Tensor, mask: Tensor, region: Region, patch: tuple[int, ...], change: VolumeChange, spacing_mm: Spacing, ignore_id: int
) -> tuple[Tensor, Tensor]:
    grid = _grid(region, patch, voxel_map(change, spacing_mm)).to(image.device)
    shown = grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    shifted = mask.float().sub_(ignore_id)[None, None]  # so that the zeros of the padding are the ignore id when it is added again
    picked = grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)[0, 0]
    return shown, picked.add_(ignore_id).long()


def _grid(region: Region, patch: tuple[int, ...], matrix: np.ndarray) -> Tensor:
    """float32 (1, D, H, W, 3), in grid_sample's terms: (x, y, z) of the region, from -1 at its first edge to 1 at its last.

    In float64 until the end, and built from three lines: a matrix product over the whole grid would take three times as long.
    """
    centre = np.asarray(region.corner) + (np.asarray(patch) - 1) / 2
    lines = [torch.from_numpy(np.arange(side) - (side - 1) / 2) for side in patch]
    coordinates = []
    for axis in (2, 1, 0):
        depth, height, width = (lines[other] * matrix[axis, other] for other in range(3))
        at = centre[axis] - region.start[axis] + depth[:, None, None] + height[None, :, None] + width[None, None, :]
        coordinates.append((2.0 * at + 1.0) / region.shape[axis] - 1.0)
    return torch.stack(coordinates, dim=-1)[None].float()


def mirrored(image_CDHW: Tensor, mask_DHW: Tensor, change: VolumeChange, left_right: int, labels: LabelSet) -> tuple[Tensor, Tensor]:
    """Flipped; ids of left-right pairs are exchanged where the axis `left_right` is (0, 1, 2 for D, H, W)."""
    if axes := [axis for axis, flip in enumerate(change.flips) if flip]:
        image_CDHW, mask_DHW = image_CDHW.flip([axis + 1 for axis in axes]), mask_DHW.flip(axes)
    if change.flips[left_right] and labels.left_right_pairs:
        table = torch.arange(256, device=mask_DHW.device)
        table[: labels.num_classes] = torch.tensor(labels.mirrored_ids, device=mask_DHW.device)
        mask_DHW = table[mask_DHW]
    return image_CDHW, mask_DHW


def reshaded(image_CDHW: Tensor, change: VolumeChange) -> Tensor:
    """Blurred, of more contrast, made brighter, raised to gamma within its own range, then noisy; each channel by itself.

    Contrast keeps the mean, gamma mean and deviation; brightness multiplies all, as in nnU-Net: of a z-scored patch the mean is near 0.
    """
    image = _blurred(image_CDHW, change.blur_px)
    if change.contrast != 1.0 or change.brightness != 1.0:
        mean = image.mean(dim=(1, 2, 3), keepdim=True)
        image = ((image - mean) * change.contrast + mean) * change.brightness
    if change.gamma != 1.0:
        image = _raised(image, change.gamma)
    if change.noise > 0.0:
        image = image + change.noise * normal_field(change.field_seed, image)
    return image


def _blurred(image: Tensor, sd_px: float) -> Tensor:
    if sd_px == 0.0:
        return image
    for axis, side in enumerate(image.shape[1:], start=1):
        if side > 1:
            matrix = torch.from_numpy(gaussian_matrix(side, sd_px)).to(image)
            image = torch.tensordot(image, matrix, dims=([axis], [0])).movedim(-1, axis)
    return image


def _raised(image: Tensor, gamma: float) -> Tensor:
    axes = (1, 2, 3)
    mean, deviation = image.mean(dim=axes, keepdim=True), image.std(dim=axes, keepdim=True)
    low, high = image.amin(dim=axes, keepdim=True), image.amax(dim=axes, keepdim=True)
    raised = ((image - low) / (high - low).clamp_min(1e-7)).pow(gamma)
    raised = (raised - raised.mean(dim=axes, keepdim=True)) / raised.std(dim=axes, keepdim=True).clamp_min(1e-7)
    return raised * deviation + mean
