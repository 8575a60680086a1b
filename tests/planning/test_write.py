"""The experiment that a plan writes: it loads, it says why, and it trains."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from medseg import api
from medseg.cli import app
from medseg.config import load_config
from medseg.errors import ConfigError
from medseg.files import write_json
from medseg.labels import LabelSet
from medseg.manifest.split import make_split
from medseg.planning.fingerprint import ClassSize, Intensities, VolumeFingerprint
from medseg.planning.propose import Wanted, centre_ratios, flip_axes, plan_volumes
from medseg.planning.write import Source, fingerprint_path, write_plan
from tests.planning.made import make_volumes
from tests.tiny import make_data

SMALL = Wanted(steps=2, memory_gib=2.0)

pytestmark = pytest.mark.slow  # each plans in earnest: seconds


def planned(root, wanted=SMALL, **options):
    source = Source(root / "manifest", root / "data")
    path = write_plan(source, wanted, out=root / "experiments/made/plan.yaml", jobs=1, **options)
    return path, load_config(path)


def test_a_plan_of_volumes_loads_and_holds_what_was_measured(tmp_path):
    make_volumes(tmp_path, spacing_mm=(1.0, 4.0, 1.0))
    path, config = planned(tmp_path)
    volume = config.data.volume
    assert (volume.depth_axis, volume.spacing_mm, volume.crop) == ("y", (4.0, 1.0, 1.0), "nonzero")
    assert [channel.normalise for channel in volume.channels] == ["zscore"]
    assert config.sampling.patch_px == (24, 16, 16) and config.sampling.centre_ratios == {"anywhere": 2, "ball": 0.5, "cube": 0.5}
    assert (config.train.epochs, config.train.batch_size, config.sampling.draws_per_epoch) == (2, 2, 2)
    assert config.model.name == "dynunet" and config.augment.flip_axes == ("x", "y", "z")
    assert json.loads(fingerprint_path(path).read_text())["cases"] == 3


def test_the_header_tells_question_command_and_source(tmp_path, monkeypatch):
    make_volumes(tmp_path)
    monkeypatch.chdir(tmp_path)
    path, _ = planned(tmp_path)
    text = path.read_text()
    assert text.startswith("# Question: how far does nnU-Net's network come on made")
    assert "# Command:  make experiment EXP=made/plan DATA_ROOT=/path/to/made\n" in text
    assert "none of val or test" in text and re.search(r"# Planned by: medseg plan \S+ --split main --memory-gib 2 --steps 2\n", text)
    assert all(
        " # " in line for line in text.splitlines() if re.match(r"  +(spacing_mm|patch_px|batch_size|normalise|epochs|channels)", line)
    )


def test_a_plan_for_all_folds_says_that_val_rows_are_in_it(tmp_path):
    manifest, _ = make_volumes(tmp_path)
    make_split(manifest, "cv2", (0.5, 0.2, 0.3), folds=2)
    source, out = Source(tmp_path / "manifest", tmp_path / "data", "cv2"), tmp_path / "plan.yaml"
    text = write_plan(source, SMALL, out=out, jobs=1).read_text()
    assert "# From 4 training volumes of the split cv2, those of all its 2 folds and none of test: plan.fingerprint.json.\n" in text
    assert "# So each fold's val rows are among what was measured, as in nnU-Net; --fold K measures without those of fold K.\n" in text
    text = write_plan(source._replace(fold=1), SMALL, out=out, jobs=1, overwrite=True).read_text()
    assert "# From 2 training volumes of the split cv2, none of val or test: plan.fingerprint.json.\n" in text and "So each" not in text
    assert json.loads(fingerprint_path(out).read_text())["measured_on"]["fold"] == 1


def test_what_the_import_was_told_decides_how_intensities_are_normalised(tmp_path):
    manifest, _ = make_volumes(tmp_path)
    write_json(manifest.folder / "import.json", {"importer": "decathlon", "modalities": ["CT"]})
    path, config = planned(tmp_path)
    assert config.data.volume.channels[0].normalise == "window"
    assert "ct as dataset.json names the channels (CT)" in path.read_text()


def test_air_tells_ct_and_the_user_overrules_it(tmp_path):
    make_volumes(tmp_path, air=-1000.0)
    path, config = planned(tmp_path)
    assert config.data.volume.channels[0].normalise == "window"
    assert re.search(r"ct by the volumes' least value, -1\d\d\d on median", path.read_text())
    path, config = planned(tmp_path, modality="mr", overwrite=True)
    assert config.data.volume.channels[0].normalise == "zscore" and "mr as --modality says" in path.read_text()


def test_slices_of_two_sides(tmp_path):
    make_volumes(tmp_path, shape=(40, 48, 8), spacing_mm=(1.0, 1.0, 5.0))
    _, config = planned(tmp_path, Wanted(steps=2, slices=True))
    assert config.sampling.patch_px == (48, 40) and config.augment.flip_axes == ("x", "y")


@pytest.mark.parametrize(("network", "residual"), [("dynunet", False), ("resenc", True), ("unet", None)])
def test_networks(tmp_path, network, residual):
    make_volumes(tmp_path, shape=(24, 24, 24))
    _, config = planned(tmp_path, SMALL._replace(network=network))
    assert getattr(config.model, "residual", None) is residual
    assert config.model.channels == (32, 64, 128)  # 24 -> 12 -> 6


def test_a_long_training_is_nnunet_s_own(tmp_path):
    make_volumes(tmp_path)
    _, config = planned(tmp_path, SMALL._replace(steps=250_000))
    assert (config.optim.name, config.optim.lr, config.optim.momentum, config.optim.schedule) == ("sgd", 0.01, 0.99, "polynomial")
    assert config.train.epochs == 1000 and config.sampling.draws_per_epoch == 250 * config.train.batch_size


def test_photographs_have_a_plan_too(tmp_path):
    make_split(make_data(tmp_path), "main", (0.6, 0.2, 0.2))
    path, config = planned(tmp_path)
    assert config.data.size_px == (32, 64) and config.data.volume is None  # 40 to 49 x 60 to 74
    assert config.model.name == "unet" and config.model.mean == (0.485, 0.456, 0.406)
    assert config.sampling.name == "repeat_factor"  # squares are in one of three


def test_a_plan_is_not_replaced_unasked(tmp_path):
    make_volumes(tmp_path)
    planned(tmp_path)
    with pytest.raises(ConfigError, match="there is a plan already, which may have been edited; give --overwrite, or another --out"):
        planned(tmp_path)
    planned(tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("wanted", "options", "message"),
    [
        (SMALL._replace(memory_gib=0.16), {}, r"--memory-gib 0\.16: not even two patches of 16 voxels a side fit"),
        (SMALL._replace(slices=True), {"modality": "photograph"}, "--modality photograph: the manifest is of volumes; give ct or mr"),
    ],
)
def test_what_cannot_be_planned_is_told_and_nothing_is_written(tmp_path, wanted, options, message):
    make_volumes(tmp_path)
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, wanted, **options)
    assert not (tmp_path / "experiments").exists()


def test_what_is_of_volumes_is_refused_of_photographs(tmp_path):
    make_split(make_data(tmp_path), "main", (0.6, 0.2, 0.2))
    with pytest.raises(ConfigError, match="--slices: photographs are slices already; leave it out"):
        planned(tmp_path, SMALL._replace(slices=True))
    with pytest.raises(ConfigError, match="--modality ct: the manifest is of photographs; leave it out"):
        planned(tmp_path, modality="ct")
    with pytest.raises(ConfigError, match="an experiment is a .yaml file; name it so"):
        write_plan(Source(tmp_path / "manifest", tmp_path / "data"), SMALL, out=tmp_path / "plan.txt")


def fingerprint(sides_mm: float) -> VolumeFingerprint:
    values = Intensities(100.0, 10.0, 70.0, 100.0, 130.0, 0.0)
    side = round(sides_mm)
    shape = (side, 40, 40)
    classes = (ClassSize("left kidney", 3, 0.1, 100.0, 100.0, 1.0, 1), ClassSize("right kidney", 0, 0.0, None))
    return VolumeFingerprint(((1.0, 1.0, 1.0),) * 3, (shape,) * 3, (shape,) * 3, 1.0, (values,), classes)


def test_bodies_are_not_turned_upside_down():
    pairs = LabelSet.of("left kidney", "right kidney", left_right_pairs=[("left kidney", "right kidney")])
    plain = LabelSet.of("left kidney", "right kidney")
    assert flip_axes(pairs, fingerprint(100))[0] == ("x",)
    assert flip_axes(plain, fingerprint(900))[0] == ("x",)
    assert flip_axes(plain, fingerprint(100))[0] == ("x", "y", "z")


def test_no_crop_is_centred_on_a_class_that_no_case_holds():
    assert centre_ratios(fingerprint(100).classes) == {"anywhere": 2.0, "left kidney": 1.0}


def test_less_memory_makes_smaller_patches():
    labels = LabelSet.of("left kidney", "right kidney")
    large, small = (
        {key: value for key, value, _ in plan_volumes(fingerprint(64), labels, ["mr"], "told", Wanted(memory_gib=gib)).settings}
        for gib in (8.0, 0.6)
    )
    assert large["sampling.patch_px"] == [64, 40, 40]
    assert large["sampling.patch_px"] > small["sampling.patch_px"]


def test_the_verb_prints_the_plan_and_where_it_lies(tmp_path):
    make_volumes(tmp_path)
    out = tmp_path / "plan.yaml"
    told = [str(tmp_path / "manifest"), "--data-root", str(tmp_path / "data"), "--out", str(out), "--steps", "2", "--jobs", "1"]
    done = CliRunner().invoke(app, ["plan", *told], catch_exceptions=False)
    assert done.exit_code == 0 and out.read_text() in done.stdout and "plan.fingerprint.json" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("network", ["dynunet", "unet"])
@pytest.mark.parametrize("kind", ["volumes", "slices", "photographs"])
def test_a_plan_trains(tmp_path, kind, network):
    if kind == "photographs":
        make_split(make_data(tmp_path), "main", (0.6, 0.2, 0.2))
    else:
        make_volumes(tmp_path)
    path, _ = planned(tmp_path, SMALL._replace(steps=1, network=network, slices=kind == "slices"))
    short = ["train.epochs=1", "tracking.enabled=false", f"data.cache={tmp_path / 'cache'}", "train.precision=float32"]
    run = api.train(path, short, tmp_path / "data", tmp_path / "runs")
    assert json.loads(run.metrics_jsonl.read_text().splitlines()[0])["metrics"]["train/loss/total"] > 0
