"""What one row's files hold: read once, in a process of its own, and boiled down to a small record.

Rules on one row are judged here, because the pixels are at hand; those that need the whole set are in rules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from medseg.conventions import FileKind, ValueMap, content_of, decide, look_up, stored_values
from medseg.errors import ImageTooLargeError, ManifestError, MedsegError
from medseg.files import resolve_under, sha256_file
from medseg.images import Inspected, RawMask, inspect_image, is_volume, read_raw_mask
from medseg.labels import LabelSet
from medseg.manifest.check.outline import outline_fit
from medseg.manifest.check.record import AGAIN, Facts, Fault, FractionError, Job, Seen, changed, check_hash, fingerprint
from medseg.manifest.check.shapes import blemishes_of, border_shares, follows_stored
from medseg.manifest.check.whole import damage_of
from medseg.manifest.near import reduced, thumbnail

TINY_PX = 32  # a side below which no structure can be told
HUGE_PX = 50_000_000  # above what a phone's camera takes; a scan of a whole slide, or a size by mistake
FORMATS = {
    ".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".png": ("PNG",), ".bmp": ("BMP", "DIB"), ".tif": ("TIFF",), ".tiff": ("TIFF",),
    ".webp": ("WEBP",), ".gif": ("GIF",),
}  # fmt: skip
LOSSY = ("JPEG", "MPO")


def examine(job: Job, labels: LabelSet) -> Facts:
    """Read one row's files and judge them; nothing is raised for a bad file."""
    facts = Facts(job.row.sample_id)
    seen = _guarded(lambda: _examine_image(job, facts) if job.image else None, job.image, facts)
    if job.mask:
        _guarded(lambda: _examine_mask(job, labels, seen, facts), job.mask, facts)
    if job.row.instances:
        facts.of_instances = _faults_of_instances(job, job.row.instances)
    return facts


def _guarded(look: Callable[[], Seen | None], path: Path | None, facts: Facts) -> Seen | None:
    """`look()`, with what the operating system refuses (permission, a broken disk) as a finding."""
    try:
        return look()
    except OSError as cause:
        facts.add("file-unreadable", path, f"it cannot be read ({cause.strerror or cause})", "check its permissions and the disk")
        return None


# --- the objects

_BACK = "put it back, or import the set again as a new version; `--fix` leaves it out"


def _faults_of_instances(job: Job, relative: str) -> list[Fault]:
    """What is wrong with the row's file of objects.

    It is read only where its bytes are not those that the manifest states: these an importer has written from codes that it checked,
    and reading takes ten times as long as hashing.
    """
    try:
        path = resolve_under(job.folder, relative, ManifestError, job.row.sample_id)
    except ManifestError as error:
        return [("path-leaves-root", relative, error.rule, error.fix)]
    try:
        found, stated = sha256_file(path) if path.is_file() else None, job.instances_sha256
        if found is None:
            return [("file-missing", str(path), "the file of the instances is not there", _BACK)]
        faults = [("hash-changed", str(path), changed(found, stated), _BACK)] if stated and found != stated else []
        return faults if found == stated else [*faults, *_unreadable_instances(path)]
    except OSError as cause:
        return [("file-unreadable", str(path), f"it cannot be read ({cause.strerror or cause})", "check its permissions and the disk")]


def _unreadable_instances(path: Path) -> list[Fault]:
    from medseg.instances import read_instances  # a set without objects does not wait for pycocotools

    try:
        read_instances(path)
    except ManifestError as error:
        return [("file-unreadable", str(path), error.rule, _BACK)]
    return []


# --- the image


def _examine_image(job: Job, facts: Facts) -> Seen | None:
    path = job.image
    assert path is not None
    if not path.is_file():
        facts.add("file-missing", path, "there is no such image", "put it back, check --data-root, or remove the row")
        return None
    try:
        if is_volume(path):
            return _of_volumes().examine_volume(job, path, facts)
        return _photograph(job, path, facts)
    except ImageTooLargeError as error:
        facts.add("huge-image", path, error.rule, error.fix)
    except MedsegError as error:
        facts.add("file-unreadable", path, error.rule, error.fix)
    if job.row.channels == 1:
        check_hash(facts, path, job.row.image_sha256, None)
    return None


