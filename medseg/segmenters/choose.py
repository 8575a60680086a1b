"""Whatever a user names -> what segments files by it. Torch is loaded only where a run or published weights are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.errors import ConfigError
from medseg.models.listed import PREFIX
from medseg.segmenters.base import Segmenter
from medseg.segmenters.exports import ExportSegmenter, is_exported
from medseg.watching import PathLike


def segmenter_of(
    run: PathLike, checkpoint: str, score_threshold: float | None, weights: str | None, others: Sequence[PathLike]
) -> Segmenter:
    """By run folders, an export, models:/NAME@ALIAS or zoo:NAME; ConfigError for what belongs to another of them."""
    published, exported = str(run).startswith(PREFIX), is_exported(run)
    of_run = (("--checkpoint", checkpoint != "best", "has no checkpoints"), ("--with", bool(others), "is no run"))
    for option, given, why in of_run if published or exported else ():
        if given:
            raise ConfigError(option, f"{run} {why}", "leave it out")
    if weights is not None and not published:
        raise ConfigError("--weights", "is of networks named zoo:NAME", "leave it out: a run has its own weights")
    if score_threshold is not None and exported:
        raise ConfigError("--score-threshold", f"{run} finds no objects", "leave it out")
    if exported:
        return ExportSegmenter(str(run))
    from medseg.segmenters.runs import PublishedSegmenter, of_runs

    if published:
        return PublishedSegmenter(str(run).removeprefix(PREFIX), score_threshold, weights)
    return of_runs([Path(run), *(Path(other) for other in others)], checkpoint, score_threshold)
