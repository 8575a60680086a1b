"""What an evaluation tells beside the overlap: objects, probabilities, other rules, a second observer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label

from medseg import api, images
from medseg.build import trained_on
from medseg.config.model import MaskRcnnConfig, UnetConfig
from medseg.errors import ConfigError, ManifestError
from medseg.evaluation import Asked, _off_ignored
from medseg.instances import FoundObject, patch_of
from medseg.labels import LabelSet
from medseg.manifest.importers.masks import import_masks
from medseg.metrics.counts import confusion, counts_of
from medseg.metrics.measure import Measures
from medseg.metrics.rules import OtherRules
from medseg.metrics.scores import ratios
from medseg.report.evaluation import objects_rule
from medseg.runfolder import RunFolder
from tests.tiny import CLASSES, make_all

LABELS = LabelSet.of(*CLASSES)
V1 = MaskRcnnConfig(name="maskrcnn_resnet50_fpn")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, manifest, test ids, data root, run), trained once."""
    root = tmp_path_factory.mktemp("evaluation")
    manifest, split, data_root, experiment = make_all(root)
    run = api.train(experiment, ["train.epochs=8"], data_root, root / "runs")
    return root, manifest, split.ids("test"), data_root, run


def evaluated(run: RunFolder, data_root: Path, **asked) -> tuple[dict, str]:
    """(scores.json, table.md)."""
    folder = api.evaluate(run.path, "test", data_root, asked=Asked(**asked)).folder
    return json.loads((folder / "scores.json").read_text()), (folder / "table.md").read_text()


