"""The items of CLAIM 2024 that a run's own files can answer, answered; the others are the author's.

Tejani, Klontzas, Gatti et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update, Radiology: Artificial
Intelligence 2024;6(4):e240300. The items are told in our own words; the paper's are to be followed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medseg.config import AugmentConfig
from medseg.config.volume import VolumeConfig
from medseg.errors import MedsegError, counted
from medseg.manifest.schema import SPLIT_NAMES, Split
from medseg.manifest.table import read_manifest, read_split
from medseg.publishing.compared import SIGNIFICANT
from medseg.publishing.estimated import Share
from medseg.publishing.published import METHOD_NAMES, Published
from medseg.publishing.sources import Source
from medseg.publishing.table import figures, score_title
from medseg.publishing.trained import Trained, network_text, read_trained, start_text, training_text
from medseg.statistics.intervals import FEWEST_GROUPS, REPLICATES
from medseg.types import by

CHANNEL_MEAN, CHANNEL_DEVIATION = (0.5,), (0.25,)  # as medseg.models.contract has them, which would import torch; of older runs
BETWEEN_OBSERVERS = "second observer against the reference"
_SOMETIMES = ("crop", "elastic", "noise", "blur_px", "cutout")  # what augment.probability is of
_OF_PHOTOGRAPHS = ("shift", "crop", "elastic", "saturation", "hue", "cutout")  # volumes are not changed so
_TITLE, _ABSTRACT, _INTRODUCTION, _DISCUSSION, _OTHER = "Title", "Abstract", "Introduction", "Discussion", "Other information"
_DESIGN, _DATA, _REFERENCE, _PARTITIONS = "Study design", "Data", "Reference standard", "Data partitions"
_MODEL, _TRAINING, _EVALUATION, _RESULTS = "Model", "Training", "Evaluation", "Results"
ITEMS: tuple[tuple[str, str], ...] = (  # section and text of items 1 to 44
    (_TITLE, "Names the study as one of AI, and the kind of technology"),
    (_ABSTRACT, "Sums up design, methods, results and conclusions"),
    (_INTRODUCTION, "Background, intended use and role of the method"),
    (_INTRODUCTION, "Aims, objectives and hypotheses"),
    (_DESIGN, "Prospective or retrospective"),
    (_DESIGN, "Goal of the study"),
    (_DATA, "Where the data come from"),
    (_DATA, "Who and what was included or excluded"),
    (_DATA, "Preprocessing"),
    (_DATA, "Choice of parts of the data"),
    (_DATA, "De-identification"),
    (_DATA, "What was done about missing data"),
    (_DATA, "How the images were acquired"),
    (_REFERENCE, "How the reference standard was obtained"),
    (_REFERENCE, "Why this reference standard"),
    (_REFERENCE, "Who annotated"),
    (_REFERENCE, "How the test set was annotated"),
    (_REFERENCE, "Variability between and within annotators"),
    (_PARTITIONS, "How the data were assigned to the parts"),
    (_PARTITIONS, "Level at which the parts are disjoint"),
    (_PARTITIONS, "Intended sample size"),
    (_MODEL, "Description of the model"),
    (_MODEL, "Software libraries, frameworks and packages"),
    (_MODEL, "Initial values of the parameters"),
    (_TRAINING, "Details of the training"),
    (_TRAINING, "How the final model was selected"),
    (_TRAINING, "Ensembling"),
    (_EVALUATION, "Measures of performance"),
    (_EVALUATION, "Significance and uncertainty"),
    (_EVALUATION, "Robustness or sensitivity"),
    (_EVALUATION, "Explainability or interpretability"),
    (_EVALUATION, "Evaluation on internal data"),
    (_EVALUATION, "Test on external data"),
    (_EVALUATION, "Registration of a clinical trial"),
    (_RESULTS, "Numbers of patients or examinations included and excluded"),
    (_RESULTS, "Demographic and clinical characteristics of the cases in each part"),
    (_RESULTS, "Performance and its uncertainty"),
    (_RESULTS, "Diagnostic performance and its precision"),
    (_RESULTS, "Analysis of failures"),
    (_DISCUSSION, "Limitations"),
    (_DISCUSSION, "Implications for practice"),
    (_OTHER, "Where the full protocol or further technical details are"),
    (_OTHER, "Availability of software, trained model and data"),
    (_OTHER, "Funding, and the role of the funders"),
)


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the checklist. answer: what the files say; None where they say nothing, and the author has to."""

    number: int
    section: str
    text: str
    answer: str | None


