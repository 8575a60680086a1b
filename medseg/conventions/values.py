"""Grey values and palette indices as a set holds them: ids, two values or grey steps; what 255 is; why a file is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medseg.conventions.blur import interpolated, reading_of
from medseg.conventions.colours import grey_colours
from medseg.conventions.content import WHITE, Content, values_of
from medseg.conventions.readings import SHOWN, Refusal, ValueMap, names
from medseg.conventions.steps import fit_most, two_valued
from medseg.labels import LabelSet

FEW = 10  # fewer than a tenth of the files do not change how the rest is read


def decide_plain(group: Sequence[Content], labels: LabelSet) -> list[ValueMap | Refusal]:
    """Each file by what 255 is in the set, and where that is open, a refusal; see `_decide_sure`."""
    beside, alone = _white_beside(group, labels), _white_alone(group, labels)
    if not beside or len(beside) > len(alone):
        return _decide_sure(group, labels)
    few = len(beside) * FEW < len(beside) + len(alone)
    open_places = beside if few else beside | alone  # a few do not change how the rest is read
    sure = iter(_decide_sure([content for place, content in enumerate(group) if place not in open_places], labels))
    refusal = white_is_open(len(beside), len(alone))
    return [refusal if place in open_places else next(sure) for place in range(len(group))]


def _white_beside(group: Sequence[Content], labels: LabelSet) -> set[int]:
    """The files whose ids stand beside 255, which then looks like the ignore id; empty where another is the ignore id."""
    legal, foreground = {*labels.classes, labels.ignore_id}, set(labels.classes) - {0}
    return {
        place
        for place, content in enumerate(group)
        if labels.ignore_id == WHITE and WHITE in content.values and set(content.values) <= legal and foreground & set(content.values)
    }


def _white_alone(group: Sequence[Content], labels: LabelSet) -> set[int]:
    """The files that hold only 255, or 0 and 255, which may be white for the class or all that is ignored."""
    return {
        place
        for place, content in enumerate(group)
        if WHITE in content.values and set(content.values) <= {0, WHITE} and not _void_by_colour(content, labels)
    }


def _void_by_colour(content: Content, labels: LabelSet) -> bool:
    """True where the palette itself says that 255 is ignored: it has the colour that dataset.yaml (or VOC) gives to what is."""
    shown = dict(zip(content.values, content.colours, strict=False))
    return labels.ignore_colour is not None and shown.get(WHITE) == labels.ignore_colour


def white_is_open(beside: int, alone: int) -> Refusal:
    """Why 255 cannot be read: so many masks hold it beside a class, so many alone."""
    found = f"of the masks that hold it, {alone} hold only 0 and 255 and {beside} hold a class beside it"
    return Refusal("two_valued", f"255 may be a class or what is ignored: {found}", "say which with --map 255=ignore or --map 255=CLASS")


# --- ids, two values, grey steps


def _decide_sure(group: Sequence[Content], labels: LabelSet) -> list[ValueMap | Refusal]:
    """Each file by its ids, by the reading of the set, or by its own two values; a file at odds with the rest spoils only itself."""
    sound = _sound(group, labels)
    if all(sound):
        return [_identity(content, labels) for content in group]
    odd = [content for content, holds in zip(group, sound, strict=True) if not holds]
    kept = [content for content, holds in zip(group, sound, strict=True) if holds]
    found, everywhere = fit_most(group, labels) if len(odd) * FEW >= len(group) else None, True
    if found is None:
        found, everywhere = fit_most(odd, labels), False
        found = None if found is not None and (_contradicts(found, values_of(kept)) or not _credible(found, kept)) else found
    pairs = _pair_meanings(odd, kept, found, labels)
    return [
        _one(content, holds, found if everywhere or not holds else None, found, pairs, labels)
        for content, holds in zip(group, sound, strict=True)
    ]


def _one(
    content: Content, holds_ids: bool, reading: ValueMap | None, found: ValueMap | None, pairs: Mapping[int, set[int]], labels: LabelSet
) -> ValueMap | Refusal:
    """The reading of the set where it covers the file; else its ids or two values where they contradict nobody's; else a refusal."""
    if reading is not None and set(content.values) <= set(reading.table):
        return reading
    if holds_ids and not (found is not None and _contradicts(found, content.values)):
        return _identity(content, labels)
    pair = two_valued(content.values, labels) if labels.num_classes == 2 and not holds_ids else None
    if pair is not None and all(len(pairs.get(value, ())) == 1 for value in content.values):
        return pair
    return grey_colours(content, labels) or _refused(content, found, labels)


