"""Repair what can be repaired safely, into a new version of the manifest; the originals stay as they are.

Masks are read by the set's convention, turned, un-inverted and cleaned, and written anew as id masks. What cannot be known is not
guessed: a mask that no rule explains makes its row unlabelled, an image that cannot be read leaves its row out, and objects that are
no longer those of their mask are left out. Every step goes into repairs.csv with its rule, before and after.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from scipy import ndimage

from medseg.conventions import ValueMap, convert, snap
from medseg.errors import LabelError, ManifestError
from medseg.files import posix, read_json, resolve_under, sha256_array, staging, write_text
from medseg.images import RawMask, byte_counts, inspect_image, is_volume, read_raw_mask, resize_mask, write_mask
from medseg.labels import LabelSet
from medseg.manifest.check.doctor import Report, below
from medseg.manifest.check.findings import Finding
from medseg.manifest.check.record import Facts
from medseg.manifest.check.rules import BLEMISHES, KIND_CODES, enclosing, usual
from medseg.manifest.check.shapes import UPRIGHT, holes_of, specks_of
from medseg.manifest.check.volume_facts import flat_mask, raw_volume
from medseg.manifest.imagefiles import image_hash
from medseg.manifest.importers.common import IMPORT_FILE, write_all
from medseg.manifest.schema import PIXEL_PREFIX, SPACINGS, Manifest
from medseg.manifest.split import joined_groups
from medseg.manifest.table import MANIFEST_FILE, digest_of
from medseg.types import Row, Size
from medseg.volumes import read_header, read_volume, rounded, write_labels

REPAIRS_FILE = "repairs.csv"
REGROUPED = "near-duplicate"  # the code of a row whose group changed
LEFT_OUT = "left out"
FOLDERS = ("masks", "images", "instances")
SAME_ASPECT = 0.01  # relative difference of width / height up to which a mask is scaled onto its image
OF_MASK = ("mask", "mask_sha256", "mask_as_stored", "instances", "instances_sha256", "history")
NO_IMAGE = ("file-missing", "file-unreadable", "path-leaves-root", "huge-image")
_REDRAWN = "the mask was repaired or has changed, and its objects may not be those of the file any more"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Repair:
    """One line of repairs.csv."""

    sample_id: str
    code: str
    rule: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the files of the new version wait until all are written, in the order of FOLDERS."""

    masks: Path
    images: Path
    instances: Path


class _UnrepairableError(Exception):
    """A mask that no rule explains; the row becomes unlabelled. args: code, rule."""


def repair(report: Report, out: Path, on_progress: Progress | None = None) -> list[Repair]:
    """Write a new version to the folder `out` and return what was done.

    Raises ManifestError where `out` is the manifest's own folder or holds another version, what was said of the masks at the import is
    not known any more, or no row is left.
    """
    manifest = report.manifest
    _check_may_repair(report, out)
    worker = _Repairer(report)
    with ExitStack() as stack:
        staged = [(stack.enter_context(staging(target)), target) for target in (out, *(out / name for name in FOLDERS))]
        top, *stages = (stage for stage, _ in staged)
        rows = []
        for position, row in enumerate(manifest):
            rows += worker.repaired(row, position, Stages(*stages))
            if on_progress:
                on_progress(position + 1, len(manifest))
        if not rows:
            raise ManifestError(manifest.folder, "no row is left: no image can be read", "check --data-root")
        frame = worker.framed(rows)
        dataset = manifest.dataset.model_copy(update={"masks_under": "manifest"})
        how = {"importer": "manifest check --fix", "repaired_from_sha256": manifest.digest, "repairs": len(worker.log)}
        _write_log(top / REPAIRS_FILE, worker.log)  # comes into place before the manifest: no version stands without its log
        write_all(out, frame, dataset, [(stage, target) for stage, target in staged if any(stage.iterdir())], how)
    return worker.log


def check_target(folder: Path, out: Path) -> None:
    """ManifestError where a repair of the manifest in `folder` cannot go to `out`: told before an hour of checking."""
    if out.resolve() == folder.resolve():
        raise ManifestError(out, "this is the manifest that was checked; versions are immutable", "name a new folder, such as v2 beside v1")
    if (out / MANIFEST_FILE).exists() and (folder / MANIFEST_FILE).exists() and _repaired_from(out) != digest_of(folder):
        rule = "another version stands there, and versions are immutable"
        raise ManifestError(out, rule, "name a new folder, such as v3 beside v2, or remove this one")


def _repaired_from(out: Path) -> object:
    try:
        return read_json(out / IMPORT_FILE, ManifestError).get("repaired_from_sha256")
    except (ManifestError, OSError):
        return None


