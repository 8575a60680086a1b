"""Near-duplicate images: one picture stored again at another size, crop, brightness or compression, mirrored or turned.

Everything is judged on small grey thumbnails, by the Pearson correlation of their pixels; correlation does not see brightness and
contrast. Candidates first: up to ALL_CROPS images each is compared with slightly cropped views of every other; up to ALL_PAIRS with
every other as it is; beyond, only images that agree in one 16-bit band of their 64-bit perceptual hash (DCT signs: Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). Then the best correlation over the cropped views of both
decides. On two real tongue sets that figure is above 0.966 for the same picture and below 0.949 for different people
(docs/check.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.fft import dctn
from threadpoolctl import threadpool_limits

from medseg.images import is_volume, read_image, reduce_image, resize_image
from medseg.manifest.schema import Manifest
from medseg.types import Size

THUMB_PX = 64
VIEW_PX, SMALL_PX = 32, 16  # of a view that decides, of one that proposes
NEAR = 0.965  # correlation above which two pictures are near-duplicates
SAME = 0.99  # and above which they are surely one picture
LEFT = 0.80  # correlation of what is left of them without what the whole set has in common
COMMON_FROM, COMMON_OF = 16, 100  # images from which that is known; about so many are enough to know it
CANDIDATE = 0.90  # correlation of small views above which two pictures are compared closely
ALL_CROPS, ALL_PAIRS = 3_000, 20_000  # images up to which all are compared
BLOCK = 2_048
WORKERS = 2
GRIDS = ((1.0, 1), (0.95, 3), (0.90, 5))  # (share of the side, places along it): the whole, 9 crops of 95 %, 25 of 90 %
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of the last two axes
    "as it is": lambda grey: grey,
    "mirrored": lambda grey: grey[..., ::-1],
    "turned by 90 degrees": lambda grey: np.rot90(grey, 1, (-2, -1)),
    "turned by 180 degrees": lambda grey: np.rot90(grey, 2, (-2, -1)),
    "turned by 270 degrees": lambda grey: np.rot90(grey, 3, (-2, -1)),
}
CROPPED_TURNS = ("as it is", "mirrored")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two near-duplicates: sample ids, the best correlation of their grey pixels (NEAR to 1), and how the second lies."""

    first: str
    second: str
    correlation: float
    how: str


def thumbnail(picture_HWC: np.ndarray) -> np.ndarray:
    """uint8 (THUMB_PX, THUMB_PX): an upright RGB picture, or what `reduced` left of it, as luma (ITU-R BT.601), squeezed to a square."""
    small = resize_image(reduced(picture_HWC), Size(THUMB_PX, THUMB_PX)).astype(np.float32)
    return np.round(small @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)


def reduced(picture_HWC: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): a picture cheap to work on, at least twice a thumbnail's side; one so small already is itself."""
    return reduce_image(picture_HWC, 2 * THUMB_PX)


def read_picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3): a photograph, or the middle slice of a volume scaled to its own range."""
    if not is_volume(path):
        return read_image(path)
    from medseg.volumes import read_volume  # a set of photographs does not wait for nibabel

    return middle_slice(read_volume(path)[0])


def middle_slice(array_XYZ: np.ndarray) -> np.ndarray:
    """uint8 (Y, X, 3): the middle slice of a volume, as `grey_slice` shows it."""
    return grey_slice(array_XYZ, array_XYZ.shape[2] // 2)


def grey_slice(array_XYZ: np.ndarray, z: int) -> np.ndarray:
    """uint8 (Y, X, 3): one slice (and the first channel) of a volume, its values spread over 0 to 255."""
    plane = np.asarray(array_XYZ[:, :, z], np.float32)
    plane = np.nan_to_num(plane if plane.ndim == 2 else plane[..., 0], posinf=0.0, neginf=0.0)
    low, high = float(plane.min(initial=0.0)), float(plane.max(initial=0.0))
    scaled = np.round((plane - low) * (255.0 / (high - low))) if high > low else np.zeros_like(plane)
    return np.repeat(scaled.astype(np.uint8).T[..., None], 3, axis=2)


def near_duplicates(manifest: Manifest, data_root: Path, on_progress: Callable[[int, int], None] | None = None) -> list[Pair]:
    """Every near-duplicate pair of a manifest's images, sorted; ImageError or ManifestError for one that cannot be read."""
    rows = list(manifest)
    thumbs = np.zeros((len(rows), THUMB_PX, THUMB_PX), np.uint8)
    with ThreadPoolExecutor(WORKERS) as pool:
        read = pool.map(lambda row: thumbnail(read_picture(manifest.image_path(row, data_root))), rows)
        for position, thumb in enumerate(read):
            thumbs[position] = thumb
            if on_progress:
                on_progress(position + 1, len(rows))
    return near_pairs([row.sample_id for row in rows], thumbs, np.array([row.mask is not None for row in rows]))


