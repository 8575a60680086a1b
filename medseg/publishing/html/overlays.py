"""Cases -> pictures that a page carries: the photograph, and over it the reference's outline and each run's prediction as layers."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from medseg.config import read_config
from medseg.data.decode import read_original_image, read_original_mask
from medseg.errors import MedsegError, RunError
from medseg.files import read_json
from medseg.images import encode_jpeg, is_volume, read_mask, resize_image, resize_mask
from medseg.labels import LabelSet
from medseg.manifest.schema import Manifest
from medseg.manifest.table import check_data_root, read_manifest
from medseg.pairing import PAIRS, read_ids
from medseg.publishing.sources import Source
from medseg.runfolder import RunFolder
from medseg.types import Row, Size

SIDE_PX = 640  # of a picture, its longer side
BUDGET_BYTES = 24_000_000  # of all pictures of a page: what a browser still opens at once
FILL, EDGE = 105, 255  # opacity of a prediction's inside, of 255, and of outlines
HALO = np.array([255, 255, 255], np.uint8)  # beside a reference's outline: it must be seen on its own class's colour


@dataclass(frozen=True, slots=True)
class Picture:
    """A case to look at. Sizes in pixels of the picture; photograph ('' where there is none) and layers are data URIs, a layer is
    transparent where it says nothing. layers: the runs by label."""

    sample_id: str
    width_px: int
    height_px: int
    photograph: str
    reference: str
    layers: Mapping[str, str]


@dataclass(frozen=True)
class Album:
    """The pictures by sample, and in a sentence which are missing and why ('' where none is)."""

    pictures: Mapping[str, Picture]
    missing: str = ""
    labels: LabelSet | None = None


def draw_album(sources: Sequence[Source], samples: Sequence[str], data_root: Path | None) -> Album:
    """Pictures of `samples`, in this order while BUDGET_BYTES last. Needs the manifest where the runs' configuration names it, or, of
    masks from elsewhere, their files where they were scored; these alone have no photographs."""
    pictures, size, problems = dict[str, Picture](), 0, list[str]()
    try:
        truth = _truth_of(sources, data_root)
        predictions = {source.label: _predictions_of(source, truth.labels, data_root) for source in sources}
    except MedsegError as cause:
        return Album({}, f"No pictures: {cause}")
    for sample in samples:
        try:
            reference = truth.reference(sample)  # first: it refuses names that are no sample's
            picture = _picture(truth, sample, reference, _masks(predictions, sample, problems))
        except (MedsegError, OSError) as cause:
            problems.append(str(cause))
            continue
        size += sum(map(len, (picture.photograph, picture.reference, *picture.layers.values())))
        if size > BUDGET_BYTES:
            problems.append(f"{len(samples) - len(pictures)} further cases: more pictures would make a page that no browser opens")
            break
        pictures[sample] = picture
    return Album(pictures, f"Not shown: {'; '.join(problems[:5])}{' ...' if len(problems) > 5 else ''}." if problems else "", truth.labels)


def _masks(predictions: Mapping[str, Callable[[str], np.ndarray | None]], sample: str, problems: list[str]) -> dict[str, np.ndarray]:
    """Each run's prediction; of one that cannot be read the others are shown all the same."""
    found = {}
    for label, read in predictions.items():
        try:
            mask = read(sample)
        except (MedsegError, OSError) as cause:
            problems.append(f"{label}: {cause}")
            continue
        if mask is not None:
            found[label] = mask
    return found


@dataclass(frozen=True)
class _Truth:
    """Where photographs (None where there is none) and references come from, by sample; both raise a MedsegError."""

    labels: LabelSet
    photograph: Callable[[str], np.ndarray | None]
    reference: Callable[[str], np.ndarray]


def _truth_of(sources: Sequence[Source], data_root: Path | None) -> _Truth:
    """Of the manifest that the runs were scored on, where there is a run; else of the files that were scored."""
    if runs := [path for source in sources for path in source.runs.values()]:
        manifest = read_manifest(Path(read_config(RunFolder(runs[0]).config_yaml).data.manifest))
        if manifest.digest not in {source.facts.get("manifest_sha256") for source in sources}:
            raise MedsegError(manifest.folder, "the manifest has changed since the runs were scored", "evaluate them again")
        return _truth_of_manifest(manifest, check_data_root(data_root))
    pairs, labels = _Scored(next(iter(sources[0].folders.values())), data_root), LabelSet.of(*sources[0].classes)
    return _Truth(labels, lambda sample: None, lambda sample: pairs.read(sample, "reference", labels))


def _truth_of_manifest(manifest: Manifest, root: Path) -> _Truth:
    rows = {row.sample_id: row for row in manifest}

    def row_of(sample: str) -> Row:
        if sample not in rows or is_volume(manifest.image_path(rows[sample], root)):
            raise MedsegError(sample, "is a volume" if sample in rows else "is not in the manifest", "open it in a viewer of volumes")
        return rows[sample]

    return _Truth(
        manifest.labels,
        lambda sample: read_original_image(manifest, row_of(sample), root),
        lambda sample: read_original_mask(manifest, row_of(sample), root),
    )


