"""COCO JSON -> manifest, id masks and instances.

Polygons are drawn by pycocotools' own rule, which is not labelme's: a pixel belongs to a polygon by its centre, on a grid five times
as fine. Everything is checked in Python first, because pycocotools' C code believes what it is given. Class ids are 1, 2, ... in the
order of the categories' COCO ids.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from pycocotools import mask as coco_rle

from medseg.errors import AnnotationError, LabelError, MedsegError, counted
from medseg.files import names_a_file, nfc, on_disk, posix, read_json, resolve_under, walk
from medseg.images import IMAGE_SUFFIXES, MAX_PIXELS, read_orientation
from medseg.instances import Instance, checked_counts, counts_of, encode_counts, paint_counts, united
from medseg.labels import LabelSet
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
    label_set,
    listed,
    note_background,
    refused_links,
    relative,
    stem_of,
    turned_note,
    without_clashes,
)  # fmt: skip
from medseg.manifest.importers.painted import (
    Source,
    Stage,
    check_left,
    finish,
    met_classes,
    shown,
    source_of,
    stage_of,
    unused_classes,
)  # fmt: skip
from medseg.manifest.schema import Dataset
from medseg.manifest.table import DATASET_FILE
from medseg.types import Size

CROWDS, PAINTS = ("ignore", "paint", "skip"), ("area", "order")
Key = int | str
Kind = TypeVar("Kind")
FARTHEST_PX = 1e6  # a point further out is a mistake
MAX_POINTS = 100_000  # of one polygon
MAX_OUTLINE_PX = 4_000_000  # of one polygon; pycocotools takes about 100 bytes a pixel of it
LARGE = 16  # times the usual limits of a JSON file: instances_train2017.json of COCO needs about four
AGAIN = "export the annotations again"


@dataclass(frozen=True, slots=True)
class Picture:
    """An entry of `images`: its path relative to the images folder, and its size as stated."""

    key: Key
    file: str
    size: Size

    @property
    def sample_id(self) -> str:
        """As `stem_of` of its path."""
        return nfc(PurePosixPath(self.file).with_suffix("").as_posix())

    @property
    def image(self) -> str:
        """Its path, as messages name it."""
        return self.file


@dataclass(frozen=True, slots=True)
class Outline:
    """An annotation that can be drawn: its class and either polygons ([x0, y0, x1, y1, ...] each) or a run-length code."""

    label: str
    crowd: bool
    polygons: tuple[tuple[float, ...], ...]
    rle: str


@dataclass(frozen=True, slots=True)
class Document:
    """A COCO file, checked. names: of the categories, by their COCO id.  bad: picture -> why it is refused.  trimmed: the names that
    stand with blanks around them."""

    names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    outlines: Mapping[Key, Sequence[Outline]]
    bad: Mapping[Key, MedsegError]
    strays: tuple[MedsegError, ...]
    trimmed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user chose about painting."""

    crowd: str
    paint: str
    empty_is_background: bool


