"""The scores behind a mean: every image a dot, with median and quartiles, a line a source below each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from medseg.publishing.estimated import higher_is_better
from medseg.publishing.look import COLOURS, INK, QUIET, save_figure
from medseg.publishing.sources import Source
from medseg.publishing.table import score_title

MOST_DOTS = 2_000  # of a line; more are a histogram
_RASTER_DOTS = 20_000  # of a figure, beyond which its dots are pixels: drawn one by one they would fill megabytes
_MOST_COLUMNS = 4
_COLUMN_IN, _BESIDE_IN = 2.45, 0.85
_BAND = 0.8  # of a line's height, that dots are spread over
_BINS = 40
_LOG_BEYOND = 20.0  # largest distance over the median from which an axis is logarithmic
_LINEAR = 0.9 / math.log(10)  # of a decade, the linear part of such an axis: both parts are equally steep where they meet


@dataclass(frozen=True)
class _Line:
    """One source's scores of one class. scores: by image, the mean over the seeds, where defined. undefined: images without."""

    scores: np.ndarray
    undefined: int
    measured: bool


def distribution_plot(path: Path, sources: Sequence[Source], metrics: Sequence[str]) -> None:
    """Write a figure (by the suffix: SVG, PNG, PDF): a panel a score, at most four beside each other; classes and regions down."""
    names = list(dict.fromkeys(name for source in sources for name in source.names))
    places = _places(len(names), len(sources))
    lines = {metric: [[_line(source, name, metric) for source in sources] for name in names] for metric in metrics}
    rows = math.ceil(len(metrics) / _MOST_COLUMNS)
    columns = math.ceil(len(metrics) / rows)
    beside = any(line.undefined or not line.measured for panel in lines.values() for lines_of in panel for line in lines_of)
    width = 0.6 + 0.08 * max(map(len, names)) + (_COLUMN_IN + _BESIDE_IN * beside) * columns
    height = rows * (0.75 + _line_height(places) * (places[-1][-1] + 1)) + 0.35 + 0.25 * (len(sources) > 1)
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    drawn = sum(len(line.scores) for panel in lines.values() for lines_of in panel for line in lines_of if len(line.scores) <= MOST_DOTS)
    for axis, metric in zip(panels, metrics, strict=False):
        _draw_panel(axis, metric, lines[metric], places, drawn > _RASTER_DOTS)
    for axis in panels[len(metrics) :]:
        axis.set_visible(False)
    _name_rows(panels[0], names, places)
    if len(sources) > 1:
        handles = [_handle(number, source.label) for number, source in enumerate(sources)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)), fontsize=9, labelcolor=INK, frameon=False)
    figure.supxlabel(_explained(sources, lines), fontsize=8.5, color=INK)
    save_figure(figure, path, dpi=200)


def _line(source: Source, name: str, metric: str) -> _Line:
    of_class = source.cases[source.cases["name"] == name]
    if metric not in of_class.columns or of_class.empty:
        return _Line(np.empty(0), 0, measured=False)
    scores = of_class.groupby("sample_id")[metric].mean()
    return _Line(scores.dropna().to_numpy(np.float64), int(scores.isna().sum()), measured=True)


def _places(names: int, sources: int) -> list[list[float]]:
    """Where the lines of each class stand, with room between classes where these have several."""
    step = sources + (0.5 if sources > 1 else 0.0)
    return [[number * step + line for line in range(sources)] for number in range(names)]


def _line_height(places: Sequence[Sequence[float]]) -> float:
    """Inches: few lines may be high, many may not be too low."""
    return max(0.34, min(0.85, 1.8 / (places[-1][-1] + 1)))


