"""NIfTI pairs, the Decathlon's layout and nnU-Net's raw folders: grids compared, ids checked, nothing moved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.data.decode import read_original_image
from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError
from medseg.files import sha256_file
from medseg.manifest.imagefiles import image_files, image_hash
from medseg.manifest.importers.common import IMPORT_FILE
from medseg.manifest.importers.decathlon import import_decathlon
from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.importers.nnunet import import_nnunet
from medseg.manifest.schema import Manifest
from medseg.manifest.table import read_manifest
from medseg.volumes import read_header, read_label_volume

from .conftest import save_mask, save_picture

SHAPE = (4, 5, 6)
RAS = np.diag([0.5, 0.75, 2.0, 1.0])
LPS = np.array([[-0.5, 0, 0, 1.5], [0, -0.75, 0, 3.0], [0, 0, 2, 0], [0, 0, 0, 1]])  # the same box, indices run the other way


def save_image(path: Path, seed: int = 0, shape: Sequence[int] = SHAPE, affine: np.ndarray = RAS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16), affine), path)
    return path


def save_labels(path: Path, counts: dict[int, int], shape: Sequence[int] = SHAPE, affine: np.ndarray = RAS) -> Path:
    """A label volume whose first voxels hold the ids of `counts`, so many each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(int(np.prod(shape)), np.uint8)
    ids = np.repeat(list(counts), list(counts.values()))
    mask[: len(ids)] = ids
    nib.save(nib.Nifti1Image(mask.reshape(shape), affine), path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """data/images/a.nii.gz and data/masks/a.nii.gz with 3 voxels of 1 and 2 of 2."""
    save_image(tmp_path / "data/images/a.nii.gz")
    save_labels(tmp_path / "data/masks/a.nii.gz", {1: 3, 2: 2})
    return tmp_path / "data"


def imported(data: Path, out: Path, **options: Any) -> tuple[Any, Manifest]:
    report = import_nifti(data / "images", data / "masks", out, **({"classes": ["left", "right"]} | options))
    return report, read_manifest(out)


def test_a_pair_and_a_volume_without_mask(pair: Path, tmp_path: Path) -> None:
    save_image(pair / "images/sub/b.nii", seed=1)
    report, manifest = imported(pair, tmp_path / "out")
    assert (report.imported, report.unlabelled, report.notes) == (1, 1, [])
    row = manifest.row(0)
    assert (row.sample_id, row.image, row.mask) == ("a", "images/a.nii.gz", "masks/a.nii.gz")
    assert (row.size.width_px, row.size.height_px, row.depth_px, row.spacing_mm) == (4, 5, 6, (0.5, 0.75, 2.0))
    assert row.px == {"background": 115, "left": 3, "right": 2}
    assert row.image_sha256 == sha256_file(pair / "images/a.nii.gz") and row.mask_sha256 == sha256_file(pair / "masks/a.nii.gz")
    assert (manifest.row(1).sample_id, manifest.row(1).mask, manifest.row(1).px) == ("sub/b", None, {})
    assert json.loads((tmp_path / "out" / IMPORT_FILE).read_text()) == {"importer": "nifti"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.yaml", "import.json", "manifest.csv"]
    assert imported(pair, tmp_path / "out")[1].digest == manifest.digest


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mask=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.sampled_from([0, 1, 2, 255])),
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    zooms=st.tuples(*[st.floats(0.2, 5)] * 3),
    dtype=st.sampled_from(["u1", "i2", "f4"]),
)
def test_any_pair_comes_back(tmp_path_factory, mask, angles, zooms, dtype) -> None:  # type: ignore[no-untyped-def]
    mask.flat[0] = 1  # {0, 255} alone is refused
    data = tmp_path_factory.mktemp("pair")
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles) @ np.diag(zooms), (1, 2, 3))
    save_image(data / "images/a.nii.gz", shape=mask.shape, affine=affine)
    (data / "masks").mkdir()
    nib.save(nib.Nifti1Image(mask.astype(dtype), affine), data / "masks/a.nii.gz")
    _, manifest = imported(data, data / "out")
    row = manifest.row(0)
    assert np.array_equal(read_label_volume(manifest.mask_path(row, data)), mask)
    assert (row.size.width_px, row.size.height_px, row.depth_px) == mask.shape and np.allclose(row.spacing_mm, zooms, rtol=1e-4)
    assert row.px == {"background": (mask == 0).sum(), "left": (mask == 1).sum(), "right": (mask == 2).sum()}
    assert np.allclose(read_header(manifest.image_path(row, data)).affine, affine, atol=1e-4)


