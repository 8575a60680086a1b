"""The stored predictions, scored once a module, and runs, trained once; a browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medseg import api
from medseg.runfolder import RunFolder
from medseg.scoring import Asked, score_folders
from tests.publishing.stored import STORED
from tests.tiny import make_all

SHORT = ["train.epochs=1", "train.preview_every=9"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ASKED = Asked(classes=("liver", "lesion"), group_pattern=r"(patient\d+)", jobs=1)


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """A folder with the scores of both runs: baseline/ and larger/."""
    folder = tmp_path_factory.mktemp("scored")
    for run in ("baseline", "larger"):
        score_folders(STORED / "reference", STORED / run, folder / run, ASKED)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, list[RunFolder]]:
    """(data root, runs of seeds 0 and 1 and the run of another loss): all evaluated on test."""
    root = tmp_path_factory.mktemp("trained")
    _, _, data_root, experiment = make_all(root)
    runs = [api.train(experiment, each, data_root, root / "runs") for each in (SHORT, [*SHORT, "seed=1"], [*SHORT, "loss.name=dice"])]
    for run in runs:
        api.evaluate(run.path, "test", data_root)
    return data_root, runs


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
