"""COCO files: every annotation painted by pycocotools' rule, or refused by name with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_rle

from medseg.errors import AnnotationError, LabelError, ManifestError, MedsegError
from medseg.files import sha256_file
from medseg.images import read_mask
from medseg.instances import decode, read_instances
from medseg.manifest.importers.coco import checked_document, drawn, import_coco, read_coco
from medseg.manifest.importers.common import ImportReport
from medseg.manifest.schema import Manifest
from medseg.manifest.table import read_manifest
from medseg.types import Size

from .conftest import save_picture

HEIGHT, WIDTH = 20, 30
CATEGORIES = [{"id": 7, "name": "coating", "supercategory": "x"}, {"id": 3, "name": "tongue"}]


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(category: int, segmentation: Any, image: int = 1, **changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "iscrowd": 0, "segmentation": segmentation} | changes


def code(mask: np.ndarray, compressed: bool = True) -> dict[str, Any]:
    """A run-length code by pycocotools, or by a loop over the pixels."""
    if compressed:
        found = coco_rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(mask.shape), "counts": found["counts"].decode()}
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts, value = [*counts, 0], pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def save_coco(folder: Path, annotations: list[Any], images: int = 1, changes: Mapping[str, Any] | None = None) -> Path:
    """coco.json and images/1.png, 2.png, ... of 20 x 30 px."""
    for number in range(1, images + 1):
        save_picture(folder / "images" / f"{number}.png", HEIGHT, WIDTH, seed=number)
    listed = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(1, images + 1)]
    content = {"images": listed, "annotations": annotations, "categories": CATEGORIES} | dict(changes or {})
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def imported(path: Path, **options: Any) -> tuple[ImportReport, Manifest]:
    report = import_coco(path, path.parent / "images", path.parent / "out", **options)
    return report, read_manifest(path.parent / "out")


def mask_of(manifest: Manifest, number: int = 0) -> np.ndarray:
    row = manifest.row(number)
    return read_mask(manifest.mask_path(row, manifest.folder))


def test_import_and_read_back(tmp_path):
    path = save_coco(tmp_path, [annotation(3, [box(2, 3, 12, 9)]), annotation(7, [box(4, 4, 6, 6), box(8, 4, 10, 6)])])
    report, manifest = imported(path)
    assert (report.imported, report.unlabelled, report.refused) == (1, 0, [])
    assert manifest.labels.names == ("background", "tongue", "coating")  # by COCO id: 3, 7
    row = manifest.row(0)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:9, 2:12] = 1
    expected[4:6, 4:6] = expected[4:6, 8:10] = 2
    assert np.array_equal(mask_of(manifest), expected)
    assert (row.sample_id, row.image, row.mask, row.instances) == ("1", "1.png", "masks/1.png", "instances/1.json")
    objects = read_instances(manifest.folder / "instances/1.json")
    assert [(found.label, int(decode(found).sum())) for found in objects] == [("tongue", 60), ("coating", 8)]
    assert manifest.frame["instances_sha256"].item() == sha256_file(manifest.folder / "instances/1.json")
    how = json.loads((manifest.folder / "import.json").read_text())
    assert (how["importer"], how["paint"], how["crowd"]) == ("coco", "area", "ignore")
    assert imported(path)[1].digest == manifest.digest


def test_what_lies_on_top(tmp_path):
    path = save_coco(tmp_path, [annotation(7, [box(4, 4, 8, 8)]), annotation(3, [box(0, 0, 20, 20)])])
    report, manifest = imported(path)
    assert manifest.row(0).px["coating"] == 16 and "overlaps: the smaller annotation is on top (--paint area)" in report.notes
    report = import_coco(path, tmp_path / "images", tmp_path / "out2", paint="order")
    assert read_manifest(tmp_path / "out2").row(0).px["coating"] == 0 and "the later annotation" in report.notes[0]


@pytest.mark.parametrize(("crowd", "values"), [("ignore", {0, 1, 255}), ("paint", {0, 1, 2}), ("skip", {0, 1})])
def test_crowds(tmp_path, crowd, values):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:15, 10:20] = True
    path = save_coco(tmp_path, [annotation(3, [box(0, 0, 5, 5)]), annotation(7, code(mask, False), iscrowd=1)])
    report, manifest = imported(path, crowd=crowd)
    assert set(np.unique(mask_of(manifest))) == values and any("1 crowd annotation is" in note for note in report.notes)
    assert [found.crowd for found in read_instances(manifest.folder / "instances/1.json")] == [False, True]


def test_choices_are_words():
    with pytest.raises(AnnotationError, match=r"--crowd: 'no' is none of ignore, paint, skip"):
        import_coco(Path("a"), Path("b"), Path("c"), crowd="no")
    with pytest.raises(AnnotationError, match=r"--paint: 'no' is none of area, order"):
        import_coco(Path("a"), Path("b"), Path("c"), paint="no")


def test_images_without_annotation(tmp_path):
    path = save_coco(tmp_path, [annotation(3, [box(0, 0, 5, 5)])], images=2)
    save_picture(tmp_path / "images" / "not_listed.png", seed=9)
    report, manifest = imported(path)
    assert (report.imported, report.unlabelled) == (1, 2) and manifest.row(1).mask is None
    assert "1 listed image without annotation is unlabelled (--empty-is-background if nothing is in them)" in report.notes
    assert "class coating is in no annotation" in report.notes
    report = import_coco(path, tmp_path / "images", tmp_path / "out2", empty_is_background=True)
    assert (report.imported, report.unlabelled) == (2, 1)  # what the file does not list stays unlabelled
    assert read_manifest(tmp_path / "out2").row(1).px["background"] == HEIGHT * WIDTH


def test_without_instances(tmp_path):
    path = save_coco(tmp_path, [annotation(3, [box(0, 0, 5, 5)])])
    manifest = imported(path, instances=False)[1]
    assert "instances" not in manifest.frame and not (manifest.folder / "instances").exists()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_codes_and_polygons_come_back(tmp_path_factory, data):
    """import -> manifest -> decode; the oracle is pycocotools' own decoder on the annotation as it stands."""
    bits = data.draw(st.binary(min_size=75, max_size=75))
    mask = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(HEIGHT, WIDTH).astype(bool)
    coordinates = st.floats(-10, 40, width=32)
    polygon = data.draw(st.lists(coordinates, min_size=6, max_size=12).filter(lambda numbers: len(numbers) % 2 == 0))
    shape = data.draw(st.sampled_from(["polygon", "compressed", "list"]))
    segmentation = [polygon] if shape == "polygon" else code(mask, shape == "compressed")
    path = save_coco(tmp_path_factory.mktemp("coco"), [annotation(3, segmentation)])
    manifest = imported(path)[1]
    found = coco_rle.merge(coco_rle.frPyObjects([polygon], HEIGHT, WIDTH)) if shape == "polygon" else None
    expected = coco_rle.decode(found) if found else mask
    assert np.array_equal(mask_of(manifest), expected)
    assert np.array_equal(decode(read_instances(manifest.folder / "instances/1.json")[0]), expected)


