"""The lines "zoo" and "zoo-cost" of bench/results -> the table of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.report.tables import markdown_table

SCORE, USUAL, OTHER = "iou_pooled", "float32", "bfloat16"
WAY = "the fastest step, freed memory kept"  # of measuring costs
Line = Mapping[str, Any]


def figure_name(steps: int) -> str:
    """The file of the figure that goes with the table of so many steps."""
    return f"zoo-{steps}.svg"


def latest(zoo: Sequence[Line], steps: int) -> list[Line]:
    """Of each network and seed the last line of so many steps, of the recipe that was used last; one in float32 before one in another."""
    last = {(line["network"], line["seed"]): line for line in sorted(of_recipe(zoo, steps), key=lambda line: line["precision"] == USUAL)}
    return list(last.values())


def of_recipe(zoo: Sequence[Line], steps: int) -> list[Line]:
    """The lines of so many steps, of the recipe that was used last."""
    wanted = [line for line in zoo if line["steps"] == steps]
    return [line for line in wanted if line["recipe"] == wanted[-1]["recipe"]]


def seconds(zoo: Sequence[Line], first: Sequence[Line]) -> dict[str, Line]:
    """Of each network of `first` the second seed in the same precision, the last line of it."""
    found = {(line["network"], line["precision"]): line for line in zoo if line["seed"] == 1}
    return {line["network"]: found[key] for line in first if (key := (line["network"], line["precision"])) in found}


def twins(zoo: Sequence[Line]) -> list[tuple[Line, Line]]:
    """(in float32, in bfloat16) of each network and seed that was trained in both."""
    found = {(line["network"], line["seed"], line["precision"]): line for line in zoo}
    keys = sorted({key[:2] for key in found})
    return [(found[*key, USUAL], found[*key, OTHER]) for key in keys if (*key, USUAL) in found and (*key, OTHER) in found]


def rows(zoo: Sequence[Line], steps: int) -> dict[str, Line]:
    """The line that each network stands in the table with, its first seed's, the best first; a tie by name."""
    first = [line for line in latest(zoo, steps) if line["seed"] == 0]
    return {line["network"]: line for line in sorted(first, key=lambda line: (-_iou(line), line["network"]))}


def fastest(costs: Sequence[Line]) -> dict[str, Line]:
    """Of each network the cost measured when the machine was least slowed by others, on the machine used last; none of another way."""
    measured = [line for line in costs if line.get("way") == WAY]
    same = [line for line in measured if line["machine"] == measured[-1]["machine"]]
    return {line["network"]: line for line in sorted(same, key=lambda line: float(line["images_per_s"]))}


def section(zoo: Sequence[Line], costs: Sequence[Line]) -> list[str]:
    """The part of docs/results.md, a table a number of steps; nothing where no network is recorded."""
    return [text for steps in sorted({line["steps"] for line in zoo}) for text in _table(of_recipe(zoo, steps), costs, steps)]


def _table(zoo: Sequence[Line], costs: Sequence[Line], steps: int) -> list[str]:
    first = rows(zoo, steps)
    second, price, both = seconds(zoo, list(first.values())), fastest(costs), twins(zoo)
    header = ["", "Network", "IoU, pooled", "IoU, second seed", "IoU, per image", "recall, pooled", "precision, pooled", "rate",
              "trained in", "parameters", "multiply-adds", "images/s", "peak memory"]  # fmt: skip
    body = [[str(rank), *_row(line, second.get(name), price.get(name))] for rank, (name, line) in enumerate(first.items(), start=1)]
    trained = [*first.values(), *second.values(), *(line for pair in both for line in pair)]
    priced = [price[name] for name in first if name in price]
    dates, machines = (_told([*trained, *priced], key) for key in ("date", "machine"))
    return [
        f"## The zoo, {steps:,} steps from scratch on tongue600", "",
        f"`make zoo-table` ({dates[0]} to {dates[-1]}, {', '.join(machines)}, commit {', '.join(_commits(trained))})", "",
        f"Every network **from scratch**, no published weights: {steps:,} steps of 8 images at 192 x 192 "
        f"({', '.join(_told(trained, 'device'))}), AdamW with the rate of the column, soft Dice + cross-entropy where the network has no "
        f"loss of its own, one recipe (experiments/tongue/zoo.yaml), checkpoint chosen on val. {trained[0]['n_test']} test images, "
        "95 % intervals over images (bootstrap-t), which know nothing of the chance in training: what another seed makes of the best "
        "stands in a column of its own. After so few steps a small network is ahead of a large one that would pass it later, and one "
        "with published weights starts elsewhere: the table says how fast each learns from nothing, not how good it can be. "
        f"{_in_both(both)}Multiply-adds are of one image; images/s are of training steps in float32 ({WAY}; commit "
        f"{', '.join(_commits(priced)) or 'none'}) with nothing else running on the machine, whose neighbours on the same host can still "
        "halve them from one hour to the next.", "",
        *markdown_table(header, body), "",
        f"![accuracy against cost](images/{figure_name(steps)})", "",
    ]  # fmt: skip


def _told(shown: Sequence[Line], key: str) -> list[str]:
    return sorted({str(line[key]) for line in shown})


def _commits(shown: Sequence[Line]) -> list[str]:
    return sorted({str(line["commit"])[:10] for line in shown})


def _in_both(pairs: Sequence[tuple[Line, Line]]) -> str:
    """What is known of the two precisions that a row may be trained in."""
    if not pairs:
        return ""
    apart = (f"{usual['network']} (seed {usual['seed']}) {_iou(other) - _iou(usual):+.4f}" for usual, other in pairs)
    return f"IoU in bfloat16 (autocast) less IoU in float32, where a network was trained in both from the same seed: {', '.join(apart)}. "


def _iou(line: Line) -> float:
    return float(line["scores"][SCORE][0])


def _row(first: Line, second: Line | None, cost: Line | None) -> list[str]:
    scores = [_score(first, key) for key in (SCORE, "iou_per_image", "recall_pooled", "precision_pooled")]
    scores.insert(1, f"{_iou(second):.3f}" if second else "")
    numbers = ["", "", "", ""]
    if cost:
        numbers = [
            f"{cost['parameters'] / 1e6:.2f} M",
            f"{cost['multiply_adds'] / 1e9:.2f} G",
            f"{cost['images_per_s']:.1f}",
            f"{cost['peak_mib']:,} MiB",
        ]
    return [f"`{first['network']}`", *scores, f"{first['lr']:g}", first["precision"], *numbers]


def _score(line: Line, key: str) -> str:
    value, low, high = line["scores"][key]
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
