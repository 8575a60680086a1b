"""An export without training or torch: a network that tells red from green by one convolution of 1 x 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from medseg.deploy.description import Description, Frame, Graph, Origin
from medseg.files import sha256_file
from medseg.labels import LabelSet

FRAME = (48, 64)
CLASSES = ("disc", "square")
RED, GREEN, DARK = (220, 60, 60), (60, 220, 60), (20, 20, 20)


def write_export(folder: Path) -> Path:
    """model.json and model.onnx: red is a disc, green a square, dark is background."""
    folder.mkdir()
    onnx.save(_graph(), folder / "model.onnx")
    graph = Graph(file="model.onnx", sha256=sha256_file(folder / "model.onnx"), opset=20, varying=("batch", "height", "width"))
    labels = LabelSet.of(*CLASSES, regions={"both": CLASSES})
    origin = Origin(
        run="tiny-run", dataset="tiny", network="convolution", checkpoint="best", medseg="0.1.0", weights_sha256="0" * 64,
        config_sha256="1" * 64, exported="2026-11-22T00:00:00+00:00",
    )  # fmt: skip
    frame = Frame(height_px=FRAME[0], width_px=FRAME[1])
    colours = {"background": (0, 0, 0), "disc": (255, 0, 0), "square": (0, 128, 0)}
    Description(graphs={"onnx": graph}, labels=labels, colours=colours, frame=frame, protocol="None.", origin=origin).write(folder)
    (folder / "MODEL_CARD.md").write_text("# Tiny\n")
    return folder


def _graph() -> onnx.ModelProto:
    weights = np.array([[-8, -8, -8], [20, -20, 0], [-20, 20, 0]], np.float32).reshape(3, 3, 1, 1)
    stored = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([6, 0, 0], np.float32), "bias")]
    nodes = [
        helper.make_node("Conv", ["image", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", size, "h", "w"]) for name, size in (("image", 3), ("probs", 3))]
    graph = helper.make_graph(nodes, "tiny", shapes[:1], shapes[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def photograph(place: int = 0, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """uint8 (H, W, 3): a red and a green patch whose width tells which one it is, so that no two have equal answers."""
    image_HWC = np.full((*size, 3), DARK, np.uint8)
    height, width = size
    image_HWC[height // 4 : height // 2, 2 : 4 + place % (width // 2 - 4)] = RED
    image_HWC[height // 2 :, width // 2 : width // 2 + 3 + place // (width // 2 - 4)] = GREEN
    return image_HWC
