"""What an evaluation of volumes tells of probabilities, objects, mirror images and memory."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg import api, evaluation
from medseg.engine import evaluate as engine
from medseg.engine.evaluate import on_original_grid
from medseg.errors import ConfigError, RunError
from medseg.evaluation import Asked, _calibration, _calibration_rule, _notes, _passes_told, _protocol, _set_up
from medseg.metrics.calibration import count_calibration
from medseg.report.evaluation import CALIBRATION_RULE
from medseg.run import load_run
from medseg.watching import Progress
from tests.data.volume.made import make_experiment
from tests.engine.test_evaluate import Largest

PLAIN = Asked(boundary=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(data root, experiment, a run of one epoch)."""
    root = tmp_path_factory.mktemp("volumes")
    data_root, experiment = make_experiment(root, 6, (0.34, 0.33, 0.33))
    run = api.train(experiment, ["train.epochs=1", "sampling.draws_per_epoch=4"], data_root, root / "runs")
    return data_root, experiment, run


@pytest.fixture
def scene(world):
    """The run and its test volumes."""
    data_root, _, run = world
    return _set_up(load_run(run.path), "test", data_root, Progress(), PLAIN)


def evaluated(world, **asked) -> tuple[dict, str]:
    """(scores.json, table.md)."""
    folder = api.evaluate(world[2].path, "test", world[0], asked=Asked(boundary=False, **asked)).folder
    return json.loads((folder / "scores.json").read_text()), (folder / "table.md").read_text()


def test_a_calibration_says_how_many_volumes_it_is_of(world, scene, monkeypatch):
    sizes = sorted(math.prod(volume.shape) for volume in scene.data.volumes)
    assert len(sizes) == 2 and sizes[0] < sizes[1]
    monkeypatch.setattr(engine, "LARGEST_PROBS", 4 * 3 * sizes[0])
    stored, table = evaluated(world)
    assert stored["calibration"]["n_cases"] == 1 and stored["calibration"]["n_pixels"] == sizes[0]
    assert "over the pixels of the volumes whose probabilities take 1 GiB at the most, on each" in stored["protocol"]["calibration"]
    assert "- Calibration of 1 of 2 volumes: the probabilities of the other take over 1 GiB." in table


def test_a_calibration_of_all_volumes_or_of_none(scene, monkeypatch):
    assert _calibration_rule(scene) == CALIBRATION_RULE and not any("Calibration" in note for note in _notes(scene, 1, 2))
    monkeypatch.setattr(engine, "LARGEST_PROBS", 0)
    assert _calibration_rule(scene) is None
    assert "Calibration of 0 of 2 volumes: the probabilities of the others take over 1 GiB." in _notes(scene, 1, 0)


def test_folds_and_parts_have_one_calibration_rule(scene, monkeypatch):
    """A fold of large volumes alone is scored by the rules of the others."""
    smallest = min(row.size.width_px * row.size.height_px * row.depth_px for row in scene.manifest)
    monkeypatch.setattr(engine, "LARGEST_PROBS", 4 * 3 * smallest)
    parts = {part: replace(scene, part=part, data=replace(scene.data, rows=(), volumes=())) for part in ("val", "test")}
    assert {"1 GiB at the most" in str(_calibration_rule(one)) for one in parts.values()} == {True}


def test_probabilities_of_volumes_are_made_where_they_are_asked_for(scene):
    loaded = scene.loaded
    for asked in (False, True):
        found = on_original_grid(
            loaded.model, scene.data, 4, loaded.passes, loaded.ranks, lambda _, grid: grid.probs_KHW is not None, asked
        )
        assert [has for _, has in found] == [asked] * 2


@pytest.mark.parametrize("shape", [(30, 40), (6, 7, 8)])
@pytest.mark.parametrize("piece", [1, 60, 2**20])
def test_calibration_by_pieces_is_calibration_of_the_whole(scene, monkeypatch, shape, piece):
    monkeypatch.setattr(evaluation, "PIECE", piece)
    generator = np.random.default_rng(0)
    reference = generator.choice(np.array([0, 1, 2, 255], np.uint8), shape)
    probs = torch.from_numpy(generator.random((3, *shape), np.float32)).softmax(0)
    valid = torch.from_numpy(reference != 255)
    found = _calibration(probs, reference, scene)
    expected = count_calibration(probs[:, valid], torch.from_numpy(reference)[valid].long())
    assert all(torch.equal(getattr(found, name), value) for name, value in vars(expected).items())


def test_calibration_copies_no_volume(scene):
    reference, probs = np.ones((24, 300, 300), np.uint8), torch.full((3, 24, 300, 300), 1 / 3)
    assert reference.size > 2 * evaluation.PIECE
    with Largest() as largest:
        assert _calibration(probs, reference, scene).pixels_MB[-1].sum() == reference.size
    assert 0 < largest.elements <= 3 * evaluation.PIECE


def test_objects_of_volumes_have_no_average_precision(world):
    stored, table = evaluated(world, instances="components", calibration=False)
    assert set(stored["detection"]) == {"ball", "box"} and "mask_ap" not in stored["detection"]["ball"]
    assert "connected components" in stored["protocol"]["detection"]
    assert "COCO" not in table and "COCO" not in stored["protocol"]["detection"]


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (("x",), "mean of 2: the volume and its mirror image along x, in windows"),
        (("z", "x"), "mean of 4: the volume and its mirror images along x and z, in windows"),
        (("x", "y", "z"), "mean of 8: the volume and its mirror images along x, y and z, in windows"),
        ((), "single forward pass, in windows"),
    ],
)
def test_the_protocol_says_over_which_mirror_images_the_mean_is(scene, axes, told):
    config = scene.loaded.config
    changed = {
        "infer": config.infer.model_copy(update={"flip_tta": True}),
        "augment": config.augment.model_copy(update={"flip_axes": axes}),
    }
    mirrored = replace(scene, loaded=replace(scene.loaded, config=config.model_copy(update=changed)))
    assert _protocol(mirrored).test_time.startswith(told)
    assert _passes_told(scene) == "single forward pass"


def test_slices_have_no_mirror_image_across_themselves(scene):
    config = scene.loaded.config
    changed = {
        "infer": config.infer.model_copy(update={"flip_tta": True}),
        "augment": config.augment.model_copy(update={"flip_axes": ("x", "z")}),
        "sampling": config.sampling.model_copy(update={"patch_px": (16, 16)}),
    }
    mirrored = replace(scene, loaded=replace(scene.loaded, config=config.model_copy(update=changed)))
    assert _passes_told(mirrored) == "mean of 2: the volume and its mirror image along x"


def test_a_mean_over_no_mirror_images_is_refused(world, tmp_path):
    data_root, experiment, _ = world
    for overrides, message in [
        (
            ["augment.flip_axes=[]"],
            "infer.flip_tta: the mirror images of volumes are along augment.flip_axes, which names no axis; name one",
        ),
        (["augment.flip_axes=[z]", "sampling.patch_px=[16, 16]"], "which names no axis but z, across the slices; name one"),
    ]:
        with pytest.raises(ConfigError, match=message):
            api.train(experiment, ["infer.flip_tta=true", *overrides], data_root, tmp_path)


def test_memory_that_runs_out_is_one_error(world, monkeypatch):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        yield

    monkeypatch.setattr(evaluation, "on_original_grid", run_out)
    with pytest.raises(
        RunError, match="memory ran out, with infer.batch_size 8 and images of 8 x 16 x 16 pixels; lower infer.batch_size in"
    ):
        evaluated(world)
