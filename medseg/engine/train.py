"""The training loop: set the rate, forward, backward, clip, step; validate, keep the best, log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.fabric import Fabric

from medseg.config import Config
from medseg.data.decoded import DecodedSet
from medseg.data.loaders import Loading, train_batches
from medseg.data.patches import PatchIndex
from medseg.data.realised import Seen, centre_shares
from medseg.data.sampling import draw_epoch
from medseg.engine.checkpoint import save_checkpoint
from medseg.engine.evaluate import network_grid_cases
from medseg.engine.infer import Passes
from medseg.engine.optim import learning_rate
from medseg.engine.preview import write_preview
from medseg.errors import TrainingError
from medseg.metrics.scores import METRICS, Scores, score
from medseg.runfolder import RunFolder
from medseg.types import Batch, Draws, Losses

CHOSEN_BY = "val/miou_pooled/without_background"


@dataclass(frozen=True)
class Training:
    """Everything a training needs, assembled by build.py. `model` and `optimizer` are Fabric's wrappers.

    weights, index: what the sampler draws by.  shares: what it was asked for and what the training set holds, as constant metrics.
    """

    config: Config
    fabric: Fabric
    model: Any
    optimizer: Any
    train_set: DecodedSet
    val_set: DecodedSet
    weights: np.ndarray
    index: PatchIndex | None
    shares: dict[str, float]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return self.config.steps_per_epoch(len(self.train_set))

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.config.train.epochs

    @property
    def loading(self) -> Loading:
        """How the training batches are made."""
        config, settings = self.config, self.config.train
        patch, device = config.sampling.patch, self.fabric.device
        return Loading(settings.batch_size, config.augment, config.seed, device, patch, settings.channels_last, settings.prefetch)

    @property
    def passes(self) -> Passes:
        """How the val images are predicted: in windows where the network learns from crops."""
        return Passes(window=self.config.sampling.patch, overlap=self.config.infer.overlap)

    def draws(self, epoch: int) -> Draws:
        """What an epoch shows."""
        config, number = self.config, self.steps_per_epoch * self.config.train.batch_size
        return draw_epoch(config.sampling, self.weights, self.index, number, config.seed, epoch)


OnStep = Callable[[int, float | None], None]  # (steps done, the epoch's val score once it is known)


def train(training: Training, run: RunFolder, on_step: OnStep) -> float:
    """Train to the end and return the best val score; metrics, checkpoints and previews go to the run folder."""
    settings, best = training.config.train, -math.inf
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        metrics = _train_epoch(training, epoch, on_step)
        trained = time.perf_counter()
        if epoch % settings.validate_every == 0 or epoch == settings.epochs:
            metrics |= _validate(training)
            best = _keep_best(training, run, epoch, metrics[CHOSEN_BY], best)
        _keep(training, run, "last", epoch, metrics.get(CHOSEN_BY))
        if epoch % settings.preview_every == 0 or epoch == settings.epochs:
            preview = run.previews / f"epoch_{epoch:04d}.jpg"
            write_preview(preview, training.model.eval(), training.val_set, training.passes, training.fabric.device)
        _log(training, run, epoch, metrics, started, trained)
        on_step(epoch * training.steps_per_epoch, metrics.get(CHOSEN_BY))
    return best


def _train_epoch(training: Training, epoch: int, on_step: OnStep) -> dict[str, float]:
    labels, draws = training.train_set.labels, training.draws(epoch)
    seen, sums = Seen(labels.num_classes), dict[str, Any]()
    training.model.train()
    for step, batch in enumerate(train_batches(training.train_set, draws, epoch, training.loading), (epoch - 1) * training.steps_per_epoch):
        rate = learning_rate(training.config.optim, step, training.total_steps)
        losses = optimise(training, batch, rate)
        for name, term in {**losses.terms, "total": losses.total}.items():  # summed on the device: reading one would wait for it
            sums[name] = sums.get(name, 0.0) + term.detach()
        seen.add(batch.mask_BHW)
        on_step(step + 1, None)
    metrics = {f"train/loss/{name}": float(value) / training.steps_per_epoch for name, value in sums.items()}
    _must_be_finite(metrics, epoch, rate)
    return metrics | {"train/lr": rate} | training.shares | seen.shares(labels) | centre_shares(training.config.sampling, draws, labels)


def optimise(training: Training, batch: Batch, rate: float) -> Losses:
    """One optimiser step at a learning rate; the losses of the batch before it."""
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    losses: Losses = training.model(batch)
    training.optimizer.zero_grad(set_to_none=True)
    training.fabric.backward(losses.total)
    if training.config.optim.clip_norm is not None:
        limit = training.config.optim.clip_norm
        training.fabric.clip_gradients(training.model, training.optimizer, max_norm=limit, error_if_nonfinite=False)
    training.optimizer.step()
    return losses


def _must_be_finite(metrics: dict[str, float], epoch: int, rate: float) -> None:
    if not math.isfinite(metrics["train/loss/total"]):
        raise TrainingError(
            f"epoch {epoch}",
            f"the loss is not finite ({metrics['train/loss/total']}) at learning rate {rate:.3g}",
            "lower optim.lr, set optim.clip_norm, or train in float32 (train.precision=float32)",
        )


def _validate(training: Training) -> dict[str, float]:
    model, infer = training.model.eval(), training.config.infer
    cases = network_grid_cases(model, training.val_set, infer.batch_size, training.passes, training.fabric.device)
    return scores_as_metrics(score(cases, training.val_set.labels), "val")


def scores_as_metrics(scores: Scores, part: str) -> dict[str, float]:
    """Flat names for a log: `val/iou_pooled/<class>`, `val/iou_per_image/<class>`, `val/miou_pooled/without_background`, ..."""
    flat = {f"{part}/{name}": mean.mean for name, mean in scores.summary.items()}
    for name in scores.pooled:
        for metric in METRICS:
            flat[f"{part}/{metric}_pooled/{name}"] = scores.pooled[name][metric]
            flat[f"{part}/{metric}_per_image/{name}"] = scores.per_image[name][metric].mean
    return flat


def _keep_best(training: Training, run: RunFolder, epoch: int, value: float, best: float) -> float:
    """Save the checkpoint where the val score is the best so far (the first where none is defined); returns the best score."""
    value = -math.inf if math.isnan(value) else value
    if value > best or not run.checkpoint("best").exists():
        _keep(training, run, "best", epoch, value)
    return max(best, value)


def _keep(training: Training, run: RunFolder, name: str, epoch: int, value: float | None) -> None:
    facts = {"epoch": epoch, "chosen_by": CHOSEN_BY, "score": value if value is not None and math.isfinite(value) else None}
    save_checkpoint(run.checkpoint(name), training.model.module, facts | {"classes": list(training.train_set.labels.names)})


def _log(training: Training, run: RunFolder, epoch: int, metrics: dict[str, float], started: float, trained: float) -> None:
    step = epoch * training.steps_per_epoch
    values = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    run.append(run.metrics_jsonl, {"epoch": epoch, "step": step, "metrics": values})
    images = training.steps_per_epoch * training.config.train.batch_size
    train_s = trained - started
    timings = {"train_s": train_s, "val_s": time.perf_counter() - trained, "train_images_per_s": images / train_s}
    run.append(run.timings_jsonl, {"epoch": epoch, "step": step, "timings": timings})
