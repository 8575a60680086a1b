"""A volume to look at: planes of it as a radiologist reads them, in true proportions.

Legend: D H W the volume turned to RAS with z first, so D rises to the head, H to the front and W to the patient's right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medseg import images
from medseg.grid import Turn
from medseg.types import Size

NAMES = ("axial", "coronal", "sagittal")  # across D, H and W
MARKS = ("RLAP", "RLSI", "APSI")  # of each plane: what lies at its left, right, upper and lower edge
SIDE_PX = 256  # of a montage's planes, the widest
TALLEST_PX = 320  # of one of them: a scan of the whole body shall not be a ribbon
GAP_PX = 4
FONT_PX, PALE = 13, (255, 255, 190)
ROOM_PX = 60  # of a plane's side: its marks and its name would hide each other below
AIR_HU, SOFT_TISSUE_HU = -500.0, (-160.0, 240.0)  # no MR goes below the first; level 40 and width 400, as an abdomen is looked at
SAMPLE = 1 << 20  # voxels that are enough to choose a window by


@dataclass(frozen=True)
class Seen:
    """A volume to draw. image_DHW: of any number type, of one channel; None where there are masks alone.  spacing_mm: along D, H and W.
    placed: False where the file does not say how the patient lies, so that no side may be named."""

    image_DHW: np.ndarray | None
    turn: Turn
    placed: bool = True

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Along D, H and W."""
        return self.turn.spacing_mm

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.turn.shape


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """What is drawn black and what white: soft tissue of a CT, which its air tells; of all else percentiles 0.5 and 99.5."""
    step = max(1, round((image.size / SAMPLE) ** (1 / image.ndim)))
    low, high = np.percentile(image[(slice(None, None, step),) * image.ndim], (0.5, 99.5)).tolist()
    return SOFT_TISSUE_HU if low <= AIR_HU else (low, high)


def grey(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """uint8, of the same shape: black at the window's lower end, white at its upper."""
    low, high = window
    return np.rint(255 * np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)


def best_planes(masks: Sequence[np.ndarray], ignore_id: int) -> tuple[int, int, int]:
    """Along D, H and W the plane that shows most foreground of the first mask (D, H, W) that has any; the middle where none has.

    Not of all masks together: a network that has learnt nothing yet finds something everywhere.
    """
    for mask in masks:
        inside = (mask > 0) & (mask != ignore_id)
        if inside.any():
            break
    else:
        depth, height, width = masks[0].shape
        return depth // 2, height // 2, width // 2
    depth, height, width = (int(inside.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3))
    return depth, height, width


def plane(volume: np.ndarray, axis: int, place: int) -> np.ndarray:
    """One plane across D, H or W, with what is above or in front at the top, and the patient's right at the left.

    Across D (axial) the front is above; across H (coronal) and W (sagittal) the head. A sagittal plane is seen from the patient's left,
    so the front is at the left.
    """
    return np.ascontiguousarray(np.moveaxis(volume, axis, 0)[place][::-1, ::-1])


def plane_size(shape: Sequence[int], spacing_mm: Sequence[float], axis: int, scale: float) -> Size:
    """Height and width of a plane across an axis in pixels, `scale` of them a millimetre."""
    height, width = (max(1, round(shape[other] * spacing_mm[other] * scale)) for other in range(3) if other != axis)
    return Size(height, width)


def montage(seen: Seen, masks: Sequence[np.ndarray], ignore_id: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """uint8 (H, W, 3) and a uint8 (H, W) a mask (D, H, W): axial, coronal and sagittal plane below each other, of one scale, each through
    what there is most of, with its name and, where the volume is placed, the patient's sides."""
    image_DHW, places, scale = seen.image_DHW, best_planes(masks, ignore_id), _scale(seen.shape, seen.spacing_mm)
    assert image_DHW is not None
    window, sizes = grey_window(image_DHW), [plane_size(seen.shape, seen.spacing_mm, axis, scale) for axis in range(3)]
    shades = [images.resize_image(grey(plane(image_DHW, axis, places[axis]), window), sizes[axis]) for axis in range(3)]
    layers = [[images.resize_mask(plane(mask, axis, places[axis]), sizes[axis]) for axis in range(3)] for mask in masks]
    widest = max(size.width_px for size in sizes)
    picture = _stacked([_labelled(shade, axis, seen.placed) for axis, shade in enumerate(shades)], widest)
    return picture, [_stacked(layer, widest) for layer in layers]


def _scale(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Pixels a millimetre."""
    depth_mm, height_mm, width_mm = (side * spacing for side, spacing in zip(shape, spacing_mm, strict=True))
    return min(SIDE_PX / max(height_mm, width_mm), TALLEST_PX / max(depth_mm, height_mm))


def _labelled(shade: np.ndarray, axis: int, placed: bool) -> np.ndarray:
    """uint8 (H, W, 3): the plane's name in the corner, and at the edges which side of the patient they are, where there is room."""
    drawn = Image.fromarray(shade).convert("RGB")
    height, width = shade.shape
    _write(drawn, NAMES[axis], (3, height - 3), "lb")
    spots = (((3, height / 2), "lm"), ((width - 3, height / 2), "rm"), ((width / 2, 3), "mt"), ((width / 2, height - 3), "mb"))
    for mark, (spot, anchor) in zip(MARKS[axis], spots, strict=True):
        if placed and height >= ROOM_PX and (width >= 2 * ROOM_PX or anchor != "mb"):
            _write(drawn, mark, spot, anchor)
    return np.asarray(drawn)


def _write(drawn: Image.Image, text: str, spot: tuple[float, float], anchor: str) -> None:
    font = ImageFont.load_default(FONT_PX)
    ImageDraw.Draw(drawn).text(spot, text, PALE, font, anchor, stroke_width=1, stroke_fill=0)


def _stacked(planes: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Below each other, each in the middle of black."""
    padded = []
    for one in planes:
        left = (width - one.shape[1]) // 2
        padded.append(np.pad(one, ((0, GAP_PX), (left, width - one.shape[1] - left), *((0, 0) for _ in one.shape[2:]))))
    return np.concatenate(padded)[:-GAP_PX]
