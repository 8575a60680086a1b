"""A registered run in MLflow's own hands: a real server, a fresh process without torch, and `mlflow models serve` over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image

from medseg import api
from medseg.deploy.model import open_export
from medseg.registering import register
from medseg.tracking.packed import LIGHT
from medseg.tracking.registry import fetch_model
from tests.mlflow_server import Server, free_port
from tests.tiny import draw, make_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """(a trained run that was tracked and registered at a server as @champion of `shapes`, the server's address)."""
    root = tmp_path_factory.mktemp("registry")
    server = Server(root)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        _, _, data_root, experiment = make_all(root)
        run = api.train(experiment, ["tracking.enabled=true"], data_root, root / "runs")
        api.evaluate(run.path, "val", data_root)
        register(run.path, "shapes", "champion")
    yield run.path, server.uri
    server.stop()


@pytest.fixture(autouse=True)
def at_server(world, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world[1])


def picture(size: tuple[int, int]) -> tuple[np.ndarray, bytes]:
    stream, image = io.BytesIO(), draw(3, size)[0]
    Image.fromarray(image).save(stream, "PNG")
    return image, stream.getvalue()


def mask_of(row: dict[str, str]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(row["mask_png"]))))


def test_it_lies_in_the_runs_own_mlflow_run_and_comes_back_from_the_server(world, tmp_path):
    run, uri = world
    found = MlflowClient(uri).get_model_version_by_alias("shapes", "champion")
    assert found.run_id == json.loads((run / "mlflow.json").read_text())["run_id"]
    folder = fetch_model("models:/shapes@champion", tmp_path)
    assert open_export(folder).description.origin.run == run.name
    assert register(run, "shapes", "champion").compared.equal  # its scores came back, too


RELOADED = """
import sys
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/shapes@champion")
print(model.predict(pandas.DataFrame({"image": [open(sys.argv[1], "rb").read()]}))["mask_png"][0])
import medseg
from importlib.metadata import packages_distributions
there = packages_distributions()
ours = [name for name in sys.modules if name.startswith("medseg.")]
used = {vars(sys.modules[name]).get("__file__") for name in ours}
print(medseg.__file__)
print(sorted(name for name in ("torch", "monai", "torchvision", "openvino") if name in sys.modules))
print(len(ours), all("/code/medseg/" in path for path in used if path))
import ast
tops = {top for path in used for node in ast.walk(ast.parse(open(path).read())) for top in (
    [name.name.split(".")[0] for name in node.names] if isinstance(node, ast.Import)
    else [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else [])}
print(" ".join(sorted({each.lower() for top in tops if top in sys.modules for each in there.get(top, [])} - {"medseg"})))
"""


def test_a_fresh_process_needs_the_pinned_packages_and_no_torch(world, tmp_path):
    """Run outside the checkout: medseg is the version's own copy."""
    image, content = picture((70, 91))
    (tmp_path / "image.png").write_bytes(content)
    command = [sys.executable, "-c", RELOADED, str(tmp_path / "image.png")]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    mask_png, where, heavy, counted, packages = found.stdout.splitlines()
    assert "/code/medseg/" in where and heavy == "[]" and counted.endswith("True")
    wanted = open_export(fetch_model("models:/shapes@champion", tmp_path)).segment(image).mask_HW
    assert (mask_of({"mask_png": mask_png}) == wanted).all()
    assert set(packages.split()) == set(LIGHT) - {"mlflow", "pandas"}  # these two are MLflow's own script's


@contextmanager
def served(uri: str, folder: Path) -> Iterator[str]:
    port, log = free_port(), folder / "serve.log"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"PATH": path}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while not _pings(port):
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _pings(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_mlflow_serves_it_over_http(world, tmp_path):
    model = open_export(fetch_model("models:/shapes@champion", tmp_path))
    sizes = [(33, 50), (240, 160), (400, 400)]
    with served("models:/shapes@champion", tmp_path) as address:
        for image, content in map(picture, sizes):
            text = base64.b64encode(content).decode()
            for body in (
                {"dataframe_split": {"columns": ["image", "spacing_mm"], "data": [[text, 0.5]]}},
                {"dataframe_records": [{"image": text}]},
                {"inputs": {"image": [text]}},
            ):
                answer = requests.post(address, json=body, timeout=60)
                assert answer.status_code == 200, answer.text
                [row] = answer.json()["predictions"]
                wanted = model.segment(image)
                assert (mask_of(row) == wanted.mask_HW).mean() > 0.9999  # OpenVINO's mask here, ONNX Runtime's there
                assert (row["height_px"], row["width_px"]) == image.shape[:2] and sum(row["pixels"].values()) == image.shape[
                    0
                ] * image.shape[1]
                assert set(row["percent"]) == {"background", "disc", "square"} and (row["area_mm2"] is None) == (
                    "dataframe_split" not in body
                )
        bad = requests.post(address, json={"dataframe_records": [{"image": base64.b64encode(b"no picture").decode()}]}, timeout=60)
        assert bad.status_code == 400 and "image 0" in bad.json()["message"]