def near_pairs(sample_ids: Sequence[str], thumbs_NHW: np.ndarray, labelled_N: np.ndarray | None = None) -> list[Pair]:
    """The near-duplicates among images with these thumbnails, uint8 (N, THUMB_PX, THUMB_PX); flat images are like none.

    labelled_N: bool, which have a mask; all where not given. Only these tell what all images have in common: among the others may be
    what is no image of the set, such as a second observer's masks.
    """
    if len(thumbs_NHW) < 2:
        return []
    with threadpool_limits(1, "blas"):  # the products are small: threads would only wait for each other
        return _near_pairs(sample_ids, thumbs_NHW, thumbs_NHW if labelled_N is None or not labelled_N.any() else thumbs_NHW[labelled_N])


def _near_pairs(sample_ids: Sequence[str], thumbs_NHW: np.ndarray, usual_NHW: np.ndarray) -> list[Pair]:
    plain = _Looks(thumbs_NHW, usual_NHW)

    def alike(how: str) -> list[tuple[int, int, float, str]]:
        pairs = list(candidates(thumbs_NHW, how))
        turned = plain if how == "as it is" or not pairs else _Looks(TURNS[how](thumbs_NHW), TURNS[how](usual_NHW))
        return [(first, second, _correlation(plain, first, turned, second), how) for first, second in pairs]

    best: dict[tuple[int, int], Pair] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for first, second, correlation, how in chain.from_iterable(pool.map(alike, TURNS)):
            known = best.get((first, second))
            if correlation > NEAR and (known is None or correlation > known.correlation):
                best[first, second] = Pair(sample_ids[first], sample_ids[second], min(correlation, 1.0), how)
    return [best[key] for key in sorted(best)]


