"""A run seen from MLflow: what a supervisor reads there after a run that finished, failed, or was killed or interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medseg import api
from medseg.runfolder import RunFolder, open_run
from tests.tiny import make_all

TRACKED = ["tracking.enabled=true"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, data_root, experiment = make_all(tmp_path)
    return data_root, experiment


def tracked(run: RunFolder):
    """(client, MLflow run) of a run folder."""
    sent = json.loads(run.mlflow_json.read_text())
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    return client, client.get_run(sent["run_id"])


def test_a_finished_run_tells_its_story(world):
    data_root, experiment = world
    run = api.train(experiment, TRACKED, data_root)
    api.evaluate(run.path, "test", data_root)
    client, found = tracked(run)
    assert client.get_experiment(found.info.experiment_id).name == "manifest"  # the data set's name
    assert (found.info.run_name, found.info.status) == ("tiny", "FINISHED")
    assert found.data.params["optim.lr"] == "0.01" and found.data.params["train.precision"] == "float32"
    lines = [json.loads(line) for line in run.metrics_jsonl.read_text().splitlines()]
    for name in ("train/loss/total", "val/iou_pooled/square", "val/recall_pooled/disc"):
        expected = [(line["step"], line["metrics"][name]) for line in lines if line["metrics"][name] is not None]
        assert [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, name)] == expected
    scores = json.loads((run.evaluation("test") / "scores.json").read_text())
    assert found.data.metrics["test/iou_pooled/disc"] == scores["pooled"]["disc"]["iou"]
    digests = json.loads(run.digests_json.read_text())
    inputs = {item.dataset.digest for item in found.inputs.dataset_inputs}
    assert {digests["manifest_sha256"][:36], digests["split_sha256"][:36]} == inputs
    top = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "environment.json", "previews", "checkpoints", "evaluation", "tables"} <= top
    assert {item.path for item in client.list_artifacts(found.info.run_id, "checkpoints")} == {
        "checkpoints/best.safetensors", "checkpoints/last.safetensors",
    }  # fmt: skip


def test_a_failed_run_ends_failed(world):
    data_root, experiment = world
    with pytest.raises(Exception, match="not finite"):
        api.train(experiment, [*TRACKED, "optim.lr=1e30", "optim.clip_norm=null", "optim.warmup_share=0.0"], data_root)
    [path] = Path("runs").iterdir()
    assert tracked(RunFolder(path))[1].info.status == "FAILED"


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_its_own_mlflow_run_with_one_history(world):
    """Stopped within the second epoch, resumed: as many points as lines, and none twice."""
    data_root, experiment = world

    def on_step(step, val_score):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.train(experiment, [*TRACKED, "train.epochs=4"], data_root, "runs", api.Progress(on_step=on_step))
    [path] = Path("runs").iterdir()
    before = tracked(RunFolder(path))[1].info
    assert before.status == "KILLED"
    run = api.resume(path, data_root)
    client, found = tracked(run)
    assert found.info.run_id == before.run_id and found.info.status == "FINISHED"
    for name, key, lines in (
        ("train/loss/total", "metrics", run.metrics_jsonl.read_text()),
        ("time/train_s", "timings", run.timings_jsonl.read_text()),
    ):
        expected = [(line["step"], line[key][name.removeprefix("time/")]) for line in map(json.loads, lines.splitlines())]
        assert [(metric.step, metric.value) for metric in client.get_metric_history(before.run_id, name)] == expected
    assert len(client.search_runs([found.info.experiment_id])) == 1


def start_long_training(world) -> tuple[subprocess.Popen[str], RunFolder]:
    """A training of its own process, of which one epoch is done and tracked."""
    data_root, experiment = world
    command = [sys.executable, "-m", "medseg", "train", str(experiment), *TRACKED, "train.epochs=5000", "--data-root", str(data_root)]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job inherits an ignored SIGINT, and hands it on
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, ours)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in Path("runs").glob("*/mlflow.json"):
            run = RunFolder(path.parent)
            if run.metrics_jsonl.exists() and json.loads(path.read_text()).get("run_id"):
                return process, run
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"no training came up: {process.communicate()}")


@pytest.mark.slow
def test_ctrl_c_marks_the_run_and_exits_with_130(world):
    process, run = start_long_training(world)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert open_run(run.path).state()["status"] == "interrupted" and tracked(run)[1].info.status == "KILLED"
    assert run.checkpoint("last").exists() and not list(run.path.rglob("*.part*"))


@pytest.mark.slow
def test_the_next_command_marks_a_killed_run(world):
    process, run = start_long_training(world)
    process.kill()
    process.communicate()
    assert open_run(run.path).state()["status"] == "running"
    next_command = subprocess.run([sys.executable, "-m", "medseg", "manifest", "split", "nowhere"], capture_output=True, text=True)
    assert next_command.returncode == 2 and f"note: the process of {run.path} is gone" in next_command.stderr
    assert open_run(run.path).state()["status"] == "killed" and tracked(run)[1].info.status == "KILLED"
