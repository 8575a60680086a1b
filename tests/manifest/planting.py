"""Defects planted into a copy of a data set: images/NAME.* beside masks/NAME.png (class ids), or volumes in NIfTI.

Every planter changes the files of one sample, or adds one, and touches nothing of medseg: Pillow, numpy and nibabel write the files, so
that the doctor is judged by what other tools would leave. PLANTS lists them by the finding that must name the sample.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

VOC = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))  # as a palette PNG of another tool has them
ORIENTATION = 0x0112
# orientation -> what Pillow does to the upright picture to get the stored one
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One image with its mask; `classes` counts background, `colours` are the data set's, `instances` the file of its objects."""

    image: Path
    mask: Path
    classes: int = 2
    colours: tuple[tuple[int, int, int], ...] = VOC
    instances: Path = Path()

    @property
    def ids(self) -> np.ndarray:
        """The mask's class ids as stored, (H, W)."""
        return np.array(Image.open(self.mask))

    @property
    def pixels(self) -> np.ndarray:
        """The photograph, uint8 (H, W, 3)."""
        return np.array(Image.open(self.image).convert("RGB"))


Planter = Callable[[Sample, np.random.Generator], None]


@dataclass(frozen=True)
class Plant:
    """A defect: the codes of which one must be found on the sample, and its variants in order of planting.

    importable: whether an import with --as-is takes it (a damaged image has no row).  multi, binary: whether it can be planted in a
    set of several classes, or of one.
    """

    codes: tuple[str, ...]
    variants: tuple[Planter, ...]
    importable: bool = True
    multi: bool = True
    binary: bool = True


def save_grey(path: Path, values: np.ndarray) -> None:
    """Write (H, W) as a grey image, whatever the suffix says of it: the file is PNG."""
    Image.fromarray(values).save(path, "PNG")


# --- files


def truncated(which: str, share: float) -> Planter:
    """Keep the first `share` of the file's bytes."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        path = getattr(sample, which)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return plant


def replaced(which: str, content: bytes) -> Planter:
    """Other bytes under the file's name."""
    return lambda sample, rng: getattr(sample, which).write_bytes(content) and None


def damaged(which: str) -> Planter:
    """Zero a tenth of the bytes, from the middle on."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        path = getattr(sample, which)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + len(content) // 10] = bytes(len(content) // 10)
        path.write_bytes(content)

    return plant


def encoded(which: str, form: str) -> Planter:
    """Another format under the same name; masks without loss."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        path = getattr(sample, which)
        image = Image.open(path)
        image.load()
        actual = form if image.format != form else {"PNG": "JPEG", "JPEG": "PNG"}[form]
        image.convert("RGB" if which == "image" else image.mode).save(path, actual)

    return plant


def resized(which: str, change: Callable[[Image.Image], Image.Image]) -> Planter:
    """An image or mask of another size."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        path = getattr(sample, which)
        image = Image.open(path)
        image.load()
        change(image).save(path, image.format)

    return plant


def _scaled(share_x: float, share_y: float | None = None) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        size = (max(1, round(image.width * share_x)), max(1, round(image.height * (share_y or share_x))))
        return image.resize(size, Image.Resampling.NEAREST)

    return change


def _cropped(left: int, top: int, right: int, bottom: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.crop((left, top, image.width - right, image.height - bottom))


# --- EXIF


def exif_stored(orientation: int) -> Planter:
    """The photograph gets a tag, and its mask stays with the stored pixels."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        _save_with_tag(Image.open(sample.image).convert("RGB"), sample.image, orientation)

    return plant


def exif_mask_turned(orientation: int) -> Planter:
    """Photograph stored turned, with the tag that sets it upright; the mask is turned with the stored pixels."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        exif_right(orientation)(sample, rng)
        mask = Image.open(sample.mask)
        mask.load()
        mask.transpose(STORED[orientation]).save(sample.mask, "PNG")

    return plant


def exif_right(orientation: int) -> Planter:
    """Photograph stored turned, with the tag that sets it upright again; the mask fits the upright picture. No defect."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        _save_with_tag(Image.open(sample.image).convert("RGB").transpose(STORED[orientation]), sample.image, orientation)

    return plant


