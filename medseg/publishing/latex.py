"""Tables as LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.publishing.estimated import Cell
from medseg.publishing.table import Table, defined, score_title, with_interval

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "†": r"$^{\dagger}$", "–": "--", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "−": "$-$",
}  # fmt: skip


UNDERLINED = "second best underlined"
_TO_FIT = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"  # a table that is wider than the page is made smaller


def tex(text: str) -> str:
    """Any text as LaTeX prints it.

    >>> tex("set_1 & 5 %")
    'set\\\\_1 \\\\& 5 \\\\%'
    """
    return "".join(_TEX.get(letter, letter) for letter in text)


def latex(table: Table, caption: str, label: str) -> str:
    """A table environment (booktabs, graphicx): the number, its interval in small print beside it, and n, in one column where the scores of
    each line share it, else in one for each score."""
    several, shared = len(table.labels) > 1, _shares_n(table)
    columns = "l" * (1 + several) + ("l" * len(table.metrics) + "r" if shared else "lr" * len(table.metrics))
    heads = [tex(score_title(metric)) + ("" if shared else " & $n$") for metric in table.metrics] + (["$n$"] if shared else [])
    lines = [
        r"\begin{table}[htbp]", r"\centering", rf"\caption{{{tex(caption)}}}", rf"\label{{{label}}}", r"\vspace{0.5em}", r"\small", _TO_FIT,
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(["Class", *(["Run"] if several else []), *heads]) + r" \\", r"\midrule",
    ]  # fmt: skip
    for number, name in enumerate(table.names):
        lines += [r"\addlinespace"] if several and number else []
        for place, source in enumerate(table.labels):
            row = [tex(name) if place == 0 else "", *([tex(source)] if several else [])]
            lines.append(" & ".join(row + _latex_cells(table, source, name, shared)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def _shares_n(table: Table) -> bool:
    lines = {(cell.label, cell.name) for cell in table.cells}
    return len({(cell.label, cell.name, cell.n_defined) for cell in table.cells}) == len(lines)


def _latex_cells(table: Table, source: str, name: str, shared: bool) -> list[str]:
    """The scores of a line, each with its n or all with one."""
    cells = [table.cell(source, name, metric) for metric in table.metrics]
    n = [tex(defined(cell.n_defined, cell.n_cases)) if cell else "--" for cell in cells]
    scores = [_latex_cell(table, cell) for cell in cells]
    if shared:
        return [*scores, next((one for one in n if one != "--"), "--")]
    return [f"{score} & {its_n}" for score, its_n in zip(scores, n, strict=True)]


def _latex_cell(table: Table, cell: Cell | None) -> str:
    if cell is None:
        return "--"
    text = with_interval(cell.estimate, table.digits(cell.metric))
    value, _, interval = text.partition(" ")
    value = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}", None: tex(value)}[table.mark(cell)]
    value += r"$^{\dagger}$" if table.differs(cell) else ""
    return value + (rf" {{\scriptsize {interval}}}" if interval else "")


def document(tables: Sequence[str]) -> str:
    """A whole document of the tables, to look at them; a paper takes them by \\input."""
    head = [
        r"\documentclass{article}",
        r"\usepackage[margin=1.5cm,landscape]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        r"\begin{document}",
    ]
    inputs = [rf"\input{{{name}}}" for name in tables]
    return "\n".join([*head, *inputs, r"\end{document}"]) + "\n"
