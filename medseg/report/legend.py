"""Classes over a photograph with their names beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medseg.images import blend

OPACITY = 0.5
INK, PAPER = (34, 34, 34), (255, 255, 255)
MOST = 24  # names of classes, the largest first


def overlay_with_legend(
    image_HWC: np.ndarray, mask_HW: np.ndarray, names: Sequence[str], palette: np.ndarray, background: int | None
) -> np.ndarray:
    """uint8 (H, W + legend, 3): the classes blended over the photograph, and those that are there with their share of the pixels.

    palette: uint8 (N, 3), a row a class.  background: the class that is not coloured; None where every pixel has a class.
    """
    coloured = np.where(mask_HW == background, 0, mask_HW.astype(np.int64) + 1)  # what `blend` leaves as it is has the id 0
    picture = blend(image_HWC, coloured, np.concatenate([np.zeros((1, 3), np.uint8), palette]), OPACITY)
    shares = np.bincount(mask_HW.ravel(), minlength=len(names)) / mask_HW.size
    there = [int(place) for place in np.argsort(-shares, kind="stable") if shares[place] > 0 and place != background]
    lines = [(f"{names[place]}  {shares[place]:.1%}", tuple(palette[place].tolist())) for place in there[:MOST]]
    if len(there) > MOST:
        lines.append((f"and {len(there) - MOST} more", PAPER))
    return np.concatenate([picture, _legend(lines or [("no class is found", PAPER)], picture.shape[0])], axis=1)


def _legend(lines: Sequence[tuple[str, tuple[int, ...]]], height_px: int) -> np.ndarray:
    """A strip as high as the picture; the letters shrink where there are many names."""
    letter = int(max(8, min(height_px / 22, 0.8 * height_px / (1.6 * len(lines)))))
    font = ImageFont.load_default(letter)
    width = int(max(font.getlength(text) for text, _ in lines) + 3.2 * letter)
    strip = Image.new("RGB", (width, height_px), PAPER)
    draw = ImageDraw.Draw(strip)
    for row, (text, colour) in enumerate(lines):
        top = letter * (0.6 + 1.6 * row)
        draw.rectangle((letter * 0.6, top, letter * 1.8, top + letter), fill=colour, outline=INK if colour != PAPER else PAPER)
        draw.text((letter * 2.4, top), text, fill=INK, font=font, anchor="la")
    return np.asarray(strip)
