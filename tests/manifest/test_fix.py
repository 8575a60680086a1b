"""`manifest check --fix`: what can be repaired comes out as it was before the defect was planted, and the originals stay."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medseg.errors import ManifestError
from medseg.files import sha256_array, sha256_file
from medseg.images import read_mask
from medseg.manifest.check import fix
from medseg.manifest.check.doctor import Report, check_manifest
from medseg.manifest.check.fix import REPAIRS_FILE, repair
from medseg.manifest.importers import common
from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.split import given_split
from medseg.manifest.table import read_manifest
from medseg.volumes import read_label_volume
from tests.manifest import planting
from tests.manifest.planting import Planter, Sample, add_copy, cropped_copy, unchanged, write_volumes
from tests.manifest.test_check import Prepared, bases, codes_of, imported, labelme_set, medseg, prepared

__all__ = ["bases", "labelme_set", "prepared"]  # fixtures
RNG = np.random.default_rng
TARGETS = (1, 4, 9)


def hashes(root: Path) -> dict[str, str]:
    """Every file under a folder by the SHA-256 of its bytes."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def repaired(root: Path, out: Path) -> tuple[Report, list[dict[str, str]], Report]:
    """(check before, lines of repairs.csv, check after) with version v2 beside `out`."""
    report = check_manifest(out, root)
    before = hashes(root)
    repair(report, root / "v2")
    after = {name: digest for name, digest in hashes(root).items() if not name.startswith("v2/")}
    assert after == before
    with (root / "v2" / REPAIRS_FILE).open() as stream:
        log = list(csv.DictReader(stream))
    return report, log, check_manifest(root / "v2", root)


def ids_of(root: Path, sample: str) -> np.ndarray:
    manifest = read_manifest(root / "v2")
    row = next(row for row in manifest if row.sample_id == sample)
    return read_mask(manifest.mask_path(row, root))


def iou(left: np.ndarray, right: np.ndarray, class_id: int) -> float:
    one, other = left == class_id, right == class_id
    return float((one & other).sum() / max(1, (one | other).sum()))


EQUAL: dict[str, tuple[str, str, tuple[Planter, ...]]] = {
    "0/255": ("binary", "two-valued-mask", (planting.white(255), planting.white(255, "RGB"), planting.white(255, "RGBA"))),
    "grey steps": ("multi", "factor-mask", (planting.factor(50),) * 3),
    "palette": ("multi", "palette-mask", (planting.palette(0), planting.palette(1), planting.palette(2))),
    "palette of one class": ("binary", "palette-mask", (planting.palette(0),) * 3),
    "colours": ("multi", "colour-mask", (planting.colours(own=True),) * 3),
    "colours of one class": ("binary", "colour-mask", (planting.colours(own=True),) * 3),
    "inverted": ("binary", "inverted-mask", (planting.inverted(1),) * 3),
    "inverted, several classes": ("multi", "inverted-mask", (planting.inverted(1),) * 3),
    "specks": ("binary", "specks", (planting.specks(1, 1), planting.specks(6, 4), planting.specks(2, 20))),
    "holes": ("binary", "holes", (planting.holes(1, 1), planting.holes(5, 4), planting.holes(1, 30))),
    **{f"EXIF {number}": ("multi", "exif-orientation", (planting.exif_mask_turned(number),) * 3) for number in range(2, 9)},
}


FAST = [pytest.param(name, marks=[pytest.mark.slow] * (name.startswith("EXIF") and name != "EXIF 6")) for name in EQUAL]


@pytest.mark.parametrize("defect", FAST)
def test_a_repaired_mask_is_the_one_before_the_defect(defect: str, prepared: Prepared) -> None:
    kind, code, planters = EQUAL[defect]
    root, samples = prepared(kind)
    original = {sample.mask.stem: sample.ids for sample in samples}
    for place, plant in zip(TARGETS, planters, strict=True):
        plant(samples[place], RNG(place))
    out = imported(root, kind, as_is=True)
    report, log, after = repaired(root, out)
    targets = {samples[place].mask.stem for place in TARGETS}
    assert all(code in codes_of(report)[sample] for sample in targets)
    assert after.findings == []
    for sample in targets:
        assert np.array_equal(ids_of(root, sample), original[sample]), sample
    assert {line["sample_id"] for line in log if line["code"] == code} == targets
    assert all(line["rule"] and line["before"] and line["after"] for line in log)


