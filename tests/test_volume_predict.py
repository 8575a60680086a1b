"""Which files of a folder are one volume to predict, what its results are called, and what is told before a network is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg import api
from medseg.config.volume import ChannelConfig, VolumeConfig
from medseg.errors import ConfigError, ImageError
from medseg.manifest.importers.nnunet import import_nnunet
from medseg.manifest.split import make_split
from medseg.manifest.table import read_manifest
from medseg.predicting import find_images, stems_of
from medseg.segmenters.runs import VolumeSegmenter
from tests.data.volume.made import EXPERIMENT, draw

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
TWO = "data.volume.channels=[{}, {}]"


def segmenter(channels: int) -> VolumeSegmenter:
    config = VolumeConfig(spacing_mm=(2, 1, 1), channels=(ChannelConfig(),) * channels)
    return VolumeSegmenter((Path("run"),), "best", config)


def write(folder, name, channels=1, affine=AFFINE, shape=(6, 7, 5)):
    folder.mkdir(parents=True, exist_ok=True)
    image = np.arange(np.prod(shape) * channels, dtype=np.int16).reshape(*shape, channels)
    nib.Nifti1Image(image if channels > 1 else image[..., 0], affine).to_filename(folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def results(folder, channels):
    """stem of the image's file -> what its results are called."""
    segment = segmenter(channels)
    found = find_images([folder], folder / "out", segment)
    return {segment.stem(path): stem for (path, _), stem in zip(found, stems_of(found, segment), strict=True)}


# --- which files are an image


