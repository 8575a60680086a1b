"""The mask doctor: every planted defect is found on the sample it was planted on, and sound rows are left alone."""

from __future__ import annotations

import base64
import importlib
import io
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from medseg.errors import ManifestError
from medseg.files import sha256_file
from medseg.labels import LabelSet
from medseg.manifest.check import facts, page, whole
from medseg.manifest.check.doctor import Report, check_manifest
from medseg.manifest.check.findings import CODES, exit_code
from medseg.manifest.check.fix import repair
from medseg.manifest.check.page import SIDE_PX, write_page
from medseg.manifest.check.record import fingerprint
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.importers.masks import import_masks
from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.near import near_duplicates
from medseg.manifest.split import given_split, make_split
from medseg.manifest.table import read_manifest
from medseg.phantom.write import write_phantoms
from medseg.types import Size
from tests.manifest import planting
from tests.manifest.planting import INSTANCE_PLANTS, NEAR, PLANTS, VOLUME_PLANTS, Plant, Sample, add_copy, unchanged, write_volumes

ROWS = 14
TARGETS = (2, 6, 11)
SIDE = 128
MULTI = ("tongue", "coating", "lesion")


@pytest.fixture(scope="module")
def labelme_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(phantoms with their labelme files, the manifest of them)."""
    folder = tmp_path_factory.mktemp("labelme")
    write_phantoms(folder / "src", ROWS, seed=8, size=Size(SIDE, SIDE), jobs=1)
    import_labelme(folder / "src", folder / "v1", classes=MULTI)
    return folder / "src", folder / "v1"


@pytest.fixture(scope="module")
def bases(labelme_set: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Clean sets as images/ and masks/ of one class, of three, of volumes and of labelme files; each also with its version v1."""
    src, out = labelme_set
    folder = tmp_path_factory.mktemp("bases")
    manifest = read_manifest(out)
    for name in ("binary", "multi"):
        for part in ("images", "masks"):
            (folder / name / part).mkdir(parents=True)
        for place, row in enumerate(manifest):
            ids = np.array(Image.open(manifest.mask_path(row, src)))
            Image.fromarray(ids if name == "multi" else np.minimum(ids, 1)).save(folder / name / "masks" / f"{row.sample_id}.png")
            image = Image.open(src / row.image)
            path = folder / name / "images" / f"{row.sample_id}{'.png' if place % 2 else '.jpg'}"
            image.save(path) if place % 2 else shutil.copyfile(src / row.image, path)
    write_volumes(folder / "volumes", ROWS)
    clean = {**{name: folder / name for name in ("binary", "multi", "volumes")}, "labelme": src}
    for kind, path in clean.items():  # to be copied with its version, for what is planted after the import
        shutil.copytree(path, folder / "imported" / kind)
        imported(folder / "imported" / kind, kind)
    return {**clean, **{f"{kind}, imported": folder / "imported" / kind for kind in clean}}


def classes_of(kind: str) -> tuple[str, ...]:
    return {"binary": ("tongue",), "multi": MULTI, "labelme": MULTI, "volumes": ("one", "two")}[kind]


def samples_of(root: Path, kind: str) -> list[Sample]:
    if kind == "labelme":  # masks and objects lie where the import will write them
        out = root / "v1"
        return [
            Sample(path, out / "masks" / f"{path.stem}.png", 4, instances=out / "instances" / f"{path.stem}.json")
            for path in sorted(root.glob("*.jpg"))
        ]
    colours = tuple(map(tuple, LabelSet.of(*classes_of(kind)).palette[: len(classes_of(kind)) + 1].tolist()))
    suffix = ".nii.gz" if kind == "volumes" else ".png"
    paths = sorted((root / "images").iterdir())
    return [Sample(path, root / "masks" / (path.name.split(".")[0] + suffix), len(colours), colours) for path in paths]


def imported(root: Path, kind: str, as_is: bool = False) -> Path:
    out = root / "v1"
    if kind == "volumes":
        import_nifti(root / "images", root / "masks", out, classes_of(kind))
    elif kind == "labelme":
        import_labelme(root, out, classes=MULTI)
    else:
        import_masks(root / "images", root / "masks", out, classes_of(kind), as_is=as_is)
    return out


def codes_of(report: Report) -> dict[str, set[str]]:
    """Sample -> the codes of the findings that name it."""
    named: dict[str, set[str]] = {}
    for finding in report.findings:
        for sample in (finding.sample_id, *finding.others):
            named.setdefault(sample, set()).add(finding.code)
    return named


def of(report: Report, code: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.sample_id, finding.others) for finding in report.findings if finding.code == code]


Prepared = Callable[..., tuple[Path, list[Sample]]]


