"""The only decoder and encoder of image files.

Photographs come out upright (EXIF applied), as 8-bit RGB; masks as they are stored (`read_raw_mask`) or as class ids (`read_mask`).
Anything too large is refused by its header, before a pixel is decoded; what threads decode at one time shares one allowance of memory,
so that it stays under 1 GiB. Pillow keeps 4 bytes a pixel of a colour image, so pixels are taken from it by bands of rows.
"""

from __future__ import annotations

import base64
import io
import struct
import threading
import tokenize
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from medseg.errors import ImageError, ImageTooLargeError, NoImageError
from medseg.files import atomic_path, read_json
from medseg.types import Size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".nrrd")  # `volumes` reads these
MAX_PIXELS = 120_000_000  # a photograph of 7 bytes a pixel (Pillow's 4 and the array's 3) then takes 800 MiB
MAX_DECODED_BYTES = 7 * MAX_PIXELS  # what decoding takes at one time, over all threads
LARGE_PIXELS = 25_000_000  # of which no two are worked on at one time, see `one_at_a_time`
BAND = 1 << 22  # pixels converted at a time
QUICK = 3  # zlib's level for answers that somebody waits for: half the time of the usual 6
MAX_WIDE_PIXELS = 80_000_000  # of a mask in colours or 32 bits, which Pillow holds in 4 bytes a pixel, and once more as an array
MAX_NPY_BYTES = 512 * 1024**2
UPLOADED = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # a stranger's bytes reach no other of Pillow's decoders
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # below the limit is below the limit
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I", "F")
_ORIENTATION_TAG = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}  # in Pillow's memory; 4 for any other mode
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


def is_volume(path: Path) -> bool:
    """True where a file's name says that it is a volume."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def _open(source: Path | BinaryIO, where: object, most_pixels: int = MAX_PIXELS, kinds: tuple[str, ...] | None = None) -> Image.Image:
    if isinstance(source, Path) and source.suffix.lower() == ".json":
        source = io.BytesIO(embedded_image(source))
    try:
        image = Image.open(source, formats=kinds)
    except FileNotFoundError:
        raise ImageError(where, "there is no such file", "check the path") from None
    except Image.DecompressionBombError:
        raise ImageTooLargeError(where, f"more than {most_pixels:,} pixels", "scale the image down first") from None
    except UnidentifiedImageError as error:
        found = f"not a readable image ({_first_line(error)})" if kinds is None else f"no image of a kind that is read ({', '.join(kinds)})"
        raise NoImageError(where, found, "export it again") from None
    except _BROKEN as error:
        raise ImageError(where, f"not a readable image ({_first_line(error)})", "export it again") from None
    if image.format == "TIFF":
        image.filename = ""  # else Pillow (13.0) maps an uncompressed file at the turned size, and a quarter turn scrambles the pixels
    if image.width * image.height > most_pixels:
        size = f"{image.width} x {image.height}"
        image.close()
        raise ImageTooLargeError(where, f"{size} pixels, the limit is {most_pixels:,} in all", "scale the image down first")
    return image


def _one_page(image: Image.Image, where: object, what: str) -> None:
    """ImageError where a file holds several pages, all but the first of which would be dropped in silence."""
    try:
        animated = bool(getattr(image, "is_animated", False))
        pages = int(getattr(image, "n_frames", 2)) if animated and image.format != "GIF" else 0  # a GIF is read whole to count them
    except _BROKEN as error:
        raise _damaged(where, error) from None
    if animated:
        found = f"more than one page ({pages})" if pages else "more than one page"
        raise ImageError(where, f"the file holds {found}, {what} is one", "export one page a file")


def _decode(image: Image.Image, where: object, taken: Callable[[Image.Image, int], Any], array_bytes: int = 3) -> tuple[Any, int]:
    """(what `taken(image, left)` makes of the decoded pixels, EXIF orientation), within the memory allowed to all threads together.

    left: the orientation that is left to apply; Pillow turns a TIFF itself.  array_bytes: what `taken` makes of a pixel.
    """
    try:
        needed = _needed_bytes(image)
        if needed > MAX_DECODED_BYTES:
            found = f"{image.width} x {image.height} pixels of this kind of {image.format} take {needed >> 20:,} MiB to decode"
            raise ImageTooLargeError(where, f"{found}, the limit is {MAX_DECODED_BYTES >> 20:,}", "scale the image down first")
        with _MEMORY.taken(_needed_bytes(image, array_bytes)):
            stated = _orientation(image) if image.format == "TIFF" else 1
            image.load()
            left = _loaded_orientation(image)
            found_here = taken(image, left)
            image.close()  # gives the pixels back before another thread is let in
            return found_here, max(stated, left)
    except _BROKEN as error:
        raise _damaged(where, error) from None


def _damaged(where: object, error: Exception) -> ImageError:
    return ImageError(where, f"the image is truncated or damaged ({_first_line(error)})", "export or copy the file again")


class _Memory:
    """Bytes that threads share; who asks for more than is left waits."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, which must not be more than there are."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


