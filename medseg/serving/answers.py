"""A segmented photograph -> what goes back: JSON, a mask, an overlay, a confidence map, a labelme file. Legend: H W its own pixels."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

import numpy as np
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from medseg.deploy.description import Description
from medseg.deploy.model import Model, Segmented
from medseg.images import BAND, blend, encode_grey, encode_jpeg, encode_mask
from medseg.manifest.history import provenance
from medseg.outlines import labelme_content, outlines, pieces
from medseg.serving.decoding import Placed
from medseg.serving.refusals import RequestError
from medseg.types import Size

Result = Literal["json", "mask", "overlay", "confidence", "labelme"]
MEDIA: dict[Result, str] = {
    "json": "application/json",
    "mask": "image/png",
    "overlay": "image/jpeg",
    "confidence": "image/png",
    "labelme": "application/json",
}
PROVENANCE = "Medseg-Model"  # the header by which a PNG and a JPEG, too, tell what made them
MOST_PIECES = 1000  # outlined in one answer; they take a thread about a second
IMAGE_NAME = "image"  # in a labelme file: the upload's own name is not known


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(_Part):
    """The query of a request."""

    result: Result = Field("json", description="what is answered")
    spacing_mm: float | None = Field(
        None,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="mm a pixel of the photograph as it is sent; areas are then told in mm2, too",
    )


class ClassNamed(_Part):
    """id: null for a region, which unites classes.  colour: #rrggbb."""

    id: int | None
    name: str
    colour: str


class ClassFound(ClassNamed):
    """percent: of the photograph.  confidence: the mean probability over its pixels, in [0, 1], null where there are none."""

    pixels: int
    percent: float
    area_mm2: float | None
    confidence: float | None


class ModelNamed(_Part):
    """Enough to find the run again. backend: what computed this answer."""

    run: str
    dataset: str
    network: str
    backend: str
    weights_sha256: str
    medseg: str


class Milliseconds(_Part):
    """waited: for a thread, for memory, for the network, for company.  network: of the whole batch."""

    waited: float
    decoding: float
    network: float
    answering: float


class Answer(_Part):
    """width_px, height_px: upright.  mask_png, confidence_png: base64 of PNGs on the photograph's own pixels: class ids as a palette; 255
    for probability 1.  uncertainty: in [0, 1], 0 where the network is sure of the whole mask."""

    width_px: int
    height_px: int
    classes: list[ClassFound]
    uncertainty: float
    mask_png: str
    confidence_png: str
    model: ModelNamed
    milliseconds: Milliseconds


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """What an answer is made of. waited_s, network_s: what it has taken so far, beside the decoding."""

    model: Model
    asked: Asked
    placed: Placed
    found: Segmented
    waited_s: float
    network_s: float
    started: float

    @property
    def size(self) -> Size:
        """The photograph's."""
        return self.placed.letterbox.original


def answer(ready: Ready) -> Response:
    """As it was asked for."""
    made = MAKERS[ready.asked.result](ready)
    return Response(made, headers={PROVENANCE: _provenance(ready.model)}, media_type=MEDIA[ready.asked.result])


def _provenance(model: Model) -> str:
    """As a header can say it: ASCII without signs of its own, whatever the run is called."""
    origin = model.description.origin
    said = {"run": origin.run, "backend": model.network.backend, "weights_sha256": origin.weights_sha256}
    return "; ".join(f"{key}={quote(value, safe='')}" for key, value in said.items())


def classes_named(description: Description) -> tuple[list[ClassNamed], list[ClassNamed]]:
    """(the classes without the background, by id; the regions)."""
    labels = description.labels
    classes = [ClassNamed(id=labels.id_of(name), name=name, colour=_hex(description, name)) for name in labels.foreground]
    return classes, [ClassNamed(id=None, name=name, colour=_hex(description, name)) for name in labels.regions]


def _hex(description: Description, name: str) -> str:
    return "#" + bytes(description.colour_of(name)).hex()


def classes_found(description: Description, found: Segmented, spacing_mm: float | None) -> list[ClassFound]:
    """Classes by id, then regions, those that are not there too."""
    pixels, mass = _sums(found)
    named, regions = classes_named(description)
    ids = [(each, [each.id or 0]) for each in named]
    ids += [(each, list(description.labels.region_ids(each.name))) for each in regions]
    return [_found(each, int(pixels[of].sum()), float(mass[of].sum()), found.mask_HW.size, spacing_mm) for each, of in ids]


