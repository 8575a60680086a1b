"""The studies below experiments/: their intervals, what is used again, what is refused, and that the table says what the runs hold."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import study
import study_report
import study_scores
from PIL import Image

from medseg.config import load_config
from medseg.errors import ConfigError, ManifestError
from medseg.labels import LabelSet
from medseg.manifest.table import select
from medseg.metrics.scores import score
from medseg.report.tables import number, read_scores
from medseg.runfolder import open_run
from medseg.types import CaseResult
from tests.tiny import make_all

ROOT = Path(__file__).parent.parent
IOU, RECALL, PRECISION, OTHERS, DIFFERENCE = range(5)
SHORT = ["train.epochs=1"]


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """A tenth of the resamples, for time's sake."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(study_scores, "RESAMPLES", study_scores.RESAMPLES // 10)
        yield


def cases(seed: int, arms: int = 2, seeds: int = 2, images: int = 60, classes: int = 3) -> np.ndarray:
    """Confusions of an arm, a seed and an image; the last class is in every third image."""
    confusion = np.random.default_rng(seed).integers(1, 200, (arms, seeds, images, classes, classes))
    confusion[:, :, np.arange(images) % 3 > 0, -1] = 0
    return confusion


# --- pooled scores and their intervals


def test_the_scores_of_a_class_by_hand():
    confusion = np.array([[5, 1, 0], [0, 3, 1], [1, 0, 2]])  # rows: reference
    assert study_scores.class_scores(confusion, 2) == pytest.approx((2 / 4, 2 / 3, 2 / 3, 3 / 5))
    nothing_found = np.array([[5, 0, 0], [0, 3, 0], [2, 0, 0]])
    assert study_scores.class_scores(nothing_found, 2) == (0.0, 0.0, 0.0, 1.0)
    absent = np.diag([5, 3, 0])
    assert np.isnan(study_scores.class_scores(absent, 2)[:3]).all()


def test_groups_are_summed_in_the_order_they_come():
    confusion = np.arange(2 * 1 * 3 * 2 * 2).reshape(2, 1, 3, 2, 2)
    summed = study_scores.by_group(confusion, ["b", "a", "b"])
    assert summed.shape == (2, 1, 2, 2, 2)
    assert (summed[:, :, 0] == confusion[:, :, 0] + confusion[:, :, 2]).all() and (summed[:, :, 1] == confusion[:, :, 1]).all()


def test_a_resample_scores_as_the_evaluation_scores_its_images():
    """Against the package's own pooled scores of the list of images that were drawn, a group at a time."""
    labels, confusion = LabelSet.of("common", "rare"), cases(0)
    groups = [f"g{place // 2}" for place in range(60)]  # two images a group
    index = np.random.default_rng(1).integers(0, 30, (7, 30))
    found = study_scores.resampled(study_scores.by_group(confusion, groups), index, 2)
    for arm in range(2):
        for seed in range(2):
            for place, drawn in enumerate(index):
                images = [2 * group + half for group in drawn for half in (0, 1)]
                pooled = score([CaseResult("", "", confusion[arm, seed, image]) for image in images], labels).pooled
                slow = [pooled["rare"]["iou"], pooled["rare"]["recall"], pooled["rare"]["precision"], pooled["common"]["iou"]]
                assert found[arm, seed, :4, place] == pytest.approx(slow, rel=1e-12)


def test_identical_arms_differ_by_nothing_at_all():
    confusion = cases(0)
    confusion[1] = confusion[0]
    found = study_scores.estimate(confusion, list(map(str, range(60))), 2)
    for side in (found.value_AQ, found.low_AQ, found.high_AQ):
        assert (side[:, DIFFERENCE] == 0).all() and (side[0] == side[1]).all()


