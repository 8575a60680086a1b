"""The lines "zoo" and "zoo-cost" of bench/results -> the table of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.report.tables import markdown_table

SCORE, FIRST = "iou_pooled", "float32"
WAY = "the fastest step, freed memory kept"  # of measuring costs
Line = Mapping[str, Any]


def latest(zoo: Sequence[Line], steps: int) -> list[Line]:
    """Of each network and seed the last line of so many steps, of the recipe that was used last; one in float32 before one in another."""
    last = {(line["network"], line["seed"]): line for line in sorted(of_recipe(zoo, steps), key=lambda line: line["precision"] == FIRST)}
    return list(last.values())


def of_recipe(zoo: Sequence[Line], steps: int) -> list[Line]:
    """The lines of so many steps, of the recipe that was used last."""
    wanted = [line for line in zoo if line["steps"] == steps]
    return [line for line in wanted if line["recipe"] == wanted[-1]["recipe"]]


def differences(zoo: Sequence[Line]) -> dict[str, float]:
    """Of each network trained in both precisions from the same seed: the score in bfloat16 less the one in float32; `NAME (seed)`."""
    score = {(line["network"], line["seed"], line["precision"]): line["scores"][SCORE][0] for line in zoo}
    return {
        f"{name} (seed {seed})": value - score[name, seed, FIRST]
        for (name, seed, precision), value in score.items()
        if precision != FIRST and (name, seed, FIRST) in score
    }


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
    return [text for steps in sorted({line["steps"] for line in zoo}) for text in _table(of_recipe(zoo, steps), costs, steps)]


def _table(every: Sequence[Line], costs: Sequence[Line], steps: int) -> list[str]:
    zoo, price = latest(every, steps), fastest(costs)
    header = ["", "Network", "IoU, pooled", "IoU, second seed", "IoU, per image", "recall, pooled", "precision, pooled", "rate",
              "trained in", "parameters", "multiply-adds", "images/s", "peak memory"]  # fmt: skip
    scored = {line["network"]: line for line in zoo if line["seed"] == 0}
    body = [
        [str(rank), *_row(scored[name], _beside(scored[name], every), price.get(name))]
        for rank, name in enumerate(best_first(zoo), start=1)
    ]
    dates, machines = (sorted({line[key] for line in (*zoo, *price.values())}) for key in ("date", "machine"))
    device = ", ".join(sorted({line["device"] for line in zoo}))
    commits = sorted({str(line["commit"])[:10] for line in zoo})
    return [
        f"## The zoo, {steps:,} steps from scratch on tongue600", "",
        f"`make zoo-table` ({dates[0]} to {dates[-1]}, {', '.join(machines)}, commit {', '.join(commits)})", "",
        f"Every network **from scratch**, no published weights: {steps:,} steps of 8 images at 192 x 192 ({device}), AdamW with the rate "
        "of the column, soft Dice + cross-entropy where the network has no loss of its own, one recipe (experiments/tongue/zoo.yaml), "
        f"checkpoint chosen on val. {zoo[0]['n_test']} test images, 95 % intervals over images (bootstrap-t), which know nothing of the "
        "chance in training: what another seed makes of the best stands in a column of its own. After so few steps a small network is "
        "ahead of a large one that would pass it later, and one with published weights starts elsewhere: the table says how fast each "
        f"learns from nothing, not how good it can be. {_in_both(differences(every))}Multiply-adds are of one image; images/s are of "
        f"training steps in float32 ({WAY}) with nothing else running on the machine, whose neighbours on the same host can "
        "still halve them from one hour to the next.", "",
        *markdown_table(header, body), "",
        "![accuracy against cost](images/zoo.svg)", "",
    ]  # fmt: skip


def _beside(first: Line, every: Sequence[Line]) -> Line | None:
    """The second seed of the same network in the same precision."""
    return {(line["network"], line["precision"]): line for line in every if line["seed"] == 1}.get((first["network"], first["precision"]))


def _in_both(apart: Mapping[str, float]) -> str:
    """What is known of the two precisions that a row may be trained in."""
    if not apart:
        return ""
    told = ", ".join(f"{name} {value:+.4f}" for name, value in sorted(apart.items()))
    return f"IoU in bfloat16 (autocast) less IoU in float32, where a network was trained in both from the same seed: {told}. "


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
    return [f"`{first['network']}`", *scores, f"{first['lr']:g}", first["precision"], *numbers]


def _score(line: Line, key: str) -> str:
    value, low, high = line["scores"][key]
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
