"""The whole way of volumes: train, resume, evaluate, predict, post-process; in three dimensions and by slices."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import yaml
from scipy import ndimage

from medseg import api
from medseg.errors import ConfigError, ImageError, ManifestError, RunError
from medseg.evaluation import Asked
from medseg.files import write_json
from medseg.manifest.split import make_split
from medseg.manifest.table import read_manifest
from tests.data.volume.made import make_experiment
from tests.tiny import make_all

BRIEFLY = Asked(boundary=False, calibration=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, data root, experiment, a trained run)."""
    root = tmp_path_factory.mktemp("volumes")
    data_root, experiment = make_experiment(root, 10, (0.6, 0.2, 0.2))
    return root, data_root, experiment, api.train(experiment, [], data_root, root / "runs")


def test_a_run_learns_and_shows_planes(world):
    _, _, _, run = world
    lines = list(run.metrics())
    losses = [line["metrics"]["train/loss/total"] for line in lines]
    assert losses[-1] < 0.8 * losses[0], losses
    assert lines[-1]["metrics"]["train/drawn_centre_ratio/ball"] == 0.5
    assert (run.previews / "epoch_0008.jpg").stat().st_size > 1000


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_bytes(world, tmp_path):
    root, data_root, experiment, whole = world
    progress = api.Progress(on_step=stop_at(9))
    with pytest.raises(KeyboardInterrupt):
        api.train(experiment, [], data_root, tmp_path, progress)
    [stopped] = [path for path in tmp_path.iterdir() if path.is_dir()]
    resumed = api.resume(stopped, data_root)
    assert resumed.checkpoint("last").read_bytes() == whole.checkpoint("last").read_bytes()
    assert resumed.metrics_jsonl.read_text() == whole.metrics_jsonl.read_text()


def stop_at(at):
    def on_step(step, score):
        if step == at:
            raise KeyboardInterrupt

    return on_step


def test_it_is_scored_on_the_files_own_grids(world):
    _, data_root, _, run = world
    found = api.evaluate(run.path, "test", data_root)
    for path in sorted((found.folder / "predictions").glob("*.nii.gz")):
        image, mask = nib.load(data_root / "images" / path.name), nib.load(path)
        assert mask.shape == image.shape and np.array_equal(mask.affine, image.affine) and mask.get_data_dtype() == np.uint8
        truth = np.asarray(nib.load(data_root / "labels" / path.name).dataobj)
        both = (np.asarray(mask.dataobj) > 0) & (truth > 0)
        assert both.sum() > 0.5 * (truth > 0).sum(), "in the right place of a turned file"
    assert len(list((found.folder / "predictions").iterdir())) == 2 and (found.folder / "overlays.jpg").exists()
    assert found.scores.per_image["ball"]["dice"].mean > 0.4
    assert "nsd_1mm" in (found.folder / "per_case.csv").read_text().partition("\n")[0]
    assert "windows of 8 x 16 x 16 voxels" in (found.folder / "table.md").read_text()


def test_predict_says_what_evaluate_says_whatever_the_file_s_orientation(world, tmp_path):
    _, data_root, _, run = world
    folder = api.evaluate(run.path, "test", data_root).folder / "predictions"
    name = next(folder.iterdir()).name
    [written] = api.predict(run.path, [data_root / "images" / name], tmp_path / "out")
    assert written.mask == tmp_path / "out" / name and written.overlay.exists()
    expected = np.asarray(nib.load(folder / name).dataobj)
    assert np.array_equal(np.asarray(nib.load(written.mask).dataobj), expected)
    turned = nib.as_closest_canonical(nib.load(data_root / "images" / name))
    (tmp_path / "turned").mkdir()
    turned.to_filename(tmp_path / "turned" / "same.nii.gz")
    api.predict(run.path, [tmp_path / "turned"], tmp_path / "out")
    back = nib.as_closest_canonical(nib.load(folder / name))
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out" / "same.nii.gz").dataobj), np.asarray(back.dataobj))


