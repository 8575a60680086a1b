"""LabelSet: which integer means what, in which colour, and which pixels count.

Ids are exclusive and run from 0 (background) to K - 1; a region is a named union of classes, scored as a further class.
"""

from __future__ import annotations

import colorsys
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medseg.errors import LabelError

BACKGROUND = "background"
Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w .+-]*$", max_length=64)]
PIECE = 2**20  # ids counted at a time: numpy counts on a copy eight times as large


def id_counts(mask: np.ndarray) -> np.ndarray:
    """int64 (256,): pixels or voxels by id, of a uint8 mask; in pieces, so that a volume is not copied."""
    flat = mask.ravel(order="K")
    counts = np.zeros(256, np.int64)
    for start in range(0, flat.size, PIECE):
        counts += np.bincount(flat[start : start + PIECE], minlength=256)
    return counts


class LabelSet(BaseModel):
    """Classes, colours, ignore id, regions and left-right pairs of a data set.

    Raises pydantic's ValidationError where ids have gaps, names repeat, or a region names an unknown class.

    >>> labels = LabelSet.of("tongue", "coating", regions={"whole": ["tongue", "coating"]})
    >>> labels.names, labels.id_of("coating"), labels.region_ids("whole")
    (('background', 'tongue', 'coating'), 2, (1, 2))
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: dict[int, Name]
    colours: dict[str, Colour] = {}
    ignore_id: Byte = 255
    ignore_colour: Colour | None = None
    regions: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    left_right_pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, *foreground: str, **fields: Any) -> LabelSet:
        """A label set with background 0 and `foreground` as 1, 2, ... in the order given."""
        return cls(classes=dict(enumerate((BACKGROUND, *foreground))), **fields)

    @field_validator("classes")
    @classmethod
    def _ids_have_no_gap(cls, classes: dict[int, str]) -> dict[int, str]:
        if sorted(classes) != list(range(len(classes))) or len(classes) < 2:
            raise ValueError(f"class ids must be 0 (background), 1, 2, ... without a gap, got {sorted(classes)}")
        if classes[0] != BACKGROUND:
            raise ValueError(f"class 0 must be named {BACKGROUND!r}, got {classes[0]!r}")
        if len(set(classes.values())) != len(classes):
            raise ValueError("two classes have one name")
        return dict(sorted(classes.items()))

    @model_validator(mode="after")
    def _names_are_known(self) -> LabelSet:
        known = set(self.classes.values())
        named = {*self.colours, *(n for r in self.regions.values() for n in r), *(n for p in self.left_right_pairs for n in p)}
        if unknown := sorted(named - known):
            raise ValueError(f"colours, regions or left_right_pairs name classes that do not exist: {unknown}")
        if clash := sorted(known & set(self.regions)):
            raise ValueError(f"regions and classes share the names {clash}")
        if self.ignore_id in self.classes:
            raise ValueError(f"ignore_id {self.ignore_id} is also a class id")
        return self

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.classes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names by id, background first."""
        return tuple(self.classes.values())

    @property
    def foreground(self) -> tuple[str, ...]:
        """Class names without the background."""
        return self.names[1:]

    def id_of(self, name: str) -> int:
        """The id of a class; ValueError where it has none."""
        return self.names.index(name)

    def region_ids(self, region: str) -> tuple[int, ...]:
        """The class ids a region unites."""
        return tuple(self.id_of(name) for name in self.regions[region])

    @property
    def mirrored_ids(self) -> tuple[int, ...]:
        """What each id becomes in a mirror image: left-right pairs exchanged, the rest as it is.

        >>> LabelSet.of("tongue", "left", "right", left_right_pairs=[["left", "right"]]).mirrored_ids
        (0, 1, 3, 2)
        """
        ids = list(self.classes)
        for left, right in self.left_right_pairs:
            ids[self.id_of(left)], ids[self.id_of(right)] = self.id_of(right), self.id_of(left)
        return tuple(ids)

    def valid(self, mask: Any) -> Any:
        """Where a mask (array or tensor) counts: True off the ignore id. Losses and metrics both ask here."""
        return mask != self.ignore_id

    def check(
        self, mask: np.ndarray, where: object, fix: str = "name the id in dataset.yaml, or map it to a class before the import"
    ) -> None:
        """Raise LabelError where a mask holds an id that is neither a class nor the ignore id."""
        stray = [int(i) for i in np.flatnonzero(id_counts(mask)) if i not in self.classes and i != self.ignore_id]
        if stray:
            shown = ", ".join(map(str, stray[:8])) + (", ..." if len(stray) > 8 else "")
            raise LabelError(
                where,
                f"the mask holds ids {{{shown}}}, the classes are {{0..{self.num_classes - 1}}} and ignore is {self.ignore_id}",
                fix,
            )

    def colour_of(self, name: str) -> Colour:
        """The colour of a class or region: the one in dataset.yaml, else one spread evenly over the hues."""
        if name in self.colours:
            return self.colours[name]
        if name == BACKGROUND:
            return (0, 0, 0)
        order = [*self.foreground, *self.regions].index(name)
        red, green, blue = colorsys.hsv_to_rgb((0.95 + 0.618034 * order) % 1.0, 0.75, 0.95)
        return (round(255 * red), round(255 * green), round(255 * blue))

    @cached_property
    def palette(self) -> np.ndarray:
        """uint8 (256, 3): RGB by id; grey for the ignore id."""
        table = np.zeros((256, 3), np.uint8)
        for class_id, name in self.classes.items():
            table[class_id] = self.colour_of(name)
        table[self.ignore_id] = self.ignore_colour or (128, 128, 128)
        return table