@dataclass(frozen=True)
class _Known:
    """A source, its runs, and the split they were trained by where it is at hand and unchanged. groups: its rows by the manifest's
    groups, with the columns sample_id, group_id and split."""

    source: Source
    runs: Sequence[Trained]
    split: Split | None
    groups: pd.DataFrame | None

    @property
    def folds(self) -> bool:
        """Whether the parts are folds, each of which is val in one of the runs."""
        return len(_folds(self.runs)) > 1


def claim_items(published: Published) -> list[Item]:
    """All 44 items in order, answered as far as the files of the sources go; sources that differ are told apart by their labels."""
    known = [_read_source(source) for source in published.sources]
    answers = {number: _by_source(known, answer) for number, answer in _OF_SOURCE.items()}
    answers |= {29: _intervals(published), 37: _performance(published), 39: _by_source(known, lambda one: _failures(one, published.shares))}
    return [Item(number, section, text, answers.get(number)) for number, (section, text) in enumerate(ITEMS, start=1)]


def _by_source(known: Sequence[_Known], answer: Callable[[_Known], str | None]) -> str | None:
    """One text where all say the same, else each behind its label; those that say nothing are passed by."""
    texts = {one.source.label: answer(one) for one in known}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return " ".join(f"{label}: {text}" for label, text in texts.items() if text)


# --- what is read


def _read_source(source: Source) -> _Known:
    runs = [run for path in source.runs.values() if (run := read_trained(path)) is not None]
    split, groups = _read_split(runs[0], runs[0].config.data.fold if len(_folds(runs)) == 1 else None) if runs else (None, None)
    return _Known(source, runs, split, groups)


def _folds(runs: Sequence[Trained]) -> set[int | None]:
    return {run.config.data.fold for run in runs}


def _read_split(run: Trained, fold: int | None) -> tuple[Split | None, pd.DataFrame | None]:
    """The split with the manifest's groups; None where it is not there, or not the one that the run was trained by."""
    try:
        manifest = read_manifest(Path(run.config.data.manifest))
        split = read_split(manifest, run.config.data.split, fold)
    except (MedsegError, OSError):
        return None, None
    if (manifest.digest, split.digest) != (run.digests.get("manifest_sha256"), run.digests.get("split_sha256")):
        return None, None
    return split, split.frame[["sample_id", "split"]].merge(manifest.frame[["sample_id", "group_id"]], on="sample_id")


# --- answers: of a source each, None where its files say nothing


def _alike(one: _Known, told: Callable[[Trained], str | None]) -> str | None:
    """What each run says, once where they agree."""
    texts = dict.fromkeys(text for run in one.runs if (text := told(run)))
    return " ".join(texts) or None


def _data(run: Trained) -> str | None:
    if run.dataset is None or not (run.dataset.source or run.dataset.citation):
        return None
    parts = [f"Data set {run.dataset.name}", run.dataset.source, run.dataset.citation]
    text = "; ".join(part.strip().rstrip(".") for part in parts if part)
    return f"{text}.{f' {run.dataset.notes.strip()}' if run.dataset.notes.strip() else ''}"


def _preprocessing(run: Trained) -> str:
    if run.config.data.volume is not None:
        return f"{_of_volumes(run.config.data.volume)} {_augmentation(run.config.augment, volumes=True)}"
    height, width = run.config.data.size_px
    mean, deviation = run.config.model.mean or CHANNEL_MEAN, run.config.model.deviation or CHANNEL_DEVIATION
    return (
        f"Images are resized to fit {height} x {width} pixels (height x width) with their aspect kept, and the padding is ignored; each "
        f"channel is scaled to [0, 1], less {_numbers(mean)}, divided by {_numbers(deviation)}. {_augmentation(run.config.augment)}"
    )


def _of_volumes(volume: VolumeConfig) -> str:
    crop = "cropped to the box of what is not 0, " if volume.crop == "nonzero" else ""
    how = "; ".join(dict.fromkeys(_INTENSITIES[channel.normalise].format(**channel.model_dump()) for channel in volume.channels))
    return (
        f"Volumes are turned to RAS by exchanging and reversing axes, {crop}their intensities changed ({how}), and resampled to "
        f"{by(volume.spacing_mm)} mm along {', '.join(volume.axes)}: images by cubic splines (nearest across an axis over three times as "
        "coarse as the others), labels linearly by class. What lies outside a volume is ignored."
    )


