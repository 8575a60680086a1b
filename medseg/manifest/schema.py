"""The manifest's record: a validated table of images beside the description of its data set.

A folder `data_manifests/<dataset>/v1/` holds manifest.csv (one row an image), dataset.yaml and splits/<name>.csv. No pixel is
read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from medseg.errors import ManifestError
from medseg.files import resolve_under
from medseg.labels import LabelSet
from medseg.types import Row, Size, Spacing

COLUMNS = (
    "sample_id", "group_id", "image", "mask", "height_px", "width_px", "depth_px",
    "spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "image_sha256", "mask_sha256",
)  # fmt: skip
OPTIONAL_COLUMNS = ("study_id", "channels", "instances", "instances_sha256", "mask_as_stored", "history")  # as its annotations give
FLAG_PREFIX = "flag_"  # flag_<name>: true, false or blank, as the annotator ticked it
PIXEL_PREFIX = "px_"
SPACINGS = ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm")
SPLIT_COLUMNS = ("sample_id", "group_id", "split", "fold")
SPLIT_NAMES = ("train", "val", "test")
ROWS_AT_ONCE = 1024
# A sample id becomes the name of output files: parts between '/', none empty, '.' or '..', no drive letter, backslash or control
# sign. Written as what is wrong, without look-ahead, so that Arrow's linear-time engine can run it over a whole column.
BAD_SAMPLE_ID = r"[\\\x00-\x1f]|^[A-Za-z]:|(?:^|/)\.{0,2}(?:/|$)"
_STEP = r"(?:drawn|corrected|checked|predicted:[\w.+-]{1,200})"
HISTORY = rf"{_STEP}(?:>{_STEP})*"  # of a mask, oldest step first; see `manifest.history`


class Dataset(BaseModel):
    """dataset.yaml: the data set's name, labels and provenance.

    masks_under, images_under: whether such paths hang on the data root (the user's own files) or on the manifest's folder (derived
    ones, with the instances). A user's file is known by the SHA-256 of its bytes; a derived one by that of its decoded array
    (`files.sha256_array`), because another version of zlib or nibabel may write the same array in other bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    labels: LabelSet
    images_under: Literal["data_root", "manifest"] = "data_root"
    masks_under: Literal["data_root", "manifest"] = "data_root"
    licence: str = "not stated"
    citation: str = ""
    source: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Manifest:
    """A manifest read from `folder`.

    frame: sorted by sample_id; its index keeps the rows' order in the file (0 = line 2).  digest: the SHA-256 of manifest.csv and
    dataset.yaml, one after the other (`cat manifest.csv dataset.yaml | sha256sum`).
    """

    folder: Path
    frame: pd.DataFrame
    dataset: Dataset
    digest: str

    @property
    def labels(self) -> LabelSet:
        """The data set's classes."""
        return self.dataset.labels

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[Row]:
        return self.rows(range(len(self)))

    def row(self, position: int) -> Row:
        """The record of the row at `position` (0 = first)."""
        return next(self.rows([position]))

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        """The records of the rows at these positions. A cell of a frame is dear one at a time, so many rows are taken at once."""
        for start in range(0, len(positions), ROWS_AT_ONCE):
            some = self.frame.iloc[list(positions[start : start + ROWS_AT_ONCE])]
            yield from (self._row(record) for record in some.to_dict("records"))

    def _row(self, record: dict[Any, Any]) -> Row:
        labelled = pd.notna(record["mask"])
        return Row(
            sample_id=str(record["sample_id"]),
            group_id=str(record["group_id"]),
            image=str(record["image"]),
            mask=str(record["mask"]) if labelled else None,
            size=Size(int(record["height_px"]), int(record["width_px"])),
            image_sha256=str(record["image_sha256"]),
            mask_sha256=str(record["mask_sha256"]) if labelled else None,
            px={name: int(record[PIXEL_PREFIX + name]) for name in self.labels.names} if labelled else {},
            depth_px=int(record["depth_px"]) if pd.notna(record["depth_px"]) else None,
            spacing_mm=_spacing(record),
            channels=int(record["channels"]) if pd.notna(record.get("channels")) else 1,
            instances=str(record["instances"]) if pd.notna(record.get("instances")) else None,
            instances_sha256=str(record["instances_sha256"]) if pd.notna(record.get("instances_sha256")) else None,
            mask_as_stored=record.get("mask_as_stored") == "true",
        )

    def where(self, row: Row) -> str:
        """How errors name a row: file, line as an editor counts it, and sample."""
        return f"{self.folder / 'manifest.csv'} row {self._lines[row.sample_id]} ({row.sample_id})"

    @cached_property
    def _lines(self) -> dict[str, int]:
        """sample id -> line of manifest.csv; kept, because `where` is asked for every row of a set."""
        return {str(sample): int(order) + 2 for sample, order in zip(self.frame["sample_id"], self.frame.index, strict=True)}

    def image_path(self, row: Row, data_root: Path) -> Path:
        """The image's path, under the data root or the manifest's folder as dataset.yaml says; ManifestError where it leaves it."""
        root = data_root if self.dataset.images_under == "data_root" else self.folder
        return resolve_under(root, row.image, ManifestError, self.where(row))

    def mask_path(self, row: Row, data_root: Path) -> Path:
        """The mask's path, under the data root or the manifest's folder as dataset.yaml says; the row must be labelled."""
        assert row.mask is not None, row.sample_id
        root = data_root if self.dataset.masks_under == "data_root" else self.folder
        return resolve_under(root, row.mask, ManifestError, self.where(row))


def _spacing(record: dict[Any, Any]) -> Spacing:
    x, y, z = (float(record[f"spacing_{axis}_mm"]) if pd.notna(record[f"spacing_{axis}_mm"]) else None for axis in "xyz")
    return x, y, z


def columns_of(found: Sequence[str], labels: LabelSet) -> list[str]:
    """The columns of a manifest in their one order: the fixed ones, of the optional ones and flags those `found`, px_<class>."""
    flags = sorted(name for name in found if name.startswith(FLAG_PREFIX))
    return [*COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in found), *flags, *(PIXEL_PREFIX + name for name in labels.names)]


