"""Colours of a palette or of RGB pixels: the labels' own, those of most of the set, and palettes that disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from medseg.conventions.blur import NEAR, distance, interpolated, is_blurred, seen
from medseg.conventions.content import WHITE, Content, packed, values_of
from medseg.conventions.readings import Refusal, ValueMap, are, hexed, listed, mapped, meanings, names
from medseg.labels import BACKGROUND, LabelSet

MOST = 0.75  # share of the files that show a colour, from which its index there is the set's


def legal_colours(labels: LabelSet) -> dict[int, int]:
    """Packed 0xRRGGBB -> class id or ignore id, by dataset.yaml or medseg's own palette; the lower id where two share a colour."""
    table: dict[int, int] = {}
    for class_id, name in labels.classes.items():
        table.setdefault(packed(labels.colour_of(name)), class_id)
    red, green, blue = (int(part) for part in labels.palette[labels.ignore_id])
    table.setdefault(packed((red, green, blue)), labels.ignore_id)
    return table


# --- palettes


def palette_map(content: Content, labels: LabelSet) -> ValueMap | None:
    """A palette file whose colours are the labels' and whose indices are not their ids; None where the indices are to be read.

    Colours that are all background say nothing: a palette may be black all over.
    """
    legal = legal_colours(labels)
    keys = [packed(colour) for colour in content.colours]
    if not keys or len(set(keys)) < len(keys) or not all(key in legal for key in keys):
        return None
    table = {value: legal[key] for value, key in zip(content.values, keys, strict=True)}
    if all(value == class_id for value, class_id in table.items()) or set(table.values()) == {0}:
        return None
    shown = {key: legal[key] for key in keys}
    said = f"the palette's colours {names(shown, 'colour')} {are(shown)} read as {meanings(shown.values(), labels)}, not its indices"
    return ValueMap("palette_colours", table, said)


def grey_colours(content: Content, labels: LabelSet) -> ValueMap | None:
    """Greys that are colours of the labels (VOC's car is 128, 128, 128, so a colour mask of cars alone is grey); None where not."""
    stated = {**labels.colours, BACKGROUND: labels.colour_of(BACKGROUND)}
    legal = {packed(colour): labels.id_of(name) for name, colour in stated.items()}
    if labels.ignore_colour is not None:
        legal.setdefault(packed(labels.ignore_colour), labels.ignore_id)
    if content.kind_of_file != "grey" or not all(0 <= value <= WHITE and value * 0x010101 in legal for value in content.values):
        return None
    return mapped("colours", {value: legal[value * 0x010101] for value in content.values}, labels)


def usual_indices(group: Sequence[Content]) -> dict[tuple[int, int, int], int]:
    """Colour -> its index in the palettes of MOST of the files that show it; empty where two colours would have one index."""
    places = _places(group)
    top = {colour: indices.most_common(1)[0] for colour, indices in places.items()}
    usual = {colour: index for colour, (index, times) in top.items() if times >= MOST * places[colour].total()}
    return usual if len(set(usual.values())) == len(usual) else {}


def unusual(content: Content, usual: Mapping[tuple[int, int, int], int]) -> list[tuple[int, int, int]]:
    """The colours of a palette file that are not where most of the set has them."""
    return [colour for value, colour in zip(content.values, content.colours, strict=False) if usual.get(colour) != value]


def by_usual(content: Content, usual: Mapping[tuple[int, int, int], int], labels: LabelSet) -> ValueMap | None:
    """A palette file that numbers its colours otherwise than most of the set; None where it agrees, or shows another colour."""
    legal = {*labels.classes, labels.ignore_id}
    if len(set(content.colours)) < max(2, len(content.values)) or not all(usual.get(colour) in legal for colour in content.colours):
        return None
    table = {value: usual[colour] for value, colour in zip(content.values, content.colours, strict=True)}
    if all(value == class_id for value, class_id in table.items()):
        return None
    shown = names([packed(colour) for colour in content.colours], "colour")
    said = f"the palette's colours {shown} {are(table)} read as {meanings(table.values(), labels)}, as in the palettes of most masks"
    return ValueMap("palette_colours", table, said)


def clashing_colours(group: Sequence[Content]) -> dict[tuple[int, int, int], set[int]]:
    """Colours that stand at several indices over the palettes of a set: there the index cannot be the class."""
    return {colour: set(indices) for colour, indices in _places(group).items() if len(indices) > 1}


def _places(group: Sequence[Content]) -> dict[tuple[int, int, int], Counter[int]]:
    """Colour -> how many files have it at which index; files of one colour, or of one colour at two indices, say nothing."""
    places: dict[tuple[int, int, int], Counter[int]] = {}
    for content in group:
        if len(set(content.colours)) == len(content.colours) > 1:
            for value, colour in zip(content.values, content.colours, strict=True):
                places.setdefault(colour, Counter())[value] += 1
    return places


def palettes_disagree(colour: tuple[int, int, int], clashing: Mapping[tuple[int, int, int], set[int]]) -> Refusal:
    """Why a palette file with `colour` is refused: in other files the colour has another index."""
    indices = listed(sorted(clashing[colour]))
    rule = f"the palettes of the set disagree: the colour {hexed(packed(colour))} has the indices {indices} in different files"
    return Refusal("palette_colours", rule, "name the colours in dataset.yaml (labels.colours), or export the masks with one palette")


# --- RGB pixels


def decide_colours(group: Sequence[Content], labels: LabelSet) -> list[ValueMap | Refusal]:
    """RGB files: the labels' colours; for one class also black and one other colour."""
    legal = legal_colours(labels)
    union = values_of(group)
    strange = [value for value in union if value not in legal]
    if strange and labels.num_classes == 2 and len(union) == 2 and union[0] == 0:
        return [mapped("two_valued", {0: 0, union[1]: 1}, labels, "colour")] * len(group)
    told = mapped("colours", {value: legal[value] for value in union if value in legal}, labels, "colour")
    return [told if set(content.values) <= set(legal) else _refused_colours(content, legal, labels) for content in group]


def _refused_colours(content: Content, legal: Mapping[int, int], labels: LabelSet) -> Refusal:
    reading = colour_reading(content, labels)
    if is_blurred(content, seen(content, reading)):
        return interpolated(content, reading)
    strays = sorted(((-count, value) for value, count in zip(content.values, content.counts, strict=True) if value not in legal))
    shown, pixels = names([value for _, value in strays], "colour"), -sum(count for count, _ in strays)
    fix = "name them in dataset.yaml (labels.colours, labels.ignore_colour), or map them with --map '#RRGGBB=CLASS'"
    return Refusal("outside", f"the mask holds colours of no class: {shown} ({pixels:,} pixels)", fix)


def colour_reading(content: Content, labels: LabelSet) -> dict[int, int]:
    """The legal colours, or for one class black and the most frequent colour away from it where none of the labels' is there."""
    legal = legal_colours(labels)
    if labels.num_classes > 2 or sum(value in content.values for value in legal) > 1:
        return legal
    far = [(count, value) for value, count in zip(content.values, content.counts, strict=True) if distance(value, 0, "colour") > 4 * NEAR]
    return {0: 0, max(far)[1]: 1} if far else legal
