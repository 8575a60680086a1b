from __future__ import annotations

import pickle
import struct
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from medseg import images
from medseg.errors import ImageError, ImageTooLargeError
from medseg.labels import LabelSet
from medseg.types import Size
from tests.test_volumes import peak_mib

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
    with pytest.raises(ImageError, match="bomb.png: more than 120,000,000 pixels; scale the image down"):
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


def test_pages_beyond_the_first_are_not_dropped_in_silence(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 3), n, np.uint8)) for n in (0, 99, 200)]
    for name in ("m.tif", "m.gif", "m.webp", "m.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        said = r"more than one page" if name == "m.gif" else r"more than one page \(3\)"
        for read in (images.read_image, images.inspect_image, images.verify_image):
            with pytest.raises(ImageError, match=rf"{name}: the file holds {said}, a photograph is one; export one page a file"):
                read(tmp_path / name)
    frames[1].save(tmp_path / "m.jpg", "MPO", save_all=True, append_images=frames[2:])
    with Image.open(tmp_path / "m.jpg") as image:
        assert image.format == "MPO" and image.n_frames == 2
    assert (images.read_image(tmp_path / "m.jpg") == 99).all(), "a phone's JPEG with a second picture behind it"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_as_pillow_turns_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, stored in (("a.png", PHOTO), ("b.png", PHOTO[..., 0]), ("c.tif", PHOTO[..., 0].astype(np.float32) / 255)):
        Image.fromarray(stored).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        found = images.read_image(tmp_path / name)
        expected = np.round(expected * 255).astype(np.uint8) if name == "c.tif" else expected
        assert np.array_equal(found, expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2))
        assert images.verify_image(tmp_path / name) == images.read_size(tmp_path / name) == Size(*found.shape[:2])
        if name != "c.tif":
            assert np.array_equal(images.read_raw_mask(tmp_path / name).values, expected)


def test_exif_behind_the_pixels_of_a_png_is_found(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(tmp_path / "head.png", exif=exif)
    content = (tmp_path / "head.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    moved = content[:start] + content[end:]
    (tmp_path / "tail.png").write_bytes(moved[:-12] + content[start:end] + moved[-12:])
    for name in ("head.png", "tail.png"):
        assert images.read_size(tmp_path / name) == Size(9, 6) == Size(*images.read_image(tmp_path / name).shape[:2])
        assert images.inspect_image(tmp_path / name).orientation == images.read_raw_mask(tmp_path / name).orientation == 6


def test_nothing_of_a_png_is_decoded_for_its_size(tmp_path, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("the pixels were decoded"))
    assert images.read_size(tmp_path / "a.png") == Size(6, 9) and images.read_orientation(tmp_path / "a.png") == 1


def test_bands_meet_without_a_seam(tmp_path, monkeypatch):
    """Bands of one row give what one band gives, whatever the mode."""
    alpha = np.dstack([PHOTO, PHOTO[..., :1]])
    deep = PHOTO[..., 0].astype(np.uint16) * 16
    shown = {}
    for band in (1 << 22, 1):
        monkeypatch.setattr(images, "BAND", band)
        for name, array in (("rgb.png", PHOTO), ("rgba.png", alpha), ("deep.png", deep), ("float.tif", deep.astype(np.float32))):
            Image.fromarray(array).save(tmp_path / name)
            shown.setdefault(name, []).append(images.read_image(tmp_path / name))
        shown.setdefault("mask", []).append(images.read_raw_mask(tmp_path / "rgb.png").values)
    assert all(np.array_equal(*pair) for pair in shown.values()) and np.array_equal(shown["mask"][0], PHOTO)
    over_black = Image.alpha_composite(Image.new("RGBA", (9, 6), (0, 0, 0, 255)), Image.fromarray(alpha)).convert("RGB")
    assert np.array_equal(shown["rgba.png"][0], np.asarray(over_black))


def test_what_takes_too_much_to_decode_is_refused_by_its_header(tmp_path, monkeypatch):
    """A progressive JPEG keeps all its coefficients beside the pixels; the same picture as a plain one is read."""
    Image.fromarray(PHOTO).save(tmp_path / "plain.jpg")
    Image.fromarray(PHOTO).save(tmp_path / "progressive.jpg", progressive=True, subsampling=0)
    monkeypatch.setattr(images, "MAX_DECODED_BYTES", 8 * PHOTO[..., 0].size)
    assert images.read_image(tmp_path / "plain.jpg").shape == PHOTO.shape
    with pytest.raises(ImageTooLargeError, match=r"9 x 6 pixels of this kind of JPEG take 0 MiB to decode, the limit is 0; scale"):
        images.read_image(tmp_path / "progressive.jpg")


def test_threads_share_one_allowance():
    memory, most, held = images._Memory(10), [], []
    lock = threading.Lock()

    def work(size: int) -> None:
        with memory.taken(size):
            with lock:
                held.append(size)
                most.append(sum(held))
            time.sleep(0.001)
            with lock:
                held.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [6, 4, 5, 10, 1, 7, 3] * 6))
    assert max(most) <= 10 and len(most) == 42


