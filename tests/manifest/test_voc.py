"""Pascal VOC's layout: palette and RGB masks, void, image-set lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.data.decode import read_original_mask
from medseg.errors import AnnotationError, LabelError, ManifestError
from medseg.manifest.importers.voc import VOC_CLASSES, import_voc
from medseg.manifest.schema import Manifest
from medseg.manifest.table import read_manifest
from medseg.palettes import voc_colour

from .conftest import save_picture

# The colours as the VOC2012 development kit prints them, typed by hand: our own are computed.
PRINTED = [
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128), (64, 0, 0),
    (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0),
    (0, 192, 0), (128, 192, 0), (0, 64, 128),
]  # fmt: skip
VOID = (224, 224, 192)


def test_the_colour_map() -> None:
    assert [voc_colour(index) for index in range(21)] == PRINTED and voc_colour(255) == VOID
    assert len(VOC_CLASSES) == 20 and (VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == ("aeroplane", "person", "tvmonitor")


def ids_of(name: str) -> np.ndarray:
    """20 x 30: two classes by name, a border of void about the second."""
    ids = np.zeros((20, 30), np.uint8)
    ids[2:5] = 15
    ids[8:16, 3:20], ids[9:15, 4:19] = 255, 1 + ord(name[-1]) % 20
    return ids


def save_voc(root: Path, names: str = "abcd", rgb: bool = False, unmasked: str = "", **lists: str) -> Path:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    table = np.array([*PRINTED, *[(1, 2, 3)] * 234, VOID], np.uint8)
    for name in names:
        save_picture(root / "JPEGImages" / f"{name}.jpg", seed=ord(name))
        if name in unmasked:
            continue
        image = Image.fromarray(table[ids_of(name)] if rgb else ids_of(name))
        if not rgb:
            image.putpalette(table.tobytes())
        image.save(root / "SegmentationClass" / f"{name}.png")
    for list_name, members in lists.items():
        (root / "ImageSets/Segmentation" / f"{list_name}.txt").write_text("".join(f"{member}\n" for member in members))
    return root


def check(manifest: Manifest, root: Path) -> None:
    for row in manifest:
        if row.mask is not None:
            assert np.array_equal(read_original_mask(manifest, row, root), ids_of(row.sample_id)), row.sample_id


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("above", ["", "VOCdevkit/VOC2012"])
def test_palette_and_rgb_masks(tmp_path: Path, rgb: bool, above: str) -> None:
    root = save_voc(tmp_path / "voc" / above, rgb=rgb, unmasked="d")
    report = import_voc(tmp_path / "voc", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    check(manifest, root)
    assert (report.imported, report.unlabelled, report.data_root) == (3, 1, root)
    assert manifest.labels.foreground == VOC_CLASSES and manifest.labels.ignore_colour == VOID
    assert manifest.dataset.masks_under == ("manifest" if rgb else "data_root")
    assert manifest.row(0).image == "JPEGImages/a.jpg" and manifest.row(0).px["person"] == 90
    assert sum(manifest.row(0).px.values()) == 600 - (8 * 17 - 6 * 15), "void is in no class"
    how = json.loads((tmp_path / "out" / "import.json").read_text())
    assert how["importer"] == "voc" and (not rgb or how["maps"][0]["table"][str(0xC08080)] == 15)


def test_lists_are_honoured(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc", train="ca", val="b", trainval="abc", unmasked="d")
    report = import_voc(root, tmp_path / "out", ["train"])
    assert [row.sample_id for row in read_manifest(tmp_path / "out")] == ["a", "c"]
    assert report.notes[0] == "in none of the image sets train, left out: 2 files (b, d)" and not (tmp_path / "out/voc_lists.csv").exists()
    report = import_voc(root, tmp_path / "both", ["train", "val"])
    assert (tmp_path / "both/voc_lists.csv").read_text() == "sample_id,split\na,train\nb,val\nc,train\n"
    assert report.notes[-1].startswith("the split of the image sets: medseg manifest split ") and "--from" in report.notes[-1]
    report = import_voc(root, tmp_path / "all", ["train", "trainval"])
    assert not (tmp_path / "all/voc_lists.csv").exists() and report.imported == 3
    save_voc(root, val="ab")
    report = import_voc(root, tmp_path / "shared", ["train", "val"])
    assert report.notes[-1] == "the image sets train and val share images (a), so they make no split"


def test_lists_that_cannot_be_followed(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc", unmasked="d", train="ad", val="axz", empty="")
    with pytest.raises(AnnotationError, match=r"train.txt: it lists 'd', but there is no mask SegmentationClass/d.png; add the file"):
        import_voc(root, tmp_path / "out", ["train"])
    with pytest.raises(AnnotationError, match=r"(?s)2 files cannot be imported:.*lists 'x', but there is no image JPEGImages/x.jpg.*'z'"):
        import_voc(root, tmp_path / "out", ["val"])
    for name in ("test", "../../../train", "/etc/passwd"):
        with pytest.raises(AnnotationError, match=r"there is no image set .*; name one of: empty, train, val"):
            import_voc(root, tmp_path / "out", [name])
    with pytest.raises(AnnotationError, match=r"empty.txt: the list is empty"):
        import_voc(root, tmp_path / "out", ["empty"])
    (root / "ImageSets/Segmentation/bad.txt").write_text("a\n../../secret\n")
    with pytest.raises(AnnotationError, match=r"bad.txt: the name '../../secret' leaves JPEGImages/"):
        import_voc(root, tmp_path / "out", ["bad"])
    (root / "ImageSets/Segmentation/bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match=r"bad.txt: it is not UTF-8 text"):
        import_voc(root, tmp_path / "out", ["bad"])
    assert not (tmp_path / "out").exists()
    report = import_voc(root, tmp_path / "out", ["train"], skip_refused=True)
    assert report.imported == 1 and len(report.refused) == 1


def test_a_colour_of_no_class_is_named(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc", "ab", rgb=True)
    image = np.array(Image.open(root / "SegmentationClass/b.png"))
    image[0, :3] = (10, 20, 30)
    Image.fromarray(image).save(root / "SegmentationClass/b.png")
    with pytest.raises(LabelError, match=r"b.png: the mask holds colours of no class: #0A141E \(3 pixels\); name them in dataset.yaml"):
        import_voc(root, tmp_path / "out")
    report = import_voc(root, tmp_path / "out", value_map=["#0A141E=ignore"])
    assert report.imported == 2


def test_own_classes_and_colours(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc", "a", rgb=True)
    table = np.array([(0, 0, 0), (255, 0, 200), (7, 7, 90)], np.uint8)
    ids = (np.arange(600) % 3).reshape(20, 30)
    Image.fromarray(table[ids]).save(root / "SegmentationClass/a.png")
    out = tmp_path / "out"
    out.mkdir()
    text = "name: x\nlabels: {classes: {0: background, 1: s, 2: t}, colours: {s: [255, 0, 200]}, ignore_colour: [7, 7, 90]}\n"
    (out / "dataset.yaml").write_text(text)
    with pytest.raises(ManifestError, match=r"it says `masks_under: data_root`.*write `masks_under: manifest`"):
        import_voc(root, out)
    (out / "dataset.yaml").write_text("masks_under: manifest\n" + text)
    report = import_voc(root, out)
    manifest = read_manifest(out)
    decoded = read_original_mask(manifest, manifest.row(0), root)
    assert np.array_equal(decoded, np.array([0, 1, 255])[ids]) and report.notes[-1] == "no mask shows the class t"
    save_voc(root, "a", rgb=True)
    Image.fromarray(np.array(PRINTED, np.uint8)[ids]).save(root / "SegmentationClass/a.png")
    import_voc(root, tmp_path / "given", classes=["s", "t"])
    assert read_manifest(tmp_path / "given").row(0).px == {"background": 200, "s": 200, "t": 200}


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("classes", [["person", "bird"], ["bird", "person"]])
def test_some_of_vocs_classes_are_known_by_name(tmp_path: Path, rgb: bool, classes: list[str]) -> None:
    """Person is 15 and bird 3 in VOC's masks; the classes given are 1 and 2, in their order."""
    root = save_voc(tmp_path / "voc", "v", rgb=rgb)  # ord("v") % 20 + 1 == 19: a train within the border of void
    with pytest.raises(LabelError, match=r"v.png: the mask holds what is none of the classes given: (19|#80C000) \(train, 90 pixels\)"):
        import_voc(root, tmp_path / "out", classes=classes)
    mapped = ["#80C000=background", "19=background"]
    report = import_voc(root, tmp_path / "out", classes=classes, value_map=mapped)
    manifest = read_manifest(tmp_path / "out")
    ids = ids_of("v")
    expected = np.where(ids == 15, 1 + classes.index("person"), np.where(ids == 255, 255, 0))
    assert np.array_equal(read_original_mask(manifest, manifest.row(0), root), expected)
    assert manifest.labels.colour_of("person") == PRINTED[15] and manifest.labels.colour_of("bird") == PRINTED[3]
    assert "VOC's own indices and colours are read as person: 1 file (SegmentationClass/v.png)" in report.notes
    import_voc(root, tmp_path / "out", value_map=mapped)  # by the dataset.yaml of the first time
    assert read_manifest(tmp_path / "out").digest == manifest.digest


