"""One encoded photograph -> what is said of it, in values that a table and JSON hold. For MLflow's servers; `medseg serve` says more."""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import NamedTuple

import numpy as np

from medseg.deploy.model import Model
from medseg.errors import ImageError
from medseg.images import byte_counts, encode_mask, read_image_bytes

_TEXT = re.compile(rb"[A-Za-z0-9+/=\s]+")  # no image begins so; MLflow hands on base64 as bytes where it came in a JSON's "inputs"
MAX_IMAGE_BYTES = 64 * 1024**2  # of an encoded photograph; its pixels have a limit of their own, in images.py


class Answer(NamedTuple):
    """mask_png: base64 of a palette PNG of class ids on the photograph's own upright pixels.  pixels, percent (0 to 100), area_mm2: of
    each class, background too; the last None without a spacing.  confidence: mean over the pixels of the probability of the class shown,
    in [0, 1].  uncertainty: as `Segmented` has it, in [0, 1]."""

    mask_png: str
    width_px: int
    height_px: int
    pixels: dict[str, int]
    percent: dict[str, float]
    area_mm2: dict[str, float] | None
    confidence: float
    uncertainty: float


def answer(model: Model, image: object, where: str, spacing_mm: float | None = None) -> Answer:
    """image: an encoded file as bytes, or as base64 text.  spacing_mm: the side of a pixel. ImageError for what cannot be read."""
    side_mm = _spacing(spacing_mm, where)
    found = model.segment(read_image_bytes(content_of(image, where), where))
    height, width = found.mask_HW.shape
    counts = byte_counts(found.mask_HW)
    pixels = {name: int(counts[class_id]) for class_id, name in model.labels.classes.items()}
    percent = {name: 100 * count / (height * width) for name, count in pixels.items()}
    area_mm2 = None if side_mm is None else {name: count * side_mm**2 for name, count in pixels.items()}
    mask_png = base64.b64encode(encode_mask(found.mask_HW, model.description.palette)).decode("ascii")
    confidence = float(found.confidence_HW.mean(dtype=np.float64))
    return Answer(mask_png, width, height, pixels, percent, area_mm2, confidence, found.uncertainty)


def content_of(image: object, where: str) -> bytes:
    """The bytes of an encoded image; ImageError for what is neither bytes nor base64, and for more than MAX_IMAGE_BYTES."""
    if not isinstance(image, bytes | bytearray | str):
        raise ImageError(where, f"is {type(image).__name__}, no image", "send the bytes of an image file, or their base64 text")
    if len(image) * (3 / 4 if isinstance(image, str) else 1) > MAX_IMAGE_BYTES:
        raise ImageError(where, f"has more than {MAX_IMAGE_BYTES >> 20} MB", "scale the image down, or save it as JPEG")
    if not isinstance(image, str) and not _TEXT.fullmatch(image[:256]):
        return bytes(image)
    try:
        return base64.b64decode(re.sub(rb"\s", b"", image.encode() if isinstance(image, str) else image), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(where, "is text, but no base64", "send the bytes of an image file, or their base64 text") from None


def _spacing(spacing_mm: float | None, where: str) -> float | None:
    """None for a table's empty cell."""
    if spacing_mm is None or math.isnan(spacing_mm):
        return None
    if not (math.isfinite(spacing_mm) and spacing_mm > 0):
        raise ImageError(where, f"its spacing_mm is {spacing_mm:g}", "give the side of a pixel in millimetres, or leave it out")
    return float(spacing_mm)
