"""The lines "zoo" and "zoo-cost" of bench/results -> the table and the figure of accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from medseg.publishing.look import COLOURS, INK, QUIET, save_figure
from medseg.report.tables import markdown_table

SCORE = "iou_pooled"
Line = Mapping[str, Any]


def latest(zoo: Sequence[Line], steps: int | None = None) -> list[Line]:
    """Of each network and seed the last line, of the recipe that was used last; of so many steps, where asked."""
    wanted = [line for line in zoo if steps is None or line["steps"] == steps]
    last = {(line["network"], line["seed"]): line for line in wanted if line["recipe"] == wanted[-1]["recipe"]}
    return list(last.values())


def best_first(zoo: Sequence[Line]) -> list[str]:
    """The networks by their first seed's score, the best first; a tie by name."""
    first = {line["network"]: line["scores"][SCORE][0] for line in zoo if line["seed"] == 0}
    return sorted(first, key=lambda name: (-first[name], name))


def section(zoo: Sequence[Line], costs: Sequence[Line]) -> list[str]:
    """The part of docs/results.md, a table a number of steps; nothing where no network is recorded."""
    return [text for steps in sorted({line["steps"] for line in zoo}) for text in _table(latest(zoo, steps), costs, steps)]


def _table(zoo: Sequence[Line], costs: Sequence[Line], steps: int) -> list[str]:
    price = {line["network"]: line for line in costs}
    header = ["Network", "IoU, pooled", "IoU, per image", "recall, pooled", "precision, pooled", "seeds", "rate", "parameters",
              "multiply-adds", "images/s", "peak memory"]  # fmt: skip
    body = [_row(name, [line for line in zoo if line["network"] == name], price.get(name)) for name in best_first(zoo)]
    dates, machines = (sorted({line[key] for line in (*zoo, *costs)}) for key in ("date", "machine"))
    how = ", ".join(sorted({f"{line['device']}, {line['precision']}" for line in zoo}))
    commits = sorted({str(line["commit"])[:10] for line in zoo})
    return [
        f"## The zoo, {steps:,} steps from scratch on tongue600", "",
        f"`make zoo-table` ({dates[0]} to {dates[-1]}, {', '.join(machines)}, commit {', '.join(commits)})", "",
        f"Every network **from scratch**, no published weights: {steps:,} steps of 8 images at 192 x 192 ({how}), AdamW with the rate "
        "of the column, "
        "soft Dice + cross-entropy where the network has no loss of its own, one recipe (experiments/tongue/zoo.yaml), checkpoint chosen "
        f"on val. {zoo[0]['n_test']} test images, 95 % intervals over images (bootstrap-t); two seeds are averaged, the interval is of the "
        "first. After so few steps a small network is ahead of a large one that would pass it later, and one with published weights starts "
        "elsewhere: the table says how fast each learns from nothing, not how good it can be. Multiply-adds are of one image; images/s are "
        "training steps in float32 on the machine named, nothing else running.", "",
        *markdown_table(header, body), "",
        "![accuracy against cost](images/zoo.svg)", "",
    ]  # fmt: skip


def _row(name: str, runs: Sequence[Line], cost: Line | None) -> list[str]:
    first = next(line for line in runs if line["seed"] == 0)
    scores = [_score(first, runs, key) for key in (SCORE, "iou_per_image", "recall_pooled", "precision_pooled")]
    numbers = ["", "", "", ""]
    if cost:
        numbers = [
            f"{cost['parameters'] / 1e6:.2f} M",
            f"{cost['multiply_adds'] / 1e9:.2f} G",
            f"{cost['images_per_s']:.1f}",
            f"{cost['peak_mib']:,} MiB",
        ]
    return [f"`{name}`", *scores, str(len(runs)), f"{first['lr']:g}", *numbers]


def _score(first: Line, runs: Sequence[Line], key: str) -> str:
    """Mean over the seeds, the interval of the first."""
    value, (_, low, high) = fmean(line["scores"][key][0] for line in runs), first["scores"][key]
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def write_figure(path: Path, zoo: Sequence[Line], costs: Sequence[Line]) -> None:
    """Score against images/s of training, a dot a network with its interval."""
    price, figure = {line["network"]: line for line in costs}, Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    for name in best_first(zoo):
        if name not in price:
            continue
        line = next(line for line in zoo if line["network"] == name and line["seed"] == 0)
        value, low, high = line["scores"][SCORE]
        axes.errorbar(price[name]["images_per_s"], value, [[value - low], [high - value]], fmt="o", color=COLOURS[0], ecolor=QUIET, ms=4)
        axes.annotate(name, (price[name]["images_per_s"], value), xytext=(4, 3), textcoords="offset points", fontsize=7, color=INK)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * 2)  # room for the fastest one's name
    axes.set_xlabel("images/s of training, 8 x 192 x 192, float32", color=INK)
    axes.set_ylabel("IoU of the tongue, pooled, 95 % interval", color=INK)
    axes.set_title("300 steps from scratch on tongue600", fontsize=10, color=INK)
    axes.grid(color=QUIET, linewidth=0.5)
    save_figure(figure, path)