def import_coco(
    annotations: Path,
    images: Path,
    out: Path,
    masks_out: Path | None = None,
    classes: Sequence[str] | None = None,
    dataset_name: str | None = None,
    group_pattern: str | None = None,
    skip_refused: bool = False,
    on_progress: Progress | None = None,
    instances: bool = True,
    crowd: str = "ignore",
    paint: str = "area",
    empty_is_background: bool = False,
    large: bool = False,
) -> ImportReport:
    """Write the manifest of a COCO file, its id masks and instances; the data root is `images`.

    crowd: whether annotations with iscrowd = 1 become the ignore id, their class, or nothing.  paint: which annotation is on top,
    the smaller (`area`) or the later (`order`).  empty_is_background: what an image of the file without annotation is; else, and
    where the file does not list an image, it is unlabelled.  large: the file may take LARGE times the usual memory.

    Raises AnnotationError naming every image that cannot be imported (unless `skip_refused`) or a file that is no COCO JSON, LabelError
    for names that cannot be classes; then nothing is written.
    """
    choices = chosen(crowd, paint, empty_is_background)
    root = folder_at(images, "images")
    group_ids([], group_pattern)  # a bad pattern shall not cost a pass over the images
    source = source_of(root, out, masks_out)
    check_out(out, [root], made=source.made[1:])
    document = read_coco(annotations, large)
    named = bool(classes) or (out / DATASET_FILE).exists()
    dataset = _described(document, annotations, source, classes, dataset_name)
    free, notes = _unlisted(images_under(root, source.made), document, root), _noted(document, annotations, classes)
    links = refused_links(root, IMAGE_SUFFIXES, source.made, notes)
    pictures, clashes = without_clashes(picture for picture in document.pictures if picture.key not in document.bad)
    advance = counter(len(pictures) + len(free), on_progress)
    turned: list[str] = []
    with stage_of(source, dataset.labels, instances) as stage:
        work = partial(_record, document=document, where=annotations, stage=stage, choices=choices, turned=turned)
        results = [*each(work, pictures, advance), *each(partial(_unlisted_record, root=root), free, advance)]
        refused = [*document.strays, *links, *document.bad.values(), *clashes, *_kind(results, MedsegError)]
        records = _kind(results, Record)
        check_left(records, refused, annotations, skip_refused)
        how = {"importer": "coco", "crowd": crowd, "paint": paint, "empty_is_background": empty_is_background, "instances": instances}
        said = [*turned_note(len(turned)), *_said(document, dataset.labels, choices, named)]
        return finish(stage, dataset, records, refused, notes, said, how, group_pattern, skip_refused)


def chosen(crowd: str, paint: str, empty_is_background: bool) -> Choices:
    """The user's choices; AnnotationError for a word that is none of them."""
    for option, value, known in (("--crowd", crowd, CROWDS), ("--paint", paint, PAINTS)):
        if value not in known:
            raise AnnotationError(option, f"{value!r} is none of {', '.join(known)}", "choose one of them")
    return Choices(crowd, paint, empty_is_background)


def _kind(results: Sequence[Any], kind: type[Kind]) -> list[Kind]:
    return [result for result in results if isinstance(result, kind)]


def _described(document: Document, path: Path, source: Source, classes: Sequence[str] | None, name: str | None) -> Dataset:
    """The Dataset of the import; classes that nobody gave are the categories by their COCO id. LabelError for a category not in it."""
    if not classes and not (source.out / DATASET_FILE).exists():
        classes = label_set(document.names, path).foreground
    dataset = described(source.out, classes, name, source.under, [])
    used = {outline.label for outlines in document.outlines.values() for outline in outlines}
    if strays := sorted(used - set(dataset.labels.names)):
        rule = f"the category {shown(strays[0])} is no class of the data set ({', '.join(dataset.labels.foreground)})"
        raise LabelError(path, rule, "name it in dataset.yaml (or --classes)")
    return dataset


def _noted(document: Document, path: Path, classes: Sequence[str] | None) -> Notes:
    """Notes on the names of the classes."""
    notes = Notes()
    note_background(classes, notes)
    for name in document.trimmed:
        notes.add(f"blanks around the category {shown(name)} are left out", path.name)
    return notes


def _said(document: Document, labels: LabelSet, choices: Choices, named: bool) -> list[str]:
    """Notes on the whole set: what was chosen, where it made a difference; the classes, where the file alone names them."""
    outlines = [outline for found in document.outlines.values() for outline in found]
    said = [f"overlaps: {'the smaller' if choices.paint == 'area' else 'the later'} annotation is on top (--paint {choices.paint})"]
    if crowds := sum(outline.crowd for outline in outlines):
        done = {"ignore": "painted with the ignore id", "paint": "painted as their class", "skip": "left out of the masks"}
        verb = "is" if crowds == 1 else "are"
        said.append(f"{counted(crowds, 'crowd annotation')} {verb} {done[choices.crowd]} (--crowd {choices.crowd})")
    empty = sum(picture.key not in document.outlines and picture.key not in document.bad for picture in document.pictures)
    if empty:
        meaning = "background all over" if choices.empty_is_background else "unlabelled (--empty-is-background if nothing is in them)"
        said.append(f"{counted(empty, 'listed image')} without annotation {'is' if empty == 1 else 'are'} {meaning}")
    said += unused_classes(labels, {outline.label for outline in outlines})
    drawn = ((key, outline.label) for key, found in document.outlines.items() for outline in found if key not in document.bad)
    return said if named else [*said, *met_classes(labels, drawn, "annotation")]