def test_a_car_alone_is_grey_in_an_rgb_mask(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc", "a", rgb=True)
    Image.fromarray(np.full((20, 30, 3), 128, np.uint8)).save(root / "SegmentationClass/a.png")
    import_voc(root, tmp_path / "out", classes=["person", "car"])
    assert read_manifest(tmp_path / "out").row(0).px == {"background": 0, "person": 0, "car": 600}


def test_black_and_white_is_not_read_as_void(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc", "a")
    white = np.zeros((20, 30), np.uint8)
    white[:2] = 255
    Image.fromarray(white).save(root / "SegmentationClass/a.png")
    with pytest.raises(LabelError, match=r"a.png: 255 may be a class or what is ignored.*--map 255=ignore or --map 255=CLASS"):
        import_voc(root, tmp_path / "out", classes=["person", "bus"])
    import_voc(root, tmp_path / "out", classes=["person", "bus"], value_map=["255=bus"])
    assert read_manifest(tmp_path / "out").row(0).px["bus"] == 60


def test_names_that_are_not_vocs(tmp_path: Path) -> None:
    root = save_voc(tmp_path / "voc", "a")
    ids = (np.arange(600) % 3).reshape(20, 30).astype(np.uint8)
    Image.fromarray(ids).save(root / "SegmentationClass/a.png")
    report = import_voc(root, tmp_path / "out", classes=["s", "t"])
    assert report.notes == ["none of the classes is VOC's, so indices and colours are read by their place: 1 is s, 2 is t"]
    for names, stray in ((["person", "tongue"], "tongue"), (["Person", "dog"], "Person")):
        with pytest.raises(LabelError, match=rf"--classes: .* is VOC's class \d+, {stray} is none of VOC's .*write a dataset.yaml"):
            import_voc(root, tmp_path / "mixed", classes=names)


def test_layouts_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no JPEGImages/ beside SegmentationClass/ in this folder or one below"):
        import_voc(tmp_path, tmp_path / "out")
    for year in ("VOC2011", "VOC2012"):
        save_voc(tmp_path / "devkit" / year, "a")
    with pytest.raises(AnnotationError, match=r"2 VOC folders lie below \(VOC2011, VOC2012\); name one"):
        import_voc(tmp_path / "devkit", tmp_path / "out")
    root = save_voc(tmp_path / "one", "ab", unmasked="ab")
    with pytest.raises(AnnotationError, match=r"SegmentationClass: no mask has the name of an image"):
        import_voc(root, tmp_path / "out")
    Image.fromarray(ids_of("q")).save(root / "SegmentationClass/q.png")
    with pytest.raises(AnnotationError, match=r"q.png: there is no image JPEGImages/q.\*; add the image, or remove the mask"):
        import_voc(root, tmp_path / "out")
