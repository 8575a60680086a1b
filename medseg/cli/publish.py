"""The verbs of tables: `medseg compare`, `medseg report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.errors import RunError

if TYPE_CHECKING:
    from medseg.publishing.write import Published

Sources = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="run folders, cross-validations, or folders of `medseg score`; LABEL=PATH names one")
]
Part = Annotated[str, typer.Option(help="the part of a run's split: train, val or test")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", help="iou, recall, precision, dice, hd95_px ...; may be repeated")]
Margin = Annotated[float | None, typer.Option(help="also ask whether each is worse than the first by less than this")]
Interval = Annotated[str, typer.Option(metavar="METHOD", help="bootstrap_t, bca or percentile, of whole groups")]


def compare(runs: Sources, split: Part = "test", metric: Metrics = None, margin: Margin = None, interval: Interval = "bootstrap_t") -> None:
    """Hold runs against the first one, on the same cases by the same rules: tables, paired tests, and the cases that decide."""
    from medseg.publishing.write import page

    if len(runs) < 2:
        raise RunError("compare", f"needs two runs or more, got {len(runs)}", "name the folders below runs/")
    published = _publish(runs, split, metric, margin, interval)
    if len(published.sources) < 2:
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
) -> None:
    """Write the tables one publishes, as CSV, Markdown and LaTeX, every number with its interval and n."""
    from medseg.publishing.write import page, write_report

    published = _publish(runs, split, metric, margin, interval)
    write_report(out, published)
    print(page(published))
    print(f"written: {out}")


def _publish(runs: list[str], split: str, metric: list[str] | None, margin: float | None, interval: str) -> Published:
    from medseg.publishing.write import publish

    return publish(runs, split, metric, interval, margin)
