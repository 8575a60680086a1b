"""nnU-Net's rules by hand cases. What nnunetv2 2.8.1 gave is marked so."""

from __future__ import annotations

import pytest

from medseg.config.volume import VolumeConfig
from medseg.planning import rules
from medseg.planning.fingerprint import Intensities

LIVER = Intensities(mean=99.5, deviation=39.4, percentile_00_5=-15.0, median=101.0, percentile_99_5=197.0, least=-1024.0)
BRAIN = Intensities(mean=700.0, deviation=200.0, percentile_00_5=90.0, median=690.0, percentile_99_5=1500.0, least=0.0)


def test_the_target_is_the_median_of_each_axis_where_voxels_are_nearly_cubes():
    spacings = [(1.0, 0.7, 0.7), (2.0, 0.8, 0.8), (2.5, 0.9, 0.9)]
    assert rules.target_spacing(spacings, [(200, 512, 512)] * 3) == (2.0, 0.8, 0.8)


def test_a_coarse_axis_of_few_slices_takes_its_low_percentile():
    spacings = [(float(z), 1.5, 1.5) for z in range(5, 16)]  # median 10; percentile 10 of 5 ... 15 is 6
    assert rules.target_spacing(spacings, [(10, 250, 220)] * 11) == (6.0, 1.5, 1.5)
    assert rules.target_spacing([(y, z, x) for z, y, x in spacings], [(250, 10, 220)] * 11) == (1.5, 6.0, 1.5)  # whichever axis it is


def test_a_coarse_axis_with_many_slices_keeps_its_median():
    spacings = [(float(z), 1.5, 1.5) for z in range(5, 16)]
    assert rules.target_spacing(spacings, [(100, 250, 220)] * 11) == (10.0, 1.5, 1.5)


def test_the_low_percentile_is_no_finer_than_the_other_axes():
    spacings = [(0.5, 1.0, 1.0)] * 3 + [(5.0, 1.0, 1.0)] * 4
    assert rules.target_spacing(spacings, [(12, 250, 220)] * 7) == (1.0, 1.0, 1.0)


def test_prostates_keep_their_thick_slices():
    """The Decathlon's: 3.6 mm in most, 0.625 in the plane, 20 slices."""
    spacings = [(3.6, 0.625, 0.625)] * 8 + [(4.0, 0.6, 0.6)] * 2
    target = rules.target_spacing(spacings, [(20, 320, 320)] * 10)
    assert target == (3.6, 0.625, 0.625)
    assert rules.depth_axis(target) == "z" and rules.is_anisotropic(target)


def test_depth_is_the_coarsest_axis_and_z_where_rounding_alone_differs():
    assert rules.depth_axis((1.0, 1.0, 1.0004)) == "z"
    assert rules.depth_axis((1.0, 1.0, 1.01)) == "x"


@pytest.mark.parametrize("depth", ["z", "y", "x"])
def test_the_order_of_axes_is_that_of_the_config(depth):
    assert rules.in_network_order(("z", "y", "x"), depth) == VolumeConfig(spacing_mm=(1, 1, 1), depth_axis=depth).axes


def test_the_median_shape_is_of_resampled_volumes():
    shape = rules.median_shape([(2.0, 1, 1), (1.0, 1, 1), (1.0, 1, 1)], [(10, 30, 30), (30, 40, 20), (40, 50, 60)], (1, 1, 1))
    assert shape == (30, 40, 30)  # 20, 30, 40 slices


def test_ct_is_clipped_to_the_foreground_s_window():
    how = rules.normalisation("ct", LIVER, kept_share=1.0)
    assert (how.normalise, how.lower, how.upper, how.mean, how.deviation) == ("window", -15.0, 197.0, 99.5, 39.4)


def test_mr_is_normalised_inside_where_the_crop_leaves_less_than_three_quarters():
    assert [rules.normalisation("mr", BRAIN, share).normalise for share in (0.74, 0.75)] == ["zscore_inside", "zscore"]


def test_a_foreground_of_one_value_has_no_window():
    flat = Intensities(5.0, 0.0, 5.0, 5.0, 5.0, -1000.0)
    assert rules.normalisation("ct", flat, 1.0).normalise == "zscore"


def test_air_at_minus_1000_is_ct():
    assert rules.modality_by_intensities(LIVER) == "ct" and rules.modality_by_intensities(BRAIN) == "mr"


@pytest.mark.parametrize(
    ("in_memory", "voxels", "most", "batch"),
    [(41, 260 * 36 * 50 * 35, None, 9), (4, 260 * 36 * 50 * 35, None, 4), (0, 1e9, None, 2), (50, 1e9, 12, 12), (50, 1.0, 12, 2)],
)
def test_a_batch_is_bound_by_memory_by_the_set_and_from_below(in_memory, voxels, most, batch):
    """The first: Hippocampus' 260 volumes, of which nnU-Net's published plan takes 9 patches."""
    assert rules.batch_size(in_memory, voxels, 40 * 56 * 40, most) == batch
