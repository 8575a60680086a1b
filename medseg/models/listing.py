"""Every network's line, made anew from the libraries and by counting."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import TypeAdapter

from medseg.config import ModelConfig, NetworkConfig
from medseg.models.contract import Task
from medseg.models.cost import cost_of
from medseg.models.listed import Listed
from medseg.models.zoo import entries

GRID = (256, 256)


def config_of(name: str) -> NetworkConfig:
    """A network's settings where only its name is given."""
    return TypeAdapter(ModelConfig).validate_python({"name": name})


def count(classes: int, on_done: Callable[[int, int], None] = lambda done, total: None) -> list[Listed]:
    """Each network of so many classes, its cost counted now on one image of 256 x 256. on_done: (done, total)."""
    found, every = list[Listed](), entries()
    for done, entry in enumerate(every, 1):
        cost = cost_of(config_of(entry.name), Task(classes, GRID))
        facts = entry.name, entry.library, entry.paper, entry.licence, entry.weights, entry.dims
        found.append(Listed(*facts, cost.parameters, cost.multiply_adds))
        on_done(done, len(every))
    return found
