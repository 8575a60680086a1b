"""An export made by hand, without torch: a convolution of 1 x 1, whose right answer is known; red, green and blue are logits by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from medseg.deploy.description import INPUT, OUTPUT, Description, Frame, Graph, Origin
from medseg.files import sha256_file
from medseg.labels import LabelSet

LABELS = LabelSet.of("green", "blue", regions={"coloured": ["green", "blue"]})
STEEP = 20.0


class Layer(NamedTuple):
    """weights (classes, 3) and bias (classes,) of the convolution."""

    weights: np.ndarray
    bias: np.ndarray


def colours(steep: float = STEEP) -> Layer:
    """Red is background, green class 1, blue class 2."""
    return Layer(steep * np.eye(3), np.zeros(3))


def graph_of(layer: Layer) -> onnx.ModelProto:
    """softmax(layer(image))."""
    stored = [numpy_helper.from_array(layer.weights.astype(np.float32)[:, :, None, None], "weights"),
              numpy_helper.from_array(layer.bias.astype(np.float32), "bias")]  # fmt: skip
    nodes = [helper.make_node("Conv", [INPUT, "weights", "bias"], ["logits"]), helper.make_node("Softmax", ["logits"], [OUTPUT], axis=1)]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, "height", "width"]) for name in (INPUT, OUTPUT)]
    graph = helper.make_graph(nodes, "colours", shapes[:1], shapes[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_export(folder: Path, labels: LabelSet = LABELS, layer: Layer | None = None, **changes: Any) -> Path:
    """A whole export; changes: of the description's fields, `frame` and `origin` as keywords."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph_of(layer or colours()), folder / "model.onnx")
    frame = Frame(**({"height_px": 48, "width_px": 64} | changes.pop("frame", {})))
    graph = Graph(file="model.onnx", sha256=sha256_file(folder / "model.onnx"), opset=20, varying=("batch", "height", "width"))
    said = {"run": "colours-s0", "dataset": "colours", "network": "threshold", "checkpoint": "best", "medseg": "0"}
    digests = {"weights_sha256": "0" * 64, "config_sha256": "1" * 64}
    origin = Origin(**said | digests | {"exported": "2026-01-01T00:00:00+00:00"} | changes.pop("origin", {}))
    shown = {name: labels.colour_of(name) for name in labels.names}
    fields = {"graphs": {"onnx": graph}, "labels": labels, "colours": shown, "frame": frame, "origin": origin} | changes
    description = Description(**fields)
    description.write(folder)
    (folder / "MODEL_CARD.md").write_text(f"# {description.origin.dataset}\n")
    return folder


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3): red with a green block and a blue one."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 200
    shift = np.random.default_rng(seed).integers(0, max(1, height // 8))
    image[height // 4 + shift : height // 2 + shift, width // 4 : width // 2] = (0, 220, 0)
    image[height // 2 + shift : height // 2 + shift + height // 5, width // 2 : width * 3 // 4] = (0, 0, 220)
    return image
