"""What one row's files hold: read once, in a process of its own, and boiled down to a small record.

Rules on one row are judged here, because the pixels are at hand; those that need the whole set are in rules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.conventions import Content, ValueMap, content_of, convert, decide, stored_values
from medseg.errors import ImageError, ImageTooLargeError, MedsegError
from medseg.files import sha256_array
from medseg.images import Inspected, RawMask, inspect_image, read_raw_mask
from medseg.labels import LabelSet
from medseg.manifest.check.outline import outline_fit
from medseg.manifest.check.shapes import Blemishes, blemishes_of, border_shares, follows_stored
from medseg.manifest.check.whole import damage_of
from medseg.manifest.imagefiles import image_hash
from medseg.manifest.near import middle_slice, thumbnail
from medseg.types import Row
from medseg.volumes import Header, forms_disagree, is_volume, read_header, read_volume, same_affine

TINY_PX = 32  # a side below which no structure can be told
HUGE_PX = 50_000_000  # above what a phone's camera takes; a scan of a whole slide, or a size by mistake
FORMATS = {
    ".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".png": ("PNG",), ".bmp": ("BMP", "DIB"), ".tif": ("TIFF",), ".tiff": ("TIFF",),
    ".webp": ("WEBP",), ".gif": ("GIF",),
}  # fmt: skip
LOSSY = ("JPEG", "MPO")


class FractionError(ImageError):
    """A label volume whose values are no whole numbers."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row with the places of its files (None: it has none, or its path leaves the root) and how they are hashed."""

    row: Row
    image: Path | None
    mask: Path | None
    instances: Path | None
    image_derived: bool
    mask_derived: bool


@dataclass(slots=True)
class Facts:
    """What was seen of a row.

    local: (code, file, rule, fix) of what is wrong on its own.  pixels_sha256: of the decoded image.  content: the mask's stored
    values.  own: stored value -> class id by the mask's own convention, None where the file alone does not tell.  stored_border: share
    of the mask's edge by stored value.  class_px, border: pixels and share of the edge by class id (by `own`, until the set is known).
    """

    sample_id: str
    local: list[tuple[str, str, str, str]] = field(default_factory=list)
    pixels_sha256: str | None = None
    image_px: int = 0
    orientation: int = 1
    thumb: np.ndarray | None = None
    mask_orientation_wrong: bool = False
    content: Content | None = None
    own: Mapping[int, int] | None = None
    stored_border: Mapping[int, float] = field(default_factory=dict)
    mask_sha256: str | None = None
    class_px: Mapping[int, int] = field(default_factory=dict)
    border: Mapping[int, float] = field(default_factory=dict)
    blemishes: Blemishes | None = None
    fit: float | None = None

    def add(self, code: str, file: object, rule: str, fix: str) -> None:
        """Note one thing wrong with this row."""
        self.local.append((code, str(file), rule, fix))


@dataclass(frozen=True, slots=True)
class Seen:
    """A decoded image: upright RGB to lay the mask on (None for a volume), its size as the manifest writes it, its header."""

    upright_HWC: np.ndarray | None
    shape: tuple[int, ...]
    orientation: int = 1
    header: Header | None = None


def examine(job: Job, labels: LabelSet) -> Facts:
    """Read one row's files and judge them; nothing is raised for a bad file."""
    facts = Facts(job.row.sample_id)
    seen = _guarded(lambda: _examine_image(job, facts) if job.image else None, job.image, facts)
    if job.mask:
        _guarded(lambda: _examine_mask(job, labels, seen, facts), job.mask, facts)
    if job.instances and not job.instances.is_file():
        facts.add("file-missing", job.instances, "the file of the instances is not there", "import the set again")
    return facts


def _guarded(look: Callable[[], Seen | None], path: Path | None, facts: Facts) -> Seen | None:
    """`look()`, with what the operating system refuses (permission, a broken disk) as a finding."""
    try:
        return look()
    except OSError as cause:
        facts.add("file-unreadable", path, f"it cannot be read ({cause.strerror or cause})", "check its permissions and the disk")
        return None


# --- the image


def _examine_image(job: Job, facts: Facts) -> Seen | None:
    path = job.image
    assert path is not None
    if not path.is_file():
        facts.add("file-missing", path, "there is no such image", "put it back, check --data-root, or remove the row")
        return None
    try:
        if is_volume(path):
            return _volume(job, path, facts)
        return _photograph(job, path, facts)
    except ImageTooLargeError as error:
        facts.add("huge-image", path, error.rule, error.fix)
    except MedsegError as error:
        facts.add("file-unreadable", path, error.rule, error.fix)
    if job.row.channels == 1:
        _check_hash(facts, path, job.row.image_sha256, None)
    return None


