"""Arguments -> verbs. No logic here; heavy imports happen inside the verb, so `medseg --help` loads no torch, pandas or mlflow."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from medseg.cli.manifest import manifest_app
from medseg.cli.options import DataRoot
from medseg.cli.sets import data_app
from medseg.errors import MedsegError

app = typer.Typer(
    help="Annotated medical images in, a metric table you may publish out.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(manifest_app, name="manifest")
app.add_typer(data_app, name="data")

Experiment = Annotated[Path, typer.Argument(help="experiment file, e.g. experiments/tongue/unet.yaml")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value ...")]
Runs = Annotated[Path, typer.Option(help="where run folders go")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder below runs/")]
Checkpoint = Annotated[str, typer.Option(help="best (chosen on val) or last")]


def main() -> None:
    """The console script: one line and exit code 2 for what a user can mend; Ctrl-C exits with 130 (by typer)."""
    try:
        app()
    except MedsegError as error:
        _stop(str(error), error.exit_code)
    except OSError as error:  # no space, no permission: the operating system's own words name the file
        _stop(f"{error.filename or 'input/output'}: {error.strerror or error}; check the path, its permissions and the free space", 2)


def _stop(message: str, exit_code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


@app.callback()
def _before_every_verb() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    _mark_dead(Path("runs"))


def _mark_dead(runs: Path) -> None:
    from medseg.runfolder import mark_dead_runs

    for run in mark_dead_runs(runs):
        print(f"note: the process of {run.path} is gone; the run is now marked killed", file=sys.stderr)
        if run.mlflow_json.exists():
            from medseg.tracking import mark_killed

            mark_killed(run)


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="folder for the photographs and their labelme JSON")],
    count: Annotated[int, typer.Option(min=1, help="how many")] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    height_px: Annotated[int, typer.Option(min=64, max=2048)] = 256,
    width_px: Annotated[int, typer.Option(min=64, max=2048)] = 256,
) -> None:
    """Draw tongue photographs with truth: tongue, coating, and in one of ten a small lesion."""
    from medseg.phantom.write import write_phantoms
    from medseg.progress import bar
    from medseg.types import Size

    with bar("drawing") as show:
        write_phantoms(out, count, seed, Size(height_px, width_px), jobs=0, on_done=lambda done: show(done, count))
    print(f"{count} photographs and their annotations are in {out}")


@app.command()
def train(experiment: Experiment, overrides: Overrides = None, data_root: DataRoot = None, runs: Runs = Path("runs")) -> None:
    """Train an experiment; best (chosen on val) and last checkpoint, metrics and previews go to a new run folder."""
    print(_train(experiment, overrides or [], data_root, runs))


@app.command()
def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    data_root: DataRoot = None,
    checkpoint: Checkpoint = "best",
) -> None:
    """Score a run on each image's own pixels and write its table."""
    _evaluate(run, split, data_root, checkpoint)


@app.command()
def experiment(experiment: Experiment, overrides: Overrides = None, data_root: DataRoot = None, runs: Runs = Path("runs")) -> None:
    """Train, evaluate on test, print the table."""
    _evaluate(_train(experiment, overrides or [], data_root, runs), "test", data_root, "best")


@app.command()
def predict(
    run: RunPath,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="images or folders of images")],
    out: Annotated[Path, typer.Option(help="folder for masks and overlays")],
    checkpoint: Checkpoint = "best",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace earlier predictions in OUT")] = False,
) -> None:
    """Segment photographs: a mask at each image's own size and an overlay beside it."""
    from medseg import run as verbs
    from medseg.progress import bar

    with bar("predicting") as show:
        written = verbs.predict(run, paths, out, checkpoint, overwrite, verbs.Progress(on_case=show))
    print(f"{len(written)} masks and overlays are in {out}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="evaluated run folders")],
    split: Annotated[str, typer.Option()] = "test",
) -> None:
    """Print several runs' scores side by side; refused unless they scored the same cases by one protocol."""
    from medseg import run as verbs

    print(verbs.compare(runs, split), end="")


def _train(experiment: Path, overrides: list[str], data_root: Path | None, runs: Path) -> Path:
    from medseg import run as verbs
    from medseg.progress import TrainingBars

    _mark_dead(runs)
    with TrainingBars() as bars:
        done = verbs.train(experiment, overrides, data_root, runs, verbs.Progress(bars.decode, bars.start, bars.step))
    return done.path


def _evaluate(run: Path, split: str, data_root: Path | None, checkpoint: str) -> None:
    from medseg import run as verbs
    from medseg.progress import bar

    with bar(f"decoding {split}") as show_decode, bar(f"evaluating {split}") as show:
        progress = verbs.Progress(on_decode=lambda part, done, total: show_decode(done, total), on_case=show)
        done = verbs.evaluate(run, split, data_root, checkpoint, progress)
    print((done.folder / "table.md").read_text(encoding="utf-8"))
    if done.test_scorings:
        print(f"test rows scored {done.test_scorings} time(s) so far, by this run and others (the ledger beside the split counts)")
    print(f"written: {done.folder}")
