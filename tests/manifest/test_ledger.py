"""The ledger: each scoring of test rows is one line, nothing is lost between processes, and a read-only folder costs no scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medseg import api
from medseg.manifest import ledger
from medseg.manifest.ledger import count, ledger_path, read_ledger, record_scoring
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.split import make_split
from medseg.manifest.table import split_names
from tests.tiny import make_all

Make = Callable[[list[dict[str, Any]]], Manifest]


@pytest.fixture
def split(make_manifest: Make) -> Split:
    return make_split(make_manifest([{}] * 10), "main")


def scorings(split: Split) -> list[dict[str, Any]]:
    return [line for line in read_ledger(ledger_path(split.path)) if line["event"] == "scoring"]


def test_the_making_is_one_line(make_manifest: Make, split: Split) -> None:
    make_split(make_manifest([{}] * 10), "main")
    (line,) = read_ledger(ledger_path(split.path))
    wanted = {"event": "made", "split_sha256": split.digest, "test_rows": 2, "rows_sha256": ledger.rows_digest(split.ids("test"))}
    assert {key: line[key] for key in wanted} == wanted and line["time"].endswith("+00:00")


def test_a_split_whose_ledger_cannot_be_written_is_made(make_manifest: Make, caplog: pytest.LogCaptureFixture) -> None:
    manifest = make_manifest([{}] * 10)
    ledger_path(manifest.folder / "splits/main.csv").mkdir(parents=True)
    assert len(make_split(manifest, "main").ids("test")) == 2
    assert "main.ledger.jsonl cannot be written" in caplog.text and "the line 'made' is not counted" in caplog.text


def test_the_ledger_says_which_test_rows_are_fixed(split: Split) -> None:
    rows_sha256 = ledger.rows_digest(split.ids("test"))
    assert ledger.fixed_rows(split.path) == ledger.Fixed(split.digest, 2, rows_sha256)
    ledger.record_unlock(split.path, "why", {"removed_sha256": "of another table"})
    assert ledger.fixed_rows(split.path) == ledger.Fixed(split.digest, 2, rows_sha256)
    ledger.record_unlock(split.path, "why", {"removed_sha256": split.digest})
    assert ledger.fixed_rows(split.path) is None
    record_scoring(split, "test", "runs/a", "best")
    assert ledger.fixed_rows(split.path) == ledger.Fixed(split.digest, 2, rows_sha256)


@pytest.mark.parametrize("line", ['{"event": "made", "test_rows": "two"}', '{"event": "made", "test_rows": 0}', "[]", "{}"])
def test_a_line_that_tells_of_no_test_rows_fixes_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "main.ledger.jsonl").write_text(line + "\n")
    assert ledger.fixed_rows(tmp_path / "main.csv") is None


def test_scorings_of_test_are_counted(split: Split) -> None:
    assert [record_scoring(split, "test", "runs/a", "best") for _ in range(3)] == [1, 2, 3]
    assert record_scoring(split, "val", "runs/a", "best") is None and count(split) == 3
    line = json.loads(ledger_path(split.path).read_text().splitlines()[1])
    assert {key: line[key] for key in ("event", "run", "checkpoint", "split_sha256", "rows")} == {
        "event": "scoring", "run": "runs/a", "checkpoint": "best", "split_sha256": split.digest, "rows": 2,
    }  # fmt: skip
    assert line["time"].endswith("+00:00") and line["medseg"]


def test_another_split_with_the_same_test_rows_counts(make_manifest: Make, split: Split) -> None:
    manifest = make_manifest([{}] * 10)
    record_scoring(split, "test", "a", "best")
    other = make_split(manifest, "cv", seed=9, folds=2)
    assert other.ids("test") == split.ids("test") and record_scoring(other, "test", "b", "best") == 2
    assert split_names(manifest) == ["cv", "main"]


def test_an_unlock_is_no_scoring(split: Split) -> None:
    ledger.record_unlock(split.path, "why", {"rows": 1})
    assert record_scoring(split, "test", "a", "best") == 1


def test_a_line_cut_short_swallows_nothing(split: Split, caplog: pytest.LogCaptureFixture) -> None:
    record_scoring(split, "test", "a", "best")
    path = ledger_path(split.path)
    path.write_text(path.read_text() + '{"event": "sco')
    assert record_scoring(split, "test", "b", "best") == 2
    assert "main.ledger.jsonl line 3 is unreadable and not counted" in caplog.text
    assert [line.get("run") for line in read_ledger(path)] == [None, "a", "b"]


def test_a_ledger_that_cannot_be_written_warns(split: Split, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert record_scoring(split, "test", "a", "best") is None
    assert "main.ledger.jsonl cannot be written (Permission denied): the line 'scoring' is not counted" in caplog.text


APPEND_MANY = """
import sys
from pathlib import Path
from medseg.manifest.ledger import append
for number in range(100):
    append(Path(sys.argv[1]), "scoring", {"run": f"{sys.argv[2]}{number}", "long": "x" * 3000})
"""


def test_two_processes_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "main.ledger.jsonl"
    workers = [subprocess.Popen([sys.executable, "-c", APPEND_MANY, str(path), name]) for name in "ab"]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert sorted(line["run"] for line in read_ledger(path)) == sorted(f"{name}{number}" for name in "ab" for number in range(100))


@pytest.mark.slow
def test_an_evaluation_on_test_is_in_the_ledger(tmp_path: Path) -> None:
    _, split, data_root, experiment = make_all(tmp_path)
    run = api.train(experiment, ["train.epochs=1"], data_root, tmp_path / "runs")
    assert [line["event"] for line in read_ledger(ledger_path(split.path))] == ["made"]
    first = api.evaluate(run.path, "test", data_root)
    scores = (first.folder / "scores.json").read_bytes()
    assert api.evaluate(run.path, "val", data_root).test_scorings is None
    second = api.evaluate(run.path, "test", data_root)
    assert (first.test_scorings, second.test_scorings) == (1, 2)
    assert "Test rows scored 2 time(s) so far" in (second.folder / "table.md").read_text()
    assert "Test rows scored" not in (run.evaluation("val") / "table.md").read_text()
    assert (second.folder / "scores.json").read_bytes() == scores
    assert [(line["run"], line["checkpoint"]) for line in scorings(split)] == [(run.id, "best")] * 2