def _save_with_tag(image: Image.Image, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    form = "JPEG" if path.suffix in (".jpg", ".jpeg") else "PNG"
    image.save(path, form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))


# --- values of masks


def stray(value: int, count: int) -> Planter:
    """`count` pixels, or a tenth of the foreground where it is 0, hold an id of no class."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        ids = sample.ids
        rows, columns = np.nonzero(ids) if ids.any() else np.nonzero(ids == 0)
        if count:
            chosen = rng.choice(len(rows), min(count, len(rows)), replace=False)
            ids[rows[chosen], columns[chosen]] = value
        else:
            low = np.sort(rows)[len(rows) // 2]
            ids[(ids > 0) & (np.arange(len(ids)) >= low)[:, None]] = value
        save_grey(sample.mask, ids)

    return plant


def white(value: int, mode: str = "L") -> Planter:
    """Foreground as `value`; mode "1" for a bitmap, "RGB" for grey in three channels, "RGBA" with an opaque alpha."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        Image.fromarray(np.where(sample.ids > 0, value, 0).astype(np.uint8)).convert(mode).save(sample.mask, "PNG")

    return plant


def factor(by: int) -> Planter:
    """Ids times a number; 0 for steps of 255 / (K - 1)."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        ids = sample.ids.astype(float) * (by or 255 / (sample.classes - 1))
        save_grey(sample.mask, np.round(ids).astype(np.uint8))

    return plant


def palette(seed: int, own: bool = True) -> Planter:
    """A palette PNG in the data set's colours (or VOC's) whose indices are shuffled so that none is its class's id."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        ids = sample.ids
        order = np.roll(np.arange(sample.classes), 1 + seed % (sample.classes - 1))
        image = Image.fromarray(order[ids].astype(np.uint8)).convert("P")
        colours = np.zeros((256, 3), np.uint8)
        colours[order] = (sample.colours if own else VOC)[: sample.classes]
        image.putpalette(colours.tobytes())
        image.save(sample.mask, "PNG")

    return plant


def colours(own: bool) -> Planter:
    """RGB in the data set's colours, or in VOC's."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        table = np.array(sample.colours if own else VOC, np.uint8)
        Image.fromarray(table[sample.ids]).save(sample.mask, "PNG")

    return plant


def interpolated(values: str, way: str, amount: float) -> Planter:
    """A mask resized, turned, blurred or stored as JPEG. values: "ids", "white", "steps" or "colours"."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        image = Image.fromarray(_as_values(sample, values))
        _smeared(image, way, amount).save(sample.mask, "PNG")

    return plant


def _as_values(sample: Sample, values: str) -> np.ndarray:
    ids = sample.ids
    if values == "colours":
        return np.array(sample.colours, np.uint8)[ids]
    steps = {"ids": 1.0, "white": 255.0, "steps": 255 / (sample.classes - 1), "factor": 50.0}[values]
    return np.round((np.minimum(ids, 1) if values == "white" else ids) * steps).astype(np.uint8)


def _smeared(image: Image.Image, way: str, amount: float) -> Image.Image:
    if way == "jpeg":
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(amount))
        return Image.open(io.BytesIO(stream.getvalue()))
    if way == "turn":
        return image.rotate(amount, Image.Resampling.BILINEAR)
    if way == "blur":
        return Image.fromarray(ndimage.gaussian_filter(np.asarray(image), (amount, amount, 0)[: np.ndim(image)]))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
    small = (max(2, round(image.width * amount)), max(2, round(image.height * amount)))
    return image.resize(small, filters[way]).resize(image.size, filters[way])


