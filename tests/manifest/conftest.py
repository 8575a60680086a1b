"""Small hand-made annotation folders."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medseg.labels import LabelSet
from medseg.manifest.schema import COLUMNS, Dataset, Manifest
from medseg.manifest.table import write_manifest

Box = tuple[str, int, int, int, int]  # label, left, top, right, bottom in px


def picture(height: int = 20, width: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def save_picture(path: Path, height: int = 20, width: int = 30, orientation: int | None = None, seed: int = 0) -> Path:
    """A photograph stored at height x width; with EXIF orientation 6 its upright size is width x height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture(height, width, seed).save(path, exif=exif)
    return path


def polygon(label: str, left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "shape_type": "polygon", "points": points, "group_id": None, "flags": {}}


def embedded(height: int = 20, width: int = 30) -> str:
    stream = io.BytesIO()
    picture(height, width).save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


def save_json(path: Path, boxes: Sequence[Box], height: int | None = 20, width: int | None = 30, **changes: Any) -> Path:
    """A labelme file beside its image `<stem>.jpg`; `changes` replace top-level keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.6.1", "flags": {}, "shapes": [polygon(*box) for box in boxes], "imagePath": f"{path.stem}.jpg",
        "imageData": None, "imageHeight": height, "imageWidth": width,
    }  # fmt: skip
    path.write_text(json.dumps(content | changes))
    return path


@pytest.fixture
def labelme_dir(tmp_path: Path) -> Path:
    """set_1/a and set_1/b, 20 x 30 px, with tongue and coating; imagePath as Windows writes it."""
    src = tmp_path / "src"
    for seed, name in enumerate("ab"):
        save_picture(src / "set_1" / f"{name}.jpg", seed=seed)
        boxes = [("tongue", 2, 2, 20, 15), ("coating", 5, 5, 9, 9)]
        save_json(src / "set_1" / f"{name}.json", boxes, imagePath=f"..\\set_1\\{name}.jpg")
    return src


@pytest.fixture
def mask_dirs(tmp_path: Path) -> tuple[Path, Path]:
    """images/1..3.png and masks of equal name with the ids 0 and 1."""
    images, masks = tmp_path / "data" / "images", tmp_path / "data" / "masks"
    for number in (1, 2, 3):
        save_picture(images / f"{number}.png", seed=number)
        save_mask(masks / f"{number}.png", {1: number})
    return images, masks


def save_mask(path: Path, rows: dict[int, int], height: int = 20, width: int = 30) -> Path:
    """A grey mask; the first `rows[id]` rows from the top hold the id, later ids below earlier ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask, top = np.zeros((height, width), np.uint8), 0
    for value, count in rows.items():
        mask[top : top + count] = value
        top += count
    Image.fromarray(mask).save(path)
    return path


def table_of(rows: Sequence[dict[str, Any]], labels: LabelSet) -> pd.DataFrame:
    """A manifest's table; each row may leave out what a plain labelled 20 x 30 image has."""
    filled = []
    for index, row in enumerate(rows):
        sample = row.get("sample_id", f"s{index:03d}")
        plain = {
            "sample_id": sample, "group_id": sample, "image": f"images/{sample}.png", "mask": f"masks/{sample}.png",
            "height_px": 20, "width_px": 30, "depth_px": None, "image_sha256": "a" * 64, "mask_sha256": "b" * 64,
        }  # fmt: skip
        counts = {f"px_{name}": 0 for name in labels.names}
        filled.append(plain | counts | {"px_background": 600} | row)
    frame = pd.DataFrame(filled, columns=[*COLUMNS, *(f"px_{name}" for name in labels.names)])
    whole = ["height_px", "width_px", "depth_px", *(f"px_{name}" for name in labels.names)]
    return frame.astype(dict.fromkeys(whole, "Int64"))


UNLABELLED = {"mask": None, "mask_sha256": None, "px_background": None, "px_tongue": None, "px_coating": None}


@pytest.fixture
def make_manifest(tmp_path: Path, labels: LabelSet) -> Callable[[Sequence[dict[str, Any]]], Manifest]:
    """Write a manifest of the given rows to tmp/set/v1 and read it."""

    def make(rows: Sequence[dict[str, Any]]) -> Manifest:
        return write_manifest(tmp_path / "set" / "v1", table_of(rows, labels), Dataset(name="set", labels=labels))

    return make
