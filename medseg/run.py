"""How a trained run is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medseg.build import build_model, check_objects, make_fabric, resolve
from medseg.config import Config
from medseg.engine.checkpoint import load_weights
from medseg.engine.infer import Passes
from medseg.engine.ranks import Alone, Ranks
from medseg.errors import RunError
from medseg.labels import LabelSet
from medseg.manifest.schema import Dataset
from medseg.manifest.table import read_dataset
from medseg.postprocess import Step, read_steps
from medseg.pretrained import with_threshold
from medseg.runfolder import RunFolder, open_run
from medseg.training import config_of_run
from medseg.watching import PathLike


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
        return Passes(self.labels if infer.flip_tta else None, self.config.sampling.patch_px, infer.overlap, self.config.augment.flip_axes)

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done to its masks afterwards, where `medseg postprocess` has found that it helps."""
        return read_steps(self.run.postprocess_json, self.labels)


def load_run(path: PathLike, checkpoint: str = "best", score_threshold: float | None = None) -> LoadedRun:
    """Open a run folder and load a checkpoint; needs nothing outside the folder. The device is chosen anew.

    score_threshold: in [0, 1], of the objects that are shown, in place of the run's own.
    """
    run = open_run(Path(path))
    for file in (run.config_yaml, run.dataset_yaml):
        if not file.is_file():
            raise RunError(file, "is missing", "copy the run folder as a whole")
    stored = config_of_run(run)
    anew = {"train": stored.train.model_copy(update={"device": "auto"}), "model": with_threshold(stored.model, score_threshold)}
    config = resolve(stored.model_copy(update=anew))
    check_objects(config)
    dataset = read_dataset(run.dataset_yaml)
    model = build_model(config, dataset.labels)
    facts = load_weights(run.checkpoint(checkpoint), model)
    fabric = make_fabric(config)
    network = fabric.to_device(fabric.strategy.precision.convert_module(model))
    return LoadedRun(run, config, dataset, Alone(network, fabric).eval(), Ranks(fabric), facts | {"checkpoint": checkpoint})
