"""Annotated objects beside the class mask: which pixels are whose, and that they go where their pixels go."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_rle

from medseg import api, images
from medseg.config import AugmentConfig
from medseg.data.augment import apply_changes, draw_change
from medseg.data.cache import Cache
from medseg.data.decode import read_original_mask
from medseg.data.decoded import DecodedSet, undecoded
from medseg.data.loaders import Loading, collate, train_batches
from medseg.data.objects import annotated_objects, objects_as_bytes
from medseg.errors import ManifestError
from medseg.labels import LabelSet
from medseg.letterbox import fit_letterbox, place_mask
from medseg.manifest.schema import Manifest
from medseg.types import Batch, Draws, Size
from tests.data.changes import EVERYTHING
from tests.tiny import make_data

FRAME = Size(32, 48)
CPU = torch.device("cpu")


def rectangle(left: int, top: int, width: int, height: int) -> list[list[float]]:
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def imported(folder: Path, shapes: list[tuple[str, tuple[int, int, int, int]]], *more: dict) -> tuple[Manifest, Path]:
    """A COCO set of one image of 60 x 80 pixels: (label, left, top, width and height) and further annotations."""
    images.write_image(folder / "data/a.png", np.full((60, 80, 3), 90, np.uint8))
    entries = [
        {"id": number, "image_id": 1, "category_id": 1 + (label == "lesion"), "iscrowd": 0, "bbox": list(box), "area": box[2] * box[3],
         "segmentation": rectangle(*box)} for number, (label, box) in enumerate(shapes, 1)
    ]  # fmt: skip
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 80}], "annotations": [*entries, *more]}
    content["categories"] = [{"id": 1, "name": "organ"}, {"id": 2, "name": "lesion"}]
    (folder / "data/coco.json").write_text(json.dumps(content))
    api.import_coco(folder / "data/coco.json", folder / "data", folder / "manifest", instances=True)
    return api.read_manifest(folder / "manifest"), folder / "data"


@pytest.fixture
def overlapping(tmp_path) -> tuple[Manifest, Path]:
    """Two lesions and a small organ inside a larger organ that is listed last, and a crowd over one of the lesions."""
    shapes = [("lesion", (10, 10, 6, 6)), ("lesion", (30, 10, 6, 6)), ("organ", (50, 30, 10, 10)), ("organ", (5, 5, 60, 45))]
    crowd = np.zeros((60, 80), np.uint8, order="F")
    crowd[8:18, 28:38] = 1
    code = {key: value.decode() if isinstance(value, bytes) else value for key, value in coco_rle.encode(crowd).items()}
    entry = {"id": 9, "image_id": 1, "category_id": 2, "iscrowd": 1, "bbox": [28, 8, 10, 10], "area": 100, "segmentation": code}
    return imported(tmp_path, shapes, entry)


def decoded(manifest: Manifest, root: Path, folder: Path, channels: int = 5, frame: Size = FRAME) -> DecodedSet:
    data = undecoded(manifest, list(manifest), root, Cache(folder, frame, 2**24, channels))
    data.fill()
    return data


def test_overlapping_annotated_objects_keep_their_own_pixels(overlapping):
    manifest, root = overlapping
    row = manifest.row(0)
    reference = read_original_mask(manifest, row, root)
    drawn = annotated_objects(manifest, row, reference)
    areas = {name: sorted(np.bincount(drawn[reference == manifest.labels.id_of(name)])[1:]) for name in ("organ", "lesion")}
    present = {name: [int(area) for area in each if area] for name, each in areas.items()}
    assert present == {"organ": [100, 60 * 45 - 100 - 100 - 36], "lesion": [36, 36]}  # around one lesion the crowd is ignored


def test_an_objects_file_that_was_changed_is_refused(overlapping):
    manifest, root = overlapping
    row = manifest.row(0)
    path = manifest.folder / row.instances
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"instances": content["instances"][1:]}))
    with pytest.raises(ManifestError, match="the file of the objects is not the one that the manifest describes"):
        annotated_objects(manifest, row, read_original_mask(manifest, row, root))


def test_a_record_with_objects_has_a_fifth_plane_placed_like_the_mask(overlapping, tmp_path):
    manifest, root = overlapping
    row = manifest.row(0)
    reference = read_original_mask(manifest, row, root)
    drawn = annotated_objects(manifest, row, reference)
    for frame in (FRAME, Size(50, 64)):
        box = fit_letterbox(row.size, frame)
        for data in (decoded(manifest, root, tmp_path / "cache", frame=frame) for _ in range(2)):  # decoded, then from the cache
            record = data.record(0)
            assert record.shape == (5, *frame) and (record[4] == place_mask(objects_as_bytes(manifest, row, reference), box, 0)).all()
            assert (place_mask(drawn.astype(np.uint8), box, 0) > 0).sum() == (record[4] > 0).sum() > 300
    assert set(np.unique(record[4])) == {0, 1, 2, 3, 4}
    batch = collate(data.records([0]), ["a"], CPU)
    assert batch.objects_BHW.dtype == torch.int64 and (batch.objects_BHW[0].numpy() == record[4]).all()


def test_runs_without_objects_keep_their_records(overlapping, tmp_path):
    """Name and content of a file as they were before there were objects."""
    manifest, root = overlapping
    row = manifest.row(0)
    plain, more = (decoded(manifest, root, tmp_path / "cache", channels) for channels in (4, 5))
    text = f"2 (32, 48) 255 3 {row.image_sha256} {row.mask_sha256}"
    assert plain.keys == [hashlib.sha256(text.encode()).hexdigest()[:32]] and more.keys != plain.keys
    content = plain.cache.path(plain.keys[0]).read_bytes()
    assert content[:-4] == plain.record(0).tobytes() and len(content) == 4 * 32 * 48 + 4
    assert (more.record(0)[:4] == plain.record(0)).all() and collate(plain.records([0]), ["a"], CPU).objects_BHW is None


def test_more_objects_than_a_byte_holds_are_refused(tmp_path):
    boxes = [(3 * (place % 26), 3 * (place // 26), 2, 2) for place in range(256)]
    manifest, root = imported(tmp_path, [("lesion", box) for box in boxes[:255]])
    assert objects_as_bytes(manifest, manifest.row(0), read_original_mask(manifest, manifest.row(0), root)).max() == 255
    manifest, root = imported(tmp_path / "more", [("lesion", box) for box in boxes])
    with pytest.raises(ManifestError, match="holds 256 annotated objects, and a network learns from 255 an image"):
        decoded(manifest, root, tmp_path / "cache")


def test_a_manifest_without_objects_is_refused_before_decoding(tmp_path):
    manifest = make_data(tmp_path, 2)
    with pytest.raises(ManifestError, match="holds no separate objects of it; set model.instances=components"):
        undecoded(manifest, list(manifest), tmp_path / "data", Cache(tmp_path / "cache", FRAME, 2**20, 5))
    assert not (tmp_path / "cache").exists()


def test_crops_and_changes_take_the_objects_along(overlapping, tmp_path):
    """A crop's objects lie where its classes lie; nothing is an object where the mask is background or ignored."""
    manifest, root = overlapping
    data = decoded(manifest, root, tmp_path / "cache", frame=Size(60, 80))
    draws = Draws(np.zeros(8, np.int64), np.tile(np.array([[20, 30]], np.int32), (8, 1)), np.full(8, -1, np.int16))
    still = AugmentConfig(flip_probability=0, rotate_deg=0, scale=0, shift=0)
    (batch,) = train_batches(data, draws, 1, Loading(8, still, 0, CPU, Size(40, 40)))
    assert (batch.objects_BHW[0].numpy() == data.record(0)[4][0:40, 10:50]).all() and batch.objects_BHW.any()
    (batch,) = train_batches(data, draws, 1, Loading(8, EVERYTHING.model_copy(update={"probability": 1.0}), 0, CPU, Size(40, 40)))
    known = (batch.mask_BHW > 0) & (batch.mask_BHW != 255)
    assert (known | (batch.objects_BHW == 0)).all() and (batch.objects_BHW > 0).float().mean() > 0.05


def test_objects_go_through_the_augmentation_as_a_mask_of_their_numbers_would():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 200, (8, 24, 32), generator=generator)
    image, ids = torch.rand(8, 3, 24, 32, generator=generator), tuple("abcdefgh")
    changes = [draw_change(EVERYTHING, 7, 3, place) for place in range(8)]
    labels = LabelSet.of("left", "right", left_right_pairs=[["left", "right"]])
    many = LabelSet.of(*(f"class{place}" for place in range(200)))
    shown = apply_changes(Batch(image, numbers, ids), changes, many).mask_BHW  # no pairs: a mirror image changes no number
    before = numbers.clone()
    found = apply_changes(Batch(image, numbers % 3, ids, numbers), changes, labels)
    assert torch.equal(found.objects_BHW, torch.where(shown == 255, 0, shown)) and (shown == 255).any()
    assert torch.equal(numbers, before) and found.objects_BHW.dtype == torch.int64
    plain = apply_changes(Batch(image, numbers % 3, ids), changes, labels)
    assert torch.equal(plain.mask_BHW, found.mask_BHW) and torch.equal(plain.image_BCHW, found.image_BCHW) and plain.objects_BHW is None
