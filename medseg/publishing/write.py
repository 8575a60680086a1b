"""The verb report: sources in, a folder of tables out, written whole or not at all.

table.csv, table.md, table.tex (and table_pooled.tex), table_preview.tex, forest.png, forest.pdf, cases.csv, and of two sources or more
tests.csv. Every cell is made of cases.csv alone, by the rows of its run and class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medseg.errors import ConfigError
from medseg.files import staged_folder, write_text
from medseg.publishing.compared import Compared, compare_sources
from medseg.publishing.csvs import cells_csv, tests_csv
from medseg.publishing.estimated import Average, Cell, Share, cells, shares
from medseg.publishing.forest import forest_plot
from medseg.publishing.latex import document, latex
from medseg.publishing.markdown import deciding_markdown, markdown, seeds_markdown, shares_markdown, tests_markdown
from medseg.publishing.sources import Source, check_alike, read_sources
from medseg.publishing.table import Table, by_average, tests_sentence
from medseg.report.tables import blank_nan, printed
from medseg.statistics.intervals import DEFAULT, FEWEST_GROUPS, METHODS, REPLICATES, Method

LEVEL = 0.95
WRITTEN = (
    "table.csv",
    "table.md",
    "table.tex",
    "table_pooled.tex",
    "table_preview.tex",
    "cases.csv",
    "tests.csv",
    "forest.png",
    "forest.pdf",
)
OVERLAP = ("iou", "recall", "precision")  # of the headline and the tests; Dice is IoU on another scale and would be tested twice
METHOD_NAMES: dict[Method, str] = {"bootstrap_t": "bootstrap-t", "bca": "BCa bootstrap", "percentile": "percentile bootstrap"}


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

    @property
    def tables(self) -> dict[Average, Table]:
        """By average, in the order in which they are shown."""
        return by_average([cell for cell in self.cells if cell.metric in self.shown], self.tests)


def publish(
    texts: Sequence[str], split: str = "test", metrics: Sequence[str] | None = None, method: str = DEFAULT, margin: float | None = None
) -> Published:
    """Read the sources and estimate everything. metrics: those of the tables, all of the headline where not given.

    Raises RunError for what holds no scores or cannot be compared, ConfigError for scores that are not there.
    """
    if margin is not None and not margin > 0:
        raise ConfigError(
            "--margin", f"must be above 0, got {margin:g}", "the loss that would not matter, in units of the score: --margin 0.02"
        )
    if method not in METHODS:
        raise ConfigError("--interval", f"{method!r} is not among {', '.join(METHODS)}", f"leave it out for {DEFAULT}")
    sources = read_sources(texts, split)
    check_alike(sources)
    there = [metric for metric in sources[0].metrics if all(metric in source.metrics for source in sources)]
    shown = _shown(there, metrics)
    found = [cell for source in sources for cell in cells(source, there, method=method)]
    tests = compare_sources(sources, list(metrics or OVERLAP)) if len(sources) > 1 else []
    return Published(sources, found, shown, tests, [share for source in sources for share in shares(source)], method, margin)


def _shown(there: Sequence[str], metrics: Sequence[str] | None) -> list[str]:
    """Those of the tables for people: the headline scores, and the first HD95 and NSD; table.csv has all."""
    for metric in metrics or ():
        if metric not in there:
            raise ConfigError("--metric", f"{metric!r} is not among {', '.join(there)}", "take one that all of the runs have")
    firsts = [next((metric for metric in printed(there) if metric.startswith(kind)), "") for kind in ("hd95_", "nsd_")]
    return list(metrics or [metric for metric in (*OVERLAP, "dice", *firsts) if metric in there])


def write_report(out: Path, published: Published) -> None:
    """Write the folder `out`; an earlier report is replaced, anything else refused."""
    if out.exists() and (not out.is_dir() or any(path.name not in WRITTEN and path.stem != "table_preview" for path in out.iterdir())):
        raise ConfigError("--out", f"{out} is there and is no earlier report, and would be replaced", "name another folder")
    with staged_folder(out) as folder:
        write_text(folder / "cases.csv", cases_csv(published.sources))
        write_text(folder / "table.csv", cells_csv(published.cells, published.method, LEVEL))
        write_text(folder / "table.md", page(published))
        names = []
        for average, table in published.tables.items():
            name = "table" if average == "per_image" else f"table_{average}"
            write_text(folder / f"{name}.tex", latex(table, caption(published, table), f"tab:{name}"))
            names.append(name)
        write_text(folder / "table_preview.tex", document(names))
        first = next(iter(published.tables.values()))
        forest_plot(folder / "forest.png", first)
        forest_plot(folder / "forest.pdf", first)
        if published.tests:
            write_text(folder / "tests.csv", tests_csv(published.tests, published.margin))


def page(published: Published) -> str:
    """table.md: the tables with everything a reader needs to judge them below."""
    lines = [f"# {title(published.sources)}", ""]
    for table in published.tables.values():
        lines += [*markdown(table), ""]
    lines += [*shares_markdown(published.shares), ""]
    if published.tests:
        lines += [f"Against {published.sources[0].label}, mean over images:", "", *tests_markdown(published.tests, published.margin), ""]
        lines += ["What decides:", "", *deciding_markdown(published.tests), ""]
    if seeds := seeds_markdown([cell for cell in published.cells if cell.average == "per_image"]):
        lines += ["Standard deviations of the groups' own scores, split by where they come from:", "", *seeds, ""]
    lines += [caption(published, next(iter(published.tables.values()))), "", published.sources[0].protocol.sentence(), ""]
    return "\n".join([*lines, *(f"- {note}" for source in published.sources for note in provenance(source))]) + "\n"


def title(sources: Sequence[Source]) -> str:
    """Data set, networks and part."""
    datasets = {str(source.facts["dataset"]) for source in sources if source.facts.get("dataset")}
    part = sources[0].facts.get("split")
    front = f"{', '.join(sorted(datasets))} / " if datasets else ""
    return f"{front}{', '.join(source.label for source in sources)}{f': {part}' if part else ''}"


def caption(published: Published, table: Table) -> str:
    """What stands below the number, written from the runs."""
    first = published.sources[0]
    images, groups = first.cases["sample_id"].nunique(), first.cases["group_id"].nunique()
    text = f"{title(published.sources)}. {images} images of {groups} groups"
    text += f", {_AVERAGED[table.average]}, with 95 % intervals over groups ({METHOD_NAMES[published.method]}, {REPLICATES:,} replicates)"
    text += "; n: images in which the score is defined, of all images. "
    if any(cell.estimate.low != cell.estimate.low for cell in table.cells):
        text += f"No interval: undefined, or of fewer than {FEWEST_GROUPS} groups. "
    if len(published.sources) > 1:
        text += "Best in bold, second best marked, by the figures printed. "
    if len(first.seeds) > 1:
        text += f"Means over {len(first.seeds)} seeds; the intervals are for other patients, not for other seeds. "
    return (text + tests_sentence([test for test in published.tests if test.average == table.average])).strip()


_AVERAGED: dict[Average, str] = {
    "per_image": "scores of each image, averaged",
    "pooled": "ratios of pixels summed over all images",
    "per_group": "scores of each group, averaged",
}


def provenance(source: Source) -> list[str]:
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
    return ["; ".join(parts) + "."]


def cases_csv(sources: Sequence[Source]) -> str:
    """One long table: a row per run, seed, image and class; with the folder that holds its prediction, as it was named."""
    frames = []
    for source in sources:
        frame = source.cases.copy()
        frame.insert(0, "run", source.label)
        frame["folder"] = [str(_folder(source, seed, fold)) for seed, fold in zip(frame["seed"], frame["fold"], strict=True)]
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    for column in table.columns:
        if table[column].dtype == float:
            whole = column in ("tp", "fp", "fn", "tn")
            table[column] = [_count(value) if whole else blank_nan(value) for value in table[column].tolist()]
    return str(table.to_csv(index=False, lineterminator="\n"))


def _folder(source: Source, seed: int, fold: int) -> Path | str:
    return source.folders.get((seed, fold), "")


def _count(value: float) -> str:
    return str(int(value))
