"""A written report -> the MLflow runs of what it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from medseg.config import read_config
from medseg.publishing.published import Published
from medseg.publishing.sources import Source
from medseg.runfolder import RunFolder


def send_report(published: Published, out: Path) -> None:
    """Send the report in the folder `out` to the MLflow run of each tracked run, or cross-validation, that it is of; what cannot be sent is
    one warning. A report of one run is the run's own: `report/` with its intervals as metrics; of several each has it as `report/<out>/`.
    """
    targets = [target for source in published.sources for target in _targets(source)]
    beside = out.resolve().name if len(targets) > 1 or len(published.sources) > 1 else ""
    for target in targets:
        if not target(out, beside=beside):
            return  # a server that is away is told once


Target = Callable[..., bool]  # (the report, beside=its name where the run is one of several) -> whether it has arrived


def _targets(source: Source) -> Iterator[Target]:
    """mlflow is imported here, where something is tracked."""
    if parent := _parent(source):
        if _is_tracked(next(iter(source.runs.values()))):
            from medseg.tracking import log_parent_report

            yield partial(log_parent_report, parent)
        return
    for part, path in source.runs.items():
        if _is_tracked(path):
            from medseg.tracking import log_report

            yield partial(log_report, RunFolder(path), split=source.folders[part].name)


def _parent(source: Source) -> Path | None:
    """The folder of a cross-validation; None of runs."""
    return next((path.parent for (_, fold), path in source.runs.items() if fold >= 0), None)


def _is_tracked(path: Path) -> bool:
    run = RunFolder(path)
    return run.mlflow_json.exists() and read_config(run.config_yaml).tracking.enabled
