"""Instances of one class: which were found, how well, and average precision where each has a score.

Objects come as masks of ids (0 = none, each other id an object), so no two share a pixel; memory goes with the largest id, so ids should be
dense. Where pixels are ignored, the caller sets them to 0 in both masks. A score with nothing to divide by is NaN, as in `scores.py`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage, sparse
from skimage.measure import label

from medseg.instances import encode_patch
from medseg.types import Size


def components(mask: np.ndarray) -> np.ndarray:
    """int32 ids 1, 2, ... of the connected parts of a bool mask (H, W) or (D, H, W); parts that touch at a corner are one (8 or 26
    neighbours). Numbered in the order of their first pixel.

    >>> components(np.array([[1, 0, 0, 1], [0, 1, 0, 0]], bool)).tolist()
    [[1, 0, 0, 2], [0, 1, 0, 0]]
    """
    assert mask.dtype == bool and mask.ndim in (2, 3), (mask.dtype, mask.shape)
    return np.asarray(label(mask, connectivity=mask.ndim), np.int32)


# --- matching


@dataclass(frozen=True)
class Matches:
    """Objects of one class in one image: found, invented, missed, and the IoUs of the found ones, largest first, each in (0, 1]."""

    tp: int
    fp: int
    fn: int
    ious: tuple[float, ...]


def match(reference: np.ndarray, prediction: np.ndarray, iou: float = 0.5) -> Matches:
    """Pair the objects of two masks of ids (int, one shape) one to one, where their IoU is at least `iou`, in (0, 1].

    Pairs above 0.5 are unique (Kirillov et al. 2019, theorem 1). At 0.5 and below an object may have several partners: pairs are taken by
    IoU, largest first, then by the lower reference id, then by the lower predicted id, which need not give the most pairs.

    >>> match(np.array([1, 1, 1, 0, 2]), np.array([1, 1, 0, 3, 0]))
    Matches(tp=1, fp=1, fn=1, ious=(0.6666666666666666,))
    """
    assert reference.shape == prediction.shape and 0 < iou <= 1, (reference.shape, prediction.shape, iou)
    area_R, area_P = np.bincount(reference.ravel()), np.bincount(prediction.ravel())
    both_R, both_P, iou_of_pair = _overlaps(reference, prediction, area_R, area_P)
    order = np.lexsort((both_P, both_R, -iou_of_pair))
    free_R, free_P = area_R > 0, area_P > 0
    ious = []
    for pair in order[iou_of_pair[order] >= iou]:
        if free_R[both_R[pair]] and free_P[both_P[pair]]:
            free_R[both_R[pair]] = free_P[both_P[pair]] = False
            ious.append(float(iou_of_pair[pair]))
    n_reference, n_predicted = int(np.count_nonzero(area_R[1:])), int(np.count_nonzero(area_P[1:]))
    return Matches(len(ious), n_predicted - len(ious), n_reference - len(ious), tuple(ious))


def _overlaps(
    reference: np.ndarray, prediction: np.ndarray, area_R: np.ndarray, area_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference id, predicted id and IoU of every pair that shares a pixel.

    The pixels are counted into a sparse table: a full one is gigabytes where a poor prediction falls into tens of thousands of parts.
    """
    both = (reference > 0) & (prediction > 0)
    pixels = sparse.coo_matrix((np.ones(np.count_nonzero(both), np.int64), (reference[both], prediction[both])), (len(area_R), len(area_P)))
    shared = pixels.tocsr().tocoo()  # tocsr adds up the entries of a pair
    ids_R, ids_P = shared.row, shared.col
    return ids_R, ids_P, shared.data / (area_R[ids_R] + area_P[ids_P] - shared.data)


# --- detection scores


@dataclass(frozen=True)
class Detection:
    """Scores of one class, counts pooled over all cases; each in [0, 1] or NaN.

    recall: found of the reference objects, NaN where there is none.  precision: found of the predicted, 0 where all are missed.
    f1 = tp / (tp + fp / 2 + fn / 2), Kirillov's recognition quality.  segmentation_quality: mean IoU of the found, NaN where none is.
    panoptic_quality: sum of those IoUs / (tp + fp / 2 + fn / 2) (Kirillov et al. 2019, eq. 1), 0 where none is found.
    All are NaN where no image holds or predicts an object.
    """

    recall: float
    precision: float
    f1: float
    segmentation_quality: float
    panoptic_quality: float
    n_reference: int
    n_predicted: int
    n_matched: int


@dataclass
class DetectionTally:
    """Matches of many cases by class. Only counts and IoUs are kept; the scores do not depend on the order of the cases."""

    _matches: dict[str, list[Matches]] = field(default_factory=dict)

    def add(self, name: str, matches: Matches) -> None:
        """Count one case of the class `name`; a case without an object counts nothing, but names the class."""
        self._matches.setdefault(name, []).append(matches)

    def result(self) -> dict[str, Detection]:
        """The scores of every class that was added."""
        return {name: detection_of(_pooled(each)) for name, each in self._matches.items()}


def _pooled(each: list[Matches]) -> Matches:
    ious = tuple(value for one in each for value in one.ious)
    return Matches(sum(one.tp for one in each), sum(one.fp for one in each), sum(one.fn for one in each), ious)


