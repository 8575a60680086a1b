"""VolumeSet -> batches of patches, or of slices for a network of two dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.data.loaders import Loading, prefetched
from medseg.data.patches import crop_window
from medseg.data.volume.augment import (
    Region,
    VolumeChange,
    draw_volume_change,
    is_flat,
    mirrored,
    region_of,
    reshaded,
    shown,
)  # fmt: skip
from medseg.data.volume.volumeset import VolumeSet
from medseg.types import Batch, Draws


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """What is read for one draw. image_CDHW: float32; mask_DHW: uint8; both of the region."""

    sample_id: str
    image_CDHW: np.ndarray
    mask_DHW: np.ndarray
    region: Region
    change: VolumeChange


def volume_batches(data: VolumeSet, draws: Draws, epoch: int, loading: Loading) -> Iterator[Batch]:
    """Augmented batches of one epoch, or of a rank's part of it; image_BCHW is (B, C, D, H, W), or (B, C, H, W) of slices."""
    starts = range(0, len(draws), loading.batch_size)
    parts = (draws.part(slice(start, start + loading.batch_size)) for start in starts)
    for cuts in prefetched(([_cut(data, part, place, epoch, loading) for place in range(len(part))] for part in parts), loading.prefetch):
        yield _batch(cuts, data, loading)


def three_sided(patch: tuple[int, ...]) -> tuple[int, int, int]:
    """A slice is a patch of one plane.

    >>> three_sided((64, 48)), three_sided((32, 64, 48))
    ((1, 64, 48), (32, 64, 48))
    """
    depth, height, width = patch if len(patch) == 3 else (1, *patch)
    return depth, height, width


def _cut(data: VolumeSet, draws: Draws, place: int, epoch: int, loading: Loading) -> _Cut:
    """Read the region of one draw out of the store."""
    assert loading.patch is not None and draws.centres is not None
    position, patch, spacing = int(draws.images[place]), three_sided(loading.patch), data.config.spacing_mm
    record, mirrored_axes = data.record(position), data.config.mirrored(loading.augment.flip_axes, len(loading.patch))
    axes = (0 in mirrored_axes, 1 in mirrored_axes, 2 in mirrored_axes)
    flat = is_flat(spacing, patch)
    change = draw_volume_change(loading.augment, axes, flat, loading.seed, epoch, int(draws.places[place]))
    grid = record.image_CDHW.shape[1:]
    region = region_of(crop_window(draws.centres[place], grid, patch), patch, grid, change, spacing)
    inner = tuple(slice(start, start + side) for start, side in zip(region.start, region.shape, strict=True))
    assert record.mask_DHW is not None
    cut = np.array(record.image_CDHW[(slice(None), *inner)]), np.array(record.mask_DHW[inner])
    return _Cut(data.rows[position].sample_id, *cut, region, change)


def _batch(cuts: list[_Cut], data: VolumeSet, loading: Loading) -> Batch:
    """On the device: what is read differs in size from draw to draw, the patches do not."""
    made = [_patch(cut, data, loading) for cut in cuts]
    image, mask = torch.stack([image for image, _ in made]), torch.stack([mask for _, mask in made])
    if len(loading.patch or ()) == 2:
        image, mask = image[:, :, 0], mask[:, 0]
    if loading.channels_last:
        image = image.contiguous(memory_format=torch.channels_last if image.ndim == 4 else torch.channels_last_3d)
    return Batch(image, mask, tuple(cut.sample_id for cut in cuts))


@torch.no_grad()
def _patch(cut: _Cut, data: VolumeSet, loading: Loading) -> tuple[Tensor, Tensor]:
    assert loading.patch is not None
    image, mask = (torch.from_numpy(array).to(loading.device, non_blocking=True) for array in (cut.image_CDHW, cut.mask_DHW))
    patch, ignore = three_sided(loading.patch), data.labels.ignore_id
    with torch.autocast(loading.device.type, enabled=False):
        image, mask = shown(image, mask, cut.region, patch, cut.change, data.config.spacing_mm, ignore)
        image, mask = mirrored(image, mask, cut.change, data.config.axes.index("x"), data.labels)
        return reshaded(image, cut.change), mask
