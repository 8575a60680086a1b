"""Does a mask belong to its photograph? Its outline should lie on edges, and the colours on its two sides should differ.

A quick look at small size, cheap enough for every row; what is low for the set is suspected (rules.misfits).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medseg.images import resize_image, resize_mask
from medseg.types import Size

SIDE_PX = 128
BINS = 1024
BAND = 64  # the band along the outline is about a 64th of the side wide on each side


def outline_fit(image_HWC: np.ndarray, inside_HW: np.ndarray) -> float | None:
    """How well an outline (bool or 0/1) fits its photograph: mean rank of the edges under it plus R2 of the colours beside it, 0 to 2.

    None where the mask has no outline at this size.
    """
    scale = min(1.0, SIDE_PX / max(inside_HW.shape))
    frame = Size(max(8, round(inside_HW.shape[0] * scale)), max(8, round(inside_HW.shape[1] * scale)))
    inside = resize_mask(np.ascontiguousarray(inside_HW, np.uint8), frame) > 0
    on_outline = inside & ~ndimage.binary_erosion(inside, border_value=1)
    if on_outline.sum() < BINS // 64:
        return None
    image = resize_image(image_HWC, frame).astype(np.float32)
    return float(_edge_ranks(image)[on_outline].mean()) + _parted_colours(image, inside)


def _edge_ranks(image_HWC: np.ndarray) -> np.ndarray:
    """float (H, W): the share of pixels whose edge is weaker, 0 to 1; the strongest of the three channels counts."""
    rows = image_HWC[:-2] + 2 * image_HWC[1:-1] + image_HWC[2:]
    smooth = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
    down, right = smooth[2:, 1:-1] - smooth[:-2, 1:-1], smooth[1:-1, 2:] - smooth[1:-1, :-2]
    strength = np.zeros(image_HWC.shape[:2], np.float32)
    strength[2:-2, 2:-2] = np.sqrt((down * down + right * right).max(axis=2))
    binned = np.minimum(strength * ((BINS - 1) / max(float(strength.max()), 1e-6)), BINS - 1).astype(np.int32)
    counts = np.bincount(binned.ravel(), minlength=BINS)
    return ((np.cumsum(counts) - counts / 2) / binned.size)[binned]


def _parted_colours(image_HWC: np.ndarray, inside_HW: np.ndarray) -> float:
    """R2 (0 to 1) of the linear regression of "inside" on the colours of a band along the outline."""
    share = ndimage.uniform_filter(inside_HW.astype(np.float32), 2 * (max(inside_HW.shape) // BAND + 1) + 1)
    band = (share > 0) & (share < 1)
    inside = inside_HW[band].astype(np.float64)
    inside -= inside.mean()
    colours = image_HWC[band].astype(np.float64)
    colours -= colours.mean(axis=0)
    spread = float(inside @ inside)
    if spread == 0:
        return 0.0
    products = colours.T @ inside
    return float(products @ np.linalg.solve(colours.T @ colours + np.eye(3), products)) / spread
