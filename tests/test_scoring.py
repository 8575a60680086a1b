"""`medseg score`: pairs of anybody's files, the same numbers as an evaluation's, and one error for what cannot be scored."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg import api
from medseg.cli import app, main
from medseg.errors import AnnotationError, ConfigError, ImageError, LabelError, ManifestError, MedsegError
from medseg.images import write_mask
from medseg.labels import LabelSet
from medseg.metrics.counts import confusion
from medseg.metrics.scores import score
from medseg.pairing import pair_up
from medseg.parallel import in_order
from medseg.scoring import Asked, score_folders
from medseg.types import CaseResult
from medseg.volumes import write_labels
from tests.oracles import random_mask
from tests.tiny import make_all

LABELS = LabelSet.of("liver", "lesion")
PLAIN = Asked(classes=("liver", "lesion"), jobs=1)


def masks(number: int, ids=(0, 1, 2)) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(number)
    return [(random_mask(generator, list(ids)), random_mask(generator, [0, 1, 2])) for _ in range(number)]


def write(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        write_labels(path, ids, np.diag([0.5, 2.0, 3.0, 1.0]))
    else:
        write_mask(path, ids, LABELS.palette)


def stored(out: Path) -> dict:
    return json.loads((out / "scores.json").read_text())


def expected(pairs) -> dict[str, dict[str, float]]:
    return score([CaseResult(str(k), str(k), confusion(*pair, LABELS)) for k, pair in enumerate(pairs)], LABELS).pooled


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("{}.png", "{}.png"),  # MMSegmentation, medseg
        ("{}.png", "{}_pred.png"),
        ("{}_mask.tif", "sub/{}_seg.png"),
        ("{}.nii.gz", "{}.nii.gz"),  # nnU-Net
        ("{}.nii.gz", "{0}/{0}_seg.nii.gz"),  # MONAI's SaveImage
        ("{}/mask.png", "{}/pred.png"),  # a folder a case
    ],
)
def test_the_files_of_a_case_find_each_other(tmp_path, reference, prediction):
    pairs = masks(4, (0, 1, 2, 255))
    depth = (lambda ids: np.repeat(ids[..., None], 3, axis=2)) if "nii" in reference else (lambda ids: ids)
    for number, (truth, guess) in enumerate(pairs):
        write(tmp_path / "r" / reference.format(f"case_{number}"), depth(truth))
        write(tmp_path / "p" / prediction.format(f"case_{number}"), depth(guess))
    scores = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", PLAIN)
    wanted = expected(pairs)
    assert {name: each["iou"] for name, each in scores.pooled.items()} == {name: each["iou"] for name, each in wanted.items()}
    unit = "mm" if "nii" in reference else "px"
    assert stored(tmp_path / "out")["boundary"]["liver"].keys() >= {f"hd95_{unit}", f"assd_{unit}"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "per_case.csv", "confusion.npy", "confusion.png", "scores.json", "table.csv", "table.md", "pairs.csv",
    }  # fmt: skip


def test_a_volume_may_store_any_whole_number_that_a_map_explains(tmp_path):
    ids = np.repeat(masks(1)[0][1][..., None], 3, axis=2)
    write(tmp_path / "p/a.nii.gz", ids)
    (tmp_path / "r").mkdir()
    nib.save(nib.Nifti1Image(np.array([0, 1, 700], np.int16)[ids], np.diag([0.5, 2.0, 3.0, 1.0])), tmp_path / "r/a.nii.gz")
    with pytest.raises(ImageError, match=r"a.nii.gz: label values must lie in 0..255, found 0..700"):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", PLAIN)
    found = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", replace(PLAIN, given=("700=lesion",)))
    assert {found.pooled[name]["iou"] for name in LABELS.foreground} == {1.0} and (ids == 2).any()


def test_a_photograph_stored_as_a_volume_has_a_photographs_distances(tmp_path):
    y, x = np.mgrid[:60, :70]
    truth, guess = (((y - 30) ** 2 + (x - place) ** 2 < 400).astype(np.uint8) for place in (30, 33))
    for name, mask in (("r", truth), ("p", guess)):
        write(tmp_path / name / "a.png", mask)
        (tmp_path / "v" / name).mkdir(parents=True)
        write_labels(tmp_path / "v" / name / "a.nii.gz", mask[..., None], np.diag([1.0, 1.0, 5.0, 1.0]))
    flat = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", replace(PLAIN, tolerances=("1px",)))
    deep = score_folders(tmp_path / "v/r", tmp_path / "v/p", tmp_path / "deep", replace(PLAIN, tolerances=("1mm",)))
    assert flat.boundary["liver"]["hd95_px"].mean == deep.boundary["liver"]["hd95_mm"].mean == 3.0
    assert flat.boundary["liver"]["nsd_1px"] == deep.boundary["liver"]["nsd_1mm"] and flat.boundary["liver"]["nsd_1px"].mean < 0.5


@pytest.mark.parametrize(("spacing", "tolerance"), [(0.3, "0.9mm"), (0.6, "1.8mm"), (1.1, "3.3mm"), (1.7, "5.1mm")])
def test_a_distance_that_equals_the_tolerance_is_within_it(tmp_path, spacing, tolerance):
    for name, place in (("r", 2), ("p", 5)):
        mask = np.zeros((9, 3, 3), np.uint8)
        mask[place, 1, 1] = 1
        (tmp_path / name).mkdir()
        write_labels(tmp_path / name / "a.nii.gz", mask, np.diag([spacing] * 3 + [1.0]))
    found = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", replace(PLAIN, tolerances=(tolerance,)))
    assert found.boundary["liver"][f"nsd_{tolerance}"].mean == 1.0


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_error():
    with pytest.raises(MedsegError, match="one of the processes was killed, .* memory ran out; take fewer of them: --jobs 1"):
        list(in_order(_die, list(range(2000)), 2))


def _die(number: int) -> int:
    if number == 100:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_tolerance_named_twice(tmp_path):
    for name in ("r", "p"):
        write(tmp_path / name / "a.png", masks(1)[0][1])
    with pytest.raises(ConfigError, match="--tolerance: one is named twice: nsd_2px, nsd_2px"):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", replace(PLAIN, tolerances=("2px", "2.0px")))


def test_a_pattern_picks_one_of_several_masks_in_one_folder(tmp_path):
    (truth, guess), *_ = masks(1)
    for name, ids in (("Image_01L_1stHO.png", truth), ("Image_01L_2ndHO.png", guess)):
        write(tmp_path / name, ids)
    [pair] = pair_up(tmp_path / "*_1stHO.png", tmp_path / "*_2ndHO.png")
    assert pair.sample_id == "Image_01L" and (pair.reference, pair.prediction) == tuple(
        f"{tmp_path}/Image_01L_{who}HO.png" for who in ("1st", "2nd")
    )
    with pytest.raises(AnnotationError, match="are masks of one case, Image_01L; .*by a pattern"):
        pair_up(tmp_path, tmp_path)


def test_distances_of_a_volume_are_in_mm_by_its_axes(tmp_path):
    """One voxel against one two steps along x (0.5 mm), one along z (3 mm)."""
    truth, guess = np.zeros((2, 6, 6, 6), np.uint8)
    truth[1, 1, 1] = guess[3, 1, 2] = 1
    write(tmp_path / "r/a.nii.gz", truth)
    write(tmp_path / "p/a.nii.gz", guess)
    scores = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["liver"], tolerances=["3.5mm", "3mm"]))
    found = {metric: mean.mean for metric, mean in scores.boundary["liver"].items()}
    assert found == pytest.approx(
        dict.fromkeys(("hd_mm", "hd95_mm", "hd95_pooled_mm", "assd_mm"), np.hypot(1, 3)) | {"nsd_3.5mm": 1, "nsd_3mm": 0}
    )
    assert stored(tmp_path / "out")["protocol"]["tolerances"] == ["nsd_3.5mm", "nsd_3mm"]


def test_missed_and_invented_stand_beside_the_distances(tmp_path):
    """HD95 over the one image that has both; NSD over all three in which the class is somewhere."""
    there, empty = np.zeros((2, 9, 12), np.uint8)
    there[3:6, 3:6] = 1
    for name, truth, guess in (("a", there, there), ("b", there, empty), ("c", empty, there), ("d", empty, empty)):
        write(tmp_path / f"r/{name}.png", truth)
        write(tmp_path / f"p/{name}.png", guess)
    scores = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["liver"]))
    found = scores.boundary["liver"]
    assert (found["hd95_px"].mean, found["hd95_px"].n) == (0, 1) and (found["nsd_2px"].mean, found["nsd_2px"].n) == (1 / 3, 3)
    assert "| liver | 1 | 1 | 0.00 (1) |" in (tmp_path / "out/table.md").read_text()


def test_classes_come_from_nnunet_s_dataset_json_a_dataset_yaml_or_the_files(tmp_path):
    for number, (truth, guess) in enumerate(masks(3)):
        write(tmp_path / f"raw/labelsTr/case_{number}.png", truth)
        write(tmp_path / f"predicted/case_{number}.png", guess)
    r, p, out = tmp_path / "raw/labelsTr", tmp_path / "predicted", tmp_path / "out"
    assert list(score_folders(r, p, out, Asked(jobs=1)).pooled) == ["background", "class_1", "class_2"]
    (tmp_path / "raw/dataset.json").write_text(json.dumps({"labels": {"background": 0, "organ": [1, 2], "tumour": 2}}))
    scores = score_folders(r, p, out, Asked(jobs=1))
    assert list(scores.pooled)[-1] == "organ" and "tumour" in scores.pooled  # a region, as nnU-Net has it
    classes = "{0: background, 1: liver, 2: lesion}"
    (tmp_path / "dataset.yaml").write_text(f"name: x\nlabels: {{classes: {classes}, regions: {{all: [liver, lesion]}}}}\n")
    assert list(score_folders(r, p, out, Asked(tmp_path / "dataset.yaml", jobs=1)).pooled) == ["background", "liver", "lesion", "all"]
    (tmp_path / "predicted/dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    with pytest.raises(LabelError, match="predicted/dataset.json: its classes are not those of .*raw/dataset.json; say which"):
        score_folders(r, p, out, Asked(jobs=1))
    (tmp_path / "predicted/dataset.json").write_text("{")
    with pytest.raises(AnnotationError, match="dataset.json: not valid JSON"):
        score_folders(r, p, out, Asked(jobs=1))


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_bytes(tmp_path):
    for number, (truth, guess) in enumerate(masks(300)):
        write(tmp_path / f"r/{number // 2:03d}_{number % 2}.png", truth)
        write(tmp_path / f"p/{number // 2:03d}_{number % 2}.png", guess)
    seen: list[tuple[int, int]] = []
    for jobs in (1, 2):
        asked = Asked(classes=("liver", "lesion"), jobs=jobs, group_pattern="(...)_", instances=True, conventions=True)
        out = tmp_path / f"out{jobs}"
        scores = score_folders(tmp_path / "r", tmp_path / "p", out, asked, lambda done, total: seen.append((done, total)))
    assert scores.n_groups == 150 and scores.per_group["liver"]["iou"].n <= 150
    assert seen == [(done, 300) for done in range(1, 301)] * 2
    for name in ("per_case.csv", "confusion.npy", "scores.json", "table.csv", "table.md", "confusion.png"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes(), name


def test_white_masks_are_scored_once_it_is_said_what_white_is(tmp_path):
    for name, ids in (("r/a.png", [[0, 255]]), ("p/a.png", [[255, 255]])):
        path = tmp_path / name
        path.parent.mkdir()
        Image.fromarray(np.array(ids, np.uint8)).save(path)
    out = tmp_path / "out"
    with pytest.raises(LabelError, match="hold 0 and 255 alone, and 255 may be white or ignored; .*--map 255=NAME"):
        score_folders(tmp_path / "r", tmp_path / "p", out)
    with pytest.raises(LabelError, match="r/a.png: it holds 0 and 255 alone, .* --map 255=tongue or --map 255=ignore"):
        score_folders(tmp_path / "r", tmp_path / "p", out, Asked(classes=["tongue"]))
    scores = score_folders(tmp_path / "r", tmp_path / "p", out, Asked(classes=["tongue"], given=["255=tongue"]))
    assert scores.pooled["tongue"]["iou"] == 0.5


def test_white_that_only_the_prediction_has_is_told_by_its_map(tmp_path):
    write(tmp_path / "r/a.png", np.array([[0, 1]], np.uint8))
    write(tmp_path / "p/a.png", np.array([[0, 255]], np.uint8))
    with pytest.raises(LabelError, match="where the reference holds a class .1 pixels.; say what it is, for example --map 255=tongue"):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["tongue"]))


def test_healthy_cases_can_be_scored_for_false_alarms(tmp_path):
    write(tmp_path / "r/a.png", np.zeros((2, 3), np.uint8))
    write(tmp_path / "p/a.png", np.array([[0, 0, 1], [0, 0, 0]], np.uint8))
    found = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["tongue"]))
    assert found.per_image["tongue"]["iou"].mean == 0 and found.occurrence["tongue"].invented == 1


def test_a_prediction_of_what_is_ignored_is_nobody_s_business(tmp_path):
    write(tmp_path / "r/a.png", np.array([[1, 255]], np.uint8))
    write(tmp_path / "p/a.png", np.array([[1, 255]], np.uint8))
    assert score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["tongue"])).pooled["tongue"]["iou"] == 1


def test_out_replaces_an_earlier_scoring_and_nothing_else(tmp_path):
    for number, (truth, guess) in enumerate(masks(2)):
        write(tmp_path / f"r/case_{number}.png", truth)
        write(tmp_path / f"p/case_{number}.png", guess)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for out in ("p", "r", ".", "mine", "mine/thesis.txt"):
        with pytest.raises(ConfigError, match="--out: .* would be replaced; name another folder"):
            score_folders(tmp_path / "r", tmp_path / "p", tmp_path / out, PLAIN)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work" and (tmp_path / "p/case_1.png").exists()
    for _ in range(2):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "p/scores", PLAIN)


def test_values_with_gaps_are_no_ids_unless_somebody_says_so(tmp_path):
    write(tmp_path / "r/a.png", np.array([[0, 128]], np.uint8))
    write(tmp_path / "p/a.png", np.array([[0, 128]], np.uint8))
    with pytest.raises(LabelError, match="hold the values 128, which are no ids 1, 2, .* without a gap; .*--map 128=A"):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out")
    assert score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["a"], given=["128=a"])).pooled["a"]["iou"] == 1


def test_255_classes_and_one_pair(tmp_path):
    ids = np.arange(255, dtype=np.uint8).reshape(15, 17)
    write(tmp_path / "r/a.png", ids)
    write(tmp_path / "p/a.png", ids)
    names = [f"c{number}" for number in range(1, 255)]
    scores = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=names, boundary=False, jobs=1))
    assert all(each["iou"] == 1 for each in scores.pooled.values()) and (tmp_path / "out/confusion.png").stat().st_size < 2**20


def test_a_reference_of_0_and_255_alone_is_asked_about(tmp_path):
    write(tmp_path / "r/a.png", np.array([[0, 255]], np.uint8))
    write(tmp_path / "p/a.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(LabelError, match="r/a.png: it holds 0 and 255 alone, .* say which: --map 255=tongue or --map 255=ignore"):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["tongue"]))
    assert not (tmp_path / "out").exists()
    said = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["tongue"], given=["255=ignore"]))
    assert said.pooled["tongue"] != said.pooled["background"] and said.n_cases == 1


def test_a_class_that_was_stored_as_255_is_asked_about(tmp_path):
    write(tmp_path / "r/a.png", np.array([[0, 1, 255]], np.uint8))
    write(tmp_path / "p/a.png", np.array([[0, 1, 2]], np.uint8))
    with pytest.raises(LabelError, match="no reference holds a pixel of lesion, and 1 are ignored .stored as 255.; .*--map 255=lesion or"):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", PLAIN)
    found = score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", replace(PLAIN, given=("255=lesion",)))
    assert found.pooled["lesion"]["iou"] == 1.0


def test_probabilities_are_no_classes(tmp_path):
    write(tmp_path / "r/a.png", np.array([[0, 1] * 20], np.uint8))
    write(tmp_path / "p/a.png", np.arange(0, 160, 4, np.uint8)[None])
    with pytest.raises(
        LabelError, match="the predictions hold 39 values that no reference has .4 to 156.: probabilities.; write class ids"
    ):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(jobs=1))


def test_an_earlier_scoring_inside_a_scored_folder_is_passed_by(tmp_path):
    for name in ("r", "p"):
        write(tmp_path / name / "a.png", masks(1)[0][1])
    score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "p" / "scores", PLAIN)
    assert score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", PLAIN).n_cases == 1


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (replace(PLAIN, dataset=Path("dataset.yaml")), "--classes: the classes are named twice"),
        (replace(PLAIN, boundary=False, tolerances=("1px",)), "--tolerance: nothing is measured that has one"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, asked, problem):
    with pytest.raises(ConfigError, match=problem):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", asked)


def spoil_missing(root: Path) -> None:
    (root / "p/case_1.png").unlink()


def spoil_extra(root: Path) -> None:
    write(root / "p/case_99.png", masks(1)[0][1])


def spoil_size(root: Path) -> None:
    write(root / "p/case_1.png", np.zeros((3, 4), np.uint8))


def spoil_class(root: Path) -> None:
    write(root / "p/case_1.png", np.full((12, 15), 7, np.uint8))


def spoil_colour(root: Path) -> None:
    Image.fromarray(np.zeros((12, 15, 3), np.uint8)).save(root / "p/case_1.png")


def spoil_file(root: Path) -> None:
    (root / "r/case_0.png").write_bytes(b"no picture")


def spoil_mixed(root: Path) -> None:
    (root / "p/case_1.png").unlink()
    write(root / "p/case_1.nii.gz", np.zeros((12, 15, 1), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (spoil_missing, AnnotationError, r"/r: 1 case here have no prediction \(case_1.png\); .*a case left out counts against nobody"),
        (spoil_extra, AnnotationError, r"/p: 1 case here have no reference \(case_99.png\); take these files away"),
        (spoil_size, ImageError, "p/case_1.png: its size is 3 x 4, that of its reference 12 x 15; .*nearest neighbour"),
        (spoil_class, LabelError, r"p/case_1.png: the mask holds ids \{7\}"),
        (spoil_colour, ImageError, "p/case_1.png: a mask must hold class ids in one channel, this one has colours"),
        (spoil_file, ImageError, "r/case_0.png: "),
        (spoil_mixed, ImageError, "images and volumes are mixed"),
    ],
)
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # in two processes, which must hand the error on
def test_what_cannot_be_scored_is_one_error_and_leaves_nothing(tmp_path, monkeypatch, spoil, error, message, jobs):
    monkeypatch.setattr("medseg.parallel.FEW", 1)
    for number, (truth, guess) in enumerate(masks(20)):
        write(tmp_path / f"r/case_{number}.png", truth)
        write(tmp_path / f"p/case_{number}.png", guess)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=("liver", "lesion"), jobs=jobs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "r"]


def test_a_volume_that_lies_elsewhere_is_refused(tmp_path):
    ids = np.ones((4, 4, 4), np.uint8)
    write(tmp_path / "r/a.nii.gz", ids)
    (tmp_path / "p").mkdir()
    write_labels(tmp_path / "p/a.nii.gz", ids, np.diag([0.5, 2.0, 3.1, 1.0]))
    with pytest.raises(ImageError, match="lies elsewhere in space than its reference"):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", Asked(classes=["liver"]))


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (Asked(classes=["liver", "lesion"], tolerances=["1mm"]), ConfigError, "not every image has a spacing in mm; give it in px or %"),
        (
            Asked(classes=["liver", "lesion"], tolerances=["two"]),
            ConfigError,
            "'two' is no distance above 0 with a unit; write it with px, mm or %",
        ),
        (Asked(classes=["liver", "lesion"], tolerances=["0px"]), ConfigError, "is no distance above 0"),
        (Asked(classes=["liver", "lesion"], given=["255=spleen"]), LabelError, "'spleen' .* is not among the classes"),
        (Asked(classes=["liver", "lesion"], group_pattern="nobody(.)"), ManifestError, "finds no group in the sample 'case_0'"),
        (Asked(classes=["liver", "liver"]), LabelError, "cannot be used"),
        (Asked(Path("none.yaml")), ManifestError, "none.yaml: there is no such file"),
    ],
)
def test_what_cannot_be_asked_is_one_error(tmp_path, asked, error, message):
    for number, (truth, guess) in enumerate(masks(2)):
        write(tmp_path / f"r/case_{number}.png", truth)
        write(tmp_path / f"p/case_{number}.png", guess)
    with pytest.raises(error, match=message):
        score_folders(tmp_path / "r", tmp_path / "p", tmp_path / "out", asked)


def test_a_run_s_own_predictions_score_as_its_evaluation_says(tmp_path):
    """Byte for byte the same cases, whether medseg has predicted them or finds them as files."""
    manifest, split, data_root, experiment = make_all(tmp_path)
    run = api.train(experiment, ["train.epochs=2"], data_root, tmp_path / "runs")
    folder = api.evaluate(run.path, "test", data_root).folder
    for row in manifest:
        if row.sample_id in split.ids("test"):
            reference = tmp_path / "reference" / f"{row.sample_id}.png"
            reference.parent.mkdir(exist_ok=True)
            reference.write_bytes((data_root / row.mask).read_bytes())
    score_folders(tmp_path / "reference", folder / "predictions", tmp_path / "out", Asked(run.dataset_yaml))
    ours, theirs = stored(tmp_path / "out"), stored(folder)
    for key in ("pooled", "occurrence", "confusion"):
        assert ours[key] == theirs[key], key
    lines = [sorted((path / "per_case.csv").read_text().splitlines()) for path in (tmp_path / "out", folder)]
    assert lines[0] == lines[1]
    for name, means in theirs["boundary"].items():
        for metric, mean in means.items():
            assert ours["boundary"][name][metric] == pytest.approx(mean, rel=1e-12), metric


def test_the_command_prints_the_table_and_ends_with_2_where_it_cannot(tmp_path, capsys, monkeypatch):
    for number, (truth, guess) in enumerate(masks(3)):
        write(tmp_path / f"r/case_{number}.png", truth)
        write(tmp_path / f"p/case_{number}.png", guess)
    command = ["score", "--reference", f"{tmp_path}/r", "--prediction", f"{tmp_path}/p", "--out", f"{tmp_path}/out", "--conventions"]
    app([*command, "--classes", "liver,lesion", "--tolerance", "3px"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "| nnU-Net v2, summary.json |" in printed and "NSD at 3 px" in printed and f"written: {tmp_path}/out" in printed
    monkeypatch.setattr("sys.argv", ["medseg", *command, "--classes", "liver"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and capsys.readouterr().err.splitlines()[-1].startswith("error: ")
