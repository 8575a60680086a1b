"""The verb evaluate as a short story: a trained run's predictions, each held against its reference where it was predicted."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medseg.build import decode_part, deterministic_kernels, trained_on
from medseg.data.decoded import DecodedSet
from medseg.data.objects import annotated_objects
from medseg.data.volume.volumeset import VolumeSet
from medseg.deploy.scored import AFTERWARDS, scored_name
from medseg.engine.evaluate import LARGEST_PROBS, PIECE, has_probs, on_original_grid, windows
from medseg.engine.infer import OnGrid
from medseg.engine.trouble import trouble_named
from medseg.errors import ManifestError, RunError
from medseg.files import staged_folder
from medseg.instances import FoundObject, Patch, patch_of
from medseg.manifest.ledger import record_scoring
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import check_data_root, read_manifest
from medseg.metrics.average_precision import AveragePrecision, ScoredObjects, found_objects, scored_objects
from medseg.metrics.boundary import Boundary, unit_of
from medseg.metrics.calibration import CalibrationCounts, calibration_of, count_calibration
from medseg.metrics.detection import Objects
from medseg.metrics.measure import Measures
from medseg.metrics.protocol import Protocol, boundary_rules, region_rules
from medseg.metrics.scores import Scores, score
from medseg.postprocess import Step, apply_steps
from medseg.report.casefiles import CaseFiles, case_files
from medseg.report.evaluation import CALIBRATION_RULE, SOME_CALIBRATION_RULE, EvaluationFiles, Extras, objects_rule
from medseg.report.figures import overlay_sheet
from medseg.run import LoadedRun, load_run
from medseg.training import same_data
from medseg.types import CaseResult, Row, by
from medseg.watching import PathLike, Progress, as_path
from medseg.yamlio import read_yaml

log = logging.getLogger(__name__)
_LIMIT = f"{LARGEST_PROBS / 2**30:g} GiB"


@dataclass(frozen=True)
class Asked:
    """What is measured beside the overlap. tolerances: of NSD, with units.  instances: what the reference's objects are: the connected
    components of a class, or each shape as it was annotated; of a network that finds objects what it was trained on, where not given.
    observer: a manifest of the same images by somebody else.  steps: whether what `medseg postprocess` chose is done to the masks."""

    tolerances: Sequence[str] = ()
    boundary: bool = True
    calibration: bool = True
    instances: Literal["components", "annotated"] | None = None
    conventions: bool = False
    observer: PathLike | None = None
    steps: bool = True


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a run and the folder that holds them, with per_case.csv, tables and pictures."""

    folder: Path
    scores: Scores
    test_scorings: int | None = None  # how often these test rows have been scored by now; None for another part


@dataclass(frozen=True)
class Scene:
    """A loaded run and the part of its data that it is scored on. observer: the second observer's manifest and rows by id."""

    loaded: LoadedRun
    manifest: Manifest
    split: Split
    part: str
    data: DecodedSet | VolumeSet
    root: Path
    files: CaseFiles
    measures: Measures
    asked: Asked
    observer: tuple[Manifest, Mapping[str, Row]] | None

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What is done to the predicted masks afterwards."""
        return self.loaded.steps if self.asked.steps else ()

    def reference(self, row: Row) -> np.ndarray:
        """The class ids on the image's own grid."""
        return self.files.reference(row)

    @property
    def finds_objects(self) -> bool:
        """Whether the network gives objects, and no probabilities."""
        return self.loaded.config.model.objects

    def objects(self, row: Row, reference_HW: np.ndarray, grid: OnGrid) -> dict[str, Objects]:
        """The objects of each class: the reference's as they are asked for, the prediction's the network's own where it finds any."""
        drawn = annotated_objects(self.manifest, row, reference_HW) if self.asked.instances == "annotated" else None
        return self.measures.objects(reference_HW, grid.mask_HW, drawn, grid.objects.numbers_HW if grid.objects else None)

    def scored(self, objects: Mapping[str, Objects], reference_HW: np.ndarray, grid: OnGrid) -> dict[str, ScoredObjects]:
        """The same with scores, for average precision."""
        labels = self.loaded.labels
        if grid.mask_HW.ndim == 3:  # COCO's average precision is of pictures
            return {}
        if grid.probs_KHW is not None:
            return {name: _scored(one, grid.probs_KHW[labels.id_of(name)]) for name, one in objects.items()}
        assert grid.objects is not None
        cut = [_off_ignored(each, labels.valid(reference_HW)) for each in grid.objects.found]
        return {
            name: found_objects(one.reference, [each for each in cut if each and each.class_id == labels.id_of(name)])
            for name, one in objects.items()
        }


