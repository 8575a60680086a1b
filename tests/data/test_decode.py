from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medseg import images
from medseg.data.decode import decode, decode_all, fit_letterbox
from medseg.data.loaders import collate, eval_batches
from medseg.errors import LabelError, ManifestError
from medseg.types import Size
from tests.tiny import make_data

FRAME = Size(32, 48)


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path, 6), tmp_path / "data", tmp_path / "cache"


@pytest.mark.parametrize(
    ("original", "inner", "corner"),
    [
        ((100, 100), (32, 32), (0, 8)),
        ((10, 100), (5, 48), (13, 0)),
        ((64, 96), (32, 48), (0, 0)),
        ((4000, 3), (32, 1), (0, 23)),
    ],
)
def test_letterbox_keeps_the_aspect_and_centres(original, inner, corner):
    box = fit_letterbox(Size(*original), FRAME)
    assert (box.inner, (box.top_px, box.left_px)) == (inner, corner)


def test_padding_is_black_and_ignored_and_the_rest_is_labelled(data):
    manifest, root, _ = data
    sample = decode(manifest, manifest.row(1), root, FRAME)
    box = sample.letterbox
    inside = np.zeros(FRAME, bool)
    inside[box.top_px : box.top_px + box.inner.height_px, box.left_px : box.left_px + box.inner.width_px] = True
    assert (sample.mask_HW[~inside] == 255).all() and (sample.mask_HW[inside] < 3).all() and not inside.all()
    assert (sample.image_CHW[:, ~inside] == 0).all() and (sample.image_CHW[:, inside] > 0).any()


def test_the_cache_holds_what_decode_gives_and_is_not_made_twice(data):
    manifest, root, cache = data
    rows = list(manifest)
    first = decode_all(manifest, rows, root, FRAME, cache)
    for place, row in enumerate(rows):
        sample = decode(manifest, row, root, FRAME)
        assert (first.images_NCHW[place] == sample.image_CHW).all() and (first.masks_NHW[place] == sample.mask_HW).all()
    calls = []
    decode_all(manifest, rows, root, FRAME, cache, lambda done, total: calls.append(done))
    assert not calls and not list(cache.glob(".*"))


def test_another_grid_or_other_files_make_another_cache(data):
    manifest, root, cache = data
    rows = list(manifest)
    decode_all(manifest, rows, root, FRAME, cache)
    decode_all(manifest, rows, root, Size(16, 16), cache)
    decode_all(manifest, rows[1:], root, FRAME, cache)
    assert len(list(cache.iterdir())) == 6


def test_a_failed_decode_leaves_nothing_behind(data):
    manifest, root, cache = data
    path = root / manifest.row(3).image
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(images.ImageError, match="case_03.png: the image is truncated or damaged"):
        decode_all(manifest, list(manifest), root, FRAME, cache)
    assert not list(cache.iterdir())


def test_a_mask_imported_as_it_is_is_refused_whatever_the_cache_holds(data):
    manifest, root, cache = data
    rows = list(manifest)
    decode_all(manifest, rows, root, FRAME, cache)
    rows[3] = dataclasses.replace(rows[3], mask_as_stored=True)
    said = r"manifest.csv row 5 \(case_03\): its mask was imported --as-is and is not an id mask; run `medseg manifest check .* --fix OUT`"
    with pytest.raises(ManifestError, match=said):
        decode_all(manifest, rows, root, FRAME, cache)
    with pytest.raises(ManifestError, match=said):
        decode(manifest, rows[3], root, FRAME)


def test_a_missing_image_is_named_by_row_before_any_is_decoded(data):
    manifest, root, cache = data
    (root / manifest.row(3).image).unlink()
    with pytest.raises(ManifestError, match=r"manifest.csv row 5 \(case_03\): there is no image .*case_03.png; check --data-root"):
        decode_all(manifest, list(manifest), root, FRAME, cache)
    assert not cache.exists()


def test_a_file_of_another_size_is_refused_by_row(data):
    manifest, root, cache = data
    images.write_image(root / manifest.row(1).image, np.zeros((9, 11, 3), np.uint8))
    with pytest.raises(ManifestError, match=r"manifest.csv row 3 \(case_01\): .*case_01.png is 11 x 9 pixels, the manifest says"):
        decode(manifest, manifest.row(1), root, FRAME)


def test_a_changed_file_is_refused(data):
    manifest, root, _ = data
    row = manifest.row(1)
    images.write_image(root / row.image, np.zeros((*row.size, 3), np.uint8))
    with pytest.raises(ManifestError, match="has changed since the import; import it again"):
        decode(manifest, row, root, FRAME)


def test_a_mask_value_outside_the_classes_is_refused(data, tmp_path):
    manifest, root, _ = data
    with pytest.raises(LabelError, match=r"the mask holds ids \{7\}, the classes are \{0..2\}"):
        manifest.labels.check(np.array([[0, 7]], np.uint8), "m.png")


def test_batches_come_in_order_and_whole(data):
    import torch

    manifest, root, cache = data
    decoded = decode_all(manifest, list(manifest), root, FRAME, cache)
    batches = list(eval_batches(decoded, 4, torch.device("cpu")))
    assert [len(batch.sample_ids) for batch in batches] == [4, 2]
    assert [name for batch in batches for name in batch.sample_ids] == [row.sample_id for row in manifest]
    batch = collate(decoded, [2], torch.device("cpu"))
    assert batch.image_BCHW.dtype == torch.float32 and batch.image_BCHW.min() >= 0 and batch.image_BCHW.max() <= 1
    assert batch.mask_BHW.dtype == torch.int64


def test_images_of_several_files_are_refused_in_one_sentence(data):
    manifest, root, cache = data
    rows = [manifest.row(0), dataclasses.replace(manifest.row(1), channels=3)]
    with pytest.raises(ManifestError, match=r"row 3 .*the image is 3 files, one a channel; .*not yet possible; train on a manifest"):
        decode_all(manifest, rows, root, FRAME, cache)
    assert not list(cache.iterdir())


def test_volumes_are_refused_in_one_sentence(data):
    manifest, root, cache = data
    rows = [manifest.row(0), dataclasses.replace(manifest.row(1), depth_px=35)]
    with pytest.raises(ManifestError, match=r"row 3 .*the row is a volume; .*training on them is not yet possible; train on"):
        decode_all(manifest, rows, root, FRAME, cache)
    assert not cache.exists()