def test_two_orientations_are_named(pair: Path, tmp_path: Path) -> None:
    save_labels(pair / "masks/a.nii.gz", {1: 3}, affine=LPS)
    rule = r"a.nii.gz: the image a.nii.gz is RAS, the mask LPS: the affines differ, .* \[0.5 0 0 0; .* \[-0.5 0 0 1.5"
    with pytest.raises(ImageError, match=rule):
        imported(pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((4, 6, 5), 0.0, r"the mask is 4 x 6 x 5, its image a.nii.gz is 4 x 5 x 6; resample"),
        (SHAPE, 0.01, r"the mask lies elsewhere than its image a.nii.gz: of the affines, the image's is .* the mask's"),
        (SHAPE, 0.0001, None),
    ],
)
def test_grids_are_compared(pair: Path, tmp_path: Path, shape: Sequence[int], change: float, message: str | None) -> None:
    moved = RAS.copy()
    moved[0, 3] += change
    save_labels(pair / "masks/a.nii.gz", {1: 3}, shape, moved)
    if message is None:
        assert imported(pair, tmp_path / "out")[0].imported == 1
        return
    with pytest.raises(ImageError, match=message):
        imported(pair, tmp_path / "out")


def test_every_refused_file_is_named_and_skipped_on_demand(pair: Path, tmp_path: Path) -> None:
    for name, counts in {"stray": {7: 1}, "white": {255: 4}}.items():
        save_image(pair / f"images/{name}.nii.gz", seed=len(name))
        save_labels(pair / f"masks/{name}.nii.gz", counts)
    save_labels(pair / "masks/orphan.nii.gz", {1: 1})
    save_image(pair / "images/four.nii.gz", shape=(4, 5, 6, 2))
    cut = save_image(pair / "images/cut.nii.gz", seed=5)
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(AnnotationError) as caught:
        imported(pair, tmp_path / "out")
    for message in (
        "5 files cannot be imported",
        "stray.nii.gz: the mask holds ids {7}",
        "the mask holds only 0 and 255; 255 is the ignore id, so nothing would be left or right; convert 255 to 1",
        "orphan.nii.gz: there is no image orphan under",
        "four.nii.gz: its fourth axis holds 2 channels, 1 expected; name the channels in a dataset.json (import decathlon)",
        "cut.nii.gz: the volume is truncated or damaged",
    ):
        assert message in str(caught.value)
    assert not (tmp_path / "out").exists()
    report, manifest = imported(pair, tmp_path / "out", skip_refused=True)
    assert [row.sample_id for row in manifest] == ["a"] and len(report.refused) == 5
    assert (tmp_path / "out/refused.csv").read_text().count("\n") == 6


def test_suffix_names_and_way_out(tmp_path: Path) -> None:
    save_image(tmp_path / "data/a.nii.gz")
    save_labels(tmp_path / "data/a_seg.nii.gz", {1: 3})
    report = import_nifti(tmp_path / "data", tmp_path / "data", tmp_path / "out", ["left"], mask_suffix="_seg")
    assert (report.imported, report.unlabelled) == (1, 0)
    with pytest.raises(ManifestError, match="give --mask-suffix"):
        import_nifti(tmp_path / "data", tmp_path / "data", tmp_path / "out2", ["left"])
    with pytest.raises(ManifestError, match="give --classes NAME,NAME"):
        import_nifti(tmp_path / "data", tmp_path / "data", tmp_path / "out2", mask_suffix="_seg")
    save_labels(tmp_path / "other/b.nii.gz", {1: 3})
    with pytest.raises(AnnotationError, match=r"no mask has the name of an image \(an image: a.nii.gz, a mask: b.nii.gz\)"):
        import_nifti(tmp_path / "data", tmp_path / "other", tmp_path / "out2", ["left"])


