"""The verbs as short stories: train, evaluate, predict, compare. The command line and notebooks (medseg.api) both call these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from medseg import images
from medseg.build import build_model, build_training, decode_part, make_fabric, resolve, resolve_length
from medseg.config import Config, load_config, validate_config
from medseg.data.decode import read_original_image, read_original_mask
from medseg.data.decoded import DecodedSet
from medseg.engine.checkpoint import load_weights
from medseg.engine.evaluate import original_grid_masks
from medseg.engine.infer import Passes, predict_image
from medseg.engine.train import Training
from medseg.engine.train import train as run_training
from medseg.environment import write_environment
from medseg.errors import ConfigError, ImageError, RunError
from medseg.files import staged_files, staged_folder, walk, write_json, write_text
from medseg.labels import LabelSet
from medseg.manifest.ledger import record_scoring
from medseg.manifest.schema import Dataset, Manifest, Split
from medseg.manifest.table import check_data_root, dataset_text, read_dataset, read_manifest, read_split, select
from medseg.metrics.counts import confusion
from medseg.metrics.protocol import Protocol
from medseg.metrics.scores import Scores, score
from medseg.report.figures import overlay_sheet
from medseg.report.sampling import sampling_figure
from medseg.report.tables import comparison, read_scores, write_per_case, write_scores, write_tables
from medseg.runfolder import RunFolder, create_run, open_run
from medseg.seeding import seed_of
from medseg.stopping import stop_between_steps
from medseg.types import CaseResult, Size
from medseg.yamlio import read_yaml

if TYPE_CHECKING:
    from medseg.tracking import Tracker

log = logging.getLogger(__name__)
PathLike = str | Path


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


@dataclass(frozen=True)
class Progress:
    """What a caller may watch; each is called often and must be quick."""

    on_decode: Callable[[str, int, int], None] | None = None  # part, done, total
    on_start: Callable[[RunFolder, int], None] = lambda run, total_steps: None
    on_step: Callable[[int, float | None], None] = lambda step, val_score: None
    on_case: Callable[[int, int], None] = lambda done, total: None


def train(
    experiment: PathLike,
    overrides: Iterable[str] = (),
    data_root: PathLike | None = None,
    runs: PathLike = "runs",
    progress: Progress | None = None,
) -> RunFolder:
    """Train an experiment and return its run folder. Raises MedsegError for anything a user can mend."""
    config = resolve(load_config(Path(experiment), overrides))
    root = check_data_root(_path(data_root))
    manifest = read_manifest(Path(config.data.manifest))
    split = read_split(manifest, config.data.split)
    _check_tracking(config)
    return train_config(config, manifest, split, root, Path(runs), progress or Progress())


def _check_tracking(config: Config) -> None:
    """Refuse an address that can never work before hours of decoding, and before it is written to a run folder."""
    if config.tracking.enabled:
        from medseg.tracking import tracking_uri  # mlflow takes seconds to import, and only tracked runs need it

        tracking_uri(config)


def train_config(config: Config, manifest: Manifest, split: Split, root: Path, runs: Path, progress: Progress) -> RunFolder:
    """Train a config whose device is resolved. The run folder says running, then finished, failed or interrupted, and the tracker is told
    the same."""
    config = resolve_length(config, len(select(manifest, split, "train")))
    with torch.random.fork_rng():  # dropout draws from the global state; leave that as found
        torch.manual_seed(seed_of(config.seed, "training"))
        training = build_training(config, manifest, split, root, progress.on_decode)
        run, tracker = create_run(runs, manifest.dataset.name, config.name, config.seed), None
        try:
            _describe(run, config, manifest, split)
            tracker = _start_tracking(run, config, manifest, split)
            progress.on_start(run, training.total_steps)
            _train_until_stopped(training, run, progress)
            _draw_sampling(run, config, manifest.labels)
        except BaseException as cause:
            with suppress(Exception):  # what a failed training showed is worth a look; a figure that fails must not hide the cause
                _draw_sampling(run, config, manifest.labels)
            status: Literal["interrupted", "failed"] = "interrupted" if isinstance(cause, KeyboardInterrupt) else "failed"
            run.set_status(status, f"{type(cause).__name__}: {cause}")
            if tracker:
                tracker.close(status)
            raise
    run.set_status("finished")
    if tracker:
        tracker.close("finished")
    return run


def _train_until_stopped(training: Training, run: RunFolder, progress: Progress) -> None:
    with stop_between_steps() as check:

        def on_step(step: int, val_score: float | None) -> None:
            progress.on_step(step, val_score)
            check()

        run_training(training, run, on_step)


def _draw_sampling(run: RunFolder, config: Config, labels: LabelSet) -> None:
    """The figure of what was asked, held and shown of each class, from the epochs so far."""
    epochs = {record["epoch"]: record["metrics"] for record in run.metrics()}
    if epochs:
        constant = next(iter(epochs.values()))  # what was asked and what the set holds stands in every epoch
        sampling_figure(run.sampling_png, constant, constant, epochs, labels, crops=config.sampling.patch is not None)


def _describe(run: RunFolder, config: Config, manifest: Manifest, split: Split) -> None:
    """Everything the run needs to be read elsewhere: config, classes, digests, environment."""
    write_text(run.config_yaml, config.to_yaml())
    write_text(run.dataset_yaml, dataset_text(manifest.dataset))
    parts = {str(part): int(n) for part, n in split.frame["split"].value_counts().sort_index().items()}
    digests = {"manifest": config.data.manifest, "manifest_sha256": manifest.digest, "split": split.name, "split_sha256": split.digest}
    write_json(run.digests_json, digests | {"images": parts})
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    write_environment(run, gpus)


def _start_tracking(run: RunFolder, config: Config, manifest: Manifest, split: Split) -> Tracker | None:
    if not config.tracking.enabled:
        return None
    from medseg.tracking import start_tracking  # see _check_tracking

    return start_tracking(run, config, manifest, split)


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, ready to predict. `model` is Fabric's wrapper, in eval mode."""

    run: RunFolder
    config: Config
    dataset: Dataset
    model: Any
    device: torch.device
    facts: dict[str, Any]

    @property
    def labels(self) -> LabelSet:
        """The classes the run was trained on."""
        return self.dataset.labels

    @property
    def passes(self) -> Passes:
        """How the run's config has images predicted."""
        infer = self.config.infer
        return Passes(self.labels if infer.flip_tta else None, self.config.sampling.patch, infer.overlap)