def test_the_estimate_is_the_mean_of_the_seeds_within_its_interval_and_comes_out_the_same_twice():
    confusion, names = cases(3), list(map(str, range(60)))
    found, again = (study_scores.estimate(confusion, names, 2) for _ in range(2))
    whole = [[study_scores.class_scores(confusion[arm, seed].sum(axis=0), 2) for seed in range(2)] for arm in range(2)]
    assert found.value_AQ[:, :4] == pytest.approx(np.mean(whole, axis=1))
    assert found.value_AQ[1, DIFFERENCE] == pytest.approx(found.value_AQ[1, IOU] - found.value_AQ[0, IOU])
    assert (found.low_AQ[1] < found.value_AQ[1]).all() and (found.value_AQ[1] < found.high_AQ[1]).all()
    assert np.array_equal(found.low_AQ, again.low_AQ) and np.array_equal(found.high_AQ, again.high_AQ)


def test_a_paired_difference_is_narrower_than_its_two_sides():
    """The second arm finds one pixel in ten less in every image: a difference that is sure though each IoU is not."""
    confusion = cases(4)
    confusion[0, 1] = confusion[0, 0]  # two seeds alike, so that the images alone widen the intervals
    confusion[1] = confusion[0]
    lost = confusion[0, ..., 2, 2] // 10
    confusion[1, ..., 2, 2] -= lost
    confusion[1, ..., 2, 0] += lost
    found = study_scores.estimate(confusion, list(map(str, range(60))), 2)
    width = found.high_AQ - found.low_AQ
    assert found.high_AQ[1, DIFFERENCE] < 0 and width[1, DIFFERENCE] < 0.5 * width[:, IOU].min()


@pytest.mark.slow
def test_nineteen_of_twenty_intervals_cover_and_only_over_groups():
    """Four like images a group. By groups the interval covers the population's IoU as often as it says; by images it is half as wide."""
    covered = {"groups": 0, "images": 0}
    for trial in range(100):
        rng = np.random.default_rng(trial)
        tp, fp, fn = (np.repeat(rng.poisson(rng.gamma(2.0, mean / 2, 40)), 4) for mean in (60, 20, 20))  # IoU 0.6
        confusion = np.moveaxis(np.array([[np.full(160, 900), fp], [fn, tp]]), 2, 0)[None, None].repeat(2, axis=1)
        for kind, names in (("groups", np.arange(160) // 4), ("images", np.arange(160))):
            found = study_scores.estimate(confusion, list(map(str, names)), 1)
            covered[kind] += found.low_AQ[0, IOU] <= 0.6 <= found.high_AQ[0, IOU]
    assert covered["groups"] >= 88, covered  # 95 but for chance and 40 groups
    assert covered["images"] <= 80, covered


def null_study(rng: np.random.Generator, deviation: float) -> np.ndarray:
    """Confusions of two arms and three seeds whose networks come from one distribution: recall 0.75 with that standard deviation."""
    held, confusion = 32, np.zeros((2, 3, 120, 2, 2), np.int64)
    lesion_px = rng.gamma(2, 150, held).astype(int) + 20
    confusion[..., 0, 0] = 25_000
    for arm, seed in np.ndindex(2, 3):
        recall = np.clip(rng.normal(0.75, deviation), 0.05, 0.98)
        tp = (rng.beta(recall * 15, (1 - recall) * 15, held) * lesion_px).astype(int)
        confusion[arm, seed, :held, 1] = np.stack([lesion_px - tp, tp], axis=1)
        confusion[arm, seed, :held, 0, 1] = rng.poisson(0.1 * lesion_px)
    return confusion


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.0, 0.04, 0.08])
def test_arms_of_one_kind_are_seldom_told_apart(deviation):
    """As often as one interval in twenty errs, whatever the seeds do; an interval over images alone claims up to 60 times in 100 here."""
    rng, claims = np.random.default_rng(0), 0
    for _ in range(100):
        found = study_scores.estimate(null_study(rng, deviation), list(map(str, range(120))), 1)
        claims += not found.low_AQ[1, DIFFERENCE] <= 0 <= found.high_AQ[1, DIFFERENCE]
    assert claims <= 11, claims  # 5 but for chance: more than 11 of 100 come in one of 140 such tests


def test_one_seed_has_no_interval():
    found = study_scores.estimate(cases(0, seeds=1), list(map(str, range(60))), 2)
    assert np.isfinite(found.value_AQ).all() and np.isnan(found.low_AQ).all() and np.isnan(found.high_AQ).all()