def _photograph(job: Job, path: Path, facts: Facts) -> Seen:
    found = inspect_image(path)
    image = found.image_HWC
    height, width = image.shape[:2]
    _check_hash(facts, path, job.row.image_sha256, image if job.image_derived else None, job.row.channels)
    _check_whole(facts, path)
    _check_extension(facts, path, found.format)
    _check_looks(facts, path, found)
    if (height, width) != tuple(job.row.size):
        stated = f"{job.row.size.width_px} x {job.row.size.height_px}"
        facts.add("size-mismatch", path, f"the image is {width} x {height} pixels (upright), the manifest says {stated}", _AGAIN)
    facts.pixels_sha256, facts.image_px, facts.orientation = sha256_array(image), height * width, found.orientation
    facts.thumb = thumbnail(image)
    return Seen(image, (height, width), found.orientation)


_AGAIN = "put the annotated file back, or import the set again as a new version"


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


def _check_hash(facts: Facts, path: Path, stated: str | None, decoded: np.ndarray | None, channels: int = 1) -> str:
    """Compare the file's hash, or the decoded array's where the manifest hashes that, with the manifest's."""
    found = image_hash(path, channels) if decoded is None else sha256_array(decoded)
    if stated and found != stated:
        rule = f"the file has changed since the manifest was written (SHA-256 {found[:12]}, the manifest says {stated[:12]})"
        facts.add("hash-changed", path, rule, _AGAIN)
    return found


def _volume(job: Job, path: Path, facts: Facts) -> Seen:
    header = read_header(path)
    array, _ = read_volume(path)
    _check_hash(facts, path, job.row.image_sha256, array if job.image_derived else None, job.row.channels)
    stated = (job.row.size.width_px, job.row.size.height_px, job.row.depth_px)
    if header.shape != stated:
        shown = " x ".join(map(str, stated))
        facts.add("size-mismatch", path, f"the volume is {_by(header.shape)} voxels, the manifest says {shown}", _AGAIN)
    _check_spacing(job.row, header, path, facts)
    if forms_disagree(path):
        facts.add("forms-disagree", path, "its qform and sform place it differently", "write one of the two, so that every reader agrees")
    _check_voxels(facts, path, array)
    facts.pixels_sha256, facts.image_px = sha256_array(array), int(np.prod(header.shape))
    facts.thumb = thumbnail(middle_slice(array))
    return Seen(None, header.shape, header=header)


def _by(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))


def _check_spacing(row: Row, header: Header, path: Path, facts: Facts) -> None:
    stated = [value for value in row.spacing_mm if value is not None]
    if len(stated) == 3 and not np.allclose(stated, header.spacing_mm, rtol=1e-3, atol=0):
        rule = f"the volume's spacing is {_mm(header.spacing_mm)} mm, the manifest says {_mm(stated)}"
        facts.add("spacing-mismatch", path, rule, _AGAIN)


def _mm(values: object) -> str:
    return " x ".join(f"{value:.4g}" for value in np.asarray(values, float))


def _check_voxels(facts: Facts, path: Path, array: np.ndarray) -> None:
    not_finite = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
    if not_finite:
        facts.add("nan-image", path, f"{not_finite:,} voxels are NaN or infinite", "export the volume again")
    elif array.min() == array.max():
        facts.add("constant-image", path, "all voxels are equal: it shows nothing", "export the volume again, or remove the row")
    if min(array.shape[:2]) < 8:
        facts.add("tiny-image", path, f"the volume is {_by(array.shape)} voxels", "remove it, or find the original")


# --- the mask


