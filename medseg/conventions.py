"""By which convention does a mask file write its classes? Ids, black and white, grey steps, a palette's colours, RGB colours.

A file alone often cannot say: one that shows only 0 and 85 may be of a set of 0, 85, 170 and 255. So each file is boiled down to
its `Content`, and `decide` judges the whole set. What is not sure is refused with a reason, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from medseg.errors import LabelError
from medseg.images import RawMask, byte_counts
from medseg.labels import BACKGROUND, LabelSet

Kind = Literal["ids", "two_valued", "factor", "palette_colours", "colours", "interpolated", "outside"]
FileKind = Literal["grey", "palette", "colour"]
LIMIT = 4096  # distinct values kept of a file: all of any sound mask
NEAR = 16  # how far JPEG noise carries a value from the one meant, of 255
FEWEST_STRAYS = 3  # one or two values between others may be classes (a trimap's 128); blurred edges leave more
SOLID = 0.25  # a share of pixels whose four neighbours are equal to them; blurred edges have about none, classes most
BLOCK = 1 << 22  # pixels counted at a time
FEW = 10  # fewer than a tenth of the files do not change how the rest is read
WHITE = 255
SHOWN = 8
MOST = 0.75  # share of the files that show a colour, from which its index there is the set's


@dataclass(frozen=True, slots=True)
class Content:
    """What one mask file holds, cheap to keep for a whole set.

    values: the distinct grey values or palette indices, ascending; for a colour file packed 0xRRGGBB; of more than LIMIT the most
    frequent.  counts: the pixels of each.  colours: the palette's colour of each, else ().  solid: the pixels of each whose four
    neighbours are equal to them: what tells a class from a blurred edge.
    """

    kind_of_file: FileKind
    values: tuple[int, ...]
    counts: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...]
    solid: tuple[int, ...] = ()


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


# --- what a file holds


def content_of(raw: RawMask, stored: tuple[FileKind, np.ndarray] | None = None) -> Content:
    """The distinct values of a mask with their pixels. A colour image whose channels are equal counts as grey, as does a palette of
    greys whose order is the encoder's. stored: what `stored_values` gives, where the caller has it."""
    kind, values_HW = stored or stored_values(raw)
    values, counts, solid = _counted(values_HW)
    colours: tuple[tuple[int, int, int], ...] = ()
    if kind == "palette" and raw.palette is not None:
        colours = tuple(_colour_at(raw.palette, value) for value in values.tolist())
    return Content(kind, tuple(values.tolist()), tuple(counts.tolist()), colours, tuple(solid.tolist()))


def stored_values(raw: RawMask) -> tuple[FileKind, np.ndarray]:
    """(kind of file, the values that carry the meaning (H, W)): grey values, palette indices or packed colours.

    A GIF or BMP encoder numbers its colours as it likes (Pillow stores the grey values 0 and 2 in a GIF as 0 and 1), so where all
    of a palette's used colours are grey, the greys are the values; in a PNG or TIFF only where they run against the indices.
    """
    if raw.values.ndim == 3:
        red, green, blue = (raw.values[..., channel] for channel in range(3))
        if (red == green).all() and (green == blue).all():
            return "grey", red
        packed = np.empty(red.shape, np.int32)
        for top, bottom in _blocks(red):
            rows = raw.values[top:bottom].astype(np.int32)
            packed[top:bottom] = rows[..., 0] << 16 | rows[..., 1] << 8 | rows[..., 2]
        return "colour", packed
    if raw.palette is None:
        return "grey", raw.values
    if _greys_carry_the_meaning(raw):
        return "grey", _padded(raw.palette)[:, 0][raw.values]
    return "palette", raw.values


def reads_as_stored(raw: RawMask) -> bool:
    """True where `images.read_mask` gives the values that `content_of` counts, so that a file of ids may stay as it is."""
    kind, values_HW = stored_values(raw)
    return raw.values.ndim == 2 and (kind == "palette" or values_HW is raw.values or bool((values_HW == raw.values).all()))


