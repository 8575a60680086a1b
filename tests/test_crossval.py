"""Cross-validation: each image predicted once a seed by a network that has not seen it, one table, and the same table after any stop."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from medseg import api
from medseg.crossval import cross_validate, failures
from medseg.errors import ConfigError, RunError
from medseg.manifest.split import make_split
from medseg.runfolder import RunFolder
from tests.tiny import make_all

SHORT = ["data.split=cv2", "train.epochs=3"]
TOLD = ("table.md", "table.csv", "scores.json", "per_case.csv")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, manifest, split of two folds, data root, experiment), made once."""
    root = tmp_path_factory.mktemp("cv")
    manifest, _, data_root, experiment = make_all(root)
    return root, manifest, make_split(manifest, "cv2", (0.6, 0.2, 0.2), seed=0, folds=2), data_root, experiment


@pytest.fixture(scope="module")
def whole(world):
    """A cross-validation of two folds and two seeds that nothing has stopped."""
    root, _, _, data_root, experiment = world
    return cross_validate(experiment, 2, 2, SHORT, data_root, root / "runs")


def runs_of(folder: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(folder.glob("*/run.json"))]


def test_each_image_is_predicted_once_a_seed_by_a_network_that_has_not_seen_it(world, whole):
    _, manifest, split, data_root, _ = world
    with (whole.folder / "per_case.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    outside_test = sorted(split.frame.loc[split.frame["split"] != "test", "sample_id"])
    fold_of = dict(zip(split.frame["sample_id"], split.frame["fold"], strict=True))
    for seed in "01":
        assert sorted({line["sample_id"] for line in lines if line["seed"] == seed}) == outside_test
    assert all(line["fold"] == fold_of[line["sample_id"]] for line in lines)
    rows, [run] = {row.sample_id: row for row in manifest}, [run for run in runs_of(whole.folder) if "-f1-s1-" in run.id]
    for line in lines:
        if (line["seed"], line["fold"], line["name"]) == ("1", "1", "disc"):
            predicted = np.asarray(Image.open(run.evaluation("val_last") / "predictions" / f"{line['sample_id']}.png"))
            reference = np.asarray(Image.open(data_root / rows[line["sample_id"]].mask))
            assert int(line["tp"]) == ((reference == 1) & (predicted == 1)).sum()


def test_the_table_is_recounted_from_the_cases(whole):
    """Pooled IoU of each seed by hand; the table's mean, lowest and highest of them."""
    with (whole.folder / "per_case.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    with (whole.folder / "table.csv").open() as stream:
        table = {row["class"]: row for row in csv.DictReader(stream)}
    stored = json.loads((whole.folder / "scores.json").read_text())
    for name in ("background", "disc", "square"):
        by_seed = []
        for seed in "01":
            tp, fp, fn = (
                sum(int(line[key]) for line in lines if (line["seed"], line["name"]) == (seed, name)) for key in ("tp", "fp", "fn")
            )
            by_seed.append(tp / (tp + fp + fn) if tp + fp + fn else math.nan)
            assert stored["seeds"][seed]["pooled"][name]["iou"] == by_seed[-1]
        row = [float(table[name][key]) for key in ("iou_pooled", "iou_pooled_lowest", "iou_pooled_highest")]
        assert row == pytest.approx([np.mean(by_seed), min(by_seed), max(by_seed)])


def test_the_page_says_what_it_is(whole):
    text = (whole.folder / "table.md").read_text()
    assert text.startswith("# manifest / tiny: 2-fold cross-validation")
    assert "Mean over the seeds 0, 1 [lowest, highest]: the spread over seeds, not an interval." in text
    assert "checkpoint of the last epoch" in text and "its test images were not touched" in text
    assert whole.table == text


def test_the_same_command_again_trains_nothing(world, whole):
    before = {run.path: run.state() for run in runs_of(whole.folder)}
    again = cross_validate(world[-1], None, 2, SHORT, world[3], world[0] / "runs")
    assert again.folder == whole.folder and again.table == whole.table
    assert {run.path: run.state() for run in runs_of(whole.folder)} == before and len(before) == 4


@pytest.mark.slow
def test_more_seeds_use_those_that_are_there(world, tmp_path):
    one = cross_validate(world[-1], 2, 1, SHORT, world[3], tmp_path)
    two = cross_validate(world[-1], 2, 2, SHORT, world[3], tmp_path)
    assert one.folder == two.folder and len(runs_of(two.folder)) == 4
    assert "[" not in str(one.table).split("Mean over")[0]  # one seed has no range


@pytest.mark.slow
def test_stopped_and_gone_on_with_it_is_the_same_table(world, whole, tmp_path):
    stops = iter((2, 8, None))
    outcome = None
    while outcome is None:
        at, steps = next(stops), 0

        def on_step(step: int, val_score: float | None, at: int | None = at) -> None:
            nonlocal steps
            steps += 1
            if steps == at:
                raise KeyboardInterrupt

        try:
            outcome = cross_validate(world[-1], 2, 2, SHORT, world[3], tmp_path, api.Progress(on_step=on_step))
        except KeyboardInterrupt:
            assert runs_of(next(tmp_path.iterdir()))[-1].state()["status"] == "interrupted"
    for name in TOLD:
        assert (outcome.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


@pytest.mark.slow
def test_a_part_that_fails_is_tried_again_alone(world, whole, tmp_path, caplog):
    def on_step(step: int, val_score: float | None) -> None:
        if step == 2 and len(runs_of(next(tmp_path.iterdir()))) == 2:
            raise OSError(28, "No space left on device", "checkpoint")

    outcome = cross_validate(world[-1], 2, 2, SHORT, world[3], tmp_path, api.Progress(on_step=on_step))
    assert [str(part) for part in outcome.failed] == ["fold 1, seed 0"] and outcome.table is None
    assert "1 of its parts failed, the first (fold 1, seed 0): [Errno 28]" in str(failures(outcome))
    states = [run.state() for run in runs_of(outcome.folder)]
    assert sorted(state["status"] for state in states) == ["failed", "finished", "finished", "finished"]
    again = cross_validate(world[-1], 2, 2, SHORT, world[3], tmp_path)
    assert again.table == whole.table
    assert [len(run.state().get("resumed", [])) for run in runs_of(outcome.folder)] == [
        int(state["status"] == "failed") for state in states
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("folds", "seeds", "overrides", "message"),
    [
        (2, 1, ["data.split=main"], "data.split: the split 'main' has no folds; make one by `medseg manifest split .* --folds 2`"),
        (5, 1, SHORT, "data.split: the split 'cv2' has 2 folds; make one by .* --name cv5 --folds 5` and set data.split=cv5"),
        (2, 0, SHORT, "--seeds: must be 1 or more"),
        (2, 1, [*SHORT, "data.fold=1"], "data.fold: is 1, and cv takes every fold in turn"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_trained(world, tmp_path, folds, seeds, overrides, message):
    with pytest.raises(ConfigError, match=message):
        cross_validate(world[-1], folds, seeds, overrides, world[3], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_one_fold_alone_is_a_training_too(world, tmp_path):
    run = api.train(world[-1], [*SHORT, "data.fold=1"], world[3], tmp_path)
    api.evaluate(run.path, "val", world[3])
    with (run.evaluation("val") / "per_case.csv").open() as stream:
        held_out = {line["sample_id"] for line in csv.DictReader(stream)}
    frame = world[2].frame
    assert held_out == set(frame.loc[frame["fold"] == "1", "sample_id"])


@pytest.mark.slow
def test_in_mlflow_the_parts_hang_on_one_run_that_holds_the_table(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = cross_validate(world[-1], 2, 1, [*SHORT, "tracking.enabled=true"], world[3], tmp_path / "runs")
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("manifest")
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if run.info.run_name == outcome.folder.name]
    parts = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(parts) == 2 and len(runs) == 3 and parent.info.status == "FINISHED"
    stored = json.loads((outcome.folder / "scores.json").read_text())
    assert parent.data.metrics["cv/iou_pooled/disc"] == pytest.approx(stored["seeds"]["0"]["pooled"]["disc"]["iou"])
    assert "tables" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert parent.data.params["train.epochs"] == "3"
    cross_validate(world[-1], 2, 1, [*SHORT, "tracking.enabled=true"], world[3], tmp_path / "runs")
    assert len(client.search_runs([experiment.experiment_id])) == 3
    assert len(client.get_metric_history(parent.info.run_id, "cv/iou_pooled/disc")) == 1


@pytest.mark.slow
def test_killed_twice_the_same_command_makes_the_same_table(world, whole, tmp_path):
    """kill -9 of the command in its second and in its fourth part."""
    command = [sys.executable, "-m", "medseg", "cv", str(world[-1]), *SHORT, "--folds", "2", "--seeds", "2"]
    command += ["--data-root", str(world[3]), "--runs", str(tmp_path)]
    for parts in (2, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and len(list(tmp_path.glob("cv-*/*/metrics.jsonl"))) < parts:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in TOLD:
        assert (next(tmp_path.glob("cv-*")) / name).read_bytes() == (whole.folder / name).read_bytes(), name


@pytest.mark.slow
def test_scores_of_another_protocol_are_not_merged(world, tmp_path):
    outcome = cross_validate(world[-1], 2, 1, SHORT, world[3], tmp_path)
    path = runs_of(outcome.folder)[0].evaluation("val_last") / "scores.json"
    path.write_text(path.read_text().replace("single forward pass", "mean over the image and its mirror image"))
    with pytest.raises(RunError, match=r"was scored by other rules \(test_time\) than .*; remove this folder, and the same command"):
        cross_validate(world[-1], 2, 1, SHORT, world[3], tmp_path)