# --- a whole study on a tiny data set: a square in every third image


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A study of two samplers and two seeds, run once: (folder, manifest, split, data root, arms, result)."""
    root = tmp_path_factory.mktemp("study")
    manifest, split, data_root, _ = make_all(root)
    arms = [write_arm(root, name, f"sampling: {{name: {name}}}") for name in ("uniform", "inverse_frequency")]
    result = study.study("sampling", arms, data_root, root / "runs", [0, 1], SHORT)
    return root, manifest, split, data_root, arms, result


def write_arm(root: Path, name: str, body: str) -> Path:
    path = root / f"sampling_{name}.yaml"
    path.write_text(f"base: tiny.yaml\nname: sampling_{name}\n{body}\n")
    return path


def folders(root: Path) -> set[str]:
    return {path.parent.name for path in (root / "runs").glob("*/run.json")}


@pytest.mark.slow
def test_the_rarest_class_is_what_the_masks_hold(world):
    _, manifest, split, data_root, _, result = world
    rows, rarest = select(manifest, split, "train"), result.rarest
    masks = [np.asarray(Image.open(data_root / row.mask)) for row in rows]
    held = [mask for mask in masks if (mask == 2).any()]
    assert (rarest.name, rarest.images, rarest.held) == ("square", len(masks), len(held))
    assert rarest.pixel_share == pytest.approx(sum((m == 2).sum() for m in masks) / sum(m.size for m in masks))
    assert rarest.pixel_share_held == pytest.approx(sum((m == 2).sum() for m in held) / sum(m.size for m in held))
    assert f"{len(held)} of {len(masks)} training images" in rarest.sentence()


@pytest.mark.slow
def test_the_table_says_what_the_runs_hold(world):
    root, _, _, _, _, result = world
    text = (root / "runs/studies/sampling.md").read_text()
    runs = [open_run(path.parent) for path in (root / "runs").glob("*/run.json")]
    assert len(runs) == 4 and (root / "runs/studies/sampling.png").stat().st_size
    for arm, name in enumerate(result.arms):
        mine = [run for run in runs if run.state()["name"] == f"sampling_{name}"]
        ious = [read_scores(run.evaluation("test") / "scores.json")["pooled"]["square"]["iou"] for run in mine]
        assert result.found.value_AQ[arm, IOU] == pytest.approx(np.mean(ious))
        shown = [line["metrics"]["train/drawn_image_share/square"] for run in mine for line in run.metrics()]
        assert result.shown[arm] == pytest.approx(np.mean(shown))
        assert f"| {name} | {number(np.mean(ious), 3)} [" in text
    assert result.rarest.sentence() in text and study_report.answer(result) in text and "other test images and other seeds" in text
    assert list((root / "runs/studies").iterdir()) != [] and not list((root / "runs/studies").glob("*.part*"))


def test_a_finished_run_is_known_by_its_arm(tmp_path):
    """What a training writes down in config.yaml, and whatever it adds to the experiment, must be in the arm that is looked up."""
    manifest, split, data_root, experiment = make_all(tmp_path)
    run = study.api.train(experiment, [*SHORT, "seed=0"], data_root, tmp_path / "runs")
    config = study.load_arm(experiment, SHORT, 0).config
    assert study.finished_runs(tmp_path / "runs") == {study.fingerprint(config, manifest.digest, split.digest): run}


@pytest.mark.slow
def test_finished_runs_are_used_again_and_only_what_is_missing_is_made(world, monkeypatch):
    root, _, _, data_root, arms, result = world
    before = folders(root)
    gone = open_run(root / "runs" / min(before)).evaluation("test")
    shutil.rmtree(gone)
    again = study.study("sampling", arms, data_root, root / "runs", [0, 1], SHORT)
    assert folders(root) == before and gone.exists()
    assert study_report.markdown(again) == study_report.markdown(result)
    renamed = write_arm(root, "renamed", "sampling: {name: uniform}")
    study.study("sampling", [renamed, arms[1]], data_root, root / "runs", [0, 1], SHORT)
    assert folders(root) == before  # a name says nothing about the numbers
    monkeypatch.setattr(study.api, "train", lambda *arguments: pytest.fail("a finished run is trained again"))
    with pytest.raises(pytest.fail.Exception):
        study.study("sampling", arms, data_root, root / "runs", [0, 1], [*SHORT, "optim.lr=0.02"])


@pytest.mark.slow
def test_an_interrupted_study_goes_on_where_it_stopped(world, monkeypatch, tmp_path):
    root, _, _, data_root, arms, _ = world
    shutil.copytree(root / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/studies")
    shutil.rmtree(tmp_path / "runs" / max(folders(tmp_path)))

    def stop(clock: study.Clock, title: str, done: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(study.Clock, "tell", stop)
        study.study("sampling", arms, data_root, tmp_path / "runs", [0, 1], SHORT)
    states = [open_run(tmp_path / "runs" / name).state()["status"] for name in folders(tmp_path)]
    assert sorted(states) == ["finished"] * 3 + ["interrupted"] and not (tmp_path / "runs/studies").exists()
    study.study("sampling", arms, data_root, tmp_path / "runs", [0, 1], SHORT)
    assert len(folders(tmp_path)) == 5 and (tmp_path / "runs/studies/sampling.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sampling: {name: uniform, draws_per_epoch: 8}", "optimiser steps, and"),
        ("train: {epochs: 3}", "optimiser steps, and"),
        ("model: {channels: [8, 24]}", r"model.channels is \[8, 24\], and \[8, 16\]"),
        ("data: {size_px: [48, 48]}", "data.size_px"),
        ("loss: {name: dice}", "loss.name is dice, and dice_ce"),
    ],
)
def test_arms_that_differ_in_more_than_is_studied_are_refused_before_any_training(world, tmp_path, body, words):
    root, _, _, data_root, arms, _ = world
    with pytest.raises(ConfigError, match=words):
        study.study("sampling", [arms[0], write_arm(root, "other", body)], data_root, tmp_path / "runs", [0])
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_seed_twice_and_a_class_that_test_lacks_are_refused(world, tmp_path):
    _, manifest, split, data_root, arms, _ = world
    with pytest.raises(ConfigError, match="stands twice"):
        study.study("sampling", arms, data_root, tmp_path, [1, 1])
    train, test = (select(manifest, split, part) for part in ("train", "test"))
    without = [row for row in test if not row.px["square"]]
    with pytest.raises(ManifestError, match="'test': no image of it holds 'square'"):
        study_report.rarest_class(train, without, manifest.labels)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "words"), [(0, "no difference was shown between"), (-40, "is worse than"), (40, "is better than")])
def test_the_answer_follows_the_interval_whatever_it_is(world, change, words):
    confusion = cases(5, seeds=2)
    confusion[1] = confusion[0]
    confusion[1, ..., 2, 2] = np.maximum(confusion[0, ..., 2, 2] + change * (confusion[0, ..., 2, 2] > 0), 0)
    found = study_scores.estimate(confusion, list(map(str, range(60))), 2)
    result = replace(world[-1], found=found)
    sentence = study_report.answer(result)
    assert f"inverse_frequency {words} uniform" in sentence or f"{words} inverse_frequency and uniform" in sentence
    assert f"{abs(found.value_AQ[1, DIFFERENCE]):.3f}" in sentence and f"higher in {2 if change > 0 else 0} of 2 seeds" in sentence


@pytest.mark.parametrize("name", sorted(study.ARMS))
def test_the_shipped_arms_differ_in_what_they_study_only(name):
    configs = [load_config(path) for path in study.experiments(name)]
    assert study.check_arms(configs, name, 600) == 1200
    assert len({getattr(config, name).name for config in configs}) == len(configs)
    assert all(config.train.compile == "never" for config in configs)


def test_the_command_line_tells_one_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study.py", "loss", "--data-root", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stopped:
        study.main()
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_the_figures_are_recorded_as_the_results_page_reads_them(world, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import record
    import results

    monkeypatch.setattr(record, "RESULTS", tmp_path)
    path = study.record(world[-1])
    page = "\n".join(results.proofs(record.lines(path)))
    assert "## Study of sampling" in page and f"| uniform: iou | {number(world[-1].found.value_AQ[0, IOU], 3)} [" in page
