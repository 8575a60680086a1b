"""A volume -> what a page needs to scroll through it: of each axis the slices as tiles of one sheet, and layers of the same tiles.

A sheet is one picture, so a slice shows at once and hundreds of them need no file. Large volumes are made smaller within the slice, and
then slices are left out; the page says so. Legend: D H W the volume turned to RAS (medseg.report.planes), K the slices that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medseg.images import encode_jpeg, resize_image, resize_mask
from medseg.labels import LabelSet
from medseg.publishing.html.layers import data_uri, fill_layer, outline_layer, outlined
from medseg.report.planes import MARKS, NAMES, Seen, best_planes, grey, grey_window, plane, plane_size
from medseg.types import Size

SIDE_PX = 256  # of a slice, its longer side
SHEET_PX = (6_000_000, 3_000_000, 3_000_000)  # of a sheet of D, H and W: a browser keeps 4 bytes of each, of a sheet a layer
JPEG_BLOCK = 8  # tiles are laid on multiples of it, so that no block of JPEG mixes two slices


@dataclass(frozen=True, slots=True)
class Plane:
    """The slices across one axis, from the feet, the back or the left on, as tiles of sheets, row by row.

    w, h: of a slice as shown, in pixels.  tile, step: width and height of a tile on the image's sheet, and from one to the next; both are
    `factor` times as large on the layers.  marks: what lies at the left, right, upper and lower edge; '' where nobody knows.  start: the
    slice to begin with.  apart: of each run the voxels of each slice that are not as in the reference.  photograph ('' where there is
    none), reference and layers: data URIs.
    """

    name: str
    w: int
    h: int
    tile: tuple[int, int]
    step: tuple[int, int]
    factor: int
    columns: int
    count: int
    start: int
    marks: str
    note: str
    photograph: str
    reference: str
    layers: Mapping[str, str]
    apart: Mapping[str, list[int]]

    @property
    def size_bytes(self) -> int:
        """Of the sheets."""
        return sum(map(len, (self.photograph, self.reference, *self.layers.values())))


@dataclass(frozen=True)
class Layout:
    """How the slices across an axis become tiles: true proportions, no finer than the voxels, within SIDE_PX and SHEET_PX.

    shape, spacing_mm: along D, H and W.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axis: int

    @cached_property
    def tile(self) -> Size:
        """Of a slice on the image's sheet, in pixels."""
        within = [other for other in range(3) if other != self.axis]
        longest_mm = max(self.shape[other] * self.spacing_mm[other] for other in within)
        finest = 1 / min(self.spacing_mm[other] for other in within)
        return Size(*(min(SIDE_PX, side) for side in plane_size(self.shape, self.spacing_mm, self.axis, min(finest, SIDE_PX / longest_mm))))

    @cached_property
    def step(self) -> Size:
        """From one tile to the next."""
        return Size(*(math.ceil(side / JPEG_BLOCK) * JPEG_BLOCK for side in self.tile))

    @cached_property
    def every(self) -> int:
        """Each how many-th slice is kept."""
        return math.ceil(self.shape[self.axis] * math.prod(self.step) / SHEET_PX[self.axis])

    @cached_property
    def places(self) -> range:
        """The slices that are kept, as far from one end as from the other."""
        return range((self.shape[self.axis] - 1) % self.every // 2, self.shape[self.axis], self.every)

    @cached_property
    def columns(self) -> int:
        """Tiles side by side: the sheet is about as wide as high, for browsers refuse long ones."""
        return min(len(self.places), math.ceil(math.sqrt(len(self.places) * self.step.height_px / self.step.width_px)))

    @cached_property
    def factor(self) -> int:
        """Of small volumes layers are larger than the image: an outline is a line only where a voxel is many pixels."""
        room = math.isqrt(SHEET_PX[self.axis] // (math.prod(self.step) * len(self.places)))
        return max(1, min(SIDE_PX // max(self.tile), room))

    @cached_property
    def note(self) -> str:
        """What is left out, '' where nothing is."""
        within = [spacing for other, spacing in enumerate(self.spacing_mm) if other != self.axis]
        whole_px = max(plane_size(self.shape, self.spacing_mm, self.axis, 1 / min(within)))
        said = [f"one slice of {self.every} is shown"] if self.every > 1 else []
        said += [f"slices are shown at {max(self.tile) / whole_px:.0%} of their size"] if max(self.tile) < whole_px else []
        return "; ".join(said)

    def sheet(self, tiles: Iterable[np.ndarray], factor: int = 1) -> np.ndarray:
        """uint8 (H, W): the tiles row by row; their edges go on to the next one's place."""
        height, width = (side * factor for side in self.step)
        sheet = np.zeros((math.ceil(len(self.places) / self.columns) * height, self.columns * width), np.uint8)
        for number, tile in enumerate(tiles):
            row, column = divmod(number, self.columns)
            padded = np.pad(tile, ((0, height - tile.shape[0]), (0, width - tile.shape[1])), "edge")
            sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = padded
        return sheet


@dataclass(frozen=True)
class Volume:
    """A case, turned. ids_DHW and predicted: uint8 class ids, what is ignored as background; valid_DHW: where the reference counts."""

    seen: Seen
    ids_DHW: np.ndarray
    valid_DHW: np.ndarray
    predicted: Mapping[str, np.ndarray]
    labels: LabelSet

    @cached_property
    def _window(self) -> tuple[float, float]:
        assert self.seen.image_DHW is not None
        return grey_window(self.seen.image_DHW)

    @cached_property
    def _best(self) -> tuple[int, int, int]:
        return best_planes([self.ids_DHW, *self.predicted.values()], self.labels.ignore_id)

    def plane(self, axis: int) -> Plane:
        """The slices across D, H or W."""
        layout = Layout(self.seen.shape, self.seen.spacing_mm, axis)
        (height, width), factor, places = layout.tile, layout.factor, np.array(layout.places)
        layers = {label: fill_layer(layout.sheet(self._ids(mask, layout), factor), self.labels) for label, mask in self.predicted.items()}
        lines = (outlined(ids, self.labels) for ids in self._ids(self.ids_DHW, layout))
        return Plane(
            name=NAMES[axis], w=width * factor, h=height * factor, tile=(width, height), step=layout.step[::-1], factor=factor,
            columns=layout.columns, count=len(places), start=int(np.abs(places - self._best[axis]).argmin()),
            marks=MARKS[axis] if self.seen.placed else "", note=layout.note, photograph=self._photograph(layout),
            reference=outline_layer(layout.sheet(lines, factor), self.labels), layers=layers,
            apart={label: self._apart(mask, axis)[places].tolist() for label, mask in self.predicted.items()},
        )  # fmt: skip

    def _photograph(self, layout: Layout) -> str:
        if self.seen.image_DHW is None:
            return ""
        shades = (grey(plane(self.seen.image_DHW, layout.axis, place), self._window) for place in layout.places)
        return data_uri(encode_jpeg(layout.sheet(resize_image(shade, layout.tile) for shade in shades), 75), "image/jpeg")

    @staticmethod
    def _ids(mask_DHW: np.ndarray, layout: Layout) -> Iterable[np.ndarray]:
        size = Size(layout.tile.height_px * layout.factor, layout.tile.width_px * layout.factor)
        return (resize_mask(plane(mask_DHW, layout.axis, place), size) for place in layout.places)

    def _apart(self, mask_DHW: np.ndarray, axis: int) -> np.ndarray:
        """int64 (slices,)."""
        others = tuple({0, 1, 2} - {axis})
        return ((mask_DHW != self.ids_DHW) & self.valid_DHW).sum(axis=others)

    def first_slice(self) -> tuple[Size, np.ndarray | None, np.ndarray, dict[str, np.ndarray]]:
        """The axial slice to begin with, as one small picture: its size, uint8 (H, W, 3) the image, and class ids of reference and runs."""
        layout = Layout(self.seen.shape, self.seen.spacing_mm, 0)
        size, place = Size(layout.tile.height_px * layout.factor, layout.tile.width_px * layout.factor), self._best[0]
        image = None
        if self.seen.image_DHW is not None:
            image = np.repeat(resize_image(grey(plane(self.seen.image_DHW, 0, place), self._window), size)[..., None], 3, axis=2)
        masks = {label: resize_mask(plane(mask, 0, place), size) for label, mask in self.predicted.items()}
        return size, image, resize_mask(plane(self.ids_DHW, 0, place), size), masks