# --- masks as stored


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")


IDS = np.array([[0, 1, 2], [2, 0, 1]])


@pytest.mark.parametrize(
    ("name", "dtype", "mode", "form"),
    [
        ("m.bmp", np.uint8, "L", "BMP"), ("m.png", np.uint8, "L", "PNG"), ("m.png", np.uint16, "I;16", "PNG"),
        ("m.tif", np.uint8, "L", "TIFF"), ("m.tif", np.uint16, "I;16", "TIFF"), ("m.tif", np.int32, "I", "TIFF"),
        ("m.tif", np.float32, "F", "TIFF"), ("m.npy", np.int64, "int64", "NPY"), ("m.npy", ">u2", "uint16", "NPY"),
        ("m.npy", np.float64, "float64", "NPY"), ("m.npy", np.int8, "int8", "NPY"),
    ],
)  # fmt: skip
def test_raw_masks_of_every_kind_of_number(tmp_path, name, dtype, mode, form):
    array = IDS.astype(dtype)
    np.save(tmp_path / name, array) if form == "NPY" else Image.fromarray(array).save(tmp_path / name)
    raw = images.read_raw_mask(tmp_path / name)
    assert (raw.mode, raw.format, raw.orientation, raw.palette) == (mode, form, 1, None)
    assert np.issubdtype(raw.values.dtype, np.integer) and (raw.values == IDS).all()
    ids = images.read_mask(tmp_path / name)
    assert ids.dtype == np.uint8 and (ids == IDS).all()


@pytest.mark.parametrize("name", ["m.bmp", "m.png", "m.tif", "m.npy"])
def test_bits_are_0_and_1(tmp_path, name):
    np.save(tmp_path / name, IDS > 0) if name.endswith("npy") else Image.fromarray(IDS > 0).save(tmp_path / name)
    raw = images.read_raw_mask(tmp_path / name)
    assert raw.values.dtype == np.uint8 and (raw.values == (IDS > 0)).all()


@pytest.mark.parametrize("name", ["m.png", "m.gif", "m.bmp", "m.tif"])
def test_palette_masks_give_indices_and_colours(tmp_path, name):
    image = Image.fromarray(IDS.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30])
    image.save(tmp_path / name)
    raw = images.read_raw_mask(tmp_path / name)
    assert (raw.values == IDS).all() and raw.palette[:3].tolist() == [[0, 0, 0], [200, 30, 30], [30, 200, 30]]


def test_alpha_that_says_nothing_is_dropped(tmp_path):
    solid = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
    Image.fromarray(solid).save(tmp_path / "m.png")
    assert (images.read_raw_mask(tmp_path / "m.png").values == PHOTO).all()
    Image.fromarray(np.dstack([IDS, np.full(IDS.shape, 9)]).astype(np.uint8), mode="LA").save(tmp_path / "m.png")
    assert (images.read_mask(tmp_path / "m.png") == IDS).all()
    solid[0, 0, 3] = 0
    Image.fromarray(solid).save(tmp_path / "m.png")
    with pytest.raises(ImageError, match=r"the transparency of the mask varies \(0 to 255\)"):
        images.read_raw_mask(tmp_path / "m.png")


