"""Reports and MLflow: tables made of a tracking server are those of the run folders, and a report goes to the runs that it is of.

Nothing is trained: the run folders hold the scores of stored masks. The stores are real SQLite databases.
"""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from medseg import tracking
from medseg.config import Config, validate_config
from medseg.errors import ConfigError, RunError
from medseg.files import write_json, write_text
from medseg.publishing import csvs
from medseg.publishing.claim import claim_items
from medseg.publishing.html.summary import cautions
from medseg.publishing.published import Published, publish
from medseg.publishing.sources import read_sources
from medseg.publishing.tracked import send_report
from medseg.publishing.trained import Trained, read_trained
from medseg.publishing.write import page
from medseg.runfolder import RunFolder, create_run
from medseg.scoring import Asked, score_folders
from medseg.tracking import Sent, fetch, sync, sync_parent
from tests.mlflow_server import Server
from tests.publishing.stored import STORED

ASKED = Asked(classes=("liver", "lesion"), group_pattern=r"(patient\d+)", jobs=1)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scores of two stored sets of predictions."""
    folder = tmp_path_factory.mktemp("scored")
    for name in ("baseline", "larger"):
        score_folders(STORED / "reference", STORED / name, folder / name, replace(ASKED, boundary=False))
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def config_of(name: str, seed: int, fold: int | None = None) -> Config:
    return validate_config({"name": name, "seed": seed, "data": {"manifest": "m", "split": "main", "fold": fold}}, "test")


def make_run(folder: Path, scores: Path, name: str, seed: int = 0, fold: int | None = None, parent: Path | None = None) -> RunFolder:
    """A finished run, evaluated on test, or on the val of its fold."""
    run = create_run(parent or folder / "runs", "organs", name, seed, parent.name if parent else None)
    write_text(run.config_yaml, config_of(name, seed, fold).to_yaml())
    write_text(run.dataset_yaml, "name: organs\n")
    write_json(run.environment_json, {"git": {"commit": "f" * 40, "branch": "main", "dirty": seed == 1}})
    write_json(run.digests_json, {"manifest_sha256": "ab" * 32, "split_sha256": "cd" * 32})
    run.append(run.metrics_jsonl, {"epoch": 1, "step": 10, "metrics": {"train/loss/total": 0.5}})
    target = run.evaluation("test" if fold is None else "val_last")
    shutil.copytree(scores, target)
    content = json.loads((target / "scores.json").read_text())
    facts = {"split": "test" if fold is None else "val", "manifest_sha256": "ab" * 32, "split_sha256": "cd" * 32}
    write_json(target / "scores.json", content | facts | {"checkpoint": {"checkpoint": "best", "epoch": 3 + seed}})
    started = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=len(list(run.path.parent.glob("*"))))
    write_json(run.path / "run.json", run.state() | {"started": started.isoformat()})
    run.set_status("finished")
    return run


@pytest.fixture
def runs(here: Path, scored: Path) -> list[RunFolder]:
    """Two seeds of one experiment, and another experiment."""
    made = [make_run(here, scored / "baseline", "small", 0), make_run(here, scored / "larger", "small", 1)]
    return [*made, make_run(here, scored / "larger", "large")]


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def tracked(run: RunFolder):
    sent = Sent.read(run)
    assert sent is not None and sent.run_id
    return client().get_run(sent.run_id)


def files(published: Published) -> dict[str, str]:
    """What a report says in words and numbers, but for where its pictures lie."""
    tests = csvs.tests_csv(published.tests, None) if published.tests else ""
    return {"table.md": page(published), "table.csv": csvs.cells_csv(published.cells, 0.95), "tests.csv": tests}


def test_a_table_of_a_server_is_that_of_the_run_folders(here, runs, tmp_path, monkeypatch, capfd):
    for run in runs:
        sync(run)
    expected = files(publish([str(run.path) for run in runs]))
    for run in runs:
        shutil.rmtree(run.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    monkeypatch.chdir("/")
    published = publish(["mlflow:organs"], scratch=tmp_path / "scratch")
    assert files(published) == expected and "commit ffffffffff, ffffffffff with uncommitted changes" in expected["table.md"]
    assert capfd.readouterr() == ("", "")  # no progress bars
    first = published.sources[0]
    run_id = next(path for path in (tmp_path / "scratch").iterdir() if first.runs[0, -1].is_relative_to(path)).name
    assert first.shown(0, -1) == f"mlflow:organs/{run_id}/evaluation/test" and first.runs[0, -1].name == runs[0].id
    assert RunFolder(first.runs[1, -1]).metrics()[0]["metrics"] == {"train/loss/total": 0.5}


def trained(published: Published) -> list[Trained | None]:
    return [read_trained(path) for source in published.sources for path in source.runs.values()]


def test_a_server_tells_of_network_and_start_what_the_run_folders_tell(runs, tmp_path):
    """Of a training from weights, of one from scratch, and of one of old, which has no file of either."""
    small, _, large = runs
    write_json(small.network_json, {"parameters": 1_234_567, "chosen": {"strides": [2, 2]}})
    write_json(large.network_json, {"parameters": 7_654_321, "chosen": {}})
    write_json(large.weights_json, {"origin": "file:a.pth (sha256 0123)", "loaded": ["a", "b"], "skipped": {}, "new": {"c": ""}})
    config = config_of("large", 0)
    write_text(large.config_yaml, config.model_copy(update={"model": config.model.model_copy(update={"weights": "file:a.pth"})}).to_yaml())
    for run in runs:
        sync(run)
    here, there = publish([str(run.path) for run in runs]), publish(["mlflow:organs"], scratch=tmp_path / "scratch")
    assert trained(there) == trained(here) and cautions(there) == cautions(here) and claim_items(there) == claim_items(here)
    told = {item.number: item.answer for item in claim_items(there)}
    assert "1,234,567 parameters" in told[22] and "strides 2, 2;" in told[22] and "7,654,321 parameters" in told[22]
    assert "file:a.pth (sha256 0123) (2 tensors taken over, 0 left, 1 made new)" in told[24] and "small: Trained from scratch" in told[24]


def test_one_run_by_its_name_folder_or_id(runs, tmp_path):
    for run in runs:
        sync(run)
    large = tracked(runs[2]).info.run_id
    for name in ("large", runs[2].id, large):
        (source,) = read_sources([f"Larger=mlflow:organs/{name}"], scratch=tmp_path / "scratch")
        assert (source.label, source.facts["run"]) == ("Larger", [runs[2].id])
    (source,) = read_sources(["mlflow:organs/small"], scratch=tmp_path / "scratch")
    assert source.seeds == [0, 1]


def test_an_experiments_name_may_hold_a_slash_and_an_equals_sign(here, scored, tmp_path):
    run = make_run(here, scored / "baseline", "small")
    write_json(run.path / "run.json", run.state() | {"dataset": "a=b/organs"})
    sync(run)
    (source,) = read_sources(["mlflow:a=b/organs"], scratch=tmp_path / "scratch")
    assert source.label == "small" and source.shown(0, -1).startswith("mlflow:a=b/organs/")


def test_of_equal_runs_the_latest_counts(here, scored, tmp_path, caplog):
    first, second = (make_run(here, scored / name, "small") for name in ("baseline", "larger"))
    unfinished = make_run(here, scored / "baseline", "other")
    unfinished.set_status("failed")
    for run in (second, first, unfinished):  # sent in another order than begun
        sync(run)
    (source,) = read_sources(["mlflow:organs"], scratch=tmp_path / "scratch")
    assert source.facts["run"] == [second.id]
    assert f"{first.id} is passed by, {second.id} is the same later" in caplog.text


def test_a_run_that_is_not_whole_at_the_server_is_passed_by(runs, tmp_path, caplog):
    for run in runs:
        sync(run)
    (Path(tracked(runs[2]).info.artifact_uri) / "run.json").unlink()
    assert [source.label for source in read_sources(["mlflow:organs"], scratch=tmp_path / "scratch")] == ["small"]
    assert "is passed by: run.json not at the server; `medseg track sync` sends it" in caplog.text
    with pytest.raises(RunError, match="of 1 run of that name, none is whole at the server"):
        read_sources(["mlflow:organs/large"], scratch=tmp_path / "scratch")


def test_what_cannot_be_read_from_a_server(runs, here, tmp_path, monkeypatch):
    sync(runs[0])
    for text, split, message in (
        ("mlflow:tongues", "test", "no experiment 'tongues' at sqlite:.*there are: Default, organs"),
        ("mlflow:organs/nobody", "test", "no run of 'organs' is called 'nobody'; there are: small; name one of them"),
        (
            "mlflow:organs",
            "val",
            "of 1 finished run, none has its val scored, and none is a cross-validation; medseg evaluate RUN --split val",
        ),
        ("mlflow:organs", "../test", "cannot be the name of a part"),
    ):
        with pytest.raises(RunError, match=message):
            read_sources([text], split, tmp_path / "scratch")
    with pytest.raises(RunError, match="mlflow:organs: is read by copies, and there is no folder for them"):
        publish(["mlflow:organs"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/nowhere.db")
    with pytest.raises(RunError, match=r"nowhere.db cannot be read \(ConnectionError: there is no database"):
        fetch("mlflow:organs", "test", tmp_path / "scratch")
    assert not (here / "nowhere.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{dead_port()}")
    with pytest.raises(RunError, match="cannot be read .*; start the server") as caught:
        fetch("mlflow:organs", "test", tmp_path / "scratch")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ConfigError, match="MLflow no longer keeps runs in plain folders"):
        fetch("mlflow:organs", "test", tmp_path / "scratch")


def dead_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("name", ["../../out", ".."])
def test_no_name_of_a_server_leaves_the_scratch(runs, tmp_path, name):
    for run in runs:
        sync(run)
    client().set_tag(tracked(runs[2]).info.run_id, "medseg.run_id", name)
    sources = read_sources(["mlflow:organs"], scratch=tmp_path / "scratch")
    assert [source.label for source in sources] == ["small"]
    assert {path.name for path in (tmp_path / "scratch").iterdir()} == {tracked(run).info.run_id for run in runs[:2]}


# ---- a report in MLflow ----


def report(folder: Path, published: Published) -> Path:
    """A report's folder, without its pictures."""
    for name, text in files(published).items():
        write_text(folder / name, text)
    write_text(folder / "pictures" / "one.svg", "<svg/>")
    return folder


