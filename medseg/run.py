"""The verbs as short stories: train, evaluate, predict, compare. The command line and notebooks (medseg.api) both call these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from medseg import images
from medseg.build import build_model, build_training, decode_part, make_fabric, resolve
from medseg.config import Config, load_config, validate_config
from medseg.data.decode import read_original_image, read_original_mask
from medseg.engine.checkpoint import load_weights
from medseg.engine.evaluate import original_grid_masks
from medseg.engine.infer import predict_image
from medseg.engine.train import train as run_training
from medseg.environment import write_environment
from medseg.errors import ConfigError, ImageError, RunError
from medseg.files import write_json, write_text
from medseg.labels import LabelSet
from medseg.manifest.schema import Dataset, Manifest, Split
from medseg.manifest.table import check_data_root, read_dataset, read_manifest, read_split
from medseg.metrics.counts import confusion
from medseg.metrics.protocol import Protocol
from medseg.metrics.scores import Scores, score
from medseg.report.figures import overlay_sheet
from medseg.report.tables import comparison, read_scores, write_per_case, write_scores, write_tables
from medseg.runfolder import RunFolder, create_run, open_run
from medseg.seeding import seed_of
from medseg.types import CaseResult, Row, Size
from medseg.yamlio import dump_yaml, read_yaml

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
    return train_config(config, manifest, split, root, Path(runs), progress or Progress())


def train_config(config: Config, manifest: Manifest, split: Split, root: Path, runs: Path, progress: Progress) -> RunFolder:
    """Train a resolved config. The run folder says running, then finished, failed or interrupted, and the tracker is told the same."""
    with torch.random.fork_rng():  # dropout draws from the global state; leave that as found
        torch.manual_seed(seed_of(config.seed, "training"))
        training = build_training(config, manifest, split, root, progress.on_decode)
        run = create_run(runs, manifest.dataset.name, config.name, config.seed)
        _describe(run, config, manifest, split)
        tracker = _start_tracking(run, config, manifest, split)
        progress.on_start(run, training.total_steps)
        try:
            run_training(training, run, progress.on_step)
        except BaseException as cause:
            status: Literal["interrupted", "failed"] = "interrupted" if isinstance(cause, KeyboardInterrupt) else "failed"
            run.set_status(status, f"{type(cause).__name__}: {cause}")
            if tracker:
                tracker.close(status)
            raise
    run.set_status("finished")
    if tracker:
        tracker.close("finished")
    return run


def _describe(run: RunFolder, config: Config, manifest: Manifest, split: Split) -> None:
    """Everything the run needs to be read elsewhere: config, classes, digests, environment."""
    write_text(run.config_yaml, config.to_yaml())
    write_text(run.dataset_yaml, dump_yaml(manifest.dataset.model_dump(mode="json")))
    parts = {str(part): int(n) for part, n in split.frame["split"].value_counts().sort_index().items()}
    digests = {"manifest": config.data.manifest, "manifest_sha256": manifest.digest, "split": split.name, "split_sha256": split.digest}
    write_json(run.digests_json, digests | {"images": parts})
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    write_environment(run, gpus)


def _start_tracking(run: RunFolder, config: Config, manifest: Manifest, split: Split) -> Tracker | None:
    if not config.tracking.enabled:
        return None
    from medseg.tracking import start_tracking  # mlflow takes seconds to import, and only tracked runs need it

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
        return self.dataset.labels


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


def evaluate(
    run: PathLike, split: str = "test", data_root: PathLike | None = None, checkpoint: str = "best", progress: Progress | None = None
) -> Scores:
    """Score a run on one part of its split, on each image's own grid, and write evaluation/<split>/ into its folder."""
    loaded = load_run(run, checkpoint)
    root = check_data_root(_path(data_root))
    manifest, the_split = _same_data(loaded)
    progress = progress or Progress()
    data = decode_part(loaded.config, manifest, the_split, split, root, progress.on_decode)
    cases = []
    for row, mask in original_grid_masks(loaded.model, data, loaded.config.infer.batch_size, loaded.config.infer.flip_tta, loaded.device):
        images.write_mask(_prediction_path(loaded.run, split, row.sample_id), mask, loaded.labels.palette)
        reference = read_original_mask(manifest, row, root)
        cases.append(CaseResult(row.sample_id, row.group_id, confusion(reference, mask, loaded.labels)))
        progress.on_case(len(cases), len(data))
    return _write_evaluation(loaded, manifest, the_split, split, root, cases, {row.sample_id: row for row in data.rows})


def _same_data(loaded: LoadedRun) -> tuple[Manifest, Split]:
    """The run's manifest and split, refused where either has changed since the training."""
    digests = read_yaml(loaded.run.digests_json, RunError)  # JSON is YAML
    manifest = read_manifest(Path(loaded.config.data.manifest))
    split = read_split(manifest, loaded.config.data.split)
    for what, now in (("manifest", manifest.digest), ("split", split.digest)):
        if digests[f"{what}_sha256"] != now:
            raise RunError(loaded.run.path, f"the {what} has changed since this run was trained", "put the old one back, or train again")
    return manifest, split


