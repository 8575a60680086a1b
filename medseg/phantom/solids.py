"""Solids of an anatomy: ellipsoids and tubes, turned, tapered and bent, and the slow waves that keep them from being perfect.

Legend: X, Y, Z voxels of a grid. Points are float32 (3, X, Y, Z) in mm. Sums are written out rather than left to a matrix product,
whose rounding may change with the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

Triple = tuple[float, float, float]

ENDLESS_MM = 1e4  # half the length of a tube that leaves the picture at both ends
_SMOOTH = 8.0  # how sharp the seam of a union is; 8 rounds it over a tenth of the solids' radius


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """points_3XYZ, and between which coordinates each slab of them lies: low and high (N,) for each axis of the grid.

    The grid's axes run nearly along x, y, z; otherwise all is right, but slow.
    """

    points_3XYZ: np.ndarray
    low: tuple[np.ndarray, ...]
    high: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, points_3XYZ: np.ndarray) -> Places:
        """The places of these points."""
        others = ((1, 2), (0, 2), (0, 1))
        low = tuple(values.min(axes) for values, axes in zip(points_3XYZ, others, strict=True))
        return cls(points_3XYZ, low, tuple(values.max(axes) for values, axes in zip(points_3XYZ, others, strict=True)))

    def box(self, centre_mm: np.ndarray, reach_mm: np.ndarray) -> tuple[slice, slice, slice]:
        """A box of the grid that holds every point within this reach of the centre along x, y and z."""
        slices = []
        for low, high, centre, reach in zip(self.low, self.high, centre_mm, reach_mm, strict=True):
            near = np.flatnonzero((high >= centre - reach) & (low <= centre + reach))
            slices.append(slice(near[0], near[-1] + 1) if near.size else slice(0, 0))
        return slices[0], slices[1], slices[2]


@dataclass(frozen=True, slots=True)
class Solid:
    """An ellipsoid. centre_mm, semi_mm: (x, y, z); turn: rotation vector in radians.

    taper: how much wider the upper end is, as a share of the width; bend: how far both ends lean to +x, in semi-axes.
    """

    centre_mm: Triple
    semi_mm: Triple
    turn: Triple = (0.0, 0.0, 0.0)
    taper: float = 0.0
    bend: float = 0.0

    def varied(self, rng: np.random.Generator, shift_mm: float, stretch: float, turn: float) -> Solid:
        """The solid of one person: shifted (normal), stretched along each axis (uniform, at most so much) and turned (normal)."""
        centre = np.add(self.centre_mm, rng.normal(0, shift_mm, 3).clip(-2 * shift_mm, 2 * shift_mm))
        semi = np.multiply(self.semi_mm, 1 + rng.uniform(-stretch, stretch, 3))
        turned = np.add(self.turn, rng.normal(0, turn, 3).clip(-2 * turn, 2 * turn))
        return replace(self, centre_mm=_triple(centre), semi_mm=_triple(semi), turn=_triple(turned))

    def grown(self, by_mm: float) -> Solid:
        """Larger by so much on every side; smaller, where it is negative."""
        return replace(self, semi_mm=_triple(np.add(self.semi_mm, by_mm)))

    def depth(self, points: np.ndarray) -> np.ndarray:
        """float32: 1 at the centre, 0 on the surface, negative outside; points (3, ...)."""
        u, v, w = _turned(Rotation.from_rotvec(self.turn).as_matrix().T, points, self.centre_mm, self.semi_mm)
        if self.bend:
            u -= np.float32(self.bend) * w**2
        if self.taper:
            width = 1 + np.float32(self.taper) * w.clip(-1, 1)
            u, v = u / width, v / width
        return 1 - np.sqrt(u**2 + v**2 + w**2)

    def holds(self, places: Places) -> np.ndarray:
        """bool (X, Y, Z). Only places in a box around the solid are asked, for most solids are small."""
        reach_mm = np.sqrt((Rotation.from_rotvec(self.turn).as_matrix() ** 2) @ np.square(self.semi_mm))
        box = places.box(np.array(self.centre_mm), reach_mm * (1 + abs(self.taper) + abs(self.bend)))
        inside_XYZ = np.zeros(places.points_3XYZ.shape[1:], bool)
        inside_XYZ[box] = self.depth(places.points_3XYZ[:, *box]) > 0
        return inside_XYZ


def tube(x_mm: float, y_mm: float, half_width_mm: float, half_height_mm: float, turn: Triple = (0.0, 0.0, 0.0)) -> Solid:
    """One that runs along z through the whole picture."""
    return Solid((x_mm, y_mm, 0.0), (half_width_mm, half_height_mm, ENDLESS_MM), turn)


def union_depth(solids: Sequence[Solid], points_3XYZ: np.ndarray) -> np.ndarray:
    """float32 (X, Y, Z): as `Solid.depth`, of solids that flow into one another."""
    depths = [np.float32(_SMOOTH) * solid.depth(points_3XYZ) for solid in solids]
    return np.asarray(np.logaddexp.reduce(depths, axis=0) / np.float32(_SMOOTH), np.float32)


def waves(rng: np.random.Generator, points_3XYZ: np.ndarray, count: int, length_mm: tuple[float, float]) -> np.ndarray:
    """A slow smooth noise over the points, float32 (X, Y, Z), root mean square near 1: sines of random direction and length."""
    total = np.zeros(points_3XYZ.shape[1:], np.float32)
    for _ in range(count):
        way = rng.normal(0, 1, 3)
        way *= 2 * np.pi / rng.uniform(*length_mm) / np.linalg.norm(way)
        total += np.sin(_along(way, points_3XYZ) + np.float32(rng.uniform(0, 2 * np.pi)))
    return total * np.float32(np.sqrt(2 / count))


def _triple(values: np.ndarray) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _along(way: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y, z = way.astype(np.float32)
    return np.asarray(x * points[0] + y * points[1] + z * points[2])


def _turned(matrix: np.ndarray, points: np.ndarray, centre: Triple, semi: Triple) -> list[np.ndarray]:
    """The points in the solid's own frame, in semi-axes."""
    rows = matrix / np.array(semi)[:, None]
    return [_along(row, points) - np.float32(row @ np.array(centre)) for row in rows]
