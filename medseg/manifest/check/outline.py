"""Does a mask belong to its photograph? Its outline should lie on edges, and the colours on its two sides should differ.

A quick look at small size, cheap enough for every row; what is low for the set is suspected (rules.misfits). At twice that size the two
positions of a mask under an EXIF tag are compared (shapes.follows_stored).
"""

from __future__ import annotations

import numpy as np

from medseg.images import resize_image, resize_mask
from medseg.types import Size

SIDE_PX = 128
BINS = 1024
BAND = 64  # the band along the outline is about a 64th of the side wide on each side


def outline_fit(image_HWC: np.ndarray, inside_HW: np.ndarray, side_px: int = SIDE_PX) -> float | None:
    """How well an outline (bool or 0/1) fits its photograph: mean rank of the edges under it plus R2 of the colours beside it, 0 to 2.

    None where the mask has no outline at this size, a longer side of `side_px` at most.
    """
    frame = frame_of(inside_HW.shape, side_px)
    inside = resize_mask(np.ascontiguousarray(inside_HW).view(np.uint8), frame) > 0
    on_outline = inside & ~_eroded(inside)
    if on_outline.sum() < BINS // 64:
        return None
    image_CHW = np.moveaxis(resize_image(image_HWC, frame), 2, 0).astype(np.float32, order="C")
    return float(_edge_ranks(image_CHW)[on_outline].mean()) + _parted_colours(image_CHW, inside)


def frame_of(shape: tuple[int, ...], side_px: int) -> Size:
    """The size at which a picture is looked at: its longer side at most `side_px`, each at least 8, which the smoothing needs."""
    scale = min(1.0, side_px / max(shape))
    return Size(max(8, round(shape[0] * scale)), max(8, round(shape[1] * scale)))


def _grown(inside_HW: np.ndarray, reach: int) -> np.ndarray:
    """bool (H, W): what lies within a square of `reach` pixels to each side of a pixel that is inside."""
    for _ in range(2):
        grown = inside_HW.copy()
        for step in range(1, reach + 1):
            grown[step:] |= inside_HW[:-step]
            grown[:-step] |= inside_HW[step:]
        inside_HW = grown.T
    return inside_HW


def _eroded(inside_HW: np.ndarray) -> np.ndarray:
    """bool (H, W): where a pixel and its four neighbours are inside; what lies beyond the picture counts as inside."""
    eroded = inside_HW.copy()
    eroded[1:] &= inside_HW[:-1]
    eroded[:-1] &= inside_HW[1:]
    eroded[:, 1:] &= inside_HW[:, :-1]
    eroded[:, :-1] &= inside_HW[:, 1:]
    return eroded


def _edge_ranks(image_CHW: np.ndarray) -> np.ndarray:
    """float (H, W): the share of pixels whose edge is weaker, 0 to 1; the strongest of the three channels counts."""
    rows = image_CHW[:, :-2] + 2 * image_CHW[:, 1:-1] + image_CHW[:, 2:]
    smooth = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    down, right = smooth[:, 2:, 1:-1] - smooth[:, :-2, 1:-1], smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2]
    strength = np.zeros(image_CHW.shape[1:], np.float32)
    strength[2:-2, 2:-2] = np.sqrt((down * down + right * right).max(axis=0))
    binned = np.minimum(strength * ((BINS - 1) / max(float(strength.max()), 1e-6)), BINS - 1).astype(np.intp)
    counts = np.bincount(binned.ravel(), minlength=BINS)
    return ((np.cumsum(counts) - counts / 2) / binned.size)[binned]


def _parted_colours(image_CHW: np.ndarray, inside_HW: np.ndarray) -> float:
    """R2 (0 to 1) of the linear regression of "inside" on the colours of a band along the outline."""
    reach = max(inside_HW.shape) // BAND + 1
    places = np.flatnonzero(_grown(inside_HW, reach) & _grown(~inside_HW, reach))
    inside = inside_HW.ravel()[places].astype(np.float64)
    inside -= inside.mean()
    colours = image_CHW.reshape(len(image_CHW), -1)[:, places].astype(np.float64)
    colours -= colours.mean(axis=1, keepdims=True)
    spread = float(inside @ inside)
    if spread == 0:
        return 0.0
    products = colours @ inside
    return float(products @ np.linalg.solve(colours @ colours.T + np.eye(3), products)) / spread
