"""The lines of `medseg zoo`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from medseg.config import ModelConfig, NetworkConfig
from medseg.models.contract import Task
from medseg.models.cost import Cost, cost_of
from medseg.models.zoo import Entry, entries

GRID = (256, 256)
COUNTED = Path(__file__).with_name("costs.json")  # of two classes, written by `make reference`: counting takes a minute


def config_of(name: str) -> NetworkConfig:
    """A network's settings where only its name is given."""
    return TypeAdapter(ModelConfig).validate_python({"name": name})


def counted() -> dict[str, Cost]:
    """What each network of two classes costs, as it was counted when medseg was made."""
    return {name: Cost(**numbers) for name, numbers in json.loads(COUNTED.read_text(encoding="utf-8")).items()}


def count(classes: int, on_done: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Cost]:
    """What each network costs, counted now: on one image of 256 x 256. on_done: (done, total)."""
    found, every = {}, entries()
    for done, entry in enumerate(every, 1):
        found[entry.name] = cost_of(config_of(entry.name), Task(classes, GRID))
        on_done(done, len(every))
    return found


def lines(costs: Mapping[str, Cost]) -> list[tuple[str, ...]]:
    """One a network, as texts."""
    return [_line(entry, costs[entry.name]) for entry in entries()]


def _line(entry: Entry, cost: Cost) -> tuple[str, ...]:
    numbers = f"{cost.parameters / 1e6:.2f} M", f"{cost.multiply_adds / 1e9:.2f} G"
    dims = ", ".join(f"{dim}-D" for dim in entry.dims)
    return entry.name, entry.library, *numbers, dims, ", ".join(entry.weights), entry.licence, entry.paper
