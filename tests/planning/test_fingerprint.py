"""What is measured of made volumes and photographs, whose numbers are known; what cannot be measured is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medseg.errors import ImageError, ManifestError
from medseg.manifest.split import make_split
from medseg.planning.fingerprint import measure, to_json
from medseg.volumes import read_volume, write_labels, write_volume
from tests.planning.made import make_volumes
from tests.tiny import make_data


def test_volumes_are_measured_along_z_y_x(tmp_path):
    manifest, split = make_volumes(tmp_path, spacing_mm=(1.0, 2.0, 3.0))
    found = measure(manifest, split, tmp_path / "data", jobs=1)
    assert found.cases == len(split.ids("train"))  # and no row of val or test
    assert found.spacings_mm[0] == pytest.approx((3.0, 2.0, 1.0))
    assert (found.shapes[0], found.cropped_shapes[0]) == ((16, 24, 20), (16, 24, 16))
    assert found.kept_share == pytest.approx(16 / 20)


def test_intensities_and_sizes_are_those_that_were_drawn(tmp_path):
    manifest, split = make_volumes(tmp_path, spacing_mm=(1.0, 2.0, 3.0))
    found = measure(manifest, split, tmp_path / "data", jobs=1)
    ball, cube = found.classes
    px = manifest.row(0).px
    share = px["cube"] / (px["ball"] + px["cube"])
    (values,) = found.intensities
    assert values.mean == pytest.approx(100 + 100 * share, rel=0.03)
    assert values.percentile_00_5 == pytest.approx(97.5, abs=1) and values.percentile_99_5 == pytest.approx(201, abs=1)
    assert (cube.voxels, cube.volume_mm3, cube.components_median, cube.components_most) == (16, pytest.approx(96), 2, 2)
    assert (ball.voxels, ball.components_most, ball.cases) == (px["ball"], 1, found.cases)


def test_the_sample_depends_on_the_case_alone(tmp_path):
    manifest, split = make_volumes(tmp_path)
    assert measure(manifest, split, tmp_path / "data", jobs=1) == measure(manifest, split, tmp_path / "data", jobs=2)


def test_photographs_are_measured(tmp_path):
    manifest = make_data(tmp_path)
    split = make_split(manifest, "main", (0.6, 0.2, 0.2))
    done = []
    found = measure(manifest, split, tmp_path / "data", lambda *at: done.append(at), jobs=1)
    assert found.cases == 12 and done[-1] == (12, 12)
    assert found.sizes_px[0] in {(40 + 3 * a, 60 + 7 * b) for a in range(4) for b in range(3)}
    assert 40 / 255 < found.mean_rgb[2] < found.mean_rgb[0] < 220 / 255  # the discs are red
    disc, square = found.classes
    assert disc.cases == 12 and 0 < square.cases < 12 and disc.volume_mm3 is None


def test_the_record_is_plain_and_says_what_it_was_measured_on(tmp_path):
    manifest, split = make_volumes(tmp_path)
    found = json.loads(json.dumps(to_json(measure(manifest, split, tmp_path / "data", jobs=1), manifest, split)))
    assert found["measured_on"] == {"manifest_sha256": manifest.digest, "split": "main", "fold": None, "part": "train"}
    assert found["kind"] == "volumes" and found["classes"][1]["name"] == "cube"


def test_a_voxel_that_is_no_number_is_refused(tmp_path):
    manifest, split = make_volumes(tmp_path, holes=1)
    with pytest.raises(ImageError, match=r"the volume holds voxels that are no numbers \(NaN or infinity\); mend the file"):
        measure(manifest, split, tmp_path / "data", jobs=1)


def test_volumes_of_different_channels_are_refused(tmp_path):
    manifest, split = make_volumes(tmp_path)
    path = tmp_path / f"data/images/{split.ids('train')[-1]}.nii.gz"
    array, affine = read_volume(path)
    write_volume(path, np.stack([array, array], axis=3), affine)
    with pytest.raises(
        ManifestError, match=r"1 channel in case_\d, another number in this volume \(.* has 2\); make a manifest of volumes"
    ):
        measure(manifest, split, tmp_path / "data", jobs=1)


def test_a_photograph_among_volumes_is_refused(tmp_path):
    manifest, split = make_volumes(tmp_path)
    manifest.frame.loc[manifest.frame["sample_id"] == split.ids("train")[0], "depth_px"] = None
    with pytest.raises(ManifestError, match="a photograph among volumes: 1 of the 3 training rows have no depth; make a manifest of each"):
        measure(manifest, split, tmp_path / "data", jobs=1)


def test_a_split_without_training_rows_or_without_masks_is_refused(tmp_path):
    manifest, split = make_volumes(tmp_path)
    manifest.frame.loc[:, "mask"] = None
    with pytest.raises(ManifestError, match="no labelled image in the split 'train'"):
        measure(manifest, split, tmp_path / "data", jobs=1)
    split.frame.loc[:, "split"] = "test"
    with pytest.raises(ManifestError, match="no image in the split 'train'"):
        measure(manifest, split, tmp_path / "data", jobs=1)


def test_a_training_set_of_background_alone_is_refused(tmp_path):
    manifest, split = make_volumes(tmp_path)
    manifest.frame.loc[:, ["px_ball", "px_cube"]] = 0
    with pytest.raises(ManifestError, match="no training row holds a class: all that is labelled is background"):
        measure(manifest, split, tmp_path / "data", jobs=1)


def test_masks_of_another_grid_or_files_that_are_gone_are_refused(tmp_path):
    manifest, split = make_volumes(tmp_path)
    with pytest.raises(ManifestError, match="there is no image .*; check --data-root"):
        measure(manifest, split, tmp_path / "elsewhere", jobs=1)
    name = split.ids("train")[0]
    write_labels(tmp_path / f"data/masks/{name}.nii.gz", np.zeros((4, 4, 4), np.uint8), np.eye(4))
    with pytest.raises(ManifestError, match="lies on another grid than its image"):
        measure(manifest, split, tmp_path / "data", jobs=1)
