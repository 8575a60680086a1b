"""An export of the tests of the server: a network that tells red from green."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.labels import LabelSet
from tests import exports

CLASSES = ("disc", "square")
RED, GREEN, DARK = (220, 60, 60), (60, 220, 60), (20, 20, 20)


def write_export(folder: Path) -> Path:
    """Red is a disc, green a square, dark is background."""
    layer = exports.Layer(np.array([[-8, -8, -8], [20, -20, 0], [-20, 20, 0]]), np.array([6, 0, 0]))
    return exports.write_export(
        folder, LabelSet.of(*CLASSES, regions={"both": CLASSES}), layer, protocol="None.",
        colours={"background": (0, 0, 0), "disc": (255, 0, 0), "square": (0, 128, 0)},
        origin={"run": "tiny-run", "dataset": "Tiny", "network": "convolution"},
    )  # fmt: skip


def photograph(place: int = 0, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """uint8 (H, W, 3): a red and a green patch whose width tells which one it is, so that no two have equal answers."""
    image_HWC = np.full((*size, 3), DARK, np.uint8)
    height, width = size
    image_HWC[height // 4 : height // 2, 2 : 4 + place % (width // 2 - 4)] = RED
    image_HWC[height // 2 :, width // 2 : width // 2 + 3 + place // (width // 2 - 4)] = GREEN
    return image_HWC
