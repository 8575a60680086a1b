"""What is printed: digits, marks, daggers, LaTeX that compiles, and committed tables made again byte for byte."""

from __future__ import annotations

import csv
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medseg import api
from medseg.cli import main
from medseg.errors import ConfigError
from medseg.publishing.estimated import Cell
from medseg.publishing.latex import latex, tex
from medseg.publishing.markdown import markdown
from medseg.publishing.published import publish
from medseg.publishing.table import Table
from medseg.publishing.write import WRITTEN, write_report
from medseg.statistics.intervals import Estimate

EXPECTED = Path(__file__).parent / "expected"
ROOT = Path(__file__).parents[2]


def cell(label: str, value: float, half: float = 0.05, name: str = "liver", metric: str = "iou") -> Cell:
    return Cell(label, name, metric, "per_image", Estimate(value, value - half, value + half, 20), (41, 41), 60, 20, (value,), (name,))


@pytest.mark.parametrize(
    ("half", "metric", "digits"),
    [(0.066, "iou", 3), (0.3, "iou", 2), (0.0066, "iou", 4), (0.00001, "iou", 4), (math.nan, "iou", 3), (0.0, "iou", 3),
     (0.8, "hd95_mm", 2), (12.0, "hd95_mm", 0), (3.0, "hd95_mm", 1), (math.nan, "hd95_mm", 2)],
)  # fmt: skip
def test_digits_go_by_the_width(half, metric, digits):
    assert Table([cell("a", 0.5, half, metric=metric)], "per_image").digits(metric) == digits


def test_a_column_has_one_number_of_digits():
    table = Table([cell("a", 0.5, half) for half in (0.001, 0.03, 0.04)], "per_image")
    assert table.digits("iou") == 3


def test_best_and_second_are_marked_by_what_is_printed():
    cells = [cell("a", 0.7811), cell("b", 0.7809), cell("c", 0.70), cell("d", math.nan), cell("e", 0.65)]
    table = Table(cells, "per_image")
    assert [table.mark(one) for one in cells] == ["best", "best", None, None, None], "behind two best none is second"
    assert [Table(cells[1:], "per_image").mark(one) for one in cells[1:]] == ["best", "second", None, None]
    far = [cell("a", 9.0, 1.0, metric="hd95_mm"), cell("b", 4.0, 1.0, metric="hd95_mm")]
    assert [Table(far, "per_image").mark(one) for one in far] == ["second", "best"]
    assert Table(cells[:1], "per_image").mark(cells[0]) is None
    assert Table([cells[0], cell("b", 0.7811)], "per_image").mark(cells[0]) is None  # all alike


def test_a_cell_as_the_issue_has_it():
    one = Cell("a", "liver", "iou", "per_image", Estimate(0.781, 0.712, 0.843, 20), (41, 41), 60, 20, (0.781,), ("liver",))
    assert markdown(Table([one], "per_image"))[-1] == "| liver | 0.781 [0.712, 0.843], n = 41/60 |"


def test_any_name_is_printed_as_it_is():
    assert tex(r"50 % of {a_b} & \c~^$#<") == (r"50 \% of \{a\_b\} \& \textbackslash{}c\textasciitilde{}\textasciicircum{}\$\#\textless{}")