def metrics_of(run) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if "_low/" in name or "_high/" in name}


def test_a_report_goes_to_its_run_once(runs, here):
    run = runs[2]
    sync(run)
    published = publish([str(run.path)])
    out = report(here / "tables", published)
    send_report(published, out)
    send_report(published, out)
    found = tracked(run)
    assert {file.path for file in client().list_artifacts(found.info.run_id, "report")} == {
        "report/pictures", "report/table.csv", "report/table.md", "report/tests.csv",
    }  # fmt: skip
    cell = published.tables["per_image"].cell("large", "lesion", "iou").estimate
    sent = metrics_of(found)
    assert (sent["test/iou_per_image_low/lesion"], sent["test/iou_per_image_high/lesion"]) == (cell.low, cell.high)
    assert {name.split("/")[1] for name in sent} == {
        f"{score}_{average}_{end}"
        for score in ("iou", "recall", "precision") for average in ("per_image", "pooled") for end in ("low", "high")
    }  # fmt: skip
    assert len(client().get_metric_history(found.info.run_id, "test/iou_per_image_low/lesion")) == 1
    tables = json.loads(found.data.tags["mlflow.loggedArtifacts"])
    assert tables.count({"path": "tables/report.json", "type": "table"}) == 1


@pytest.mark.slow
def test_a_report_of_several_stands_in_each_under_its_name(runs, here):
    for run in runs:
        sync(run)
    published = publish([str(run.path) for run in runs])
    send_report(published, report(here / "paper 1", published))
    for run in runs:
        found = tracked(run)
        assert "report/paper 1/table.csv" in {file.path for file in client().list_artifacts(found.info.run_id, "report/paper 1")}
        assert not metrics_of(found) and "tables/report_paper 1.json" in found.data.tags["mlflow.loggedArtifacts"]


