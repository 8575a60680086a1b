"""Arguments -> verbs. No logic here; heavy imports happen inside the verb, so `medseg --help` loads no torch, pandas or mlflow."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from medseg.cli.annotate import annotate
from medseg.cli.export import export
from medseg.cli.manifest import manifest_app
from medseg.cli.options import Classes, DataRoot, GroupPattern, StoredAs, TrustCode, names
from medseg.cli.plan import plan
from medseg.cli.publish import compare, report, report_run
from medseg.cli.register import register
from medseg.cli.serve import serve
from medseg.cli.sets import data_app
from medseg.cli.track import track_app
from medseg.cli.zoo import zoo
from medseg.errors import ConfigError, MedsegError, counted

if TYPE_CHECKING:
    from medseg.evaluation import Asked

app = typer.Typer(
    help="Annotated medical images in, a metric table you may publish out.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(manifest_app, name="manifest")
app.add_typer(data_app, name="data")
app.add_typer(track_app, name="track")
app.command()(plan)
app.command()(export)
app.command()(annotate)
app.command()(register)
app.command()(serve)
app.command()(compare)
app.command()(report)
app.command()(zoo)


Experiment = Annotated[Path | None, typer.Argument(help="experiment file, e.g. experiments/tongue/unet.yaml; none with --resume")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value ...")]
Runs = Annotated[Path, typer.Option(help="where run folders go")]
Resume = Annotated[Path | None, typer.Option(metavar="RUN", help="go on with a run that was stopped or killed, in its own folder")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder below runs/")]
Tolerances = Annotated[list[str] | None, typer.Option(help="of NSD: 2px, 1mm or 0.5% of the diagonal; may be repeated")]
WithBoundary = Annotated[bool, typer.Option(help="HD, HD95, ASSD and NSD")]
Conventions = Annotated[bool, typer.Option("--conventions", help="score by other libraries' rules, too")]
Checkpoint = Annotated[str, typer.Option(help="best (chosen on val) or last")]


Objects = Literal["components", "annotated"]
TRAINING_VERBS = ("train", "experiment", "cv")  # they mark dead runs themselves, but for the one they go on with
SHARED_VERBS = ("train", "evaluate", "experiment")  # what several processes do together, started by torchrun


def main() -> None:
    """The console script: one line and exit code 2 for what a user can mend; Ctrl-C exits with 130 (by typer)."""
    if _rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the first process prints, for as long as this one lives)
    try:
        app()
    except MedsegError as error:
        _stop(str(error), error.exit_code)
    except OSError as error:  # no space, no permission: the operating system's own words name the file
        _stop(f"{error.filename or 'input/output'}: {error.strerror or error}; check the path, its permissions and the free space", 2)


def _stop(message: str, exit_code: int) -> NoReturn:
    print(f"error: {message}" if not _rank() else f"error in process {_rank()}: {message}", file=sys.stderr)
    sys.exit(exit_code)


def _rank() -> int:
    """Of this process among those that torchrun started; 0 alone."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


@app.callback()
def _before_every_verb(context: typer.Context) -> None:
    logging.basicConfig(level=logging.ERROR if _rank() else logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("medseg.training").setLevel(logging.ERROR if _rank() else logging.INFO)  # what became of the weights
    if "TORCHELASTIC_RUN_ID" in os.environ and context.invoked_subcommand not in SHARED_VERBS:
        raise ConfigError("torchrun", f"{context.invoked_subcommand} runs in one process", "start it without torchrun")
    if not _rank() and context.invoked_subcommand not in TRAINING_VERBS:
        _mark_dead(Path("runs"))


def _mark_dead(*folders: Path, resumed: Path | None = None) -> None:
    """In these folders of runs. MLflow is not told of a run that is resumed: a slow server might hear it after the run goes on."""
    from medseg.runfolder import mark_dead_runs

    for run in [run for runs in dict.fromkeys(folders) for run in mark_dead_runs(runs)]:
        print(f"note: the process of {run.path} is gone; the run is now marked killed", file=sys.stderr)
        if run.mlflow_json.exists() and run.path != resumed:
            from medseg.tracking import mark_killed

            mark_killed(run)


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="folder for the photographs and their labelme JSON, or the volumes and dataset.json")],
    kind: Annotated[Literal["tongue", "organ"], typer.Option(help="tongue: photographs; organ: MR-like volumes of an abdomen")] = "tongue",
    count: Annotated[int | None, typer.Option(min=1, help="how many (1000 tongues, 60 abdomens)")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    height_px: Annotated[int | None, typer.Option(min=64, max=2048, help="of a tongue's photograph (256)")] = None,
    width_px: Annotated[int | None, typer.Option(min=64, max=2048, help="of a tongue's photograph (256)")] = None,
) -> None:
    """Draw images with truth: tongue, coating, in one of ten a small lesion; or liver, kidneys and gallbladder in a volume."""
    from medseg.progress import bar

    if kind == "organ" and (height_px or width_px):
        raise ConfigError("--height-px, --width-px", "an abdomen's grid is drawn with it", "leave them out, or draw --kind tongue")
    number = count or (1000 if kind == "tongue" else 60)
    with bar("drawing") as show:
        _draw(kind, out, number, seed, (height_px or 256, width_px or 256), lambda done: show(done, number))
    print(f"{number} {'photographs' if kind == 'tongue' else 'volumes'} and their annotations are in {out}")


