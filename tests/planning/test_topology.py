"""Patches: against what nnunetv2 2.8.1 gives by its own estimate of memory, and by hand.

0 of 3000 random grids differed from its `get_pool_and_conv_props` when this was written.
"""

from __future__ import annotations

import math

import pytest

from medseg.errors import ConfigError
from medseg.planning import rules
from medseg.planning.topology import SMALLEST_PATCH, Topology, fitted, topology

NNUNET_8GB = 560_000_000  # numbers in the feature maps of two patches, UNet_reference_val_3d


def nnunet_s_estimate(levels: Topology, classes: int) -> int:
    """Numbers in the feature maps of nnU-Net's plain network: `compute_conv_feature_map_size` of dynamic_network_architectures."""
    features = [min(32 * 2**level, 320) for level in range(len(levels.strides))]
    sizes, size = [], levels.patch
    for step in levels.strides:
        size = tuple(side // each for side, each in zip(size, step, strict=True))
        sizes.append(math.prod(size))
    down = sum(2 * width * voxels for width, voxels in zip(features, sizes, strict=True))
    up = sum(3 * width * voxels for width, voxels in zip(features[:-1], sizes[:-1], strict=True))
    return down + up + classes * sizes[0]


@pytest.mark.parametrize(
    ("spacing", "shape", "classes", "cases", "patch", "batch"),
    [
        ((1, 1, 1), (36, 50, 35), 3, 260, (40, 56, 40), 9),  # Hippocampus: patch and batch as published
        ((3.6, 0.625, 0.625), (20, 320, 319), 3, 32, (20, 320, 256), 2),  # Prostate: as published for v1
        ((1, 0.767, 0.767), (482, 512, 512), 3, 131, (128, 128, 128), 2),  # Liver: as published
        ((1, 1, 1), (138, 169, 138), 4, 484, (128, 128, 128), 2),  # BrainTumour: as published
        ((1.37, 1.25, 1.25), (115, 320, 232), 2, 20, (80, 192, 160), 2),  # Heart: as published
        ((1.6, 0.79, 0.79), (187, 512, 512), 2, 41, (64, 192, 160), 2),  # Spleen: as published
        ((10, 1.5625, 1.5625), (9, 256, 216), 4, 200, (10, 256, 224), 7),  # heart in short axis: what its code gives
    ],
)
def test_with_nnunet_s_estimate_the_search_ends_where_nnunet_s_does(spacing, shape, classes, cases, patch, batch):
    levels = fitted(spacing, shape, lambda tried: nnunet_s_estimate(tried, classes) <= NNUNET_8GB, "the budget")
    in_memory = round(NNUNET_8GB / nnunet_s_estimate(levels, classes) * 2)  # nnU-Net rounds, medseg does not round up
    assert levels.patch == patch
    assert rules.batch_size(in_memory, math.prod(shape) * cases, math.prod(patch)) == batch


def test_thick_slices_are_halved_only_once_the_plane_is_as_coarse():
    levels = topology((3.6, 0.625, 0.625), (20, 320, 256))
    assert levels.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))  # nnU-Net's published ones
    assert levels.divisors == (4, 64, 64)
    assert levels.kernels == (*[(1, 3, 3)] * 2, *[(3, 3, 3)] * 5)  # 3.6 mm is twice 1.25 and more, not of 2.5


def test_one_axis_alone_needs_twelve_voxels():
    assert topology((1, 1, 1), (4, 4, 11)).strides == ((1, 1, 1),)
    assert topology((1, 1, 1), (4, 4, 12)).strides == ((1, 1, 1), (1, 1, 2))


def test_two_axes_serve_slices():
    assert topology((1.0, 1.0), (50, 35)) == Topology((56, 40), ((1, 1), (2, 2), (2, 2), (2, 2)), ((3, 3),) * 4)


def test_the_side_that_shows_most_of_the_volume_is_made_smaller_first():
    tried = []

    def fits(levels: Topology) -> bool:
        tried.append(levels.patch)
        return len(tried) == 2

    fitted((1.0, 1.0, 1.0), (64, 96, 96), fits, "the budget")
    assert tried == [(64, 96, 96), (64, 96, 80)]


def test_a_budget_that_nothing_fits_is_named():
    with pytest.raises(ConfigError, match=r"--memory-gib 0\.3: not even two patches of 16 voxels a side fit; give more"):
        fitted((1.0, 1.0, 1.0), (64, 64, 64), lambda tried: False, "--memory-gib 0.3")


def test_volumes_too_small_for_three_levels_are_refused():
    with pytest.raises(ConfigError, match="volumes of 12 x 12 x 12 voxels are too small for three levels"):
        fitted((1.0, 1.0, 1.0), (12, 12, SMALLEST_PATCH - 4), lambda tried: True, "the budget")