def _off_ignored(found: FoundObject, valid_HW: np.ndarray) -> FoundObject | None:
    """Without the ignored pixels, which are background; None where it had no others. A side of its box moves by what they take off its mask
    there, as the reference's boxes are of what can be seen."""
    old, pixels_HW = found.patch, found.patch.pixels_HW & valid_HW[found.patch.window]
    if np.array_equal(pixels_HW, old.pixels_HW):
        return found
    if not pixels_HW.any():
        return None
    rest = patch_of(pixels_HW)
    new = rest._replace(top_px=old.top_px + rest.top_px, left_px=old.left_px + rest.left_px)
    sides = zip(found.box, _sides(old), _sides(new), strict=True)
    left, top, right, bottom = (own + after - before for own, before, after in sides)
    return found._replace(patch=new, box=(left, top, max(left, right), max(top, bottom)))


def _sides(patch: Patch) -> tuple[float, float, float, float]:
    """left, top, right, bottom in px, the last two just after the last pixel."""
    rows, columns = patch.window
    return columns.start, rows.start, columns.stop, rows.stop


@dataclass(frozen=True)
class Looked:
    """One image, where it was predicted. objects: by class; a predicted one's score is the network's own where it finds objects, else the
    mean probability of its pixels."""

    mask_HW: np.ndarray
    case: CaseResult
    calibration: CalibrationCounts | None
    objects: Mapping[str, ScoredObjects]


def evaluate(
    run: PathLike,
    split: str = "test",
    data_root: PathLike | None = None,
    checkpoint: str = "best",
    progress: Progress | None = None,
    asked: Asked | None = None,
) -> Evaluation:
    """Score a run on one part of its split, on each image's own grid, and write the folder that `evaluation_name` says into evaluation/ of
    its own, whole or not at all. A scoring of test goes to the ledger beside the split."""
    loaded, progress, asked = load_run(run, checkpoint), progress or Progress(), asked or Asked()
    scene = _set_up(loaded, split, as_path(data_root), progress, asked)
    name, first = evaluation_name(split, checkpoint, asked.steps), loaded.ranks.first
    scores, scorings = None, None
    if first:
        with staged_folder(loaded.run.evaluation(name)) as folder:
            scores, scorings = _score(scene, folder, progress)
    else:
        for _ in _looked(scene):
            pass
    if first and loaded.run.mlflow_json.exists() and loaded.config.tracking.enabled:
        from medseg.tracking import log_evaluation  # see training.check_tracking

        log_evaluation(loaded.run, name, (scene.manifest, scene.split))
    return loaded.ranks.same(Evaluation(loaded.run.evaluation(name), scores, scorings))  # type: ignore[arg-type]


def evaluation_name(part: str, checkpoint: str = "best", steps: bool = True) -> str:
    """Of the folder of an evaluation; one of another checkpoint, or without post-processing, does not take the usual one's place.

    >>> evaluation_name("val"), evaluation_name("val", "last"), evaluation_name("val", steps=False)
    ('val', 'val_last', 'val_without_steps')
    """
    return f"{scored_name(part, checkpoint)}{'' if steps else '_without_steps'}"


