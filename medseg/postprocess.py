"""What is done to a predicted mask afterwards: each class's largest component alone, its holes filled, its smallest components dropped.

A step is kept only where predictions on val say so: the class's Dice, the mean over the cases, is better with it, and no class or region
that it touches is worse (after Isensee et al. 2021, supplement). So nothing here is chosen on test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import remove_small_objects

from medseg.errors import RunError
from medseg.files import read_json, write_json
from medseg.labels import LabelSet

Kind = Literal["largest", "holes", "small"]
SMALL_SHARES = (0.02, 0.05, 0.1, 0.25)  # of a class's median size in val references: what is tried as the least size of a component
WORDS = {"largest": "its largest component alone", "holes": "its holes filled", "small": "components below {least} px dropped"}


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one class. least: pixels or voxels, of `small` alone; components touch by edge or corner, holes by edges."""

    name: str
    kind: Kind
    least: int = 0

    def told(self) -> str:
        """In words, for the protocol of a table."""
        return f"{self.name}: {WORDS[self.kind].format(least=self.least)}"


def apply_steps(mask: np.ndarray, steps: Iterable[Step], labels: LabelSet) -> np.ndarray:
    """uint8 mask, (H, W) or (X, Y, Z), changed in the order of the steps; the mask given stays as it is.

    What is dropped becomes background; of a hole only what was background is filled, so no class takes from another.
    """
    changed = mask.copy()
    for step in steps:
        class_id = labels.id_of(step.name)
        inside = changed == class_id
        if not inside.any():
            continue
        kept = _changed(inside, step)
        changed[inside & ~kept] = 0
        changed[kept & (changed == 0)] = class_id
    return changed


def _changed(inside: np.ndarray, step: Step) -> np.ndarray:
    if step.kind == "holes":
        return np.asarray(ndimage.binary_fill_holes(inside))
    if step.kind == "small":
        return np.asarray(remove_small_objects(inside, max_size=step.least - 1, connectivity=inside.ndim))
    parts = label(inside, connectivity=inside.ndim)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


@dataclass(frozen=True, slots=True)
class Tried:
    """A step and what val said. before, after: mean Dice of the class over the val cases."""

    step: Step
    before: float
    after: float
    kept: bool
    why: str


def choose_steps(pairs: Sequence[tuple[np.ndarray, np.ndarray]], labels: LabelSet) -> list[Tried]:
    """Which steps help: (reference, prediction) of the val cases -> every step that was tried, those kept among them, in their order.

    Class by class: the largest component, else the best least size; then holes. Each is judged on top of what is kept before it.
    """
    tried, masks = list[Tried](), [prediction for _, prediction in pairs]
    for name in labels.foreground:
        for candidates in _candidates(name, pairs, labels):
            outcomes = [_try(step, pairs, masks, labels) for step in candidates]
            best = max(outcomes, key=lambda outcome: (outcome.kept, outcome.after))
            tried += [outcome if outcome is best else _dropped(outcome) for outcome in outcomes]
            if best.kept:
                masks = [apply_steps(mask, [best.step], labels) for mask in masks]
    return tried


def _candidates(name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], labels: LabelSet) -> list[list[Step]]:
    """Steps of which one at the most is kept, in a row."""
    sizes = [int((reference == labels.id_of(name)).sum()) for reference, _ in pairs]
    held = [size for size in sizes if size]
    least = sorted({round(share * float(np.median(held))) for share in SMALL_SHARES} - {0, 1}) if held else []
    return [[Step(name, "largest"), *(Step(name, "small", size) for size in least)], [Step(name, "holes")]]


def _try(step: Step, pairs: Sequence[tuple[np.ndarray, np.ndarray]], masks: Sequence[np.ndarray], labels: LabelSet) -> Tried:
    touched = [step.name, *(region for region, names in labels.regions.items() if step.name in names)]
    after = [apply_steps(mask, [step], labels) for mask in masks]
    scores = {name: (_mean_dice(name, pairs, masks, labels), _mean_dice(name, pairs, after, labels)) for name in touched}
    worse = [name for name, (was, now) in scores.items() if not now >= was]
    was, now = scores[step.name]
    why = f"{worse[0]} gets worse" if worse else "Dice gets better" if now > was else "nothing changes"
    return Tried(step, was, now, not worse and now > was, why)


def _dropped(outcome: Tried) -> Tried:
    return Tried(outcome.step, outcome.before, outcome.after, False, "another is better" if outcome.kept else outcome.why)


def _mean_dice(name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], masks: Sequence[np.ndarray], labels: LabelSet) -> float:
    """Over the cases that hold the class or were given it; 0 where there is none, so that nothing is better."""
    ids = labels.region_ids(name) if name in labels.regions else (labels.id_of(name),)
    found = []
    for (reference, _), mask in zip(pairs, masks, strict=True):
        valid = labels.valid(reference)
        wanted, given = np.isin(reference, ids) & valid, np.isin(mask, ids) & valid
        if total := int(wanted.sum()) + int(given.sum()):
            found.append(2 * int((wanted & given).sum()) / total)
    return float(np.mean(found)) if found else 0.0


# --- the file of a run


def write_steps(path: Path, tried: Sequence[Tried], facts: dict[str, Any]) -> None:
    """postprocess.json of a run folder: the steps kept, everything tried, and on what."""
    steps = [_plain(each.step) for each in tried if each.kept]
    said = [_plain(each.step) | {"before": each.before, "after": each.after, "kept": each.kept, "why": each.why} for each in tried]
    write_json(path, {"steps": steps, "tried": said} | facts)


def read_steps(path: Path, labels: LabelSet) -> tuple[Step, ...]:
    """The steps of a run folder; none where it has no such file. RunError for a file that is damaged."""
    if not path.exists():
        return ()
    fix = "choose them again: medseg postprocess"
    content = read_json(path, RunError, fix)
    try:
        steps = tuple(Step(str(one["name"]), one["kind"], int(one.get("least", 0))) for one in content["steps"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError(path, "does not say its steps", fix) from None
    if any(step.name not in labels.foreground or step.kind not in WORDS for step in steps):
        raise RunError(path, "names a class or a step that there is not", fix)
    return steps


def _plain(step: Step) -> dict[str, Any]:
    return {"name": step.name, "kind": step.kind} | ({"least": step.least} if step.least else {})
