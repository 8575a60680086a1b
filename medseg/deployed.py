"""Whatever a user names as a model -> one that segments photographs: a run, an export, or a registered version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from medseg.deploy.model import Model, open_export
from medseg.deploy.networks import Network
from medseg.errors import ConfigError, ExportError
from medseg.runfolder import open_run
from medseg.segmenters.exports import export_of, is_exported

if TYPE_CHECKING:
    from medseg.models.contract import Adapter

Backend = Literal["auto", "openvino", "onnxruntime", "bfloat16", "compiled", "eager"]
OF_GRAPHS = ("openvino", "onnxruntime", "bfloat16")


class TorchNetwork(Network):
    """A run's own network, eager or compiled. One request at a time takes all the threads there are."""

    def __init__(self, network: Adapter, compiled: bool):
        import torch

        self.backend = "compiled" if compiled else "eager"
        self._probs = torch.compile(self._eager, dynamic=False) if compiled else self._eager
        self._network = network

    def _eager(self, image_BCHW):  # type: ignore[no-untyped-def]
        return self._network(image_BCHW).probs_BKHW

    def probs(self, image_BCHW: np.ndarray) -> np.ndarray:  # noqa: D102
        import torch

        with torch.inference_mode():
            return np.asarray(self._probs(torch.from_numpy(np.ascontiguousarray(image_BCHW))).numpy())


@contextmanager
def open_model(where: str | Path, backend: str = "auto", checkpoint: str = "best") -> Iterator[Model]:
    """The model that `where` names: a run folder, a folder that `medseg export` wrote, models:/NAME@ALIAS or models:/NAME/VERSION.

    backend: openvino (auto) and onnxruntime run the exported graph in float32, bfloat16 the same by OpenVINO for processors that have it
    in hardware; compiled and eager run a run's own network in torch. Where a run is named and a graph is wanted, it is exported to a
    scratch folder first, which takes half a minute. ConfigError or ExportError for what cannot be had.
    """
    if backend not in get_args(Backend):
        raise ConfigError("--backend", f"there is no {backend!r}", f"name one of {', '.join(get_args(Backend))}")
    wanted = "openvino" if backend == "auto" else backend
    exported = is_exported(where)
    if exported and checkpoint != "best":
        raise ConfigError("--checkpoint", f"{where} has no checkpoints", "leave it out; an export is of one")
    if not exported:
        open_run(Path(where))  # a wrong path is told before torch is loaded
    with TemporaryDirectory(prefix="medseg-") as scratch:
        if exported:
            yield _of_export(export_of(str(where), Path(scratch)), wanted, where)
        else:
            yield _of_run(Path(where), wanted, checkpoint, Path(scratch))


def _of_export(folder: Path, backend: str, where: str | Path) -> Model:
    if backend not in OF_GRAPHS:
        raise ExportError(where, f"is a graph, which {backend} cannot run", f"name the run itself, or a backend of {', '.join(OF_GRAPHS)}")
    return open_export(folder, "onnxruntime" if backend == "onnxruntime" else "openvino", bfloat16=backend == "bfloat16")


def _of_run(run: Path, backend: str, checkpoint: str, scratch: Path) -> Model:
    from medseg.exporting.card import card_of
    from medseg.exporting.verb import check_exportable, describe, model_of_run
    from medseg.run import load_run

    if backend in OF_GRAPHS:
        graph: Literal["onnxruntime", "openvino"] = "onnxruntime" if backend == "onnxruntime" else "openvino"
        return model_of_run(run, graph, scratch, backend == "bfloat16", checkpoint)
    loaded = load_run(run, checkpoint)
    description = describe(loaded, {})
    return Model(description, TorchNetwork(check_exportable(loaded), backend == "compiled"), card_of(loaded, description, None))
