"""Files -> the network's grid and back: every orientation, other spacings, and what is refused."""

from __future__ import annotations

import json
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from medseg.config.volume import ChannelConfig, VolumeConfig
from medseg.data.volume.decode import Stored, check_grid, place_mask, prepared, preprocess, read_image, sides_of, slices, stored
from medseg.data.volume.store import VolumeStore, most_bytes
from medseg.data.volume.volumeset import unprepared
from medseg.engine.volumes import planes_on_box
from medseg.errors import ConfigError, ImageError, ManifestError
from medseg.grid import turn_of
from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.importers.nnunet import import_nnunet
from medseg.manifest.table import read_manifest
from medseg.volumes import read_header, read_label_volume, write_labels
from tests.data.volume.made import make_volumes
from tests.data.volume.made import stored as turned_file

EVERY = ["".join(pick) for order in permutations(("RL", "AP", "SI")) for pick in product(*order)]


def organs(shape=(120, 140, 80), spacing=(0.5, 0.5, 0.75)) -> np.ndarray:
    """Three ellipsoids, (X, Y, Z) of RAS; with the spacing of `written` their half axes are 20 to 44 mm, as of a kidney or a spleen."""
    at = [np.arange(side) * mm for side, mm in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*at, indexing="ij")
    mask = np.zeros(shape, np.uint8)
    for class_id, (centre, radii) in enumerate(
        [((20, 40, 30), (16, 22, 20)), ((44, 22, 28), (12, 14, 18)), ((46, 54, 24), (10, 12, 14))], start=1
    ):
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), centre, radii, strict=True)) <= 1
        mask[inside] = class_id
    return mask


def written(root, mask, code, spacing=(1.0, 1.0, 1.5)):
    """(manifest, data root) of one case whose image is the mask's own ids."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        turned_file(mask if folder == "labels" else mask.astype(np.int16) + 1, spacing, code).to_filename(root / folder / "a.nii.gz")
    import_nifti(root / "images", root / "labels", root / "manifest", classes=["a", "b", "c"])
    return read_manifest(root / "manifest"), root


def there_and_back(manifest, root, config) -> np.ndarray:
    """The label volume on the network's grid, and from there, as a sure network would say it, back into a file."""
    row = manifest.row(0)
    volume, record = stored(manifest, row, root, config), preprocess(manifest, row, root, config)
    probs = one_hot(torch.from_numpy(record.mask_DHW.astype(np.int64)), 4).permute(3, 0, 1, 2).float()
    planes = planes_on_box((probs[:, place] for place in range(probs.shape[1])), probs.shape[1], sides_of(record.box))
    mask_DHW = np.zeros(volume.turn.shape, np.uint8)
    mask_DHW[slices(record.box)] = torch.stack([plane.argmax(0) for plane in planes]).numpy()
    write_labels(root / "back.nii.gz", volume.turn.backward(mask_DHW), volume.affine)
    return read_label_volume(root / "back.nii.gz")


def dice(one: np.ndarray, other: np.ndarray) -> list[float]:
    return [2 * ((one == c) & (other == c)).sum() / ((one == c).sum() + (other == c).sum()) for c in (1, 2, 3)]


def test_there_are_48_orientations():
    assert len(set(EVERY)) == 48


@pytest.mark.parametrize(
    "code", [code if place % 8 == 3 else pytest.param(code, marks=pytest.mark.slow) for place, code in enumerate(EVERY)]
)
def test_at_its_own_spacing_a_label_volume_comes_back_voxel_by_voxel(tmp_path, code):
    manifest, root = written(tmp_path, organs((9, 11, 8), (6.0, 6.0, 7.0)), code)
    spacing = {"z": 1.5, "y": 1.0, "x": 1.0}
    for axis in ("z", "x"):
        names = (axis, *(name for name in "zyx" if name != axis))
        back = there_and_back(manifest, root, VolumeConfig(spacing_mm=[spacing[name] for name in names], depth_axis=axis))
        original = nib.load(root / "labels" / "a.nii.gz")
        assert np.array_equal(back, np.asarray(original.dataobj)) and (read_header(root / "back.nii.gz").affine == original.affine).all()