def load_run(path: PathLike, checkpoint: str = "best") -> LoadedRun:
    """Open a run folder and load a checkpoint; needs nothing outside the folder. The device is chosen anew."""
    run = open_run(Path(path))
    stored = validate_config(read_yaml(run.config_yaml, ConfigError), run.config_yaml)
    config = resolve(stored.model_copy(update={"train": stored.train.model_copy(update={"device": "auto"})}))
    dataset = read_dataset(run.dataset_yaml)
    model = build_model(config, dataset.labels)
    facts = load_weights(run.checkpoint(checkpoint), model)
    fabric = make_fabric(config)
    return LoadedRun(run, config, dataset, fabric.setup_module(model).eval(), fabric.device, facts | {"checkpoint": checkpoint})


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a run and the folder that holds them, with per_case.csv, tables and pictures."""

    folder: Path
    scores: Scores
    test_scorings: int | None = None  # how often these test rows have been scored by now; None for another part


def evaluate(
    run: PathLike, split: str = "test", data_root: PathLike | None = None, checkpoint: str = "best", progress: Progress | None = None
) -> Evaluation:
    """Score a run on one part of its split, on each image's own grid, and write evaluation/<split>/ (for the checkpoint `last`
    evaluation/<split>_last/) into its folder, whole or not at all. A scoring of test goes to the ledger beside the split."""
    loaded = load_run(run, checkpoint)
    root = check_data_root(_path(data_root))
    manifest, the_split = _same_data(loaded)
    progress = progress or Progress()
    data = decode_part(loaded.config, manifest, the_split, split, root, progress.on_decode)
    name = split if checkpoint == "best" else f"{split}_{checkpoint}"
    with staged_folder(loaded.run.evaluation(name)) as folder:
        cases = _predict_and_count(loaded, manifest, data, root, folder, progress)
        scores = _write_evaluation(loaded, manifest, the_split, split, cases, folder)
        _write_overlays(manifest, data, root, cases, folder)
        scorings = record_scoring(the_split, split, loaded.run.id, checkpoint)
    if loaded.run.mlflow_json.exists() and loaded.config.tracking.enabled:
        from medseg.tracking import log_evaluation  # see _check_tracking

        log_evaluation(loaded.run, name)
    return Evaluation(loaded.run.evaluation(name), scores, scorings)


def _predict_and_count(
    loaded: LoadedRun, manifest: Manifest, data: DecodedSet, root: Path, folder: Path, progress: Progress
) -> list[CaseResult]:
    """Predict each image, keep its mask as predictions/<sample_id>.png, and count it against the reference as annotated."""
    cases, infer = [], loaded.config.infer
    for row, mask in original_grid_masks(loaded.model, data, infer.batch_size, loaded.passes, loaded.device):
        images.write_mask(_prediction(folder, row.sample_id), mask, loaded.labels.palette)
        reference = read_original_mask(manifest, row, root)
        cases.append(CaseResult(row.sample_id, row.group_id, confusion(reference, mask, loaded.labels)))
        progress.on_case(len(cases), len(data))
    return cases


def _prediction(folder: Path, sample_id: str) -> Path:
    return folder / "predictions" / f"{sample_id}.png"


def _same_data(loaded: LoadedRun) -> tuple[Manifest, Split]:
    """The run's manifest and split, refused where either has changed since the training."""
    digests = read_yaml(loaded.run.digests_json, RunError)  # JSON is YAML
    manifest = read_manifest(Path(loaded.config.data.manifest))
    split = read_split(manifest, loaded.config.data.split)
    for what, now in (("manifest", manifest.digest), ("split", split.digest)):
        if digests.get(f"{what}_sha256") != now:
            raise RunError(loaded.run.path, f"the {what} has changed since this run was trained", "put the old one back, or train again")
    return manifest, split


