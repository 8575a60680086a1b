"""A model whose right answer is known, in ONNX Runtime and OpenVINO; what is not whole is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from medseg.deploy.description import read_description
from medseg.deploy.model import Model, open_export, uncertainty
from medseg.deploy.networks import Network
from medseg.engine.infer import Passes, predict_image, predict_probs
from medseg.errors import ExportError
from medseg.labels import LabelSet
from medseg.types import Prediction, Size
from tests.exports import STEEP, colours, photograph, write_export

BACKENDS = ["onnxruntime", "openvino"]


def truth(image_HWC: np.ndarray) -> np.ndarray:
    return image_HWC.argmax(axis=2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(48, 64), (400, 400), (31, 90), (700, 500)], ids=str)
def test_a_photograph_of_any_size_comes_back_on_its_own_pixels(tmp_path, backend, size):
    model, image = open_export(write_export(tmp_path / "export"), backend), photograph(*size)
    found = model.segment(image)
    assert found.mask_HW.shape == size and found.mask_HW.dtype == np.uint8 and found.confidence_HW.dtype == np.float32
    assert (found.mask_HW == truth(image)).mean() > 0.97  # but for the blocks' borders, which the frame cannot hold exactly
    assert found.confidence_HW.min() >= 1 / 3 - 1e-6 and found.confidence_HW.max() <= 1 + 1e-6
    assert model.network.backend == backend


def test_one_at_a_time_and_together_are_the_same(tmp_path):
    model = open_export(write_export(tmp_path / "export"))
    images = [photograph(50 + 7 * place, 90 - 5 * place, place) for place in range(5)]
    for one, image in zip(model.segment_all(images), images, strict=True):
        assert (one.mask_HW == model.segment(image).mask_HW).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_do_not_mix_up_their_images(tmp_path, backend):
    model = open_export(write_export(tmp_path / "export"), backend, at_once=2)
    images = [photograph(60 + place % 5, 80, place) for place in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model.segment, images))
    for one, image in zip(found, images, strict=True):
        assert one.mask_HW.shape == image.shape[:2] and (one.mask_HW == truth(image)).mean() > 0.97


OPENED_AND_CLOSED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from medseg.deploy.model import open_export

models = [open_export(Path(sys.argv[1])) for _ in range(2)]
for model in models:
    model.segment(np.zeros((48, 64, 3), np.uint8))
while models:
    models.pop(0)
del model
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_models_have_come_and_gone_ends_nothing_but_what_it_should(tmp_path):
    """OpenVINO's Cores left the process a stack for signal handlers that was gone: a server stopped by systemd died of SIGSEGV instead."""
    export = write_export(tmp_path / "export")
    assert subprocess.run([sys.executable, "-c", OPENED_AND_CLOSED, str(export)], check=False).returncode == 7


class Colours(nn.Module):
    """The same network in torch."""

    def forward(self, image_BCHW):
        probs = torch.softmax(STEEP * image_BCHW, dim=1)
        return Prediction(probs, probs.argmax(1))


@pytest.mark.parametrize("window", [None, (24, 32)], ids=["whole", "windows"])
@pytest.mark.parametrize("mirrored", [False, True], ids=["once", "mirrored"])
def test_it_answers_as_the_run_is_evaluated(tmp_path, window, mirrored):
    labels = LabelSet.of("left", "right", left_right_pairs=[["left", "right"]])
    export = write_export(tmp_path / "export", labels, frame={"window_px": window, "overlap": 0.25, "mirrored_too": mirrored})
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    model, passes = open_export(export), Passes(labels if mirrored else None, window, 0.25)
    frame = model.place(noise)[0][None]
    wanted = predict_probs(Colours().eval(), torch.from_numpy(frame).float() / 255, passes).numpy()
    assert np.abs(model.probs(frame) - wanted).max() < 1e-6
    if not mirrored:  # then left and right are equally probable everywhere, and rounding decides
        mask = predict_image(Colours().eval(), noise, Size(48, 64), torch.device("cpu"), passes)
        assert (model.segment(noise).mask_HW == mask).mean() > 0.9999