def _prediction_path(run: RunFolder, split: str, sample_id: str) -> Path:
    return run.evaluation(split) / "predictions" / f"{sample_id}.png"


def _write_evaluation(
    loaded: LoadedRun, manifest: Manifest, split: Split, part: str, root: Path, cases: Sequence[CaseResult], rows: dict[str, Row]
) -> Scores:
    folder, labels = loaded.run.evaluation(part), loaded.labels
    scores = score(cases, labels)
    protocol = _protocol(loaded)
    facts = {"split": part, "manifest_sha256": manifest.digest, "split_sha256": split.digest, "checkpoint": loaded.facts}
    write_per_case(folder / "per_case.csv", cases, labels)
    np.save(folder / "confusion.npy", scores.confusion_KK)
    write_scores(folder / "scores.json", scores, protocol, facts)
    write_tables(folder, scores, protocol, f"{manifest.dataset.name} / {loaded.config.name}: {part}", _notes(loaded, manifest, split))

    def read(case: CaseResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row = rows[case.sample_id]
        mask = images.read_mask(_prediction_path(loaded.run, part, case.sample_id))
        return read_original_image(manifest, row, root), read_original_mask(manifest, row, root), mask

    overlay_sheet(folder / "overlays.jpg", cases, labels, read)
    if loaded.run.mlflow_json.exists() and loaded.config.tracking.enabled:
        from medseg.tracking import log_evaluation  # see _start_tracking

        log_evaluation(loaded.run, part)
    return scores


def _protocol(loaded: LoadedRun) -> Protocol:
    passes = "mean over the image and its mirror image" if loaded.config.infer.flip_tta else "single forward pass"
    return Protocol(ignore_id=loaded.labels.ignore_id, test_time=passes)


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
    run: PathLike, paths: Sequence[PathLike], out: PathLike, checkpoint: str = "best", progress: Progress | None = None
) -> list[Predicted]:
    """Segment images (files or folders) at their own size: `<stem>.png` (ids with a palette) and `<stem>_overlay.jpg` below `out`.

    Every path is checked before the first is predicted; MedsegError names the first that cannot be read.
    """
    loaded, progress = load_run(run, checkpoint), progress or Progress()
    found = find_images(paths)
    outputs = [
        Predicted(path, Path(out) / name.with_suffix(".png"), Path(out) / f"{name.with_suffix('')}_overlay.jpg") for path, name in found
    ]
    _no_clash(outputs)
    for done, item in enumerate(outputs, start=1):
        image = images.read_image(item.image)
        mask = predict_image(loaded.model, image, Size(*loaded.config.data.size_px), loaded.config.infer.flip_tta, loaded.device)
        images.write_mask(item.mask, mask, loaded.labels.palette)
        images.write_image(item.overlay, images.blend(image, mask, loaded.labels.palette))
        progress.on_case(done, len(outputs))
    return outputs


def find_images(paths: Sequence[PathLike]) -> list[tuple[Path, Path]]:
    """(path, name below the output folder) of each image; a folder is searched through, its inner folders kept. Headers are read."""
    found: list[tuple[Path, Path]] = []
    for path in map(Path, paths):
        inner = sorted(p for p in path.rglob("*") if p.suffix.lower() in images.IMAGE_SUFFIXES) if path.is_dir() else [path]
        if not inner:
            raise ImageError(path, f"holds no image ({', '.join(images.IMAGE_SUFFIXES)})", "name a folder of photographs")
        found += [(p, p.relative_to(path) if path.is_dir() else Path(p.name)) for p in inner]
    if not found:
        raise ImageError("PATH", "no image is named", "name files or folders of photographs")
    for path, _ in found:
        images.read_size(path)
    return found


def _no_clash(outputs: Sequence[Predicted]) -> None:
    seen: dict[Path, Path] = {}
    for item in outputs:
        if item.mask in seen:
            raise ImageError(item.image, f"and {seen[item.mask]} would both be written to {item.mask}", "predict them into two folders")
        seen[item.mask] = item.image
        if item.image.resolve() in (item.mask.resolve(), item.overlay.resolve()):
            raise ImageError(item.image, "would be overwritten by its own prediction", "choose another --out")


def compare(runs: Sequence[PathLike], split: str = "test") -> str:
    """A Markdown table of several evaluated runs side by side; RunError unless they scored the same cases by one protocol."""
    if len(runs) < 2:
        raise RunError("compare", f"needs two runs or more, got {len(runs)}", "name the folders below runs/")
    opened = [open_run(Path(path)) for path in runs]
    return comparison([(run.id, read_scores(run.evaluation(split) / "scores.json")) for run in opened])
