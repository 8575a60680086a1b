"""The lines "zoo" and "zoo-cost" of bench/results -> the table of docs/results.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.report.tables import markdown_table

SCORE, USUAL, OTHER = "iou_pooled", "float32", "bfloat16"
WAY = "the fastest step, freed memory kept"  # of measuring costs
CPU = "cpu"
LONG_STEPS = 3000  # of the table that wants a GPU
HEADER = ("", "Network", "IoU, pooled", "IoU, second seed", "IoU, per image", "recall, pooled", "precision, pooled", "rate", "trained in",
          "parameters", "multiply-adds", "images/s", "peak memory")  # fmt: skip
Line = Mapping[str, Any]


def device_of(line: Line) -> str:
    """cpu or cuda; costs of old, which do not say it, are of a processor."""
    return str(line.get("device", CPU))


def figure_name(steps: int, device: str) -> str:
    """The file of a figure that goes with the table of so many steps."""
    return f"zoo-{steps}.svg" if device == CPU else f"zoo-{steps}-{device}.svg"


# --- the lines that count


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


def fastest(costs: Sequence[Line], device: str = CPU) -> dict[str, Line]:
    """Of each network the cost measured when the machine was least slowed by others; all on one machine of this device: the one that most
    networks were measured on, of several the one used last, on one day the faster one. None of another way."""
    by_machine = defaultdict[str, list[Line]](list)
    for line in sorted(costs, key=_rate):
        if line.get("way") == WAY and device_of(line) == device:
            by_machine[line["machine"]].append(line)
    found = [({line["network"]: line for line in lines}, max(line["date"] for line in lines)) for lines in by_machine.values()]
    return max(found, key=lambda one: (len(one[0]), one[1], sum(map(_rate, one[0].values()))), default=({}, ""))[0]


def _rate(cost: Line) -> float:
    return float(cost["images_per_s"])


def prices(costs: Sequence[Line], first: Mapping[str, Line]) -> dict[str, Line]:
    """Of each row its network's cost on the device that it was trained on, where that is measured."""
    found = {device: fastest(costs, device) for device in devices(first.values())}
    return {name: found[device_of(line)][name] for name, line in first.items() if name in found[device_of(line)]}


def devices(shown: Iterable[Line]) -> list[str]:
    """Those that the lines are of. A figure holds one alone."""
    return sorted({device_of(line) for line in shown})


# --- the page


@dataclass(frozen=True)
class _Shown:
    """What a table is of. second, price, size: by network, where they are known; size: a cost on any device.  both: see `twins`."""

    steps: int
    first: Mapping[str, Line]
    second: Mapping[str, Line]
    price: Mapping[str, Line]
    size: Mapping[str, Line]
    both: Sequence[tuple[Line, Line]]

    @property
    def trained(self) -> list[Line]:
        """Every training behind a number."""
        return [*self.first.values(), *self.second.values(), *(line for pair in self.both for line in pair)]

    @property
    def priced(self) -> list[Line]:
        """Every measurement of speed and memory behind a number."""
        return list(self.price.values())

    @property
    def devices(self) -> list[str]:
        """Of the rows."""
        return devices(self.first.values())


def section(zoo: Sequence[Line], costs: Sequence[Line]) -> list[str]:
    """The part of docs/results.md, a table a number of steps; nothing where no network is recorded."""
    tables = [_table(_shown(zoo, costs, steps)) for steps in sorted({line["steps"] for line in zoo})]
    return [text for table in tables for text in table] + (_wanting(zoo, costs) if zoo else [])


def _shown(zoo: Sequence[Line], costs: Sequence[Line], steps: int) -> _Shown:
    first, of_steps = rows(zoo, steps), of_recipe(zoo, steps)
    price = prices(costs, first)
    size = {line["network"]: line for line in costs} | price
    return _Shown(steps, first, seconds(of_steps, list(first.values())), price, size, twins(of_steps))


