"""The verbs of tables: `medseg compare`, `medseg report`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import DataRoot
from medseg.errors import RunError

if TYPE_CHECKING:
    from medseg.publishing.published import Published

log = logging.getLogger(__name__)
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="run folders, cross-validations, folders of `medseg score`, mlflow:EXPERIMENT or mlflow:EXPERIMENT/RUN; LABEL=PATH names one",
    ),
]
Part = Annotated[str, typer.Option(help="the part of a run's split: train, val or test")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", help="iou, recall, precision, dice, hd95_px ...; may be repeated")]
Margin = Annotated[float | None, typer.Option(help="also ask whether each is worse than the first by less than this")]
Interval = Annotated[str, typer.Option(metavar="METHOD", help="bootstrap_t, bca or percentile, of whole groups")]


def compare(runs: Sources, split: Part = "test", metric: Metrics = None, margin: Margin = None, interval: Interval = "bootstrap_t") -> None:
    """Hold runs against the first one, on the same cases by the same rules: tables, paired tests, and the cases that decide."""
    from medseg.publishing.write import page

    if len(runs) < 2 and "mlflow:" not in runs[0]:
        raise RunError("compare", f"needs two runs or more, got {len(runs)}", "name the folders below runs/")
    with _published(runs, split, metric, margin, interval) as published:
        if len(published.sources) < 2:
            if len(runs) < 2:
                raise RunError("compare", f"{runs[0]} is one line of a table", "name what it is to be held against")
            rule = "these runs differ in the seed alone, and are one line of a table"
            raise RunError("compare", rule, f"to hold seed against seed give them labels: A={runs[0]} B={runs[1]}")
        print(page(published), end="")


def report(
    runs: Sources,
    out: Annotated[Path, typer.Option(help="folder for the tables; an earlier report is replaced")],
    split: Part = "test",
    metric: Metrics = None,
    margin: Margin = None,
    interval: Interval = "bootstrap_t",
    data_root: DataRoot = None,
) -> None:
    """Write the tables one publishes, as CSV, Markdown, LaTeX and a page with pictures, every number with its interval and n."""
    from medseg.publishing.write import page

    with _published(runs, split, metric, margin, interval) as published:
        _write(published, out, data_root)
        print(page(published))
    print(f"written: {out}")


def report_run(run: Path, data_root: Path | None) -> Path:
    """The report of one run's test, in its folder; returns its page."""
    with _published([str(run)], "test", None, None, "bootstrap_t") as published:
        _write(published, run / "report", data_root)
    return run / "report" / "report.html"


def _write(published: Published, out: Path, data_root: Path | None) -> None:
    from medseg.publishing.tracked import send_report
    from medseg.publishing.write import write_report

    if missing := write_report(out, published, data_root):
        log.warning("%s: %s", out / "report.html", missing)
    send_report(published, out)


@contextmanager
def _published(runs: list[str], split: str, metric: list[str] | None, margin: float | None, interval: str) -> Iterator[Published]:
    """With the copies of what is on a tracking server, which are gone afterwards."""
    from medseg.publishing.published import publish

    with TemporaryDirectory(prefix="medseg-") as scratch:
        yield publish(runs, split, metric, interval, margin, Path(scratch))
