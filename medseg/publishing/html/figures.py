"""The figures of a page, each as a data URI with the words that stand for it where it cannot be seen."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.labels import LabelSet
from medseg.publishing.curves import learning_curves, read_histories
from medseg.publishing.distributions import distribution_plot
from medseg.publishing.forest import forest_plot
from medseg.publishing.html.layers import data_uri
from medseg.publishing.published import OVERLAP, Published
from medseg.publishing.sources import Source
from medseg.report.confusion import confusion_figure
from medseg.runfolder import RunFolder

LARGEST_BYTES = 4_000_000  # of a figure that is there already
MOST_PANELS = 4
MOST_RUNS = 6  # with figures of their own: a page of fifty confusion matrices is not read
log = logging.getLogger(__name__)
_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of a page. text: what it shows, for who cannot see it, and as its caption."""

    uri: str
    text: str


def forest(published: Published) -> Figure:
    """Every score with its interval."""
    first = next(iter(published.tables.values()))
    return Figure(_drawn(lambda path: forest_plot(first, path)), "Scores with 95 % intervals over groups, as in the table.")


def distributions(published: Published) -> Figure:
    """The cases' own scores."""
    common = [metric for metric in published.shown if metric in OVERLAP or metric.startswith("hd95_")]
    metrics = common or list(published.shown[:MOST_PANELS])
    seeds = ", a mean over the seeds" if any(len(source.seeds) > 1 for source in published.sources) else ""
    text = f"Each image is a dot{seeds}; the box is the median with the quartiles. How many are undefined stands at the right."
    return Figure(_drawn(lambda path: distribution_plot(path, published.sources, metrics)), text)


def curves(published: Published) -> Figure | None:
    """Loss and val scores by epoch; None where no run folder has them."""
    histories = read_histories(published.sources)
    uri = _drawn(lambda path: learning_curves(path, histories))
    return Figure(uri, "Training loss and scores on val, a line a run; the epoch that was chosen is marked.") if uri else None


def confusions(sources: Sequence[Source]) -> list[Figure]:
    """One a source, of all its images together, over seeds and folds."""
    return [figure for source in sources[:MOST_RUNS] for figure in _confusion(source)]


def _confusion(source: Source) -> Iterator[Figure]:
    labels, confusion_KK = LabelSet.of(*source.classes), None
    try:
        matrices = [_summed(Path(folder) / "confusion.npy", labels.num_classes) for folder in source.folders.values()]
        confusion_KK = np.sum(matrices, axis=0)
    except (OSError, ValueError, EOFError) as cause:
        log.warning("%s: no confusion matrix: %s", source.label, cause)
    if confusion_KK is not None:
        of = f", of {len(source.seeds)} seeds together" if len(source.seeds) > 1 else ""
        yield Figure(_drawn(lambda path: confusion_figure(path, confusion_KK, labels), ".png"), f"{source.label}: confusion matrix{of}.")


def _summed(path: Path, classes: int) -> np.ndarray:
    """int64 (K, K) of all cases, of a file as large as need be: what is not needed is not read. ValueError for another kind of file."""
    matrices = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(matrices, np.memmap) or matrices.ndim != 3 or matrices.shape[1:] != (classes, classes) or matrices.dtype.kind != "i":
        raise ValueError(f"{path} does not hold matrices of {classes} classes")
    return np.asarray(matrices.sum(axis=0))


def calibrations(sources: Sequence[Source]) -> list[Figure]:
    """The reliability diagrams that the evaluations have drawn, of the first seed and fold."""
    return _stored(sources, lambda source: [Path(folder) / "reliability.png" for folder in source.folders.values()], "reliability diagram")


def samplings(sources: Sequence[Source]) -> list[Figure]:
    """What each training held, asked for and showed, of the first seed and fold."""
    return _stored(sources, lambda source: [RunFolder(run).sampling_png for run in source.runs.values()], "classes asked for and shown")


def _stored(sources: Sequence[Source], paths: Callable[[Source], list[Path]], what: str) -> list[Figure]:
    found = []
    for source in sources[:MOST_RUNS]:
        there = [path for path in paths(source) if path.is_file() and path.stat().st_size < LARGEST_BYTES]
        if there:
            of = f" ({len(there)} of them, the first)" if len(there) > 1 else ""
            found.append(Figure(data_uri(there[0].read_bytes(), "image/png"), f"{source.label}: {what}{of}."))
    return found


def _drawn(draw: Callable[[Path], bool | None], suffix: str = ".svg") -> str:
    """A figure as a data URI; '' where `draw` says that there is nothing to see."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"figure{suffix}"
        return "" if draw(path) is False else data_uri(path.read_bytes(), _KINDS[suffix])