@pytest.fixture
def prepared(bases: dict[str, Path], tmp_path: Path) -> Prepared:
    """Copy a clean set of one kind, binary, multi, labelme or volumes, with its version v1 or without: (its folder, its samples)."""

    def prepare(kind: str, version: bool = False) -> tuple[Path, list[Sample]]:
        root = tmp_path / kind
        shutil.copytree(bases[f"{kind}, imported" if version else kind], root)
        return root, samples_of(root, kind)

    return prepare


# --- sound sets


@pytest.mark.parametrize("kind", ["binary", "multi", "volumes"])
def test_a_sound_set_has_no_finding(kind: str, bases: dict[str, Path], prepared: Prepared) -> None:
    root, _ = prepared(kind)
    report = check_manifest(imported(root, kind), root)
    assert (report.findings, report.flagged(), exit_code(report.findings, strict=True)) == ([], 0, 0)


def test_a_sound_labelme_set_has_no_finding(labelme_set: tuple[Path, Path]) -> None:
    src, out = labelme_set
    assert check_manifest(out, src).findings == []


@pytest.mark.parametrize("orientation", [6, *(pytest.param(other, marks=pytest.mark.slow) for other in (2, 3, 4, 5, 7, 8))])
def test_photographs_turned_with_their_masks_are_sound(orientation: int, prepared: Prepared) -> None:
    root, samples = prepared("multi")
    for sample in samples[:6]:
        planting.exif_right(orientation)(sample, np.random.default_rng(0))
    assert check_manifest(imported(root, "multi"), root).findings == []


# --- planted defects


def plants() -> list[tuple[str, str, str]]:
    """(kind of set, flow, defect): after the import (A); before it (B) where an import takes it."""
    cases = []
    for defect, spec in PLANTS.items():
        kind = "multi" if spec.multi else "binary"
        cases += [(kind, "B" if spec.importable else "A", defect)]
    return cases + [("volumes", "A", defect) for defect in VOLUME_PLANTS] + [("labelme", "A", defect) for defect in INSTANCE_PLANTS]


def spec_of(kind: str, defect: str) -> Plant:
    return {"volumes": VOLUME_PLANTS, "labelme": INSTANCE_PLANTS}.get(kind, PLANTS)[defect]


@pytest.mark.parametrize(("kind", "flow", "defect"), plants())
def test_a_planted_defect_is_found_and_sound_rows_are_left_alone(kind: str, flow: str, defect: str, prepared: Prepared) -> None:
    root, samples = prepared(kind, version=flow == "A")
    spec = spec_of(kind, defect)
    rng = np.random.default_rng([*defect.encode()])
    out = root / "v1"
    for number, place in enumerate(TARGETS):
        spec.variants[number % len(spec.variants)](samples[place], rng)
    if flow == "B":
        imported(root, kind, as_is=True)
    report = check_manifest(out, root)
    named = codes_of(report)
    targets = {samples[place].image.name.split(".")[0] for place in TARGETS}
    assert {sample for sample in targets if set(spec.codes) & named.get(sample, set())} == targets
    assert {sample for sample in named if sample} <= targets
    assert exit_code(report.findings, strict=True) > 0


@pytest.mark.parametrize("defect", INSTANCE_PLANTS)
def test_each_fault_of_the_objects_names_their_file(defect: str, prepared: Prepared) -> None:
    root, samples = prepared("labelme", version=True)
    out = root / "v1"
    spec = INSTANCE_PLANTS[defect]
    for sample, plant in zip(samples, spec.variants, strict=False):
        plant(sample, np.random.default_rng(0))
    report = check_manifest(out, root)
    told = {(f.sample_id, Path(f.file).name) for f in report.findings if f.code in spec.codes and f.rule and f.fix}
    assert told == {(sample.image.stem, sample.instances.name) for sample in samples[: len(spec.variants)]}


def test_objects_that_may_not_be_read_are_a_finding(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    root, samples = prepared("labelme", version=True)
    out = root / "v1"

    def refused(path: Path) -> str:
        if path.name == samples[0].instances.name:
            raise PermissionError(13, "Permission denied", str(path))
        return sha256_file(path)

    monkeypatch.setattr(facts, "sha256_file", refused)
    found = check_manifest(out, root, jobs=1).findings
    assert [(f.sample_id, f.code, f.rule) for f in found] == [
        (samples[0].image.stem, "file-unreadable", "it cannot be read (Permission denied)")
    ]


def test_changed_objects_hide_no_wrong_count(prepared: Prepared) -> None:
    """hash-changed of image or mask explains px_ columns that do not count the mask; that of the objects does not."""
    root, samples = prepared("labelme", version=True)
    out = root / "v1"
    table = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)
    table.loc[2, "px_tongue"] = str(int(table.loc[2, "px_tongue"]) - 5)
    table.to_csv(out / "manifest.csv", index=False)
    INSTANCE_PLANTS["changed objects"].variants[0](samples[2], np.random.default_rng(0))
    named = codes_of(check_manifest(out, root))
    assert named == {samples[2].image.stem: {"hash-changed", "pixels-mismatch"}}


