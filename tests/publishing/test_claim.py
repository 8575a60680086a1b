"""The CLAIM checklist: what the files of a run answer, and that nothing else is answered."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from medseg.config import Config
from medseg.labels import LabelSet
from medseg.manifest.schema import Dataset, Manifest
from medseg.manifest.split import make_split
from medseg.manifest.table import dataset_text, read_manifest, write_manifest
from medseg.metrics.protocol import Protocol
from medseg.models import contract
from medseg.publishing import claim
from medseg.publishing.claim import ITEMS, Item, claim_items
from medseg.publishing.estimated import Cell, Share
from medseg.publishing.published import Published, publish
from medseg.publishing.sources import Source
from medseg.runfolder import RunFolder
from medseg.statistics.intervals import Estimate

OF_SCORES = {28, 29, 35, 37, 39}  # what a folder of scores tells of itself
OF_RUNS = {7, 9, 19, 20, 22, 23, 24, 25, 26, 27, 32, 42, 43}
FACTS = {"split": "test", "run": ["run-0"], "epoch": [7], "checkpoint": {"chosen_by": "val/miou"}, "test_scorings": 2}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    """20 images of 10 patients and their split; no image is on the disk."""
    rows = pd.DataFrame({"sample_id": [f"case_{place:02d}" for place in range(20)]})
    rows["group_id"] = [f"patient_{place // 2}" for place in range(20)]
    rows["image"], rows["mask"] = rows["sample_id"] + ".png", rows["sample_id"] + "_mask.png"
    rows = rows.assign(height_px=40, width_px=60, px_background=2000, px_disc=400, image_sha256="a" * 64, mask_sha256="b" * 64)
    rows = rows.assign(depth_px=None, spacing_x_mm=None, spacing_y_mm=None, spacing_z_mm=None)
    dataset = Dataset(name="discs", labels=LabelSet.of("disc"), licence="CC-BY-4.0", source="drawn by hand", notes="Two of each.")
    made = write_manifest(tmp_path_factory.mktemp("claim") / "v1", rows, dataset)
    make_split(made, "main", (0.6, 0.2, 0.2), seed=3)
    return read_manifest(made.folder)


def write_run(path: Path, manifest: Manifest, seed: int = 0, **changes: dict) -> Path:
    """A run folder without weights."""
    data = {"manifest": str(manifest.folder), "split": "main", "size_px": [32, 48]} | changes.pop("data", {})
    config = Config.model_validate({"name": "tiny", "seed": seed, "data": data, **changes})
    folder = RunFolder(path)
    path.mkdir()
    folder.config_yaml.write_text(config.to_yaml())
    folder.dataset_yaml.write_text(dataset_text(manifest.dataset))
    split = claim.read_split(manifest, config.data.split)
    digests = {"manifest_sha256": manifest.digest, "split_sha256": split.digest, "images": {"test": 4, "train": 12, "val": 4}}
    folder.digests_json.write_text(json.dumps(digests))
    environment = {"python": "3.11.7", "packages": {"medseg": "0.1.0", "torch": "2.15.0"}, "git": {"commit": "c" * 40, "dirty": False}}
    folder.environment_json.write_text(json.dumps(environment))
    return path


def source(*runs: Path, label: str = "U-Net", **changes) -> Source:
    """Four images of two patients, a seed a run."""
    rows = [
        {"seed": seed, "fold": -1, "sample_id": f"case_{place}", "group_id": f"patient_{place // 2}"}
        for seed in range(max(1, len(runs)))
        for place in range(4)
    ]
    cases = pd.DataFrame(rows).assign(name="disc", kind="class", iou=1.0)
    facts = FACTS | {"run": [run.name for run in runs]} if runs else {"split": None, "checkpoint": None}
    made = Source(label, cases, Protocol(), {}, facts, {(seed, -1): run for seed, run in enumerate(runs)})
    return replace(made, **changes)


def published(*sources: Source) -> Published:
    cell = Cell(sources[0].label, "disc", "iou", "per_image", Estimate(0.9, 0.8, 0.95, 2), (4, 4), 4, 2, (0.9,), ("disc",))
    shares = [Share(one.label, "disc", "missed", number, 4, 0.0, 0.5, "images", one.seeds[0]) for number, one in enumerate(sources)]
    return Published(sources, [cell], ["iou"], [], shares, "bootstrap_t", None)


def answers(items: list[Item]) -> dict[int, str]:
    return {item.number: item.answer for item in items if item.answer is not None}


def test_there_are_44_items_in_order():
    items = claim_items(published(source()))
    assert [item.number for item in items] == list(range(1, 45))
    assert len({item.text for item in items}) == 44 and all(item.section and item.text for item in items)
    told = {1: "Title", 2: "Abstract", 13: "Data", 18: "Reference standard", 20: "Data partitions", 24: "Model", 27: "Training"}
    told |= {34: "Evaluation", 39: "Results", 41: "Discussion", 44: "Other information"}
    assert {number: ITEMS[number - 1][0] for number in told} == told


def test_a_folder_of_scores_tells_how_it_was_scored_and_no_more(scored):
    found = answers(claim_items(publish([str(scored / "baseline"), str(scored / "larger")], metrics=["iou"])))
    assert set(found) == OF_SCORES
    assert found[35] == "Scored: 28 images of 14 groups. What was excluded is not in the files."
    assert "over 14 groups (bootstrap-t, 5,000 replicates)" in found[29] and "against baseline" in found[29]
    assert "Holm's adjustment over 2 tests; significant below 0.05" in found[29]
    assert found[37].startswith("See the tables: IoU; of each class and region, with 95 % intervals")
    assert "baseline: lesion missed in" in found[39] and " larger: " in found[39]
    assert found[28].startswith("IoU; Recall; ") and "Prediction" not in found[28]


def test_the_answers_of_a_run(tmp_path, manifest):
    found = answers(claim_items(published(source(write_run(tmp_path / "run-0", manifest)))))
    assert set(found) == OF_SCORES | OF_RUNS
    assert found[7] == "Data set discs; drawn by hand. Two of each."
    assert "fit 32 x 48 pixels (height x width)" in found[9] and "less 0.5, divided by 0.25" in found[9]
    assert "flip_probability 0.5, rotate_deg 20" in found[9] and "elastic" not in found[9] and "with probability" not in found[9]
    split = claim.read_split(manifest, "main")
    assert found[19] == (
        f"Split main (SHA-256 {split.digest[:12]}, of manifest {manifest.digest[:12]}): train 12, val 4, test 4 images. "
        "Made with seed 3, ratios 0.6/0.2/0.2."
    )
    assert found[20].endswith("no group is in two parts, as was verified when the split was read.")
    assert found[22].startswith("Network unet (Kerfoot et al. 2019): channels 32, 64, 128, 256, 512; strides 2, 2, 2, 2; num_res_units 2; ")
    assert found[22].endswith("Outputs: background, disc.")
    assert found[23] == "Python 3.11.7, medseg 0.1.0, torch 2.15.0."
    assert found[24] == "Trained from scratch, no weights taken over: initial weights drawn at random, seed 0."
    assert found[25].startswith("24 epochs in batches of 8; loss dice_ce; optimiser adamw, weight decay 0.01; learning rate 0.001, cosine")
    assert found[26] == "The weights of the epoch with the best val/miou: epoch 7."
    assert found[27] == "No ensemble of networks. Prediction: single forward pass."
    assert found[32].startswith("Scored on the part test of the split: 4 images of 2 groups") and "scored 2 times so far" in found[32]
    assert found[35].startswith("Included: train 12 images of 6 groups, val 4 images of 2 groups, test 4 images of 2 groups.")
    assert found[39].startswith("No structure was missed or invented.")
    assert found[42].endswith("training: run-0.")
    assert found[43] == f"Code: medseg 0.1.0, commit {'c' * 40}. Licence of the data: CC-BY-4.0."


def test_what_is_not_usual(tmp_path, manifest):
    run = write_run(
        tmp_path / "run-0",
        manifest,
        sampling={"patch_px": [32, 64], "centre_ratios": {"disc": 2, "anywhere": 1}, "draws_per_epoch": 1000},
        augment={"elastic": 0.05, "noise": 0.1, "probability": 0.3},
        train={"accumulate": 2, "patience": 5, "precision": "bfloat16", "device": "cuda"},
        optim={"ema_decay": 0.999, "clip_norm": None},
    )
    protocol = Protocol(checkpoint="of the last epoch", test_time="mean over the image and its mirror image")
    found = answers(claim_items(published(source(run, protocol=protocol))))
    assert found[10] == "The network learns from crops of 32 x 64 pixels, centred on the classes in the ratios disc 2, anywhere 1."
    assert found[9].endswith("noise 0.1; elastic, noise with probability 0.3.") and "elastic 0.05" in found[9]
    for text in ("gradients of 2 batches a step", "stopped after 5 validations", "decay 0.999", "1,000 draws", "bfloat16 on cuda"):
        assert text in found[25]
    assert "clipped" not in found[25]
    assert found[26] == "The weights of the last epoch: epoch 7; none was chosen."
    assert found[27] == "No ensemble of networks. Prediction: mean over the image and its mirror image."


def test_no_augmentation(tmp_path, manifest):
    off = dict.fromkeys(("flip_probability", "rotate_deg", "scale", "shift", "brightness", "contrast", "gamma", "saturation", "hue"), 0)
    run = write_run(tmp_path / "run-0", manifest, augment={**off, "noise": 0.2, "probability": 0})
    assert answers(claim_items(published(source(run))))[9].endswith("No random changes in training.")


def test_seeds_are_told_once(tmp_path, manifest):
    found = answers(claim_items(published(source(*(write_run(tmp_path / f"run-{seed}", manifest, seed) for seed in (0, 1))))))
    assert found[24].endswith("drawn at random, seeds 0, 1, a run each.") and found[22].count("Network") == 1
    assert found[30] == "Trained with 2 seeds (0, 1), which draw initial weights and training images anew."
    assert found[42].endswith("run-0, run-1.") and "(seed 0)" in found[39]


def test_sources_that_differ_are_told_apart(tmp_path, manifest):
    one, two = write_run(tmp_path / "run-0", manifest), write_run(tmp_path / "run-1", manifest, loss={"name": "dice"})
    found = answers(claim_items(published(source(one, label="A"), source(two, label="B"), source(label="C"))))
    assert found[25].startswith("A: 24 epochs") and " B: 24 epochs" in found[25] and "loss dice;" in found[25] and "C:" not in found[25]
    assert found[39].startswith("A: No structure")
    assert "B: disc missed in 1 of 4 images." in found[39] and "C: disc missed in 2 of 4 images." in found[39]
    assert found[28].startswith("IoU. Scored on")  # by one protocol


def test_a_manifest_that_has_changed_tells_nothing_of_the_parts(tmp_path, manifest):
    run = write_run(tmp_path / "run-0", manifest)
    folder = RunFolder(run)
    folder.digests_json.write_text(folder.digests_json.read_text().replace(manifest.digest, "0" * 64))
    found = answers(claim_items(published(source(run))))
    assert found[35].startswith("Scored: 4 images of 2 groups.") and "Made with" not in found[19]
    assert found[20].endswith("or the training would have refused the split.")


def test_broken_files_are_no_answer(tmp_path, manifest):
    run = write_run(tmp_path / "run-0", manifest)
    folder = RunFolder(run)
    for path in (folder.environment_json, folder.digests_json, folder.dataset_yaml):
        path.write_text("{")
    assert set(answers(claim_items(published(source(run))))) == (OF_SCORES | OF_RUNS) - {7, 23, 43}
    folder.config_yaml.unlink()
    assert set(answers(claim_items(published(source(run))))) & {9, 19, 20, 22, 24, 25, 26, 27, 32, 42} == set()


def test_images_that_are_groups_of_their_own(tmp_path, manifest):
    run, one = write_run(tmp_path / "run-0", manifest), source()
    alone = one.cases.assign(group_id=one.cases["sample_id"])
    RunFolder(run).digests_json.write_text("{}")
    assert answers(claim_items(published(source(run, cases=alone))))[20].endswith("Each scored image is a group of its own here.")


@pytest.mark.parametrize("mean", [0.75, None])
def test_a_second_observer(tmp_path, mean):
    observers = {claim.BETWEEN_OBSERVERS: {"per_image": {"disc": {"iou": {"mean": mean, "n": 4}}}}}
    (tmp_path / "scores.json").write_text(json.dumps({"observers": observers}))
    found = answers(claim_items(published(source(folders={(0, -1): tmp_path}))))
    value = "0.750" if mean else "–"
    assert found[18] == f"A second observer against the reference, IoU as mean over images: disc {value} (n = 4)."
    (tmp_path / "scores.json").write_text('{"observers": {}}')
    assert 18 not in answers(claim_items(published(source(folders={(0, -1): tmp_path}))))


def test_too_few_groups_for_an_interval_and_a_margin():
    alone = published(source())
    without = replace(alone.cells[0], estimate=Estimate(0.9, math.nan, math.nan, 2))
    found = answers(claim_items(replace(alone, cells=[without], margin=0.02)))
    assert "without intervals (fewer than 5 groups)" in found[37] and found[29].endswith("Margin of non-inferiority: 0.02.")


def test_a_cross_validation_has_folds_and_no_one_part(tmp_path, manifest):
    make_split(manifest, "cv", (0.6, 0.2, 0.2), seed=3, folds=2)
    runs = [write_run(tmp_path / f"run-{fold}", manifest, data={"split": "cv", "fold": fold}) for fold in range(2)]
    one = source(*runs)
    cv = replace(one, cases=one.cases[one.cases["seed"] == 0], facts=FACTS | {"split": "out of fold", "epoch": []})
    found = answers(claim_items(published(cv)))
    assert "cross-validation: each fold in turn is val" in found[19] and "train 12" not in found[19] and "folds 2" in found[19]
    assert found[32].startswith("Scored out of fold, each image by a network that has not learnt from it: 4 images of 2 groups")
    assert found[35].startswith("Included: train and val 16 images of 8 groups, test 4 images of 2 groups.")
    assert found[24].endswith("seed 0.") and found[25].count("epochs") == 1
    first = answers(claim_items(published(source(runs[0]))))
    assert "fold 0 is val, and the others train: train 12" in first[19]
    assert first[35].startswith("Included: train 8 images of 4 groups, val 8 images of 4 groups, test 4 images of 2 groups.")


def test_the_normalisation_is_the_network_s():
    assert (claim.CHANNEL_MEAN, claim.CHANNEL_DEVIATION) == ((contract.MEAN,), (contract.DEVIATION,))


def test_fine_tuning_and_a_network_s_own_losses_are_told(manifest, tmp_path):
    model = {"name": "maskrcnn_resnet50_fpn", "weights": "file:a.pth", "freeze": "encoder", "freeze_epochs": 1, "batch_norm": "frozen"}
    run = write_run(tmp_path / "run-0", manifest, model=model, optim={"head_lr_multiplier": 10, "layer_decay": 0.8}, train={"epochs": 1})
    folder = RunFolder(run)
    folder.network_json.write_text(json.dumps({"parameters": 43_922_395, "chosen": {"anchor_sizes": [4.0, 5.12]}}))
    folder.weights_json.write_text(
        json.dumps({"origin": "file:a.pth (sha256 0123)", "loaded": ["a", "b"], "skipped": {}, "new": {"c": ""}})
    )
    found = answers(claim_items(published(source(run))))
    assert found[22].startswith("Network maskrcnn_resnet50_fpn (He et al. 2017): ") and "None" not in found[22]
    assert "anchor_sizes 4, 5.12; 43,922,395 parameters. Outputs: " in found[22]
    assert "Fine-tuned from the weights file:a.pth (sha256 0123) (2 tensors taken over, 0 left, 1 made new); " in found[24]
    assert found[25].startswith("1 epoch in batches of 8; loss of the network itself; ")
    for said in ("the head's learning rate times 10", "each stage of the encoder at 0.8 of the rate of the next",
                 "the encoder held as it started for the first 1 epoch", "the encoder's batch norms held"):  # fmt: skip
        assert said in found[25]


def test_a_network_without_settings_of_its_own(manifest, tmp_path):
    run = write_run(tmp_path / "run-0", manifest, model={"name": "fcn_resnet18"})
    assert (
        answers(claim_items(published(source(run))))[22]
        == "Network fcn_resnet18 (Long et al. 2015; Zhang et al. 2023). Outputs: background, disc."
    )
