"""The only decoder and encoder of image files.

Photographs come out upright (EXIF applied), as 8-bit RGB; masks as they are stored (`read_raw_mask`) or as class ids (`read_mask`).
Anything too large is refused by its header, before a pixel is decoded.
"""

from __future__ import annotations

import base64
import io
import struct
import tokenize
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from medseg.errors import ImageError, ImageTooLargeError
from medseg.files import atomic_path, read_json
from medseg.types import Size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
MAX_PIXELS = 178_956_970  # Pillow's own limit for an error; such a photograph decodes to 540 MB
MAX_WIDE_PIXELS = 80_000_000  # of a mask in colours or 32 bits, which Pillow holds in 4 bytes a pixel, and once more as an array
MAX_NPY_BYTES = 512 * 1024**2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # below the limit is below the limit
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I", "F")
_ORIENTATION_TAG = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)
_COLOUR_MODES = ("RGB", "RGBA", "RGBX")
# What Pillow's plugins raise on broken bytes; each was met by fuzzing or stands in their source.
_BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error, zlib.error, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, ZeroDivisionError, NotImplementedError, RecursionError, tokenize.TokenError, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RawMask:
    """A mask file as stored, upright.

    values: (H, W) of an integer type, or (H, W, 3) uint8 colours.  palette: uint8 (n, 3), the colour of each index, for a palette
    image.  mode: Pillow's, or the array's type.  format: Pillow's, or NPY.  orientation: the file's EXIF orientation, 1 to 8,
    already applied to `values`.
    """

    values: np.ndarray
    palette: np.ndarray | None
    mode: str
    format: str
    orientation: int


@dataclass(frozen=True, slots=True)
class Inspected:
    """A decoded photograph beside what its file says of itself.

    image_HWC: as `read_image`.  format: Pillow's name of the encoding, whatever the suffix says.  orientation: EXIF, 1 to 8, already
    applied.  not_finite: pixels that are NaN or infinite (float images only).
    """

    image_HWC: np.ndarray
    format: str
    orientation: int
    not_finite: int


def _open(source: Path | BinaryIO, where: object) -> Image.Image:
    if isinstance(source, Path) and source.suffix.lower() == ".json":
        source = io.BytesIO(embedded_image(source))
    try:
        image = Image.open(source)
    except FileNotFoundError:
        raise ImageError(where, "there is no such file", "check the path") from None
    except Image.DecompressionBombError:
        raise ImageTooLargeError(where, f"more than {MAX_PIXELS:,} pixels", "scale the image down first") from None
    except _BROKEN as error:
        raise ImageError(where, f"not a readable image ({_first_line(error)})", "export it as a photograph again") from None
    if image.format == "TIFF":
        image.filename = ""  # else Pillow (13.0) maps an uncompressed file at the turned size, and a quarter turn scrambles the pixels
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise ImageTooLargeError(where, f"{size} pixels, the limit is {MAX_PIXELS:,} in all", "scale the image down first")
    return image


