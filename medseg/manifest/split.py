"""Splits: grouped (never one patient on two sides), stratified by presence and area of the classes, seeded; or a given table.

Rows that an earlier split of the data set tests on stay in test (`lock.py`), and so does every image of their groups, unless the user
unlocks them and says why.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import pandas as pd

from medseg.errors import ManifestError, counted
from medseg.files import posix, sha256_file
from medseg.images import IMAGE_SUFFIXES
from medseg.manifest.lock import Locks, Paths, moved, read_locks, record_moved, refuse_moved, refuse_removed, unlock_reason
from medseg.manifest.schema import PIXEL_PREFIX, SPLIT_NAMES, Manifest, Split
from medseg.manifest.stratify import stratify
from medseg.manifest.table import SPLIT_HEADER, check_assignment, check_patients, read_csv, split_facts, split_path, texts, write_split
from medseg.seeding import numpy_generator

SAMPLE_KEYS = ("sample_id", "sample", "image")
GROUP_KEYS = ("group_id", "group")
FORMS = 2  # of a path in `_ends`
WIDTH, PART_WIDTH = 100, 19  # columns of a terminal, and of one part in the table of classes


# --- a new split


def make_split(
    manifest: Manifest,
    name: str,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    *,
    folds: int = 0,
    pairs: Sequence[Linked] | None = None,
    unlock: str | None = None,
) -> Split:
    """Write splits/<name>.csv with the labelled images in train, val and test by `ratios` (shares of images, adding up to 1).

    folds: with K >= 2 all rows outside test are train, and each is in one of K folds; the ratio of val goes to train.
    pairs: near duplicates; the groups they link are joined, also through unlabelled images.  unlock: why rows that earlier splits test
    on may leave test. Without it they stay there, groups that no earlier split lists are dealt by all ratios, and the rest by those of
    train and val. Raises ManifestError where a part with a ratio over 0 would have no image, another split of that name exists, or a
    split was removed whose ledger says that it fixed other test rows.
    """
    path = split_path(manifest, name)
    reason, shares = unlock_reason(unlock), _shares(ratios, folds)
    facts: dict[str, object] = {"seed": seed, "ratios": "/".join(f"{ratio:g}" for ratio in ratios)}
    facts |= {"folds": folds} if folds else {}
    everyone = manifest.frame[["sample_id", "group_id"]].astype({"group_id": "str"})
    if pairs is not None:
        joined, united = joined_groups(_by_sample(everyone, "group_id"), pairs)
        everyone, facts = everyone.assign(group_id=everyone["sample_id"].map(joined)), facts | united
    rows = _labelled(everyone, manifest, path)
    groups, locks = _groups_of(rows, manifest), read_locks(manifest, path)
    part_G, moved_rows, kept = _parts(groups, rows, everyone, shares, seed, locks, reason, path)
    frame = rows.assign(split=_of_group(rows, groups, part_G))
    if folds:
        frame["fold"] = _of_group(rows, groups, _folds(groups, part_G, folds, seed, path))
    facts |= {"kept_test": kept} if kept else {}
    return _write(manifest, name, frame, facts, locks, moved_rows, reason)


def _labelled(everyone: pd.DataFrame, manifest: Manifest, path: Path) -> pd.DataFrame:
    rows = everyone[manifest.frame["mask"].notna()]
    if rows.empty:
        rule = f"no labelled image among the {len(manifest)} of {manifest.folder}"
        raise ManifestError(path, rule, "annotate some and import them again")
    return rows


def _write(
    manifest: Manifest,
    name: str,
    frame: pd.DataFrame,
    facts: Mapping[str, object],
    locks: Locks,
    moved_rows: Mapping[str, Paths],
    reason: str | None,
) -> Split:
    """Write the split, with the reason for which rows of test have moved or a removed split is given up; the ledgers are told once."""
    path = split_path(manifest, name)
    new = not path.exists()
    gone = locks.lost(texts(frame.loc[frame["split"] == "test", "sample_id"])) if new else {}
    if not reason:
        refuse_removed(gone)
    unlocked = {"unlock_test": reason} if reason and (moved_rows or gone or _states(path, reason)) else {}
    split = write_split(manifest, name, frame, {**facts, **unlocked})
    if new and reason:
        record_moved(moved_rows, gone, reason, split.path)
    return split


def _states(path: Path, reason: str) -> bool:
    """Whether the split stands and gives this reason: what it gave up by it is settled, and no longer seen."""
    first_line = path.read_bytes().partition(b"\n")[0].decode(errors="replace") if path.exists() else ""
    return first_line.startswith(SPLIT_HEADER + ";") and split_facts(first_line, path).get("unlock_test") == reason.replace(";", ",")


def _shares(ratios: Sequence[float], folds: int) -> dict[str, float]:
    """The share of each part that is to have images."""
    good = len(ratios) == len(SPLIT_NAMES) and all(0 <= ratio <= 1 for ratio in ratios) and abs(sum(ratios) - 1) < 1e-6
    if not good:
        rule = f"three shares for {', '.join(SPLIT_NAMES)} that add up to 1, got {list(ratios)}"
        raise ManifestError("--ratios", rule, "such as 0.7 0.1 0.2")
    if folds < 0 or folds == 1 or (folds and ratios[0] + ratios[1] == 0):
        raise ManifestError("--folds", f"at least 2 folds of rows outside test, got {folds} with ratios {list(ratios)}", "such as 5")
    train, val, test = ratios
    shares = {"train": train + val, "val": 0.0, "test": test} if folds else {"train": train, "val": val, "test": test}
    return {part: share for part, share in shares.items() if share > 0}


@dataclass(frozen=True, slots=True)
class _Groups:
    """Groups by name: their images that show each foreground class (G, K - 1), its pixels (G, K - 1), their images (G)."""

    names: np.ndarray
    shown_GK: np.ndarray
    area_GK: np.ndarray
    images_G: np.ndarray

    def where(self, chosen_G: np.ndarray) -> _Groups:
        return _Groups(self.names[chosen_G], self.shown_GK[chosen_G], self.area_GK[chosen_G], self.images_G[chosen_G])


def _groups_of(rows: pd.DataFrame, manifest: Manifest) -> _Groups:
    codes, names = pd.factorize(rows["group_id"], sort=True)
    pixels = manifest.frame.loc[rows.index, [PIXEL_PREFIX + name for name in manifest.labels.foreground]]
    columns = [pixels[name].fillna(0).to_numpy("int64") for name in pixels]
    shown = [np.bincount(codes, weights=column > 0, minlength=len(names)) for column in columns]
    area = [np.bincount(codes, weights=column, minlength=len(names)) for column in columns]
    return _Groups(np.asarray(names, object), np.stack(shown, 1).astype("int64"), np.stack(area, 1), np.bincount(codes))


def _of_group(rows: pd.DataFrame, groups: _Groups, value_G: np.ndarray) -> pd.Series:
    return rows["group_id"].map(pd.Series(value_G, index=groups.names))


def _parts(
    groups: _Groups,
    rows: pd.DataFrame,
    everyone: pd.DataFrame,
    shares: Mapping[str, float],
    seed: int,
    locks: Locks,
    reason: str | None,
    path: Path,
) -> tuple[np.ndarray, dict[str, Paths], int]:
    """The part of each group, the test rows moved (only by `reason`), and how many test rows of earlier splits were kept.

    everyone: `rows` and the unlabelled ones, through which an earlier test set holds the new images of a patient too.
    """
    part_G = _dealt(groups, shares, seed, path)
    if not locks.test:
        return part_G, {}, 0
    group_of = _by_sample(everyone, "group_id")
    locked = locks.with_groups(group_of)
    moved_rows = moved(locked, _by_sample(rows.assign(split=_of_group(rows, groups, part_G)), "split"))
    if not moved_rows or reason:
        return part_G, moved_rows, 0
    of_test, known = _holding(groups, group_of, locked), _holding(groups, group_of, locks.known)
    part_G = np.full(len(groups.names), "test", object)
    _fill(part_G, groups, known & ~of_test, {part: share for part, share in shares.items() if part != "test"}, seed)
    _fill(part_G, groups, ~known & ~of_test, shares, seed)
    lacking = [part for part in shares if part not in part_G]
    if lacking:
        rule = f"the {int((~of_test).sum())} group(s) outside the test set of earlier splits cannot fill {', '.join(lacking)}"
        raise ManifestError(path, rule, "add groups, set a ratio to 0, or pass --unlock-test REASON")
    return part_G, {}, sum(sample in locked for sample in texts(rows["sample_id"]))


def _by_sample(rows: pd.DataFrame, column: str) -> dict[str, str]:
    return dict(zip(texts(rows["sample_id"]), texts(rows[column]), strict=True))


def _holding(groups: _Groups, group_of: Mapping[str, str], samples: Container[str]) -> np.ndarray:
    """Which groups hold one of `samples`."""
    held = {group for sample, group in group_of.items() if sample in samples}
    return np.array([name in held for name in groups.names], bool)


def _dealt(groups: _Groups, shares: Mapping[str, float], seed: int, path: Path) -> np.ndarray:
    if len(groups.names) < len(shares):
        rule = f"{len(groups.names)} group(s) cannot fill {', '.join(shares)}: a split with no image"
        raise ManifestError(path, rule, "add groups, or set a ratio to 0")
    part_G = np.full(len(groups.names), "", object)
    _fill(part_G, groups, np.full(len(groups.names), True), shares, seed)
    return part_G


def _fill(part_G: np.ndarray, groups: _Groups, chosen_G: np.ndarray, shares: Mapping[str, float], seed: int) -> None:
    """Deal the chosen groups to the parts of `shares`, written into `part_G`."""
    if not chosen_G.any():
        return
    some, shares_P = groups.where(chosen_G), np.array(list(shares.values())) / sum(shares.values())
    index_G = stratify(some.shown_GK, some.images_G, shares_P, numpy_generator(seed, "split"), some.area_GK)
    part_G[chosen_G] = np.array(list(shares), object)[index_G]


def _folds(groups: _Groups, part_G: np.ndarray, folds: int, seed: int, path: Path) -> np.ndarray:
    """The fold of each group as text, '' for those of test."""
    outside = part_G != "test"
    if outside.sum() < folds:
        raise ManifestError(path, f"{int(outside.sum())} group(s) outside test cannot fill {folds} folds", "ask for fewer folds")
    some, fold_G = groups.where(outside), np.full(len(part_G), "", object)
    index_G = stratify(some.shown_GK, some.images_G, np.full(folds, 1 / folds), numpy_generator(seed, "folds"), some.area_GK)
    fold_G[outside] = [str(index) for index in index_G]
    return fold_G


# --- near duplicates


class Linked(Protocol):
    """Two samples that show nearly the same image."""

    @property
    def first(self) -> str: ...
    @property
    def second(self) -> str: ...


def joined_groups(group_of: Mapping[str, str], pairs: Sequence[Linked]) -> tuple[dict[str, str], dict[str, int]]:
    """The group of each sample after groups with near duplicates of each other are joined, and how many pairs and clusters there are.

    A joined group has the smallest name of those it unites. Pairs with a sample that `group_of` lacks do not count: give it every sample
    of the manifest, because an unlabelled image may link two labelled ones.
    """
    parent = {group: group for group in group_of.values()}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    counted = [pair for pair in pairs if pair.first in group_of and pair.second in group_of]
    for pair in counted:
        low, high = sorted((root(group_of[pair.first]), root(group_of[pair.second])))
        parent[high] = low
    united = {root(group) for group in parent if root(group) != group}
    facts = {"near_duplicate_pairs": len(counted), "near_duplicate_clusters": len(united)}
    return {sample: root(group) for sample, group in group_of.items()}, facts


# --- a given split


def given_split(manifest: Manifest, name: str, table: Path, unlock: str | None = None) -> tuple[Split, list[str]]:
    """Take over a CSV with a split per sample or image as splits/<name>.csv; returns the split and warnings.

    unlock: why rows that earlier splits test on, or rows of their groups, may be in train or val; without it they are refused.

    Its columns: one of sample_id, sample, image (a path, matched by its end), `split` (train, val, test) and perhaps group or
    group_id, which then replaces the manifest's. Raises ManifestError naming the row, the rule and the way out.
    """
    path, reason, raw = split_path(manifest, name), unlock_reason(unlock), _given_table(table)
    key = next((column for column in SAMPLE_KEYS if column in raw.columns), None)
    if key is None or "split" not in raw.columns:
        rule = f"needs a column of {', '.join(SAMPLE_KEYS)} and the column split, got {list(raw.columns)}"
        raise ManifestError(table, rule, "rename the columns")
    _check_parts(raw, key, table)
    sample = _match_images(raw[key], manifest, table) if key == "image" else _match_samples(raw[key], manifest)
    if sample.isna().all():
        rule = f"none of its {counted(len(raw), 'row')} names a sample of {manifest.folder} (first: {raw[key].iloc[0]!r})"
        raise ManifestError(table, rule, f"its {key} column must hold {'image paths' if key == 'image' else 'sample ids'} of the manifest")
    _check_once(sample, raw[key], table)
    rows = raw[["split", *(["fold"] if "fold" in raw else [])]].assign(sample_id=sample, group_id=_groups(raw, sample, manifest))
    labelled = set(manifest.frame.loc[manifest.frame["mask"].notna(), "sample_id"])
    kept = rows[rows["sample_id"].isin(labelled)]
    warnings = [*_warnings(raw[key], sample, kept, labelled), *_empty_parts(kept)]
    if kept.empty:
        raise ManifestError(table, "every image it lists is unlabelled: a split with no image", "annotate some and import them again")
    check_assignment(kept, table, manifest, first_line=0)
    check_patients(kept, table, manifest)
    locks = read_locks(manifest, path)
    moved_rows = moved(locks.with_groups(_by_sample(manifest.frame, "group_id")), _by_sample(kept, "split")) if locks.test else {}
    if not reason:
        refuse_moved(moved_rows, table)
    facts = {"from": table.name, "from_sha256": sha256_file(table)}
    return _write(manifest, name, kept, facts, locks, moved_rows, reason), warnings


def _given_table(table: Path) -> pd.DataFrame:
    """The rows under the numbers of their lines; the folds of a split of ours are kept, a foreign column of that name is not."""
    if not table.is_file():
        raise ManifestError(table, "there is no such file", "check --from")
    content = table.read_bytes()
    ours = content.startswith(SPLIT_HEADER.encode() + b";")
    raw = read_csv(content.partition(b"\n")[2] if ours else content, table)
    if raw.empty:
        raise ManifestError(table, "the table has no row", "list each image with its split")
    raw.index = pd.RangeIndex(2 + ours, 2 + ours + len(raw))
    return raw if ours else raw.drop(columns="fold", errors="ignore")


def _check_parts(raw: pd.DataFrame, key: str, table: Path) -> None:
    unknown = ~raw["split"].isin(SPLIT_NAMES)
    if unknown.any():
        position = int(unknown.to_numpy().argmax())
        where = f"{table} row {raw.index[position]} ({raw[key].iloc[position]})"
        raise ManifestError(where, f"unknown split {raw['split'].iloc[position]!r}", f"use one of {', '.join(SPLIT_NAMES)}")


def _match_samples(keys: pd.Series, manifest: Manifest) -> pd.Series:
    """The sample each key names, missing where the manifest has none."""
    turned = keys.map(posix)
    return turned.where(turned.isin(manifest.frame["sample_id"]))


def _match_images(keys: pd.Series, manifest: Manifest, table: Path) -> pd.Series:
    """The sample whose image path ends with the whole key, or else whose whole image path the key ends with; suffixes may differ."""
    by_end: dict[str, set[str]] = {}
    by_path: dict[str, set[str]] = {}
    for sample, image in zip(manifest.frame["sample_id"], manifest.frame["image"], strict=True):
        for end in _ends(str(image)):
            by_end.setdefault(end, set()).add(str(sample))
        for path in _ends(str(image))[:FORMS]:
            by_path.setdefault(path, set()).add(str(sample))
    found = []
    for line, key in keys.items():
        ends = _ends(str(key))
        samples = next((by_end[whole] for whole in ends[:FORMS] if whole in by_end), None) or next(
            (by_path[end] for end in ends if end in by_path), set()
        )
        if len(samples) > 1:
            rule = f"{key!r} fits several samples: {', '.join(sorted(samples)[:3])}"
            raise ManifestError(f"{table} row {line}", rule, "write the image path as the manifest does")
        found.append(next(iter(samples), None))
    return pd.Series(found, index=keys.index, dtype="str")


def _ends(image: str) -> list[str]:
    """A path and its ends, longest first, each in FORMS ways: with the suffix of an image, and without it.

    >>> _ends("a/b.1.png")
    ['a/b.1.png', 'a/b.1', 'b.1.png', 'b.1']
    """
    parts = [part for part in PurePosixPath(posix(image)).parts if part not in ("/", ".", "..")]
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return [form for end in ends for form in (end, _without_image_suffix(end))]


def _without_image_suffix(path: str) -> str:
    return path[: -len(PurePosixPath(path).suffix)] if path.lower().endswith(IMAGE_SUFFIXES) else path


def _check_once(sample: pd.Series, keys: pd.Series, table: Path) -> None:
    repeated = sample.notna() & sample.duplicated()
    if repeated.any():
        position = int(repeated.to_numpy().argmax())
        rule = f"the sample {sample.iloc[position]!r} is listed twice"
        raise ManifestError(f"{table} row {keys.index[position]} ({keys.iloc[position]})", rule, "keep one of the rows")


def _groups(raw: pd.DataFrame, sample: pd.Series, manifest: Manifest) -> pd.Series:
    column = next((column for column in GROUP_KEYS if column in raw.columns), None)
    if column is not None:
        return raw[column]
    return sample.map(manifest.frame.set_index("sample_id")["group_id"])


def _warnings(keys: pd.Series, sample: pd.Series, kept: pd.DataFrame, labelled: set[str]) -> list[str]:
    unknown = keys[sample.isna()].tolist()
    plain = sample[sample.notna() & ~sample.isin(labelled)].tolist()
    unlisted = sorted(labelled - set(kept["sample_id"]))
    told = (
        (unknown, "listed, but not in the manifest"),
        (plain, "listed, but unlabelled: left out"),
        (unlisted, "labelled, but not listed: in no part, neither trained on nor scored"),
    )
    return [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" for names, what in told if names]


def _empty_parts(kept: pd.DataFrame) -> list[str]:
    """A warning on parts that got no row; of a split with folds, whichever is chosen is val."""
    folded = "fold" in kept and (kept["fold"].fillna("") != "").any()
    empty = [part for part in SPLIT_NAMES if part not in set(kept["split"]) and not (part == "val" and folded)]
    return [f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty: no labelled row is listed there"] if empty else []


# --- looking at a split


def describe(manifest: Manifest, split: Split) -> pd.DataFrame:
    """One row a part and one a fold: images, groups, the share of images (and the one asked for), and for each class the images
    that show it, its pixels, and its share of all counted pixels (0 to 1)."""
    pixels = manifest.frame[["sample_id", *(PIXEL_PREFIX + name for name in manifest.labels.names)]]
    joined = split.frame.merge(pixels, on="sample_id")
    asked = _asked(split)
    chosen = {part: joined["split"] == part for part in SPLIT_NAMES}
    chosen |= {f"fold {index}": joined["fold"] == str(index) for index in range(split.folds)}
    present = {name: rows for name, rows in chosen.items() if rows.any()}
    return pd.DataFrame([_described(name, joined[rows], len(joined), asked, manifest) for name, rows in present.items()])


def _asked(split: Split) -> dict[str, float]:
    """The share of images asked for, by part and fold; nothing for a given table."""
    try:
        train, val, test = (float(ratio) for ratio in split.facts.get("ratios", "").split("/"))
    except ValueError:
        return {}
    if not split.folds:
        return {"train": train, "val": val, "test": test}
    return {"train": train + val, "test": test} | {f"fold {index}": (train + val) / split.folds for index in range(split.folds)}


def _described(name: str, rows: pd.DataFrame, total: int, asked: Mapping[str, float], manifest: Manifest) -> dict[str, object]:
    pixels = {label: rows[PIXEL_PREFIX + label].fillna(0).astype("int64") for label in manifest.labels.names}
    counted = sum(int(column.sum()) for column in pixels.values())
    line: dict[str, object] = {"split": name, "images": len(rows), "groups": rows["group_id"].nunique(), "share": len(rows) / total}
    if asked:
        line["asked"] = asked.get(name, 0.0)
    for label in manifest.labels.foreground:
        line[f"images_{label}"] = int((pixels[label] > 0).sum())
        line[f"pixels_{label}"] = int(pixels[label].sum())
        line[f"share_{label}"] = int(pixels[label].sum()) / counted if counted else float("nan")
    return line


def summary(manifest: Manifest, split: Split) -> str:
    """What `describe` finds, for a terminal: one line a part, and one a class; up to WIDTH columns wide, the parts further down beyond."""
    table = describe(manifest, split)
    head = table[[column for column in ("split", "images", "groups", "share", "asked") if column in table]]
    classes, parts = manifest.labels.foreground, table["split"].tolist()
    records = dict(zip(parts, table.to_dict("records"), strict=True))
    shown = {(part, "images"): [record[f"images_{name}"] for name in classes] for part, record in records.items()}
    pixels = {(part, "pixels"): [_percent(record[f"share_{name}"]) for name in classes] for part, record in records.items()}
    both = pd.DataFrame(shown | pixels, index=pd.Index(classes))
    at_once = max(1, (WIDTH - max(map(len, classes))) // PART_WIDTH)
    blocks = [both[parts[start : start + at_once]].to_string() for start in range(0, len(parts), at_once)]
    told = "images that show a class, and its share of the pixels:"
    return "\n\n".join([head.to_string(index=False, float_format="{:.4f}".format), told, *blocks])


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{100 * share:.3g} %"


def remarks(split: Split) -> list[str]:
    """What the user should know of how a split came about, from its first line."""
    facts = split.facts
    kept, pairs, joined = (facts.get(key, "") for key in ("kept_test", "near_duplicate_pairs", "near_duplicate_clusters"))
    stay = f"{counted(kept, 'row')} {'stays' if kept == '1' else 'stay'} in test because an earlier split of this data set tests on"
    told = {
        "folds": f"{facts.get('folds')} folds: the ratio of val went to train; a fold is val when it is chosen",
        "kept_test": f"{stay} {'it or on its group' if kept == '1' else 'them or on their groups'}",
        "near_duplicate_pairs": f"{counted(pairs, 'pair')} of near duplicates, {counted(joined, 'group')} joined from several",
        "unlock_test": f"the test rows of earlier splits were unlocked: {facts.get('unlock_test')}; "
        "the next split keeps in test what any split has there, the earlier ones as well as this",
    }
    return [text for key, text in told.items() if key in facts]