def jpeg_file(values: str, quality: int) -> Planter:
    """The mask is a JPEG file itself."""
    return lambda sample, rng: Image.fromarray(_as_values(sample, values)).save(sample.mask, "JPEG", quality=quality)


# --- shapes of masks


def inverted(class_id: int = 1) -> Planter:
    """Background and one class exchanged (the class most seen where it is absent)."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        ids = sample.ids
        chosen = class_id if (ids == class_id).any() else int(np.bincount(ids[ids > 0], minlength=2).argmax())
        save_grey(sample.mask, np.where(ids == 0, chosen, np.where(ids == chosen, 0, ids)).astype(np.uint8))

    return plant


def emptied(sample: Sample, rng: np.random.Generator) -> None:
    """No foreground at all."""
    save_grey(sample.mask, np.zeros_like(sample.ids))


def specks(count: int, px: int, own: bool = True) -> Planter:
    """`count` pieces of about `px` pixels, away from the foreground, or of another class (where there is one) on it."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        ids = sample.ids
        room = ndimage.distance_transform_edt((ids == 0) if own else ids == _largest(ids)) > _radius(px) + 3
        value = _largest(ids) if own else next((k for k in range(1, sample.classes) if (ids == k).any() and k != _largest(ids)), 0)
        for row, column in _places(room, count, _radius(px) * 2 + 6, rng):
            ids.flat[_disc(ids.shape, row, column, px)] = value
        save_grey(sample.mask, ids)

    return plant


def holes(count: int, px: int) -> Planter:
    """`count` holes of about `px` pixels in the foreground."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        ids = sample.ids
        room = ndimage.distance_transform_edt(ids > 0) > _radius(px) + 3
        for row, column in _places(room, count, _radius(px) * 2 + 6, rng):
            ids.flat[_disc(ids.shape, row, column, px)] = 0
        save_grey(sample.mask, ids)

    return plant


def _largest(ids: np.ndarray) -> int:
    return int(np.bincount(ids[ids > 0], minlength=2).argmax())


def _radius(px: int) -> float:
    return float(np.sqrt(px / np.pi)) + 1


def _disc(shape: tuple[int, ...], row: int, column: int, px: int) -> np.ndarray:
    """Flat indices of the `px` pixels next to a place."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.argsort(((rows - row) ** 2 + (columns - column) ** 2).ravel(), kind="stable")[:px]


