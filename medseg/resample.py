"""Volumes on another spacing, as nnU-Net v2 resamples them (Isensee et al., Nature Methods 2021): images by cubic splines, labels by votes.

nnU-Net calls skimage's `resize` (mode "edge", no anti-aliasing), which is scipy's spline zoom. A spline resize is linear and separable: one
matrix an axis, taken here from scipy's own zoom of unit vectors, so both agree but for rounding. Applied by matrix products, axis after
axis, it costs a fraction of the 64 taps a voxel of the zoom itself, and in float32 half the memory. A weight far from its voxel is
nothing, so the matrix is cut into blocks of rows, each with the few columns that it needs; so work can be laid out in slabs and tiles too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy import ndimage
from threadpoolctl import ThreadpoolController

Triple: TypeAlias = tuple[int, int, int]
ANISOTROPY = 3.0  # nnU-Net's ANISO_THRESHOLD: coarsest over finest spacing above which the coarse axis is not interpolated
SAME = 1e-3  # between two spacings, relative, that count as one: those that come from an affine are rounded
BLOCK = 32  # rows of a matrix that are applied at once
TILE = 32  # voxels along each side of the part whose labels are voted on at once: the smaller, the more parts hold one label only
NOTHING = 1e-7  # a weight below this is dropped: a cubic spline's fall by 0.27 a voxel and never end
TIE = 1e-5  # shares that differ by less are one: in float32 a third and two sixths are not equal
SLAB_BYTES = 256 * 1024**2


class _Block(NamedTuple):
    """Part of the matrix that resizes an axis.  weights: float32 (rows, columns)."""

    rows: slice
    columns: slice
    weights: np.ndarray


def grid_shape(shape: Triple, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> Triple:
    """The shape (D, H, W) on another spacing, each side at least 1; nnU-Net's rounding.

    >>> grid_shape((300, 512, 512), (1.0, 0.7, 0.7), (3.0, 0.78, 0.78))
    (100, 459, 459)
    """
    sides = zip(shape, spacing_mm, target_mm, strict=True)
    depth, height, width = (max(1, round(float(spacing) / float(target) * side)) for side, spacing, target in sides)
    return depth, height, width


def coarse_axis(spacing_mm: Sequence[float], target_mm: Sequence[float]) -> int | None:
    """The axis (0, 1 or 2) along which nothing is interpolated, because its slices are too far apart to know what lies between them.

    nnU-Net v2's rule (`determine_do_sep_z_and_axis`): where a volume's coarsest spacing is more than ANISOTROPY times its finest, the
    coarsest axis; else by the target's spacing; none where two axes are the coarsest.

    >>> coarse_axis((5, 0.8, 0.8), (1, 1, 1)), coarse_axis((1, 1, 1), (1, 1, 3.5)), coarse_axis((0.5, 4, 4), (1, 1, 1))
    (0, 2, None)
    """
    for spacing in (np.asarray(spacing_mm, np.float64), np.asarray(target_mm, np.float64)):
        if spacing.max() > ANISOTROPY * spacing.min():
            coarsest = np.flatnonzero(spacing >= (1 - SAME) * spacing.max())
            return int(coarsest[0]) if len(coarsest) == 1 else None
    return None


def resample_image(image_CDHW: np.ndarray, shape: Triple, coarse: int | None = None) -> np.ndarray:
    """float32 (C, *shape): cubic splines, the nearest slice along the coarse axis, values no further apart than they were.

    As skimage clips them: to the channel's least and largest value, with a coarse axis to those of each slice.  Memory: the result and
    two channels between the two shapes.  Sides that do not change are not touched.
    """
    resampled = np.empty((len(image_CDHW), *shape), np.float32)
    for channel, volume_DHW in zip(resampled, image_CDHW, strict=True):
        source = np.ascontiguousarray(volume_DHW, np.float32)
        with _one_thread():
            channel[...] = _resized(source, shape, _orders(3, coarse))
        np.clip(channel, *_limits(source, shape, coarse), out=channel)
    return resampled


def resample_labels(mask_DHW: np.ndarray, shape: Triple, coarse: int | None, ids: Sequence[int]) -> np.ndarray:
    """uint8 (*shape): the class with the largest share of each voxel, the lower id where two share it alike.

    Shares are the classes' own masks resampled linearly (nearest along the coarse axis), as nnU-Net does for segmentations.  ids: all
    that the mask may hold, the ignore id too.  Worked on in tiles, of which most hold one class and cost nothing, so neither memory nor
    time grows with the number of classes.
    """
    if mask_DHW.shape == shape:
        return np.array(mask_DHW, np.uint8)
    resampled, known = np.empty(shape, np.uint8), frozenset(ids)
    sides = zip(mask_DHW.shape, shape, _orders(1, coarse), strict=True)
    deep, high, wide = (_blocks(old, new, order, TILE) for old, new, order in sides)
    with _one_thread():
        for tile in product(deep, high, wide):
            part = mask_DHW[tuple(block.columns for block in tile)]
            resampled[tuple(block.rows for block in tile)] = _voted(part, tile, known)
    return resampled


def resample_linear(array_CDHW: np.ndarray, shape: Triple) -> np.ndarray:
    """float32 (C, *shape), trilinear with half-pixel centres, the edge repeated: for probabilities, whose sum over C it keeps."""
    resampled = np.empty((len(array_CDHW), *shape), np.float32)
    for rows, slab_CDHW in linear_slabs(array_CDHW, shape):
        resampled[:, rows] = slab_CDHW
    return resampled


def linear_slabs(array_CDHW: np.ndarray, shape: Triple) -> Iterator[tuple[slice, np.ndarray]]:
    """What `resample_linear` gives, in slabs (which of the D, float32 (C, d, H, W)), front to back, of about SLAB_BYTES at the most.

    For probabilities of many classes on a large grid, of which only the most probable is kept.
    """
    thick = max(1, min(BLOCK, SLAB_BYTES // (4 * len(array_CDHW) * math.prod(shape[1:]))))
    for depth in _blocks(array_CDHW.shape[1], shape[0], 1, thick):
        slab = np.ascontiguousarray(array_CDHW[:, depth.columns], np.float32)
        with _one_thread():
            if array_CDHW.shape[1] != shape[0]:
                slab = _along(slab, 1, (_moved(depth),))
            slab = _resized(slab, (slab.shape[1], *shape[1:]), _orders(1, None))
        yield depth.rows, slab


def _one_thread() -> Any:
    """A context: the products are small, and threads that wait for each other made them ten times slower beside another computation."""
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> Any:  # 9 ms to look for them, 0.07 ms to use them
    return ThreadpoolController()


# --- one axis


def _orders(order: int, coarse: int | None) -> Triple:
    depth, height, width = (0 if axis == coarse else order for axis in range(3))
    return depth, height, width


@lru_cache(maxsize=256)  # some 200 KiB for 512 rows: the volumes of a data set share their sides
def _blocks(old: int, new: int, order: int, thick: int) -> tuple[_Block, ...]:
    """The matrix (new, old) that resizes an axis by splines of this order, in blocks of rows."""
    weights = np.stack([_resized_line(unit, new, order) for unit in np.eye(old)], axis=1)
    weights[np.abs(weights) < NOTHING] = 0  # further out they are denormal numbers too, which cost ten times a product
    return tuple(_block(weights, slice(start, min(start + thick, new))) for start in range(0, new, thick))


def _resized_line(line: np.ndarray, new: int, order: int) -> np.ndarray:
    return ndimage.zoom(line, new / len(line), order=order, mode="nearest", grid_mode=True)


def _block(weights: np.ndarray, rows: slice) -> _Block:
    used = np.flatnonzero(weights[rows].any(axis=0))
    columns = slice(int(used[0]), int(used[-1]) + 1)
    return _Block(rows, columns, np.ascontiguousarray(weights[rows, columns], np.float32))


def _moved(block: _Block) -> _Block:
    """The same weights for a part that begins with the block's first row and column."""
    rows, columns = block.weights.shape
    return _Block(slice(0, rows), slice(0, columns), block.weights)


