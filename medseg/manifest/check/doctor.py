"""Check a manifest against its files: every row over all processors, then the rules on the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.errors import ManifestError
from medseg.files import read_json
from medseg.labels import LabelSet
from medseg.manifest.check.facts import examine
from medseg.manifest.check.findings import Finding, exit_code
from medseg.manifest.check.record import Facts, Job
from medseg.manifest.check.rules import Seen, find_near, of_set, read_by_the_set
from medseg.manifest.importers.common import IMPORT_FILE
from medseg.manifest.near import Pair
from medseg.manifest.schema import SPLIT_COLUMNS, Manifest
from medseg.manifest.table import SPLITS_FOLDER, read_csv, read_manifest, read_split, split_names
from medseg.parallel import in_order
from medseg.types import Row

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """The outcome of a check. `findings` by row, errors first within one; `pairs` are the near-duplicates."""

    seen: Seen
    findings: list[Finding]
    pairs: list[Pair]
    data_root: Path

    @property
    def manifest(self) -> Manifest:
        """The manifest that was checked."""
        return self.seen.manifest

    def flagged(self) -> int:
        """Rows with at least one finding of their own."""
        return len({finding.sample_id for finding in self.findings if finding.sample_id})

    def as_json(self, strict: bool = False) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            "manifest": str(self.manifest.folder), "manifest_sha256": self.manifest.digest, "rows": len(self.manifest),
            "rows_flagged": self.flagged(), "exit_code": exit_code(self.findings, strict),
            "counts": dict(sorted(Counter(finding.code for finding in self.findings).items())),
            "findings": [finding.as_json() for finding in self.findings],
        }  # fmt: skip


def check_manifest(
    path: Path, data_root: Path, jobs: int = 0, on_progress: Progress | None = None, only_splits: Sequence[str] = ()
) -> Report:
    """Examine every row and the set as a whole; `jobs` workers, 0 for as many as there are processors.

    only_splits: the splits to look at, by name; all of them by default. One that another has replaced stands for ever, as its test rows
    are locked.

    Raises ManifestError where manifest.csv or dataset.yaml itself cannot be read, or not one image is there; everything else becomes
    a finding.
    """
    manifest = read_manifest(path)
    splits, unusable = _read_splits(manifest, only_splits)
    given, unread = _read_given(manifest)
    prepared = [_job(manifest, row, stated, data_root) for row, stated in zip(manifest, _instance_hashes(manifest), strict=True)]
    _check_root([job.image for job, _ in prepared if job.image], manifest, data_root)
    facts = list(_examine_all([job for job, _ in prepared], manifest.labels, jobs, on_progress))
    seen = Seen(manifest, facts, splits, given)
    read_by_the_set(seen)
    pairs = find_near(seen)
    leaving = (finding for _, some in prepared for finding in some)
    found = [*unread, *unusable, *leaving, *_local(facts), *of_set(seen, pairs)]
    return Report(seen, _in_order(found, manifest, data_root), pairs, data_root)


def _instance_hashes(manifest: Manifest) -> list[str | None]:
    """By row, what the manifest states of its file of objects."""
    stated = manifest.frame.get("instances_sha256", [None] * len(manifest))
    return [cell if isinstance(cell, str) else None for cell in stated]


def _job(manifest: Manifest, row: Row, instances_sha256: str | None, data_root: Path) -> tuple[Job, list[Finding]]:
    """The row with its files' places; a path that leaves its root becomes a finding and is not followed."""
    leaving: list[Finding] = []

    def place(find: Callable[[], Path], relative: str) -> Path | None:
        try:
            return find()
        except ManifestError as error:
            leaving.append(Finding("path-leaves-root", error.rule, error.fix, file=relative, sample_id=row.sample_id))
            return None

    image = place(lambda: manifest.image_path(row, data_root), row.image)
    mask = place(lambda: manifest.mask_path(row, data_root), row.mask) if row.mask else None
    derived = (manifest.dataset.images_under == "manifest", manifest.dataset.masks_under == "manifest")
    return Job(row, image, mask, manifest.folder, instances_sha256, *derived), leaving


def _check_root(images: Sequence[Path], manifest: Manifest, data_root: Path) -> None:
    """Raise ManifestError where not one of the images is there: the root is wrong then, and a finding a file would hide it."""
    if not images or any(_is_there(path) for path in images):
        return
    rule = f"none of the manifest's {len(images)} images is there; the first looked for is {images[0]}"
    if manifest.dataset.images_under == "manifest":
        raise ManifestError(manifest.folder, rule, "the importer wrote them beside the manifest: copy them there, or import the set again")
    fix = "give the folder that the manifest's image paths are relative to: --data-root DIR, or MEDSEG_DATA"
    raise ManifestError(data_root, f"the data root seems wrong: {rule}", fix)