class _Looks:
    """The views of each picture, made when asked for, and what all pictures of the set have in common in each view.

    Retinas in one round frame, or X-rays of one posture, correlate above 0.96 whosoever they are. So what is left of two pictures
    without the common part must be alike too.
    """

    def __init__(self, thumbs_NHW: np.ndarray, usual_NHW: np.ndarray) -> None:
        self._thumbs = thumbs_NHW
        step = max(1, len(usual_NHW) // COMMON_OF)
        mean = views(usual_NHW[::step], VIEW_PX).mean(axis=0)
        length = np.sqrt((mean**2).sum(axis=-1, keepdims=True))
        enough = len(usual_NHW) >= COMMON_FROM
        self._common = np.where(enough & (length > 0), mean / np.maximum(length, 1e-6), 0.0).astype(np.float32)
        self.of = lru_cache(maxsize=2_048)(self._of)

    def _of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(views, what is left of them), both (V, side * side) of length 1."""
        whole = views(self._thumbs[index][None], VIEW_PX)[0]
        left = whole - (whole * self._common).sum(axis=-1, keepdims=True) * self._common
        return whole, left / np.maximum(np.sqrt((left**2).sum(axis=-1, keepdims=True)), 1e-6)


def _correlation(plain: _Looks, first: int, turned: _Looks, second: int) -> float:
    """The best correlation over both pictures' views; 0 where one up to SAME comes from what the whole set has in common."""
    (whole, left), (other_whole, other_left) = plain.of(first), turned.of(second)
    correlations = whole @ other_whole.T
    view, other_view = np.unravel_index(int(correlations.argmax()), correlations.shape)
    best = float(correlations[view, other_view])
    return best if best > SAME or float(left[view] @ other_left[other_view]) > LEFT else 0.0


# --- views


def views(thumbs_NHW: np.ndarray, side_px: int, grids: Sequence[tuple[float, int]] = GRIDS) -> np.ndarray:
    """float32 (N, views, side * side): each crop of each thumbnail, by area weights, with mean 0 and length 1; 0 where it is flat."""
    pixels = thumbs_NHW.astype(np.float32)
    found = np.concatenate([_crops(pixels, side_px, *grid) for grid in grids], axis=1)
    found -= found.mean(axis=-1, keepdims=True)
    length = np.sqrt(np.einsum("nvp,nvp->nv", found, found))[..., None]
    found /= np.where(length > side_px, length, np.inf)  # side: a deviation of one grey level
    return found


def _crops(pixels_NHW: np.ndarray, side_px: int, share: float, places: int) -> np.ndarray:
    """float32 (N, places * places, side * side): the crops of one size, all by two products."""
    rows, columns = (_weights(source_px, side_px, share, places) for source_px in pixels_NHW.shape[1:])
    cropped = (rows @ pixels_NHW @ columns.T).reshape(-1, places, side_px, places, side_px)
    return cropped.swapaxes(2, 3).reshape(-1, places * places, side_px * side_px)


@lru_cache(maxsize=16)
def _weights(source_px: int, side_px: int, share: float, places: int) -> np.ndarray:
    """float32 (places * side, source): how much of each source pixel lies in each target pixel of a crop, crop after crop; rows add
    up to 1."""
    return np.concatenate([_crop_weights(source_px, side_px, share, place / max(1, places - 1)) for place in range(places)])


def _crop_weights(source_px: int, side_px: int, share: float, offset: float) -> np.ndarray:
    start = offset * (1 - share) * source_px
    edges = start + np.linspace(0, share * source_px, side_px + 1)
    pixel = np.arange(source_px)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = overlap.clip(0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


# --- candidates


def candidates(thumbs_NHW: np.ndarray, how: str) -> Iterator[tuple[int, int]]:
    """Index pairs (first < second) that may be one picture, the second turned by `how`; a pair comes once."""
    turned = np.ascontiguousarray(TURNS[how](thumbs_NHW))
    if len(thumbs_NHW) > ALL_PAIRS:
        yield from _by_hash(thumbs_NHW, turned)
        return
    cropped = len(thumbs_NHW) <= ALL_CROPS and how in CROPPED_TURNS
    whole = views(_halved(thumbs_NHW), SMALL_PX, GRIDS[:1])[:, 0]
    yield from sorted(_alike(whole, views(_halved(turned), SMALL_PX, GRIDS if cropped else GRIDS[:1])))


def _halved(thumbs_NHW: np.ndarray) -> np.ndarray:
    """float32 (N, H / 2, W / 2): enough for the small views, at a quarter of their cost."""
    pixels = thumbs_NHW.astype(np.float32)
    rows = pixels[:, ::2] + pixels[:, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def _alike(whole: np.ndarray, others: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of which one's whole picture correlates above CANDIDATE with a view of the other's."""
    found: set[tuple[int, int]] = set()
    for start in range(0, len(whole), BLOCK):
        block = whole[start : start + BLOCK]
        best = block @ others[:, 0].T
        for view in range(1, others.shape[1]):
            np.maximum(best, block @ others[:, view].T, out=best)
        hits = np.argwhere(best > CANDIDATE) + (start, 0)
        found.update((min(a, b), max(a, b)) for a, b in hits.tolist() if a != b)
    return found


def perceptual_hashes(thumbs_NHW: np.ndarray) -> np.ndarray:
    """uint16 (N, 4): 64 signs of the lowest frequencies against their median, in four bands."""
    small = views(thumbs_NHW, VIEW_PX, GRIDS[:1]).reshape(len(thumbs_NHW), VIEW_PX, VIEW_PX)
    spectrum = dctn(small, axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(thumbs_NHW), 64)
    bits = spectrum > np.median(spectrum[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint16)


def _by_hash(thumbs_NHW: np.ndarray, turned_NHW: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs that share a band: all whose hashes differ in at most three bits, and some more."""
    left, right = perceptual_hashes(thumbs_NHW), perceptual_hashes(turned_NHW)
    met: set[tuple[int, int]] = set()
    for band in range(left.shape[1]):
        members: dict[int, list[int]] = {}
        for index, value in enumerate(right[:, band].tolist()):
            members.setdefault(value, []).append(index)
        for index, value in enumerate(left[:, band].tolist()):
            pairs = {(min(index, other), max(index, other)) for other in members.get(value, ()) if other != index}
            yield from sorted(pairs - met)
            met |= pairs
