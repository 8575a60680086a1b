"""An exported network on photographs. Needs no torch, so that it starts in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from medseg import images
from medseg.deploy.description import is_export
from medseg.deploy.model import open_export
from medseg.errors import ImageError
from medseg.parallel import processors
from medseg.segmenters.base import Segmenter
from medseg.watching import PathLike

REGISTERED = "models:/"


@dataclass
class ExportSegmenter(Segmenter):
    """What `medseg export` wrote, or a registered version of it; every processor has an image of its own. Needs no torch."""

    where: str
    at_once = processors()

    def check(self, path: Path) -> None:
        """ImageError where the header cannot be read, and for volumes, which no export is of."""
        if images.is_volume(path):
            raise ImageError(path, "is a volume, and exports are of photographs", "segment it by the run itself: medseg predict RUN")
        super().check(path)

    def load(self) -> None:  # noqa: D102
        with TemporaryDirectory(prefix="medseg-") as scratch:
            self._model = open_export(export_of(self.where, Path(scratch)), at_once=self.at_once)

    def write(self, path: Path, mask: Path, overlay: Path | None) -> bool:  # noqa: D102
        with images.one_at_a_time(images.read_size(path)):
            image_HWC, palette = images.read_image(path), self._model.description.palette
            mask_HW = self._model.segment(image_HWC).mask_HW
            images.write_mask(mask, mask_HW, palette)
            if overlay:
                images.write_image(overlay, images.blend(image_HWC, mask_HW, palette))
            return bool(mask_HW.any())


def is_exported(where: PathLike) -> bool:
    """Whether it names an export: its folder, or a registered version."""
    return str(where).startswith(REGISTERED) or is_export(Path(where))


def export_of(where: str, scratch: Path) -> Path:
    """The export's folder; a registered version is fetched below `scratch`."""
    if not where.startswith(REGISTERED):
        return Path(where)
    from medseg.tracking.registry import fetch_model  # mlflow takes seconds to import

    return fetch_model(where, scratch)
