"""`read_image_bytes` is `read_image` of what came over the wire, for fewer kinds and pixels; encoders give back what they were given."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.errors import ImageError, ImageTooLargeError, NoImageError
from medseg.images import count_pixels, encode_grey, encode_mask, read_image, read_image_bytes
from tests.serving.server import encoded

NOISE = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_bytes_are_read_as_their_file_is(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(NOISE, kind, **({} if kind in ("BMP", "GIF") else {"exif": exif}))
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(content)
    found = read_image_bytes(content, "upload")
    np.testing.assert_array_equal(found, read_image(path))
    assert found.shape == ((30, 41, 3) if kind in ("BMP", "GIF") else (41, 30, 3))
    assert count_pixels(content, "upload") == 30 * 41


def test_the_limit_is_that_of_the_caller() -> None:
    content = encoded(NOISE)
    assert read_image_bytes(content, "upload", 30 * 41).shape == NOISE.shape
    for read in (read_image_bytes, count_pixels):
        with pytest.raises(ImageTooLargeError, match="41 x 30 pixels, the limit is 1,229 in all; scale the image down first"):
            read(content, "upload", 30 * 41 - 1)


@pytest.mark.parametrize("content", [b"", b"text", encoded(NOISE, "PPM"), encoded(NOISE, "EPS"), encoded(NOISE, "ICO")])
def test_another_kind_is_no_image(content: bytes) -> None:
    with pytest.raises(
        NoImageError, match=r"^upload: no image of a kind that is read \(JPEG, PNG, WEBP, TIFF, BMP, GIF\); export it again$"
    ):
        read_image_bytes(content, "upload")


def test_a_header_alone_is_counted_and_not_read() -> None:
    content = encoded(NOISE)[:-500]
    assert count_pixels(content, "upload") == 30 * 41
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_image_bytes(content, "upload")


def test_several_pages_are_refused() -> None:
    stream = io.BytesIO()
    pages = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="more than one page"):
        count_pixels(stream.getvalue(), "upload")


def test_encoders_give_back_what_they_were_given() -> None:
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    mask = Image.open(io.BytesIO(encode_mask(NOISE[..., 0], palette)))
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), NOISE[..., 0])
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), palette[NOISE[..., 0]])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_grey(NOISE[..., 1])))), NOISE[..., 1])
