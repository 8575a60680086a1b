"""nnU-Net's published rules as pure functions (Isensee et al., Nature Methods 2021; its own code, nnunetv2 2.8, is named as source).

Legend: Z Y X the axes of RAS in which a fingerprint tells spacings and shapes; D H W those of the network's grid, depth first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from medseg.config.volume import Axis, ChannelConfig
from medseg.planning.fingerprint import Intensities
from medseg.resample import ANISOTROPY, SAME, Triple, grid_shape

Value = TypeVar("Value")
Spacing: TypeAlias = tuple[float, float, float]
Modality = Literal["ct", "mr", "unit_range"]
ZYX: tuple[Axis, Axis, Axis] = ("z", "y", "x")
LOW_PERCENTILE = 10  # of the coarse axis' spacings, where the data are anisotropic
CROPPED = 0.75  # share of its voxels that a volume keeps, below which what is around it counts as mask, not as image
AIR = -900.0  # a CT shows air at -1000 HU, within its noise; no other scale goes so low and is a whole unit
LEAST_BATCH = 2
MOST_SHARE = 0.05  # of the training set's voxels in one batch


def target_spacing(spacings_mm: Sequence[Spacing], shapes: Sequence[Triple]) -> Spacing:
    """The spacing in mm that all volumes are brought to; axes in any order, shapes after the crop.

    The median of each axis. Where the coarsest axis is more than ANISOTROPY times as coarse as the next, and has fewer voxels by more than
    the same factor, its 10th percentile instead, but no finer than the others: else most volumes, with finer slices, would lose some of
    the few they have.  Source: `determine_fullres_target_spacing`.

    >>> target_spacing([(3.0, 1.0, 1.0), (5.0, 1.0, 1.0), (6.0, 1.0, 1.0)], [(12, 200, 200)] * 3)
    (3.4, 1.0, 1.0)
    """
    each_mm = np.asarray(spacings_mm, np.float64)
    target_mm, sides = np.median(each_mm, axis=0), np.median(np.asarray(shapes, np.float64), axis=0)
    coarse = int(target_mm.argmax())
    others = [axis for axis in range(3) if axis != coarse]
    apart = target_mm[coarse] > ANISOTROPY * target_mm[others].max()
    if apart and sides[coarse] * ANISOTROPY < sides[others].min():
        low_mm = float(np.percentile(each_mm[:, coarse], LOW_PERCENTILE))
        target_mm[coarse] = max(low_mm, target_mm[others].max())
    first, second, third = (round(float(value), 6) for value in target_mm)
    return first, second, third


def depth_axis(target_mm_zyx: Spacing) -> Axis:
    """The axis that becomes depth: the coarsest, the first of z, y, x where they are alike.  Source: `determine_transpose`.

    >>> depth_axis((1.0, 1.0, 1.0)), depth_axis((0.9, 3.0, 0.9))
    ('z', 'y')
    """
    coarsest = max(target_mm_zyx)
    return next(axis for axis, spacing in zip(ZYX, target_mm_zyx, strict=True) if spacing >= (1 - SAME) * coarsest)


def in_network_order(values_zyx: Sequence[Value], depth: Axis) -> tuple[Value, Value, Value]:
    """Values told along z, y, x as they stand along D, H, W; the order that `VolumeConfig.axes` names.

    >>> in_network_order("zyx", "y")
    ('y', 'z', 'x')
    """
    place = ZYX.index(depth)
    height, width = (value for axis, value in enumerate(values_zyx) if axis != place)
    return values_zyx[place], height, width


def median_shape(spacings_mm: Sequence[Spacing], shapes: Sequence[Triple], target_mm: Spacing) -> tuple[float, float, float]:
    """The median of each side on the target spacing, axes in the order given.  Source: `plan_experiment`, by `compute_new_shape`."""
    resampled = [grid_shape(shape, spacing, target_mm) for shape, spacing in zip(shapes, spacings_mm, strict=True)]
    first, second, third = np.median(np.asarray(resampled), axis=0).tolist()
    return first, second, third


def is_anisotropic(spacing_mm: Sequence[float]) -> bool:
    """Whether the first axis is so coarse that nothing is interpolated, turned or, with slices, learned across it."""
    return spacing_mm[0] > ANISOTROPY * max(spacing_mm[1:])


# --- intensities


def modality_by_name(name: str) -> Modality:
    """What a dataset.json's name of a channel stands for; whatever is not known is treated as MR.

    Source: `map_channel_name_to_normalization`, where only CT and a few names of colours and schemes differ from z-scores.

    >>> modality_by_name("CT"), modality_by_name("T2"), modality_by_name("rgb_to_0_1")
    ('ct', 'mr', 'unit_range')
    """
    plain = name.casefold()
    return "ct" if plain == "ct" else "unit_range" if plain in ("rescale_to_0_1", "rgb_to_0_1") else "mr"


def modality_by_intensities(found: Intensities) -> Modality:
    """CT where most volumes hold air at about -1000 HU; not nnU-Net's, which is always told."""
    return "ct" if found.least <= AIR else "mr"


def normalisation(modality: Modality, found: Intensities, kept_share: float) -> ChannelConfig:
    """How a channel is brought to about mean 0 and deviation 1.

    CT: clipped to percentiles 0.5 and 99.5 of the foreground, by its mean and deviation, in HU.  MR: by each volume's own mean and
    deviation; inside of what is not 0 where the crop leaves less than CROPPED of the voxels on median.  unit_range: least 0, largest 1.
    Source: `determine_normalization_scheme_and_whether_mask_is_used_for_norm`.  A foreground of one value has no window: by its mean then.
    """
    if modality == "unit_range":
        return ChannelConfig(normalise="unit_range")
    if modality == "ct" and found.percentile_00_5 < found.percentile_99_5:
        lower, upper, mean, deviation = found.percentile_00_5, found.percentile_99_5, found.mean, found.deviation
        shown = (float(f"{value:.6g}") for value in (lower, upper, mean, deviation))
        return ChannelConfig(normalise="window", **dict(zip(("lower", "upper", "mean", "deviation"), shown, strict=True)))
    return ChannelConfig(normalise="zscore_inside" if kept_share < CROPPED else "zscore")


# --- batches


def batch_size(in_memory: int, set_voxels: float, patch_voxels: int, most: int | None = None) -> int:
    """Patches of a batch: as many as memory takes, no more than MOST_SHARE of the set's voxels and than `most`, but LEAST_BATCH or more.

    in_memory: how many the budget takes, rounded down, where nnU-Net rounds to the nearest.  Source: `get_plans_for_configuration`.

    >>> batch_size(40, 260 * 36 * 50 * 35, 40 * 56 * 40), batch_size(2, 1e9, 128**3)
    (9, 2)
    """
    covered = round(set_voxels * MOST_SHARE / patch_voxels)
    return max(min(in_memory, covered, most or in_memory), LEAST_BATCH)