_MEMORY = _Memory(MAX_DECODED_BYTES)
_LARGE = threading.RLock()


@contextmanager
def one_at_a_time(size: Size) -> Iterator[None]:
    """For work that keeps whole images of `size` besides decoding them: large ones wait for each other over all threads."""
    if size.height_px * size.width_px <= LARGE_PIXELS:
        yield
        return
    with _LARGE:
        yield


def _needed_bytes(image: Image.Image, array_bytes: int = 3) -> int:
    """What decoding an image takes at its peak, by its header: Pillow's pixels and the array, or the decoder's own working memory."""
    own = _PIXEL_BYTES.get(image.mode, 4)
    decoder = 0
    if image.format == "TIFF":
        decoder = own  # one strip may be the whole image; and Pillow turns into a copy
    elif image.format == "WEBP":
        decoder = 12  # the canvas twice and its bytes
    elif image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        decoder = 2 * len(image.getbands())  # all coefficients, 16 bits each
    return image.width * image.height * (own + max(array_bytes, decoder))


_TO_STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1), 6: np.rot90,
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
}  # fmt: skip


def _upright(shape: tuple[int, ...], dtype: Any, orientation: int) -> tuple[np.ndarray, np.ndarray]:
    """(an empty upright array, a view of it as the pixels are stored); `shape` is as stored."""
    turned = (shape[1], shape[0], *shape[2:]) if orientation in _QUARTER_TURNS else shape
    upright = np.empty(turned, dtype)
    return upright, _TO_STORED.get(orientation, np.asarray)(upright)


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The image by bands of rows: as a whole Pillow would hand it out in two copies more."""
    rows = max(1, BAND // max(1, image.width))
    if rows >= image.height:
        yield slice(None), image
        return
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _pixels(image: Image.Image, orientation: int) -> np.ndarray:
    """The values of a mask, upright, without alpha: (H, W) or (H, W, 3)."""
    one = np.asarray(_without_alpha(image.crop((0, 0, 1, 1))))
    upright, stored = _upright((image.height, image.width, *one.shape[2:]), one.dtype, orientation)
    for rows, band in _bands(image):
        stored[rows] = np.asarray(_without_alpha(band))
    return upright


def _loaded_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or EXIF that cannot be read (every viewer shows such a file as it is)."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _BROKEN:
        return 1


def _orientation(image: Image.Image) -> int:
    """The same before the pixels are decoded: for a PNG without EXIF in its head Pillow would decode them all, to look behind them."""
    if image.format != "PNG" or "exif" in image.info:
        return _loaded_orientation(image)
    try:
        if _has_words_behind_pixels(image):
            with _MEMORY.taken(min(_needed_bytes(image, 0), MAX_DECODED_BYTES)):
                return int(image.getexif().get(_ORIENTATION_TAG, 1))
        return int(Image.Image.getexif(image).get(_ORIENTATION_TAG, 1))
    except _BROKEN:
        return 1


def _has_words_behind_pixels(image: Image.Image) -> bool:
    """True where chunks that may hold EXIF follow the pixels of a PNG; read by the chunks' heads."""
    stream = image.fp  # type: ignore[attr-defined]
    place = stream.tell()
    try:
        stream.seek(8)
        pixels_met = False
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if pixels_met and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            pixels_met = pixels_met or kind == b"IDAT"
            stream.seek(length + 4, io.SEEK_CUR)
        return False
    finally:
        stream.seek(place)


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
    12, 14 or 16 bits that holds their maximum, so 12-bit data in a 16-bit file is not left dark; floats in [0, 1] by 255. Values below 0
    (signed integers, floats) and those that are not finite become 0; an import refuses images with values below 0. Raises
    ImageError, also for a file of several pages (but for the further pictures that a phone puts behind a JPEG).
    """
    with _open_photograph(path, path) as image:
        pixels: np.ndarray = _decode(image, path, _to_rgb)[0]
        return pixels


def read_image_bytes(content: bytes, where: object, most_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`read_image` of a photograph that is encoded in memory, such as an upload: uint8 (H, W, 3) RGB, upright.

    Raises ImageTooLargeError for more than `most_pixels`, by the header; NoImageError for what is none of `UPLOADED`; ImageError.
    """
    with _open_photograph(io.BytesIO(content), where, most_pixels, UPLOADED) as image:
        pixels: np.ndarray = _decode(image, where, _to_rgb)[0]
        return pixels