def pairs(world) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reference and prediction of each test image, from the files."""
    _, manifest, ids, data_root, run = world
    rows = {row.sample_id: row for row in manifest}
    return {
        sample: tuple(
            np.asarray(Image.open(path))
            for path in (data_root / rows[sample].mask, run.evaluation("test") / "predictions" / f"{sample}.png")
        )
        for sample in ids
    }


def test_objects_are_the_connected_parts_of_a_class(world):
    stored, table = evaluated(world[-1], world[3], instances="components", calibration=False, boundary=False)
    for class_id, name in enumerate(CLASSES, start=1):
        numbers = [[int(label(mask == class_id, connectivity=2).max()) for mask in pair] for pair in pairs(world).values()]
        found = stored["detection"][name]
        assert [found["n_reference"], found["n_predicted"]] == np.sum(numbers, axis=0).tolist()
        assert 0 <= found["n_matched"] <= min(found["n_reference"], found["n_predicted"])
    assert stored["detection"]["disc"]["f1"] > 0 and 0 <= stored["detection"]["disc"]["mask_ap"] <= stored["detection"]["disc"]["mask_ap50"]
    assert "Mask AP50" in table and stored["protocol"]["detection"] in table
    assert "calibration" not in stored and stored["boundary"] == {} and stored["protocol"]["boundary"] is None


def test_annotated_objects_are_asked_of_a_manifest_that_has_them(world):
    with pytest.raises(ManifestError, match="holds no separate objects of it; take --instances components"):
        evaluated(world[-1], world[3], instances="annotated")


@pytest.mark.slow
def test_annotated_shapes_are_objects_though_they_touch(tmp_path):
    """Two discs of one class side by side: one component, two objects."""
    api_root = tmp_path / "data"
    for number in range(8):
        photograph = np.full((48, 64, 3), 40, np.uint8)
        photograph[12:36, 8:56] = (220, 60, 60)
        images.write_image(api_root / f"case_{number}.png", photograph)
        shapes = [
            {"label": "disc", "points": [[left, 12], [left + 24, 36]], "group_id": None, "shape_type": "rectangle", "flags": {}}
            for left in (8, 32)
        ]
        content = {"version": "5.6.1", "flags": {}, "shapes": shapes, "imagePath": f"case_{number}.png", "imageData": None}
        content |= {"imageHeight": 48, "imageWidth": 64}
        (api_root / f"case_{number}.json").write_text(json.dumps(content))
    api.import_labelme(api_root, tmp_path / "manifest", instances=True)
    api.make_split(api.read_manifest(tmp_path / "manifest"), "main", (0.5, 0.25, 0.25), seed=0)
    experiment = tmp_path / "touching.yaml"
    settings = "train: {epochs: 8, batch_size: 2, precision: float32}\ntracking: {enabled: false}\noptim: {lr: 0.01}\n"
    data = f"data: {{manifest: {tmp_path / 'manifest'}, split: main, size_px: [48, 64], cache: {tmp_path / 'cache'}}}\n"
    experiment.write_text(data + "model: {channels: [8, 16], strides: [2], num_res_units: 0}\n" + settings)
    run = api.train(experiment, [], api_root, tmp_path / "runs")
    for kind, number in (("components", 1), ("annotated", 2)):
        stored, _ = evaluated(run, api_root, instances=kind)
        assert stored["detection"]["disc"]["n_reference"] == number * stored["n_cases"]
        assert ("as annotated" in stored["protocol"]["detection"]) is (kind == "annotated")


def test_a_network_s_own_objects_stay_apart_though_they_touch():
    """Where it names them, its objects are matched as it paints them; what is ignored is none of theirs."""
    reference = np.array([[1, 1, 1, 1, 2, 255]], np.uint8)
    prediction = np.array([[1, 1, 1, 1, 2, 2]], np.uint8)
    own = np.array([[1, 1, 3, 3, 2, 2]], np.int32)
    measures = Measures(LABELS, instances=True)
    found = measures.objects(reference, prediction, found=own)
    assert found["disc"].prediction.tolist() == [[1, 1, 3, 3, 0, 0]] and found["square"].prediction.tolist() == [[0, 0, 0, 0, 2, 0]]
    assert found["disc"].reference.tolist() == [[1, 1, 1, 1, 0, 0]] == measures.objects(reference, prediction)["disc"].prediction.tolist()


def test_found_objects_lose_their_ignored_pixels_and_go_where_they_have_no_others():
    valid = np.array([[True, True, False, False]])
    half, gone, empty = (
        FoundObject(1, 0.5, (0.8, 0.1, 3.2, 0.9), patch_of(np.array([row], bool)), True) for row in ([0, 1, 1, 0], [0, 0, 1, 1], [0] * 4)
    )
    cut = _off_ignored(half, valid)
    assert cut.patch.pixels_HW.tolist() == [[True]] and cut.patch.window == (slice(0, 1), slice(1, 2))
    assert cut.box == pytest.approx((0.8, 0.1, 2.2, 0.9)), "the side that was cut moves with its mask, the others are the network's own"
    loose = half._replace(box=(0.8, 0.1, 9.0, 0.9))
    assert _off_ignored(loose, valid).box[2] == 8.0, "what was wrong of it stays as wrong"
    assert _off_ignored(half._replace(box=(1.9, 0, 2.5, 1)), valid).box == (1.9, 0, 1.9, 1), "no side passes the other"
    whole = FoundObject(1, 0.5, (0.2, 0.0, 1.9, 1.0), patch_of(np.array([[1, 1, 0, 0]], bool)), True)
    assert _off_ignored(whole, valid) is whole
    holed = FoundObject(1, 0.5, (0, 0, 4, 1), patch_of(np.ones((1, 4), bool)), True)
    assert _off_ignored(holed, np.array([[True, False, False, True]])).box == (0, 0, 4, 1), "what is ignored inside cuts no side"
    assert _off_ignored(gone, valid) is None
    assert _off_ignored(empty, valid).box == empty.box, "without a pixel it is still there, and wrong"


def test_the_rules_say_whose_scores_they_are():
    for kind in ("components", "annotated"):
        assert "an object's score is the mean probability of its pixels" in objects_rule(kind, own=False)
        rule = objects_rule(kind, own=True)
        assert "against the network's own objects as they are painted" in rule and "by its own scores and boxes" in rule
        assert "the prediction's connected components" not in rule and "mean probability" not in rule
    assert [trained_on(config) for config in (UnetConfig(), V1, V1.model_copy(update={"instances": "annotated"}))] == [
        None, "components", "annotated",
    ]  # fmt: skip


def test_calibration_is_of_the_valid_pixels_on_the_images_own_grid(world):
    stored, table = evaluated(world[-1], world[3], boundary=False)
    found = stored["calibration"]
    assert found["n_pixels"] == sum(reference.size for reference, _ in pairs(world).values())
    top = found["reliability"]["top"]
    right = sum(pixels * share for pixels, share in zip(top["pixels"], top["accuracy"], strict=True) if pixels)
    assert right / found["n_pixels"] == pytest.approx(stored["summary"]["pixel_accuracy"]["mean"])  # the top class is the prediction
    assert 0 < found["ece"] < 1 and 0 < found["brier"] < 2 and set(found["classwise_ece"]) == set(LABELS.names)
    assert "ECE of the predicted class" in table and (world[-1].evaluation("test") / "reliability.png").exists()


def test_other_libraries_rules_are_of_the_same_predictions(world):
    stored, table = evaluated(world[-1], world[3], conventions=True, calibration=False, boundary=False)
    rules = OtherRules(LABELS)
    for pair in pairs(world).values():
        rules.add(confusion(*pair, LABELS))
    by_name = {one["rule"]: one for one in stored["conventions"]}
    for one in rules.results():
        assert {name: None if np.isnan(value) else value for name, value in one.iou.items()} == by_name[one.rule]["iou"]
        assert f"| {one.rule} |" in table and one.sentence in table


def test_a_run_is_not_held_against_its_own_manifest_twice(world):
    with pytest.raises(ManifestError, match="is the run's own manifest, and agrees with itself"):
        evaluated(world[-1], world[3], observer=world[1].folder)


def second_observer(world, folder: Path, classes=CLASSES, leave_out: int | None = None) -> Path:
    """A manifest of the same images, every mask shifted by two pixels."""
    root, manifest, _, data_root, _ = world
    shutil.copytree(data_root / "images", folder / "data/images")
    for place, row in enumerate(manifest):
        shifted = np.roll(images.read_mask(data_root / row.mask), 2, axis=1)
        if place == leave_out:
            (folder / "data" / row.image).unlink()
        else:
            images.write_mask(folder / "data/masks2" / Path(row.mask).name, shifted, LABELS.palette)
    import_masks(folder / "data/images", folder / "data/masks2", folder / "second", classes=list(classes))
    return folder / "second"


def test_a_second_observer_is_the_line_to_measure_the_run_by(world, tmp_path):
    observer = second_observer(world, tmp_path)
    shutil.copytree(tmp_path / "data/masks2", world[3] / "masks2", dirs_exist_ok=True)
    stored, table = evaluated(world[-1], world[3], observer=observer, calibration=False, boundary=False)
    total = {who: np.zeros((3, 3), np.int64) for who in stored["observers"]}
    for reference, prediction in pairs(world).values():
        second = np.roll(reference, 2, axis=1)
        total["run against the reference"] += confusion(reference, prediction, LABELS)
        total["run against the second observer"] += confusion(second, prediction, LABELS)
        total["second observer against the reference"] += confusion(reference, second, LABELS)
    for who, matrix in total.items():
        for class_id, name in enumerate(LABELS.names):
            assert stored["observers"][who]["pooled"][name]["iou"] == ratios(counts_of(matrix, (class_id,)))["iou"], who
        assert f"| {who} |" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("disc", "circle")}, "its classes or ignore id differ from the run's"),
        ({"leave_out": "test"}, "holds no row for case_"),
    ],
)
def test_a_second_observer_of_other_images_or_classes_is_refused(world, tmp_path, change, message):
    rows = [row.sample_id for row in world[1]]
    change = {"leave_out": rows.index(world[2][0])} if "leave_out" in change else change
    with pytest.raises(ManifestError, match=message):
        evaluated(world[-1], world[3], observer=second_observer(world, tmp_path, **change))


def test_tolerances_are_in_the_unit_of_the_images(world):
    stored, table = evaluated(world[-1], world[3], tolerances=("3px", "1%"), calibration=False)
    assert stored["protocol"]["tolerances"] == ["nsd_3px", "nsd_1pct"] and "NSD at 3 px" in table
    with pytest.raises(ConfigError, match="not every image has a spacing"):
        evaluated(world[-1], world[3], tolerances=("1mm",))