SQUARE = [box(0, 0, 5, 5)]
IMAGE = {"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}
SHORT = {"counts": [0, 5, 594], "size": [HEIGHT, WIDTH]}
BAD = {
    "image_id": ({"annotations": [annotation(3, SQUARE, image=9)]}, r"annotations\[0\]: image_id 9 is no image of the file; add"),
    "category_id": ({"annotations": [annotation(9, SQUARE)]}, r"annotations\[0\] \('1.png'\): category_id 9 is no category"),
    "no entry": ({"annotations": [[]]}, r"annotations\[0\]: image_id \[\] is no image"),
    "box only": ({"annotations": [annotation(3, [], bbox=[0, 0, 5, 5])]}, r"has no segmentation, only a box or keypoints.*; draw its"),
    "crowd": ({"annotations": [annotation(3, SQUARE, iscrowd=2)]}, r"iscrowd must be 0 or 1, got 2"),
    "segmentation": ({"annotations": [annotation(3, "x")]}, r"segmentation must be polygons or a run-length code, got 'x'"),
    "two points": ({"annotations": [annotation(3, [[0, 0, 5, 5]])]}, r"an even list of at least 6 numbers, got 4 numbers"),
    "odd": ({"annotations": [annotation(3, [[0, 0, 5, 5, 1, 1, 1]])]}, r"an even list of at least 6 numbers, got 7 numbers"),
    "not numbers": ({"annotations": [annotation(3, [[0, 0, 5, "5", 1, 1]])]}, r"not a finite number within 1,000,000 px"),
    "nan": ({"annotations": [annotation(3, [[0, 0, 5, float("nan"), 1, 1]])]}, r"not a finite number within"),
    "far": ({"annotations": [annotation(3, [[0, 0, 5, 1e7, 1, 1]])]}, r"not a finite number within 1,000,000 px"),
    "too many points": ({"annotations": [annotation(3, [[1.5] * 200_002])]}, r"a polygon has 100,001 points, the limit is 100,000"),
    "long outline": ({"annotations": [annotation(3, [[0, 0, 1e6, 1e6] * 4])]}, r"outline is 8,000,000 px long, the limit is 4,000,000"),
    "code size": ({"annotations": [annotation(3, {"counts": [600], "size": [30, 20]})]}, r"is of size \[30, 20\], the image is \[20, 30\]"),
    "code longer": ({"annotations": [annotation(3, SHORT | {"counts": [0, 5, 596]})]}, r"longer than the image: 601 of 600 pixels"),
    "code shorter": ({"annotations": [annotation(3, SHORT)]}, r"shorter than the image: 599 of 600 pixels"),
    "code text": ({"annotations": [annotation(3, SHORT | {"counts": "~~"})]}, r"run-length code '~~' is not COCO's compressed text"),
    "code numbers": ({"annotations": [annotation(3, SHORT | {"counts": [1.5]})]}, r"counts must be text or a list of numbers of pixels"),
    "leaves": ({"images": [IMAGE | {"file_name": "../../secret.png"}]}, r"image 1: the path '../../secret.png' leaves"),
    "absolute": ({"images": [IMAGE | {"file_name": "/etc/passwd"}]}, r"image 1: the path '/etc/passwd' leaves"),
    "gone": ({"images": [IMAGE | {"file_name": "gone.png"}]}, r"file_name 'gone.png' is not there under .*; check --images"),
    "no name": ({"images": [IMAGE | {"file_name": "\ud800"}]}, r"images\[0\]: file_name must name a file"),
    "size": ({"images": [IMAGE | {"height": 21}]}, r"annotated at 30 x 21, the image 1.png is 30 x 20 \(upright\)"),
    "no size": ({"images": [{"id": 1, "file_name": "1.png"}]}, r"images\[0\]: height and width must be positive .* got None and None"),
    "huge": ({"images": [IMAGE | {"height": 10**6, "width": 10**6}]}, r"height and width must be positive whole numbers of at most"),
    "image twice": ({"images": [IMAGE, IMAGE]}, r"images\[1\]: the image id 1 stands twice"),
    "file twice": ({"images": [IMAGE, IMAGE | {"id": 2}]}, r"images\[1\]: '1.png' is listed twice, as the images 1 and 2"),
    "image id": ({"images": [IMAGE | {"id": [1]}]}, r"images\[0\]: an image needs an id"),
    "category twice": ({"categories": [CATEGORIES[0]] * 2}, r"categories\[1\]: the category id 7 stands twice"),
    "category": ({"categories": [{"id": 1}]}, r"categories\[0\]: a category needs an id .* and a name"),
    "no lists": ({"annotations": None}, r"a COCO file holds the lists images, annotations, categories"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, changes, message):
    path = save_coco(tmp_path, [annotation(3, SQUARE)], changes=changes)
    with pytest.raises(MedsegError, match=message) as caught:
        imported(path)
    assert isinstance(caught.value, AnnotationError) and not (tmp_path / "out").exists()


def test_names_that_cannot_be_classes(tmp_path):
    path = save_coco(tmp_path, [annotation(3, SQUARE)], changes={"categories": [{"id": 3, "name": "舌"}]})
    with pytest.raises(LabelError, match=r"coco.json: the class names \['舌'\] cannot be used"):
        imported(path)
    path = save_coco(tmp_path, [annotation(3, SQUARE)])
    with pytest.raises(LabelError, match=r"coco.json: the category 'tongue' is no class of the data set \(coating\)"):
        imported(path, classes=["coating"])


def test_the_classes_of_the_file_are_listed(tmp_path):
    names = [{"id": 3, "name": "tongue "}, {"id": 7, "name": "Tongue"}, {"id": 9, "name": "hair"}]
    boxes = [annotation(3, SQUARE), annotation(3, SQUARE, image=2), annotation(3, SQUARE, image=2), annotation(7, SQUARE)]
    path = save_coco(tmp_path, boxes, images=2, changes={"categories": names})
    report, manifest = imported(path)
    assert report.notes[0] == "blanks around the category 'tongue' are left out: 1 file (coco.json)"
    assert report.notes[-2:] == [
        "classes as the annotations name them (--classes would fix them): 1 tongue (3 annotations in 2 images), "
        "2 Tongue (1 annotation in 1 image), 3 hair (0 annotations in 0 images)",
        "class names that differ by case, blanks or one letter alone, perhaps one class: 'tongue' and 'Tongue'",
    ]
    assert json.loads((manifest.folder / "import.json").read_text())["notes"] == report.notes[:1]
    named = import_coco(path, tmp_path / "images", tmp_path / "named", classes=["background", "tongue", "Tongue"]).notes
    assert named[0].startswith("--classes names background, which is always id 0") and not any(
        "as the annotations" in note for note in named
    )


def test_a_folder_in_place_of_the_file(tmp_path):
    path = save_coco(tmp_path, [annotation(3, SQUARE)])
    rule = r"a folder, where a COCO JSON file is expected; name the file itself \(in this folder: coco.json\)"
    with pytest.raises(AnnotationError, match=rule):
        import_coco(tmp_path, path.parent / "images", tmp_path / "out")
    with pytest.raises(ManifestError, match=r"images: this folder holds files of the set \(1.png\), and the manifest would lie among them"):
        import_coco(path, path.parent / "images", path.parent / "images")


def test_truncated_and_missing_files(tmp_path):
    path = save_coco(tmp_path, [annotation(3, SQUARE)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AnnotationError, match=r"coco.json: not valid JSON .*; export the annotations again"):
        imported(path)
    path.unlink()
    with pytest.raises(AnnotationError, match=r"coco.json: there is no such file"):
        imported(path)


def test_values_that_would_fill_the_memory(tmp_path):
    path = save_coco(tmp_path, [])
    path.write_text("[" + "{}," * 2_000_000 + "{}]")
    with pytest.raises(AnnotationError, match=r"coco.json: its values would fill over 384 MB of memory; pass --large"):
        imported(path)


def test_skip_refused(tmp_path):
    path = save_coco(tmp_path, [annotation(3, SQUARE), annotation(3, [[0, 0]], image=2)], images=2)
    with pytest.raises(AnnotationError, match=r"\('2.png'\): .*got 2 numbers.*--skip-refused"):
        imported(path)
    report, manifest = imported(path, skip_refused=True)
    assert [row.sample_id for row in manifest] == ["1"] and "got 2 numbers" in report.refused[0][1]
    path = save_coco(tmp_path, [annotation(3, [[0, 0]])])
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(AnnotationError, match=r"(?s)nothing is left to import, every annotation \(1\) is refused:") as caught:
        import_coco(path, tmp_path / "images", tmp_path / "none", skip_refused=True)
    assert "--skip-refused" not in str(caught.value) and not (tmp_path / "none").exists()


def test_a_compressed_code_is_not_believed():
    content = {"images": [IMAGE], "categories": CATEGORIES, "annotations": [annotation(3, {"counts": "o" * 100, "size": [20, 30]})]}
    document = checked_document(content, Path("x.json"))
    assert "not COCO's compressed text" in str(document.bad[1]) and not document.outlines


def test_several_polygons_are_united():
    whole = coco_rle.decode({"size": [20, 30], "counts": drawn([box(0, 0, 5, 5), box(3, 0, 9, 5)], Size(20, 30)).encode()})
    assert whole.sum() == 45


def test_a_large_file_is_taken_where_the_user_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "tongue"}]}))
    monkeypatch.setattr("medseg.files.MAX_JSON_BYTES", 40)
    with pytest.raises(AnnotationError, match="too large to be an annotation; pass --large if you trust it"):
        read_coco(path)
    assert read_coco(path, large=True).names == ("tongue",)


def test_an_orientation_that_the_size_does_not_tell_is_noted(tmp_path):
    path = save_coco(tmp_path, [annotation(3, [box(2, 3, 12, 9)], image) for image in (1, 2)], images=3)
    for number in (1, 3):  # the third has no annotation
        save_picture(tmp_path / "images" / f"{number}.png", HEIGHT, WIDTH, orientation=4, seed=number)
    report, _ = imported(path)
    assert report.notes[0] == "1 photograph carries an EXIF orientation; which way its mask lies is told by `medseg manifest check`"