def _sound(group: Sequence[Content], labels: LabelSet) -> list[bool]:
    """Where all values are class ids or the ignore id, and it is no black-and-white mask whose white would silently be ignored.

    255 is taken for the ignore id in a mask without a class where most masks that hold it hold a class beside it.
    """
    legal = {*labels.classes, labels.ignore_id}
    beside, alone = _white_beside(group, labels), _white_alone(group, labels)
    white = alone if labels.ignore_id == WHITE and len(beside) <= len(alone) else set()
    return [set(content.values) <= legal and place not in white for place, content in enumerate(group)]


def _identity(content: Content, labels: LabelSet) -> ValueMap:
    said = "the stored values are read as class ids"
    if labels.ignore_id == 255 and 255 in content.values and set(content.values) <= {0, 255}:
        said = "255 is read as ignored in a mask without any class, as in other masks it stands beside classes"
    return ValueMap("ids", {value: value for value in content.values}, said)


def _contradicts(found: ValueMap, ids: Sequence[int]) -> bool:
    """True where a value would be one class here and another in the files that hold ids."""
    return any(value in found.table and found.table[value] != value for value in ids)


def _pair_meanings(odd: Sequence[Content], kept: Sequence[Content], found: ValueMap | None, labels: LabelSet) -> dict[int, set[int]]:
    """Value -> the ids it has over the files of one class that hold two values each, but not the same two (0 and 255; 0 and 128)."""
    meaning: dict[int, set[int]] = {value: {value} for value in values_of(kept)}
    for content in odd if labels.num_classes == 2 else ():
        covered = found is not None and set(content.values) <= set(found.table)
        pair = found if covered else two_valued(content.values, labels)
        if pair is not None and _credible(pair, kept):
            for value in content.values:
                meaning.setdefault(value, set()).add(pair.table[value])
    return meaning


def _credible(found: ValueMap, kept: Sequence[Content]) -> bool:
    """Two values of a set of masks may be any two; among masks that hold ids only white is another way to write a class."""
    return found.kind != "two_valued" or max(found.table) == WHITE or not any(set(content.values) - {0} for content in kept)


# --- refusing


def _refused(content: Content, found: ValueMap | None, labels: LabelSet) -> Refusal:
    """Why the values of a grey or palette file are no classes: interpolated, at odds with the set, ambiguous, or outside."""
    values = content.values
    if (reading := reading_of(content, labels, found)) is not None:
        return interpolated(content, reading)
    if found is not None and _contradicts(found, values) and set(values) <= {*labels.classes, labels.ignore_id}:
        rule = f"the mask holds ids ({names(values)}), but in the rest of the set {found.said}"
        return Refusal(found.kind, rule, "split the set by convention, or map the values with --map VALUE=CLASS")
    if set(values) <= {0, 255} or _is_pair(values, labels):
        lone = f"only {values[-1]}" if len(values) == 1 else f"only {values[0]} and {values[-1]}"
        ignored = ", which is the ignore id" if values[-1] == labels.ignore_id else ""
        classes = " or ".join(labels.foreground) if labels.num_classes < SHOWN else f"any of {labels.num_classes - 1} classes"
        rule = f"the mask holds {lone}{ignored}; {values[-1]} may mean {classes}"
        return Refusal("two_valued", rule, f"say it with --map {values[-1]}=CLASS (or {values[-1]}=ignore)")
    strays = [value for value in values if value not in {*labels.classes, labels.ignore_id}] or list(values)
    classes = f"the classes are {{0..{labels.num_classes - 1}}} and ignore is {labels.ignore_id}"
    rule = f"the mask holds ids {{{names(strays, joined=', ')}}}, {classes}"
    return Refusal("outside", rule, f"name the id in dataset.yaml, or map it with --map {strays[0]}=CLASS (or {strays[0]}=ignore)")


def _is_pair(values: Sequence[int], labels: LabelSet) -> bool:
    return labels.num_classes > 2 and len(values) == 2 and values[0] == 0 and values[1] not in {*labels.classes, labels.ignore_id}
