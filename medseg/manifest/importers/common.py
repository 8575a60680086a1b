"""What every importer does: walk, decode to check, collect what is refused, group, and write all or nothing."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, groupby
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import pandas as pd
from pydantic import ValidationError

from medseg.errors import AnnotationError, LabelError, ManifestError, MedsegError, counted
from medseg.files import (
    json_text,
    linked_folders,
    move,
    moves,
    nfc,
    read_json,
    sha256_array,
    sha256_file,
    walk,
    write_bytes,
    write_text,
)  # fmt: skip
from medseg.images import IMAGE_SUFFIXES, verify_image
from medseg.labels import BACKGROUND, LabelSet
from medseg.manifest.schema import PIXEL_PREFIX, SPACINGS, Dataset, columns_of
from medseg.manifest.table import DATASET_FILE, MANIFEST_FILE, check_version, pixel_columns, read_dataset, write_checked
from medseg.types import Size, Spacing
from medseg.yamlio import first_problem

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
MasksUnder = Literal["data_root", "manifest"]
REFUSED_FILE, IMPORT_FILE = "refused.csv", "import.json"
NO_CHOICE = ("notes", "refused")  # keys of import.json that tell what was met
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
WORKERS = 2  # decoding and hashing release the interpreter lock; more threads only hold more photographs in memory
BLOCK = 1 << 22  # pixels counted at a time
SHOWN = 10_000  # lines of a refusal: all, but not a million
ALIKE, FILES = 3, 8  # sentences that differ in numbers and names alone, and files of one sentence, that a refusal shows
TYPO_LEAST = 4  # letters of a class name that may be a misspelt one; of shorter names (car, cat) too many are one letter apart


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. `imported` counts annotated images; `refused` is (file, reason); `notes` are worth the user's eye.

    without_mask: the images of the `unlabelled` rows, where their names may be shown.
    """

    manifest_folder: Path
    imported: int
    unlabelled: int
    refused: list[tuple[str, str]]
    notes: list[str]
    data_root: Path
    without_mask: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One row to be: paths relative to their roots; mask, mask_sha256 and px are None for an unlabelled image.

    group_id: the patient where the annotation names one; it stands back for --group-pattern and else for the sample itself.
    more: cells of the optional columns and of flag_<name>, by column.
    """

    sample_id: str
    image: str
    size: Size
    image_sha256: str
    mask: str | None = None
    mask_sha256: str | None = None
    px: dict[str, int] | None = None
    group_id: str | None = None
    depth_px: int | None = None
    spacing_mm: Spacing = (None, None, None)
    more: Mapping[str, str] = field(default_factory=dict)


class Named(Protocol):
    """What becomes one row: its sample id and the image it is of."""

    @property
    def sample_id(self) -> str:
        """The id, by which its mask is named too."""

    @property
    def image(self) -> str | Path:
        """The image, as messages name it."""


NamedItem = TypeVar("NamedItem", bound=Named)


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` names, and '...' where there are more.

    >>> listed(["a", "b", "c"], 2)
    'a, b, ...'
    """
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


