"""A strip of predictions to look at while a run goes on: photograph, reference, prediction, one row an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from medseg import images
from medseg.data.decoded import DecodedSet
from medseg.data.loaders import eval_batch
from medseg.data.volume.volumeset import VolumeSet
from medseg.engine.evaluate import windows
from medseg.engine.infer import Passes, predict
from medseg.engine.volumes import network_mask

COUNT = 6
MOST_VOLUMES = 3  # each is predicted whole, and shows one plane
LEAST_PX = 192  # of a plane's longer side: smaller ones are drawn larger by whole numbers


def preview_positions(data: DecodedSet | VolumeSet) -> list[int]:
    """Up to COUNT images spread over the set, those with the rarest class first, so that it is there to see."""
    px = np.array([[row.px[name] for name in data.labels.foreground] for row in data.rows])
    images_with = (px > 0).sum(axis=0)
    rarest = int(np.argmin(np.where(images_with > 0, images_with, len(data) + 1)))
    with_rarest = np.flatnonzero(px[:, rarest] > 0)[: COUNT // 2].tolist()
    spread = np.linspace(0, len(data) - 1, min(COUNT, len(data))).astype(int).tolist()
    return list(dict.fromkeys([*with_rarest, *spread]))[:COUNT]


def write_preview(path: Path, model: nn.Module, data: DecodedSet | VolumeSet, passes: Passes, device: torch.device) -> None:
    """Write the strip as an image: rows photograph, reference, prediction; columns the chosen images, or planes of volumes."""
    positions = preview_positions(data)
    if isinstance(data, VolumeSet):
        _write_planes(path, model, data, positions[:MOST_VOLUMES], passes, device)
        return
    records = data.records(positions)
    prediction = predict(model, eval_batch(data, positions, device).image_BCHW, passes)
    predicted = prediction.mask_BHW.to(torch.uint8).cpu().numpy()
    columns = [_column(record[:3].transpose(1, 2, 0), record[3], mask, data) for record, mask in zip(records, predicted, strict=True)]
    images.write_image(path, np.concatenate(columns, axis=1))


def _write_planes(path: Path, model: nn.Module, data: VolumeSet, positions: list[int], passes: Passes, device: torch.device) -> None:
    """Of each volume the plane across D with the most foreground; volumes differ in size, so black fills the columns up.

    Of RAS, y and z rise upwards and x to the right: turned as a radiologist looks, the patient's right at the left.
    """
    columns = []
    for place in positions:
        record, reference = data.record(place), data.mask(place)
        plane = int(((reference > 0) & data.labels.valid(reference)).sum(axis=(1, 2)).argmax())
        predicted = network_mask([model], record.image_CDHW, windows(data, passes), device)
        times = -(-LEAST_PX // max(reference.shape[1:]))
        layers = [layer[plane, ::-1, ::-1].repeat(times, 0).repeat(times, 1) for layer in (record.image_CDHW[0], reference, predicted)]
        columns.append(_column(_grey(layers[0]), layers[1], layers[2], data))
    tallest = max(column.shape[0] for column in columns)
    images.write_image(path, np.concatenate([np.pad(each, ((0, tallest - len(each)), (0, 2), (0, 0))) for each in columns], axis=1))


def _grey(plane_HW: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): from black at percentile 0.5 to white at 99.5."""
    low, high = np.percentile(plane_HW, (0.5, 99.5))
    shade = np.clip((plane_HW - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat(np.rint(255 * shade).astype(np.uint8)[..., None], 3, axis=2)


def _column(image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, data: DecodedSet | VolumeSet) -> np.ndarray:
    valid = data.labels.valid(reference)
    layers = [np.where(valid, mask, 0) for mask in (reference, prediction)]
    return np.concatenate([image, *(images.blend(image, layer, data.labels.palette) for layer in layers)], axis=0)
