"""A set in the Medical Segmentation Decathlon's layout (dataset.json) -> manifest.

Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022. The fourth axis of a volume holds its channels, in
the order of `modality`. The files stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import AnnotationError, MedsegError
from medseg.files import names_a_file, nfc, on_disk, resolve_under
from medseg.images import VOLUME_SUFFIXES, is_volume
from medseg.labels import BACKGROUND, LabelSet
from medseg.manifest.importers.common import ImportReport, Notes, Progress, check_out, group_ids, label_set
from medseg.manifest.importers.pairs import check_pairs, with_pairs
from medseg.manifest.importers.volume_common import (
    Case,
    Job,
    column_names,
    described_as,
    import_cases,
    ordered_names,
    read_description,
    volumes_under,
)  # fmt: skip
from medseg.volumes import refuse_detached, volume_stem


def import_decathlon(
    src: Path,
    out: Path,
    dataset_name: str | None = None,
    group_pattern: str | None = None,
    skip_refused: bool = False,
    on_progress: Progress | None = None,
    left_right: Sequence[str] = (),
) -> ImportReport:
    """Write the manifest of a Decathlon folder, named by itself or by its dataset.json; the folder is the data root.

    `test` volumes become unlabelled rows. Name, licence, reference and description go to dataset.yaml where there is none yet. Raises
    AnnotationError for a dataset.json that cannot be used, and as `import_nifti` for files.

    left_right: pairs as LEFT=RIGHT, which no dataset.json states; LabelError where they cannot be, ManifestError where dataset.yaml
    says otherwise.
    """
    path = (src / "dataset.json" if src.is_dir() else src).resolve()
    content = read_description(path)
    group_ids([], group_pattern)
    check_out(out, [path.parent], VOLUME_SUFFIXES)
    notes = Notes()
    modalities = ordered_names(content, "modality", path)
    labels = with_pairs(_labels(content.get("labels"), path, notes), left_right)
    dataset = described_as(out, labels, dataset_name, str(content.get("name") or ""), facts_of(content))
    check_pairs(dataset.labels, labels, out)
    cases, refused = _cases(content, path, len(modalities), notes)
    if not cases and not refused:
        raise AnnotationError(path, "it lists no volume under `training` or `test`", "check the file")
    notes.add(f"the channels are {', '.join(modalities)}", path.name)
    how = {"importer": "decathlon", "modalities": modalities, "channel_axis": 3 if len(modalities) > 1 else None}
    return import_cases(cases, Job(out, path.parent, dataset, how, group_pattern, skip_refused, on_progress), refused, notes)


def facts_of(content: Mapping[str, Any]) -> dict[str, str]:
    """licence, citation, source and notes of dataset.yaml, of those that a dataset.json states."""
    licence = content.get("licence") or content.get("license")
    release = f"{content.get('name')}, release {content['release']}" if content.get("release") else ""
    stated = {"licence": licence, "citation": content.get("reference"), "source": release, "notes": content.get("description")}
    return {key: " ".join(str(value).split()) for key, value in stated.items() if value}


def _labels(found: Any, path: Path, notes: Notes) -> LabelSet:
    """Background and the classes by their number."""
    fix = 'write it as {"0": "background", "1": "NAME", ...}'
    try:
        names = {int(key): value for key, value in found.items()}
    except (AttributeError, ValueError, TypeError):
        raise AnnotationError(path, f"`labels` must give names by number, got {found!r:.80}", fix) from None
    names[0] = BACKGROUND
    if sorted(names) != list(range(len(names))) or len(names) < 2 or not all(isinstance(name, str) for name in names.values()):
        raise AnnotationError(path, f"`labels` must name 1, 2, ... without a gap, got {found!r:.80}", fix)
    return label_set(column_names([names[number] for number in range(1, len(names))], notes), path)


def _cases(content: Mapping[str, Any], path: Path, channels: int, notes: Notes) -> tuple[list[Case], list[MedsegError]]:
    cases: list[Case] = []
    refused: list[MedsegError] = []
    for part, count in (("training", "numTraining"), ("test", "numTest")):
        entries = content.get(part) or []
        if not isinstance(entries, list):
            raise AnnotationError(path, f"`{part}` must be a list", "correct the file")
        if content.get(count) not in (None, len(entries)):
            notes.add(f"{count} says {content[count]!r:.20}, `{part}` lists {len(entries)}", path.name)
        for index, entry in enumerate(entries):
            try:
                cases.append(_case(entry, f"{part} {index}", path, channels))
            except MedsegError as error:
                refused.append(error)
    named = {file.resolve() for case in cases for file in (*case.images, case.mask) if file}
    for file in volumes_under(path.parent):
        if file.resolve() not in named and not refused:
            notes.add(f"not listed in {path.name}, left out", file.relative_to(path.parent).as_posix())
    return cases, refused


def _case(entry: Any, name: str, path: Path, channels: int) -> Case:
    """One entry of `training` ({image, label}) or `test` (a path), `name` says which."""
    stated = entry if isinstance(entry, dict) else {"image": entry}
    files: dict[str, Path] = {}
    for key in ("image", "label"):
        relative = stated.get(key)
        if relative is None and key == "label":
            continue
        if not names_a_file(relative):
            raise AnnotationError(f"{path} ({name})", f"`{key}` must be a path, got {relative!r:.80}", "correct the entry")
        files[key] = on_disk(resolve_under(path.parent, relative, AnnotationError, f"{path} ({name})"))
        if not is_volume(files[key]) or not files[key].is_file():
            refuse_detached(files[key])
            what = "there is no such file" if is_volume(files[key]) else f"no volume file ({', '.join(VOLUME_SUFFIXES)})"
            raise AnnotationError(files[key], f"{what}, and {name} of {path.name} names it", "put it there, or remove the entry")
    return Case(nfc(volume_stem(files["image"].name)), (files["image"],), files.get("label"), channels)
