"""A folder of images and a folder of id masks, matched by name -> manifest. The masks stay where they are; none is rewritten."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError, MedsegError
from medseg.images import read_mask
from medseg.labels import LabelSet
from medseg.manifest.importers.common import (
    ImportReport,
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
    note_twins,
    raise_refused,
    refused_rows,
    relative,
    stem_of,
    without_clashes,
    write_all,
    write_refused,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask, None where it has none."""

    sample_id: str
    image: Path
    mask: Path | None


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
) -> ImportReport:
    """Write the manifest of images and id masks of equal name: `a/7.jpg` and `a/7<mask_suffix>.png`.

    The data root is `data_root`, or else the folder both lie in. Images without a mask become unlabelled rows. Raises
    AnnotationError, ImageError or LabelError naming the files that cannot be imported (unless `skip_refused`); then nothing is
    written.
    """
    images, masks = folder_at(images, "images"), folder_at(masks, "masks")
    root = _data_root(images, masks, data_root)
    group_ids([], group_pattern)  # a bad pattern shall not cost a pass over the images
    notes = Notes()
    if not classes and not (out / "dataset.yaml").exists():
        raise ManifestError(out / "dataset.yaml", "masks hold ids without names, and there is no such file", "give --classes NAME,NAME")
    dataset = described(out, classes, dataset_name, "data_root", [])
    pairs, refused = _pairs(images, masks, mask_suffix, out, notes)
    if not pairs:
        raise AnnotationError(images, "no image under this folder", "check --images")
    if all(pair.mask is None for pair in pairs):
        raise AnnotationError(masks, f"no mask has the name of an image ({_examples(pairs, refused)})", "check --masks and --mask-suffix")
    results = list(each(partial(_record, root=root, labels=dataset.labels), pairs, counter(len(pairs), on_progress)))
    refused += [result for result in results if isinstance(result, MedsegError)]
    records, clashes = without_clashes(result for result in results if isinstance(result, Record))
    refused += clashes
    if not skip_refused or not records:
        raise_refused(refused, str(masks))
    note_twins(records, notes)
    write_all(out, frame_of(records, dataset.labels, group_pattern), dataset)
    rows = refused_rows(refused, root)
    write_refused(out, rows)
    labelled = sum(record.mask is not None for record in records)
    return ImportReport(out, labelled, len(records) - labelled, rows, notes.lines(), root)


def _data_root(images: Path, masks: Path, given: Path | None) -> Path:
    root = folder_at(given, "data root") if given else Path(os.path.commonpath([images, masks]))
    if not (images.is_relative_to(root) and masks.is_relative_to(root)):
        raise ManifestError(root, f"the data root must hold both {images} and {masks}", "give a --data-root above the two")
    if root == Path(root.anchor):
        raise ManifestError(root, f"{images} and {masks} have no folder in common", "put the two under one folder")
    return root


def _pairs(images: Path, masks: Path, suffix: str, out: Path, notes: Notes) -> tuple[list[Pair], list[MedsegError]]:
    """Each image with its mask, and an error for each mask that has no image or a rival."""
    one_folder = images == masks
    if one_folder and not suffix:
        raise ManifestError(images, "images and masks lie in one folder under the same names", "give --mask-suffix, such as _mask")
    found, refused = _masks_by_name(masks, suffix, [] if one_folder else [images, out], notes, one_folder)
    pairs = []
    for path in images_under(images, skip=[] if one_folder else [masks, out]):
        if not (one_folder and path.stem.endswith(suffix)):
            pairs.append(Pair(stem_of(path, images), path, found.get(stem_of(path, images))))
    orphans = sorted(set(found) - {pair.sample_id for pair in pairs})
    refused += [
        AnnotationError(found[name], f"there is no image {name}.* under {images}", "add the image, or remove the mask") for name in orphans
    ]
    return pairs, refused


def _masks_by_name(masks: Path, suffix: str, skip: list[Path], notes: Notes, one_folder: bool) -> tuple[dict[str, Path], list[MedsegError]]:
    found: dict[str, Path] = {}
    refused: list[MedsegError] = []
    for path in images_under(masks, skip=[folder for folder in skip if folder.resolve() != masks]):
        if not path.stem.endswith(suffix):
            if not one_folder:
                notes.add(f"no {suffix!r} at the end of its name, not taken as a mask", path.relative_to(masks).as_posix())
            continue
        first = found.setdefault(stem_of(path, masks).removesuffix(suffix), path)
        if first is not path:
            refused.append(AnnotationError(path, f"{first.name} beside it is a mask of the same name", "keep one of the two"))
    return found, refused


def _examples(pairs: Sequence[Pair], refused: Sequence[MedsegError]) -> str:
    return f"an image: {pairs[0].image.name}, a mask: {Path(refused[0].where).name}"


def _record(pair: Pair, root: Path, labels: LabelSet) -> Record:
    """Decode and check one pair. Raises ImageError, LabelError or AnnotationError with the reason for refusing it."""
    size = decoded_size(pair.image)
    image = relative(pair.image, root)
    if pair.mask is None:
        return Record(pair.sample_id, image, size, hashed(pair.image))
    mask_HW = read_mask(pair.mask)
    if mask_HW.shape != tuple(size):
        height, width = mask_HW.shape
        rule = f"the mask is {width} x {height}, its image {pair.image.name} is {size.width_px} x {size.height_px} (upright)"
        raise ImageError(pair.mask, rule, "export the mask at the image's size")
    _check_ids(mask_HW, labels, pair.mask)
    mask = relative(pair.mask, root)
    return Record(pair.sample_id, image, size, hashed(pair.image), mask, hashed(pair.mask), count_pixels(mask_HW, labels))


def _check_ids(mask_HW: np.ndarray, labels: LabelSet, path: Path) -> None:
    """LabelError for ids that are no class, and for black-and-white masks, whose white would silently be the ignore id."""
    values = np.unique(mask_HW)
    if labels.ignore_id == 255 and 255 in values and set(values.tolist()) <= {0, 255}:
        shown = "only 255" if len(values) == 1 else "only 0 and 255"
        rule = f"the mask holds {shown}; 255 is the ignore id, so no pixel would be {' or '.join(labels.foreground)}"
        raise LabelError(path, rule, f"convert 255 to {labels.id_of(labels.foreground[0])}, or set another ignore_id in dataset.yaml")
    labels.check(mask_HW, path)
