"""What segments one file: a network with published weights or runs of one's own, on photographs or on volumes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg import images
from medseg.config.volume import VolumeConfig
from medseg.data.volume.decode import Box, Stored, prepared, volume_of
from medseg.engine.infer import Ensemble, predict_image
from medseg.engine.volumes import on_file_grid, windows_of
from medseg.errors import ConfigError, RunError
from medseg.grid import turn_of
from medseg.manifest.imagefiles import FIRST_CHANNEL, image_files
from medseg.postprocess import apply_steps
from medseg.pretrained import PREFIX, segmenter
from medseg.report.planes import Seen, montage
from medseg.run import LoadedRun, load_run
from medseg.runfolder import open_run
from medseg.training import PathLike, config_of_run
from medseg.types import Size
from medseg.volumes import read_header, read_volume, volume_stem, write_labels

LATER_CHANNEL = re.compile(r"_000[1-9]$|_00[1-9]\d$")


class Segmenter(ABC):
    """Of one kind of files. Nothing heavy is loaded before `load`, so that a file that cannot be read is told at once."""

    suffixes: tuple[str, ...] = images.IMAGE_SUFFIXES
    what = "photographs"

    def stem(self, name: Path) -> str:
        """A file's name without its suffix."""
        return name.stem

    def mask_name(self, name: Path) -> Path:
        """How the mask of an image is called."""
        return name.with_suffix(".png")

    def firsts(self, files: Sequence[Path]) -> list[Path]:
        """Of a folder's files those that name an image."""
        return list(files)

    def check(self, path: Path) -> None:
        """ImageError where the header cannot be read."""
        images.read_size(path)

    @abstractmethod
    def load(self) -> None:
        """The network."""

    @abstractmethod
    def write(self, path: Path, mask: Path, overlay: Path) -> None:
        """Both files of one image."""


@dataclass
class PublishedSegmenter(Segmenter):
    """A network with published weights."""

    name: str
    score_threshold: float | None
    weights: str | None

    def load(self) -> None:  # noqa: D102
        self._network = segmenter(self.name, self.score_threshold, self.weights)

    def write(self, path: Path, mask: Path, overlay: Path) -> None:  # noqa: D102
        image_HWC = images.read_image(path)
        mask_HW = self._network.mask(image_HWC)
        images.write_mask(mask, mask_HW, self._network.palette)
        images.write_image(overlay, self._network.overlay(image_HWC, mask_HW))


@dataclass
class RunSegmenter(Segmenter):
    """Runs of one's own, on photographs."""

    runs: tuple[Path, ...]
    checkpoint: str

    def load(self) -> None:  # noqa: D102
        self._loaded = _loaded(self.runs, self.checkpoint)
        self._model = Ensemble([one.model for one in self._loaded]).eval() if len(self._loaded) > 1 else self._loaded[0].model

    def write(self, path: Path, mask: Path, overlay: Path) -> None:  # noqa: D102
        first, image_HWC = self._loaded[0], images.read_image(path)
        mask_HW = predict_image(self._model, image_HWC, Size(*first.config.data.size_px), first.device, first.passes)
        mask_HW = apply_steps(mask_HW, first.steps, first.labels)
        images.write_mask(mask, mask_HW, first.labels.palette)
        images.write_image(overlay, images.blend(image_HWC, mask_HW, first.labels.palette))


