"""One server for all tests that do not need another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg.deploy.model import Model, open_export
from tests.serving.exports import write_export
from tests.serving.server import Running, running


@pytest.fixture(scope="session")
def export_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("exports") / "tiny")


@pytest.fixture(scope="session")
def model(export_folder: Path) -> Model:
    return open_export(export_folder, "onnxruntime")


@pytest.fixture(scope="session")
def server(model: Model) -> Iterator[Running]:
    with running(model) as found:
        yield found
