"""What an import must not do in silence, whatever the format: take one mask for two images, keep old choices, pass images by."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg.errors import AnnotationError, ImageError, ManifestError
from medseg.images import read_mask, verify_image
from medseg.instances import decode, read_instances
from medseg.manifest.importers import common
from medseg.manifest.importers.coco import import_coco
from medseg.manifest.importers.common import ImportReport, claim
from medseg.manifest.importers.decathlon import import_decathlon
from medseg.manifest.importers.dicom import import_dicom
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.importers.masks import import_masks
from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.importers.nnunet import import_nnunet
from medseg.manifest.importers.voc import import_voc
from medseg.manifest.schema import Manifest
from medseg.manifest.table import read_manifest

from .conftest import save_json, save_mask, save_picture

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def save_coco(folder: Path, boxes: dict[str, list[tuple[int, int, int, int]]], **more: Any) -> Path:
    """coco.json beside images/, with the boxes (left, top, right, bottom) of one tongue each."""
    annotations = [
        {"id": 1, "image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}
        for number, found in enumerate(boxes.values())
        for x0, y0, x1, y1 in found
    ]
    images = [{"id": number, "file_name": name, "height": 20, "width": 30} for number, name in enumerate(boxes)]
    for name in boxes:
        save_picture(folder / "images" / name, seed=len(name))
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "tongue"}], **more}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def save_volume(path: Path, values: int = 900) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).integers(0, values, (4, 5, 6)).astype(np.uint8), np.eye(4)), path)
    return path


# --- one mask for two images


def twins_of_labelme(src: Path) -> Callable[[Path, bool], ImportReport]:
    """a.json of a.jpg and a.JSON of b.jpg."""
    for image in ("a.jpg", "b.jpg"):
        save_picture(src / image, seed=ord(image[0]))
    save_json(src / "a.json", [("tongue", 0, 0, 9, 9)])
    save_json(src / "a2.json", [("tongue", 0, 0, 19, 19)], imagePath="b.jpg").rename(src / "a.JSON")
    return lambda out, skip: import_labelme(src, out, skip_refused=skip)


def twins_of_coco(src: Path) -> Callable[[Path, bool], ImportReport]:
    """a.jpg and a.png, both annotated."""
    path = save_coco(src, {"a.jpg": [(0, 0, 10, 10)], "a.png": [(0, 0, 20, 20)]})
    return lambda out, skip: import_coco(path, src / "images", out, skip_refused=skip)


@pytest.mark.parametrize("prepare", [twins_of_labelme, twins_of_coco])
def test_the_mask_of_a_refused_twin_is_never_drawn(tmp_path: Path, prepare: Callable[[Path], Callable[[Path, bool], ImportReport]]) -> None:
    run = prepare(tmp_path / "src")
    with pytest.raises(AnnotationError, match=r"it would have the same sample id as .*a\.\w+ \(a\); rename or remove one of the two"):
        run(tmp_path / "out", False)
    report = run(tmp_path / "out", True)
    manifest = read_manifest(tmp_path / "out")
    (row,) = list(manifest)
    assert report.imported == 1 and len(report.refused) == 1 and "same sample id" in report.refused[0][1]
    mask = read_mask(manifest.mask_path(row, report.data_root))
    (instance,) = read_instances(manifest.folder / str(row.instances))
    assert row.px is not None and row.px["tongue"] == (mask == 1).sum() == decode(instance).sum()


def test_twins_of_masks_are_settled_before_one_is_written(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        save_picture(tmp_path / "i" / name)
    save_mask(tmp_path / "m" / "a.png", {255: 3})
    with pytest.raises(AnnotationError, match=r"i/a.png: it would have the same sample id as i/a.jpg \(a\)"):
        import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"])
    report = import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"], skip_refused=True)
    assert report.imported == 1 and [file for file, _ in report.refused] == ["i/a.png"]


def test_a_mask_in_a_stage_is_never_written_over(tmp_path: Path) -> None:
    claim(tmp_path / "masks/a.png", "a.jpg")
    with pytest.raises(AnnotationError, match=r"A.jpg: its mask would take the place of another sample's \(a.png\).*; rename one"):
        claim(tmp_path / "masks/a.png", "A.jpg")


# --- what an earlier import left


def clear(out: Path, *names: str) -> None:
    for name in names:
        (out / name).unlink()


def test_choices_of_a_removed_import_do_not_stay(tmp_path: Path) -> None:
    path = save_coco(tmp_path / "src", {"a.jpg": [(0, 0, 10, 10), (0, 0, 20, 20)]})
    out = tmp_path / "out"
    import_coco(path, path.parent / "images", out, paint="area")
    clear(out, "manifest.csv", "masks/a.png", "instances/a.json")
    import_coco(path, path.parent / "images", out, paint="order")
    assert json.loads((out / "import.json").read_text())["paint"] == "order"


def test_a_map_of_a_removed_import_does_not_stay(mask_dirs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2, 3):
        save_mask(mask_dirs[1] / f"{number}.png", {7: 2, 9: 2})
    import_masks(*mask_dirs, out, ["tongue"], value_map=["7=tongue", "9=background"])
    clear(out, "manifest.csv", *(f"masks/{number}.png" for number in (1, 2, 3)))
    import_masks(*mask_dirs, out, ["tongue"], value_map=["7=background", "9=tongue"])
    assert json.loads((out / "import.json").read_text())["given"] == {"7": 0, "9": 1}


def test_a_version_is_not_imported_again_by_another_choice(tmp_path: Path) -> None:
    """The two choices give the same masks here, so the manifest alone does not tell."""
    path = save_coco(tmp_path / "src", {"a.jpg": [(0, 0, 10, 10)]})
    import_coco(path, path.parent / "images", tmp_path / "out", paint="area")
    import_coco(path, path.parent / "images", tmp_path / "out", paint="area")
    rule = r"import.json: this version exists and was imported by another choice \(paint: area there, order now\); versions are immutable"
    with pytest.raises(ManifestError, match=rule):
        import_coco(path, path.parent / "images", tmp_path / "out", paint="order")


def test_refused_and_lists_are_there_before_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "voc", tmp_path / "out"
    for name in "abc":
        save_picture(root / "JPEGImages" / f"{name}.jpg", seed=ord(name))
        save_mask(root / "SegmentationClass" / f"{name}.png", {1: 2})
    save_mask(root / "SegmentationClass" / "c.png", {1: 2}, height=9)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nc\n")
    (lists / "val.txt").write_text("b\n")

    def full(*arguments: object) -> None:
        assert {"refused.csv", "voc_lists.csv", "import.json"} <= {path.name for path in out.iterdir()}
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(common, "write_checked", full)
        with pytest.raises(ManifestError, match=r"out: the disk is full \(No space left on device\), so nothing was written; free"):
            import_voc(root, out, ["train", "val"], skip_refused=True)
    assert not out.exists() or not list(out.iterdir())
    import_voc(root, out, ["train", "val"], skip_refused=True)
    assert (out / "voc_lists.csv").read_text() == "sample_id,split\na,train\nb,val\n"
    assert (out / "refused.csv").read_text().count("\n") == 2


# --- names


def not_utf8(folder: Path, suffix: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / f"{NOT_UTF8}{suffix}").write_bytes(b"")
    except OSError:
        pytest.skip("this disk takes UTF-8 names only")
    return folder


def runs_on(root: Path) -> dict[str, Callable[[], object]]:
    """An import of each kind that meets a name that is no UTF-8."""
    out, voc, nnunet = root / "out", root / "voc", root / "nnunet"
    (voc / "SegmentationClass").mkdir(parents=True)
    nnunet.mkdir()
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (nnunet / "dataset.json").write_text(json.dumps(described))
    return {
        "labelme": lambda: import_labelme(not_utf8(root / "l", ".png"), out),
        "labelme json": lambda: import_labelme(not_utf8(root / "j", ".json"), out),
        "folder": lambda: import_labelme(not_utf8(root / "f" / NOT_UTF8, ".jpg").parent, out),
        "masks": lambda: import_masks(save_picture(root / "i/a.png").parent, not_utf8(root / "m", ".png"), out, ["x"]),
        "coco": lambda: import_coco(save_coco(root / "c", {"a.jpg": []}), not_utf8(root / "c/images", ".png"), out),
        "voc": lambda: import_voc(not_utf8(voc / "JPEGImages", ".jpg").parent, out),
        "nifti": lambda: import_nifti(not_utf8(root / "v", ".nii"), not_utf8(root / "w", ".nii"), out, ["x"]),
        "nnunet": lambda: import_nnunet(not_utf8(nnunet / "imagesTr", "_0000.nii.gz").parent, out),
        "dicom": lambda: import_dicom(not_utf8(root / "d", ""), out, root / "key", classes=["x"]),
    }


KINDS = ("labelme", "labelme json", "folder", "masks", "coco", "voc", "nifti", "nnunet", "dicom")


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_no_utf8_is_refused_and_told_escaped(tmp_path: Path, kind: str) -> None:
    runs = runs_on(tmp_path)
    assert set(KINDS) == set(runs)
    with pytest.raises(AnnotationError, match=r"caf\\xe9.*: the name is not UTF-8, so no manifest can hold it; rename the file") as caught:
        runs[kind]()
    str(caught.value).encode()
    assert not (tmp_path / "out").exists()


def test_a_name_in_a_json_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    """Python writes the byte as a lone surrogate, which a JSON can hold, and which names the file."""
    not_utf8(tmp_path / "coco/images", ".png")
    path = save_coco(tmp_path / "coco", {"a.jpg": []}, images=[{"id": 0, "file_name": f"{NOT_UTF8}.png", "height": 20, "width": 30}])
    with pytest.raises(AnnotationError, match=r"images\[0\]: file_name must name a file, got 'caf\\udce9.png'"):
        import_coco(path, tmp_path / "coco/images", tmp_path / "out")
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "x"}, "training": [{"image": f"{NOT_UTF8}.nii"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"training 0\): `image` must be a path, got 'caf\\udce9.nii'"):
        import_decathlon(tmp_path / "dataset.json", tmp_path / "out")


def only_labelled(manifest: Manifest) -> None:
    (row,) = list(manifest)
    assert row.sample_id == NFC and row.mask is not None


@pytest.mark.parametrize(("image", "mask"), [(NFD, NFC), (NFC, NFD)])
def test_names_match_in_either_unicode_form(tmp_path: Path, image: str, mask: str) -> None:
    """An archive made on macOS decomposes accents. The sample id is composed, so that splits and masks match it too."""
    save_picture(tmp_path / f"i/{image}.png")
    save_mask(tmp_path / f"m/{mask}_m\u00e1sk.png", {1: 2})
    import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "masks", ["tongue"], mask_suffix=unicodedata.normalize("NFD", "_m\u00e1sk"))
    only_labelled(read_manifest(tmp_path / "masks"))
    path = save_coco(tmp_path / "coco", {"a.jpg": [(0, 0, 9, 9)]})
    path.write_text(path.read_text().replace("a.jpg", f"{mask}.jpg"))
    (path.parent / "images/a.jpg").rename(path.parent / f"images/{image}.jpg")
    import_coco(path, path.parent / "images", tmp_path / "of_coco")
    only_labelled(read_manifest(tmp_path / "of_coco"))
    save_picture(tmp_path / f"l/{image}.jpg")
    save_json(tmp_path / f"l/{image}.json", [("tongue", 0, 0, 9, 9)], imagePath=f"{mask}.jpg")
    assert import_labelme(tmp_path / "l", tmp_path / "of_labelme", classes=["tongue"]).notes == []
    only_labelled(read_manifest(tmp_path / "of_labelme"))
    save_volume(tmp_path / f"v/{image}.nii.gz")
    save_volume(tmp_path / f"w/{mask}.nii.gz", 2)
    import_nifti(tmp_path / "v", tmp_path / "w", tmp_path / "of_nifti", ["liver"])
    only_labelled(read_manifest(tmp_path / "of_nifti"))


def test_images_whose_names_differ_in_form_alone_are_told_apart(tmp_path: Path) -> None:
    for name in (NFC, NFD):
        save_picture(tmp_path / f"i/{name}.png", seed=len(name))
    save_mask(tmp_path / f"m/{NFC}.png", {1: 2})
    with pytest.raises(AnnotationError, match="it would have the same sample id"):
        import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"])


# --- links to folders


def linked(folder: Path, target: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "set_2").symlink_to(target)
    return folder


@pytest.mark.parametrize("kind", ["labelme", "masks", "coco", "voc", "nifti", "nnunet", "dicom"])
def test_images_behind_a_link_to_a_folder_are_not_passed_by_in_silence(tmp_path: Path, kind: str) -> None:
    far = tmp_path / "far"
    save_picture(far / "b.jpg")
    save_volume(far / "b.nii.gz")
    src, out = tmp_path / "src", tmp_path / "out"
    if kind == "labelme":
        save_picture(src / "a.jpg")
        save_json(src / "a.json", [("tongue", 0, 0, 9, 9)])
        run = lambda **more: import_labelme(linked(src, far), out, **more)  # noqa: E731
    elif kind == "masks":
        save_picture(src / "i/a.png")
        save_mask(src / "m/a.png", {1: 2})
        run = lambda **more: import_masks(linked(src / "i", far), src / "m", out, ["tongue"], **more)  # noqa: E731
    elif kind == "coco":
        path = save_coco(src, {"a.jpg": [(0, 0, 9, 9)]})
        run = lambda **more: import_coco(path, linked(src / "images", far), out, **more)  # noqa: E731
    elif kind == "voc":
        save_picture(src / "JPEGImages/a.jpg")
        save_mask(src / "SegmentationClass/a.png", {1: 2})
        run = lambda **more: import_voc(linked(src / "JPEGImages", far).parent, out, **more)  # noqa: E731
    elif kind == "nifti":
        save_volume(src / "i/a.nii.gz")
        save_volume(src / "m/a.nii.gz", 2)
        run = lambda **more: import_nifti(linked(src / "i", far), src / "m", out, ["x"], **more)  # noqa: E731
    elif kind == "nnunet":
        save_volume(src / "imagesTr/a_0000.nii.gz")
        (src / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}))
        run = lambda **more: import_nnunet(linked(src / "imagesTr", far).parent, out, **more)  # noqa: E731
    else:
        run = lambda **more: import_dicom(linked(src, far), out, tmp_path / "key", classes=["x"], **more)  # noqa: E731
    with pytest.raises(AnnotationError, match=r"set_2: a link to a folder outside .*, not followed: \d files? would be missed; put"):
        run()
    assert not out.exists()
    if kind != "dicom":
        (next(src.rglob("set_2"))).unlink()
        report = run(skip_refused=True)
        assert [file.rpartition("/")[2] for file, _ in report.refused] == ["set_2"]


def test_a_link_within_the_set_is_noted_and_one_without_images_is_not(labelme_dir: Path, tmp_path: Path) -> None:
    (labelme_dir / "again").symlink_to(labelme_dir / "set_1")
    (tmp_path / "texts").mkdir()
    (labelme_dir / "texts").symlink_to(tmp_path / "texts")
    report = import_labelme(labelme_dir, tmp_path / "out", classes=["tongue", "coating"])
    assert report.imported == 2 and report.notes == ["a link to another folder of the same set, not followed: 1 file (again)"]


# --- values


def test_a_picture_of_signed_values_is_refused(tmp_path: Path) -> None:
    """CT values in a TIFF: half of the picture would be black."""
    values = np.tile(np.arange(-15, 15, dtype=np.int32), (20, 1))
    (tmp_path / "i").mkdir()
    Image.fromarray(values).save(tmp_path / "i/a.tif")
    save_mask(tmp_path / "m/a.png", {1: 2})
    rule = r"a.tif: signed intensities from -15 to 14: as a photograph, the 50% of its pixels below 0 become black; import it as NIfTI or"
    with pytest.raises(ImageError, match=rule):
        import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"])
    Image.fromarray((values / 15 - 0.25).astype(np.float32)).save(tmp_path / "i/a.tif")
    with pytest.raises(ImageError, match=r"a.tif: signed intensities from -1.25 to 0.683333: as a photograph, the 63% of its pixels"):
        import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"])
    Image.fromarray(np.where(values < 0, np.nan, values / 15).astype(np.float32)).save(tmp_path / "i/a.tif")
    assert verify_image(tmp_path / "i/a.tif") == (20, 30), "what is not a number is the check's to find"
    Image.fromarray(values + 15).save(tmp_path / "i/a.tif")
    assert import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"]).imported == 1
