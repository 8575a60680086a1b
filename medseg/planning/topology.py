"""nnU-Net's patches: how deep a network may go, and which part of a volume fits into memory at once.

Source: `get_pool_and_conv_props` and `get_plans_for_configuration` of nnunetv2 2.8 (Isensee et al., Nature Methods 2021). Axes in the
network's order, two or three of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from medseg.errors import ConfigError
from medseg.types import by

LEAST_SIDE = 4  # of the coarsest level
ALONE = 3 * LEAST_SIDE  # what an axis needs to be halved without any other
NEAR = 2.0  # a level halves axes whose voxels are less than so many times as long as the shortest
START_SIDES = {2: 2048, 3: 256}  # of the square or cube with which the search begins
SMALLEST_PATCH = 16  # of the longest side; below it there are not the three levels that a network needs


class Topology(NamedTuple):
    """patch: sides that all halvings divide.  strides, kernels: of each level along each axis, the first without a stride."""

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def halvings(self) -> tuple[int, ...]:
        """How often each axis is halved."""
        return tuple(sum(step[axis] == 2 for step in self.strides) for axis in range(len(self.patch)))

    @property
    def divisors(self) -> tuple[int, ...]:
        """What each side is a multiple of."""
        return tuple(2**number for number in self.halvings)


def topology(spacing_mm: Sequence[float], sides: Sequence[int]) -> Topology:
    """The levels for patches of about these sides, and the sides, rounded up to what they divide.

    A level halves the axes that keep LEAST_SIDE voxels and whose spacing there is within NEAR of the finest of them, so that an
    anisotropic volume becomes isotropic on the way down; one axis alone only while it has ALONE voxels. The convolutions of a level
    reach along the axes whose spacing is within NEAR of the finest there or above, and along all at the bottom.

    >>> topology((1.0, 1.0, 1.0), (36, 50, 35)).patch
    (40, 56, 40)
    """
    spacing, rest = list(spacing_mm), list(sides)
    strides, kernels, reach = [(1,) * len(rest)], [], [1] * len(rest)
    while halved := _halved(spacing, rest):
        reach = [3 if each / min(spacing) < NEAR else before for each, before in zip(spacing, reach, strict=True)]
        kernels.append(tuple(reach))
        for axis in halved:
            spacing[axis], rest[axis] = spacing[axis] * 2, math.ceil(rest[axis] / 2)
        strides.append(tuple(2 if axis in halved else 1 for axis in range(len(rest))))
    asked = Topology(tuple(sides), tuple(strides), (*kernels, (3,) * len(rest)))
    return asked._replace(patch=tuple(-(-side // divisor) * divisor for side, divisor in zip(sides, asked.divisors, strict=True)))


def _halved(spacing: Sequence[float], sides: Sequence[int]) -> list[int]:
    large = [axis for axis, side in enumerate(sides) if side >= 2 * LEAST_SIDE]
    finest = min((spacing[axis] for axis in large), default=0.0)
    near = [axis for axis in large if spacing[axis] / finest < NEAR]
    return [] if len(near) == 1 and sides[near[0]] < ALONE else near


def first_patch(spacing_mm: Sequence[float], shape: Sequence[float]) -> tuple[int, ...]:
    """Where the search begins: a cube in mm of as many voxels as START_SIDES makes, no larger than the median volume.

    >>> first_patch((1, 1, 1), (36, 50, 35)), first_patch((4.0, 1.0, 1.0), (500, 500, 500))
    ((36, 50, 35), (102, 406, 406))
    """
    start = START_SIDES[len(shape)] * math.prod(spacing_mm) ** (1 / len(shape))
    return tuple(int(min(round(start / spacing), side)) for spacing, side in zip(spacing_mm, shape, strict=True))


def fitted(spacing_mm: Sequence[float], shape: Sequence[float], fits: Callable[[Topology], bool], budget: str) -> Topology:
    """The largest patch that fits: from `first_patch`, the side that is the largest share of the median volume's is made smaller.

    shape: of the median volume on this spacing.  fits: whether two patches can be learned from at once.  budget: as an error names it.
    ConfigError where nothing fits, or the volumes themselves are too small.
    """
    found = topology(spacing_mm, first_patch(spacing_mm, shape))
    while max(found.patch) >= SMALLEST_PATCH and len(found.strides) >= 3:
        if fits(found):
            return found
        found = topology(spacing_mm, _smaller(found, spacing_mm, shape))
    if max(shape) < SMALLEST_PATCH:
        shown = by([round(side) for side in shape])
        raise ConfigError("medseg plan", f"volumes of {shown} voxels are too small for three levels", "cut larger ones, or resample them")
    raise ConfigError(budget, "not even two patches of 16 voxels a side fit", "give more, or choose --slices or another --network")


def _smaller(found: Topology, spacing_mm: Sequence[float], shape: Sequence[float]) -> list[int]:
    """By the divisor that the smaller patch will have: just below a limit it has fewer levels, and valid sides would be skipped."""
    patch = list(found.patch)
    axis = max(range(len(patch)), key=lambda axis: (patch[axis] / shape[axis], axis))
    lower = [side - found.divisors[axis] * (place == axis) for place, side in enumerate(patch)]
    patch[axis] -= topology(spacing_mm, [max(1, side) for side in lower]).divisors[axis]
    return [max(1, side) for side in patch]