_INTENSITIES = {
    "zscore": "less their mean, by their deviation",
    "zscore_inside": "less their mean, by their deviation, both of what is not 0 and its holes",
    "window": "clipped to {lower} to {upper}, less {mean}, by {deviation}",
    "unit_range": "scaled so that the smallest is 0 and the largest 1",
}


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _augmentation(config: AugmentConfig, volumes: bool = False) -> str:
    """The random changes that are on, by the names of the configuration."""
    left_out = {"probability", *(() if config.probability else _SOMETIMES), *(_OF_PHOTOGRAPHS if volumes else ("flip_axes",))}
    values = {key: value for key, value in config.model_dump(exclude=left_out).items() if value}
    on = ", ".join(f"{key} {' '.join(value) if isinstance(value, tuple) else f'{value:g}'}" for key, value in values.items())
    of = [key for key in _SOMETIMES if key in values]
    rare = f"; {', '.join(of)} with probability {config.probability:g}" if of else ""
    return f"Random changes in training (section augment of the configuration): {on}{rare}." if on else "No random changes in training."


def _subsets(run: Trained) -> str | None:
    if run.config.sampling.patch_px is None:
        return None
    patch, ratios = run.config.sampling.patch_px, run.config.sampling.centre_ratios
    centres = ", ".join(f"{name} {ratio:g}" for name, ratio in ratios.items())
    where = f"centred on the classes in the ratios {centres}" if centres else "at random places"
    what = "voxels" if len(patch) == 3 else "pixels"
    return f"The network learns from crops of {by(patch)} {what}, {where}."


def _observers(one: _Known) -> str | None:
    """A second observer's agreement with the first, where the evaluation measured it."""
    for folder in one.source.folders.values():
        try:
            between = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["observers"][BETWEEN_OBSERVERS]
            scores = {name: between["per_image"][name]["iou"] for name in one.source.names}
            told = ", ".join(f"{name} {figures(_number(score['mean']), 3)} (n = {score['n']})" for name, score in scores.items())
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return f"A second observer against the reference, IoU as mean over images: {told}."
    return None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _assignment(one: _Known) -> str | None:
    if not one.runs:
        return None
    digests, data = one.runs[0].digests, one.runs[0].config.data
    text = f"Split {data.split}"
    if digests.get("split_sha256"):
        text += f" (SHA-256 {digests['split_sha256'][:12]}, of manifest {str(digests.get('manifest_sha256'))[:12]})"
    if one.folds:
        text += ", cross-validation: each fold in turn is val, and the others train"
    elif data.fold is not None:
        text += f", fold {data.fold} is val, and the others train"
    if digests.get("images") and not one.folds:
        text += ": " + ", ".join(f"{part} {digests['images'][part]:,}" for part in SPLIT_NAMES if part in digests["images"]) + " images"
    made = [f"{key} {value}" for key, value in (one.split.facts if one.split else {}).items() if not key.endswith("sha256")]
    return f"{text}. Made with {', '.join(made)}." if made else f"{text}."


def _disjoint(one: _Known) -> str | None:
    if not one.runs:
        return None
    text = "By group, which is the patient where the manifest's group_id names one: no group is in two parts, "
    text += "as was verified when the split was read." if one.groups is not None else "or the training would have refused the split."
    groups = one.source.cases if one.groups is None else one.groups
    if groups["group_id"].nunique() == groups["sample_id"].nunique():
        text += f" {'Each image' if one.groups is not None else 'Each scored image'} is a group of its own here."
    return text


def _software(run: Trained) -> str | None:
    packages = run.environment.get("packages") or {}
    python = [f"Python {run.environment['python']}"] if run.environment.get("python") else []
    return ", ".join([*python, *(f"{name} {version}" for name, version in packages.items())]) + "." if packages or python else None


def _selection(one: _Known) -> str | None:
    if not one.runs:
        return None
    facts = one.source.facts.get("checkpoint") or {}
    epochs = [str(epoch) for epoch in one.source.facts.get("epoch") or [] if epoch is not None]
    at = f": {'epoch' if len(epochs) == 1 else 'epochs'} {', '.join(epochs)}" if epochs else ""
    if one.source.protocol.checkpoint == "chosen on val":
        return f"The weights of the epoch with the best {facts.get('chosen_by') or 'score on val'}{at}."
    return f"The weights {one.source.protocol.checkpoint}{at}; none was chosen."


def _ensemble(one: _Known) -> str | None:
    return f"No ensemble of networks. Prediction: {one.source.protocol.test_time}." if one.runs else None


def _measures(one: _Known) -> str:
    """By which rules; how it was predicted stands in items 26 and 27."""
    titles = "; ".join(score_title(metric) for metric in one.source.metrics)
    return f"{titles}. {one.source.protocol.sentence().partition(' Prediction: ')[0]}"


def _sensitivity(one: _Known) -> str | None:
    seeds = one.source.seeds
    if len(seeds) < 2:
        return None
    return f"Trained with {len(seeds)} seeds ({', '.join(map(str, seeds))}), which draw initial weights and training images anew."