class Notes:
    """Remarks of one kind on many files, told in one line each; remarks on the whole set before them."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}
        self._said: list[str] = []

    def say(self, sentence: str) -> None:
        """Note what is of no file."""
        self._said.append(sentence)

    def add(self, kind: str, file: str) -> None:
        """Note one more file of a kind."""
        self._files.setdefault(kind, []).append(file)

    def lines(self) -> list[str]:
        """One line a kind: what, how many files, the first three."""
        told = [f"{kind}: {counted(len(files), 'file')} ({listed(files, 3)})" for kind, files in self._files.items()]
        return [*self._said, *told]


# --- walking and decoding


def folder_at(path: Path, what: str) -> Path:
    """`path`, absolute and without links; AnnotationError where it is no folder."""
    if path.exists() and not path.is_dir():
        raise AnnotationError(path, f"a file, where the {what} folder is expected", "give the folder that holds it")
    if not path.is_dir():
        raise AnnotationError(path, f"the {what} folder is not there", "check the path")
    return path.resolve()


def shared_root(images: Path, masks: Path, given: Path | None) -> Path:
    """The folder that holds both, `given` or their common parent; ManifestError where there is none."""
    root = folder_at(given, "data root") if given else Path(os.path.commonpath([images, masks]))
    if not (images.is_relative_to(root) and masks.is_relative_to(root)):
        raise ManifestError(root, f"the data root must hold both {images} and {masks}", "give a --data-root above the two")
    if root == Path(root.anchor):
        raise ManifestError(root, f"{images} and {masks} have no folder in common", "put the two under one folder")
    return root


def check_out(out: Path, folders: Sequence[Path], suffixes: Sequence[str] = IMAGE_SUFFIXES, made: Sequence[Path] = ()) -> None:
    """ManifestError where files of the set lie in the folder that is to hold the manifest: they would be mixed with it, and below
    one of `folders` passed by, since an import does not read what an earlier one wrote. made: folders in `out` that hold such."""
    place = out.resolve()
    for folder in folders if out.is_dir() else ():
        if not place.is_relative_to(folder.resolve()):
            continue
        inner = place != folder.resolve()
        mixed = [path.name for path in walk(place, suffixes, made) if inner or path.parent == place]
        if mixed:
            rule = f"this folder holds files of the set ({listed(mixed, 3)}), and the manifest would lie among them"
            raise ManifestError(out, rule, "give --out a folder of its own, such as data_manifests/NAME/v1")


def images_under(root: Path, skip: Iterable[Path] = ()) -> list[Path]:
    """The image files under a folder, sorted."""
    return walk(root, IMAGE_SUFFIXES, skip)


def relative(path: Path, root: Path) -> str:
    """`path` relative to `root` with forward slashes; AnnotationError where a symbolic link leads out of it."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise AnnotationError(path, f"the file lies outside {root} (through a symbolic link)", "put the file itself there")
    return path.relative_to(root).as_posix()


def stem_of(path: Path, root: Path) -> str:
    """The sample id of a file: its path under `root` without the suffix, in one Unicode form, so that an image and its mask match."""
    return nfc(path.relative_to(root).with_suffix("").as_posix())


def refused_links(root: Path, suffixes: Sequence[str], skip: Sequence[Path], notes: Notes) -> list[MedsegError]:
    """An error for each link to a folder elsewhere that holds such files, since links are not followed; others are noted."""
    refused: list[MedsegError] = []
    for link in linked_folders(root, skip):
        if link.resolve().is_relative_to(root.resolve()):
            notes.add("a link to another folder of the same set, not followed", link.relative_to(root).as_posix())
        elif missed := len(walk(link.resolve(), suffixes, skip)):
            rule = f"a link to a folder outside {root}, not followed: {counted(missed, 'file')} would be missed"
            refused.append(AnnotationError(link, rule, "put the folder itself there, or remove the link"))
    return refused


def decoded_size(path: Path) -> Size:
    """The upright size of an image that decodes to its last pixel; ImageError where it does not, or holds values below 0."""
    return verify_image(path)


def hides_its_turn(orientation: int, size: Size) -> bool:
    """True for a photograph that EXIF turns or mirrors into the same size: a mask that ignores EXIF fits it as well."""
    return 2 <= orientation <= 4 or (orientation in (5, 6, 7, 8) and size.height_px == size.width_px)


def turned_note(photographs: int) -> list[str]:
    """A note where the masks of so many photographs may lie otherwise than the pictures."""
    if photographs == 1:
        return ["1 photograph carries an EXIF orientation; which way its mask lies is told by `medseg manifest check`"]
    said = f"{photographs} photographs carry an EXIF orientation; which way their masks lie is told by `medseg manifest check`"
    return [said] if photographs else []