def _draw_panel(axis: Any, metric: str, lines: Sequence[Sequence[_Line]], places: Sequence[Sequence[float]], raster: bool) -> None:
    _set_scale(axis, metric, np.concatenate([line.scores for lines_of in lines for line in lines_of]))
    for lines_of, places_of in zip(lines, places, strict=True):
        for number, (line, place) in enumerate(zip(lines_of, places_of, strict=True)):
            _draw_line(axis, line, place, COLOURS[number % len(COLOURS)], raster)
    axis.set_title(score_title(metric), fontsize=10, color=INK)
    axis.tick_params(axis="x", labelsize=8.5, color=QUIET, labelcolor=INK)
    axis.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    axis.grid(axis="x", color=QUIET, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(QUIET)


def _set_scale(axis: Any, metric: str, scores: np.ndarray) -> None:
    """0 to 1 with room for the dots at either end; distances from 0, logarithmic where a few are far beyond the others."""
    if higher_is_better(metric):
        axis.set_xlim(-0.03, 1.03)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        return
    above = scores[scores > 0]
    most, middle = (float(above.max()), float(np.median(above))) if len(above) else (1.0, 1.0)
    if most <= _LOG_BEYOND * middle:
        axis.set_xlim(-0.03 * most, 1.03 * most)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        return
    linear = 10.0 ** math.floor(math.log10(middle))
    axis.set_xscale("symlog", linthresh=linear, linscale=_LINEAR)
    axis.set_xlim(-0.1 * linear, 1.5 * most)
    axis.set_xticks([0, *(linear * 10.0**power for power in range(math.ceil(math.log10(most / linear))))])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(f"logarithmic above {linear:g}", fontsize=8.5, color=INK)


def _draw_line(axis: Any, line: _Line, place: float, colour: str, raster: bool) -> None:
    if not line.measured or line.undefined:
        text = f"{line.undefined:,} undefined" if line.measured else "not measured"
        axis.text(1.02, place, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
    if not len(line.scores):
        return
    if len(line.scores) > MOST_DOTS:
        _draw_histogram(axis, line.scores, place, colour)
    else:
        across = place + _spread(axis, line.scores)
        alpha = min(0.85, max(0.15, 5.5 / math.sqrt(len(line.scores))))
        style = {"color": colour, "alpha": alpha, "markersize": 3.6, "markeredgewidth": 0, "rasterized": raster}
        axis.plot(line.scores, across, "o", clip_on=False, zorder=2, **style)
    low, middle, high = np.quantile(line.scores, (0.25, 0.5, 0.75))
    box = Rectangle((low, place - 0.22), high - low, 0.44, fill=False, edgecolor=INK, linewidth=0.9, zorder=3)
    axis.add_patch(box)
    axis.plot([middle, middle], [place - 0.3, place + 0.3], color=INK, linewidth=1.8, solid_capstyle="butt", zorder=4)


def _bins(axis: Any, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of equal width on the axis as it is drawn, and the bin of each score."""
    scale = axis.xaxis.get_transform()
    low, high = scale.transform(np.array([0.0, axis.get_xlim()[1]]))
    edges = np.linspace(float(low), float(high), _BINS + 1)
    return edges, np.clip(np.digitize(scale.transform(scores), edges) - 1, 0, _BINS - 1)


def _spread(axis: Any, scores: np.ndarray) -> np.ndarray:
    """How far each dot is off its line: the farther the more dots are beside it, spread evenly by the golden ratio."""
    _, bin_of = _bins(axis, scores)
    counts = np.bincount(bin_of, minlength=_BINS)
    order = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    even = (order * 0.6180339887498949) % 1.0 - 0.5
    return even * _BAND * counts[bin_of] / max(6, counts.max())


def _draw_histogram(axis: Any, scores: np.ndarray, place: float, colour: str) -> None:
    """Bars to both sides of the line; a bin that holds a single image is still seen."""
    edges, bin_of = _bins(axis, scores)
    counts = np.bincount(bin_of, minlength=_BINS)
    half = np.where(counts > 0, np.maximum(counts / counts.max(), 0.06), 0.0) * _BAND / 2
    shown = axis.xaxis.get_transform().inverted().transform(edges)
    axis.stairs(place + half, shown, baseline=place - half, fill=True, color=colour, alpha=0.6, linewidth=0, zorder=2)


def _name_rows(axis: Any, names: Sequence[str], places: Sequence[Sequence[float]]) -> None:
    axis.set_yticks([sum(places_of) / len(places_of) for places_of in places], names)
    axis.set_ylim(places[-1][-1] + 0.6, -0.6)  # the first class on top


def _handle(number: int, label: str) -> Line2D:
    return Line2D([], [], color=COLOURS[number % len(COLOURS)], marker="o", markersize=5, linestyle="none", label=label)


def _explained(sources: Sequence[Source], lines: dict[str, list[list[_Line]]]) -> str:
    several = max(len(source.seeds) for source in sources) > 1
    sizes = [len(line.scores) for panel in lines.values() for lines_of in panel for line in lines_of]
    dots = f"dots: images{', means over the seeds' if several else ''}"
    bars = f"bars: {'' if min(sizes) > MOST_DOTS else f'the same of more than {MOST_DOTS:,} '}images"
    shown = [dots] if max(sizes) <= MOST_DOTS else [bars] if min(sizes) > MOST_DOTS else [dots, bars]
    return "; ".join([*shown, "boxes: median and quartiles"])