def test_a_report_where_nothing_is_tracked_or_nobody_answers(runs, here, caplog):
    published = publish([str(run.path) for run in runs])
    out = report(here / "tables", published)
    send_report(published, out)  # never tracked
    assert not caplog.records
    for run in runs:
        Sent(f"http://127.0.0.1:{dead_port()}", "organs", "1", "0" * 32).write(run)
    untracked = yaml.safe_load(runs[0].config_yaml.read_text())
    untracked["tracking"]["enabled"] = False
    runs[0].config_yaml.write_text(yaml.safe_dump(untracked))
    send_report(published, out)
    (record,) = caplog.records
    assert f"MLflow has not got the report of {runs[1].id}" in record.getMessage()


# ---- a cross-validation ----


@pytest.fixture
def cv(here: Path, scored: Path) -> Path:
    """Two folds and two seeds, of patients apart."""
    folder = here / "runs" / "cv-organs-small-0123456789"
    folder.mkdir(parents=True)
    facts = {"format": 1, "name": "small", "manifest": "m", "manifest_sha256": "ab" * 32, "split": "main", "split_sha256": "cd" * 32}
    facts |= {"folds": 2, "seeds": [0, 1], "dataset": "organs", "config": config_of("small", 0).model_dump(mode="json")}
    write_json(folder / "cv.json", facts)
    lines = []
    for seed, name in enumerate(("baseline", "larger")):
        header, *rows = (scored / name / "per_case.csv").read_text().splitlines()
        for fold in (0, 1):
            run = make_run(here, scored / name, f"small-f{fold}", seed, fold, folder)
            content = json.loads((run.evaluation("val_last") / "scores.json").read_text())
            content["pooled"]["liver"]["iou"] = 0.5 + 0.25 * fold + 0.125 * seed
            content["pooled"]["lesion"]["iou"] = None if (seed, fold) == (1, 1) else 0.5
            write_json(run.evaluation("val_last") / "scores.json", content)
        lines += [f"{seed},{int(row.split(',')[0][7:9]) % 2},{row}" for row in rows]
    write_text(folder / "per_case.csv", "\n".join([f"seed,fold,{header}", *lines]) + "\n")
    write_json(folder / "scores.json", {"protocol": content["protocol"]})
    write_text(folder / "table.csv", "class,iou_pooled,n_iou\nliver,0.6,28\nlesion,0.5,12/13\n")
    write_text(folder / "table.md", "# organs / small\n\n0.5 [0.4, 0.6] (28)\n")
    return folder


