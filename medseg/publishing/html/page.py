"""Published -> report.html: one file with its style, its script and its pictures, which asks nothing of any network."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.colors import to_hex

from medseg.files import write_text
from medseg.publishing.claim import claim_items
from medseg.publishing.estimated import Cell
from medseg.publishing.failures import GroupFailures, failures_by_group
from medseg.publishing.html import figures
from medseg.publishing.html.cases import WORST, case_rows, mean_by_case, worth_a_picture
from medseg.publishing.html.overlays import Album, Picture, draw_album
from medseg.publishing.html.summary import cautions, findings
from medseg.publishing.latex import UNDERLINED, latex
from medseg.publishing.markdown import shares_rows, tests_rows
from medseg.publishing.published import Published, caption, provenance, title
from medseg.publishing.sources import Source
from medseg.publishing.table import AVERAGE_TITLES, Table, defined, score_title, with_interval
from medseg.runfolder import RunFolder

FAILED_GROUPS, OTHER_GROUPS = 40, 8  # of a run, worst first: with a failure, and at least so many of all


@dataclass(frozen=True, slots=True)
class CellView:
    """A cell as it stands on the page, and where its cases are found. mark: best, second or ''.  names: as JSON."""

    value: str
    interval: str
    n: str
    mark: str
    dagger: bool
    run: str
    names: str
    metric: str
    average: str


def write_html(path: Path, published: Published, data_root: Path | None = None) -> str:
    """Write the page; returns in a sentence which pictures are missing, '' where none is. data_root: where the photographs lie."""
    album = draw_album(published.sources, worth_a_picture(published.sources, published.tests), data_root)
    write_text(path, _template().render(_content(published, album)))
    return album.missing


@cache
def _template() -> jinja2.Template:
    """Everything that is filled in is escaped, but for the style and the script, which are ours."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {}  # jinja would sort the runs by their labels: their order is the tables'
    environment.globals |= {"style": _own("report.css"), "script": _own("report.js")}
    environment.filters["figures"] = lambda value, digits=3: "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"
    return environment.get_template("report.html.j2")


def _own(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _content(published: Published, album: Album) -> dict[str, Any]:
    sources = published.sources
    header, rows = tests_rows(published.tests, published.margin)
    return {
        "title": title(sources),
        "findings": findings(published),
        "cautions": cautions(published),
        "tables": [_table(published, table) for table in published.tables.values()],
        "shares": shares_rows(published.shares),
        "tests_header": header,
        "tests": rows,
        "against": sources[0].label,
        "forest": figures.forest(published),
        "distributions": figures.distributions(published),
        "curves": figures.curves(published),
        "confusions": figures.confusions(sources),
        "calibrations": figures.calibrations(sources),
        "samplings": figures.samplings(sources),
        "legend": _legend(album),
        "worst": [(source.label, _worst(source)) for source in sources],
        "failures": [_failures(source) for source in sources],
        "protocol": sources[0].protocol.to_dict(),
        "provenance": [provenance(source).replace("`", "") for source in sources],
        "several_seeds": any(len(source.seeds) > 1 for source in sources),
        "environments": [found for source in sources if (found := _environment(source))],
        "claim": claim_items(published),
        "missing": album.missing,
        "cases": case_rows(published),
        "pictures": {sample: _picture(picture) for sample, picture in album.pictures.items()},
    }


def _table(published: Published, table: Table) -> dict[str, Any]:
    rows = []
    for name in table.names:
        for place, label in enumerate(table.labels):
            cells = [_cell(table, table.cell(label, name, metric)) for metric in table.metrics]
            rows.append({"name": name, "label": label, "first": place == 0, "cells": cells})
    text = caption(published, table)
    return {
        "title": AVERAGE_TITLES[table.average], "several": len(table.labels), "heads": [score_title(metric) for metric in table.metrics],
        "rows": rows, "caption": text, "latex": latex(table, caption(published, table, UNDERLINED), f"tab:{table.average}"),
    }  # fmt: skip


def _cell(table: Table, cell: Cell | None) -> CellView | None:
    if cell is None:
        return None
    value, _, interval = with_interval(cell.estimate, table.digits(cell.metric)).partition(" ")
    return CellView(
        value, interval, defined(cell.n_defined, cell.n_cases), table.mark(cell) or "", table.differs(cell), cell.label,
        json.dumps(cell.names), cell.metric, cell.average,
    )  # fmt: skip


def _legend(album: Album) -> list[tuple[str, str]]:
    """(class, colour) of the pictures."""
    labels = album.labels
    return [(name, to_hex(labels.palette[labels.id_of(name)] / 255)) for name in labels.foreground] if labels else []


def _worst(source: Source) -> list[tuple[str, float]]:
    """The cases to look at first, with their mean IoU over the foreground classes."""
    return list(mean_by_case(source).head(WORST).items())  # type: ignore[arg-type]


def _failures(source: Source) -> tuple[str, list[GroupFailures], int, int]:
    """(label, groups to show, groups with a failure, groups)."""
    groups = failures_by_group(source)
    failed = sum(bool(group.missed + group.invented + group.poor) for group in groups)
    return source.label, groups[: min(max(failed, OTHER_GROUPS), FAILED_GROUPS)], failed, len(groups)


def _picture(picture: Picture) -> dict[str, Any]:
    sides = {"w": picture.width_px, "h": picture.height_px}
    shown = {"photograph": picture.photograph, "reference": picture.reference, "layers": dict(picture.layers)}
    return sides | shown | {"planes": [asdict(plane) for plane in picture.planes]}


def _environment(source: Source) -> dict[str, Any] | None:
    """Of the first run: what it ran on, and its whole configuration; None for what was predicted elsewhere."""
    if not source.runs:
        return None
    run = RunFolder(next(iter(source.runs.values())))
    try:
        facts, config = json.loads(run.environment_json.read_text(encoding="utf-8")), run.config_yaml.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    git, hardware = facts.get("git") or {}, facts.get("hardware") or {}
    lines: list[tuple[str, Any]] = [("Run", run.id)]
    lines += [("Commit", f"{git.get('commit') or 'unknown'}{' with uncommitted changes' if git.get('dirty') else ''}")]
    lines += [("Python", facts.get("python")), ("Platform", facts.get("platform")), ("Processor", hardware.get("cpu"))]
    lines += [("Cores", hardware.get("cpu_cores_usable")), ("Memory, GiB", hardware.get("memory_gib"))]
    lines += [("GPU", ", ".join(hardware.get("gpus") or ()) or "none")]
    lines += [(name, version) for name, version in (facts.get("packages") or {}).items()]
    return {"label": source.label, "lines": lines, "config": config}
