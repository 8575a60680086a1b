"""The training loop: set the rate, forward, backward, clip, step; validate, keep the best, log; each step a place to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from medseg.config import Config, NetworkConfig, OptimConfig
from medseg.data.decoded import DecodedSet
from medseg.data.loaders import Loading, train_batches
from medseg.data.patches import PatchIndex
from medseg.data.realised import centre_shares
from medseg.data.sampling import draw_epoch, of_rank
from medseg.data.volume.loaders import volume_batches
from medseg.data.volume.volumeset import VolumeSet
from medseg.engine.average import WeightAverage
from medseg.engine.checkpoint import save_checkpoint
from medseg.engine.course import Course, save_course
from medseg.engine.evaluate import network_grid_cases
from medseg.engine.infer import Passes
from medseg.engine.optim import learning_rate
from medseg.engine.preview import write_preview
from medseg.engine.ranks import Alone, Ranks
from medseg.engine.trouble import trouble_named
from medseg.errors import TrainingError
from medseg.files import nan_to_none
from medseg.metrics.scores import HEADLINE, Scores, score
from medseg.runfolder import RunFolder
from medseg.seeding import seed_of
from medseg.types import Batch, Draws

CHOSEN_BY = "val/miou_pooled/without_background"
CLOCK_STEPS = 20  # between two looks at the time since the course was kept: processes must agree on it


@dataclass(frozen=True)
class Training:
    """Everything a training needs, assembled by build.py. `model` and `optimizer` are Fabric's wrappers.

    weights, index: what the sampler draws by.  shares: what it was asked for and what the training set holds, as constant metrics.
    average: of the weights, where the config asks for it.
    """

    config: Config
    fabric: Fabric
    model: Any
    optimizer: Any
    train_set: DecodedSet | VolumeSet
    val_set: DecodedSet | VolumeSet
    weights: np.ndarray
    index: PatchIndex | None
    shares: dict[str, float]
    average: WeightAverage | None = None

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return Ranks(self.fabric)

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
        """How this process's part of the training batches is made."""
        config, settings = self.config, self.config.train
        batch, device = settings.batch_size // self.ranks.world, self.fabric.device
        return Loading(batch, config.augment, config.seed, device, config.sampling.patch_px, settings.channels_last, settings.prefetch)

    @property
    def passes(self) -> Passes:
        """How the val images are predicted: in windows where the network learns from crops."""
        return Passes(window=self.config.sampling.patch_px, overlap=self.config.infer.overlap)

    @property
    def predictor(self) -> Alone:
        """The network in eval mode."""
        return Alone(self.model.module, self.fabric).eval()  # type: ignore[return-value]

    def draws(self, epoch: int) -> Draws:
        """What an epoch shows, to all processes together."""
        config = self.config
        number = self.steps_per_epoch * config.images_per_step
        return draw_epoch(config.sampling, self.weights, self.index, number, config.seed, epoch)

    def left(self, draws: Draws, course: Course) -> Draws:
        """Of the draws of the epoch under way those that are still to be shown, by this process."""
        done = (course.step - course.epoch * self.steps_per_epoch) * self.config.images_per_step
        return of_rank(draws.part(slice(done, None)), self.ranks.rank, self.ranks.world, self.config.train.batch_size)

    def batches(self, draws: Draws, epoch: int) -> Iterator[Batch]:
        """What these draws show, augmented."""
        if isinstance(self.train_set, VolumeSet):
            return volume_batches(self.train_set, draws, epoch, self.loading)
        return train_batches(self.train_set, draws, epoch, self.loading)

    def kept_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are validated and kept: their average, where one is asked for."""
        return self.average.in_place(self.model.module) if self.average else nullcontext()


OnStep = Callable[[int, float | None], None]  # (steps done, the epoch's val score once it is known)


def train(training: Training, run: RunFolder, course: Course, on_step: OnStep) -> None:
    """Train to the end of the course, from where it stands (`course.resume`); metrics, checkpoints and previews go to the run folder.

    Where `on_step` raises KeyboardInterrupt between two steps, the place is kept to go on from. TrainingError where it cannot go on.
    """
    while not _is_over(training, course):
        started, first_step = time.perf_counter(), course.step
        metrics = _train_epoch(training, run, course, on_step)
        trained = time.perf_counter()
        with training.kept_weights(), trouble_named(training.config, training.ranks.device, "infer.batch_size"):
            metrics |= _look(training, run, course)
        line = {"epoch": course.epoch + 1, "step": course.step, "metrics": nan_to_none(metrics)}
        _log_times(training, run, course, first_step, trained - started, time.perf_counter() - trained)
        course.end_epoch(line)
        save_course(run, training, course)
        if training.ranks.first:
            run.append(run.metrics_jsonl, line)
        on_step(course.step, metrics.get(CHOSEN_BY))


def _is_over(training: Training, course: Course) -> bool:
    settings = training.config.train
    return course.epoch == settings.epochs or (settings.patience is not None and course.since_best >= settings.patience)


def _train_epoch(training: Training, run: RunFolder, course: Course, on_step: OnStep) -> dict[str, float]:
    """The steps of the epoch under way that are still to be done; what all of its steps amount to."""
    config, epoch = training.config, course.epoch + 1
    draws, end, kept_at = training.draws(epoch), epoch * training.steps_per_epoch, time.monotonic()
    batches = training.batches(training.left(draws, course), epoch)
    training.model.module.hold_encoder(_encoder_is_held(config.model, epoch))
    training.model.train()
    while course.step < end:
        rate = learning_rate(config.optim, course.step, training.total_steps)
        with trouble_named(training.config, training.ranks.device, "train.batch_size"):
            optimise(training, islice(batches, config.train.accumulate), rate, course)
        if course.step < end:  # an epoch's last step is told and kept with the epoch
            kept_at = _between_steps(training, run, course, on_step, kept_at)
    labels, losses = training.train_set.labels, _mean_losses(training, course)
    seen = training.ranks.sum_seen(course.seen)
    return losses | _rates(config.optim, rate) | training.shares | seen.shares(labels) | centre_shares(config.sampling, draws, labels)


def _rates(config: OptimConfig, rate: float) -> dict[str, float]:
    """Of the epoch's last step; the head's, too, where it is another."""
    times = config.head_lr_multiplier
    return {"train/lr": rate} if times == 1 else {"train/lr": rate, "train/lr_head": rate * times}


def _encoder_is_held(config: NetworkConfig, epoch: int) -> bool:
    return config.freeze == "encoder" and (config.freeze_epochs is None or epoch <= config.freeze_epochs)


def optimise(training: Training, batches: Iterable[Batch], rate: float, course: Course) -> None:
    """One optimiser step at a learning rate, by the mean of the gradients of `train.accumulate` batches.

    The global random state, from which dropout draws, is set by (seed, step, rank): so it need not be kept.
    """
    number = training.config.train.accumulate
    _seed(seed_of(training.config.seed, "step", course.step, training.ranks.rank), training.fabric.device)
    for group in training.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    training.optimizer.zero_grad(set_to_none=True)
    for place, batch in enumerate(batches, start=1):
        with training.fabric.no_backward_sync(training.model, enabled=place < number):
            losses = training.model(batch)
            training.fabric.backward(losses.total if number == 1 else losses.total / number)
        course.add(losses, batch.mask_BHW)
    if (limit := training.config.optim.clip_norm) is not None:
        training.fabric.clip_gradients(training.model, training.optimizer, max_norm=limit, error_if_nonfinite=False)
    training.optimizer.step()
    course.step += 1
    if training.average:
        training.average.update(training.model.module, course.step)


def _seed(seed: int, device: torch.device) -> None:
    """The global generators of the processor and of the device in use: torch.manual_seed goes through all kinds of devices there are."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _between_steps(training: Training, run: RunFolder, course: Course, on_step: OnStep, kept_at: float) -> float:
    """Tell the caller; keep the course where it stops the training, or where the last time is long ago. Returns when that was."""
    try:
        on_step(course.step, None)
    except KeyboardInterrupt:
        _mean_losses(training, course)  # weights that are not numbers are no place to go on from
        save_course(run, training, course)
        raise
    now = time.monotonic()
    late = now - kept_at > 60 * training.config.train.checkpoint_minutes
    if (training.ranks.world == 1 or course.step % CLOCK_STEPS == 0) and training.ranks.any(late):
        _mean_losses(training, course)
        save_course(run, training, course)
        return now
    return kept_at


