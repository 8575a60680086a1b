"""Cases -> pictures that a page carries: the photograph, and over it the reference's outline and each run's prediction as layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.errors import MedsegError
from medseg.images import encode_jpeg, resize_image, resize_mask
from medseg.labels import LabelSet
from medseg.publishing.html.found import Masks, Truth, predictions_of, truth_of
from medseg.publishing.html.layers import data_uri, fill_layer, outline_layer, outlined, shown_ids
from medseg.publishing.html.slices import Plane, Volume
from medseg.publishing.sources import Source
from medseg.report.planes import Seen
from medseg.types import Size

SIDE_PX = 640  # of a picture, its longer side
BUDGET_BYTES = 24_000_000  # of all pictures of a page: what a browser still opens at once


@dataclass(frozen=True, slots=True)
class Picture:
    """A case to look at. Sizes in pixels of the picture; photograph ('' where there is none) and layers are data URIs, a layer is
    transparent where it says nothing. layers: the runs by label.  planes: of a volume, whose picture is one slice of it."""

    sample_id: str
    width_px: int
    height_px: int
    photograph: str
    reference: str
    layers: Mapping[str, str]
    planes: tuple[Plane, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all that is drawn."""
        return sum(map(len, (self.photograph, self.reference, *self.layers.values()))) + sum(plane.size_bytes for plane in self.planes)


@dataclass(frozen=True)
class Album:
    """The pictures by sample, and in a sentence which are missing and why ('' where none is)."""

    pictures: Mapping[str, Picture]
    missing: str = ""
    labels: LabelSet | None = None


def draw_album(sources: Sequence[Source], samples: Sequence[str], data_root: Path | None) -> Album:
    """Pictures of `samples`, in this order while BUDGET_BYTES last. Needs the manifest where the runs' configuration names it, or, of
    masks from elsewhere, their files where they were scored; these alone have no photographs."""
    pictures, size, problems = dict[str, Picture](), 0, list[str]()
    try:
        truth = truth_of(sources, data_root)
        predictions = {source.label: predictions_of(source, truth.labels, data_root) for source in sources}
    except MedsegError as cause:
        return Album({}, f"No pictures: {cause}")
    for sample in samples:
        try:
            reference = truth.reference(sample)  # first: it refuses names that are no sample's
            picture = _picture(truth, sample, reference, _masks(predictions, sample, reference, problems))
        except (MedsegError, OSError) as cause:
            problems.append(str(cause))
            continue
        size += picture.size_bytes
        if size > BUDGET_BYTES:
            problems.append(f"{len(samples) - len(pictures)} further cases: more pictures would make a page that no browser opens")
            break
        pictures[sample] = picture
    return Album(pictures, f"Not shown: {'; '.join(problems[:5])}{' ...' if len(problems) > 5 else ''}." if problems else "", truth.labels)


def _masks(predictions: Mapping[str, Masks], sample: str, reference: np.ndarray, problems: list[str]) -> dict[str, np.ndarray]:
    """Each run's prediction on the reference's grid; of one that cannot be read the others are shown all the same."""
    found = {}
    for label, read in predictions.items():
        try:
            mask = read(sample)
        except (MedsegError, OSError) as cause:
            problems.append(f"{label}: {cause}")
            continue
        if mask is not None and mask.shape == reference.shape:
            found[label] = mask
    return found


def _picture(truth: Truth, sample: str, reference: np.ndarray, masks: Mapping[str, np.ndarray]) -> Picture:
    image = truth.image(sample)
    if isinstance(image, Seen):
        return _picture_of_volume(image, sample, reference, masks, truth.labels)
    scale = min(1.0, SIDE_PX / max(reference.shape))
    size = Size(*(max(1, round(side * scale)) for side in reference.shape))
    small = {label: resize_mask(shown_ids(mask, truth.labels), size) for label, mask in masks.items()}
    photograph = None if image is None else resize_image(image, size)
    return _layered(sample, size, photograph, resize_mask(shown_ids(reference, truth.labels), size), small, truth.labels)


def _picture_of_volume(seen: Seen, sample: str, reference: np.ndarray, masks: Mapping[str, np.ndarray], labels: LabelSet) -> Picture:
    turned = {label: shown_ids(seen.turn.forward(mask), labels) for label, mask in masks.items()}
    given_DHW = seen.turn.forward(reference)
    volume = Volume(seen, shown_ids(given_DHW, labels), labels.valid(given_DHW), turned, labels)
    size, image, ids_HW, slices = volume.first_slice()
    return _layered(sample, size, image, ids_HW, slices, labels, tuple(volume.plane(axis) for axis in range(3)))


def _layered(
    sample: str, size: Size, photograph: np.ndarray | None, reference: np.ndarray, masks: Mapping[str, np.ndarray], labels: LabelSet,
    planes: tuple[Plane, ...] = (),
) -> Picture:  # fmt: skip
    """Class ids at the picture's size -> its layers."""
    jpeg = "" if photograph is None else data_uri(encode_jpeg(np.ascontiguousarray(photograph)), "image/jpeg")
    layers = {label: fill_layer(ids_HW, labels) for label, ids_HW in masks.items()}
    return Picture(sample, size.width_px, size.height_px, jpeg, outline_layer(outlined(reference, labels), labels), layers, planes)
