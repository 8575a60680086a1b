"""The verb report: sources in, a folder of tables out, written whole or not at all.

report.html, table.csv, table.md, table.tex (and table_pooled.tex), table_preview.tex, forest.png, forest.pdf, cases.csv, and of two sources
or more tests.csv. Every cell is made of cases.csv alone, by the rows of its run and class.
"""

from __future__ import annotations

from pathlib import Path

from medseg.errors import ConfigError
from medseg.files import staged_folder, write_text
from medseg.publishing.csvs import cases_csv, cells_csv, tests_csv
from medseg.publishing.forest import forest_plot
from medseg.publishing.html.page import write_html
from medseg.publishing.latex import UNDERLINED, document, latex
from medseg.publishing.markdown import deciding_markdown, markdown, seeds_markdown, shares_markdown, tests_markdown
from medseg.publishing.published import Published, caption, provenance, title

LEVEL = 0.95
WRITTEN = (
    "report.html",
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


def write_report(out: Path, published: Published, data_root: Path | None = None) -> str:
    """Write the folder `out`; an earlier report is replaced, anything else refused. data_root: where the photographs of the page lie.

    Returns in a sentence which pictures the page lacks and why, '' where none.
    """
    if out.exists() and (not out.is_dir() or any(path.name not in WRITTEN and path.stem != "table_preview" for path in out.iterdir())):
        raise ConfigError("--out", f"{out} is there and is no earlier report, and would be replaced", "name another folder")
    with staged_folder(out) as folder:
        write_text(folder / "cases.csv", cases_csv(published.sources))
        write_text(folder / "table.csv", cells_csv(published.cells, LEVEL))
        write_text(folder / "table.md", page(published))
        names = []
        for average, table in published.tables.items():
            name = "table" if average == "per_image" else f"table_{average}"
            write_text(folder / f"{name}.tex", latex(table, caption(published, table, UNDERLINED), f"tab:{name}"))
            names.append(name)
        write_text(folder / "table_preview.tex", document(names))
        first = next(iter(published.tables.values()))
        forest_plot(first, folder / "forest.png", folder / "forest.pdf")
        if published.tests:
            write_text(folder / "tests.csv", tests_csv(published.tests, published.margin))
        return write_html(folder / "report.html", published, data_root)


def page(published: Published) -> str:
    """table.md: the tables with everything a reader needs to judge them below."""
    lines = [f"# {title(published.sources)}", ""]
    for table in published.tables.values():
        lines += [*markdown(table), ""]
    lines += [*shares_markdown(published.shares), ""]
    if published.tests:
        lines += [f"Against {published.sources[0].label}, mean over images:", "", *tests_markdown(published.tests, published.margin), ""]
        lines += ["What decides:", "", *deciding_markdown(published.tests), ""]
    if seeds := seeds_markdown(published.tables["per_image"].cells):
        lines += ["Standard deviations of the groups' own scores, split by where they come from:", "", *seeds, ""]
    lines += [caption(published, next(iter(published.tables.values()))), "", published.sources[0].protocol.sentence(), ""]
    return "\n".join([*lines, *(f"- {provenance(source)}" for source in published.sources)]) + "\n"