def _predictions_of(source: Source, labels: LabelSet, data_root: Path | None) -> Callable[[str], np.ndarray | None]:
    """Sample -> the predicted class ids, of the first seed; None where they lie elsewhere."""
    folders = [Path(folder) for folder in source.folders.values()]
    if not source.runs and (folders[0] / PAIRS).is_file():
        pairs = _Scored(folders[0], data_root)
        return lambda sample: pairs.read(sample, "prediction", labels)

    def read(sample: str) -> np.ndarray | None:
        paths = [path for folder in folders if (path := folder / "predictions" / f"{sample}.png").is_file()]
        return read_mask(paths[0]) if paths else None

    return read


class _Scored:
    """The files of a scored folder (pairs.csv), where they lie below the data root: a folder that somebody else has made may name any."""

    def __init__(self, folder: Path, data_root: Path | None) -> None:
        self._root = check_data_root(data_root).resolve()
        fix = "score the masks again, or give run folders"
        try:
            content = read_json(folder / "scores.json", RunError, fix)
            self._given = {int(value): int(ours) for value, ours in dict(content.get("stored_as") or {}).items()}
            table = pd.read_csv(folder / PAIRS, dtype=str, keep_default_na=False)
            self._paths = table.set_index("sample_id")[["reference", "prediction"]].to_dict("index")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise RunError(folder / PAIRS, f"does not say where the masks lie ({type(cause).__name__})", fix) from None

    def read(self, sample: str, which: str, labels: LabelSet) -> np.ndarray:
        """Class ids of the reference or the prediction."""
        if sample not in self._paths:
            raise RunError(sample, "is not among the masks that were scored", "score them again")
        path = Path(self._paths[sample][which]).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise RunError(path, f"is no file below the data root {self._root}", "give --data-root a folder that holds all the masks")
        if is_volume(path):
            raise RunError(sample, "is a volume", "open it in a viewer of volumes")
        return read_ids(path, self._given, labels).ids


def _picture(truth: _Truth, sample: str, reference: np.ndarray, masks: Mapping[str, np.ndarray]) -> Picture:
    photograph = truth.photograph(sample)
    scale = min(1.0, SIDE_PX / max(reference.shape))
    size = Size(*(max(1, round(side * scale)) for side in reference.shape))
    outline, layers = _layer(_outlined(_small(reference, size, truth.labels), truth.labels)), {}
    for label, mask in masks.items():
        if mask.shape == reference.shape:
            layers[label] = _layer(_filled(_small(mask, size, truth.labels), truth.labels))
    jpeg = b"" if photograph is None else encode_jpeg(np.ascontiguousarray(resize_image(photograph, size)))
    return Picture(sample, size.width_px, size.height_px, data_uri(jpeg, "image/jpeg") if jpeg else "", outline, layers)


def _small(mask_HW: np.ndarray, size: Size, labels: LabelSet) -> np.ndarray:
    """Class ids at the picture's size, what is ignored as background."""
    return resize_mask(np.where(labels.valid(mask_HW), mask_HW, 0).astype(np.uint8), size)


def _outlined(mask_HW: np.ndarray, labels: LabelSet) -> np.ndarray:
    """uint8 (H, W, 4): each class's outline in its colour, with a white line around it."""
    edge = (mask_HW > 0) & (mask_HW != ndimage.grey_erosion(mask_HW, 3, mode="nearest"))
    edge |= (mask_HW > 0) & (mask_HW != ndimage.grey_dilation(mask_HW, 3, mode="nearest"))
    halo = ndimage.binary_dilation(edge, np.ones((3, 3))) & ~edge
    layer = np.zeros((*mask_HW.shape, 4), np.uint8)
    layer[halo] = [*HALO, EDGE]
    layer[edge] = np.concatenate([labels.palette[mask_HW[edge]], np.full((int(edge.sum()), 1), EDGE)], axis=1)
    return layer


def _filled(mask_HW: np.ndarray, labels: LabelSet) -> np.ndarray:
    """uint8 (H, W, 4): each class's inside in its colour, half transparent."""
    alpha = np.where(mask_HW > 0, FILL, 0).astype(np.uint8)[..., None]
    return np.concatenate([np.where(mask_HW[..., None] > 0, labels.palette[mask_HW], 0).astype(np.uint8), alpha], axis=2)


def _layer(layer_HW4: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(layer_HW4).save(stream, "PNG")
    return data_uri(stream.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address that needs no file.

    >>> data_uri(b"<svg/>", "image/svg+xml")
    'data:image/svg+xml;base64,PHN2Zy8+'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
