"""The verdict on a set: each file's values, those the user has mapped apart, by what the set as a whole holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from medseg.conventions.blur import interpolated, is_blurred
from medseg.conventions.colours import by_usual, clashing_colours, decide_colours, palette_map, palettes_disagree, unusual, usual_indices
from medseg.conventions.content import Content
from medseg.conventions.readings import Kind, Refusal, ValueMap, are, meanings, names
from medseg.conventions.values import decide_plain
from medseg.labels import LabelSet

Item = TypeVar("Item")


def classify(content: Content, labels: LabelSet) -> Kind:
    """By which convention one file on its own writes its classes."""
    return decide([content], labels)[0].kind


def decide(contents: Sequence[Content], labels: LabelSet, given: Mapping[int, int] | None = None) -> list[ValueMap | Refusal]:
    """For each file of a set how its values become class ids, or why they cannot.

    The files of one kind (grey, palette, colour) are judged by the union of their values. given: stored value (or packed colour)
    -> class id or ignore id, said by the user; it wins.
    """
    fixed = dict(given or {})
    decided: list[ValueMap | Refusal | None] = [None] * len(contents)
    for kind in ("grey", "palette", "colour"):
        places = [place for place, content in enumerate(contents) if content.kind_of_file == kind]
        group = [_without(contents[place], fixed) for place in places]
        found = decide_colours(group, labels) if kind == "colour" else _decide_values(group, labels)
        for place, result in zip(places, found, strict=True):
            decided[place] = _with_given(result, contents[place], fixed, labels)
    return [result for result in decided if result is not None]


def _without(content: Content, given: Mapping[int, int]) -> Content:
    """The content but for the values the user has mapped."""
    kept = [place for place, value in enumerate(content.values) if value not in given]
    if len(kept) == len(content.values):
        return content

    def of(part: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(part[place] for place in kept) if part else ()

    return Content(content.kind_of_file, of(content.values), of(content.counts), of(content.colours), of(content.solid))


def _with_given(result: ValueMap | Refusal, content: Content, given: Mapping[int, int], labels: LabelSet) -> ValueMap | Refusal:
    used = {value: class_id for value, class_id in given.items() if value in content.values}
    if not used:
        return result
    if isinstance(result, Refusal):
        blurred = result.kind == "outside" and is_blurred(content, sorted(used))
        return interpolated(content, used) if blurred else result
    by_map = f"{names(used, content.kind_of_file)} {are(used)} read as {meanings(used.values(), labels)} (--map)"
    return ValueMap(result.kind, {**result.table, **used}, f"{result.said}; {by_map}" if result.changes else by_map)


def _decide_values(group: Sequence[Content], labels: LabelSet) -> list[ValueMap | Refusal]:
    """Grey or palette files: a palette's colours where they say otherwise than the indices, else ids, two values or grey steps."""
    by_colour = [palette_map(content, labels) for content in group]
    usual = usual_indices([content for content, found in zip(group, by_colour, strict=True) if found is None])
    by_colour = [found or by_usual(content, usual, labels) for content, found in zip(group, by_colour, strict=True)]
    rest = [content for content, found in zip(group, by_colour, strict=True) if found is None]
    clashing = clashing_colours(rest)
    results = iter(decide_plain(rest, labels))
    decided: list[ValueMap | Refusal] = []
    for content, found in zip(group, by_colour, strict=True):
        result = found if found is not None else next(results)
        strays = unusual(content, usual) if found is None else []
        clash = next((colour for colour in strays if colour in clashing), None)
        decided.append(palettes_disagree(clash, clashing) if clash is not None else result)
    return decided