@pytest.mark.parametrize(("name", "options"), [("m.png", {}), ("m.tif", {}), ("m.tif", {"compression": "tiff_lzw"})])
def test_a_turned_mask_comes_out_upright(tmp_path, name, options):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(IDS).astype(np.uint8)).save(tmp_path / name, exif=exif, **options)
    raw = images.read_raw_mask(tmp_path / name)
    assert (raw.values == IDS).all() and raw.orientation == 6
    assert images.read_size(tmp_path / name) == Size(2, 3), "by the header as by the pixels"


def test_masks_that_are_no_class_ids(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), n, np.uint8)) for n in (0, 200)]
    for name in ("m.tif", "m.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="more than one page"):
            images.read_raw_mask(tmp_path / name)
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / "m.tif")
    with pytest.raises(ImageError, match="this one is CMYK"):
        images.read_raw_mask(tmp_path / "m.tif")
    for values, shown in (([[0.0, 0.5]], "0.5"), ([[0.0, np.nan]], "nan"), ([[np.inf, 1.0]], "inf"), ([[1e10, 0.0]], "1e\\+10")):
        np.save(tmp_path / "m.npy", np.array(values))
        with pytest.raises(ImageError, match=rf"the mask holds {shown}, class ids are whole numbers"):
            images.read_raw_mask(tmp_path / "m.npy")
    (tmp_path / "m.png").write_bytes(_png(1, 1, depth=16, colour=2, data=b"\0\0\1\0\1\0\1"))
    with pytest.raises(ImageError, match="RGB with 16 bits a channel"):  # Pillow drops the low byte: an id would become 0
        images.read_raw_mask(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", np.array([[0, 300]]))
    with pytest.raises(ImageError, match=r"mask values must lie in 0..255, found 0..300"):
        images.read_mask(tmp_path / "m.npy")


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((2, 3, 4), np.uint8), r"this one is \(2, 3, 4\) of uint8"), (np.zeros(5, np.uint8), r"this one is \(5,\) of uint8"),
        (np.array([[1j]]), "of complex128"), (np.array([["a"]]), "of <U1"), (np.zeros((0, 3), np.uint8), r"\(0, 3\)"),
        (np.zeros((2, 3, 3), np.int32), r"\(2, 3, 3\) of int32"), (np.array([[{}]], object), "of object"),
    ],
)  # fmt: skip
def test_arrays_of_another_kind(tmp_path, array, match):
    np.save(tmp_path / "m.npy", array, allow_pickle=True)
    with pytest.raises(ImageError, match=match):
        images.read_raw_mask(tmp_path / "m.npy")


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for content in (
        pickle.dumps(Trap()),
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }" + pickle.dumps(Trap()),
    ):
        (tmp_path / "m.npy").write_bytes(content)
        with pytest.raises(ImageError, match="m.npy"):
            images.read_raw_mask(tmp_path / "m.npy")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("cut", [0, 5, 8, 40, 127, 130])
def test_truncated_arrays(tmp_path, cut):
    np.save(tmp_path / "m.npy", IDS)
    (tmp_path / "m.npy").write_bytes((tmp_path / "m.npy").read_bytes()[:cut])
    with pytest.raises(ImageError, match="m.npy: (not a readable .npy file|the array is truncated)"):
        images.read_raw_mask(tmp_path / "m.npy")


def _npy_header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def test_headers_that_promise_too_much_cost_no_memory(tmp_path):
    files = {
        "a.png": (_png(50_000, 50_000), "more than 120,000,000 pixels"),
        "b.png": (_png(11_000, 10_000, colour=2), "the limit for a mask of mode RGB is 80,000,000"),
        "c.npy": (_npy_header((50_000, 50_000)), "the limit is 120,000,000"),
        "d.npy": (_npy_header((12_000, 12_000), "<f8"), "the limit is .* and 512 MB"),
        "e.npy": (_npy_header((10**30, 10**30)), "the limit is"),
        "f.npy": (_npy_header((-1, 5)), "f.npy"),
        "g.npy": (_npy_header((9_000, 9_000)), "the array is truncated: 0 of 81,000,000 bytes"),
    }
    tracemalloc.start()
    for name, (content, match) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=match):
            images.read_raw_mask(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [b"iTXt", b"zTXt"])