def _decode(image: Image.Image, where: object) -> Image.Image:
    try:
        image.load()
        return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    except _BROKEN as error:
        raise ImageError(where, f"the image is truncated or damaged ({_first_line(error)})", "export or copy the file again") from None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or EXIF that cannot be read (every viewer shows such a file as it is)."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _BROKEN:
        return 1


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def embedded_image(path: Path) -> bytes:
    """The encoded image that a labelme file carries as `imageData`; so a manifest may name the .json as a row's image.

    Raises ImageError for a file that is missing, too large, not JSON or without `imageData`.
    """
    try:
        content = read_json(path, ImageError)
        text = content.get("imageData") if isinstance(content, dict) else None
        if isinstance(text, str) and text:
            return base64.b64decode(text)
    except FileNotFoundError:
        raise ImageError(path, "there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise ImageError(path, f"its imageData cannot be read ({_first_line(error)})", "save the annotation again") from None
    raise ImageError(path, "it carries no imageData", "save the annotation again with the image in it")


def read_orientation(path: Path) -> int:
    """The EXIF orientation of an image, 1 (upright as it is stored) to 8, from its header alone."""
    with _open(path, path) as image:
        return _orientation(image)


def read_size(path: Path) -> Size:
    """The upright size of an image in pixels, from its header alone."""
    with _open(path, path) as image:
        turned = _orientation(image) in _QUARTER_TURNS and image.format != "TIFF"  # Pillow gives a TIFF's upright size itself
        return Size(image.width, image.height) if turned else Size(image.height, image.width)


def read_image(path: Path) -> np.ndarray:
    """Decode a photograph to uint8 (H, W, 3) RGB, upright.

    Grey becomes three equal channels; an alpha channel is composited over black; 16-bit values are scaled from the smallest of 8, 10,
    12, 14 or 16 bits that holds their maximum, so 12-bit data in a 16-bit file is not left dark; floats in [0, 1] by 255. Raises
    ImageError.
    """
    with _open(path, path) as image:
        return _to_rgb(_decode(image, path))


def inspect_image(path: Path) -> Inspected:
    """Decode a photograph once and tell what its file is; raises ImageError as `read_image` does."""
    with _open(path, path) as image:
        found, orientation = image.format or "", _orientation(image)
        decoded = _decode(image, path)
        not_finite = int((~np.isfinite(np.asarray(decoded))).sum()) if decoded.mode == "F" else 0
        return Inspected(_to_rgb(decoded), found, orientation, not_finite)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT:
        grey = _to_eight_bits(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(image.convert("RGB"))


def _to_eight_bits(grey: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(grey.astype(np.float32), posinf=0.0, neginf=0.0).clip(0.0)
    highest = float(values.max(initial=0.0))
    if highest <= 1.0 and np.issubdtype(grey.dtype, np.floating):
        return np.round(values * 255.0).astype(np.uint8)
    top = next((2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if highest <= 2.0**bits - 1), highest)
    return np.round(values * (255.0 / top)).astype(np.uint8)


def read_mask(path: Path) -> np.ndarray:
    """Decode an id mask to uint8 (H, W): grey values, palette indices or bits as they are stored, never through a palette's colours.

    Raises ImageError for a colour image and for values outside 0..255.
    """
    raw = read_raw_mask(path)
    if raw.values.ndim == 3:
        rule = f"a mask must hold class ids in one channel, this one is {raw.mode}"
        raise ImageError(path, rule, "export it as a grey or palette PNG")
    if raw.values.dtype != np.uint8 and raw.values.size and (raw.values.min() < 0 or raw.values.max() > 255):
        rule = f"mask values must lie in 0..255, found {raw.values.min()}..{raw.values.max()}"
        raise ImageError(path, rule, "map them to class ids first")
    return raw.values.astype(np.uint8, copy=False)


def read_raw_mask(path: Path) -> RawMask:
    """Decode a mask file without reading a meaning into it.

    Raises ImageError for a file that is broken, too large, has more than one page, holds fractions, or colours of no plain kind
    (CMYK, 16 bits a channel, transparency that varies).
    """
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    with _open(path, path) as image:
        _check_mask_header(image, path)
        mode, orientation = image.mode, _orientation(image)
        decoded = _without_alpha(_decode(image, path), path)
        palette = None
        if decoded.mode == "P":
            palette = np.array(decoded.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        values = _whole(np.asarray(decoded), path)
    return RawMask(values, palette, mode, image.format or "", orientation)


def _check_mask_header(image: Image.Image, path: Path) -> None:
    if getattr(image, "is_animated", False):
        raise ImageError(path, "the file holds more than one page, a mask is one", "export one page a file")
    known = (*_COLOUR_MODES, *_SIXTEEN_BIT, "1", "L", "P", "LA", "PA")
    deep_colour = image.mode in (*_COLOUR_MODES, "LA") and any(";16" in raw for raw in _raw_modes(image))
    if image.mode not in known or deep_colour:
        found = f"{image.mode} with 16 bits a channel" if deep_colour else image.mode
        rule = f"a mask must hold class ids in one channel or 8-bit RGB colours, this one is {found}"
        raise ImageError(path, rule, "export it as a grey or palette PNG")
    if image.mode in (*_COLOUR_MODES, "I", "F") and image.width * image.height > MAX_WIDE_PIXELS:
        rule = f"{image.width} x {image.height} pixels, the limit for a mask of mode {image.mode} is {MAX_WIDE_PIXELS:,} in all"
        raise ImageTooLargeError(path, rule, "export it as an 8-bit palette PNG")


def _raw_modes(image: Image.Image) -> list[str]:
    """How the file's samples are packed, such as "RGB;16B"; beside it a decoder's arguments hold strides and the like."""
    arguments = [tile[3] for tile in getattr(image, "tile", [])]
    return [str(argument[0] if isinstance(argument, tuple) else argument) for argument in arguments]


def _without_alpha(image: Image.Image, path: Path) -> Image.Image:
    """The image without its alpha channel, which says nothing where it is the same all over; ImageError where it varies."""
    if image.mode in ("RGBA", "LA", "PA"):
        lowest, highest = image.getchannel("A").getextrema()
        if lowest != highest:
            rule = f"the transparency of the mask varies ({lowest} to {highest}), so its colours are not what is seen"
            raise ImageError(path, rule, "export it without an alpha channel")
        return image.convert("RGB") if image.mode == "RGBA" else image.getchannel(image.mode[0])
    return image.convert("RGB") if image.mode == "RGBX" else image


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    """Bits as uint8, floats as int32 where all are whole numbers; integers as they are."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.integer):
        return values
    for rows in np.array_split(values, max(1, values.size >> 22)):  # by blocks: a large mask is not copied whole
        if not (np.isfinite(rows).all() and (np.abs(rows) < 2**31).all() and (rows == np.trunc(rows)).all()):
            strays = rows[~(np.isfinite(rows) & (np.abs(rows) < 2**31) & (rows == np.trunc(rows)))]
            rule = f"the mask holds {strays.flat[0]:g}, class ids are whole numbers"
            raise ImageError(path, rule, "save class ids, not probabilities")
    return values.astype(np.int32)


def _read_npy(path: Path) -> RawMask:
    """An array file: header checked first, pickles never opened."""
    try:
        with path.open("rb") as stream:
            _check_npy_header(stream, path)
            stream.seek(0)
            values = np.load(stream, allow_pickle=False)
    except FileNotFoundError:
        raise ImageError(path, "there is no such file", "check the path") from None
    except _BROKEN as error:
        raise ImageError(path, f"not a readable .npy file ({_first_line(error)})", "save the array again by numpy.save") from None
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return RawMask(np.ascontiguousarray(_whole(values, path)), None, str(values.dtype), "NPY", 1)


def _check_npy_header(stream: BinaryIO, path: Path) -> None:
    """ImageError for a header that promises anything but a (H, W) or (H, W, 3) array of numbers that fits in memory and in its file."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream, max_header_size=4096)
    colours = len(shape) == 3 and shape[2] == 3 and dtype == np.uint8
    if not (len(shape) == 2 or colours) or dtype.kind not in "biuf" or 0 in shape:
        rule = f"a mask must be a (height, width) array of whole numbers or (height, width, 3) of uint8, this one is {shape} of {dtype}"
        raise ImageError(path, rule, "save the class ids of one image")
    if shape[0] * shape[1] > MAX_PIXELS or (size := int(np.prod(shape, dtype=object)) * dtype.itemsize) > MAX_NPY_BYTES:
        rule = f"{shape[1]} x {shape[0]} pixels of {dtype}, the limit is {MAX_PIXELS:,} and {MAX_NPY_BYTES >> 20} MB"
        raise ImageTooLargeError(path, rule, "save it as uint8, or scale it down")
    there = path.stat().st_size - stream.tell()
    if there < size:
        raise ImageError(path, f"the array is truncated: {there:,} of {size:,} bytes are there", "save or copy the file again")


def decode_bitmap(content: bytes, where: object) -> np.ndarray:
    """bool (H, W): where an encoded one-channel image is not 0, pixels as they are stored. Raises ImageError."""
    with _open(io.BytesIO(content), where) as image:
        if len(image.getbands()) != 1:
            raise ImageError(where, f"the bitmap must have one channel, this one is {image.mode}", "save the annotation again")
        try:
            image.load()
        except _BROKEN as error:
            raise ImageError(where, f"the bitmap is damaged ({_first_line(error)})", "save the annotation again") from None
        return np.asarray(image) != 0


def write_mask(path: Path, mask_HW: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids as a palette PNG; `palette` is uint8 (256, 3)."""
    image = Image.fromarray(np.ascontiguousarray(mask_HW, dtype=np.uint8), mode="P")
    image.putpalette(palette.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, optimize=False)


def write_image(path: Path, image_HWC: np.ndarray, quality: int = 92) -> None:
    """Write uint8 (H, W, 3) RGB in the format of the suffix; `quality` is for JPEG, 1 to 95."""
    options: dict[str, Any] = {"quality": quality} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    with atomic_path(path) as temporary:
        Image.fromarray(image_HWC).save(temporary, **options)


def encode_jpeg(image_HWC: np.ndarray, quality: int = 85) -> bytes:
    """uint8 (H, W, 3) RGB as the bytes of a JPEG, for pages that carry their pictures."""
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def resize_image(image_HWC: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 RGB; antialiased (box-filtered bilinear) when shrinking."""
    if image_HWC.shape[:2] == tuple(size):
        return image_HWC
    return np.asarray(Image.fromarray(image_HWC).resize((size.width_px, size.height_px), Image.Resampling.BILINEAR))


def resize_mask(mask_HW: np.ndarray, size: Size) -> np.ndarray:
    """Resize class ids by the nearest neighbour (pixel centres)."""
    if mask_HW.shape == tuple(size):
        return mask_HW
    return np.asarray(Image.fromarray(mask_HW).resize((size.width_px, size.height_px), Image.Resampling.NEAREST))


def blend(image_HWC: np.ndarray, mask_HW: np.ndarray, palette: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """Lay the classes over a photograph in their colours; background and outside stay as they are. uint8 (H, W, 3)."""
    weight = np.where(mask_HW > 0, opacity, 0.0).astype(np.float32)[..., None]
    return np.round(image_HWC * (1 - weight) + palette[mask_HW] * weight).astype(np.uint8)
