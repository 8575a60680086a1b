"""Runs of one's own, and networks with published weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg import images
from medseg.config.volume import VolumeConfig
from medseg.data.volume.decode import Box, Stored, check_grid, prepared, shared_header, stacked, volume_of
from medseg.engine.infer import Ensemble, predict_image
from medseg.engine.trouble import trouble_named
from medseg.engine.volumes import on_file_grid, windows_of
from medseg.errors import RunError
from medseg.grid import turn_of
from medseg.manifest.imagefiles import image_files
from medseg.postprocess import apply_steps
from medseg.pretrained import segmenter, with_threshold
from medseg.report.planes import Seen, montage
from medseg.run import LoadedRun, load_run
from medseg.runfolder import open_run
from medseg.segmenters.base import Segmenter
from medseg.training import config_of_run
from medseg.types import Size
from medseg.volumes import read_header, read_volume, rounded, volume_stem, write_labels

FIRST = "_0000"  # behind a case's name: nnU-Net's first channel


@dataclass
class PublishedSegmenter(Segmenter):
    """A network with published weights."""

    name: str
    score_threshold: float | None
    weights: str | None

    def load(self) -> None:  # noqa: D102
        self._network = segmenter(self.name, self.score_threshold, self.weights)

    def write(self, path: Path, mask: Path, overlay: Path | None) -> bool:  # noqa: D102
        image_HWC = images.read_image(path)
        mask_HW = self._network.mask(image_HWC)
        images.write_mask(mask, mask_HW, self._network.palette)
        if overlay:
            images.write_image(overlay, self._network.overlay(image_HWC, mask_HW))
        return self._network.background is None or bool((mask_HW != self._network.background).any())


@dataclass
class RunSegmenter(Segmenter):
    """Runs of one's own, on photographs."""

    runs: tuple[Path, ...]
    checkpoint: str
    score_threshold: float | None = None

    def load(self) -> None:  # noqa: D102
        self._loaded = _loaded(self.runs, self.checkpoint, self.score_threshold)
        self._model = Ensemble([one.model for one in self._loaded]).eval() if len(self._loaded) > 1 else self._loaded[0].model

    def write(self, path: Path, mask: Path, overlay: Path | None) -> bool:  # noqa: D102
        first, image_HWC = self._loaded[0], images.read_image(path)
        with trouble_named(first.config, first.device, "infer.batch_size", first.run.path):
            mask_HW = predict_image(self._model, image_HWC, Size(*first.config.data.size_px), first.device, first.passes)
        mask_HW = apply_steps(mask_HW, first.steps, first.labels)
        images.write_mask(mask, mask_HW, first.labels.palette)
        if overlay:
            images.write_image(overlay, images.blend(image_HWC, mask_HW, first.labels.palette))
        return bool(mask_HW.any())


@dataclass
class VolumeSegmenter(Segmenter):
    """Runs of one's own, on volumes."""

    runs: tuple[Path, ...]
    checkpoint: str
    config: VolumeConfig

    suffixes = images.VOLUME_SUFFIXES
    mask_suffix = ".nii.gz"
    what = "volumes"

    def stem(self, path: Path) -> str:  # noqa: D102
        return volume_stem(path.name)

    def case(self, path: Path) -> str:
        """As nnU-Net names a case's labels: without the first channel's `_0000`, unless `_0001` beside it is a volume of its own."""
        stem = self.stem(path)
        case = stem.removesuffix(FIRST)
        following = path.with_name(f"{case}_0001{path.name.removeprefix(stem)}")
        numbered = following.exists() and following not in self._files(path)
        return stem if numbered or not case else case

    def firsts(self, files: Sequence[Path]) -> list[Path]:
        """Those that are no later channel of another: a name alone cannot tell, for patients are numbered as channels are."""
        later = {channel for path in files for channel in self._files(path)[1:]}
        return [path for path in files if path not in later]

    def check(self, path: Path) -> None:  # noqa: D102
        check_grid(self._volume(path), self.config, path)

    def _files(self, path: Path) -> tuple[Path, ...]:
        """The files of a volume: one, or one a channel as nnU-Net names them, where the run has several and this file holds but one."""
        channels = len(self.config.channels)
        first = channels > 1 and self.stem(path).endswith(FIRST) and read_header(path).channels == 1
        return image_files(path, channels) if first else (path,)

    def _volume(self, path: Path) -> Stored:
        files = self._files(path)
        header = shared_header(files, path)
        return volume_of(path, header, header.channels * len(files), self.config)

    def load(self) -> None:  # noqa: D102
        self._loaded = _loaded(self.runs, self.checkpoint)

    def write(self, path: Path, mask: Path, overlay: Path | None) -> bool:  # noqa: D102
        volume = self._volume(path)
        image_XYZC = stacked([read_volume(file)[0] for file in self._files(path)])
        image_CDHW, box = prepared(volume.turn.forward(image_XYZC), volume, self.config, path)
        first = self._loaded[0]
        with trouble_named(first.config, first.device, "infer.batch_size", first.run.path):
            mask_XYZ = self._mask(image_CDHW, box, volume)
        write_labels(mask, mask_XYZ, volume.affine, like=path)
        if overlay:
            self._draw(overlay, image_XYZC, mask_XYZ, path)
        return bool(mask_XYZ.any())

    def _draw(self, overlay: Path, image_XYZC: np.ndarray, mask_XYZ: np.ndarray, path: Path) -> None:
        labels, header = self._loaded[0].labels, read_header(path)
        upright = turn_of(header.shape, header.affine, path)
        seen = Seen(upright.forward(image_XYZC)[0], upright, header.placed)
        picture, [layer] = montage(seen, [upright.forward(mask_XYZ)], labels.ignore_id)
        images.write_image(overlay, images.blend(picture, layer, labels.palette))

    def _mask(self, image_CDHW: np.ndarray, box: Box, volume: Stored) -> np.ndarray:
        first = self._loaded[0]
        passes, models = first.passes, [one.model for one in self._loaded]
        assert passes.window is not None
        axes = passes.axes if passes.mirror else ()
        windows = windows_of(self.config, passes.window, passes.overlap, axes, first.labels, first.config.infer.batch_size)
        found = on_file_grid(models, image_CDHW, box, volume, windows, first.device)
        spacing_mm = rounded(volume.turn.spacing_mm)  # as manifests state it, so that a size is the one of an evaluation
        return apply_steps(found.mask_XYZ, first.steps, first.labels, spacing_mm)


def _loaded(runs: Sequence[Path], checkpoint: str, score_threshold: float | None = None) -> list[LoadedRun]:
    """RunError where a run has not the classes and the grid of the first."""
    found = [load_run(run, checkpoint, score_threshold) for run in runs]
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


def of_runs(runs: Sequence[Path], checkpoint: str, score_threshold: float | None = None) -> Segmenter:
    """By run folders of one experiment: of photographs or of volumes, as the first says. score_threshold: in place of the runs' own."""
    config = config_of_run(open_run(runs[0]))
    with_threshold(config.model, score_threshold)  # refused before an image is opened
    volume = config.data.volume
    return VolumeSegmenter(tuple(runs), checkpoint, volume) if volume else RunSegmenter(tuple(runs), checkpoint, score_threshold)
