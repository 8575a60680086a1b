"""The verbs on a tiny real data set: what they write, that it repeats byte for byte, and each mistake a user can make."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from medseg import api, images
from medseg.errors import CheckpointError, ConfigError, ImageError, ManifestError, RunError
from medseg.manifest.split import make_split
from medseg.run import load_run
from medseg.runfolder import mark_dead_runs, open_run
from tests.tiny import make_all

EQUAL = ("metrics.jsonl", "evaluation/test/per_case.csv", "evaluation/test/scores.json")
CROPS = ["sampling.patch_px=[16, 24]", "sampling.centre_ratios={square: 1, anywhere: 1}", "loss.class_weights=median_frequency"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A trained and evaluated run, made once: (folder, manifest, data root, experiment, run)."""
    root = tmp_path_factory.mktemp("world")
    manifest, _, data_root, experiment = make_all(root)
    run = api.train(experiment, ["train.epochs=12"], data_root, root / "runs")
    api.evaluate(run.path, "test", data_root)
    return root, manifest, data_root, experiment, run


def test_the_run_folder_is_whole(world):
    run = world[-1]
    names = (
        "config.yaml",
        "dataset.yaml",
        "digests.json",
        "environment.json",
        "metrics.jsonl",
        "timings.jsonl",
        "run.json",
        "sampling.png",
    )
    for name in names:
        assert (run.path / name).stat().st_size, name
    assert run.checkpoint("best").exists() and run.checkpoint("last").exists() and list(run.previews.iterdir())
    assert run.state()["status"] == "finished" and not run.mlflow_json.exists()
    folder = run.evaluation("test")
    assert {path.name for path in folder.iterdir()} == {
        "per_case.csv", "scores.json", "confusion.npy", "confusion.png", "reliability.png", "table.md", "table.csv", "overlays.jpg",
        "predictions",
    }  # fmt: skip