def parts(cv: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(cv.glob("*/run.json"))]


def parent_of(cv: Path):
    return client().get_run(tracked(parts(cv)[0]).data.tags["mlflow.parentRunId"])


@pytest.mark.slow
def test_a_cross_validation_of_a_server_is_that_of_its_folder(cv, tmp_path):
    for run in parts(cv):
        sync(run)
    sync_parent(cv)
    expected, ids = publish([str(cv)]), {run.id: tracked(run).info.run_id for run in parts(cv)}
    for text in ("mlflow:organs", f"mlflow:organs/{cv.name}"):
        published = publish([text], scratch=tmp_path / "scratch")
        assert files(published) == files(expected)
        (source,) = published.sources
        assert source.runs.keys() == {(seed, fold) for seed in (0, 1) for fold in (0, 1)}
        assert all(RunFolder(path).metrics() for path in source.runs.values())
        assert source.shown(1, 0) == f"mlflow:organs/{ids[source.runs[1, 0].name]}/evaluation/val_last"


@pytest.mark.slow
def test_runs_go_before_the_cross_validations_of_an_experiment(cv, runs, tmp_path):
    for run in (*parts(cv), runs[2]):
        sync(run)
    sync_parent(cv)
    (source,) = read_sources(["mlflow:organs"], scratch=tmp_path / "scratch")
    assert source.facts["run"] == [runs[2].id]


