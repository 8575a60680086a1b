"""Folders of scores -> sources: what is read, what is one line of a table, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medseg import api
from medseg.errors import RunError
from medseg.publishing.sources import Source, _joined, check_alike, differing_rules, read_sources
from medseg.scoring import score_folders
from tests.publishing.conftest import ASKED, SHORT
from tests.tiny import make_all


def one(path: Path | str) -> Source:
    (source,) = read_sources([str(path)])
    return source


def test_a_folder_of_scores(scored):
    source = one(scored / "baseline")
    assert source.label == "baseline" and source.names == source.classes == ["liver", "lesion"] and source.seeds == [-1]
    assert source.metrics[:6] == ["iou", "recall", "precision", "dice", "specificity", "volume_similarity"] and "hd95_px" in source.metrics
    assert len(source.cases) == 28 * 3 and source.cases["group_id"].nunique() == 14


def test_names_that_look_like_numbers_stay_names(scored, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(scored / "baseline", folder)
    table = folder / "per_case.csv"
    table.write_text(table.read_text().replace("patient00_0,patient00", "001,NA").replace("patient00_1,patient00", "1e3,NA"))
    cases = one(folder).cases
    assert {"001", "1e3"} <= set(cases["sample_id"]) and "NA" in set(cases["group_id"])


def test_labels_name_a_line_and_equal_ones_are_told_apart(scored, tmp_path):
    shutil.copytree(scored / "larger", tmp_path / "baseline")
    apart = read_sources([str(scored / "baseline"), str(tmp_path / "baseline")])
    assert [source.label for source in apart] == [f"baseline ({scored / 'baseline'})", f"baseline ({tmp_path / 'baseline'})"]
    named = read_sources([f"U-Net={scored / 'baseline'}", f" larger U-Net = {scored / 'larger'}".replace("= ", "=")])
    assert [source.label for source in named] == ["U-Net", "larger U-Net"]
    with pytest.raises(RunError, match="U-Net: two folders of masks are no two seeds"):
        read_sources([f"U-Net={scored / 'baseline'}", f"U-Net={scored / 'larger'}"])


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_holds_no_scores(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no scores; name a run folder"):
        read_sources([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("scores.json", "{", "scores.json: cannot be read"),
        ("scores.json", "[]", "is no record of scores"),
        ("scores.json", '{"protocol": {"version": 1}}', "was scored by version 1 of the protocol"),
        ("scores.json", '{"protocol": []}', "was scored by version None of the protocol"),
        ("scores.json", '{"protocol": [1]}', "scores.json: protocol is no object"),
        ("scores.json", '{"checkpoint": "best"}', "scores.json: checkpoint is no object"),
        ("per_case.csv", "", "per_case.csv: cannot be read"),
        ("per_case.csv", "sample_id,iou\na,0.5\n", "has no column .*group_id"),
        ("per_case.csv", "sample_id,group_id,name,kind,tp,fp,fn,tn,iou,recall,precision,dice,specificity,volume_similarity\n"
         "a,a,liver,class,many,0,0,0,0,0,0,0,0,0\n", "per_case.csv: cannot be read"),
    ],
)  # fmt: skip
def test_damaged_scores(scored, tmp_path, file, content, problem):
    shutil.copytree(scored / "baseline", tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    with pytest.raises(RunError, match=problem):
        read_sources([str(tmp_path / "run")])


def test_the_same_cases_or_a_refusal(scored):
    first, second = one(scored / "baseline"), one(scored / "larger")
    check_alike([first, second])
    fewer = replace(second, label="fewer", cases=second.cases[second.cases["sample_id"] != "patient00_0"])
    with pytest.raises(
        RunError, match="fewer: its cases are not those of baseline: 3 rows of 1 image in one alone, such as patient00_0 .*in baseline"
    ):
        check_alike([first, fewer])
    moved = replace(second, cases=second.cases.replace({"group_id": {"patient03": "patient04"}}))
    with pytest.raises(RunError, match="the group of patient03_0 .* is another than in baseline"):
        check_alike([first, moved])
    redrawn = second.cases.copy()
    redrawn.loc[redrawn["sample_id"] == "patient05_1", "fn"] += 1
    with pytest.raises(RunError, match="the reference of patient05_1 .* is another than in baseline"):
        check_alike([first, replace(second, cases=redrawn)])


def test_other_rules_are_refused_but_not_how_it_was_predicted(scored):
    first = one(scored / "baseline")
    assert differing_rules(first.protocol, replace(first.protocol, test_time="with flips", checkpoint="x", detection="y")) == []
    assert differing_rules(first.protocol, replace(first.protocol, boundary=None, spacing=None, tolerances=None)) == []
    assert differing_rules(first.protocol, replace(first.protocol, tolerances=("nsd_1px",))) == ["tolerances"]
    other = replace(first, label="other", protocol=replace(first.protocol, ignore_id=7))
    with pytest.raises(RunError, match=r"other: its scores were made by other rules \(ignore_id\) than those of baseline"):
        check_alike([first, other])


def test_one_line_is_of_one_way_to_predict_and_score(scored):
    first = one(scored / "baseline")
    flipped = replace(first, cases=first.cases.assign(seed=1), protocol=replace(first.protocol, test_time="with flips", boundary=None))
    with pytest.raises(RunError, match=r"baseline: two of its runs were .* in two ways \(test_time, boundary\), and cannot be one line"):
        _joined([first, flipped])


def test_runs_that_differ_in_the_seed_alone_are_one_line(trained):
    data_root, (first, second, other) = trained
    sources = read_sources([str(run.path) for run in (first, other, second)])
    assert [source.seeds for source in sources] == [[0, 1], [0]]
    assert sources[0].facts["run"] == [first.id, second.id] and sources[0].facts["test_scorings"] == 3
    assert [source.label for source in sources] == [f"tiny ({first.id}, {second.id})", f"tiny ({other.id})"]
    with pytest.raises(RunError, match="is named twice; name each run once"):
        read_sources([f"A={first.path}", f"B={first.path}"])
    with pytest.raises(RunError, match="its val was not scored; run `medseg evaluate .* --split val` first"):
        read_sources([str(first.path)], "val")


def test_a_run_against_its_own_predictions_scored_from_their_files(trained, tmp_path):
    """medseg's own run beside anybody's masks of the same images: one table."""
    data_root, (run, *_) = trained
    folder = run.evaluation("test")
    reference = tmp_path / "reference"
    reference.mkdir()
    for path in (folder / "predictions").iterdir():
        shutil.copy(data_root / "masks" / path.name, reference)
    asked = replace(ASKED, classes=("disc", "square"), group_pattern=None)
    score_folders(reference, folder / "predictions", tmp_path / "own", asked)
    ours, theirs = read_sources([str(run.path), str(tmp_path / "own")])
    check_alike([ours, theirs])
    columns = ["sample_id", "name", "tp", "fp", "fn", "tn", "iou", "hd95_px"]
    assert ours.cases[columns].equals(theirs.cases[columns])


@pytest.mark.slow
def test_a_cross_validation(tmp_path):
    root = tmp_path
    manifest, _, data_root, experiment = make_all(root)
    api.make_split(manifest, "cv", seed=0, folds=2)
    out = api.cross_validate(experiment, 2, 2, ["data.split=cv", *SHORT], data_root, root / "runs")
    source = one(out.folder)
    assert source.label == "tiny" and source.seeds == [0, 1] and set(source.cases["fold"]) == {0, 1}
    assert source.folders.keys() == {(seed, fold) for seed in (0, 1) for fold in (0, 1)}
    table = json.loads((out.folder / "scores.json").read_text())["seeds"]["1"]["per_image"]["disc"]["iou"]
    seed = source.cases[(source.cases["seed"] == 1) & (source.cases["name"] == "disc")]["iou"]
    assert (seed.mean(), seed.count()) == (pytest.approx(table["mean"]), table["n"])
