"""Figures to look at: the best, median and worst cases of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medseg import images
from medseg.files import atomic_path
from medseg.labels import LabelSet
from medseg.metrics.counts import counts_of
from medseg.metrics.scores import nan_mean, ratios
from medseg.types import CaseResult, Size

PER_KIND = 4
TILE_PX, BETWEEN_PX = 320, 6
WIDTH_IN, TITLE_IN = 3.6, 0.35  # of a case on the sheet
ReadTriple = Callable[[CaseResult], tuple[np.ndarray, np.ndarray, np.ndarray]]  # picture (H, W, 3), reference, prediction


def case_score(case: CaseResult, labels: LabelSet) -> float:
    """Mean IoU over the foreground classes that are in the case; NaN where none is."""
    return nan_mean([ratios(counts_of(case.confusion_KK, (labels.id_of(name),)))["iou"] for name in labels.foreground]).mean


def best_median_worst(cases: Sequence[CaseResult], labels: LabelSet) -> dict[str, list[CaseResult]]:
    """Up to PER_KIND cases of each kind by case_score, no case twice; cases without a score are left out."""
    scored = [(value, case) for case in cases if not math.isnan(value := case_score(case, labels))]
    order = [case for _, case in sorted(scored, key=lambda pair: (-pair[0], pair[1].sample_id))]
    each = min(PER_KIND, len(order) // 3)
    if each == 0:  # one or two cases: nothing to choose from
        return {"all": order} if order else {}
    middle = (len(order) - each) // 2
    return {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:][::-1]}


def overlay_sheet(path: Path, cases: Sequence[CaseResult], labels: LabelSet, read: ReadTriple) -> None:
    """Write the sheet: a row a kind, each case twice: with the reference, beside it with the prediction. The pictures are
    photographs, or planes of volumes."""
    kinds = best_median_worst(cases, labels)
    if not kinds:
        return
    columns = max(len(each) for each in kinds.values())
    pairs = {kind: [_pair(read(case), labels) for case in each] for kind, each in kinds.items()}
    heights = [max(WIDTH_IN * pair.shape[0] / pair.shape[1] for pair in row) + TITLE_IN for row in pairs.values()]
    figure = Figure(figsize=(WIDTH_IN * columns, sum(heights) + 0.6), layout="constrained", dpi=110)
    axes = figure.subplots(len(kinds), columns, squeeze=False, height_ratios=heights)
    for row, (kind, each) in zip(axes, kinds.items(), strict=True):
        for axis in row:
            axis.axis("off")
        for axis, case, pair in zip(row, each, pairs[kind], strict=False):
            axis.imshow(pair)
            axis.set_title(f"{kind}: {case.sample_id}   mIoU {case_score(case, labels):.3f}", fontsize=8)
    handles = [Patch(color=to_hex(labels.palette[labels.id_of(name)] / 255), label=name) for name in labels.foreground]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.suptitle("Left: reference.  Right: prediction.  mIoU: mean over the foreground classes in the image.", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _pair(triple: tuple[np.ndarray, np.ndarray, np.ndarray], labels: LabelSet) -> np.ndarray:
    """Reference and prediction over the picture, side by side; each at most TILE_PX along its shorter side."""
    photograph, reference, prediction = triple
    height, width = photograph.shape[:2]
    scale = min(1.0, TILE_PX / min(height, width))
    size = Size(max(1, round(height * scale)), max(1, round(width * scale)))
    small = images.resize_image(photograph, size)
    layers = [np.where(labels.valid(mask), mask, 0).astype(np.uint8) for mask in (reference, prediction)]
    tiles = [images.blend(small, images.resize_mask(layer, size), labels.palette) for layer in layers]
    between = np.full((size.height_px, BETWEEN_PX, 3), 255, np.uint8)
    return np.concatenate([tiles[0], between, tiles[1]], axis=1)