def _draw(kind: str, out: Path, count: int, seed: int, size: tuple[int, int], on_done: Callable[[int], None]) -> None:
    from medseg.phantom.write import write_phantoms
    from medseg.phantom.write_organ import write_organs
    from medseg.types import Size

    if kind == "organ":
        write_organs(out, count, seed, jobs=0, on_done=on_done)
    else:
        write_phantoms(out, count, seed, Size(*size), jobs=0, on_done=on_done)


@app.command()
def train(
    experiment: Experiment = None,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    resume: Resume = None,
    trust_code: TrustCode = False,
) -> None:
    """Train an experiment; best (chosen on val) and last checkpoint, metrics and previews go to a new run folder."""
    print(_train(experiment, overrides or [], data_root, runs, resume))


@app.command()
def cv(
    experiment: Annotated[Path, typer.Argument(help="experiment file, whose split has folds")],
    overrides: Overrides = None,
    folds: Annotated[int | None, typer.Option(help="must be the split's number of folds")] = None,
    seeds: Annotated[int, typer.Option(help="so many, from the experiment's on")] = 1,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    trust_code: TrustCode = False,
) -> None:
    """Cross-validate an experiment: every fold with every seed, one table of the held-out images. The same command goes on with it."""
    from medseg.config import load_config

    load_config(experiment, overrides or [])  # before torch is imported, as in _train
    from medseg.crossval import Part, cross_validate, failures
    from medseg.progress import TrainingBars
    from medseg.watching import Progress

    def tell(part: Part, done: int, total: int) -> None:
        print(f"{part}: {done} of {total} parts are done", file=sys.stderr, flush=True)

    _mark_dead(Path("runs"))
    bars = TrainingBars()
    with _stopping(lambda: "the same command" if bars.run else None), bars:
        progress = Progress(bars.decode, bars.start, bars.step)
        outcome = cross_validate(experiment, folds, seeds, overrides or [], data_root, runs, progress, tell)
    if outcome.failed:
        raise failures(outcome)
    print(outcome.table)
    print(f"written: {outcome.folder}")


@app.command()
def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    data_root: DataRoot = None,
    checkpoint: Checkpoint = "best",
    tolerance: Tolerances = None,
    boundary: WithBoundary = True,
    calibration: Annotated[bool, typer.Option(help="ECE, Brier score and reliability diagram")] = True,
    instances: Annotated[Objects | None, typer.Option(help="match objects, too: what the reference's objects are")] = None,
    conventions: Conventions = False,
    observer: Annotated[Path | None, typer.Option(metavar="MANIFEST", help="the same images by a second observer, for the table")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Score a run on each image's own pixels and write its table."""
    from medseg.evaluation import Asked

    asked = Asked(tolerance or (), boundary, calibration, instances, conventions, observer)
    _evaluate(run, split, data_root, checkpoint, asked)


@app.command()
def postprocess(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="a run, or the folds of a cross-validation")],
    data_root: DataRoot = None,
    trust_code: TrustCode = False,
) -> None:
    """Look on val which steps afterwards help each class (largest component, holes, least size); evaluate and predict then take them."""
    from medseg.postprocessing import choose_postprocessing
    from medseg.progress import bar
    from medseg.watching import Progress

    with bar("predicting val") as show:
        tried = choose_postprocessing(runs, data_root, Progress(on_case=show))
    for each in tried:
        mark = "kept" if each.kept else "left"
        print(f"{mark}  {each.step.told():60}  Dice {each.before:.4f} -> {each.after:.4f}  {each.why}")
    print(f"written: {', '.join(str(run / 'postprocess.json') for run in runs)}")


@app.command()
def score(
    reference: Annotated[Path, typer.Option(help="folder of masks, or a pattern: 'DIR/*_seg.nii.gz'")],
    prediction: Annotated[Path, typer.Option(help="folder of the predicted masks, with the same names")],
    out: Annotated[Path, typer.Option(help="folder for tables and scores.json")],
    dataset: Annotated[Path | None, typer.Option(help="dataset.yaml with the classes")] = None,
    classes: Classes = None,
    value_map: StoredAs = None,
    group_pattern: GroupPattern = None,
    tolerance: Tolerances = None,
    boundary: WithBoundary = True,
    instances: Annotated[bool, typer.Option(help="match connected components, too")] = False,
    conventions: Conventions = False,
    jobs: Annotated[int, typer.Option(min=0, help="processes; 0: one a processor")] = 0,
) -> None:
    """Score anybody's masks (PNG, NIfTI; of nnU-Net, MMSegmentation, MONAI ...) by the code that scores medseg's own."""
    from medseg.progress import bar
    from medseg.scoring import Asked, score_folders

    asked = Asked(dataset, names(classes), value_map or (), tolerance or (), boundary, group_pattern, instances, conventions, jobs)
    with bar("scoring") as show:
        score_folders(reference, prediction, out, asked, show)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"written: {out}")


