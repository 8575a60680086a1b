"""The networks as they were listed when medseg was made: no library is imported, so `medseg zoo` answers at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

PREFIX = "zoo:"  # before a network's name, where its published weights are meant
TABLE = Path(__file__).with_name("zoo.json")  # written by `make reference`: importing every library and counting takes a minute


@dataclass(frozen=True)
class Listed:
    """A line of `medseg zoo`. parameters, multiply_adds: of two classes, the latter of one image of 256 x 256; weights: what
    `model.weights` may name, beside file: and run:.  licence: of the code alone.  dims: of the images, 2 or 3."""

    name: str
    library: str
    paper: str
    licence: str
    weights: tuple[str, ...]
    dims: tuple[int, ...]
    parameters: int
    multiply_adds: int

    @property
    def texts(self) -> tuple[str, ...]:
        """As the table shows it."""
        numbers = f"{self.parameters / 1e6:.2f} M", f"{self.multiply_adds / 1e9:.2f} G"
        dims = ", ".join(f"{dim}-D" for dim in self.dims)
        return self.name, self.library, *numbers, dims, ", ".join(self.weights), self.licence, self.paper


def listed() -> list[Listed]:
    """Every network that has a name of its own, and examples of those named by several parts."""
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    return [Listed(**{**line, "weights": tuple(line["weights"]), "dims": tuple(line["dims"])}) for line in content]