def detection_of(matches: Matches) -> Detection:
    """The scores of pooled matches.

    >>> detection_of(Matches(tp=1, fp=1, fn=0, ious=(0.75,))).panoptic_quality
    0.5
    """
    tp, fp, fn, quality = matches.tp, matches.fp, matches.fn, math.fsum(matches.ious)  # fsum: the same in any order
    weight = tp + fp / 2 + fn / 2
    return Detection(
        recall=tp / (tp + fn) if tp + fn else math.nan,
        precision=(tp / (tp + fp) if tp + fp else 0.0) if weight else math.nan,
        f1=tp / weight if weight else math.nan,
        segmentation_quality=quality / tp if tp else math.nan,
        panoptic_quality=quality / weight if weight else math.nan,
        n_reference=tp + fn,
        n_predicted=tp + fp,
        n_matched=tp,
    )


# --- average precision


@dataclass
class AveragePrecision:
    """COCO's average precision over images, by pycocotools, of objects that have a score. Only run-length codes are kept.

    All objects of an image enter, where COCO takes the 100 with the largest scores.
    """

    _images: dict[str, Size] = field(default_factory=dict)
    _references: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    _predictions: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)

    def add(
        self, image_id: str, name: str, reference_ids_HW: np.ndarray, predicted_ids_HW: np.ndarray, scores: Sequence[float] | np.ndarray
    ) -> None:
        """Take in one class of one image, once. scores: one a predicted object, by rising id; the larger the surer."""
        assert reference_ids_HW.ndim == 2, f"average precision is of images (H, W), not {reference_ids_HW.shape}"
        assert reference_ids_HW.shape == predicted_ids_HW.shape, (reference_ids_HW.shape, predicted_ids_HW.shape)
        size, key = Size(*reference_ids_HW.shape), (image_id, name)
        assert key not in self._references and self._images.setdefault(image_id, size) == size, f"{key} comes twice, or in two sizes"
        predictions = _annotations(predicted_ids_HW, size)
        assert len(scores) == len(predictions) and np.isfinite(scores).all(), f"{len(scores)} scores for {len(predictions)} objects"
        self._references[key] = _annotations(reference_ids_HW, size)
        self._predictions[key] = [entry | {"score": float(score)} for entry, score in zip(predictions, scores, strict=True)]

    def result(self) -> dict[str, dict[str, float]]:
        """class -> mask_ap, box_ap (mean over the IoU thresholds 0.50, 0.55 .. 0.95) and mask_ap50, box_ap50 (at 0.50), in [0, 1].

        NaN where no image holds an object of the class, COCO's -1; 0 where objects are there and none is predicted.
        """
        names = sorted({name for _, name in self._references})
        if not names:
            return {}
        with redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            sets = self._coco(self._references, names), self._coco(self._predictions, names)
            most = max(1, *(len(each) for each in self._predictions.values()))
            masks, boxes = (_precision(*sets, kind, most) for kind in ("segm", "bbox"))
        return {
            name: {"mask_ap": _ap(mask), "mask_ap50": _ap(mask[:1]), "box_ap": _ap(box), "box_ap50": _ap(box[:1])}
            for name, mask, box in zip(names, np.moveaxis(masks, -1, 0), np.moveaxis(boxes, -1, 0), strict=True)
        }

    def _coco(self, objects: dict[tuple[str, str], list[dict[str, Any]]], names: list[str]) -> COCO:
        """pycocotools' index. Images are numbered by name, so that the order of `add` does not decide between equal scores."""
        numbers = {image_id: number for number, image_id in enumerate(sorted(self._images), 1)}
        entries = [
            entry | {"image_id": numbers[image_id], "category_id": names.index(name)}
            for (image_id, name), each in objects.items()
            for entry in each
        ]
        coco = COCO()
        coco.dataset = {
            "images": [{"id": numbers[each], "height": size.height_px, "width": size.width_px} for each, size in self._images.items()],
            "categories": [{"id": place, "name": name} for place, name in enumerate(names)],
            "annotations": [entry | {"id": number} for number, entry in enumerate(entries, 1)],  # 0 means unmatched there
        }
        coco.createIndex()
        return coco


def _annotations(ids_HW: np.ndarray, size: Size) -> list[dict[str, Any]]:
    """COCO's entry of each object, by rising id: run-length code, area in px, box (left, top, width, height) in px."""
    found = [(number, where) for number, where in enumerate(ndimage.find_objects(ids_HW), 1) if where is not None]
    return [_annotation(ids_HW[where] == number, where[0].start, where[1].start, size) for number, where in found]


def _annotation(patch_HW: np.ndarray, top_px: int, left_px: int, size: Size) -> dict[str, Any]:
    height, width = patch_HW.shape
    code = {"size": list(size), "counts": encode_patch(patch_HW, top_px, left_px, size)}
    return {"segmentation": code, "area": int(patch_HW.sum()), "bbox": [left_px, top_px, width, height], "iscrowd": 0}


def _precision(references: COCO, predictions: COCO, kind: str, most: int) -> np.ndarray:
    """COCOeval's precision (10 IoU thresholds, 101 recalls, classes), -1 for a class without references."""
    evaluation = COCOeval(references, predictions, kind)
    evaluation.params.maxDets = [most]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, math.inf]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., 0, 0]


def _ap(precision_TR: np.ndarray) -> float:
    return math.nan if (precision_TR < 0).any() else float(precision_TR.mean())
