"""Sources -> everything that is published of them: estimates, tests, captions. No file is written here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medseg.errors import ConfigError
from medseg.publishing.compared import Compared, check_known, compare_sources
from medseg.publishing.estimated import MEAN, Average, Cell, Share, cells, shares
from medseg.publishing.sources import Source, read_sources
from medseg.publishing.table import Table, by_average, tests_sentence
from medseg.report.tables import printed
from medseg.statistics.intervals import DEFAULT, FEWEST_GROUPS, METHODS, REPLICATES, Method

OVERLAP = ("iou", "recall", "precision")  # of the headline and the tests; Dice is IoU on another scale and would be tested twice
METHOD_NAMES: dict[Method, str] = {"bootstrap_t": "bootstrap-t", "bca": "BCa bootstrap", "percentile": "percentile bootstrap"}
_AVERAGED: dict[Average, str] = {
    "per_image": "scores of each image, averaged",
    "pooled": "ratios of pixels summed over all images",
    "per_group": "scores of each group, averaged",
}


@dataclass(frozen=True)
class Published:
    """What a report shows. cells: of every score.  shown: the scores of the tables for people.  tests: against the first source."""

    sources: Sequence[Source]
    cells: Sequence[Cell]
    shown: Sequence[str]
    tests: Sequence[Compared]
    shares: Sequence[Share]
    method: Method
    margin: float | None

    @cached_property
    def tables(self) -> dict[Average, Table]:
        """By average, in the order in which they are shown."""
        return by_average([cell for cell in self.cells if cell.metric in self.shown], self.tests)


def publish(
    texts: Sequence[str],
    split: str = "test",
    metrics: Sequence[str] | None = None,
    method: str = DEFAULT,
    margin: float | None = None,
    scratch: Path | None = None,
) -> Published:
    """Read the sources and estimate everything. metrics: those of the tables, all of the headline where not given.  scratch: a folder for
    copies of what is named `mlflow:EXPERIMENT`, there until the report is written.

    Raises RunError for what holds no scores or cannot be compared, ConfigError for scores that are not there.
    """
    if margin is not None and not 0 < margin < math.inf:
        raise ConfigError(
            "--margin",
            f"must be above 0, got {margin:g}",
            "the loss that would not matter, in units of the score: --margin 0.02",
        )
    if method not in METHODS:
        raise ConfigError("--interval", f"{method!r} is not among {', '.join(METHODS)}", f"leave it out for {DEFAULT}")
    sources = read_sources(texts, split, scratch)
    there = [metric for metric in sources[0].metrics if all(metric in source.metrics for source in sources)]
    shown = _shown(there, metrics)
    tests = compare_sources(sources, list(metrics or OVERLAP), method=method) if len(sources) > 1 else []  # refuses what cannot be compared
    found = [cell for source in sources for cell in cells(source, there, method=method, beside=sources)]
    return Published(sources, found, shown, tests, [share for source in sources for share in shares(source)], method, margin)


def _shown(there: Sequence[str], metrics: Sequence[str] | None) -> list[str]:
    """Those of the tables for people: the headline scores, and the first HD95 and NSD; table.csv has all."""
    if metrics:
        return check_known("--metric", metrics, there)
    firsts = [next((metric for metric in printed(there) if metric.startswith(kind)), "") for kind in ("hd95_", "nsd_")]
    return [metric for metric in (*OVERLAP, "dice", *firsts) if metric in there]


def title(sources: Sequence[Source]) -> str:
    """Data set, networks and part."""
    datasets = {str(source.facts["dataset"]) for source in sources if source.facts.get("dataset")}
    part = sources[0].facts.get("split")
    front = f"{', '.join(sorted(datasets))} / " if datasets else ""
    return f"{front}{', '.join(source.label for source in sources)}{f': {part}' if part else ''}"


def caption(published: Published, table: Table, second: str = "second best in italics") -> str:
    """What stands below the number, written from the runs. second: how the second best is marked."""
    first = published.sources[0]
    text = f"{title(published.sources)}. {first.n_cases} images of {len(first.groups)} groups"
    text += f", {_AVERAGED[table.average]}, with 95 % intervals over groups ({METHOD_NAMES[published.method]}, {REPLICATES:,} replicates)"
    text += "; n: images in which the score is defined, of all images. "
    if any(math.isnan(cell.estimate.low) for cell in table.cells):
        text += f"No interval: undefined, of fewer than {FEWEST_GROUPS} groups, or all groups but one are alike. "
    if any(cell.estimate.method not in (None, published.method) for cell in table.cells):
        text += f"{METHOD_NAMES['bca']} where a few groups decide (the method column of table.csv). "
    if left_out := _left_out_of_means(first, table):
        text += f"Means of classes are without {', '.join(left_out)}, which is undefined somewhere. "
    if len(published.sources) > 1:
        text += f"Best in bold, {second}, by the figures printed; distances only where they are of equally many images. "
    if several := [f"{source.label}: {len(source.seeds)}" for source in published.sources if len(source.seeds) > 1]:
        text += f"Means over seeds ({', '.join(several)}); intervals and tests are for other patients, not for other seeds. "
    return (text + tests_sentence([test for test in published.tests if test.average == table.average])).strip()


def _left_out_of_means(source: Source, table: Table) -> list[str]:
    """Classes that some mean over classes of the table lacks."""
    means = [cell.names for cell in table.cells if cell.name == MEAN]
    return [name for name in source.classes if any(name not in names for names in means)]


def provenance(source: Source) -> str:
    """Where a line comes from: runs, seeds, commits, digests, and how often the test rows were scored."""
    facts = source.facts
    parts = [
        f"{source.label}: " + (", ".join(f"run `{run}`" for run in facts["run"]) if facts.get("run") else "predictions from elsewhere")
    ]
    if source.seeds != [-1]:
        parts.append(f"seed {', '.join(map(str, source.seeds))}")
    if facts.get("commit"):
        parts.append(f"commit {', '.join(dict.fromkeys(facts['commit']))}")
    if facts.get("run"):
        parts.append(f"manifest {str(facts['manifest_sha256'])[:12]}, split {str(facts['split_sha256'])[:12]}")
        parts.append(f"prediction: {source.protocol.test_time}; checkpoint {source.protocol.checkpoint}")
    if (times := facts.get("test_scorings")) is not None:
        parts.append(f"test rows scored {times} time(s) so far, by these runs and others")
    return "; ".join(parts) + "."