def each(work: Callable[[Item], Result], items: Sequence[Item], advance: Callable[[], None]) -> Iterator[Result | MedsegError]:
    """`work` on every item in order, over threads; a user-facing error or an OS error comes back as the item's result.

    But for a full disk: no item is at fault, and the next one would fail as well (`told_full`).
    """

    def guarded(item: Item) -> Result | MedsegError:
        try:
            return work(item)
        except MedsegError as error:
            return error
        except OSError as cause:
            if cause.errno in DISK_FULL:
                raise
            where = cause.filename or getattr(item, "path", "a file")  # never the item itself: it may hold a patient's name
            return AnnotationError(where, f"cannot be read or written ({cause.strerror})", "check its permissions and the disk")

    pool = ThreadPoolExecutor(WORKERS)
    try:
        for result in pool.map(guarded, items):
            advance()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def told_full(out: Path) -> Iterator[None]:
    """ManifestError about the output where its disk is full while the block writes."""
    try:
        yield
    except OSError as cause:
        if cause.errno not in DISK_FULL:
            raise
        rule = f"the disk is full ({cause.strerror}), so nothing was written"
        raise ManifestError(out, rule, "free some space, or put --out (and --masks-out) on another disk") from None


def counter(total: int, on_progress: Progress | None, shown: int | None = None) -> Callable[[], None]:
    """A function that counts one step each time and tells `on_progress(done, total)`.

    shown: how many things the user counts, where each takes several steps; the steps are then told as a share of these.
    """
    done, shown = 0, total if shown is None else shown

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done * shown // total, shown)

    return advance


# --- refusing


def raise_refused(refused: Sequence[MedsegError], what: str) -> None:
    """Raise one error for all files refused; the only one as it is. Nothing where there is none."""
    if not refused:
        return
    way_out = "or pass --skip-refused to import the rest"
    kinds = {type(error) for error in refused}
    if len(refused) == 1:
        error = refused[0]
        raise type(error)(error.where, error.rule, f"{error.fix}, {way_out}")
    kind = kinds.pop() if len(kinds) == 1 else AnnotationError
    raise kind(what, f"{len(refused)} files cannot be imported:{told_once(refused, what)}\n", f"mend them, {way_out}")


def told_once(refused: Sequence[MedsegError], what: str) -> str:
    """A line a sentence with the files it is said of, relative to the folder `what`; of sentences that say the same of other numbers
    and names the first ones."""
    alike: dict[str, dict[str, list[str]]] = {}
    for error in refused:
        sentence = f"{error.rule}; {error.fix}"
        same = alike.setdefault(_kind_of(sentence), {})
        same.setdefault(sentence, []).append(error.where.removeprefix(f"{what}/"))
    lines = []
    for files_of in alike.values():
        lines += [_told_of(sentence, files) for sentence, files in list(files_of.items())[:ALIKE]]
        rest = [file for files in list(files_of.values())[ALIKE:] for file in files]
        lines += [f"and {len(rest)} more of this kind ({_first(rest)})"] if rest else []
    more = [f"... and {len(lines) - SHOWN} lines more"] if len(lines) > SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:SHOWN], *more])


def _kind_of(sentence: str) -> str:
    """A sentence without its particulars: what stands in quotes, numbers, names of files.

    >>> _kind_of("it lists 'x', but there is no image a/1.png") == _kind_of("it lists 'y z', but there is no image b.png")
    True
    """
    words = ("*" if re.search(r"\d|\.\S", word) else word for word in re.sub(r"'[^']*'", "*", sentence).split())
    return " ".join(word for word, _ in groupby(words))


def _told_of(sentence: str, files: Sequence[str]) -> str:
    return f"{files[0]}: {sentence}" if len(files) == 1 else f"{sentence}: {len(files)} files ({_first(files)})"


def _first(files: Sequence[str]) -> str:
    names = list(dict.fromkeys(files))
    return ", ".join(names[:FILES]) + (f", and {len(names) - FILES} more" if len(names) > FILES else "")


def refused_rows(refused: Iterable[MedsegError], root: Path) -> list[tuple[str, str]]:
    """(file relative to `root` where it lies under it, reason), sorted."""
    return sorted((error.where.removeprefix(f"{root}/"), f"{error.rule}; {error.fix}") for error in refused)


