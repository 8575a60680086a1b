"""DecodedSet -> batches: in the order of an epoch's draws for training, in file order for evaluation."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from medseg.config import AugmentConfig
from medseg.data.augment import apply_changes, draw_change
from medseg.data.cache import CHANNELS
from medseg.data.decoded import DecodedSet
from medseg.data.patches import crop_window
from medseg.types import Batch, Draws

T = TypeVar("T")


@dataclass(frozen=True)
class Loading:
    """How batches are made, the same for each epoch of a run. patch: the size of the crops, None for whole images."""

    batch_size: int
    augment: AugmentConfig
    seed: int
    device: torch.device
    patch: tuple[int, ...] | None = None
    channels_last: bool = False
    prefetch: int = 0


def collate(records_N4HW: np.ndarray, sample_ids: Sequence[str], device: torch.device, channels_last: bool = False) -> Batch:
    """uint8 records to a batch on the device: images float32 in [0, 1], masks int64, and objects where the records hold them."""
    host = torch.from_numpy(records_N4HW)
    if device.type == "cuda":
        host = host.pin_memory()  # so that the copy runs beside the computation
    moved = host.to(device, non_blocking=True)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = moved[:, :3].to(torch.float32, memory_format=layout).div_(255.0)
    objects = moved[:, CHANNELS].long() if records_N4HW.shape[1] > CHANNELS else None
    return Batch(image, moved[:, 3].long(), tuple(sample_ids), objects)


def train_batches(data: DecodedSet, draws: Draws, epoch: int, loading: Loading) -> Iterator[Batch]:
    """Augmented batches of one epoch, or of a rank's part of it, all of the same size; `draws` are a multiple of it."""
    starts = range(0, len(draws), loading.batch_size)
    parts = (draws.part(slice(start, start + loading.batch_size)) for start in starts)
    gathered = ((part, _gather(data, part, loading.patch)) for part in parts)
    for part, records in prefetched(gathered, loading.prefetch):
        ids = [data.rows[int(position)].sample_id for position in part.images]
        batch = collate(records, ids, loading.device, loading.channels_last)
        changes = [draw_change(loading.augment, loading.seed, epoch, int(place)) for place in part.places]
        yield apply_changes(batch, changes, data.labels)


def _gather(data: DecodedSet, draws: Draws, patch: tuple[int, ...] | None) -> np.ndarray:
    """uint8 (N, 4 or 5, H, W): whole records, or the crop of each around its centre."""
    if patch is None or draws.centres is None:
        return data.records(draws.images)
    crops = np.empty((len(draws), data.cache.channels, *patch), np.uint8)
    for place, (position, centre) in enumerate(zip(draws.images, draws.centres, strict=True)):
        top, left = crop_window(centre, data.frame, patch)
        crops[place] = data.record(int(position))[:, top : top + patch[0], left : left + patch[1]]
    return crops


def eval_batch(data: DecodedSet, places: Sequence[int], device: torch.device) -> Batch:
    """The images of these rows, unchanged."""
    return collate(data.records(places), [data.rows[place].sample_id for place in places], device)


_END = object()


def prefetched(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, up to `depth` of them made ready by a thread beside the consumer; 0 makes each when it is asked for.

    What the making raises is raised here; a consumer that stops early stops the thread.
    """
    if depth == 0:
        yield from items
        return
    ready: queue.Queue[object] = queue.Queue(depth)
    stopped = threading.Event()

    def make() -> None:
        last: object = _END
        try:
            for item in items:
                if not _put(ready, item, stopped):
                    return
        except BaseException as cause:
            last = _Raised(cause)
        _put(ready, last, stopped)

    thread = threading.Thread(target=make, name="medseg-prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.cause
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


@dataclass(frozen=True)
class _Raised:
    cause: BaseException


def _put(ready: queue.Queue[object], item: object, stopped: threading.Event) -> bool:
    """Wait for room; False where nobody will take it any more."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
