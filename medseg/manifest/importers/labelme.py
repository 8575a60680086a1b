"""labelme JSON (3.x to 6.x) -> manifest, id masks and instances.

The photograph is the file that `imagePath` names, one of that name beside the JSON, or the embedded `imageData` (then the
manifest's `image` is the .json itself). Annotations are made on the upright picture, so sizes are compared after EXIF. Class ids
come from dataset.yaml or the order of --classes, never from the order in which labels are met. Every JSON is read and checked
before the first photograph is decoded.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medseg.errors import AnnotationError, ImageError, LabelError, MedsegError, counted
from medseg.files import names_a_file, on_disk, posix, read_json, walk
from medseg.images import (
    IMAGE_SUFFIXES,
    decode_bitmap,
    read_image,
    read_orientation,
    read_size,
    resize_image,
)  # fmt: skip
from medseg.instances import Instance, encode_patch, united
from medseg.labels import LabelSet
from medseg.manifest.history import CHECKED_FLAG, DRAWN, History, is_prediction, predictions_note, read_history
from medseg.manifest.importers.common import (
    ImportReport,
    Notes,
    Progress,
    Record,
    check_out,
    counter,
    decoded_size,
    described,
    each,
    folder_at,
    group_ids,
    hashed,
    hides_its_turn,
    images_under,
    listed,
    note_background,
    raise_refused,
    refused_links,
    relative,
    stem_of,
    turned_note,
    without_clashes,
)  # fmt: skip
from medseg.manifest.importers.painted import Stage, check_left, finish, met_classes, shown, source_of, stage_of, unused_classes
from medseg.manifest.schema import FLAG_PREFIX, Dataset
from medseg.manifest.table import DATASET_FILE
from medseg.rasterise import LINE_WIDTH_PX, MIN_POINTS, POINT_RADIUS_PX, Patch, Point, Shape, corners, packed, paint, patches
from medseg.types import Size

EXACT_POINTS = ("rectangle", "oriented_rectangle", "circle", "line", "point", "mask")  # labelme asserts their number of points
FARTHEST_PX = 1e6  # a point further out is a mistake; `rasterise` draws all within it in less than a second
MAX_POINTS = 100_000  # of one shape
MAX_SHAPES = 100_000  # of one file
MAX_FLAGS = 256  # of one file; each heads a column
SAME_PICTURE = 16.0  # mean difference of two small pictures, out of 255; an embedded copy differs from its file by less than 1


@dataclass(frozen=True, slots=True)
class Draft:
    """What a labelme file says, checked, with no photograph looked at.

    size: as stated, None where it is not.  remarked: how many shapes carry a flag or description of their own, which nothing keeps.
    trimmed: the labels that stand with blanks around them.  history: what `medseg annotate` wrote, None where it did not.  steps: how the
    shapes came to be, oldest first.
    """

    path: Path
    shapes: tuple[Shape, ...]
    flags: Mapping[str, bool]
    size: Size | None
    image_path: Any
    embedded: bool
    remarked: int = 0
    trimmed: frozenset[str] = frozenset()
    history: History | None = None
    steps: tuple[str, ...] = (DRAWN,)


@dataclass(frozen=True, slots=True)
class Annotation:
    """A labelme file that can be imported: its photograph (relative to SRC), that one's upright size, its shapes in order.

    turned: EXIF turns the photograph, and neither its size nor an embedded picture tells whether the annotator saw it so.
    steps: how the shapes came to be, oldest first.
    """

    path: Path
    sample_id: str
    image: str
    size: Size
    image_sha256: str
    shapes: tuple[Shape, ...]
    flags: Mapping[str, bool]
    notes: tuple[str, ...]
    turned: bool = False
    steps: tuple[str, ...] = (DRAWN,)


Found = TypeVar("Found", Draft, Annotation)


def import_labelme(
    src: Path,
    out: Path,
    masks_out: Path | None = None,
    classes: Sequence[str] | None = None,
    dataset_name: str | None = None,
    group_pattern: str | None = None,
    skip_refused: bool = False,
    on_progress: Progress | None = None,
    instances: bool = True,
    ignore_labels: Sequence[str] = (),
    only_corrected: bool = False,
) -> ImportReport:
    """Write the manifest of a folder of labelme files, their id masks and their instances; the data root is `src`.

    Shapes of `ignore_labels` are painted with the ignore id, in the file's order, and are no instances. Images without a JSON
    become unlabelled rows, and with `only_corrected` those whose shapes are a prediction of `medseg annotate` that nobody has changed or
    checked. Where a file is of that verb, the column `history` tells of each mask how it came to be. Raises AnnotationError naming
    every file that cannot be imported (unless `skip_refused`), LabelError where it has a label that is no class, ManifestError where
    `out` holds something else; then nothing is written.
    """
    root = folder_at(src, "source")
    group_ids([], group_pattern)  # a bad pattern shall not cost a pass over the images
    source = source_of(root, out, masks_out)
    check_out(out, [root], made=source.made[1:])
    files, photographs = walk(root, (".json",), source.made), images_under(root, source.made)
    advance = counter(3 * len(files) + len(photographs), on_progress, shown=len(photographs) or len(files))
    notes = Notes()
    note_background(classes, notes)
    drafts, refused = _read_all(files, root, notes, advance)
    refused += refused_links(root, (".json", *IMAGE_SUFFIXES), source.made, notes)
    if not drafts and not refused:
        raise AnnotationError(src, "no labelme file (.json with `shapes`) under this folder", "check the path")
    ignored = frozenset(ignore_labels)
    describe = partial(_described, out, classes, dataset_name, source.under, ignored)
    named = bool(classes) or (out / DATASET_FILE).exists()
    if drafts and named:  # before the photographs are decoded: that takes long, and the names are known
        _, unknown = _of_known_labels(drafts, describe(drafts).labels, ignored)
        raise_refused([] if skip_refused else unknown, str(root))
    found, strays = _photographed(drafts, root, notes, advance)
    annotations, clashes = without_clashes(found, lambda annotation: annotation.path)
    refused += [*strays, *clashes]
    check_left(annotations, refused if skip_refused or not annotations else [], src, skip_refused)
    dataset = describe(annotations)
    annotations, unknown = _of_known_labels(annotations, dataset.labels, ignored)
    refused += unknown
    columns = _flag_columns(annotations)
    plain, damaged = _unlabelled(photographs, found, refused, root, advance)
    refused += damaged
    check_left(annotations, refused, src, skip_refused)
    known = _with_history(annotations)
    annotations, alone = _apart(annotations, src) if only_corrected else (annotations, [])
    plain += [Record(one.sample_id, one.image, one.size, one.image_sha256) for one in alone]
    for _ in alone:
        advance()
    with stage_of(source, dataset.labels, instances) as stage:
        outside: list[str] = []
        drawing = partial(_draw, stage=stage, ignored=ignored, columns=columns, outside=outside, known=known)
        results = list(each(drawing, annotations, advance))
        raise_refused([result for result in results if isinstance(result, MedsegError)], str(src))
        records = [*(result for result in results if isinstance(result, Record)), *plain]
        for sample in sorted(set(outside)):
            notes.add("a shape lies outside its image and paints nothing", sample + ".json")
        said = _said(annotations, dataset.labels, ignore_labels, named)
        how = _how(instances, ignore_labels) | ({"only_corrected": True} if only_corrected else {})
        return finish(stage, dataset, records, refused, notes, said, how, group_pattern, skip_refused)


def _how(instances: bool, ignore_labels: Sequence[str]) -> dict[str, object]:
    return {
        "importer": "labelme", "rule": "labelme shapes_to_label", "ignore_labels": sorted(ignore_labels), "instances": instances,
        "line_width_px": LINE_WIDTH_PX, "point_radius_px": POINT_RADIUS_PX,
    }  # fmt: skip


def _said(annotations: Sequence[Annotation], labels: LabelSet, ignore_labels: Sequence[str], named: bool) -> list[str]:
    """Notes on the whole set: photographs that EXIF turns, names that were given and met in no file, classes that nobody named."""
    met = _labels_met(annotations)
    told = turned_note(sum(annotation.turned for annotation in annotations))
    told += unused_classes(labels, met)
    told += predictions_note(sorted(annotation.sample_id for annotation in annotations if is_prediction(annotation.steps[-1])))
    told += [f"--ignore-label {name} is in no annotation" for name in ignore_labels if name not in met]
    drawn = ((annotation.image, shape.label) for annotation in annotations for shape in annotation.shapes)
    return told if named else [*told, *met_classes(labels, drawn, "shape")]


# --- pass 1: every JSON read and checked


def _read_all(files: Sequence[Path], root: Path, notes: Notes, advance: Callable[[], None]) -> tuple[list[Draft], list[MedsegError]]:
    """One after the other: parsing holds the interpreter lock, and two hostile files at once would take twice the memory."""
    drafts: list[Draft] = []
    refused: list[MedsegError] = []
    for path in files:
        try:
            draft = read_draft(path)
        except OSError as cause:
            refused.append(AnnotationError(path, f"cannot be read ({cause.strerror})", "check its permissions and the disk"))
        except MedsegError as error:
            refused.append(error)
        else:
            if draft is None:
                notes.add("not a labelme file, left out", stem_of(path, root) + ".json")
            else:
                drafts.append(draft)
        advance()
    _note_remarks(drafts, root, notes)
    return drafts, refused


def _note_remarks(drafts: Sequence[Draft], root: Path, notes: Notes) -> None:
    total = sum(draft.remarked for draft in drafts)
    kind = f"flags or a description of {counted(total, 'single shape')}, not imported"
    for draft in drafts:
        name = stem_of(draft.path, root) + ".json"
        if draft.remarked:
            notes.add(kind, name)
        for label in sorted(draft.trimmed):
            notes.add(f"blanks around the label {shown(label)} are left out", name)


def read_draft(path: Path) -> Draft | None:
    """Read one labelme file, None for JSON of another kind. Raises AnnotationError or ImageError with the reason for refusing it."""
    return checked_draft(read_json(path, AnnotationError), path)


def checked_draft(content: Any, path: Path) -> Draft | None:
    """The checked content of a labelme file. No photograph is looked at."""
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    embedded = content.get("imageData")
    if embedded is not None and not isinstance(embedded, str):
        raise AnnotationError(path, f"imageData must be text, got {shown(embedded)}", "save the annotation again")
    shapes = _shapes(content["shapes"], path)
    remarked = sum(_is_remarked(shape) for shape in content["shapes"])
    flags, size = _flags(content.get("flags"), path), _stated_size(content, path)
    trimmed = frozenset(shape["label"].strip() for shape in content["shapes"] if shape["label"] != shape["label"].strip())
    history = read_history(content, path)
    steps = history.now(shapes, flags) if history else (DRAWN,)
    flags = {name: value for name, value in flags.items() if not history or name != CHECKED_FLAG}  # it is a step now
    return Draft(path, shapes, flags, size, content.get("imagePath"), bool(embedded), remarked, trimmed, history, steps)


def _is_remarked(shape: Mapping[str, Any]) -> bool:
    """Whether a shape says more than where it is: labelme writes a description of "" and flags that are all false where nobody did."""
    flags = shape.get("flags")
    return bool(shape.get("description")) or (any(flags.values()) if isinstance(flags, dict) else bool(flags))


def _flags(content: Any, path: Path) -> dict[str, bool]:
    """The flags of the whole image; 3.x files have none."""
    if not content:
        return {}
    if not isinstance(content, dict) or not all(isinstance(value, bool) for value in content.values()):
        raise AnnotationError(path, f"`flags` must name flags that are true or false, got {shown(content)}", "save it again")
    if len(content) > MAX_FLAGS or not all(re.search(r"\w", name) for name in content):
        rule = f"`flags` must be at most {MAX_FLAGS} names with a letter or digit, got {shown(list(content))}"
        raise AnnotationError(path, rule, "rename the flags in labelme")
    return content


def _stated_size(content: dict[str, Any], path: Path) -> Size | None:
    """The size in the JSON; None where it has none (3.x and files of other tools leave it out)."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if height is None and width is None:
        return None
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        rule = f"imageHeight and imageWidth must be positive whole numbers, got {shown(height)} and {shown(width)}"
        raise AnnotationError(path, rule, "save the annotation again")
    return Size(height, width)