def _greys_carry_the_meaning(raw: RawMask) -> bool:
    assert raw.palette is not None
    encoders_own = raw.format in ("GIF", "BMP")
    first = np.arange(0 if encoders_own else min(2, len(raw.palette)))
    if (raw.palette[first] != raw.palette[first, :1]).any():
        return False  # settles it for nearly every file without a look at the pixels
    used = np.union1d(np.flatnonzero(byte_counts(raw.values.astype(np.uint8, copy=False))), first)
    colours = _padded(raw.palette)[used]
    grey = (colours == colours[:, :1]).all() and len(np.unique(colours[:, 0])) == len(colours)
    if not grey or len(np.unique(raw.palette, axis=0)) < 2:
        return False
    return encoders_own or not (np.diff(colours[:, 0].astype(int)) > 0).all()


def _padded(palette: np.ndarray) -> np.ndarray:
    """uint8 (256, 3): an index beyond the palette is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette[:256]
    return table


def _colour_at(palette: np.ndarray, index: int) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in palette[index]) if 0 <= index < len(palette) else (0, 0, 0)
    return red, green, blue


def _counted(values_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distinct values, pixels, solid pixels), the most frequent LIMIT of them, ascending; by blocks of rows."""
    if values_HW.dtype == np.uint8:
        counts = byte_counts(values_HW)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = _counted_wide(values_HW)
    solid = np.zeros(len(values), np.int64)
    for top, bottom in _blocks(values_HW) if len(values) > 2 else ():  # for two values nothing lies between
        first = max(0, top - 1)
        inner = _solid(values_HW[first : bottom + 1])[top - first : bottom - first]
        met, pixels = _tally(values_HW[top:bottom][inner], None)
        solid[np.searchsorted(values, met[np.isin(met, values)])] += pixels[np.isin(met, values)]
    return values, counts, solid


def _blocks(values_HW: np.ndarray) -> Iterator[tuple[int, int]]:
    """(top, bottom) of blocks of rows of about BLOCK pixels."""
    rows = max(1, BLOCK // max(1, values_HW.shape[1]))
    return ((top, min(top + rows, len(values_HW))) for top in range(0, len(values_HW), rows))


def _counted_wide(values_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, counts = values_HW.ravel()[:0], np.zeros(0, np.int64)
    for top, bottom in _blocks(values_HW):
        block = values_HW[top:bottom].ravel()
        starts = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))  # a mask is runs: sort those, not the pixels
        lengths = np.diff(np.append(starts, len(block)))
        values, counts = _tally(np.concatenate([values, block[starts]]), np.concatenate([counts, lengths]))
        values, counts = _most_frequent(values, counts, 16 * LIMIT)
    return _most_frequent(values, counts, LIMIT)


