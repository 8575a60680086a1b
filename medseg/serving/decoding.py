"""An upload's bytes -> a frame for the network, in threads; what all uploads together may fill is shared out by their pixels."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from medseg.deploy.model import Model
from medseg.images import count_pixels, one_at_a_time, read_image_bytes
from medseg.serving.limits import Shared
from medseg.types import Letterbox, Size

WHERE = "the upload"


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """frame_Chw: uint8, what the network is shown.  image_HWC: the photograph, where the answer shows it."""

    frame_Chw: np.ndarray
    letterbox: Letterbox
    image_HWC: np.ndarray | None
    decoding_s: float


async def hold_pixels(shared: Shared, pixels: int, held: ExitStack) -> None:
    """Wait until so many are free; they are given back with `held`."""
    await shared.take(pixels)
    held.callback(shared.give, pixels)


def judged(content: bytes, most_pixels: int) -> int:
    """The pixels that a photograph's header promises; ImageError for what the header shows."""
    return count_pixels(content, WHERE, most_pixels)


def placed(content: bytes, most_pixels: int, model: Model, keep_image: bool) -> Placed:
    """Decoded, upright, on the network's frame; ImageError for a file that is broken."""
    started = time.perf_counter()
    image_HWC = read_image_bytes(content, WHERE, most_pixels)
    with one_at_a_time(Size(*image_HWC.shape[:2])):
        frame_Chw, letterbox = model.place(image_HWC)
    return Placed(frame_Chw, letterbox, image_HWC if keep_image else None, time.perf_counter() - started)
