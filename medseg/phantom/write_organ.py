"""Write drawn abdomens in the layout of the Medical Segmentation Decathlon, as its users find their data.

Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022: imagesTr, labelsTr, dataset.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medseg.files import write_json
from medseg.labels import BACKGROUND
from medseg.parallel import in_order
from medseg.phantom.folder import STAMP, is_finished
from medseg.phantom.organ import ORGANS, draw_organs
from medseg.volumes import write_labels, write_volume

GENERATOR_VERSION = 1  # to be raised with every change of what `draw_organs` paints
DATASET_JSON = "dataset.json"
IMAGES, LABELS = "imagesTr", "labelsTr"


@dataclass(frozen=True, slots=True)
class OrganOrder:
    """What was asked for, and so what a folder holds; kept beside the volumes as STAMP."""

    seed: int
    count: int
    kind: str = "organ"
    generator_version: int = GENERATOR_VERSION

    def files(self) -> Iterator[str]:
        """The names of all files of a finished folder but the stamp."""
        yield DATASET_JSON
        for index in range(self.count):
            yield f"{IMAGES}/{file_name(index)}"
            yield f"{LABELS}/{file_name(index)}"


def file_name(index: int) -> str:
    """Of a volume, and of its labels.

    >>> file_name(7)
    'organ_007.nii.gz'
    """
    return f"organ_{index:03d}.nii.gz"


def write_organs(out: Path, count: int, seed: int = 0, jobs: int = 0, on_done: Callable[[int], None] | None = None) -> None:
    """Write `count` abdomens to `out` as imagesTr/organ_000.nii.gz, labelsTr/ and dataset.json; the bytes do not depend on `jobs`.

    jobs: processes, 0 for one a core. on_done: called with the number of volumes done so far. dataset.json comes last, so that no
    importer takes half a set. A finished folder of the same order is left as it is, an unfinished one is drawn again; raises
    MedsegError where `out` holds anything else.
    """
    order = OrganOrder(seed, count)
    if is_finished(out, asdict(order), order.files()):
        return
    write_json(out / STAMP, asdict(order))
    for done, _ in enumerate(in_order(partial(_write_one, out, seed), range(count), jobs), start=1):
        if on_done:
            on_done(done)
    write_json(out / DATASET_JSON, description(order))


def _write_one(out: Path, seed: int, index: int) -> None:
    abdomen = draw_organs(seed, index)
    write_volume(out / IMAGES / file_name(index), abdomen.image_XYZ, abdomen.affine)
    write_labels(out / LABELS / file_name(index), abdomen.mask_XYZ, abdomen.affine)


def description(order: OrganOrder) -> dict[str, Any]:
    """The content of dataset.json."""
    names = [file_name(index) for index in range(order.count)]
    return {
        "name": "organ_phantom",
        "description": "Synthetic. Abdomens drawn by medseg as fat-suppressed MR volumes; no person's image.",
        "reference": "medseg phantom --kind organ",
        "licence": "Apache-2.0",
        "release": f"generator {order.generator_version}, seed {order.seed}",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(number): name for number, name in enumerate((BACKGROUND, *ORGANS))},
        "numTraining": order.count,
        "numTest": 0,
        "training": [{"image": f"./{IMAGES}/{name}", "label": f"./{LABELS}/{name}"} for name in names],
        "test": [],
    }
