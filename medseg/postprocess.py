"""What is done to a predicted mask afterwards: each class's largest component alone, its holes filled, its smallest components dropped.

A step is kept only where predictions on val say so: the class's Dice, the mean over the cases, is better with it, and no class or region
that it touches is worse (after Isensee et al. 2021, supplement). So nothing here is chosen on test.

A step changes nothing outside the box around its class, so each works within that box alone: a CT of 600 slices is mostly something else.

Legend: S cases, N classes and regions, K classes, background included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from scipy import ndimage
from skimage.measure import label

from medseg.errors import RunError
from medseg.files import read_json, write_json
from medseg.labels import LabelSet

Kind = Literal["largest", "holes", "small"]
Unit = Literal["mm3", "voxels", "px"]  # mm3 where every volume has a spacing, so that a size is one whatever the file's slices are
Box = tuple[slice, ...]
FORMAT = 1
SMALL_SHARES = (0.02, 0.05, 0.1, 0.25)  # of a class's median size in val references: what is tried as the least size of a component
WORDS = {"largest": "its largest component alone", "holes": "its holes filled", "small": "components below {least} dropped"}
AGAIN = "choose them again: medseg postprocess"
CHUNK = 1 << 22  # voxels counted at once: their pairs of ids take 8 bytes each


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one class. least, unit: the size that `small` keeps; components touch by edge or corner, holes by edges."""

    name: str
    kind: Kind
    least: float = 0.0
    unit: Unit = "px"

    def told(self) -> str:
        """In words, for the protocol of a table."""
        return f"{self.name}: {WORDS[self.kind].format(least=f'{self.least:.10g} {self.unit}')}"

    def least_count(self, spacing_mm: Sequence[float] | None) -> int:
        """The pixels or voxels that a component needs in a file of this spacing; RunError where mm3 are asked for and it has none."""
        if self.unit != "mm3":
            return math.ceil(self.least)
        if spacing_mm is None or len(spacing_mm) != 3:
            raise RunError("postprocess.json", f"{self.told()}, and an image has no spacing along three axes", AGAIN)
        return math.ceil(self.least / math.prod(spacing_mm) * (1 - 1e-6))  # 9.8 mm3 are 20 voxels of 0.49, not 20.000000000000004


def apply_steps(mask: np.ndarray, steps: Sequence[Step], labels: LabelSet, spacing_mm: Sequence[float] | None = None) -> np.ndarray:
    """uint8 mask, (H, W) or (X, Y, Z), changed in the order of the steps; the mask given stays as it is.

    spacing_mm: along the mask's axes; RunError where a step has a size in mm3 and there is none. What is dropped becomes background; of a
    hole only what was background is filled, so no class takes from another.
    """
    if not steps:
        return mask
    changed, boxes = mask.copy(), _boxes(mask)
    for step in steps:
        class_id = labels.id_of(step.name)
        if class_id in boxes:
            _change(changed[boxes[class_id]], class_id, step, spacing_mm)
    return changed


def _boxes(mask: np.ndarray) -> dict[int, Box]:
    """Around each class that is there. No step makes one too small: filled holes lie inside."""
    return {class_id: box for class_id, box in enumerate(ndimage.find_objects(mask), start=1) if box is not None}


def _change(cut: np.ndarray, class_id: int, step: Step, spacing_mm: Sequence[float] | None) -> None:
    """In place, within a box around the class."""
    inside = cut == class_id
    if inside.any():
        kept = _kept(inside, step, spacing_mm)
        cut[inside & ~kept] = 0
        cut[kept & (cut == 0)] = class_id


def _kept(inside: np.ndarray, step: Step, spacing_mm: Sequence[float] | None) -> np.ndarray:
    if step.kind == "holes":
        return np.asarray(ndimage.binary_fill_holes(inside))
    parts = label(inside, connectivity=inside.ndim)
    sizes = np.bincount(parts[inside])  # of the class alone: all of the box would take 8 bytes a voxel
    if step.kind == "largest":
        return np.asarray(parts == sizes.argmax())
    return np.asarray((sizes >= max(1, step.least_count(spacing_mm)))[parts])  # no voxel is of part 0, so its size is 0


# --- what val says