def _mean_losses(training: Training, course: Course) -> dict[str, float]:
    """Of the epoch's batches so far, and of the processes; TrainingError where one or a weight is not finite. CPU-GPU sync point."""
    done = (course.step - course.epoch * training.steps_per_epoch) * training.config.train.accumulate * training.ranks.world
    names = sorted(course.sums)
    sums = training.ranks.sum(torch.stack([course.sums[name] for name in names])).tolist()
    means = {f"train/loss/{name}": value / done for name, value in zip(names, sums, strict=True)}
    sound = torch.stack([torch.isfinite(weight).all() for weight in training.model.parameters()]).all()
    what = f"the loss is not finite ({means['train/loss/total']})" if not all(map(math.isfinite, means.values())) else None
    if what or not sound:
        rate, half = training.optimizer.param_groups[0]["lr"], training.config.train.precision == "bfloat16"
        error = TrainingError(
            f"epoch {course.epoch + 1}",
            f"{what or 'the last step left weights that are not finite'} at learning rate {rate:.3g}",
            "lower optim.lr, set optim.clip_norm"
            + (", or train in float32 (train.precision=float32)" if half else ", or look at the images"),
        )
        error.agreed = True
        raise error
    return means


def _look(training: Training, run: RunFolder, course: Course) -> dict[str, float]:
    """Validate and draw as often as asked, and in the last epoch; keep the weights as last, and as best where they are."""
    settings, epoch, metrics = training.config.train, course.epoch + 1, dict[str, float]()
    last = epoch == settings.epochs
    if last or epoch % settings.validate_every == 0:
        metrics = _validate(training)
        if course.judge(metrics[CHOSEN_BY]) or not run.checkpoint("best").exists():
            _keep(training, run, "best", epoch, metrics[CHOSEN_BY])
    _keep(training, run, "last", epoch, metrics.get(CHOSEN_BY))
    if training.ranks.first and (last or epoch % settings.preview_every == 0):
        preview = run.previews / f"epoch_{epoch:04d}.jpg"
        write_preview(preview, training.predictor, training.val_set, training.passes, training.ranks.device)
    return metrics


