"""A strip of predictions to look at while a run goes on: photograph, reference, prediction, one row an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from medseg import images
from medseg.data.decoded import DecodedSet
from medseg.data.loaders import eval_batch
from medseg.engine.infer import Passes, predict

COUNT = 6


def preview_positions(data: DecodedSet) -> list[int]:
    """Up to COUNT images spread over the set, those with the rarest class first, so that it is there to see."""
    px = np.array([[row.px[name] for name in data.labels.foreground] for row in data.rows])
    images_with = (px > 0).sum(axis=0)
    rarest = int(np.argmin(np.where(images_with > 0, images_with, len(data) + 1)))
    with_rarest = np.flatnonzero(px[:, rarest] > 0)[: COUNT // 2].tolist()
    spread = np.linspace(0, len(data) - 1, min(COUNT, len(data))).astype(int).tolist()
    return list(dict.fromkeys([*with_rarest, *spread]))[:COUNT]


def write_preview(path: Path, model: nn.Module, data: DecodedSet, passes: Passes, device: torch.device) -> None:
    """Write the strip as an image: rows photograph, reference, prediction; columns the chosen images."""
    positions = preview_positions(data)
    records = data.records(positions)
    prediction = predict(model, eval_batch(data, positions, device).image_BCHW, passes)
    predicted = prediction.mask_BHW.to(torch.uint8).cpu().numpy()
    columns = [_column(record[:3].transpose(1, 2, 0), record[3], mask, data) for record, mask in zip(records, predicted, strict=True)]
    images.write_image(path, np.concatenate(columns, axis=1))


def _column(image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, data: DecodedSet) -> np.ndarray:
    valid = data.labels.valid(reference)
    layers = [np.where(valid, mask, 0) for mask in (reference, prediction)]
    return np.concatenate([image, *(images.blend(image, layer, data.labels.palette) for layer in layers)], axis=0)
