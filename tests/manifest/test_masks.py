"""Folders of images and id masks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from medseg.data.decode import read_original_mask
from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError, MedsegError
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
    with pytest.raises(ManifestError, match=r"--classes: masks hold ids without names, .*dataset.yaml that names them; give --classes"):
        import_masks(*mask_dirs, out, value_map=["1=tongue"])
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


def test_black_and_white_is_mapped_never_silently_ignored(mask_dirs: Dirs, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save_mask(mask_dirs[1] / f"{number}.png", {255: number})
    save_mask(mask_dirs[1] / "3.png", {255: 20})
    report = import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    said = "0 and 255 are read as background and tongue"
    assert report.notes == [f"{said}: 3 files (masks/1.png, masks/2.png, masks/3.png)"]
    manifest = read_manifest(tmp_path / "out")
    assert [row.px for row in manifest] == [{"background": 600 - n, "tongue": n} for n in (30, 60, 600)]
    assert manifest.dataset.masks_under == "manifest" and manifest.row(0).mask == "masks/1.png"
    decoded = read_original_mask(manifest, manifest.row(1), report.data_root)
    assert (decoded[:2] == 1).all() and (decoded[2:] == 0).all()
    how = json.loads((tmp_path / "out/import.json").read_text())
    assert how["maps"] == [{"files": 3, "kind": "two_valued", "said": said, "table": {"0": 0, "255": 1}}]
    assert np.asarray(Image.open(mask_dirs[1] / "1.png")).max() == 255, "the originals stay as they are"


def test_bit_masks_beside_black_and_white_ones(mask_dirs: Dirs, tmp_path: Path) -> None:
    """The public BioHit set is such: 1-bit files among 8-bit ones of 0 and 255."""
    Image.fromarray(np.arange(600).reshape(20, 30) < 45).save(mask_dirs[1] / "1.png")
    save_mask(mask_dirs[1] / "2.png", {255: 2})
    report = import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    assert [row.px["tongue"] for row in read_manifest(tmp_path / "out")] == [45, 60, 90]
    assert report.notes == ["0 and 255 are read as background and tongue: 1 file (masks/2.png)"]


def test_ignore_id_beside_a_class(mask_dirs: Dirs, tmp_path: Path) -> None:
    save_mask(mask_dirs[1] / "1.png", {255: 2})
    save_mask(mask_dirs[1] / "2.png", {1: 2, 255: 2})
    with pytest.raises(LabelError, match=r"(?s)255 may be a class or what is ignored.*say which with --map 255=ignore or --map 255=CLASS"):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    import_masks(*mask_dirs, tmp_path / "told", ["tongue"], value_map=["255=tongue"])
    assert [row.px["tongue"] for row in read_manifest(tmp_path / "told")] == [60, 120, 90]
    save_mask(mask_dirs[1] / "3.png", {1: 3, 255: 2})
    report = import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    assert [row.px for row in read_manifest(tmp_path / "out")][:2] == [{"background": 540, "tongue": 0}, {"background": 480, "tongue": 60}]
    assert report.notes == [
        "255 is read as ignored in a mask without any class, as in other masks it stands beside classes: 1 file (masks/1.png)"
    ]


def test_white_among_several_classes_must_be_told(mask_dirs: Dirs, tmp_path: Path) -> None:
    save_mask(mask_dirs[1] / "2.png", {255: 2})
    with pytest.raises(
        LabelError, match=r"2.png: the mask holds only 0 and 255, which is the ignore id; 255 may mean a or b; say it with --map"
    ):
        import_masks(*mask_dirs, tmp_path / "out", ["a", "b"])
    report = import_masks(*mask_dirs, tmp_path / "out", ["a", "b"], value_map=["255=b"])
    assert [row.px["b"] for row in read_manifest(tmp_path / "out")] == [0, 60, 0]
    assert report.notes == ["255 is read as b (--map): 1 file (masks/2.png)"]
    report = import_masks(*mask_dirs, tmp_path / "out2", ["a", "b"], value_map=["255=ignore", "9=a"])
    assert report.notes == [
        "255 is read as ignored (--map): 1 file (masks/2.png)",
        "no mask shows the class b",
        "--map: no mask holds the value 9",
    ]
    assert read_manifest(tmp_path / "out2").dataset.masks_under == "data_root"


def test_map_wins_and_must_make_sense(mask_dirs: Dirs, tmp_path: Path) -> None:
    save_mask(mask_dirs[1] / "2.png", {1: 2, 7: 3})
    import_masks(*mask_dirs, tmp_path / "out", ["tongue"], value_map=["7=background"])
    assert read_manifest(tmp_path / "out").row(1).px == {"background": 540, "tongue": 60}
    for text in ("7", "7=", "x=tongue", "#12=tongue", "="):
        with pytest.raises(LabelError, match=r"--map: .* is not VALUE=CLASS, with a whole number or #RRGGBB as the value"):
            import_masks(*mask_dirs, tmp_path / "out3", ["tongue"], value_map=[text])
    for text, name in (("7=lesion", "lesion"), ("7=1", "1")):
        with pytest.raises(LabelError, match=rf"--map: '{name}' in '{text}' is not among the classes \(tongue, coating\); name it in --cl"):
            import_masks(*mask_dirs, tmp_path / "out3", ["tongue", "coating"], value_map=[text])
    with pytest.raises(LabelError, match=r"--map: the value 7 is mapped twice"):
        import_masks(*mask_dirs, tmp_path / "out3", ["tongue"], value_map=["7=tongue", "7=ignore"])


def test_grey_steps_are_one_reading_for_the_set(mask_dirs: Dirs, tmp_path: Path) -> None:
    """A mask that shows only 0 and 85 is read like the others; a factor is told from the union."""
    for number, rows in {1: {85: 2}, 2: {85: 1, 170: 2}, 3: {255: 4}}.items():
        save_mask(mask_dirs[1] / f"{number}.png", rows)
    report = import_masks(*mask_dirs, tmp_path / "out", ["a", "b", "c"])
    counts = [[row.px[name] for name in "abc"] for row in read_manifest(tmp_path / "out")]
    assert counts == [[60, 0, 0], [30, 60, 0], [0, 0, 120]]
    assert report.notes == ["0, 85, 170 and 255 are read as background, a, b and c: 3 files (masks/1.png, masks/2.png, masks/3.png)"]


def test_a_dataset_yaml_that_keeps_masks_in_place(mask_dirs: Dirs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.yaml").write_text("name: x\nlabels: {classes: {0: background, 1: tongue}}\n")
    save_mask(mask_dirs[1] / "2.png", {255: 2})
    with pytest.raises(ManifestError, match=r"dataset.yaml: it says `masks_under: data_root`, but .*; write `masks_under: manifest`"):
        import_masks(*mask_dirs, out)
    assert [path.name for path in out.iterdir()] == ["dataset.yaml"]
    (out / "dataset.yaml").write_text("name: x\nmasks_under: manifest\nlabels: {classes: {0: background, 1: tongue}}\n")
    import_masks(*mask_dirs, out)
    assert [row.px["tongue"] for row in read_manifest(out)] == [30, 60, 90]


def test_interpolated_masks_are_refused_or_taken_as_is(mask_dirs: Dirs, tmp_path: Path) -> None:
    images, masks = mask_dirs
    disc = (np.hypot(*(np.mgrid[:20, :30] - [[[10]], [[15]]])) < 7).astype(np.uint8)
    Image.fromarray(255 * disc).resize((60, 40)).resize((30, 20), Image.Resampling.BILINEAR).save(masks / "2.png")
    with pytest.raises(
        LabelError, match=r"2.png: the mask is interpolated or JPEG-edited: besides 0 and 255 .*import with --as-is and repair"
    ):
        import_masks(images, masks, tmp_path / "out", ["tongue"])
    save_mask(masks / "3.png", {1: 2}, height=21)
    report = import_masks(images, masks, tmp_path / "out", ["tongue"], as_is=True)
    said = "recorded as stored, training refuses it (run `medseg manifest check --fix`)"
    assert report.imported == 3 and report.notes == [f"{said}: 2 files (masks/2.png, masks/3.png)"]
    manifest = read_manifest(tmp_path / "out")
    assert manifest.row(2).px == {"background": 0, "tongue": 0} and manifest.row(0).px == {"background": 570, "tongue": 30}
    assert manifest.row(1).mask_sha256 == sha256_file(masks / "2.png") and manifest.dataset.masks_under == "data_root"
    for position in (1, 2):
        with pytest.raises((LabelError, ManifestError)):
            read_original_mask(manifest, manifest.row(position), report.data_root)
    (masks / "1.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"1.png: not a readable image"):
        import_masks(images, masks, tmp_path / "out2", ["tongue"], as_is=True)


def test_rows_taken_as_they_are_are_marked_and_never_trained_on(tmp_path: Path) -> None:
    """0 and 255 are legal ids (255 is the ignore id), and a palette may say otherwise than its indices: both would pass in silence."""
    images, masks, out = tmp_path / "i", tmp_path / "m", tmp_path / "out"
    for name in "abcd":
        save_picture(images / f"{name}.png", seed=ord(name))
    save_mask(masks / "a.png", {255: 2})
    save_mask(masks / "b.png", {1: 3})
    swapped = Image.fromarray(np.repeat(np.arange(20)[:, None] // 10, 30, axis=1).astype(np.uint8), mode="P")
    swapped.putpalette([9, 9, 200, 0, 0, 0])
    swapped.save(masks / "c.png")
    save_mask(masks / "d.png", {1: 4}, height=21)
    out.mkdir()
    (out / "dataset.yaml").write_text("name: x\nlabels: {classes: {0: background, 1: tongue}, colours: {tongue: [9, 9, 200]}}\n")
    report = import_masks(images, masks, out, as_is=True)
    said = "recorded as stored, training refuses it (run `medseg manifest check --fix`)"
    assert report.notes == [f"{said}: 3 files (m/a.png, m/c.png, m/d.png)"]
    manifest = read_manifest(out)
    assert [row.mask_as_stored for row in manifest] == [True, False, True, True]
    assert manifest.frame["mask_as_stored"].fillna("").tolist() == ["true", "", "true", "true"]
    for position in (0, 2, 3):
        with pytest.raises(ManifestError, match=r"imported --as-is and is not an id mask; run `medseg manifest check .* --fix OUT`"):
            read_original_mask(manifest, manifest.row(position), report.data_root)
    assert read_original_mask(manifest, manifest.row(1), report.data_root).sum() == 90
    (masks / "a.png").unlink()
    for name in "cd":
        save_mask(masks / f"{name}.png", {1: 4})
    import_masks(images, masks, tmp_path / "sound", ["tongue"], as_is=True)
    assert "mask_as_stored" not in read_manifest(tmp_path / "sound").frame.columns, "plain ids need no mark"


def test_an_orientation_that_the_size_does_not_tell_is_noted(tmp_path: Path) -> None:
    for name, orientation, height in (("a", 3, 20), ("b", 6, 30), ("c", 6, 20), ("d", 1, 20), ("e", 2, 20)):
        save_picture(tmp_path / "i" / f"{name}.jpg", height, 30, orientation)
        save_mask(tmp_path / "m" / f"{name}.png", {1: 2}, *((30, 20) if name == "c" else (height, 30)))
    save_picture(tmp_path / "i" / "unlabelled.jpg", orientation=3)
    said = "3 photographs carry an EXIF orientation; which way their masks lie is told by `medseg manifest check`"
    assert said in import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"]).notes
    save_mask(tmp_path / "m" / "d.png", {255: 2})
    save_mask(tmp_path / "m" / "e.png", {255: 2})
    assert said in import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "written", ["tongue"]).notes
    assert said in import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "as_is", ["tongue"], as_is=True).notes


def test_mask_that_follows_the_pixels_as_stored(tmp_path: Path) -> None:
    save_picture(tmp_path / "i" / "a.jpg", height=30, width=20, orientation=6)
    save_mask(tmp_path / "m" / "a.png", {1: 2}, height=30, width=20)
    with pytest.raises(ImageError, match=r"the mask fits the stored pixels, not the upright photograph \(EXIF orientation 6\)"):
        import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"])


def test_nothing_left_is_its_own_error(mask_dirs: Dirs, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save_mask(mask_dirs[1] / f"{number}.png", {1: 1, 7: number})
    with pytest.raises(LabelError, match=r"masks: none of 3 masks can be imported, the first: .*1.png: the mask holds ids \{7\}") as caught:
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"], skip_refused=True)
    assert "--skip-refused" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_link_out_of_the_root(mask_dirs: Dirs, tmp_path: Path) -> None:
    (mask_dirs[1] / "1.png").unlink()
    (mask_dirs[1] / "1.png").symlink_to(save_mask(tmp_path / "secret" / "x.png", {1: 1}))
    with pytest.raises(AnnotationError, match=r"masks/1.png: the file lies outside .* \(through a symbolic link\)"):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])


def test_patterns_name_masks_and_images(tmp_path: Path) -> None:
    both = tmp_path / "all"
    save_picture(both / "a.jpg")
    for observer in ("1st", "2nd"):
        save_mask(both / f"a_{observer}HO.png", {1: 2 if observer == "1st" else 3})
    import_masks(both, both, tmp_path / "out", ["vessel"], mask_pattern=r"^(.*)_1stHO$", image_pattern=r"^[a-z]$")
    assert [(row.sample_id, row.px["vessel"]) for row in read_manifest(tmp_path / "out")] == [("a", 60)]
    with pytest.raises(ManifestError, match=r"--mask-pattern: 'x' must hold exactly one \(group\).*it has 0"):
        import_masks(both, both, tmp_path / "o", ["vessel"], mask_pattern="x")
    with pytest.raises(ManifestError, match=r"--mask-pattern: '\(' is not a regular expression"):
        import_masks(both, both, tmp_path / "o", ["vessel"], mask_pattern="(")
    with pytest.raises(ManifestError, match=r"--mask-suffix and --mask-pattern say the same"):
        import_masks(both, both, tmp_path / "o", ["vessel"], mask_pattern="(x)", mask_suffix="_m")


@pytest.mark.parametrize(("pattern", "taken"), [(r"\.jpg$", ["a", "bL"]), (r"[LR]$", ["bL"]), (r"^(a|c)\b", ["a", "c"])])
def test_an_image_pattern_sees_the_path_with_suffix_and_without(tmp_path: Path, pattern: str, taken: list[str]) -> None:
    for name in ("a.jpg", "bL.jpg", "c.png"):
        save_picture(tmp_path / "i" / name, seed=ord(name[0]))
        save_mask(tmp_path / "m" / f"{Path(name).stem}.png", {1: 2})  # the masks of images that are left out are no fault
    import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["x"], image_pattern=pattern)
    assert [row.sample_id for row in read_manifest(tmp_path / "out")] == taken


def test_an_image_pattern_that_leaves_nothing_is_named(mask_dirs: Dirs, tmp_path: Path) -> None:
    rule = (
        r"images: --image-pattern '\\\\.jpg\$' finds none of the images under this folder \(3 files, such as 1.png\); correct the pattern"
    )
    with pytest.raises(AnnotationError, match=rule):
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"], image_pattern=r"\.jpg$")


def test_a_full_disk_is_told_of_the_output_and_of_no_source(mask_dirs: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3):
        save_mask(mask_dirs[1] / f"{number}.png", {255: number})

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.manifest.importers.masks.write_mask", full)
    with pytest.raises(ManifestError, match=r"out: the disk is full \(No space left on device\), so nothing was written") as caught:
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    assert "--skip-refused" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["data/images", "data/masks"])
def test_an_output_among_images_or_masks_is_refused(mask_dirs: Dirs, tmp_path: Path, out: str) -> None:
    with pytest.raises(ManifestError, match=r"this folder holds files of the set \(1.png, 2.png, 3.png\), and the manifest would lie"):
        import_masks(*mask_dirs, tmp_path / out, ["tongue"])


def test_an_output_of_its_own_below_the_images_may_be_written_again(mask_dirs: Dirs) -> None:
    for number in (1, 2, 3):
        save_mask(mask_dirs[1] / f"{number}.png", {255: number})
    first = import_masks(*mask_dirs, mask_dirs[0] / "v1", ["tongue"])
    assert import_masks(*mask_dirs, mask_dirs[0] / "v1", ["tongue"]).imported == first.imported == 3


def test_images_without_mask_are_named(mask_dirs: Dirs, tmp_path: Path) -> None:
    (mask_dirs[1] / "2.png").unlink()
    report = import_masks(*mask_dirs, tmp_path / "out", ["background", "tongue"])
    assert list(report.without_mask) == ["images/2.png"] and report.unlabelled == 1
    assert report.notes == ["--classes names background, which is always id 0, so it is left out of the count: the ids are 1 tongue"]


@pytest.mark.parametrize(
    ("option", "said"), [({"mask_pattern": r"^(.*)_1stHO$"}, "--mask-pattern"), ({"mask_suffix": "_1stHO"}, "--mask-suffix")]
)
def test_files_of_one_folder_taken_as_unlabelled_images_are_noted(tmp_path: Path, option: dict[str, str], said: str) -> None:
    both = tmp_path / "all"
    for name in "abcd":
        save_picture(both / f"{name}.jpg", seed=ord(name))
        for observer in ("1st", "2nd"):
            save_mask(both / f"{name}_{observer}HO.png", {1: 2})
    report = import_masks(both, both, tmp_path / "out", ["vessel"], **option)
    note = f"no mask by {said} and without a mask of its own: taken as an unlabelled image (where it is none, give --image-pattern)"
    assert (report.imported, report.unlabelled) == (4, 4)
    assert f"{note}: 4 files (a_2ndHO.png, b_2ndHO.png, c_2ndHO.png, ...)" in report.notes
    report = import_masks(both, both, tmp_path / "told", ["vessel"], image_pattern=r"^[a-z]$", **option)
    assert (report.imported, report.unlabelled) == (4, 0) and not any("unlabelled" in line for line in report.notes)


def test_a_reason_that_files_share_is_told_once(tmp_path: Path) -> None:
    for place in range(12):
        save_picture(tmp_path / "i" / f"p{place:02d}.png", seed=place)
        save_mask(tmp_path / "m" / f"p{place:02d}.png", {255: 3})
    for name in "uvwxyz":
        save_mask(tmp_path / "m" / f"{name}.png", {1: 3})
    with pytest.raises(MedsegError, match=r"18 files cannot be imported:") as caught:
        import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["a", "b"])
    _, *lines, way_out = str(caught.value).splitlines()
    orphans = [f"  {name}.png: there is no image {name}.* under {tmp_path / 'i'}; add the image, or remove the mask" for name in "uvw"]
    assert lines[:4] == [*orphans, "  and 3 more of this kind (x.png, y.png, z.png)"] and way_out.startswith("mend them")
    first = ", ".join(f"p{place:02d}.png" for place in range(8))
    assert (
        len(lines) == 5
        and lines[4].startswith("  the mask holds only 0 and 255")
        and lines[4].endswith(f": 12 files ({first}, and 4 more)")
    )
    report = import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["a", "b"], value_map=["255=a"], skip_refused=True)
    assert len(report.refused) == 6, "refused.csv names every file"


def test_colour_mask(mask_dirs: Dirs, tmp_path: Path) -> None:
    """Black and one colour are one class; other colours must be the labels'."""
    red = np.zeros((20, 30, 3), np.uint8)
    red[:3] = (200, 0, 10)
    Image.fromarray(red).save(mask_dirs[1] / "2.png")
    report = import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    assert [row.px["tongue"] for row in read_manifest(tmp_path / "out")] == [30, 90, 90]
    assert report.notes == ["#000000 and #C8000A are read as background and tongue: 1 file (masks/2.png)"]
    with pytest.raises(LabelError, match=r"2.png: the mask holds colours of no class: #C8000A \(90 pixels\); name them in dataset.yaml"):
        import_masks(*mask_dirs, tmp_path / "out2", ["tongue", "coating"])
    import_masks(*mask_dirs, tmp_path / "out2", ["tongue", "coating"], value_map=["#c8000a=coating"])
    assert read_manifest(tmp_path / "out2").row(1).px == {"background": 510, "tongue": 0, "coating": 90}


