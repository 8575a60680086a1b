"""One reference and one prediction -> everything that is counted of the case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.labels import LabelSet
from medseg.metrics.boundary import Boundary
from medseg.metrics.counts import confusion
from medseg.metrics.detection import Matches, components, match
from medseg.types import CaseResult

MATCHED_AT = 0.5  # IoU


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured beside the overlap. instances: whether objects are matched, at an IoU of MATCHED_AT."""

    labels: LabelSet
    boundary: Boundary | None = None
    instances: bool = False

    def case(
        self,
        sample_id: str,
        group_id: str,
        reference: np.ndarray,
        prediction: np.ndarray,
        spacing_mm: Sequence[float] | None = None,
        objects: Mapping[str, np.ndarray] | None = None,
    ) -> CaseResult:
        """Of two masks of class ids, uint8, 2-D or 3-D; the prediction must hold class ids alone.

        spacing_mm: in the order of the axes.  objects: the reference's by class, int32 ids; its connected components where not given.
        """
        distances = self.boundary.measure(reference, prediction, self.labels, spacing_mm) if self.boundary else {}
        matches = self._matches(reference, prediction, objects) if self.instances else {}
        return CaseResult(sample_id, group_id, confusion(reference, prediction, self.labels), distances, matches)

    def _matches(self, reference: np.ndarray, prediction: np.ndarray, objects: Mapping[str, np.ndarray] | None) -> dict[str, Matches]:
        valid = self.labels.valid(reference)
        found = {}
        for name in self.labels.foreground:
            inside = self.labels.id_of(name)
            given = components(reference == inside) if objects is None else np.where(valid, objects[name], 0)
            found[name] = match(given, components((prediction == inside) & valid), MATCHED_AT)
        return found