def _places(room: np.ndarray, count: int, apart: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    room = room.copy()
    found: list[tuple[int, int]] = []
    for _ in range(count):
        rows, columns = np.nonzero(room)
        if not len(rows):
            break
        chosen = int(rng.integers(len(rows)))
        found.append((int(rows[chosen]), int(columns[chosen])))
        all_rows, all_columns = np.ogrid[: room.shape[0], : room.shape[1]]
        room &= np.hypot(all_rows - rows[chosen], all_columns - columns[chosen]) > apart
    assert found, "no room for the defect"
    return found


# --- looks of images


def picture(make: Callable[[np.ndarray, np.random.Generator], np.ndarray], mask: bool = False) -> Planter:
    """Another photograph; with `mask`, its mask scaled to its size."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        pixels = make(sample.pixels, rng)
        Image.fromarray(pixels).save(sample.image, "JPEG" if sample.image.suffix == ".jpg" else "PNG")
        if mask and pixels.shape[:2] != sample.ids.shape:
            Image.open(sample.mask).resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.NEAREST).save(sample.mask, "PNG")

    return plant


def constant(*colour: int) -> Planter:
    """One colour all over."""
    return picture(lambda pixels, rng: np.broadcast_to(np.array(colour * (3 // len(colour)), np.uint8), pixels.shape).copy())


def shrunk(height: int, width: int) -> Planter:
    """A thumbnail of the photograph, its mask likewise."""
    return picture(lambda pixels, rng: np.array(Image.fromarray(pixels).resize((width, height))), mask=True)


def huge_header(width: int, height: int) -> Planter:
    """A sound one-bit PNG of white pixels, small as a file."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        def chunk(kind: bytes, body: bytes) -> bytes:
            return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
        packer = zlib.compressobj(1)
        rows = b"".join(packer.compress((b"\0" + b"\xff" * ((width + 7) // 8)) * 100) for _ in range(-(-height // 100)))
        body = rows + packer.flush()
        sample.image.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))

    return plant


def not_a_number(count: int, value: float = np.nan) -> Planter:
    """A float TIFF (whatever the name) with `count` pixels that are no numbers; 0 for all."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        grey = sample.pixels.mean(axis=2).astype(np.float32) / 255
        chosen = rng.choice(grey.size, count, replace=False) if count else np.arange(grey.size)
        grey.flat[chosen] = value
        Image.fromarray(grey).save(sample.image, "TIFF")

    return plant


# --- copies: pixels and mask of a sample under another name


Copier = Callable[[Image.Image, Image.Image, np.random.Generator], tuple[Image.Image, Image.Image]]


def add_copy(sample: Sample, name: str, change: Copier, rng: np.random.Generator, form: str = "PNG", **options: object) -> Sample:
    """A changed copy of a sample beside it; `options` are the encoder's."""
    image, mask = Image.open(sample.image).convert("RGB"), Image.open(sample.mask)
    image, mask = change(image, mask, rng)
    suffix = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif"}[form]
    copy = Sample(sample.image.with_name(name + suffix), sample.mask.with_name(name + ".png"), sample.classes, sample.colours)
    image.save(copy.image, form, **options)
    mask.save(copy.mask, "PNG")
    return copy


def unchanged(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """The same pixels."""
    return image, mask


def scaled_copy(share: float) -> Copier:
    """Another size."""

    def change(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
        size = (round(image.width * share), round(image.height * share))
        return image.resize(size, Image.Resampling.LANCZOS), mask.resize(size, Image.Resampling.NEAREST)

    return change


def lit(brightness: float = 1.0, contrast: float = 1.0, gamma: float = 1.0, colour: float = 1.0) -> Copier:
    """Another exposure."""

    def change(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
        image = ImageEnhance.Color(ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(brightness)).enhance(contrast)).enhance(
            colour
        )
        return image.point([round(255 * (value / 255) ** gamma) for value in range(256)] * 3), mask

    return change


def cropped_copy(share: float, left: float = 0.5, top: float = 0.5) -> Copier:
    """`share` of each side cut away, at its natural size."""

    def change(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
        x, y = round(image.width * share * left), round(image.height * share * top)
        box = (x, y, x + round(image.width * (1 - share)), y + round(image.height * (1 - share)))
        return image.crop(box), mask.crop(box)

    return change


def mirrored(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Left and right exchanged."""
    return ImageOps.mirror(image), ImageOps.mirror(mask)


def turned(degrees: float) -> Copier:
    """Turned about its middle; quarter turns without loss."""

    def change(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
        expand = degrees % 90 == 0
        return image.rotate(degrees, Image.Resampling.BICUBIC, expand), mask.rotate(degrees, Image.Resampling.NEAREST, expand)

    return change


def noisy(sigma: float) -> Copier:
    """Gaussian noise on every pixel."""

    def change(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
        pixels = np.asarray(image, np.float32) + rng.normal(0, sigma, (*image.size[::-1], 3))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask

    return change


EXACT: tuple[tuple[str, dict[str, object]], ...] = (("PNG", {}), ("BMP", {}), ("PNG", {"compress_level": 1}), ("TIFF", {}))
NEAR: dict[str, tuple[Copier, str, dict[str, object]]] = {
    "jpeg 30": (unchanged, "JPEG", {"quality": 30}),
    "half the size": (scaled_copy(0.5), "PNG", {}),
    "brighter": (lit(brightness=1.25), "PNG", {}),
    "darker": (lit(brightness=0.7), "PNG", {}),
    "contrast": (lit(contrast=0.7), "PNG", {}),
    "gamma": (lit(gamma=1.5), "PNG", {}),
    "gamma below 1": (lit(gamma=0.7), "PNG", {}),
    "grey": (lit(colour=0.0), "PNG", {}),
    "crop 5 %": (cropped_copy(0.05), "PNG", {}),
    "crop 5 % at a corner": (cropped_copy(0.05, 0, 1), "JPEG", {"quality": 80}),
    "mirrored": (mirrored, "PNG", {}),
    "noise": (noisy(8), "PNG", {}),
    "turned 2 degrees": (turned(2), "PNG", {}),
    "turned -2 degrees": (turned(-2), "JPEG", {"quality": 60}),
    "turned 90 degrees": (turned(90), "PNG", {}),
    "twice the size": (scaled_copy(2.0), "JPEG", {"quality": 75}),
}


# --- the list


_EXIF = tuple(range(2, 9))
_SMEAR = (("bilinear", 0.5), ("bicubic", 0.5), ("bilinear", 2.0), ("bicubic", 0.3), ("lanczos", 0.6), ("turn", 5.0), ("blur", 1.0))

PLANTS: dict[str, Plant] = {
    "unreadable image": Plant(
        ("file-unreadable",),
        (
            *(truncated("image", share) for share in (0.005, 0.02, 0.1, 0.3, 0.5, 0.8, 0.95, 0.99)),
            replaced("image", b""),
            replaced("image", b"no image, a text\n" * 9),
            replaced("image", bytes(1000)),
            replaced("image", b"\x89PNG\r\n\x1a\n"),
        ),
        importable=False,
    ),
    "unreadable mask": Plant(
        ("file-unreadable",),
        (
            *(truncated("mask", share) for share in (0.005, 0.05, 0.2, 0.5, 0.8, 0.95)),
            replaced("mask", b""),
            damaged("mask"),
            replaced("mask", b"<html>404</html>" * 9),
            replaced("mask", bytes(1000)),
            replaced("mask", b"\x89PNG\r\n\x1a\n"),
        ),
        importable=False,
    ),
    "image extension lies": Plant(
        ("extension-lies",), tuple(encoded("image", form) for form in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP"))
    ),
    "mask extension lies": Plant(("extension-lies",), tuple(encoded("mask", form) for form in ("BMP", "TIFF", "GIF"))),
    "mask of another size": Plant(
        ("size-mismatch",),
        tuple(
            resized("mask", change)
            for change in (
                _cropped(1, 0, 0, 0),
                _cropped(0, 0, 0, 1),
                _cropped(0, 0, -1, 0),
                _cropped(-1, -1, -1, -1),
                _scaled(0.5),
                _scaled(2.0),
                _scaled(1.0, 0.5),
                _scaled(0.99),
                _cropped(10, 20, 0, 0),
                _scaled(0.1),
            )
        ),
    ),
    "image of another size": Plant(
        ("size-mismatch",),
        tuple(resized("image", change) for change in (_cropped(1, 0, 0, 0), _scaled(0.5), _cropped(0, 0, 0, 7), _scaled(1.5))),
    ),
    "EXIF, tag set": Plant(("exif-orientation",), tuple(exif_stored(number) for number in _EXIF)),
    "EXIF, mask turned": Plant(("exif-orientation",), tuple(exif_mask_turned(number) for number in _EXIF)),
    "values outside": Plant(
        ("values-outside",),
        (stray(7, 3), stray(200, 5), stray(7, 0), stray(200, 0), stray(99, 1), stray(254, 40), stray(17, 200), stray(64, 2)),
    ),
    "0/255": Plant(("two-valued-mask",), (white(255), white(255, "RGB"), white(255), white(255, "RGBA"))),
    "0/128 and 0/254": Plant(("two-valued-mask", "values-outside"), (white(128), white(254), white(200)), multi=False),
    "grey steps": Plant(("factor-mask",), (factor(50), factor(0), factor(60)), binary=False),
    "palette": Plant(("palette-mask",), tuple(palette(seed) for seed in range(4))),
    "palette of VOC": Plant(("palette-mask",), tuple(palette(seed, False) for seed in range(4))),
    "RGB colours": Plant(("colour-mask",), (colours(True),)),
    "RGB colours of VOC": Plant(("colour-mask",), (colours(False),)),
    "interpolated 0/255": Plant(
        ("interpolated-mask",),
        tuple(interpolated("white", way, amount) for way, amount in (*_SMEAR, ("jpeg", 95), ("jpeg", 75), ("jpeg", 30))),
        multi=False,
    ),
    "interpolated steps": Plant(
        ("interpolated-mask",),
        tuple(interpolated("steps", way, amount) for way, amount in (*_SMEAR, ("jpeg", 95), ("jpeg", 75), ("jpeg", 30))),
        binary=False,
    ),
    "interpolated colours": Plant(
        ("interpolated-mask",), tuple(interpolated("colours", way, amount) for way, amount in (*_SMEAR, ("jpeg", 95), ("jpeg", 75)))
    ),
    "JPEG mask": Plant(
        ("interpolated-mask", "lossy-mask"),
        tuple(jpeg_file(values, quality) for values in ("white", "colours") for quality in (95, 80, 50)),
    ),
    "inverted": Plant(("inverted-mask",), (inverted(1),), multi=False),
    "inverted, several classes": Plant(("inverted-mask",), (inverted(1), inverted(2)), binary=False),
    "empty": Plant(("empty-mask",), (emptied,)),
    "specks": Plant(
        ("specks",), (specks(1, 1), specks(3, 2), specks(10, 5), specks(1, 30), specks(4, 12), specks(2, 20), specks(6, 1), specks(1, 8))
    ),
    "specks on the organ": Plant(("specks",), (specks(2, 2, False), specks(1, 1, False), specks(5, 3, False)), binary=False),
    "holes": Plant(
        ("holes",), (holes(1, 1), holes(3, 2), holes(10, 5), holes(1, 30), holes(1, 100), holes(4, 12), holes(2, 60), holes(1, 8))
    ),
    "tiny image": Plant(("tiny-image",), tuple(shrunk(*size) for size in ((1, 1), (8, 8), (16, 16), (31, 31), (200, 16), (3, 200)))),
    "huge image": Plant(("huge-image",), (huge_header(20_000, 20_000), huge_header(65_000, 3_000)), importable=False),
    "NaN image": Plant(
        ("nan-image",), (not_a_number(1), not_a_number(500), not_a_number(40, np.inf), not_a_number(7, -np.inf), not_a_number(0))
    ),
    "constant image": Plant(
        ("constant-image",), (constant(0), constant(255), constant(128), constant(1), constant(254), constant(200, 30, 90))
    ),
    "changed image": Plant(
        ("hash-changed",),
        (picture(lambda pixels, rng: 255 - pixels), picture(lambda pixels, rng: _one_pixel(pixels)), lambda s, rng: _append(s.image)),
        importable=False,
    ),
    "changed mask": Plant(("hash-changed",), (lambda s, rng: _append(s.mask), lambda s, rng: _moved(s)), importable=False),
}


def _one_pixel(pixels: np.ndarray) -> np.ndarray:
    pixels[0, 0] ^= 255
    return pixels


def _append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\n")


def _moved(sample: Sample) -> None:
    save_grey(sample.mask, np.roll(sample.ids, 1, axis=0))


# --- objects: instances/NAME.json beside the masks that an importer wrote


def objects(change: Callable[[dict[str, Any]], object]) -> Planter:
    """The file of objects with another content, `change`d in place."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        content = json.loads(sample.instances.read_text())
        change(content)
        sample.instances.write_text(json.dumps(content))

    return plant


def linked_away(sample: Sample, rng: np.random.Generator) -> None:
    """The file of objects is a link to the same bytes elsewhere, outside the manifest's folder."""
    folder = sample.instances.parent
    other = folder.parent.parent / f"outside-{sample.instances.name}"
    sample.instances.rename(other)
    sample.instances.symlink_to(other)


def _shorter(content: dict[str, Any]) -> None:
    content["instances"][0]["rle"] = content["instances"][0]["rle"][:-1]


INSTANCE_PLANTS: dict[str, Plant] = {
    "changed objects": Plant(
        ("hash-changed",),
        (
            objects(lambda content: content["instances"].pop()),
            objects(lambda content: content["instances"].reverse()),
            objects(lambda content: content["instances"][0].update(label="another")),
            objects(lambda content: content["instances"][0].update(crowd=True)),
            objects(lambda content: content["instances"].clear()),
            lambda sample, rng: _append(sample.instances),
        ),
    ),
    "unreadable objects": Plant(
        ("file-unreadable",),
        (
            *(truncated("instances", share) for share in (0.0, 0.1, 0.5, 0.95)),
            replaced("instances", b"<html>404</html>"),
            replaced("instances", bytes(1000)),
            replaced("instances", b"[" * 100_000),
            replaced("instances", b'{"format": "medseg-instances 1", "instances": []}'),
            objects(_shorter),
            objects(lambda content: content["instances"][0].update(area_px=content["instances"][0]["area_px"] + 1)),
            objects(lambda content: content["instances"][0].pop("rle")),
            objects(lambda content: content.update(size=[10**6, 10**6])),
        ),
    ),
    "missing objects": Plant(("file-missing",), (lambda sample, rng: sample.instances.unlink(),)),
    "objects outside the root": Plant(("path-leaves-root",), (linked_away,)),
}


# --- volumes: images/NAME.nii.gz beside masks/NAME.nii.gz


def write_volumes(root: Path, count: int, seed: int = 0) -> list[Sample]:
    """Textured boxes of 24 x 20 x 16 voxels of 1 x 1.5 x 2 mm with a two-class ellipsoid."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = (-10, 5, 30)
    made = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in (24, 20, 16)), indexing="ij"))
        away = np.sqrt(((grid / rng.uniform(0.4, 0.7, (3, 1, 1, 1))) ** 2).sum(axis=0))
        ids = np.where(away < 1, np.where(grid[0] > rng.uniform(-0.2, 0.2), 1, 2), 0).astype(np.uint8)
        texture = ndimage.gaussian_filter(rng.normal(size=ids.shape), 1.5) * 300
        sample = Sample(root / "images" / f"v{index:03d}.nii.gz", root / "masks" / f"v{index:03d}.nii.gz", 3)
        save_volume(sample.image, (200 + 100 * ids + texture).astype(np.int16), affine)
        save_volume(sample.mask, ids, affine)
        made.append(sample)
    return made


def save_volume(path: Path, array: np.ndarray, affine: np.ndarray, qform: np.ndarray | None = None) -> None:
    """Write NIfTI-1 with sform and qform, the latter another one where given."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine if qform is None else qform, 1)
    nib.save(image, path)


def volume(which: str, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Planter:
    """Another array or affine; the header's kind of number follows the array."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        path = getattr(sample, which)
        found = nib.load(path)
        save_volume(path, *change(np.asarray(found.dataobj).copy(), found.affine.copy()))

    return plant


def _shifted(*mm: float) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return lambda array, affine: (array, affine + np.array([[0, 0, 0, mm[0]], [0, 0, 0, mm[1]], [0, 0, 0, mm[2]], [0, 0, 0, 0]]))


def _spaced(*by: float) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return lambda array, affine: (array, affine @ np.diag([*by, 1]))


def _turned_axis(axis: int) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The axis runs the other way, voxels and affine alike: the same place in the body, another grid."""

    def change(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
        return np.ascontiguousarray(np.flip(array, axis)), affine

    return change


def _set(value: float, count: int, kind: type = np.float32) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """`count` voxels (0: all) hold a value."""

    def change(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        array = array.astype(kind)
        array.flat[: count or None] = value
        return array, affine

    return change


def torn_forms(mm: float) -> Planter:
    """qform and sform of image and mask place them `mm` apart."""

    def plant(sample: Sample, rng: np.random.Generator) -> None:
        for path in (sample.image, sample.mask):
            found = nib.load(path)
            save_volume(path, np.asarray(found.dataobj), found.affine, _shifted(mm, 0, 0)(np.zeros(1), found.affine)[1])

    return plant


VOLUME_PLANTS: dict[str, Plant] = {
    "truncated volume": Plant(
        ("file-unreadable",),
        (
            *(truncated(which, share) for share in (0.01, 0.3, 0.7, 0.99) for which in ("image", "mask")),
            replaced("image", b""),
            damaged("image"),
        ),
        importable=False,
    ),
    "mask of another shape": Plant(
        ("size-mismatch",),
        (
            volume("mask", lambda a, f: (a[:-1], f)),
            volume("mask", lambda a, f: (a[:, :, ::2].copy(), f)),
            volume("mask", lambda a, f: (a.transpose(1, 0, 2).copy(), f)),
            volume("mask", lambda a, f: (np.pad(a, 1), f)),
        ),
    ),
    "mask of another spacing": Plant(
        ("spacing-mismatch",), tuple(volume("mask", _spaced(*by)) for by in ((2, 1, 1), (1, 1, 1.01), (1, 0.5, 1), (1.5, 1.5, 1.5)))
    ),
    "volume of another spacing": Plant(("spacing-mismatch",), (volume("image", _spaced(1, 1, 2)), volume("image", _spaced(0.9, 1, 1)))),
    "mask's origin shifted": Plant(
        ("affine-mismatch",),
        tuple(volume("mask", _shifted(*mm)) for mm in ((5, 0, 0), (0, 0.5, 0), (0, 0, -2), (100, 100, 100), (0.1, 0, 0))),
    ),
    "mask's axis turned": Plant(("affine-mismatch",), tuple(volume("mask", _turned_axis(axis)) for axis in range(3))),
    "mask's affine turned alone": Plant(
        ("affine-mismatch",), (volume("mask", _spaced(-1, 1, 1)), volume("mask", _spaced(-1, -1, 1)), volume("mask", _spaced(1, 1, -1)))
    ),
    "qform and sform": Plant(("forms-disagree",), tuple(torn_forms(mm) for mm in (1.0, 30.0, -0.5))),
    "NaN volume": Plant(
        ("nan-image",), (volume("image", _set(np.nan, 1)), volume("image", _set(np.inf, 50)), volume("image", _set(np.nan, 0)))
    ),
    "constant volume": Plant(("constant-image",), (volume("image", _set(0, 0, np.int16)), volume("image", _set(77.5, 0)))),
    "voxel values outside": Plant(
        ("values-outside",),
        (volume("mask", _set(7, 3, np.uint8)), volume("mask", _set(200, 1, np.int16)), volume("mask", _set(300, 9, np.int16))),
    ),
    "voxels 0/255": Plant(("two-valued-mask",), (volume("mask", lambda a, f: (((a > 0) * 255).astype(np.uint8), f)),)),
    "interpolated voxels": Plant(
        ("interpolated-mask",),
        (
            volume("mask", lambda a, f: (ndimage.gaussian_filter(a.astype(np.float32), 0.7), f)),
            volume("mask", lambda a, f: (ndimage.zoom(ndimage.zoom(a.astype(np.float32), 0.5, order=1), 2, order=1), f)),
        ),
    ),
    "empty voxels": Plant(("empty-mask",), (volume("mask", _set(0, 0, np.uint8)),)),
    "tiny volume": Plant(
        ("tiny-image",),
        (lambda s, rng: [volume(w, lambda a, f: (a[8:12, 8:12, :].copy(), f))(s, rng) for w in ("image", "mask")] and None,),
    ),
}
