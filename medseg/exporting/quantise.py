"""Eight bits: ONNX Runtime's static quantisation, calibrated on train, kept only where val says that it costs nothing.

Legend: B batch, K classes, N classes and regions, H W space.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np

from medseg.data.decode import read_original_image, read_original_mask
from medseg.deploy.description import INPUT, Description, Graph
from medseg.deploy.model import Model
from medseg.deploy.networks import SCALE, Backend, OnnxRuntimeNetwork, open_network
from medseg.errors import ExportError
from medseg.files import sha256_file
from medseg.manifest.schema import Manifest
from medseg.manifest.table import select
from medseg.metrics.counts import confusion, counts_of, scored_names
from medseg.quieting import quieted
from medseg.run import LoadedRun
from medseg.training import same_data
from medseg.types import Row

CALIBRATED_ON = 64  # train images, spread over the set
MOST_LOSS = 0.002  # of val IoU


@dataclass(frozen=True)
class Int8:
    """What came of 8 bits. images: of train, that it was calibrated on.  before, after: val IoU, pooled, mean over classes and regions
    without background, the latter by the runtime in which it is worse."""

    description: Description
    images: int
    before: float
    after: float


def quantise(folder: Path, description: Description, loaded: LoadedRun, root: Path | None) -> Int8:
    """Put 8 bits in the place of the graph in `folder`; ExportError where val IoU falls by more than MOST_LOSS, and the graph stays."""
    assert root is not None, "the data root is checked before the export"
    manifest, split = same_data(loaded.run, loaded.config)
    train, val = select(manifest, split, "train"), select(manifest, split, "val")
    chosen = [train[place] for place in np.linspace(0, len(train) - 1, min(CALIBRATED_ON, len(train))).astype(int)]
    graph = description.graph_file(folder)
    model = Model(description, OnnxRuntimeNetwork(graph))
    with TemporaryDirectory(dir=folder, prefix=".int8-") as scratch:
        small = Path(scratch) / graph.name
        _write(graph, small, model, _photographs(manifest, chosen, root))
        before = _iou(model, manifest, val, root)
        after = min(_iou(Model(description, open_network(small, each)), manifest, val, root) for each in get_args(Backend))
        if not after >= before - MOST_LOSS:
            rule = f"with 8 bits val IoU falls from {before:.4f} to {after:.4f}, by more than {MOST_LOSS:g}"
            raise ExportError("--int8", rule, "leave it out; the run keeps its network")
        os.replace(small, graph)
    varying = description.graphs["onnx"].varying
    eight = Graph(file=graph.name, sha256=sha256_file(graph), opset=description.graphs["onnx"].opset, varying=varying, int8=True)
    return Int8(description.model_copy(update={"graphs": {**description.graphs, "onnx": eight}}), len(chosen), before, after)


def _photographs(manifest: Manifest, rows: list[Row], root: Path) -> Iterator[np.ndarray]:
    return (read_original_image(manifest, row, root) for row in rows)


def _write(graph: Path, small: Path, model: Model, photographs: Iterator[np.ndarray]) -> None:
    """Weights by channel, activations by the ranges that the photographs have shown. Of the 8 bits of a weight 7 are used: a processor
    without VNNI adds pairs of products in 16 bits, which overflow with 8."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(photographs, None)
            return None if image is None else {INPUT: _shown(model, image)}

    prepared = small.with_suffix(".prepared.onnx")
    with quieted("root", least=logging.ERROR):  # a line for every constant of one axis, which has no channels and needs none
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(small), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip


def _shown(model: Model, image_HWC: np.ndarray) -> np.ndarray:
    """float32 (1, 3, H, W): the frame, or of a network of windows the window in its middle."""
    framed = model.place(image_HWC)[0][None] * SCALE
    window = model.description.frame.window_px
    if window is None:
        return framed
    tops = [max(0, (have - want) // 2) for have, want in zip(framed.shape[2:], window, strict=True)]
    cut = framed[:, :, tops[0] : tops[0] + window[0], tops[1] : tops[1] + window[1]]
    missing = [(0, 0), (0, 0), *((0, want - have) for want, have in zip(window, cut.shape[2:], strict=True))]
    return np.pad(cut, missing)


def _iou(model: Model, manifest: Manifest, rows: list[Row], root: Path) -> float:
    """Pooled over the rows, the mean over classes and regions without background; a class that is nowhere is left out."""
    table = np.zeros((manifest.labels.num_classes,) * 2, np.int64)
    for row in rows:
        reference_HW = read_original_mask(manifest, row, root)
        table += confusion(reference_HW, model.segment(read_original_image(manifest, row, root)).mask_HW, manifest.labels)
    counts = [counts_of(table, ids) for name, ids in scored_names(manifest.labels).items() if ids != (0,)]
    ious = [one.tp / (one.tp + one.fp + one.fn) for one in counts if one.tp + one.fp + one.fn]
    return float(np.mean(ious)) if ious else float("nan")