def _table(shown: _Shown) -> list[str]:
    body = [[str(rank), *_row(shown, name)] for rank, name in enumerate(shown.first, start=1)]
    figures = [f"![accuracy against cost](images/{figure_name(shown.steps, device)})" for device in devices(shown.priced)]
    return [
        f"## The zoo, {shown.steps:,} steps from scratch on tongue600", "", _origin(shown), "", _about(shown), "",
        *markdown_table(HEADER, body), "", *(text for figure in figures for text in (figure, "")),
    ]  # fmt: skip


def _origin(shown: _Shown) -> str:
    """The command, and what it ran on."""
    dates, machines = (_told([*shown.trained, *shown.priced], key) for key in ("date", "machine"))
    return f"`make zoo-table` ({dates[0]} to {dates[-1]}, {', '.join(machines)}, commit {', '.join(_commits(shown.trained))})"


def _about(shown: _Shown) -> str:
    """How the networks were trained, and what the numbers do not say."""
    return (
        f"Every network **from scratch**, no published weights: {shown.steps:,} steps of 8 images at 192 x 192 "
        f"({', '.join(_told(shown.trained, 'device'))}), AdamW with the rate of the column, soft Dice + cross-entropy where the network "
        "has no loss of its own, one recipe (experiments/tongue/zoo.yaml), checkpoint chosen on val. "
        f"{shown.trained[0]['n_test']} test images, 95 % intervals over images (bootstrap-t), which know nothing of the chance in "
        "training: what another seed makes of the best stands in a column of its own. After so few steps a small network is ahead of a "
        "large one that would pass it later, and one with published weights starts elsewhere: the table says how fast each learns from "
        f"nothing, not how good it can be. {_in_both(shown.both)}{_about_costs(shown)}"
    )


def _about_costs(shown: _Shown) -> str:
    """How they were measured. On a processor the peak is of the process, on a GPU of torch's allocator."""
    on_gpu = ""
    if shown.devices != [CPU]:
        on_gpu = " Speed and memory are of the device that the row was trained on; on cuda, memory is the most that tensors held."
    return (
        f"Multiply-adds are of one image; images/s are of training steps in float32 ({WAY}; commit "
        f"{', '.join(_commits(shown.priced)) or 'none'}) with nothing else running on the machine, whose neighbours on the same host can "
        f"still halve them from one hour to the next.{on_gpu}"
    )


def _wanting(zoo: Sequence[Line], costs: Sequence[Line]) -> list[str]:
    """That the long table is not there, and why."""
    if any(line["steps"] == LONG_STEPS for line in zoo):
        return []
    seen = devices([*zoo, *costs])
    why = f": all of the zoo was trained and measured on {CPU}, and it wants a GPU" if seen == [CPU] else ""
    return [f"A table of {LONG_STEPS:,} steps is not recorded{why}.", ""]


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


# --- a row


def _row(shown: _Shown, name: str) -> list[str]:
    first, second = shown.first[name], shown.second.get(name)
    scores = [_score(first, key) for key in (SCORE, "iou_per_image", "recall_pooled", "precision_pooled")]
    scores.insert(1, f"{_iou(second):.3f}" if second else "")
    trained_in = first["precision"] if len(shown.devices) == 1 else f"{first['precision']}, {device_of(first)}"
    return [f"`{name}`", *scores, f"{first['lr']:g}", trained_in, *_size(shown.size.get(name)), *_speed(shown.price.get(name))]


def _score(line: Line, key: str) -> str:
    value, low, high = line["scores"][key]
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _size(cost: Line | None) -> list[str]:
    return [f"{cost['parameters'] / 1e6:.2f} M", f"{cost['multiply_adds'] / 1e9:.2f} G"] if cost else ["", ""]


def _speed(cost: Line | None) -> list[str]:
    return [f"{cost['images_per_s']:.1f}", f"{cost['peak_mib']:,} MiB"] if cost else ["not measured", "not measured"]
