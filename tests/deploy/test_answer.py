"""One photograph answered: a mask in base64, areas that add up; what is no image is told."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medseg.deploy.answer import MAX_IMAGE_BYTES, answer
from medseg.deploy.model import Model, open_export
from medseg.errors import ImageError
from tests.exports import photograph, write_export


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_export(write_export(tmp_path_factory.mktemp("answer") / "export"), "onnxruntime")


def encoded(image_HWC: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, "PNG")
    return stream.getvalue()


def test_areas_are_counted_on_the_photographs_own_pixels(model):
    image = photograph(120, 80)
    found = answer(model, encoded(image), "x.png", 0.5)
    mask = Image.open(io.BytesIO(base64.b64decode(found.mask_png)))
    assert mask.mode == "P" and mask.size == (found.width_px, found.height_px) == (80, 120)
    assert (np.asarray(mask) == model.segment(image).mask_HW).all()
    assert found.pixels == {name: int((np.asarray(mask) == place).sum()) for place, name in enumerate(model.labels.names)}
    assert found.percent["green"] == pytest.approx(100 * found.pixels["green"] / 9600)
    assert found.area_mm2 == {name: count / 4 for name, count in found.pixels.items()}
    assert 0.9 < found.confidence <= 1 and found.uncertainty < 0.1


def test_the_mask_has_the_colours_that_the_export_states(tmp_path):
    colours = {"background": (9, 9, 9), "green": (1, 2, 3)}  # none of blue, which keeps that of the labels
    stated = open_export(write_export(tmp_path / "export", colours=colours), "onnxruntime")
    mask = Image.open(io.BytesIO(base64.b64decode(answer(stated, encoded(photograph(40, 40)), "x").mask_png)))
    assert mask.getpalette()[:9] == [9, 9, 9, 1, 2, 3, *stated.labels.colour_of("blue")]


def test_bytes_and_text_are_answered_alike(model):
    content = encoded(photograph(50, 60))
    text = base64.encodebytes(content).decode()  # with line breaks
    assert answer(model, text, "x") == answer(model, content, "x") == answer(model, bytearray(content), "x")
    assert answer(model, text.encode(), "x") == answer(model, content, "x")
    assert answer(model, content, "x").area_mm2 is answer(model, content, "x", float("nan")).area_mm2 is None


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        (7, "x: is int, no image"),
        ("%%%", "x: is text, but no base64"),
        ("é", "x: is text, but no base64"),
        (b"", "x: "),
        (bytes(MAX_IMAGE_BYTES + 1), "x: has more than 64 MB"),
        ("A" * (MAX_IMAGE_BYTES * 4 // 3 + 4), "x: has more than 64 MB"),
    ],
    ids=["a number", "no base64", "no ASCII", "empty", "too long", "too long as text"],
)
def test_what_is_no_image(model, image, rule):
    with pytest.raises(ImageError, match=rule):
        answer(model, image, "x")


@pytest.mark.parametrize("spacing_mm", [0.0, -1.0, float("inf")])
def test_a_spacing_that_is_none(model, spacing_mm):
    with pytest.raises(ImageError, match="its spacing_mm is .*millimetres"):
        answer(model, encoded(photograph(20, 20)), "x", spacing_mm)
