"""What every header comes to, and the rules that each has to keep before a voxel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from medseg.errors import ImageError

MAX_VOXELS = 2**29  # 536,870,912, channels counted: room for a CT of 512 x 512 x 2048, and a label volume stays at 512 MiB
TOLERANCE = 1e-3  # of the spacing, between two affines that shall be one
LPS = (-1.0, -1.0, 1.0)  # signs that turn millimetres in LPS to RAS; also of a file that names no space, as ITK reads it


@dataclass(frozen=True, eq=False, slots=True)
class Header:
    """What the header of a volume says.

    shape: (X, Y, Z).  affine: float64 (4, 4), index -> mm in RAS.  spacing_mm: along the three axes, from the affine.  orientation:
    where each axis points, "RAS" for right, anterior, superior.  placed: False where the file does not say where it lies (NIfTI: neither
    sform nor qform; MetaImage: no directions; NRRD: no directions in a space of the patient), so that the orientation is only a
    convention.  channels: of every voxel, 1 where there is no fourth axis.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    orientation: str
    dtype: np.dtype[Any]
    channels: int
    placed: bool = True


def header_of(axes: Sequence[int], dtype: np.dtype[Any], affine: np.ndarray, placed: bool, path: Path) -> Header:
    """The Header of axes (as `shape_of` takes them) and an affine; raises ImageError where either breaks a rule."""
    shape, channels = shape_of(axes, path)
    lengths = _lengths(affine, path)
    spacing_mm = cast(tuple[float, float, float], tuple(map(float, lengths)))
    return Header(shape, affine, spacing_mm, "".join(nib.aff2axcodes(affine)), dtype, channels, placed)


def shape_of(axes: Sequence[int], path: Path) -> tuple[tuple[int, int, int], int]:
    """((X, Y, Z), channels) from the lengths of one to four axes, channels last; axes of one element may follow."""
    axes = list(axes)
    while len(axes) > 3 and axes[-1] == 1:
        axes.pop()
    if len(axes) > 4:
        rule = f"{len(axes)} axes ({' x '.join(map(str, axes))}); a volume has three, or four with channels"
        raise ImageError(path, rule, "save one volume a file")
    x, y, z, channels = (*axes, 1, 1, 1)[:4]
    return (x, y, z), channels


def check_type(dtype: np.dtype[Any], path: Path) -> np.dtype[Any]:
    """`dtype`, of whole or real numbers of at most 8 bytes; ImageError for any other."""
    if dtype.kind not in "iuf" or not 1 <= dtype.itemsize <= 8:
        raise ImageError(path, f"the voxels are of type {dtype}, one number each is needed", "export it with whole or real numbers")
    return dtype


def check_spacing(values: Sequence[float], name: str, path: Path) -> None:
    """ImageError where a spacing that the header gives under `name` is not positive and finite."""
    if not all(math.isfinite(value) and value > 0 for value in values):
        shown = ", ".join(f"{value:g}" for value in values)
        raise ImageError(path, f"the spacing must be positive, the header's {name} says {shown}", "export it with its spacing")


def ras_affine(columns: np.ndarray, origin: np.ndarray, signs: Sequence[float] = LPS) -> np.ndarray:
    """The affine to mm in RAS, from a file's own space.

    columns: float64 (S, K), the step in mm along each of K axes in S dimensions, both 2 or 3; a picture of two axes becomes one slice,
    1 mm thick, perpendicular to both.  origin: (S,) in mm, of the first voxel's centre.  signs: what turns the space to RAS.
    """
    affine = np.eye(4)
    affine[:3, :3] = 0
    dimensions, axes = columns.shape
    affine[:dimensions, :axes] = columns
    affine[:dimensions, 3] = origin
    with np.errstate(all="ignore"):  # a flat or endless one is judged by `header_of`
        if axes == 2:
            normal = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = normal / np.linalg.norm(normal)
        affine[:3] *= np.asarray(signs)[:, None]
    return affine


def _lengths(affine: np.ndarray, path: Path) -> np.ndarray:
    """(3,) the spacing along the axes; ImageError for an affine that is not finite, or takes the volume to a plane."""
    with np.errstate(all="ignore"):
        lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        volume = np.abs(np.linalg.det(affine[:3, :3] / lengths))  # of a cell, as a share of its box
    if not (np.isfinite(affine).all() and np.isfinite(lengths).all() and (lengths > 0).all() and volume > 1e-6):
        raise ImageError(path, f"its affine is not finite or flat: {np.array2string(affine[:3], precision=4)}", "export it again")
    return cast(np.ndarray, lengths)


def same_affine(one: np.ndarray, other: np.ndarray) -> bool:
    """True where two affines differ nowhere by more than TOLERANCE of the spacing along that axis.

    >>> same_affine(np.eye(4), np.diag([1.0005, 1, 1, 1])), same_affine(np.eye(4), np.diag([1.01, 1, 1, 1]))
    (True, False)
    """
    lengths = np.sqrt((one[:3, :3] ** 2).sum(axis=0))
    allowed = TOLERANCE * np.append(lengths, lengths.min())
    return bool((np.abs(one - other)[:3] <= allowed).all())


def rounded(spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Spacing to a millionth of a millimetre, as manifests state it: an affine in float32 holds no more.

    >>> rounded((0.699999988, 0.5, 3e-7))
    (0.7, 0.5, 3e-07)
    """
    x, y, z = (round(value, 6) or value for value in spacing_mm)
    return x, y, z
