"""Volumes -> predictions on each file's own grid, a slab of windows at a time, so that memory does not grow with the volume's depth.

A slab is one row of windows across the plane, as deep as a window. MONAI's sliding window makes the mean over its windows with Gaussian
weights; the slabs are then put together along D with the same Gaussian. The weights of the axes multiply, so this is the mean over all
windows at once. Planes that no later slab reaches are given out, brought to the file's grid and forgotten.

Legend: K classes, C channels, D H W the network's grid (D first), d planes of it, X Y Z the file's grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from medseg.config.volume import VolumeConfig
from medseg.data.volume.decode import Box, Stored, sides_of, slices
from medseg.labels import LabelSet
from medseg.monai_parts import sliding_window_inference
from medseg.types import Prediction

SIGMA = 0.125  # of the Gaussian weights, as a share of the window's side (Isensee et al. 2021)
LEAST = 1e-3  # of a weight, so that the border of a volume, which one window alone sees, is not divided by nothing
WINDOWS_AT_ONCE = 4
PLANES_AT_ONCE = 8  # of slices
Planes = Iterator[Tensor]  # float32 (K, H, W), one after the other


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Over which mirror images the mean is taken. axes: of D, H, W, 0 to 2.  left_right: the one along which left-right pairs change."""

    axes: tuple[int, ...]
    left_right: int
    labels: LabelSet

    @property
    def combinations(self) -> list[tuple[int, ...]]:
        """Every set of axes, the empty one among them."""
        chosen = product(*([(), (axis,)] for axis in self.axes))
        return [tuple(axis for part in parts for axis in part) for parts in chosen]  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Windows:
    """How a volume is predicted. size: of the windows, (D, H, W), or (H, W) of a network of slices.  overlap: a share of their sides.

    at_once: windows in one pass of the network, slices where it is one of slices.
    """

    size: tuple[int, ...]
    overlap: float = 0.5
    mirrors: Mirrors | None = None
    at_once: int = WINDOWS_AT_ONCE


Probs = Callable[[Tensor], Tensor]


def window_probs(models: Sequence[nn.Module], windows: Windows) -> Probs:
    """Windows (B, C, D, H, W) -> float32 probabilities (B, K, D, H, W): the mean over the models and the mirror images."""
    flat = len(windows.size) == 2

    def probs(image: Tensor) -> Tensor:
        total: Tensor | None = None
        for axes in windows.mirrors.combinations if windows.mirrors else [()]:
            dims = [axis + 2 for axis in axes]
            for model in models:
                found = _of_model(model, image.flip(dims) if dims else image, flat)
                if windows.mirrors and windows.mirrors.left_right in axes:
                    found = found[:, list(windows.mirrors.labels.mirrored_ids)]
                found = found.flip(dims) if dims else found
                total = found if total is None else total.add_(found)
        assert total is not None
        return total / (len(models) * (len(windows.mirrors.combinations) if windows.mirrors else 1))

    return probs


def _of_model(model: nn.Module, image: Tensor, flat: bool) -> Tensor:
    """One pass; a network of two dimensions sees planes."""
    if flat:
        planes = image.movedim(2, 1).flatten(0, 1)
        found = _probs(model(planes))
        return found.unflatten(0, (len(image), image.shape[2])).movedim(1, 2).clone()
    return _probs(model(image)).clone()


def _probs(prediction: Prediction) -> Tensor:
    assert prediction.probs_BKHW is not None, "the network gives no probabilities"
    return prediction.probs_BKHW


