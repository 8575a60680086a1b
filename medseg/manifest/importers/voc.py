"""A data set in Pascal VOC's layout -> manifest: JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/*.txt.

Masks are palette PNG (indices 0..20 and 255, which stay where they are) or RGB in the colours of VOC or of dataset.yaml, which are
written as ids beside the manifest. The white border and difficult objects are the ignore id. Some of VOC's classes keep VOC's own
indices and colours in the masks, whatever ids they get.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from medseg.conventions import Content, Refusal, ValueMap, decide, packed, white_is_open
from medseg.errors import AnnotationError, LabelError, MedsegError
from medseg.files import leaves_root, nfc, posix, walk
from medseg.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from medseg.labels import BACKGROUND, LabelSet
from medseg.manifest.importers.common import (
    ImportReport,
    Notes,
    Progress,
    check_out,
    described,
    folder_at,
    group_ids,
    images_under,
    note_background,
    refused_links,
    stem_of,
)  # fmt: skip
from medseg.manifest.importers.masks import MASKS_FOLDER, Job, Pair, import_pairs, parse_map, stated_under
from medseg.manifest.schema import SPLIT_NAMES, Dataset
from medseg.manifest.table import DATASET_FILE
from medseg.palettes import voc_colour

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike",
    "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
LISTS_FILE = "voc_lists.csv"
VOID = 255
MAX_LIST_BYTES = 64 * 1024**2


def import_voc(
    root: Path,
    out: Path,
    image_sets: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    dataset_name: str | None = None,
    group_pattern: str | None = None,
    skip_refused: bool = False,
    on_progress: Progress | None = None,
    value_map: Sequence[str] = (),
) -> ImportReport:
    """Write the manifest of a VOC folder; the data root is the folder that holds JPEGImages.

    image_sets: names of lists in ImageSets/Segmentation; only the images they name are taken, and each must have a mask. Without
    them every image is taken, and those without a mask are unlabelled. Classes and colours are those of dataset.yaml, or `classes`
    (VOC's 20 where not given): VOC's names stand for VOC's own indices and colours, other names for those of their place. Raises
    AnnotationError, ImageError or LabelError naming every file that cannot be imported (unless `skip_refused`); then nothing is
    written.
    """
    base = _layout(folder_at(root, "VOC"))
    group_ids([], group_pattern)  # a bad pattern shall not cost a pass over the images
    check_out(out, [base], MASK_SUFFIXES, [out / MASKS_FOLDER])
    dataset = _dataset(out, classes, dataset_name)
    given = parse_map(value_map, dataset.labels)
    lists = {name: _read_list(base, name) for name in image_sets}
    notes = Notes()
    note_background(classes, notes)
    pairs, refused = _pairs(base, lists, notes)
    if not any(pair.mask for pair in pairs):
        rule = "no mask has the name of an image"
        raise refused[0] if refused and not skip_refused else AnnotationError(base / MASKS, rule, "check the folder")
    by_name, said = _by_name(dataset.labels), _said(dataset.labels, out)  # asked before the import writes dataset.yaml
    job = Job("voc", base, base, out, dataset, group_pattern, skip_refused, given=given, how={"image_sets": sorted(lists)},
              on_progress=on_progress, reading=decide_by_name if by_name else decide,
              beside=partial(_lists_beside, out=out, lists=lists, said=said))  # fmt: skip
    return import_pairs(pairs, refused, job, notes)


def _layout(root: Path) -> Path:
    """The folder with JPEGImages and SegmentationClass: `root`, or the only one below (VOC2012, VOCdevkit/VOC2012)."""
    found = [path.parent for path in (root / IMAGES, *sorted(root.glob(f"*/{IMAGES}")), *sorted(root.glob(f"*/*/{IMAGES}")))]
    found = [path for path in found if (path / IMAGES).is_dir() and (path / MASKS).is_dir()]
    if not found:
        rule = f"no {IMAGES}/ beside {MASKS}/ in this folder or one below"
        raise AnnotationError(root, rule, "name the folder that holds the two, such as VOCdevkit/VOC2012")
    if root not in found and len(found) > 1:
        raise AnnotationError(root, f"{len(found)} VOC folders lie below ({found[0].name}, {found[1].name})", "name one of them")
    return found[0]


def _dataset(out: Path, classes: Sequence[str] | None, name: str | None) -> Dataset:
    """dataset.yaml as it stands, or VOC's colours for the classes given."""
    if (out / DATASET_FILE).exists():
        return described(out, classes, name, stated_under(out), [])
    dataset = described(out, classes or VOC_CLASSES, name, "data_root", [])
    colours = {label: voc_colour(class_id) for label, class_id in _indices(dataset.labels).items()}
    labels = LabelSet.of(*dataset.labels.foreground, colours=colours, ignore_id=VOID, ignore_colour=voc_colour(VOID))
    return dataset.model_copy(update={"labels": labels})


def _indices(labels: LabelSet) -> dict[str, int]:
    """Class name -> its index in VOC's masks: VOC's own for VOC's names, else its place. LabelError where the names are of both kinds."""
    known = [name for name in labels.foreground if name.lower() in VOC_CLASSES]
    if not known:
        return {name: class_id for class_id, name in labels.classes.items()}
    strays = [name for name in labels.foreground if name not in VOC_CLASSES]
    if strays:
        like = f"{known[0]} is VOC's class {VOC_CLASSES.index(known[0].lower()) + 1}"
        rule = f"{like}, {strays[0]} is none of VOC's ({', '.join(VOC_CLASSES)}), so what its index is cannot be told"
        raise LabelError("--classes", rule, "name classes of VOC, or write a dataset.yaml with a colour for each class (labels.colours)")
    return {BACKGROUND: 0, **{name: 1 + VOC_CLASSES.index(name) for name in labels.foreground}}


def _by_name(labels: LabelSet) -> bool:
    """True for some of VOC's classes in VOC's colours; all of them in VOC's order are plain ids."""
    names = labels.foreground
    own = all(name in VOC_CLASSES and labels.colours.get(name) == voc_colour(1 + VOC_CLASSES.index(name)) for name in names)
    return own and names != VOC_CLASSES


def _said(labels: LabelSet, out: Path) -> list[str]:
    if (out / DATASET_FILE).exists() or any(name in VOC_CLASSES for name in labels.foreground):
        return []
    told = ", ".join(f"{class_id} is {name}" for class_id, name in labels.classes.items() if class_id)
    return [f"none of the classes is VOC's, so indices and colours are read by their place: {told}"]


# --- masks of some of VOC's classes


def decide_by_name(contents: Sequence[Content], labels: LabelSet, given: Mapping[int, int]) -> list[ValueMap | Refusal]:
    """How each file becomes class ids where VOC's names stand for VOC's own indices and colours; a pixel of another class is refused."""
    found = [_by_index_or_colour(content, labels, given) for content in contents]
    alone = {place for place, content in enumerate(contents) if VOID not in given and _is_black_and_white(content)}
    beside = sum(VOID in content.values and content.kind_of_file != "colour" for content in contents) - len(alone)
    return found if beside > len(alone) else [white_is_open(beside, len(alone)) if n in alone else one for n, one in enumerate(found)]


def _is_black_and_white(content: Content) -> bool:
    """255 without a class beside it, and no palette that shows it in the colour of void: it may be white for a class."""
    colours = dict(zip(content.values, content.colours, strict=False))
    plain = content.kind_of_file != "colour" and VOID in content.values and set(content.values) <= {0, VOID}
    return plain and colours.get(VOID) != voc_colour(VOID)


def _by_index_or_colour(content: Content, labels: LabelSet, given: Mapping[int, int]) -> ValueMap | Refusal:
    places = _voc_places(content)
    meant = {place: labels.id_of(name) for name, place in _indices(labels).items()} | {VOID: labels.ignore_id}
    table = {value: meant[place] for value, place in places.items() if place in meant}
    table |= {value: class_id for value, class_id in given.items() if value in content.values}
    strays = [(value, count) for value, count in zip(content.values, content.counts, strict=True) if value not in table]
    if strays:
        return _other_classes(strays, places, content.kind_of_file == "colour")
    shown = ", ".join(labels.classes[class_id] for class_id in sorted(set(table.values())) if class_id in labels.classes and class_id)
    return ValueMap("palette_colours", table, f"VOC's own indices and colours are read as {shown or BACKGROUND}")


def _voc_places(content: Content) -> dict[int, int]:
    """Stored value -> its index in VOC's list, where it has one: by the colour in an RGB file or a palette of VOC's colours."""
    legal = {packed(voc_colour(index)): index for index in (*range(len(VOC_CLASSES) + 1), VOID)}
    if content.kind_of_file == "colour":
        return {value: legal[value] for value in content.values if value in legal}
    colours = [packed(colour) for colour in content.colours]
    if len(set(colours)) == len(colours) > 1 and all(colour in legal for colour in colours):
        return {value: legal[colour] for value, colour in zip(content.values, colours, strict=True)}
    found = {value: value for value in content.values if 0 <= value <= len(VOC_CLASSES) or value == VOID}
    if content.kind_of_file == "grey":  # an RGB mask of cars alone is grey
        found |= {value: legal[value * 0x010101] for value in content.values if value > 0 and value * 0x010101 in legal}
    return found


def _other_classes(strays: Sequence[tuple[int, int]], places: Mapping[int, int], colours: bool) -> Refusal:
    named = ("background", *VOC_CLASSES)
    words = [f"#{value:06X}" if colours else str(value) for value, _ in strays]
    told = [
        f"{word} ({named[places[value]]}, {count:,} pixels)" if value in places else f"{word} ({count:,} pixels)"
        for word, (value, count) in zip(words, strays, strict=True)
    ]
    rule = f"the mask holds what is none of the classes given: {', '.join(told[:8])}{', ...' if told[8:] else ''}"
    return Refusal("outside", rule, f"name them in --classes, or map them with --map '{words[0]}=background' (or ignore)")


# --- image-set lists


def _read_list(base: Path, name: str) -> list[str]:
    """The image names of ImageSets/Segmentation/<name>.txt, in its order."""
    folder = base / LISTS
    path = folder / f"{name}.txt"
    if leaves_root(name) or not path.is_file() or not path.resolve().is_relative_to(base):
        there = ", ".join(sorted(other.stem for other in folder.glob("*.txt"))) or "none"
        raise AnnotationError(path, f"there is no image set {name!r}", f"name one of: {there}")
    if path.stat().st_size > MAX_LIST_BYTES:
        raise AnnotationError(path, f"over {MAX_LIST_BYTES >> 20} MB, too large to be a list of names", "name the right file")
    try:
        lines = [line.split() for line in path.read_bytes().decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise AnnotationError(path, "it is not UTF-8 text", "save the list again") from None
    names = [nfc(posix(words[0])) for words in lines if words]
    if bad := next((name for name in names if leaves_root(name)), None):
        raise AnnotationError(path, f"the name {bad!r} leaves {IMAGES}/", "list names of images without folder and suffix")
    if not names:
        raise AnnotationError(path, "the list is empty", "name another image set")
    return list(dict.fromkeys(names))


def _pairs(base: Path, lists: Mapping[str, Sequence[str]], notes: Notes) -> tuple[list[Pair], list[MedsegError]]:
    """Each image taken with its mask, and an error for a listed name without image or mask and a mask without image."""
    images, rivals = _by_stem(images_under(base / IMAGES), base / IMAGES)
    masks, more = _by_stem(walk(base / MASKS, MASK_SUFFIXES), base / MASKS)
    links = [*refused_links(base / IMAGES, IMAGE_SUFFIXES, (), notes), *refused_links(base / MASKS, MASK_SUFFIXES, (), notes)]
    refused = [*links, *rivals, *more]
    if not lists:
        fix = "add the image, or remove the mask"
        orphans = sorted(set(masks) - set(images))
        refused += [AnnotationError(masks[name], f"there is no image {IMAGES}/{name}.*", fix) for name in orphans]
        return [Pair(name, path, masks.get(name)) for name, path in images.items()], refused
    wanted = dict.fromkeys(name for names in lists.values() for name in names)
    for name in sorted(images.keys() - wanted.keys()):
        notes.add(f"in none of the image sets {', '.join(lists)}, left out", name)
    for where, names in lists.items():
        refused += [_missing(base, where, name, images) for name in names if name not in images or name not in masks]
    return [Pair(name, images[name], masks[name]) for name in wanted if name in images and name in masks], refused


def _by_stem(paths: Sequence[Path], folder: Path) -> tuple[dict[str, Path], list[MedsegError]]:
    """(files by name without suffix, an error for each that came second)."""
    found: dict[str, Path] = {}
    rivals: list[MedsegError] = []
    for path in paths:
        first = found.setdefault(stem_of(path, folder), path)
        if first is not path:
            rivals.append(AnnotationError(path, f"{first.name} beside it has the same name", "keep one of the two"))
    return found, rivals


def _missing(base: Path, where: str, name: str, images: Mapping[str, Path]) -> MedsegError:
    what = f"mask {MASKS}/{name}.png" if name in images else f"image {IMAGES}/{name}.jpg"
    return AnnotationError(base / LISTS / f"{where}.txt", f"it lists {name!r}, but there is no {what}", "add the file, or correct the list")


def _lists_beside(
    samples: Collection[str], out: Path, lists: Mapping[str, Sequence[str]], said: Sequence[str]
) -> tuple[Mapping[str, str], list[str]]:
    """voc_lists.csv with the split that the lists train, val and test make of the samples, where two of them are used; `said` and more."""
    parts = {name: names for name, names in lists.items() if name in SPLIT_NAMES}
    if len(parts) < 2:
        return {}, [*said]
    rows = [(name, part) for part, names in parts.items() for name in names if name in samples]
    frame = pd.DataFrame(rows, columns=["sample_id", "split"]).sort_values(["sample_id", "split"], kind="stable")
    if frame["sample_id"].duplicated().any():
        twice = frame.loc[frame["sample_id"].duplicated(), "sample_id"].iloc[0]
        return {}, [*said, f"the image sets {' and '.join(parts)} share images ({twice}), so they make no split"]
    told = f"the split of the image sets: medseg manifest split {out} --name voc --from {out / LISTS_FILE}"
    return {LISTS_FILE: frame.to_csv(index=False, lineterminator="\n")}, [*said, told]
