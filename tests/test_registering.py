"""Registering: what a version holds, who gets the alias, what is refused, and the way back by models:/NAME@ALIAS.

Nothing is trained (tests/registered.py). The registries are real SQLite databases; a server's is in test_registry_serving.py.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image
from typer.testing import CliRunner

import medseg
from medseg.cli import app
from medseg.deploy.description import read_description
from medseg.deploy.model import open_export
from medseg.errors import ConfigError, ExportError, RunError
from medseg.files import write_json
from medseg.registering import register
from medseg.runfolder import RunFolder
from medseg.tracking import Sent
from medseg.tracking.packed import INPUTS, LIGHT, requirements
from medseg.tracking.registry import Registry, fetch_model
from tests.exports import photograph
from tests.registered import change_scores, export_of, make_run, score_sets

WIDE = 0.03  # larger - baseline is +0.13, its interval -0.024 to +0.26: above -0.03, not above -0.005


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score_sets(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def both(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """(a run, one that is better by 0.13), exported. Not to be changed."""
    root = tmp_path_factory.mktemp("both")
    made = tuple(make_run(root / "runs", scored / name, name) for name in ("baseline", "larger"))
    for run in made:
        export_of(run)
    return made


@pytest.fixture(scope="module")
def first(both, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the first run as version 1 of `organs`, named by @champion, and the better one as version 2. Not to be changed."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        put(both[0])
        put(both[1], alias=None)
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, first: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of that database, where MLFLOW_TRACKING_URI points; the files of its versions are where they were."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(first, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def runs(both, here: Path) -> tuple[RunFolder, RunFolder]:
    """Copies, to be changed at will."""
    return tuple(RunFolder(shutil.copytree(run.path, here / "runs" / run.id)) for run in both)


def put(run: RunFolder, alias: str | None = "champion", margin: float = WIDE):
    return register(run.path, alias=alias, export=run.path / "export", margin=margin)


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")


def versions() -> list[str]:
    return sorted(str(each.version) for each in client().search_model_versions("name='organs'"))


def champion() -> str:
    return str(client().get_model_version_by_alias("organs", "champion").version)


def png(image_HWC: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, "PNG")
    return stream.getvalue()


def test_the_first_version_gets_the_alias_and_comes_back_whole(both, tmp_path):
    for uri in ("models:/organs@champion", "models:/organs/1"):
        folder = fetch_model(uri, tmp_path / uri[-1])
        assert sorted(path.name for path in folder.iterdir()) == ["MODEL_CARD.md", "model.json", "model.onnx"]
        assert read_description(folder).origin.run == both[0].id
        image = photograph(90, 120)
        assert (open_export(folder).segment(image).mask_HW == open_export(both[0].path / "export").segment(image).mask_HW).all()


def test_a_version_says_where_it_comes_from(both):
    version = client().get_model_version("organs", "1")
    assert version.tags["medseg.run"] == both[0].id and version.tags["medseg.network"] == "threshold"
    assert version.tags["medseg.weights_sha256"] == read_description(both[0].path / "export").origin.weights_sha256
    summary = json.loads((both[0].evaluation("val") / "scores.json").read_text())["summary"]
    assert version.tags["medseg.val.miou_per_image.without_background"] == f"{summary['miou_per_image/without_background']['mean']:.4f}"
    assert version.tags["medseg.alias.champion"] == "no version had it"
    run = client().get_run(version.run_id)
    assert (run.info.status, run.info.run_name, run.data.tags["medseg.run_id"]) == ("FINISHED", "baseline", both[0].id)
    [output] = run.outputs.model_outputs
    model = client().get_logged_model(output.model_id)
    assert (model.status, model.source_run_id) == ("READY", version.run_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "organs", "version": version.version}]


def test_what_a_run_says_of_its_network_and_start_travels_with_its_scores(runs, here):
    write_json(runs[0].network_json, {"parameters": 5})
    version, registry = put(runs[0], alias=None).version, Registry(f"sqlite:///{here}/mlflow.db")
    told = RunFolder(registry.scores("organs", version, here / "told"))
    assert json.loads(told.network_json.read_text()) == {"parameters": 5} and not told.weights_json.exists()
    assert not RunFolder(registry.scores("organs", "1", here / "of old")).network_json.exists()


def test_the_alias_moves_to_one_that_is_shown_to_be_no_worse(both):
    done = put(both[1])
    assert (done.version, done.before, champion()) == ("3", "1", "3")
    assert done.compared.test.difference.value == pytest.approx(0.1324, abs=1e-4)
    told = client().get_model_version("organs", "3").tags["medseg.alias.champion"]
    assert told.startswith("against version 1: iou per image, mean of liver, lesion: +0.1324 (95 % interval -0.02")


@pytest.mark.slow
@pytest.mark.parametrize(("holder", "margin"), [("1", 0.005), ("2", WIDE)], ids=["the interval is too wide", "it is worse"])
def test_it_stays_where_that_is_not_shown_and_the_version_is_there_all_the_same(both, holder, margin):
    client().set_registered_model_alias("organs", "champion", holder)
    stays = f"registered as version 3, and models:/organs@champion stays version {holder}"
    with pytest.raises(RunError, match=rf"{stays}: iou.*95 % interval.*lower end must be above -0\.0"):
        put(both[1] if holder == "1" else both[0], margin=margin)
    assert versions() == ["1", "2", "3"] and champion() == holder


@pytest.mark.slow
def test_the_same_scores_are_no_worse_and_another_alias_is_another_matter(both):
    done = put(both[0], margin=0.005)
    assert done.compared.equal and "the same in every image" in done.compared.told() and champion() == "3"
    assert put(both[1], alias="small").before is None and champion() == "3"


@pytest.mark.slow
def test_whoever_has_the_alias_at_the_end_is_what_counts(both):
    """Another moves it to the better run while this one's is being uploaded."""

    def tell(step: str) -> None:
        if step == "registering":
            client().set_registered_model_alias("organs", "champion", "2")

    with pytest.raises(RunError, match="version 3, and models:/organs@champion stays version 2"):
        register(both[0].path, alias="champion", export=both[0].path / "export", margin=WIDE, tell=tell)