@pytest.fixture(scope="module")
def report(scored, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "tables"
    write_report(out, publish([f"U_Net & co={scored / 'baseline'}", f"larger={scored / 'larger'}"], margin=0.02))
    return out


def test_every_cell_can_be_made_again_from_the_cases(report):
    cases = list(csv.DictReader((report / "cases.csv").open()))
    rows = [
        row for row in csv.DictReader((report / "table.csv").open()) if row["average"] == "per_image" and row["class"] != "mean of classes"
    ]
    assert len(rows) == 2 * 2 * len({row["score"] for row in rows})
    for row in rows:
        values = [
            float(one[row["score"]]) for one in cases if (one["run"], one["class"]) == (row["run"], row["class"]) and one[row["score"]]
        ]
        assert len(values) == int(row["n_defined"]) and math.fsum(values) / len(values) == pytest.approx(float(row["value"]))
    assert {Path(one["folder"]).name for one in cases} == {"baseline", "larger"}


def test_the_files_of_a_report(report):
    assert {path.name for path in report.iterdir()} == {*WRITTEN}
    text = (report / "table.md").read_text()
    assert "28 images of 14 groups" in text and "†: differs from U_Net & co" in text and "Holm's adjustment over 6 tests" in text
    tests = list(csv.DictReader((report / "tests.csv").open()))
    assert len(tests) == 6 and {row["not_inferior"] for row in tests} <= {"yes", "no", ""}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(report, tmp_path):
    for path in report.glob("*.tex"):
        shutil.copy(path, tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table_preview.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table_preview.pdf").stat().st_size > 10_000


def test_latex_braces_and_columns_are_whole(report):
    for name in ("table.tex", "table_pooled.tex"):
        text = (report / name).read_text()
        assert text.count("{") == text.count("}") and r"U\_Net \& co" in text
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len({line.replace(r"\&", "").count("&") for line in body}) == 1


def test_one_run_has_no_tests_and_no_marks(scored, tmp_path):
    published = publish([str(scored / "baseline")])
    write_report(tmp_path / "out", published)
    assert published.tests == [] and not (tmp_path / "out" / "tests.csv").exists()
    assert "**" not in (tmp_path / "out" / "table.md").read_text() and r"\textbf" not in latex(published.tables["per_image"], "c", "l")


def test_what_cannot_be_published(scored, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "paper.tex").write_text("months of work")
    published = publish([str(scored / "baseline")])
    with pytest.raises(ConfigError, match="is there and is no earlier report, and would be replaced"):
        write_report(tmp_path / "mine", published)
    assert (tmp_path / "mine" / "paper.tex").exists()
    for _ in range(2):  # what pdflatex leaves beside the preview is in nobody's way
        write_report(tmp_path / "tables", published)
        (tmp_path / "tables" / "table_preview.pdf").write_bytes(b"")
    for options, problem in (
        ({"metrics": ["jaccard"]}, "--metric: 'jaccard' is not among"),
        ({"method": "magic"}, "--interval: 'magic' is not among bootstrap_t, bca, percentile"),
        ({"margin": 0.0}, "--margin: must be above 0"),
    ):
        with pytest.raises(ConfigError, match=problem):
            api.publish([str(scored / "baseline")], **options)


@pytest.mark.slow
def test_the_command_line(scored, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, code, told in (
        (["compare", str(scored / "baseline"), str(scored / "larger")], 0, "Against baseline"),
        (["compare", str(scored / "baseline")], 2, "needs two runs or more, got 1"),
        (["report", str(scored / "baseline"), "--out", "out"], 0, "written: out"),
        (["report", "nowhere", "--out", "out"], 2, "nowhere: holds no scores"),
    ):
        monkeypatch.setattr("sys.argv", ["medseg", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        assert (ended.value.code or 0) == code and told in output.out + output.err


def test_make_tables_reproduces_the_committed_ones(scored, tmp_path):
    """From stored predictions, scored here, by the target that a user runs."""
    make = ["make", "-s", f"VENV={Path(sys.executable).parent.parent}"]
    runs = f"RUNS=baseline={scored / 'baseline'} larger={scored / 'larger'}"
    ours = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "ARGS")
    }  # as `make test ARGS=...` says
    subprocess.run([*make, "tables", runs, f"OUT={tmp_path / 'tables'}"], cwd=ROOT, check=True, capture_output=True, env=ours)
    for path in sorted(EXPECTED.iterdir()):
        assert (tmp_path / "tables" / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in EXPECTED.iterdir()} == {"table.md", "table.tex", "table_pooled.tex", "tests.csv"}
