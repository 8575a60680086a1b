"""Intensities on the scale that a network learns from, by nnU-Net's formulas (Isensee et al., Nature Methods 2021), and the box to crop to.

Pure functions: the array given stays as it is, float32 comes back. What the whole data set must tell (a CT's window) is handed in.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from scipy import ndimage

from medseg.errors import ImageError, counted

FLOOR = 1e-8  # of a deviation, nnU-Net's: a volume of one value becomes zeros
PART = 2**20  # voxels


def zscore(image_DHW: np.ndarray, inside: np.ndarray | None = None, where: object = "the image") -> np.ndarray:
    """float32 (D, H, W) of mean 0 and standard deviation 1: for MR and whatever has no unit.

    inside: bool (D, H, W), the voxels that mean and deviation are taken of and that are changed; the others stay as they are (the zeros
    around a cropped head), and so does all where it holds none.  Raises ImageError where a voxel is NaN or infinite.
    """
    image = _finite(image_DHW, where)
    values = image if inside is None else image[inside]
    if not values.size:
        return image
    mean, deviation = _moments(values)
    values = _scaled(values, mean, deviation)
    if inside is None:
        return values
    image[inside] = values
    return image


def window(image_DHW: np.ndarray, lower: float, upper: float, mean: float, deviation: float, where: object = "the image") -> np.ndarray:
    """float32 (D, H, W) clipped to lower..upper, less the mean, over the deviation: for CT, whose numbers have a unit.

    nnU-Net takes the four from the training set's foreground voxels: percentiles 0.5 and 99.5, mean and standard deviation, all in
    Hounsfield units.  Raises ImageError where a voxel is NaN or infinite.
    """
    assert lower <= upper, f"a window from {lower} to {upper}"
    image = _finite(image_DHW, where)
    np.clip(image, lower, upper, out=image)
    return _scaled(image, mean, deviation)


def unit_range(image_DHW: np.ndarray, where: object = "the image") -> np.ndarray:
    """float32 (D, H, W) in [0, 1], from the volume's least value to its largest; zeros where it has one value only.

    Raises ImageError where a voxel is NaN or infinite.
    """
    image = _finite(image_DHW, where)
    least, largest = float(image.min()), float(image.max())
    return _scaled(image, least, largest - least)


def nonzero_box(image_CDHW: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box of depth, height and width that holds every voxel that is not 0 in some channel; the whole volume where all are.

    nnU-Net fills the holes of what is not 0 before it takes the box, which moves no side of it.
    """
    there = _nonzero(image_CDHW)
    if not there.any():
        there[...] = True
    depth, height, width = (_extent(there, others) for others in ((1, 2), (0, 2), (0, 1)))
    return depth, height, width


def inside_of(image_CDHW: np.ndarray) -> np.ndarray:
    """bool (D, H, W): what is not 0 in some channel, and the holes in it, as nnU-Net has it (`create_nonzero_mask`): a fluid that
    is 0 within a skull is of the patient."""
    return cast(np.ndarray, ndimage.binary_fill_holes(_nonzero(image_CDHW)))


def _nonzero(image_CDHW: np.ndarray) -> np.ndarray:
    there = np.zeros(image_CDHW.shape[1:], bool)
    for channel in image_CDHW:
        there |= channel != 0
    return there


def _extent(there: np.ndarray, others: tuple[int, int]) -> slice:
    found = np.flatnonzero(there.any(axis=others))
    return slice(int(found[0]), int(found[-1]) + 1)


def _finite(image_DHW: np.ndarray, where: object) -> np.ndarray:
    """A copy as float32; one NaN would make every voxel of the volume NaN, hours later and without a word."""
    with np.errstate(over="ignore"):
        image = np.array(image_DHW, np.float32, order="C")
    bad = image.size - int(np.count_nonzero(np.isfinite(image)))
    if bad:
        rule = f"{counted(f'{bad:,}', 'voxel')} of {image.size:,} {'is' if bad == 1 else 'are'} NaN or infinite"
        raise ImageError(where, rule, "export it again, or write the air's value there")
    return image


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation: in float64, for the floor would blow up float32's rounding, and by parts, to need no second volume."""
    flat = values.reshape(-1)
    mean = float(flat.mean(dtype=np.float64))
    parts = (np.subtract(flat[start : start + PART], mean, dtype=np.float64) for start in range(0, flat.size, PART))
    return mean, math.sqrt(sum(float(part @ part) for part in parts) / flat.size)


def _scaled(image: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """In place, for the array is our copy."""
    image -= mean
    image /= max(deviation, FLOOR)
    return image
