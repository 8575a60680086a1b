"""tracking.py against real MLflow: SQLite stores in tmp_path, one real server, and ports where nobody listens."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from medseg import tracking
from medseg.config import Config, validate_config
from medseg.errors import ConfigError, RunError
from medseg.files import write_json, write_text
from medseg.labels import LabelSet
from medseg.manifest.schema import COLUMNS, Dataset, Manifest, Split
from medseg.runfolder import RunFolder, create_run
from medseg.tracking import Sent, log_evaluation, mark_killed, start_tracking, sync, tracking_uri
from medseg.tracking.address import live_uri
from medseg.tracking.sender import Sender
from medseg.tracking.sent import STREAMS
from tests.mlflow_server import Server, SlowWire

POLL_S = 0.05
MANIFEST_DIGEST, SPLIT_DIGEST = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def here(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a database: MLflow puts artefacts below the working folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def manifest(here: Path) -> Manifest:
    cells: dict[str, list[Any]] = {column: ["x", "y", "z"] for column in COLUMNS}
    cells |= {"sample_id": ["s1", "s2", "s3"], "group_id": ["p1", "p1", "p2"], "height_px": [4, 4, 4], "width_px": [5, 5, 5]}
    cells |= {"px_background": [10, 12, 20], "px_tongue": [10, 8, 0]}
    dataset = Dataset(name="tongues", labels=LabelSet.of("tongue"))
    return Manifest(here / "data_manifests" / "tongues" / "v1", pd.DataFrame(cells), dataset, MANIFEST_DIGEST)


@pytest.fixture
def split(manifest: Manifest) -> Split:
    frame = pd.DataFrame({"sample_id": ["s1", "s2", "s3"], "group_id": ["p1", "p1", "p2"], "split": ["train", "train", "val"], "fold": 0})
    return Split("main", manifest.folder / "splits" / "main.csv", frame, SPLIT_DIGEST)


def make_config(uri: str = "sqlite:///mlflow.db") -> Config:
    return validate_config({"name": "baseline", "seed": 7, "data": {"manifest": "m"}, "tracking": {"uri": uri}}, "test")


@pytest.fixture
def run(here: Path) -> RunFolder:
    run = create_run(here / "runs", "tongues", "baseline", 7)
    write_text(run.config_yaml, make_config().to_yaml())
    write_json(run.environment_json, {"git": {"commit": "f" * 40, "branch": "main", "dirty": True}})
    write_json(run.digests_json, {"manifest_sha256": MANIFEST_DIGEST, "split_sha256": SPLIT_DIGEST})
    run.dirty_diff.write_text("+a\n")
    return run


def epoch(run: RunFolder, number: int, **extra: float | None) -> None:
    """What the engine appends after an epoch."""
    metrics = {"train/loss": 1 / number, "val/iou_pooled/tongue": 0.1 * number, **extra}
    run.append(run.metrics_jsonl, {"epoch": number, "step": number * 10, "metrics": metrics})
    run.append(run.timings_jsonl, {"epoch": number, "step": number * 10, "timings": {"epoch_s": 2.5}})


Start = Callable[..., tracking.Tracker]


@pytest.fixture
def start(run: RunFolder, manifest: Manifest, split: Split) -> Iterator[Start]:
    trackers = []

    def start(uri: str = "sqlite:///mlflow.db") -> tracking.Tracker:
        trackers.append(start_tracking(run, make_config(uri), manifest, split, poll_s=POLL_S))
        return trackers[-1]

    yield start
    for tracker in trackers:  # one that was left open stops looking
        tracker._poll_s = 3600


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def tracked(run: RunFolder) -> Run:
    sent = Sent.read(run)
    assert sent is not None and sent.run_id is not None
    return client().get_run(sent.run_id)


def history(run: RunFolder, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client().get_metric_history(tracked(run).info.run_id, name)]


def artefacts(run: RunFolder, folder: str = "") -> list[str]:
    return sorted(file.path for file in client().list_artifacts(tracked(run).info.run_id, folder or None))


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def sent_all(run: RunFolder) -> bool:
    sent = Sent.read(run)
    return bool(sent and run.metrics_jsonl.exists() and sent.sent_offset == run.metrics_jsonl.stat().st_size)


# ---- a run from start to end ----


def test_a_finished_run(run: RunFolder, start: Start) -> None:
    tracker = start()
    epoch(run, 1)
    epoch(run, 2)
    tracker.close("finished")
    found = tracked(run)
    assert client().get_experiment(found.info.experiment_id).name == "tongues"
    assert (found.info.run_name, found.info.status) == ("baseline", "FINISHED")
    assert found.info.end_time >= found.info.start_time
    assert found.data.params == make_config().flat()


def test_the_history_is_that_of_metrics_jsonl(run: RunFolder, start: Start) -> None:
    tracker = start()
    for number in (1, 2, 3):
        epoch(run, number)
        wait_for(lambda: sent_all(run))  # so that each epoch is a block of its own
    tracker.close("finished")
    records = [json.loads(line) for line in run.metrics_jsonl.read_text().splitlines()]
    for name in ("train/loss", "val/iou_pooled/tongue"):
        assert history(run, name) == [(record["step"], record["metrics"][name]) for record in records]
    assert history(run, "time/epoch_s") == [(10, 2.5), (20, 2.5), (30, 2.5)]


def test_an_undefined_number_is_no_point(run: RunFolder, start: Start) -> None:
    tracker = start()
    epoch(run, 1, **{"val/iou_pooled/lesion": None, "val/x": float("nan")})
    epoch(run, 2, **{"val/iou_pooled/lesion": 0.5})
    tracker.close("finished")
    assert history(run, "val/iou_pooled/lesion") == [(20, 0.5)]
    assert "val/x" not in tracked(run).data.metrics


def test_odd_class_names_and_broken_lines_hold_nothing_up(run: RunFolder, start: Start) -> None:
    run.metrics_jsonl.write_text("not json\n")
    epoch(run, 1, **{"val/iou_pooled/CD4+ cell": 0.5})
    with run.metrics_jsonl.open("a") as stream:
        stream.write('{"step": 99, "half a li')
    start().close("finished")
    assert history(run, "val/iou_pooled/CD4_ cell") == [(10, 0.5)]
    assert tracked(run).info.status == "FINISHED"


def test_tags(run: RunFolder, start: Start) -> None:
    start().close("finished")
    tags = tracked(run).data.tags
    expected = {
        "medseg.run_id": run.id,
        "medseg.seed": "7",
        "medseg.manifest_digest": MANIFEST_DIGEST,
        "medseg.split_digest": SPLIT_DIGEST,
        "medseg.git_dirty": "true",
        "mlflow.source.git.commit": "f" * 40,
        "mlflow.source.git.branch": "main",
        "mlflow.runName": "baseline",
    }
    assert {key: tags[key] for key in expected} == expected
    assert Path(sys.argv[0]).name in tags["medseg.command"]


def test_manifest_and_split_are_inputs(run: RunFolder, start: Start) -> None:
    start().close("finished")
    inputs = {entry.tags[0].value: entry.dataset for entry in tracked(run).inputs.dataset_inputs}
    assert {context: (data.name, data.digest) for context, data in inputs.items()} == {
        "manifest": ("tongues", MANIFEST_DIGEST[:36]),
        "train": ("tongues/main/train", SPLIT_DIGEST[:36]),
        "val": ("tongues/main/val", SPLIT_DIGEST[:36]),
    }
    assert json.loads(inputs["manifest"].source) == {"uri": "data_manifests/tongues/v1/manifest.csv"}
    assert json.loads(inputs["train"].profile) == {"num_rows": 2, "num_groups": 1, "px": {"background": 22, "tongue": 18}}
    types = {column["name"]: column["type"] for column in json.loads(inputs["train"].schema)["mlflow_colspec"]}
    assert (types["sample_id"], types["px_tongue"]) == ("string", "long")


def test_artefacts(run: RunFolder, start: Start) -> None:
    tracker = start()
    run.previews.mkdir()
    (run.previews / ".half.part.jpg").write_bytes(b"half")
    write_json(run.network_json, {"parameters": 5})
    (run.previews / "epoch_001.jpg").write_bytes(b"strip")
    wait_for(lambda: {"network.json", "previews/epoch_001.jpg"} <= set(Sent.read(run).files))  # while the training still goes on
    run.checkpoint("best").write_bytes(b"weights")
    epoch(run, 1)
    tracker.close("finished")
    assert artefacts(run) == [
        "checkpoints", "config.yaml", "digests.json", "dirty.diff", "environment.json",
        "metrics.jsonl", "network.json", "previews", "timings.jsonl",
    ]  # fmt: skip
    assert artefacts(run, "previews") == ["previews/epoch_001.jpg"]
    copy = client().download_artifacts(tracked(run).info.run_id, "checkpoints/best.safetensors")
    assert Path(copy).read_bytes() == b"weights"


@pytest.mark.parametrize(("status", "expected"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_run_that_does_not_finish(run: RunFolder, start: Start, status: Any, expected: str) -> None:
    tracker = start()
    epoch(run, 1)
    tracker.close(status)
    assert tracked(run).info.status == expected
    assert history(run, "train/loss") == [(10, 1.0)]


def test_nothing_global_is_touched_and_nothing_printed(run: RunFolder, start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    environment, uri, active = dict(os.environ), mlflow.get_tracking_uri(), mlflow.active_run()
    (Path.cwd() / "mlflow.db").unlink()  # the migrations of a new database are what is noisy
    start().close("finished")
    assert (dict(os.environ), mlflow.get_tracking_uri(), mlflow.active_run()) == (environment, uri, active)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_telemetry_is_off_unless_asked_for() -> None:
    """MLflow is silent in what it takes for a test or a CI machine; without those marks only our variable is left to stop it."""
    marks = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    environment = {key: value for key, value in os.environ.items() if key not in marks}
    code = "import medseg.tracking, mlflow.telemetry as t; print(t.get_telemetry_client())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == "None\n"


def test_two_runs_of_one_data_set_share_the_experiment(here: Path, run: RunFolder, manifest: Manifest, split: Split, start: Start) -> None:
    other = create_run(here / "runs", "tongues", "baseline", 7)
    second = start_tracking(other, make_config(), manifest, split, poll_s=POLL_S)
    start().close("finished")
    second.close("finished")
    assert tracked(other).info.experiment_id == tracked(run).info.experiment_id
    assert tracked(other).info.run_id != tracked(run).info.run_id


# ---- sending again ----


def test_a_second_tracker_goes_on_without_repeats(run: RunFolder, start: Start) -> None:
    first = start()
    epoch(run, 1)
    first.close("interrupted")
    before = tracked(run).info.run_id
    second = start()
    epoch(run, 2)
    second.close("finished")
    assert tracked(run).info.run_id == before and tracked(run).info.status == "FINISHED"
    assert history(run, "train/loss") == [(10, 1.0), (20, 0.5)]
    assert len(tracked(run).inputs.dataset_inputs) == 3


def test_a_block_sent_but_not_noted_is_not_there_twice(run: RunFolder, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies between MLflow's answer and our note of it: the worst moment."""
    start().close("finished")
    epoch(run, 1)
    with monkeypatch.context() as patch:
        writes = []

        def die_at_the_second(self: Sent, run: RunFolder) -> None:
            writes.append(self)
            if len(writes) == 2:
                raise KeyboardInterrupt
            write_json(run.mlflow_json, asdict(self))

        patch.setattr(Sent, "write", die_at_the_second)
        sent = Sent.read(run)
        with pytest.raises(KeyboardInterrupt):
            Sender(run, sent, "sqlite:///mlflow.db").follow()
    assert history(run, "train/loss") == [(10, 1.0)] and Sent.read(run).sent_offset == 0
    epoch(run, 2)
    start().close("finished")
    assert history(run, "train/loss") == [(10, 1.0), (20, 0.5)]


