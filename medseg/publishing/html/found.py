"""Sample -> its image, its reference and each run's prediction, wherever they lie: by the manifest, or by the list of a scored folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medseg.config import read_config
from medseg.data.decode import read_original_image
from medseg.errors import MedsegError, RunError
from medseg.files import read_json
from medseg.grid import turn_of
from medseg.images import is_volume, read_mask
from medseg.labels import LabelSet
from medseg.manifest.schema import Manifest
from medseg.manifest.table import check_data_root, read_manifest
from medseg.pairing import PAIRS, read_ids
from medseg.publishing.sources import Source
from medseg.report.casefiles import CaseFiles, VolumeFiles, case_files
from medseg.report.planes import Seen
from medseg.runfolder import RunFolder
from medseg.types import Row
from medseg.volumes import read_header, read_label_volume

Photograph = np.ndarray | None  # uint8 (H, W, 3); None where there are masks alone
Masks = Callable[[str], np.ndarray | None]  # sample -> uint8 (H, W) or (X, Y, Z) class ids; None where they lie elsewhere


@dataclass(frozen=True)
class Truth:
    """What predictions are laid over, by sample. Both raise a MedsegError.

    reference: class ids, (H, W) or, of a volume, (X, Y, Z) as its file has them.  image: what it was drawn on; of a volume also how it
    lies, which masks alone have too.
    """

    labels: LabelSet
    reference: Callable[[str], np.ndarray]
    image: Callable[[str], Photograph | Seen]


def truth_of(sources: Sequence[Source], data_root: Path | None) -> Truth:
    """Of the manifest that the runs were scored on, where there is a run; else of the files that were scored."""
    if runs := [path for source in sources for path in source.runs.values()]:
        manifest = read_manifest(Path(read_config(RunFolder(runs[0]).config_yaml).data.manifest))
        if manifest.digest not in {source.facts.get("manifest_sha256") for source in sources}:
            raise MedsegError(manifest.folder, "the manifest has changed since the runs were scored", "evaluate them again")
        return _truth_of_manifest(manifest, check_data_root(data_root))
    pairs, labels = _Scored(next(iter(sources[0].folders.values())), data_root), LabelSet.of(*sources[0].classes)
    return Truth(labels, lambda sample: pairs.read(sample, "reference", labels), pairs.lies)


def _truth_of_manifest(manifest: Manifest, root: Path) -> Truth:
    rows = {row.sample_id: row for row in manifest}

    def found(sample: str) -> tuple[Row, CaseFiles]:
        if sample not in rows:
            raise MedsegError(sample, "is not in the manifest", "evaluate the run again")
        return rows[sample], case_files(manifest, root, is_volume(manifest.image_path(rows[sample], root)))

    def reference(sample: str) -> np.ndarray:
        row, files = found(sample)
        return files.reference(row)

    def image(sample: str) -> Photograph | Seen:
        row, files = found(sample)
        return files.seen(row) if isinstance(files, VolumeFiles) else read_original_image(manifest, row, root)

    return Truth(manifest.labels, reference, image)


def predictions_of(source: Source, labels: LabelSet, data_root: Path | None) -> Masks:
    """The predicted class ids, of the first seed."""
    folders = [Path(folder) for folder in source.folders.values()]
    if not source.runs and (folders[0] / PAIRS).is_file():
        pairs = _Scored(folders[0], data_root)
        return lambda sample: pairs.read(sample, "prediction", labels)

    def read(sample: str) -> np.ndarray | None:
        for suffix, reader in ((".png", read_mask), (".nii.gz", read_label_volume)):
            paths = [path for folder in folders if (path := folder / "predictions" / f"{sample}{suffix}").is_file()]
            if paths:
                return reader(paths[0])
        return None

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
        return read_ids(self._path(sample, which), self._given, labels).ids

    def lies(self, sample: str) -> Seen | None:
        """How a volume lies, without an image; None for a picture."""
        path = self._path(sample, "reference")
        if not is_volume(path):
            return None
        header = read_header(path)
        return Seen(None, turn_of(header.shape, header.affine, path), header.placed)

    def _path(self, sample: str, which: str) -> Path:
        if sample not in self._paths:
            raise RunError(sample, "is not among the masks that were scored", "score them again")
        path = Path(self._paths[sample][which]).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise RunError(path, f"is no file below the data root {self._root}", "give --data-root a folder that holds all the masks")
        return path