def test_notes_on_forms(pair: Path, tmp_path: Path) -> None:
    image = nib.load(save_image(pair / "images/bare.nii", seed=3))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, pair / "images/bare.nii")
    image = nib.load(save_image(pair / "images/torn.nii", seed=4))
    image.set_qform(LPS, 1)
    nib.save(image, pair / "images/torn.nii")
    report, _ = imported(pair, tmp_path / "out")
    assert report.notes == [
        "the header does not say where left and right are (NIfTI: neither sform nor qform is set): 1 file (bare)",
        "qform and sform disagree; the sform is used: 1 file (torn)",
    ]


# --- MetaImage and NRRD


def turned(path: Path, suffix: str) -> Path:
    """The same volume beside a NIfTI file, written by SimpleITK under another suffix; the NIfTI file goes."""
    other = path.with_name(path.name.removesuffix(".nii.gz") + suffix)
    sitk.WriteImage(sitk.ReadImage(path), other, useCompression=True)
    path.unlink()
    return other


def test_formats_may_be_mixed(pair: Path, tmp_path: Path) -> None:
    save_image(pair / "images/b.nii.gz", seed=1)
    save_labels(pair / "masks/b.nii.gz", {2: 4})
    before = imported(pair, tmp_path / "nifti")[1]
    for path, suffix in ((pair / "images/a.nii.gz", ".mha"), (pair / "masks/a.nii.gz", ".nrrd"), (pair / "masks/b.nii.gz", ".mha")):
        turned(path, suffix)
    report, manifest = imported(pair, tmp_path / "out")
    assert (report.imported, report.unlabelled, report.notes) == (2, 0, [])
    assert [(row.image, row.mask) for row in manifest] == [("images/a.mha", "masks/a.nrrd"), ("images/b.nii.gz", "masks/b.mha")]
    for row, other in zip(manifest, before, strict=True):
        assert (row.sample_id, row.px, row.size, row.depth_px, row.spacing_mm) == (
            other.sample_id, other.px, other.size, other.depth_px, other.spacing_mm,
        )  # fmt: skip


def test_two_formats_of_one_name_and_headers_alone(pair: Path, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(pair / "images/a.nii.gz"), pair / "images/a.mha")
    with pytest.raises(AnnotationError, match="same sample id"):
        imported(pair, tmp_path / "out")
    sitk.WriteImage(sitk.ReadImage(pair / "images/a.mha"), pair / "images/b.mhd")
    (pair / "images/a.mha").unlink()
    alone = r"b.mhd: a header alone; its voxels lie in another file; save it as one file: .mha, .nrrd or .nii.gz, or pass --skip-refused"
    with pytest.raises(ImageError, match=alone):
        imported(pair, tmp_path / "out")
    assert len(imported(pair, tmp_path / "out", skip_refused=True)[0].refused) == 1
    (pair / "images/a.nii.gz").unlink()
    with pytest.raises(ImageError, match=alone):  # and not: there is no volume
        imported(pair, tmp_path / "out2")
    with pytest.raises(AnnotationError, match=r"no volume \(.nii, .nii.gz, .mha, .nrrd\) under this folder"):
        imported(pair, tmp_path / "out2", skip_refused=True)


