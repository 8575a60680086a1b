"""One reference and one prediction -> everything that is counted of the case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.labels import LabelSet
from medseg.metrics.boundary import Boundary
from medseg.metrics.counts import confusion
from medseg.metrics.detection import Objects, components, match
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
        objects: Mapping[str, Objects] | None = None,
    ) -> CaseResult:
        """Of two masks of class ids, uint8, 2-D or 3-D; the prediction must hold class ids alone.

        spacing_mm: in the order of the axes.  objects: by class, where they were found before.
        """
        distances = self.boundary.measure(reference, prediction, self.labels, spacing_mm) if self.boundary else {}
        if self.instances and objects is None:
            objects = self.objects(reference, prediction)
        matches = {name: match(each.reference, each.prediction, MATCHED_AT) for name, each in (objects or {}).items()}
        return CaseResult(sample_id, group_id, confusion(reference, prediction, self.labels), distances, matches)

    def objects(
        self, reference: np.ndarray, prediction: np.ndarray, drawn: np.ndarray | None = None, found: np.ndarray | None = None
    ) -> dict[str, Objects]:
        """The objects of each foreground class; ignored pixels are background of both masks.

        drawn, found: int32 ids of the reference's and the prediction's objects, whatever their class; the connected components of a mask
        where not given.
        """
        valid, objects = self.labels.valid(reference), {}
        for name in self.labels.foreground:
            class_id = self.labels.id_of(name)
            inside = reference == class_id, (prediction == class_id) & valid
            parts = (components(one) if ids is None else np.where(one, ids, 0) for one, ids in zip(inside, (drawn, found), strict=True))
            objects[name] = Objects(*parts)
        return objects