BROKEN_IMPORTS = {
    "no JSON": b"{'importer': 'masks'}", "cut": b'{"given": {"1"', "a list": b"[]", "nested": b"[" * 100_000, "empty": b"",
    "no map": b'{"given": [1]}', "no class": b'{"given": {"1": 77}}', "no number": b'{"given": {"1": {}}}', "bytes": bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN_IMPORTS.values(), ids=BROKEN_IMPORTS)
def test_a_broken_import_json_is_a_finding_and_stops_repairs_only(content: bytes, prepared: Prepared) -> None:
    root, samples = prepared("binary", version=True)
    out = root / "v1"
    planting.emptied(samples[2], np.random.default_rng(0))
    (out / "import.json").write_bytes(content)
    report = check_manifest(out, root)
    found = [f for f in report.findings if f.file == "import.json"]
    assert [(f.code, f.row, f.sample_id) for f in found] == [("file-unreadable", None, "")]
    assert "said by --map at the import is not known" in found[0].rule and "import the set again as a new version" in found[0].fix
    assert "annotation" not in found[0].fix and "empty-mask" in codes_of(report)[samples[2].mask.stem]
    with pytest.raises(ManifestError, match=r"v1/import.json: the file is broken: .*would have to guess it; put it back"):
        repair(report, root / "v2")
    assert not (root / "v2").exists()
    (out / "import.json").unlink()
    assert not [f for f in check_manifest(out, root).findings if f.file == "import.json"]


def test_what_was_said_by_map_is_read_from_import_json(prepared: Prepared) -> None:
    root, samples = prepared("binary")
    for sample in samples:
        planting.white(7)(sample, np.random.default_rng(0))
    imported(root, "binary", as_is=True)
    path = root / "v1" / "import.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "given": {"7": 0, "#FF0000": 1}}))
    assert len(of(check_manifest(root / "v1", root), "empty-mask")) == ROWS


def test_most_swapped_masks_are_suspected(tmp_path: Path) -> None:
    """Two masks exchanged: no rule on one file sees it, but the outlines lie on no edges."""
    write_phantoms(tmp_path / "src", 40, seed=3, size=Size(SIDE, SIDE), jobs=1)
    import_labelme(tmp_path / "src", tmp_path / "v1", classes=MULTI)
    masks = sorted((tmp_path / "v1" / "masks").glob("*.png"))
    for one, other in zip(masks[0:8:2], masks[1:8:2], strict=True):
        one.rename(tmp_path / "kept.png")
        other.rename(one)
        (tmp_path / "kept.png").rename(other)
    report = check_manifest(tmp_path / "v1", tmp_path / "src")
    suspected = {sample for sample, _ in of(report, "mask-misfit")}
    swapped = {path.stem for path in masks[:8]}
    assert len(suspected & swapped) >= 6 and not suspected - swapped


def test_counts_that_are_not_the_masks_are_found_and_counted_anew(prepared: Prepared, tmp_path: Path) -> None:
    root, samples = prepared("binary", version=True)
    out = root / "v1"
    table = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)
    table.loc[3, "px_tongue"] = str(int(table.loc[3, "px_tongue"]) - 5)
    table.to_csv(out / "manifest.csv", index=False)
    report = check_manifest(out, root)
    assert of(report, "pixels-mismatch") == [(table.loc[3, "sample_id"], ())]
    assert exit_code(report.findings, strict=False) == 2


def test_masks_written_by_the_importer_are_checked_too(labelme_set: tuple[Path, Path], tmp_path: Path) -> None:
    src, out = labelme_set
    shutil.copytree(out, tmp_path / "v1")
    manifest = read_manifest(tmp_path / "v1")
    names = [row.sample_id for row in manifest][:4]
    planters = [planting.truncated("mask", 0.5), planting.inverted(1), planting.stray(9, 3), planting.emptied]
    for name, plant in zip(names, planters, strict=True):
        path = tmp_path / "v1" / "masks" / f"{name}.png"
        plant(Sample(src / f"{name}.jpg", path, 4), np.random.default_rng(0))
    named = codes_of(check_manifest(tmp_path / "v1", src))
    expected = ["file-unreadable", "inverted-mask", "values-outside", "empty-mask"]
    assert all(code in named[name] for name, code in zip(names, expected, strict=True))
    assert all("hash-changed" in named[name] for name in names[1:])
    assert set(named) - {""} == set(names)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
@pytest.mark.parametrize("kind", ["binary", "multi"])
def test_inverted_masks_are_found_up_to_two_in_five(kind: str, share: float, prepared: Prepared) -> None:
    root, samples = prepared(kind)
    chosen = samples[: max(1, int(share * ROWS))]
    for sample in chosen:
        planting.inverted(1)(sample, np.random.default_rng(0))
    report = check_manifest(imported(root, kind), root)
    assert {sample for sample, _ in of(report, "inverted-mask")} == {sample.mask.stem for sample in chosen}