def _check_may_repair(report: Report, out: Path) -> None:
    folder = report.manifest.folder
    check_target(folder, out)
    if report.seen.given is None:
        rule = "the file is broken: what was said by --map at the import is not known, and a repair would have to guess it"
        raise ManifestError(folder / IMPORT_FILE, rule, "put it back; where no --map was given, remove it")


def _write_log(path: Path, log: list[Repair]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("sample_id", "code", "rule", "before", "after"))
    writer.writerows((r.sample_id, r.code, r.rule, r.before, r.after) for r in log)
    write_text(path, text.getvalue())


class _Repairer:
    """The rows of a new version, one after the other, and the log of what was changed."""

    def __init__(self, report: Report) -> None:
        self.manifest: Manifest = report.manifest
        self.labels: LabelSet = report.manifest.labels
        self.data_root = report.data_root
        self.log: list[Repair] = []
        self._readings = report.seen.readings
        self._facts = {facts.sample_id: facts for facts in report.seen.facts}
        self._findings: dict[str, list[Finding]] = defaultdict(list)
        for finding in report.findings:
            self._findings[finding.sample_id].append(finding)
        self._pairs = report.pairs
        self._slips = {code for code in BLEMISHES if not usual(report.seen, code)}

    # --- rows

    def repaired(self, row: Row, position: int, stages: Stages) -> list[dict[str, object]]:
        """The row's cells in the new version: none where its image cannot be read."""
        facts = self._facts[row.sample_id]
        of_instances = {below(file, (self.manifest.folder, self.data_root)) for _, file, *_ in facts.of_instances}
        codes = {finding.code: finding for finding in self._findings[row.sample_id] if finding.file not in of_instances}
        if facts.pixels is None:
            code = next((code for code in NO_IMAGE if code in codes), "file-unreadable")
            self._say(row, code, codes[code].rule if code in codes else "the image cannot be read", "row", LEFT_OUT)
            return []
        cells = self._cells(row, position, stages.images)
        if row.mask is None or facts.content is None:
            return [self._unreadable(row, codes, cells)]
        try:
            ids, redrawn = self._ids(row, facts, codes)
        except (_UnrepairableError, LabelError) as problem:
            code, rule = problem.args if isinstance(problem, _UnrepairableError) else ("interpolated-mask", problem.rule)
            return [self._unlabelled(row, code, rule, cells)]
        cells |= self._instances(row, facts, redrawn, stages.instances)
        return [self._labelled(row, cells, ids, stages.masks)]

    def _cells(self, row: Row, position: int, images: Path) -> dict[str, object]:
        """The old row's cells, with the image's size and hash as they are now."""
        cells = {str(key): value for key, value in self.manifest.frame.iloc[position].items()}
        path = self.manifest.image_path(row, self.data_root)
        derived = self.manifest.dataset.images_under == "manifest"
        if is_volume(path):
            header = read_header(path)
            cells |= dict(zip(("width_px", "height_px", "depth_px"), header.shape, strict=True))
            cells |= dict(zip(SPACINGS, rounded(header.spacing_mm), strict=True))
            found = sha256_array(read_volume(path)[0]) if derived else image_hash(path, row.channels)
        else:
            pixels = inspect_image(path).image_HWC
            cells |= {"height_px": pixels.shape[0], "width_px": pixels.shape[1]}
            found = sha256_array(pixels) if derived else image_hash(path, row.channels)
        if found != row.image_sha256:
            self._say(row, "hash-changed", "the image has changed since the manifest was written", row.image_sha256, found)
        if derived:
            cells |= {"image": _copied(path, row.image, images, "images")}
        return cells | {"image_sha256": found}

    def _unreadable(self, row: Row, codes: dict[str, Finding], cells: dict[str, object]) -> dict[str, object]:
        """The cells of a row that has no mask, or one that cannot be read."""
        if row.mask is None:
            return self._unlabelled(row, "file-missing", "the row has no mask", cells)
        code = next((code for code in (*NO_IMAGE, "interpolated-mask") if code in codes), "file-unreadable")
        return self._unlabelled(row, code, codes[code].rule if code in codes else "the mask cannot be read", cells)

    def _unlabelled(self, row: Row, code: str, rule: str, cells: dict[str, object]) -> dict[str, object]:
        if row.mask is not None:
            self._say(row, code, rule, "mask", "unlabelled")
        if row.instances is not None:
            self._say(row, code, f"its row is unlabelled: {rule}", "instances", LEFT_OUT)
        return _without_mask(cells)

    def _instances(self, row: Row, facts: Facts, redrawn: str | None, instances: Path) -> dict[str, object]:
        """The cells of the file of objects, which moves along where it is sound and its mask is still as it was.

        A repair is not carried over to the objects: which of them a turned, exchanged or cleaned pixel is of, the mask does not tell.
        """
        if row.instances is None:
            return {}
        if facts.of_instances:
            code, _, rule, _ = facts.of_instances[0]
        elif redrawn:
            code, rule = redrawn, _REDRAWN
        else:
            path = resolve_under(self.manifest.folder, row.instances, ManifestError, self.manifest.where(row))
            return {"instances": _copied(path, row.instances, instances, "instances")}
        self._say(row, code, rule, "instances", LEFT_OUT)
        return {"instances": None, "instances_sha256": None}

    def _labelled(self, row: Row, cells: dict[str, object], ids: np.ndarray, masks: Path) -> dict[str, object]:
        volume = ids.ndim == 3
        name = f"{row.sample_id}.nii.gz" if volume else f"{row.sample_id}.png"
        if volume:
            write_labels(masks / name, ids, read_header(self.manifest.image_path(row, self.data_root)).affine)
        else:
            write_mask(masks / name, ids, self.labels.palette)
        counts = byte_counts(ids)
        px = {PIXEL_PREFIX + label: int(counts[class_id]) for class_id, label in self.labels.classes.items()}
        if any(px[column] != cells[column] for column in px):
            self._say_counts(row, cells, px)
        if "mask_as_stored" in cells:
            cells |= {"mask_as_stored": None}
        return cells | {"mask": f"masks/{name}", "mask_sha256": sha256_array(ids), **px}

    def _say_counts(self, row: Row, cells: dict[str, object], px: dict[str, int]) -> None:
        """Log counts that were wrong in the manifest itself; those of a repaired mask follow from its repair."""
        if any(finding.code == "pixels-mismatch" for finding in self._findings[row.sample_id]):
            before = ", ".join(f"{column} {cells[column]}" for column in px)
            after = ", ".join(f"{column} {count}" for column, count in px.items())
            self._say(row, "pixels-mismatch", "the px_ columns did not count this mask", before, after)

    def framed(self, rows: list[dict[str, object]]) -> pd.DataFrame:
        """The new table; duplicates and near-duplicates share a group, so that no split can part them."""
        frame = pd.DataFrame(rows, columns=list(self.manifest.frame.columns)).astype(self.manifest.frame.dtypes.to_dict())
        kept = set(frame["sample_id"])
        pairs = [pair for pair in self._pairs if {pair.first, pair.second} <= kept]
        groups, _ = joined_groups(dict(zip(frame["sample_id"], frame["group_id"], strict=True)), pairs)
        joined = frame["sample_id"].map(groups)
        for sample, before, after in zip(frame["sample_id"], frame["group_id"], joined, strict=True):
            if before != after:
                rule = "it is a duplicate or near-duplicate of a sample of another group"
                self.log.append(Repair(str(sample), REGROUPED, rule, f"group {before}", f"group {after}"))
        return frame.assign(group_id=joined)

    # --- one mask

    def _ids(self, row: Row, facts: Facts, codes: dict[str, Finding]) -> tuple[np.ndarray, str | None]:
        """The row's class ids after every repair, uint8 (H, W) or (X, Y, Z), and the code by which a pixel's class changed, if one did.

        Raises _UnrepairableError or LabelError.
        """
        path = self.manifest.mask_path(row, self.data_root)
        for code in ("affine-mismatch", "spacing-mismatch"):
            if code in codes and is_volume(path):
                raise _UnrepairableError(code, codes[code].rule)
        raw = raw_volume(path) if is_volume(path) else read_raw_mask(path)
        ids = stored = self._decoded(row, raw)
        changed = bool("hash-changed" in codes and facts.mask_sha256 and facts.mask_sha256 != row.mask_sha256)
        if changed:
            self._say(
                row, "hash-changed", "the mask has changed since the manifest was written", str(row.mask_sha256), str(facts.mask_sha256)
            )
        steps = len(self.log) - changed  # each step from here on may change the classes of pixels
        if not is_volume(path):
            ids = self._on_grid(row, facts, ids)
        elif "size-mismatch" in codes:
            raise _UnrepairableError("size-mismatch", codes["size-mismatch"].rule)
        if "inverted-mask" in codes:
            ids = self._exchanged(row, facts, ids)
        cleaned = self._cleaned(row, ids, codes)
        return cleaned, self.log[steps].code if changed or not np.array_equal(cleaned, stored) else None

    def _decoded(self, row: Row, raw: RawMask) -> np.ndarray:
        reading = self._readings[row.sample_id]
        flat = flat_mask(raw)
        if isinstance(reading, ValueMap):
            ids = convert(flat, reading).reshape(raw.values.shape[:3] if raw.format == "NIFTI" else raw.values.shape[:2])
            if reading.changes or reading.kind in ("colours", "palette_colours"):
                self._say(row, _code_of(reading.kind), reading.said, f"{len(reading.table)} stored values", "class ids")
            return ids
        if reading.kind != "interpolated":
            raise _UnrepairableError(_code_of(reading.kind), reading.rule)
        ids = snap(flat, self.labels).reshape(raw.values.shape[:3] if raw.format == "NIFTI" else raw.values.shape[:2])
        self._say(row, "interpolated-mask", reading.rule, "values between classes", "the nearest class at each pixel")
        return ids

    def _on_grid(self, row: Row, facts: Facts, ids: np.ndarray) -> np.ndarray:
        path = self.manifest.image_path(row, self.data_root)
        height, width = inspect_image(path).image_HWC.shape[:2]
        if facts.mask_orientation_wrong:
            rule = f"the mask follows the stored pixels of a photograph with EXIF orientation {facts.orientation}"
            self._say(row, "exif-orientation", rule, "as stored", "turned upright")
            ids = np.ascontiguousarray(UPRIGHT[facts.orientation](ids))
        if ids.shape == (height, width):
            return ids
        before = f"{ids.shape[1]} x {ids.shape[0]}"
        rule = f"the mask is {before} pixels, its image {width} x {height}"
        if abs(ids.shape[1] / ids.shape[0] * height / width - 1) > SAME_ASPECT:
            raise _UnrepairableError("size-mismatch", rule)
        self._say(row, "size-mismatch", rule, before, f"{width} x {height}, nearest neighbour")
        return resize_mask(ids, Size(height, width))

    def _exchanged(self, row: Row, facts: Facts, ids: np.ndarray) -> np.ndarray:
        class_id = enclosing(facts)
        name = self.labels.classes[class_id]
        before = int((ids == class_id).sum())
        exchanged = ids.copy()
        exchanged[ids == 0], exchanged[ids == class_id] = class_id, 0
        rule = f"background and {name} are exchanged"
        unit, after = _unit(ids), int((exchanged == class_id).sum())
        self._say(row, "inverted-mask", rule, f"{before} {unit} of {name}", f"{after} {unit} of {name}")
        return exchanged

    def _cleaned(self, row: Row, ids: np.ndarray, codes: dict[str, Finding]) -> np.ndarray:
        plain, unit = np.where(ids == self.labels.ignore_id, 0, ids), _unit(ids)
        if "specks" in self._slips & codes.keys():
            where = specks_of(plain, [class_id for class_id in self.labels.classes if class_id])
            self._say(row, "specks", codes["specks"].rule, f"{int(where.sum())} {unit} of specks", "the class around them")
            ids = _from_around(ids, where)
        if "holes" in self._slips & codes.keys():
            where = holes_of(np.where(ids == self.labels.ignore_id, 0, ids))
            where &= ids == 0
            self._say(row, "holes", codes["holes"].rule, f"{int(where.sum())} {unit} of holes", "the class around them")
            ids = _from_around(ids, where)
        return ids

    def _say(self, row: Row, code: str, rule: str, before: str, after: str) -> None:
        self.log.append(Repair(row.sample_id, code, rule, before, after))


def _unit(ids: np.ndarray) -> str:
    return "voxels" if ids.ndim == 3 else "pixels"


def _code_of(kind: str) -> str:
    return KIND_CODES.get(kind, "values-outside")  # type: ignore[call-overload]


def _copied(path: Path, relative: str, stage: Path, folder: str) -> str:
    """Copy a file that lies at `relative` in the manifest's folder; its path in the new one, where it lies below `folder`."""
    plain = PurePosixPath(os.path.normpath(posix(relative)))  # "images/../a.nii" would leave the stage
    inner = plain.relative_to(folder) if plain.is_relative_to(folder) else plain
    target = stage / inner
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return (folder / inner).as_posix()


def _without_mask(cells: dict[str, object]) -> dict[str, object]:
    empty = {key: None for key in cells if key.startswith(PIXEL_PREFIX) or key in OF_MASK}
    return cells | empty


def _from_around(ids: np.ndarray, where: np.ndarray) -> np.ndarray:
    """`ids` with the pixels `where` taken from the nearest pixel elsewhere."""
    if not where.any() or where.all():
        return ids
    nearest = ndimage.distance_transform_edt(where, return_distances=False, return_indices=True)
    return np.ascontiguousarray(ids[tuple(nearest)])