def test_lines_written_since_a_block_was_begun_are_sent_with_it(run: RunFolder, start: Start) -> None:
    """A server goes away in the middle of a block; by the time it is back, the training has gone on and ended."""
    start().close("finished")
    epoch(run, 1)
    sent = Sent.read(run)
    sent.pending = {stream.key: [(run.path / stream.file).stat().st_size, 1] for stream in STREAMS}
    sent.write(run)
    epoch(run, 2)
    run.set_status("finished")
    sync(run)
    assert_whole(run)


def test_a_run_that_was_made_but_not_noted_is_found_again(run: RunFolder, start: Start) -> None:
    start().close("finished")
    before = tracked(run).info.run_id
    run.mlflow_json.unlink()
    start().close("finished")
    assert tracked(run).info.run_id == before


def test_only_changed_files_are_uploaded_again(run: RunFolder, start: Start) -> None:
    start().close("finished")
    folder = Path(tracked(run).info.artifact_uri)
    for name in ("config.yaml", "dirty.diff"):
        (folder / name).write_text("as uploaded")
    run.dirty_diff.write_text("+a\n+b\n")
    start().close("finished")
    assert (folder / "config.yaml").read_text() == "as uploaded" and (folder / "dirty.diff").read_text() == "+a\n+b\n"


