"""Predicted masks -> the polygons of `medseg annotate` -> masks again, by the labelme import's own painting: how much comes back.

python bench/check_annotate.py --model RUN|EXPORT|models:/NAME@ALIAS --data-root DIR [--tolerance 0.5] [--most N] [--record]

All photographs below DIR, or the first N. One JSON line; exit code 1 where a class of a photograph comes back with an IoU below 0.99.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from record import command_line, tell

from medseg.deploy.model import Model
from medseg.deployed import open_model
from medseg.images import IMAGE_SUFFIXES, read_image
from medseg.manifest.importers.labelme import checked_draft
from medseg.outlines import ious, labelme_content, outlines
from medseg.rasterise import draw
from medseg.types import Size

LEAST_IOU = 0.99


def one(model: Model, photograph: Path, tolerance_px: float) -> tuple[dict[int, float], int, int, float, set[float]]:
    """(IoU by class, regions, points, seconds for the outlines, tolerances used), through a labelme file's text and the import's checks."""
    image_HWC = read_image(photograph)
    mask_HW = model.segment(image_HWC).mask_HW
    began = time.process_time()
    found = outlines(mask_HW, model.labels, tolerance_px)
    seconds = time.process_time() - began
    size = Size(*mask_HW.shape)
    draft = checked_draft(json.loads(json.dumps(labelme_content(found, photograph.name, size))), photograph)
    assert draft is not None
    back_HW = draw([(shape, model.labels.id_of(shape.label)) for shape in draft.shapes], size)
    points = sum(len(outline.points) for outline in found)
    return ious(mask_HW, back_HW), len(found), points, seconds, {outline.tolerance_px for outline in found}


def photographs(root: Path) -> Iterator[Path]:
    """A set's photographs, without masks that lie beside them."""
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and "mask" not in str(path.relative_to(root)).lower():
            yield path


def main() -> int:
    """Print the smallest IoU of any class, and what the outlines take."""
    parser = command_line(__doc__, needs_photographs=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tolerance", type=float, default=0.5)
    parser.add_argument("--most", type=int)
    options = parser.parse_args()
    files = list(photographs(options.data_root))[: options.most]
    with open_model(options.model) as model:
        results = [one(model, path, options.tolerance) for path in files]
    smallest = [min(found.values(), default=1.0) for found, *_ in results]
    figures = {
        "photographs": len(files), "tolerance_px": options.tolerance, "smallest_class_iou": round(min(smallest), 5),
        "below_0.99": sum(value < LEAST_IOU for value in smallest), "regions_median": float(np.median([each[1] for each in results])),
        "points_median": float(np.median([each[2] for each in results])), "points_most": max(each[2] for each in results),
        "outline_ms_median": round(1000 * float(np.median([each[3] for each in results])), 1),
        "outline_ms_most": round(1000 * max(each[3] for each in results), 1),
        "with_a_finer_tolerance": sum(bool(each[4] - {options.tolerance}) for each in results),
    }  # fmt: skip
    command = f"python bench/check_annotate.py --model {Path(options.model).name} --data-root {options.data_root.name}"
    tell(f"Outlines of {options.data_root.name} as polygons and back", command, figures, options.record)
    return int(min(smallest) < LEAST_IOU)


if __name__ == "__main__":
    sys.exit(main())
