"""The command line: manifest verbs end to end, one line and exit code 2 for each mistake, nothing half written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medseg import images
from medseg.cli import app
from medseg.labels import LabelSet
from medseg.manifest.table import read_manifest, read_split


def medseg(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medseg", *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


def annotate(folder: Path, name: str, **changes: object) -> None:
    """A 12 x 16 photograph and its labelme file with one tongue polygon."""
    images.write_image(folder / f"{name}.jpg", np.full((12, 16, 3), 99, np.uint8))
    shape = {"label": "tongue", "points": [[1, 1], [9, 1], [9, 8]], "shape_type": "polygon", "group_id": None, "flags": {}}
    content = {
        "version": "5.6.1",
        "flags": {},
        "shapes": [shape],
        "imagePath": f"{name}.jpg",
        "imageData": None,
        "imageHeight": 12,
        "imageWidth": 16,
    }
    (folder / f"{name}.json").write_text(json.dumps(content | changes))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for place in range(10):
        annotate(tmp_path / "src", f"p{place // 2}_{place % 2}")
    return tmp_path / "src"


def test_import_and_split_by_hand(source: Path, tmp_path: Path) -> None:
    done = medseg("manifest", "import", "labelme", source, "--out", "data_manifests/t/v1", "--group-pattern", "^(p.)_", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 annotated images, 0 unlabelled, 0 refused" in done.stdout
    done = medseg("manifest", "split", "data_manifests/t/v1", "--name", "main", "--ratios", "0.6", "0.2", "0.2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "data_manifests/t/v1")
    split = read_split(manifest, "main")
    assert split.frame.groupby("group_id")["split"].nunique().max() == 1
    assert re.search(r"train +6 +3", done.stdout) and re.search(r"test +2 +1", done.stdout)


def test_masks_by_hand(tmp_path: Path) -> None:
    for place in range(4):
        images.write_image(tmp_path / "d/images" / f"{place}.png", np.full((5, 6, 3), 9, np.uint8))
        images.write_mask(tmp_path / "d/masks" / f"{place}.png", np.eye(5, 6, dtype=np.uint8), LabelSet.of("tongue").palette)
    out = tmp_path / "m/v1"
    done = medseg(
        "manifest", "import", "masks", "--images", "d/images", "--masks", "d/masks", "--classes", "tongue", "--out", out, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert read_manifest(out).row(0).px == {"background": 25, "tongue": 5}


def test_one_is_told_as_one_and_images_without_annotation_are_named(tmp_path: Path) -> None:
    for name in "abcde":
        annotate(tmp_path / "src", name)
        if name != "a":
            (tmp_path / "src" / f"{name}.json").unlink()
    done = medseg("manifest", "import", "labelme", "src", "--out", "out", cwd=tmp_path)
    assert "out: 1 annotated image, 4 unlabelled (b.jpg, c.jpg, d.jpg, ...), 0 refused" in done.stdout, done
    assert "note: classes as the annotations name them (--classes would fix them): 1 tongue (1 shape in 1 image)" in done.stdout


MISTAKES = {
    "imagePath leaves SRC": ({"imagePath": "..\\..\\x\\104.jpg"}, r"p0_0.json: imagePath .* leaves"),
    "another size": ({"imageHeight": 99}, r"p0_0.json: annotated at 16 x 99, the image p0_0.jpg is 16 x 12"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_file_that_cannot_be_imported(source: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    annotate(source, "p0_0", **changes)
    done = medseg("manifest", "import", "labelme", source, "--out", "out", cwd=tmp_path)
    assert_one_error(done, message)
    assert not (tmp_path / "out").exists()


def test_a_class_that_dataset_yaml_does_not_name(source: Path, tmp_path: Path) -> None:
    annotate(source, "p0_0", shapes=[{"label": "lips", "points": [[1, 1], [9, 1], [9, 8]]}])
    done = medseg("manifest", "import", "labelme", source, "--out", "out", "--classes", "tongue", cwd=tmp_path)
    assert_one_error(done, r"p0_0.json: the label 'lips' is no class of the data set \(tongue\)")
    assert not (tmp_path / "out").exists()


def test_a_manifest_and_a_source_that_are_not_there(tmp_path: Path) -> None:
    assert_one_error(medseg("manifest", "split", "nowhere", cwd=tmp_path), "nowhere")
    assert_one_error(medseg("manifest", "import", "labelme", "nowhere", "--out", "out", cwd=tmp_path), "the source folder is not there")
    assert_one_error(medseg("manifest", "split", "nowhere", "--from", "x.csv", cwd=tmp_path), "nowhere")


def test_a_folder_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_one_error(medseg("manifest", "import", "labelme", source, "--out", "file/v1", cwd=tmp_path), "file")


def assert_one_error(done: subprocess.CompletedProcess[str], message: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.strip() and "━" not in line]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done
    assert lines[0].startswith("error: ") and re.search(message, lines[0]), lines[0]


def all_commands(group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))


def test_every_command_has_help_that_can_be_printed():
    """Rich takes square brackets in a help text for markup."""
    runner = CliRunner()
    commands = list(all_commands(typer.main.get_command(app)))
    assert ("report",) in commands and ("manifest", "import", "coco") in commands
    for command in commands:
        shown = runner.invoke(app, [*command, "--help"])
        assert shown.exit_code == 0 and "Usage:" in shown.output and shown.exception is None, (command, shown.exception)


@pytest.mark.slow
def test_the_zoo_is_listed_with_its_cost(tmp_path: Path) -> None:
    done = medseg("zoo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [unet] = [line for line in done.stdout.splitlines() if line.startswith("unet ")]
    assert re.search(r"MONAI +6\.50 M +3\.03 G +2-D, 3-D +Apache-2\.0 +Kerfoot", unet)
    assert all(name in done.stdout for name in ("fcn_resnet101", "dpt", "mask2former", "maskrcnn_resnet50_fpn_v2", "smp:"))


@pytest.mark.slow
def test_a_run_folder_s_code_is_refused_and_a_word_lets_it_run(tmp_path: Path) -> None:
    """The word does not make a folder whole that is not: the next error comes."""
    from medseg.runfolder import create_run

    run = create_run(tmp_path / "runs", "x", "theirs", 0, None)
    run.config_yaml.write_text("name: theirs\ndata: {manifest: m}\nmodel: {name: 'nets:Net'}\n")
    (tmp_path / "nets.py").write_text("open('ran', 'w').write('code ran')\n")
    run.set_status("finished")
    images.write_image(tmp_path / "photo.png", np.zeros((8, 8, 3), np.uint8))
    refused = medseg("predict", run.path, "photo.png", "--out", "out", cwd=tmp_path)
    assert_one_error(refused, "its network is nets:Net, code that would be imported and run")
    assert not (tmp_path / "ran").exists()
    allowed = medseg("predict", run.path, "photo.png", "--out", "out", "--trust-code", cwd=tmp_path)
    assert_one_error(allowed, "dataset.yaml: there is no such file")
