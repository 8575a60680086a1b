"""A folder of images and a folder of masks, matched by name -> manifest.

Masks that already hold class ids stay where they are. Where a mask of the set writes its classes otherwise (0 and 255, grey steps,
colours), id masks of all are written beside the manifest, and each reading is said in a note and kept in import.json.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from medseg.conventions import Content, Refusal, ValueMap, content_of, convert, decide, reads_as_stored
from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError, MedsegError, counted
from medseg.files import nfc, staging, walk
from medseg.images import IMAGE_SUFFIXES, MASK_SUFFIXES, RawMask, one_at_a_time, read_orientation, read_raw_mask, read_size, write_mask
from medseg.labels import BACKGROUND, LabelSet
from medseg.manifest.importers.common import (
    ImportReport,
    MasksUnder,
    Notes,
    Progress,
    Record,
    check_out,
    claim,
    count_pixels,
    counter,
    decoded_size,
    described,
    each,
    folder_at,
    frame_of,
    group_ids,
    hashed,
    hides_its_turn,
    images_under,
    listed,
    mask_hash,
    note_background,
    note_twins,
    raise_refused,
    refused_file,
    refused_links,
    refused_rows,
    relative,
    shared_root,
    stem_of,
    told_full,
    turned_note,
    without_clashes,
    without_mask,
    write_all,
)  # fmt: skip
from medseg.manifest.schema import Dataset
from medseg.manifest.table import DATASET_FILE, read_dataset
from medseg.types import Size

MASKS_FOLDER = "masks"
_AS_IS = "or import with --as-is and repair by `medseg manifest check --fix`"
_COLOUR = r"#([0-9A-Fa-f]{6})"


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask, None where it has none."""

    sample_id: str
    image: Path
    mask: Path | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A pair that was read once: the row without its class pixels, and what its mask holds.

    stored: the pixels per class that the file's own values give, where the size fits.  as_ids: `images.read_mask` reads the values
    of `content`.  fits: the mask has the image's size.  turned: the photograph has an EXIF orientation, and sizes do not tell whether
    the mask follows it.
    """

    pair: Pair
    record: Record
    content: Content
    stored: Mapping[str, int]
    as_ids: bool
    fits: bool
    turned: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with pairs of images and masks, whatever layout they came from.

    given: stored value -> class id, said by the user.  as_is: record masks as stored, sound or not.  how: for import.json.  reading:
    how the masks of the set become class ids, as `conventions.decide`.  beside: (further files of the version, notes on them) for the
    samples that were taken.
    """

    importer: str
    source: Path
    root: Path
    out: Path
    dataset: Dataset
    group_pattern: str | None = None
    skip_refused: bool = False
    as_is: bool = False
    given: Mapping[int, int] = field(default_factory=dict)
    how: Mapping[str, object] = field(default_factory=dict)
    on_progress: Progress | None = None
    reading: Callable[[Sequence[Content], LabelSet, Mapping[int, int]], Sequence[ValueMap | Refusal]] = decide
    beside: Callable[[frozenset[str]], tuple[Mapping[str, str], list[str]]] = lambda samples: ({}, [])