@torch.inference_mode()
def predicted_planes(models: Sequence[nn.Module], image_CDHW: np.ndarray, windows: Windows, device: torch.device) -> Planes:
    """The probabilities of each plane of the network's grid, in order, on the processor."""
    side = min(PLANES_AT_ONCE, windows.at_once) if len(windows.size) == 2 else windows.size[0]
    depth, inner = image_CDHW.shape[1], (min(side, image_CDHW.shape[1]) if len(windows.size) == 2 else side)
    before = max(0, inner - depth) // 2  # as MONAI pads: half on either side
    padded = max(depth, inner)
    starts = _starts(padded, inner, windows.overlap if len(windows.size) == 3 else 0.0)
    weights = gaussian(inner) if len(windows.size) == 3 else torch.ones(inner)
    probs, waiting, done = window_probs(models, windows), _Waiting(weights), before
    for start, following in zip(starts, [*starts[1:], padded], strict=True):
        slab = _slab(image_CDHW, start - before, inner, device)
        waiting.add(start, _plane_windows(slab, windows, inner, probs))
        for plane in range(max(done, start), min(following, before + depth)):
            yield waiting.take(plane)
        done = max(done, following)


def _starts(depth: int, window: int, overlap: float) -> list[int]:
    """Where the slabs begin: at even distances, the last moved inside, as MONAI lays its windows.

    >>> _starts(10, 4, 0.5), _starts(11, 4, 0.5), _starts(4, 4, 0.5)
    ([0, 2, 4, 6], [0, 2, 4, 6, 7], [0])
    """
    step = max(1, int(window * (1 - overlap)))
    return [min(place * step, depth - window) for place in range(math.ceil((depth - window) / step) + 1)]


def gaussian(side: int) -> Tensor:
    """float32 (side,): 1 in the middle, falling to the ends."""
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    return torch.exp(-0.5 * (at / (SIGMA * side)) ** 2).clamp_min(LEAST).float()


def _slab(image_CDHW: np.ndarray, first: int, planes: int, device: torch.device) -> Tensor:
    """float32 (1, C, d, H, W) from plane `first` on; 0 above and below the volume."""
    start, stop = max(first, 0), min(first + planes, image_CDHW.shape[1])
    part = torch.tensor(np.ascontiguousarray(image_CDHW[:, start:stop]))[None].to(device)
    return pad(part, (0, 0, 0, 0, start - first, first + planes - stop))


