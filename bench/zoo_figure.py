"""Accuracy against cost: a dot a network, numbered as in the table of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
from zoo_page import CPU, SCORE, Line, device_of, devices, figure_name, prices, rows

from medseg.models.listed import listed
from medseg.publishing.look import COLOURS, INK, QUIET, save_figure

Box = tuple[float, float, float, float]  # left, bottom, right, top in points


def write_figures(folder: Path, zoo: Sequence[Line], costs: Sequence[Line], steps: int) -> None:
    """One of each device that rows of the table were trained on and have their costs measured on."""
    for device in devices(prices(costs, rows(zoo, steps)).values()):
        write_figure(folder, zoo, costs, steps, device)


def write_figure(folder: Path, zoo: Sequence[Line], costs: Sequence[Line], steps: int, device: str) -> None:
    """IoU after so many steps on a device, with its interval, against images/s of training there; a colour a library."""
    first = rows(zoo, steps)
    speed = {name: line["images_per_s"] for name, line in prices(costs, first).items() if device_of(line) == device}
    library = {line.name: line.library for line in listed()}
    colour = dict(zip(sorted(set(library.values())), COLOURS, strict=False))
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes, handles, dots = figure.add_subplot(), [], dict[int, tuple[float, float]]()
    for rank, (name, row) in enumerate(first.items(), start=1):
        if name in speed:
            _dot(axes, speed[name], row["scores"][SCORE], colour[library[name]])
            dots[rank] = speed[name], row["scores"][SCORE][0]
            handles.append(Line2D([], [], color=colour[library[name]], marker="o", ls="", ms=4, label=f"{rank}  {name}"))
    _dress(axes, steps, device)
    figure.legend(handles=handles, loc="outside right upper", fontsize=7, frameon=False, labelcolor=INK)
    _number(axes, dots)
    save_figure(figure, folder / figure_name(steps, device))


def _dot(axes: Axes, images_per_s: float, score: tuple[float, float, float], colour: str) -> None:
    value, low, high = score
    axes.errorbar(images_per_s, value, [[value - low], [high - value]], fmt="o", color=colour, ecolor=QUIET, ms=4)


def _number(axes: Axes, dots: Mapping[int, tuple[float, float]]) -> None:
    """Each dot's number beside it, at the first of some places where it lies on no dot and on no other number."""
    axes.figure.draw_without_rendering()  # the layout places the axes only now
    points = {rank: axes.transData.transform(dot) * 72 / axes.figure.dpi for rank, dot in dots.items()}
    taken = [(x - 2, y - 2, x + 2, y + 2) for x, y in points.values()]
    for rank, (x, y) in points.items():
        width = 5 * len(str(rank))
        boxes = {(dx, dy): (x + dx, y + dy, x + dx + width, y + dy + 7) for dx in (4, -4 - width) for dy in (2, -8, 10, -16, 18, -24)}
        place = min(boxes, key=lambda each: (any(_overlap(boxes[each], other) for other in taken), abs(each[1]), -each[0]))
        taken.append(boxes[place])
        axes.annotate(str(rank), dots[rank], xytext=place, textcoords="offset points", fontsize=8, color=INK)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _dress(axes: Axes, steps: int, device: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"images/s of training, 8 x 192 x 192, float32{'' if device == CPU else f', {device}'}", color=INK)
    axes.set_ylabel("IoU of the tongue, pooled, 95 % interval", color=INK)
    axes.set_title(f"{steps:,} steps from scratch on tongue600", fontsize=10, color=INK)
    axes.grid(color=QUIET, linewidth=0.5)
