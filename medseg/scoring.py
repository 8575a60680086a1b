"""The verb score as a short story: anybody's predictions against anybody's reference, by the code that scores medseg's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medseg.errors import ConfigError, ImageError, LabelError
from medseg.files import staged_folder, write_text
from medseg.images import is_volume
from medseg.labels import LabelSet
from medseg.manifest.importers.common import group_ids
from medseg.manifest.importers.masks import parse_map
from medseg.metrics.boundary import Boundary
from medseg.metrics.measure import Measures
from medseg.metrics.protocol import Protocol, boundary_rules, region_rules
from medseg.metrics.scores import Scores
from medseg.pairing import PAIRS, Mask, Pair, find_labels, labels_met, pair_up, read_ids
from medseg.parallel import in_order
from medseg.report.evaluation import DETECTION_RULES, WRITTEN, EvaluationFiles
from medseg.report.tables import to_csv
from medseg.types import CaseResult
from medseg.volumes import same_affine

OnDone = Callable[[int, int], None]
_SIDES = ("reference", "prediction")


@dataclass(frozen=True)
class Asked:
    """How to score. given: what stored values mean, as --map has it.  tolerances: of NSD, with their units.  boundary: False leaves
    distances out.  group_pattern: its group finds the patient in a name.  jobs: processes, 0 for one a processor."""

    dataset: Path | None = None
    classes: Sequence[str] | None = None
    given: Sequence[str] = ()
    tolerances: Sequence[str] = ()
    boundary: bool = True
    group_pattern: str | None = None
    instances: bool = False
    conventions: bool = False
    jobs: int = 0


def score_folders(
    reference: Path, prediction: Path, out: Path, asked: Asked | None = None, on_done: OnDone = lambda done, total: None
) -> Scores:
    """Score every pair of files and write the folder `out`, whole or not at all; an earlier one is replaced.

    Raises AnnotationError where files have no partner, ImageError for files that cannot be read or lie on other grids, LabelError for
    values that no class has.
    """
    asked = asked or Asked()
    _check_asked(asked)
    _check_out(out, reference, prediction)
    pairs = _grouped(pair_up(reference, prediction, out), asked.group_pattern)
    measures, given = _measures(pairs, reference, prediction, asked)
    unsaid = asked.dataset is None and measures.labels.ignore_id not in given
    work = partial(_score_pair, measures=measures, given=given, unsaid=unsaid)
    ignored = 0
    with staged_folder(out) as folder, _files(folder, measures, len(pairs), asked) as files:
        for done, (case, ignored_px) in enumerate(in_order(work, pairs, asked.jobs), start=1):
            files.add(case)
            ignored += ignored_px
            on_done(done, len(pairs))
        _check_something_there(files, ignored if unsaid else 0, reference)
        title = f"{prediction.name} against {reference.name}"
        write_text(folder / PAIRS, _pairs_csv(pairs))
        return files.finish(title, _protocol(measures), _facts(measures.labels, given), _notes(reference, prediction, ignored, asked))


def _check_asked(asked: Asked) -> None:
    """What would be left aside in silence."""
    if asked.dataset and asked.classes:
        raise ConfigError("--classes", "the classes are named twice, by --dataset too", "take one of the two")
    if asked.tolerances and not asked.boundary:
        raise ConfigError("--tolerance", "nothing is measured that has one, by --no-boundary", "take one of the two")


def _files(folder: Path, measures: Measures, number: int, asked: Asked) -> EvaluationFiles:
    return EvaluationFiles(folder, measures, number, asked.conventions, grouped=asked.group_pattern is not None)


def _check_out(out: Path, reference: Path, prediction: Path) -> None:
    """What is in `out` is replaced: so it must be an earlier scoring, and may not hold what is scored."""
    target = out.resolve()
    for folder in (reference, prediction):
        if target == folder.resolve() or target in folder.resolve().parents:
            raise ConfigError("--out", f"{out} holds what is scored ({folder}), and would be replaced", "name another folder")
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {*WRITTEN, PAIRS}):
        raise ConfigError("--out", f"{out} is there and is no earlier scoring, and would be replaced", "name another folder")


def _grouped(pairs: Sequence[Pair], pattern: str | None) -> list[Pair]:
    groups = group_ids([pair.sample_id for pair in pairs], pattern)
    return [replace(pair, group_id=group) for pair, group in zip(pairs, groups, strict=True)]


def _measures(pairs: Sequence[Pair], reference: Path, prediction: Path, asked: Asked) -> tuple[Measures, dict[int, int]]:
    """What is measured, by which classes, and what stored values mean."""
    volumes = {is_volume(Path(path)) for pair in pairs for path in (pair.reference, pair.prediction)}
    if len(volumes) > 1:
        raise ImageError(prediction, "images and volumes are mixed in one set", "score them apart")
    labels = find_labels(asked.dataset, asked.classes, (reference, prediction))
    labels = labels or labels_met(*_values(pairs, asked.jobs))
    boundary = Boundary.of("mm" if volumes == {True} else "px", asked.tolerances) if asked.boundary else None
    return Measures(labels, boundary, asked.instances), parse_map(asked.given, labels)


def _score_pair(pair: Pair, measures: Measures, given: dict[int, int], unsaid: bool) -> tuple[CaseResult, int]:
    """One case, and how many of its pixels the reference ignores; what runs in a process of its own. unsaid: nobody has said what the
    ignore id means."""
    labels = measures.labels
    reference, prediction = read_ids(Path(pair.reference), given, labels), read_ids(Path(pair.prediction), given, labels)
    _check_grids(pair, reference, prediction)
    valid = labels.valid(reference.ids)
    if unsaid and not reference.ids[valid].any() and not valid.all():
        rule = f"it holds 0 and {labels.ignore_id} alone, which may be white or ignored"
        name = labels.foreground[0]
        raise LabelError(pair.reference, rule, f"say which: --map {labels.ignore_id}={name} or --map {labels.ignore_id}=ignore")
    if strays := int((valid & ~labels.valid(prediction.ids)).sum()):
        rule = f"the prediction holds the ignore id {labels.ignore_id} where the reference holds a class ({strays:,} pixels)"
        way_out = f"say what it is, for example --map {labels.ignore_id}={labels.foreground[0]}, or write a class id there"
        raise LabelError(pair.prediction, rule, way_out)
    case = measures.case(pair.sample_id, pair.group_id, reference.ids, prediction.ids, reference.spacing_mm)
    return case, int((~valid).sum())


def _check_grids(pair: Pair, reference: Mask, prediction: Mask) -> None:
    fix = "bring the prediction to the reference's own grid, by the nearest neighbour"
    if reference.ids.shape != prediction.ids.shape:
        shapes = (" x ".join(map(str, mask.ids.shape)) for mask in (prediction, reference))
        raise ImageError(pair.prediction, "its size is {}, that of its reference {}".format(*shapes), fix)
    if reference.affine is not None and prediction.affine is not None and not same_affine(reference.affine, prediction.affine):
        raise ImageError(pair.prediction, "it lies elsewhere in space than its reference (their affines differ)", fix)


def _values(pairs: Sequence[Pair], jobs: int) -> tuple[set[int], set[int]]:
    """The ids that are in any file, and those that are in any reference; every file is read once more for it."""
    anywhere, in_references = set[int](), set[int]()
    for of_reference, of_prediction in in_order(_values_of, pairs, jobs):
        anywhere |= of_reference | of_prediction
        in_references |= of_reference
    return anywhere, in_references


def _values_of(pair: Pair) -> tuple[set[int], set[int]]:
    reference, prediction = (set(np.unique(read_ids(Path(path), {}).ids).tolist()) for path in (pair.reference, pair.prediction))
    return reference, prediction


def _check_something_there(files: EvaluationFiles, ignored: int, reference: Path) -> None:
    """A class that was stored as the ignore id; a set of healthy cases is another thing."""
    labels = files.measures.labels
    if ignored and (absent := files.never_in_reference):
        stored = labels.ignore_id
        rule = f"no reference holds a pixel of {', '.join(absent)}, and {ignored:,} are ignored (stored as {stored})"
        raise LabelError(reference, rule, f"say what they are: --map {stored}={absent[0]} or --map {stored}=ignore")


def _notes(reference: Path, prediction: Path, ignored: int, asked: Asked) -> list[str]:
    notes = [f"Reference `{reference}`, prediction `{prediction}`.", f"Ignored pixels: {ignored:,}."]
    alone = "Nobody said which cases are of one patient (--group-pattern): each stands as a group of its own."
    return notes if asked.group_pattern else [*notes, alone]


def _protocol(measures: Measures) -> Protocol:
    return Protocol(
        ignore_id=measures.labels.ignore_id,
        regions=region_rules(measures.labels),
        test_time="as the files were given",
        checkpoint="not known: predictions from elsewhere",
        detection=DETECTION_RULES["components"] if measures.instances else None,
        **(boundary_rules(measures.boundary) if measures.boundary else {}),
    )


def _pairs_csv(pairs: Sequence[Pair]) -> str:
    """Where the masks of each case lie, for who wants to look at them."""
    rows = [{"sample_id": pair.sample_id} | {key: str(Path(getattr(pair, key)).resolve()) for key in _SIDES} for pair in pairs]
    return to_csv(["sample_id", *_SIDES], rows)


def _facts(labels: LabelSet, given: Mapping[int, int]) -> dict[str, object]:
    """What a scores.json says of its data, where there is no manifest, no split and no checkpoint. stored_as: class id by stored value."""
    return {
        "split": None, "manifest_sha256": None, "split_sha256": None, "checkpoint": None, "classes": list(labels.names),
        "stored_as": {str(value): ours for value, ours in given.items()},
    }  # fmt: skip