def test_palettes_that_number_their_colours_otherwise_than_the_set(prepared: Prepared) -> None:
    """Masks of another tool: VOC's colours, which the data set does not name; most of the set tells what they mean."""
    root, samples = prepared("multi")
    original = {sample.mask.stem: sample.ids for sample in samples}
    for place, sample in enumerate(samples):
        image = Image.fromarray(sample.ids).convert("P")
        image.putpalette(bytes(part for colour in planting.VOC for part in colour))
        image.save(sample.mask)
        if place in TARGETS[:2]:
            planting.palette(0, own=False)(sample, RNG(0))
    named = codes_of(check_manifest(imported(root, "multi", as_is=True), root))
    assert {sample for sample in named if "palette-mask" in named[sample]} == {samples[place].mask.stem for place in TARGETS[:2]}
    _, _, after = repaired(root, root / "v1")
    assert after.findings == []
    assert all(np.array_equal(ids_of(root, sample.mask.stem), original[sample.mask.stem]) for sample in samples)


@pytest.mark.parametrize(("way", "amount"), [("bilinear", 0.5), ("bicubic", 0.6), ("jpeg", 75), ("jpeg", 40), ("blur", 1.0)])
@pytest.mark.parametrize(("kind", "values"), [("binary", "white"), pytest.param("binary", "colours", marks=pytest.mark.slow)])
def test_an_interpolated_mask_is_snapped_to_its_classes(kind: str, values: str, way: str, amount: float, prepared: Prepared) -> None:
    root, samples = prepared(kind)
    original = {sample.mask.stem: sample.ids for sample in samples}
    for place in TARGETS:
        planting.interpolated(values, way, amount)(samples[place], RNG(0))
    _, log, after = repaired(root, imported(root, kind, as_is=True))
    for place in TARGETS:
        sample = samples[place].mask.stem
        assert iou(ids_of(root, sample), original[sample], 1) > 0.97  # of an organ of some 50 px; above 0.99 at 400 px
    assert {line["code"] for line in log} >= {"interpolated-mask"}
    assert not [finding for finding in after.findings if finding.severity == "error"]


