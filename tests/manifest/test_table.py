"""manifest.csv and splits: what is written is read, and every broken rule is named with its row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medseg.errors import ManifestError
from medseg.labels import LabelSet
from medseg.manifest.schema import Dataset, Manifest
from medseg.manifest.table import (
    check_data_root,
    check_version,
    read_dataset,
    read_manifest,
    read_split,
    select,
    split_names,
    write_checked,
    write_manifest,
    write_split,
)

from .conftest import UNLABELLED, table_of

Make = Callable[[list[dict[str, Any]]], Manifest]


def test_roundtrip_keeps_ids_blanks_and_order(make_manifest: Make) -> None:
    manifest = make_manifest([{"sample_id": "set_1/104"}, {"sample_id": "007", "px_tongue": 5, "px_background": 595}, UNLABELLED])
    assert [row.sample_id for row in manifest] == ["007", "s002", "set_1/104"]
    row = manifest.row(0)
    assert (row.px, tuple(row.size), row.mask) == ({"background": 595, "tongue": 5, "coating": 0}, (20, 30), "masks/007.png")
    unlabelled = manifest.row(1)
    assert (unlabelled.mask, unlabelled.mask_sha256, unlabelled.px) == (None, None, {})
    text = (manifest.folder / "manifest.csv").read_text()
    assert text.splitlines()[1] == f"007,007,images/007.png,masks/007.png,20,30,,,,,{'a' * 64},{'b' * 64},595,5,0"
    assert ".0" not in text and "\r" not in text


def test_digest_is_of_both_files(make_manifest: Make) -> None:
    manifest = make_manifest([{}])
    both = (manifest.folder / "manifest.csv").read_bytes() + (manifest.folder / "dataset.yaml").read_bytes()
    assert manifest.digest == hashlib.sha256(both).hexdigest()
    assert read_manifest(manifest.folder / "manifest.csv").digest == manifest.digest


def test_spacing_is_read_exactly(make_manifest: Make) -> None:
    manifest = make_manifest([{"spacing_x_mm": 0.1, "spacing_y_mm": 1 / 3}])
    assert manifest.frame["spacing_y_mm"].iloc[0] == 1 / 3
    assert "0.1,0.3333333333333333," in (manifest.folder / "manifest.csv").read_text()


def test_where_names_the_line_of_an_unsorted_file(make_manifest: Make) -> None:
    manifest = make_manifest([{"sample_id": name} for name in "abc"])
    path = manifest.folder / "manifest.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    shuffled = read_manifest(manifest.folder)
    assert [row.sample_id for row in shuffled] == ["a", "b", "c"]
    assert shuffled.where(shuffled.row(0)) == f"{path} row 4 (a)"


def test_dataset_yaml_roundtrip(tmp_path: Path) -> None:
    labels = LabelSet.of("a", "b", regions={"both": ["a", "b"]}, colours={"a": (1, 2, 3)}, left_right_pairs=[("a", "b")])
    dataset = Dataset(name="x", labels=labels, licence="CC0", notes="café")
    from medseg.manifest.table import dataset_text

    (tmp_path / "dataset.yaml").write_text(dataset_text(dataset))
    assert read_dataset(tmp_path / "dataset.yaml") == dataset


def test_a_version_is_immutable(make_manifest: Make, tmp_path: Path) -> None:
    manifest = make_manifest([{}, {}])
    path = manifest.folder / "manifest.csv"
    before = path.stat().st_mtime_ns
    assert make_manifest([{}, {}]).digest == manifest.digest and path.stat().st_mtime_ns == before
    with pytest.raises(ManifestError, match=r"manifest.csv: this version exists and differs \(width_px of s001.*v2 beside v1"):
        make_manifest([{}, {"width_px": 31}])
    with pytest.raises(ManifestError, match=r"differs \(2 rows there, 3 now\)"):
        make_manifest([{}, {}, {}])


def test_a_version_that_came_after_the_check_is_refused_and_stays(tmp_path: Path, labels: LabelSet) -> None:
    dataset = Dataset(name="set", labels=labels)
    content = check_version(tmp_path, table_of([{}], labels), dataset)
    write_manifest(tmp_path, table_of([{"group_id": "somebody else's"}], labels), dataset)
    theirs = (tmp_path / "manifest.csv").read_bytes()
    with pytest.raises(ManifestError, match="this version exists and differs"):
        write_checked(tmp_path, content, dataset)
    assert (tmp_path / "manifest.csv").read_bytes() == theirs


def test_dataset_yaml_with_comments_is_left_as_it_is(make_manifest: Make, labels: LabelSet) -> None:
    manifest = make_manifest([{}])
    path = manifest.folder / "dataset.yaml"
    path.write_text("# mine\n" + path.read_text())
    write_manifest(manifest.folder, table_of([{}], labels), manifest.dataset)
    assert path.read_text().startswith("# mine\n")
    with pytest.raises(ManifestError, match=r"dataset.yaml: the file exists and differs; write to a new version"):
        write_manifest(manifest.folder, table_of([{}], labels), manifest.dataset.model_copy(update={"licence": "CC0"}))


BAD_CELLS = {
    "blank sample": ("sample_id", "", r"manifest.csv row 3 \(\): sample_id is blank; give every row"),
    "climbing sample": ("sample_id", "a/../../b", r"row 3 \(a/../../b\): sample_id .* cannot name a file.*use a relative name"),
    "absolute sample": ("sample_id", "/etc/x", r"cannot name a file under an output folder"),
    "drive in sample": ("sample_id", "C:/x", r"cannot name a file under an output folder"),
    "backslash in sample": ("sample_id", "a\\b", r"cannot name a file under an output folder"),
    "sample twice": ("sample_id", "s000", r"row 3 \(s000\): sample_id 's000' stands twice; sample ids must be unique"),
    "blank group": ("group_id", " ", r"row 3 \(s001\): group_id is blank; name the patient"),
    "blank image": ("image", "", r"row 3 \(s001\): image is blank; give the path"),
    "image leaves": ("image", "..\\x.png", r"row 3 \(s001\): the image path .* leaves its root; paths are relative"),
    "absolute image": ("image", "/x.png", r"the image path '/x.png' leaves its root"),
    "drive in image": ("image", "D:\\x.png", r"the image path .* leaves its root"),
    "mask leaves": ("mask", "a/../../x.png", r"the mask path 'a/../../x.png' leaves its root"),
    "no height": ("height_px", "", r"row 3 \(s001\): height_px must be a positive whole number, got ''; write the upright size"),
    "zero width": ("width_px", "0", r"width_px must be a positive whole number, got '0'"),
    "broken width": ("width_px", "30.5", r"width_px must be a positive whole number, got '30.5'"),
    "depth": ("depth_px", "-1", r"depth_px must be blank or a positive whole number, got '-1'"),
    "spacing": ("spacing_x_mm", "0", r"spacing_x_mm must be blank or positive, got '0'; write millimetres"),
    "spacing text": ("spacing_y_mm", "1,5", r"spacing_y_mm must be blank or positive, got '1,5'"),
    "image hash": ("image_sha256", "xyz", r"image_sha256 must be 64 hexadecimal digits, got 'xyz'"),
    "mask hash": ("mask_sha256", "", r"row 3 \(s001\): a row with a mask needs mask_sha256, got ''; import"),
    "px missing": ("px_tongue", "", r"row 3 \(s001\): a row with a mask needs px_tongue; import"),
    "px text": ("px_tongue", "many", r"px_tongue must be blank or a whole number of pixels, got 'many'"),
    "px too many": ("px_tongue", "1", r"row 3 \(s001\): the px_ columns add up to more pixels than 20 x 30"),
    "px without mask": ("mask", "", r"row 3 \(s001\): mask_sha256 without a mask; name the mask"),
}


@pytest.mark.parametrize(("column", "value", "message"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_bad_cell_is_named_by_row(make_manifest: Make, column: str, value: str, message: str) -> None:
    path = make_manifest([{}, {}, {}]).folder / "manifest.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[1, column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


def test_a_mask_as_stored_is_marked_by_true_alone(make_manifest: Make) -> None:
    manifest = make_manifest([{}, {}, UNLABELLED])
    path = manifest.folder / "manifest.csv"
    header, *lines = path.read_text().splitlines()
    head = header.replace(",px_background", ",mask_as_stored,px_background")

    def marked(*cells: str) -> Manifest:
        rows = [",".join([*line.split(",")[:12], cell, *line.split(",")[12:]]) for line, cell in zip(lines, cells, strict=True)]
        path.write_text("\n".join([head, *rows]) + "\n")
        return read_manifest(manifest.folder)

    assert not any(row.mask_as_stored for row in manifest), "a manifest without the column has no such row"
    assert [row.mask_as_stored for row in marked("true", "", "")] == [True, False, False]
    for cells, row in ((("", "false", ""), 3), (("yes", "", ""), 2), (("", "", "true"), 4)):
        with pytest.raises(ManifestError, match=rf"row {row} \(s00{row - 2}\): mask_as_stored must be true or blank.*correct the cell"):
            marked(*cells)


def test_counts_without_a_mask_are_refused(make_manifest: Make) -> None:
    path = make_manifest([UNLABELLED]).folder / "manifest.csv"
    path.write_text(path.read_text().rstrip("\n").removesuffix(",,") + ",7,\n")
    with pytest.raises(ManifestError, match=r"row 2 \(s000\): px_tongue without a mask: an image without annotation"):
        read_manifest(path)


def test_empty_and_missing_manifests(make_manifest: Make, tmp_path: Path) -> None:
    path = make_manifest([{}]).folder / "manifest.csv"
    with pytest.raises(ManifestError, match=r"nowhere/manifest.csv: there is no such file; .*medseg manifest import"):
        read_manifest(tmp_path / "nowhere")
    header = path.read_text().splitlines()[0]
    path.write_text(header + "\n")
    with pytest.raises(ManifestError, match=r"manifest.csv: the manifest is empty: it has a header and no row; import"):
        read_manifest(path)
    path.write_text("")
    with pytest.raises(ManifestError, match=r"manifest.csv: the file is empty; make it again"):
        read_manifest(path)
    path.write_text(header + "\n" + "x," * 40 + "\n")
    with pytest.raises(ManifestError, match=r"not a readable CSV table"):
        read_manifest(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"not a readable CSV table"):
        read_manifest(path)


def test_columns_must_be_the_classes(make_manifest: Make) -> None:
    path = make_manifest([{}]).folder / "manifest.csv"
    path.write_text(path.read_text().replace("px_coating", "px_fur"))
    with pytest.raises(ManifestError, match=r"missing \['px_coating'\], unknown \['px_fur'\].*classes of dataset.yaml"):
        read_manifest(path)


def test_broken_dataset_yaml(make_manifest: Make) -> None:
    folder = make_manifest([{}]).folder
    (folder / "dataset.yaml").write_text("name: x\nlabels: {classes: {0: background, 2: tongue}}\n")
    with pytest.raises(ManifestError, match=r"dataset.yaml: labels.classes: class ids must be 0 .*; correct that key"):
        read_manifest(folder)
    (folder / "dataset.yaml").unlink()
    with pytest.raises(ManifestError, match=r"dataset.yaml: there is no such file"):
        read_manifest(folder)


def test_nothing_half_written_for_a_bad_table(tmp_path: Path, labels: LabelSet) -> None:
    with pytest.raises(ManifestError, match=r"row 2 \(s000\): group_id is blank"):
        write_manifest(tmp_path / "set", table_of([{"group_id": ""}], labels), Dataset(name="set", labels=labels))
    assert not (tmp_path / "set").exists()


def test_paths_resolve_under_their_roots(make_manifest: Make, tmp_path: Path) -> None:
    manifest = make_manifest([{}])
    row = manifest.row(0)
    assert manifest.image_path(row, tmp_path) == tmp_path / "images/s000.png"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match=r"manifest.csv row 2 \(s000\): the path 'images/s000.png' leaves"):
        manifest.image_path(row, tmp_path / "root")


def test_data_root(tmp_path: Path) -> None:
    assert check_data_root(tmp_path) == tmp_path
    with pytest.raises(ManifestError, match=r"no data root is given.*--data-root DIR or set MEDSEG_DATA"):
        check_data_root(None)
    with pytest.raises(ManifestError, match=r"gone: the data root is not there; give --data-root"):
        check_data_root(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match=r"file: the data root is not a folder"):
        check_data_root(tmp_path / "file")


# --- splits


def three(make_manifest: Make) -> tuple[Manifest, pd.DataFrame]:
    manifest = make_manifest([{}, {}, {}, UNLABELLED])
    frame = manifest.frame[["sample_id", "group_id"]].assign(split=["train", "val", "test", "test"])
    return manifest, frame


def test_split_roundtrip_and_selection(make_manifest: Make) -> None:
    manifest, frame = three(make_manifest)
    split = write_split(manifest, "a", frame.iloc[::-1], {"seed": 3})
    first, header, *_ = split.path.read_text().splitlines()
    table_sha256 = hashlib.sha256(split.path.read_bytes().split(b"\n", 1)[1]).hexdigest()
    assert first == f"# medseg-split 1; manifest_sha256={manifest.digest}; table_sha256={table_sha256}; seed=3"
    assert header == "sample_id,group_id,split,fold"
    assert read_split(manifest, "a").frame.equals(split.frame) and read_split(manifest, split.path).digest == split.digest
    assert split.ids("test") == ["s002", "s003"]
    assert [row.sample_id for row in select(manifest, split, "test")] == ["s002"]
    assert split_names(manifest) == ["a"]


def test_split_is_immutable(make_manifest: Make) -> None:
    manifest, frame = three(make_manifest)
    split = write_split(manifest, "a", frame, {"seed": 3})
    assert write_split(manifest, "a", frame, {"seed": 3}).digest == split.digest
    with pytest.raises(ManifestError, match=r"a.csv: this split exists and differs; .*another --name"):
        write_split(manifest, "a", frame, {"seed": 4})


def test_split_of_another_manifest(make_manifest: Make) -> None:
    manifest, frame = three(make_manifest)
    split = write_split(manifest, "a", frame, {})
    path = manifest.folder / "dataset.yaml"
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(ManifestError, match=r"a.csv: made for another version of the manifest"):
        read_split(read_manifest(manifest.folder), "a")
    split.path.write_text(split.path.read_text().partition("\n")[2])
    with pytest.raises(ManifestError, match=r"the first line must begin with '# medseg-split 1'; make it by"):
        read_split(manifest, "a")


def test_missing_split_lists_those_there(make_manifest: Make) -> None:
    manifest, frame = three(make_manifest)
    write_split(manifest, "a", frame, {})
    write_split(manifest, "b", frame, {})
    with pytest.raises(ManifestError, match=r"splits/c.csv: there is no such split; available: a, b; or make it"):
        read_split(manifest, "c")
    with pytest.raises(ManifestError, match=r"a split's name is letters"):
        write_split(manifest, "../c", frame, {})


BAD_SPLITS = {
    "unknown": ("s001,s001,val", "zzz,s001,val", r"a.csv row 4 \(zzz\): the manifest has no such sample; remove the row"),
    "twice": ("s001,s001,val", "s000,s000,train", r"row 4 \(s000\): sample_id 's000' stands twice; keep one"),
    "part": ("s001,s001,val", "s001,s001,dev", r"row 4 \(s001\): unknown split 'dev'; use one of train, val, test"),
    "no group": ("s001,s001,val", "s001,,val", r"row 4 \(s001\): group_id is blank; name the patient"),
    "torn group": ("s001,s001,val", "s001,s000,val", r"a.csv: the group 's000' is in two splits: train and val; put all samples"),
    "columns": ("group_id", "patient", r"the columns must be .*got \['sample_id', 'patient'"),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD_SPLITS.values(), ids=BAD_SPLITS)
def test_bad_split(make_manifest: Make, old: str, new: str, message: str) -> None:
    manifest, frame = three(make_manifest)
    split = write_split(manifest, "a", frame, {})
    split.path.write_text(split.path.read_text().replace(old, new))
    with pytest.raises(ManifestError, match=message):
        read_split(manifest, "a")


def test_split_without_an_image(make_manifest: Make) -> None:
    manifest, frame = three(make_manifest)
    split = write_split(manifest, "a", frame[frame["split"] == "train"], {})
    with pytest.raises(
        ManifestError, match=r"a.csv: no image in the split 'test' \(it has train: 1\); name a part it has, or make the split again"
    ):
        select(manifest, split, "test")
    split = write_split(manifest, "b", frame[frame["sample_id"] == "s003"], {})
    with pytest.raises(ManifestError, match=r"b.csv: no labelled image in the split 'test'; annotate some"):
        select(manifest, split, "test")
    with pytest.raises(ManifestError, match=r"c.csv: the split has no image; list"):
        write_split(manifest, "c", frame.iloc[:0], {})
    split.path.write_text("\n".join(split.path.read_text().splitlines()[:2]) + "\n")
    with pytest.raises(ManifestError, match=r"b.csv: the split has no row; make the split again"):
        read_split(manifest, "b")