@pytest.mark.parametrize("code", ["SAR"])
def test_at_another_spacing_it_comes_back_nearly(tmp_path, code):
    """Hard labels on planes of 3 mm and back: what is thinner than an organ loses more (docs/volumes.md)."""
    manifest, root = written(tmp_path, organs(), code)
    back = there_and_back(manifest, root, VolumeConfig(spacing_mm=(3.0, 0.7, 0.7)))
    original = np.asarray(nib.load(root / "labels" / "a.nii.gz").dataobj)
    assert min(dice(back, original)) >= 0.98, [round(one, 4) for one in dice(back, original)]


@pytest.mark.slow
@pytest.mark.parametrize("code", EVERY)
def test_at_another_spacing_it_comes_back_nearly_in_every_orientation(tmp_path, code):
    test_at_another_spacing_it_comes_back_nearly(tmp_path, code)


def test_an_image_is_cropped_normalised_and_resampled(tmp_path):
    manifest, root = make_volumes(tmp_path, 2)
    config = VolumeConfig(spacing_mm=(1, 1, 1))
    record = preprocess(manifest, manifest.row(0), root, config)
    assert record.image_CDHW.shape == (1, 28, 22, 18) and record.mask_DHW.shape == (28, 22, 18) and record.image_CDHW.dtype == np.float32
    assert abs(record.image_CDHW.mean()) < 0.05 and abs(record.image_CDHW.std() - 1) < 0.1
    ball, box = (record.image_CDHW[0][record.mask_DHW == class_id].mean() for class_id in (1, 2))
    assert 1 < ball < box, "the labels lie on the image"


def test_every_orientation_gives_the_same_network_image(tmp_path):
    mask = organs((9, 11, 8), (6.0, 6.0, 7.0))
    found = []
    for code in ("RAS", "LPI", "AIR", "SPL"):
        manifest, root = written(tmp_path / code, mask, code)
        found.append(preprocess(manifest, manifest.row(0), root, VolumeConfig(spacing_mm=(1.5, 1, 1))))
    for record in found[1:]:
        assert np.array_equal(record.image_CDHW, found[0].image_CDHW) and np.array_equal(record.mask_DHW, found[0].mask_DHW)


def test_what_is_zero_around_is_cropped_and_the_box_is_kept(tmp_path):
    mask = np.zeros((12, 13, 14), np.uint8)
    mask[3:7, 4:9, 5:8] = 1
    manifest, root = written(tmp_path, mask, "RAS")
    image = nib.Nifti1Image(mask.astype(np.int16) * 7, np.diag([1, 1, 1.5, 1]))
    image.to_filename(root / "images" / "a.nii.gz")
    import_nifti(root / "images", root / "labels", root / "again", classes=["a", "b", "c"])
    manifest = read_manifest(root / "again")
    record = preprocess(manifest, manifest.row(0), root, VolumeConfig(spacing_mm=(1.5, 1, 1)))
    assert record.box == ((5, 8), (4, 9), (3, 7)) and record.image_CDHW.shape == (1, 3, 5, 4)
    whole = preprocess(manifest, manifest.row(0), root, VolumeConfig(spacing_mm=(1.5, 1, 1), crop="none"))
    assert whole.image_CDHW.shape == (1, 14, 13, 12)


def test_a_window_is_clipped_and_scaled_by_its_numbers(tmp_path):
    manifest, root = make_volumes(tmp_path, 1)
    how = ChannelConfig(normalise="window", lower=80, upper=400, mean=200, deviation=50)
    record = preprocess(manifest, manifest.row(0), root, VolumeConfig(spacing_mm=(2, 1, 1), channels=[how]))
    original = np.asarray(nib.load(root / "images" / "case_0.nii.gz").dataobj).transpose(2, 1, 0)
    assert np.allclose(record.image_CDHW[0], (np.clip(original, 80, 400) - 200.0) / 50, atol=1e-5)