def _photograph(job: Job, path: Path, facts: Facts) -> Seen:
    found = inspect_image(path)
    image = found.image_HWC
    height, width = image.shape[:2]
    check_hash(facts, path, job.row.image_sha256, image if job.image_derived else None, job.row.channels)
    _check_whole(facts, path)
    _check_extension(facts, path, found.format)
    _check_looks(facts, path, found)
    if (height, width) != tuple(job.row.size):
        stated = f"{job.row.size.width_px} x {job.row.size.height_px}"
        facts.add("size-mismatch", path, f"the image is {width} x {height} pixels (upright), the manifest says {stated}", AGAIN)
    facts.pixels, facts.image_px, facts.orientation = fingerprint(image), height * width, found.orientation
    small = reduced(image)
    facts.thumb = thumbnail(small)
    return Seen(image, small, (height, width), found.orientation)


def _check_whole(facts: Facts, path: Path) -> None:
    if (damage := damage_of(path)) is not None:
        facts.add("file-unreadable", path, damage, "copy the file again from where it was whole")


def _check_extension(facts: Facts, path: Path, found: str) -> None:
    expected = FORMATS.get(path.suffix.lower())
    if expected and found not in expected:
        facts.add("extension-lies", path, f"the file is {found} inside, its name says {path.suffix}", "rename it, and import the set again")


def _check_looks(facts: Facts, path: Path, found: Inspected) -> None:
    height, width = found.image_HWC.shape[:2]
    if min(height, width) < TINY_PX:
        facts.add(
            "tiny-image", path, f"the image is {width} x {height} pixels, under {TINY_PX} on a side", "remove it, or find the original"
        )
    if height * width > HUGE_PX:
        facts.add("huge-image", path, f"the image is {width} x {height} pixels, over {HUGE_PX // 10**6} million", "scale it down")
    if found.not_finite:
        facts.add("nan-image", path, f"{found.not_finite:,} pixels are NaN or infinite", "export the image again")
    if _is_constant(found.image_HWC):
        facts.add("constant-image", path, "all pixels are equal: it shows nothing", "export the image again, or remove the row")


def _is_constant(image_HWC: np.ndarray) -> bool:
    """True where no channel varies by more than one grey level; a sparse look settles it for nearly every photograph."""
    looks = (image_HWC[::16, ::16], image_HWC)
    return all(int(np.ptp(pixels[..., channel])) <= 1 for pixels in looks for channel in range(3))


# --- the mask


def _examine_mask(job: Job, labels: LabelSet, seen: Seen | None, facts: Facts) -> None:
    path = job.mask
    assert path is not None
    if not path.is_file():
        facts.add("file-missing", path, "there is no such mask", "put it back, or import the set again")
        return
    try:
        raw = _of_volumes().raw_volume(path) if is_volume(path) else read_raw_mask(path)
    except MedsegError as error:
        facts.add("interpolated-mask" if isinstance(error, FractionError) else "file-unreadable", path, error.rule, error.fix)
        check_hash(facts, path, None if job.mask_derived else job.row.mask_sha256, None)
        return
    _check_mask_hash(job, path, raw, facts)
    if is_volume(path):
        _of_volumes().check_volume_grid(path, seen, facts)
        _judge(raw.values, stored_values(_of_volumes().flat_mask(raw)), raw, labels, seen, facts)
        return
    _check_mask_file(path, raw, facts)
    _check_photograph_grid(path, raw, seen, facts)
    stored = stored_values(raw)
    _judge(stored[1], stored, raw, labels, seen, facts)