def count_pixels(content: bytes, where: object, most_pixels: int = MAX_PIXELS) -> int:
    """How many pixels `read_image_bytes` would decode, from the header alone; raises as it does for what the header shows."""
    with _open_photograph(io.BytesIO(content), where, most_pixels, UPLOADED) as image:
        return image.width * image.height


def verify_image(path: Path) -> Size:
    """The upright size of a photograph that decodes to its last pixel, without the memory of `read_image`.

    Raises ImageError as it, and for values below 0 (CT, a normalised picture): a photograph has none, and they would become black.
    """

    def upright_size(image: Image.Image, left: int) -> Size:
        _check_signs(image, path)
        _to_rgb(image.crop((0, 0, 1, 1)), 1)
        return Size(image.width, image.height) if left in _QUARTER_TURNS else Size(image.height, image.width)

    with _open_photograph(path, path) as image:
        size: Size = _decode(image, path, upright_size, array_bytes=0)[0]
        return size


def _check_signs(image: Image.Image, path: Path) -> None:
    """ImageError for finite values below 0, whole numbers or fractions; only the modes I and F can hold them."""
    if image.mode not in ("I", "F"):
        return
    lowest, highest, below = 0.0, 0.0, 0
    for _, band in _bands(image):
        values = np.asarray(band)
        values = values[np.isfinite(values)]
        below += int((values < 0).sum())
        lowest, highest = min(lowest, float(values.min(initial=0))), max(highest, float(values.max(initial=lowest)))
    if below:
        share = f"as a photograph, the {below / (image.width * image.height):.0%} of its pixels below 0 become black"
        shown = "g" if image.mode == "F" else ".0f"
        rule = f"signed intensities from {lowest:{shown}} to {highest:{shown}}: {share}"
        raise ImageError(path, rule, "import it as NIfTI or DICOM, or rescale it to 0..255")


def inspect_image(path: Path) -> Inspected:
    """Decode a photograph once and tell what its file is; raises ImageError as `read_image` does."""

    def inspected(image: Image.Image, left: int) -> tuple[np.ndarray, int]:
        strays = sum(int((~np.isfinite(np.asarray(band))).sum()) for _, band in _bands(image)) if image.mode == "F" else 0
        return _to_rgb(image, left), strays

    with _open_photograph(path, path) as image:
        found = image.format or ""
        (pixels, not_finite), orientation = _decode(image, path, inspected)
        return Inspected(pixels, found, orientation, not_finite)


def _open_photograph(
    source: Path | BinaryIO, where: object, most_pixels: int = MAX_PIXELS, kinds: tuple[str, ...] | None = None
) -> Image.Image:
    image = _open(source, where, most_pixels, kinds)
    if image.format != "MPO":  # a JPEG with a preview or a depth map behind it
        try:
            _one_page(image, where, "a photograph")
        except ImageError:
            image.close()
            raise
    return image


def _to_rgb(image: Image.Image, orientation: int) -> np.ndarray:
    upright, stored = _upright((image.height, image.width, 3), np.uint8, orientation)
    factor = _grey_factor(image) if image.mode in _SIXTEEN_BIT else 0.0
    for rows, band in _bands(image):
        stored[rows] = _scaled(band, factor) if factor else _on_black(band)
    return upright


def _on_black(band: Image.Image) -> np.ndarray:
    """RGB; what is transparent over black."""
    if band.mode in ("RGBA", "LA", "PA") or "transparency" in band.info:
        rgba = band.convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))