def _found(named: ClassNamed, pixels: int, mass: float, total: int, spacing_mm: float | None) -> ClassFound:
    return ClassFound(
        **named.model_dump(),
        pixels=pixels,
        percent=100 * pixels / total,
        area_mm2=None if spacing_mm is None else pixels * spacing_mm**2,
        confidence=mass / pixels if pixels else None,
    )


def _sums(found: Segmented) -> tuple[np.ndarray, np.ndarray]:
    """By class id: pixels int64 (256,), and the sum of their confidence float64 (256,)."""
    pixels, mass = np.zeros(256, np.int64), np.zeros(256)
    for rows in _bands(found.mask_HW.shape):
        ids = found.mask_HW[rows].ravel()
        pixels += np.bincount(ids, minlength=256)
        mass += np.bincount(ids, found.confidence_HW[rows].ravel(), minlength=256)
    return pixels, mass


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Some rows at a time: what is computed on them is up to eight times as large."""
    step = max(1, BAND // shape[1])
    return (slice(top, top + step) for top in range(0, shape[0], step))


def _mask(ready: Ready) -> bytes:
    return encode_mask(ready.found.mask_HW, ready.model.description.palette)


def _confidence(ready: Ready) -> bytes:
    grey_HW = np.empty(ready.found.mask_HW.shape, np.uint8)
    for rows in _bands(grey_HW.shape):
        grey_HW[rows] = np.rint(255 * ready.found.confidence_HW[rows].clip(0, 1))
    return encode_grey(grey_HW)


def _overlay(ready: Ready) -> bytes:
    image_HWC = ready.placed.image_HWC
    assert image_HWC is not None
    palette, shown_HWC = ready.model.description.palette, np.empty_like(image_HWC)
    for rows in _bands(shown_HWC.shape):
        shown_HWC[rows] = blend(image_HWC[rows], ready.found.mask_HW[rows], palette)
    return encode_jpeg(shown_HWC)


def _labelme(ready: Ready) -> bytes:
    """RequestError for a mask like noise, whose outlines nobody would correct, and which would hold up everybody else's answers."""
    number = pieces(ready.found.mask_HW, ready.model.labels.num_classes)
    if number > MOST_PIECES:
        rule = f"the mask has {number} separate pieces, and at most {MOST_PIECES} are outlined"
        raise RequestError(
            422, "too_many_pieces", rule, "take result=mask; medseg postprocess RUN, before it is served, removes small pieces"
        )
    found, origin = outlines(ready.found.mask_HW, ready.model.labels), ready.model.description.origin
    more = provenance(found, origin.run, origin.weights_sha256, ready.found.uncertainty)
    return json.dumps(labelme_content(found, IMAGE_NAME, ready.size, more), ensure_ascii=False).encode()


def _json(ready: Ready) -> bytes:
    description, origin = ready.model.description, ready.model.description.origin
    parts = {
        "width_px": ready.size.width_px,
        "height_px": ready.size.height_px,
        "classes": classes_found(description, ready.found, ready.asked.spacing_mm),
        "uncertainty": ready.found.uncertainty,
        "mask_png": base64.b64encode(_mask(ready)).decode(),
        "confidence_png": base64.b64encode(_confidence(ready)).decode(),
        "model": ModelNamed(
            run=origin.run,
            dataset=origin.dataset,
            network=origin.network,
            backend=ready.model.network.backend,
            weights_sha256=origin.weights_sha256,
            medseg=origin.medseg,
        ),
    }
    return Answer(**parts, milliseconds=_milliseconds(ready)).model_dump_json().encode()


def _milliseconds(ready: Ready) -> Milliseconds:
    took = (ready.waited_s, ready.placed.decoding_s, ready.network_s, time.perf_counter() - ready.started)
    waited, decoding, network, answering = (round(1000 * seconds, 2) for seconds in took)
    return Milliseconds(waited=waited, decoding=decoding, network=network, answering=answering)


MAKERS: dict[Result, Callable[[Ready], bytes]] = {
    "json": _json,
    "mask": _mask,
    "overlay": _overlay,
    "confidence": _confidence,
    "labelme": _labelme,
}
