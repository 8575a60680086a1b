"""The locked test set: a row that any split of a data set has put into test stays there, in later splits and later versions.

A data set's splits are those of its folder and, where that folder is a version (v1, v2, ...), those of its sister versions. A row is
known again by the hash of its image, or by its sample id where the image itself has changed. An earlier split that was edited is
refused; of one that was removed, the ledger still says that it fixed test rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pandas as pd

from medseg.errors import ManifestError
from medseg.manifest.ledger import SUFFIX, Fixed, fixed_rows, record_unlock, rows_digest
from medseg.manifest.schema import Manifest
from medseg.manifest.table import MANIFEST_FILE, SPLITS_FOLDER, among, check_unedited, read_csv, split_facts, texts

Paths = tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Locks:
    """What earlier splits say of a manifest's rows. test: sample id -> the splits that test on it.  known: every sample a split lists.
    removed: splits that are gone -> the test rows that their ledgers say they fixed."""

    test: Mapping[str, Paths]
    known: frozenset[str]
    removed: Mapping[Path, Fixed] = field(default_factory=dict)

    def with_groups(self, group_of: Mapping[str, str]) -> dict[str, Paths]:
        """`test`, and every sample that shares a group with a row of it, with the splits that test on any row of the group."""
        groups: dict[str, Paths] = {}
        for sample, paths in self.test.items():
            if sample in group_of:
                groups[group_of[sample]] = _united(groups.get(group_of[sample], ()), paths)
        return {sample: groups[group] for sample, group in group_of.items() if group in groups}

    def lost(self, test_ids: Iterable[str]) -> dict[Path, Fixed]:
        """The `removed` splits whose test rows are not exactly these."""
        rows_sha256 = rows_digest(test_ids) if self.removed else ""
        return {path: fixed for path, fixed in self.removed.items() if fixed.rows_sha256 != rows_sha256}


def _united(some: Paths, more: Paths) -> Paths:
    return some if some == more else tuple(dict.fromkeys((*some, *more)))


def read_locks(manifest: Manifest, new: Path) -> Locks:
    """The locks of all splits of the data set but `new` itself. Raises ManifestError for an earlier split that cannot be read or that
    was edited."""
    test: dict[str, Paths] = {}
    known: set[str] = set()
    removed = dict(sorted(_removed(manifest)))
    for path in sorted(_earlier(manifest, new)):
        rows = _rows(path, manifest)
        known |= set(_here(rows, manifest))
        for sample in _here(rows[rows["split"] == "test"], manifest):
            test[sample] = (*test.get(sample, ()), path)
        if removed:  # one that has these test rows still holds them: the removed one had another name
            held = rows_digest(texts(rows.loc[rows["split"] == "test", "sample_id"]))
            removed = {gone: fixed for gone, fixed in removed.items() if fixed.rows_sha256 != held}
    return Locks(test, frozenset(known), removed)


def _earlier(manifest: Manifest, new: Path) -> Iterator[Path]:
    return (path for path in _files(manifest, ".csv") if path.resolve() != new.resolve())


def _removed(manifest: Manifest) -> Iterator[tuple[Path, Fixed]]:
    for ledger in _files(manifest, SUFFIX):
        path = ledger.with_name(ledger.name.removesuffix(SUFFIX) + ".csv")
        fixed = None if path.exists() else fixed_rows(path)
        if fixed:
            yield path, fixed


def _files(manifest: Manifest, suffix: str) -> Iterator[Path]:
    """The files of this suffix in the splits folders of the data set's versions."""
    folder = manifest.folder.resolve()
    versions = [path for path in folder.parent.glob("v*") if re.fullmatch(r"v\d+", path.name)] if re.fullmatch(r"v\d+", folder.name) else []
    for place in {folder, *versions}:
        yield from (path for path in (place / SPLITS_FOLDER).glob(f"*{suffix}") if not path.name.startswith("."))