def test_channel_files_are_one_image(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        write(tmp_path, name)
    assert results(tmp_path, 2) == {"a_0000": "a", "b_0000": "b"}


@pytest.mark.parametrize("numbers", [range(3), range(1, 4), range(98, 102)])
def test_patients_that_are_numbered_as_channels_are_all_predicted(tmp_path, numbers):
    names = [f"patient_{number:04d}" for number in numbers]
    for name in names:
        write(tmp_path, name, channels=2)
    assert results(tmp_path, 2) == {name: name for name in names}


def test_files_of_several_channels_stand_beside_files_a_channel(tmp_path):
    write(tmp_path, "a_0000"), write(tmp_path, "a_0001"), write(tmp_path, "b", channels=2), write(tmp_path, "c_0000", channels=2)
    assert results(tmp_path, 2) == {"a_0000": "a", "b": "b", "c_0000": "c"}


def test_a_channel_that_is_missing_or_too_many_is_told(tmp_path):
    write(tmp_path / "first", "a_0000"), write(tmp_path / "later", "a_0001")
    for channel in range(3):
        write(tmp_path / "three", f"a_{channel:04d}")
    with pytest.raises(ImageError, match=r"a_0001.nii.gz: the image has 2 channels, one a file, and this one is missing"):
        results(tmp_path / "first", 2)
    with pytest.raises(ConfigError, match=r"2 channels are told, and .*later/a_0001.nii.gz has 1"):
        results(tmp_path / "later", 2)
    with pytest.raises(ConfigError, match=r"2 channels are told, and .*three/a_0002.nii.gz has 1"):
        results(tmp_path / "three", 2)


# --- what its results are called


def test_of_one_channel_a_case_is_called_as_its_labels_are(tmp_path):
    for name in ("a_0000", "b_0000", "c"):
        write(tmp_path, name)
    assert results(tmp_path, 1) == {"a_0000": "a", "b_0000": "b", "c": "c"}


def test_where_two_would_have_one_name_each_keeps_its_own(tmp_path):
    write(tmp_path, "a_0000"), write(tmp_path, "a"), write(tmp_path / "inner", "a_0000"), write(tmp_path, "b_0000")
    segment = segmenter(1)
    found = find_images([tmp_path], tmp_path / "out", segment)
    stems = {name.as_posix(): stem for (_, name), stem in zip(found, stems_of(found, segment), strict=True)}
    assert stems == {"a_0000.nii.gz": "a_0000", "a.nii.gz": "a", "b_0000.nii.gz": "b", "inner/a_0000.nii.gz": "a"}


def test_numbered_volumes_of_one_channel_keep_their_numbers(tmp_path):
    for number in range(3):
        write(tmp_path, f"scan_{number:04d}")
    assert results(tmp_path, 1) == {f"scan_{number:04d}": f"scan_{number:04d}" for number in range(3)}


# --- what is told before a network is loaded


@pytest.mark.parametrize(
    "other", [{"shape": (6, 7, 4)}, {"affine": AFFINE + np.eye(4, k=3) * 5}, {"affine": np.diag([-1.0, 1.0, 2.0, 1.0])}, {"channels": 2}]
)
def test_channels_on_two_grids_are_refused(tmp_path, other):
    write(tmp_path, "a_0000"), write(tmp_path, "a_0001", **other)
    with pytest.raises(ImageError, match=r"a_0000.nii.gz: .*a_0001.nii.gz lies on another grid than .*a_0000.nii.gz; export the channels"):
        find_images([tmp_path / "a_0000.nii.gz"], tmp_path / "out", segmenter(2))


def test_a_header_that_says_metres_is_refused(tmp_path):
    path = write(tmp_path, "a", affine=np.diag([1000.0, 1000.0, 2000.0, 1.0]))
    rule = "a.nii.gz: at the spacing that its header says, 2000 x 1000 x 1000 mm, .* 5,000 x 7,000 x 6,000 voxels, over 2,147,483,648"
    with pytest.raises(ImageError, match=rule + " in all; correct the spacing"):
        find_images([path], tmp_path / "out", segmenter(1))


# --- a whole prediction


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(nnU-Net folder of two channels, a run of an epoch on it)."""
    root = tmp_path_factory.mktemp("two_channels")
    source = root / "Dataset001_Two"
    for place in range(4):
        first, mask = draw(place)
        for folder, name, array in (("imagesTr", "_0000", first), ("imagesTr", "_0001", first.max() - first), ("labelsTr", "", mask)):
            (source / folder).mkdir(parents=True, exist_ok=True)
            nib.Nifti1Image(array, AFFINE).to_filename(source / folder / f"case_{place}{name}.nii.gz")
    told = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "ball": 1, "box": 2}, "file_ending": ".nii.gz"}
    (source / "dataset.json").write_text(json.dumps(told))
    import_nnunet(source, root / "manifest")
    make_split(read_manifest(root / "manifest"), "main", (0.5, 0.25, 0.25), seed=0)
    experiment = root / "tiny3d.yaml"
    experiment.write_text(EXPERIMENT.format(manifest=root / "manifest", cache=root / "cache"))
    return source, api.train(experiment, [TWO, "train.epochs=1", "train.preview_every=1"], source, root / "runs")


def test_a_file_of_two_channels_and_two_files_of_one_have_one_mask(world, tmp_path):
    source, run = world
    channels = [nib.load(source / "imagesTr" / f"case_1_000{channel}.nii.gz") for channel in range(2)]
    both = np.stack([np.asarray(channel.dataobj) for channel in channels], axis=3)
    nib.Nifti1Image(both, AFFINE).to_filename(tmp_path / "both_0000.nii.gz")
    paths = [source / "imagesTr" / "case_1_0000.nii.gz", tmp_path / "both_0000.nii.gz"]
    masks = [item.mask for item in api.predict(run.path, paths, tmp_path / "out")]
    assert [mask.name for mask in masks] == ["case_1.nii.gz", "both.nii.gz"]
    assert np.array_equal(*(np.asarray(nib.load(mask).dataobj) for mask in masks))


def test_predict_keeps_a_quaternion_s_affine_bit_for_bit(world, tmp_path):
    _, run = world
    oblique = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.07, 0.03) @ np.diag([0.7, 0.9, 2.1]), (3.3, -7.7, 1.1))
    image = nib.Nifti1Image(np.random.default_rng(0).integers(1, 500, (18, 22, 14, 2)).astype(np.int16), oblique)
    image.set_qform(oblique, 1)
    image.set_sform(None, 0)
    image.to_filename(tmp_path / "a.nii.gz")
    [item] = api.predict(run.path, [tmp_path / "a.nii.gz"], tmp_path / "out")
    assert np.array_equal(nib.load(item.mask).affine, nib.load(tmp_path / "a.nii.gz").affine)