def test_interpolated_steps_of_several_classes(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    original = {sample.mask.stem: sample.ids for sample in samples}
    for place in TARGETS:
        planting.interpolated("steps", "jpeg", 80)(samples[place], RNG(0))
    repaired(root, imported(root, "multi", as_is=True))
    for place in TARGETS:
        sample = samples[place].mask.stem
        assert iou(ids_of(root, sample), original[sample], 1) > 0.98


def test_two_defects_on_one_mask_are_both_repaired(prepared: Prepared) -> None:
    root, samples = prepared("binary")
    original = samples[2].ids
    planting.inverted(1)(samples[2], RNG(0))
    planting.white(255)(samples[2], RNG(0))
    _, log, after = repaired(root, imported(root, "binary", as_is=True))
    assert np.array_equal(ids_of(root, samples[2].mask.stem), original) and after.findings == []
    assert [line["code"] for line in log] == ["two-valued-mask", "inverted-mask"]


def test_duplicates_share_a_group_afterwards(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    add_copy(samples[0], "exact", unchanged, RNG(0), "BMP")
    add_copy(samples[3], "near", cropped_copy(0.05), RNG(0))
    _, log, _ = repaired(root, imported(root, "multi"))
    group = {row.sample_id: row.group_id for row in read_manifest(root / "v2")}
    assert group["exact"] == group[samples[0].image.stem] and group["near"] == group[samples[3].image.stem]
    assert len(set(group.values())) == len(samples)
    assert {line["after"] for line in log} == {f"group {group['exact']}", f"group {group['near']}"}


def test_what_cannot_be_known_is_left_out_and_said(prepared: Prepared) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    samples[0].image.write_bytes(b"")
    samples[1].mask.write_bytes(b"none")
    planting.stray(77, 5)(samples[2], RNG(0))
    samples[3].mask.unlink()
    samples[5].mask.write_bytes(samples[5].mask.read_bytes()[:-30])
    _, log, after = repaired(root, out)
    rows = {row.sample_id: row for row in read_manifest(root / "v2")}
    stems = [sample.image.stem for sample in samples]
    assert stems[0] not in rows and [rows[stems[place]].mask for place in (1, 2, 3)] == [None] * 3
    assert {line["sample_id"]: line["code"] for line in log if line["code"] != "hash-changed"} == {
        stems[0]: "file-unreadable", stems[1]: "file-unreadable", stems[2]: "values-outside", stems[3]: "file-missing",
        stems[5]: "file-unreadable",
    }  # fmt: skip
    assert after.findings == []


def test_the_new_version_states_hashes_and_pixels(prepared: Prepared) -> None:
    root, samples = prepared("binary")
    planting.white(255)(samples[0], RNG(0))
    out = imported(root, "binary", as_is=True)
    repaired(root, out)
    manifest = read_manifest(root / "v2")
    for row in manifest:
        ids = read_mask(manifest.mask_path(row, root))
        assert row.px == {"background": int((ids == 0).sum()), "tongue": int((ids == 1).sum())}
        assert row.image_sha256 == sha256_file(root / row.image)
    how = json.loads((root / "v2" / "import.json").read_text())
    assert how["repaired_from_sha256"] == read_manifest(out).digest


def test_masks_and_instances_of_an_importer_move_along(labelme_set: tuple[Path, Path], tmp_path: Path) -> None:
    src, out = labelme_set
    shutil.copytree(src, tmp_path / "src")
    shutil.copytree(out, tmp_path / "v1")
    rows = list(read_manifest(tmp_path / "v1"))
    bad = rows[0].sample_id
    planting.inverted(1)(Sample(src / rows[0].image, tmp_path / "v1" / "masks" / f"{bad}.png", 4), RNG(0))
    repair(check_manifest(tmp_path / "v1", tmp_path / "src"), tmp_path / "v2")
    new = {row.sample_id: row for row in read_manifest(tmp_path / "v2")}
    assert {row.mask_sha256 for row in rows} == {row.mask_sha256 for row in new.values()}
    kept = [name for name, row in new.items() if row.instances and (tmp_path / "v2" / row.instances).is_file()]
    assert set(kept) >= {row.sample_id for row in rows[1:]}
    assert check_manifest(tmp_path / "v2", tmp_path / "src").findings == []


@pytest.mark.parametrize("defect", planting.INSTANCE_PLANTS)
def test_objects_at_fault_are_left_out_and_said(defect: str, prepared: Prepared) -> None:
    root, samples = prepared("labelme", version=True)
    out = root / "v1"
    spec = planting.INSTANCE_PLANTS[defect]
    bad = samples[: len(spec.variants)]
    for sample, plant in zip(bad, spec.variants, strict=True):
        plant(sample, RNG(0))
    masks = {row.sample_id: row.mask_sha256 for row in read_manifest(out)}
    _, log, after = repaired(root, out)
    rows = {row.sample_id: row for row in read_manifest(root / "v2")}
    names = {sample.image.stem for sample in bad}
    assert {name: row.mask_sha256 for name, row in rows.items()} == masks and after.findings == []
    assert {name for name, row in rows.items() if row.instances is None} == names
    assert {path.stem for path in (root / "v2/instances").glob("*")} == set(rows) - names
    assert {line["sample_id"] for line in log} == names and {(line["before"], line["after"]) for line in log} == {("instances", "left out")}
    assert all(line["rule"] and line["code"] in ("hash-changed", *spec.codes) for line in log)


@pytest.mark.parametrize("name", ["instances/link.json", "away/secret.json"])
def test_no_object_outside_the_root_is_copied(name: str, prepared: Prepared) -> None:
    """Where the manifest names, through a link, a file that the user may read and its author may not; the text of a path that leaves
    its root is refused when the manifest is read."""
    root, samples = prepared("labelme", version=True)
    out = root / "v1"
    (root.parent / "elsewhere").mkdir()
    secret = root.parent / "elsewhere" / "secret.json"
    secret.write_text("of another patient")
    (out / "instances/link.json").symlink_to(secret)
    (out / "away").symlink_to(secret.parent)
    table = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(table.replace(f"instances/{samples[0].image.stem}.json", name))
    _, log, _ = repaired(root, out)
    assert [(line["sample_id"], line["code"]) for line in log] == [(samples[0].image.stem, "path-leaves-root")]
    assert not [
        path for path in (root / "v2").rglob("*") if path.is_symlink() or path.is_file() and b"of another patient" in path.read_bytes()
    ]


@pytest.mark.parametrize("name", ["objects/{}.json", "instances/../objects/{}.json", "objects\\{}.json"])
def test_objects_of_any_folder_are_found_in_the_new_version(name: str, prepared: Prepared) -> None:
    root, samples = prepared("labelme", version=True)
    out = root / "v1"
    stem = samples[0].image.stem
    (out / "objects").mkdir()
    samples[0].instances.rename(out / "objects" / f"{stem}.json")
    table = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(table.replace(f"instances/{stem}.json", name.format(stem)))
    report, log, after = repaired(root, out)
    assert (report.findings, log, after.findings) == ([], [], [])
    row = next(row for row in read_manifest(root / "v2") if row.sample_id == stem)
    assert row.instances == f"instances/objects/{stem}.json" and (root / "v2" / row.instances).is_file()


def test_objects_of_a_repaired_mask_are_left_out_and_said(prepared: Prepared) -> None:
    """The objects are those of the mask as it was; of a row whose image alone was saved again they still are."""
    root, samples = prepared("labelme", version=True)
    out = root / "v1"
    manifest = read_manifest(out)
    rng = RNG(0)
    planting.inverted(1)(samples[0], rng)
    planting.emptied(samples[1], rng)
    samples[2].mask.write_bytes(b"none")
    planting.stray(9, 3)(samples[3], rng)
    planting._append(samples[4].image)
    _, log, _ = repaired(root, out)
    told = {(line["sample_id"], line["code"]) for line in log if (line["before"], line["after"]) == ("instances", "left out")}
    stems = [sample.image.stem for sample in samples]
    codes = ("hash-changed", "hash-changed", "file-unreadable", "values-outside")
    assert told == set(zip(stems[:4], codes, strict=True))
    new = {row.sample_id: row.instances for row in read_manifest(root / "v2")}
    assert {name for name, instances in new.items() if instances is None} == set(stems[:4])
    assert len(new) == len(manifest)


def test_objects_of_a_cleaned_mask_are_left_out_under_the_repair_s_code(prepared: Prepared) -> None:
    """Specks that were there at the import: no hash has changed, and the objects still hold them."""
    root, samples = prepared("labelme", version=True)
    out = root / "v1"
    frame = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)
    for sample in samples[:2]:
        planting.specks(3, 2)(sample, RNG(0))
        row = frame["sample_id"] == sample.image.stem
        frame.loc[row, "mask_sha256"] = sha256_array(read_mask(sample.mask))
        counts = np.bincount(read_mask(sample.mask).ravel(), minlength=4)
        for column, count in zip(("px_background", "px_tongue", "px_coating", "px_lesion"), counts, strict=True):
            frame.loc[row, column] = str(count)
    frame.to_csv(out / "manifest.csv", index=False)
    report, log, after = repaired(root, out)
    assert {finding.code for finding in report.findings} == {"specks"} and after.findings == []
    told = [(line["sample_id"], line["code"]) for line in log if line["before"] == "instances"]
    assert told == [(sample.image.stem, "specks") for sample in samples[:2]]


def test_a_fault_of_the_objects_is_not_told_as_the_mask_s(prepared: Prepared) -> None:
    root, samples = prepared("labelme", version=True)
    out = root / "v1"
    samples[0].mask.write_bytes(b"none")
    samples[0].instances.unlink()
    samples[1].image.write_bytes(b"")
    samples[1].instances.unlink()
    _, log, _ = repaired(root, out)
    assert [(line["sample_id"], line["code"], line["after"]) for line in log] == [
        (samples[0].image.stem, "file-unreadable", "unlabelled"), (samples[0].image.stem, "file-unreadable", "left out"),
        (samples[1].image.stem, "file-unreadable", "left out"),
    ]  # fmt: skip


def test_volumes_are_repaired_on_their_grid(tmp_path: Path) -> None:
    samples = write_volumes(tmp_path / "data", 8)
    root = tmp_path / "data"
    import_nifti(root / "images", root / "masks", root / "v1", ["one", "two"])
    original = {sample.mask.name: read_label_volume(sample.mask) for sample in samples}
    planting.volume("mask", lambda array, affine: (np.where(array > 0, array * 100, 0).astype(np.uint8), affine))(samples[0], RNG(0))
    planting.VOLUME_PLANTS["mask's origin shifted"].variants[0](samples[1], RNG(0))
    planting.VOLUME_PLANTS["interpolated voxels"].variants[0](samples[2], RNG(0))
    planting.VOLUME_PLANTS["mask of another shape"].variants[0](samples[3], RNG(0))
    _, log, after = repaired(root, root / "v1")
    rows = {row.sample_id: row for row in read_manifest(root / "v2")}
    assert np.array_equal(read_label_volume(root / "v2" / str(rows["v000"].mask)), original["v000.nii.gz"])
    assert [rows[name].mask for name in ("v001", "v002", "v003")] == [None] * 3
    codes = {(line["sample_id"], line["code"]) for line in log}
    assert codes >= {("v001", "affine-mismatch"), ("v002", "interpolated-mask"), ("v003", "size-mismatch"), ("v000", "factor-mask")}
    assert after.findings == []


# --- refusals


def test_the_manifests_own_folder_is_refused(prepared: Prepared) -> None:
    root, _ = prepared("multi", version=True)
    out = root / "v1"
    before = hashes(root)
    with pytest.raises(ManifestError, match="versions are immutable"):
        repair(check_manifest(out, root), out / ".." / "v1")
    assert hashes(root) == before


def test_a_folder_that_holds_another_version_is_refused(prepared: Prepared) -> None:
    root, samples = prepared("binary")
    planting.white(255)(samples[0], RNG(0))
    out = imported(root, "binary", as_is=True)
    repair(check_manifest(out, root), root / "v2")
    planting.emptied(samples[1], RNG(0))
    before = hashes(root)
    with pytest.raises(ManifestError):
        repair(check_manifest(out, root), root / "v2")
    assert hashes(root) == before


def test_nothing_is_half_written_on_an_error(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    root, samples = prepared("binary")
    planting.white(255)(samples[0], RNG(0))
    out = imported(root, "binary", as_is=True)
    report = check_manifest(out, root)
    before = hashes(root)
    written: list[Path] = []

    def failing(path: Path, *rest: object) -> None:
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "no space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")

    monkeypatch.setattr(fix, "write_mask", failing)
    with pytest.raises(OSError, match="no space"):
        repair(report, root / "v2")
    assert hashes(root) == before


@pytest.mark.parametrize("when", ["the log cannot be written", "another log stands there", "the manifest cannot be written"])
def test_no_version_stands_without_its_log(when: str, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    root, samples = prepared("binary")
    planting.white(255)(samples[0], RNG(0))
    report = check_manifest(imported(root, "binary", as_is=True), root)

    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    if when == "another log stands there":
        (root / "v2").mkdir()
        (root / "v2" / REPAIRS_FILE).write_text("the user's own")
    elif when == "the log cannot be written":
        monkeypatch.setattr(fix, "_write_log", full)
    else:
        monkeypatch.setattr(common, "write_checked", full)
    before = hashes(root)
    with pytest.raises((OSError, ManifestError), match=r"no space|repairs.csv: the file exists and differs"):
        repair(report, root / "v2")
    assert hashes(root) == before


def test_a_set_without_a_readable_image_is_refused(prepared: Prepared) -> None:
    root, samples = prepared("binary", version=True)
    out = root / "v1"
    for sample in samples:
        sample.image.write_bytes(b"")
    with pytest.raises(ManifestError, match="no row is left"):
        repair(check_manifest(out, root), root / "v2")
    assert not (root / "v2").exists() or not any((root / "v2").rglob("*.*"))


@pytest.mark.slow
def test_the_command_repairs(prepared: Prepared) -> None:
    root, samples = prepared("binary")
    planting.white(255)(samples[0], RNG(0))
    out = imported(root, "binary", as_is=True)
    done = medseg(out, "--data-root", root, "--fix", root / "v2")
    assert done.returncode == 2 and "1 repair in" in done.stdout and "share a group" not in done.stdout
    assert medseg(root / "v2", "--data-root", root, "--strict").returncode == 0
    refused = medseg(out, "--data-root", root, "--fix", out)
    assert refused.returncode == 2 and "versions are immutable" in refused.stderr and "Traceback" not in refused.stderr


def test_the_command_says_that_near_duplicates_were_grouped(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    add_copy(samples[0], "exact", unchanged, RNG(0), "BMP")
    add_copy(samples[3], "near", cropped_copy(0.05), RNG(0))
    done = medseg(imported(root, "multi"), "--data-root", root, "--fix", root / "v2")
    assert "near-duplicates share a group now (2 rows changed theirs); a given split (--from) that parts them is refused" in done.stdout
    assert f"medseg manifest split {root / 'v2'} --name main" in done.stdout
    table = root / "given.csv"
    table.write_text(f"sample,split\nexact,test\n{samples[0].image.stem},train\n")
    with pytest.raises(ManifestError, match="is in two splits"):
        given_split(read_manifest(root / "v2"), "given", table)