def test_other_cases_are_refused_before_anything_is_registered(runs):
    path = runs[1].evaluation("val") / "per_case.csv"
    cases = pd.read_csv(path, dtype=str, keep_default_na=False)
    cases[cases["sample_id"] != cases["sample_id"].iloc[0]].to_csv(path, index=False)
    rule = r"cannot be held against models:/organs@champion, version 1: .*rows? of 1 image in one alone.*give another --alias, or delete"
    with pytest.raises(RunError, match=rule):
        put(runs[1])
    assert versions() == ["1", "2"]


def test_a_version_without_scores_cannot_be_held_against(both):
    by_hand = client().create_model_version("organs", str(Path("elsewhere").absolute()))
    client().set_registered_model_alias("organs", "champion", by_hand.version)
    with pytest.raises(RunError, match="organs/3: holds no val scores.*another --alias"):
        put(both[1])
    with pytest.raises(ExportError, match="organs@champion: holds no export of medseg"):
        fetch_model("models:/organs@champion", Path("scratch"))


def test_val_must_have_been_scored_as_it_is_exported(runs):
    change_scores(runs[0], checkpoint={"checkpoint": "best", "epoch": 3})
    with pytest.raises(RunError, match="its val was scored by another checkpoint or with other steps.*medseg evaluate .* --split val"):
        put(runs[0])
    shutil.rmtree(runs[1].evaluation("val"))
    with pytest.raises(RunError, match="its val was not scored; run `medseg evaluate .* --split val` first"):
        put(runs[1])


