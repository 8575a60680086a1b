"""Two folders of masks, of anybody's making -> pairs of files and the classes in them. A folder may be a pattern: 'DIR/*_1stHO.png'.

Names are compared without suffix and without what tools put behind them (`_seg`, `_trans`, `_pred`, ...): medseg and MMSegmentation write
`<stem>.png`, nnU-Net `<case>.nii.gz` beside a dataset.json, MONAI `<case>/<case>_seg.nii.gz`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from medseg.conventions.converting import look_up
from medseg.errors import AnnotationError, ImageError, LabelError, counted
from medseg.files import read_json, walk
from medseg.images import IMAGE_SUFFIXES, VOLUME_SUFFIXES, is_volume, read_raw_mask
from medseg.labels import LabelSet
from medseg.manifest.importers.common import Notes, label_set, listed
from medseg.manifest.importers.nnunet import nnunet_labels
from medseg.manifest.table import read_dataset
from medseg.volumes import read_header, read_label_volume, rounded, volume_stem

ENDINGS = re.compile(r"((^|_)(seg|segmentation|pred|prediction|trans|mask|labels?|gt|\d(st|nd)HO))+$", re.IGNORECASE)
MASK_SUFFIXES = (*(suffix for suffix in IMAGE_SUFFIXES if suffix not in (".jpg", ".jpeg")), ".npy", *VOLUME_SUFFIXES)
PAIRS = "pairs.csv"  # of a scored folder: which files were held against each other


@dataclass(frozen=True, slots=True)
class Pair:
    """One case: the two files (as text, a tenth of a Path's size), the name both have in common, and whose it is."""

    sample_id: str
    reference: str
    prediction: str
    group_id: str = ""


def pair_up(reference: Path, prediction: Path, skip: Path | None = None) -> list[Pair]:
    """The pairs of two folders, by name, sorted; what lies in the folder `skip` is passed by.

    AnnotationError where a file has no partner, or more than one.
    """
    references, predictions = _by_name(reference, skip), _by_name(prediction, skip)
    both = {name: references[name] for name in references if name in predictions}
    if not both:
        rule = f"no file here has the name of one in {reference}: the first are {_first(predictions)} and {_first(references)}"
        raise AnnotationError(prediction, rule, "give both files of a case one name, in folders of one layout")
    for place, names, others, what in (
        (reference, references, predictions, "no prediction"),
        (prediction, predictions, references, "no reference"),
    ):
        if alone := [names[name].name for name in names if name not in others]:
            rule = f"{counted(len(alone), 'case')} here have {what} ({listed(alone, 3)})"
            missing = "predict them too, an empty mask where nothing was found: a case left out counts against nobody"
            raise AnnotationError(place, rule, missing if what == "no prediction" else "take these files away, or add their references")
    return [Pair(name, str(both[name]), str(predictions[name])) for name in sorted(both)]


def _first(names: Mapping[str, Path]) -> str:
    return next(iter(names.values())).name


def _by_name(place: Path, skip: Path | None) -> dict[str, Path]:
    """Files by their name without endings; by their path below the folder where two would have one name."""
    folder, pattern = (place.parent, place.name) if "*" in place.name else (place, "*")
    if not folder.is_dir():
        rule = "is a file" if folder.is_file() else "there is no such folder"
        raise AnnotationError(place, rule, "name a folder, or files in one by a pattern: 'DIR/*_seg.png'")
    scored = [path.parent for path in folder.rglob("per_case.csv") if path.parent != folder]  # medseg's own, such as an earlier --out
    files = [path for path in walk(folder, MASK_SUFFIXES, [*scored, *([skip] if skip else [])]) if fnmatch(path.name, pattern)]
    if not files:
        raise AnnotationError(place, f"holds no mask ({', '.join(MASK_SUFFIXES)})", "name the folder of the masks")
    names = [_bare(path.name) or path.parent.name for path in files]  # mask.png of a folder a case
    if len(set(names)) < len(names):
        names = [(path.relative_to(folder).parent / _bare(path.name)).as_posix() for path in files]
    found: dict[str, Path] = {}
    for name, path in zip(names, files, strict=True):
        if name in found:
            rule = f"{found[name].name} and {path.name} are masks of one case, {name}"
            raise AnnotationError(place, rule, "take one of them away, or name the others by a pattern: 'DIR/*_seg.png'")
        found[name] = path
    return found


def _bare(name: str) -> str:
    """
    >>> _bare("case_1_seg.nii.gz"), _bare("a.b.png"), _bare("mask.png")
    ('case_1', 'a.b', '')
    """
    stem = volume_stem(name) if is_volume(Path(name)) else Path(name).stem
    return ENDINGS.sub("", stem)


@dataclass(frozen=True)
class Mask:
    """Class ids of one file, uint8 (H, W) or (X, Y, Z), and of a volume its affine and spacing along the axes in mm."""

    ids: np.ndarray
    affine: np.ndarray | None = None
    spacing_mm: tuple[float, ...] | None = None


def read_ids(path: Path, given: Mapping[int, int], labels: LabelSet | None = None) -> Mask:
    """Read a mask; `given` maps stored values to ids, the others stand for themselves. ImageError or LabelError for what cannot be."""
    if is_volume(path):
        header = read_header(path)
        mask = Mask(read_label_volume(path, given), header.affine, rounded(header.spacing_mm))
    else:
        values = _plain_values(path, given)
        ids = look_up(values, {value: value for value in range(256)} | dict(given)) if given else values
        mask = Mask(ids.astype(np.uint8, copy=False))
    if labels:
        labels.check(mask.ids, path, fix="say what it is: --map VALUE=CLASS, or name all --classes")
    return mask


def _plain_values(path: Path, given: Mapping[int, int]) -> np.ndarray:
    values = read_raw_mask(path).values
    if values.ndim == 3:
        fix = "import it by `medseg manifest import masks`, which reads colours, and score the masks that it writes"
        raise ImageError(path, "a mask must hold class ids in one channel, this one has colours", fix)
    if values.dtype != np.uint8 and values.size and not set(np.unique(values).tolist()) <= {*range(256), *given}:
        raise ImageError(path, f"mask values must lie in 0..255, found {values.min()}..{values.max()}", "map them with --map VALUE=CLASS")
    return values


def find_labels(dataset: Path | None, classes: Sequence[str] | None, folders: Iterable[Path]) -> LabelSet | None:
    """The classes, from a dataset.yaml, from their names, or from nnU-Net's dataset.json in or beside a folder; None where nobody says."""
    if dataset:
        return read_dataset(dataset).labels
    if classes:
        return label_set(list(classes), "--classes")
    found: dict[Path, LabelSet] = {}
    for path in dict.fromkeys(place / "dataset.json" for folder in folders for place in (folder, folder.parent)):
        content = read_json(path, AnnotationError, "export it again") if path.is_file() else None
        if isinstance(content, dict) and "labels" in content:
            found[path] = nnunet_labels(content["labels"], path, Notes())
    if len({labels.model_dump_json() for labels in found.values()}) > 1:
        first, second, *_ = found
        raise LabelError(second, f"its classes are not those of {first}", "say which they are: --classes or --dataset")
    return next(iter(found.values()), None)


MOST_ALONE = 10  # ids that predictions alone may hold; more are no classes


def labels_met(met: Iterable[int], in_references: Iterable[int]) -> LabelSet:
    """`class_1`, `class_2`, ... up to the largest id that any file holds; 255 is the ignore id.

    LabelError where there is none: whether 255 alone is white or ignored nobody can tell.
    """
    met = {*met}
    ids, alone = sorted(met - {0, 255}), met - {*in_references} - {0, 255}
    if len(alone) > MOST_ALONE:
        rule = f"the predictions hold {len(alone)} values that no reference has ({min(alone)} to {max(alone)}): probabilities?"
        raise LabelError("medseg score", rule, "write class ids, such as 1 where the probability is above one half, or name the --classes")
    if ids and len(ids) < ids[-1]:
        rule = f"the masks hold the values {', '.join(map(str, ids[:6]))}, which are no ids 1, 2, ... without a gap"
        raise LabelError("medseg score", rule, "name the classes, and what the values mean: --classes A,B --map 128=A --map 255=B")
    if not ids:
        rule = "the masks hold 0 and 255 alone, and 255 may be white or ignored" if 255 in met else "the masks hold background alone"
        raise LabelError("medseg score", rule, "name the class and what 255 is: --classes NAME --map 255=NAME")
    return label_set([f"class_{one}" for one in range(1, ids[-1] + 1)], "medseg score")
