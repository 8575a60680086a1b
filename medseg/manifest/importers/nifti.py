"""Volumes and label volumes of equal name (NIfTI, MetaImage, NRRD) -> manifest.

The files stay where they are; affine and spacing are compared and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.errors import AnnotationError, ManifestError, MedsegError
from medseg.files import nfc
from medseg.images import VOLUME_SUFFIXES
from medseg.manifest.importers.common import (
    ImportReport,
    Notes,
    Progress,
    check_out,
    described,
    folder_at,
    group_ids,
    note_background,
    raise_refused,
    refused_links,
    shared_root,
)  # fmt: skip
from medseg.manifest.importers.volume_common import Case, Job, import_cases, refused_detached, volume_id, volumes_under
from medseg.volumes import volume_stem


def import_nifti(
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
    """Write the manifest of volumes and label volumes of equal name: `a/7.nii.gz` and `a/7<mask_suffix>.mha`.

    width, height and depth are the first, second and third axis as stored, the spacing lies along these. Volumes without a mask become
    unlabelled rows. Raises ImageError (unreadable, or mask and image on two grids), LabelError or AnnotationError naming the files
    that cannot be imported (unless `skip_refused`); then nothing is written.
    """
    images, masks = folder_at(images, "images"), folder_at(masks, "masks")
    root = shared_root(images, masks, data_root)
    group_ids([], group_pattern)
    check_out(out, [images, masks], VOLUME_SUFFIXES)
    if not classes and not (out / "dataset.yaml").exists():
        raise ManifestError(out / "dataset.yaml", "masks hold ids without names, and there is no such file", "give --classes NAME,NAME")
    dataset = described(out, classes, dataset_name, "data_root", [])
    notes = Notes()
    note_background(classes, notes)
    cases, refused = _pairs(images, masks, mask_suffix, out, notes)
    _check_some(cases, images, masks, skip_refused)
    job = Job(out, root, dataset, {"importer": "nifti"}, group_pattern, skip_refused, on_progress)
    return import_cases(cases, job, refused, notes)


def _check_some(cases: Sequence[Case], images: Path, masks: Path, skip_refused: bool) -> None:
    """AnnotationError where there is no volume, or no mask of one; headers alone (.mhd) are named first, as they may be the reason."""
    if any(case.mask for case in cases):
        return
    detached = {error.where: error for folder in (images, masks) for error in refused_detached(folder)}
    if not skip_refused:
        raise_refused(list(detached.values()), str(images))
    if not cases:
        raise AnnotationError(images, f"no volume ({', '.join(VOLUME_SUFFIXES)}) under this folder", "check --images")
    seen = volumes_under(masks)
    example = f"an image: {cases[0].images[0].name}, a mask: {seen[0].name if seen else 'none there'}"
    raise AnnotationError(masks, f"no mask has the name of an image ({example})", "check --masks and --mask-suffix")


def _pairs(images: Path, masks: Path, suffix: str, out: Path, notes: Notes) -> tuple[list[Case], list[MedsegError]]:
    """Each volume with its mask, and an error for each mask that has no image or a rival."""
    one_folder = images == masks
    if one_folder and not suffix:
        raise ManifestError(images, "images and masks lie in one folder under the same names", "give --mask-suffix, such as _mask")
    found: dict[str, Path] = {}
    suffix = nfc(suffix)
    beside_masks = [] if one_folder else [folder for folder in (images, out) if folder.resolve() != masks]
    beside_images = [] if one_folder else [folder for folder in (masks, out) if folder.resolve() != images]
    refused = refused_links(images, VOLUME_SUFFIXES, beside_images, notes)
    refused += [] if one_folder else refused_links(masks, VOLUME_SUFFIXES, beside_masks, notes)
    refused += refused_detached(images, beside_images) + ([] if one_folder else refused_detached(masks, beside_masks))
    for path in volumes_under(masks, beside_masks):
        name = volume_id(path, masks)
        if not name.endswith(suffix):
            if not one_folder:
                notes.add(f"no {suffix!r} at the end of its name, not taken as a mask", path.relative_to(masks).as_posix())
        elif (first := found.setdefault(name.removesuffix(suffix), path)) is not path:
            refused.append(AnnotationError(path, f"{first.name} beside it is a mask of the same name", "keep one of the two"))
    there = volumes_under(images, beside_images)
    taken = [path for path in there if not (one_folder and nfc(volume_stem(path.name)).endswith(suffix))]
    cases = [Case(name, (path,), found.get(name)) for path in taken for name in [volume_id(path, images)]]
    for name in sorted(set(found) - {case.sample_id for case in cases}):
        refused.append(AnnotationError(found[name], f"there is no image {name} under {images}", "add the image, or remove the mask"))
    return cases, refused