# --- the file, checked


def read_coco(path: Path, large: bool = False) -> Document:
    """Read and check a COCO file; AnnotationError where it is none. What is wrong with one image is kept in `bad`."""
    if path.is_dir():
        inside = [file.relative_to(path).as_posix() for file in walk(path, (".json",))]
        fix = f"name the file itself{f' (in this folder: {listed(inside, 3)})' if inside else ''}"
        raise AnnotationError(path, "a folder, where a COCO JSON file is expected", fix)
    try:
        return checked_document(read_json(path, AnnotationError, AGAIN, LARGE if large else 1, "pass --large if you trust it"), path)
    except FileNotFoundError:
        raise AnnotationError(path, "there is no such file", "check the path") from None


def checked_document(content: Any, path: Path) -> Document:
    """The checked content of a COCO file."""
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        raise AnnotationError(path, f"a COCO file holds the lists {', '.join(lists)}", "give the instances file of the data set")
    names = _categories(content["categories"], path)
    pictures = _pictures(content["images"], path)
    outlines, bad, strays = _outlines(content["annotations"], names, {picture.key: picture for picture in pictures}, path)
    trimmed = tuple(entry["name"].strip() for entry in content["categories"] if entry["name"] != entry["name"].strip())
    return Document(tuple(names.values()), tuple(pictures), outlines, bad, tuple(strays), trimmed)


