"""The loop: predicted outlines as labelme files, corrected as labelme would, imported again with the history of each row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from medseg import images
from medseg.annotating import ORDER, annotate
from medseg.cli import app
from medseg.deploy.model import open_export
from medseg.errors import AnnotationError, ConfigError, ImageError
from medseg.manifest.history import scored_predictions
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.schema import Manifest
from medseg.manifest.split import make_split
from medseg.manifest.table import read_manifest
from medseg.outlines import ious
from medseg.watching import Progress
from tests.exports import photograph, write_export

NAMES = ("a", "inner/b", "inner/c", "d")


def save_jpeg(path: Path, image_HWC: np.ndarray, **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.Image.fromarray(image_HWC).save(path, quality=95, **how)  # type: ignore[arg-type]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """a to d of several sizes; of d, turned by EXIF, the classes are hard to tell: it is the most uncertain."""
    for seed, name in enumerate(NAMES):
        image = photograph(70 + 5 * seed, 90 - 4 * seed, seed)
        exif = images.Image.Exif()
        if name == "d":
            image, exif[0x0112] = image // 3 + 60, 6
        save_jpeg(tmp_path / "photos" / f"{name}.jpg", image, exif=exif)
    return tmp_path / "photos"


def resaved(path: Path, edit: bool = False, flags: dict[str, bool] | None = None) -> None:
    """As labelme saves: its own keys first, further ones kept behind, points as pairs, the image not embedded."""
    content: dict[str, Any] = json.loads(path.read_text())
    kept = {key: value for key, value in content.items() if key == "medseg"}
    if edit:
        content["shapes"][0]["points"][0][0] += 2.25
    own = {key: content[key] for key in ("flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth")}
    path.write_text(json.dumps({"version": "6.3.1", **own, "flags": flags or content["flags"], **kept}, ensure_ascii=False, indent=2))


def history(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.frame["sample_id"], manifest.frame["history"].fillna(""), strict=True))


def file_of(out: Path, stem: str) -> Path:
    return next(out.glob(f"*_{stem}.json"))


def test_the_whole_loop(export: Path, photographs: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    done = annotate(export, [photographs], tmp_path / "out", progress=Progress(on_case=lambda *step: steps.append(step)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [one.file.name for one in done][0] == "0001_d.json" and done[0].uncertainty > done[1].uncertainty
    for path in (tmp_path / "out").glob("*.json"):
        resaved(path)
    resaved(file_of(tmp_path / "out", "b"), edit=True)
    resaved(file_of(tmp_path / "out", "c"), flags={"checked": True})
    report = import_labelme(tmp_path / "out", tmp_path / "v2", classes=["green", "blue"])
    manifest = read_manifest(tmp_path / "v2")
    predicted = "predicted:colours-s0"
    assert history(manifest) == {"a": predicted, "d": predicted, "inner/b": f"{predicted}>corrected", "inner/c": f"{predicted}>checked"}
    assert any(note.startswith("2 rows are predictions that nobody has corrected or checked (a, d)") for note in report.notes)
    assert not [name for name in manifest.frame if name.startswith("flag_")], "the tick is a step, no column"
    model = open_export(export)
    for row in manifest:
        mask_HW = images.read_mask(manifest.mask_path(row, tmp_path / "out"))
        wanted_HW = model.segment(images.read_image(photographs / f"{row.sample_id}.jpg")).mask_HW
        assert mask_HW.shape == wanted_HW.shape and wanted_HW.any()
        found = ious(wanted_HW, mask_HW)
        assert (min(found.values()) >= 0.99) == (row.sample_id != "inner/b"), "only what was edited is another"


def test_a_second_round_keeps_the_steps_of_the_first(export: Path, photographs: Path, tmp_path: Path) -> None:
    annotate(export, [photographs], tmp_path / "one")
    resaved(file_of(tmp_path / "one", "a"), edit=True)
    drawn = json.loads(file_of(tmp_path / "one", "d").read_text())
    drawn.pop("medseg")
    file_of(tmp_path / "one", "d").write_text(json.dumps(drawn))
    annotate(export, [tmp_path / "one"], tmp_path / "two")
    resaved(file_of(tmp_path / "two", "a"), edit=True)
    import_labelme(tmp_path / "two", tmp_path / "v3", classes=["green", "blue"])
    found, predicted = history(read_manifest(tmp_path / "v3")), "predicted:colours-s0"
    assert found["a"] == f"{predicted}>corrected>{predicted}>corrected"
    assert found["inner/b"] == f"{predicted}>{predicted}", "and its name is still that of the photograph"
    assert found["0001_d"] == f"drawn>{predicted}", "the file that lost its key counts as drawn, by its own name"


def test_the_files_are_for_labelme(export: Path, photographs: Path, tmp_path: Path) -> None:
    done = annotate(export, [photographs], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [ORDER, *(f"{rank:04d}_{one.file.stem[5:]}{suffix}" for rank, one in enumerate(done, 1) for suffix in (".json", ".jpg"))]
    )
    first = json.loads(done[0].file.read_text())
    assert first["imagePath"] == "0001_d.jpg" and first["imageData"] is None and first["flags"] == {"checked": False}
    assert (first["imageHeight"], first["imageWidth"]) == images.read_image(photographs / "d.jpg").shape[:2] == (78, 85), "upright"
    assert done[0].copied is not None and done[0].copied.read_bytes() == (photographs / "d.jpg").read_bytes()
    assert first["medseg"]["run"] == "colours-s0" and set(first["medseg"]["tolerance_px"]) <= {"green", "blue"}
    with (tmp_path / "out" / ORDER).open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"] and rows[0]["photograph"] == str(photographs / "d.jpg")
    assert [float(row["uncertainty"]) for row in rows] == sorted((float(row["uncertainty"]) for row in rows), reverse=True)
    assert all(int(row["px_green"]) > 0 for row in rows[1:])


def test_without_copies_the_files_point_to_the_photographs(export: Path, photographs: Path, tmp_path: Path) -> None:
    annotate(export, [photographs], tmp_path / "round", copy=False)
    assert sorted(path.name for path in (tmp_path / "round").iterdir()) == ["a.json", "b.json", "c.json", "d.json", ORDER]
    assert json.loads((tmp_path / "round/b.json").read_text())["imagePath"] == "../photos/inner/b.jpg"
    report = import_labelme(tmp_path, tmp_path / "manifest", classes=["green", "blue"])
    manifest = read_manifest(tmp_path / "manifest")
    assert (report.imported, report.unlabelled) == (4, 0)
    assert list(manifest.frame["sample_id"]) == [f"photos/{name}" for name in sorted(NAMES)], "named by the photograph, not the JSON"


def test_only_corrected_leaves_the_rest_unlabelled(export: Path, photographs: Path, tmp_path: Path) -> None:
    annotate(export, [photographs], tmp_path / "out")
    with pytest.raises(AnnotationError, match="each of its 4 annotations is a prediction that nobody has corrected or checked"):
        import_labelme(tmp_path / "out", tmp_path / "v2", classes=["green", "blue"], only_corrected=True)
    resaved(file_of(tmp_path / "out", "a"), edit=True)
    report = import_labelme(tmp_path / "out", tmp_path / "v2", classes=["green", "blue"], only_corrected=True)
    assert (report.imported, report.unlabelled) == (1, 3) and not any("nobody" in note for note in report.notes)
    found = history(read_manifest(tmp_path / "v2"))
    assert found == {"a": "predicted:colours-s0>corrected", "d": "", "inner/b": "", "inner/c": ""}
    assert json.loads((tmp_path / "v2/import.json").read_text())["only_corrected"] is True


def test_a_split_that_scores_by_predictions_is_warned_of(export: Path, photographs: Path, tmp_path: Path) -> None:
    annotate(export, [photographs], tmp_path / "out")
    for stem in "ab":
        resaved(file_of(tmp_path / "out", stem), flags={"checked": True})
    import_labelme(tmp_path / "out", tmp_path / "v2", classes=["green", "blue"])
    manifest = read_manifest(tmp_path / "v2")
    split = make_split(manifest, "main", (0.5, 0.25, 0.25))
    alone = {part: [sample for sample in split.ids(part) if sample in ("inner/c", "d")] for part in ("val", "test")}
    said = scored_predictions(manifest, split)
    assert [line.split(" are ")[0] for line in said] == [f"1 of the masks in {part} ({ids[0]})" for part, ids in alone.items() if ids]
    everyone = split.frame.assign(split="train")
    assert not scored_predictions(manifest, type(split)("x", split.path, everyone, "0")), "training on them was told by the import"


def test_what_a_person_has_made_is_not_overwritten(export: Path, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    annotate(export, [photographs], out)
    with pytest.raises(AnnotationError, match="holds 9 files already; choose another --out, or allow it with --overwrite"):
        annotate(export, [photographs], out)
    annotate(export, [photographs / "a.jpg"], out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["0001_a.jpg", "0001_a.json", ORDER], "nothing of the earlier round is left"
    (out / "notes.txt").write_text("x")
    with pytest.raises(AnnotationError, match="notes.txt: was not written by an earlier annotate"):
        annotate(export, [photographs], out, overwrite=True)
    (out / "notes.txt").unlink()
    resaved(out / "0001_a.json", edit=True)
    with pytest.raises(AnnotationError, match="0001_a.json: has been corrected or checked since it was written"):
        annotate(export, [photographs], out, overwrite=True)


@pytest.mark.parametrize("meanwhile", ["corrected", "added"])
def test_what_a_person_makes_while_it_predicts_is_not_overwritten(export: Path, photographs: Path, tmp_path: Path, meanwhile: str) -> None:
    out = tmp_path / "out"
    annotate(export, [photographs / "a.jpg"], out)

    def meddle(done: int, total: int) -> None:
        resaved(out / "0001_a.json", edit=True) if meanwhile == "corrected" else (out / "notes.txt").write_text("x")

    before = (out / "0001_a.json").read_bytes()
    with pytest.raises(AnnotationError, match="has been corrected or checked" if meanwhile == "corrected" else "notes.txt"):
        annotate(export, [photographs / "a.jpg"], out, overwrite=True, progress=Progress(on_case=meddle))
    assert ((out / "0001_a.json").read_bytes() != before) == (meanwhile == "corrected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "out", "photos"], "nothing half done is left"


def test_all_or_nothing(export: Path, photographs: Path, tmp_path: Path) -> None:
    whole = (photographs / "d.jpg").read_bytes()
    (photographs / "d.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"d\.jpg"):
        annotate(export, [photographs], tmp_path / "out")
    assert not (tmp_path / "out").exists()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(export, [photographs / "a.jpg"], tmp_path / "out", progress=Progress(on_case=stop))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "photos"]


def test_names_that_clash_and_tolerances_that_are_none(export: Path, photographs: Path, tmp_path: Path) -> None:
    save_jpeg(photographs / "inner/a.jpg", photograph(40, 40))
    with pytest.raises(ImageError, match="would both be called a; annotate them into two folders, or let them be copied"):
        annotate(export, [photographs], tmp_path / "out", copy=False)
    with pytest.raises(ImageError, match="would both be called a; annotate them into two folders"):
        annotate(export, [photographs / "a.jpg", photographs / "inner/a.jpg"], tmp_path / "out")
    for tolerance_px in (-1, float("nan"), 51):
        with pytest.raises(ConfigError, match="is not from 0 to 50"):
            annotate(export, [photographs], tmp_path / "out", tolerance_px)


def test_a_tolerance_of_nothing_brings_the_mask_back_to_the_pixel(export: Path, photographs: Path, tmp_path: Path) -> None:
    annotate(export, [photographs], tmp_path / "out", tolerance_px=0)
    import_labelme(tmp_path / "out", tmp_path / "v2", classes=["green", "blue"])
    manifest, model = read_manifest(tmp_path / "v2"), open_export(export)
    for row in manifest:
        wanted_HW = model.segment(images.read_image(photographs / f"{row.sample_id}.jpg")).mask_HW
        assert np.array_equal(images.read_mask(manifest.mask_path(row, tmp_path / "out")), wanted_HW)


def test_the_command_says_what_comes_next(export: Path, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = CliRunner().invoke(app, ["annotate", str(export), str(photographs), "--out", str(out), "--tolerance", "0.25"])
    assert told.exit_code == 0, told.output
    assert "4 labelme files are in" in told.output and "the most uncertain is 0001_d.json" in told.output
    assert f"medseg manifest import labelme {out} --classes green,blue --out" in told.output.replace("\n", " ")
    content = json.loads((out / "0001_d.json").read_text())
    assert all(tolerance_px <= 0.25 for tolerance_px in content["medseg"]["tolerance_px"].values())
    imported = CliRunner().invoke(
        app, ["manifest", "import", "labelme", str(out), "--classes", "green,blue", "--out", str(tmp_path / "v2"), "--name", "x"]
    )
    assert imported.exit_code == 0 and "4 rows are predictions that nobody has corrected or checked" in imported.output
    split = CliRunner().invoke(app, ["manifest", "split", str(tmp_path / "v2"), "--ratios", "0.5", "0.25", "0.25"])
    assert split.exit_code == 0 and "warning: 1 of the masks in test" in split.output
