"""A study's measurements -> what the rarest class is, the table, one sentence that answers, a forest plot, and figures to record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from study_scores import LEVEL, QUANTITIES, RESAMPLES, Estimates

from medseg.data.sampling import presence
from medseg.errors import ManifestError
from medseg.files import atomic_path
from medseg.labels import LabelSet
from medseg.report.tables import markdown_table, number
from medseg.types import Row

QUESTIONS = {"sampling": "Does balancing help?", "loss": "Which loss?"}
IOU, RECALL, PRECISION, OTHERS, DIFFERENCE = range(len(QUANTITIES))
INK, QUIET = "#222222", "#9a9a9a"


@dataclass(frozen=True, slots=True)
class Rarest:
    """The foreground class that the fewest training images hold (of two, the one of fewer pixels), as the manifest counts it.

    pixel_share: of the valid pixels of all training images; pixel_share_held: of those images that hold it.
    """

    name: str
    images: int
    held: int
    pixel_share: float
    pixel_share_held: float
    test_images: int
    test_held: int

    @property
    def image_share(self) -> float:
        """Share of the training images that hold it."""
        return self.held / self.images

    def sentence(self) -> str:
        """What was measured, and no more: whether that is rare is for the reader."""
        return (
            f"The class in the fewest images is `{self.name}`: {self.held} of {self.images} training images hold it "
            f"({self.image_share:.1%}). It covers {self.pixel_share:.2%} of the pixels of all of them and {self.pixel_share_held:.2%} of "
            f"the pixels of those that hold it. {self.test_held} of {self.test_images} test images hold it."
        )


def rarest_class(train: Sequence[Row], test: Sequence[Row], labels: LabelSet) -> Rarest:
    """The class a study looks at; ManifestError where train or test holds none of it, so that nothing could be learned or found."""
    pixels_NK = np.array([[row.px[name] for name in labels.foreground] for row in train], np.int64)
    held, total = presence(train, labels), np.array([sum(row.px.values()) for row in train])
    place = min(range(held.shape[1]), key=lambda k: (held[:, k].sum(), pixels_NK[:, k].sum()))
    name, has, in_test = labels.foreground[place], held[:, place], presence(test, labels)[:, place]
    for part, there in (("train", has), ("test", in_test)):
        if not there.any():
            raise ManifestError(f"split {part!r}", f"no image of it holds {name!r}, the class in the fewest images", "take more images")
    of_all, of_held = (pixels_NK[:, place].sum() / total.sum(), pixels_NK[has, place].sum() / total[has].sum())
    return Rarest(name, len(train), int(has.sum()), float(of_all), float(of_held), len(test), int(in_test.sum()))


@dataclass(frozen=True, slots=True)
class Study:
    """What was measured. arms: their names, the first is what the others are compared with; shown: the mean share of the drawn training
    images (or crops) that held the class, by arm; groups: of the test images; notes: provenance, a line each."""

    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    rarest: Rarest
    found: Estimates
    shown: tuple[float, ...]
    groups: int
    notes: tuple[str, ...]

    def better_seeds(self, arm: int) -> int:
        """How many seeds give the arm a higher IoU than the first arm."""
        return int((self.found.seeds_ASQ[arm, :, DIFFERENCE] > 0).sum())


def heading(name: str, rarest: Rarest) -> str:
    """Title and what the class is, before anything is trained."""
    return f"# {QUESTIONS[name]} `{rarest.name}`, in {rarest.image_share:.1%} of the training images\n\n{rarest.sentence()}\n"


def answer(study: Study) -> str:
    """One sentence by one rule: an arm is better or worse than the first where the interval of the difference leaves 0 out."""
    return f"By pooled IoU of `{study.rarest.name}`: {'; '.join(_verdict(study, arm) for arm in range(1, len(study.arms)))}."


def _verdict(study: Study, arm: int) -> str:
    value, low, high = (float(side[arm, DIFFERENCE]) for side in (study.found.value_AQ, study.found.low_AQ, study.found.high_AQ))
    name, first, seeds = study.arms[arm], study.arms[0], f"{study.better_seeds(arm)} of {len(study.seeds)} seeds"
    if low > 0:
        return f"{name} is better than {first} by {_plain(value)} [{_plain(low)}, {_plain(high)}] (higher in {seeds})"
    if high < 0:
        return f"{name} is worse than {first} by {_plain(-value)} [{_plain(-high)}, {_plain(-low)}] (higher in {seeds})"
    return f"no difference was shown between {name} and {first} ({_plain(value)} [{_plain(low)}, {_plain(high)}], higher in {seeds})"


def markdown(study: Study) -> str:
    """The table, a row an arm, the answer, and what the intervals are and are not."""
    rare, first = study.rarest.name, study.arms[0]
    header = ["Arm", f"IoU {rare}", f"IoU {rare}, seeds", f"Recall {rare}", f"Precision {rare}", "Mean IoU of the other classes"]
    header += [f"Images shown that hold {rare}", f"IoU {rare} less that of {first}", "the same, seeds"]
    blank = ["", ""]
    body = [
        [
            name, _cell(study, arm, IOU), _range(study, arm, IOU), _cell(study, arm, RECALL), _cell(study, arm, PRECISION),
            _cell(study, arm, OTHERS), f"{study.shown[arm]:.1%}",
            *([_cell(study, arm, DIFFERENCE), _range(study, arm, DIFFERENCE)] if arm else blank),
        ]
        for arm, name in enumerate(study.arms)
    ]  # fmt: skip
    lines = [*markdown_table(header, body), "", answer(study), "", *(f"- {note}" for note in (*_footnotes(study), *study.notes))]
    return "\n".join(lines) + "\n"


def _cell(study: Study, arm: int, quantity: int) -> str:
    value, low, high = (_plain(side[arm, quantity]) for side in (study.found.value_AQ, study.found.low_AQ, study.found.high_AQ))
    return f"{value} [{low}, {high}]"


def _range(study: Study, arm: int, quantity: int) -> str:
    values = study.found.seeds_ASQ[arm, :, quantity]
    return f"{_plain(values.min())} to {_plain(values.max())}"


def _plain(value: float) -> str:
    """Three digits, the intervals are wider than that; a zero without a sign."""
    return number(round(float(value), 3) + 0.0, 3)


def _footnotes(study: Study) -> list[str]:
    seeds, others = ", ".join(map(str, study.seeds)), len(study.arms) - 1
    notes = [
        f"{study.steps} optimiser steps in each run; seeds {seeds}; scores are pooled over {study.rarest.test_images} test images, "
        "then averaged over the seeds.",
        f"[a, b]: {LEVEL:.0%} interval for other test images and other seeds: Student's t over the variance of a bootstrap of "
        f"{study.groups} groups of images ({RESAMPLES} resamples, the same for all arms and seeds) and that of the seeds. Beside it the "
        "seeds' spread, smallest to largest.",
    ]
    if len(study.seeds) == 1:
        notes.append("One seed tells nothing about others, so no interval is given and no difference can be shown.")
    if others > 1:
        notes.append(f"{others} arms are compared with {study.arms[0]}; the intervals are not widened for their number.")
    if np.isnan(study.found.low_AQ).any():
        notes.append("–: not defined, or not in every resample (one without an image of the class).")
    return notes


def figures(study: Study) -> dict[str, Any]:
    """The same numbers by arm, as bench/record.py keeps them."""
    table: dict[str, Any] = {"answer": answer(study), "class": study.rarest.sentence(), "steps": study.steps, "seeds": list(study.seeds)}
    for arm, name in enumerate(study.arms):
        cells = {key: _cell(study, arm, place) for place, key in enumerate(QUANTITIES) if arm or place != DIFFERENCE}
        table[name] = cells | {"iou_seeds": _range(study, arm, IOU), "images_shown_that_hold_it": f"{study.shown[arm]:.1%}"}
    return table


def forest_plot(path: Path, study: Study) -> None:
    """Write a PNG: an arm a row, the class's IoU left and its difference to the first arm right; dots are single seeds."""
    figure = Figure(figsize=(10.0, 1.7 + 0.5 * len(study.arms)), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2, sharey=True)
    for axis, quantity, title in (
        (left, IOU, f"IoU of {study.rarest.name}, pooled"), (right, DIFFERENCE, f"IoU less that of {study.arms[0]}"),
    ):  # fmt: skip
        for arm in range(len(study.arms)):
            if quantity == IOU or arm:
                _draw_row(axis, study, arm, quantity)
        axis.set_title(title, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
    right.axvline(0, color=INK, linewidth=1)
    right.text(0, 0, " compared with", va="center", fontsize=8, color=QUIET)
    left.set_yticks(range(len(study.arms)), [name.replace("_", " ") for name in study.arms])
    left.set_ylim(len(study.arms) - 0.5, -0.5)  # the first arm on top
    figure.supxlabel(f"line: mean over seeds, {LEVEL:.0%} interval over test images and seeds; dots: the seeds", fontsize=8, color=QUIET)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _draw_row(axis: Any, study: Study, arm: int, quantity: int) -> None:
    value, low, high = (float(side[arm, quantity]) for side in (study.found.value_AQ, study.found.low_AQ, study.found.high_AQ))
    seeds = study.found.seeds_ASQ[arm, :, quantity]
    axis.plot(seeds, np.full(len(seeds), arm + 0.22), "o", color=QUIET, markersize=4, zorder=2)
    axis.plot(value, arm, "s", color=INK, markersize=6, zorder=3)
    if not math.isnan(low):
        axis.plot([low, high], [arm, arm], color=INK, linewidth=1.6, zorder=3)
