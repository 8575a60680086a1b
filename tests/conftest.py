"""What every test starts from: no window, one thread, no one's MLflow server and no one's data root."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before matplotlib, torch or mlflow is imported, and inherited by the processes that tests start.
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # of each of the parallel tests: more would fight for the cores
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of those processes would compile medseg anew

import pytest

from medseg.labels import LabelSet


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drop the user's MLflow and data settings; whatever a test tracks goes to a database of its own. Torch keeps its one thread."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY"]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("MEDSEG_DATA", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield
    if "torch" in sys.modules:  # a second one left on, the networks of all later tests took five times as long
        assert sys.modules["torch"].get_num_threads() == 1


@pytest.fixture
def labels() -> LabelSet:
    """background 0, tongue 1, coating 2."""
    return LabelSet.of("tongue", "coating")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy: making one takes seconds."""
    from mlflow import MlflowClient  # seconds, of which few tests have need

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder
