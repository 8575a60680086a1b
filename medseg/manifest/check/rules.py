"""Rules that need the whole set: conventions, inversion, duplicates, splits, classes that never appear."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from medseg.conventions import Content, Kind, Refusal, ValueMap, decide
from medseg.labels import LabelSet
from medseg.manifest.check.facts import measure_by
from medseg.manifest.check.findings import Finding
from medseg.manifest.check.record import Facts
from medseg.manifest.near import SAME, Pair, near_pairs
from medseg.manifest.schema import PIXEL_PREFIX, Manifest

KIND_CODES: dict[Kind, str] = {
    "two_valued": "two-valued-mask", "factor": "factor-mask", "palette_colours": "palette-mask", "colours": "colour-mask",
    "interpolated": "interpolated-mask", "outside": "values-outside",
}  # fmt: skip
ON_BORDER = 0.5  # share of the border above which a class, not the background, encloses the picture
BLEMISHES = {"specks": "erase", "holes": "fill"}
USUAL = 0.5  # share of masks with specks (or holes) above which they belong to the set
FITS_FROM = 20  # masks from which a usual fit is known
MISFIT = 0.67  # of the median fit: of 600 tongues' masks 94 % lie below it when exchanged, 2 when right
FEW_SOUND = 0.1  # share of masks with a free border from which the others are judged by them


@dataclass(frozen=True)
class Seen:
    """A checked set: its manifest, what was seen of each row (in the manifest's order), its splits' tables by name.

    given: stored value -> class id, said by the user at the import; None where that is no longer known.
    """

    manifest: Manifest
    facts: list[Facts]
    splits: dict[str, pd.DataFrame]
    given: Mapping[int, int] | None

    @property
    def labels(self) -> LabelSet:
        """The data set's classes."""
        return self.manifest.labels

    @cached_property
    def group_of(self) -> dict[str, str]:
        """By sample: its group in the manifest."""
        return dict(zip(self.manifest.frame["sample_id"], self.manifest.frame["group_id"], strict=True))

    @cached_property
    def readings(self) -> dict[str, ValueMap | Refusal]:
        """By sample: how its mask's values become class ids, judged by the whole set."""
        with_mask = [facts for facts in self.facts if facts.content is not None]
        decided = decide([facts.content for facts in with_mask if facts.content is not None], self.labels, self.given or {})
        return {facts.sample_id: reading for facts, reading in zip(with_mask, decided, strict=True)}

    def share_with(self, code: str) -> float:
        """Share of the measured masks that have specks or holes (`code`), 0 to 1."""
        known = [facts.blemishes for facts in self.facts if facts.blemishes]
        return sum(getattr(spots, code) > 0 for spots in known) / max(1, len(known))


def of_set(seen: Seen, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Every finding that needs more than one row; rows and files are filled in by the caller."""
    yield from conventions(seen)
    yield from inverted(seen)
    yield from misfits(seen)
    yield from masks_alone(seen)
    yield from miscounted(seen)
    yield from classes_present(seen)
    parts = parts_of(seen)
    yield from duplicates(seen, parts)
    yield from duplicate_masks(seen)
    yield from near(seen, pairs, parts)
    yield from torn_groups(seen)


# --- masks


def read_by_the_set(seen: Seen) -> None:
    """Measure anew what a mask on its own is read otherwise than by the set: only the set knows what a palette's index 0 is."""
    found = seen.readings
    for facts in seen.facts:
        reading = found.get(facts.sample_id)
        if facts.content is None or reading is None:
            continue
        if isinstance(reading, Refusal):
            facts.class_px, facts.border, facts.blemishes = {}, {}, None
        elif facts.own is None or any(facts.own[value] != reading.table[value] for value in facts.content.values):
            measure_by(facts, reading.table, seen.labels)
            facts.blemishes = None


def conventions(seen: Seen) -> Iterator[Finding]:
    """Masks that are no id masks, and those whose convention is not the one of most masks."""
    found = seen.readings
    kinds = {sample: _kind(reading) for sample, reading in found.items()}
    contents = {facts.sample_id: facts.content for facts in seen.facts}
    for sample, reading in found.items():
        told = (reading.rule, _way_out(reading)) if isinstance(reading, Refusal) else (f"the mask is no id mask: {reading.said}", _CONVERT)
        for code in codes_of(reading, contents[sample], seen.labels):
            yield Finding(code, *told, sample_id=sample)
    counted = Counter(kind for kind in kinds.values() if kind not in ("interpolated", "outside"))
    if len(counted) > 1:
        most = counted.most_common(1)[0][0]
        shares = ", ".join(f"{count} {_WORDS[kind]}" for kind, count in counted.most_common())
        for sample, kind in kinds.items():
            if kind in counted and kind != most:
                rule = f"this mask holds {_WORDS[kind]}, most of the set {_WORDS[most]} ({shares})"
                yield Finding("mixed-conventions", rule, _CONVERT, sample_id=sample)


def codes_of(reading: ValueMap | Refusal, content: Content | None, labels: LabelSet) -> list[str]:
    """The findings for a reading, none for ids. A file of colours is called so even where no class is known by them; values that the
    set does not explain are outside the classes, and also what the file would be on its own (0 and 128 among ids)."""
    kind = _kind(reading)
    if content is not None and isinstance(reading, Refusal) and kind in ("outside", "two_valued"):
        if content.kind_of_file == "colour":
            return [KIND_CODES["colours"]]
        alone = _kind(decide([content], labels)[0])
        strange = kind == "outside" or content.values[-1] not in (255, labels.ignore_id)
        codes = {KIND_CODES["outside"]} if strange else set()
        return sorted(codes | {KIND_CODES[one] for one in (kind, alone) if one in KIND_CODES})
    if content is not None and content.kind_of_file == "colour" and kind == "two_valued":
        return [KIND_CODES["colours"]]
    return [KIND_CODES[kind]] if kind in KIND_CODES else []


def _way_out(refusal: Refusal) -> str:
    if refusal.kind == "interpolated":
        return "export it without interpolation and as PNG; `--fix` takes the nearest class at each pixel"
    return f"{refusal.fix}; `--fix` leaves the row unlabelled"


_CONVERT = "import the set again, which maps it, or repair it by `--fix`"
_WORDS: dict[Kind, str] = {
    "ids": "class ids", "two_valued": "two values such as 0 and 255", "factor": "ids times a factor",
    "palette_colours": "classes by palette colour", "colours": "classes by RGB colour",
    "interpolated": "values between classes", "outside": "ids of no class",
}  # fmt: skip


def _kind(reading: ValueMap | Refusal) -> Kind:
    """A map that changes nothing is one of ids, whatever led to it."""
    if isinstance(reading, Refusal):
        return reading.kind
    return reading.kind if reading.changes or reading.kind in ("colours", "palette_colours") else "ids"


def enclosing(facts: Facts) -> int:
    """The class id that holds most of the mask's border; 0 where the background does, or nothing is known."""
    if not facts.border:
        return 0
    class_id = max(facts.border, key=lambda key: facts.border[key])
    return class_id if facts.border[class_id] > ON_BORDER and class_id in facts.class_px else 0


def inverted(seen: Seen) -> Iterator[Finding]:
    """Masks whose border is held by a class while in the set it is background, and whose areas fit the set better when exchanged.

    Where most masks are so, those with a free border (a tenth of the set or more) are still taken as the sound ones; with fewer,
    the set is suspected as a whole.
    """
    known = [facts for facts in seen.facts if facts.border and any(facts.class_px.get(k) for k in seen.labels.classes if k)]
    odd = [facts for facts in known if enclosing(facts)]
    sound = [facts for facts in known if not enclosing(facts)]
    if not odd:
        return
    if len(sound) < FEW_SOUND * len(known):
        if len(known) > 1:
            yield _inverted_set(seen, known, odd)
        return
    usual = float(np.median([_foreground_share(facts) for facts in sound]))
    held = float(np.percentile([1 - facts.border.get(0, 0.0) for facts in sound], 90))
    leeway = 0.1 + 2 * max(0.0, ON_BORDER - held)  # where organs never reach the border, one around it needs no area to tell
    for facts in odd:
        class_id = enclosing(facts)
        share, exchanged = _foreground_share(facts), 1 - facts.class_px[class_id] / max(1, sum(facts.class_px.values()))
        if abs(exchanged - usual) <= abs(share - usual) + leeway:
            name = seen.labels.classes[class_id]
            rule = (
                f"the mask seems inverted: {name} holds {facts.border[class_id]:.0%} of its border and the foreground {share:.0%} of its "
                f"area; in {len(sound)} of {len(known)} masks of the set the border is background and the foreground {usual:.0%} (median)"
            )
            yield Finding("inverted-mask", rule, f"exchange background and {name}; `--fix` does it", sample_id=facts.sample_id)


def _foreground_share(facts: Facts) -> float:
    total = sum(facts.class_px.values())
    return 1 - facts.class_px.get(0, 0) / total if total else 0.0


def _inverted_set(seen: Seen, known: list[Facts], odd: list[Facts]) -> Finding:
    share = float(np.median([_foreground_share(facts) for facts in odd]))
    rule = (
        f"in {len(odd)} of {len(known)} masks a class holds the border (foreground {share:.0%} of the area): the whole set may be inverted"
    )
    return Finding("inverted-mask", rule, "look at some masks; where it is so, exchange the ids by --map at the import", file="masks")


def masks_alone(seen: Seen) -> Iterator[Finding]:
    """Empty masks, specks, holes."""
    common = {code: _told_of(seen, code) for code in BLEMISHES}
    ways_out = {
        code: f"{verb} them where they are slips" + ("" if common[code] else "; `--fix` does it") for code, verb in BLEMISHES.items()
    }
    frame = seen.manifest.frame
    volumes = set(frame.loc[frame["depth_px"].notna(), "sample_id"])
    for facts in seen.facts:
        unit = "voxel" if facts.sample_id in volumes else "pixel"
        if facts.class_px and not any(count for class_id, count in facts.class_px.items() if class_id):
            fix = "check that nothing was to be drawn; an image not yet annotated has no mask"
            yield Finding("empty-mask", "the mask shows no class at all", fix, sample_id=facts.sample_id)
        spots = facts.blemishes
        if spots and spots.specks:
            size = "each a hundredth of the largest piece of its class or less"
            rule = f"{_many(spots.specks, 'speck')} of {_many(spots.specks_px, unit)} in all, {size}{common['specks']}"
            yield Finding("specks", rule, ways_out["specks"], sample_id=facts.sample_id)
        if spots and spots.holes:
            rule = f"{_many(spots.holes, 'small hole')} of {_many(spots.holes_px, unit)} in all inside the foreground{common['holes']}"
            yield Finding("holes", rule, ways_out["holes"], sample_id=facts.sample_id)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def usual(seen: Seen, code: str) -> bool:
    """Whether most masks of the set have specks or holes: then they are the anatomy or the way of drawing, not slips."""
    return seen.share_with(code) > USUAL


def _told_of(seen: Seen, code: str) -> str:
    return f"; so have {seen.share_with(code):.0%} of the set: it may be the anatomy, `--fix` leaves it" if usual(seen, code) else ""


def misfits(seen: Seen) -> Iterator[Finding]:
    """Masks whose outline fits their photograph far worse than is usual in the set; those called inverted or empty are told by that."""
    fits = {facts.sample_id: facts.fit for facts in seen.facts if facts.fit is not None and not enclosing(facts)}
    if len(fits) < FITS_FROM:
        return
    middle = float(np.median(list(fits.values())))
    for sample, fit in fits.items():
        if fit < MISFIT * middle:
            told = f"its outline fits the photograph badly ({fit:.2f}, the set's median is {middle:.2f})"
            rule = f"{told}: it may be of another image, or shifted"
            yield Finding("mask-misfit", rule, "look at it; put the right mask in its place", sample_id=sample)


def miscounted(seen: Seen) -> Iterator[Finding]:
    """Rows whose px_ columns are not what their id mask holds: sampling and stratification read them."""
    frame = seen.manifest.frame.set_index("sample_id")
    plain = {sample for sample, reading in seen.readings.items() if _kind(reading) == "ids"}
    uncounted = set(frame.index[frame["mask_as_stored"] == "true"]) if "mask_as_stored" in frame else set()  # such an import counts nothing
    for facts in seen.facts:
        changed = any(code in ("hash-changed", "size-mismatch", "exif-orientation") for code, *_ in facts.local)
        if not facts.class_px or changed or facts.sample_id not in plain or facts.sample_id in uncounted:
            continue
        for class_id, name in seen.labels.classes.items():
            stated, found = int(frame[PIXEL_PREFIX + name][facts.sample_id]), facts.class_px[class_id]
            if stated != found:
                rule = f"px_{name} says {stated:,} pixels, the mask has {found:,}"
                yield Finding("pixels-mismatch", rule, "import the set again; `--fix` counts anew", sample_id=facts.sample_id)
                break


def classes_present(seen: Seen) -> Iterator[Finding]:
    """Classes in no mask of the set, or in none of a part of a split."""
    shown = {facts.sample_id: {class_id for class_id, count in facts.class_px.items() if count} for facts in seen.facts if facts.class_px}
    if not shown:
        return
    everywhere = set.union(*shown.values())
    for class_id, name in seen.labels.classes.items():
        if class_id and class_id not in everywhere:
            fix = "remove the class from dataset.yaml (a new version), or annotate some"
            yield Finding("class-never-present", f"no mask shows the class {name!r}", fix, file="dataset.yaml")
        elif class_id:
            yield from _missing_in_parts(seen, shown, class_id, name)


def _missing_in_parts(seen: Seen, shown: dict[str, set[int]], class_id: int, name: str) -> Iterator[Finding]:
    for split, table in seen.splits.items():
        for part, samples in table.groupby("split")["sample_id"]:
            if not any(class_id in shown.get(sample, ()) for sample in samples):
                rule = f"no image of {part} shows the class {name!r}: no score of it there means anything"
                fix = "make the split again with another seed, or annotate more"
                yield Finding("class-missing-in-split", rule, fix, file=f"splits/{split}.csv", split=split)


# --- duplicates and splits


def parts_of(seen: Seen) -> dict[str, dict[str, str]]:
    """split name -> sample id -> part, with the fold where there is one ("train fold 2")."""
    return {name: dict(zip(table["sample_id"], _parts(table), strict=True)) for name, table in seen.splits.items()}


def _parts(table: pd.DataFrame) -> list[str]:
    folds = table["fold"] if "fold" in table.columns else [""] * len(table)
    return [f"{part} fold {fold}" if fold else part for part, fold in zip(table["split"], folds, strict=True)]


def _apart(parts: dict[str, dict[str, str]], first: str, second: str) -> Iterator[tuple[str, str, str]]:
    for split, part_of in parts.items():
        one, other = part_of.get(first), part_of.get(second)
        if one and other and one != other:
            yield split, one, other


def duplicates(seen: Seen, parts: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Images of equal decoded pixels: each later one against the first, unless one group holds both, and every pair that a split parts."""
    for samples in _equal({facts.sample_id: facts.pixels for facts in seen.facts}):
        for copy in (copy for copy in samples[1:] if seen.group_of[copy] != seen.group_of[samples[0]]):
            rule = f"the same pixels as {samples[0]}"
            yield Finding(
                "duplicate",
                rule,
                "remove one of the two, or give them one group; `--fix` does the latter",
                sample_id=copy,
                others=(samples[0],),
            )
        for place, copy in enumerate(samples):
            for other in samples[:place]:
                for split, one, two in _apart(parts, copy, other):
                    rule = f"it is in {one}, and {other} with the same pixels in {two}"
                    yield Finding("duplicate-across-splits", rule, _REGROUP, sample_id=copy, others=(other,), split=split)


_ONE_GROUP = "split with --group-near-duplicates, or give them one group"
_REGROUP = "split again with --group-near-duplicates under a new name, and check that one: --split NAME"


def _equal(keys: dict[str, str | None]) -> list[list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for sample, key in keys.items():
        if key:
            found[key].append(sample)
    return [samples for samples in found.values() if len(samples) > 1]


def duplicate_masks(seen: Seen) -> Iterator[Finding]:
    """One mask, not empty, for images that differ."""
    of_image = {facts.sample_id: facts.pixels for facts in seen.facts}
    drawn = {f.sample_id: f.mask_sha256 for f in seen.facts if any(count for class_id, count in f.class_px.items() if class_id)}
    for samples in _equal(drawn):
        for copy in samples[1:]:
            if of_image[copy] != of_image[samples[0]]:
                rule = f"the same mask as {samples[0]}, whose image is another: one of the two may be copied or swapped"
                yield Finding("duplicate-mask", rule, "put the right mask in its place", sample_id=copy, others=(samples[0],))


def find_near(seen: Seen) -> list[Pair]:
    """Near-duplicate pairs of the set's readable images, exact duplicates among them."""
    readable = [facts for facts in seen.facts if facts.thumb is not None]
    if len(readable) < 2:
        return []
    with_mask = set(seen.manifest.frame.loc[seen.manifest.frame["mask"].notna(), "sample_id"])
    thumbs_NHW = np.stack([facts.thumb for facts in readable if facts.thumb is not None])
    return near_pairs([f.sample_id for f in readable], thumbs_NHW, np.array([f.sample_id in with_mask for f in readable]))


def near(seen: Seen, pairs: Sequence[Pair], parts: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Pairs that look alike without being equal, unless one group holds both: frames of one patient do. Across a split they leak."""
    of_image = {facts.sample_id: facts.pixels for facts in seen.facts}
    for pair in pairs:
        if of_image[pair.first] == of_image[pair.second]:
            continue
        sure = "the same picture" if pair.correlation > SAME else "the same subject in all likelihood"
        how = "" if pair.how == "as it is" else f", {pair.how}"
        rule = f"{sure} as {pair.first}{how} (correlation {pair.correlation:.4f})"
        if seen.group_of[pair.first] != seen.group_of[pair.second]:
            yield Finding("near-duplicate", rule, _ONE_GROUP, sample_id=pair.second, others=(pair.first,))
        for split, one, two in _apart(parts, pair.second, pair.first):
            told = f"it is in {one}, and {pair.first}, {sure}, in {two} (correlation {pair.correlation:.4f})"
            yield Finding("near-duplicate-across-splits", told, _REGROUP, sample_id=pair.second, others=(pair.first,), split=split)


def torn_groups(seen: Seen) -> Iterator[Finding]:
    """Groups, of the manifest or of the split's own table, that stand in two parts."""
    for split, table in seen.splits.items():
        told: set[str] = set()
        for groups in (table["sample_id"].map(seen.group_of), table["group_id"]):
            part = pd.Series(_parts(table), index=table.index)
            several = part.groupby(groups).nunique()
            for group in several.index[several > 1]:
                if group not in told:
                    told.add(group)
                    yield _torn(split, table, groups == group, str(group), part)


def _torn(split: str, table: pd.DataFrame, members: pd.Series, group: str, part: pd.Series) -> Finding:
    samples = tuple(str(sample) for sample in table.loc[members, "sample_id"])
    rule = f"the group {group!r} is in {' and '.join(sorted(set(part[members])))}"
    fix = "make the split again; a group is never torn"
    return Finding("group-in-two-splits", rule, fix, file=f"splits/{split}.csv", sample_id=samples[0], others=samples[1:], split=split)
