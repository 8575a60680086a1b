"""The verbs evaluate, predict and compare as short stories. The command line and notebooks (medseg.api) both call these."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg import images
from medseg.build import build_model, decode_part, deterministic_kernels, make_fabric, resolve
from medseg.config import Config, read_config
from medseg.data.decode import read_original_image, read_original_mask
from medseg.data.decoded import DecodedSet
from medseg.engine.checkpoint import load_weights
from medseg.engine.evaluate import original_grid_masks
from medseg.engine.infer import Passes, predict_image
from medseg.engine.ranks import Alone, Ranks
from medseg.errors import ImageError, RunError
from medseg.files import staged_files, staged_folder, walk
from medseg.labels import LabelSet
from medseg.manifest.ledger import record_scoring
from medseg.manifest.schema import Dataset, Manifest, Split
from medseg.manifest.table import check_data_root, read_dataset
from medseg.metrics.counts import confusion
from medseg.metrics.protocol import Protocol
from medseg.metrics.scores import Scores, score
from medseg.report.figures import overlay_sheet
from medseg.report.tables import comparison, read_scores, write_per_case, write_scores, write_tables
from medseg.runfolder import RunFolder, open_run
from medseg.training import PathLike, Progress, as_path, same_data
from medseg.types import CaseResult, Size
from medseg.yamlio import read_yaml


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, ready to predict. `model` is in eval mode and in the precision of `ranks`, the processes that share the work."""

    run: RunFolder
    config: Config
    dataset: Dataset
    model: Alone
    ranks: Ranks
    facts: dict[str, Any]

    @property
    def labels(self) -> LabelSet:
        """The classes the run was trained on."""
        return self.dataset.labels

    @property
    def device(self) -> torch.device:
        """Where images are predicted."""
        return self.ranks.device

    @property
    def passes(self) -> Passes:
        """How the run's config has images predicted."""
        infer = self.config.infer
        return Passes(self.labels if infer.flip_tta else None, self.config.sampling.patch, infer.overlap)


def load_run(path: PathLike, checkpoint: str = "best") -> LoadedRun:
    """Open a run folder and load a checkpoint; needs nothing outside the folder. The device is chosen anew."""
    run = open_run(Path(path))
    stored = read_config(run.config_yaml)
    config = resolve(stored.model_copy(update={"train": stored.train.model_copy(update={"device": "auto"})}))
    dataset = read_dataset(run.dataset_yaml)
    model = build_model(config, dataset.labels)
    facts = load_weights(run.checkpoint(checkpoint), model)
    fabric = make_fabric(config)
    network = fabric.to_device(fabric.strategy.precision.convert_module(model))
    return LoadedRun(run, config, dataset, Alone(network, fabric).eval(), Ranks(fabric), facts | {"checkpoint": checkpoint})


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
    root = check_data_root(as_path(data_root))
    manifest, the_split = same_data(loaded.run, loaded.config)
    progress, first = progress or Progress(), loaded.ranks.first
    with loaded.ranks.fabric.rank_zero_first(local=True):
        data = decode_part(loaded.config, manifest, the_split, split, root, progress.on_decode if first else None)
    name, scores, scorings = split if checkpoint == "best" else f"{split}_{checkpoint}", None, None
    with _opened(loaded, name) as folder:
        with deterministic_kernels(loaded.config):
            cases = _predict_and_count(loaded, manifest, data, root, folder, progress)
        if first:
            scores = _write_evaluation(loaded, manifest, the_split, split, cases, folder)
            _write_overlays(manifest, data, root, cases, folder)
            scorings = record_scoring(the_split, split, loaded.run.id, checkpoint)
    if first and loaded.run.mlflow_json.exists() and loaded.config.tracking.enabled:
        from medseg.tracking import log_evaluation  # see training.check_tracking

        log_evaluation(loaded.run, name)
    return loaded.ranks.same(Evaluation(loaded.run.evaluation(name), scores, scorings))  # type: ignore[arg-type]


def _opened(loaded: LoadedRun, name: str) -> AbstractContextManager[Path]:
    """The folder that the first process writes to; the others write nothing."""
    folder = loaded.run.evaluation(name)
    return staged_folder(folder) if loaded.ranks.first else nullcontext(folder)


def _predict_and_count(
    loaded: LoadedRun, manifest: Manifest, data: DecodedSet, root: Path, folder: Path, progress: Progress
) -> list[CaseResult]:
    """Predict each image, keep its mask as predictions/<sample_id>.png, and count it against the reference as annotated."""
    cases, infer = [], loaded.config.infer
    for row, mask in original_grid_masks(loaded.model, data, infer.batch_size, loaded.passes, loaded.ranks):
        images.write_mask(_prediction(folder, row.sample_id), mask, loaded.labels.palette)
        reference = read_original_mask(manifest, row, root)
        cases.append(CaseResult(row.sample_id, row.group_id, confusion(reference, mask, loaded.labels)))
        progress.on_case(len(cases), len(data))
    return cases


def _prediction(folder: Path, sample_id: str) -> Path:
    return folder / "predictions" / f"{sample_id}.png"


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
