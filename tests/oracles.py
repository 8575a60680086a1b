"""Slow truth: the same numbers by loops over pixels and by other people's code."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw


def slow_scores(reference: np.ndarray, prediction: np.ndarray, ids: set[int], ignore_id: int) -> dict[str, float]:
    """The scores of the union of `ids`, by visiting each pixel."""
    tp = fp = fn = tn = 0
    for truth, guess in zip(reference.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if truth == ignore_id:
            continue
        tp += truth in ids and guess in ids
        fp += truth not in ids and guess in ids
        fn += truth in ids and guess not in ids
        tn += truth not in ids and guess not in ids
    if tp + fp + fn == 0:
        undefined = dict.fromkeys(("iou", "recall", "precision", "dice", "specificity", "volume_similarity"), math.nan)
        return undefined | {"specificity": 1.0 if tn else math.nan}
    return {
        "iou": tp / (tp + fp + fn),
        "recall": tp / (tp + fn) if tp + fn else math.nan,
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "dice": 2 * tp / (2 * tp + fp + fn),
        "specificity": tn / (tn + fp) if tn + fp else math.nan,
        "volume_similarity": 1 - abs((tp + fp) - (tp + fn)) / ((tp + fp) + (tp + fn)),
    }


def random_mask(generator: np.random.Generator, ids: list[int], size: tuple[int, int] = (12, 15)) -> np.ndarray:
    """Blocky random ids, so that classes are sometimes absent."""
    coarse = generator.choice(ids, size=(3, 3))
    return np.kron(coarse, np.ones((size[0] // 3, size[1] // 3))).astype(np.uint8)


def labelme_mask(content: dict[str, Any], ids: Mapping[str, int], height: int, width: int) -> np.ndarray:
    """labelme's own rule on a parsed labelme file, uint8 (H, W): shapes_to_label and shape_to_mask of labelme/utils/shape.py 6.3.1.

    Each shape is drawn by Pillow on a mask of its own, then `cls[mask] = id`, in the order of the file.
    """
    classes = np.zeros((height, width), np.uint8)
    for shape in content["shapes"]:
        classes[labelme_shape(shape, height, width)] = ids[shape["label"].strip()]
    return classes


def labelme_shape(shape: dict[str, Any], height: int, width: int) -> np.ndarray:
    """bool (H, W): one shape by labelme's rule."""
    points, kind = [tuple(point) for point in shape["points"]], shape.get("shape_type") or "polygon"
    if kind == "mask":
        mask = np.zeros((height, width), bool)
        (x1, y1), (x2, y2) = np.asarray(points).astype(int)
        bitmap = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
        mask[y1 : y2 + 1, x1 : x2 + 1] = bitmap
        return mask
    canvas = Image.fromarray(np.zeros((height, width), np.uint8))
    pen = ImageDraw.Draw(canvas)
    if kind in ("circle", "point"):
        (cx, cy), reach = points[0], 5.0 if kind == "point" else math.sqrt(sum((a - b) ** 2 for a, b in zip(*points, strict=True)))
        pen.ellipse([cx - reach, cy - reach, cx + reach, cy + reach], outline=1, fill=1)
    elif kind == "rectangle":
        (x0, y0), (x1, y1) = points
        pen.rectangle(((min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))), outline=1, fill=1)
    elif kind in ("line", "linestrip"):
        pen.line(xy=points, fill=1, width=10)
    else:
        pen.polygon(xy=points, outline=1, fill=1)
    return np.array(canvas, dtype=bool)
