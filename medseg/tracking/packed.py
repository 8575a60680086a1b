"""An export -> the folder of an MLflow model: the pyfunc's code, medseg's source, the export, a signature, an example, requirements.

MODEL/
  MLmodel, requirements.txt, conda.yaml, python_env.yaml, input_example.json, serving_input_example.json    as MLflow writes them
  pyfunc_model.py       how it is loaded (models from code: no pickle)
  code/medseg/          medseg as it was, because it is on no index
  artifacts/export/     model.json, model.onnx, MODEL_CARD.md
  scores/               of the run, so that a later one can be held against it: run.json, config.yaml, digests.json, environment.json,
                        network.json and weights.json where it has them, evaluation/val/{scores.json, per_case.csv}
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map

import medseg
from medseg.deploy.description import CARD, GRAPHS, NAME, Description
from medseg.images import encode_mask
from medseg.quieting import quieted
from medseg.runfolder import IDENTITY_FILES, NETWORK_FILES, RunFolder

SCRIPT = Path(__file__).with_name("pyfunc_model.py")
LIGHT = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow", "pydantic", "scikit-image", "scipy")  # what an export is run with
OF_WINDOWS = ("monai", "torch")  # further, where images are predicted by windows
EXPORT, SCORES, PART = "artifacts/export", "scores", "val"
OF_PART, PART_FILES = f"{SCORES}/evaluation/{PART}", ("scores.json", "per_case.csv")
INPUTS = Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.double, "spacing_mm", required=False)])
OUTPUTS = Schema(
    [
        ColSpec(DataType.string, "mask_png"),
        ColSpec(DataType.long, "width_px"),
        ColSpec(DataType.long, "height_px"),
        ColSpec(Map(DataType.long), "pixels"),
        ColSpec(Map(DataType.double), "percent"),
        ColSpec(Map(DataType.double), "area_mm2", required=False),
        ColSpec(DataType.double, "confidence"),
        ColSpec(DataType.double, "uncertainty"),
    ]
)


def pack(target: Path, export: Path, description: Description, run: RunFolder, model: Model) -> None:
    """Write the folder of an MLflow model. model: what MLflow knows of it so far."""
    with TemporaryDirectory(prefix="medseg-") as nowhere, quieted("mlflow.pyfunc", least=logging.WARNING):
        mlflow.pyfunc.save_model(
            target, mlflow_model=model, python_model=SCRIPT, code_paths=[str(Path(medseg.__file__).parent)],
            pip_requirements=requirements(description), input_example=example(), signature=ModelSignature(INPUTS, OUTPUTS),
            uv_project_path=nowhere,  # else it takes files along from the folder that one happens to be in
        )  # fmt: skip
    _add_files(target / EXPORT, export, [name for name in (NAME, GRAPHS["onnx"], CARD) if (export / name).is_file()])
    _add_files(target / SCORES, run.path, [*IDENTITY_FILES, *(name for name in NETWORK_FILES if (run.path / name).is_file())])
    _add_files(target / OF_PART, run.evaluation(PART), PART_FILES)
    _point_to_export(model, target / "MLmodel")


def _add_files(target: Path, source: Path, names: Iterable[str]) -> None:
    target.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / name, target / name)


def _point_to_export(model: Model, path: Path) -> None:
    """As save_model(artifacts=...) would: that draws a progress bar, and tells in MLmodel where these files lay on this computer."""
    flavour = model.flavors[mlflow.pyfunc.FLAVOR_NAME]
    flavour["artifacts"] = {"export": {"path": EXPORT, "uri": EXPORT}}
    flavour["model_code_path"] = SCRIPT.name
    model.save(path)


def requirements(description: Description) -> list[str]:
    """`name==version`, as installed here; what a build adds to its version ("+cpu") is on no index."""
    names = (*LIGHT, *(OF_WINDOWS if description.frame.window_px else ()))
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]


def example() -> pd.DataFrame:
    """A row of the signature: a disc of 16 x 12 pixels."""
    y, x = np.mgrid[:12, :16]
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    disc_HW = np.where((y - 6) ** 2 + (x - 8) ** 2 < 16, 200, 40)
    return pd.DataFrame({"image": [encode_mask(disc_HW, grey)], "spacing_mm": [0.5]})
