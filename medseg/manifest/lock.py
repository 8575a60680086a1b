"""The locked test set: a row that any split of a data set has put into test stays there, in later splits and later versions.

A data set's splits are those of its folder and, where that folder is a version (v1, v2, ...), those of its sister versions. A row is
known again by the hash of its image, or by its sample id where the image itself has changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medseg.errors import ManifestError
from medseg.manifest.ledger import record_unlock
from medseg.manifest.schema import Manifest
from medseg.manifest.table import MANIFEST_FILE, SPLITS_FOLDER, among, read_csv, split_facts, texts


@dataclass(frozen=True, slots=True)
class Locks:
    """What earlier splits say of a manifest's rows. test: sample id -> the split that tests on it.  known: every sample a split lists."""

    test: Mapping[str, Path]
    known: frozenset[str]

    def with_groups(self, group_of: Mapping[str, str]) -> dict[str, Path]:
        """`test`, and every sample that shares a group with a row of it."""
        groups = {group_of[sample]: path for sample, path in reversed(list(self.test.items())) if sample in group_of}
        return {sample: groups[group] for sample, group in group_of.items() if group in groups}


def read_locks(manifest: Manifest, new: Path) -> Locks:
    """The locks of all splits of the data set but `new` itself. Raises ManifestError for an earlier split that cannot be read."""
    test: dict[str, Path] = {}
    known: set[str] = set()
    for path in sorted(_earlier(manifest, new)):
        rows = _rows(path, manifest)
        known |= set(_here(rows, manifest))
        for sample in _here(rows[rows["split"] == "test"], manifest):
            test.setdefault(sample, path)
    return Locks(test, frozenset(known))


def _earlier(manifest: Manifest, new: Path) -> Iterator[Path]:
    folder = manifest.folder.resolve()
    versions = [path for path in folder.parent.glob("v*") if re.fullmatch(r"v\d+", path.name)] if re.fullmatch(r"v\d+", folder.name) else []
    for place in {folder, *versions}:
        for path in (place / SPLITS_FOLDER).glob("*.csv"):
            if not path.name.startswith(".") and path.resolve() != new.resolve():
                yield path


def _rows(path: Path, manifest: Manifest) -> pd.DataFrame:
    """sample_id, split and, where the split is of another version, image_sha256 ('' where that version's manifest is gone)."""
    first_line, _, table = path.read_bytes().partition(b"\n")
    split_facts(first_line.decode(errors="replace"), path)
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


def moved(locked: Mapping[str, Path], part_of: Mapping[str, str]) -> dict[str, Path]:
    """The locked samples that a new split puts into train or val."""
    return {sample: path for sample, path in locked.items() if part_of.get(sample, "test") != "test"}


def refuse_moved(rows: Mapping[str, Path], where: object) -> None:
    """Raise ManifestError for rows of test that would move: which split tests on them, how many, the first, the way out."""
    if not rows:
        return
    first = min(rows)
    rule = f"{len(rows)} row(s) of test of {rows[first]}, or of their groups, would be moved to train or val (first: {first})"
    raise ManifestError(where, rule, "keep them in test, or pass --unlock-test REASON, which is recorded")


def unlock_reason(reason: str | None) -> str | None:
    """The reason on one line; ManifestError for a blank one."""
    told = None if reason is None else " ".join(reason.split())
    if told == "":
        raise ManifestError("--unlock-test", "the reason is blank", "say why rows of test are moved; the split and its ledger keep it")
    return told


def record_moved(rows: Mapping[str, Path], reason: str, new: Path) -> None:
    """One line in the ledger of the new split, and one in that of each split whose test rows were moved."""
    for path in {new, *rows.values()}:
        touched = len(rows) if path == new else sum(earlier == path for earlier in rows.values())
        record_unlock(path, reason, {"new_split": new.name, "rows": touched, "first": min(rows)})