def test_steps_are_done_and_the_confidence_is_of_what_is_shown(tmp_path):
    image = photograph(48, 64)
    image[2:4, 2:4] = (0, 220, 0)  # a speck
    plain = open_export(write_export(tmp_path / "plain")).segment(image)
    changed = open_export(write_export(tmp_path / "steps", steps=({"name": "green", "kind": "largest"},))).segment(image)
    assert (plain.mask_HW[2:4, 2:4] == 1).all() and (changed.mask_HW[2:4, 2:4] == 0).all()
    assert plain.confidence_HW[2, 2] > 0.9 and changed.confidence_HW[2, 2] < 0.1
    elsewhere = plain.mask_HW == changed.mask_HW
    assert (plain.confidence_HW[elsewhere] == changed.confidence_HW[elsewhere]).all()


def test_uncertainty_rises_as_probabilities_soften(tmp_path):
    image = photograph(100, 120)
    sure, unsure = (
        open_export(write_export(tmp_path / str(steep), layer=colours(steep))).segment(image).uncertainty for steep in (50.0, 2.0)
    )
    assert 0 <= sure < 0.02 < 0.2 < unsure <= 1
    assert uncertainty(np.stack([np.ones((9, 9)), np.zeros((9, 9))]).astype(np.float32)) == 0


class OneAtATime(Network):
    """A graph whose batch is not free."""

    backend = "one"

    def __init__(self, network):
        self.network = network

    def probs(self, image_BCHW):
        assert len(image_BCHW) == 1
        return self.network.probs(image_BCHW)


@pytest.mark.parametrize("window", [None, (24, 32)], ids=["whole", "windows"])
def test_a_graph_that_takes_one_image_gets_one_at_a_time(tmp_path, window):
    free = open_export(write_export(tmp_path / "export", frame={"mirrored_too": True, "window_px": window}))
    fixed = {"onnx": free.description.graphs["onnx"].model_copy(update={"varying": ("height", "width")})}
    one = Model(free.description.model_copy(update={"graphs": fixed}), OneAtATime(free.network))
    images = [photograph(50 + place, 60, place) for place in range(3)]
    for found, wanted in zip(one.segment_all(images), free.segment_all(images), strict=True):
        assert (found.mask_HW == wanted.mask_HW).all()


def test_a_graph_beside_another_description_is_refused(tmp_path):
    export = write_export(tmp_path / "export", LabelSet.of("green"))  # the graph gives three classes
    with pytest.raises(ExportError, match=r"gives probabilities of \(1, 3, 48, 64\), and model.json says \(1, 2, 48, 64\)"):
        open_export(export)


def test_what_is_not_whole_is_refused(tmp_path):
    export = write_export(tmp_path / "export")
    with pytest.raises(ExportError, match="holds no model.json"):
        open_export(tmp_path)
    content = json.loads((export / "model.json").read_text())
    for change, match in (
        ({"format": 2}, "format"),
        ({"graphs": {"onnx": {**content["graphs"]["onnx"], "file": "../model.onnx"}}}, "file"),
        ({"frame": {**content["frame"], "height_px": 100_000}}, "height_px"),
        ({"steps": [{"name": "purple", "kind": "largest", "least": 0, "unit": "px"}]}, "purple"),
        ({"more": 1}, "more"),
    ):
        (export / "model.json").write_text(json.dumps(content | change))
        with pytest.raises(ExportError, match=match):
            read_description(export)
    (export / "model.json").write_text(json.dumps(content | {"graphs": {}}))
    with pytest.raises(ExportError, match="holds no onnx graph"):
        open_export(export)


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_graph_or_none_is_refused(tmp_path, backend):
    export = write_export(tmp_path / "export")
    graph = (export / "model.onnx").read_bytes()
    (export / "model.onnx").write_bytes(graph[:-10])
    with pytest.raises(ExportError, match="another SHA-256"):
        open_export(export, backend)
    (export / "model.onnx").unlink()
    with pytest.raises(ExportError, match="no such file"):
        open_export(export, backend)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    from medseg.deploy.networks import open_network

    with pytest.raises(ExportError, match="no graph that can be run"):
        open_network(broken, backend)