# --- round trips: ids written by a convention of another's making, imported, decoded


def _written(ids: np.ndarray, convention: str, folder: Path) -> None:
    """One mask file of `ids` (0..2) by a convention; the files are made by Pillow and numpy alone."""
    palette = [0, 0, 0, 250, 10, 10, 10, 250, 10]
    lut = {"grey100": [0, 100, 200], "spread": [0, 128, 255], "floor": [0, 127, 255]}.get(convention, [0, 1, 2])
    grey = np.array(lut, np.uint8)[ids]
    if convention == "npy64":
        np.save(folder / "a.npy", ids.astype(">i8"))
    elif convention == "npyfloat":
        np.save(folder / "a.npy", np.asfortranarray(ids.astype(np.float64)))
    elif convention == "rgb":
        Image.fromarray(np.array(palette, np.uint8).reshape(3, 3)[ids]).save(folder / "a.png")
    elif convention in ("palette", "palettegif", "palettebmp"):
        image = Image.fromarray(ids.astype(np.uint8), mode="P")
        image.putpalette(palette)
        image.save(folder / f"a.{convention.removeprefix('palette') or 'png'}")
    elif convention in ("u16", "i32", "f32"):
        kind = {"u16": np.uint16, "i32": np.int32, "f32": np.float32}[convention]
        Image.fromarray(ids.astype(kind)).save(folder / ("a.png" if convention == "u16" else "a.tif"))
    elif convention == "rgbgrey":
        Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(folder / "a.bmp")
    else:
        Image.fromarray(grey).save(folder / f"a.{convention if convention in ('gif', 'bmp', 'tif') else 'png'}")