def test_a_file_that_is_nowhere_is_noted(pair: Path, tmp_path: Path) -> None:
    path = turned(pair / "images/a.nii.gz", ".mha")
    (pair / "masks/a.nii.gz").unlink()
    save_image(pair / "images/b.nii.gz")
    save_labels(pair / "masks/b.nii.gz", {1: 1})
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(line for line in lines if not line.startswith(b"TransformMatrix")))
    where = "the header does not say where left and right are (NIfTI: neither sform nor qform is set): 1 file (a)"
    assert imported(pair, tmp_path / "out")[0].notes == [where]


# --- decathlon


def save_decathlon(root: Path, **changes: Any) -> Path:
    for index, name in enumerate("ab"):
        save_image(root / f"imagesTr/{name}.nii.gz", index, (*SHAPE, 2))
        save_labels(root / f"labelsTr/{name}.nii.gz", {1: 3, 2: 2})
    save_image(root / "imagesTs/c.nii.gz", 9, (*SHAPE, 2))
    content = {
        "name": "Prostate", "description": "zones of\nthe prostate", "licence": "CC-BY-SA 4.0", "reference": "a centre",
        "release": "1.0", "modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "zone (TZ)", "2": "PZ"},
        "numTraining": 2, "numTest": 1, "test": ["./imagesTs/c.nii.gz"],
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ab"],
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(content | changes))
    return root


