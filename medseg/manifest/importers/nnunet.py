"""An nnU-Net raw folder (DatasetXXX_NAME) -> manifest. The files stay where they are.

Each channel is a file `imagesTr/<case>_0000.nii.gz`, `_0001`, ...; the manifest names the first, its column `channels` says how many
there are, and image_sha256 covers them all (`manifest.imagefiles`). dataset.json is read in the form of version 2 (`channel_names`,
`labels` by name, regions, `ignore`) and of version 1 (`modality`, `labels` by number).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medseg.errors import AnnotationError, ImageError, LabelError, MedsegError
from medseg.files import nfc, walk
from medseg.images import VOLUME_SUFFIXES, read_mask
from medseg.labels import BACKGROUND, LabelSet
from medseg.manifest.imagefiles import combined
from medseg.manifest.importers.common import (
    ImportReport,
    Notes,
    Progress,
    Record,
    check_out,
    decoded_size,
    folder_at,
    group_ids,
    hashed,
    refused_links,
    relative,
)  # fmt: skip
from medseg.manifest.importers.decathlon import facts_of
from medseg.manifest.importers.volume_common import (
    Case,
    Job,
    channel_cell,
    check_ids,
    column_names,
    described_as,
    image_path,
    import_cases,
    ordered_names,
    read_description,
)  # fmt: skip
from medseg.volumes import id_counts
from medseg.yamlio import first_problem

FLAT_ENDINGS = (".png", ".bmp")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def import_nnunet(
    src: Path,
    out: Path,
    dataset_name: str | None = None,
    group_pattern: str | None = None,
    skip_refused: bool = False,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Write the manifest of an nnU-Net raw folder, which is the data root; imagesTs and cases without a label are unlabelled rows.

    Raises AnnotationError for a dataset.json that cannot be used or a channel that is missing, ImageError where channels or label lie
    on two grids, LabelError for ids that are no class (unless `skip_refused`); then nothing is written.
    """
    root = folder_at(src, "source")
    path = root / "dataset.json"
    content = read_description(path)
    group_ids([], group_pattern)
    check_out(out, [root], (*VOLUME_SUFFIXES, *FLAT_ENDINGS))
    notes = Notes()
    ending = _ending(content, path)
    channels = ordered_names(content, "channel_names" if "channel_names" in content else "modality", path)
    labels = nnunet_labels(content.get("labels"), path, notes)
    stated = str(content.get("name") or re.sub(r"^(Dataset|Task)\d+_", "", root.name))
    dataset = described_as(out, labels, dataset_name, stated, facts_of(content))
    cases, refused = _cases(root, ending, channels, notes)
    if not cases and not refused:
        raise AnnotationError(root, f"no case <name>_0000{ending} under imagesTr", "check the path and file_ending")
    if content.get("numTraining") not in (None, sum(case.images[0].parent.name == "imagesTr" for case in cases)):
        notes.add(f"numTraining says {content['numTraining']!r:.20}, imagesTr holds another number of cases", path.name)
    notes.add(f"the channels are {', '.join(channels)}", path.name)
    work = partial(_flat_record, root=root, labels=dataset.labels) if ending in FLAT_ENDINGS else None
    how = {"importer": "nnunet", "channel_names": channels, "file_ending": ending}
    return import_cases(cases, Job(out, root, dataset, how, group_pattern, skip_refused, on_progress), refused, notes, work)


def _ending(content: Mapping[str, Any], path: Path) -> str:
    ending = content.get("file_ending", ".nii.gz")
    if "dataset" in content:
        raise AnnotationError(path, "it lists the files of each case under `dataset`", "put them under imagesTr and labelsTr and remove it")
    if ending not in (*VOLUME_SUFFIXES, *FLAT_ENDINGS):
        known = ", ".join((*VOLUME_SUFFIXES, *FLAT_ENDINGS))
        raise AnnotationError(path, f"file_ending {ending!r} cannot be read (known are {known})", "convert the files to .nii.gz")
    return str(ending)


# --- labels


def nnunet_labels(found: Any, path: Path, notes: Notes) -> LabelSet:
    """The LabelSet of nnU-Net's `labels`.

    A name of one id is a class, of several a region; an id that only regions hold is class `label_<id>`; `ignore` is the ignore id.
    """
    ids = _ids_by_name(found, path)
    ignore = ids.pop("ignore", (255,))
    if len(ignore) != 1:
        raise AnnotationError(path, "`ignore` must be one id", "correct `labels`")
    met = sorted({one for several in ids.values() for one in several} - {0})
    classes = {several[0]: name for name, several in ids.items() if len(several) == 1}
    classes = {0: BACKGROUND, **{one: classes.get(one, f"label_{one}") for one in met}}
    if sorted(classes) != list(range(len(classes))) or len(classes) < 2:
        raise AnnotationError(path, f"`labels` must hold the ids 1, 2, ... without a gap, got {met}", "correct `labels`")
    plain = column_names([classes[one] for one in met], notes)
    named = {0: BACKGROUND, **dict(zip(met, plain, strict=True))}
    wide = [name for name, several in ids.items() if len(several) > 1]
    regions = {
        new: tuple(named[one] for one in ids[old]) for old, new in zip(wide, column_names(wide, notes), strict=True)
    }  # fmt: skip
    try:
        return LabelSet(classes=named, ignore_id=ignore[0], regions=regions)
    except ValidationError as cause:
        raise LabelError(path, f"`labels` cannot be used ({first_problem(cause)[1]})", "correct `labels`") from None