def test_of_a_run_sent_before_its_network_was_told_that_alone_is_sent(run: RunFolder, start: Start) -> None:
    start().close("finished")
    run.set_status("finished")
    sync(run)
    folder, complete = Path(tracked(run).info.artifact_uri), artefacts(run)
    for name in complete:
        (folder / name).write_text("as uploaded")
    sync(run)  # a run of old has neither file
    assert artefacts(run) == complete
    write_json(run.network_json, {"parameters": 5})
    write_json(run.weights_json, {"origin": "file:a.pth"})
    sync(run)
    assert artefacts(run) == sorted([*complete, "network.json", "weights.json"])
    assert json.loads((folder / "weights.json").read_text()) == {"origin": "file:a.pth"}
    assert {(folder / name).read_text() for name in complete} == {"as uploaded"}


# ---- killed ----


def test_a_killed_run_is_marked_and_its_last_lines_sent(run: RunFolder, start: Start) -> None:
    tracker = start()
    epoch(run, 1)
    wait_for(lambda: sent_all(run))
    tracker._sender.has_news = lambda: False  # type: ignore[method-assign]  # the thread is gone as it were
    epoch(run, 2)
    mark_killed(run)
    assert tracked(run).info.status == "KILLED"
    assert history(run, "train/loss") == [(10, 1.0), (20, 0.5)]