def _check_mask_file(path: Path, raw: RawMask, facts: Facts) -> None:
    _check_whole(facts, path)
    _check_extension(facts, path, raw.format)
    if raw.format in LOSSY:
        facts.add("lossy-mask", path, "a mask in a lossy format: its values blur when it is saved again", "store it as PNG")


def _judge(
    values: np.ndarray, stored: tuple[FileKind, np.ndarray], raw: RawMask, labels: LabelSet, seen: Seen | None, facts: Facts
) -> None:
    """What the stored values say: the convention, the classes they are on their own, and how these fit the picture."""
    facts.content, facts.stored_border = content_of(raw, stored), border_shares(values)
    decided = decide([facts.content], labels)[0]
    if isinstance(decided, ValueMap):
        facts.own = decided.table
        ids = look_up(values, decided.table) if decided.changes else values.astype(np.uint8, copy=False)
        _measure(facts, ids, labels)
        if seen is not None and seen.small_HWC is not None and ids.shape == seen.shape and not facts.mask_orientation_wrong:
            facts.fit = outline_fit(seen.small_HWC, (ids != 0) & labels.valid(ids))


def _of_volumes() -> ModuleType:
    """What only volumes need, nibabel among it, is not waited for where there are none."""
    from medseg.manifest.check import volume_facts

    return volume_facts


def _check_mask_hash(job: Job, path: Path, raw: RawMask, facts: Facts) -> None:
    derived = raw.values.astype(np.uint8) if job.mask_derived and raw.values.max(initial=0) <= 255 else None
    facts.mask_sha256 = check_hash(facts, path, job.row.mask_sha256, derived)


def _check_photograph_grid(path: Path, raw: RawMask, seen: Seen | None, facts: Facts) -> None:
    if seen is None or seen.upright_HWC is None:
        return
    shape = raw.values.shape[:2]
    ids_HW = raw.values if raw.values.ndim == 2 else raw.values.max(axis=2)
    if seen.orientation > 1 and follows_stored(seen.upright_HWC, _binary(ids_HW), seen.orientation):
        facts.mask_orientation_wrong = True
        shown = f"the photograph has EXIF orientation {seen.orientation} and is shown turned"
        rule = f"{shown}; the mask follows the stored pixels, not the upright picture"
        facts.add("exif-orientation", path, rule, "turn the mask likewise; `--fix` does it")
    elif shape != seen.shape:
        rule = f"the mask is {shape[1]} x {shape[0]} pixels, its image {seen.shape[1]} x {seen.shape[0]} (upright)"
        facts.add(
            "size-mismatch",
            path,
            rule,
            "export the mask at the image's size; `--fix` scales it where the shapes agree, else leaves the row unlabelled",
        )


def _binary(values_HW: np.ndarray) -> np.ndarray:
    """uint8 (H, W): 1 off the value that holds most of the border, so that the outline is known whatever the convention."""
    edge = np.concatenate([values_HW[0], values_HW[-1], values_HW[:, 0], values_HW[:, -1]])
    values, counts = np.unique(edge, return_counts=True)
    return (values_HW != values[counts.argmax()]).astype(np.uint8)


def _measure(facts: Facts, ids: np.ndarray, labels: LabelSet) -> None:
    table = facts.own or {}
    measure_by(facts, table, labels)
    classes = [class_id for class_id, count in facts.class_px.items() if class_id and count]
    facts.blemishes = blemishes_of(np.where(ids == labels.ignore_id, 0, ids) if labels.ignore_id in table.values() else ids, classes)


def measure_by(facts: Facts, table: Mapping[int, int], labels: LabelSet) -> None:
    """Pixels and share of the edge by class id, where `table` reads the stored values."""
    assert facts.content is not None
    px = dict.fromkeys(labels.classes, 0)
    for value, count in zip(facts.content.values, facts.content.counts, strict=True):
        if table[value] in px:
            px[table[value]] += count
    border: dict[int, float] = {}
    for value, share in facts.stored_border.items():
        border[table[value]] = border.get(table[value], 0.0) + share
    facts.class_px, facts.border = px, border
