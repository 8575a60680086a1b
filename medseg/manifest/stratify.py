"""Deal whole groups to parts so that each part holds its share of the images, and of each class by presence and by area.

The greedy iterative stratification of Sechidis et al. (ECML PKDD 2011, algorithm 1), on groups: the rarest class first, each of its
groups to the part that still lacks most of it. For area, the groups of a class are dealt in blocks from large to small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

AREA_BLOCKS = 3  # large, middle and small: more blocks would be of too few groups in a set of a hundred patients


def stratify(
    shown_GK: np.ndarray, images_G: np.ndarray, shares_P: np.ndarray, draw: np.random.Generator, area_GK: np.ndarray | None = None
) -> np.ndarray:
    """The part of each group: parts hold `shares_P` of the images and of the images that show each class; none is empty.

    shown_GK: images of the group that show the class.  area_GK: pixels of the class in the group; without it area is not balanced.
    The rarest class is dealt first and therefore best: each part is within one group of its share. Groups of many images go first,
    and small ones even out; ties are broken by `draw`.
    """
    part_G = np.full(len(images_G), -1)
    while (free := np.flatnonzero(part_G < 0)).size:
        rarest = _rarest_class(shown_GK[free])
        if rarest is None:
            _deal(free, images_G, part_G, images_G, shares_P, draw)
            continue
        members = free[shown_GK[free, rarest] > 0]
        area_G = None if area_GK is None else area_GK[members, rarest]
        for block in _by_area(members, area_G, shares_P):
            _deal(block, shown_GK[:, rarest], part_G, images_G, shares_P, draw)
    return _none_empty(part_G, images_G, len(shares_P)) if len(images_G) >= len(shares_P) else part_G


def _rarest_class(shown_GK: np.ndarray) -> int | None:
    """The class that the fewest groups show, among those shown at all."""
    groups_K = (shown_GK > 0).sum(axis=0)
    return int(np.where(groups_K > 0, groups_K, np.iinfo(np.int64).max).argmin()) if groups_K.any() else None


def _by_area(members: np.ndarray, area_G: np.ndarray | None, shares_P: np.ndarray) -> list[np.ndarray]:
    """`members` in blocks from large to small area, each of enough groups that the smallest part gets one of it."""
    blocks = min(AREA_BLOCKS, len(members) // math.ceil(1 / shares_P.min()))
    if area_G is None or blocks < 2:
        return [members]
    return np.array_split(members[np.argsort(-area_G, kind="stable")], blocks)


def _deal(
    block: np.ndarray, weight_G: np.ndarray, part_G: np.ndarray, images_G: np.ndarray, shares_P: np.ndarray, draw: np.random.Generator
) -> None:
    """Give each group of `block` to the part that lacks most of the weight dealt up to the block's end, written into `part_G`."""
    done = part_G >= 0
    have_P = np.bincount(part_G[done], weights=weight_G[done], minlength=len(shares_P))
    held_P = np.bincount(part_G[done], weights=images_G[done], minlength=len(shares_P))
    lacking = (shares_P * (have_P.sum() + weight_G[block].sum()) - have_P).tolist()
    lacking_images = (shares_P * images_G.sum() - held_P).tolist()
    shuffled = draw.permutation(block)
    order = shuffled[np.argsort(-np.frexp(images_G[shuffled])[1], kind="stable")]  # by the power of two, random within it
    ties = draw.random((len(order), len(shares_P)))
    part_G[order] = _greedy(weight_G[order].tolist(), images_G[order].tolist(), lacking, lacking_images, ties.tolist())


def _greedy(
    weights: Sequence[int], images: Sequence[int], lacking: list[float], lacking_images: list[float], ties: Sequence[Sequence[float]]
) -> list[int]:
    """Plain lists, because a million groups are dealt one after the other."""
    chosen = []
    for weight, count, tie in zip(weights, images, ties, strict=True):
        keys = [(round(a, 9), round(b, 9), t, part) for part, (a, b, t) in enumerate(zip(lacking, lacking_images, tie, strict=True))]
        part = max(keys)[-1]
        lacking[part] -= weight
        lacking_images[part] -= count
        chosen.append(part)
    return chosen


def _none_empty(part_G: np.ndarray, images_G: np.ndarray, parts: int) -> np.ndarray:
    """Move the smallest group of the part with most groups into a part that got none (few groups, small share)."""
    for part in range(parts):
        if not (part_G == part).any():
            fullest = np.bincount(part_G, minlength=parts).argmax()
            members = np.flatnonzero(part_G == fullest)
            part_G[members[images_G[members].argmin()]] = part
    return part_G