def _rows(path: Path, manifest: Manifest) -> pd.DataFrame:
    """sample_id, split and, where the split is of another version, image_sha256 ('' where that version's manifest is gone)."""
    first_line, _, table = path.read_bytes().partition(b"\n")
    check_unedited(split_facts(first_line.decode(errors="replace"), path), table, path)
    rows = read_csv(table, path)
    if not {"sample_id", "split"} <= set(rows.columns):
        raise ManifestError(path, f"this earlier split lacks sample_id or split, got {list(rows.columns)}", "put it right, or remove it")
    rows = rows[["sample_id", "split"]].assign(image_sha256="")
    table_path = path.parent.parent / MANIFEST_FILE
    if path.parent.parent.resolve() == manifest.folder.resolve() or not table_path.is_file():
        return rows
    there = read_csv(table_path.read_bytes(), table_path)
    if not {"sample_id", "image_sha256"} <= set(there.columns):
        return rows
    return rows.assign(image_sha256=rows["sample_id"].map(there.drop_duplicates("sample_id").set_index("sample_id")["image_sha256"]))


def _here(rows: pd.DataFrame, manifest: Manifest) -> list[str]:
    """The samples of `manifest` that these rows are: of the same image, or else of the same name."""
    frame = manifest.frame
    hashed = rows[rows["image_sha256"].fillna("") != ""]
    by_image = among(frame["image_sha256"], hashed["image_sha256"])
    known_again = among(rows["image_sha256"].fillna(""), frame["image_sha256"])
    by_name = among(frame["sample_id"], rows.loc[~known_again, "sample_id"])
    return texts(frame.loc[by_image | by_name, "sample_id"])


def moved(locked: Mapping[str, Paths], part_of: Mapping[str, str]) -> dict[str, Paths]:
    """The locked samples that a new split puts into train or val."""
    return {sample: paths for sample, paths in locked.items() if part_of.get(sample, "test") != "test"}


def refuse_moved(rows: Mapping[str, Paths], where: object) -> None:
    """Raise ManifestError for rows of test that would move: which split tests on them, how many, the first, the way out."""
    if not rows:
        return
    first = min(rows)
    others = f" and {len(rows[first]) - 1} more" if len(rows[first]) > 1 else ""
    rule = f"{len(rows)} row(s) of test of {rows[first][0]}{others}, or of their groups, would be moved to train or val (first: {first})"
    raise ManifestError(where, rule, "keep them in test, or pass --unlock-test REASON, which is recorded")


def refuse_removed(gone: Mapping[Path, Fixed]) -> None:
    """Raise ManifestError for a split that is gone while its ledger stands: which, how many test rows it fixed, the way out."""
    for path, fixed in gone.items():
        rule = f"the split {path.stem} was removed, but its ledger says that its {fixed.rows} test rows were fixed"
        raise ManifestError(path, rule, "restore it from version control, or pass --unlock-test REASON")


def unlock_reason(reason: str | None) -> str | None:
    """The reason on one line; ManifestError for a blank one."""
    told = None if reason is None else " ".join(reason.split())
    if told == "":
        raise ManifestError("--unlock-test", "the reason is blank", "say why rows of test are moved; the split and its ledger keep it")
    return told


def record_moved(rows: Mapping[str, Paths], gone: Mapping[Path, Fixed], reason: str, new: Path) -> None:
    """One line in the ledger of the new split, and one in that of each split that tests on a row moved or whose table is gone."""
    for path in sorted({new, *chain.from_iterable(rows.values())} if rows else set()):
        touched = sorted(rows) if path == new else sorted(sample for sample, earlier in rows.items() if path in earlier)
        record_unlock(path, reason, {"new_split": new.name, "rows": len(touched), "first": touched[0]})
    for path, fixed in gone.items():
        facts = {"new_split": new.name, "rows": fixed.rows, "removed": path.name, "removed_sha256": fixed.split_sha256}
        for place in {path, new.resolve()}:
            record_unlock(place, reason, facts)
