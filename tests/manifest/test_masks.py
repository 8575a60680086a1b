"""Folders of images and id masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError
from medseg.files import sha256_file
from medseg.manifest.importers.masks import import_masks
from medseg.manifest.table import read_manifest

from .conftest import save_mask, save_picture

Dirs = tuple[Path, Path]


def test_import_and_read_back(mask_dirs: Dirs, tmp_path: Path) -> None:
    images, masks = mask_dirs
    save_picture(images / "deep" / "4.jpg", seed=4)
    steps: list[tuple[int, int]] = []
    report = import_masks(images, masks, tmp_path / "out" / "v1", ["tongue"], on_progress=lambda *step: steps.append(step))
    assert (report.imported, report.unlabelled, report.refused, report.notes) == (3, 1, [], [])
    assert report.data_root == tmp_path / "data" and steps[-1] == (4, 4)
    manifest = read_manifest(tmp_path / "out" / "v1")
    row = manifest.row(1)
    assert (row.sample_id, row.image, row.mask, row.px) == ("2", "images/2.png", "masks/2.png", {"background": 540, "tongue": 60})
    assert row.mask_sha256 == sha256_file(masks / "2.png")
    assert manifest.row(3).sample_id == "deep/4" and manifest.row(3).mask is None
    assert (manifest.dataset.name, manifest.dataset.masks_under) == ("out", "data_root")
    assert not list(tmp_path.glob("out/**/*.png")) and not (tmp_path / "out/v1/refused.csv").exists()


def test_palette_and_bit_masks_count_ids(mask_dirs: Dirs, tmp_path: Path) -> None:
    images, masks = mask_dirs
    palette = Image.open(masks / "1.png").convert("L").point(lambda v: v)
    coloured = Image.fromarray(np.asarray(palette), mode="P")
    coloured.putpalette([0, 0, 0, 200, 30, 30])
    coloured.save(masks / "1.png")
    Image.fromarray(np.asarray(Image.open(masks / "2.png")) > 0).save(masks / "2.png")
    import_masks(images, masks, tmp_path / "out", ["tongue"])
    assert [row.px["tongue"] for row in read_manifest(tmp_path / "out")] == [30, 60, 90]


def test_suffix_and_one_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_picture(tmp_path / "all" / f"{name}.jpg", seed=ord(name))
        save_mask(tmp_path / "all" / f"{name}_mask.png", {1: 2})
    report = import_masks(tmp_path / "all", tmp_path / "all", tmp_path / "out", ["vessel"], mask_suffix="_mask")
    assert (report.imported, report.unlabelled) == (2, 0)
    assert [row.mask for row in read_manifest(tmp_path / "out")] == ["a_mask.png", "b_mask.png"]
    with pytest.raises(ManifestError, match=r"images and masks lie in one folder under the same names; give --mask-suffix"):
        import_masks(tmp_path / "all", tmp_path / "all", tmp_path / "out2", ["vessel"])


def test_suffix_chooses_one_of_two_observers(tmp_path: Path) -> None:
    save_picture(tmp_path / "i" / "a.jpg")
    save_mask(tmp_path / "m" / "a_1st.png", {1: 2})
    save_mask(tmp_path / "m" / "a_2nd.png", {1: 3})
    report = import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["vessel"], mask_suffix="_1st")
    assert report.imported == 1 and report.notes == ["no '_1st' at the end of its name, not taken as a mask: 1 file (a_2nd.png)"]


def test_masks_folder_inside_the_images_folder(tmp_path: Path) -> None:
    save_picture(tmp_path / "i" / "a.jpg")
    save_mask(tmp_path / "i" / "masks" / "a.png", {1: 2})
    report = import_masks(tmp_path / "i", tmp_path / "i" / "masks", tmp_path / "out", ["vessel"])
    assert (report.imported, report.unlabelled, report.data_root) == (1, 0, tmp_path / "i")


def test_data_root(mask_dirs: Dirs, tmp_path: Path) -> None:
    images, masks = mask_dirs
    import_masks(images, masks, tmp_path / "out", ["tongue"], data_root=tmp_path)
    assert read_manifest(tmp_path / "out").row(0).image == "data/images/1.png"
    with pytest.raises(ManifestError, match=r"images: the data root must hold both .*; give a --data-root above the two"):
        import_masks(images, masks, tmp_path / "out2", ["tongue"], data_root=images)


def test_existing_dataset_yaml(mask_dirs: Dirs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ManifestError, match=r"dataset.yaml: masks hold ids without names.*; give --classes NAME,NAME"):
        import_masks(*mask_dirs, out)
    out.mkdir()
    (out / "dataset.yaml").write_text("name: x\nlabels: {classes: {0: background, 1: tongue, 2: lesion}}\n")
    with pytest.raises(ManifestError, match=r"it names the classes tongue, lesion, --classes says tongue"):
        import_masks(*mask_dirs, out, ["tongue"])
    import_masks(*mask_dirs, out)
    assert read_manifest(out).row(0).px == {"background": 570, "tongue": 30, "lesion": 0}


def test_upright_sizes_are_compared(tmp_path: Path) -> None:
    save_picture(tmp_path / "i" / "a.jpg", height=30, width=20, orientation=6)
    save_mask(tmp_path / "m" / "a.png", {1: 2})
    import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"])
    assert tuple(read_manifest(tmp_path / "out").row(0).size) == (20, 30)


def test_sizes_differ(mask_dirs: Dirs, tmp_path: Path) -> None:
    save_mask(mask_dirs[1] / "2.png", {1: 2}, height=21)
    with pytest.raises(ImageError, match=r"masks/2.png: the mask is 30 x 21, its image 2.png is 30 x 20 \(upright\); export"):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    assert not (tmp_path / "out").exists()


def test_value_outside_the_classes(mask_dirs: Dirs, tmp_path: Path) -> None:
    save_mask(mask_dirs[1] / "2.png", {1: 2, 7: 3})
    with pytest.raises(LabelError, match=r"masks/2.png: the mask holds ids \{7\}, the classes are \{0..1\}.*name the id in dataset.yaml"):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    save_mask(mask_dirs[1] / "3.png", {9: 2})
    with pytest.raises(LabelError, match=r"(?s)masks: 2 files cannot be imported:.*2.png.*3.png.*mend them"):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    assert not (tmp_path / "out").exists()
    report = import_masks(*mask_dirs, tmp_path / "out", ["tongue"], skip_refused=True)
    assert report.imported == 1 and [file for file, _ in report.refused] == ["masks/2.png", "masks/3.png"]


def test_black_and_white_is_not_silently_ignored(mask_dirs: Dirs, tmp_path: Path) -> None:
    save_mask(mask_dirs[1] / "2.png", {255: 2})
    with pytest.raises(LabelError, match=r"2.png: the mask holds only 0 and 255; 255 is the ignore id.*; convert 255 to 1"):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    save_mask(mask_dirs[1] / "2.png", {255: 20})
    with pytest.raises(LabelError, match=r"the mask holds only 255"):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    save_mask(mask_dirs[1] / "2.png", {1: 2, 255: 2})
    import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    assert read_manifest(tmp_path / "out").row(1).px == {"background": 480, "tongue": 60}


def test_colour_mask(mask_dirs: Dirs, tmp_path: Path) -> None:
    save_picture(mask_dirs[1] / "2.png")
    with pytest.raises(ImageError, match=r"masks/2.png: a mask must hold class ids in one channel, this one is RGB; export"):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])


def test_unreadable_and_unmatched(mask_dirs: Dirs, tmp_path: Path) -> None:
    images, masks = mask_dirs
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:200])
    with pytest.raises(ImageError, match=r"images/1.png: .*(truncated|readable)"):
        import_masks(images, masks, tmp_path / "out", ["tongue"])
    (images / "1.png").unlink()
    with pytest.raises(AnnotationError, match=r"masks/1.png: there is no image 1.\* under .*images; add the image, or remove the mask"):
        import_masks(images, masks, tmp_path / "out", ["tongue"])
    save_picture(images / "1.png")
    save_mask(masks / "1.bmp", {1: 1})
    with pytest.raises(AnnotationError, match=r"masks/1.png: 1.bmp beside it is a mask of the same name; keep one"):
        import_masks(images, masks, tmp_path / "out", ["tongue"])
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_fit(mask_dirs: Dirs, tmp_path: Path) -> None:
    images, masks = mask_dirs
    with pytest.raises(AnnotationError, match=r"gone: the masks folder is not there"):
        import_masks(images, tmp_path / "gone", tmp_path / "out", ["tongue"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match=r"empty: no image under this folder; check --images"):
        import_masks(tmp_path / "empty", masks, tmp_path / "out", ["tongue"])
    save_mask(tmp_path / "other" / "x.png", {1: 1})
    with pytest.raises(AnnotationError, match=r"other: no mask has the name of an image \(an image: 1.png, a mask: x.png\)"):
        import_masks(images, tmp_path / "other", tmp_path / "out", ["tongue"])
    with pytest.raises(LabelError, match=r"--classes: the class names \['a', 'a'\] cannot be used"):
        import_masks(images, masks, tmp_path / "out", ["a", "a"])
