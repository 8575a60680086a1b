"""What an answer tells, of every kind, against the model asked directly."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from medseg.deploy.description import Frame
from medseg.deploy.model import Model
from medseg.images import read_image_bytes
from medseg.labels import LabelSet
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.table import read_manifest
from medseg.rasterise import Shape, draw
from medseg.types import Size
from tests.serving.exports import CLASSES, RED, photograph
from tests.serving.server import Running, encoded, running

PHOTOGRAPH = photograph(7, (80, 120))


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_mask_is_the_models_own_on_the_photographs_pixels(server: Running, model: Model) -> None:
    found = server.send(encoded(PHOTOGRAPH), "?result=mask")
    assert (found.status, found.headers["content-type"]) == (200, "image/png")
    expected = model.segment(PHOTOGRAPH).mask_HW
    assert set(np.unique(expected)) == {0, 1, 2}
    np.testing.assert_array_equal(pixels(found.body), expected)
    assert Image.open(io.BytesIO(found.body)).getpalette()[3:6] == [255, 0, 0]  # the export's colour, not the one of the hue wheel


def test_json_counts_what_the_mask_shows(server: Running, model: Model) -> None:
    expected = model.segment(PHOTOGRAPH)
    found = server.send(encoded(PHOTOGRAPH), "?spacing_mm=0.5").json
    assert (found["width_px"], found["height_px"]) == (120, 80)
    disc, square, both = found["classes"]
    assert (disc["id"], disc["name"], disc["colour"]) == (1, "disc", "#ff0000")
    of_disc = expected.mask_HW == 1
    assert disc["pixels"] == of_disc.sum() and disc["percent"] == pytest.approx(100 * of_disc.mean())
    assert disc["area_mm2"] == pytest.approx(of_disc.sum() / 4)
    assert disc["confidence"] == pytest.approx(expected.confidence_HW[of_disc].mean(), abs=1e-5)
    assert (both["id"], both["name"], both["pixels"]) == (None, "both", disc["pixels"] + square["pixels"])
    assert found["uncertainty"] == pytest.approx(expected.uncertainty)
    np.testing.assert_array_equal(pixels(base64.b64decode(found["mask_png"])), expected.mask_HW)
    assert found["model"]["run"] == "tiny-run" and found["model"]["backend"] == "onnxruntime"
    assert set(found["milliseconds"]) == {"waited", "decoding", "network", "answering"} and min(found["milliseconds"].values()) >= 0


def test_a_class_that_is_not_there_is_told_with_nothing(server: Running) -> None:
    found = server.send(encoded(np.zeros((30, 40, 3), np.uint8))).json
    assert [each["pixels"] for each in found["classes"]] == [0, 0, 0]
    assert {each["confidence"] for each in found["classes"]} == {None} == {each["area_mm2"] for each in found["classes"]}


def test_confidence_is_the_probability_of_the_class_that_is_shown(server: Running, model: Model) -> None:
    found = pixels(server.send(encoded(PHOTOGRAPH), "?result=confidence").body)
    np.testing.assert_allclose(found / 255, model.segment(PHOTOGRAPH).confidence_HW, atol=0.5 / 255 + 1e-6)


def test_the_overlay_is_the_photograph_with_its_classes_in_colour(server: Running) -> None:
    found = server.send(encoded(PHOTOGRAPH), "?result=overlay")
    assert found.headers["content-type"] == "image/jpeg"
    shown = pixels(found.body).astype(int)
    assert shown.shape == PHOTOGRAPH.shape
    np.testing.assert_allclose(shown[:10], PHOTOGRAPH[:10], atol=12)  # background, as it was
    row, column = np.argwhere(PHOTOGRAPH[..., 1] == 220)[40]
    assert shown[row, column, 1] < 200  # the square's green is a darker one


def test_the_labelme_file_paints_the_mask_back(server: Running, model: Model, labels: LabelSet) -> None:
    found = server.send(encoded(PHOTOGRAPH), "?result=labelme").json
    assert (found["imagePath"], found["imageData"], found["imageHeight"], found["imageWidth"]) == ("image", None, 80, 120)
    drawn = [Shape(each["label"], "polygon", tuple(map(tuple, each["points"]))) for each in found["shapes"]]
    shapes = [(shape, model.labels.id_of(shape.label)) for shape in drawn]
    mask_HW, expected = draw(shapes, Size(80, 120)), model.segment(PHOTOGRAPH).mask_HW
    assert (mask_HW == expected).mean() > 0.99 and set(np.unique(mask_HW)) == {0, 1, 2}


def test_a_mask_like_noise_is_answered_but_not_outlined(model: Model) -> None:
    """Its outlines would take minutes of a thread: about a millisecond a piece."""
    dotted = np.zeros((96, 128, 3), np.uint8)
    dotted[::2, ::2] = RED  # 48 * 64 pieces, and the background around them
    description = model.description.model_copy(update={"frame": Frame(height_px=96, width_px=128)})
    with running(Model(description, model.network, None)) as server:
        refused, mask = server.send(encoded(dotted), "?result=labelme"), server.send(encoded(dotted), "?result=mask")
    assert (refused.status, refused.code) == (422, "too_many_pieces") and "3073" in refused.json["error"]["rule"]
    assert mask.status == 200 and (pixels(mask.body) > 0).sum() == 48 * 64


@pytest.mark.parametrize("result", ["json", "mask", "overlay", "confidence", "labelme"])
def test_every_answer_names_what_made_it(server: Running, result: str) -> None:
    found = server.send(encoded(PHOTOGRAPH), f"?result={result}")
    assert found.headers["medseg-model"] == f"run=tiny-run; backend=onnxruntime; weights_sha256={'0' * 64}"


def test_a_run_of_any_name_is_named_in_a_header(model: Model) -> None:
    name = "Zunge; 舌\r\nSet-Cookie: a"
    description = model.description.model_copy(update={"origin": model.description.origin.model_copy(update={"run": name})})
    with running(Model(description, model.network, None)) as server:
        found = server.send(encoded(PHOTOGRAPH), "?result=mask")
    said = dict(each.split("=") for each in found.headers["medseg-model"].split("; "))
    assert unquote(said["run"]) == name and said["backend"] == "onnxruntime" and "set-cookie" not in found.headers


@pytest.mark.parametrize(("change", "expected"), [({}, "predicted:tiny-run"), ({"checked": True}, "predicted:tiny-run>checked")])
def test_an_import_tells_a_saved_labelme_file_from_a_drawn_one(
    server: Running, tmp_path: Path, change: dict[str, bool], expected: str
) -> None:
    src = tmp_path / "src"
    src.mkdir()
    (src / "x.png").write_bytes(encoded(PHOTOGRAPH))
    content = server.send(encoded(PHOTOGRAPH), "?result=labelme").json
    (src / "x.json").write_text(json.dumps(content | {"imagePath": "x.png", "flags": content["flags"] | change}))  # as the page saves it
    import_labelme(src, tmp_path / "v1", classes=CLASSES)
    found = read_manifest(tmp_path / "v1").frame
    assert list(found["history"]) == [expected]


def test_a_saved_labelme_file_that_nobody_has_corrected_can_be_left_unlabelled(server: Running, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for name in ("x", "y"):
        (src / f"{name}.png").write_bytes(encoded(PHOTOGRAPH))
        content = server.send(encoded(PHOTOGRAPH), "?result=labelme").json | {"imagePath": f"{name}.png"}
        content["shapes"] = content["shapes"][: 1 if name == "y" else None]  # of y, all but one were taken away
        (src / f"{name}.json").write_text(json.dumps(content))
    report = import_labelme(src, tmp_path / "v1", classes=CLASSES, only_corrected=True)
    found = read_manifest(tmp_path / "v1").frame.set_index("sample_id")["history"].fillna("").to_dict()
    assert (report.imported, report.unlabelled) == (1, 1) and found == {"x": "", "y": "predicted:tiny-run>corrected"}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_photograph_is_answered_upright(server: Running, model: Model, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(PHOTOGRAPH, "JPEG", quality=95, exif=exif)
    upright = read_image_bytes(content, "test")
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    assert upright.shape == np.rot90(PHOTOGRAPH, turns).shape
    np.testing.assert_array_equal(pixels(server.send(content, "?result=mask").body), model.segment(upright).mask_HW)


def test_the_model_tells_itself(server: Running) -> None:
    found = server.get("/v1/model").json
    assert [each["name"] for each in found["classes"]] == ["disc", "square"] and [each["name"] for each in found["regions"]] == ["both"]
    assert found["card"] == "# Tiny\n" and found["protocol"] == "None." and found["backend"] == "onnxruntime"
    assert found["limits"] == {"bytes": 20_000_000, "pixels": 50_000_000, "seconds": 30.0}
    assert found["origin"]["run"] == "tiny-run" and found["frame"]["height_px"] == 48
