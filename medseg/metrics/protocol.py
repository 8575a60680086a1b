"""The rules a set of scores was made by, stored and printed with them; scores of different protocols are not compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from medseg.errors import RunError
from medseg.labels import LabelSet
from medseg.metrics.boundary import Boundary

VERSION = 3


@dataclass(frozen=True, slots=True)
class Protocol:
    """How masks became numbers. `background` names the class that means leave out or take in, as each mean's name says.

    The last five are None where nothing of the kind was measured.
    """

    version: int = VERSION
    grid: str = "each image's own pixels"
    pooled: str = "ratio of counts summed over all pixels of all images"
    per_image: str = "mean of the images' ratios over the n images in which the score is defined"
    per_group: str = "mean of the groups' ratios, counts summed within each group, over the n groups in which the score is defined"
    both_empty: str = "undefined: left out, not in n"
    missed: str = "IoU, recall, precision, Dice and volume similarity are 0"
    reference_empty: str = "a false positive scores IoU, precision, Dice and volume similarity 0; recall is undefined"
    specificity: str = "of the pixels outside the reference; undefined where there are none, 1 for a class in neither mask"
    ignore_id: int = 255
    background: str = "background"
    regions: tuple[str, ...] = ()
    test_time: str = "single forward pass"
    checkpoint: str = "chosen on val"
    boundary: str | None = None
    spacing: str | None = None
    tolerances: tuple[str, ...] | None = None
    calibration: str | None = None
    detection: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for scores.json."""
        return asdict(self)

    @classmethod
    def read(cls, content: Mapping[str, Any], where: object) -> Protocol:
        """What `to_dict` gave; RunError for one of another version, whose scores mean something else."""
        if content.get("version") != VERSION or set(content) != {field.name for field in fields(cls)}:
            rule = f"was scored by version {content.get('version')} of the protocol, and this medseg reads version {VERSION}"
            raise RunError(where, rule, "evaluate it again")
        lists = {key: tuple(content[key]) for key in ("tolerances", "regions") if isinstance(content[key], list)}
        return cls(**{**content, **lists})

    def sentence(self) -> str:
        """The footnote under a table."""
        text = (
            f"Scored on {self.grid}. Pooled: {self.pooled}. Per image: {self.per_image}. "
            f"Per group: {self.per_group}. Class in neither mask: {self.both_empty}. "
            f"Missed: {self.missed}. Reference empty: {self.reference_empty}. Specificity: {self.specificity}. "
            f"Means over classes say whether {self.background} is in them. "
            f"Ignored id: {self.ignore_id}. "
        )
        text += f"Regions: {', '.join(self.regions)}. " if self.regions else ""
        text += f"Boundary: {self.boundary}; {self.spacing}; tolerances {', '.join(self.tolerances or ())}. " if self.boundary else ""
        text += f"Calibration: {self.calibration}. " if self.calibration else ""
        text += f"Detection: {self.detection}. " if self.detection else ""
        return text + f"Prediction: {self.test_time}; checkpoint {self.checkpoint}."


def region_rules(labels: LabelSet) -> tuple[str, ...]:
    """What each region is made of.

    >>> region_rules(LabelSet.of("tongue", "coating", regions={"whole_tongue": ["tongue", "coating"]}))
    ('whole_tongue = tongue + coating',)
    """
    return tuple(f"{name} = {' + '.join(members)}" for name, members in labels.regions.items())


def boundary_rules(boundary: Boundary) -> dict[str, Any]:
    """The fields of a protocol that say how distances were measured."""
    spacing = "distances in mm, by the spacing along each axis"
    if boundary.unit == "px":
        spacing = "distances in pixels (px) and in per cent of the image's diagonal (pct)"
    return {
        "boundary": (
            "the outline is what erosion by the cross takes away, an image's edge included; HD95 the larger of the two directed 95th "
            "percentiles, HD95 pooled the percentile of both directions' distances together; ASSD the mean of both directions' distances "
            "together; NSD the share of both outlines within the tolerance; missed or invented: NSD 0, no distance, counted beside; "
            "ignored pixels are background of both masks, so that an outline cut by them counts as met there; axes of one element left out"
        ),
        "spacing": spacing,
        "tolerances": tuple(tolerance.key for tolerance in boundary.tolerances),
    }