def _shapes(content: Any, path: Path) -> tuple[Shape, ...]:
    if not isinstance(content, list):
        raise AnnotationError(path, "`shapes` must be a list", "save the annotation again")
    if len(content) > MAX_SHAPES:
        raise AnnotationError(path, f"{len(content):,} shapes, the limit is {MAX_SHAPES:,}", "merge them into `mask` shapes")
    return tuple(_shape(shape, f"shape {index}", path) for index, shape in enumerate(content))


def _shape(content: Any, name: str, path: Path) -> Shape:
    """One checked shape; errors name it by its place in the file (0 = first) and its label."""
    if not isinstance(content, dict) or not isinstance(content.get("label"), str) or not content["label"].strip():
        raise AnnotationError(path, f"{name} has no label", "label it in labelme, or remove it")
    label, kind = content["label"].strip(), content.get("shape_type") or "polygon"
    name = f"{name} ({shown(label)})"
    if not isinstance(kind, str) or kind not in MIN_POINTS:
        rule = f"{name} is a {shown(kind)}, known are {', '.join(MIN_POINTS)}"
        raise AnnotationError(path, rule, "draw it again as a polygon")
    points = _points(content.get("points"), kind, name, path)
    group_id = content.get("group_id")
    if isinstance(group_id, bool) or not isinstance(group_id, int | str | None):
        rule = f"{name} has the group_id {shown(group_id)}, it must be a number, text or null"
        raise AnnotationError(path, rule, "correct it in labelme")
    shape = Shape(label, kind, points, group_id=None if group_id is None else str(group_id))
    return _with_bitmap(shape, content.get("mask"), name, path) if kind == "mask" else shape


