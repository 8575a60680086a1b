"""Masks of one case in two formats are one pair on one grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medseg.pairing import pair_up, read_ids
from medseg.volumes import same_affine, write_labels


def test_a_reference_in_nifti_and_a_prediction_in_another_format(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    affine = np.array([[0, -0.5, 0, 7], [0.75, 0, 0, 8], [0, 0, 2, 9], [0, 0, 0, 1]])
    for folder in ("reference", "prediction"):
        (tmp_path / folder).mkdir()
    for name, ending in (("a", "_seg.mha"), ("b", "_pred.nrrd")):
        write_labels(tmp_path / f"reference/{name}.nii.gz", mask, affine)
        sitk.WriteImage(sitk.ReadImage(tmp_path / f"reference/{name}.nii.gz"), tmp_path / f"prediction/{name}{ending}")
    pairs = pair_up(tmp_path / "reference", tmp_path / "prediction")
    assert [pair.sample_id for pair in pairs] == ["a", "b"]
    for pair in pairs:
        one, other = read_ids(Path(pair.reference), {}), read_ids(Path(pair.prediction), {})
        assert np.array_equal(one.ids, other.ids) and other.affine is not None and same_affine(one.affine, other.affine)
        assert one.spacing_mm == other.spacing_mm == (0.75, 0.5, 2.0)
