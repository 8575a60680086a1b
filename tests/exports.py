"""An export made by hand, without torch: red, green and blue are the logits of the classes, so that the right answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from medseg.deploy.description import INPUT, OUTPUT, Description, Frame, Graph, Origin
from medseg.files import sha256_file
from medseg.labels import LabelSet

LABELS = LabelSet.of("green", "blue", regions={"coloured": ["green", "blue"]})
STEEP = 20.0


def write_graph(path: Path, steep: float = STEEP) -> None:
    """softmax(steep * image): red is background, green class 1, blue class 2."""
    weight = numpy_helper.from_array(steep * np.eye(3, dtype=np.float32)[:, :, None, None], "weight")
    nodes = [helper.make_node("Conv", [INPUT, "weight"], ["logits"]), helper.make_node("Softmax", ["logits"], [OUTPUT], axis=1)]
    sides = ["batch", 3, "height", "width"]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name in (INPUT, OUTPUT)]
    graph = helper.make_graph(nodes, "colours", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))


def write_export(folder: Path, labels: LabelSet = LABELS, steep: float = STEEP, **changes: Any) -> Path:
    """A whole export; changes: of the description's fields, `frame` as keywords of Frame."""
    folder.mkdir(parents=True, exist_ok=True)
    write_graph(folder / "model.onnx", steep)
    frame = Frame(**({"height_px": 48, "width_px": 64} | changes.pop("frame", {})))
    graph = Graph(file="model.onnx", sha256=sha256_file(folder / "model.onnx"), opset=20, varying=("batch", "height", "width"))
    origin = Origin(
        run="colours-s0", dataset="colours", network="threshold", checkpoint="best", medseg="0", weights_sha256="0" * 64,
        config_sha256="1" * 64, exported="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    colours = {name: labels.colour_of(name) for name in labels.names}
    fields = {"graphs": {"onnx": graph}, "labels": labels, "colours": colours, "frame": frame, "origin": origin} | changes
    Description(**fields).write(folder)
    (folder / "MODEL_CARD.md").write_text("# colours\n")
    return folder


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3): red with a green block and a blue one."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 200
    shift = np.random.default_rng(seed).integers(0, max(1, height // 8))
    image[height // 4 + shift : height // 2 + shift, width // 4 : width // 2] = (0, 220, 0)
    image[height // 2 + shift : height // 2 + shift + height // 5, width // 2 : width * 3 // 4] = (0, 0, 220)
    return image