def _is_there(path: Path) -> bool:
    """Whether something stands at `path`; True where the system will not say, which is a finding of its own."""
    try:
        return path.exists()
    except OSError:
        return True


def _examine_all(jobs: Sequence[Job], labels: LabelSet, workers: int, on_progress: Progress | None) -> Iterator[Facts]:
    for done, facts in enumerate(in_order(partial(examine, labels=labels), jobs, workers), start=1):
        yield facts
        if on_progress:
            on_progress(done, len(jobs))


def _local(facts: Sequence[Facts]) -> Iterator[Finding]:
    for seen in facts:
        for code, file, rule, fix in (*seen.local, *seen.of_instances):
            yield Finding(code, rule, fix, file, sample_id=seen.sample_id)


def _read_given(manifest: Manifest) -> tuple[dict[int, int] | None, list[Finding]]:
    """What the user said at the import by --map, where the masks still lie as they were: {} where import.json is gone, None where it
    is broken, which is a finding."""
    path = manifest.folder / IMPORT_FILE
    if manifest.dataset.masks_under != "data_root" or not path.is_file():
        return {}, []
    known = {*manifest.labels.classes, manifest.labels.ignore_id}
    try:
        given = read_json(path, ManifestError).get("given", {})
        numbers = {int(value): class_id for value, class_id in given.items() if value.isdecimal()}
        if not known.issuperset(numbers.values()):
            raise ValueError
        return numbers, []
    except (ManifestError, OSError, ValueError, TypeError, AttributeError) as cause:
        why = cause.rule if isinstance(cause, ManifestError) else "not what an import writes"
        rule = f"{why}: what was said by --map at the import is not known, and masks are read by their values alone"
        fix = "put the file back, or import the set again as a new version; where no --map was given, it may be removed"
        return None, [Finding("file-unreadable", rule, fix, file=IMPORT_FILE)]


def _read_splits(manifest: Manifest, only: Sequence[str]) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """The tables of all splits, read leniently: one made for another version of the manifest is a finding and still looked at."""
    tables: dict[str, pd.DataFrame] = {}
    findings: list[Finding] = []
    names = split_names(manifest)
    for name in only:
        if name not in names:
            there = f"the splits are {', '.join(names)}" if names else "it has none"
            raise ManifestError(manifest.folder, f"there is no split {name!r}", there)
    for name in only or names:
        path = manifest.folder / SPLITS_FOLDER / f"{name}.csv"
        try:
            tables[name] = read_split(manifest, name).frame
        except ManifestError as error:
            table = _lenient(path)
            if table is not None:
                tables[name] = table[table["sample_id"].isin(manifest.frame["sample_id"])]
            if table is None or "is in two splits" not in error.rule:  # a torn group is told once, by its own code
                findings.append(Finding("split-unusable", error.rule, error.fix, file=error.where, split=name))
    return tables, findings


def _lenient(path: Path) -> pd.DataFrame | None:
    try:
        table = read_csv(path.read_bytes().partition(b"\n")[2], path)
    except (ManifestError, OSError):
        return None
    return table if set(SPLIT_COLUMNS) <= set(table.columns) else None


def _in_order(findings: Sequence[Finding], manifest: Manifest, data_root: Path) -> list[Finding]:
    """Findings with row and file filled in, by row; those on the set first. A file stands there as in the manifest: below its root."""
    frame = manifest.frame
    line = {str(sample): int(order) + 2 for sample, order in zip(frame["sample_id"], frame.index, strict=True)}
    mask = dict(zip(frame["sample_id"], frame["mask"], strict=True))
    image = dict(zip(frame["sample_id"], frame["image"], strict=True))
    filled = []
    for finding in findings:
        sample = finding.sample_id
        on_image = "duplicate" in finding.code and finding.code != "duplicate-mask"
        file = finding.file or str((image if on_image else mask).get(sample, ""))
        filled.append(replace(finding, row=line.get(sample), file=below(file, (manifest.folder, data_root))))
    return sorted(filled, key=lambda f: (f.row or 0, f.severity, f.code, f.file, f.others))


def below(file: str, roots: Sequence[Path]) -> str:
    """`file` relative to the first root that holds it."""
    path = Path(file)
    return next((path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)), file)