def _plane_windows(slab: Tensor, windows: Windows, depth: int, probs: Probs) -> Tensor:
    """float32 (K, d, H, W) of one slab: the weighted mean over its windows, by MONAI."""
    height, width = windows.size[-2:]
    at_once = windows.at_once if len(windows.size) == 3 else max(1, windows.at_once // depth)  # a window of slices holds `depth` of them
    weights = (gaussian(height)[:, None] * gaussian(width)[None, :]).clamp_min(LEAST).expand(depth, height, width)
    found = sliding_window_inference(
        slab, (depth, height, width), at_once, probs, windows.overlap, roi_weight_map=weights.to(slab.device)
    )  # fmt: skip
    assert isinstance(found, Tensor)
    return found[0]


class _Waiting:
    """Planes that a later slab may still add to: their weighted sums."""

    def __init__(self, weights: Tensor):
        self._weights, self._first = weights, 0
        self._sums: Tensor | None = None
        self._totals: Tensor | None = None

    def add(self, start: int, probs_KdHW: Tensor) -> None:
        """A slab that begins at plane `start`; the planes before it have been taken."""
        weighted = probs_KdHW.mul_(self._weights[None, :, None, None].to(probs_KdHW.device))  # the caller has no use for it
        totals = self._weights.clone()
        if self._sums is not None and self._totals is not None:
            kept = self._first + self._sums.shape[1] - start
            if kept > 0:
                weighted[:, :kept] += self._sums[:, -kept:]
                totals[:kept] += self._totals[-kept:]
        self._sums, self._totals, self._first = weighted, totals, start

    def take(self, plane: int) -> Tensor:
        """A plane to which nothing more is added."""
        assert self._sums is not None and self._totals is not None
        return (self._sums[:, plane - self._first] / self._totals[plane - self._first]).cpu()


# --- to the file's grid


@torch.inference_mode()
def planes_on_box(planes: Iterable[Tensor], depth: int, sides: tuple[int, int, int]) -> Planes:
    """Probabilities of `depth` planes, brought to a box of the volume's own voxels (trilinear, half-pixel centres): its planes in order.

    Two planes are held at a time: linear along D after linear in the plane is trilinear.
    """
    source, held = iter(planes), dict[int, Tensor]()
    last = -1
    for plane in range(sides[0]):
        at = min(max((plane + 0.5) * depth / sides[0] - 0.5, 0.0), depth - 1.0)
        low = int(at)
        high = min(low + 1, depth - 1)
        while last < high:
            last += 1
            held[last] = _resized(next(source), sides[1:])
            held.pop(last - 2, None)
        yield held[low] if at == low else torch.lerp(held[low], held[high], at - low)


def _resized(plane_KHW: Tensor, sides: tuple[int, ...]) -> Tensor:
    if tuple(plane_KHW.shape[1:]) == sides:
        return plane_KHW
    return interpolate(plane_KHW[None], size=sides, mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True, slots=True, eq=False)
class OnFileGrid:
    """A volume's prediction on the grid of its file. mask_XYZ: uint8.  probs_KXYZ: float32, where they were asked for."""

    mask_XYZ: np.ndarray
    probs_KXYZ: Tensor | None = None


def on_file_grid(
    models: Sequence[nn.Module],
    image_CDHW: np.ndarray,
    box: Box,
    volume: Stored,
    windows: Windows,
    device: torch.device,
    num_classes: int | None = None,
) -> OnFileGrid:
    """A preprocessed volume's class ids on the grid of its file; what the crop left out is background.

    num_classes: given where the probabilities are wanted, too, which takes 4 bytes a voxel and class.
    """
    planes = planes_on_box(predicted_planes(models, image_CDHW, windows, device), image_CDHW.shape[1], sides_of(box))
    mask_XYZ, (_, height, width) = np.zeros(volume.shape, np.uint8), slices(box)
    probs_KXYZ = _background(num_classes, volume) if num_classes else None
    mask_DHW = volume.turn.forward(mask_XYZ)  # a view, as the next: what is written to it is written on the file's grid
    probs_KDHW = None if probs_KXYZ is None else volume.turn.forward(np.moveaxis(probs_KXYZ, 0, -1))
    for plane, probs_KHW in enumerate(planes, start=box[0][0]):
        mask_DHW[plane, height, width] = probs_KHW.argmax(dim=0).to(torch.uint8).numpy()
        if probs_KDHW is not None:
            probs_KDHW[:, plane, height, width] = probs_KHW.numpy()
    return OnFileGrid(mask_XYZ, None if probs_KXYZ is None else torch.from_numpy(probs_KXYZ))


def _background(num_classes: int, volume: Stored) -> np.ndarray:
    probs_KXYZ = np.zeros((num_classes, *volume.shape), np.float32)
    probs_KXYZ[0] = 1.0
    return probs_KXYZ


def network_mask(models: Sequence[nn.Module], image_CDHW: np.ndarray, windows: Windows, device: torch.device) -> np.ndarray:
    """uint8 (D, H, W): class ids on the network's grid."""
    planes = (plane.argmax(dim=0).to(torch.uint8) for plane in predicted_planes(models, image_CDHW, windows, device))
    return torch.stack(list(planes)).numpy()


def windows_of(
    config: VolumeConfig, size: tuple[int, ...], overlap: float, axes: Sequence[str], labels: LabelSet, at_once: int = WINDOWS_AT_ONCE
) -> Windows:
    """As a run's config has them. axes: of RAS, along which mirror images are averaged; none where empty."""
    places = config.mirrored(axes, len(size))
    mirrors = Mirrors(places, config.axes.index("x"), labels) if places else None
    return Windows(size, overlap, mirrors, at_once)