@dataclass
class VolumeSegmenter(Segmenter):
    """Runs of one's own, on volumes."""

    runs: tuple[Path, ...]
    checkpoint: str
    config: VolumeConfig

    suffixes = images.VOLUME_SUFFIXES
    what = "volumes"

    def stem(self, name: Path) -> str:  # noqa: D102
        return volume_stem(name.name).removesuffix("_0000" if len(self.config.channels) > 1 else "")

    def mask_name(self, name: Path) -> Path:  # noqa: D102
        return name.with_name(f"{self.stem(name)}.nii.gz")

    def firsts(self, files: Sequence[Path]) -> list[Path]:  # noqa: D102
        several = len(self.config.channels) > 1
        return [path for path in files if not (several and LATER_CHANNEL.search(volume_stem(path.name)))]

    def check(self, path: Path) -> None:  # noqa: D102
        header = read_header(path)
        volume_of(path, header, header.channels * len(_files(path, len(self.config.channels))), self.config)

    def load(self) -> None:  # noqa: D102
        self._loaded = _loaded(self.runs, self.checkpoint)

    def write(self, path: Path, mask: Path, overlay: Path) -> None:  # noqa: D102
        first, arrays = self._loaded[0], [read_volume(file)[0] for file in _files(path, len(self.config.channels))]
        image_XYZC = np.concatenate([array.astype(np.float32).reshape(*array.shape[:3], -1) for array in arrays], axis=3)
        header = read_header(path)
        volume = volume_of(path, header, image_XYZC.shape[3], self.config)
        image_CDHW, box = prepared(volume.turn.forward(image_XYZC), volume, self.config, path)
        mask_XYZ = self._mask(image_CDHW, box, volume)
        write_labels(mask, mask_XYZ, header.affine)
        upright = turn_of(header.shape, header.affine, path)
        seen = Seen(upright.forward(image_XYZC)[0], upright, header.placed)
        picture, [layer] = montage(seen, [upright.forward(mask_XYZ)], first.labels.ignore_id)
        images.write_image(overlay, images.blend(picture, layer, first.labels.palette))

    def _mask(self, image_CDHW: np.ndarray, box: Box, volume: Stored) -> np.ndarray:
        first = self._loaded[0]
        passes, models = first.passes, [one.model for one in self._loaded]
        assert passes.window is not None
        axes = passes.axes if passes.mirror else ()
        windows = windows_of(self.config, passes.window, passes.overlap, axes, first.labels, first.config.infer.batch_size)
        found = on_file_grid(models, image_CDHW, box, volume, windows, first.device)
        return apply_steps(found.mask_XYZ, first.steps, first.labels)


def _files(path: Path, channels: int) -> tuple[Path, ...]:
    """The files of a volume: one, or one a channel, as nnU-Net names them, where the run has several."""
    return image_files(path, channels) if channels > 1 and re.search(FIRST_CHANNEL, path.as_posix()) else (path,)


def _loaded(runs: Sequence[Path], checkpoint: str) -> list[LoadedRun]:
    """RunError where a run has not the classes and the grid of the first."""
    found = [load_run(run, checkpoint) for run in runs]
    for one in found[1:]:
        for what, of in _SHARED.items():
            if of(one) != of(found[0]):
                raise RunError(one.run.path, f"its {what} are not those of {found[0].run.path}", "average runs of one experiment")
    return found


_SHARED: dict[str, Callable[[LoadedRun], object]] = {
    "classes": lambda run: run.labels.names,
    "grid and intensities": lambda run: (run.config.data.size_px, run.config.data.volume),
    "windows": lambda run: run.config.sampling.patch_px,
}


def segmenter_of(
    run: PathLike, checkpoint: str, score_threshold: float | None, weights: str | None, others: Sequence[PathLike]
) -> Segmenter:
    """By run folders or by zoo:NAME; ConfigError for what belongs to the other."""
    if str(run).startswith(PREFIX):
        for option, given, why in (("--checkpoint", checkpoint != "best", "has no checkpoints"), ("--with", bool(others), "is no run")):
            if given:
                raise ConfigError(option, f"{run} {why}", "leave it out")
        return PublishedSegmenter(str(run).removeprefix(PREFIX), score_threshold, weights)
    for option, value, whose in (
        ("--score-threshold", score_threshold, "model.score_threshold"),
        ("--weights", weights, "its own weights"),
    ):
        if value is not None:
            raise ConfigError(option, "is of networks named zoo:NAME", f"leave it out: a run has {whose}")
    runs = (Path(run), *(Path(other) for other in others))
    volume = config_of_run(open_run(runs[0])).data.volume
    return VolumeSegmenter(runs, checkpoint, volume) if volume else RunSegmenter(runs, checkpoint)
