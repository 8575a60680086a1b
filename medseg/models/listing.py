"""The lines of `medseg zoo`."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import TypeAdapter

from medseg.config import ModelConfig, NetworkConfig
from medseg.models.contract import Task
from medseg.models.cost import cost_of
from medseg.models.zoo import Entry, entries

GRID = (256, 256)


def config_of(name: str) -> NetworkConfig:
    """A network's settings where only its name is given."""
    return TypeAdapter(ModelConfig).validate_python({"name": name})


def lines(classes: int, on_done: Callable[[int, int], None] | None) -> list[tuple[str, ...]]:
    """One a network, as texts. on_done: (done, total) as costs are counted; None: they are not."""
    found, every = [], entries()
    for done, entry in enumerate(every, 1):
        found.append(_line(entry, classes, on_done is not None))
        if on_done:
            on_done(done, len(every))
    return found


def _line(entry: Entry, classes: int, counted: bool) -> tuple[str, ...]:
    cost = cost_of(config_of(entry.name), Task(classes, GRID)) if counted else None
    numbers = (f"{cost.parameters / 1e6:.2f} M", f"{cost.multiply_adds / 1e9:.2f} G") if cost else ("", "")
    dims = ", ".join(f"{dim}-D" for dim in entry.dims)
    return entry.name, entry.library, *numbers, dims, ", ".join(entry.weights), entry.licence, entry.paper