def _points(points: Any, kind: str, name: str, path: Path) -> tuple[Point, ...]:
    if isinstance(points, list) and len(points) > MAX_POINTS:
        raise AnnotationError(path, f"{name} has {len(points):,} points, the limit is {MAX_POINTS:,}", "simplify it, or draw it as a mask")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise AnnotationError(path, f"{name} has a point that is not two finite numbers within {FARTHEST_PX:,.0f} px", "draw it again")
    needed = MIN_POINTS[kind]
    if len(points) < needed or (kind in EXACT_POINTS and len(points) != needed):
        least = "" if kind in EXACT_POINTS else "at least "
        rule = f"{name} is a {kind} of {counted(len(points), 'point')}, it needs {least}{needed}"
        raise AnnotationError(path, rule, "draw it again, or remove it")
    return tuple((float(x), float(y)) for x, y in points)


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(_is_coordinate(value) for value in point)


def _is_coordinate(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -FARTHEST_PX <= value <= FARTHEST_PX  # false for NaN; an int may be too large for math.isfinite


def _with_bitmap(shape: Shape, text: Any, name: str, path: Path) -> Shape:
    """A `mask` shape with its pixels, checked to fill the box of its two points."""
    if not isinstance(text, str) or not text:
        raise AnnotationError(path, f"{name} is a mask without its bitmap (`mask` is {shown(text)})", "draw it again, or remove it")
    try:
        content = base64.b64decode(text)
    except ValueError as cause:
        raise AnnotationError(path, f"the bitmap of {name} is not base64 ({cause})", "draw it again, or remove it") from None
    try:
        bitmap_HW = decode_bitmap(content, path)
    except ImageError as error:
        raise AnnotationError(path, f"the bitmap of {name}: {error.rule}", "draw it again, or remove it") from None
    left, top, right, bottom = corners(shape)
    height, width = bitmap_HW.shape
    if (width, height) != (right - left + 1, bottom - top + 1):
        rule = f"the bitmap of {name} is {width} x {height}, its box from ({left}, {top}) to ({right}, {bottom}) is another size"
        raise AnnotationError(path, rule, "draw it again, or remove it")
    return Shape(shape.label, shape.kind, shape.points, packed(bitmap_HW), shape.group_id)


# --- the classes


def _labels_met(found: Sequence[Draft] | Sequence[Annotation]) -> set[str]:
    return {shape.label for annotation in found for shape in annotation.shapes}


def _described(
    out: Path,
    classes: Sequence[str] | None,
    name: str | None,
    under: Any,
    ignored: frozenset[str],
    found: Sequence[Draft] | Sequence[Annotation],
) -> Dataset:
    """The Dataset of the import; LabelError for a class that is to be ignored."""
    dataset = described(out, classes, name, under, sorted(_labels_met(found) - ignored))
    if both := sorted(ignored & set(dataset.labels.names)):
        raise LabelError("--ignore-label", f"{both[0]!r} is a class of the data set", "leave it out of the classes, or do not ignore it")
    return dataset


def _of_known_labels(found: Sequence[Found], labels: LabelSet, ignored: frozenset[str]) -> tuple[list[Found], list[MedsegError]]:
    """The files whose labels are all classes or ignored, and an error for each other one: its ids could only be guessed."""
    known = set(labels.names) | ignored
    kept: list[Found] = []
    refused: list[MedsegError] = []
    for one in found:
        strays = sorted({shape.label for shape in one.shapes} - known)
        if not strays:
            kept.append(one)
            continue
        said = "the label {} is no class" if len(strays) == 1 else "the labels {} are no classes"
        rule = f"{said.format(listed([shown(label) for label in strays], 8))} of the data set ({', '.join(labels.foreground)})"
        refused.append(LabelError(one.path, rule, "name it in dataset.yaml (or --classes), pass --ignore-label, or correct it in labelme"))
    return kept, refused


def _flag_columns(annotations: Sequence[Annotation]) -> dict[str, str]:
    """flag -> the column it heads; AnnotationError where two flags would head one."""
    columns: dict[str, str] = {}
    owner: dict[str, str] = {}
    for annotation in annotations:
        for flag in annotation.flags:
            columns[flag] = column = FLAG_PREFIX + re.sub(r"[^\w.-]+", "_", flag)
            if owner.setdefault(column, flag) != flag:
                rule = f"the flags {owner[column]!r} and {flag!r} would both be the column {column}"
                raise AnnotationError(annotation.path, rule, "rename one of them in labelme")
    return columns


# --- pass 2: every photograph found and decoded


def _photographed(
    drafts: Sequence[Draft], root: Path, notes: Notes, advance: Callable[[], None]
) -> tuple[list[Annotation], list[MedsegError]]:
    annotations: list[Annotation] = []
    refused: list[MedsegError] = []
    owner: dict[str, Annotation] = {}
    for result in each(partial(with_photograph, root=root), drafts, advance):
        if isinstance(result, MedsegError):
            refused.append(result)
        elif (first := owner.setdefault(result.image, result)) is not result:
            rule = f"it annotates {result.image}, as {first.path.name} does"
            refused.append(AnnotationError(result.path, rule, "keep one annotation of an image"))
        else:
            annotations.append(result)
            for note in result.notes:
                notes.add(note, result.sample_id + ".json")
    return annotations, refused


def with_photograph(draft: Draft, root: Path) -> Annotation:
    """Find and decode the photograph of a file. Raises AnnotationError or ImageError with the reason for refusing it."""
    image, size, notes = _photograph(draft, root)
    path = draft.path
    check_inside(draft.shapes, size, path)
    if not draft.shapes:
        notes.append("no shape: labelled as background all over")
    return Annotation(
        path, _sample_id(draft, image, root), relative(image, root), size, hashed(image), draft.shapes, draft.flags, tuple(notes),
        not draft.embedded and _turned(image, size, draft.size), draft.steps,
    )  # fmt: skip


def _sample_id(draft: Draft, image: Path, root: Path) -> str:
    """By the JSON; of one that `medseg annotate` wrote by the photograph, so that a row is called as it was before."""
    if draft.history is None:
        return stem_of(draft.path, root)
    return draft.history.sample or stem_of(image, root)


def _turned(image: Path, size: Size, stated: Size | None) -> bool:
    """Whether EXIF turns a photograph and its size does not tell which way it was annotated; a file that states none never tells."""
    orientation = read_orientation(image)
    return hides_its_turn(orientation, size) or (stated is None and orientation > 1)


def check_inside(shapes: Sequence[Shape], size: Size, path: Path) -> None:
    """AnnotationError for a `mask` shape that runs out of the image: labelme cannot paste it either."""
    for index, shape in enumerate(shapes):
        if shape.kind != "mask":
            continue
        left, top, right, bottom = corners(shape)
        if left < 0 or top < 0 or right >= size.width_px or bottom >= size.height_px:
            found = f"from ({left}, {top}) to ({right}, {bottom}), the image is {size.width_px} x {size.height_px}"
            rule = f"shape {index} ({shown(shape.label)}) is a mask {found}"
            raise AnnotationError(path, rule, "a mask must lie in its image: draw it again, or put back the image that was annotated")


def _photograph(draft: Draft, root: Path) -> tuple[Path, Size, list[str]]:
    """(file that holds the photograph, its upright size, notes)."""
    path = draft.path
    image, notes = _find_image(draft.image_path, path, root)
    if image is None:
        if not draft.embedded:
            rule = f"imagePath {shown(draft.image_path)} names no file, none lies beside the JSON, and imageData is empty"
            raise AnnotationError(path, rule, "put the image beside the JSON")
        size, kept = _embedded_size(path), "no image file; the embedded image is used"
        _check_size(draft, size, path)
        return path, size, [*notes, kept]
    size = _decoded(image, draft.embedded)
    if draft.embedded and (kept := _better_embedded(draft, image, size)):
        size = _embedded_size(path)
        _check_size(draft, size, path)
        return path, size, [*notes, kept]
    _check_size(draft, size, image)
    return image, size, notes


def _check_size(draft: Draft, size: Size, image: Path) -> None:
    if draft.size and draft.size != size:
        found = f"the image {image.name} is {size.width_px} x {size.height_px} (upright)"
        rule = f"annotated at {shown(draft.size.width_px)} x {shown(draft.size.height_px)}, {found}"
        raise AnnotationError(draft.path, rule, "put back the image that was annotated")


def _better_embedded(draft: Draft, image: Path, size: Size) -> str:
    """Why the embedded picture, which the annotator saw, is to be used in place of the file beside it; '' where it is not.

    Where the file carries an EXIF orientation, the two are compared: tools that know no EXIF embed the picture as it is stored.
    """
    try:
        seen = read_size(draft.path)
        if (draft.size or seen) != size:
            return "the image file has another size than the annotation; the embedded image is used" if seen == (draft.size or seen) else ""
        if (orientation := read_orientation(image)) <= 1 or seen != size or _shows(draft.path, image, orientation):
            return ""
    except ImageError:
        return ""  # the file itself can be read and is of the annotated size
    return "the embedded image is another picture than the file turned upright by its EXIF; the embedded image is used"


def _shows(path: Path, image: Path, orientation: int) -> bool:
    """Whether the embedded picture is the file turned upright, and not the file as it is stored; by thumbnails."""
    if read_orientation(path) > 1:
        return False
    small = Size(64, 64)
    embedded, upright = (resize_image(read_image(file), small).astype(np.float32).mean(axis=2) for file in (path, image))
    turned, stored = (float(np.abs(embedded - other).mean()) for other in (upright, _as_stored(upright, orientation)))
    return turned <= min(stored, SAME_PICTURE)


def _as_stored(upright_HW: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation."""
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose, 6: np.rot90,
        7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    return undo.get(orientation, np.asarray)(upright_HW)


def _embedded_size(path: Path) -> Size:
    """The size of the embedded picture that decodes; AnnotationError where it carries an orientation, which labelme does not apply."""
    size = decoded_size(path)
    if (orientation := read_orientation(path)) > 1:
        rule = f"the embedded image carries the EXIF orientation {orientation}, which labelme does not apply and medseg would"
        raise AnnotationError(path, rule, "save the annotation again with an upright image")
    return size


def _decoded(image: Path, embedded: bool) -> Size:
    try:
        return decoded_size(image)
    except ImageError as error:
        fix = f"{error.fix}, or remove it so that the embedded imageData is used" if embedded else error.fix
        raise ImageError(error.where, error.rule, fix) from None


def _find_image(stated: Any, path: Path, root: Path) -> tuple[Path | None, list[str]]:
    """The file that imagePath names; failing that, the one of its name beside the JSON, or the only one of the JSON's own name.

    Raises AnnotationError where imagePath leads out of SRC: judged by where it arrives, since `..\\set_1\\104.jpg` may not leave.
    """
    if not names_a_file(stated):
        return _namesake(path, [])
    target = Path(os.path.normpath(path.parent / posix(stated)))
    drive = posix(stated)[1:3] == ":/"
    if not drive and target.is_relative_to(root) and not target.resolve().is_relative_to(root):
        rule = f"imagePath {shown(stated)} is a symbolic link out of {root}"
        raise AnnotationError(path, rule, "put the file itself there")
    if drive or not target.is_relative_to(root):
        fix = f"import the folder that holds both, or correct imagePath to {shown(Path(posix(stated)).name)}"
        raise AnnotationError(path, f"imagePath {shown(stated)} leaves {root}", fix)
    if (target := on_disk(target)).is_file():
        return target, []
    beside = on_disk(path.parent / target.name)
    if beside.is_file():
        return beside, ["imagePath names no file; the one of its name beside the JSON is used"]
    return _namesake(path, ["imagePath names no file; the image with the JSON's own name is used"])


def _namesake(path: Path, notes: list[str]) -> tuple[Path | None, list[str]]:
    found = [
        other for suffix in IMAGE_SUFFIXES for other in (path.with_suffix(suffix), path.with_suffix(suffix.upper())) if other.is_file()
    ]
    return (found[0], notes) if len(found) == 1 else (None, [])


def _unlabelled(
    photographs: Sequence[Path],
    annotations: Sequence[Annotation],
    refused: Sequence[MedsegError],
    root: Path,
    advance: Callable[[], None],
) -> tuple[list[Record], list[MedsegError]]:
    """Records of the images that none of `annotations` claims, refused ones included; those beside a refused JSON are left out with it."""
    claimed = {annotation.image for annotation in annotations}
    named = {annotation.sample_id for annotation in annotations if annotation.image.endswith(".json")}
    named |= {stem_of(Path(error.where), root) for error in refused if error.where.startswith(f"{root}/")}
    free = [path for path in photographs if path.relative_to(root).as_posix() not in claimed and stem_of(path, root) not in named]
    results = list(each(partial(unlabelled_record, root=root), free, advance))
    for _ in range(len(photographs) - len(free)):
        advance()
    records = [result for result in results if isinstance(result, Record)]
    return records, [result for result in results if isinstance(result, MedsegError)]


def unlabelled_record(path: Path, root: Path) -> Record:
    """The record of an image without annotation; ImageError where it cannot be decoded."""
    return Record(stem_of(path, root), relative(path, root), decoded_size(path), hashed(path))


# --- pass 3: every mask drawn


def _with_history(annotations: Sequence[Annotation]) -> bool:
    """Whether any of them came from a model: without such, a manifest is what it was before there were any."""
    return any(annotation.steps != (DRAWN,) for annotation in annotations)


def _apart(annotations: Sequence[Annotation], src: Path) -> tuple[list[Annotation], list[Annotation]]:
    """(those that a person drew, corrected or checked, the others); AnnotationError where there is none of the first."""
    alone = [annotation for annotation in annotations if is_prediction(annotation.steps[-1])]
    if len(alone) == len(annotations):
        rule = f"each of its {counted(len(alone), 'annotation')} is a prediction that nobody has corrected or checked"
        raise AnnotationError(
            src, rule, f"correct some in labelme, tick {CHECKED_FLAG!r} where nothing is wrong, or leave out --only-corrected"
        )
    return [annotation for annotation in annotations if not is_prediction(annotation.steps[-1])], alone


def _draw(
    annotation: Annotation, stage: Stage, ignored: frozenset[str], columns: Mapping[str, str], outside: list[str], known: bool
) -> Record:
    """Draw and write one mask and its instances; its name goes into `outside` for each shape that paints nothing. known: with history."""
    mask_HW, instances = drawn(annotation, stage.labels, ignored, stage.instances is not None, outside)
    more = {columns[flag]: str(value).lower() for flag, value in annotation.flags.items()}
    more |= {"history": ">".join(annotation.steps)} if known else {}
    record = Record(annotation.sample_id, annotation.image, annotation.size, annotation.image_sha256, more=more)
    return stage.save(record, mask_HW, instances)


def drawn(
    annotation: Annotation, labels: LabelSet, ignored: frozenset[str], instances: bool, outside: list[str] | None = None
) -> tuple[np.ndarray, list[Instance]]:
    """(uint8 (H, W) mask, instances in the order of the file); an object none of whose pixels lies in the image is no instance."""
    size = annotation.size
    mask_HW = np.zeros(tuple(size), np.uint8)
    codes: dict[tuple[str, str | int], list[str]] = {}
    for index, (shape, patch) in enumerate(_with_patches(annotation)):
        paint(mask_HW, patch, labels.ignore_id if shape.label in ignored else labels.id_of(shape.label))
        shows = bool(patch.pixels_HW.any())
        if not shows and shape.kind != "mask" and outside is not None:
            outside.append(annotation.sample_id)
        if instances and shape.label not in ignored:
            key = (shape.label, index if shape.group_id is None else shape.group_id)
            parts = codes.setdefault(key, [])  # a group stands where its first shape does, even if that one paints nothing
            if shows:
                parts.append(encode_patch(patch.pixels_HW, patch.top_px, patch.left_px, size))
    return mask_HW, [
        Instance(label, group if isinstance(group, str) else None, False, united(parts, size), size)
        for (label, group), parts in codes.items()
        if parts
    ]


def _with_patches(annotation: Annotation) -> Iterator[tuple[Shape, Patch]]:
    return zip(annotation.shapes, patches(annotation.shapes, annotation.size), strict=True)
