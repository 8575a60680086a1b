"""A figure of the calibration: how often a network is right where it says how sure it is."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from medseg.files import atomic_path
from medseg.metrics.calibration import Calibration, Reliability

MOST_CLASSES = 12
ROWS = 3
TITLE_CHARS = 24  # of a small panel, a line
INK, QUIET, BAR, SHARE = "#222222", "#9a9a9a", "#9ec3e6", "#c9c9c9"
CONFIDENCE = "confidence (predicted probability)"
RIGHT, OF_CLASS = "share that is right", "share of the class"


def reliability_figure(path: Path, calibration: Calibration) -> None:
    """Write a PNG: the reliability diagram of the top label large, one of each class small, pixels per bin below each.

    Of more than MOST_CLASSES classes those with the largest error are drawn, and the figure says how many are not.
    """
    shown = _shown(calibration.classwise_ece)
    columns = math.ceil(len(shown) / ROWS)
    figure = Figure(figsize=(5.4 + 2.5 * columns, 7.4), layout="constrained", dpi=120)
    outer = figure.add_gridspec(1, 2, width_ratios=[5.2, 2.5 * columns])
    title = f"top label, {calibration.n_pixels:,} pixels\nECE {_number(calibration.ece)}   Brier {_number(calibration.brier)}"
    large = _draw_panel(figure, outer[0], calibration.top, title, 11)
    _name_axes(large, CONFIDENCE, RIGHT, 10)
    small = GridSpecFromSubplotSpec(min(ROWS, len(shown)), columns, outer[1])
    for place, name in enumerate(shown):
        heading = f"{textwrap.fill(name, TITLE_CHARS)}\nECE {_number(calibration.classwise_ece[name])}"
        panel = _draw_panel(figure, small[divmod(place, columns)], calibration.by_class[name], heading, 8)
        _name_axes(panel, "confidence" if place + columns >= len(shown) else "", OF_CLASS if place % columns == 0 else "", 8)
    figure.suptitle(_heading(calibration, len(shown)), fontsize=9)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4 if columns > 1 else 2, fontsize=9, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _shown(ece: dict[str, float]) -> list[str]:
    """At most MOST_CLASSES names, those of the largest error, in their own order."""
    worst = sorted(ece, key=lambda name: -math.inf if math.isnan(ece[name]) else ece[name], reverse=True)[:MOST_CLASSES]
    return [name for name in ece if name in worst]


def _heading(calibration: Calibration, shown: int) -> str:
    left_out = len(calibration.by_class) - shown
    which = f"the {shown} of {shown + left_out} classes with the largest error ({left_out} left out)" if left_out else "each class"
    text = f"Left: the largest probability against the share that is right. Right: {which}, probability against the share of the class."
    return textwrap.fill(text, 60 + 35 * math.ceil(shown / ROWS))


def _draw_panel(figure: Figure, place: SubplotSpec, reliability: Reliability, title: str, size: int) -> tuple[Axes, Axes]:
    """The diagram and the share of pixels below it; `size` is the title's, in points."""
    rows = GridSpecFromSubplotSpec(2, 1, place, height_ratios=[4, 1], hspace=0.0)
    upper = figure.add_subplot(rows[0])
    lower = figure.add_subplot(rows[1], sharex=upper)
    bins, total = len(reliability.pixels), sum(reliability.pixels)
    held = np.flatnonzero(reliability.pixels)
    style: dict[str, Any] = {"width": 1 / bins, "align": "edge", "edgecolor": "white", "linewidth": 0.4}
    upper.bar(held / bins, np.array(reliability.accuracy)[held], color=BAR, **style)
    upper.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--")
    upper.plot(reliability.confidence, reliability.accuracy, "o", color=INK, markersize=size / 3, linestyle="none", clip_on=False)
    upper.set_title(title, fontsize=size)
    upper.set(xlim=(0, 1), ylim=(0, 1), yticks=[0, 0.5, 1])
    lower.bar(held / bins, np.array(reliability.pixels)[held] / max(total, 1), color=SHARE, **style)
    _share_axis(lower, reliability)
    for axis in (upper, lower):
        axis.tick_params(labelsize=max(6, size - 2), length=2)
        axis.spines[["top", "right"]].set_visible(False)
    upper.tick_params(labelbottom=False)
    return upper, lower


def _share_axis(axis: Axes, reliability: Reliability) -> None:
    """A logarithmic axis from a whole power of ten below the emptiest bin that holds a pixel up to 1."""
    total = sum(reliability.pixels)
    least = min((n / total for n in reliability.pixels if n), default=0.1)
    axis.set_yscale("log")
    axis.set(ylim=(10 ** min(-1, math.floor(math.log10(least) - 1e-9)), 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    axis.yaxis.set_major_locator(LogLocator(numticks=3))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())


def _name_axes(panel: tuple[Axes, Axes], across: str, up: str, size: int) -> None:
    """Names where given; the share of pixels is named where the axis above it is."""
    upper, lower = panel
    upper.set_ylabel(up, fontsize=size)
    lower.set_ylabel("share\nof pixels" if up else "", fontsize=size - 2)
    lower.set_xlabel(across, fontsize=size)


def _legend() -> list[Line2D | Patch]:
    return [
        Patch(color=BAR, label="share that is right, or of the class"),
        Line2D([], [], marker="o", color=INK, markersize=4, linestyle="none", label="the same at the bin's mean confidence"),
        Line2D([], [], color=QUIET, linestyle="--", label="perfect calibration"),
        Patch(color=SHARE, label="share of pixels (logarithmic)"),
    ]


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