def import_masks(
    images: Path,
    masks: Path,
    out: Path,
    classes: Sequence[str] | None = None,
    mask_suffix: str = "",
    dataset_name: str | None = None,
    data_root: Path | None = None,
    group_pattern: str | None = None,
    skip_refused: bool = False,
    on_progress: Progress | None = None,
    mask_pattern: str | None = None,
    image_pattern: str | None = None,
    value_map: Sequence[str] = (),
    as_is: bool = False,
) -> ImportReport:
    """Write the manifest of images and masks of equal name: `a/7.jpg` and `a/7<mask_suffix>.png`.

    mask_pattern: instead of the suffix, a regular expression whose one group is the image's path, on the mask's, both without
    suffix.  image_pattern: take only images whose path, with suffix or without, it finds.  value_map: `VALUE=CLASS`, where the files'
    own convention cannot be told.  as_is: record every readable pair, for `manifest check --fix` to repair.

    The data root is `data_root`, or else the folder both lie in. Images without a mask become unlabelled rows. Raises
    AnnotationError, ImageError or LabelError naming the files that cannot be imported (unless `skip_refused`); then nothing is
    written.
    """
    images, masks = folder_at(images, "images"), folder_at(masks, "masks")
    root = shared_root(images, masks, data_root)
    group_ids([], group_pattern)  # a bad pattern shall not cost a pass over the images
    check_out(out, [images, masks], MASK_SUFFIXES, [out / MASKS_FOLDER])
    notes = Notes()
    note_background(classes, notes)
    if not classes and not (out / DATASET_FILE).exists():
        rule = f"masks hold ids without names, and there is no {out / DATASET_FILE} that names them"
        raise ManifestError("--classes", rule, "give --classes NAME,NAME: every class of the masks, in the order of the ids")
    dataset = described(out, classes, dataset_name, stated_under(out), [])
    given = parse_map(value_map, dataset.labels)
    if as_is and given:
        raise LabelError("--map", "--as-is records the masks as stored, so nothing is mapped", "leave one of the two out")
    naming = _Naming.of(mask_suffix, mask_pattern, image_pattern)
    pairs, refused = _pairs(images, masks, naming, out, notes)
    if not pairs:
        raise _no_image(images, [] if images == masks else [masks, out], naming)
    if all(pair.mask is None for pair in pairs):
        rule = f"no mask has the name of an image ({_examples(pairs, refused)})"
        raise AnnotationError(masks, rule, "check --masks and --mask-suffix (or --mask-pattern)")
    how = {"mask_suffix": mask_suffix, "mask_pattern": mask_pattern, "image_pattern": image_pattern, "group_pattern": group_pattern}
    job = Job("masks", masks, root, out, dataset, group_pattern, skip_refused, as_is, given, how=how, on_progress=on_progress)
    return import_pairs(pairs, refused, job, notes)


def stated_under(out: Path) -> MasksUnder:
    """Where an existing dataset.yaml says that masks lie; the data root where there is none."""
    path = out / DATASET_FILE
    return read_dataset(path).masks_under if path.exists() else "data_root"


def parse_map(texts: Sequence[str], labels: LabelSet) -> dict[int, int]:
    """`VALUE=CLASS` -> id by value; VALUE a whole number or #RRGGBB, CLASS a class name, background or ignore. Raises LabelError."""
    found: dict[int, int] = {}
    for text in texts:
        value, _, name = (part.strip() for part in text.partition("="))
        colour = re.fullmatch(_COLOUR, value)
        if not (colour or re.fullmatch(r"-?\d{1,10}", value)) or not name:
            rule = f"{text!r} is not VALUE=CLASS, with a whole number or #RRGGBB as the value"
            raise LabelError("--map", rule, "write for example --map 255=" + labels.foreground[0])
        if name not in (*labels.names, "ignore"):
            rule = f"{name!r} in {text!r} is not among the classes ({', '.join(labels.foreground)})"
            raise LabelError("--map", rule, "name it in --classes (or dataset.yaml) too, or map to one of these, background or ignore")
        key = int(colour[1], 16) if colour else int(value)
        class_id = labels.id_of(name) if name in labels.names else labels.ignore_id
        if found.setdefault(key, class_id) != class_id:
            raise LabelError("--map", f"the value {value} is mapped twice", "keep one of the two")
    return found


# --- matching by name