def test_an_export_of_another_run_or_of_earlier_weights_is_refused(runs):
    with pytest.raises(ExportError, match=f"is an export of {runs[1].id} as it was on 2026-01-01, not of {runs[0].id}"):
        register(runs[0].path, export=runs[1].path / "export")
    runs[0].checkpoint("best").write_bytes(b"trained on")
    with pytest.raises(ExportError, match="export it again: medseg export"):
        put(runs[0])
    (runs[1].path / "export" / "model.onnx").write_bytes(b"")
    with pytest.raises(ExportError, match="another SHA-256"):
        put(runs[1])


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"alias": "v1"}, "--alias: 'v1' cannot be an alias"),
        ({"alias": "a b"}, "--alias: 'a b' cannot be an alias"),
        ({"name": "a/b"}, "--name: 'a/b' cannot be the name"),
        ({"alias": "champion", "metric": "hd95_px"}, "--metric: 'hd95_px' is not among iou"),
        ({"alias": "champion", "margin": 0.0}, "--margin: must lie above 0"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(both, asked, rule):
    with pytest.raises(ConfigError, match=rule):
        register(both[0].path, export=both[0].path / "export", **asked)


def test_a_tracked_run_is_registered_where_it_is_tracked_and_the_global_address_stays(runs, here, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (here / "mlflow.db").unlink()
    shutil.copy(empty_store, here / "own.db")
    uri, before = f"sqlite:///{here / 'own.db'}", mlflow.get_tracking_uri()
    own = MlflowClient(uri)
    tracked = own.create_run(own.create_experiment("organs"), tags={"medseg.run_id": runs[0].id}, run_name="tracked").info.run_id
    Sent(uri, "organs", run_id=tracked).write(runs[0])
    put(runs[0])
    found = own.get_model_version_by_alias("organs", "champion")
    assert found.run_id == tracked and own.get_run(tracked).info.status == "RUNNING"  # how it ends is its tracker's to say
    assert mlflow.get_tracking_uri() == before and not (here / "mlflow.db").exists()


def model_folder() -> Path:
    """Of version 1."""
    return Path(client().get_model_version_download_uri("organs", "1"))


def test_the_model_is_code_and_export_and_nothing_is_pickled(both):
    folder = model_folder()
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert {"MLmodel", "pyfunc_model.py", "artifacts/export/model.onnx", "code/medseg/deploy/answer.py", "input_example.json"} <= set(names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc", ".pt", ".safetensors"))]
    about = (folder / "MLmodel").read_text()
    assert "python_model:" not in about  # where a pickle would be named
    assert str(both[0].path.parent) not in about and str(Path(medseg.__file__).parent) not in about


def test_its_requirements_are_pinned_and_those_of_windows_are_more(both):
    lines = (model_folder() / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in lines] == list(LIGHT) and all(line.partition("==")[2] for line in lines)
    description = read_description(both[0].path / "export")
    windows = description.model_copy(update={"frame": description.frame.model_copy(update={"window_px": (32, 32)})})
    assert [line.partition("==")[0] for line in requirements(windows)] == [*LIGHT, "monai", "torch"]


def test_mlflow_predicts_photographs_of_any_size_as_the_export_does(both):
    model = mlflow.pyfunc.load_model("models:/organs@champion")
    assert model.metadata.signature.inputs == INPUTS
    images = [photograph(48, 64), photograph(300, 200), photograph(31, 90)]
    rows = pd.DataFrame({"image": [png(image) for image in images], "spacing_mm": [0.5, None, 2.0]})
    found, export = model.predict(rows), open_export(both[0].path / "export")
    for row, image in zip(found.to_dict("records"), images, strict=True):
        wanted = export.segment(image)
        assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(row["mask_png"])))) == wanted.mask_HW).all()
        assert (row["height_px"], row["width_px"]) == image.shape[:2]
        assert row["pixels"] == {name: int((wanted.mask_HW == place).sum()) for place, name in enumerate(export.labels.names)}
        assert sum(row["percent"].values()) == pytest.approx(100)
        assert row["uncertainty"] == pytest.approx(wanted.uncertainty, abs=1e-4)
    assert found["area_mm2"][0] == {name: count * 0.25 for name, count in found["pixels"][0].items()} and found["area_mm2"][1] is None
    text = [{"image": base64.b64encode(rows["image"][1]).decode()}]
    assert model.predict(text)["mask_png"][0] == found["mask_png"][1]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"image": b"no picture"}, "image 1: "),
        ({"image": "*"}, "image 1: is text, but no base64"),
        ({"image": None}, "image 1: is NoneType, no image"),
        ({"image": png(photograph(20, 20)), "spacing_mm": -1.0}, "image 1: its spacing_mm is -1"),
    ],
    ids=["not an image", "not base64", "nothing", "spacing"],
)
def test_a_row_that_cannot_be_read_is_named(row, rule):
    model = mlflow.pyfunc.load_model(str(model_folder()))
    with pytest.raises(mlflow.MlflowException, match=rule):
        model.predict([{"image": png(photograph(20, 20)), "spacing_mm": 1.0}, row])


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("models:/organs@best", "models:/organs@best: there is no such version; the newest of 'organs' is 2, and it has @champion"),
        ("models:/organs/7", "models:/organs/7: there is no such version; the newest of 'organs' is 2, and it has @champion"),
        ("models:/tongue@champion", "no model 'tongue' is registered; there are: organs"),
        ("models:/organs/latest", "names no registered model; write models:/NAME@ALIAS"),
        ("models:/../x@y", "names no registered model"),
    ],
)
def test_addresses_that_name_nothing(tmp_path, uri, rule):
    with pytest.raises(ExportError, match=rule):
        fetch_model(uri, tmp_path)


def test_a_registry_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'gone.db'}")
    with pytest.raises(ExportError, match="gone.db cannot be read .*set MLFLOW_TRACKING_URI"):
        fetch_model("models:/organs@champion", tmp_path)
    assert not (tmp_path / "gone.db").exists()


@pytest.mark.slow
def test_a_database_that_cannot_be_written(both, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///no/such/folder/mlflow.db")
    with pytest.raises(RunError, match="the model registry: sqlite:///.*did not take it .*cannot be a database.*give the command again"):
        put(both[0])


@pytest.mark.slow
def test_what_somebody_has_changed_in_the_registry_is_refused(tmp_path):
    export = shutil.copytree(model_folder() / "artifacts/export", tmp_path / "changed/artifacts/export")
    client().create_model_version("organs", str(tmp_path / "changed"))
    (export / "extra.py").write_text("raise SystemExit")
    assert not (fetch_model("models:/organs/3", tmp_path / "a") / "extra.py").exists()
    (export / "model.onnx").write_bytes(b"another")
    with pytest.raises(ExportError, match="another SHA-256"):
        fetch_model("models:/organs/3", tmp_path / "b")
    (export / "model.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(ExportError, match="artifacts/export/model.json has more than 1 MB"):
        fetch_model("models:/organs/3", tmp_path / "c")


@pytest.mark.slow
def test_the_command_line_says_what_became_of_it(both):
    arguments = ["register", str(both[0].path), "--alias", "champion", "--export", str(both[0].path / "export")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert "registered: models:/organs/3 at sqlite:///" in found.stdout
    assert "models:/organs@champion is this version, and was version 1" in found.stdout