def _set_up(loaded: LoadedRun, part: str, data_root: Path | None, progress: Progress, asked: Asked) -> Scene:
    root = check_data_root(data_root)
    asked = replace(asked, instances=asked.instances or trained_on(loaded.config.model))
    manifest, split = same_data(loaded.run, loaded.config)
    observer = _observer(asked.observer, manifest, split, part) if asked.observer else None
    with loaded.ranks.fabric.rank_zero_first(local=True):
        data = decode_part(loaded.config, manifest, split, part, root, progress.on_decode if loaded.ranks.first else None)
    unit = unit_of(row.spacing_mm for row in manifest if row.mask)  # of all parts, so that folds and parts have one unit
    boundary = Boundary.of(unit, asked.tolerances) if asked.boundary else None
    measures = Measures(loaded.labels, boundary, asked.instances is not None)
    files = case_files(manifest, root, isinstance(data, VolumeSet))
    return Scene(loaded, manifest, split, part, data, root, files, measures, asked, observer)


def _observer(path: PathLike, manifest: Manifest, split: Split, part: str) -> tuple[Manifest, dict[str, Row]]:
    """The second observer's rows; ManifestError where an image or a class is missing there, or an image is another one."""
    other = read_manifest(Path(path))
    if other.digest == manifest.digest:
        raise ManifestError(path, "is the run's own manifest, and agrees with itself", "name the one of the second observer's masks")
    if (other.labels.classes, other.labels.ignore_id) != (manifest.labels.classes, manifest.labels.ignore_id):
        raise ManifestError(path, "its classes or ignore id differ from the run's manifest", "import it with the same --classes")
    theirs, wanted = {row.sample_id: row for row in other}, set(split.ids(part))
    for row in manifest:
        found = theirs.get(row.sample_id)
        if row.sample_id in wanted and (found is None or found.mask is None or found.image_sha256 != row.image_sha256):
            what = "no row" if found is None else "no mask" if found.mask is None else "another image"
            fix = "import the second observer's masks with the same images and names"
            raise ManifestError(path, f"holds {what} for {row.sample_id}", fix)
    return other, theirs


def _score(scene: Scene, folder: Path, progress: Progress) -> tuple[Scores, int | None]:
    """Every image predicted and counted; then the tables. The test rows are told as scored before anybody can read the outcome."""
    loaded, total = scene.loaded, len(scene.data)
    cases, precision = list[CaseResult](), AveragePrecision()
    calibration, calibrated = CalibrationCounts.zeros(loaded.labels.num_classes), 0
    with EvaluationFiles(folder, scene.measures, total, scene.asked.conventions) as files:
        for row, looked in _looked(scene):
            scene.files.write(folder, row, looked.mask_HW)
            files.add(looked.case)
            cases.append(looked.case)
            if looked.calibration:
                calibration, calibrated = calibration + looked.calibration, calibrated + 1
            for name, objects in looked.objects.items():
                precision.add(row.sample_id, name, objects)
            progress.on_case(len(cases), total)
        scorings = record_scoring(scene.split, scene.part, loaded.run.id, loaded.facts["checkpoint"])
        found = calibration_of(calibration, loaded.labels.names) if calibrated else None
        extras = Extras(found, calibrated, precision.result(), _observers(scene, folder, cases))
        facts = {"split": scene.part, "manifest_sha256": scene.manifest.digest, "split_sha256": scene.split.digest}
        if scene.observer:
            facts["observer_manifest_sha256"] = scene.observer[0].digest
        title = f"{scene.manifest.dataset.name} / {loaded.config.name}: {scene.part}"
        scores = files.finish(title, _protocol(scene), facts | {"checkpoint": loaded.facts}, _notes(scene, scorings, calibrated), extras)
    _write_overlays(scene, cases, folder)
    return scores, scorings


