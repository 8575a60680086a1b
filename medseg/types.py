"""The records that pass between modules. Frozen; tensors wear their axes.

Legend: B batch, C channels, H height, W width, K classes (background included, id 0). Sizes in pixels, spacing in millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from medseg.metrics.detection import Matches


Spacing: TypeAlias = "tuple[float | None, float | None, float | None]"  # mm along x (width), y (height), z (depth)


class Size(NamedTuple):
    """Height and width in pixels, in this order."""

    height_px: int
    width_px: int


def by(sides: Sequence[float]) -> str:
    """Sides as one reads them.

    >>> by((32, 64, 48)), by((3.0, 0.75, 0.75))
    ('32 x 64 x 48', '3 x 0.75 x 0.75')
    """
    return " x ".join(f"{side:g}" for side in sides)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a manifest. `mask` is None for an unlabelled image; `px` holds its pixels per class, empty if unlabelled.

    depth_px: None for a photograph.  spacing_mm: x, y, z along width, height and depth, None where unknown.  instances: the file
    of the separate objects beside the class mask, where the annotation told them apart.  channels: how many files the image is, one a
    channel, of which `image` names the first (`manifest.imagefiles`).  mask_as_stored: the mask was recorded as it was found and is no
    id mask, so nothing may learn from it before it is repaired.
    """

    sample_id: str
    group_id: str
    image: str
    mask: str | None
    size: Size
    image_sha256: str
    mask_sha256: str | None
    px: Mapping[str, int]
    depth_px: int | None = None
    spacing_mm: Spacing = (None, None, None)
    instances: str | None = None
    instances_sha256: str | None = None
    channels: int = 1
    mask_as_stored: bool = False


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image of size `original` lies in a frame of size `frame`: scaled to `inner`, its corner at (top_px, left_px)."""

    original: Size
    inner: Size
    frame: Size
    top_px: int
    left_px: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoded image on the network's grid.

    image_CHW: uint8, RGB. mask_HW: uint8 class ids, the ignore id on the letterbox's padding; None if unlabelled.  objects_HW: uint8
    numbers of the annotated objects, 0 where there is none; None where they are not asked for.
    """

    sample_id: str
    group_id: str
    image_CHW: np.ndarray
    mask_HW: np.ndarray | None
    letterbox: Letterbox
    objects_HW: np.ndarray | None = None


class Batch(NamedTuple):
    """image_BCHW: float32 in [0, 1]. mask_BHW: int64 class ids or the ignore id. objects_BHW: int64 numbers of the annotated objects, 0
    where there is none, at most 255; None where the network learns from the classes alone.

    What a network takes and gives is a NamedTuple, immutable as the other records, because torch and Fabric look into tuples for
    tensors (autocast, DDP, export) and cannot rebuild a frozen dataclass.
    """

    image_BCHW: Tensor
    mask_BHW: Tensor
    sample_ids: tuple[str, ...]
    objects_BHW: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What one epoch shows, in order.

    images: int64 (N,), positions in the training set.  centres: int32 (N, 2), row and column of the pixel each crop is laid around,
    and wanted: int16 (N,), the class that was drawn for it (-1: anywhere); None where whole images are drawn.  places: int64 (N,), where
    each draw stands in the epoch's one list, which names it to the augmentation; not given for the list itself.
    """

    images: np.ndarray
    centres: np.ndarray | None = None
    wanted: np.ndarray | None = None
    places: np.ndarray = None  # type: ignore[assignment]  # arange where not given

    def __post_init__(self) -> None:
        if self.places is None:
            object.__setattr__(self, "places", np.arange(len(self.images), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def part(self, which: slice | np.ndarray) -> Draws:
        """The draws of a batch, or of a rank; each keeps its place in the epoch's one list, wherever it stands in this one."""
        cut = (None if values is None else values[which] for values in (self.images, self.centres, self.wanted, self.places))
        return Draws(*cut)  # type: ignore[arg-type]


class Losses(NamedTuple):
    """The named terms a network returns in train mode, each a scalar that is already weighted; their sum is minimised."""

    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""
        return sum(self.terms.values())  # type: ignore[return-value]


class Found(NamedTuple):
    """The N objects that a network finds in one image, by falling score.

    On the processor, wherever the network is.  ids_N: int64 class ids, never the background.  scores_N: float in [0, 1].  soft_NHW:
    float in [0, 1], how sure each pixel belongs to the object.  boxes_N4: float, left, top, right, bottom in pixels.  shown_N: bool,
    whether the object is sure enough to be painted into the class mask.
    """

    ids_N: Tensor
    scores_N: Tensor
    soft_NHW: Tensor
    boxes_N4: Tensor
    shown_N: Tensor


class Prediction(NamedTuple):
    """What a network returns in eval mode.

    probs_BKHW: float in [0, 1], summing to 1 over K; None where a network has no per-pixel probabilities. mask_BHW: int64 ids.
    found: the objects of each image, of a network that finds objects.
    """

    probs_BKHW: Tensor | None
    mask_BHW: Tensor
    found: tuple[Found, ...] | None = None


# (logits_BKHW or several of falling resolution, mask_BHW) -> named weighted terms
Loss: TypeAlias = "Callable[[Tensor | Sequence[Tensor], Tensor], dict[str, Tensor]]"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The counts of one image on its own pixel grid.

    confusion_KK: int64, rows = reference, columns = prediction, ignored pixels left out. Every overlap score follows from it.
    boundary[name][metric]: what needs the masks themselves, of each foreground class and region; empty where it was not measured.
    matches: of each foreground class which objects were found; empty where objects were not asked for.
    """

    sample_id: str
    group_id: str
    confusion_KK: np.ndarray
    boundary: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    matches: Mapping[str, Matches] = field(default_factory=dict)
