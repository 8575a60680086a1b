"""The forest plot: every score with its interval at a glance, and of several sources each against the first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from medseg.publishing.look import COLOURS, INK, QUIET, save_figure
from medseg.publishing.table import AVERAGE_TITLES, Table, score_title

_ROW_IN, _COLUMN_IN = 0.26, 2.6
_COLUMNS = 3  # panels side by side: more would be too small to read on a page


def forest_plot(table: Table, *paths: Path) -> None:
    """Write a figure (by the suffix: PNG, SVG, PDF): a panel a score, classes down, below each class a line a source; dots are seeds."""
    rows = [(name, label) for name in table.names for label in table.labels]
    places = {key: place + rows.index((key[0], table.labels[0])) // len(table.labels) * 0.6 for place, key in enumerate(rows)}
    columns, down = min(_COLUMNS, len(table.metrics)), -(-len(table.metrics) // _COLUMNS)
    width = 0.9 + 0.07 * max(map(len, table.names)) + _COLUMN_IN * columns
    figure = Figure(figsize=(width, 0.6 + down * (0.7 + _ROW_IN * (max(places.values()) + 1))), layout="constrained", dpi=130)
    panels = figure.subplots(down, columns, sharey=True, squeeze=False)
    for axis in panels.flat[len(table.metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(panels.flat, table.metrics, strict=False):
        for name, label in rows:
            _draw(axis, table, name, label, metric, places[name, label])
        _dress(axis, score_title(metric))
    _name_rows(panels[0, 0], table, places)
    if len(table.labels) > 1:
        handles = [_handle(table.labels.index(label), label) for label in table.labels]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)), fontsize=8, frameon=False)
    dots = "; small dots: seeds" if any(len(cell.seeds) > 1 for cell in table.cells) else ""
    figure.supxlabel(f"{AVERAGE_TITLES[table.average]}; lines: 95 % intervals over groups{dots}", fontsize=8, color=INK)
    for path in paths:
        save_figure(figure, path)
        figure.set_layout_engine("none")  # everything has its place by now, and finding it takes longest


def _draw(axis: Any, table: Table, name: str, label: str, metric: str, place: float) -> None:
    cell = table.cell(label, name, metric)
    if cell is None or math.isnan(cell.estimate.value):
        return
    colour = COLOURS[table.labels.index(label) % len(COLOURS)]
    if len(cell.seeds) > 1:
        axis.plot(cell.seeds, [place + 0.28] * len(cell.seeds), "o", color=colour, markersize=2.5, alpha=0.6)
    if not math.isnan(cell.estimate.low):
        axis.plot([cell.estimate.low, cell.estimate.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    axis.plot(cell.estimate.value, place, "s", color=colour, markersize=4.5)


def _dress(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0, labelsize=8)
    axis.grid(axis="x", color=QUIET, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _name_rows(axis: Any, table: Table, places: dict[tuple[str, str], float]) -> None:
    middle = [sum(places[name, label] for label in table.labels) / len(table.labels) for name in table.names]
    axis.set_yticks(middle, table.names)
    axis.set_ylim(max(places.values()) + 0.6, -0.6)  # the first class on top


def _handle(number: int, label: str) -> Any:
    return Line2D([], [], color=COLOURS[number % len(COLOURS)], marker="s", markersize=4.5, linewidth=1.6, label=label)