@pytest.mark.parametrize("radius", [6, 55])
def test_inverted_masks_of_small_and_of_large_organs_are_found(radius: int, prepared: Prepared) -> None:
    root, samples = prepared("binary")
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for place, sample in enumerate(samples):
        planting.save_grey(sample.mask, (np.hypot(rows - 62 - place % 3, columns - 64) < radius + place % 4).astype(np.uint8))
    for sample in samples[:4]:
        planting.inverted(1)(sample, np.random.default_rng(0))
    found = of(check_manifest(imported(root, "binary"), root), "inverted-mask")
    assert {sample for sample, _ in found} == {sample.mask.stem for sample in samples[:4]}


def test_a_close_up_is_not_inverted_where_organs_often_reach_the_border(prepared: Prepared) -> None:
    root, samples = prepared("binary")
    for place, sample in enumerate(samples):
        ids = np.zeros((SIDE, SIDE), np.uint8)
        ids[: SIDE - place * 4, 3 * (place % 4) :] = 1
        planting.save_grey(sample.mask, ids)
    assert of(check_manifest(imported(root, "binary"), root), "inverted-mask") == []


def test_a_set_inverted_as_a_whole_is_suspected_once(prepared: Prepared) -> None:
    root, samples = prepared("binary")
    for sample in samples:
        planting.inverted(1)(sample, np.random.default_rng(0))
    found = [finding for finding in check_manifest(imported(root, "binary"), root).findings if finding.code == "inverted-mask"]
    assert len(found) == 1 and found[0].sample_id == "" and f"{ROWS} of {ROWS} masks" in found[0].rule


