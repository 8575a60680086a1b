"""The files of a case: image, reference, prediction, on the image's own grid. Photographs and volumes differ here, and nowhere above.

Legend: H W a photograph, X Y Z a volume as its file has it, D H W the volume turned to RAS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg import images
from medseg.data.decode import read_original_image, read_original_mask
from medseg.data.volume.decode import read_image, read_mask
from medseg.grid import turn_of
from medseg.manifest.schema import Manifest
from medseg.report.planes import Seen, montage
from medseg.types import Row
from medseg.volumes import read_header, read_label_volume, write_labels

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class CaseFiles(ABC):
    """Of a manifest's rows. A prediction lies below an evaluation's folder."""

    manifest: Manifest
    root: Path

    @abstractmethod
    def reference(self, row: Row) -> np.ndarray:
        """uint8 class ids or the ignore id."""

    @abstractmethod
    def spacing_mm(self, row: Row) -> tuple[float, ...] | None:
        """In the order of the reference's axes; None where it is not known."""

    @abstractmethod
    def path(self, folder: Path, sample_id: str) -> Path:
        """Where a prediction lies."""

    @abstractmethod
    def write(self, folder: Path, row: Row, mask: np.ndarray) -> None:
        """Keep a prediction."""

    @abstractmethod
    def read(self, folder: Path, row: Row) -> np.ndarray:
        """A prediction."""

    @abstractmethod
    def pictures(self, row: Row, masks: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """uint8 (H, W, 3) and for each mask uint8 (H, W): the photograph, or three planes of the volume, to look at.

        The reference stands first of the masks: the planes are chosen by it.
        """


class PhotographFiles(CaseFiles):
    """PNG masks with a palette."""

    def reference(self, row: Row) -> np.ndarray:  # noqa: D102
        return read_original_mask(self.manifest, row, self.root)

    def spacing_mm(self, row: Row) -> tuple[float, ...] | None:  # noqa: D102
        x_mm, y_mm, _ = row.spacing_mm
        return (y_mm, x_mm) if x_mm and y_mm else None

    def path(self, folder: Path, sample_id: str) -> Path:  # noqa: D102
        return folder / PREDICTIONS / f"{sample_id}.png"

    def write(self, folder: Path, row: Row, mask: np.ndarray) -> None:  # noqa: D102
        images.write_mask(self.path(folder, row.sample_id), mask, self.manifest.labels.palette)

    def read(self, folder: Path, row: Row) -> np.ndarray:  # noqa: D102
        return images.read_mask(self.path(folder, row.sample_id))

    def pictures(self, row: Row, masks: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:  # noqa: D102
        return read_original_image(self.manifest, row, self.root), list(masks)


class VolumeFiles(CaseFiles):
    """NIfTI label volumes on the image's own grid, its affine kept."""

    def reference(self, row: Row) -> np.ndarray:  # noqa: D102
        return read_mask(self.manifest, row, self.root)

    def spacing_mm(self, row: Row) -> tuple[float, ...] | None:  # noqa: D102
        x_mm, y_mm, z_mm = row.spacing_mm
        return (x_mm, y_mm, z_mm) if x_mm and y_mm and z_mm else None

    def path(self, folder: Path, sample_id: str) -> Path:  # noqa: D102
        return folder / PREDICTIONS / f"{sample_id}.nii.gz"

    def write(self, folder: Path, row: Row, mask: np.ndarray) -> None:  # noqa: D102
        path = self.path(folder, row.sample_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = self.manifest.image_path(row, self.root)
        write_labels(path, mask, read_header(image).affine, like=image)

    def read(self, folder: Path, row: Row) -> np.ndarray:  # noqa: D102
        return read_label_volume(self.path(folder, row.sample_id))

    def seen(self, row: Row) -> Seen:
        """The image's first channel, turned to RAS."""
        path = self.manifest.image_path(row, self.root)
        header = read_header(path)
        turn = turn_of(header.shape, header.affine, path)
        return Seen(turn.forward(read_image(self.manifest, row, self.root))[0], turn, header.placed)

    def pictures(self, row: Row, masks: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:  # noqa: D102
        seen = self.seen(row)
        return montage(seen, [seen.turn.forward(mask) for mask in masks], self.manifest.labels.ignore_id)


def case_files(manifest: Manifest, root: Path, volumes: bool) -> CaseFiles:
    """Of photographs or of volumes."""
    return (VolumeFiles if volumes else PhotographFiles)(manifest, root)