def _grey_factor(image: Image.Image) -> float:
    """By what 16-bit or float values are multiplied to fill 0..255."""
    highest = max((float(_plain(band).max(initial=0.0)) for _, band in _bands(image)), default=0.0)
    if highest <= 1.0 and image.mode == "F":
        return 255.0
    return 255.0 / next((2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if highest <= 2.0**bits - 1), highest)


def _scaled(band: Image.Image, factor: float) -> np.ndarray:
    return np.round(_plain(band) * factor).astype(np.uint8)[..., None]


def _plain(band: Image.Image) -> np.ndarray:
    """float32 (h, w), 0 where a value is negative or not finite."""
    return np.nan_to_num(np.asarray(band).astype(np.float32), posinf=0.0, neginf=0.0).clip(0.0)


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
        mode, form = image.mode, image.format or ""
        (values, palette), orientation = _decode(image, path, partial(_raw_values, path=path))
    return RawMask(_whole(values, path), palette, mode, form, orientation)


def _raw_values(image: Image.Image, orientation: int, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(values upright, palette or None)."""
    _check_alpha(image, path)
    has_palette = image.mode in ("P", "PA")
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3) if has_palette else None
    return _pixels(image, orientation), palette


def _check_mask_header(image: Image.Image, path: Path) -> None:
    _one_page(image, path, "a mask")
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


def _check_alpha(image: Image.Image, path: Path) -> None:
    """ImageError where the alpha channel varies; where it is the same all over it says nothing."""
    if image.mode in ("RGBA", "LA", "PA"):
        lowest, highest = image.getchannel("A").getextrema()
        if lowest != highest:
            rule = f"the transparency of the mask varies ({lowest} to {highest}), so its colours are not what is seen"
            raise ImageError(path, rule, "export it without an alpha channel")


def _without_alpha(band: Image.Image) -> Image.Image:
    if band.mode in ("LA", "PA"):
        return band.getchannel(band.mode[0])
    return band.convert("RGB") if band.mode in ("RGBA", "RGBX") else band


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


def byte_counts(values: np.ndarray) -> np.ndarray:
    """int64 (256,): how often each value occurs in a uint8 array of any shape; numpy's bincount would make 8 bytes of each."""
    counts = np.zeros(256, np.int64)
    flat = values.reshape(1, -1)
    for start in range(0, flat.shape[1], BAND):
        counts += Image.fromarray(np.ascontiguousarray(flat[:, start : start + BAND])).histogram()
    return counts


def reduce_image(image_HWC: np.ndarray, least_px: int) -> np.ndarray:
    """uint8 RGB by the largest whole factor that leaves `least_px` or more on the shorter side, by averages of boxes."""
    factor = min(image_HWC.shape[:2]) // least_px
    return np.asarray(Image.fromarray(image_HWC).reduce(factor)) if factor > 1 else image_HWC


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


def encode_mask(mask_HW: np.ndarray, palette: np.ndarray) -> bytes:
    """uint8 (H, W) class ids as the bytes of a palette PNG; `palette` is uint8 (256, 3)."""
    image = Image.fromarray(np.ascontiguousarray(mask_HW, dtype=np.uint8), mode="P")
    image.putpalette(palette.tobytes())
    return _png(image, QUICK)


def encode_grey(values_HW: np.ndarray) -> bytes:
    """uint8 (H, W) as the bytes of a grey PNG."""
    return _png(Image.fromarray(values_HW), QUICK)


def _png(image: Image.Image, compress_level: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


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
    """Lay the classes over a photograph in their colours; background and outside stay as they are. uint8 (H, W, 3).

    By a table of what each of a channel's 256 values becomes: faster than sums of whole images.
    """
    blended, values, weight = image_HWC.copy(), np.arange(256, dtype=np.float32), np.float32(opacity)
    for class_id in np.flatnonzero(byte_counts(mask_HW.astype(np.uint8, copy=False))[1:]) + 1:
        inside = mask_HW == class_id
        for channel in range(3):
            table = np.round(values * (1 - weight) + palette[class_id, channel] * weight).astype(np.uint8)
            blended[..., channel][inside] = table[image_HWC[..., channel][inside]]
    return blended
