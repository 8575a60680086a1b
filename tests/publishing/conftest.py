"""The stored predictions, scored once a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.scoring import Asked, score_folders
from tests.publishing.stored import STORED

ASKED = Asked(classes=("liver", "lesion"), group_pattern=r"(patient\d+)", jobs=1)


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """A folder with the scores of both runs: baseline/ and larger/."""
    folder = tmp_path_factory.mktemp("scored")
    for run in ("baseline", "larger"):
        score_folders(STORED / "reference", STORED / run, folder / run, ASKED)
    return folder
