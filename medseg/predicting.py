"""The verb predict as a short story: files of images or volumes in, masks on their own grids and pictures out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import ImageError, counted
from medseg.files import staged_files, walk
from medseg.parallel import in_threads
from medseg.segmenters.base import Segmenter
from medseg.segmenters.choose import segmenter_of
from medseg.watching import PathLike, Progress

log = logging.getLogger(__name__)
NAMED = 3  # images without anything, in the one line that says so


@dataclass(frozen=True, slots=True)
class Predicted:
    """What predict wrote for one image."""

    image: Path
    mask: Path
    overlay: Path | None = None


def predict(
    run: PathLike,
    paths: Sequence[PathLike],
    out: PathLike,
    checkpoint: str = "best",
    overwrite: bool = False,
    progress: Progress | None = None,
    score_threshold: float | None = None,
    weights: str | None = None,
    others: Sequence[PathLike] = (),
    overlays: bool = True,
) -> list[Predicted]:
    """Segment images or volumes (files or folders) on their own grid, below `out`: of a photograph `<stem>.png` (ids with a palette), of a
    volume `<stem>.nii.gz`, and `<stem>_overlay.jpg`.

    run: a run folder, a folder that `medseg export` wrote, models:/NAME@ALIAS, or zoo:NAME for a network with published weights (then
    weights name others of the same classes, such as hf:FOLDER).  score_threshold: in [0, 1], of the objects that are shown, if any.
    others: run folders, such as the other folds', whose probabilities are averaged with the run's.  A volume's stem is without nnU-Net's
    `_0000`.  overlays: whether there are pictures, too.
    All or nothing: files appear in `out` when the last image is done. Raises ImageError for an image that cannot be read, for two that
    would have one name, and for files that are there already (unless `overwrite`; the images themselves are never overwritten).
    """
    out, progress = Path(out), progress or Progress()
    segment = segmenter_of(run, checkpoint, score_threshold, weights, others)
    found = find_images([Path(path) for path in paths], out, segment)
    names = [
        (path, name.with_name(stem + segment.mask_suffix), name.with_name(f"{stem}_overlay.jpg") if overlays else None)
        for (path, name), stem in zip(found, stems_of(found, segment), strict=True)
    ]
    outputs = [Predicted(path, out / mask, out / overlay if overlay else None) for path, mask, overlay in names]
    _no_clash(outputs, overwrite)
    segment.load()
    with staged_files(out) as stage:
        jobs = [(path, stage / mask, stage / overlay if overlay else None) for path, mask, overlay in names]
        filled = list[bool]()
        for anything in in_threads(lambda job: segment.write(*job), jobs, segment.at_once):
            filled.append(anything)
            progress.on_case(len(filled), len(jobs))
    if empty := [str(one.image) for one, anything in zip(outputs, filled, strict=True) if not anything]:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        log.warning("nothing but background in %d of %s: %s%s", len(empty), counted(len(jobs), "image"), ", ".join(empty[:NAMED]), more)
    return outputs


def find_images(paths: Sequence[Path], out: Path, segment: Segmenter) -> list[tuple[Path, Path]]:
    """(path, name below the output folder) of each image; a folder is searched through without hidden files and `out`, its inner
    folders kept. Headers are read, so that a file that is no image is told before the first is predicted."""
    found: list[tuple[Path, Path]] = []
    for path in paths:
        inner = segment.firsts(walk(path, segment.suffixes, skip=[out])) if path.is_dir() else [path]
        if not inner:
            raise ImageError(path, f"holds no image ({', '.join(segment.suffixes)})", f"name a folder of {segment.what}")
        found += [(p, p.relative_to(path) if path.is_dir() else Path(p.name)) for p in inner]
    if not found:
        raise ImageError("PATH", "no image is named", f"name files or folders of {segment.what}")
    for path, _ in found:
        segment.check(path)
    return found


def stems_of(found: Sequence[tuple[Path, Path]], segment: Segmenter) -> list[str]:
    """What each image's results are called: its case, or its file's own stem where another image of the folder is of that case."""
    cases = [(name.parent, segment.case(path)) for path, name in found]
    taken = Counter(cases)
    return [segment.stem(path) if taken[case] > 1 else case[1] for (path, _), case in zip(found, cases, strict=True)]


def _no_clash(outputs: Sequence[Predicted], overwrite: bool) -> None:
    inputs = {item.image.resolve() for item in outputs}
    seen: dict[Path, Path] = {}
    for item in outputs:
        for path in (item.mask, item.overlay) if item.overlay else (item.mask,):
            if path in seen:
                raise ImageError(item.image, f"and {seen[path]} would both be written to {path}", "predict them into two folders")
            seen[path] = item.image
            if path.resolve() in inputs:
                raise ImageError(path, "is one of the images, and would be overwritten by a prediction", "choose another --out")
            if path.exists() and not overwrite:
                raise ImageError(path, "is there already", "choose another --out, or allow it with --overwrite")
