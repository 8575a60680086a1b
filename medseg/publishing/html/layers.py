"""Class ids -> layers of a page: pictures with a palette, transparent where they say nothing; and bytes -> addresses that need no file."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from scipy import ndimage

from medseg.labels import LabelSet

FILL, EDGE = 105, 255  # opacity of a prediction's inside, of 255, and of outlines
HALO = (255, 255, 255)  # beside a reference's outline: it must be seen on its own class's colour


def shown_ids(mask: np.ndarray, labels: LabelSet) -> np.ndarray:
    """uint8, of the same shape: what is ignored as background, so that the ignore id is free to stand for the halo."""
    return np.where(labels.valid(mask), mask, 0).astype(np.uint8)


def outlined(ids_HW: np.ndarray, labels: LabelSet) -> np.ndarray:
    """uint8 (H, W): each class's outline as its id, and the line around it as the ignore id."""
    if not ids_HW.any():
        return ids_HW
    edge = (ids_HW > 0) & (ids_HW != ndimage.grey_erosion(ids_HW, 3, mode="nearest"))
    edge |= (ids_HW > 0) & (ids_HW != ndimage.grey_dilation(ids_HW, 3, mode="nearest"))
    halo = ndimage.binary_dilation(edge, np.ones((3, 3))) & ~edge
    return np.where(halo, labels.ignore_id, np.where(edge, ids_HW, 0)).astype(np.uint8)


def outline_layer(outlined_HW: np.ndarray, labels: LabelSet) -> str:
    """What `outlined` made, as a data URI."""
    palette = labels.palette.copy()
    palette[labels.ignore_id] = HALO
    return _layer(outlined_HW, palette, EDGE)


def fill_layer(ids_HW: np.ndarray, labels: LabelSet) -> str:
    """Each class's inside in its colour, half transparent, as a data URI."""
    return _layer(ids_HW, labels.palette, FILL)


def _layer(ids_HW: np.ndarray, palette: np.ndarray, opacity: int) -> str:
    image, stream = Image.fromarray(ids_HW), io.BytesIO()
    image.putpalette(palette.astype(np.uint8).tobytes())
    image.save(stream, "PNG", transparency=bytes([0, *[opacity] * 255]))
    return data_uri(stream.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address that needs no file.

    >>> data_uri(b"<svg/>", "image/svg+xml")
    'data:image/svg+xml;base64,PHN2Zy8+'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
