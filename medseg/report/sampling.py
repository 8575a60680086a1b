"""A figure of the balance: what the training set holds of each class, what the sampler asked for, and what each epoch showed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from medseg.files import atomic_path
from medseg.labels import LabelSet

Shares = Mapping[str, float | None]  # metric name -> share in [0, 1]; None, as JSON has it, or NaN where undefined
LOG_BEYOND = 30.0  # largest over smallest share from which an axis is logarithmic
BAND = 0.6  # of a class's row, the epochs' dots spread over it
INK, QUIET = "#222222", "#9a9a9a"
Style = dict[str, Any]  # of a marker
SET: Style = {"color": INK, "linewidth": 2.2, "solid_capstyle": "butt"}
ASKED: Style = {"marker": "D", "markerfacecolor": "none", "color": INK, "markersize": 8, "markeredgewidth": 1.3, "linestyle": "none"}
CENTRED: Style = {"marker": ">", "markerfacecolor": "none", "color": INK, "markersize": 8, "markeredgewidth": 1.3, "linestyle": "none"}
SHOWN: Style = {"marker": "o", "markersize": 5, "markeredgecolor": INK, "markeredgewidth": 0.3, "linestyle": "none"}


def sampling_figure(
    path: Path, set_shares: Shares, asked: Shares, realised_by_epoch: Mapping[int, Shares], labels: LabelSet, crops: bool, title: str = ""
) -> None:
    """Write a PNG: a row a class, the shares of images (or crops) left and of pixels right; a panel's axis is logarithmic where needed.

    set_shares, asked: of `data.realised.set_shares` and `asked`.  realised_by_epoch: epoch -> metrics that hold `Seen.shares`, as in
    metrics.jsonl; it may hold others.  crops: whether crops were shown, which need not be centred on anything.  title: which run it is.
    """
    figure = Figure(figsize=(11.0, 1.5 + 0.34 * labels.num_classes), layout=ConstrainedLayoutEngine(hspace=0.0), dpi=120)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_panel(left, "image", set_shares, asked, realised_by_epoch, labels)
    _draw_panel(right, "pixel", set_shares, asked, realised_by_epoch, labels)
    if title:
        figure.suptitle(title, fontsize=10)
    shown = "Shown: crops that hold the class.  Line and \u25c7: whole images that hold it" if crops else "Images that hold the class"
    left.set_title(shown, fontsize=10)
    right.set_title("Share of the valid pixels", fontsize=10)
    left.set_yticks(range(labels.num_classes), labels.names, fontsize=9)
    left.set_ylim(labels.num_classes - 0.5, -0.5)  # the first class on top
    centred = any(name.startswith("sampling/asked_centre_ratio/") for name in asked)
    handles = _legend(len(realised_by_epoch), centred)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _draw_panel(
    axis: Axes, kind: str, set_shares: Shares, asked: Shares, realised_by_epoch: Mapping[int, Shares], labels: LabelSet
) -> None:
    names = labels.names if kind == "pixel" else labels.foreground
    in_set = _values(set_shares, f"sampling/set_{kind}_share", names)
    wanted = _values(asked, f"sampling/asked_{kind}_share", names)
    centred = _values(asked, "sampling/asked_centre_ratio", labels.names) if kind == "image" else {}
    shown = {epoch: _values(realised_by_epoch[epoch], f"train/drawn_{kind}_share", names) for epoch in sorted(realised_by_epoch)}
    floor = _set_scale(axis, [share for shares in (in_set, wanted, centred, *shown.values()) for share in shares.values()])
    for row, name in enumerate(labels.names):
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", zorder=0)
        if name in in_set:
            axis.plot([max(in_set[name], floor)] * 2, [row - 0.45, row + 0.45], zorder=2, **SET)
        epochs = [shares[name] for shares in shown.values() if name in shares]
        _draw_epochs(axis, row, epochs, to_hex(labels.palette[row] / 255), floor)
        for shares, style in ((wanted, ASKED), (centred, CENTRED)):
            if name in shares:
                axis.plot(max(shares[name], floor), row, zorder=4, **style)
    if kind == "image" and not centred:  # every image holds it: nothing to balance, and nothing to show
        axis.text(0.01, 0, "pixels only", transform=axis.get_yaxis_transform(), va="center", fontsize=8, color=QUIET)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _values(shares: Shares, prefix: str, names: Sequence[str]) -> dict[str, float]:
    """{class: share} of what is there and defined."""
    found = {name: shares.get(f"{prefix}/{name}") for name in names}
    return {name: float(share) for name, share in found.items() if share is not None and not math.isnan(share)}


def _set_scale(axis: Axes, shares: Sequence[float]) -> float:
    """Set the axis and return the least share it can show: a class that was never drawn stands at the left end of a log axis."""
    above = [share for share in shares if share > 0]
    if not above or max(above) <= LOG_BEYOND * min(above):
        axis.set_xlim(0, 1.05 * max(above, default=1.0))
        axis.xaxis.set_major_formatter(FuncFormatter(_percent))
        return 0.0
    floor = min(above) / (3.0 if len(above) < len(shares) else 1.5)
    axis.set_xscale("log")
    axis.set_xlim(floor / 1.4, 1.6 * max(above))
    axis.xaxis.set_major_locator(LogLocator(10.0, subs=(1.0, 3.0) if max(above) < 3000 * floor else (1.0,), numticks=7))
    axis.xaxis.set_major_formatter(FuncFormatter(_percent))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("logarithmic" + ("; 0 stands at the left end" if len(above) < len(shares) else ""), fontsize=8, color=QUIET)
    return floor


def _percent(share: float, _: object = None) -> str:
    """As many digits as the share needs: 50 %, 3 %, 0.01 %."""
    return f"{100 * share:.2g} %" if 100 * share < 99.5 else f"{100 * share:.0f} %"


def _draw_epochs(axis: Axes, row: int, shares: Sequence[float], colour: str, floor: float) -> None:
    """One dot an epoch, the first on top of the row's band and the last below."""
    places = row + (np.linspace(-BAND / 2, BAND / 2, len(shares)) if len(shares) > 1 else np.zeros(len(shares)))
    axis.plot(np.maximum(shares, floor) if shares else [], places, color=colour, zorder=3, **SHOWN)


def _legend(epochs: int, centred: bool) -> list[Line2D]:
    upright = {"marker": "|", "markersize": 12, "markeredgewidth": SET["linewidth"], "linestyle": "none"}  # a line's handle would lie flat
    handles = [Line2D([], [], color=INK, label="in the training set", **upright)]
    handles.append(Line2D([], [], label="asked: images drawn that hold it", **ASKED))
    if centred:
        handles.append(Line2D([], [], label="asked: crops centred on it", **CENTRED))
    shown = "shown in the epoch" if epochs == 1 else f"shown in each of {epochs} epochs, from top to bottom"
    return [*handles, Line2D([], [], color=QUIET, label=shown, **SHOWN)]