def test_runs_are_averaged_and_a_run_with_itself_is_itself(world, tmp_path):
    _, data_root, experiment, run = world
    other = api.train(experiment, ["seed=1", "train.epochs=1"], data_root, tmp_path / "runs")
    image = sorted((data_root / "images").iterdir())[0]

    def mask(*others):
        return np.asarray(nib.load(api.predict(run.path, [image], tmp_path / "o", overwrite=True, others=others)[0].mask).dataobj).copy()

    assert np.array_equal(mask(), mask(run.path)) and not np.array_equal(mask(), mask(other.path, other.path, other.path, other.path))
    elsewhere = api.train(experiment, ["data.volume.spacing_mm=[2,2,2]", "train.epochs=1"], data_root, tmp_path / "runs")
    with pytest.raises(RunError, match="its grid and intensities are not those of"):
        mask(elsewhere.path)


def test_mirror_images_and_slices(world, tmp_path):
    _, data_root, experiment, run = world
    slices = api.train(
        experiment, ["sampling.patch_px=[16, 16]", "train.epochs=2", "infer.flip_tta=true"], data_root, tmp_path
    )  # fmt: skip
    found = api.evaluate(slices.path, "val", data_root)
    assert 0 <= found.scores.pooled["ball"]["iou"] <= 1
    assert "mean of 2: the volume and its mirror image along x, in windows" in (found.folder / "table.md").read_text()


def parts_px(path) -> list[int]:
    """The voxels of each connected part of the ball in a mask."""
    parts = ndimage.label(np.asarray(nib.load(path).dataobj) == 1, np.ones((3, 3, 3)))[0]
    return np.bincount(parts.ravel())[1:].tolist()


@pytest.fixture
def run(world):
    """The trained run, without post-processing afterwards."""
    yield world[3]
    world[3].postprocess_json.unlink(missing_ok=True)


def take(run, **step):
    write_json(run.postprocess_json, {"format": 1, "steps": [step]})


def test_post_processing_is_chosen_on_val_and_told(world, run):
    _, data_root, _, _ = world
    tried = api.choose_postprocessing([run.path], data_root)
    assert {each.step.name for each in tried} == {"ball", "box"}
    assert {each.step.unit for each in tried if each.step.kind == "small"} == {"mm3"}
    content = json.loads(run.postprocess_json.read_text())
    assert (content["cases"], content["runs"], len(content["tried"])) == (2, [run.id], len(tried))
    assert not list(run.path.glob(".*")), "the cases' copies are gone"
    take(run, name="ball", kind="largest")
    table = api.evaluate(run.path, "test", data_root, asked=BRIEFLY).folder / "table.md"
    assert "afterwards, chosen on val: ball: its largest component alone" in table.read_text()


def test_of_two_balls_the_largest_component_alone_is_one(world, run, tmp_path):
    _, data_root, _, _ = world
    image = nib.load(sorted((data_root / "images").iterdir())[0])
    twice = nib.Nifti1Image(np.concatenate([np.asarray(image.dataobj)] * 2, axis=2), image.affine)
    twice.to_filename(tmp_path / "twice.nii.gz")
    found = {}
    for kind in ("holes", "largest"):
        take(run, name="ball", kind=kind)
        found[kind] = parts_px(api.predict(run.path, [tmp_path / "twice.nii.gz"], tmp_path / "out", overwrite=True)[0].mask)
    assert len(found["holes"]) > 1 and found["largest"] == [max(found["holes"])]


def test_sizes_in_mm3_are_each_file_s_own_voxels_in_evaluate_and_predict(world, run, tmp_path):
    _, data_root, _, _ = world
    take(run, name="ball", kind="small", least=1e6, unit="mm3")
    plain = api.evaluate(run.path, "test", data_root, asked=replace(BRIEFLY, steps=False)).folder
    assert plain.name == "test_without_steps" and "afterwards" not in (plain / "table.md").read_text()
    before = {path.name: parts_px(path) for path in (plain / "predictions").iterdir()}
    most = max(max(parts) for parts in before.values())
    take(run, name="ball", kind="small", least=2.0 * most, unit="mm3")  # voxels are 2 mm3
    expected = {name: [size for size in parts if size == most] for name, parts in before.items()}
    assert expected != before and any(expected.values()), "something stays and something goes"
    found = api.evaluate(run.path, "test", data_root, asked=BRIEFLY).folder / "predictions"
    assert {path.name: parts_px(path) for path in found.iterdir()} == expected
    assert f"ball: components below {2 * most} mm3 dropped" in (found.parent / "table.md").read_text()
    written = api.predict(run.path, [data_root / "images" / name for name in before], tmp_path / "out")
    assert {one.mask.name: parts_px(one.mask) for one in written} == expected