@dataclass(frozen=True, slots=True)
class Tried:
    """A step and what val said. before, after: mean Dice of the class over the val cases."""

    step: Step
    before: float
    after: float
    kept: bool
    why: str


class Case(NamedTuple):
    """A case of val. read: its reference and its prediction, uint8 and of one shape, asked for anew whenever they are needed, so that they
    may be maps of a file; the prediction is written to."""

    read: Callable[[], tuple[np.ndarray, np.ndarray]]
    spacing_mm: tuple[float, ...] | None = None


def choose_steps(cases: Sequence[Case], labels: LabelSet, unit: Unit) -> list[Tried]:
    """Which steps help: every step that was tried, those kept among them, in their order.

    Class by class: the largest component, else the best least size, told in `unit`; then holes. Each is judged on top of what is kept
    before it, so the cases' predictions are changed by every step that is kept. Of a case only counts are kept, not its arrays.
    """
    state, tried = _State.of(cases, labels), list[Tried]()
    for name in labels.foreground:
        for candidates in _candidates(name, state, unit):
            after = state.counted(candidates)
            outcomes = [_judged(step, state, now) for step, now in zip(candidates, after, strict=True)]
            best = max(range(len(outcomes)), key=lambda place: (outcomes[place].kept, outcomes[place].after))
            tried += [outcome if place == best else _dropped(outcome) for place, outcome in enumerate(outcomes)]
            if outcomes[best].kept:
                state.take(candidates[best], after[best])
    return tried


@dataclass
class _State:
    """What is known of the cases' predictions as they are by now.

    counts_SN3: for each class and region the voxels that reference and prediction share, those of the reference, and of the prediction.
    """

    cases: Sequence[Case]
    labels: LabelSet
    boxes: list[dict[int, Box]]
    counts_SN3: np.ndarray

    @classmethod
    def of(cls, cases: Sequence[Case], labels: LabelSet) -> _State:
        boxes, counts = [], []
        for case in cases:
            reference, mask = case.read()
            boxes.append(_boxes(mask))
            counts.append(_counts(reference, mask, labels))
        return cls(cases, labels, boxes, np.array(counts, np.int64))

    def counted(self, steps: Sequence[Step]) -> list[np.ndarray]:
        """The counts after each of some steps of one class; nothing is changed."""
        after = [self.counts_SN3.copy() for _ in steps]
        for place, spacing_mm, reference, mask in self._cut(steps[0].name):
            before = _counts(reference, mask, self.labels)
            for step, counts_SN3 in zip(steps, after, strict=True):
                changed = mask.copy()
                _change(changed, self.labels.id_of(step.name), step, spacing_mm)
                counts_SN3[place] += _counts(reference, changed, self.labels) - before
        return after

    def take(self, step: Step, counts_SN3: np.ndarray) -> None:
        """Keep a step, whose counts are known."""
        self.counts_SN3 = counts_SN3
        for _, spacing_mm, _, mask in self._cut(step.name):
            _change(mask, self.labels.id_of(step.name), step, spacing_mm)

    def _cut(self, name: str) -> Iterator[tuple[int, tuple[float, ...] | None, np.ndarray, np.ndarray]]:
        """(case, its spacing, reference, prediction) within the box around the class, of the cases whose prediction holds it."""
        for place, (case, boxes) in enumerate(zip(self.cases, self.boxes, strict=True)):
            if box := boxes.get(self.labels.id_of(name)):
                reference, mask = case.read()
                yield place, case.spacing_mm, reference[box], mask[box]


def _counts(reference: np.ndarray, mask: np.ndarray, labels: LabelSet) -> np.ndarray:
    """int64 (N, 3), see `_State`; of the voxels that count alone."""
    confusion_KK = _confusion(reference, mask, labels)
    ids = [[place] for place in range(labels.num_classes)] + [list(labels.region_ids(region)) for region in labels.regions]
    found = [(confusion_KK[np.ix_(one, one)].sum(), confusion_KK[one].sum(), confusion_KK[:, one].sum()) for one in ids]
    return np.array(found, np.int64)


