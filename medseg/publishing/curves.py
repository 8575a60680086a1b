"""The course of the trainings behind a table: loss, and the val scores that the weights were chosen by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from medseg.labels import BACKGROUND
from medseg.publishing.look import COLOURS, INK, QUIET, save_figure
from medseg.publishing.sources import Source
from medseg.runfolder import RunFolder

LOSS = "train/loss/total"
CHOSEN_BY = "val/miou_pooled/without_background"  # as medseg.engine.train has it, which would import torch
OF_CLASS = "val/iou_pooled/"
_LOG_BEYOND = 20.0  # largest loss over the smallest from which the axis is logarithmic
_FEW = 30  # validations of a run, up to which each is marked
_STYLES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")  # the colours once each, then again
_PANEL_IN = (3.6, 2.9)

Record = Mapping[str, Any]


def read_histories(sources: Sequence[Source]) -> dict[str, list[list[dict[str, Any]]]]:
    """What the trainings of each source logged, a history a run; one that is missing, empty or broken is left out."""
    return {source.label: [records for run in source.runs.values() if (records := _read(run))] for source in sources}


def _read(run: Path) -> list[dict[str, Any]]:
    try:
        records = RunFolder(run).metrics()
    except (OSError, ValueError):
        return []
    whole = all(isinstance(one, dict) and isinstance(one.get("epoch"), int) and isinstance(one.get("metrics"), dict) for one in records)
    return records if whole else []


def learning_curves(path: Path, histories: Mapping[str, Sequence[Sequence[Record]]]) -> bool:
    """Write a figure (by the suffix): training loss and val mIoU against the epoch, a thin line a run; of one source with several classes
    the val IoU of each, too. A ring is the epoch of the best val mIoU. False, and no file, where no history has a record."""
    runs = [(number, run) for number, histories_of in enumerate(histories.values()) for run in histories_of if run]
    if not runs:
        return False
    classes = _classes(runs[0][1]) if len(histories) == 1 else []
    panels = 2 + (len(classes) > 1)
    figure = Figure(figsize=(_PANEL_IN[0] * panels + 1.5 * (panels > 2), _PANEL_IN[1] + 0.3), layout="constrained", dpi=130)
    loss, miou, *more = figure.subplots(1, panels)
    for number, run in runs:
        colour = COLOURS[number % len(COLOURS)]
        _draw(loss, run, LOSS, colour)
        _draw(miou, run, CHOSEN_BY, colour)
        for place, name in enumerate(classes if more else ()):
            _draw(more[0], run, OF_CLASS + name, COLOURS[place % len(COLOURS)], _STYLES[place // len(COLOURS) % len(_STYLES)])
    _dress(figure, loss, miou, more)
    if more:
        _name_classes(more[0], classes)
    if len(histories) > 1:
        drawn = {number: list(histories)[number] for number, _ in runs}
        handles = [Line2D([], [], color=COLOURS[number % len(COLOURS)], label=label) for number, label in drawn.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)), fontsize=9, labelcolor=INK, frameon=False)
    save_figure(figure, path)
    return True


def _points(run: Sequence[Record], key: str) -> Iterator[tuple[int, float]]:
    """(epoch, value) where it was measured and defined."""
    for record in run:
        value = record["metrics"].get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            yield record["epoch"], float(value)


def _classes(run: Sequence[Record]) -> list[str]:
    """Foreground classes and regions, as the log has them."""
    keys = dict.fromkeys(key for record in run for key in record["metrics"] if key.startswith(OF_CLASS))
    return [name for key in keys if (name := key.removeprefix(OF_CLASS)) != BACKGROUND]


def _best_epoch(run: Sequence[Record]) -> int | None:
    """The first of the best val score, as the training keeps it; None where none is defined."""
    points = list(_points(run, CHOSEN_BY))
    return max(points, key=lambda point: (point[1], -point[0]))[0] if points else None


def _draw(axis: Any, run: Sequence[Record], key: str, colour: str, style: str = "-") -> None:
    points = list(_points(run, key))
    if not points:
        return
    epochs, values = zip(*points, strict=True)
    dots = {"marker": ".", "markersize": 4} if len(points) == 1 or (key != LOSS and len(points) <= _FEW) else {}
    axis.plot(epochs, values, color=colour, linewidth=1.1, linestyle=style, **dots)
    best = dict(points).get(_best_epoch(run) or -1)
    if best is not None:
        axis.plot(_best_epoch(run), best, "o", markersize=7, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.2, gid="best")


def _dress(figure: Figure, loss: Any, miou: Any, more: Sequence[Any]) -> None:
    for axis, title in zip((loss, miou, *more), ("Training loss", "mIoU on val, without background", "IoU on val, by class"), strict=False):
        axis.set_title(title, fontsize=10, color=INK)
        axis.tick_params(labelsize=8.5, color=QUIET, labelcolor=INK)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(color=QUIET, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["bottom", "left"]].set_color(QUIET)
    _set_loss_scale(loss)
    figure.supxlabel("epoch; a thin line is a run, a ring its epoch of the best val mIoU", fontsize=8.5, color=INK)


def _set_loss_scale(axis: Any) -> None:
    values = [value for line in axis.get_lines() for value in line.get_ydata()]
    if values and min(values) > 0 and max(values) > _LOG_BEYOND * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(10.0, subs=(1.0, 3.0), numticks=8))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())


def _name_classes(axis: Any, classes: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=COLOURS[place % len(COLOURS)], linestyle=_STYLES[place // len(COLOURS) % len(_STYLES)], label=name)
        for place, name in enumerate(classes)
    ]
    columns = math.ceil(len(handles) / 13)
    axis.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, labelcolor=INK, frameon=False, ncols=columns)