CONVENTIONS = (
    "png", "gif", "bmp", "tif", "u16", "i32", "f32", "npy64", "npyfloat", "palette", "palettegif", "palettebmp", "rgb", "rgbgrey",
    "grey100", "spread", "floor",
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    ids=arrays(np.int64, st.tuples(st.integers(3, 9), st.integers(3, 9)), elements=st.integers(0, 2)),
    convention=st.sampled_from(CONVENTIONS),
)
def test_round_trip(ids: np.ndarray, convention: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "data", Path(folder) / "out"
        (root / "m").mkdir(parents=True)
        out.mkdir()
        if not {1, 2} <= set(np.unique(ids)) and convention in ("grey100", "spread", "floor"):
            ids = np.concatenate([ids, np.resize([1, 2], (1, ids.shape[1]))])  # one step alone may be any class
        save_picture(root / "i" / "a.png", *ids.shape)
        _written(ids, convention, root / "m")
        (out / "dataset.yaml").write_text(
            "name: x\nmasks_under: manifest\nlabels: {classes: {0: background, 1: red, 2: green},"
            " colours: {red: [250, 10, 10], green: [10, 250, 10]}}\n"
        )
        report = import_masks(root / "i", root / "m", out)
        manifest = read_manifest(out)
        decoded = read_original_mask(manifest, manifest.row(0), report.data_root)
        assert decoded.dtype == np.uint8 and np.array_equal(decoded, ids)
        assert list(manifest.row(0).px.values()) == [int((ids == k).sum()) for k in range(3)]


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 128), (1, 2), (127, 255), (0, 1)])
@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif", "npy"])
def test_two_values_of_one_class(tmp_path: Path, low: int, high: int, suffix: str) -> None:
    rng = np.random.default_rng(high)
    truth = {name: rng.random((20, 30)) < 0.4 for name in "abc"}
    truth["b"][:] = True  # a mask all over foreground is read as the others are
    (tmp_path / "m").mkdir()
    for name, mask in truth.items():
        save_picture(tmp_path / "i" / f"{name}.png", seed=ord(name))
        values = np.where(mask, high, low).astype(np.uint8)
        np.save(tmp_path / "m" / f"{name}.npy", values) if suffix == "npy" else Image.fromarray(values).save(
            tmp_path / "m" / f"{name}.{suffix}"
        )
    report = import_masks(tmp_path / "i", tmp_path / "m", tmp_path / "out", ["tongue"])
    manifest = read_manifest(tmp_path / "out")
    for row in manifest:
        assert np.array_equal(read_original_mask(manifest, row, report.data_root), truth[row.sample_id])


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


def test_a_file_taken_for_an_unlabelled_image_is_noted(tmp_path: Path) -> None:
    both = tmp_path / "all"
    save_picture(both / "a.png")
    save_mask(both / "a_mask.png", {1: 2})
    save_mask(both / "a_other.png", {1: 3})
    report = import_masks(both, both, tmp_path / "out", ["vessel"], mask_suffix="_mask")
    assert any("taken as an unlabelled image" in note and "a_other.png" in note and "--image-pattern" in note for note in report.notes)
    told = import_masks(both, both, tmp_path / "o2", ["vessel"], mask_pattern=r"^(.*)_mask$", image_pattern=r"^[a-z]$").notes
    assert not any("unlabelled image" in note for note in told)


def test_a_refusal_says_what_is_alike_three_times_at_most(mask_dirs: Dirs, tmp_path: Path) -> None:
    for number in range(4, 16):
        save_picture(mask_dirs[0] / f"{number}.png", seed=number)
        (mask_dirs[1] / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(ImageError) as caught:
        import_masks(*mask_dirs, tmp_path / "out", ["tongue"])
    assert str(caught.value).count("not a readable image") == 3 and "and 9 more of this kind" in str(caught.value)
