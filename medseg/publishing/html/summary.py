"""What a supervisor asks first, in sentences: how good, where it fails, which is better, and what to be careful about."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from medseg.publishing.compared import Compared
from medseg.publishing.estimated import MEAN, Cell, Share
from medseg.publishing.published import Published
from medseg.publishing.sources import Source
from medseg.publishing.table import AVERAGE_TITLES, Table, defined, score_title, with_interval
from medseg.publishing.trained import Trained, read_trained, unlike
from medseg.statistics.intervals import FEWEST_GROUPS

FEW_GROUPS = 20  # below, the intervals' own coverage is known to fall short: bench/check_coverage.py


def findings(published: Published) -> list[str]:
    """How good each run is, its weakest class, its missed and invented structures, and what the tests say."""
    table = published.tables["per_image"]
    lines = [line for source in published.sources for line in _of_source(table, source, published.shares)]
    return [*lines, *_of_tests(table, published.tests)]


def _of_source(table: Table, source: Source, shares: Sequence[Share]) -> Iterator[str]:
    score = table.metrics[0]
    cells = [cell for cell in table.cells if cell.label == source.label and cell.metric == score]
    of_class = {cell.name: cell for cell in cells if not math.isnan(cell.estimate.value)}
    if not of_class:
        yield f"{source.label}: {score_title(score)} is defined for no class."
        return
    headline = of_class.get(MEAN) or next(iter(of_class.values()))
    text = f"{source.label}: {_said(table, headline)}"
    rest = [cell for name, cell in of_class.items() if name != MEAN]
    if len(rest) > 1:
        weakest = min(rest, key=lambda cell: cell.estimate.value)
        text += f". Weakest: {_said(table, weakest)}"
    yield f"{text}."
    mine = [share for share in shares if share.label == source.label]
    for kind in ("missed", "invented"):
        yield f"{source.label}: {_happened([share for share in mine if share.kind == kind and share.n], kind)}."


def _happened(shares: Sequence[Share], kind: str) -> str:
    """How often structures are missed or invented, the fewest and the most of the seeds."""
    if not shares:
        return f"nothing could be {kind}"
    told = []
    for name in dict.fromkeys(share.name for share in shares):
        of_seeds = [share for share in shares if share.name == name]
        fewest, most = (pick(share.successes for share in of_seeds) for pick in (min, max))
        if most:
            told.append(f"{name} in {fewest if fewest == most else f'{fewest} to {most}'} of {of_seeds[0].n} {of_seeds[0].unit}")
    return f"{kind}: {', '.join(told)}" if told else f"no structure is {kind}"


def _said(table: Table, cell: Cell) -> str:
    interval = with_interval(cell.estimate, table.digits(cell.metric))
    n = defined(cell.n_defined, cell.n_cases)
    what = f"{score_title(cell.metric)} averaged over classes" if cell.name == MEAN else f"{score_title(cell.metric)} of {cell.name}"
    return f"{what} {interval}, {AVERAGE_TITLES[cell.average]}, n = {n}"


def _of_tests(table: Table, tests: Sequence[Compared]) -> Iterator[str]:
    for label in dict.fromkeys(test.label for test in tests):
        mine = [test for test in tests if test.label == label]
        found = [f"{one.name} {score_title(one.metric)} ({_difference(table, one)})" for one in mine if one.significant]
        against = mine[0].against
        tested = sum(not math.isnan(one.test.p_permutation) for one in mine)
        if found:
            yield f"{label} differs from {against} in {len(found)} of {tested} tested scores, after adjustment: {', '.join(found)}."
        else:
            yield f"{label} differs from {against} in none of {tested} tested scores, after adjustment: no proof that they are equal."


def _difference(table: Table, one: Compared) -> str:
    """With a word where the runs' seeds differ as much: the test is of patients, and knows nothing of seeds."""
    cells = [table.cell(label, one.name, one.metric) for label in (one.label, one.against)]
    ends = [(min(cell.seeds), max(cell.seeds)) for cell in cells if cell]
    overlap = len(ends) == 2 and max(low for low, _ in ends) <= min(high for _, high in ends)
    return f"{one.test.difference.value:+.3f}{', within the spread of the seeds' if overlap else ''}"


def cautions(published: Published) -> list[str]:
    """What a reader must know before believing a number."""
    first = published.sources[0]
    groups = len(first.groups)
    lines = []
    if groups < FEWEST_GROUPS:
        lines.append(f"{groups} group(s): too few for any interval.")
    elif groups < FEW_GROUPS:
        lines.append(f"{groups} groups: a 95 % interval of so few holds the truth in 89 to 93 of 100 studies, not in 95.")
    if groups == first.n_cases:
        lines.append("Every image is a group of its own: right if no two are of one patient, too narrow an interval otherwise.")
    rare = {cell.name: cell.n_defined[0] for cell in published.cells if cell.metric == "recall" and cell.average == "per_image"}
    if few := [f"{name} ({n})" for name, n in rare.items() if n < FEW_GROUPS and name != MEAN]:
        lines.append(f"In few references: {', '.join(few)} images.")
    if single := [source.label for source in published.sources if published.tests and source.runs and len(source.seeds) == 1]:
        lines.append(f"One training each: {', '.join(single)}. What another seed would change is in no interval and in no test.")
    if apart := unlike(_first_runs(published)):
        lines.append(f"Not trained alike, so a difference is not the network's alone: {'. '.join(apart)}.")
    if decided := _decided_by_few(published):
        lines.append(f"A few groups decide the intervals of {', '.join(decided)}: look at these groups.")
    told = {source.label: list(_of_run(source)) for source in published.sources}
    everywhere = [line for line in told[first.label] if all(line in each for each in told.values())]
    lines += [f"{line[0].upper()}{line[1:]}" for line in everywhere]
    return lines + [f"{label}: {line}" for label, each in told.items() for line in each if line not in everywhere]


def _first_runs(published: Published) -> dict[str, Trained]:
    """Of each source the first run, where its folder can be read."""
    runs = {source.label: read_trained(next(iter(source.runs.values()))) for source in published.sources if source.runs}
    return {label: run for label, run in runs.items() if run}


def _decided_by_few(published: Published) -> list[str]:
    """Lines and classes with an interval by another method than was asked for."""
    cells = [cell for table in published.tables.values() for cell in table.cells if cell.estimate.method not in (None, published.method)]
    return list(dict.fromkeys(f"{cell.label} {cell.name}" for cell in cells))


def _of_run(source: Source) -> Iterator[str]:
    facts = source.facts
    if (times := facts.get("test_scorings") or 0) > 1:
        yield f"the test rows have been scored {times} times by now; a choice made after such a look is no longer blind."
    if any("uncommitted" in commit for commit in facts.get("commit") or ()):
        yield "made by code with uncommitted changes."
    if facts.get("split") in ("train", "val"):
        yield f"these are images of {facts['split']}, which the training has seen or was chosen by."
