"""Tables and tests as Markdown, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.publishing.compared import Compared, DecidingCase
from medseg.publishing.estimated import Cell, Share, higher_is_better
from medseg.publishing.table import AVERAGE_TITLES, DAGGER, Table, defined, figures, score_title, with_interval
from medseg.report.tables import markdown_table
from medseg.statistics.components import Component
from medseg.statistics.intervals import Estimate


def markdown(table: Table) -> list[str]:
    """Lines of a Markdown table: best in bold, second in italics, a dagger where the first source differs."""
    several = len(table.labels) > 1
    heads = [f"{score_title(metric)}, {AVERAGE_TITLES[table.average]}" for metric in table.metrics]
    header = ["Class", *(["Run"] if several else []), *heads]
    body = []
    for name in table.names:
        for place, label in enumerate(table.labels):
            row = [name if place == 0 else "", *([label] if several else [])]
            body.append(row + [_markdown_cell(table, table.cell(label, name, metric)) for metric in table.metrics])
    return markdown_table(header, body, texts=1 + several)


def _markdown_cell(table: Table, cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = with_interval(cell.estimate, table.digits(cell.metric))
    value, space, rest = text.partition(" ")
    value = {"best": f"**{value}**", "second": f"*{value}*", None: value}[table.mark(cell)]
    return f"{value}{DAGGER if table.differs(cell) else ''}{space}{rest}, n = {defined(cell.n_defined, cell.n_cases)}"


def tests_markdown(tests: Sequence[Compared], margin: float | None = None) -> list[str]:
    """The tests for people."""
    return markdown_table(*tests_rows(tests, margin), texts=3)


def tests_rows(tests: Sequence[Compared], margin: float | None = None) -> tuple[list[str], list[list[str]]]:
    """(heads, a row a test), as text; nothing without tests."""
    if not tests:
        return [], []
    header = ["Run", "Class", "Score", "Value (n)", f"{tests[0].against} (n)", "Difference", "p, permutation", "p, Holm", "p, Wilcoxon"]
    header += ["d_z", "P(better)", "Groups (Wilcoxon, d_z)", *([f"Worse by less than {margin:g}"] if margin is not None else [])]
    return header, [_test_row(one, margin) for one in tests]


def _test_row(one: Compared, margin: float | None) -> list[str]:
    test = one.test
    width = test.difference.half_width
    digits = min(max(1 - math.floor(math.log10(width)), 2), 4) if width > 0 else 3
    row = [
        one.label, one.name, score_title(one.metric), f"{figures(test.second, digits)} ({defined(one.n_second, one.n_cases)})",
        f"{figures(test.first, digits)} ({defined(one.n_first, one.n_cases)})", with_interval(test.difference, digits),
        _p(test.p_permutation), _p(test.p_holm) + (DAGGER if one.significant else ""), _p(test.p_wilcoxon), figures(test.effect, 2),
        figures(test.p_better, 3), str(test.n_groups),
    ]  # fmt: skip
    if margin is not None:
        row.append({True: "yes", False: "not shown", None: "–"}[test.not_inferior(margin, higher_is_better(one.metric))])
    return row


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def deciding_markdown(tests: Sequence[Compared]) -> list[str]:
    """The cases that speak most for each side, and the group without which a difference would be another."""
    lines = []
    for one in tests:
        sides = [
            f"{side} {one.label}: {'; '.join(map(_case, cases))}"
            for side, cases in (("for", one.for_it), ("against", one.against_it))
            if cases
        ]
        if one.influential is not None:
            sides.append(f"without group `{one.influential}` the difference would be {figures(one.test.without, 4)}")
        lines.append(f"- {one.name}, {score_title(one.metric)}: {'. '.join(sides) if sides else 'no case differs'}.")
    return lines


def _case(case: DecidingCase) -> str:
    return f"`{case.sample_id}` {figures(case.first, 3)} → {figures(case.second, 3)}"


def shares_markdown(shares: Sequence[Share]) -> list[str]:
    """Missed and invented structures with Wilson intervals."""
    header, body = shares_rows(shares)
    return markdown_table(header, body, texts=len(header) - 2)


def shares_rows(shares: Sequence[Share]) -> tuple[list[str], list[list[str]]]:
    """(heads, a row a share), as text; with the seed where a run has several. Of what could not happen there is no row."""
    shares = [share for share in shares if share.n]
    several = len({(share.label, share.seed) for share in shares}) > len({share.label for share in shares})
    header = ["Run", *(["Seed"] if several else []), "Class", "What", "How many", "Share [95 %, Wilson]"]
    seed = [["–" if share.seed < 0 else str(share.seed)] if several else [] for share in shares]
    rest = [[share.name, share.kind, f"{share.successes}/{share.n} {share.unit}", share_text(share)] for share in shares]
    return header, [[share.label, *its_seed, *its] for share, its_seed, its in zip(shares, seed, rest, strict=True)]


def share_text(share: Share) -> str:
    """A share with its interval."""
    return with_interval(Estimate(share.successes / share.n, share.low, share.high, share.n), 3)


def seeds_markdown(cells: Sequence[Cell]) -> list[str]:
    """Where the variance of a score over groups and seeds comes from."""
    body = []
    for cell in cells:
        if parts := cell.components:
            spread = [_spread(part, parts.n_seeds) for part in (parts.group, parts.seed, parts.rest)]
            body.append([cell.label, cell.name, score_title(cell.metric), *spread, f"{parts.n_groups} x {parts.n_seeds}"])
    header = ["Run", "Class", "Score", "SD of groups", "SD of seeds", "SD of the rest", "Groups x seeds"]
    return markdown_table(header, body, texts=3) if body else []


def _spread(part: Component, seeds: int) -> str:
    """A standard deviation; of two seeds its interval says nothing but that two are too few."""
    return f"{part.deviation:.4f}" + (f" [{part.low:.4f}, {part.high:.4f}]" if seeds > 2 else "")
