"""Mask pair -> how far apart the two surfaces are. Units are those of `spacing`: millimetres, or pixels at spacing 1.

Surface elements are the pixels (2-D) or voxels (3-D) of a mask that touch the background or the image's border across an edge (a face in
3-D): what erosion with the cross takes away. This is MONAI's rule (`monai.metrics.utils.get_mask_edges`). DeepMind's surface-distance puts
its elements at the voxels' corners, which are more, and weighs them by area: its distances are shorter (ASSD of blobs by about a fifth).

With D the distances from each surface element of one mask to the nearest of the other, one list a direction:
hd = max of both   hd95 = max of the two 95th percentiles   hd95_pooled = 95th percentile of both put together
assd = mean of both put together   nsd(t) = share of both with d <= t

Percentiles interpolate linearly. hd95 and hd95_pooled both go by the name HD95 and may differ widely: a far speck is a large share of the
surface of a small prediction and a small share of both. Sources: hd95 and assd as MONAI computes them (HausdorffDistanceMetric, percentile
95; SurfaceDistanceMetric, symmetric); nsd after Nikolov et al. 2018 (arXiv 1809.04430), with elements counted instead of areas as in
Seidlitz et al. 2021 (arXiv 2111.05408) and MONAI's SurfaceDiceMetric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

# A search costs 3 to 15 us an element, the transform 0.3 to 0.8 us a voxel (128^3, scipy 1.17): only noise is dense enough for it.
DENSE = 1 / 12


@dataclass(frozen=True, slots=True)
class Distances:
    """Of one structure in one case, over both directions. The first four in units of `spacing`, >= 0; nsd in [0, 1], one a tolerance.

    In neither mask: all NaN. In one mask only (missed or invented): the four distances are NaN, undefined, and nsd is 0. A mean over cases
    must say how many cases have no distance: left out silently, a miss would look better than a bad hit.
    """

    hd: float
    hd95: float
    hd95_pooled: float
    assd: float
    nsd: tuple[float, ...]


def surface_distances(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerances: Sequence[float]) -> Distances:
    """The distances between two bool masks of one shape, (H, W) or (D, H, W); `spacing` > 0 in the order of the array's axes.

    `tolerances` >= 0 in units of `spacing`. Memory: one byte a voxel of the image, then about four bytes a voxel of the box around both
    masks and about a hundred a surface element; for masks that are mostly surface (noise) about 25 bytes a voxel of the box.

    >>> one, other = np.zeros((2, 5, 9), bool)
    >>> one[2, 1] = other[2, 5] = True
    >>> surface_distances(one, other, (1.0, 0.5), (1.0, 2.0))
    Distances(hd=2.0, hd95=2.0, hd95_pooled=2.0, assd=2.0, nsd=(0.0, 1.0))
    """
    assert reference.dtype == prediction.dtype == bool, (reference.dtype, prediction.dtype)
    assert reference.shape == prediction.shape and reference.ndim == len(spacing), (reference.shape, prediction.shape, spacing)
    assert all(0 < step < math.inf for step in spacing) and all(tolerance >= 0 for tolerance in tolerances), (spacing, tolerances)
    found = int(reference.any()) + int(prediction.any())
    if found < 2:
        return Distances(math.nan, math.nan, math.nan, math.nan, (0.0 if found else math.nan,) * len(tolerances))
    box = _bounding_box(reference | prediction)
    a, b = _surface(reference[box]), _surface(prediction[box])
    forth, back = _directed(a, b, spacing), _directed(b, a, spacing)
    return _summary(forth, back, tolerances)


def _summary(forth: np.ndarray, back: np.ndarray, tolerances: Sequence[float]) -> Distances:
    both = np.concatenate([forth, back])
    rounded = both.astype(np.float32)  # in float64 three steps of 0.1 are further than 0.3; MONAI compares in float32 too
    return Distances(
        hd=float(both.max()),
        hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        hd95_pooled=float(np.percentile(both, 95)),
        assd=float(both.mean()),
        nsd=tuple(float(np.mean(rounded <= np.float32(tolerance))) for tolerance in tolerances),
    )


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Of a mask that is not empty. No margin is needed: what lies beyond the union's box is background of both masks."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        held = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(held[0]), int(held[-1]) + 1))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    """`mask ^ scipy.ndimage.binary_erosion(mask)`, ten times as fast: bool, of the mask's shape."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        kept, own = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        kept[1:] &= own[:-1]
        kept[:-1] &= own[1:]
        kept[0] = kept[-1] = False  # beyond the array is background
    return mask & ~inner


def _directed(source: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """float64 (elements of source,): from each to the nearest element of `target`, in no order. Neither surface may be empty."""
    apart = source & ~target  # elements that both surfaces share are at 0: no search
    distances = np.zeros(np.count_nonzero(source))
    searched = np.count_nonzero(apart)
    nearest = _by_transform if searched > DENSE * source.size else _by_tree
    distances[:searched] = nearest(_indices(apart), target, spacing)
    return distances


def _indices(mask: np.ndarray) -> np.ndarray:
    """int (axes, elements): np.nonzero, faster where few are set."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape))


def _by_tree(indices: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Fast for few elements in a large box, as surfaces are. The tree is built to be searched once: no balance, no shrunk nodes."""
    steps = np.asarray(spacing, np.float64)
    tree = cKDTree(_indices(target).T * steps, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances: np.ndarray = tree.query(indices.T * steps, workers=1)[0]
    return distances


def _by_transform(indices: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Fast for noise. The transform's int32 indices alone: its distances would be float64 over the whole box."""
    nearest = distance_transform_edt(~target, sampling=spacing, return_distances=False, return_indices=True)
    steps = nearest[(slice(None), *indices)] - indices
    distances: np.ndarray = np.linalg.norm(steps * np.asarray(spacing, np.float64)[:, None], axis=0)
    return distances
