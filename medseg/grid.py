"""How a volume as stored, (X, Y, Z[, C]), lies on the network's grid, (C, D, H, W), and back, voxel by voxel.

Files store their axes in any order and direction, and a network that met a liver upside down would have to learn it twice. So each volume
is turned to RAS (indices rise to the right, to the front and upwards) by exchanging and reversing axes only: nothing is interpolated, so
the way back is exact. What is left of an oblique grid's rotation, 45 degrees at the most where its axes are told apart, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import nibabel as nib
import numpy as np

from medseg.errors import ImageError

DepthAxis: TypeAlias = Literal["x", "y", "z"]
Triple: TypeAlias = tuple[int, int, int]
SHEAR = 0.01  # cosine between two axes, 0.6 degrees: rounding in headers stays below 1e-3, a gantry is tilted by 5 degrees and more
_LIES = {"z": (2, 1, 0), "y": (1, 2, 0), "x": (0, 2, 1)}  # the world axes (x 0, y 1, z 2) that become depth, height and width


@dataclass(frozen=True, slots=True)
class Turn:
    """The way from a grid as stored to the network's.

    axes: the stored axis that becomes depth, height and width.  flips: whether each of the three is reversed.  shape, spacing_mm: along
    depth, height and width.
    """

    axes: Triple
    flips: tuple[bool, bool, bool]
    shape: Triple
    spacing_mm: tuple[float, float, float]

    @property
    def stored_shape(self) -> Triple:
        """The shape as stored."""
        x, y, z = (self.shape[self.axes.index(stored)] for stored in range(3))
        return x, y, z

    def forward(self, array: np.ndarray) -> np.ndarray:
        """(X, Y, Z) -> (D, H, W), (X, Y, Z, C) -> (C, D, H, W); a view of the array as stored, so copy it where it is read often."""
        assert array.shape[:3] == self.stored_shape, f"the turn is of {self.stored_shape}, the array {array.shape}"
        return self._reversed(array.transpose(*range(3, array.ndim), *self.axes))

    def backward(self, array: np.ndarray) -> np.ndarray:
        """(D, H, W) -> (X, Y, Z), (C, D, H, W) -> (X, Y, Z, C): the inverse of `forward`; a view."""
        assert array.shape[-3:] == self.shape, f"the turn is of {self.shape}, the array {array.shape}"
        channels = array.ndim - 3
        back = (self.axes.index(stored) + channels for stored in range(3))
        return self._reversed(array).transpose(*back, *range(channels))

    def _reversed(self, array: np.ndarray) -> np.ndarray:
        depth, height, width = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[..., depth, height, width]


def turn_of(shape_XYZ: Triple, affine: np.ndarray, where: object, depth_axis: DepthAxis = "z") -> Turn:
    """The turn of a volume of this shape, whose affine (4, 4) takes an index to mm in RAS.

    depth_axis: the world axis that becomes depth, along which slices are stacked; the two others follow in the order z, y, x. An oblique
    grid takes the closest axes, as nibabel finds them (`io_orientation`, of the rotation nearest to the affine); they are told apart even
    at 45 degrees, but by rounding there, so an image and its mask must share one turn.

    Raises ImageError, naming `where`, for a spacing that is zero, an affine that is not finite, and axes that are not at right angles.

    >>> turn = turn_of((60, 50, 40), np.diag([-0.8, 0.8, 3.0, 1.0]), "a.nii.gz")
    >>> turn.shape, turn.spacing_mm, turn.flips
    ((40, 50, 60), (3.0, 0.8, 0.8), (False, False, True))
    """
    lengths_mm = _lengths_mm(affine, where)
    _check_angles(affine[:3, :3] / lengths_mm, where)
    found = nib.io_orientation(affine)
    world = [int(axis) for axis in found[:, 0]]  # world[stored axis]
    assert sorted(world) == [0, 1, 2], f"{where}: {found}"
    axes = tuple(world.index(axis) for axis in _LIES[depth_axis])
    return Turn(
        cast(Triple, axes),
        cast(tuple[bool, bool, bool], tuple(bool(found[stored, 1] < 0) for stored in axes)),
        cast(Triple, tuple(int(shape_XYZ[stored]) for stored in axes)),
        cast(tuple[float, float, float], tuple(float(lengths_mm[stored]) for stored in axes)),
    )


def _lengths_mm(affine: np.ndarray, where: object) -> np.ndarray:
    with np.errstate(over="ignore"):
        lengths_mm = np.linalg.norm(affine[:3, :3].astype(np.float64), axis=0)
    if not (np.isfinite(affine).all() and np.isfinite(lengths_mm).all() and (lengths_mm > 0).all()):
        shown = " x ".join(f"{length:g}" for length in lengths_mm)
        raise ImageError(where, f"the spacing must be positive and finite, its affine says {shown} mm", "export it with its spacing")
    return lengths_mm


def _check_angles(directions: np.ndarray, where: object) -> None:
    """A sheared grid is refused, because millimetres along its axes are none: distances and spacings would be wrong unnoticed."""
    cosines = np.abs(np.triu(directions.T @ directions, 1))
    if cosines.max() <= SHEAR:
        return
    one, other = np.unravel_index(cosines.argmax(), (3, 3))
    angle = 90 - np.degrees(np.arcsin(min(1.0, float(cosines.max()))))
    rule = f"its axes {'xyz'[one]} and {'xyz'[other]} meet at {angle:.1f} degrees, not 90 (a tilted gantry, or a registration's shear)"
    raise ImageError(where, rule, "resample it to a grid with right angles first, as dcm2niix does for a tilted gantry")