def test_the_exif_finding_says_which_of_the_two_the_mask_follows(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    planting.exif_stored(6)(samples[3], np.random.default_rng(0))
    found = [f for f in check_manifest(imported(root, "multi"), root).findings if f.code == "exif-orientation"]
    assert len(found) == 1 and "orientation 6" in found[0].rule and "follows the stored pixels, not the upright picture" in found[0].rule


def test_a_class_never_present_is_named(prepared: Prepared) -> None:
    root, _ = prepared("multi")
    import_masks(root / "images", root / "masks", root / "v1", [*MULTI, "ulcer", "crack"])
    told = [f.rule for f in check_manifest(root / "v1", root).findings if f.code == "class-never-present"]
    assert told == ["no mask shows the class 'ulcer'", "no mask shows the class 'crack'"]


def test_masks_of_another_convention_than_most_are_named(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    for place, sample in enumerate(samples):
        if place % 4 == 0:
            planting.colours(own=True)(sample, np.random.default_rng(0))
    imported(root, "multi", as_is=True)
    found = of(check_manifest(root / "v1", root), "mixed-conventions")
    assert {sample for sample, _ in found} == {sample.mask.stem for place, sample in enumerate(samples) if place % 4 == 0}


# --- duplicates and splits


def parted(root: Path, out: Path, parts: dict[str, str]) -> None:
    table = root / "parts.csv"
    pd.DataFrame({"sample": parts.keys(), "split": parts.values()}).to_csv(table, index=False)
    given_split(read_manifest(out), "main", table)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_exact_duplicates_are_found_within_a_part_and_across(form: str, across: bool, prepared: Prepared) -> None:
    root, samples = prepared("multi")
    add_copy(samples[5], "copy", unchanged, np.random.default_rng(0), form)
    out = imported(root, "multi")
    stems = [sample.image.stem for sample in samples]
    parts = {stem: "train" if place < 8 else "test" for place, stem in enumerate(stems)} | {"copy": "test" if across else "train"}
    parted(root, out, parts)
    report = check_manifest(out, root)
    pair = sorted([stems[5], "copy"])
    assert of(report, "duplicate") == [(pair[1], (pair[0],))]
    assert of(report, "duplicate-across-splits") == ([(pair[1], (pair[0],))] if across else [])
    assert not of(report, "near-duplicate")
    assert exit_code(report.findings, strict=False) == (2 if across else 0)


def test_a_split_that_another_has_replaced_need_not_be_looked_at(prepared: Prepared) -> None:
    """The way out of a leak: split again by near-duplicates, and check that split alone. Its rows stay locked, so it cannot be removed."""
    root, samples = prepared("multi")
    add_copy(samples[5], "copy", unchanged, np.random.default_rng(0))
    out = imported(root, "multi")
    stems = [sample.image.stem for sample in samples]
    parted(root, out, {stem: "train" if place < 8 else "test" for place, stem in enumerate(stems)} | {"copy": "test"})
    manifest = read_manifest(out)
    pairs = near_duplicates(manifest, root)
    make_split(manifest, "regrouped", (0.6, 0.0, 0.4), 0, pairs=pairs)
    everything, regrouped = check_manifest(out, root), check_manifest(out, root, only_splits=["regrouped"])
    leaks = {finding.split for finding in everything.findings if finding.code == "duplicate-across-splits"}
    assert len(leaks) == 1 and "regrouped" not in leaks and exit_code(everything.findings, strict=False) == 2
    assert exit_code(regrouped.findings, strict=False) == 0 and not of(regrouped, "duplicate-across-splits")
    with pytest.raises(ManifestError, match="there is no split 'regroup'; the splits are .*regrouped"):
        check_manifest(out, root, only_splits=["regroup"])


def test_duplicates_of_one_group_are_told_no_more(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    add_copy(samples[5], "copy", unchanged, np.random.default_rng(0))
    report = check_manifest(imported(root, "multi"), root)
    repair(report, root / "v2")
    assert of(report, "duplicate") and not of(check_manifest(root / "v2", root), "duplicate")


def test_files_are_named_as_the_manifest_names_them(prepared: Prepared) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    samples[0].mask.write_bytes(b"none")
    samples[1].image.unlink()
    files = {finding.code: finding.file for finding in check_manifest(out, root).findings}
    names = {name for sample in samples[:2] for name in (f"masks/{sample.mask.name}", f"images/{sample.image.name}")}
    assert {files["file-unreadable"], files["file-missing"], files["hash-changed"]} <= names


@pytest.mark.slow
def test_what_cannot_be_written_is_told_before_the_check(prepared: Prepared, tmp_path: Path) -> None:
    root, _ = prepared("multi", version=True)
    out = root / "v1"
    check = [sys.executable, "-m", "medseg", "manifest", "check", str(out), "--data-root", str(root)]
    repair(check_manifest(out, root), root / "v2")
    (out / "dataset.yaml").write_text((out / "dataset.yaml").read_text() + "\n")  # another version than v2 was made from
    for more, words in (
        (["--html", str(tmp_path)], "is a folder, and a file is to be written there"),
        (["--fix", str(out)], "this is the manifest that was checked"), (["--fix", str(root / "v2")], "another version stands there"),
    ):  # fmt: skip
        done = subprocess.run([*check, *more], capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr and "checking" not in done.stderr and done.stderr.count("error:") == 1


@pytest.mark.parametrize("across", [False, True])
def test_near_duplicates_are_found_within_a_part_and_across(across: bool, prepared: Prepared) -> None:
    root, samples = prepared("multi")
    kinds = list(NEAR)[:10]
    for place, kind in enumerate(kinds):
        change, form, options = NEAR[kind]
        add_copy(samples[place], f"copy{place}", change, np.random.default_rng(0), form, **options)
    out = imported(root, "multi", as_is=True)
    stems = [sample.image.stem for sample in samples]
    parts = {stem: "train" if place < 10 else "test" for place, stem in enumerate(stems)}
    parted(root, out, parts | {f"copy{place}": "test" if across else "train" for place in range(10)})
    report = check_manifest(out, root)
    expected = {frozenset([f"copy{place}", stems[place]]) for place in range(10)}
    assert {frozenset([one, *others]) for one, others in of(report, "near-duplicate")} == expected
    assert {frozenset([one, *others]) for one, others in of(report, "near-duplicate-across-splits")} == (expected if across else set())


def test_duplicates_across_folds_are_found(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    add_copy(samples[0], "copy", unchanged, np.random.default_rng(0))
    out = imported(root, "multi")
    make_split(read_manifest(out), "cv", (0.8, 0.0, 0.2), 0, folds=3)
    path = out / "splits" / "cv.csv"
    lines = path.read_text().splitlines()
    place = {line.split(",")[0]: number for number, line in enumerate(lines)}
    for name, fold in (("copy", 0), (samples[0].image.stem, 1)):
        lines[place[name]] = re.sub(r",(train|test),\d?$", f",train,{fold}", lines[place[name]])
    path.write_text("\n".join(lines) + "\n")
    found = [f for f in check_manifest(out, root).findings if f.code == "duplicate-across-splits"]
    assert len(found) == 1 and "train fold 0" in found[0].rule and "train fold 1" in found[0].rule and found[0].split == "cv"


def test_a_mask_copied_to_another_image_is_found(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    shutil.copyfile(samples[1].mask, samples[4].mask)
    found = of(check_manifest(imported(root, "multi"), root), "duplicate-mask")
    assert found == [(samples[4].mask.stem, (samples[1].mask.stem,))]


@pytest.mark.parametrize("where", ["manifest", "split"])
def test_a_torn_group_is_found(where: str, prepared: Prepared) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    stems = [sample.image.stem for sample in samples]
    frame = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)
    grouped = frame.assign(group_id=frame["sample_id"].replace({stems[3]: "g", stems[4]: "g"}))
    if where == "split":
        grouped.to_csv(out / "manifest.csv", index=False)
    parts = {stem: "train" if place < (4 if where == "manifest" else 7) else "test" for place, stem in enumerate(stems)}
    parted(root, out, parts)
    if where == "split":
        path = out / "splits" / "main.csv"
        path.write_text(path.read_text().replace(f"{stems[4]},g,train", f"{stems[4]},g,test"))
    else:
        grouped.to_csv(out / "manifest.csv", index=False)
    report = check_manifest(out, root)
    found = [f for f in report.findings if f.code == "group-in-two-splits"]
    assert [(f.sample_id, f.others) for f in found] == [(stems[3], (stems[4],))] and "'g' is in test and train" in found[0].rule
    assert exit_code(report.findings, strict=False) == 2
    assert bool(of(report, "split-unusable")) == (where == "manifest")  # made for another version of the manifest


# --- nothing kills the check


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_in_any_file_are_findings(seed: int, prepared: Prepared) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    rng = np.random.default_rng(seed)
    for sample in samples[:8]:
        for path in (sample.image, sample.mask):
            content = bytearray(path.read_bytes())
            for place in rng.integers(0, len(content), 6):
                content[place] = rng.integers(256)
            path.write_bytes(content)
    named = codes_of(check_manifest(out, root))
    assert all(named.get(sample.image.stem, set()) & {"hash-changed", "file-unreadable", "huge-image"} for sample in samples[:8])


def test_missing_files_folders_and_links_are_findings(prepared: Prepared, tmp_path: Path) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    samples[0].image.unlink()
    samples[1].mask.unlink()
    samples[2].image.unlink()
    samples[2].image.mkdir()
    (tmp_path / "elsewhere.png").write_bytes(samples[3].mask.read_bytes())
    samples[3].mask.unlink()
    samples[3].mask.symlink_to(tmp_path / "elsewhere.png")
    named = codes_of(check_manifest(out, root))
    stems = [sample.image.stem for sample in samples]
    assert [sorted(named[stem]) for stem in stems[:4]] == [["file-missing"]] * 3 + [["path-leaves-root"]]


def test_a_wrong_data_root_is_one_error(prepared: Prepared, tmp_path: Path) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    failed = medseg(out, "--data-root", wrong, "--json", tmp_path / "a.json")
    assert failed.returncode == 2 and failed.stdout.strip() == "" and not (tmp_path / "a.json").exists()
    first = wrong / "images" / samples[0].image.name
    assert failed.stderr.splitlines() == [
        f"error: {wrong}: the data root seems wrong: none of the manifest's {ROWS} images is there; the first looked for is {first}; "
        "give the folder that the manifest's image paths are relative to: --data-root DIR, or MEDSEG_DATA"
    ]
    (wrong / "images").mkdir()
    shutil.copyfile(samples[3].image, wrong / "images" / samples[3].image.name)
    missing = [finding for finding in check_manifest(out, wrong).findings if finding.code == "file-missing"]
    assert len(missing) == 2 * ROWS - 1, "one image is there: the root is right, and files are missing"


def test_images_beside_the_manifest_that_are_gone_are_not_blamed_on_the_data_root(prepared: Prepared) -> None:
    root, _ = prepared("volumes", version=True)
    out = root / "v1"
    path = out / "dataset.yaml"
    path.write_text(path.read_text().replace("images_under: data_root", "images_under: manifest"))
    with pytest.raises(ManifestError, match=rf"v1: none of the manifest's {ROWS} images is there; .*v1/images/v000.nii.gz; .*import the"):
        check_manifest(out, root)


def test_masks_that_are_no_masks_are_findings(prepared: Prepared) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(samples[0].mask)  # a photograph
    Image.fromarray(rng.random((SIDE, SIDE)).astype(np.float32)).save(samples[1].mask, "TIFF")  # probabilities
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 4), np.uint8)).save(samples[2].mask)  # varying alpha
    Image.fromarray(np.full((SIDE, SIDE), 70_000, np.int32)).save(samples[3].mask, "TIFF")
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(samples[4].mask)
    named = codes_of(check_manifest(out, root))
    assert all(len(named[sample.mask.stem]) > 1 for sample in samples[:5])


def test_one_row_and_no_mask_at_all_are_checked(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "one", 1, size=Size(64, 64), jobs=1)
    import_labelme(tmp_path / "one", tmp_path / "v1")
    assert not {f.code for f in check_manifest(tmp_path / "v1", tmp_path / "one").findings} & {"inverted-mask", "near-duplicate"}


def test_a_huge_header_costs_no_memory(prepared: Prepared) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    planting.huge_header(60_000, 60_000)(samples[0], np.random.default_rng(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    named = codes_of(check_manifest(out, root))
    assert "huge-image" in named[samples[0].image.stem]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.slow
def test_an_image_of_60_megapixels_is_told(prepared: Prepared) -> None:
    root, samples = prepared("multi")
    Image.new("L", (10_000, 6_000), 90).save(samples[0].image, "PNG")
    Image.new("L", (10_000, 6_000)).save(samples[0].mask)
    named = codes_of(check_manifest(imported(root, "multi"), root))
    assert {"huge-image", "constant-image", "empty-mask"} <= named[samples[0].image.stem]


def test_a_png_that_decodes_is_damaged_where_a_checksum_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(path)
    content = path.read_bytes()
    assert whole.damage_of(path) is None
    for cut in (1, 4, 11, 12):
        path.write_bytes(content[:-cut])
        assert whole.damage_of(path) == "the end of the file is missing (truncated PNG)"
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    path.write_bytes(changed)
    assert "the checksum of its IDAT block" in str(whole.damage_of(path))
    path.write_bytes(content + b"left over")  # after the end nothing is read
    assert whole.damage_of(path) is None


# --- outputs


def test_json_has_every_field_and_the_page_every_finding(prepared: Prepared, tmp_path: Path) -> None:
    root, samples = prepared("multi")
    for place, defect in enumerate(("values outside", "inverted, several classes", "constant image", "specks")):
        PLANTS[defect].variants[0](samples[place], np.random.default_rng(0))
    report = check_manifest(imported(root, "multi", as_is=True), root)
    told = json.loads(json.dumps(report.as_json(strict=True)))
    assert told["rows"] == ROWS and told["rows_flagged"] == 4 and told["exit_code"] == 2
    fields = {"code", "severity", "row", "file", "rule", "fix", "sample_id", "others", "split"}
    assert all(set(finding) == fields and finding["severity"] == CODES[finding["code"]] for finding in told["findings"])
    assert all(finding["rule"] and finding["fix"] and finding["file"] and finding["row"] > 1 for finding in told["findings"])
    lines = (root / "v1" / "manifest.csv").read_text().splitlines()
    assert all(lines[finding["row"] - 1].startswith(finding["sample_id"] + ",") for finding in told["findings"])
    write_page(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == len(report.findings) == page.count('src="data:image/jpeg;base64,')
    assert not re.findall(r"https?://|src=\"(?!data:)|@import|url\(", page)


def test_the_page_says_where_its_pictures_end(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, samples = prepared("binary")
    for sample in samples[:3]:
        planting.emptied(sample, np.random.default_rng(0))
    planting.constant(90)(samples[4], np.random.default_rng(0))
    report = check_manifest(imported(root, "binary"), root)
    count = len(report.findings)
    assert count >= 4
    monkeypatch.setattr(page, "PICTURES", 2)
    write_page(report, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert f"Only the first 2 of {count} findings have pictures" in text and text.count("No pictures from here on") == 1
    before, after = text.split("No pictures from here on")
    assert before.count("<article>") == before.count("<img") == 2 and after.count("<article>") == count - 2 and "<img" not in after
    monkeypatch.setattr(page, "PICTURES", count)
    write_page(report, tmp_path / "page.html")
    assert "No pictures" not in (tmp_path / "page.html").read_text() and "Only the first" not in (tmp_path / "page.html").read_text()


def test_volumes_are_told_in_voxels_and_shown_enlarged(prepared: Prepared, tmp_path: Path) -> None:
    root, samples = prepared("volumes")
    ids = np.asarray(nib.load(samples[0].mask).dataobj).copy()
    ids[0, 0, 0] = 1
    hole = tuple(np.argwhere(ndimage.binary_erosion(ids > 0, iterations=2))[0])
    ids[hole] = 0
    planting.save_volume(samples[0].mask, ids, nib.load(samples[0].mask).affine)
    report = check_manifest(imported(root, "volumes"), root)
    rules = {finding.code: finding.rule for finding in report.findings if finding.sample_id == "v000"}
    assert rules.keys() == {"specks", "holes"}
    assert rules["specks"].startswith("1 speck of 1 voxel in all") and rules["holes"].startswith("1 small hole of 1 voxel in all")
    log = {step.code: step.before for step in repair(report, root / "v2")}
    assert log == {"specks": "1 voxels of specks", "holes": "1 voxels of holes"}
    write_page(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    places = re.findall(r"<figcaption>v000, (slice \d+) of 16</figcaption>", page)
    assert sorted(places) == sorted(["slice 1", f"slice {hole[2] + 1}"])  # of the speck and of the hole, not the middle one
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), int) for text in re.findall(r"base64,([^\"]+)\"", page)
    ]
    for place, picture in zip(places, pictures, strict=True):
        red = (picture[..., 0] > 180) & (picture[..., 1] < 110) & (picture[..., 2] < 110)
        spot = (0, 0) if place == "slice 1" else (hole[1], hole[0])
        assert np.abs(np.argwhere(red).mean(axis=0) - (np.array(spot) + 0.5) * picture.shape[1] / 24).max() < 3
    shown = Image.open(io.BytesIO(base64.b64decode(re.findall(r"base64,([^\"]+)\"", page)[places.index("slice 1")])))
    assert shown.size == (SIDE_PX, round(SIDE_PX * 20 / 24))
    grey = np.asarray(shown.convert("L"), float)
    # nearest neighbour: 24 x 20 voxels make steps at their borders, and nothing in between
    inner = [
        column
        for column in range(2, SIDE_PX - 2)
        if all((other * 24) // SIDE_PX == (column * 24) // SIDE_PX for other in (column - 2, column + 2))
    ]
    assert np.median(np.abs(np.diff(grey, axis=1))[:, inner]) <= 2


def test_the_page_escapes_what_files_are_named(tmp_path: Path) -> None:
    hostile = "<script>alert(1)<" + "&\"'"
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for name in (hostile, "plain"):
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (50, 50, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.new("L", (50, 50)).save(tmp_path / "masks" / f"{name}.png")
    import_masks(tmp_path / "images", tmp_path / "masks", tmp_path / "v1", ["tongue"])
    write_page(check_manifest(tmp_path / "v1", tmp_path), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;&amp;" in page


def test_processes_and_progress_change_nothing(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    root, samples = prepared("multi")
    planting.emptied(samples[0], np.random.default_rng(0))
    out = imported(root, "multi")
    seen: list[tuple[int, int]] = []
    alone = check_manifest(out, root, jobs=1, on_progress=lambda done, total: seen.append((done, total)))
    assert check_manifest(out, root, jobs=2).findings == alone.findings != []
    monkeypatch.setattr("medseg.parallel.FEW", 1)  # so that processes are started
    assert check_manifest(out, root, jobs=2).findings == alone.findings
    assert seen == [(number, ROWS) for number in range(1, ROWS + 1)]


def medseg(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medseg", "manifest", "check", *map(str, arguments)], capture_output=True, text=True)


def test_the_command_exits_with_0_1_and_2(prepared: Prepared, tmp_path: Path) -> None:
    root, samples = prepared("multi", version=True)
    out = root / "v1"
    clean = medseg(out, "--data-root", root, "--strict")
    assert clean.returncode == 0 and f"{ROWS} rows checked, 0 with a finding" in clean.stdout
    planting.emptied(samples[0], np.random.default_rng(0))
    shutil.rmtree(out)
    imported(root, "multi")
    assert medseg(out, "--data-root", root).returncode == 0
    strict = medseg(out, "--data-root", root, "--strict", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert strict.returncode == 1 and "empty-mask" in strict.stdout and (tmp_path / "a.html").stat().st_size > 1000
    assert json.loads((tmp_path / "a.json").read_text())["exit_code"] == 1
    samples[1].image.write_bytes(b"")
    broken = medseg(out, "--data-root", root)
    assert broken.returncode == 2 and "file-unreadable" in broken.stdout and "Traceback" not in broken.stderr


def test_a_manifest_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    failed = medseg(tmp_path / "none", "--data-root", tmp_path)
    assert failed.returncode == 2 and failed.stderr.startswith("error: ") and len(failed.stderr.splitlines()) == 1


def test_each_code_has_a_severity_and_is_used_somewhere() -> None:
    source = "".join(path.read_text() for path in Path(facts.__file__).parent.glob("*.py") if path.name != "findings.py")
    assert [code for code in CODES if f'"{code}"' not in source] == []


def test_each_code_is_explained_in_the_docs() -> None:
    table = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    assert [code for code in CODES if not re.search(rf"^\|[^|]*\b{code}\b[^|]*\|", table, re.MULTILINE)] == []
    assert f"draws the first {page.PICTURES} findings" in table


def test_the_fewest_of_the_planted_table_counts_rows_not_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 % of 60 rows is one mask: printed as "fewest of one", it would say that a defect was planted once."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    script = importlib.import_module("check_planted")
    row = script.Outcome("binary", "A", "specks", 12, 12)
    assert script.fewest([row, script.Outcome("binary", "B", "inverted, 2% of the set", 1, 1, by_share=True)]) == 12
    assert [task[0] for task in script.tasks([script.Base(script.LABELME, Path(), MULTI)], 12, "")] == [script.plant] * len(INSTANCE_PLANTS)


def test_fingerprint_tells_pixels_shape_and_type() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    other = picture.copy()
    other[3, 2, 1] ^= 1
    assert fingerprint(picture) == fingerprint(picture.copy()) == fingerprint(np.asfortranarray(picture))
    assert len({fingerprint(array) for array in (picture, other, picture.reshape(6, 8, 3), picture.astype(np.int16))}) == 4