@dataclass(frozen=True)
class Split:
    """splits/<name>.csv: which sample is train, val or test. `digest` is the file's SHA-256, `facts` what its first line states.

    With folds, the rows outside test are train and have a fold 0 ... K - 1; `fold(i)` makes one of them val.
    """

    name: str
    path: Path
    frame: pd.DataFrame
    digest: str
    facts: Mapping[str, str] = field(default_factory=dict)
    chosen: int | None = None  # the fold that is val

    @property
    def folds(self) -> int:
        """K, 0 for a split without folds."""
        return self.frame.loc[self.frame["fold"] != "", "fold"].nunique() if "fold" in self.frame.columns else 0

    def fold(self, index: int) -> Split:
        """The split with the rows of fold `index` as val and those of the others as train; test stays. ManifestError where none is."""
        if not 0 <= index < self.folds:
            there = f"it has the folds 0 to {self.folds - 1}" if self.folds else "it has no folds"
            raise ManifestError(self.path, f"there is no fold {index}: {there}", "name one of them, or make a split with --folds")
        chosen = self.frame["fold"] == str(index)
        return replace(self, chosen=index, frame=self.frame.assign(split=self.frame["split"].mask(chosen, "val")))

    def ids(self, part: str) -> list[str]:
        """The sample ids of one part, in file order; ManifestError where there is none."""
        ids = self.frame.loc[self.frame["split"] == part, "sample_id"].tolist()
        if not ids:
            parts = ", ".join(f"{name}: {n}" for name, n in self.frame["split"].value_counts().items())
            fix = "name a part it has, or make the split again with more images"
            if part == "val" and self.folds:
                fix = f"its val part is one of its folds 0 to {self.folds - 1}: choose one"
            raise ManifestError(self.path, f"no image in the split {part!r} (it has {parts or 'no rows'})", fix)
        return ids
