from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medseg import images
from medseg.data.decode import decode
from medseg.data.decoded import decode_all
from medseg.errors import LabelError, ManifestError
from medseg.letterbox import fit_letterbox
from medseg.types import Size
from tests.tiny import make_data

FRAME = Size(32, 48)
GIB = 0.001  # room for 170 images on this grid


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
    first = decode_all(manifest, rows, root, FRAME, cache, GIB)
    for place, row in enumerate(rows):
        sample = decode(manifest, row, root, FRAME)
        assert (first.record(place)[:3] == sample.image_CHW).all() and (first.mask(place) == sample.mask_HW).all()
    assert (first.records([4, 1]) == np.stack([first.record(4), first.record(1)])).all()
    calls = []
    decode_all(manifest, rows, root, FRAME, cache, GIB, lambda done, total: calls.append(done))
    assert not calls and not list(cache.rglob(".*"))


def test_another_grid_makes_other_records_and_another_choice_of_rows_does_not(data):
    manifest, root, cache = data
    rows, calls = list(manifest), []
    decode_all(manifest, rows, root, FRAME, cache, GIB, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)] and len(list(cache.glob("??/*"))) == 6
    decode_all(manifest, rows[1:], root, FRAME, cache, GIB, lambda done, total: calls.append((done, total)))
    assert len(calls) == 6, "a part of the set shares its records"
    decode_all(manifest, rows, root, Size(16, 16), cache, GIB)
    assert len(list(cache.glob("??/*"))) == 12


def test_a_failed_decode_leaves_nothing_half_written_and_is_taken_up_again(data):
    manifest, root, cache = data
    path = root / manifest.row(3).image
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(images.ImageError, match="case_03.png: the image is truncated or damaged"):
        decode_all(manifest, list(manifest), root, FRAME, cache, GIB)
    assert not [path for path in cache.rglob(".*") if path.is_file()]
    path.write_bytes(whole)
    assert len(decode_all(manifest, list(manifest), root, FRAME, cache, GIB)) == 6


def test_a_mask_imported_as_it_is_is_refused_whatever_the_cache_holds(data):
    manifest, root, cache = data
    rows = list(manifest)
    decode_all(manifest, rows, root, FRAME, cache, GIB)
    rows[3] = dataclasses.replace(rows[3], mask_as_stored=True)
    said = r"manifest.csv row 5 \(case_03\): its mask was imported --as-is and is not an id mask; run `medseg manifest check .* --fix OUT`"
    with pytest.raises(ManifestError, match=said):
        decode_all(manifest, rows, root, FRAME, cache, GIB)
    with pytest.raises(ManifestError, match=said):
        decode(manifest, rows[3], root, FRAME)


def test_a_missing_image_is_named_by_row_before_any_is_decoded(data):
    manifest, root, cache = data
    (root / manifest.row(3).image).unlink()
    with pytest.raises(ManifestError, match=r"manifest.csv row 5 \(case_03\): there is no image .*case_03.png; check --data-root"):
        decode_all(manifest, list(manifest), root, FRAME, cache, GIB)
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


def test_images_of_several_files_are_refused_in_one_sentence(data):
    manifest, root, cache = data
    rows = [manifest.row(0), dataclasses.replace(manifest.row(1), channels=3)]
    with pytest.raises(ManifestError, match=r"row 3 .*the image is 3 files, one a channel; .*not yet possible; train on a manifest"):
        decode_all(manifest, rows, root, FRAME, cache, GIB)
    assert len(list(cache.glob("??/*"))) <= 1, "only the good row's"


def test_volumes_are_refused_in_one_sentence(data):
    manifest, root, cache = data
    rows = [manifest.row(0), dataclasses.replace(manifest.row(1), depth_px=35)]
    with pytest.raises(ManifestError, match=r"row 3 .*the row is a volume, .*give data.volume; `medseg plan` writes it"):
        decode_all(manifest, rows, root, FRAME, cache, GIB)
    assert not cache.exists()
