"""What the values of a file mean, or why they mean nothing, and how either is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medseg.conventions.content import FileKind
from medseg.errors import LabelError
from medseg.labels import BACKGROUND, LabelSet

Kind = Literal["ids", "two_valued", "factor", "palette_colours", "colours", "interpolated", "outside"]
SHOWN = 8


@dataclass(frozen=True, slots=True)
class ValueMap:
    """How the values of a file become class ids.

    table: stored value (or packed colour) -> class id.  said: one plain sentence of it.
    """

    kind: Kind
    table: Mapping[int, int]
    said: str

    @property
    def changes(self) -> bool:
        """True where a value becomes another: the file cannot be used as it is."""
        return any(value != class_id for value, class_id in self.table.items())


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file's values cannot be read as classes, and the way out; to be raised as a LabelError."""

    kind: Kind
    rule: str
    fix: str

    def error(self, where: object) -> LabelError:
        """The refusal as the error of the file `where`."""
        return LabelError(where, self.rule, self.fix)


def mapped(kind: Kind, table: dict[int, int], labels: LabelSet, file_kind: FileKind = "grey") -> ValueMap:
    """The map of `table` (value or packed colour -> id), with the sentence that says it."""
    return ValueMap(kind, table, f"{names(table, file_kind)} {are(table)} read as {meanings(table.values(), labels)}")


# --- words


def names(values: Iterable[int], kind: FileKind = "grey", joined: str = "") -> str:
    """Values as a list in words, colours as #RRGGBB; of more than SHOWN the first. joined: what stands between them instead of words."""
    shown = [hexed(value) if kind == "colour" else str(value) for value in values]
    if joined:
        return joined.join([*shown[:SHOWN], *(["..."] if len(shown) > SHOWN else [])])
    return listed(shown)


def listed(items: Sequence[object]) -> str:
    """Items in words: 'a, b and c', the first SHOWN and '...', or 'none'."""
    texts = [str(item) for item in items]
    if len(texts) > SHOWN:
        return ", ".join([*texts[:SHOWN], "..."])
    return " and ".join([*([", ".join(texts[:-1])] if texts[1:] else []), texts[-1]]) if texts else "none"


def hexed(value: int) -> str:
    """#RRGGBB of a packed colour."""
    return f"#{value:06X}"


def are(values: Iterable[int]) -> str:
    """The verb that goes with so many values."""
    return "is" if len(list(values)) == 1 else "are"


def meanings(ids: Iterable[int], labels: LabelSet) -> str:
    """The names of class ids in words; that of the ignore id is 'ignored'."""
    return listed(["ignored" if class_id == labels.ignore_id else labels.classes.get(class_id, BACKGROUND) for class_id in ids])