def _validate(training: Training) -> dict[str, float]:
    cases = network_grid_cases(training.predictor, training.val_set, training.config.infer.batch_size, training.passes, training.ranks)
    return scores_as_metrics(score(cases, training.val_set.labels), "val")


def scores_as_metrics(scores: Scores, part: str) -> dict[str, float]:
    """Flat names for a log: `val/iou_pooled/<class>`, `val/iou_per_image/<class>`, `val/miou_pooled/without_background`, ..."""
    flat = {f"{part}/{name}": mean.mean for name, mean in scores.summary.items()}
    for name in scores.pooled:
        for metric in HEADLINE:
            flat[f"{part}/{metric}_pooled/{name}"] = scores.pooled[name][metric]
            flat[f"{part}/{metric}_per_image/{name}"] = scores.per_image[name][metric].mean
    return flat


def _keep(training: Training, run: RunFolder, name: str, epoch: int, value: float | None) -> None:
    if training.ranks.first:
        facts = {"epoch": epoch, "chosen_by": CHOSEN_BY, "score": value if value is not None and math.isfinite(value) else None}
        save_checkpoint(run.checkpoint(name), training.model.module, facts | {"classes": list(training.train_set.labels.names)})


def _log_times(training: Training, run: RunFolder, course: Course, first_step: int, train_s: float, val_s: float) -> None:
    """What the epoch took here: of an epoch that was gone on with, the steps since."""
    if training.ranks.first:
        images = (course.step - first_step) * training.config.images_per_step
        timings = {"train_s": train_s, "val_s": val_s, "train_images_per_s": images / train_s}
        run.append(run.timings_jsonl, {"epoch": course.epoch + 1, "step": course.step, "timings": timings})
