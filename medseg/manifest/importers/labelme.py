"""labelme JSON -> manifest and id masks.

The photograph is the file that `imagePath` names, one of that name beside the JSON, or the embedded `imageData` (then the
manifest's `image` is the .json itself). Annotations are made on the upright picture, so sizes are compared after EXIF. Class ids
come from dataset.yaml or the order of --classes, never from the order in which labels are met.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError, MedsegError
from medseg.files import posix, walk
from medseg.images import IMAGE_SUFFIXES, MAX_JSON_BYTES, write_mask
from medseg.labels import LabelSet
from medseg.manifest.importers.common import (
    ImportReport,
    MasksUnder,
    Notes,
    Progress,
    Record,
    count_pixels,
    counter,
    decoded_size,
    described,
    each,
    folder_at,
    frame_of,
    group_ids,
    hashed,
    images_under,
    mask_hash,
    note_twins,
    raise_refused,
    refused_rows,
    relative,
    staging,
    stem_of,
    without_clashes,
    write_all,
    write_refused,
)  # fmt: skip
from medseg.rasterise import MIN_POINTS, Shape, draw
from medseg.types import Size

EXACT_POINTS = ("rectangle", "circle", "line", "point")  # labelme asserts their number of points
FARTHEST_PX = 1e6  # a point further out is a mistake, and Pillow would draw towards it for minutes


@dataclass(frozen=True, slots=True)
class Annotation:
    """A labelme file that can be imported: its photograph (relative to SRC), that one's upright size, its shapes in order."""

    path: Path
    sample_id: str
    image: str
    size: Size
    image_sha256: str
    shapes: tuple[Shape, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotLabelme:
    """A JSON file of another kind."""

    path: Path


def import_labelme(
    src: Path,
    out: Path,
    masks_out: Path | None = None,
    classes: Sequence[str] | None = None,
    dataset_name: str | None = None,
    group_pattern: str | None = None,
    skip_refused: bool = False,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Write the manifest of a folder of labelme files and their id masks; the data root is `src`.

    Images without a JSON become unlabelled rows. Raises AnnotationError naming every file that cannot be imported (unless
    `skip_refused`), LabelError for a label that is no class, ManifestError where `out` holds something else; then nothing is
    written.
    """
    root = folder_at(src, "source")
    group_ids([], group_pattern)  # a bad pattern shall not cost a pass over the images
    masks_dir = masks_out or out / "masks"
    under = _masks_under(masks_dir, out, root)
    files = walk(root, (".json",), skip=(out, masks_dir))
    photographs = images_under(root, skip=(out, masks_dir))
    advance = counter(2 * len(files) + len(photographs), on_progress)
    notes = Notes()
    annotations, refused = _read_all(files, root, notes, advance)
    if not annotations and not refused:
        raise AnnotationError(src, "no labelme file (.json with `shapes`) under this folder", "check the path")
    if not annotations:
        raise_refused(refused, str(src))  # no label was met, and that would be the wrong thing to complain about
    dataset = described(out, classes, dataset_name, under, _labels_met(annotations))
    _check_classes(annotations, dataset.labels, root)
    plain, damaged = _unlabelled(photographs, annotations, refused, root, advance)
    refused += damaged
    if not skip_refused:
        raise_refused(refused, str(src))
    with staging(masks_dir) as stage:
        prefix = os.path.relpath(masks_dir.resolve(), out.resolve() if under == "manifest" else root)
        drawing = partial(_draw, labels=dataset.labels, stage=stage, prefix=Path(prefix).as_posix(), under=under)
        drawn = list(each(drawing, annotations, advance))
        raise_refused([result for result in drawn if isinstance(result, MedsegError)], str(src))
        records, clashes = without_clashes([*(r for r in drawn if isinstance(r, Record)), *plain])
        refused += clashes
        if not skip_refused:
            raise_refused(clashes, str(src))
        note_twins(records, notes)
        write_all(out, frame_of(records, dataset.labels, group_pattern), dataset, [(stage, masks_dir)], {"importer": "labelme"})
    rows = refused_rows(refused, root)
    write_refused(out, rows)
    labelled = sum(record.mask is not None for record in records)
    return ImportReport(out, labelled, len(records) - labelled, rows, notes.lines(), root)


def _masks_under(masks_dir: Path, out: Path, root: Path) -> MasksUnder:
    if masks_dir.resolve().is_relative_to(out.resolve()):
        return "manifest"
    if masks_dir.resolve().is_relative_to(root):
        return "data_root"
    rule = f"masks must lie under the manifest's folder ({out}) or the data root ({root}), or their paths could not be stored"
    raise ManifestError(masks_dir, rule, "choose another --masks-out, or leave it out")


# --- pass 1: every file read and checked


def _read_all(files: Sequence[Path], root: Path, notes: Notes, advance: Callable[[], None]) -> tuple[list[Annotation], list[MedsegError]]:
    annotations: list[Annotation] = []
    refused: list[MedsegError] = []
    owner: dict[str, Annotation] = {}
    for result in each(partial(read_annotation, root=root), files, advance):
        if isinstance(result, MedsegError):
            refused.append(result)
        elif isinstance(result, NotLabelme):
            notes.add("not a labelme file, left out", stem_of(result.path, root) + ".json")
        elif (first := owner.setdefault(result.image, result)) is not result:
            rule = f"it annotates {result.image}, as {first.path.name} does"
            refused.append(AnnotationError(result.path, rule, "keep one annotation of an image"))
        else:
            annotations.append(result)
            for note in result.notes:
                notes.add(note, result.sample_id + ".json")
    return annotations, refused


def read_annotation(path: Path, root: Path) -> Annotation | NotLabelme:
    """Read one labelme file and decode its photograph. Raises AnnotationError or ImageError with the reason for refusing it."""
    content = _load(path)
    if not isinstance(content, dict) or "shapes" not in content:
        return NotLabelme(path)
    shapes = _shapes(content["shapes"], path)
    image, size, notes = _photograph(content, path, root)
    if not shapes:
        notes.append("no shape: labelled as background all over")
    return Annotation(path, stem_of(path, root), relative(image, root), size, hashed(image), shapes, tuple(notes))


def _load(path: Path) -> Any:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise AnnotationError(path, f"over {MAX_JSON_BYTES >> 20} MB, too large to be an annotation", "save its image beside it instead")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as cause:
        raise AnnotationError(path, f"not valid JSON ({str(cause) or 'nested too deep'})", "save the annotation again") from None


def _photograph(content: dict[str, Any], path: Path, root: Path) -> tuple[Path, Size, list[str]]:
    """(file that holds the photograph, its upright size, notes)."""
    stated = _stated_size(content, path)
    embedded = bool(content.get("imageData"))
    image, notes = _find_image(content.get("imagePath"), path, root)
    if image is None and not embedded:
        rule = f"imagePath {content.get('imagePath')!r} names no file, none lies beside the JSON, and imageData is empty"
        raise AnnotationError(path, rule, "put the image beside the JSON")
    size = _decoded(image or path, embedded=embedded and image is not None)
    if stated and size != stated and embedded and image is not None and decoded_size(path) == stated:
        return path, stated, [*notes, "the image file has another size than the annotation; the embedded image is used"]
    if stated and size != stated:
        found = f"the image {(image or path).name} is {size.width_px} x {size.height_px} (upright)"
        rule = f"annotated at {stated.width_px} x {stated.height_px}, {found}"
        raise AnnotationError(path, rule, "put back the image that was annotated")
    if image is None:
        notes.append("no image file; the embedded image is used")
    return image or path, size, notes


def _decoded(image: Path, embedded: bool) -> Size:
    try:
        return decoded_size(image)
    except ImageError as error:
        fix = f"{error.fix}, or remove it so that the embedded imageData is used" if embedded else error.fix
        raise ImageError(error.where, error.rule, fix) from None


def _stated_size(content: dict[str, Any], path: Path) -> Size | None:
    """The size in the JSON; None where it has none (files of other tools leave it out)."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if height is None and width is None:
        return None
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        rule = f"imageHeight and imageWidth must be positive whole numbers, got {height!r} and {width!r}"
        raise AnnotationError(path, rule, "save the annotation again")
    return Size(height, width)


def _find_image(stated: Any, path: Path, root: Path) -> tuple[Path | None, list[str]]:
    """The file that imagePath names; failing that, the one of its name beside the JSON, or the only one of the JSON's own name.

    Raises AnnotationError where imagePath leads out of SRC: judged by where it arrives, since `..\\set_1\\104.jpg` may not leave.
    """
    if not isinstance(stated, str) or not stated.strip() or "\0" in stated:
        return _namesake(path, [])
    target = Path(os.path.normpath(path.parent / posix(stated)))
    drive = posix(stated)[1:3] == ":/"
    if drive or not (target.is_relative_to(root) and target.resolve().is_relative_to(root)):
        fix = f"import the folder that holds both, or correct imagePath to {Path(posix(stated)).name!r}"
        raise AnnotationError(path, f"imagePath {stated!r} leaves {root}", fix)
    if target.is_file():
        return target, []
    beside = path.parent / target.name
    if beside.is_file():
        return beside, ["imagePath names no file; the one of its name beside the JSON is used"]
    return _namesake(path, ["imagePath names no file; the image with the JSON's own name is used"])


def _namesake(path: Path, notes: list[str]) -> tuple[Path | None, list[str]]:
    found = [
        other for suffix in IMAGE_SUFFIXES for other in (path.with_suffix(suffix), path.with_suffix(suffix.upper())) if other.is_file()
    ]
    return (found[0], notes) if len(found) == 1 else (None, [])


def _shapes(content: Any, path: Path) -> tuple[Shape, ...]:
    if not isinstance(content, list):
        raise AnnotationError(path, "`shapes` must be a list", "save the annotation again")
    return tuple(_shape(shape, f"shape {index}", path) for index, shape in enumerate(content))


def _shape(content: Any, name: str, path: Path) -> Shape:
    """One checked shape; errors name it by its place in the file (0 = first) and its label."""
    if not isinstance(content, dict) or not isinstance(content.get("label"), str) or not content["label"].strip():
        raise AnnotationError(path, f"{name} has no label", "label it in labelme, or remove it")
    label, kind = content["label"].strip(), content.get("shape_type") or "polygon"
    name = f"{name} ({label!r})"
    if kind not in MIN_POINTS:
        raise AnnotationError(path, f"{name} is a {kind!r}, known are {', '.join(MIN_POINTS)}", "draw it again as a polygon")
    points = content.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise AnnotationError(path, f"{name} has a point that is not two finite numbers within {FARTHEST_PX:,.0f} px", "draw it again")
    needed = MIN_POINTS[kind]
    if len(points) < needed or (kind in EXACT_POINTS and len(points) != needed):
        least = "" if kind in EXACT_POINTS else "at least "
        raise AnnotationError(path, f"{name} is a {kind} of {len(points)} points, it needs {least}{needed}", "draw it again, or remove it")
    return Shape(label, kind, tuple((float(x), float(y)) for x, y in points))


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(_is_coordinate(value) for value in point)


def _is_coordinate(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and abs(value) <= FARTHEST_PX


def _labels_met(annotations: Sequence[Annotation]) -> list[str]:
    return sorted({shape.label for annotation in annotations for shape in annotation.shapes})


def _check_classes(annotations: Sequence[Annotation], labels: LabelSet, root: Path) -> None:
    """LabelError for the first label that is no class: an id could only be guessed, so this is never skipped."""
    known = set(labels.names)
    strays = [(a.path, shape.label) for a in annotations for shape in a.shapes if shape.label not in known]
    if strays:
        path, label = strays[0]
        files = len({path for path, _ in strays})
        rule = f"the label {label!r} is no class of the data set ({', '.join(labels.foreground)})"
        more = f" (labels {sorted({label for _, label in strays})} in {files} files)" if files > 1 else ""
        raise LabelError(path, rule + more, "name it in dataset.yaml (or --classes), or correct the label in labelme")


def _unlabelled(
    photographs: Sequence[Path],
    annotations: Sequence[Annotation],
    refused: Sequence[MedsegError],
    root: Path,
    advance: Callable[[], None],
) -> tuple[list[Record], list[MedsegError]]:
    """Records of the images that no annotation claims; those beside a refused JSON are left out with it."""
    claimed = {annotation.image for annotation in annotations}
    named = {annotation.sample_id for annotation in annotations if annotation.image.endswith(".json")}
    named |= {stem_of(Path(error.where), root) for error in refused if error.where.startswith(f"{root}/")}
    free = [path for path in photographs if path.relative_to(root).as_posix() not in claimed and stem_of(path, root) not in named]
    results = list(each(partial(_unlabelled_record, root=root), free, advance))
    for _ in range(len(photographs) - len(free)):
        advance()
    records = [result for result in results if isinstance(result, Record)]
    return records, [result for result in results if isinstance(result, MedsegError)]


def _unlabelled_record(path: Path, root: Path) -> Record:
    return Record(stem_of(path, root), relative(path, root), decoded_size(path), hashed(path))


# --- pass 2: every mask drawn


def _draw(annotation: Annotation, labels: LabelSet, stage: Path, prefix: str, under: MasksUnder) -> Record:
    """Draw and write one mask into `stage`; `prefix` is where the masks will lie, relative to their root."""
    mask_HW = draw(((shape, labels.id_of(shape.label)) for shape in annotation.shapes), annotation.size)
    path = stage / f"{annotation.sample_id}.png"
    write_mask(path, mask_HW, labels.palette)
    return Record(
        annotation.sample_id, annotation.image, annotation.size, annotation.image_sha256,
        f"{prefix}/{annotation.sample_id}.png" if prefix != "." else f"{annotation.sample_id}.png",
        mask_hash(path, mask_HW, under), count_pixels(mask_HW, labels),
    )  # fmt: skip
