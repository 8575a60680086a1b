"""The only decoder and encoder of image files.

Photographs come out upright (EXIF applied), as 8-bit RGB; masks as class ids. Anything too large is refused by its header, before
a pixel is decoded.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from medseg.errors import ImageError
from medseg.files import atomic_path
from medseg.types import Size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MAX_PIXELS = 178_956_970  # Pillow's own limit for an error; such a photograph decodes to 540 MB
MAX_JSON_BYTES = 512 * 1024**2  # of a labelme file that carries its image
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # below the limit is below the limit
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I", "F")
_ORIENTATION_TAG = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


def _open(source: Path | BinaryIO, where: object) -> Image.Image:
    if isinstance(source, Path) and source.suffix.lower() == ".json":
        source = io.BytesIO(embedded_image(source))
    try:
        image = Image.open(source)
    except FileNotFoundError:
        raise ImageError(where, "there is no such file", "check the path") from None
    except Image.DecompressionBombError:
        raise ImageError(where, f"more than {MAX_PIXELS:,} pixels", "scale the image down first") from None
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        raise ImageError(where, f"not a readable image ({_first_line(error)})", "export it as a photograph again") from None
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise ImageError(where, f"{size} pixels, the limit is {MAX_PIXELS:,} in all", "scale the image down first")
    return image


def _decode(image: Image.Image, where: object) -> Image.Image:
    try:
        image.load()
        return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error, Image.DecompressionBombError) as error:
        raise ImageError(where, f"the image is truncated or damaged ({_first_line(error)})", "export or copy the file again") from None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or EXIF that cannot be read (every viewer shows such a file as it is)."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
        return 1


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def embedded_image(path: Path) -> bytes:
    """The encoded image that a labelme file carries as `imageData`; so a manifest may name the .json as a row's image.

    Raises ImageError for a file that is missing, over MAX_JSON_BYTES, not JSON or without `imageData`.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ImageError(path, f"over {MAX_JSON_BYTES >> 20} MB, too large to be an annotation", "save the image beside it")
        content = json.loads(path.read_bytes())
        text = content.get("imageData") if isinstance(content, dict) else None
        if isinstance(text, str) and text:
            return base64.b64decode(text)
    except FileNotFoundError:
        raise ImageError(path, "there is no such file", "check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(path, f"its imageData cannot be read ({_first_line(error)})", "save the annotation again") from None
    raise ImageError(path, "it carries no imageData", "save the annotation again with the image in it")


def read_size(path: Path) -> Size:
    """The upright size of an image in pixels, from its header alone."""
    with _open(path, path) as image:
        turned = _orientation(image) in _QUARTER_TURNS
        return Size(image.width, image.height) if turned else Size(image.height, image.width)


def read_image(path: Path) -> np.ndarray:
    """Decode a photograph to uint8 (H, W, 3) RGB, upright.

    Grey becomes three equal channels; an alpha channel is composited over black; 16-bit values are scaled from the smallest of 8, 10,
    12, 14 or 16 bits that holds their maximum, so 12-bit data in a 16-bit file is not left dark; floats in [0, 1] by 255. Raises
    ImageError.
    """
    with _open(path, path) as image:
        return _to_rgb(_decode(image, path))


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

    Raises ImageError for a colour image and for values over 255.
    """
    with _open(path, path) as image:
        decoded = _decode(image, path)
        if decoded.mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA"):
            raise ImageError(
                path, f"a mask must hold class ids in one channel, this one is {decoded.mode}", "export it as a grey or palette PNG"
            )
        values = np.asarray(decoded)
    if values.size and (values.min() < 0 or values.max() > 255):
        raise ImageError(path, f"mask values must lie in 0..255, found {values.min()}..{values.max()}", "map them to class ids first")
    return values.astype(np.uint8)


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
