"""The history of a row: told from the file, kept in the manifest, refused where it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import AnnotationError, ManifestError
from medseg.manifest.history import KEY, MOST_STEPS, History, is_prediction, predicted_by, provenance, read_history, shapes_digest
from medseg.manifest.importers.labelme import import_labelme, read_draft
from medseg.manifest.table import read_manifest, write_manifest
from medseg.outlines import Outline, labelme_content
from medseg.rasterise import Shape
from medseg.types import Size

from .conftest import save_json, save_picture

BOXES = [("tongue", 2, 2, 20, 15)]
SHAPES = (Shape("tongue", "polygon", ((2.0, 2.0), (20.0, 2.0), (20.0, 15.0), (2.0, 15.0))),)


def said(**changes: Any) -> dict[str, Any]:
    return {"history": ["predicted:r1"], "shapes_sha256": shapes_digest(SHAPES), "uncertainty": 0.5} | changes


def save(folder: Path, name: str, **changes: Any) -> Path:
    save_picture(folder / f"{name}.jpg")
    return save_json(folder / f"{name}.json", BOXES, **changes)


def test_without_predictions_a_manifest_has_no_such_column(tmp_path: Path) -> None:
    save(tmp_path / "src", "a")
    import_labelme(tmp_path / "src", tmp_path / "v1", classes=["tongue"])
    assert "history" not in (tmp_path / "v1/manifest.csv").read_text()


def test_drawn_rows_beside_predicted_ones_say_so(tmp_path: Path) -> None:
    save(tmp_path / "src", "a")
    save(tmp_path / "src", "b", **{KEY: said()})
    save_picture(tmp_path / "src/c.jpg")
    report = import_labelme(tmp_path / "src", tmp_path / "v1", classes=["tongue"])
    assert read_manifest(tmp_path / "v1").frame["history"].fillna("").tolist() == ["drawn", "predicted:r1", ""]
    assert any("1 row is a prediction that nobody has corrected or checked (b)" in note for note in report.notes)


@pytest.mark.parametrize("change", [
    {"label": "tongue "}, {"points": [[2.0, 2], [20, 2], [20, 15], [2, 15]]}, {"flags": {"x": True}, "description": "seen"},
])  # fmt: skip
def test_what_changes_no_pixel_is_no_correction(tmp_path: Path, change: dict[str, Any]) -> None:
    path = save(tmp_path, "a", **{KEY: said()})
    content = json.loads(path.read_text())
    content["shapes"][0] |= change
    path.write_text(json.dumps(content, indent=3))
    draft = read_draft(path)
    assert draft is not None and draft.steps == ("predicted:r1",)


@pytest.mark.parametrize("change", [
    {"label": "coating"}, {"points": [[2, 2.01], [20, 2], [20, 15], [2, 15]]}, {"shape_type": "linestrip"}, {"group_id": 1},
])  # fmt: skip
def test_any_change_of_a_shape_is_a_correction(tmp_path: Path, change: dict[str, Any]) -> None:
    path = save(tmp_path, "a", **{KEY: said()}, flags={"checked": True})
    content = json.loads(path.read_text())
    content["shapes"][0] |= change
    path.write_text(json.dumps(content))
    draft = read_draft(path)
    assert draft is not None and draft.steps == ("predicted:r1", "corrected"), "also where it is ticked as checked"
    content["shapes"] = []
    path.write_text(json.dumps(content))
    emptied = read_draft(path)
    assert emptied is not None and emptied.steps[-1] == "corrected"


def test_a_flag_of_that_name_in_a_drawn_file_stays_a_flag(tmp_path: Path) -> None:
    drawn = read_draft(save(tmp_path, "a", flags={"checked": True}))
    assert drawn is not None and drawn.flags == {"checked": True} and drawn.steps == ("drawn",)


@pytest.mark.parametrize("content, match", [
    (7, "'medseg' is not what `medseg annotate` writes there"),
    ({"history": ["predicted:r"]}, "is not what `medseg annotate` writes there"),
    (said(history=[]), "must be steps up to a prediction"),
    (said(history="predicted:r"), "must be steps up to a prediction"),
    (said(history=["drawn"]), "must be steps up to a prediction"),
    (said(history=["predicted:a>corrected", "predicted:r"]), "must be steps up to a prediction"),
    (said(history=["predicted:a b"]), "must be steps up to a prediction"),
    (said(history=["predicted:r"] * 1000), "must be steps up to a prediction"),
    (said(history=[["predicted:r"]]), "must be steps up to a prediction"),
    (said(shapes_sha256=7), "must be steps up to a prediction"),
    (said(sample="../a"), "the sample '../a' in 'medseg' cannot name a row"),
    (said(sample="/a"), "cannot name a row"),
    (said(sample=""), "cannot name a row"),
    (said(sample=7), "cannot name a row"),
    (said(sample="a\nb"), "cannot name a row"),
])  # fmt: skip
def test_a_key_that_annotate_did_not_write_is_refused(tmp_path: Path, content: Any, match: str) -> None:
    with pytest.raises(AnnotationError, match=match) as caught:
        read_history({KEY: content}, tmp_path / "a.json")
    assert "or remove 'medseg' from the file, which then counts as drawn" in caught.value.fix
    assert read_history({"shapes": []}, tmp_path / "a.json") is None


FOUND = [
    Outline("tongue", ((2.5, 2.5), (20.5, 2.5), (20.5, 15.25)), 0.5),
    Outline("tongue", ((25.5, 10.5), (28.5, 10.5), (28.5, 13.5)), 0.25),
]


def save_predicted(path: Path, image_path: str, **more: Any) -> None:
    """As the page of `medseg serve` saves it, under any name that the browser gives it."""
    content = labelme_content(FOUND, image_path, Size(20, 30), provenance(FOUND, "r 1", "ab" * 32, 0.25, **more))
    path.write_text(json.dumps(content))


def test_what_is_written_of_a_prediction() -> None:
    said = provenance(FOUND, "r 1", "ab" * 32, 1 / 3, ("drawn",), "x/a")
    digest = said[KEY].pop("shapes_sha256")
    assert said == {
        "flags": {"checked": False},
        KEY: {
            "history": ["drawn", "predicted:r_1"], "run": "r 1", "weights_sha256": "ab" * 32, "uncertainty": 0.333333,
            "tolerance_px": {"tongue": 0.25}, "sample": "x/a",
        },
    }  # fmt: skip
    assert len(digest) == 64 and "sample" not in provenance(FOUND, "r", "", 0)[KEY]
    assert len(provenance(FOUND, "r", "", 0, ["drawn"] * MOST_STEPS)[KEY]["history"]) == MOST_STEPS


def test_a_prediction_saved_without_sample_is_named_by_its_photograph_and_is_no_drawing(tmp_path: Path) -> None:
    save_picture(tmp_path / "src/in/a.jpg")
    save_predicted(tmp_path / "src/in/a (1).json", "a.jpg")
    with pytest.raises(AnnotationError, match="each of its 1 annotation is a prediction"):
        import_labelme(tmp_path / "src", tmp_path / "v1", classes=["tongue"], only_corrected=True)
    import_labelme(tmp_path / "src", tmp_path / "v1", classes=["tongue"])
    frame = read_manifest(tmp_path / "v1").frame
    assert frame[["sample_id", "history"]].to_numpy().tolist() == [["in/a", "predicted:r_1"]]


@pytest.mark.parametrize("image_path, match", [("../a.jpg", "leaves"), ("{}/a.jpg", "leaves"), ("", "names no file, none lies beside")])
def test_a_prediction_without_sample_leads_to_no_photograph_outside_the_source(tmp_path: Path, image_path: str, match: str) -> None:
    (tmp_path / "src").mkdir()
    save_picture(tmp_path / "a.jpg")
    save_predicted(tmp_path / "src/b.json", image_path.format(tmp_path))
    with pytest.raises(AnnotationError, match=match):
        import_labelme(tmp_path / "src", tmp_path / "v1", classes=["tongue"])
    assert not (tmp_path / "v1").exists()


def test_one_sample_of_two_files_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / "src", name, **{KEY: said(sample="x")})
    with pytest.raises(AnnotationError, match="x"):
        import_labelme(tmp_path / "src", tmp_path / "v1", classes=["tongue"])
    assert not (tmp_path / "v1").exists()


def test_the_column_is_checked(tmp_path: Path) -> None:
    save(tmp_path / "src", "a", **{KEY: said()})
    import_labelme(tmp_path / "src", tmp_path / "v1", classes=["tongue"])
    table, manifest = tmp_path / "v1/manifest.csv", read_manifest(tmp_path / "v1")
    text = table.read_text()
    for cell in ("predicted:", "corrected>", "guessed", "drawn>>corrected", "predicted:a b"):
        table.write_text(text.replace("predicted:r1", cell))
        with pytest.raises(ManifestError, match="history must be blank, or of a row with a mask steps such as drawn"):
            read_manifest(tmp_path / "v1")
    table.write_text(text.replace("predicted:r1", ""))
    assert read_manifest(tmp_path / "v1").frame["history"].isna().all()
    written = write_manifest(tmp_path / "other", manifest.frame, manifest.dataset)
    assert written.frame["history"].tolist() == ["predicted:r1"]


def test_steps() -> None:
    assert predicted_by("m-e s/0") == "predicted:m-e_s_0" and predicted_by("") == "predicted:unknown"
    assert History(None, ("predicted:r",), shapes_digest(SHAPES)).now(SHAPES, {"checked": True}) == ("predicted:r", "checked")
    assert is_prediction("drawn>predicted:r") and not is_prediction("predicted:r>checked") and not is_prediction("")