def _internal(one: _Known) -> str | None:
    part = one.source.facts.get("split")
    if not one.runs or not part:
        return None
    where = (
        "out of fold, each image by a network that has not learnt from it" if part == "out of fold" else f"on the part {part} of the split"
    )
    times = one.source.facts.get("test_scorings")
    counted_times = f" These rows were scored {counted(times, 'time')} so far, by these runs and others." if times is not None else ""
    return f"Scored {where}: {_sizes(one.source.cases)} of the training's own data set; see the tables.{counted_times}"


def _sizes(cases: pd.DataFrame) -> str:
    images, groups = cases["sample_id"].nunique(), cases["group_id"].nunique()
    return f"{counted(f'{images:,}', 'image')} of {counted(f'{groups:,}', 'group')}"


def _included(one: _Known) -> str:
    if one.groups is None:
        return f"Scored: {_sizes(one.source.cases)}. What was excluded is not in the files."
    names = {part: part for part in SPLIT_NAMES} | ({"train": "train and val"} if one.folds else {})
    parts = [f"{name} {_sizes(rows)}" for part, name in names.items() if len(rows := one.groups[one.groups["split"] == part])]
    return f"Included: {', '.join(parts)}. What was excluded is not in the files."


def _details(one: _Known) -> str | None:
    runs = one.source.facts.get("run") if one.runs else None
    what = "resolved configuration, digests of manifest and split, packages and course of the training"
    return f"Run folders with {what}: {', '.join(runs)}." if runs else None


def _availability(run: Trained) -> str | None:
    git, version = run.environment.get("git") or {}, (run.environment.get("packages") or {}).get("medseg")
    parts = [f"medseg {version}"] if version else []
    parts += [f"commit {git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"] if git.get("commit") else []
    licence = run.dataset.licence if run.dataset and run.dataset.licence != "not stated" else None
    told = [f"Code: {', '.join(parts)}." if parts else "", f"Licence of the data: {licence}." if licence else ""]
    return " ".join(text for text in told if text) or None


_OF_SOURCE: dict[int, Callable[[_Known], str | None]] = {
    7: lambda one: _alike(one, _data),
    9: lambda one: _alike(one, _preprocessing),
    10: lambda one: _alike(one, _subsets),
    18: _observers,
    19: _assignment,
    20: _disjoint,
    22: lambda one: _alike(one, network_text),
    23: lambda one: _alike(one, _software),
    24: lambda one: start_text(one.runs) if one.runs else None,
    25: lambda one: _alike(one, training_text),
    26: _selection,
    27: _ensemble,
    28: _measures,
    30: _sensitivity,
    32: _internal,
    35: _included,
    42: _details,
    43: lambda one: _alike(one, _availability),
}


# --- answers of all sources together


def _intervals(published: Published) -> str:
    groups = published.sources[0].cases["group_id"].nunique()
    text = f"95 % intervals over {counted(f'{groups:,}', 'group')} ({METHOD_NAMES[published.method]}, {REPLICATES:,} replicates)"
    text += f", none of fewer than {FEWEST_GROUPS} groups; Wilson's for missed and invented structures."
    if published.tests:
        count = sum(not math.isnan(one.test.p_permutation) for one in published.tests)
        text += (
            f" Two-sided permutation tests against {published.tests[0].against}, the runs swapped within groups, with Holm's adjustment "
            f"over {counted(count, 'test')}; significant below {SIGNIFICANT}."
        )
    return text + (f" Margin of non-inferiority: {published.margin:g}." if published.margin is not None else "")


def _performance(published: Published) -> str:
    titles = "; ".join(score_title(metric) for metric in published.shown)
    none = all(math.isnan(cell.estimate.low) for cell in published.cells)
    with_them = f"without intervals (fewer than {FEWEST_GROUPS} groups)" if none else "with 95 % intervals"
    return f"See the tables: {titles}; of each class and region, {with_them}, and the number of images in which each is defined."


def _failures(one: _Known, shares: Sequence[Share]) -> str:
    """How often a structure is missed or invented, of the first seed."""
    mine = [share for share in shares if (share.label, share.seed) == (one.source.label, one.source.seeds[0]) and share.successes]
    told = [f"{share.name} {share.kind} in {share.successes} of {counted(share.n, share.unit.removesuffix('s'))}" for share in mine]
    of = f" (seed {one.source.seeds[0]})" if len(one.source.seeds) > 1 else ""
    return f"{'; '.join(told) or 'No structure was missed or invented'}{of}. See the failures by group and the worst cases."