def refused_file(rows: Sequence[tuple[str, str]]) -> dict[str, str]:
    """refused.csv for `write_all`: what was left out and why; empty where nothing was."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "reason"), *rows] if rows else [])
    return {REFUSED_FILE: text.getvalue()}


# --- describing


def label_set(foreground: Sequence[str], where: object) -> LabelSet:
    """Background and `foreground` in the order given; LabelError for a name that cannot head a column, or names that repeat."""
    try:
        return LabelSet.of(*[name for name in foreground if name != BACKGROUND])
    except ValidationError as cause:
        fix = "name the classes in a dataset.yaml in the output folder, or correct the annotation"
        raise LabelError(where, f"the class names {list(foreground)} cannot be used ({first_problem(cause)[1]})", fix) from None


def default_name(out: Path) -> str:
    """The data set's name from its manifest folder: `tongue` for data_manifests/tongue/v1."""
    parts = [part for part in out.resolve().parts[1:] if not re.fullmatch(r"v\d+", part)]
    return re.sub(r"[^\w.-]+", "_", parts[-1]).lstrip("_.-") if parts else ""


def _named(name: str, labels: LabelSet, under: MasksUnder) -> Dataset:
    try:
        return Dataset(name=name, labels=labels, masks_under=under)
    except ValidationError:
        rule = f"a data set's name is Latin letters, digits, '.', '-' and '_', got {name!r}"
        raise ManifestError("--name", rule, "give it one with --name") from None


def described(out: Path, classes: Sequence[str] | None, name: str | None, under: MasksUnder, met: Sequence[str]) -> Dataset:
    """The Dataset of an import: the dataset.yaml in `out` if there is one, else the classes given, else those `met`, by name.

    Raises ManifestError where dataset.yaml contradicts `classes`, `name` or where the masks lie.
    """
    path = out / DATASET_FILE
    if out.exists() and not out.is_dir():
        raise ManifestError(out, "a file, where the output folder is expected", "give another --out")
    if not path.exists():
        labels = label_set(classes or sorted(met), "--classes" if classes else "the labels met")
        return _named(name or default_name(out) or "dataset", labels, under)
    dataset = read_dataset(path)
    wanted = tuple(name for name in classes or dataset.labels.foreground if name != BACKGROUND)
    if wanted != dataset.labels.foreground:
        rule = f"it names the classes {', '.join(dataset.labels.foreground)}, --classes says {', '.join(wanted)}"
        raise ManifestError(path, rule, "leave --classes out, or write to a new version")
    if name and name != dataset.name:
        raise ManifestError(path, f"it names the data set {dataset.name}, --name says {name}", "leave the option out, or correct the file")
    if dataset.masks_under != under:
        raise ManifestError(
            path, f"it says `masks_under: {dataset.masks_under}`, these masks lie under: {under}", f"write `masks_under: {under}`"
        )
    return dataset


def note_background(classes: Sequence[str] | None, notes: Notes) -> None:
    """Note that a `background` among the classes given takes no place: who wrote it may expect other ids."""
    if classes and BACKGROUND in classes:
        others = [name for name in classes if name != BACKGROUND]
        ids = listed([f"{class_id} {name}" for class_id, name in enumerate(others, start=1)], 8)
        notes.say(f"--classes names {BACKGROUND}, which is always id 0, so it is left out of the count: the ids are {ids}")


def alike_names(names: Sequence[str]) -> list[str]:
    """A note on class names that may be one misspelt: they differ by case, by blanks, or by one letter.

    >>> alike_names(["Heart", "hart", "T1", "T2"])
    ["class names that differ by case, blanks or one letter alone, perhaps one class: 'Heart' and 'hart'"]
    """
    pairs = [f"{one!r} and {other!r}" for one, other in combinations(names, 2) if _may_be_one(one, other)]
    return [f"class names that differ by case, blanks or one letter alone, perhaps one class: {listed(pairs, 8)}"] if pairs else []


