"""What MLflow runs to load a registered model and to predict with it. MLflow keeps a copy of this file beside the export and of medseg's
source in code/ ("models from code"): nothing is pickled, and neither torch nor MONAI is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from medseg.deploy.answer import Answer, answer
from medseg.deploy.model import open_export
from medseg.errors import MedsegError

BACKEND = "onnxruntime"  # model_config={"backend": "openvino"} where that is installed: it is not among the requirements


class Segmenter(mlflow.pyfunc.PythonModel):
    """A table of photographs -> a table of answers, a row each."""

    def load_context(self, context: Any) -> None:
        """Open the export that lies among the artefacts."""
        self._model = open_export(Path(context.artifacts["export"]), (context.model_config or {}).get("backend", BACKEND))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Columns image and, where wanted, spacing_mm; what comes back says `Answer`."""
        spacings = model_input["spacing_mm"] if "spacing_mm" in model_input else [None] * len(model_input)
        rows = zip(model_input["image"], spacings, strict=True)
        return pd.DataFrame([self._answer(place, *row) for place, row in enumerate(rows)], columns=Answer._fields)

    def _answer(self, place: int, image: object, spacing_mm: float | None) -> Answer:
        try:
            return answer(self._model, image, f"image {place}", spacing_mm)
        except MedsegError as cause:  # any other error's words would be kept back by MLflow's server
            raise MlflowException(str(cause), INVALID_PARAMETER_VALUE) from None


mlflow.models.set_model(Segmenter())