def _examine_mask(job: Job, labels: LabelSet, seen: Seen | None, facts: Facts) -> None:
    path = job.mask
    assert path is not None
    if not path.is_file():
        facts.add("file-missing", path, "there is no such mask", "put it back, or import the set again")
        return
    try:
        raw = raw_volume(path) if is_volume(path) else read_raw_mask(path)
    except MedsegError as error:
        facts.add("interpolated-mask" if isinstance(error, FractionError) else "file-unreadable", path, error.rule, error.fix)
        _check_hash(facts, path, None if job.mask_derived else job.row.mask_sha256, None)
        return
    _check_mask_hash(job, path, raw, facts)
    if is_volume(path):
        _check_volume_grid(path, raw, seen, facts)
    else:
        _check_whole(facts, path)
        _check_extension(facts, path, raw.format)
        if raw.format in LOSSY:
            facts.add("lossy-mask", path, "a mask in a lossy format: its values blur when it is saved again", "store it as PNG")
        _check_photograph_grid(path, raw, seen, facts)
    facts.content = content_of(flat_mask(raw))
    facts.stored_border = border_shares(raw.values if is_volume(path) else stored_values(raw)[1])
    decided = decide([facts.content], labels)[0]
    if isinstance(decided, ValueMap):
        facts.own = decided.table
        ids = _ids_of(raw, decided)
        _measure(facts, ids, labels)
        if seen is not None and seen.upright_HWC is not None and ids.shape == seen.shape and not facts.mask_orientation_wrong:
            facts.fit = outline_fit(seen.upright_HWC, (ids != 0) & labels.valid(ids))


def raw_volume(path: Path) -> RawMask:
    """A label volume as stored; ImageError where it holds fractions, NaN or several channels."""
    array, _ = read_volume(path)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.rint(array)).any():
            strays = int((~(array == np.rint(array))).sum())
            rule = f"{strays:,} voxels hold fractions: labels were interpolated, or these are probabilities"
            raise FractionError(path, rule, "resample labels by the nearest neighbour only")
        array = array.astype(np.int32)
    if array.ndim != 3:
        raise ImageError(path, f"a label volume has three axes, this one is {_by(array.shape)}", "export the class ids as one volume")
    return RawMask(array, None, str(array.dtype), "NIFTI", 1)


def flat_mask(raw: RawMask) -> RawMask:
    """A volume's values as one (X, Y * Z) picture: what `content_of` counts."""
    if raw.format != "NIFTI":
        return raw
    return RawMask(raw.values.reshape(raw.values.shape[0], -1), None, raw.mode, raw.format, 1)


def _check_mask_hash(job: Job, path: Path, raw: RawMask, facts: Facts) -> None:
    derived = raw.values.astype(np.uint8) if job.mask_derived and raw.values.max(initial=0) <= 255 else None
    facts.mask_sha256 = _check_hash(facts, path, job.row.mask_sha256, derived)


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
        facts.add("size-mismatch", path, rule, "export the mask at the image's size")


def _binary(values_HW: np.ndarray) -> np.ndarray:
    """uint8 (H, W): 1 off the value that holds most of the border, so that the outline is known whatever the convention."""
    edge = np.concatenate([values_HW[0], values_HW[-1], values_HW[:, 0], values_HW[:, -1]])
    values, counts = np.unique(edge, return_counts=True)
    return (values_HW != values[counts.argmax()]).astype(np.uint8)


def _check_volume_grid(path: Path, raw: RawMask, seen: Seen | None, facts: Facts) -> None:
    if seen is None or seen.header is None:
        return
    header, image = read_header(path), seen.header
    if header.shape != image.shape:
        facts.add(
            "size-mismatch",
            path,
            f"the mask is {_by(header.shape)} voxels, its volume {_by(image.shape)}",
            "export it on the volume's grid",
        )
        return
    if not np.allclose(header.spacing_mm, image.spacing_mm, rtol=1e-3, atol=0):
        rule = f"the mask's spacing is {_mm(header.spacing_mm)} mm, its volume's {_mm(image.spacing_mm)}"
        facts.add("spacing-mismatch", path, rule, "export it on the volume's grid")
    elif not same_affine(header.affine, image.affine):
        turned = f" (orientation {header.orientation}, the volume {image.orientation})" if header.orientation != image.orientation else ""
        far = float(np.linalg.norm(header.affine[:3, 3] - image.affine[:3, 3]))
        rule = f"the mask's affine is not its volume's{turned}; the origins are {far:.4g} mm apart"
        facts.add("affine-mismatch", path, rule, "export it on the volume's grid, in the volume's orientation")


def _ids_of(raw: RawMask, reading: ValueMap) -> np.ndarray:
    if raw.format == "NIFTI":
        return convert(flat_mask(raw), reading).reshape(raw.values.shape)
    return convert(raw, reading)


def _measure(facts: Facts, ids: np.ndarray, labels: LabelSet) -> None:
    counts = np.bincount(ids.ravel(), minlength=256)
    measure_by(facts, facts.own or {}, labels)
    classes = [class_id for class_id in labels.classes if class_id and counts[class_id]]
    facts.blemishes = blemishes_of(np.where(ids == labels.ignore_id, 0, ids) if counts[labels.ignore_id] else ids, classes)


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
