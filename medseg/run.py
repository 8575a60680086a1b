"""The verbs predict and compare as short stories, and how a trained run is opened. The command line and notebooks
(medseg.api) both call these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg import images
from medseg.build import build_model, check_objects, make_fabric, resolve
from medseg.config import Config
from medseg.engine.checkpoint import load_weights
from medseg.engine.infer import Passes, predict_image
from medseg.engine.ranks import Alone, Ranks
from medseg.errors import ConfigError, ImageError
from medseg.files import staged_files, walk
from medseg.labels import LabelSet
from medseg.manifest.schema import Dataset
from medseg.manifest.table import read_dataset
from medseg.pretrained import PREFIX, segmenter
from medseg.runfolder import RunFolder, open_run
from medseg.training import PathLike, Progress, config_of_run
from medseg.types import Size


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
        return Passes(self.labels if infer.flip_tta else None, self.config.sampling.patch_px, infer.overlap)


def load_run(path: PathLike, checkpoint: str = "best") -> LoadedRun:
    """Open a run folder and load a checkpoint; needs nothing outside the folder. The device is chosen anew."""
    run = open_run(Path(path))
    stored = config_of_run(run)
    config = resolve(stored.model_copy(update={"train": stored.train.model_copy(update={"device": "auto"})}))
    check_objects(config)
    dataset = read_dataset(run.dataset_yaml)
    model = build_model(config, dataset.labels)
    facts = load_weights(run.checkpoint(checkpoint), model)
    fabric = make_fabric(config)
    network = fabric.to_device(fabric.strategy.precision.convert_module(model))
    return LoadedRun(run, config, dataset, Alone(network, fabric).eval(), Ranks(fabric), facts | {"checkpoint": checkpoint})


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
    score_threshold: float | None = None,
    weights: str | None = None,
) -> list[Predicted]:
    """Segment images (files or folders) at their own size: `<stem>.png` (ids with a palette) and `<stem>_overlay.jpg` below `out`.

    run: a run folder, or zoo:NAME for a network with published weights (then score_threshold is of the objects that are shown, if
    any, and weights name others of the same classes, such as hf:FOLDER).
    All or nothing: files appear in `out` when the last image is done. Raises ImageError for an image that cannot be read, for two that
    would have one name, and for files that are there already (unless `overwrite`; the images themselves are never overwritten).
    """
    out, progress = Path(out), progress or Progress()
    found = find_images([Path(path) for path in paths], out)
    names = [(path, name.with_suffix(".png"), Path(f"{name.with_suffix('')}_overlay.jpg")) for path, name in found]
    outputs = [Predicted(path, out / mask, out / overlay) for path, mask, overlay in names]
    _no_clash(outputs, overwrite)
    segment = _segment(run, checkpoint, score_threshold, weights)
    with staged_files(out) as stage:
        for done, (path, mask_name, overlay_name) in enumerate(names, start=1):
            mask, overlay, palette = segment(images.read_image(path))
            images.write_mask(stage / mask_name, mask, palette)
            images.write_image(stage / overlay_name, overlay)
            progress.on_case(done, len(names))
    return outputs


Segment = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]  # photograph -> class ids, overlay, palette


def _segment(run: PathLike, checkpoint: str, score_threshold: float | None, weights: str | None) -> Segment:
    """By a run folder or by zoo:NAME; ConfigError for what belongs to the other."""
    if str(run).startswith(PREFIX):
        if checkpoint != "best":
            raise ConfigError("--checkpoint", f"{run} has no checkpoints", "leave it out")
        return _published(str(run), score_threshold, weights)
    for option, value, whose in (
        ("--score-threshold", score_threshold, "model.score_threshold"),
        ("--weights", weights, "its own weights"),
    ):
        if value is not None:
            raise ConfigError(option, "is of networks named zoo:NAME", f"leave it out: a run has {whose}")
    return _trained(run, checkpoint)


def _published(name: str, score_threshold: float | None, weights: str | None) -> Segment:
    """By a network with published weights."""
    segmenter_ = segmenter(name.removeprefix(PREFIX), score_threshold, weights)

    def segment(image_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mask_HW = segmenter_.mask(image_HWC)
        return mask_HW, segmenter_.overlay(image_HWC, mask_HW), segmenter_.palette

    return segment


def _trained(run: PathLike, checkpoint: str) -> Segment:
    """By a run of one's own."""
    loaded = load_run(run, checkpoint)
    frame, palette = Size(*loaded.config.data.size_px), loaded.labels.palette

    def segment(image_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mask_HW = predict_image(loaded.model, image_HWC, frame, loaded.device, loaded.passes)
        return mask_HW, images.blend(image_HWC, mask_HW, palette), palette

    return segment


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