def _confusion(reference: np.ndarray, mask: np.ndarray, labels: LabelSet) -> np.ndarray:
    """int64 (K, K): reference, prediction."""
    classes, found = labels.num_classes, np.zeros(labels.num_classes**2, np.int64)
    wanted, given = reference.ravel(), mask.ravel()
    for start in range(0, wanted.size, CHUNK):
        part = slice(start, start + CHUNK)
        valid = labels.valid(wanted[part])
        found += np.bincount(wanted[part][valid].astype(np.int64) * classes + given[part][valid], minlength=classes**2)
    return found.reshape(classes, classes)


def _candidates(name: str, state: _State, unit: Unit) -> list[list[Step]]:
    """Steps of which one at the most is kept, in a row."""
    voxels = [math.prod(case.spacing_mm or ()) if unit == "mm3" else 1.0 for case in state.cases]
    held = [size * voxel for size, voxel in zip(state.counts_SN3[:, state.labels.id_of(name), 1], voxels, strict=True) if size]
    tried = (_even(share * float(np.median(held)), unit) for share in SMALL_SHARES) if held else ()
    least = sorted({size for size in tried if size > min(voxels)})  # no component is smaller than a voxel
    return [[Step(name, "largest"), *(Step(name, "small", size, unit) for size in least)], [Step(name, "holes")]]


def _even(size: float, unit: Unit) -> float:
    """As one can say it: whole voxels, or mm3 to three figures."""
    return float(f"{size:.3g}") if unit == "mm3" else float(round(size))


def _judged(step: Step, state: _State, after_SN3: np.ndarray) -> Tried:
    labels = state.labels
    touched = [step.name, *(region for region, names in labels.regions.items() if step.name in names)]
    places = {name: place for place, name in enumerate((*labels.names, *labels.regions))}
    scores = {name: tuple(_mean_dice(counts[:, places[name]]) for counts in (state.counts_SN3, after_SN3)) for name in touched}
    worse = [name for name, (was, now) in scores.items() if not now >= was]
    was, now = scores[step.name]
    why = f"{worse[0]} gets worse" if worse else "Dice gets better" if now > was else "nothing changes"
    return Tried(step, was, now, not worse and now > was, why)


def _dropped(outcome: Tried) -> Tried:
    return Tried(outcome.step, outcome.before, outcome.after, False, "another is better" if outcome.kept else outcome.why)


def _mean_dice(counts_S3: np.ndarray) -> float:
    """Over the cases that hold the class or were given it; 0 where there is none, so that nothing is better."""
    both, wanted, given = counts_S3[counts_S3[:, 1:].sum(axis=1) > 0].T
    return float(np.mean(2 * both / (wanted + given))) if len(both) else 0.0


# --- the file of a run


def write_steps(path: Path, tried: Sequence[Tried], facts: dict[str, Any]) -> None:
    """postprocess.json of a run folder: the steps kept, everything tried, and on what."""
    steps = [_plain(each.step) for each in tried if each.kept]
    said = [_plain(each.step) | {"before": each.before, "after": each.after, "kept": each.kept, "why": each.why} for each in tried]
    write_json(path, {"format": FORMAT, "steps": steps, "tried": said} | facts)


def read_steps(path: Path, labels: LabelSet) -> tuple[Step, ...]:
    """The steps of a run folder; none where it has no such file. RunError for a file that is damaged, or of an unknown form."""
    if not path.exists():
        return ()
    content = read_json(path, RunError, AGAIN)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(path, f"is not of format {FORMAT}", AGAIN)
    try:
        steps = tuple(_step(one) for one in content["steps"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError(path, "does not say its steps", AGAIN) from None
    if any(step.name not in labels.foreground or step.kind not in get_args(Kind) for step in steps):
        raise RunError(path, "names a class or a step that there is not", AGAIN)
    if any(step.kind == "small" and not (0 < step.least < math.inf and step.unit in get_args(Unit)) for step in steps):
        raise RunError(path, f"gives a least size that is not above 0 with a unit ({', '.join(get_args(Unit))})", AGAIN)
    return steps


def _step(one: dict[str, Any]) -> Step:
    """Unchecked; a size without its unit is none."""
    sized = (float(one["least"]), one["unit"]) if one["kind"] == "small" else ()
    return Step(str(one["name"]), one["kind"], *sized)


def _plain(step: Step) -> dict[str, Any]:
    return {"name": step.name, "kind": step.kind} | ({"least": step.least, "unit": step.unit} if step.kind == "small" else {})