def test_metrics_name_losses_and_every_class_each_epoch(world):
    lines = [json.loads(line) for line in world[-1].metrics_jsonl.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    for key in ("train/loss/dice", "train/loss/cross_entropy", "train/lr", "val/iou_pooled/disc", "val/recall_per_image/square"):
        assert key in lines[0]["metrics"], key
    assert lines[-1]["metrics"]["train/loss/total"] < lines[0]["metrics"]["train/loss/total"]


def test_it_learns_something(world):
    scores = json.loads((world[-1].evaluation("test") / "scores.json").read_text())
    assert scores["pooled"]["disc"]["iou"] > 0.6


def test_scores_follow_from_the_stored_masks(world):
    """per_case.csv recounted from the prediction files by a loop that shares no code with the evaluation."""
    _, manifest, data_root, _, run = world
    rows = {row.sample_id: row for row in manifest}
    with (run.evaluation("test") / "per_case.csv").open() as stream:
        records = list(csv.DictReader(stream))
    assert records
    for record in records:
        reference = np.asarray(Image.open(data_root / rows[record["sample_id"]].mask))
        predicted = np.asarray(Image.open(run.evaluation("test") / "predictions" / f"{record['sample_id']}.png"))
        k = manifest.labels.names.index(record["name"])
        assert int(record["tp"]) == ((reference == k) & (predicted == k)).sum()
        assert int(record["fp"]) == ((reference != k) & (predicted == k)).sum()
        assert int(record["fn"]) == ((reference == k) & (predicted != k)).sum()
        assert int(record["tn"]) == ((reference != k) & (predicted != k)).sum()


def test_the_best_checkpoint_is_the_first_best_on_val(world):
    run = world[-1]
    values = [json.loads(line)["metrics"]["val/miou_pooled/without_background"] for line in run.metrics_jsonl.read_text().splitlines()]
    assert load_run(run.path).facts["epoch"] == int(np.argmax(values)) + 1
    assert load_run(run.path, "last").facts["epoch"] == 12


def test_twice_the_same_is_byte_for_byte_the_same(world, tmp_path):
    _, _, data_root, experiment, _ = world
    first, second = (api.train(experiment, [], data_root, tmp_path / name) for name in "ab")
    for run in (first, second):
        api.evaluate(run.path, "test", data_root)
    for name in EQUAL:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name
    assert first.checkpoint("last").read_bytes() == second.checkpoint("last").read_bytes()
    other = api.train(experiment, ["seed=1"], data_root, tmp_path / "c")
    assert other.metrics_jsonl.read_bytes() != first.metrics_jsonl.read_bytes()


def test_global_random_state_is_left_as_found(world, tmp_path):
    _, _, data_root, experiment, _ = world
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    api.train(experiment, ["train.epochs=1", "model.dropout=0.2"], data_root, tmp_path)
    assert (torch.get_rng_state() == before[0]).all() and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("sampler", ["uniform", "inverse_frequency", "repeat_factor"])
def test_balanced_samplers_show_the_rare_class_more(world, tmp_path, sampler):
    _, _, data_root, experiment, _ = world
    extra = ["sampling.threshold=1.0"] if sampler == "repeat_factor" else []
    run = api.train(experiment, [*extra, "train.epochs=1", f"sampling.name={sampler}", "train.batch_size=1"], data_root, tmp_path)
    share = json.loads(run.metrics_jsonl.read_text())["metrics"]["train/drawn_image_share/square"]
    present = [row.px["square"] > 0 for row in world[1] if row.sample_id in train_ids(world)]
    uniform = np.mean(present)
    assert share == pytest.approx(uniform) if sampler == "uniform" else share > uniform


@pytest.fixture(scope="module")
def in_crops(world):
    """A run on crops, half of them around squares, with weighted classes; evaluated."""
    root, _, data_root, experiment, _ = world
    run = api.train(experiment, CROPS, data_root, root / "runs")
    api.evaluate(run.path, "test", data_root)
    return run


def test_a_run_on_crops_is_evaluated_in_windows_and_says_so(in_crops):
    protocol = json.loads((in_crops.evaluation("test") / "scores.json").read_text())["protocol"]
    assert (
        protocol["test_time"]
        == "single forward pass, in windows of 16 x 24 pixels that overlap by 50%; each pixel has its most probable class"
    )
    assert "in windows of 16 x 24 pixels" in (in_crops.evaluation("test") / "table.md").read_text()
    assert in_crops.state()["status"] == "finished" and list(in_crops.previews.iterdir())


def test_each_epoch_names_what_the_set_holds_what_was_asked_and_what_was_drawn(world, in_crops):
    """The set's shares against the manifest, what was asked against the ratios, what was drawn against both."""
    rows = [row for row in world[1] if row.sample_id in train_ids(world)]
    for line in in_crops.metrics():
        metrics = line["metrics"]
        for name in ("disc", "square"):
            assert metrics[f"sampling/set_image_share/{name}"] == pytest.approx(np.mean([row.px[name] > 0 for row in rows]))
            assert 0 < metrics[f"train/drawn_image_share/{name}"] <= 1
        for kind in ("sampling/set", "train/drawn"):
            assert sum(metrics[f"{kind}_pixel_share/{name}"] for name in ("background", "disc", "square")) == pytest.approx(1)
        assert metrics["sampling/asked_centre_ratio/square"] == metrics["sampling/asked_centre_ratio/anywhere"] == 0.5
        assert metrics["train/drawn_centre_ratio/square"] == metrics["train/drawn_centre_ratio/anywhere"] == 0.5
        assert metrics["sampling/asked_image_share/square"] >= 0.5 > metrics["sampling/set_image_share/square"]
        assert metrics["train/drawn_pixel_share/square"] > metrics["sampling/set_pixel_share/square"]


def test_the_balance_is_drawn(world, in_crops):
    for run in (world[-1], in_crops):
        assert images.read_image(run.sampling_png).shape[1] > 500


@pytest.mark.parametrize("speed", ["train.prefetch=0", "train.prefetch=5"])
def test_crops_repeat_byte_for_byte_however_they_are_made_ready(world, in_crops, tmp_path, speed):
    _, _, data_root, experiment, _ = world
    again = api.train(experiment, [*CROPS, speed], data_root, tmp_path)
    assert again.metrics_jsonl.read_bytes() == in_crops.metrics_jsonl.read_bytes()
    assert again.checkpoint("last").read_bytes() == in_crops.checkpoint("last").read_bytes()


def test_a_run_on_crops_predicts_at_the_image_s_own_size_as_it_evaluates(world, in_crops, tmp_path):
    stored = sorted((in_crops.evaluation("test") / "predictions").glob("*.png"))[0]
    [item] = api.predict(in_crops.path, [world[2] / "images" / stored.name], tmp_path)
    assert (images.read_mask(item.mask) == images.read_mask(stored)).mean() > 0.999


def test_a_cache_that_is_too_small_is_told_before_a_run_folder_is_made(world, tmp_path):
    _, _, data_root, experiment, _ = world
    with pytest.raises(ConfigError, match="data.cache_gib: these 16 images take .* raise it, or choose a smaller data.size_px"):
        api.train(experiment, ["data.cache_gib=1e-6"], data_root, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("loss", ["focal_tversky", "unified_focal", "dice_topk"])
def test_a_loss_trains_from_its_name(world, tmp_path, loss):
    _, _, data_root, experiment, _ = world
    run = api.train(experiment, [f"loss.name={loss}", "train.epochs=3"], data_root, tmp_path)
    values = [line["metrics"]["train/loss/total"] for line in run.metrics()]
    assert values[-1] < values[0]


@pytest.mark.slow
def test_compiled_training_gives_the_losses_of_eager_training(world, tmp_path):
    _, _, data_root, experiment, _ = world
    runs = [api.train(experiment, ["train.epochs=1", f"train.compile={text}"], data_root, tmp_path) for text in ("never", "always")]
    eager, compiled = (run.metrics()[0]["metrics"] for run in runs)
    assert "compile: always" in runs[1].config_yaml.read_text()
    for name in ("train/loss/dice", "train/loss/cross_entropy", "train/loss/total"):
        assert compiled[name] == pytest.approx(eager[name], rel=1e-3), name
    assert compiled["val/miou_pooled/without_background"] == pytest.approx(eager["val/miou_pooled/without_background"], abs=0.02)


def train_ids(world):
    text = (world[0] / "manifest/splits/main.csv").read_text()
    return {line.split(",")[0] for line in text.splitlines() if ",train" in line}


def test_a_balanced_sampler_that_is_uniform_says_so(world, tmp_path, caplog):
    _, _, data_root, experiment, _ = world
    api.train(experiment, ["train.epochs=1", "sampling.threshold=0.0"], data_root, tmp_path)
    assert "sampling repeat_factor equals uniform here: images with each class: disc 100%" in caplog.text


def test_predict_every_kind_of_photograph_at_its_own_size(world, tmp_path):
    run, photo = world[-1], np.random.default_rng(0).integers(0, 256, (50, 33, 3), dtype=np.uint8)
    source = tmp_path / "in"
    (source / "inner").mkdir(parents=True)
    Image.fromarray(photo).save(source / "rgb.jpg")
    Image.fromarray(np.dstack([photo, photo[..., 0]])).save(source / "rgba.png")
    Image.fromarray(photo[..., 0]).save(source / "grey.png")
    Image.fromarray(photo[..., 0].astype(np.uint16) * 100).save(source / "inner" / "sixteen.png")
    turned = Image.fromarray(photo)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(source / "phone.jpeg", exif=exif)
    written = api.predict(run.path, [source], tmp_path / "out")
    assert len(written) == 5
    for item in written:
        expected = (33, 50) if item.image.name == "phone.jpeg" else (50, 33)
        with Image.open(item.mask) as mask:
            assert mask.mode == "P" and mask.size[::-1] == expected
        assert images.read_image(item.overlay).shape == (*expected, 3)
    assert (tmp_path / "out/inner/sixteen.png").exists()


def test_predict_equals_evaluate(world, tmp_path):
    _, manifest, data_root, _, run = world
    stored = sorted((run.evaluation("test") / "predictions").glob("*.png"))[0]
    [item] = api.predict(run.path, [data_root / "images" / stored.name], tmp_path)
    assert (images.read_mask(item.mask) == images.read_mask(stored)).mean() > 0.999  # batches of other sizes may round otherwise


def test_predict_refuses_before_it_writes(world, tmp_path):
    run = world[-1]
    for name in ("a.png", "a.jpg", "b.jpg", "b_overlay.jpg"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for paths, message in [
        (["a.png", "gone.png"], "gone.png: there is no such file"),
        (["empty"], "holds no image"),
        (["a.png", "a.jpg"], "would both be written to"),
    ]:
        with pytest.raises(ImageError, match=message):
            api.predict(run.path, [tmp_path / path for path in paths], tmp_path / "out")
    for paths in (["a.png"], ["b.jpg", "b_overlay.jpg"]):
        with pytest.raises(ImageError, match="is one of the images, and would be overwritten by a prediction"):
            api.predict(run.path, [tmp_path / path for path in paths], tmp_path)
    with pytest.raises(ImageError, match="b_overlay.jpg: is there already; .*--overwrite"):
        api.predict(run.path, [tmp_path / "b.jpg"], tmp_path)
    assert not (tmp_path / "out").exists()


def test_one_damaged_photograph_leaves_nothing_half_written(world, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name in ("a.png", "b.png", "c.png"):
        noise.save(source / name)
    (source / "._hidden.png").write_bytes(b"left by a file manager")
    whole = (source / "b.png").read_bytes()
    (source / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="b.png: the image is truncated or damaged"):
        api.predict(world[-1].path, [source], out)
    assert not out.exists()
    (source / "b.png").write_bytes(whole)
    first = api.predict(world[-1].path, [source], source / "out")
    again = api.predict(world[-1].path, [source], source / "out", overwrite=True)  # its own results are not taken for photographs
    assert first == again and len(first) == 3 and len(list((source / "out").iterdir())) == 6


def test_data_roots_that_are_not_there(world, tmp_path):
    _, _, _, experiment, _ = world
    with pytest.raises(ManifestError, match="MEDSEG_DATA"):
        api.train(experiment, [], None, tmp_path)
    with pytest.raises(ManifestError, match="nowhere"):
        api.train(experiment, [], tmp_path / "nowhere", tmp_path)


def test_a_wrong_data_root_is_seen_with_a_warm_cache_too(world, tmp_path):
    _, _, _, experiment, run = world
    before = sorted(path.name for path in run.path.rglob("*"))
    with pytest.raises(ManifestError, match="manifest.csv row .*there is no image .*; check --data-root"):
        api.evaluate(run.path, "test", tmp_path)
    with pytest.raises(ManifestError, match="there is no image"):
        api.train(experiment, [], tmp_path, tmp_path / "runs")
    assert sorted(path.name for path in run.path.rglob("*")) == before and not (tmp_path / "runs").exists()


def test_the_last_checkpoint_has_scores_of_its_own(world):
    _, _, data_root, _, run = world
    done = api.evaluate(run.path, "test", data_root, checkpoint="last")
    assert done.folder.name == "test_last" and "checkpoint of the last epoch" in (done.folder / "table.md").read_text()
    assert "checkpoint chosen on val" in (run.evaluation("test") / "table.md").read_text()
    with pytest.raises(CheckpointError, match="the checkpoints are best and last"):
        api.evaluate(run.path, "test", data_root, checkpoint="first")


def test_confusion_npy_holds_every_image_in_the_order_of_per_case(world):
    run = world[-1]
    matrices = np.load(run.evaluation("test") / "confusion.npy")
    with (run.evaluation("test") / "per_case.csv").open() as stream:
        records = [record for record in csv.DictReader(stream) if record["name"] == "disc"]
    assert matrices[:, 1, 1].tolist() == [int(record["tp"]) for record in records]


def test_an_address_that_cannot_work_leaves_no_run_folder(world, tmp_path, monkeypatch):
    _, _, data_root, experiment, _ = world
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for uri in ("mlruns", "postgresql://me:secret@host/db"):
        with pytest.raises(ConfigError, match="tracking.uri"):
            api.train(experiment, ["tracking.enabled=true", f"tracking.uri={uri}"], data_root, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_groups_are_those_of_the_split(tmp_path):
    manifest, _, data_root, experiment = make_all(tmp_path)
    path = tmp_path / "manifest/splits/main.csv"
    lines = path.read_text().splitlines()
    tests = [place for place, line in enumerate(lines) if ",test" in line][:2]
    for place in tests:  # two test images of one patient
        sample, _, *rest = lines[place].split(",")
        lines[place] = ",".join([sample, "patient", *rest])
    path.unlink()
    table = tmp_path / "edited.csv"
    table.write_text("\n".join(lines) + "\n")
    api.given_split(manifest, "main", table)
    run = api.train(experiment, ["train.epochs=1"], data_root, tmp_path / "runs")
    scores = api.evaluate(run.path, "test", data_root).scores
    assert (scores.n_cases, scores.n_groups) == (4, 3)


def test_a_split_without_images(world, tmp_path):
    root, _, data_root, experiment, run = world
    with pytest.raises(ManifestError, match="no image in the split 'holdout'"):
        api.evaluate(run.path, "holdout", data_root)
    with pytest.raises(ManifestError, match="splits.*other"):
        api.train(experiment, ["data.split=other"], data_root, tmp_path)


def test_checkpoints_that_are_truncated_or_not_ours(world, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(world[-1].path, broken)
    path = open_run(broken).checkpoint("best")
    whole = path.read_bytes()
    for content, message in [
        (whole[: len(whole) // 2], "best.safetensors: truncated, or not a checkpoint"),
        (b"", "truncated, or not a checkpoint"),
        (b"PK\x03\x04 a pickle", "truncated, or not a checkpoint"),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_run(broken)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not of format medseg-checkpoint-1"):
        load_run(broken)
    path.unlink()
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load_run(broken)


def test_a_checkpoint_of_another_network(world, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(world[-1].path, broken)
    config = open_run(broken).config_yaml
    config.write_text(config.read_text().replace("channels: [8, 16]", "channels: [8, 24]"))
    with pytest.raises(CheckpointError, match="made for another network"):
        load_run(broken)


def test_a_checkpoint_with_values_that_are_no_numbers(world, tmp_path):
    """As a copy may have that was cut or overwritten in the middle: its header is whole."""
    broken = tmp_path / "run"
    shutil.copytree(world[-1].path, broken)
    path = open_run(broken).checkpoint("best")
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"best.safetensors: its '.*' holds values that are not finite: the file is damaged, .*; copy the file"
    ):
        load_run(broken)
    assert load_run(broken, "last").facts["checkpoint"] == "last"


@pytest.mark.parametrize("name", ["config.yaml", "dataset.yaml"])
def test_a_run_folder_that_is_not_whole(name, world, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(world[-1].path, broken)
    (broken / name).unlink()
    with pytest.raises(RunError, match=f"{name}: is missing; copy the run folder as a whole"):
        load_run(broken)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="not a medseg run folder"):
        load_run(tmp_path)


def test_a_manifest_or_split_changed_after_the_training(tmp_path):
    manifest, _, data_root, experiment = make_all(tmp_path)
    run = api.train(experiment, ["train.epochs=1"], data_root, tmp_path / "runs")
    path = tmp_path / "manifest/splits/main.csv"
    path.unlink()
    make_split(manifest, "main", (0.5, 0.25, 0.25), seed=5, unlock="drawn anew")
    with pytest.raises(RunError, match="the split has changed since this run was trained"):
        api.evaluate(run.path, "test", data_root)


def test_a_loss_that_is_not_finite_ends_the_run_failed(world, tmp_path):
    _, _, data_root, experiment, _ = world
    with pytest.raises(Exception, match="epoch 1: the loss is not finite.*lower optim.lr"):
        api.train(experiment, ["optim.lr=1e30", "optim.clip_norm=null", "optim.warmup_share=0.0"], data_root, tmp_path)
    [run] = [open_run(path) for path in tmp_path.iterdir()]
    assert run.state()["status"] == "failed" and "not finite" in run.state()["error"]


def test_a_run_whose_process_is_gone_is_marked_killed(world, tmp_path):
    run = tmp_path / "runs" / "dead"
    shutil.copytree(world[-1].path, run)
    state = json.loads((run / "run.json").read_text())
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    (run / "run.json").write_text(json.dumps(state | {"status": "running", "pid": int(gone.stdout)}))
    assert [marked.path for marked in mark_dead_runs(tmp_path / "runs")] == [run]
    assert open_run(run).state()["status"] == "killed"
    (run / "run.json").write_text(json.dumps(state | {"status": "running"}))  # this very process: alive
    assert not mark_dead_runs(tmp_path / "runs")


@pytest.mark.slow
def test_tracking_off_imports_no_mlflow(world, tmp_path):
    _, _, data_root, experiment, _ = world
    code = f"""
import sys
from medseg import api
api.train({str(experiment)!r}, ["train.epochs=1"], {str(data_root)!r}, {str(tmp_path)!r})
assert not [name for name in sys.modules if name.split(".")[0] == "mlflow"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_command_line_prints_one_line_and_exits_with_2(world, tmp_path, monkeypatch, capsys):
    _, _, data_root, experiment, run = world
    monkeypatch.chdir(tmp_path)
    for arguments, message in [
        (("train", experiment, "optim.lrr=1", "--data-root", data_root), "error: .*optim.lrr"),
        (("train", tmp_path / "gone.yaml", "--data-root", data_root), "error: .*gone.yaml: there is no such file"),
        (("evaluate", tmp_path, "--data-root", data_root), "error: .*not a medseg run folder"),
    ]:
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])  # as a process of its own, but for the seconds of its imports
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("medseg", run_name="__main__", alter_sys=False)
        _is_one_line(ended.value.code, capsys.readouterr().err, message)
    gone = ["predict", str(run.path), str(tmp_path / "gone.jpg"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "medseg", *gone], capture_output=True, text=True, cwd=tmp_path)
    _is_one_line(done.returncode, done.stderr, "error: .*gone.jpg: there is no such file")
    assert not list(tmp_path.iterdir())


def _is_one_line(code, errors, message):
    assert code == 2 and len(errors.strip().splitlines()) == 1 and "Traceback" not in errors, errors
    assert re.search(message, errors), errors


def test_asking_for_a_gpu_that_is_not_there(world, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    _, _, data_root, experiment, _ = world
    with pytest.raises(ConfigError, match="torch sees no GPU; set train.device=auto"):
        api.train(experiment, ["train.device=cuda"], data_root, tmp_path)
