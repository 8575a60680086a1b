"""Interpolated and JPEG-edited masks: values between those of the classes, and what such a file was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from medseg.conventions.content import WHITE, Content, FileKind, unpacked
from medseg.conventions.readings import Refusal, ValueMap, names
from medseg.conventions.steps import fit
from medseg.labels import LabelSet

NEAR = 16  # how far JPEG noise carries a value from the one meant, of 255
FEWEST_STRAYS = 3  # one or two values between others may be classes (a trimap's 128); blurred edges leave more
SOLID = 0.25  # a share of pixels whose four neighbours are equal to them; blurred edges have about none, classes most
_AS_IS = "export it without interpolation and as PNG, or import with --as-is and repair by `medseg manifest check --fix`"


def reading_of(content: Content, labels: LabelSet, found: ValueMap | None = None) -> dict[int, int] | None:
    """Value -> id that an interpolated file was made from: the set's, its ids', or that of its modes; None where it is no such file."""
    modes = _modes(content)
    own = fit(modes, labels)
    tables = [dict(reading.table) for reading in (found, own) if reading is not None]
    tables += [_steps_about(modes, labels)] if labels.num_classes > 2 else []
    if labels.num_classes > 2 and modes == [0, 255]:
        tables.append({0: 0, 255: labels.ignore_id})  # blurred for certain; which class 255 is stays open
    ids = {value: value for value in content.values if value in labels.classes or value == labels.ignore_id}
    tables.insert(0 if _shows_an_id(content, labels) else len(tables), ids)
    return next((table for table in tables if is_blurred(content, seen(content, table))), None)


def _shows_an_id(content: Content, labels: LabelSet) -> bool:
    """True where a foreground id covers areas of its own, as JPEG's noise about 0 does not; at low quality it moves the whole
    background to 1, and then nothing but noise is left at 0."""
    total = sum(content.counts)
    shown = list(zip(content.values, content.counts, content.solid or content.counts, strict=True))
    if any(value == 0 and 1000 * count > total and solid < SOLID * count for value, count, solid in shown):
        return False
    return any(value in labels.classes and value and 1000 * count > total and 4 * solid > 3 * count for value, count, solid in shown)


def _steps_about(modes: Sequence[int], labels: LabelSet) -> dict[int, int]:
    """The steps of 255 / (K - 1) where each mode is about one of them (JPEG moves whole areas by a level or two); else none."""
    steps = {round(class_id * WHITE / (labels.num_classes - 1)): class_id for class_id in labels.classes}
    apart = WHITE / (labels.num_classes - 1) > NEAR
    return steps if apart and all(min(abs(mode - step) for step in steps) <= NEAR // 4 for mode in modes) else {}


def _modes(content: Content) -> list[int]:
    """The values that stand for themselves: frequent, mostly solid, and not beside a more frequent one."""
    total = sum(content.counts)
    solid = content.solid or content.counts
    modes: list[int] = []
    for place in sorted(range(len(content.values)), key=lambda place: -content.counts[place]):
        value, count = content.values[place], content.counts[place]
        if count * 1000 < total:
            break
        if solid[place] >= SOLID * count and all(abs(value - mode) > NEAR for mode in modes):
            modes.append(value)
    return sorted(modes)


def seen(content: Content, table: Mapping[int, int]) -> list[int]:
    """The keys of a reading that the file shows, be it a few levels off: JPEG stores pure red as (254, 0, 0)."""
    kind, keys = content.kind_of_file, sorted(table)
    off = min(NEAR // 4, _near(keys, kind)) if len(keys) > 1 else 0
    pairs = list(zip(content.values, content.counts, strict=True))
    total = sum(content.counts)
    return [
        key
        for key in keys
        if key in content.values or 1000 * sum(count for value, count in pairs if distance(value, key, kind) <= off) > total
    ]


def interpolated(content: Content, reading: Mapping[int, int]) -> Refusal:
    """Why an interpolated file is refused: the keys of `reading` that it shows, and the pixels beside them."""
    kind = content.kind_of_file
    strays = [(count, value) for value, count in zip(content.values, content.counts, strict=True) if value not in reading]
    pixels = sum(count for count, _ in strays)
    legal, shown = names(seen(content, reading), kind), names([value for _, value in strays], kind)
    rule = f"the mask is interpolated or JPEG-edited: besides {legal} {pixels:,} pixels hold values about and between them ({shown})"
    return Refusal("interpolated", rule, _AS_IS)


# --- how far values lie apart, and what lies between


def is_blurred(content: Content, legal: Sequence[int]) -> bool:
    """True where most pixels hold `legal` values or ones near, and the rest is at least FEWEST_STRAYS values, none solid, between."""
    kind = content.kind_of_file
    strays = [place for place, value in enumerate(content.values) if value not in legal]
    if len(legal) < 2 or len(strays) < FEWEST_STRAYS:
        return False
    near = _near(legal, kind)
    far = [place for place in strays if min(distance(content.values[place], value, kind) for value in legal) > near]
    beyond = [place for place in strays if not _between(content.values[place], legal, near, kind)]
    pixels, solid = _pixels(content, far), sum(content.solid[place] for place in far) if content.solid else 0
    few = 100 * _pixels(content, beyond) <= 2 * _pixels(content, strays)  # what JPEG lets swing over at an edge
    few = few and (kind == "colour" or all(_between(content.values[place], legal, 3 * near, kind) for place in beyond))
    return few and 2 * pixels < sum(content.counts) and solid <= SOLID * pixels


def _near(legal: Sequence[int], kind: FileKind) -> int:
    """How far a value may lie from a legal one and still be meant as it: JPEG's noise, at most a third of the least gap."""
    if kind == "colour":
        return 3 * NEAR  # chroma is stored at half the resolution
    return min(NEAR, min(after - before for before, after in pairwise(legal)) // 3)


def _pixels(content: Content, places: Iterable[int]) -> int:
    return sum(content.counts[place] for place in places)


def _between(value: int, legal: Sequence[int], near: int, kind: FileKind) -> bool:
    if kind != "colour":
        return legal[0] - near <= value <= legal[-1] + near
    channels = zip(*(unpacked(other) for other in legal), strict=True)
    return all(min(channel) - near <= own <= max(channel) + near for own, channel in zip(unpacked(value), channels, strict=True))


def distance(left: int, right: int, kind: FileKind) -> int:
    """How far two values lie apart; for colours in the channel where they differ most."""
    if kind != "colour":
        return abs(left - right)
    return max(abs(a - b) for a, b in zip(unpacked(left), unpacked(right), strict=True))