@app.command()
def experiment(
    experiment: Experiment = None,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    resume: Resume = None,
    trust_code: TrustCode = False,
) -> None:
    """Train, evaluate on test, print the table, write the report into the run's folder."""
    run = _train(experiment, overrides or [], data_root, runs, resume)
    _evaluate(run, "test", data_root, "best", None)
    if not _rank():
        print(f"report: {report_run(run, data_root)}")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, an export, models:/NAME@ALIAS, or zoo:NAME")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="images or volumes, or folders of them")],
    out: Annotated[Path, typer.Option(help="folder for masks and overlays")] = Path("predictions"),
    checkpoint: Checkpoint = "best",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace earlier predictions in OUT")] = False,
    score_threshold: Annotated[
        float | None, typer.Option(help="networks that find objects: those of a lower score are not shown (the run's own; zoo: 0.5)")
    ] = None,
    others: Annotated[
        list[Path] | None, typer.Option("--with", help="a further run, such as another fold's: the mean of the probabilities; repeatable")
    ] = None,
    overlays: Annotated[bool, typer.Option(help="a picture beside each mask")] = True,
    weights: Annotated[str | None, typer.Option(help="zoo: weights from elsewhere, of the same network: hf:FOLDER, hf:OWNER/NAME")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Segment photographs or volumes: a mask on each image's own grid and a picture. zoo:NAME is a network with published weights."""
    from medseg import predicting
    from medseg.progress import bar
    from medseg.watching import Progress

    with bar("predicting") as show:
        progress = Progress(on_case=show)
        written = predicting.predict(run, paths, out, checkpoint, overwrite, progress, score_threshold, weights, others or [], overlays)
    print(f"{counted(len(written), 'mask')}{' with overlays' if overlays else ''} in {out}")


def _train(experiment: Path | None, overrides: list[str], data_root: Path | None, runs: Path, resumed: Path | None) -> Path:
    if (experiment is None) == (resumed is None) or (resumed and overrides):
        rule = "an experiment is trained, or a run resumed with the config it has"
        raise ConfigError("medseg train", rule, "give EXPERIMENT [key=value ...] or --resume RUN")
    if experiment is not None:
        from medseg.config import load_config

        load_config(experiment, overrides)  # before torch is imported, which takes seconds: a typo is told at once
    from medseg import training
    from medseg.progress import TrainingBars
    from medseg.watching import Progress

    if not _rank():
        _mark_dead(Path("runs"), runs if resumed is None else resumed.parent, resumed=resumed)

    def how() -> str | None:
        where = f" --data-root {shlex.quote(str(data_root))}" if data_root else ""
        return f"medseg train --resume {shlex.quote(str(bars.run.path))}{where}" if bars.run and bars.run.resumable else None

    bars = TrainingBars()
    with _stopping(how), bars:
        progress = Progress(bars.decode, bars.start, bars.step)
        if experiment is not None:
            return training.train(experiment, overrides, data_root, runs, progress).path
        assert resumed is not None
        return training.resume(resumed, data_root, progress).path


@contextmanager
def _stopping(command: Callable[[], str | None]) -> Iterator[None]:
    """What ended early can be gone on with by a command, which is told; SIGTERM has an exit code of its own."""
    from medseg.errors import TrainingError
    from medseg.stopping import Terminated

    try:
        yield
    except BaseException as cause:
        if not isinstance(cause, TrainingError) and (how := command()):  # a loss that is not finite would be so again
            print(f"go on with it by: {how}", file=sys.stderr)
        if isinstance(cause, Terminated):
            raise typer.Exit(Terminated.exit_code) from None
        raise


def _evaluate(run: Path, split: str, data_root: Path | None, checkpoint: str, asked: Asked | None) -> None:
    from medseg import evaluation
    from medseg.progress import bar
    from medseg.watching import Progress

    with bar(f"decoding {split}") as show_decode, bar(f"evaluating {split}") as show:
        progress = Progress(on_decode=lambda part, done, total: show_decode(done, total), on_case=show)
        done = evaluation.evaluate(run, split, data_root, checkpoint, progress, asked)
    print((done.folder / "table.md").read_text(encoding="utf-8"))
    print(f"written: {done.folder}")