def _write_evaluation(loaded: LoadedRun, manifest: Manifest, split: Split, part: str, cases: Sequence[CaseResult], folder: Path) -> Scores:
    scores, protocol = score(cases, loaded.labels), _protocol(loaded)
    facts = {"split": part, "manifest_sha256": manifest.digest, "split_sha256": split.digest, "checkpoint": loaded.facts}
    write_per_case(folder / "per_case.csv", cases, loaded.labels)
    np.save(folder / "confusion.npy", np.stack([case.confusion_KK for case in cases]))
    write_scores(folder / "scores.json", scores, protocol, facts)
    write_tables(folder, scores, protocol, f"{manifest.dataset.name} / {loaded.config.name}: {part}", _notes(loaded, manifest, split))
    return scores


def _write_overlays(manifest: Manifest, data: DecodedSet, root: Path, cases: Sequence[CaseResult], folder: Path) -> None:
    rows = {row.sample_id: row for row in data.rows}

    def read(case: CaseResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row, mask = rows[case.sample_id], images.read_mask(_prediction(folder, case.sample_id))
        return read_original_image(manifest, row, root), read_original_mask(manifest, row, root), mask

    overlay_sheet(folder / "overlays.jpg", cases, manifest.labels, read)


def _protocol(loaded: LoadedRun) -> Protocol:
    passes = "mean over the image and its mirror image" if loaded.config.infer.flip_tta else "single forward pass"
    if window := loaded.passes.window:
        passes += f", in windows of {window.height_px} x {window.width_px} pixels that overlap by {loaded.passes.overlap:.0%}"
    chosen = "chosen on val" if loaded.facts["checkpoint"] == "best" else "of the last epoch"
    return Protocol(ignore_id=loaded.labels.ignore_id, test_time=passes, checkpoint=chosen)


def _notes(loaded: LoadedRun, manifest: Manifest, split: Split) -> list[str]:
    commit = read_yaml(loaded.run.environment_json, RunError).get("git", {}) or {}
    return [
        f"Run `{loaded.run.id}`, checkpoint `{loaded.facts['checkpoint']}` of epoch {loaded.facts['epoch']}, seed {loaded.config.seed}.",
        f"Manifest {manifest.digest[:12]}, split `{split.name}` {split.digest[:12]}, commit {commit.get('commit') or 'unknown'}"
        f"{' with uncommitted changes' if commit.get('dirty') else ''}.",
    ]


@dataclass(frozen=True, slots=True)
class Predicted:
    """What predict wrote for one image."""

    image: Path
    mask: Path
    overlay: Path


def predict(
    run: PathLike,
    paths: Sequence[PathLike],
    out: PathLike,
    checkpoint: str = "best",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Predicted]:
    """Segment images (files or folders) at their own size: `<stem>.png` (ids with a palette) and `<stem>_overlay.jpg` below `out`.

    All or nothing: files appear in `out` when the last image is done. Raises ImageError for an image that cannot be read, for two that
    would have one name, and for files that are there already (unless `overwrite`; the images themselves are never overwritten).
    """
    loaded, progress, out = load_run(run, checkpoint), progress or Progress(), Path(out)
    found = find_images([Path(path) for path in paths], out)
    names = [(path, name.with_suffix(".png"), Path(f"{name.with_suffix('')}_overlay.jpg")) for path, name in found]
    outputs = [Predicted(path, out / mask, out / overlay) for path, mask, overlay in names]
    _no_clash(outputs, overwrite)
    frame = Size(*loaded.config.data.size_px)
    with staged_files(out) as stage:
        for done, (path, mask_name, overlay_name) in enumerate(names, start=1):
            image = images.read_image(path)
            mask = predict_image(loaded.model, image, frame, loaded.device, loaded.passes)
            images.write_mask(stage / mask_name, mask, loaded.labels.palette)
            images.write_image(stage / overlay_name, images.blend(image, mask, loaded.labels.palette))
            progress.on_case(done, len(names))
    return outputs


def find_images(paths: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """(path, name below the output folder) of each image; a folder is searched through without hidden files and `out`, its inner
    folders kept. Headers are read, so that a file that is no image is told before the first is predicted."""
    found: list[tuple[Path, Path]] = []
    for path in paths:
        inner = walk(path, images.IMAGE_SUFFIXES, skip=[out]) if path.is_dir() else [path]
        if not inner:
            raise ImageError(path, f"holds no image ({', '.join(images.IMAGE_SUFFIXES)})", "name a folder of photographs")
        found += [(p, p.relative_to(path) if path.is_dir() else Path(p.name)) for p in inner]
    if not found:
        raise ImageError("PATH", "no image is named", "name files or folders of photographs")
    for path, _ in found:
        images.read_size(path)
    return found


def _no_clash(outputs: Sequence[Predicted], overwrite: bool) -> None:
    inputs = {item.image.resolve() for item in outputs}
    seen: dict[Path, Path] = {}
    for item in outputs:
        for path in (item.mask, item.overlay):
            if path in seen:
                raise ImageError(item.image, f"and {seen[path]} would both be written to {path}", "predict them into two folders")
            seen[path] = item.image
            if path.resolve() in inputs:
                raise ImageError(path, "is one of the images, and would be overwritten by a prediction", "choose another --out")
            if path.exists() and not overwrite:
                raise ImageError(path, "is there already", "choose another --out, or allow it with --overwrite")


def compare(runs: Sequence[PathLike], split: str = "test") -> str:
    """A Markdown table of several evaluated runs side by side; RunError unless they scored the same cases by one protocol."""
    if len(runs) < 2:
        raise RunError("compare", f"needs two runs or more, got {len(runs)}", "name the folders below runs/")
    opened = [open_run(Path(path)) for path in runs]
    return comparison([(run.id, read_scores(run.evaluation(split) / "scores.json")) for run in opened])