@pytest.mark.slow
def test_the_parent_run_has_the_means_over_the_folds(cv):
    for run in parts(cv):
        sync(run)
    for _ in range(2):
        sync_parent(cv)
    found = parent_of(cv)
    means = {name: value for name, value in found.data.metrics.items() if name.startswith("cv/") and not name.endswith("/background")}
    assert means == {
        "cv/iou_pooled/liver": 0.6,
        "cv/iou_pooled/lesion": 0.5,
        "cv/iou_per_fold/liver": 0.6875,  # of 0.5625 and 0.8125, each the mean of two seeds
        "cv/iou_per_fold_sd/liver": pytest.approx(0.25 / 2**0.5),
    }  # n_iou differs between the seeds, and one fold has no IoU of lesion
    assert len(client().get_metric_history(found.info.run_id, "cv/iou_per_fold/liver")) == 1
    assert found.data.tags["medseg.manifest_digest"] == "ab" * 32
    assert found.data.tags["mlflow.note.content"].startswith("**organs / small**\n\n0.5 [0.4, 0.6] \\(28)")


@pytest.mark.slow
def test_a_parent_that_is_sent_again_keeps_its_end(cv):
    sync(parts(cv)[0])
    sync_parent(cv)
    ended = parent_of(cv).info.end_time
    sync_parent(cv)
    assert parent_of(cv).info.end_time == ended


@pytest.mark.slow
def test_the_report_of_a_cross_validation_goes_to_the_parent(cv, here):
    for run in parts(cv):
        sync(run)
    sync_parent(cv)
    published = publish([str(cv)])
    send_report(published, report(here / "tables", published))
    found = parent_of(cv)
    cell = published.tables["pooled"].cell("small", "liver", "iou").estimate
    assert metrics_of(found)["cv/iou_pooled_low/liver"] == cell.low
    assert not metrics_of(tracked(parts(cv)[0]))


def test_the_run_has_its_own_times(runs):
    run = runs[2]
    write_json(run.path / "run.json", run.state() | {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T01:00:00+00:00"})
    sync(run)
    info = tracked(run).info
    assert (info.start_time, info.end_time) == (1767225600000, 1767225600000 + 3_600_000)
    assert client().get_experiment(info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"


def test_nothing_global_is_touched(runs, tmp_path):
    import mlflow

    sync(runs[0])
    before = mlflow.get_tracking_uri()
    assert tracking.fetch("mlflow:organs", "test", tmp_path / "scratch") and mlflow.get_tracking_uri() == before


@pytest.mark.slow
def test_a_real_server_keeps_the_files_itself(runs, here, tmp_path, monkeypatch, capfd):
    server = Server(here)
    try:
        server.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        for run in runs:
            sync(run)
        expected = files(publish([str(run.path) for run in runs]))
        published = publish(["mlflow:organs"], scratch=tmp_path / "scratch")
        assert files(published) == expected and capfd.readouterr() == ("", "")
        send_report(publish([str(runs[2].path)]), report(here / "tables", published))
        assert "test/iou_per_image_low/liver" in metrics_of(tracked(runs[2]))
    finally:
        server.stop()