def _looked(scene: Scene) -> Iterator[tuple[Row, Looked]]:
    """Every image at the first process, in the order of the rows; each was predicted and measured by one of the processes."""
    loaded, asked = scene.loaded, scene.asked
    config = loaded.config

    def look(row: Row, grid: OnGrid) -> Looked:
        reference_HW = scene.reference(row)
        spacing_mm = scene.files.spacing_mm(row)
        grid = replace(grid, mask_HW=apply_steps(grid.mask_HW, scene.steps, scene.loaded.labels, spacing_mm))
        objects = scene.objects(row, reference_HW, grid) if scene.asked.instances else {}
        case = scene.measures.case(row.sample_id, row.group_id, reference_HW, grid.mask_HW, spacing_mm, objects)
        counts = None
        if asked.calibration and grid.probs_KHW is not None:
            counts = _calibration(grid.probs_KHW, reference_HW, scene)
        return Looked(grid.mask_HW, case, counts, scene.scored(objects, reference_HW, grid))

    with deterministic_kernels(config), trouble_named(config, loaded.device, "infer.batch_size", loaded.run.path):
        size = config.infer.batch_size
        yield from on_original_grid(loaded.model, scene.data, size, loaded.passes, loaded.ranks, look, asked.calibration)


def _calibration(probs_KHW: Tensor, reference_HW: np.ndarray, scene: Scene) -> CalibrationCounts:
    """On the processor in the end: a few kilobytes an image. Some rows or planes h at a time: picking valid pixels is copying."""
    found = CalibrationCounts.zeros(len(probs_KHW), device=probs_KHW.device)
    some = max(1, PIECE // math.prod(probs_KHW.shape[2:]))
    for probs_KhW, reference_hW in zip(probs_KHW.split(some, dim=1), torch.from_numpy(reference_HW).split(some), strict=True):
        ids_hW = reference_hW.to(probs_KhW.device)
        valid_hW = scene.loaded.labels.valid(ids_hW)
        found = found + count_calibration(probs_KhW[:, valid_hW], ids_hW[valid_hW].long())
    return CalibrationCounts(*(getattr(found, each.name).cpu() for each in fields(found)))


def _scored(objects: Objects, probs_HW: Tensor) -> ScoredObjects:
    """The objects of a class, with the mean of its probabilities over each predicted one."""
    ids = objects.prediction.ravel()
    summed = np.bincount(ids, probs_HW.double().cpu().numpy().ravel())
    return scored_objects(objects, summed[1:] / np.bincount(ids)[1:])


def _observers(scene: Scene, folder: Path, cases: Sequence[CaseResult]) -> dict[str, Scores]:
    """The run against either observer, and the second observer against the first: as good as people agree."""
    if scene.observer is None:
        return {}
    other, rows = scene.observer
    labels, measures = scene.loaded.labels, Measures(scene.loaded.labels)
    against_second, between = [], []
    for row in scene.data.rows:
        second, mask = replace(scene.files, manifest=other).reference(rows[row.sample_id]), scene.files.read(folder, row)
        against_second.append(measures.case(row.sample_id, row.group_id, second, mask))
        valid = labels.valid(second)  # what the second observer has not judged is not counted, as in a reference
        first = np.where(valid, scene.reference(row), labels.ignore_id)
        between.append(measures.case(row.sample_id, row.group_id, first, np.where(valid, second, 0)))
    return {
        "run against the reference": score(cases, labels),
        "run against the second observer": score(against_second, labels),
        "second observer against the reference": score(between, labels),
    }


def _write_overlays(scene: Scene, cases: Sequence[CaseResult], folder: Path) -> None:
    rows = {row.sample_id: row for row in scene.data.rows}

    def read(case: CaseResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row = rows[case.sample_id]
        picture, (reference, mask) = scene.files.pictures(row, [scene.reference(row), scene.files.read(folder, row)])
        return picture, reference, mask

    overlay_sheet(folder / "overlays.jpg", cases, scene.manifest.labels, read)


def _protocol(scene: Scene) -> Protocol:
    loaded, boundary = scene.loaded, scene.measures.boundary
    passes = _passes_told(scene)
    if window := loaded.passes.window:
        passes += f", in windows of {by(window)} {'voxels' if len(window) == 3 else 'pixels'} that overlap by {loaded.passes.overlap:.0%}"
    asked, finds, pixels = scene.asked.instances, scene.finds_objects, "each pixel has its most probable class"
    if finds:
        least = getattr(loaded.config.model, "score_threshold", 0.0)
        pixels = f"each pixel has the class of the surest object that covers it, of those with a score of {least:g} or more"
    told = ", ".join(step.told() for step in scene.steps)
    after = f"{AFTERWARDS}{told}" if told else ""
    return Protocol(
        ignore_id=loaded.labels.ignore_id,
        regions=region_rules(loaded.labels),
        test_time=f"{passes}; {pixels}{after}",
        checkpoint="chosen on val" if loaded.facts["checkpoint"] == "best" else "of the last epoch",
        calibration=_calibration_rule(scene),
        detection=objects_rule(asked, finds, isinstance(scene.data, VolumeSet)) if asked else None,
        **(boundary_rules(boundary) if boundary else {}),
    )


def _passes_told(scene: Scene) -> str:
    """How often an image was seen, and how mirrored."""
    passes, data = scene.loaded.passes, scene.data
    if not isinstance(data, VolumeSet):
        return "mean over the image and its mirror image" if passes.mirror else "single forward pass"
    if not (mirrors := windows(data, passes).mirrors):
        return "single forward pass"
    *others, last = sorted(data.config.axes[axis] for axis in mirrors.axes)
    along = f"s along {', '.join(others)} and {last}" if others else f" along {last}"
    return f"mean of {len(mirrors.combinations)}: the volume and its mirror image{along}"


def _calibration_rule(scene: Scene) -> str | None:
    """By all of the manifest's volumes, so that folds and parts have one rule; None where there can be no result."""
    if not scene.asked.calibration or scene.finds_objects:
        return None
    if not isinstance(scene.data, VolumeSet):
        return CALIBRATION_RULE
    sizes = [row.size.width_px * row.size.height_px * (row.depth_px or 1) for row in scene.manifest if row.mask]
    calibrated = [has_probs(voxels, scene.loaded.labels) for voxels in sizes]
    if all(calibrated):
        return CALIBRATION_RULE
    return SOME_CALIBRATION_RULE.format(limit=_LIMIT) if any(calibrated) else None


def _notes(scene: Scene, scorings: int | None, calibrated: int) -> list[str]:
    loaded = scene.loaded
    commit = read_yaml(loaded.run.environment_json, RunError).get("git", {}) or {}
    notes = [
        f"Run `{loaded.run.id}`, network `{loaded.config.model.name}`, checkpoint `{loaded.facts['checkpoint']}` of epoch "
        f"{loaded.facts['epoch']}, seed {loaded.config.seed}.",
        f"Manifest {scene.manifest.digest[:12]}, split `{scene.split.name}` {scene.split.digest[:12]}, "
        f"commit {commit.get('commit') or 'unknown'}{' with uncommitted changes' if commit.get('dirty') else ''}.",
    ]
    if scene.finds_objects and scene.asked.calibration:
        notes.append("Calibration is left out: the network gives objects, not probabilities.")
    elif scene.asked.calibration and calibrated < len(scene.data):
        left_out = f"the probabilities of the other{'' if len(scene.data) - calibrated == 1 else 's'} take over {_LIMIT}"
        notes.append(f"Calibration of {calibrated} of {len(scene.data)} volumes: {left_out}.")
    if scene.observer:
        notes.append(f"Second observer: manifest {scene.observer[0].folder.name} {scene.observer[0].digest[:12]}.")
    if scene.part == "test":
        times = f"{scorings} time(s) so far" if scorings else "so often as nobody can tell (the ledger cannot be written)"
        notes.append(f"Test rows scored {times}, by this run and others: counted in the ledger beside the split.")
    return notes