def test_a_bomb_in_a_text_chunk(tmp_path, kind):
    body = b"k\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + zlib.compress(bytes(300 * 1024**2))
    (tmp_path / "m.png").write_bytes(_png(2, 1, _chunk(kind, body), data=b"\0\0\1"))
    for read in (images.read_mask, images.read_image):
        with pytest.raises(
            ImageError, match=r"m.png: (not a readable image|the image is truncated or damaged) \(Decompressed data too large"
        ):
            read(tmp_path / "m.png")


def test_a_row_stride_of_sixteen_bytes_is_not_taken_for_sixteen_bits(tmp_path: Path) -> None:
    """A BMP's decoder is told its stride: 16 bytes for five RGB pixels."""
    Image.new("RGB", (5, 3), (7, 7, 7)).save(tmp_path / "narrow.bmp")
    assert (images.read_raw_mask(tmp_path / "narrow.bmp").values == 7).all()


def _large_png(path: Path, side: int, channels: int) -> None:
    """A PNG of side x side pixels, written row by row."""
    row = b"\0" + bytes(np.random.default_rng(0).integers(0, 256, side * channels, np.uint8))
    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", data) + _chunk(b"IEND", b""))


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "side"), [(4, 10_000), (3, 10_954), (4, 10_954)])
def test_a_photograph_at_the_limit_stays_under_1_gib(tmp_path: Path, channels: int, side: int) -> None:
    _large_png(tmp_path / "a.png", side, channels)
    code = "from medseg.images import *\nfrom pathlib import Path\nprint(read_image(Path(sys.argv[1])).shape)"
    peak, output = peak_mib(code, tmp_path / "a.png")
    assert output == f"({side}, {side}, 3)" and peak < 1024


@pytest.mark.slow
@pytest.mark.parametrize(("white", "side"), [(1, 10_000), (255, 10_000), (1, 10_954)])
def test_importing_large_photographs_stays_under_1_gib(tmp_path: Path, white: int, side: int) -> None:
    """Two pairs, so that two threads meet them; masks that stay in place and masks that are written anew."""
    mask = np.zeros((side, side), np.uint8)
    mask[100:5000, 200:7000] = white
    for folder in ("i", "m"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        _large_png(tmp_path / "i" / f"{name}.png", side, 4)
        Image.fromarray(mask).save(tmp_path / "m" / f"{name}.png", compress_level=1)
    code = (
        "from medseg.cli import app\napp(['manifest', 'import', 'masks', '--images', sys.argv[1] + '/i', '--masks', sys.argv[1] + '/m',"
        " '--classes', 'tongue', '--out', sys.argv[1] + '/out'], standalone_mode=False)"
    )
    peak, _ = peak_mib(code, tmp_path)
    assert (tmp_path / "out/manifest.csv").read_text().count(f",{4900 * 6800}\n") == 2 and peak < 1024


@pytest.mark.parametrize("shape", [(3, 4), (5, 6, 7), (0, 9), (2_500, 2_000)])
def test_byte_counts_are_numpys(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert (images.byte_counts(values) == np.bincount(values.ravel(), minlength=256)).all()
    assert (images.byte_counts(values[::2]) == np.bincount(values[::2].ravel(), minlength=256)).all()


def test_reduce_image_averages_boxes_and_leaves_small_ones() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 450, 3), np.uint8)
    small = images.reduce_image(picture, 100)
    assert small.shape == (100, 150, 3)
    assert np.abs(small - picture.reshape(100, 3, 150, 3, 3).mean(axis=(1, 3))).max() <= 1
    assert images.reduce_image(small, 100) is small
