"""The lines "zoo" and "zoo-cost" of bench/results -> the table of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.report.tables import markdown_table

SCORE = "iou_pooled"
WAY = "the fastest step, freed memory kept"  # of measuring costs
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


def fastest(costs: Sequence[Line]) -> dict[str, Line]:
    """Of each network the cost measured when the machine was least slowed by others, on the machine used last; none of another way."""
    measured = [line for line in costs if line.get("way") == WAY]
    same = [line for line in measured if line["machine"] == measured[-1]["machine"]]
    return {line["network"]: line for line in sorted(same, key=lambda line: float(line["images_per_s"]))}


def section(zoo: Sequence[Line], costs: Sequence[Line]) -> list[str]:
    """The part of docs/results.md, a table a number of steps; nothing where no network is recorded."""
    return [text for steps in sorted({line["steps"] for line in zoo}) for text in _table(latest(zoo, steps), costs, steps)]


def _table(zoo: Sequence[Line], costs: Sequence[Line], steps: int) -> list[str]:
    price = fastest(costs)
    header = ["", "Network", "IoU, pooled", "IoU, second seed", "IoU, per image", "recall, pooled", "precision, pooled", "rate",
              "parameters", "multiply-adds", "images/s", "peak memory"]  # fmt: skip
    scored = {(line["network"], line["seed"]): line for line in zoo}
    body = [
        [str(rank), *_row(scored[name, 0], scored.get((name, 1)), price.get(name))] for rank, name in enumerate(best_first(zoo), start=1)
    ]
    dates, machines = (sorted({line[key] for line in (*zoo, *price.values())}) for key in ("date", "machine"))
    how = ", ".join(sorted({f"{line['device']}, {line['precision']}" for line in zoo}))
    commits = sorted({str(line["commit"])[:10] for line in zoo})
    return [
        f"## The zoo, {steps:,} steps from scratch on tongue600", "",
        f"`make zoo-table` ({dates[0]} to {dates[-1]}, {', '.join(machines)}, commit {', '.join(commits)})", "",
        f"Every network **from scratch**, no published weights: {steps:,} steps of 8 images at 192 x 192 ({how}), AdamW with the rate "
        "of the column, soft Dice + cross-entropy where the network has no loss of its own, one recipe (experiments/tongue/zoo.yaml), "
        f"checkpoint chosen on val. {zoo[0]['n_test']} test images, 95 % intervals over images (bootstrap-t), which know nothing of the "
        "chance in training: what another seed makes of the best stands in a column of its own. After so few steps a small network is "
        "ahead of a large one that would pass it later, and one with published weights starts elsewhere: the table says how fast each "
        "learns from nothing, not how good it can be. Multiply-adds are of one image; images/s are of training steps in float32 "
        f"({WAY}) with nothing else running on the machine, whose neighbours on the same host can "
        "still halve them from one hour to the next.", "",
        *markdown_table(header, body), "",
        "![accuracy against cost](images/zoo.svg)", "",
    ]  # fmt: skip


def _row(first: Line, second: Line | None, cost: Line | None) -> list[str]:
    scores = [_score(first, key) for key in (SCORE, "iou_per_image", "recall_pooled", "precision_pooled")]
    scores.insert(1, f"{second['scores'][SCORE][0]:.3f}" if second else "")
    numbers = ["", "", "", ""]
    if cost:
        numbers = [
            f"{cost['parameters'] / 1e6:.2f} M",
            f"{cost['multiply_adds'] / 1e9:.2f} G",
            f"{cost['images_per_s']:.1f}",
            f"{cost['peak_mib']:,} MiB",
        ]
    return [f"`{first['network']}`", *scores, f"{first['lr']:g}", *numbers]


def _score(line: Line, key: str) -> str:
    value, low, high = line["scores"][key]
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
