"""How far a predicted outline is from the reference's, in mm or in pixels: which numbers there are, by which names, and how they are made.

A structure that is missed or invented has no distance, and NSD 0; it is counted beside the means (`scores.Occurrence`), never dropped
from sight: leaving it out of HD95 alone would let a model that misses more look better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medseg.errors import ConfigError
from medseg.labels import BACKGROUND, LabelSet
from medseg.metrics.counts import scored_names
from medseg.metrics.surface import surface_distances
from medseg.types import Spacing

Unit = Literal["mm", "px"]
DISTANCES = ("hd", "hd95", "hd95_pooled", "assd")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Of NSD: up to which distance an outline counts as right. unit: mm, px, or pct: per cent of the image's diagonal.

    >>> Tolerance.parse("0.5%"), Tolerance.parse("2 mm").key
    (Tolerance(value=0.5, unit='pct'), 'nsd_2mm')
    """

    value: float
    unit: Literal["mm", "px", "pct"]

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """From `2px`, `1mm` or `0.5%`; raises ConfigError."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(mm|px|%)\s*", text)
        if not found or not float(found[1]):
            fix = "write it with px, mm or %, for example 2px, 1mm or 0.5% (of the diagonal)"
            raise ConfigError("--tolerance", f"{text!r} is no distance above 0 with a unit", fix)
        return cls(float(found[1]), "pct" if found[2] == "%" else found[2])  # type: ignore[arg-type]

    @property
    def key(self) -> str:
        """The score's name."""
        return f"nsd_{self.value!r}{self.unit}".replace(f".0{self.unit}", self.unit)


@dataclass(frozen=True, slots=True)
class Boundary:
    """What is measured. unit: mm where every image has a spacing, else pixels, and per cent of the diagonal beside them."""

    unit: Unit
    tolerances: tuple[Tolerance, ...]

    @classmethod
    def of(cls, unit: Unit, tolerances: Iterable[str] = ()) -> Boundary:
        """By default 1 and 2 mm, or 2 pixels and 0.5 % of the diagonal; raises ConfigError for a tolerance in the other unit."""
        found = tuple(map(Tolerance.parse, tolerances)) or tuple(map(Tolerance.parse, ("1mm", "2mm") if unit == "mm" else ("2px", "0.5%")))
        for tolerance in found:
            if (tolerance.unit == "mm") != (unit == "mm"):
                have = "every image has a spacing, so distances are in mm" if unit == "mm" else "not every image has a spacing in mm"
                rule = f"{tolerance.value:g} {tolerance.unit} cannot be used: {have}"
                raise ConfigError("--tolerance", rule, "give it in mm" if unit == "mm" else "give it in px or %")
        if len({tolerance.key for tolerance in found}) < len(found):
            raise ConfigError("--tolerance", f"one is named twice: {', '.join(tolerance.key for tolerance in found)}", "name each once")
        return cls(unit, found)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the numbers, in order."""
        percent = tuple(f"{name}_pct" for name in DISTANCES) if self.unit == "px" else ()
        return (*(f"{name}_{self.unit}" for name in DISTANCES), *percent, *(tolerance.key for tolerance in self.tolerances))

    def measure(
        self, reference: np.ndarray, prediction: np.ndarray, labels: LabelSet, spacing_mm: Sequence[float] | None = None
    ) -> dict[str, dict[str, float]]:
        """The numbers of each foreground class and region, of masks of class ids, 2-D or 3-D.

        spacing_mm: in the order of the arrays' axes, for the unit mm. Ignored pixels are background in both masks. Axes of one element are
        left out: a photograph stored as a volume is no volume, all of whose voxels would lie at its surface.
        """
        if 1 in reference.shape and reference.size > 1:
            axes = tuple(axis for axis, length in enumerate(reference.shape) if length > 1)
            reference, prediction = reference.squeeze(), prediction.squeeze()
            spacing_mm = [spacing_mm[axis] for axis in axes] if spacing_mm else None
        valid = labels.valid(reference)
        assert self.unit == "px" or spacing_mm, "distances in mm need a spacing"
        steps = tuple(spacing_mm) if self.unit == "mm" and spacing_mm else (1.0,) * reference.ndim
        diagonal = math.hypot(*(step * length for step, length in zip(steps, reference.shape, strict=True)))
        limits = [t.value * diagonal / 100 if t.unit == "pct" else t.value for t in self.tolerances]
        found = {}
        for name, ids in scored_names(labels).items():
            if name != BACKGROUND:
                inside = [_inside(mask, ids) & valid for mask in (reference, prediction)]
                distances = surface_distances(inside[0], inside[1], steps, limits)
                lengths = [getattr(distances, key) for key in DISTANCES]
                percent = [100 * length / diagonal for length in lengths] if self.unit == "px" else []
                found[name] = dict(zip(self.metrics, (*lengths, *percent, *distances.nsd), strict=True))
        return found


def _inside(mask: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    table = np.zeros(256, bool)
    table[list(ids)] = True
    return table[mask]


def unit_of(spacings: Iterable[Spacing]) -> Unit:
    """mm where every image has a spacing along x and y, else px. (Volumes are scored by their files' own spacing.)

    >>> unit_of([(1.0, 1.0, None), (0.5, 0.5, None)]), unit_of([(1.0, 1.0, None), (None, None, None)])
    ('mm', 'px')
    """
    return "mm" if all(x and y for x, y, _ in spacings) else "px"
