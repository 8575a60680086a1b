"""labelme files: every one imported with the right pixels, or refused by name with the reason."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError, MedsegError
from medseg.files import sha256_array, sha256_file
from medseg.images import read_image, read_mask
from medseg.instances import decode, read_instances
from medseg.manifest.importers.common import ImportReport, alike_names
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.schema import Manifest
from medseg.manifest.table import read_manifest
from tests.oracles import labelme_mask, labelme_shape

from .conftest import embedded, polygon, save_json, save_mask, save_picture

CLASSES = ("tongue", "coating")


def imported(src: Path, out: Path, **options: object) -> tuple[ImportReport, Manifest]:
    report = import_labelme(src, out, **({"classes": CLASSES} | options))  # type: ignore[arg-type]
    return report, read_manifest(out)


def mask_of(manifest: Manifest, sample_id: str, data_root: Path) -> np.ndarray:
    row = next(row for row in manifest if row.sample_id == sample_id)
    return read_mask(manifest.mask_path(row, data_root))


def test_import_and_read_back(labelme_dir: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    report, manifest = imported(labelme_dir, tmp_path / "tongues" / "v1", on_progress=lambda done, total: steps.append((done, total)))
    assert (report.imported, report.unlabelled, report.refused, report.notes) == (2, 0, [], [])
    assert (report.data_root, report.manifest_folder) == (labelme_dir, tmp_path / "tongues" / "v1")
    assert [total for _, total in steps] == [2] * 8, "the images are the total, whatever is done with each"
    assert [done for done, _ in steps] == [0, 0, 0, 1, 1, 1, 1, 2]
    row = manifest.row(0)
    assert (row.sample_id, row.group_id, row.image, row.mask) == ("set_1/a", "set_1/a", "set_1/a.jpg", "masks/set_1/a.png")
    assert row.px == {"background": 600 - 19 * 14, "tongue": 19 * 14 - 25, "coating": 25}
    assert row.image_sha256 == sha256_file(labelme_dir / "set_1/a.jpg")
    assert row.mask_sha256 == sha256_array(read_mask(manifest.mask_path(row, labelme_dir)))
    assert (manifest.dataset.name, manifest.dataset.masks_under) == ("tongues", "manifest")
    expected = np.zeros((20, 30), np.uint8)
    expected[2:16, 2:21], expected[5:10, 5:10] = 1, 2
    assert np.array_equal(mask_of(manifest, "set_1/a", labelme_dir), expected)


def test_a_second_import_is_nothing_and_brings_back_lost_masks(labelme_dir: Path, tmp_path: Path) -> None:
    _, manifest = imported(labelme_dir, tmp_path / "out")
    (tmp_path / "out/masks/set_1/a.png").unlink()
    assert imported(labelme_dir, tmp_path / "out")[1].digest == manifest.digest
    assert (tmp_path / "out/masks/set_1/a.png").exists()
    save_json(labelme_dir / "set_1" / "a.json", [("tongue", 0, 0, 1, 1)])
    with pytest.raises(ManifestError, match=r"manifest.csv: this version exists and differs \(mask_sha256 of set_1/a.*v2 beside v1"):
        imported(labelme_dir, tmp_path / "out")
    assert read_manifest(tmp_path / "out").digest == manifest.digest


def test_shape_order_decides_overlap(tmp_path: Path) -> None:
    for name, boxes in {"over": ["tongue", "coating"], "under": ["coating", "tongue"]}.items():
        save_picture(tmp_path / "src" / f"{name}.jpg")
        save_json(tmp_path / "src" / f"{name}.json", [(label, 2, 2, 9, 9) for label in boxes])
    _, manifest = imported(tmp_path / "src", tmp_path / "out")
    assert set(np.unique(mask_of(manifest, "over", tmp_path))) == {0, 2}
    assert set(np.unique(mask_of(manifest, "under", tmp_path))) == {0, 1}


def test_several_polygons_of_one_label(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.jpg")
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 3, 3), ("tongue", 10, 10, 13, 13)])
    _, manifest = imported(tmp_path / "src", tmp_path / "out")
    assert manifest.row(0).px == {"background": 568, "tongue": 32, "coating": 0}


@pytest.mark.parametrize("met_first", ["tongue", "coating"])
def test_ids_never_depend_on_the_order_met(tmp_path: Path, met_first: str) -> None:
    other = "coating" if met_first == "tongue" else "tongue"
    for name, label in (("1", met_first), ("2", other)):
        save_picture(tmp_path / "src" / f"{name}.jpg")
        save_json(tmp_path / "src" / f"{name}.json", [(label, 0, 0, 3, 3)])
    _, manifest = imported(tmp_path / "src", tmp_path / "given")
    assert manifest.labels.names == ("background", "tongue", "coating")
    _, manifest = imported(tmp_path / "src", tmp_path / "none", classes=None)
    assert manifest.labels.names == ("background", "coating", "tongue")


def test_ids_come_from_dataset_yaml(labelme_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    text = "name: mine\nmasks_under: manifest\nlabels:\n  classes: {0: background, 1: coating, 2: lesion, 3: tongue}  # kept\n"
    (out / "dataset.yaml").write_text(text)
    _, manifest = imported(labelme_dir, out, classes=None)
    assert (out / "dataset.yaml").read_text() == text
    assert set(np.unique(mask_of(manifest, "set_1/a", labelme_dir))) == {0, 1, 3}
    assert manifest.row(0).px["lesion"] == 0


def test_dataset_yaml_must_agree_with_the_options(labelme_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.yaml").write_text("name: mine\nlabels: {classes: {0: background, 1: coating, 2: tongue}}\n")
    with pytest.raises(ManifestError, match=r"it names the classes coating, tongue, --classes says tongue, coating; leave"):
        imported(labelme_dir, out)
    with pytest.raises(ManifestError, match=r"it names the data set mine, --name says other"):
        imported(labelme_dir, out, classes=None, dataset_name="other")
    with pytest.raises(ManifestError, match=r"it says `masks_under: data_root`.*; write `masks_under: manifest`"):
        imported(labelme_dir, out, classes=None)
    assert sorted(path.name for path in out.iterdir()) == ["dataset.yaml"]


def test_exif_is_applied(tmp_path: Path) -> None:
    """Stored 30 x 20 with orientation 6, annotated upright at 20 x 30: top left in the JSON is top left in the mask."""
    save_picture(tmp_path / "src" / "a.jpg", height=30, width=20, orientation=6)
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)], height=20, width=30)
    _, manifest = imported(tmp_path / "src", tmp_path / "out")
    row = manifest.row(0)
    assert tuple(row.size) == (20, 30) == read_image(manifest.image_path(row, tmp_path / "src")).shape[:2]
    assert mask_of(manifest, "a", tmp_path)[:5, :10].all() and row.px["tongue"] == 50


def test_annotated_without_exif_is_refused(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.jpg", height=30, width=20, orientation=6)
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)], height=30, width=20)
    with pytest.raises(AnnotationError, match=r"a.json: annotated at 20 x 30, the image a.jpg is 30 x 20 \(upright\); put back"):
        imported(tmp_path / "src", tmp_path / "out")


def test_a_png_called_jpg_is_read(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.png").rename(tmp_path / "src" / "a.jpg")
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)])
    assert imported(tmp_path / "src", tmp_path / "out")[0].imported == 1


def test_image_beside_when_image_path_names_none(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "set_2" / "599.jpg")
    save_json(tmp_path / "src" / "set_2" / "599.json", [("tongue", 0, 0, 9, 4)], imagePath="..\\set_2\\set_2\\599.jpg")
    report, manifest = imported(tmp_path / "src", tmp_path / "out")
    assert manifest.row(0).image == "set_2/599.jpg"
    assert report.notes == [
        "imagePath names no file; the one of its name beside the JSON is used: 1 file (set_2/599.json)",
        "class coating is in no annotation",
    ]


def test_a_folder_that_is_itself_named_in_image_path(labelme_dir: Path, tmp_path: Path) -> None:
    """`..\\set_1\\a.jpg` leaves set_1 by its text only: it arrives in set_1 again."""
    report, manifest = imported(labelme_dir / "set_1", tmp_path / "out")
    assert (report.imported, manifest.row(0).image) == (2, "a.jpg")


def test_embedded_image_alone(tmp_path: Path) -> None:
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)], imageData=embedded())
    report, manifest = imported(tmp_path / "src", tmp_path / "out")
    row = manifest.row(0)
    assert row.image == "a.json" and row.px["tongue"] == 50
    assert read_image(manifest.image_path(row, tmp_path / "src")).shape == (20, 30, 3)
    assert report.notes[0] == "no image file; the embedded image is used: 1 file (a.json)"


def test_embedded_image_where_the_file_has_another_size(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.jpg", 40, 60)
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)], imageData=embedded())
    report, manifest = imported(tmp_path / "src", tmp_path / "out")
    assert [row.image for row in manifest] == ["a.json"] and "another size" in report.notes[0]


def test_images_without_json_are_unlabelled(labelme_dir: Path, tmp_path: Path) -> None:
    save_picture(labelme_dir / "set_1" / "c.png")
    report, manifest = imported(labelme_dir, tmp_path / "out")
    assert (report.imported, report.unlabelled) == (2, 1)
    row = manifest.row(2)
    assert (row.sample_id, row.mask, row.mask_sha256, row.px) == ("set_1/c", None, None, {})


def test_other_json_and_hidden_files_are_left_out(labelme_dir: Path, tmp_path: Path) -> None:
    (labelme_dir / "coco.json").write_text('{"images": []}')
    (labelme_dir / "list.json").write_text("[1]")
    (labelme_dir / "set_1" / "._a.json").write_bytes(b"\0\5\x16\7")
    report, _ = imported(labelme_dir, tmp_path / "out")
    assert report.notes == ["not a labelme file, left out: 2 files (coco.json, list.json)"]


def test_output_inside_the_source_is_not_read_again(labelme_dir: Path) -> None:
    out = labelme_dir / "manifest" / "v1"
    first = imported(labelme_dir, out)[1]
    assert imported(labelme_dir, out)[1].digest == first.digest


def test_all_shape_kinds(tmp_path: Path) -> None:
    kinds = {"rectangle": [[9, 4], [0, 0]], "circle": [[15, 10], [18, 10]], "line": [[0, 15], [29, 15]], "point": [[25, 3]]}
    shapes = [{"label": "tongue", "shape_type": kind, "points": points} for kind, points in kinds.items()]
    shapes.append({"label": "coating", "points": [[0, 0], [3, 0], [3, 3]]})  # old files leave shape_type out
    save_picture(tmp_path / "src" / "a.jpg")
    save_json(tmp_path / "src" / "a.json", [], shapes=shapes)
    _, manifest = imported(tmp_path / "src", tmp_path / "out")
    mask = mask_of(manifest, "a", tmp_path)
    assert mask[4, 9] == mask[10, 15] == mask[15, 29] == mask[3, 25] == 1 and mask[0, 3] == 2 and mask[0, 12] == 0


def test_points_outside_the_image_are_clipped(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.jpg")
    save_json(tmp_path / "src" / "a.json", [("tongue", -50, -50, 500, 4)])
    assert imported(tmp_path / "src", tmp_path / "out")[1].row(0).px["tongue"] == 150


def test_no_shape_is_background_and_said(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.jpg")
    save_json(tmp_path / "src" / "a.json", [])
    report, manifest = imported(tmp_path / "src", tmp_path / "out")
    assert manifest.row(0).px["background"] == 600 and report.notes == [
        "no shape: labelled as background all over: 1 file (a.json)", "classes tongue, coating are in no annotation",
    ]  # fmt: skip


def test_groups_by_pattern(labelme_dir: Path, tmp_path: Path) -> None:
    _, manifest = imported(labelme_dir, tmp_path / "out", group_pattern=r"^(set_\d+)/")
    assert [row.group_id for row in manifest] == ["set_1", "set_1"]
    with pytest.raises(ManifestError, match=r"--group-pattern: 'b\(b\)' finds no group in the sample 'set_1/a' \(2 of 2 samples\)"):
        imported(labelme_dir, tmp_path / "out2", group_pattern="b(b)")
    with pytest.raises(ManifestError, match=r"--group-pattern: '\(' is not a regular expression"):
        imported(labelme_dir, tmp_path / "out2", group_pattern="(")
    with pytest.raises(ManifestError, match=r"must hold exactly one \(group\), it has 2"):
        imported(labelme_dir, tmp_path / "out2", group_pattern="(a)(b)")
    assert not (tmp_path / "out2").exists()


def test_masks_out(labelme_dir: Path, tmp_path: Path) -> None:
    _, manifest = imported(labelme_dir, tmp_path / "in", masks_out=tmp_path / "in" / "ids")
    assert manifest.row(0).mask == "ids/set_1/a.png"
    _, manifest = imported(labelme_dir, tmp_path / "root", masks_out=labelme_dir / "ids")
    assert (manifest.row(0).mask, manifest.dataset.masks_under) == ("ids/set_1/a.png", "data_root")
    assert mask_of(manifest, "set_1/a", labelme_dir).any()
    with pytest.raises(ManifestError, match=r"elsewhere: masks must lie under the manifest's folder .* or the data root"):
        imported(labelme_dir, tmp_path / "out", masks_out=tmp_path / "elsewhere")


def test_a_mask_of_the_users_is_never_overwritten(labelme_dir: Path, tmp_path: Path) -> None:
    mine = save_mask(labelme_dir / "ids" / "set_1" / "b.png", {1: 4})
    before = mine.read_bytes()
    with pytest.raises(ManifestError, match=r"ids/set_1/b.png: the file exists and differs from the one to be written; name a new"):
        imported(labelme_dir, tmp_path / "out", masks_out=labelme_dir / "ids")
    assert mine.read_bytes() == before and [path.name for path in mine.parent.iterdir()] == ["b.png"]
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_when_the_manifest_cannot_be_written(labelme_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("medseg.manifest.table.write_bytes", full_disk)
    with pytest.raises(OSError, match="no space left"):
        imported(labelme_dir, tmp_path / "out" / "v1")
    assert not list(tmp_path.glob("out/**/*.*"))


def test_the_same_photograph_twice_is_said(labelme_dir: Path, tmp_path: Path) -> None:
    save_picture(labelme_dir / "set_2" / "x.jpg", seed=0)  # as set_1/a.jpg
    report, _ = imported(labelme_dir, tmp_path / "out")
    assert report.notes == ["the same image bytes as another sample (give them one group): 2 files (set_1/a, set_2/x)"]


# --- bad input: one message that names file, rule and way out; nothing written

SHAPE = polygon("tongue", 0, 0, 9, 9)
BAD_JSON = {
    "no image": ({"imagePath": "gone.jpg"}, AnnotationError, r"x.json: imagePath 'gone.jpg' names no file, .*; put"),
    "leaves": ({"imagePath": "..\\..\\x.jpg"}, AnnotationError, r"x.json: imagePath .* leaves .*src; import the folder"),
    "absolute": ({"imagePath": "/etc/x.jpg"}, AnnotationError, r"x.json: imagePath '/etc/x.jpg' leaves .*src; .*to 'x.jpg'"),
    "drive": ({"imagePath": "C:\\Users\\x.jpg"}, AnnotationError, r"x.json: imagePath .* leaves .*src; .*to 'x.jpg'"),
    "size": ({"imageHeight": 21}, AnnotationError, r"x.json: annotated at 30 x 21, the image x.jpg is 30 x 20 .*; put"),
    "bad size": ({"imageWidth": "30"}, AnnotationError, r"x.json: imageHeight and imageWidth must be positive.*'30'"),
    "half size": ({"imageWidth": None}, AnnotationError, r"x.json: imageHeight and imageWidth must be .* got 20 and None; save"),
    "shapes": ({"shapes": {}}, AnnotationError, r"x.json: `shapes` must be a list; save the annotation again"),
    "kind": ({"shapes": [SHAPE | {"shape_type": "cube"}]}, AnnotationError, r"x.json: shape 0 \('tongue'\) is a 'cube', known are"),
    "no label": ({"shapes": [SHAPE, SHAPE | {"label": " "}]}, AnnotationError, r"x.json: shape 1 has no label; label it"),
    "two points": ({"shapes": [SHAPE | {"points": [[0, 0], [1, 1]]}]}, AnnotationError, r"of 2 points, it needs at least 3;"),
    "three corners": (
        {"shapes": [SHAPE | {"shape_type": "rectangle"}]}, AnnotationError, r"is a rectangle of 4 points, it needs 2; draw",
    ),
    "nan": (
        {"shapes": [SHAPE | {"points": [[0, 0], [1, float("nan")], [2, 2]]}]},
        AnnotationError, r"x.json: shape 0 \('tongue'\) has a point that is not two finite numbers",
    ),
    "far": ({"shapes": [SHAPE | {"points": [[0, 0], [1, 1e300], [2, 2]]}]}, AnnotationError, r"within 1,000,000 px"),
    "text point": ({"shapes": [SHAPE | {"points": [["0", 0], [1, 1], [2, 2]]}]}, AnnotationError, r"not two finite numbers"),
    "embedded broken": ({"imagePath": "gone.jpg", "imageData": "AAAA"}, ImageError, r"x.json: not a readable image .*; export"),
    "unknown class": ({"shapes": [SHAPE | {"label": "lung"}]}, LabelError, r"x.json: the label 'lung' is no class .*; name"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_bad_annotation(labelme_dir: Path, tmp_path: Path, changes: dict[str, object], error: type[MedsegError], message: str) -> None:
    save_picture(labelme_dir / "x.jpg", seed=9)
    save_json(labelme_dir / "x.json", [("tongue", 0, 0, 9, 9)], **changes)
    if changes.get("imagePath") == "gone.jpg":
        (labelme_dir / "x.jpg").unlink()
    with pytest.raises(error, match=message) as caught:
        imported(labelme_dir, tmp_path / "out" / "v1")
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()


def test_damaged_files(labelme_dir: Path, tmp_path: Path) -> None:
    image, annotation = labelme_dir / "set_1" / "a.jpg", labelme_dir / "set_1" / "b.json"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"a.jpg: (the image is truncated|not a readable image).*--skip-refused"):
        imported(labelme_dir, tmp_path / "out")
    image.write_text("no image")
    with pytest.raises(ImageError, match=r"a.jpg: not a readable image"):
        imported(labelme_dir, tmp_path / "out")
    save_json(labelme_dir / "set_1" / "a.json", [], imageData=embedded())
    with pytest.raises(ImageError, match=r"a.jpg: .*or remove it so that the embedded imageData is used"):
        imported(labelme_dir, tmp_path / "out")
    image.write_bytes(whole)
    annotation.write_text('{"shapes": [')
    with pytest.raises(AnnotationError, match=r"b.json: not valid JSON .*; save the annotation again, or pass --skip-refused"):
        imported(labelme_dir, tmp_path / "out")
    annotation.write_text("[" * 100_000)
    with pytest.raises(AnnotationError, match=r"b.json: not valid JSON"):
        imported(labelme_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_refused_file_is_named(labelme_dir: Path, tmp_path: Path) -> None:
    for name in "ab":
        save_json(labelme_dir / "set_1" / f"{name}.json", [("tongue", 0, 0, 9, 9)], height=99)
    save_picture(labelme_dir / "c.jpg", seed=5)
    with pytest.raises(AnnotationError, match=r"(?s)src: 2 files cannot be imported:.*a.json: annotated.*b.json: annotated.*--skip-ref"):
        imported(labelme_dir, tmp_path / "out")


def test_one_file_alone_that_leaves_src_is_told_for_what_it_is(tmp_path: Path) -> None:
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 9)], imagePath="..\\..\\elsewhere\\a.jpg")
    with pytest.raises(AnnotationError, match=r"a.json: imagePath .* leaves "):
        import_labelme(tmp_path / "src", tmp_path / "out")  # no dataset.yaml and no classes either
    assert not (tmp_path / "out").exists()


def test_a_name_that_heads_no_data_set(labelme_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"--name: a data set's name is Latin letters, .* got 'my data'"):
        imported(labelme_dir, tmp_path / "out", dataset_name="my data")


def test_skip_refused_imports_the_rest_and_lists_them(labelme_dir: Path, tmp_path: Path) -> None:
    save_json(labelme_dir / "set_1" / "a.json", [("tongue", 0, 0, 9, 9)], height=99)
    report, manifest = imported(labelme_dir, tmp_path / "out", skip_refused=True)
    assert [row.sample_id for row in manifest] == ["set_1/b"]  # the image of a refused annotation is not "unlabelled"
    with (tmp_path / "out" / "refused.csv").open() as stream:
        listed = list(csv.DictReader(stream))
    assert listed == [{"file": file, "reason": reason} for file, reason in report.refused]
    assert listed[0]["file"] == "set_1/a.json" and "annotated at 30 x 99" in listed[0]["reason"]


def test_a_file_with_an_unknown_label_is_refused_as_others_are(labelme_dir: Path, tmp_path: Path) -> None:
    rule = r"(?s)src: 2 files cannot be imported:.*the label 'coating' is no class of the data set \(tongue\); name it.*a.json, .*b.json"
    with pytest.raises(LabelError, match=rule):
        imported(labelme_dir, tmp_path / "out", classes=["tongue"])
    with pytest.raises(AnnotationError, match=r"(?s)nothing is left to import.*the label 'coating' is no class"):
        imported(labelme_dir, tmp_path / "out", classes=["tongue"], skip_refused=True)
    save_picture(labelme_dir / "other.jpg", seed=5)
    save_json(labelme_dir / "c.json", [("lung", 0, 0, 9, 9), ("lips", 0, 0, 9, 9)], imagePath="other.jpg")
    with pytest.raises(LabelError, match=r"c.json: the labels 'lips', 'lung' are no classes of .*; name it .*, or pass --skip-refused"):
        imported(labelme_dir, tmp_path / "out")
    report, manifest = imported(labelme_dir, tmp_path / "out", skip_refused=True)
    assert (report.imported, report.unlabelled) == (2, 0), "its photograph is not taken as one without annotation"
    assert [file for file, _ in report.refused] == ["c.json"] and "'lips', 'lung'" in (tmp_path / "out/refused.csv").read_text()


# --- classes that nobody named


def test_classes_that_are_met_are_listed_and_those_alike_are_told(tmp_path: Path) -> None:
    for name, labels in {"a": ["heart", "heart", "lung_1"], "b": ["heart", "Heart", "lung_2"], "c": ["hart "]}.items():
        save_picture(tmp_path / "src" / f"{name}.jpg", seed=ord(name))
        save_json(tmp_path / "src" / f"{name}.json", [(label, 0, 0, 9, 9) for label in labels])
    report, _ = imported(tmp_path / "src", tmp_path / "out", classes=None)
    assert report.notes == [
        "blanks around the label 'hart' are left out: 1 file (c.json)",
        "classes as the annotations name them (--classes would fix them): 1 Heart (1 shape in 1 image), 2 hart (1 shape in 1 image), "
        "3 heart (3 shapes in 2 images), 4 lung_1 (1 shape in 1 image), 5 lung_2 (1 shape in 1 image)",
        "class names that differ by case, blanks or one letter alone, perhaps one class: "
        "'Heart' and 'hart', 'Heart' and 'heart', 'hart' and 'heart'",
    ]
    named = imported(tmp_path / "src", tmp_path / "named", classes=["heart", "Heart", "hart", "lung_1", "lung_2"])[0]
    assert named.notes == report.notes[:1], "who names the classes is not told them"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("soft tissue", "soft_tissue", True), ("Tongue", "tongues", True), ("coating", "cotaing", False), ("vessel", "vassel", True),
        ("car", "cat", False), ("lesion", "lesion 2", False), ("T1 map", "T2 map", False), ("nerve", "nerves2", False),
        ("ulcer", "culcer", True), ("a", "A", True),
    ],
)  # fmt: skip
def test_names_that_may_be_one(one: str, other: str, alike: bool) -> None:
    assert bool(alike_names([one, other])) == bool(alike_names([other, one])) == alike


def test_background_among_the_classes_is_noted(labelme_dir: Path, tmp_path: Path) -> None:
    report, manifest = imported(labelme_dir, tmp_path / "out", classes=["tongue", "background", "coating"])
    said = "--classes names background, which is always id 0, so it is left out of the count: the ids are 1 tongue, 2 coating"
    assert report.notes == [said] and manifest.labels.foreground == ("tongue", "coating")


# --- photographs that EXIF turns


@pytest.mark.parametrize(
    ("orientation", "stated", "noted"), [(3, True, True), (6, True, False), (6, False, True), (1, False, False), (2, True, True)]
)
def test_a_photograph_that_exif_turns_is_noted_as_by_masks(tmp_path: Path, orientation: int, stated: bool, noted: bool) -> None:
    """Nothing embedded, and a size that does not tell which way the annotator saw the picture."""
    height, width = (30, 20) if orientation == 6 else (20, 30)
    save_picture(tmp_path / "src" / "a.jpg", height, width, orientation)
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)], *((20, 30) if stated else (None, None)))
    notes = imported(tmp_path / "src", tmp_path / "out", classes=["tongue"])[0].notes
    said = "1 photograph carries an EXIF orientation; which way its mask lies is told by `medseg manifest check`"
    assert notes == ([said] if noted else [])


# --- the output's place and disk


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_of_the_output_and_of_no_source(labelme_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.manifest.importers.painted.write_mask", full_disk)
    with pytest.raises(ManifestError, match=r"out: the disk is full \(No space left on device\), so nothing was written; free") as caught:
        imported(labelme_dir, tmp_path / "out", skip_refused=True)
    assert "--skip-refused" not in str(caught.value) and ".json" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["src/set_1", "src", "src/deep"])
def test_an_output_among_the_photographs_is_refused(labelme_dir: Path, tmp_path: Path, out: str) -> None:
    """Below the source such a folder would be passed by, and its images be missed in silence."""
    save_picture(labelme_dir / "z.jpg", seed=9)
    save_picture(labelme_dir / "deep" / "er" / "y.jpg", seed=8)
    with pytest.raises(
        ManifestError, match=r"this folder holds files of the set \(.*\.jpg.*\), and the manifest would lie among them; give"
    ):
        imported(labelme_dir, tmp_path / out)
    assert not (tmp_path / out / "manifest.csv").exists()
    assert imported(labelme_dir, tmp_path / "src" / ".." / "beside")[0].imported == 2


def test_labels_that_cannot_be_class_names(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.jpg")
    save_json(tmp_path / "src" / "a.json", [("舌", 0, 0, 9, 9)])
    with pytest.raises(LabelError, match=r"the labels met: the class names \['舌'\] cannot be used"):
        imported(tmp_path / "src", tmp_path / "out", classes=None)


def test_one_image_annotated_twice(labelme_dir: Path, tmp_path: Path) -> None:
    save_json(labelme_dir / "set_1" / "z.json", [("tongue", 0, 0, 9, 9)], imagePath="a.jpg")
    with pytest.raises(AnnotationError, match=r"z.json: it annotates set_1/a.jpg, as a.json does; keep one"):
        imported(labelme_dir, tmp_path / "out")


def test_two_images_of_one_name(labelme_dir: Path, tmp_path: Path) -> None:
    save_picture(labelme_dir / "set_1" / "a.png", seed=7)
    with pytest.raises(AnnotationError, match=r"set_1/a.png: it would have the same sample id as set_1/a.jpg"):
        imported(labelme_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_image_of_a_refused_twin_is_not_unlabelled(tmp_path: Path) -> None:
    for name in "bc":
        save_picture(tmp_path / "src" / f"{name}.jpg", seed=ord(name))
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 9)], imagePath="b.jpg").rename(tmp_path / "src" / "a.JSON")
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 9)], imagePath="c.jpg")
    report, manifest = imported(tmp_path / "src", tmp_path / "out", skip_refused=True)
    assert [row.image for row in manifest] == ["b.jpg"] and [file for file, _ in report.refused] == ["a.json"]


def test_flags_and_descriptions_of_shapes_are_told(labelme_dir: Path, tmp_path: Path) -> None:
    boxes = [("tongue", 2, 2, 20, 15), ("coating", 5, 5, 9, 9), ("coating", 6, 6, 9, 9)]
    more = [{"flags": {"difficult": True}}, {"description": "a crack"}, {"flags": {"difficult": False}, "description": ""}]
    save_json(labelme_dir / "set_1" / "a.json", [], shapes=[polygon(*box) | extra for box, extra in zip(boxes, more, strict=True)])
    report, _ = imported(labelme_dir, tmp_path / "out")
    assert report.notes == ["flags or a description of 2 single shapes, not imported: 1 file (set_1/a.json)"]
    assert json.loads((tmp_path / "out/import.json").read_text())["notes"] == report.notes


def test_symbolic_links_out_of_the_source(labelme_dir: Path, tmp_path: Path) -> None:
    save_picture(tmp_path / "private" / "p.jpg", seed=8)
    (labelme_dir / "p.jpg").symlink_to(tmp_path / "private" / "p.jpg")
    with pytest.raises(AnnotationError, match=r"p.jpg: the file lies outside .*src \(through a symbolic link\)"):
        imported(labelme_dir, tmp_path / "out")
    save_json(labelme_dir / "p.json", [("tongue", 0, 0, 9, 9)])
    with pytest.raises(AnnotationError, match=r"p.json: imagePath 'p.jpg' is a symbolic link out of"):
        imported(labelme_dir, tmp_path / "out")


def test_sources_without_annotation(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"gone: the source folder is not there; check the path"):
        imported(tmp_path / "gone", tmp_path / "out")
    save_picture(tmp_path / "src" / "a.jpg")
    with pytest.raises(AnnotationError, match=r"src: no labelme file \(.json with `shapes`\) under this folder"):
        imported(tmp_path / "src", tmp_path / "out")


def test_matches_labelmes_own_rule(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    shapes = [{"label": CLASSES[i % 2], "points": draw.uniform(-5, 35, (7, 2)).tolist()} for i in range(6)]
    save_picture(tmp_path / "src" / "a.jpg")
    path = save_json(tmp_path / "src" / "a.json", [], shapes=shapes)
    _, manifest = imported(tmp_path / "src", tmp_path / "out")
    expected = labelme_mask(json.loads(path.read_text()), {"tongue": 1, "coating": 2}, 20, 30)
    assert np.array_equal(mask_of(manifest, "a", tmp_path), expected)


# --- labelme 3.x to 6.x


def bitmap(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


COORDINATE = st.one_of(st.integers(-9, 40), st.floats(-9, 40, width=32))
EXACT = {"rectangle": 2, "oriented_rectangle": 4, "circle": 2, "line": 2, "point": 1}


@st.composite
def any_shape(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from([None, "polygon", "linestrip", "mask", *EXACT]))
    shape: dict[str, object] = {"label": draw(st.sampled_from(CLASSES)), "group_id": draw(st.sampled_from([None, 1, "b"]))}
    if kind == "mask":
        left, top, right, bottom = (draw(st.integers(0, most)) for most in (14, 9, 15, 10))
        bits = np.random.default_rng(draw(st.integers(0, 99))).random((bottom + 1, right + 1)) < 0.5
        return shape | {"shape_type": kind, "points": [[left, top], [left + right + 0.5, top + bottom]], "mask": bitmap(bits)}
    count = EXACT[kind] if kind in EXACT else draw(st.integers(3, 6))
    points = [[draw(COORDINATE), draw(COORDINATE)] for _ in range(count)]
    return shape | {"shape_type": kind, "points": points, "mask": None, "description": ""}


@settings(max_examples=10, deadline=None)
@given(shapes=st.lists(any_shape(), max_size=5))
def test_any_file_comes_back_as_labelme_draws_it(tmp_path_factory: pytest.TempPathFactory, shapes: list[dict[str, Any]]) -> None:
    """import -> manifest -> decode, of masks and instances."""
    folder = tmp_path_factory.mktemp("any")
    save_picture(folder / "src" / "a.jpg")
    save_json(folder / "src" / "a.json", [], shapes=shapes)
    _, manifest = imported(folder / "src", folder / "out")
    assert np.array_equal(mask_of(manifest, "a", folder), labelme_mask({"shapes": shapes}, {"tongue": 1, "coating": 2}, 20, 30))
    expected: dict[tuple[str, object], np.ndarray] = {}
    for index, shape in enumerate(shapes):
        key = (shape["label"], ("alone", index) if shape["group_id"] is None else str(shape["group_id"]))
        expected[key] = expected.get(key, False) | labelme_shape(shape, 20, 30)
    wanted = [(label, mask) for (label, _), mask in expected.items() if mask.any()]
    found = read_instances(folder / "out" / "instances" / "a.json")
    assert [instance.label for instance in found] == [label for label, _ in wanted]
    assert all(np.array_equal(decode(instance), mask) for instance, (_, mask) in zip(found, wanted, strict=True))


def test_a_file_of_version_3(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.jpg")
    shape = {"label": "tongue", "line_color": None, "fill_color": None, "points": [[2, 2], [9, 2], [9, 9]]}
    content = {"flags": {}, "shapes": [shape], "lineColor": [0, 255, 0, 128], "fillColor": [255, 0, 0, 128], "imagePath": "a.jpg"}
    (tmp_path / "src" / "a.json").write_text(json.dumps(content | {"imageData": embedded()}))
    assert imported(tmp_path / "src", tmp_path / "out")[1].row(0).px["tongue"] == 36


def test_instances_survive_beneath_later_shapes(tmp_path: Path) -> None:
    save_picture(tmp_path / "src" / "a.jpg")
    boxes = [polygon("tongue", 0, 0, 9, 9), polygon("coating", 0, 0, 9, 9), polygon("tongue", 20, 0, 24, 4)]
    for shape in (boxes[0], boxes[2]):
        shape["group_id"] = 1
    save_json(tmp_path / "src" / "a.json", [], shapes=boxes)
    _, manifest = imported(tmp_path / "src", tmp_path / "out")
    row = manifest.row(0)
    assert row.px == {"background": 600 - 125, "tongue": 25, "coating": 100} and row.instances == "instances/a.json"
    found = read_instances(tmp_path / "out" / "instances/a.json")
    assert [(one.label, one.group_id, int(decode(one).sum())) for one in found] == [("tongue", "1", 125), ("coating", None, 100)]
    assert manifest.frame["instances_sha256"].item() == sha256_file(tmp_path / "out" / "instances/a.json")
    _, plain = imported(tmp_path / "src", tmp_path / "out2", instances=False)
    assert plain.row(0).instances is None and not (tmp_path / "out2" / "instances").exists()


def test_flags_are_columns(labelme_dir: Path, tmp_path: Path) -> None:
    boxes = [("tongue", 2, 2, 20, 15), ("coating", 5, 5, 9, 9)]
    save_json(labelme_dir / "set_1" / "a.json", boxes, flags={"out of focus": True, "blurred": False})
    _, manifest = imported(labelme_dir, tmp_path / "out")
    assert manifest.frame["flag_out_of_focus"].fillna("").tolist() == ["true", ""]
    assert manifest.frame["flag_blurred"].fillna("").tolist() == ["false", ""]
    save_json(labelme_dir / "set_1" / "b.json", boxes, flags={"out_of focus": True})
    with pytest.raises(AnnotationError, match=r"'out of focus' and 'out_of focus' would both be the column flag_out_of_focus; rename"):
        imported(labelme_dir, tmp_path / "out2")


def test_ignored_labels(labelme_dir: Path, tmp_path: Path) -> None:
    report, manifest = imported(labelme_dir, tmp_path / "out", classes=["tongue"], ignore_labels=["coating", "hair"])
    assert set(np.unique(mask_of(manifest, "set_1/a", labelme_dir))) == {0, 1, 255}
    assert manifest.row(0).px == {"background": 600 - 19 * 14, "tongue": 19 * 14 - 25}
    assert [one.label for one in read_instances(tmp_path / "out/instances/set_1/a.json")] == ["tongue"]
    assert report.notes == ["--ignore-label hair is in no annotation"]
    assert json.loads((tmp_path / "out/import.json").read_text())["ignore_labels"] == ["coating", "hair"]
    _, manifest = imported(labelme_dir, tmp_path / "met", classes=None, ignore_labels=["coating"])
    assert manifest.labels.foreground == ("tongue",)
    with pytest.raises(LabelError, match=r"--ignore-label: 'coating' is a class of the data set; leave"):
        imported(labelme_dir, tmp_path / "both", ignore_labels=["coating"])


def test_an_unknown_label_is_told_before_a_photograph_is_decoded(labelme_dir: Path, tmp_path: Path) -> None:
    (labelme_dir / "set_1" / "a.jpg").write_text("no image")
    with pytest.raises(LabelError, match=r"the label 'coating' is no class"):
        imported(labelme_dir, tmp_path / "out", classes=["tongue"])


def test_nothing_is_left(labelme_dir: Path, tmp_path: Path) -> None:
    for name in "ab":
        save_json(labelme_dir / "set_1" / f"{name}.json", [("tongue", 0, 0, 9, 9)], height=99)
    with pytest.raises(
        AnnotationError, match=r"(?s)src: nothing is left to import, every annotation \(2\) is refused:.*a.json.*b.j"
    ) as caught:
        imported(labelme_dir, tmp_path / "out", skip_refused=True)
    assert "--skip-refused" not in str(caught.value) and not (tmp_path / "out").exists()


def embed(path: Path, turns: int = 0) -> str:
    """The pixels of a file as they are stored, turned by quarters, without EXIF."""
    return bitmap(np.ascontiguousarray(np.rot90(np.asarray(Image.open(path)), turns)))


@pytest.mark.parametrize(("turns", "used"), [(2, "a.png"), (0, "a.json"), (1, "a.json")])
def test_the_annotator_saw_the_embedded_picture(tmp_path: Path, turns: int, used: str) -> None:
    """Square, EXIF 3 (half a turn): embedded upright, as stored, and in another way."""
    path = save_picture(tmp_path / "src" / "a.png", 20, 20, orientation=3)
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)], 20, 20, imagePath="a.png", imageData=embed(path, turns))
    report, manifest = imported(tmp_path / "src", tmp_path / "out")
    assert manifest.row(0).image == used
    assert any("another picture than the file turned upright by its EXIF" in note for note in report.notes) == (used == "a.json")


def test_an_embedded_picture_with_an_orientation_is_refused(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "src" / "a.png", 20, 20, orientation=3)
    content = base64.b64encode(path.read_bytes()).decode()
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)], 20, 20, imagePath="a.png", imageData=content)
    with pytest.raises(AnnotationError, match=r"the embedded image carries the EXIF orientation 3, which labelme does not apply"):
        imported(tmp_path / "src", tmp_path / "out")


BOX = [[4, 3], [8, 5]]
FIVE_BY_THREE = bitmap(np.ones((3, 5), np.uint8))
BAD_SHAPES = {
    "no bitmap": ({"mask": None}, r"shape 0 \('tongue'\) is a mask without its bitmap \(`mask` is None\)"),
    "not base64": ({"mask": "a"}, r"the bitmap of shape 0 \('tongue'\) is not base64"),
    "no image": ({"mask": "AAAA"}, r"the bitmap of shape 0 \('tongue'\): not a readable image"),
    "colours": ({"mask": bitmap(np.ones((3, 5, 3), np.uint8))}, r"bitmap must have one channel, this one is RGB"),
    "another size": ({"points": [[4, 3], [9, 5]]}, r"bitmap of shape 0 .* is 5 x 3, its box from \(4, 3\) to \(9, 5\) is another size"),
    "turned": ({"points": [[8, 5], [4, 3]]}, r"is 5 x 3, its box from \(8, 5\) to \(4, 3\)"),
    "out right": ({"points": [[27, 3], [31, 5]]}, r"is a mask from \(27, 3\) to \(31, 5\), the image is 30 x 20; a mask must lie in its"),
    "out above": ({"points": [[4, -1], [8, 1]]}, r"is a mask from \(4, -1\) to \(8, 1\), the image is 30 x 20"),
    "group": ({"group_id": [1]}, r"shape 0 \('tongue'\) has the group_id \[1\], it must be a number, text or null"),
    "kind": ({"shape_type": ["mask"]}, r"shape 0 \('tongue'\) is a \['mask'\], known are polygon"),
    "oriented": ({"shape_type": "oriented_rectangle"}, r"is a oriented_rectangle of 2 points, it needs 4"),
    "a number without end": ({"points": [[10**400, 1], [2, 2]]}, r"not two finite numbers"),
    "too many points": ({"shape_type": "polygon", "points": [[1, 1]] * 100_001}, r"has 100,001 points, the limit is 100,000; simplify"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_bad_shapes(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    save_picture(tmp_path / "src" / "a.jpg")
    shape = {"label": "tongue", "shape_type": "mask", "points": BOX, "mask": FIVE_BY_THREE}
    save_json(tmp_path / "src" / "a.json", [], shapes=[shape | changes])
    with pytest.raises(AnnotationError, match=message):
        imported(tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD_FILES = {
    "flags": ({"flags": {"a": 1}}, r"`flags` must name flags that are true or false, got \{'a': 1\}"),
    "flag names": ({"flags": {" ": True}}, r"names with a letter or digit, got \[' '\]"),
    "embedded": ({"imageData": 5}, r"imageData must be text, got 5"),
    "path": ({"imagePath": "\ud800.jpg", "imageHeight": 21}, r"annotated at 30 x 21, the image a.jpg is 30 x 20"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_keys(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    save_picture(tmp_path / "src" / "a.jpg")
    save_json(tmp_path / "src" / "a.json", [("tongue", 0, 0, 9, 4)], **changes)
    with pytest.raises(AnnotationError, match=message):
        imported(tmp_path / "src", tmp_path / "out")


def test_a_shape_outside_its_image_is_noted(tmp_path: Path) -> None:
    for name in "abc":
        save_picture(tmp_path / "src" / f"{name}.jpg", seed=ord(name))
        boxes = [("tongue", 2, 2, 9, 9), *([("tongue", 40, 2, 60, 9), ("tongue", 2, -30, 9, -20)] if name != "b" else [])]
        save_json(tmp_path / "src" / f"{name}.json", boxes)
    report, manifest = imported(tmp_path / "src", tmp_path / "out", classes=["tongue"])
    assert report.notes == ["a shape lies outside its image and paints nothing: 2 files (a.json, c.json)"]
    assert len({row.px["tongue"] for row in manifest}) == 1
