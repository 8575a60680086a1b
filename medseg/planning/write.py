"""`medseg plan` as a short story: measure, propose, write an experiment with the reason of each value beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from medseg.config import load_config
from medseg.errors import ConfigError, ManifestError
from medseg.files import check_file_target, read_json, staged_files, write_json, write_text
from medseg.manifest.importers.common import IMPORT_FILE
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import check_data_root, read_manifest, read_split
from medseg.planning.fingerprint import Fingerprint, PhotographFingerprint, Progress, VolumeFingerprint, measure, to_json
from medseg.planning.propose import Plan, Setting, Wanted, plan_photographs, plan_volumes
from medseg.planning.rules import Modality, modality_by_intensities, modality_by_name

ModalityOption = Literal["ct", "mr", "photograph"]


class Source(NamedTuple):
    """Which rows are planned for. manifest: as the user names it, and as the experiment will; fold: that is val, and is not measured."""

    manifest: Path
    data_root: Path | None = None
    split: str = "main"
    fold: int | None = None


def write_plan(
    source: Source,
    wanted: Wanted,
    modality: ModalityOption | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    jobs: int = 0,
) -> Path:
    """Plan for a split's training rows; the experiment's path, beside which its fingerprint is written (`*.fingerprint.json`).

    Of a split with folds, none of which is chosen, all folds' rows are training rows, as nnU-Net has it: one plan for all of a
    cross-validation has seen what each of its parts is validated on. The header says so.

    out: experiments/<data set>/plan.yaml where not given.  Raises ManifestError, ImageError or LabelError for data that cannot be
    planned for, ConfigError where nothing fits, or a plan is there already and `overwrite` is not said.
    """
    manifest, root = read_manifest(source.manifest), check_data_root(source.data_root)
    split = read_split(manifest, source.split)
    split = split if source.fold is None else split.fold(source.fold)
    path = out or Path("experiments") / manifest.dataset.name / "plan.yaml"
    _check_target(path, overwrite)
    found = measure(manifest, split, root, progress, jobs)
    plan = propose(found, manifest, wanted, modality)
    with staged_files(path.parent) as stage:
        write_text(stage / path.name, text_of(plan, found, path, source, split, manifest, wanted, modality))
        write_json(stage / fingerprint_path(path).name, to_json(found, manifest, split))
        load_config(stage / path.name)
    return path


def fingerprint_path(path: Path) -> Path:
    """Of the plan at `path`."""
    return path.with_name(f"{path.stem}.fingerprint.json")


def _check_target(path: Path, overwrite: bool) -> None:
    """Before the volumes are measured, which may take long."""
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(path, "an experiment is a .yaml file", "name it so")
    check_file_target(path)
    if path.exists() and not overwrite:
        raise ConfigError(path, "there is a plan already, which may have been edited", "give --overwrite, or another --out")


def propose(found: Fingerprint, manifest: Manifest, wanted: Wanted, modality: ModalityOption | None = None) -> Plan:
    """The plan of a fingerprint; ConfigError where the modality is not one of such images."""
    if isinstance(found, PhotographFingerprint):
        if modality not in (None, "photograph"):
            raise ConfigError(f"--modality {modality}", "the manifest is of photographs", "leave it out")
        return plan_photographs(found, manifest.labels, wanted)
    if modality == "photograph":
        raise ConfigError("--modality photograph", "the manifest is of volumes", "give ct or mr")
    modalities, told = modalities_of(found, manifest, modality)
    return plan_volumes(found, manifest.labels, modalities, told, wanted)


def modalities_of(found: VolumeFingerprint, manifest: Manifest, given: Literal["ct", "mr"] | None) -> tuple[tuple[Modality, ...], str]:
    """(of each channel, how it is known): as the user says, else by the names that the import found, else by the intensities."""
    channels = len(found.intensities)
    if given:
        return (given,) * channels, "as --modality says"
    names = _channel_names(manifest)
    if len(names) == channels:
        return tuple(modality_by_name(name) for name in names), f"as dataset.json names the channels ({', '.join(names)})"
    least = ", ".join(f"{one.least:.4g}" for one in found.intensities)
    told = f"by the volumes' least value, {least} on median (air is -1000 HU in CT; --modality says it outright)"
    return tuple(modality_by_intensities(one) for one in found.intensities), told


def _channel_names(manifest: Manifest) -> tuple[str, ...]:
    """As a dataset.json of the Decathlon or nnU-Net had them; none where the import was of another kind."""
    path = manifest.folder / IMPORT_FILE
    if not path.is_file():
        return ()
    content = read_json(path, ManifestError, "import the set again")
    names = content.get("modalities") or content.get("channel_names") if isinstance(content, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _data_settings(source: Source) -> tuple[Setting, ...]:
    manifest = source.manifest.parent if source.manifest.suffix == ".csv" else source.manifest
    fold = () if source.fold is None else (Setting("data.fold", source.fold),)
    return Setting("data.manifest", manifest.as_posix()), Setting("data.split", source.split), *fold


# --- text


def text_of(
    plan: Plan,
    found: Fingerprint,
    path: Path,
    source: Source,
    split: Split,
    manifest: Manifest,
    wanted: Wanted,
    modality: ModalityOption | None,
) -> str:
    """The experiment as YAML: a header, then each key with its reason."""
    name = manifest.dataset.name
    header = (
        f"Question: how far does {plan.network} come on {name}, planned by nnU-Net's rules (Isensee et al., Nature Methods 2021)?",
        f"Command:  {_command(path, name)}",
        f"Planned by: {_planned_by(source, wanted, modality)}",
        *_measured_lines(found, split, fingerprint_path(path)),
        *plan.facts,
        *_class_lines(found),
    )
    return "".join(f"# {line}\n" for line in header) + _yaml(sorted((*_data_settings(source), *plan.settings), key=_section_order))


def _measured_lines(found: Fingerprint, split: Split, fingerprint: Path) -> list[str]:
    kind = "photographs" if isinstance(found, PhotographFingerprint) else "volumes"
    folds = split.folds if split.chosen is None else 0
    rows = f"{found.cases} training {kind} of the split {split.name}"
    if not folds:
        return [f"From {rows}, none of val or test: {fingerprint.name}."]
    return [
        f"From {rows}, those of all its {folds} folds and none of test: {fingerprint.name}.",
        "So each fold's val rows are among what was measured, as in nnU-Net; --fold K measures without those of fold K.",
    ]


def _class_lines(found: Fingerprint) -> list[str]:
    lines = []
    for one in found.classes:
        if one.voxels is None:
            lines.append(f"{one.name}: in no training case, so nothing is learned of it.")
            continue
        size = f"{one.volume_mm3:.4g} mm3" if one.volume_mm3 is not None else f"{one.voxels:,.0f} pixels"
        parts = (
            f"; parts: {one.components_median:g} on median, {one.components_most} at the most" if one.components_median is not None else ""
        )
        lines.append(f"{one.name}: in {one.cases} of {found.cases}, {size} on median{parts}, {one.share:.2%} of all that is labelled.")
    return lines


def _planned_by(source: Source, wanted: Wanted, modality: ModalityOption | None) -> str:
    """The command with what differs from its defaults, and where the defaults might change."""
    options = {"split": source.split, "fold": source.fold, "network": wanted.network, "modality": modality}
    words = [f"--{key} {value}" for key, value in options.items() if value is not None]
    words += [f"--memory-gib {wanted.memory_gib:g}", f"--steps {wanted.steps}", *(["--slices"] if wanted.slices else [])]
    return f"medseg plan {source.manifest.as_posix()} {' '.join(words)}"


def _command(path: Path, name: str) -> str:
    """By make where the file lies where it looks."""
    here = Path.cwd()
    path = path.absolute().relative_to(here) if path.absolute().is_relative_to(here) else path
    if path.parent.parent == Path("experiments"):
        return f"make experiment EXP={path.parent.name}/{path.stem} DATA_ROOT=/path/to/{name}"
    return f"medseg experiment {path.as_posix()} --data-root /path/to/{name}"


_SECTIONS = ("data", "model", "loss", "sampling", "augment", "optim", "train", "infer")


def _section_order(setting: Setting) -> int:
    """A stable sort by it keeps the order within a section."""
    return _SECTIONS.index(setting.key.partition(".")[0])


def _yaml(settings: Iterable[Setting]) -> str:
    """One line a setting, its reason behind it; a section's line before its first key."""
    lines, above = list[str](), list[str]()
    for setting in settings:
        *sections, key = setting.key.split(".")
        same = next(
            (depth for depth, pair in enumerate(zip(above, sections, strict=False)) if pair[0] != pair[1]), min(len(above), len(sections))
        )
        lines += [f"{'  ' * depth}{sections[depth]}:" for depth in range(same, len(sections))]
        lines.append(f"{'  ' * len(sections)}{key}: {_flow(setting.value)}{f' # {setting.why}' if setting.why else ''}")
        above = sections
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=100_000).removesuffix("...\n").strip()