def _along(array: np.ndarray, axis: int, blocks: Sequence[_Block]) -> np.ndarray:
    """float32: an array, C-contiguous, with one axis resized."""
    before, old, after = math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1 :])
    new = blocks[-1].rows.stop
    lines, resized = array.reshape(before, old, after), np.empty((before, new, after), np.float32)
    for rows, columns, weights in blocks:
        if after == 1:  # the last axis: one product for all lines, not one for each
            np.matmul(lines[:, columns, 0], weights.T, out=resized[:, rows, 0])
        else:
            np.matmul(weights, lines[:, columns], out=resized[:, rows])
    return resized.reshape(*array.shape[:axis], new, *array.shape[axis + 1 :])


# --- three axes


def _resized(array: np.ndarray, shape: Triple, orders: Triple) -> np.ndarray:
    """The last three axes resized, those that shrink first, so that the others have less to do."""
    ahead = array.ndim - 3
    for axis in sorted(range(3), key=lambda axis: shape[axis] / array.shape[ahead + axis]):
        old = array.shape[ahead + axis]
        if old != shape[axis]:
            array = _along(array, ahead + axis, _blocks(old, shape[axis], orders[axis], BLOCK))
    return array


def _limits(source_DHW: np.ndarray, shape: Triple, coarse: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The least and largest value that the result may have, of all or of each slice along the coarse axis."""
    others = tuple(axis for axis in range(3) if axis != coarse)
    depth, height, width = (1 if axis in others else shape[axis] for axis in range(3))
    sides = (depth, height, width)
    least, largest = source_DHW.min(axis=others, keepdims=True), source_DHW.max(axis=others, keepdims=True)
    return _resized(least, sides, (0, 0, 0)), _resized(largest, sides, (0, 0, 0))


def _voted(part_DHW: np.ndarray, blocks: Sequence[_Block], known: frozenset[int]) -> np.ndarray | int:
    """The winners of a tile."""
    present = np.flatnonzero(np.bincount(part_DHW.ravel(), minlength=256)).tolist()  # ascending
    assert known.issuperset(present), f"the mask holds ids {present}, known are {sorted(known)}"
    if len(present) == 1:
        return int(present[0])
    moved = [_moved(block) for block in blocks]
    winner = np.zeros([block.weights.shape[0] for block in blocks], np.uint8)
    most = np.full(winner.shape, -1.0, np.float32)
    for class_id in present:
        share = (part_DHW == class_id).astype(np.float32)
        for axis, block in enumerate(moved):
            share = _along(share, axis, (block,))
        ahead = share > most + TIE
        winner[ahead], most[ahead] = class_id, share[ahead]
    return winner