def test_what_was_chosen_stays_until_a_choice_has_come_to_its_end(world, run, tmp_path):
    root, data_root, _, _ = world
    take(run, name="ball", kind="largest")
    api.evaluate(run.path, "val", data_root, asked=BRIEFLY)
    files = run.postprocess_json, run.evaluation("val") / "table.md", run.evaluation("val") / "per_case.csv"
    before = [path.read_bytes() for path in files]
    other = with_a_region(root, run, tmp_path)

    def stop(done, total):
        raise KeyboardInterrupt

    for runs, where, progress, error, message in [
        ([run.path], tmp_path / "nowhere", None, ManifestError, "the data root is not there"),
        ([run.path, other], data_root, None, RunError, "has other regions than .*; name runs of one experiment"),
        ([run.path], data_root, api.Progress(on_case=stop), KeyboardInterrupt, None),
    ]:
        with pytest.raises(error, match=message):
            api.choose_postprocessing(runs, where, progress)
        assert [path.read_bytes() for path in files] == before and not list(run.path.glob(".*"))


def with_a_region(root, run, out):
    """A copy of the run, of a manifest that differs in a region alone."""
    folder = out / "manifest"
    shutil.copytree(root / "manifest", folder, ignore=shutil.ignore_patterns("splits"))
    dataset = yaml.safe_load((folder / "dataset.yaml").read_text())
    dataset["labels"]["regions"] = {"both": ["ball", "box"]}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(dataset))
    split = make_split(read_manifest(folder), "main", (0.6, 0.2, 0.2), seed=0)
    copy = shutil.copytree(run.path, out / "copy")
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace(str(root / "manifest"), str(folder)))
    digests = json.loads((copy / "digests.json").read_text())
    digests |= {"manifest_sha256": read_manifest(folder).digest, "split_sha256": split.digest}
    (copy / "digests.json").write_text(json.dumps(digests))
    return copy


# --- what does not fit


def test_volumes_without_their_grid_are_told(world, tmp_path):
    root, data_root, experiment, _ = world
    plain = tmp_path / "plain.yaml"
    plain.write_text(
        f"data: {{manifest: {root / 'manifest'}, cache: {tmp_path}}}\ntrain: {{batch_size: 2}}\ntracking: {{enabled: false}}\n"
    )
    with pytest.raises(ManifestError, match="the row is a volume, .*`medseg plan`"):
        api.train(plain, [], data_root, tmp_path)


def test_volumes_are_not_learned_from_whole_nor_by_a_network_of_two_dimensions(world, tmp_path):
    _, data_root, experiment, _ = world
    for overrides, message in [
        (["sampling.patch_px=null", "sampling.centre_ratios={}"], "sampling.patch_px: a network learns from patches of volumes"),
        (["model.name=fcn_resnet18"], "fcn_resnet18 is of two dimensions, and sampling.patch_px has three sides"),
        (["model.name=maskrcnn_resnet50_fpn"], "maskrcnn_resnet50_fpn gives objects, not probabilities"),
        (["sampling.centre_ratios={liver: 1}"], "'liver' is neither a class"),
        (["model.mean=[0.5]", "model.deviation=[0.2]"], "model.mean: volumes come normalised"),
        (["data.volume.channels=[{}, {}]"], "2 channels are told, and .* has 1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            api.train(experiment, overrides, data_root, tmp_path)


def test_photographs_have_no_volume_section(tmp_path):
    _, _, data_root, experiment = make_all(tmp_path)
    with pytest.raises(ManifestError, match="the row is a photograph, and data.volume is of volumes"):
        api.train(experiment, ["data.volume={spacing_mm: [1, 1, 1]}", "sampling.patch_px=[8, 16, 16]"], data_root, tmp_path)
    with pytest.raises(ConfigError, match="sampling.patch_px: photographs have no depth"):
        api.train(experiment, ["sampling.patch_px=[8, 16, 16]"], data_root, tmp_path)


def test_a_file_that_is_no_volume_is_told_before_the_network_is_loaded(world, tmp_path):
    _, _, _, run = world
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    with pytest.raises(ImageError, match="a.nii.gz"):
        api.predict(run.path, [tmp_path / "a.nii.gz"], tmp_path / "out")
    with pytest.raises(ImageError, match="holds no image .*name a folder of volumes"):
        (tmp_path / "empty").mkdir()
        api.predict(run.path, [tmp_path / "empty"], tmp_path / "out")
