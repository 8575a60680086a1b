"""Check a manifest against its files: every row over all processors, then the rules on the set."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.errors import ManifestError
from medseg.files import resolve_under
from medseg.labels import LabelSet
from medseg.manifest.check.facts import examine
from medseg.manifest.check.findings import Finding, exit_code
from medseg.manifest.check.record import Facts, Job
from medseg.manifest.check.rules import Seen, find_near, of_set, read_by_the_set
from medseg.manifest.near import Pair
from medseg.manifest.schema import SPLIT_COLUMNS, Manifest
from medseg.manifest.table import SPLITS_FOLDER, read_csv, read_manifest, read_split, split_names
from medseg.types import Row

CHUNK = 8  # rows taken at a time
FEW_ROWS = 200  # up to which threads, which share one interpreter, are done before fresh processes have imported anything
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


def check_manifest(path: Path, data_root: Path, jobs: int = 0, on_progress: Progress | None = None) -> Report:
    """Examine every row and the set as a whole; `jobs` workers, 0 for as many as there are processors.

    Raises ManifestError where manifest.csv or dataset.yaml itself cannot be read, or not one image is there; everything else becomes
    a finding.
    """
    manifest = read_manifest(path)
    splits, unusable = _read_splits(manifest)
    prepared = [_job(manifest, row, data_root) for row in manifest]
    _check_root([job.image for job, _ in prepared if job.image], manifest, data_root)
    facts = list(_examine_all([job for job, _ in prepared], manifest.labels, jobs, on_progress))
    seen = Seen(manifest, facts, splits)
    read_by_the_set(seen)
    pairs = find_near(seen)
    found = [*unusable, *(finding for _, leaving in prepared for finding in leaving), *_local(facts), *of_set(seen, pairs)]
    return Report(seen, _in_order(found, manifest), pairs, data_root)


def _job(manifest: Manifest, row: Row, data_root: Path) -> tuple[Job, list[Finding]]:
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
    objects = row.instances or ""
    told = place(lambda: resolve_under(manifest.folder, objects, ManifestError, manifest.where(row)), objects) if objects else None
    derived = (manifest.dataset.images_under == "manifest", manifest.dataset.masks_under == "manifest")
    return Job(row, image, mask, told, *derived), leaving


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
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    with _pool(min(workers or _processors(), max(1, len(chunks))), len(jobs)) as pool:
        try:
            for done, facts in enumerate(chain.from_iterable(pool.map(partial(_examine_some, labels=labels), chunks)), start=1):
                yield facts
                if on_progress:
                    on_progress(done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _examine_some(jobs: Sequence[Job], labels: LabelSet) -> list[Facts]:
    return [examine(job, labels) for job in jobs]


def _pool(workers: int, rows: int) -> Executor:
    """Processes by fork where no other thread holds a lock that it would copy; else threads for few rows and fresh processes for many."""
    alone = threading.active_count() == 1 and sys.platform == "linux"
    if workers == 1 or (rows <= FEW_ROWS and not alone):
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, multiprocessing.get_context("fork" if alone else "spawn"), _ignore_interrupt)


def _ignore_interrupt() -> None:
    """Ctrl-C is for the parent, which stops the workers; each would print a traceback of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local(facts: Sequence[Facts]) -> Iterator[Finding]:
    for seen in facts:
        for code, file, rule, fix in seen.local:
            yield Finding(code, rule, fix, file, sample_id=seen.sample_id)


def _read_splits(manifest: Manifest) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """The tables of all splits, read leniently: one made for another version of the manifest is a finding and still looked at."""
    tables: dict[str, pd.DataFrame] = {}
    findings: list[Finding] = []
    for name in split_names(manifest):
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


def _in_order(findings: Sequence[Finding], manifest: Manifest) -> list[Finding]:
    """Findings with row and file filled in, by row; those on the set first."""
    frame = manifest.frame
    line = {str(sample): int(order) + 2 for sample, order in zip(frame["sample_id"], frame.index, strict=True)}
    mask = dict(zip(frame["sample_id"], frame["mask"], strict=True))
    image = dict(zip(frame["sample_id"], frame["image"], strict=True))
    filled = []
    for finding in findings:
        sample = finding.sample_id
        on_image = "duplicate" in finding.code and finding.code != "duplicate-mask"
        file = finding.file or str((image if on_image else mask).get(sample, ""))
        filled.append(replace(finding, row=line.get(sample), file=file))
    return sorted(filled, key=lambda f: (f.row or 0, f.severity, f.code, f.file, f.others))
