"""An image of any size in a frame of one size, and the network's answer back on the image's own pixels.

Legend: K classes, H W the image's own pixels, h w the frame's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from medseg import images
from medseg.types import Letterbox, Size

BAND_VALUES = 1 << 22  # float32 values interpolated at a time: the probabilities of a whole photograph of 12 megapixels are gigabytes


def fit_letterbox(original: Size, frame: Size) -> Letterbox:
    """The largest place of an image in a frame with its aspect kept, centred.

    >>> fit_letterbox(Size(100, 200), Size(64, 64))
    Letterbox(original=Size(height_px=100, width_px=200), inner=Size(height_px=32, width_px=64), frame=Size(height_px=64, width_px=64), top_px=16, left_px=0)
    """  # noqa: E501
    scale = min(frame.height_px / original.height_px, frame.width_px / original.width_px)
    inner = Size(max(1, round(original.height_px * scale)), max(1, round(original.width_px * scale)))
    return Letterbox(original, inner, frame, (frame.height_px - inner.height_px) // 2, (frame.width_px - inner.width_px) // 2)


def inside(letterbox: Letterbox) -> tuple[slice, slice]:
    """Where in the frame the image lies."""
    top, left, inner = letterbox.top_px, letterbox.left_px, letterbox.inner
    return slice(top, top + inner.height_px), slice(left, left + inner.width_px)


def place_image(image_HWC: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """uint8 (3, h, w) on the frame, black around it."""
    framed = np.zeros((3, *letterbox.frame), np.uint8)
    framed[(slice(None), *inside(letterbox))] = images.resize_image(image_HWC, letterbox.inner).transpose(2, 0, 1)
    return framed


def place_mask(mask_HW: np.ndarray, letterbox: Letterbox, around: int) -> np.ndarray:
    """uint8 (h, w) on the frame, `around` around it: the ignore id of a mask, for padding is neither learned nor scored; 0 of objects."""
    framed = np.full(letterbox.frame, around, np.uint8)
    framed[inside(letterbox)] = images.resize_mask(mask_HW, letterbox.inner)
    return framed


class Taps(NamedTuple):
    """Of each output sample the two input samples it lies between, and how much of the second it takes."""

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray


def taps(size: int, out: int) -> Taps:
    """Linear interpolation of `size` samples at `out` ones by pixel centres, as torch's interpolate without aligned corners.

    >>> low, high, share = taps(2, 4)
    >>> low.tolist(), high.tolist(), share.tolist()
    ([0, 0, 0, 1], [1, 1, 1, 1], [0.0, 0.25, 0.75, 0.25])
    """
    centre = np.maximum((np.arange(out, dtype=np.float32) + np.float32(0.5)) * np.float32(size / out) - np.float32(0.5), np.float32(0))
    low = np.minimum(centre.astype(np.int64), size - 1)
    return Taps(low, np.minimum(low + 1, size - 1), centre - low)


def most_probable(probs_Khw: np.ndarray, letterbox: Letterbox) -> tuple[np.ndarray, np.ndarray]:
    """(class ids uint8 (H, W), their probability float32 (H, W)) on the image's own pixels, from float32 probabilities on the frame.

    Of equally probable classes the first. Class after class, because numpy's argmax over a short first axis is ten times as slow.
    """
    original = letterbox.original
    mask_HW, highest_HW = np.zeros(original, np.uint8), np.empty(original, np.float32)
    for rows, probs_KrW in bands(probs_Khw, letterbox):
        mask, highest = mask_HW[rows], highest_HW[rows]
        highest[:] = probs_KrW[0]
        for class_id in range(1, len(probs_KrW)):
            np.copyto(mask, np.uint8(class_id), where=probs_KrW[class_id] > highest)
            np.maximum(highest, probs_KrW[class_id], out=highest)
    return mask_HW, highest_HW


def bands(probs_Khw: np.ndarray, letterbox: Letterbox) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, float32 (K, rows, W)): the probabilities on the image's own pixels, some rows at a time (bilinear)."""
    height, width = letterbox.original
    inner = probs_Khw[(slice(None), *inside(letterbox))]
    across, down = taps(inner.shape[2], width), taps(inner.shape[1], height)
    wide_KhW = _between(inner, across, axis=2)  # along the rows first, while there are few of them
    step = max(1, BAND_VALUES // (len(inner) * width))
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        yield rows, _between(wide_KhW, _of(down, rows), axis=1)


def _of(every: Taps, rows: slice) -> Taps:
    return Taps(*(each[rows] for each in every))


def _between(values_Khw: np.ndarray, at: Taps, axis: int) -> np.ndarray:
    share = at.share.reshape([-1 if place == axis else 1 for place in range(3)])
    low, high = values_Khw.take(at.low, axis=axis), values_Khw.take(at.high, axis=axis)
    high -= low
    high *= share
    high += low
    return high
