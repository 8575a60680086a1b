"""The verbs train and resume as short stories; and what of a run they share with evaluate and predict."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from medseg.build import build_training, deterministic_kernels, make_fabric, resolve, resolve_length, task_of
from medseg.config import Config, load_config, network_names, read_config
from medseg.engine.course import Course
from medseg.engine.course import resume as resume_course
from medseg.engine.ranks import Ranks
from medseg.engine.train import Training
from medseg.engine.train import train as run_training
from medseg.environment import write_environment
from medseg.errors import ProcessError, RunError, TrainingError
from medseg.files import write_json, write_text
from medseg.heap import kept_blocks
from medseg.labels import LabelSet
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import check_data_root, dataset_text, read_manifest, read_split, select
from medseg.models.contract import Adapter
from medseg.models.weights import Loaded, Source, read_source, with_source
from medseg.report.sampling import sampling_figure
from medseg.runfolder import RunFolder, create_run, open_run
from medseg.stopping import Asked, Stopped, stop_between_steps
from medseg.trust import check_trusted, trust
from medseg.types import by
from medseg.watching import PathLike, Progress, as_path
from medseg.yamlio import read_yaml

if TYPE_CHECKING:
    from medseg.tracking import Tracker

log = logging.getLogger(__name__)
LEAST_SHARE = 0.5  # of the encoder's values; with fewer, training starts from scratch in all but name; with misfits, of another's weights
LOOK_STEPS = {"cpu": 1, "cuda": 10}  # processes agree on a stop that often: on a GPU the question waits for the device


def train(
    experiment: PathLike,
    overrides: Iterable[str] = (),
    data_root: PathLike | None = None,
    runs: PathLike = "runs",
    progress: Progress | None = None,
    parent: str | None = None,
) -> RunFolder:
    """Train an experiment and return its run folder. Raises MedsegError for anything a user can mend.

    parent: the name under which MLflow shows this run together with others.
    """
    config = resolve(load_config(Path(experiment), overrides))
    if config.model.runs_code:
        _trust_experiment(Path(experiment), config.model.name)
    root = check_data_root(as_path(data_root))
    manifest = read_manifest(Path(config.data.manifest))
    split = read_split(manifest, config.data.split, config.data.fold)
    check_tracking(config)

    def begin(config: Config) -> RunFolder:
        run = create_run(Path(runs), manifest.dataset.name, config.name, config.seed, parent)
        _describe(run, config, manifest, split)
        return run

    return _train_in(begin, config, manifest, split, root, progress or Progress(), fresh=True)


def _trust_experiment(experiment: Path, import_path: str) -> None:
    """An experiment is the user's own words; what lies in a run folder, also as a base or by a link, may be somebody else's."""
    for file, name in network_names(experiment):
        for folder in {file.absolute().parent, file.resolve().parent} if name == import_path else ():
            if (folder / "run.json").exists():
                check_trusted(import_path, folder)
    trust(import_path)


def resume(run: PathLike, data_root: PathLike | None = None, progress: Progress | None = None) -> RunFolder:
    """Go on with a training that was stopped or killed, in its own folder and MLflow run, to the outcome it would have had.

    RunError for a run that has finished or is at work, and where manifest or split have changed.
    """
    folder = open_run(Path(run))
    folder.check_resumable()
    config = resolve(config_of_run(folder))
    root = check_data_root(as_path(data_root))
    manifest, split = same_data(folder, config)
    check_tracking(config)

    def begin(config: Config) -> RunFolder:
        folder.check_resumable()  # again: the images may have taken long to decode
        folder.take_over()
        return folder

    fresh = not folder.resume_point.exists()  # else the weights are there, and what they started from may be gone
    return _train_in(begin, config, manifest, split, root, progress or Progress(), fresh)


def config_of_run(run: RunFolder) -> Config:
    """The config that a run was trained with; RunError where its network is code that the user has not said may run."""
    config = read_config(run.config_yaml)
    if config.model.runs_code:
        check_trusted(config.model.name, run.path)
    return config


def same_data(run: RunFolder, config: Config) -> tuple[Manifest, Split]:
    """A run's manifest and split, refused where either has changed since the training began."""
    digests = read_yaml(run.digests_json, RunError)  # JSON is YAML
    manifest = read_manifest(Path(config.data.manifest))
    split = read_split(manifest, config.data.split, config.data.fold)
    for what, now in (("manifest", manifest.digest), ("split", split.digest)):
        if digests.get(f"{what}_sha256") != now:
            raise RunError(run.path, f"the {what} has changed since this run was trained", "put the old one back, or train again")
    return manifest, split


def check_tracking(config: Config) -> None:
    """Refuse an address that can never work before hours of decoding, and before it is written to a run folder."""
    if config.tracking.enabled:
        from medseg.tracking import tracking_uri  # mlflow takes seconds to import, and only tracked runs need it

        tracking_uri(config)


def _train_in(
    begin: Callable[[Config], RunFolder],
    config: Config,
    manifest: Manifest,
    split: Split,
    root: Path,
    progress: Progress,
    fresh: bool,
) -> RunFolder:
    """Train in the folder that `begin` opens at the first process once all is built. fresh: from the weights that the config names."""
    with torch.random.fork_rng(), deterministic_kernels(config):
        ranks = Ranks(make_fabric(config))
        source, loaded = None, list[Loaded]()
        if fresh:
            with ranks.fabric.rank_zero_first(local=True):  # one process fetches for all of a machine
                source = read_source(config.model, task_of(config, manifest.labels))
        config = normalised_as(config, source)
        config = ranks.same(resolve_length(config, len(select(manifest, split, "train"))) if ranks.first else config)
        on_decode = progress.on_decode if ranks.first else None
        training = build_training(config, manifest, split, root, ranks.fabric, on_decode, source, loaded.append)
        with stop_between_steps() as asked:
            run = RunFolder(ranks.same(begin(config).path if ranks.first else Path()))
            if ranks.first and fresh:
                tell_network(run, training.model)
            if ranks.first and loaded:
                tell_loaded(run, loaded[0])
            try:
                if ranks.first:
                    _train_watched(training, run, manifest, split, progress, asked)
                else:
                    _train_until_stopped(training, run, resume_course(run, training), Progress(), asked)
            except (Stopped, TrainingError) as cause:
                if cause.agreed:
                    ranks.same(None)  # until the first process has written why: torchrun ends the others with the first that ends
                raise
            if late := asked():  # after the last step: the run is whole, and what was to follow is not begun
                raise late
    return run


