"""A model and a decoded set -> masks and counts, image by image. Processes share out whole batches, so a batch is the same computation
whoever has it, and the counts do not depend on their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from medseg.data.decoded import DecodedSet
from medseg.data.loaders import eval_batch
from medseg.data.volume.volumeset import VolumeSet
from medseg.engine.infer import OnGrid, Passes, on_own_grid, predict
from medseg.engine.ranks import Ranks
from medseg.engine.volumes import WINDOWS_AT_ONCE, Windows, network_mask, on_file_grid, windows_of
from medseg.labels import LabelSet
from medseg.letterbox import fit_letterbox
from medseg.types import CaseResult, Row

Looked = TypeVar("Looked")
LARGEST_PROBS = 2**30  # bytes of a volume's probabilities on its file's grid, up to which they are looked at
PIECE = 2**20  # pixels counted at a time: the count takes 24 bytes of each


def network_grid_cases(model: nn.Module, data: DecodedSet | VolumeSet, batch_size: int, passes: Passes, ranks: Ranks) -> list[CaseResult]:
    """Counts on the network's grid, padding ignored: what an epoch's validation and the choice of a checkpoint go by."""
    counts_NKK = torch.zeros((len(data), data.labels.num_classes, data.labels.num_classes), dtype=torch.int64, device=ranks.device)
    for places in _rounds(len(data), _at_once(data, batch_size), ranks):
        if places:
            for place, mask_HW in zip(places, _network_masks(model, data, places, passes, ranks, batch_size), strict=True):
                counts_NKK[place] = _confusion(torch.tensor(data.mask(place)).to(ranks.device), mask_HW, data.labels)
    summed = ranks.sum(counts_NKK).cpu().numpy()
    return [CaseResult(row.sample_id, row.group_id, counts) for row, counts in zip(data.rows, summed, strict=True)]


def _at_once(data: DecodedSet | VolumeSet, batch_size: int) -> int:
    """Volumes differ in size, and are predicted in windows: one at a time."""
    return 1 if isinstance(data, VolumeSet) else batch_size


def _network_masks(model: nn.Module, data: DecodedSet | VolumeSet, places: range, passes: Passes, ranks: Ranks, batch_size: int) -> Tensor:
    if isinstance(data, VolumeSet):
        how = windows(data, passes, batch_size)
        masks = [network_mask([model], data.record(place).image_CDHW, how, ranks.device) for place in places]
        return torch.from_numpy(masks[0])[None].to(ranks.device)
    return predict(model, eval_batch(data, places, ranks.device).image_BCHW, passes).mask_BHW


def windows(data: VolumeSet, passes: Passes, batch_size: int = WINDOWS_AT_ONCE) -> Windows:
    """How the volumes of a set are predicted. batch_size: windows at once."""
    assert passes.window is not None, "build.check_patch refuses a config without patches"
    return windows_of(data.config, passes.window, passes.overlap, passes.axes if passes.mirror else (), data.labels, batch_size)


def on_original_grid(
    model: nn.Module,
    data: DecodedSet | VolumeSet,
    batch_size: int,
    passes: Passes,
    ranks: Ranks,
    look: Callable[[Row, OnGrid], Looked],
    volume_probs: bool = False,
) -> Iterator[tuple[Row, Looked]]:
    """Each row with what `look` makes of its prediction on the image's own pixel grid, in the process that has predicted it; at the first
    process, in the order of the rows. The other processes must go through it, too, and find nothing.

    volume_probs: whether `look` is shown the probabilities of volumes, where `has_probs` says so; a photograph's come at no cost.
    """
    for places in _rounds(len(data), _at_once(data, batch_size), ranks):
        grids = _on_grids(model, data, places, passes, ranks, batch_size, volume_probs) if places else iter(())
        yield from ranks.to_first([(row, look(row, grid)) for row, grid in grids])


def _on_grids(
    model: nn.Module, data: DecodedSet | VolumeSet, places: range, passes: Passes, ranks: Ranks, batch_size: int, volume_probs: bool
) -> Iterator[tuple[Row, OnGrid]]:
    if isinstance(data, VolumeSet):
        for place in places:
            yield data.rows[place], _volume_on_grid(model, data, place, windows(data, passes, batch_size), ranks, volume_probs)
        return
    prediction = predict(model, eval_batch(data, places, ranks.device).image_BCHW, passes)
    for place_in_batch, row in enumerate(data.rows[place] for place in places):
        yield row, on_own_grid(prediction, place_in_batch, fit_letterbox(row.size, data.frame))


def has_probs(voxels: int, labels: LabelSet) -> bool:
    """Whether the probabilities of a volume are looked at on its file's grid: those of a large one would fill the memory."""
    return 4 * labels.num_classes * voxels <= LARGEST_PROBS


def _volume_on_grid(model: nn.Module, data: VolumeSet, place: int, how: Windows, ranks: Ranks, probs: bool) -> OnGrid:
    record, volume = data.record(place), data.volumes[place]
    wanted = data.labels.num_classes if probs and has_probs(math.prod(volume.shape), data.labels) else None
    found = on_file_grid([model], record.image_CDHW, record.box, volume, how, ranks.device, wanted)
    return OnGrid(found.mask_XYZ, found.probs_KXYZ)


def _confusion(reference_HW: Tensor, prediction_HW: Tensor, labels: LabelSet) -> Tensor:
    """What `metrics.counts.confusion` counts, where the network is: the mask goes there, K x K numbers stay there until the end."""
    k = labels.num_classes
    counts = torch.zeros(k * k + 1, dtype=torch.int64, device=reference_HW.device)  # one cell more, for the ignored
    pieces = zip(reference_HW.flatten().split(PIECE), prediction_HW.flatten().split(PIECE), strict=True)
    for reference_P, prediction_P in pieces:
        cells_P = torch.where(labels.valid(reference_P), reference_P.long() * k + prediction_P, k * k)
        counts += torch.bincount(cells_P, minlength=k * k + 1)
    return counts[: k * k].view(k, k)


def _rounds(images: int, batch_size: int, ranks: Ranks) -> Iterator[range]:
    """The places of this process's batches: in each round the processes take one each, the last of them maybe none."""
    starts = range(0, images, batch_size)
    for first in range(0, len(starts), ranks.world):
        mine = first + ranks.rank
        yield range(starts[mine], min(starts[mine] + batch_size, images)) if mine < len(starts) else range(0)