@pytest.mark.parametrize("named", ["", "dataset.json"])
def test_decathlon(tmp_path: Path, named: str) -> None:
    root = save_decathlon(tmp_path / "Task05")
    report = import_decathlon(root / named, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert (report.imported, report.unlabelled, report.data_root) == (2, 1, root)
    assert [(row.sample_id, row.image, row.mask) for row in manifest][::2] == [
        ("a", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz"), ("c", "imagesTs/c.nii.gz", None),
    ]  # fmt: skip
    assert manifest.row(0).px == {"background": 115, "zone _TZ": 3, "PZ": 2} and manifest.row(0).depth_px == 6
    described = manifest.dataset
    assert (described.name, described.licence, described.citation) == ("Prostate", "CC-BY-SA 4.0", "a centre")
    assert (described.source, described.notes) == ("Prostate, release 1.0", "zones of the prostate")
    how = {"importer": "decathlon", "modalities": ["T2", "ADC"], "channel_axis": 3}
    assert json.loads((tmp_path / "out" / IMPORT_FILE).read_text()) == how
    assert report.notes == [
        "a name that cannot head a column was changed: 1 file ('zone (TZ)' -> 'zone _TZ')",
        "the channels are T2, ADC: 1 file (dataset.json)",
    ]
    assert import_decathlon(root, tmp_path / "out").imported == 2 and read_manifest(tmp_path / "out").digest == manifest.digest


def test_decathlon_notes_what_does_not_add_up(tmp_path: Path) -> None:
    root = save_decathlon(tmp_path / "set", numTraining=7, test=[])
    notes = import_decathlon(root, tmp_path / "out").notes
    assert "numTraining says 7, `training` lists 2: 1 file (dataset.json)" in notes
    assert "not listed in dataset.json, left out: 1 file (imagesTs/c.nii.gz)" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": {"0": "T2"}}, r"fourth axis holds 2 channels, 1 expected"),
        ({"modality": ["T2", "ADC", "DWI"]}, r"fourth axis holds 2 channels, 3 expected; correct the list of modalities"),
        ({"modality": {"1": "T2"}}, "`modality` must name the channels"),
        ({"modality": None}, "`modality` must name the channels"),
        ({"labels": {"0": "background", "2": "PZ"}}, "`labels` must name 1, 2, ... without a gap"),
        ({"labels": ["PZ"]}, "`labels` must give names by number"),
        ({"labels": {"0": "background"}}, "`labels` must name 1, 2"),
        ({"training": "all"}, "`training` must be a list"),
        ({"training": [], "test": []}, "it lists no volume"),
        ({"training": [{"image": "../secret.nii.gz"}]}, r"dataset.json \(training 0\): the path '../secret.nii.gz' leaves"),
        ({"training": [{"image": "/etc/passwd"}]}, "leaves"),
        ({"training": [{"image": 3}]}, "`image` must be a path, got 3"),
        ({"training": [{"label": "x"}]}, "`image` must be a path, got None"),
        ({"training": ["imagesTr/none.nii.gz"]}, r"none.nii.gz: there is no such file, and training 0 of dataset.json names it"),
        ({"training": ["imagesTr/a.mhd"]}, "a.mhd: a header alone; its voxels lie in another file"),
        ({"training": ["dataset.json"]}, r"no volume file \(.nii, .nii.gz, .mha, .nrrd\)"),
        ({"training": [{"image": "imagesTr/a.nii.gz"}] * 2}, "same sample id"),
    ],
)
def test_decathlon_that_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_image(tmp_path / "secret.nii.gz")
    root = save_decathlon(tmp_path / "set", **changes)
    with pytest.raises((AnnotationError, ImageError), match=message):
        import_decathlon(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD_JSON = [
    ("{", "not valid JSON"), ("[]", "must hold a mapping"), ("[" * 100_000, "not valid JSON"),
    ("[" + "[]," * 4_000_000 + "[]]", "its values would fill over 384 MB of memory"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_a_description_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    root = save_decathlon(tmp_path / "set")
    (root / "dataset.json").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        import_decathlon(root, tmp_path / "out")
    (root / "dataset.json").unlink()
    for importer in (import_decathlon, import_nnunet):
        with pytest.raises(AnnotationError, match=r"dataset.json: there is no such file; .*`medseg manifest import nifti --images DIR"):
            importer(root, tmp_path / "out")


@pytest.mark.parametrize("importer", [import_decathlon, import_nnunet])
def test_paths_of_the_wrong_kind(tmp_path: Path, importer: Any) -> None:
    root = (save_decathlon if importer is import_decathlon else save_nnunet)(tmp_path / "set")
    (tmp_path / "file").write_text("x")
    told = "not valid JSON" if importer is import_decathlon else "a file, where the source folder is expected; give the folder"
    with pytest.raises(AnnotationError, match=f"file: {told}"):
        importer(tmp_path / "file", tmp_path / "out")
    with pytest.raises(ManifestError, match="file: a file, where the output folder is expected; give another --out"):
        importer(root, tmp_path / "file")
    (root / "dataset.json").unlink()
    (root / "dataset.json").mkdir()
    with pytest.raises(AnnotationError, match="dataset.json: a folder, where a file is expected"):
        importer(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- nnU-Net


def save_nnunet(root: Path, ending: str = ".nii.gz", **changes: Any) -> Path:
    for index, name in enumerate(("p_1", "p_2")):
        for channel in (0, 1):
            save_image(root / f"imagesTr/{name}_{channel:04d}{ending}", 10 * index + channel)
        save_labels(root / f"labelsTr/{name}{ending}", {1: 3, 2: 2, 3: 1})
    for channel in (0, 1):
        save_image(root / f"imagesTs/p_3_{channel:04d}{ending}", 30 + channel)
    content = {
        "channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "core": 1, "edema": 2, "ignore": 3}, "numTraining": 2,
        "file_ending": ending,
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(content | changes))
    return root


def test_nnunet(tmp_path: Path) -> None:
    root = save_nnunet(tmp_path / "Dataset007_Brain")
    report = import_nnunet(root, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert (report.imported, report.unlabelled, manifest.dataset.name, manifest.labels.ignore_id) == (2, 1, "Brain", 3)
    row = manifest.row(0)
    assert (row.sample_id, row.image, row.mask) == ("p_1", "imagesTr/p_1_0000.nii.gz", "labelsTr/p_1.nii.gz")
    assert row.px == {"background": 114, "core": 3, "edema": 2}
    digests = [hashlib.sha256((root / f"imagesTr/p_1_000{channel}.nii.gz").read_bytes()).hexdigest() for channel in (0, 1)]
    assert row.image_sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert row.channels == 2 and ",channels," in (tmp_path / "out/manifest.csv").read_text()
    how = json.loads((tmp_path / "out" / IMPORT_FILE).read_text())
    assert how == {"importer": "nnunet", "channel_names": ["T1", "T2"], "file_ending": ".nii.gz"}


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_nnunet_of_other_formats(tmp_path: Path, ending: str) -> None:
    root = save_nnunet(tmp_path / "set")
    for path in sorted(root.rglob("*.nii.gz")):
        turned(path, ending)
    description = json.loads((root / "dataset.json").read_text()) | {"file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(description))
    report = import_nnunet(root, tmp_path / "out")
    row = read_manifest(tmp_path / "out").row(0)
    assert (report.imported, report.unlabelled) == (2, 1)
    assert (row.image, row.mask, row.channels) == (f"imagesTr/p_1_0000{ending}", f"labelsTr/p_1{ending}", 2)


def test_the_files_of_a_row_and_their_hash(tmp_path: Path) -> None:
    root = save_nnunet(tmp_path / "set")
    import_nnunet(root, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    for row in manifest:
        path = manifest.image_path(row, root)
        assert image_hash(path, row.channels) == row.image_sha256
        assert [file.name for file in image_files(path, row.channels)] == [f"{row.sample_id}_0000.nii.gz", f"{row.sample_id}_0001.nii.gz"]
        assert image_files(path) == (path,) and image_hash(path) == sha256_file(path)
    save_image(root / "imagesTr/p_1_0001.nii.gz", seed=77)
    assert image_hash(root / "imagesTr/p_1_0000.nii.gz", 2) != manifest.row(0).image_sha256
    (root / "imagesTr/p_1_0001.nii.gz").unlink()
    with pytest.raises(ImageError, match=r"p_1_0001.nii.gz: the image has 2 channels, one a file, and this one is missing"):
        image_hash(root / "imagesTr/p_1_0000.nii.gz", 2)
    with pytest.raises(ImageError, match="must be named <case>_0000"):
        image_files(root / "labelsTr/p_1.nii.gz", 2)


@pytest.mark.parametrize(
    ("old", "new"), [(",2,", ",1,"), (",2,", ",two,"), (",2,", ",0,"), (",2,", ",2.0,"), ("p_1_0000.nii.gz", "p_1_0001.nii.gz")]
)
def test_the_channels_of_a_row_are_checked(tmp_path: Path, old: str, new: str) -> None:
    import_nnunet(save_nnunet(tmp_path / "set"), tmp_path / "out")
    table = tmp_path / "out/manifest.csv"
    head, row, rest = table.read_text().split("\n", 2)
    where = dict(zip(head.split(","), row.split(","), strict=True))
    cells = {**where, "channels": new.strip(",")} if old == ",2," else {**where, "image": where["image"].replace(old, new)}
    table.write_text("\n".join([head, ",".join(cells.values()), rest]))
    with pytest.raises(ManifestError, match=r"row 2 \(p_1\): channels must be blank, or over 1 for an image named <case>_0000"):
        read_manifest(tmp_path / "out")


def test_a_channel_may_not_be_a_link_out_of_the_set(tmp_path: Path) -> None:
    root = save_nnunet(tmp_path / "set")
    save_image(tmp_path / "secret.nii.gz", seed=1)
    (root / "imagesTr/p_1_0001.nii.gz").unlink()
    (root / "imagesTr/p_1_0001.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    with pytest.raises(AnnotationError, match=r"p_1_0001.nii.gz: the file lies outside .* \(through a symbolic link\)"):
        import_nnunet(root, tmp_path / "out")


def test_nnunet_version_1(tmp_path: Path) -> None:
    labels = {"0": "background", "1": "core", "2": "edema", "3": "tumour"}
    root = save_nnunet(tmp_path / "Task007_Brain", labels=labels, modality={"0": "T1", "1": "T2"})
    content = json.loads((root / "dataset.json").read_text())
    del content["channel_names"], content["file_ending"]
    (root / "dataset.json").write_text(json.dumps(content))
    import_nnunet(root, tmp_path / "out")
    assert read_manifest(tmp_path / "out").row(0).px == {"background": 114, "core": 3, "edema": 2, "tumour": 1}


def test_nnunet_regions(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    root = save_nnunet(tmp_path / "Dataset001_BraTS", labels=labels, regions_class_order=[1, 2, 3])
    import_nnunet(root, tmp_path / "out")
    found = read_manifest(tmp_path / "out").labels
    assert found.names == ("background", "label_1", "label_2", "enhancing")
    assert {name: found.region_ids(name) for name in found.regions} == {"whole": (1, 2, 3), "core": (2, 3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {"0": "T1"}}, r"dataset.json names 1 channels; .*: 3 files \(imagesTr/p_1_0001.nii.gz"),
        ({"channel_names": {"0": "a", "1": "b", "2": "c"}}, r"the channel c \(p_1_0002.nii.gz\) is missing"),
        ({"file_ending": ".mhd"}, r"file_ending '.mhd' cannot be read \(known are .nii, .*; convert the files to .nii.gz"),
        ({"dataset": {"p_1": {}}}, "lists the files of each case"),
        ({"labels": {"background": 0, "core": 2}}, "ids 1, 2, ... without a gap, got .2."),
        ({"labels": {"background": 0, "core": "1"}}, "the label 'core' must be an id in 0..255"),
        ({"labels": {"background": 0, "core": 256}}, "the label 'core' must be an id in 0..255"),
        ({"labels": {"background": 0, "core": []}}, "the label 'core' must be an id"),
        ({"labels": []}, "`labels` must be a mapping"),
        ({"labels": {"background": 0, "core": 1, "edema": 2}}, "the mask holds ids .3., the classes are"),
    ],
)
def test_nnunet_that_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    root = save_nnunet(tmp_path / "set", **changes)
    with pytest.raises((AnnotationError, LabelError, ImageError), match=message):
        import_nnunet(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nnunet_channels_must_fit_and_have_names(tmp_path: Path) -> None:
    root = save_nnunet(tmp_path / "set")
    save_image(root / "imagesTr/p_1_0001.nii.gz", affine=LPS)
    save_image(root / "imagesTr/plain.nii.gz")
    save_labels(root / "labelsTr/orphan.nii.gz", {1: 1})
    with pytest.raises(AnnotationError) as caught:
        import_nnunet(root, tmp_path / "out")
    for message in (
        "the image p_1_0000.nii.gz is RAS, the channel LPS",
        "plain.nii.gz: its name must be <case>_0000.nii.gz, directly under imagesTr",
        "orphan.nii.gz: there is no image orphan_0000.nii.gz in imagesTr",
    ):
        assert message in str(caught.value)


def test_nnunet_png(tmp_path: Path) -> None:
    root = tmp_path / "Dataset120_Road"
    save_picture(root / "imagesTr/r1_0000.png")
    save_mask(root / "labelsTr/r1.png", {1: 2})
    names = {"0": "R", "1": "G", "2": "B"}
    content = {"channel_names": names, "labels": {"background": 0, "road": 1}, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(content))
    import_nnunet(root, tmp_path / "out")
    row = read_manifest(tmp_path / "out").row(0)
    assert (row.image, row.depth_px, row.px) == ("imagesTr/r1_0000.png", None, {"background": 540, "road": 60})
    assert row.channels == 1 and row.image_sha256 == sha256_file(root / row.image)
    for channel in (1, 2):
        save_picture(root / f"imagesTr/r1_{channel:04d}.png", seed=channel)
    import_nnunet(root, tmp_path / "out2")
    manifest = read_manifest(tmp_path / "out2")
    row = manifest.row(0)
    assert row.channels == 3 and row.image_sha256 == image_hash(root / row.image, 3)
    with pytest.raises(ManifestError, match=r"row 2 \(r1\): the image is 3 files, one a channel; .* training on them is not yet possible"):
        read_original_image(manifest, row, root)