def test_a_run_that_had_ended_is_not_marked(run: RunFolder, start: Start) -> None:
    start().close("finished")
    mark_killed(run)
    assert tracked(run).info.status == "FINISHED"
    sent = Sent.read(run)
    sent.status = None  # ended, but that was not noted
    sent.write(run)
    mark_killed(run)
    assert tracked(run).info.status == "FINISHED" and Sent.read(run).status == "FINISHED"


def test_marking_a_run_that_was_never_tracked_does_nothing(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    mark_killed(run)
    log_evaluation(run, "val")
    assert not run.mlflow_json.exists() and not caplog.records


def test_marking_from_another_folder(run: RunFolder, start: Start, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative SQLite address means the folder the training was started in."""
    start()
    wait_for(lambda: (sent := Sent.read(run)) and sent.described)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    mark_killed(run)
    assert not (here / "elsewhere" / "mlflow.db").exists()
    monkeypatch.chdir(here)
    assert tracked(run).info.status == "KILLED"


# ---- a server that is away ----


def dead_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_dead_server_costs_one_warning(run: RunFolder, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    tracker = start(f"http://127.0.0.1:{dead_port()}")
    assert time.monotonic() - began < 1
    wait_for(lambda: caplog.records)
    epoch(run, 1)
    tracker.close("finished", timeout_s=10)
    assert time.monotonic() - began < 10
    messages = [record.getMessage() for record in caplog.records if record.name == "medseg.tracking"]
    assert len(messages) == 2
    assert "the training goes on" in messages[0] and "the run folder is whole" in messages[1]
    assert json.loads(run.mlflow_json.read_text())["run_id"] is None


def test_a_server_that_never_answers_holds_close_up_no_longer_than_allowed(run: RunFolder, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = start(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        tracker.close("finished", timeout_s=0.5)
        assert time.monotonic() - began < 2


def test_what_a_dead_server_missed_is_sent_later(run: RunFolder, start: Start) -> None:
    """The database is unusable, then comes back, while the training goes on."""
    database = Path.cwd() / "mlflow.db"
    database.rename(database.with_suffix(".away"))
    database.mkdir()
    tracker = start()
    epoch(run, 1)
    wait_for(lambda: tracker._problem)
    database.rmdir()
    database.with_suffix(".away").rename(database)
    tracker.close("finished")
    assert history(run, "train/loss") == [(10, 1.0)] and tracked(run).info.status == "FINISHED"


def test_marking_and_evaluating_against_a_dead_server_only_warn(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    Sent(f"http://127.0.0.1:{dead_port()}", "tongues", "1", "0" * 32).write(run)
    run.evaluation("val").mkdir(parents=True)
    mark_killed(run)
    log_evaluation(run, "val")
    assert [record.levelno for record in caplog.records if record.name == "medseg.tracking"] == [logging.WARNING] * 2


def test_credentials_are_neither_stored_nor_told(run: RunFolder, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    port = dead_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{port}")
    start().close("finished", timeout_s=10)
    assert json.loads(run.mlflow_json.read_text())["uri"] == f"http://127.0.0.1:{port}"
    assert caplog.records and "hunter2" not in caplog.text
    assert live_uri(f"http://127.0.0.1:{port}") == f"http://me:hunter2@127.0.0.1:{port}"
    assert live_uri("http://127.0.0.1:1") == "http://127.0.0.1:1"


# ---- evaluation ----

SCORES = {
    "pooled": {"tongue": {"iou": 0.5, "recall": 0.75, "dice": None}},
    "per_image": {"tongue": {"iou": {"mean": 0.25, "n": 2}}},
    "summary": {"miou_with_background": 0.625, "miou": None},
    "protocol": {"version": 3},
}


@pytest.fixture
def evaluated(run: RunFolder, start: Start) -> RunFolder:
    tracker = start()
    epoch(run, 1)
    tracker.close("finished")
    write_json(run.evaluation("val") / "scores.json", SCORES)
    (run.evaluation("val") / "table.csv").write_text("class,iou\ntongue,0.5\nbackground,\n")
    return run


def test_an_evaluation_is_sent_once(evaluated: RunFolder) -> None:
    log_evaluation(evaluated, "val")
    log_evaluation(evaluated, "val")
    scores = {name: value for name, value in tracked(evaluated).data.metrics.items() if name.startswith("evaluation/")}
    assert scores == {
        "evaluation/val/iou_pooled/tongue": 0.5,
        "evaluation/val/recall_pooled/tongue": 0.75,
        "evaluation/val/iou_per_image/tongue": 0.25,
        "evaluation/val/iou_per_image_n/tongue": 2,
        "evaluation/val/miou_with_background": 0.625,
    }
    assert history(evaluated, "evaluation/val/iou_pooled/tongue") == [(0, 0.5)]
    assert history(evaluated, "val/iou_pooled/tongue") == [(10, 0.1)]  # the training's own curve is left alone
    assert artefacts(evaluated, "evaluation/val") == ["evaluation/val/scores.json", "evaluation/val/table.csv"]
    assert tracked(evaluated).info.status == "FINISHED"


def test_the_table_is_one_mlflow_can_load_and_is_not_doubled(evaluated: RunFolder) -> None:
    log_evaluation(evaluated, "val")
    log_evaluation(evaluated, "val")
    run = tracked(evaluated)
    table = client().load_table(run.info.experiment_id, "tables/val.json", run_ids=[run.info.run_id])
    assert table.values.tolist()[0] == ["tongue", 0.5] and len(table) == 2
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "tables/val.json", "type": "table"}]


def test_the_scored_part_is_an_input_once(evaluated: RunFolder, manifest: Manifest, split: Split) -> None:
    tested = replace(split, frame=split.frame.assign(split=["train", "test", "val"]))
    write_json(evaluated.evaluation("test") / "scores.json", SCORES | {"split": "test"})
    for _ in range(2):
        log_evaluation(evaluated, "test", (manifest, tested))
        log_evaluation(evaluated, "val", (manifest, tested))
    inputs = {entry.tags[0].value: entry.dataset.name for entry in tracked(evaluated).inputs.dataset_inputs}
    assert inputs == {name: f"tongues/main/{name}" for name in ("train", "val", "test")} | {"manifest": "tongues"}
    assert len(tracked(evaluated).inputs.dataset_inputs) == 4


def test_the_tables_are_the_description_of_the_run(evaluated: RunFolder) -> None:
    """What somebody has written there stays; the tables of test are never hidden by those of val."""
    note = "mlflow.note.content"
    (evaluated.evaluation("val") / "table.md").write_text("# of val\n\n0.5 [0.4, 0.6] (3)\n")
    log_evaluation(evaluated, "val")
    assert tracked(evaluated).data.tags[note].startswith("**of val**\n\n0.5 [0.4, 0.6] \\(3)\n")
    write_json(evaluated.evaluation("test") / "scores.json", SCORES)
    (evaluated.evaluation("test") / "table.md").write_text("# of test\n" + "| a line |\n" * 1000)
    for split in ("test", "val"):
        log_evaluation(evaluated, split)
    text = tracked(evaluated).data.tags[note]
    assert text.startswith("**of test**") and "the whole is in table.md among the artifacts" in text and len(text) < 8000
    client().set_tag(tracked(evaluated).info.run_id, note, "my own words")
    log_evaluation(evaluated, "test")
    assert tracked(evaluated).data.tags[note] == "my own words"


def test_how_the_run_ended_is_sent_with_its_evaluation(evaluated: RunFolder) -> None:
    assert "run.json" not in artefacts(evaluated)  # the training is sent before it says that it has finished
    evaluated.set_status("finished")
    log_evaluation(evaluated, "val")
    copy = client().download_artifacts(tracked(evaluated).info.run_id, "run.json")
    assert json.loads(Path(copy).read_text())["status"] == "finished"


def test_a_new_score_replaces_the_old(evaluated: RunFolder) -> None:
    log_evaluation(evaluated, "val")
    time.sleep(0.002)  # the later timestamp wins
    write_json(evaluated.evaluation("val") / "scores.json", {"pooled": {"tongue": {"iou": 0.25}}})
    log_evaluation(evaluated, "val")
    assert tracked(evaluated).data.metrics["evaluation/val/iou_pooled/tongue"] == 0.25


# ---- the address ----


def test_the_address(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(make_config()) == f"sqlite:///{here}/mlflow.db"
    assert tracking_uri(make_config("sqlite:///./sub/m.db?timeout=5")) == f"sqlite:///{here}/sub/m.db?timeout=5"
    assert tracking_uri(make_config("sqlite:////data/m.db")) == "sqlite:////data/m.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(make_config()) == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    assert tracking_uri(make_config()) == f"sqlite:///{here}/mlflow.db"


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "file:///tmp/mlruns", "C:/mlruns", "/tmp/mlruns", ""])
def test_a_folder_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri: MLflow no longer keeps runs in plain folders.*sqlite:///mlflow\.db"):
        tracking_uri(make_config(uri))
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: MLflow no longer"):
            tracking_uri(make_config())


def test_a_password_in_the_config_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="holds a password, and the config is copied") as caught:
        tracking_uri(make_config("http://me:hunter2@example.org"))
    assert "hunter2" not in str(caught.value)


def test_a_broken_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="tracking.uri: not a URI"):
        tracking_uri(make_config("http://[::1"))


def test_a_run_that_was_never_tracked_is_synced_whole(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    epoch(run, 1)
    write_json(run.evaluation("test") / "scores.json", SCORES)
    with pytest.raises(RunError, match="is at work and sends by itself"):
        sync(run)
    run.set_status("interrupted")
    for _ in range(2):
        sync(run)
        found = tracked(run)
        assert history(run, "train/loss") == [(10, 1.0)] and history(run, "test/iou_pooled/tongue") == [(0, 0.5)]
        assert found.info.status == "KILLED" and found.data.tags["medseg.manifest_digest"] == MANIFEST_DIGEST
    assert "the data sets are not sent as inputs" in caplog.text  # their manifest is not there in this test


def test_a_sync_that_finds_nobody_is_one_error(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.set_status("finished")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{dead_port()}")
    with pytest.raises(RunError, match="did not take it .*; start the server and give the command again"):
        sync(run)


def test_a_run_that_reached_no_server_is_synced_to_the_address_of_today(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch(run, 1)
    run.set_status("finished")
    Sent(f"http://127.0.0.1:{dead_port()}", "elsewhere").write(run)  # an address that was mistyped, or of a server that has moved
    sync(run)
    assert history(run, "train/loss") == [(10, 1.0)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"its MLflow run is at sqlite:.*MLFLOW_TRACKING_URI says http://127.0.0.1:9; .*remove mlflow.json"):
        sync(run)


# ---- a real server ----


@pytest.fixture
def server(here: Path) -> Iterator[Server]:
    """Not started yet."""
    server = Server(here)
    yield server
    server.stop()


def assert_whole(run: RunFolder) -> None:
    """Every number of both files is at the server, and no other."""
    for path, key, prefix in ((run.metrics_jsonl, "metrics", ""), (run.timings_jsonl, "timings", "time/")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for name in lines[0][key]:
            assert history(run, prefix + name) == [(line["step"], line[key][name]) for line in lines], name


@pytest.mark.slow
def test_a_server_that_comes_goes_and_hangs_ends_with_exactly_the_history(
    run: RunFolder, start: Start, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.tracking.follower.LONGEST_BACKOFF_S", 1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    tracker = start()
    epoch(run, 1)  # before there is one
    time.sleep(1)
    server.start()
    epoch(run, 2)
    wait_for(lambda: sent_all(run), 60)
    server.stop()
    for number in (3, 4):  # while it is away
        epoch(run, number)
    time.sleep(1.5)
    server.start()
    wait_for(lambda: sent_all(run), 60)
    server.signal(signal.SIGSTOP)
    for number in (5, 6):  # while it takes connections and answers none
        epoch(run, number)
        time.sleep(1.5)
    server.signal(signal.SIGCONT)
    wait_for(lambda: sent_all(run), 60)
    epoch(run, 7)
    tracker.close("finished", timeout_s=60)
    assert_whole(run)
    assert tracked(run).info.status == "FINISHED"


@pytest.mark.slow
def test_a_slow_server_holds_nobody_up(run: RunFolder, start: Start, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer comes half a second late; what the training waits for is the appending of lines alone."""
    server.start()
    wire = SlowWire(server.port, 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{wire.port}")
    tracker = start()
    for number in range(1, 21):
        began = time.perf_counter()
        epoch(run, number)
        assert time.perf_counter() - began < 0.4
        time.sleep(0.05)
    tracker.close("finished", timeout_s=120)
    assert_whole(run)
    wire.close()


@pytest.mark.slow
def test_what_a_lost_server_missed_is_synced_and_never_twice(
    run: RunFolder, start: Start, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    tracker = start()
    epoch(run, 1)
    wait_for(lambda: sent_all(run), 60)
    server.stop()
    epoch(run, 2)
    tracker.close("finished", timeout_s=10)
    run.set_status("finished")
    write_json(run.evaluation("test") / "scores.json", SCORES)
    with pytest.raises(RunError, match="did not take it .*; start the server and give the command again"):
        sync(run)
    server.start()
    for _ in range(2):
        assert sync(run) == tracked(run).info.run_id
        assert_whole(run)
        assert tracked(run).info.status == "FINISHED" and tracked(run).data.metrics["test/iou_pooled/tongue"] == 0.5


@pytest.mark.slow
def test_a_real_server(run: RunFolder, start: Start, server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("http://", "http://me:hunter2@"))
    tracker = start()
    epoch(run, 1)
    run.checkpoint("best").write_bytes(b"weights")
    tracker.close("finished", timeout_s=60)
    write_json(run.evaluation("test") / "scores.json", SCORES)
    log_evaluation(run, "test")
    found = tracked(run)
    assert found.info.status == "FINISHED" and found.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert history(run, "train/loss") == [(10, 1.0)]
    assert found.data.metrics["test/iou_pooled/tongue"] == 0.5
    assert (Path.cwd() / "artefacts" / found.info.experiment_id / found.info.run_id / "artifacts/checkpoints/best.safetensors").is_file()
    assert capfd.readouterr().out == ""