def test_zscore_inside_is_of_the_holes_too(tmp_path):
    """26 voxels of 2 around a 0: of the 27, mean 52 / 27 and deviation sqrt(104) / 27; what lies outside stays 0."""
    image = np.zeros((1, 5, 5, 5), np.float32)
    image[0, 1:4, 1:4, 1:4] = 2
    image[0, 2, 2, 2] = 0
    volume = Stored((5, 5, 5), np.eye(4), turn_of((5, 5, 5), np.eye(4), "a"), 1)
    config = VolumeConfig(spacing_mm=(1, 1, 1), crop="none", channels=[ChannelConfig(normalise="zscore_inside")])
    found, _ = prepared(image, volume, config, "a")
    expected = np.where(image == 2, 2 / 104**0.5, 0)
    expected[0, 2, 2, 2] = -52 / 104**0.5
    assert np.allclose(found, expected, atol=1e-5)


def test_a_grid_of_over_8_gib_is_refused_and_a_fine_ct_is_not():
    def check(shape, spacing, channels=1):
        affine = np.diag([*spacing, 1.0])
        check_grid(Stored(shape, affine, turn_of(shape, affine, "a"), channels), VolumeConfig(spacing_mm=(0.5, 0.5, 0.5)), "a")

    check((512, 512, 600), (0.98, 0.98, 1.5))
    for arguments in [((512, 512, 600), (0.98, 0.98, 1.5), 2), ((50, 50, 50), (1000, 1000, 1000)), ((4, 4, 4), (1e30, 1, 1))]:
        with pytest.raises(ImageError, match="a: at the spacing that its header says, .* voxels, over 2,147,483,648 in all; correct the"):
            check(*arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, bad):
    manifest, root = make_volumes(tmp_path, 1)
    volume = stored(manifest, manifest.row(0), root, VolumeConfig(spacing_mm=(1, 1, 1)))
    image = np.ones((1, *volume.turn.shape), np.float32)
    image[0, 1, 1, 1] = bad
    with pytest.raises(ImageError, match="voxels that are no numbers"):
        prepared(image, volume, VolumeConfig(spacing_mm=(1, 1, 1)), "case_0")


def test_channels_are_those_that_are_told(tmp_path):
    manifest, root = make_volumes(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"data.volume.channels: 2 channels are told, and .*case_0.nii.gz has 1; name one a channel"):
        stored(manifest, manifest.row(0), root, VolumeConfig(spacing_mm=(1, 1, 1), channels=[ChannelConfig(), ChannelConfig()]))


def test_channels_on_two_grids_are_refused(tmp_path):
    """Moved after the import."""
    for folder, name in (("imagesTr", "a_0000"), ("imagesTr", "a_0001"), ("labelsTr", "a")):
        (tmp_path / folder).mkdir(exist_ok=True)
        nib.Nifti1Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 2, np.eye(4)).to_filename(tmp_path / folder / f"{name}.nii.gz")
    told = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "ball": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    import_nnunet(tmp_path, tmp_path / "manifest")
    manifest = read_manifest(tmp_path / "manifest")
    assert read_image(manifest, manifest.row(0), tmp_path).shape == (3, 4, 5, 2)
    for array, affine in ((np.ones((3, 4, 6)), np.eye(4)), (np.ones((3, 4, 5)), np.diag([1.0, 1, 2, 1]))):
        nib.Nifti1Image(array, affine).to_filename(tmp_path / "imagesTr" / "a_0001.nii.gz")
        with pytest.raises(ImageError, match=r"manifest.csv row 2 \(a\): .*a_0001.nii.gz lies on another grid than .*a_0000.nii.gz"):
            read_image(manifest, manifest.row(0), tmp_path)


def test_a_file_that_has_changed_is_refused(tmp_path):
    manifest, root = make_volumes(tmp_path, 1)
    config = VolumeConfig(spacing_mm=(1, 1, 1))
    path = root / "images" / "case_0.nii.gz"
    image = nib.load(path)
    array = np.array(image.dataobj)
    array[0, 0, 0] += 1
    nib.Nifti1Image(array, image.affine).to_filename(path)
    with pytest.raises(ManifestError, match=r"manifest.csv row 2 \(case_0\): .*case_0.nii.gz has changed since the import"):
        preprocess(manifest, manifest.row(0), root, config)
    nib.Nifti1Image(array[1:], image.affine).to_filename(path)
    with pytest.raises(ManifestError, match="17 x 22 x 14 voxels, the manifest says 18 x 22 x 14"):
        stored(manifest, manifest.row(0), root, config)