def _key(value: Any) -> Key | None:
    """An id of COCO: a whole number or text; None for anything else."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _categories(content: list[Any], path: Path) -> dict[Key, str]:
    """Category id -> name, by id."""
    found: dict[Key, str] = {}
    for index, entry in enumerate(content):
        where = f"{path} categories[{index}]"
        key, name = (_key(entry.get("id")), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if key is None or not isinstance(name, str) or not name.strip():
            raise AnnotationError(where, "a category needs an id (number or text) and a name", AGAIN)
        if key in found:
            raise AnnotationError(where, f"the category id {shown(key)} stands twice", AGAIN)
        found[key] = name.strip()
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _pictures(content: list[Any], path: Path) -> list[Picture]:
    found: dict[Key, Picture] = {}
    files: dict[str, Key] = {}
    for index, entry in enumerate(content):
        where = f"{path} images[{index}]"
        picture = _picture(entry, where)
        if picture.key in found:
            raise AnnotationError(where, f"the image id {shown(picture.key)} stands twice", AGAIN)
        if (first := files.setdefault(picture.file, picture.key)) != picture.key:
            rule = f"{shown(picture.file)} is listed twice, as the images {shown(first)} and {shown(picture.key)}"
            raise AnnotationError(where, rule, "merge the two entries")
        found[picture.key] = picture
    return list(found.values())


def _picture(entry: Any, where: str) -> Picture:
    if not isinstance(entry, dict) or (key := _key(entry.get("id"))) is None:
        raise AnnotationError(where, "an image needs an id (number or text)", AGAIN)
    file, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
    if not names_a_file(file):
        raise AnnotationError(where, f"file_name must name a file, got {shown(file)}", AGAIN)
    if type(height) is not int or type(width) is not int or height < 1 or width < 1 or height * width > MAX_PIXELS:
        rule = f"height and width must be positive whole numbers of at most {MAX_PIXELS:,} pixels, got {shown(height)} and {shown(width)}"
        raise AnnotationError(where, rule, AGAIN)
    return Picture(key, os.path.normpath(posix(file)), Size(height, width))


def _outlines(
    content: list[Any], names: Mapping[Key, str], pictures: Mapping[Key, Picture], path: Path
) -> tuple[dict[Key, list[Outline]], dict[Key, MedsegError], list[MedsegError]]:
    """(outlines by picture, the first error by picture, errors that belong to no picture)."""
    found: dict[Key, list[Outline]] = {}
    bad: dict[Key, MedsegError] = {}
    strays: list[MedsegError] = []
    for index, entry in enumerate(content):
        where = f"{path} annotations[{index}]"
        key = _key(entry.get("image_id")) if isinstance(entry, dict) else None
        if key is None or key not in pictures:
            given = shown(entry.get("image_id")) if isinstance(entry, dict) else shown(entry)
            strays.append(AnnotationError(where, f"image_id {given} is no image of the file", "add the image, or remove the annotation"))
            continue
        try:
            outline = _outline(entry, names, pictures[key], where)
        except MedsegError as error:
            bad.setdefault(key, error)
        else:
            found.setdefault(key, []).append(outline)
    return found, bad, strays


def _outline(entry: dict[str, Any], names: Mapping[Key, str], picture: Picture, where: str) -> Outline:
    """One checked annotation. Raises AnnotationError."""
    key, crowd, segments = _key(entry.get("category_id")), entry.get("iscrowd", 0), entry.get("segmentation")
    where = f"{where} ({shown(picture.file)})"
    if key is None or key not in names:
        rule = f"category_id {shown(entry.get('category_id'))} is no category of the file"
        raise AnnotationError(where, rule, "add the category, or remove the annotation")
    if crowd not in (0, 1) or isinstance(crowd, float):
        raise AnnotationError(where, f"iscrowd must be 0 or 1, got {shown(crowd)}", AGAIN)
    if segments in (None, [], {}, ""):
        rule = "the annotation has no segmentation, only a box or keypoints, and a box is no mask"
        raise AnnotationError(where, rule, "draw its outline, or remove the annotation")
    if isinstance(segments, dict):
        return Outline(names[key], bool(crowd), (), _code(segments, picture.size, where))
    if not isinstance(segments, list):
        raise AnnotationError(where, f"segmentation must be polygons or a run-length code, got {shown(segments)}", AGAIN)
    return Outline(names[key], bool(crowd), tuple(_polygon(numbers, where) for numbers in segments), "")


def _code(segments: dict[str, Any], size: Size, where: str) -> str:
    """The compressed code of {"counts": list or text, "size": [h, w]}, checked against the image's size."""
    counts, stated = segments.get("counts"), segments.get("size")
    if stated != list(size):
        rule = f"the run-length code is of size {shown(stated)}, the image is {list(size)} (height, width)"
        raise AnnotationError(where, rule, "export the annotation at the image's size")
    if isinstance(counts, str):
        return encode_counts(counts_of(counts, size, where), size)
    if not isinstance(counts, list) or not all(type(count) is int and 0 <= count <= MAX_PIXELS for count in counts):
        raise AnnotationError(where, f"counts must be text or a list of numbers of pixels, got {shown(counts)}", AGAIN)
    return encode_counts(checked_counts(counts, size, where), size)


def _polygon(numbers: Any, where: str) -> tuple[float, ...]:
    """[x0, y0, x1, y1, ...], checked before pycocotools allocates for it."""
    if not isinstance(numbers, list) or len(numbers) < 6 or len(numbers) % 2:
        found = f"{len(numbers)} numbers" if isinstance(numbers, list) else shown(numbers)
        raise AnnotationError(where, f"a polygon is an even list of at least 6 numbers, got {found}", "draw it again, or remove it")
    if len(numbers) > 2 * MAX_POINTS:
        rule = f"a polygon has {len(numbers) // 2:,} points, the limit is {MAX_POINTS:,}"
        raise AnnotationError(where, rule, "simplify it, or export it as a run-length code")
    if not all(type(value) in (int, float) and -FARTHEST_PX <= value <= FARTHEST_PX for value in numbers):
        rule = f"a polygon has a coordinate that is not a finite number within {FARTHEST_PX:,.0f} px"
        raise AnnotationError(where, rule, "draw it again, or remove it")
    points = np.asarray(numbers, np.float64).reshape(-1, 2)
    length = float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
    if length > MAX_OUTLINE_PX:
        raise AnnotationError(where, f"a polygon's outline is {length:,.0f} px long, the limit is {MAX_OUTLINE_PX:,}", "draw it again")
    return tuple(points.ravel().tolist())