def normalised_as(config: Config, source: Source | None) -> Config:
    """The config with the mean and deviation that the network takes from photographs written down; volumes come normalised."""
    model = with_source(config.model, source)
    if config.data.volume is not None and config.model.mean is None:
        model = model.model_copy(update={"mean": None, "deviation": None})
    elif source and source.mean is None and config.model.mean is None:
        log.warning("%s says no normalisation: 0.5 and 0.25 are taken; model.mean and model.deviation name another", source.origin)
    return config.model_copy(update={"model": model})


def tell_network(run: RunFolder, model: Adapter) -> None:
    """How large it is and what its builder chose: network.json in the run folder."""
    sizes = [parameter.numel() for parameter in model.net.parameters()]
    write_json(run.network_json, {"parameters": sum(sizes), "chosen": dict(model.network.chosen)})


def tell_loaded(run: RunFolder, loaded: Loaded) -> None:
    """What became of the weights that training starts from: weights.json in the run folder, and a line to the user."""
    write_json(run.weights_json, dataclasses.asdict(loaded))
    sound = loaded.share >= LEAST_SHARE and not loaded.misfits
    log.log(logging.INFO if sound else logging.WARNING, "%s: %s", loaded, run.weights_json)


def _train_watched(training: Training, run: RunFolder, manifest: Manifest, split: Split, progress: Progress, asked: Asked) -> None:
    """The run folder says running, then finished, failed or interrupted, and the tracker is told the same."""
    config, tracker = training.config, None
    try:
        course = resume_course(run, training)
        tracker = _start_tracking(run, config, manifest, split)
        progress.on_start(run, training.total_steps)
        progress.on_step(course.step, None)
        _train_until_stopped(training, run, course, progress, asked)
        _draw_sampling(run, config, manifest.labels)
    except BaseException as cause:
        status: Literal["interrupted", "failed"] = "interrupted" if isinstance(cause, KeyboardInterrupt) else "failed"
        with suppress(OSError):  # a full disk must not hide the cause; the next command finds the process gone
            run.set_status(status, f"{type(cause).__name__}: {cause}")
        with suppress(Exception):  # what a failed training showed is worth a look; a figure that fails must not hide the cause
            _draw_sampling(run, config, manifest.labels)
        if tracker:
            tracker.close(status)
        raise
    if tracker:
        tracker.close("finished")
    run.resume_point.unlink(missing_ok=True)
    run.set_status("finished")  # last: a kill before it leaves a run that is resumed straight to its end


def _train_until_stopped(training: Training, run: RunFolder, course: Course, progress: Progress, asked: Asked) -> None:
    """All processes stop at the same step; where one dies, the others say so."""
    world = training.ranks.world
    look_steps = LOOK_STEPS[training.fabric.device.type] if world > 1 else 1

    def on_step(step: int, val_score: float | None) -> None:
        progress.on_step(step, val_score)
        if step % look_steps == 0 and training.ranks.any(asked() is not None):
            stop = asked() or Stopped()
            stop.agreed = True
            raise stop

    try:
        with kept_blocks() if training.fabric.device.type == "cpu" else nullcontext():
            run_training(training, run, course, on_step)
    except RuntimeError as cause:
        if world > 1 and (isinstance(cause, torch.distributed.DistError) or re.search("gloo|connection", str(cause), re.IGNORECASE)):
            raise ProcessError("torchrun", "another process of this training has ended", "look for its own error") from cause
        raise


def _draw_sampling(run: RunFolder, config: Config, labels: LabelSet) -> None:
    """The figure of what was asked, held and shown of each class, from the epochs so far."""
    epochs = {record["epoch"]: record["metrics"] for record in run.metrics()}
    if epochs:
        constant = next(iter(epochs.values()))  # what was asked and what the set holds stands in every epoch
        patch = config.sampling.patch_px
        how = f"drawn by {config.sampling.name}" + (f", crops of {by(patch)} px" if patch else "")
        sampling_figure(run.sampling_png, constant, constant, epochs, labels, patch is not None, f"{run.id}: {how}")


def _describe(run: RunFolder, config: Config, manifest: Manifest, split: Split) -> None:
    """Everything the run needs to be read elsewhere: config, classes, digests, environment."""
    write_text(run.config_yaml, config.to_yaml())
    write_text(run.dataset_yaml, dataset_text(manifest.dataset))
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    write_environment(run, gpus)
    parts = {str(part): int(n) for part, n in split.frame["split"].value_counts().sort_index().items()}
    digests = {"manifest": config.data.manifest, "manifest_sha256": manifest.digest, "split": split.name, "split_sha256": split.digest}
    write_json(run.digests_json, digests | {"images": parts})


def _start_tracking(run: RunFolder, config: Config, manifest: Manifest, split: Split) -> Tracker | None:
    if not config.tracking.enabled:
        return None
    from medseg.tracking import start_tracking  # see check_tracking

    return start_tracking(run, config, manifest, split)