@dataclass(frozen=True, slots=True)
class _Naming:
    """Which image a mask's name belongs to."""

    suffix: str
    mask: re.Pattern[str] | None
    image: re.Pattern[str] | None

    @classmethod
    def of(cls, suffix: str, mask: str | None, image: str | None) -> _Naming:
        if suffix and mask:
            raise ManifestError("--mask-pattern", "--mask-suffix and --mask-pattern say the same thing", "leave one out")
        return cls(nfc(suffix), _compiled("--mask-pattern", mask, 1), _compiled("--image-pattern", image, None))

    def image_of(self, mask: str) -> str | None:
        """The image's path without suffix for that of a mask; None where the name is not a mask's."""
        if self.mask is not None:
            found = self.mask.search(mask)
            return found[1] or None if found else None
        return mask.removesuffix(self.suffix) if mask.endswith(self.suffix) else None

    def takes(self, name: str, suffix: str) -> bool:
        """Whether a file is an image by --image-pattern: it finds the path as a sample id has it, or as the folder shows it."""
        return self.image is None or any(self.image.search(path) for path in (name, name + suffix))

    @property
    def said(self) -> str:
        """Why a file is no mask."""
        if self.mask is not None:
            return f"--mask-pattern {self.mask.pattern!r} does not find its name, not taken as a mask"
        return f"no {self.suffix!r} at the end of its name, not taken as a mask"

    @property
    def taken_for_an_image(self) -> str:
        """Of a file beside the masks in one folder: nothing in its name tells an unlabelled image from a mask named otherwise."""
        option = "--mask-pattern" if self.mask is not None else "--mask-suffix"
        return f"no mask by {option} and without a mask of its own: taken as an unlabelled image (where it is none, give --image-pattern)"


