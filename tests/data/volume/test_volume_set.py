"""What preprocessing a volume takes, by which its workers are numbered."""

from __future__ import annotations

import json
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from medseg.config.volume import ChannelConfig, VolumeConfig
from medseg.data.volume.decode import preprocess, stored
from medseg.data.volume.volumeset import working_bytes
from medseg.manifest.importers.nnunet import import_nnunet
from medseg.manifest.table import read_manifest


@pytest.mark.parametrize(("spacing", "channels"), [(1.0, 1), (1.6, 1), (0.8, 1), (1.0, 3)])
def test_the_memory_that_is_reckoned_with_is_what_is_taken(tmp_path, channels, spacing):
    manifest = written(tmp_path, channels)
    row, config = manifest.row(0), VolumeConfig(spacing_mm=(spacing,) * 3, channels=(ChannelConfig(),) * channels)
    reckoned = working_bytes(stored(manifest, row, tmp_path, config), config)
    preprocess(manifest, row, tmp_path, config)  # what is kept over volumes
    tracemalloc.start()
    preprocess(manifest, row, tmp_path, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= reckoned <= 2 * peak, f"{peak:,} {reckoned:,}"


def written(root, channels, shape=(72, 64, 64)):
    """The manifest of one noisy volume, int16 as CT is stored."""
    generator = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for channel in range(channels):
        noise = generator.integers(1, 1000, shape).astype(np.int16)
        nib.Nifti1Image(noise, np.eye(4)).to_filename(root / "imagesTr" / f"a_{channel:04d}.nii.gz")
    mask = np.zeros(shape, np.uint8)
    mask[20:40, 20:40, 20:40] = 1
    nib.Nifti1Image(mask, np.eye(4)).to_filename(root / "labelsTr" / "a.nii.gz")
    names = {str(channel): f"MR{channel}" for channel in range(channels)}
    told = {"channel_names": names, "labels": {"background": 0, "ball": 1}, "numTraining": 1, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(told))
    import_nnunet(root, root / "manifest")
    return read_manifest(root / "manifest")