def _may_be_one(one: str, other: str) -> bool:
    short, long = sorted((re.sub(r"[\s_-]+", "", name).casefold() for name in (one, other)), key=len)
    if short == long:
        return True
    if len(short) < TYPO_LEAST or len(long) - len(short) > 1:
        return False
    at = next((place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    same_length = len(short) == len(long)
    letters = long[at] + (short[at] if same_length else "")  # not digits: lesion_1 and lesion_2 are two
    return letters.isalpha() and short[at + same_length :] == long[at + 1 :]


def group_ids(sample_ids: Sequence[str], pattern: str | None) -> list[str]:
    """The group of each sample: what the one group of `pattern` finds in its id; without a pattern every sample is its own."""
    if pattern is None:
        return list(sample_ids)
    try:
        compiled = re.compile(pattern)
    except re.error as cause:
        raise ManifestError("--group-pattern", f"{pattern!r} is not a regular expression ({cause})", "correct it") from None
    if compiled.groups != 1:
        raise ManifestError("--group-pattern", f"{pattern!r} must hold exactly one (group), it has {compiled.groups}", "correct it")
    found = [compiled.search(sample) for sample in sample_ids]
    missed = [sample for sample, match in zip(sample_ids, found, strict=True) if match is None or not match[1]]
    if missed:
        rule = f"{pattern!r} finds no group in the sample {missed[0]!r} ({len(missed)} of {len(sample_ids)} samples)"
        raise ManifestError("--group-pattern", rule, "widen the pattern so that every sample has a group")
    return [match[1] for match in found if match]


def count_pixels(mask_HW: np.ndarray, labels: LabelSet) -> dict[str, int]:
    """Pixels per class; those of the ignore id are in none."""
    counts = np.zeros(256, np.int64)
    for rows in np.array_split(mask_HW, 1 + mask_HW.size // BLOCK):  # numpy makes 8 bytes of each pixel
        counts += np.bincount(rows.ravel(), minlength=256)
    return {name: int(counts[class_id]) for class_id, name in labels.classes.items()}


def frame_of(records: Sequence[Record], labels: LabelSet, group_pattern: str | None) -> pd.DataFrame:
    """The manifest's table; depth and spacing stay blank where a photograph has none."""
    groups = group_ids([record.sample_id for record in records], group_pattern)
    if group_pattern is None:
        groups = [record.group_id or group for record, group in zip(records, groups, strict=True)]
    rows = [
        {
            "sample_id": record.sample_id, "group_id": group, "image": record.image, "mask": record.mask,
            "height_px": record.size.height_px, "width_px": record.size.width_px,
            "depth_px": record.depth_px, **dict(zip(SPACINGS, record.spacing_mm, strict=True)),
            "image_sha256": record.image_sha256, "mask_sha256": record.mask_sha256, **record.more,
            **{PIXEL_PREFIX + name: count for name, count in (record.px or {}).items()},
        }
        for record, group in zip(records, groups, strict=True)
    ]  # fmt: skip
    met = list(dict.fromkeys(name for record in records for name in record.more))
    frame = pd.DataFrame(rows, columns=columns_of(met, labels))
    whole = ["height_px", "width_px", "depth_px", *pixel_columns(labels)]
    return frame.astype({**dict.fromkeys(whole, "Int64"), **dict.fromkeys(SPACINGS, "float64")})


def without_clashes(
    items: Iterable[NamedItem], file: Callable[[NamedItem], object] = lambda item: item.image
) -> tuple[list[NamedItem], list[MedsegError]]:
    """Items whose sample id is theirs alone, and an error for each that came second (`a.jpg` beside `a.png`).

    To be asked before masks are drawn: the id names their files.  file: what a message calls an item.
    """
    kept: dict[str, NamedItem] = {}
    refused: list[MedsegError] = []
    for item in items:
        first = kept.setdefault(item.sample_id, item)
        if first is not item:
            rule = f"it would have the same sample id as {file(first)} ({item.sample_id})"
            refused.append(AnnotationError(file(item), rule, "rename or remove one of the two"))
    return list(kept.values()), refused


def claim(path: Path, image: object) -> None:
    """Make the file of a sample's mask in a stage, empty; AnnotationError where another sample has it already.

    Ids are told apart before, but a disk may not tell `A` from `a`, and one mask would silently stand for two images.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        rule = f"its mask would take the place of another sample's ({path.name}): their names are one to this disk"
        raise AnnotationError(image, rule, "rename one of the two images") from None


def without_mask(records: Sequence[Record]) -> list[str]:
    """The images of the unlabelled rows."""
    return [record.image for record in records if record.mask is None]


def note_twins(records: Sequence[Record], notes: Notes) -> None:
    """Note images that are byte for byte another: in two parts of a split they would leak."""
    times = Counter(record.image_sha256 for record in records)
    for record in sorted(records, key=lambda record: record.image_sha256):
        if times[record.image_sha256] > 1:
            notes.add("the same image bytes as another sample (give them one group)", record.sample_id)


def hashed(path: Path) -> str:
    """The SHA-256 of a file; ManifestError where it vanished since it was listed."""
    try:
        return sha256_file(path)
    except FileNotFoundError:
        raise AnnotationError(path, "the file vanished during the import", "import again") from None


def mask_hash(path: Path, mask: np.ndarray, under: MasksUnder) -> str:
    """mask_sha256: of the decoded ids where the mask was derived into the manifest's folder, else of the file's bytes."""
    return sha256_array(mask) if under == "manifest" else hashed(path)


# --- writing all or nothing


def place(stage: Path, target: Path, moved: list[Path]) -> None:
    """Move the files of `stage` to the same places under `target`; those that are new there are added to `moved` before they arrive.

    Raises ManifestError, before the first move, where a file stands there with other content: it may be the user's own.
    """
    pairs = moves(stage, target)
    for source, goal in pairs:
        if goal.exists() and (not goal.is_file() or sha256_file(goal) != sha256_file(source)):
            rule = "the file exists and differs from the one to be written"
            raise ManifestError(goal, rule, "name a new version or another folder, or remove the file")
    for source, goal in [(source, goal) for source, goal in pairs if not goal.exists()]:
        moved.append(goal)  # first, so that Ctrl-C finds no file moved that is not noted
        move(source, goal)


def write_all(
    out: Path,
    frame: pd.DataFrame,
    dataset: Dataset,
    staged: Sequence[tuple[Path, Path]] = (),
    how: Mapping[str, object] | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write the manifest last, after each of `staged` (stage, target) and the small files; on an error all is as it was.

    how: the importer and each choice that shaped the masks, kept in import.json.  beside: texts of further files; an empty one is none.
    """
    content = check_version(out, frame, dataset)
    _check_choices(out, how or {})
    small = dict(beside or {})
    if how and not ((out / MANIFEST_FILE).exists() and (out / IMPORT_FILE).exists()):  # alone it is of an import since removed
        small[IMPORT_FILE] = json_text(how)
    moved: list[Path] = []
    try:
        with told_full(out), _as_they_were([out / name for name in small]):
            for stage, target in staged:
                place(stage, target, moved)
            for name, text in small.items():
                write_text(out / name, text) if text else (out / name).unlink(missing_ok=True)
            write_checked(out, content, dataset)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


def _check_choices(out: Path, how: Mapping[str, object]) -> None:
    """ManifestError where a version stands whose import.json says another choice; what only one of the two states is no contradiction."""
    path = out / IMPORT_FILE
    if not path.exists() or not (out / MANIFEST_FILE).exists():
        return
    fix = "versions are immutable: write to a new one (v2 beside v1), or remove this one"
    there, now = read_json(path, ManifestError, fix), json.loads(json_text(how))
    for key in sorted(set(there) & set(now) - set(NO_CHOICE)) if isinstance(there, dict) else ():
        if there[key] != now[key]:
            said = f"{key}: {str(there[key]):.60} there, {str(now[key]):.60} now"
            raise ManifestError(path, f"this version exists and was imported by another choice ({said})", fix)


@contextmanager
def _as_they_were(paths: Sequence[Path]) -> Iterator[None]:
    """Put small files back as they were where the block fails."""
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            path.unlink(missing_ok=True) if content is None else write_bytes(path, content)
        raise
