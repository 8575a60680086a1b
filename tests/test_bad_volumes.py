"""Bad volumes, by the command line: one clear error that names the file, the rule and the way out, or the right result."""

from __future__ import annotations

import re
import sys

import nibabel as nib
import numpy as np
import pytest

from medseg import api
from medseg.cli import main
from tests.data.volume.made import EXPERIMENT, make_experiment, make_volumes, stored

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHEARED, MOVED = AFFINE.copy(), AFFINE.copy()
SHEARED[0, 1], MOVED[0, 3] = 0.4, 5.0
IMPORT = ("manifest", "import", "nifti", "--classes", "ball,box")
NOISE = np.random.default_rng(0).normal(200, 50, (18, 22, 14)).astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(data root, a run trained for an epoch)."""
    root = tmp_path_factory.mktemp("bad_volumes")
    data_root, experiment = make_experiment(root, 6, (0.5, 0.25, 0.25))
    return data_root, api.train(experiment, ["train.epochs=1", "train.preview_every=1"], data_root, root / "runs")


@pytest.fixture
def medseg(monkeypatch, capfd):
    """The console script in this process: (exit code, all that was printed, on one line). A mistake ends in SystemExit alone."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, " ".join("".join(capfd.readouterr()).split())

    return run


def nifti(path, array, affine=AFFINE, **fields):
    """A file whose header says `fields`, whatever the array is."""
    image = nib.Nifti1Image(array, affine)
    image.to_filename(path)
    if fields:
        content = bytearray(path.read_bytes())
        header = np.frombuffer(content, nib.Nifti1Header.template_dtype, 1).copy()
        for name, value in fields.items():
            header[name] = value
        path.write_bytes(header.tobytes() + bytes(content[header.nbytes :]))
    return path


def with_nan():
    array = NOISE.copy()
    array[3, 4, 5] = np.nan
    return array


BAD = {
    "zero_spacing": (lambda path: nifti(path, NOISE, pixdim=[1, 0, 1, 2, 0, 0, 0, 0], sform_code=0), "spacing|pixdim"),
    "sheared": (lambda path: nifti(path, NOISE, SHEARED), "meet at .* degrees, not 90"),
    "four_axes": (lambda path: nifti(path, np.stack([NOISE] * 3, axis=3)), "3 channels|has 3"),
    "not_a_number": (lambda path: nifti(path, with_nan()), "voxels that are no numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_volume_is_not_predicted(world, tmp_path, medseg, name):
    _, run = world
    write, message = BAD[name]
    path = write(tmp_path / f"{name}.nii")
    code, told = medseg("predict", run.path, path, "--out", tmp_path / "out")
    assert code != 0 and "Traceback" not in told and path.name in told.replace(" ", ""), told
    assert re.search(message, told), told
    assert not list((tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.parametrize("shape", [(18, 22, 1), pytest.param((40, 7, 3), marks=pytest.mark.slow), (3, 3, 3)])
def test_one_slice_and_volumes_smaller_than_a_patch_are_predicted_on_their_own_grid(world, tmp_path, medseg, shape):
    _, run = world
    path = tmp_path / "small.nii.gz"
    stored(np.resize(NOISE, shape), (1.0, 1.0, 2.0), "LPS").to_filename(path)
    code, told = medseg("predict", run.path, path, "--out", tmp_path / "out")
    assert code == 0, told
    mask, image = nib.load(tmp_path / "out" / "small.nii.gz"), nib.load(path)
    assert mask.shape == image.shape and np.array_equal(mask.affine, image.affine) and set(np.unique(mask.dataobj)) <= {0, 1, 2}


@pytest.mark.slow
def test_a_set_with_a_single_slice_and_a_tiny_volume_is_trained_and_scored(tmp_path, medseg):
    manifest, data_root = make_volumes(tmp_path, 6)
    for place, shape in ((0, (18, 22, 1)), (1, (6, 5, 4))):
        mask = np.zeros(shape, np.uint8)
        mask[1:4, 1:4], mask[4:6, 1:4] = 1, 2
        for folder, array in (("images", np.rint(np.resize(NOISE, shape)).astype(np.int16)), ("labels", mask)):
            stored(array, (1.0, 1.0, 2.0), "RAS").to_filename(data_root / folder / f"case_{place}.nii.gz")
    out = tmp_path / "small"
    code, told = medseg(*IMPORT, "--images", data_root / "images", "--masks", data_root / "labels", "--out", out)
    assert code == 0, told
    parts = [f"case_{place},{('train', 'test', 'val')[place % 3]}\n" for place in (0, 1, 2, 3, 4, 5)]
    (tmp_path / "split.csv").write_text("sample,split\n" + "".join(parts))
    code, told = medseg("manifest", "split", out, "--from", tmp_path / "split.csv", "--name", "main")
    assert code == 0, told
    experiment = tmp_path / "small.yaml"
    experiment.write_text(EXPERIMENT.format(manifest=out, cache=tmp_path / "cache"))
    run = api.train(experiment, ["train.epochs=1", "train.preview_every=1"], data_root, tmp_path / "runs")
    found = api.evaluate(run.path, "test", data_root)
    assert found.scores.per_image["ball"]["iou"].n == 2


IMPORTS = {
    "label_on_another_grid": (NOISE, AFFINE, np.zeros((18, 22, 13), np.uint8), AFFINE, "18 x 22 x 13, its image bad.nii is 18 x 22 x 14"),
    "label_moved": (NOISE, AFFINE, np.ones(NOISE.shape, np.uint8), MOVED, "lies elsewhere than its image"),
    "label_not_whole": (NOISE, AFFINE, np.full(NOISE.shape, 0.5, np.float32), AFFINE, "0.5"),
    "label_of_no_class": (NOISE, AFFINE, np.full(NOISE.shape, 9, np.uint8), AFFINE, r"holds ids \{9\}"),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_bad_pair_is_not_imported_and_the_others_are_where_asked(world, tmp_path, medseg, name):
    data_root, _ = world
    image, image_affine, mask, mask_affine, message = IMPORTS[name]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        good = data_root / folder / "case_0.nii.gz"
        (tmp_path / folder / good.name).write_bytes(good.read_bytes())
    nifti(tmp_path / "images" / "bad.nii", image, image_affine)
    nifti(tmp_path / "labels" / "bad.nii", mask, mask_affine)
    import_ = [*IMPORT, "--images", tmp_path / "images", "--masks", tmp_path / "labels"]
    code, told = medseg(*import_, "--out", tmp_path / "v1")
    assert code != 0 and "bad.nii" in told.replace(" ", "") and re.search(message, told), told
    assert not (tmp_path / "v1" / "manifest.csv").exists()
    code, told = medseg(*import_, "--out", tmp_path / "v1", "--skip-refused")
    assert code == 0 and "1 refused" in told, told