def _ids_by_name(found: Any, path: Path) -> dict[str, tuple[int, ...]]:
    """name -> ids, of version 2 (name: id or ids) or version 1 ("id": name)."""
    fix = 'write it as {"background": 0, "NAME": 1, ...}'
    if not isinstance(found, dict) or not found:
        raise AnnotationError(path, f"`labels` must be a mapping, got {found!r:.80}", fix)
    first_form = all(isinstance(key, str) and key.isdecimal() and isinstance(value, str) for key, value in found.items())
    pairs = [(str(value), int(key)) for key, value in found.items()] if first_form else list(found.items())
    ids: dict[str, tuple[int, ...]] = {}
    for name, value in pairs:
        several = tuple(dict.fromkeys(value)) if isinstance(value, list) and all(type(one) is int for one in value) else (value,)
        if not several or any(type(one) is not int or not 0 <= one <= 255 for one in several) or name in ids:
            raise AnnotationError(path, f"the label {name!r} must be an id in 0..255 or a list of such, got {value!r:.80}", fix)
        if name != BACKGROUND and several != (0,):
            ids[name] = several
    return ids


# --- cases


def _cases(root: Path, ending: str, channels: list[str], notes: Notes) -> tuple[list[Case], list[MedsegError]]:
    cases: list[Case] = []
    refused: list[MedsegError] = []
    for part in ("Tr", "Ts"):
        folder, masks = root / f"images{part}", root / f"labels{part}"
        refused += [error for where in (folder, masks) for error in refused_links(where, (ending,), (), notes)]
        found: dict[str, dict[int, Path]] = {}
        for path in walk(folder, (ending,)):
            match = _CHANNEL.fullmatch(nfc(path.name[: -len(ending)]))
            if match is None or path.parent != folder:
                fix = "rename it"
                refused.append(AnnotationError(path, f"its name must be <case>_0000{ending}, directly under {folder.name}", fix))
            else:
                found.setdefault(match[1], {})[int(match[2])] = path
        labels = {nfc(path.name[: -len(ending)]): path for path in walk(masks, (ending,)) if path.parent == masks}
        for name, files in sorted(found.items()):
            try:
                cases.append(Case(name, _channel_files(folder / name, files, ending, channels), labels.get(name)))
            except MedsegError as error:
                refused.append(error)
        for name in sorted(set(labels) - set(found)):
            rule = f"there is no image {name}_0000{ending} in {folder.name}"
            refused.append(AnnotationError(labels[name], rule, "add the image, or remove the label"))
    return cases, refused


def _channel_files(case: Path, files: Mapping[int, Path], ending: str, channels: list[str]) -> tuple[Path, ...]:
    """The files of a case by channel; one colour PNG may hold the three channels that dataset.json names."""
    if ending in FLAT_ENDINGS and set(files) == {0}:
        return (files[0],)
    wanted = set(range(len(channels)))
    if missing := sorted(wanted - set(files)):
        rule = f"the channel {channels[missing[0]]} ({case.name}_{missing[0]:04d}{ending}) is missing"
        raise AnnotationError(case, rule, "add the file, or remove the case")
    if extra := sorted(set(files) - wanted):
        raise AnnotationError(files[extra[0]], f"dataset.json names {len(channels)} channels", "name the channel there, or remove the file")
    return tuple(files[channel] for channel in sorted(files))


def _flat_record(case: Case, root: Path, labels: LabelSet) -> tuple[Record, list[str]]:
    """(record, notes) of a 2-D case: photographs and an id mask."""
    sizes = [decoded_size(path) for path in case.images]
    for path, size in zip(case.images, sizes, strict=True):
        if size != sizes[0]:
            first = f"{case.images[0].name} is {sizes[0].width_px} x {sizes[0].height_px}"
            raise ImageError(path, f"the channel is {size.width_px} x {size.height_px}, {first}", "export the channels at one size")
    digest = combined([hashed(path) for path in case.images])
    image, more = image_path(case, root), channel_cell(case)
    if case.mask is None:
        return Record(case.sample_id, image, sizes[0], digest, more=more), []
    mask_HW = read_mask(case.mask)
    if mask_HW.shape != tuple(sizes[0]):
        rule = f"the mask is {mask_HW.shape[1]} x {mask_HW.shape[0]}, its image {sizes[0].width_px} x {sizes[0].height_px}"
        raise ImageError(case.mask, rule, "export the mask at the image's size")
    counts = id_counts(mask_HW)
    check_ids(counts, labels, case.mask)
    px = {name: int(counts[class_id]) for class_id, name in labels.classes.items()}
    mask = relative(case.mask, root)
    return Record(case.sample_id, image, sizes[0], digest, mask, hashed(case.mask), px, more=more), []
