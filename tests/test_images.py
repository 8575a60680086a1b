from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from medseg import images
from medseg.errors import ImageError
from medseg.labels import LabelSet
from medseg.types import Size

PHOTO = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_exif_is_applied(tmp_path):
    sideways = Image.fromarray(np.rot90(PHOTO))  # orientation 6: turn by 90 degrees clockwise to see it upright
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "a.png", exif=exif)
    assert images.read_size(tmp_path / "a.png") == Size(6, 9)
    assert (images.read_image(tmp_path / "a.png") == PHOTO).all()


def test_an_extension_that_lies_does_not_matter(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", format="PNG")
    assert (images.read_image(tmp_path / "a.jpg") == PHOTO).all()


def test_grey_palette_alpha_and_one_bit_become_rgb(tmp_path):
    grey = PHOTO[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert (images.read_image(tmp_path / "grey.png") == grey[..., None]).all()
    Image.fromarray(PHOTO).quantize(8).save(tmp_path / "palette.png")
    assert images.read_image(tmp_path / "palette.png").shape == PHOTO.shape
    alpha = np.dstack([PHOTO, np.where(grey > 99, 255, 0).astype(np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert (images.read_image(tmp_path / "alpha.png") == np.where((grey > 99)[..., None], PHOTO, 0)).all()
    Image.fromarray(grey > 99).save(tmp_path / "bit.png")
    assert set(np.unique(images.read_image(tmp_path / "bit.png"))) == {0, 255}


@pytest.mark.parametrize(("top", "stored"), [(65535, 65535), (4095, 4095), (300, 1023)])
def test_sixteen_bits_are_scaled_by_their_own_depth(tmp_path, top, stored):
    Image.fromarray(np.array([[0, top]], np.uint16)).save(tmp_path / "a.png")
    assert images.read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, round(255 * top / stored)]


def test_floats_between_0_and_1_are_a_grey_scale(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert images.read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_masks_are_ids_never_colours(tmp_path, mode):
    ids = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    if mode == "P":
        images.write_mask(tmp_path / "m.png", ids, LabelSet.of("tongue").palette)
    else:
        Image.fromarray(ids.astype(bool) if mode == "1" else ids).save(tmp_path / "m.png")
    assert (images.read_mask(tmp_path / "m.png") == ids).all()


def test_a_colour_mask_is_refused(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "m.png")
    with pytest.raises(ImageError, match="m.png: a mask must hold class ids in one channel, this one is RGB"):
        images.read_mask(tmp_path / "m.png")


def test_missing_truncated_and_foreign_files(tmp_path):
    with pytest.raises(ImageError, match="gone.png: there is no such file"):
        images.read_image(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ImageError, match="text.png: not a readable image"):
        images.read_image(tmp_path / "text.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(ImageError, match="half.png: the image is truncated or damaged"):
        images.read_image(tmp_path / "half.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="folder.png"):
        images.read_image(tmp_path / "folder.png")


def test_a_huge_header_is_refused_before_a_pixel_is_decoded(tmp_path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    with pytest.raises(ImageError, match="bomb.png: more than 178,956,970 pixels; scale the image down"):
        images.read_image(tmp_path / "bomb.png")


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(Exception):  # noqa: B017 (any: Pillow decides)
        images.write_image(tmp_path / "a.nosuchformat", PHOTO)
    assert not list(tmp_path.iterdir())


def test_blend_leaves_the_background_alone():
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[2, 3] = 1
    out = images.blend(PHOTO, mask, LabelSet.of("tongue", colours={"tongue": [255, 0, 0]}).palette, opacity=1.0)
    assert out[2, 3].tolist() == [255, 0, 0]
    assert (out[mask == 0] == PHOTO[mask == 0]).all()
