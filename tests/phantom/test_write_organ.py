"""Abdomens as a Decathlon folder: the same bytes by any number of workers, and an import that finds nothing to say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.cli import app
from medseg.errors import ConfigError, MedsegError
from medseg.manifest.check.doctor import check_manifest
from medseg.manifest.importers.decathlon import import_decathlon
from medseg.manifest.table import read_manifest
from medseg.phantom.organ import LEFT_RIGHT_PAIRS, ORGANS, draw_organs
from medseg.phantom.write_organ import write_organs
from medseg.volumes import read_label_volume, read_volume

COUNT = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("organ")
    write_organs(out, COUNT, seed=2, jobs=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_files_hold_the_drawing(folder: Path) -> None:
    drawn = draw_organs(2, 1)
    image_XYZ, affine = read_volume(folder / "imagesTr" / "organ_001.nii.gz")
    assert image_XYZ.dtype == np.int16 and np.array_equal(image_XYZ, drawn.image_XYZ)
    assert np.allclose(affine, drawn.affine, atol=1e-4)  # float32 in the file
    assert np.array_equal(read_label_volume(folder / "labelsTr" / "organ_001.nii.gz"), drawn.mask_XYZ)


def test_the_bytes_depend_neither_on_jobs_nor_on_the_count(folder: Path, tmp_path: Path) -> None:
    heard: list[int] = []
    write_organs(tmp_path / "two", 2, seed=2, jobs=2, on_done=heard.append)
    found, whole = contents(tmp_path / "two"), contents(folder)
    volumes = [name for name in found if name.endswith(".gz")]
    assert len(volumes) == 4 and heard == [1, 2] and all(found[name] == whole[name] for name in volumes)


def test_dataset_json_is_the_decathlons(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "liver", "2": "kidney_left", "3": "kidney_right", "4": "gallbladder"}
    assert content["numTraining"] == len(content["training"]) == COUNT and content["modality"] == {"0": "MRI"}
    assert content["training"][0] == {"image": "./imagesTr/organ_000.nii.gz", "label": "./labelsTr/organ_000.nii.gz"}


def test_its_import_is_clean(folder: Path, tmp_path: Path) -> None:
    pairs = ["=".join(pair) for pair in LEFT_RIGHT_PAIRS]
    report = import_decathlon(folder, tmp_path / "v1", left_right=pairs)
    manifest = read_manifest(report.manifest_folder)
    assert (report.imported, report.unlabelled, report.refused) == (COUNT, 0, [])
    assert manifest.labels.foreground == ORGANS and manifest.labels.left_right_pairs == LEFT_RIGHT_PAIRS
    assert manifest.labels.mirrored_ids == (0, 1, 3, 2, 4)
    assert check_manifest(report.manifest_folder, folder).findings == []


def test_a_finished_folder_is_kept_and_an_unfinished_one_mended(tmp_path: Path) -> None:
    write_organs(tmp_path, 1, jobs=1)
    before, heard = contents(tmp_path), list[int]()
    write_organs(tmp_path, 1, jobs=1, on_done=heard.append)
    assert heard == []
    (tmp_path / "labelsTr" / "organ_000.nii.gz").unlink()
    write_organs(tmp_path, 1, jobs=1)
    assert contents(tmp_path) == before


def test_tongues_and_abdomens_do_not_mix(folder: Path) -> None:
    from medseg.phantom.write import write_phantoms

    with pytest.raises(MedsegError, match="holds other phantoms"):
        write_phantoms(folder, COUNT, seed=2, jobs=1)
    with pytest.raises(MedsegError, match="holds other phantoms"):
        write_organs(folder, COUNT, seed=3, jobs=1)


def test_the_command_draws_them(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["phantom", "--kind", "organ", "--out", str(tmp_path / "o"), "--count", "1"])
    assert done.exit_code == 0 and "1 volumes and their annotations are in" in done.output
    assert (tmp_path / "o" / "dataset.json").exists()
    refused = CliRunner().invoke(app, ["phantom", "--kind", "organ", "--out", str(tmp_path / "o"), "--height-px", "128"])
    assert isinstance(refused.exception, ConfigError) and "an abdomen's grid is drawn with it" in str(refused.exception)