def test_the_ignore_id_is_resampled_as_what_it_is(tmp_path):
    manifest, root = make_volumes(tmp_path, 1)
    config = VolumeConfig(spacing_mm=(1, 1, 1))
    volume = stored(manifest, manifest.row(0), root, config)
    mask = np.full(volume.turn.shape, 255, np.uint8)
    mask[:7] = 1
    found = place_mask(mask, volume, config, manifest.labels)
    assert set(np.unique(found)) == {1, 255} and (found[:13] == 1).all() and (found[15:] == 255).all()


# --- the store


def test_records_are_kept_and_read_back_and_a_damaged_one_is_made_again(tmp_path):
    manifest, root = make_volumes(tmp_path, 3)
    store = VolumeStore(tmp_path / "cache", 2**30)
    data = unprepared(manifest, list(manifest), root, store, VolumeConfig(spacing_mm=(1, 1, 1)))
    store.make_room(data.most)
    told = []
    data.fill(lambda *call: told.append(call))
    assert told == [(1, 3), (2, 3), (3, 3)]
    for place, row in enumerate(data.rows):
        fresh, kept = preprocess(manifest, row, root, data.config), data.record(place)
        assert np.array_equal(fresh.image_CDHW, kept.image_CDHW) and np.array_equal(fresh.mask_DHW, kept.mask_DHW) and fresh.box == kept.box
        assert store.path(data.keys[place]).stat().st_size <= data.most[data.keys[place]] == most_bytes(1, fresh.mask_DHW.size)
    path = store.path(data.keys[1])
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    again = unprepared(manifest, list(manifest), root, VolumeStore(tmp_path / "cache", 2**30), data.config)
    assert again.store.read(again.keys[1]) is None
    assert np.array_equal(again.record(1).image_CDHW, fresh_image(manifest, root, data.config)), "made anew"
    assert again.store.read(again.keys[1]) is not None


def fresh_image(manifest, root, config):
    return preprocess(manifest, manifest.row(1), root, config).image_CDHW


@pytest.mark.parametrize("affine", [np.diag([2.0, 1, 2, 1]), np.diag([-1.0, 1, 2, 1]), np.eye(4)[[1, 0, 2, 3]] @ np.diag([1.0, 1, 2, 1])])
def test_the_same_voxels_lying_otherwise_have_a_record_of_their_own(tmp_path, affine):
    """An import of DICOM files mended: its hash is of the voxels alone."""
    manifest, root = make_volumes(tmp_path, 1)
    path = root / "images" / "case_0.nii.gz"

    def key():
        return unprepared(manifest, list(manifest), root, VolumeStore(tmp_path, 1), VolumeConfig(spacing_mm=(1, 1, 1))).keys[0]

    before, image = key(), nib.load(path)
    assert key() == before
    nib.Nifti1Image(np.asarray(image.dataobj), affine).to_filename(path)
    assert key() != before


def test_another_config_has_records_of_its_own(tmp_path):
    manifest, root = make_volumes(tmp_path, 1)
    configs = [VolumeConfig(spacing_mm=(1, 1, 1)), VolumeConfig(spacing_mm=(2, 1, 1)), VolumeConfig(spacing_mm=(1, 1, 1), crop="none")]
    keys = {unprepared(manifest, list(manifest), root, VolumeStore(tmp_path, 1), config).keys[0] for config in configs}
    assert len(keys) == 3


def test_a_store_that_is_too_small_says_so_before_anything_is_read(tmp_path):
    manifest, root = make_volumes(tmp_path, 2)
    data = unprepared(manifest, list(manifest), root, VolumeStore(tmp_path / "cache", 1000), VolumeConfig(spacing_mm=(1, 1, 1)))
    with pytest.raises(ConfigError, match="data.cache_gib: these 2 volumes take .* decoded, the limit is 1000 bytes; raise it, or choose"):
        data.store.make_room(data.most)
