"""The folder of an evaluation: per_case.csv, confusion.npy, scores.json, table.csv, table.md and figures. Cases go in one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from medseg.metrics.detection import DetectionTally
from medseg.metrics.measure import MATCHED_AT, Measures
from medseg.metrics.protocol import Protocol
from medseg.metrics.rules import OtherRules
from medseg.metrics.scores import Scores, Tally
from medseg.report.confusion import confusion_figure
from medseg.report.further import calibration_table, conventions_table, detection_table, observers_table
from medseg.report.tables import CaseFiles, plain, write_scores, write_tables
from medseg.types import CaseResult

if TYPE_CHECKING:
    from medseg.metrics.calibration import Calibration

WRITTEN = ("per_case.csv", "confusion.npy", "scores.json", "table.csv", "table.md", "confusion.png")  # by every evaluation
CALIBRATION_RULE = "pooled over the pixels of all images, on each image's own grid; 15 bins of equal width; Brier score summed over classes"
SOME_CALIBRATION_RULE = CALIBRATION_RULE.replace("all images", "the volumes whose probabilities take {limit} at the most")
_FOUND = f"found where the IoU of a one-to-one pair is at least {MATCHED_AT}; counts pooled over images; ignored pixels are background"
DETECTION_RULES = {
    "components": f"connected components (8 or 26 neighbours) of both masks, {_FOUND}",
    "annotated": (
        "the reference's shapes as annotated, each where the reference shows its class, of two of one class the smaller on top, crowds "
        f"left out, against the prediction's connected components, {_FOUND}"
    ),
}
_AP = "AP as COCO's, mean over IoU 0.50 to 0.95"
PRECISION_RULE = f"{_AP}; an object's score is the mean probability of its pixels; all objects of an image enter"
OWN_PRECISION_RULE = (
    f"{_AP}, of the network's own objects, whole where they overlap and unsure ones too, by its own scores and boxes; those that lie on "
    "ignored pixels alone are left out"
)
_OWN_OBJECTS = "the network's own objects as they are painted, the surer on top"


def objects_rule(instances: str, own: bool, volumes: bool = False) -> str:
    """For the protocol: how objects were matched, and where their scores come from. own: of a network that finds objects.  volumes: which
    have no average precision."""
    if volumes:
        return DETECTION_RULES[instances]
    if not own:
        return f"{DETECTION_RULES[instances]}; {PRECISION_RULE}"
    rule = DETECTION_RULES[instances].replace("the prediction's connected components", _OWN_OBJECTS)
    rule = rule.replace(" of both masks", f" of the reference against {_OWN_OBJECTS}")
    return f"{rule}; {OWN_PRECISION_RULE}"


@dataclass(frozen=True)
class Extras:
    """What only some evaluations have. calibrated: how many images the calibration is of.  precision: AP by class.  observers: scores by
    who was held against whom."""

    calibration: Calibration | None = None
    calibrated: int = 0
    precision: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    observers: Mapping[str, Scores] = field(default_factory=dict)


class EvaluationFiles:
    """Use as a context manager; `add` every case, then `finish`."""

    def __init__(self, folder: Path, measures: Measures, number: int, conventions: bool = False, grouped: bool = True) -> None:
        self.folder, self.measures = folder, measures
        self._files = CaseFiles(folder, measures.labels, number, measures.boundary)
        self._tally = Tally(measures.labels, grouped)
        self._objects = DetectionTally()
        self._rules = OtherRules(measures.labels) if conventions else None

    def __enter__(self) -> EvaluationFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()

    def add(self, case: CaseResult) -> None:
        """The next case; it is not kept."""
        self._files.add(case)
        self._tally.add(case)
        for name, matches in case.matches.items():
            self._objects.add(name, matches)
        if self._rules:
            self._rules.add(case.confusion_KK)

    @property
    def never_in_reference(self) -> list[str]:
        """The foreground classes that no reference so far holds."""
        return self._tally.never_in_reference

    def finish(
        self, title: str, protocol: Protocol, facts: Mapping[str, Any], notes: Sequence[str], extras: Extras | None = None
    ) -> Scores:
        """Write what is made of all cases. facts: for scores.json, without a time or a run id.  notes: for the foot of the table."""
        scores, extras = self._tally.scores(), extras or Extras()
        further, more = self._further(scores, extras)
        write_scores(self.folder / "scores.json", scores, protocol, dict(facts) | further)
        write_tables(self.folder, scores, protocol, title, notes, more)
        confusion_figure(self.folder / "confusion.png", scores.confusion_KK, self.measures.labels)
        if extras.calibration:
            from medseg.report.calibration import reliability_figure  # it knows torch, which a scorer of files does without

            reliability_figure(self.folder / "reliability.png", extras.calibration)
        return scores

    def _further(self, scores: Scores, extras: Extras) -> tuple[dict[str, Any], list[str]]:
        """(sections of scores.json, lines of table.md) of what was asked for."""
        found: dict[str, Any] = {}
        lines: list[str] = []
        foreground = self.measures.labels.foreground
        if extras.observers:
            found["observers"] = {who: plain(one) for who, one in extras.observers.items()}
            lines += observers_table(extras.observers, foreground)
        if self.measures.instances:
            objects = self._objects.result()
            found["detection"] = {name: asdict(one) | dict(extras.precision.get(name, {})) for name, one in objects.items()}
            lines += detection_table(objects, extras.precision)
        if extras.calibration:
            found["calibration"] = extras.calibration.to_dict() | {"n_cases": extras.calibrated}
            lines += calibration_table(extras.calibration)
        if self._rules:
            others = self._rules.results()
            found["conventions"] = [asdict(one) for one in others]
            lines += conventions_table(scores, others, foreground)
        return found, lines
