"""`medseg track`: what MLflow has missed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medseg.errors import MedsegError, RunError, counted

track_app = typer.Typer(help="MLflow: send what it has missed.", no_args_is_help=True)


@track_app.callback()
def _group() -> None:
    """Without it typer would take a group of one verb for that verb."""


@track_app.command()
def sync(runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, or the folder of a cross-validation")]) -> None:
    """Send everything that MLflow has not got of these runs; nothing is there twice, however often it is sent."""
    failed = [path for run in runs for path in _parts(run) if not _sent(path)]
    if failed:
        raise RunError("medseg track sync", f"{counted(len(failed), 'run')} not sent, told above", "mend that and give the command again")


def _parts(path: Path) -> list[Path]:
    """The run folders of a cross-validation and, last, itself; or the run folder."""
    return [*sorted(found.parent for found in path.glob("*/run.json")), path] if (path / "cv.json").exists() else [path]


def _sent(path: Path) -> bool:
    """Whether a run is whole in MLflow; what went wrong is told, and keeps the others from nothing."""
    from medseg import tracking
    from medseg.runfolder import open_run

    try:
        if (path / "cv.json").exists():
            tracking.sync_parent(path)
            print(f"{path}: whole in MLflow")
        else:
            print(f"{path}: whole in MLflow as run {tracking.sync(open_run(path))}")
    except MedsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True
