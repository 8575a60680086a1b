"""COCO's average precision of objects that have a score, by pycocotools."""

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
from scipy import ndimage

from medseg.instances import FoundObject, Patch, encode_patch
from medseg.metrics.detection import Objects
from medseg.types import Size


@dataclass(frozen=True, slots=True)
class ScoredObjects:
    """COCO's entries of the objects of one class in one image: a few bytes an object, so that they can be kept and sent."""

    size: Size
    references: list[dict[str, Any]]
    predictions: list[dict[str, Any]]


@dataclass
class AveragePrecision:
    """COCO's average precision over images, by pycocotools, of objects that have a score. Only run-length codes are kept.

    All objects of an image enter, where COCO takes the 100 with the largest scores.
    """

    _images: dict[str, Size] = field(default_factory=dict)
    _references: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    _predictions: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, image_id: str, name: str, found: ScoredObjects) -> None:
        """Take in one class of one image, once."""
        key = (image_id, name)
        same_size = self._images.setdefault(image_id, found.size) == found.size
        assert key not in self._references and same_size, f"{key} comes twice, or in two sizes"
        self._references[key], self._predictions[key] = found.references, found.predictions

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


def scored_objects(objects: Objects, scores: Sequence[float] | np.ndarray) -> ScoredObjects:
    """The codes of the objects of an image (H, W). scores: one a predicted object, by rising id; the larger the surer."""
    shape = objects.reference.shape
    assert len(shape) == 2, f"average precision is of images (H, W), not {shape}"
    assert shape == objects.prediction.shape, (shape, objects.prediction.shape)
    size = Size(*shape)
    predictions = _annotations(objects.prediction, size)
    assert len(scores) == len(predictions) and np.isfinite(scores).all(), f"{len(scores)} scores for {len(predictions)} objects"
    scored = [entry | {"score": float(score)} for entry, score in zip(predictions, scores, strict=True)]
    return ScoredObjects(size, _annotations(objects.reference, size), scored)


def found_objects(reference_HW: np.ndarray, found: Sequence[FoundObject]) -> ScoredObjects:
    """The codes of the objects of an image: the reference's by id, and those a network has found, whole, also where they overlap.

    Boxes are the network's own, not those of its masks, as in COCO's evaluation of detections.
    """
    assert reference_HW.ndim == 2, f"average precision is of images (H, W), not {reference_HW.shape}"
    size = Size(*reference_HW.shape)
    return ScoredObjects(size, _annotations(reference_HW, size), [_prediction(each, size) for each in found])


def _prediction(found: FoundObject, size: Size) -> dict[str, Any]:
    assert math.isfinite(found.score), found.score
    left, top, right, bottom = found.box
    return _annotation(found.patch, size) | {"bbox": [left, top, right - left, bottom - top], "score": found.score}


def _annotations(ids_HW: np.ndarray, size: Size) -> list[dict[str, Any]]:
    """COCO's entry of each object, by rising id: run-length code, area in px, box (left, top, width, height) in px."""
    found = [(number, where) for number, where in enumerate(ndimage.find_objects(ids_HW), 1) if where is not None]
    return [_annotation(Patch(ids_HW[where] == number, where[0].start, where[1].start), size) for number, where in found]


def _annotation(patch: Patch, size: Size) -> dict[str, Any]:
    height, width = patch.pixels_HW.shape
    code = {"size": list(size), "counts": encode_patch(*patch, size)}
    box = [patch.left_px, patch.top_px, width, height]
    return {"segmentation": code, "area": int(patch.pixels_HW.sum()), "bbox": box, "iscrowd": 0}


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