def _tally(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if weights is None:
        distinct, counts = np.unique(values, return_counts=True)
        return distinct, counts.astype(np.int64)
    distinct, inverse = np.unique(values, return_inverse=True)
    return distinct, np.bincount(inverse, weights=weights, minlength=len(distinct)).astype(np.int64)


def _most_frequent(values: np.ndarray, counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    if len(values) <= most:
        return values, counts
    kept = np.sort(np.argsort(-counts, kind="stable")[:most])
    return values[kept], counts[kept]


def _solid(values_HW: np.ndarray) -> np.ndarray:
    """bool (H, W): pixels equal to their four neighbours; those outside the image count as equal."""
    solid = np.ones(values_HW.shape, bool)
    down, right = values_HW[1:] == values_HW[:-1], values_HW[:, 1:] == values_HW[:, :-1]
    solid[1:] &= down
    solid[:-1] &= down
    solid[:, 1:] &= right
    solid[:, :-1] &= right
    return solid


# --- what it means


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
        found = _decide_colours(group, labels) if kind == "colour" else _decide_values(group, labels)
        for place, result in zip(places, found, strict=True):
            decided[place] = _with_given(result, contents[place], fixed, labels)
    return [result for result in decided if result is not None]


def _without(content: Content, given: Mapping[int, int]) -> Content:
    """The content but for the values the user has mapped."""
    kept = [place for place, value in enumerate(content.values) if value not in given]
    if len(kept) == len(content.values):
        return content
    parts = (tuple(part[place] for place in kept) if part else () for part in (content.values, content.counts))
    values, counts = parts
    colours = tuple(content.colours[place] for place in kept) if content.colours else ()
    return Content(content.kind_of_file, values, counts, colours, tuple(content.solid[place] for place in kept) if content.solid else ())


def _with_given(result: ValueMap | Refusal, content: Content, given: Mapping[int, int], labels: LabelSet) -> ValueMap | Refusal:
    used = {value: class_id for value, class_id in given.items() if value in content.values}
    if not used:
        return result
    if isinstance(result, Refusal):
        blurred = result.kind == "outside" and _blurred(content, sorted(used), content.kind_of_file)
        return _interpolated(content, used) if blurred else result
    by_map = f"{_names(used, content.kind_of_file)} {_are(used)} read as {_meaning(used.values(), labels)} (--map)"
    return ValueMap(result.kind, {**result.table, **used}, f"{result.said}; {by_map}" if result.changes else by_map)


def _decide_values(group: Sequence[Content], labels: LabelSet) -> list[ValueMap | Refusal]:
    """Grey or palette files: a palette's colours where they say otherwise than the indices, else ids, two values or grey steps."""
    by_colour = [_palette_map(content, labels) for content in group]
    usual = _usual_indices([content for content, found in zip(group, by_colour, strict=True) if found is None])
    by_colour = [found or _by_usual(content, usual, labels) for content, found in zip(group, by_colour, strict=True)]
    rest = [content for content, found in zip(group, by_colour, strict=True) if found is None]
    clashing = _clashing_colours(rest)
    results = iter(_decide_plain(rest, labels))
    decided: list[ValueMap | Refusal] = []
    for content, found in zip(group, by_colour, strict=True):
        result = found if found is not None else next(results)
        strays = _unusual(content, usual) if found is None else []
        clash = next((colour for colour in strays if colour in clashing), None)
        decided.append(_palettes_disagree(clash, clashing) if clash is not None else result)
    return decided


def _decide_plain(group: Sequence[Content], labels: LabelSet) -> list[ValueMap | Refusal]:
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


def _decide_sure(group: Sequence[Content], labels: LabelSet) -> list[ValueMap | Refusal]:
    """Each file by its ids, by the reading of the set, or by its own two values; a file at odds with the rest spoils only itself."""
    sound = _sound(group, labels)
    if all(sound):
        return [_identity(content, labels) for content in group]
    odd = [content for content, holds in zip(group, sound, strict=True) if not holds]
    kept = [content for content, holds in zip(group, sound, strict=True) if holds]
    found, everywhere = _fit_most(group, labels) if len(odd) * FEW >= len(group) else None, True
    if found is None:
        found, everywhere = _fit_most(odd, labels), False
        found = None if found is not None and (_contradicts(found, _union(kept)) or not _credible(found, kept)) else found
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
    pair = _two_valued(content.values, labels) if labels.num_classes == 2 and not holds_ids else None
    if pair is not None and all(len(pairs.get(value, ())) == 1 for value in content.values):
        return pair
    return _grey_colours(content, labels) or _refused(content, found, labels)


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


def _union(group: Iterable[Content]) -> tuple[int, ...]:
    return tuple(sorted({value for content in group for value in content.values}))


# --- two values, grey steps


def _fit_most(group: Sequence[Content], labels: LabelSet) -> ValueMap | None:
    """The reading of all values, or failing that of those most files hold, so long as it covers more than half of the files."""
    times = Counter(value for content in group if len(content.values) <= labels.num_classes for value in content.values)
    values = [value for value, _ in sorted(times.items(), key=lambda item: (-item[1], item[0]))]
    values = values[: 2 * labels.num_classes]  # more are of damaged files
    while values:
        found = _fit(sorted(values), labels)
        if found is not None and found.changes:
            covered = sum(set(content.values) <= set(found.table) for content in group)
            return found if 2 * covered > len(group) else None
        values.pop()
    return None


def _fit(values: Sequence[int], labels: LabelSet) -> ValueMap | None:
    """The one reading of values that are no ids: two values of one class, or ids times a factor. None where there is none or two."""
    if labels.num_classes == 2:
        return _two_valued(values, labels)
    return _factor(values, labels)


def _two_valued(values: Sequence[int], labels: LabelSet) -> ValueMap | None:
    known = [0, *values] if len(values) == 1 and values[0] > 0 else list(values)
    if len(known) != 2 or known[0] < 0:
        return None
    return _told("two_valued", {known[0]: 0, known[1]: 1}, labels)


def _factor(values: Sequence[int], labels: LabelSet) -> ValueMap | None:
    """Ids times a factor, or spread evenly from 0 to 255 with rounding; only where one reading fits."""
    steps = [value for value in values if value != 0]
    if len(steps) < 2 or steps[0] < 0 or len(steps) >= labels.num_classes:
        return None
    spread = _spread(steps, labels)
    factor = int(np.gcd.reduce(steps))
    readings = [f for f in range(2, factor + 1) if factor % f == 0 and steps[-1] // f < labels.num_classes]
    table = spread or ({value: value // readings[0] for value in steps} if len(readings) == 1 else None)
    return None if table is None else _told("factor", {0: 0, **table}, labels)


def _spread(steps: Sequence[int], labels: LabelSet) -> dict[int, int] | None:
    """Value -> id for steps of 255 / (K - 1), rounded up or down; None where a value is no such step or two are the same."""
    unit = 255 / (labels.num_classes - 1)
    if unit < 3 or steps[-1] > 255:
        return None
    table = {value: round(value / unit) for value in steps}
    fits = all(abs(value - class_id * unit) < 1 for value, class_id in table.items()) and 0 not in table.values()
    return table if fits and len(set(table.values())) == len(table) else None


def _told(kind: Kind, table: dict[int, int], labels: LabelSet, file_kind: FileKind = "grey") -> ValueMap:
    return ValueMap(kind, table, f"{_names(table, file_kind)} {_are(table)} read as {_meaning(table.values(), labels)}")


def _contradicts(found: ValueMap, ids: Sequence[int]) -> bool:
    """True where a value would be one class here and another in the files that hold ids."""
    return any(value in found.table and found.table[value] != value for value in ids)


def _pair_meanings(odd: Sequence[Content], kept: Sequence[Content], found: ValueMap | None, labels: LabelSet) -> dict[int, set[int]]:
    """Value -> the ids it has over the files of one class that hold two values each, but not the same two (0 and 255; 0 and 128)."""
    meaning: dict[int, set[int]] = {value: {value} for value in _union(kept)}
    for content in odd if labels.num_classes == 2 else ():
        covered = found is not None and set(content.values) <= set(found.table)
        pair = found if covered else _two_valued(content.values, labels)
        if pair is not None and _credible(pair, kept):
            for value in content.values:
                meaning.setdefault(value, set()).add(pair.table[value])
    return meaning


def _credible(found: ValueMap, kept: Sequence[Content]) -> bool:
    """Two values of a set of masks may be any two; among masks that hold ids only white is another way to write a class."""
    return found.kind != "two_valued" or max(found.table) == WHITE or not any(set(content.values) - {0} for content in kept)


# --- colours


def legal_colours(labels: LabelSet) -> dict[int, int]:
    """Packed 0xRRGGBB -> class id or ignore id, by dataset.yaml or medseg's own palette; the lower id where two share a colour."""
    table: dict[int, int] = {}
    for class_id, name in labels.classes.items():
        table.setdefault(packed(labels.colour_of(name)), class_id)
    red, green, blue = (int(part) for part in labels.palette[labels.ignore_id])
    table.setdefault(packed((red, green, blue)), labels.ignore_id)
    return table


def packed(colour: tuple[int, int, int]) -> int:
    """0xRRGGBB of a colour.

    >>> hex(packed((255, 128, 0)))
    '0xff8000'
    """
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _palette_map(content: Content, labels: LabelSet) -> ValueMap | None:
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
    said = f"the palette's colours {_names(shown, 'colour')} {_are(shown)} read as {_meaning(shown.values(), labels)}, not its indices"
    return ValueMap("palette_colours", table, said)


def _grey_colours(content: Content, labels: LabelSet) -> ValueMap | None:
    """Greys that are colours of the labels (VOC's car is 128, 128, 128, so a colour mask of cars alone is grey); None where not."""
    stated = {**labels.colours, BACKGROUND: labels.colour_of(BACKGROUND)}
    legal = {packed(colour): labels.id_of(name) for name, colour in stated.items()}
    if labels.ignore_colour is not None:
        legal.setdefault(packed(labels.ignore_colour), labels.ignore_id)
    if content.kind_of_file != "grey" or not all(0 <= value <= WHITE and value * 0x010101 in legal for value in content.values):
        return None
    return _told("colours", {value: legal[value * 0x010101] for value in content.values}, labels)


def _usual_indices(group: Sequence[Content]) -> dict[tuple[int, int, int], int]:
    """Colour -> its index in the palettes of MOST of the files that show it; empty where two colours would have one index."""
    places: dict[tuple[int, int, int], Counter[int]] = {}
    for content in group:
        if content.colours and len(set(content.colours)) == len(content.colours) > 1:
            for value, colour in zip(content.values, content.colours, strict=True):
                places.setdefault(colour, Counter())[value] += 1
    top = {colour: indices.most_common(1)[0] for colour, indices in places.items()}
    usual = {colour: index for colour, (index, times) in top.items() if times >= MOST * places[colour].total()}
    return usual if len(set(usual.values())) == len(usual) else {}


def _unusual(content: Content, usual: Mapping[tuple[int, int, int], int]) -> list[tuple[int, int, int]]:
    """The colours of a palette file that are not where most of the set has them."""
    return [colour for value, colour in zip(content.values, content.colours, strict=False) if usual.get(colour) != value]


def _by_usual(content: Content, usual: Mapping[tuple[int, int, int], int], labels: LabelSet) -> ValueMap | None:
    """A palette file that numbers its colours otherwise than most of the set; None where it agrees, or shows another colour."""
    legal = {*labels.classes, labels.ignore_id}
    if len(set(content.colours)) < max(2, len(content.values)) or not all(usual.get(colour) in legal for colour in content.colours):
        return None
    table = {value: usual[colour] for value, colour in zip(content.values, content.colours, strict=True)}
    if all(value == class_id for value, class_id in table.items()):
        return None
    shown = _names([packed(colour) for colour in content.colours], "colour")
    said = f"the palette's colours {shown} {_are(table)} read as {_meaning(table.values(), labels)}, as in the palettes of most masks"
    return ValueMap("palette_colours", table, said)


def _clashing_colours(group: Sequence[Content]) -> dict[tuple[int, int, int], set[int]]:
    """Colours that stand at several indices over the palettes of a set: there the index cannot be the class."""
    places: dict[tuple[int, int, int], set[int]] = {}
    for content in group:
        if content.colours and len(set(content.colours)) == len(content.colours) > 1:
            for value, colour in zip(content.values, content.colours, strict=True):
                places.setdefault(colour, set()).add(value)
    return {colour: indices for colour, indices in places.items() if len(indices) > 1}


def _palettes_disagree(colour: tuple[int, int, int], clashing: Mapping[tuple[int, int, int], set[int]]) -> Refusal:
    indices = _listed(sorted(clashing[colour]))
    rule = f"the palettes of the set disagree: the colour {_hex(packed(colour))} has the indices {indices} in different files"
    return Refusal("palette_colours", rule, "name the colours in dataset.yaml (labels.colours), or export the masks with one palette")


def _decide_colours(group: Sequence[Content], labels: LabelSet) -> list[ValueMap | Refusal]:
    """RGB files: the labels' colours; for one class also black and one other colour."""
    legal = legal_colours(labels)
    union = _union(group)
    strange = [value for value in union if value not in legal]
    if strange and labels.num_classes == 2 and len(union) == 2 and union[0] == 0:
        return [_told("two_valued", {0: 0, union[1]: 1}, labels, "colour")] * len(group)
    told = _told("colours", {value: legal[value] for value in union if value in legal}, labels, "colour")
    return [told if set(content.values) <= set(legal) else _refused_colours(content, legal, labels) for content in group]


def _refused_colours(content: Content, legal: Mapping[int, int], labels: LabelSet) -> Refusal:
    reading = _colour_reading(content, labels)
    if _blurred(content, _seen(content, reading), "colour"):
        return _interpolated(content, reading)
    strays = sorted(((-count, value) for value, count in zip(content.values, content.counts, strict=True) if value not in legal))
    shown, pixels = _names([value for _, value in strays], "colour"), -sum(count for count, _ in strays)
    fix = "name them in dataset.yaml (labels.colours, labels.ignore_colour), or map them with --map '#RRGGBB=CLASS'"
    return Refusal("outside", f"the mask holds colours of no class: {shown} ({pixels:,} pixels)", fix)


def _colour_reading(content: Content, labels: LabelSet) -> dict[int, int]:
    """The legal colours, or for one class black and the most frequent colour away from it where none of the labels' is there."""
    legal = legal_colours(labels)
    if labels.num_classes > 2 or sum(value in content.values for value in legal) > 1:
        return legal
    far = [(count, value) for value, count in zip(content.values, content.counts, strict=True) if _distance(value, 0, "colour") > 4 * NEAR]
    return {0: 0, max(far)[1]: 1} if far else legal


# --- interpolated or outside

_AS_IS = "export it without interpolation and as PNG, or import with --as-is and repair by `medseg manifest check --fix`"


def _refused(content: Content, found: ValueMap | None, labels: LabelSet) -> Refusal:
    """Why the values of a grey or palette file are no classes: interpolated, at odds with the set, ambiguous, or outside."""
    values = content.values
    if (reading := _reading(content, labels, found)) is not None:
        return _interpolated(content, reading)
    if found is not None and _contradicts(found, values) and set(values) <= {*labels.classes, labels.ignore_id}:
        rule = f"the mask holds ids ({_names(values)}), but in the rest of the set {found.said}"
        return Refusal(found.kind, rule, "split the set by convention, or map the values with --map VALUE=CLASS")
    if set(values) <= {0, 255} or _is_pair(values, labels):
        lone = f"only {values[-1]}" if len(values) == 1 else f"only {values[0]} and {values[-1]}"
        ignored = ", which is the ignore id" if values[-1] == labels.ignore_id else ""
        classes = " or ".join(labels.foreground) if labels.num_classes < SHOWN else f"any of {labels.num_classes - 1} classes"
        rule = f"the mask holds {lone}{ignored}; {values[-1]} may mean {classes}"
        return Refusal("two_valued", rule, f"say it with --map {values[-1]}=CLASS (or {values[-1]}=ignore)")
    strays = [value for value in values if value not in {*labels.classes, labels.ignore_id}] or list(values)
    classes = f"the classes are {{0..{labels.num_classes - 1}}} and ignore is {labels.ignore_id}"
    rule = f"the mask holds ids {{{_names(strays, joined=', ')}}}, {classes}"
    return Refusal("outside", rule, f"name the id in dataset.yaml, or map it with --map {strays[0]}=CLASS (or {strays[0]}=ignore)")


def _interpolated(content: Content, reading: Mapping[int, int]) -> Refusal:
    kind = content.kind_of_file
    strays = [(count, value) for value, count in zip(content.values, content.counts, strict=True) if value not in reading]
    pixels = sum(count for count, _ in strays)
    legal, shown = _names(_seen(content, reading), kind), _names([value for _, value in strays], kind)
    rule = f"the mask is interpolated or JPEG-edited: besides {legal} {pixels:,} pixels hold values about and between them ({shown})"
    return Refusal("interpolated", rule, _AS_IS)


def _is_pair(values: Sequence[int], labels: LabelSet) -> bool:
    return labels.num_classes > 2 and len(values) == 2 and values[0] == 0 and values[1] not in {*labels.classes, labels.ignore_id}


def _reading(content: Content, labels: LabelSet, found: ValueMap | None = None) -> dict[int, int] | None:
    """Value -> id that an interpolated file was made from: the set's, its ids', or that of its modes; None where it is no such file."""
    modes = _modes(content)
    own = _fit(modes, labels)
    tables = [dict(reading.table) for reading in (found, own) if reading is not None]
    tables += [_steps_about(modes, labels)] if labels.num_classes > 2 else []
    if labels.num_classes > 2 and modes == [0, 255]:
        tables.append({0: 0, 255: labels.ignore_id})  # blurred for certain; which class 255 is stays open
    ids = {value: value for value in content.values if value in labels.classes or value == labels.ignore_id}
    tables.insert(0 if _shows_an_id(content, labels) else len(tables), ids)
    return next((table for table in tables if _blurred(content, _seen(content, table), content.kind_of_file)), None)


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


def _seen(content: Content, table: Mapping[int, int]) -> list[int]:
    """The keys of a reading that the file shows, be it a few levels off: JPEG stores pure red as (254, 0, 0)."""
    kind, keys = content.kind_of_file, sorted(table)
    off = min(NEAR // 4, _near(keys, kind)) if len(keys) > 1 else 0
    pairs = list(zip(content.values, content.counts, strict=True))
    total = sum(content.counts)
    return [
        key
        for key in keys
        if key in content.values or 1000 * sum(count for value, count in pairs if _distance(value, key, kind) <= off) > total
    ]


def _blurred(content: Content, legal: Sequence[int], kind: FileKind) -> bool:
    """True where most pixels hold `legal` values or ones near, and the rest is at least FEWEST_STRAYS values, none solid, between."""
    strays = [place for place, value in enumerate(content.values) if value not in legal]
    if len(legal) < 2 or len(strays) < FEWEST_STRAYS:
        return False
    near = _near(legal, kind)
    far = [place for place in strays if min(_distance(content.values[place], value, kind) for value in legal) > near]
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
    channels = zip(*(_unpacked(other) for other in legal), strict=True)
    return all(min(channel) - near <= own <= max(channel) + near for own, channel in zip(_unpacked(value), channels, strict=True))


def _unpacked(value: int) -> tuple[int, int, int]:
    return value >> 16 & 255, value >> 8 & 255, value & 255


def _distance(left: int, right: int, kind: FileKind) -> int:
    if kind != "colour":
        return abs(left - right)
    return max(abs(a - b) for a, b in zip(_unpacked(left), _unpacked(right), strict=True))


# --- converting


def convert(raw: RawMask, value_map: ValueMap) -> np.ndarray:
    """Class ids, uint8 (H, W). Raises LabelError for a value that the map does not know."""
    _, values_HW = stored_values(raw)
    return look_up(values_HW, value_map.table)


def look_up(values_HW: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """uint8 (H, W): `table[value]` for each value. Raises LabelError for one that the table does not know."""
    keys = np.array(sorted(table), np.int64)
    ids = np.array([table[int(key)] for key in keys], np.uint8)
    if values_HW.dtype == np.uint8:
        lut, known = np.zeros(256, np.uint8), np.zeros(256, bool)
        inside = (keys >= 0) & (keys < 256)
        lut[keys[inside]], known[keys[inside]] = ids[inside], True
        if (strays := byte_counts(values_HW) * ~known).any():
            raise _unknown(int(strays.nonzero()[0][0]), int(strays.sum()))
        return lut[values_HW]
    out = np.empty(values_HW.shape, np.uint8)
    for top, bottom in _blocks(values_HW):
        block = values_HW[top:bottom]
        places = np.minimum(np.searchsorted(keys, block), len(keys) - 1)
        if not (keys[places] == block).all():
            strays = block[keys[places] != block]
            raise _unknown(int(strays.flat[0]), strays.size)
        out[top:bottom] = ids[places]
    return out


def _unknown(value: int, pixels: int) -> LabelError:
    return LabelError("mask", f"the value {value} has no class ({pixels:,} pixels)", "map it with --map VALUE=CLASS")


def snap(raw: RawMask, labels: LabelSet, value_map: ValueMap | None = None) -> np.ndarray:
    """Each pixel to the class of the nearest legal value or colour, uint8 (H, W): for interpolated or JPEG-edited masks.

    value_map: the reading of the sound masks of the set; without it that of the file's own modes. Between the ids of three classes
    an interpolated edge passes through the one in the middle, which no rule can tell from a true pixel. Raises LabelError where the
    file is not an interpolated one of any convention.
    """
    kind, values_HW = stored_values(raw)
    content = content_of(raw)
    if value_map is not None:
        table = dict(value_map.table)
    elif kind == "colour":
        table = _colour_reading(content, labels)
    else:
        table = _reading(content, labels) or {}
    if not _blurred(content, sorted(_seen(content, table)), kind):
        raise LabelError("mask", "its stray values do not lie between those of the classes, so none is nearest", "draw the mask again")
    values = np.unique(values_HW)
    keys = sorted(table)
    ids = all(key == class_id for key, class_id in table.items())
    nearest = {int(value): table[_nearest(int(value), keys, kind)] for value in values}
    if ids:  # beside the ignore id: what lies between an id and 255 is no nearer to any other id
        nearest = {value: table.get(value, labels.ignore_id) for value in nearest}
    return look_up(values_HW, nearest)


def _nearest(value: int, keys: Sequence[int], kind: FileKind) -> int:
    if kind != "colour":
        return min(keys, key=lambda key: (abs(key - value), key))
    own = _unpacked(value)
    return min(keys, key=lambda key: sum((a - b) ** 2 for a, b in zip(own, _unpacked(key), strict=True)))


# --- words


def _names(values: Iterable[int], kind: FileKind = "grey", joined: str = "") -> str:
    shown = [_hex(value) if kind == "colour" else str(value) for value in values]
    if joined:
        return joined.join([*shown[:SHOWN], *(["..."] if len(shown) > SHOWN else [])])
    return _listed(shown)


def _listed(items: Sequence[object]) -> str:
    texts = [str(item) for item in items]
    if len(texts) > SHOWN:
        return ", ".join([*texts[:SHOWN], "..."])
    return " and ".join([*([", ".join(texts[:-1])] if texts[1:] else []), texts[-1]]) if texts else "none"


def _hex(value: int) -> str:
    return f"#{value:06X}"


def _are(values: Iterable[int]) -> str:
    return "is" if len(list(values)) == 1 else "are"


def _meaning(ids: Iterable[int], labels: LabelSet) -> str:
    return _listed(["ignored" if class_id == labels.ignore_id else labels.classes.get(class_id, BACKGROUND) for class_id in ids])