# --- the images


def _unlisted(photographs: Sequence[Path], document: Document, root: Path) -> list[Path]:
    of_file = {nfc(picture.file) for picture in document.pictures}
    return [path for path in photographs if nfc(path.relative_to(root).as_posix()) not in of_file]


def _unlisted_record(path: Path, root: Path) -> Record:
    return Record(stem_of(path, root), relative(path, root), decoded_size(path), hashed(path))


def _record(picture: Picture, document: Document, where: Path, stage: Stage, choices: Choices, turned: list[str]) -> Record:
    """Decode one image, paint its mask; its name goes into `turned` where EXIF turns it and the size does not tell.

    Raises AnnotationError or ImageError with the reason for refusing it.
    """
    root = stage.source.root
    path = _image(picture, where, root)
    record = Record(stem_of(path, root), relative(path, root), _fitting(path, picture, where), hashed(path))
    outlines = document.outlines.get(picture.key, ())
    if not outlines and not choices.empty_is_background:
        return record
    if hides_its_turn(read_orientation(path), picture.size):
        turned.append(picture.file)
    codes = [outline.rle or drawn(outline.polygons, picture.size) for outline in outlines]
    mask_HW = painted(outlines, codes, picture.size, stage.labels, choices)
    instances = [
        Instance(outline.label, None, outline.crowd, code, picture.size) for outline, code in zip(outlines, codes, strict=True)
    ] if stage.instances is not None else []  # fmt: skip
    return stage.save(record, mask_HW, instances)


def _image(picture: Picture, where: Path, root: Path) -> Path:
    named = f"{where} image {shown(picture.key)}"
    path = on_disk(resolve_under(root, picture.file, AnnotationError, named))
    if not path.is_file():
        rule = f"file_name {shown(picture.file)} is not there under {root}"
        raise AnnotationError(named, rule, "check --images, or remove the entry")
    return path


def _fitting(path: Path, picture: Picture, where: Path) -> Size:
    size = decoded_size(path)
    if size != picture.size:
        stated = f"{picture.size.width_px} x {picture.size.height_px}"
        rule = f"annotated at {stated}, the image {picture.file} is {size.width_px} x {size.height_px} (upright)"
        raise AnnotationError(f"{where} image {shown(picture.key)}", rule, "put back the image that was annotated")
    return size


def drawn(polygons: Sequence[Sequence[float]], size: Size) -> str:
    """The code of checked polygons, united."""
    codes = coco_rle.frPyObjects([list(polygon) for polygon in polygons], size.height_px, size.width_px)
    return united([code["counts"].decode("ascii") for code in codes], size)


def painted(outlines: Sequence[Outline], codes: Sequence[str], size: Size, labels: LabelSet, choices: Choices) -> np.ndarray:
    """uint8 (H, W): the annotations in their order of painting on background 0."""
    flat = np.zeros(size.height_px * size.width_px, np.uint8)  # counted down the columns, as the codes are
    counts = [counts_of(code, size, "annotation") for code in codes]
    order = list(range(len(codes)))
    if choices.paint == "area":
        order.sort(key=lambda index: -int(counts[index][1::2].sum()))
    for index in order:
        outline = outlines[index]
        if outline.crowd and choices.crowd == "skip":
            continue
        as_ignored = outline.crowd and choices.crowd == "ignore"
        paint_counts(flat, counts[index], labels.ignore_id if as_ignored else labels.id_of(outline.label))
    return flat.reshape(size.width_px, size.height_px).T
