"""How far a training has come: kept in one file of the run folder, from which it goes on as if it had never stopped.

resume.safetensors holds the weights, the optimiser's state, the average of the weights, and what the epoch under way has summed up;
its header the place in the draw list (a step's draws, augmentation and random state follow from the seed and its number alone), the best
val score, and the last epoch's line of metrics.jsonl. That line is appended after the file is written: so metrics.jsonl never tells of an
epoch that would have to be done again, and what a tracker has sent stays true.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medseg.data.realised import Seen
from medseg.engine.average import copy_into
from medseg.engine.checkpoint import read_checkpoint, take_weights, write_tensors
from medseg.errors import CheckpointError
from medseg.files import write_text
from medseg.runfolder import RunFolder
from medseg.types import Losses

if TYPE_CHECKING:
    from medseg.engine.train import Training

ANEW = "remove the file to train this run from its start, with the same outcome"


@dataclass
class Course:
    """A training's place. epoch: whole epochs done.  step: optimiser steps done.  since_best: validations since the best val score.

    sums, seen: of the epoch under way, on this process.  line: what metrics.jsonl says of the last whole epoch.
    """

    seen: Seen
    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    since_best: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    line: dict[str, Any] | None = None

    def add(self, losses: Losses, mask_BHW: Tensor) -> None:
        """One more batch; summed up on the device, because reading a number would wait for it."""
        for name, term in {**losses.terms, "total": losses.total}.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.detach()
        self.seen.add(mask_BHW)

    def judge(self, score: float) -> bool:
        """Whether a validation's score is the best so far; the first is where none is defined (NaN)."""
        better = score > self.best
        self.best, self.since_best = (score, 0) if better else (self.best, self.since_best + 1)
        return better

    def end_epoch(self, line: dict[str, Any]) -> None:
        """The epoch is whole: its sums go, its line stays."""
        self.epoch, self.line = self.epoch + 1, line
        self.sums, self.seen = {}, Seen(self.seen.num_classes)


def save_course(run: RunFolder, training: Training, course: Course) -> None:
    """Write resume.safetensors; every process must call it, and the first one writes."""
    sums = training.ranks.gather(torch.stack([course.sums[name] for name in sorted(course.sums)])) if course.sums else None
    seen = training.ranks.sum_seen(course.seen)
    if not training.ranks.first:
        return
    tensors = {f"model/{name}": tensor for name, tensor in training.model.module.state_dict().items()}
    tensors |= _optimizer_tensors(training.optimizer.optimizer)
    if training.average:
        tensors |= {f"average/{name}": tensor for name, tensor in training.average.weights.items()}
    if sums is not None and seen.counts_2K is not None:
        tensors |= {"epoch/sums": sums, "epoch/seen": seen.counts_2K}
    facts = {
        "epoch": course.epoch, "step": course.step, "best": course.best if math.isfinite(course.best) else None,
        "since_best": course.since_best, "images": seen.images, "terms": sorted(course.sums), "line": course.line,
    }  # fmt: skip
    write_tensors(run.resume_point, tensors, facts)


def resume(run: RunFolder, training: Training) -> Course:
    """The course as it was kept, weights and all put back; the start where nothing is kept. metrics.jsonl is cut back to it."""
    course = Course(Seen(training.train_set.labels.num_classes))
    if run.resume_point.exists():
        course = _load(run, training)
    if training.ranks.first:
        cut_back(run, course)
    return course


def _load(run: RunFolder, training: Training) -> Course:
    path, device = run.resume_point, training.fabric.device
    tensors, facts = read_checkpoint(path, ANEW)
    try:
        take_weights(training.model.module, _below("model/", tensors), path, ANEW)
        _restore_optimizer(training.optimizer.optimizer, _below("optimizer/", tensors))
        if training.average:
            copy_into(training.average.weights, _below("average/", tensors))
        seen = Seen(training.train_set.labels.num_classes)
        best = -math.inf if facts["best"] is None else facts["best"]
        course = Course(seen, facts["epoch"], facts["step"], best, facts["since_best"], line=facts["line"])
        if facts["terms"]:
            mine = training.ranks.part_of(tensors["epoch/sums"].clone().to(device))
            course.sums = dict(zip(facts["terms"], mine, strict=True))
            if training.ranks.first:  # counts of all processes; added up again at the epoch's end
                seen.counts_2K, seen.images = tensors["epoch/seen"].clone().to(device), facts["images"]
        return course
    except (KeyError, IndexError, ValueError, TypeError) as cause:
        raise CheckpointError(path, f"not what this training has kept ({type(cause).__name__}: {cause})", ANEW) from None


def cut_back(run: RunFolder, course: Course) -> None:
    """Have metrics.jsonl end with the last whole epoch, and timings.jsonl with a whole line; what redone epochs took stays there."""
    kept = [line for line in _whole_lines(run.metrics_jsonl) if _step(line) <= course.step]
    last = json.loads(kept[-1])["epoch"] if kept else 0
    if course.line is not None and last < course.line["epoch"]:
        kept.append(json.dumps(course.line, sort_keys=True))
    for path, lines in ((run.metrics_jsonl, kept), (run.timings_jsonl, _whole_lines(run.timings_jsonl))):
        text = "".join(f"{line}\n" for line in lines)
        if text != (path.read_text(encoding="utf-8") if path.exists() else ""):
            write_text(path, text)


def _step(line: str) -> float:
    """Of a line of metrics.jsonl; of a broken one beyond all steps."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _whole_lines(path: Path) -> list[str]:
    """Without the piece of a line that a process was killed in."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`optimizer/<parameter's number>/<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer/{place}/{name}": value for place, values in state.items() for name, value in values.items() if value is not None}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Rates, decays and the like come from the config; the state of each parameter takes that parameter's memory format."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        place, _, name = key.partition("/")
        like = parameters[int(place)]
        value = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor) if tensor.shape == like.shape else tensor.clone()
        state.setdefault(int(place), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