def _compiled(option: str, pattern: str | None, groups: int | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as cause:
        raise ManifestError(option, f"{pattern!r} is not a regular expression ({cause})", "correct it") from None
    if groups is not None and compiled.groups != groups:
        rule = f"{pattern!r} must hold exactly one (group), the image's part of the name; it has {compiled.groups}"
        raise ManifestError(option, rule, "correct it")
    return compiled


def _pairs(images: Path, masks: Path, naming: _Naming, out: Path, notes: Notes) -> tuple[list[Pair], list[MedsegError]]:
    """Each image with its mask, and an error for each mask that has no image or a rival."""
    one_folder = images == masks
    if one_folder and not naming.suffix and naming.mask is None:
        fix = "give --mask-suffix, such as _mask, or --mask-pattern"
        raise ManifestError(images, "images and masks lie in one folder under the same names", fix)
    found, taken, refused = _masks_by_name(masks, naming, [] if one_folder else [images, out], notes, one_folder)
    passed_by = [] if one_folder else [masks, out]
    refused += refused_links(images, IMAGE_SUFFIXES, passed_by, notes)
    pairs, left_out = [], set[str]()
    for path in images_under(images, skip=passed_by):
        name = stem_of(path, images)
        if path in taken:
            continue
        if naming.image is not None and not naming.takes(name, path.suffix):
            notes.add(f"--image-pattern {naming.image.pattern!r} does not find its name, not taken as an image", name + path.suffix)
            left_out.add(name)  # its mask is of no use, and no fault
            continue
        if one_folder and naming.image is None and name not in found:
            notes.add(naming.taken_for_an_image, path.relative_to(images).as_posix())
        pairs.append(Pair(name, path, found.get(name)))
    orphans = sorted(set(found) - {pair.sample_id for pair in pairs} - left_out)
    refused += [
        AnnotationError(found[name], f"there is no image {name}.* under {images}", "add the image, or remove the mask") for name in orphans
    ]
    return pairs, refused


def _no_image(images: Path, passed_by: Sequence[Path], naming: _Naming) -> AnnotationError:
    """The error for a folder of which no image is taken; --image-pattern is named where it leaves none."""
    there = images_under(images, skip=passed_by)
    if naming.image is None or not there:
        return AnnotationError(images, "no image under this folder", "check --images")
    met = f"{counted(len(there), 'file')}, such as {there[0].relative_to(images).as_posix()}"
    rule = f"--image-pattern {naming.image.pattern!r} finds none of the images under this folder ({met})"
    return AnnotationError(images, rule, "correct the pattern; it is searched for in the path under --images, with and without suffix")


def _masks_by_name(
    masks: Path, naming: _Naming, skip: list[Path], notes: Notes, one_folder: bool
) -> tuple[dict[str, Path], set[Path], list[MedsegError]]:
    """(image name -> mask, every file whose name is a mask's, errors for rivals)."""
    found: dict[str, Path] = {}
    taken: set[Path] = set()
    passed_by = [folder for folder in skip if folder.resolve() != masks]
    refused = [] if one_folder else refused_links(masks, MASK_SUFFIXES, passed_by, notes)
    for path in walk(masks, MASK_SUFFIXES, skip=passed_by):
        name = naming.image_of(stem_of(path, masks))
        if name is None:
            if not one_folder:
                notes.add(naming.said, path.relative_to(masks).as_posix())
            continue
        taken.add(path)
        first = found.setdefault(name, path)
        if first is not path:
            refused.append(AnnotationError(path, f"{first.name} beside it is a mask of the same name", "keep one of the two"))
    return found, taken, refused


def _examples(pairs: Sequence[Pair], refused: Sequence[MedsegError]) -> str:
    mask = Path(refused[0].where).name if refused else "none"
    return f"an image: {pairs[0].image.name}, a mask: {mask}"


# --- pass 1: every file read once


def import_pairs(pairs: Sequence[Pair], refused: Sequence[MedsegError], job: Job, notes: Notes) -> ImportReport:
    """Read each pair, settle how the masks write their classes, and write the manifest; nothing on an error.

    refused: what the search already found.  Raises as `import_masks` says.
    """
    pairs, clashes = without_clashes(pairs, lambda pair: pair.image.relative_to(job.root).as_posix())
    looking = partial(_look, root=job.root, labels=job.dataset.labels, as_is=job.as_is)
    results = list(each(looking, pairs, counter(len(pairs), job.on_progress)))
    refused = [*refused, *clashes, *(result for result in results if isinstance(result, MedsegError))]
    seen = [result for result in results if isinstance(result, Seen)]
    plain = [result for result in results if isinstance(result, Record)]
    turned = turned_note(sum(one.turned for one in seen))
    if job.as_is:
        return _finish([*_as_stored(seen, job, notes), *plain], refused, job, notes, turned)
    maps, strays = _settle(seen, job)
    _stop(refused := [*refused, *strays], bool(maps), job)
    _note_maps(maps, job, notes)
    if all(one.as_ids and not found.changes for one, found in maps) and stated_under(job.out) == "data_root":
        records = [_in_place(one, found, job.dataset.labels) for one, found in maps]
        return _finish([*records, *plain], refused, job, notes, [*turned, *_unseen(maps, job)])
    return _derive(maps, plain, refused, job, notes, turned)


def _look(pair: Pair, root: Path, labels: LabelSet, as_is: bool) -> Record | Seen:
    """Decode one pair. Raises ImageError or AnnotationError with the reason for refusing it."""
    image = relative(pair.image, root)
    mask = relative(pair.mask, root) if pair.mask is not None else None
    with one_at_a_time(read_size(pair.image)):
        return _looked_at(pair, image, mask, labels, as_is)


def _looked_at(pair: Pair, image: str, mask: str | None, labels: LabelSet, as_is: bool) -> Record | Seen:
    size = decoded_size(pair.image)
    if pair.mask is None:
        return Record(pair.sample_id, image, size, hashed(pair.image))
    raw = read_raw_mask(pair.mask)
    fits = raw.values.shape[:2] == tuple(size)
    if not fits and not as_is:
        raise _other_size(pair, raw, size)
    record = Record(pair.sample_id, image, size, hashed(pair.image), mask, hashed(pair.mask))
    turned = hides_its_turn(read_orientation(pair.image), size)
    return Seen(pair, record, content_of(raw), _stored_pixels(raw, labels, fits), reads_as_stored(raw), fits, turned)


def _other_size(pair: Pair, raw: RawMask, size: Size) -> ImageError:
    """The mask has not its image's size; said apart where it follows the pixels as stored, before EXIF."""
    height, width = raw.values.shape[:2]
    rule = f"the mask is {width} x {height}, its image {pair.image.name} is {size.width_px} x {size.height_px} (upright)"
    orientation = read_orientation(pair.image)
    if (width, height) == tuple(size) and orientation in (5, 6, 7, 8):
        rule += f": the mask fits the stored pixels, not the upright photograph (EXIF orientation {orientation})"
    return ImageError(pair.mask, rule, f"export the mask at the image's size, {_AS_IS}")


def _stored_pixels(raw: RawMask, labels: LabelSet, fits: bool) -> dict[str, int]:
    """Pixels per class by the file's own values; zeros for colours and where the size does not fit."""
    counted = fits and raw.values.ndim == 2
    return {name: int((raw.values == class_id).sum()) if counted else 0 for class_id, name in labels.classes.items()}


# --- the reading of the set


def _settle(seen: Sequence[Seen], job: Job) -> tuple[list[tuple[Seen, ValueMap]], list[MedsegError]]:
    """Each mask with its reading, and an error for each that has none."""
    found = job.reading([one.content for one in seen], job.dataset.labels, job.given)
    maps = [(one, result) for one, result in zip(seen, found, strict=True) if isinstance(result, ValueMap)]
    return maps, [result.error(one.pair.mask) for one, result in zip(seen, found, strict=True) if isinstance(result, Refusal)]


def _stop(refused: Sequence[MedsegError], left: bool, job: Job) -> None:
    """Raise what is refused, unless it may be skipped and a mask is left."""
    if not job.skip_refused:
        raise_refused(refused, str(job.source))
    elif refused and not left:
        first = f"{refused[0].where}: {refused[0].rule}"
        raise type(refused[0])(job.source, f"none of {counted(len(refused), 'mask')} can be imported, the first: {first}", refused[0].fix)


def _note_maps(maps: Sequence[tuple[Seen, ValueMap]], job: Job, notes: Notes) -> None:
    for one, found in maps:
        if found.changes or "ignored" in found.said:
            assert one.pair.mask is not None
            notes.add(found.said, one.pair.mask.relative_to(job.root).as_posix())


def _unseen(maps: Sequence[tuple[Seen, ValueMap]], job: Job) -> list[str]:
    """A note for the classes that no mask shows and for the mapped values that no mask holds."""
    shown = {class_id for _, found in maps for class_id in found.table.values()}
    met = {value for one, _ in maps for value in one.content.values}
    missing = [name for class_id, name in job.dataset.labels.classes.items() if class_id not in shown and name != BACKGROUND]
    useless = [str(value) for value in job.given if value not in met]
    lines = [f"no mask shows the class {listed(missing, 8)}"] if missing else []
    return lines + ([f"--map: no mask holds the value {listed(useless, 8)}"] if useless else [])


def _in_place(one: Seen, found: ValueMap, labels: LabelSet) -> Record:
    counts = dict(zip(one.content.values, one.content.counts, strict=True))
    return replace(one.record, px={name: counts.get(class_id, 0) for class_id, name in labels.classes.items()})


def _as_stored(seen: Sequence[Seen], job: Job, notes: Notes) -> list[Record]:
    """Rows of the masks as they are, whatever they hold; those that the set does not read as plain ids are marked, and noted."""
    if job.dataset.masks_under != "data_root":
        rule = "it says `masks_under: manifest`, --as-is leaves the masks under the data root"
        raise ManifestError(job.out / DATASET_FILE, rule, "write `masks_under: data_root`")
    records = []
    for one, found in zip(seen, decide([one.content for one in seen], job.dataset.labels), strict=True):
        ids = one.fits and one.as_ids and isinstance(found, ValueMap) and not found.changes
        if not ids:
            notes.add("recorded as stored, training refuses it (run `medseg manifest check --fix`)", one.record.mask or "")
        records.append(replace(one.record, px=dict(one.stored), more={} if ids else {"mask_as_stored": "true"}))
    return records


# --- pass 2: masks written anew


def _derive(
    maps: Sequence[tuple[Seen, ValueMap]],
    plain: Sequence[Record],
    refused: Sequence[MedsegError],
    job: Job,
    notes: Notes,
    turned: Sequence[str],
) -> ImportReport:
    """Write id masks of all pairs under OUT/masks, and the manifest."""
    dataset = _under_manifest(job)
    target = job.out / MASKS_FOLDER
    with told_full(job.out), staging(target) as stage:
        drawing = partial(_draw, stage=stage, labels=dataset.labels)
        drawn = list(each(drawing, maps, counter(len(maps), _second(job.on_progress, len(maps)))))
        _stop([result for result in drawn if isinstance(result, MedsegError)], False, replace(job, skip_refused=False))
        records = [result for result in drawn if isinstance(result, Record)]
        return _finish(
            [*records, *plain],
            refused,
            replace(job, dataset=dataset, how={**job.how, "maps": _said(maps)}),
            notes,
            [*turned, *_unseen(maps, job)],
            [(stage, target)],
        )


def _under_manifest(job: Job) -> Dataset:
    if job.dataset.masks_under == "data_root" and (job.out / DATASET_FILE).exists():
        rule = "it says `masks_under: data_root`, but the masks hold no plain class ids, so id masks are written beside the manifest"
        raise ManifestError(job.out / DATASET_FILE, rule, "write `masks_under: manifest`")
    return job.dataset.model_copy(update={"masks_under": "manifest"})


def _second(on_progress: Progress | None, first: int) -> Progress | None:
    """Progress of a second pass over `first` files, told after the first."""
    return None if on_progress is None else lambda done, total: on_progress(first + done, first + total)


def _draw(item: tuple[Seen, ValueMap], stage: Path, labels: LabelSet) -> Record:
    """Convert one mask and write it into `stage`."""
    with one_at_a_time(item[0].record.size):
        return _drawn(*item, stage, labels)


def _drawn(one: Seen, found: ValueMap, stage: Path, labels: LabelSet) -> Record:
    assert one.pair.mask is not None
    try:
        ids_HW = convert(read_raw_mask(one.pair.mask), found)
    except LabelError as error:  # it changed since the first pass
        raise LabelError(one.pair.mask, error.rule, error.fix) from None
    path = stage / f"{one.pair.sample_id}.png"
    claim(path, one.record.image)
    write_mask(path, ids_HW, labels.palette)
    mask = f"{MASKS_FOLDER}/{one.pair.sample_id}.png"
    return replace(one.record, mask=mask, mask_sha256=mask_hash(path, ids_HW, "manifest"), px=count_pixels(ids_HW, labels))


def _said(maps: Sequence[tuple[Seen, ValueMap]]) -> list[dict[str, object]]:
    """The readings for import.json, each with its number of files."""
    times: dict[str, list[ValueMap]] = {}
    for _, found in maps:
        times.setdefault(found.said, []).append(found)
    return [
        {
            "kind": found[0].kind, "said": said, "files": len(found),
            "table": {str(value): class_id for one in found for value, class_id in one.table.items()},
        }
        for said, found in times.items()
    ]  # fmt: skip


def _finish(
    records: Sequence[Record], refused: Sequence[MedsegError], job: Job, notes: Notes, extra: Sequence[str],
    staged: Sequence[tuple[Path, Path]] = (),
) -> ImportReport:  # fmt: skip
    """Write manifest, import.json and refused.csv."""
    plain = without_mask(records)
    labelled = len(records) - len(plain)
    _stop(refused, labelled > 0, job)
    note_twins(records, notes)
    given = {str(value): class_id for value, class_id in job.given.items()}
    how = {"importer": job.importer, "as_is": job.as_is, "given": given, "notes": notes.lines(), **job.how}
    rows = refused_rows(refused, job.root)
    files, told = job.beside(frozenset(record.sample_id for record in records))
    frame = frame_of(records, job.dataset.labels, job.group_pattern)
    write_all(job.out, frame, job.dataset, staged, how, {**files, **refused_file(rows)})
    return ImportReport(job.out, labelled, len(plain), rows, [*notes.lines(), *extra, *told], job.root, plain)
