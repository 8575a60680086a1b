"""Write phantoms as a folder of JPEG photographs with labelme's JSON beside them, as an annotator would leave them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg.files import write_json
from medseg.images import write_image
from medseg.phantom.folder import STAMP, is_finished
from medseg.phantom.tongue import Phantom, draw_tongue
from medseg.rasterise import Shape
from medseg.seeding import numpy_generator
from medseg.types import Size

GENERATOR_VERSION = 3  # to be raised with every change of what `draw_tongue` paints
DEFAULT_SIZE = Size(256, 256)
LABELME_VERSION = "5.5.0"
_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, and so what a folder holds; kept beside the images as STAMP."""

    seed: int
    count: int
    size: Size
    generator_version: int = GENERATOR_VERSION

    def stamp(self) -> dict[str, Any]:
        """The order as JSON gives it back."""
        return {**asdict(self), "size": list(self.size)}

    def files(self) -> Iterator[str]:
        """The names of all files of a finished folder but the stamp."""
        for index in range(self.count):
            yield f"{stem(index)}.jpg"
            yield f"{stem(index)}.json"


def stem(index: int) -> str:
    """The file name of an image without its suffix.

    >>> stem(7)
    'phantom_0007'
    """
    return f"phantom_{index:04d}"


def lesion_indices(seed: int, count: int) -> frozenset[int]:
    """Which images bear a lesion: exactly round(count / 10) of them, by a seeded permutation.

    >>> len(lesion_indices(0, 200))
    20
    """
    order = numpy_generator("phantom", seed, count, "lesions").permutation(count)
    return frozenset(int(i) for i in order[: round(count / 10)])


def write_phantoms(
    out: Path,
    count: int,
    seed: int = 0,
    size: Size = DEFAULT_SIZE,
    jobs: int = 0,
    on_done: Callable[[int], None] | None = None,
) -> None:
    """Write `count` phantoms to `out` as phantom_0000.jpg and .json; the bytes do not depend on `jobs`.

    jobs: processes, 0 for one a core. on_done: called with the number of images done so far. A finished folder of the same order
    is left as it is, an unfinished one is drawn again; raises MedsegError where `out` holds anything else.
    """
    order = Order(seed, count, size)
    if is_finished(out, order.stamp(), order.files()):
        return
    write_json(out / STAMP, order.stamp())
    for done in _draw_all(out, order, jobs or os.cpu_count() or 1):
        if on_done:
            on_done(done)


def _draw_all(out: Path, order: Order, jobs: int) -> Iterator[int]:
    """Draw every image, in chunks over `jobs` processes; yields the number done."""
    lesions = lesion_indices(order.seed, order.count)
    tasks = [(index, index in lesions) for index in range(order.count)]
    chunks = [tasks[first : first + _CHUNK] for first in range(0, len(tasks), _CHUNK)]
    done = 0
    if jobs == 1 or len(chunks) < 2:
        for task in tasks:
            done += _write_chunk(out, order, [task])
            yield done
        return
    # Spawned, not forked: the caller may have threads (torch, a progress bar), and a fork would copy their held locks.
    with ProcessPoolExecutor(min(jobs, len(chunks)), mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_write_chunk, out, order, chunk) for chunk in chunks]):
            done += future.result()
            yield done


def _write_chunk(out: Path, order: Order, tasks: list[tuple[int, bool]]) -> int:
    for index, has_lesion in tasks:
        phantom = draw_tongue(order.seed, index, order.size, has_lesion)
        quality = int(numpy_generator("phantom", order.seed, index, "jpeg").integers(78, 95))
        write_image(out / f"{stem(index)}.jpg", phantom.image_HWC, quality)
        write_json(out / f"{stem(index)}.json", labelme(phantom, f"{stem(index)}.jpg"))
    return len(tasks)


def labelme(phantom: Phantom, image_name: str) -> dict[str, Any]:
    """The annotation in the layout of labelme 5."""
    height, width = phantom.image_HWC.shape[:2]
    return {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": [_labelme_shape(shape) for shape in phantom.shapes],
        "imagePath": image_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _labelme_shape(shape: Shape) -> dict[str, Any]:
    points = [list(point) for point in shape.points]
    return {"label": shape.label, "points": points, "group_id": None, "description": "", "shape_type": shape.kind, "flags": {}}
