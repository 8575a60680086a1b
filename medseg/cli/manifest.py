"""`medseg manifest VERB`: describe a data set, check it, split it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.imports import import_app
from medseg.cli.options import DataRoot
from medseg.errors import counted

if TYPE_CHECKING:
    from medseg.manifest.check.doctor import Report
    from medseg.manifest.near import Pair
    from medseg.manifest.schema import Manifest

SHOWN = 8  # findings of one code on the terminal

manifest_app = typer.Typer(help="Describe a data set: import, check, split.", no_args_is_help=True)
manifest_app.add_typer(import_app, name="import")


@manifest_app.command("check")
def check_command(
    manifest: Annotated[Path, typer.Argument(help="a manifest's folder")],
    data_root: DataRoot = None,
    json: Annotated[Path | None, typer.Option(help="write the findings as JSON")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with a picture of each finding")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 where there are only warnings")] = False,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT", help="write repaired copies as a new version, e.g. data_manifests/tongue/v2")
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="look at this split only; may be given again. Default: all")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="workers; 0 for one a processor")] = 0,
) -> None:
    """Look at every image and mask and say what is wrong: exit code 0 clean, 1 warnings with --strict, 2 errors."""
    from medseg.files import check_file_target, write_json
    from medseg.manifest.check.doctor import check_manifest
    from medseg.manifest.check.findings import exit_code
    from medseg.manifest.table import check_data_root
    from medseg.progress import bar

    for path in (one for one in (json, html) if one):
        check_file_target(path)
    if fix:
        from medseg.manifest.check.fix import check_target

        check_target(manifest, fix)
    with bar("checking") as show:
        report = check_manifest(manifest, check_data_root(data_root), jobs, show, split or ())
    if json:
        write_json(json, report.as_json(strict))
    if html:
        from medseg.manifest.check.page import write_page

        with bar("drawing") as show:
            write_page(report, html, show)
    _print_findings(report)
    for written in (path for path in (json, html) if path):
        print(f"written: {written}")
    if fix:
        _fix(report, fix)
    raise typer.Exit(exit_code(report.findings, strict))


def _fix(report: Report, out: Path) -> None:
    from medseg.manifest.check.fix import REGROUPED, REPAIRS_FILE, repair
    from medseg.manifest.importers.common import listed
    from medseg.progress import bar

    with bar("repairing") as show:
        log = repair(report, out, show)
    print(f"{counted(len(log), 'repair')} in {out}, listed in {out / REPAIRS_FILE}")
    print(f"next: medseg manifest check {out} --data-root {report.data_root}")
    changed = list(dict.fromkeys(step.sample_id for step in log if step.code == "hash-changed"))
    if changed:
        rows = f"{counted(len(changed), 'row')} ({listed(changed, 3)})"
        print(f"note: files of {rows} that had changed since the import were taken as they are now, right or wrong: look at each")
    joined = sum(step.code == REGROUPED for step in log)
    if joined:
        rows = counted(joined, "row")
        print(f"note: near-duplicates share a group now ({rows} changed theirs); a given split (--from) that parts them is refused")
        print(f"then, by the new groups: medseg manifest split {out} --name main")


def _print_findings(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from medseg.manifest.check.findings import CODES, ranked

    table = Table("severity", "code", "row", "sample", "what is wrong", box=None, pad_edge=False)
    for code, _ in ranked(report.findings):
        for finding in [finding for finding in report.findings if finding.code == code][:SHOWN]:
            where = (str(finding.row or ""), finding.sample_id or finding.file)
            table.add_row(finding.severity, finding.code, *map(escape, (*where, finding.rule)))
    if report.findings:
        Console().print(table)
    for code, count in ranked(report.findings):
        fix = next(finding.fix for finding in report.findings if finding.code == code)
        more = f" ({SHOWN} shown; all by --json or --html)" if count > SHOWN else ""
        print(f"{CODES[code]} {code}: {count}{more}; way out: {fix}")
    rows, findings = counted(len(report.manifest), "row"), counted(len(report.findings), "finding")
    print(f"{rows} checked, {report.flagged()} with a finding; {findings} in all")


@manifest_app.command("split")
def split_command(
    manifest: Annotated[Path, typer.Argument(help="a manifest's folder")],
    name: Annotated[str, typer.Option(help="the split's name")] = "main",
    from_: Annotated[Path | None, typer.Option("--from", help="CSV with image or sample, and split: train, val, test")] = None,
    ratios: Annotated[tuple[float, float, float], typer.Option(help="shares of train, val, test")] = (0.7, 0.1, 0.2),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    folds: Annotated[int, typer.Option(min=0, help="K folds of the rows outside test; the share of val goes to train")] = 0,
    group_near_duplicates: Annotated[bool, typer.Option("--group-near-duplicates", help="keep near duplicates in one part")] = False,
    data_root: DataRoot = None,
    unlock_test: Annotated[str | None, typer.Option(metavar="REASON", help="let rows of test move; the reason is recorded")] = None,
) -> None:
    """Write splits/NAME.csv: grouped, stratified by presence and area of the classes, seeded; or taken from a file."""
    from medseg.manifest.history import scored_predictions
    from medseg.manifest.split import given_split, make_split, remarks, summary
    from medseg.manifest.table import read_manifest

    read = read_manifest(manifest)
    warnings: list[str] = []
    if from_ is None:
        pairs = _near_duplicates(read, data_root) if group_near_duplicates else None
        split = make_split(read, name, ratios, seed, folds=folds, pairs=pairs, unlock=unlock_test)
    else:
        _not_with_from(folds, group_near_duplicates)
        split, warnings = given_split(read, name, from_, unlock_test)
    for warning in [*warnings, *scored_predictions(read, split)]:
        print(f"warning: {warning}", file=sys.stderr)
    for remark in remarks(split):
        print(f"note: {remark}")
    print(summary(read, split))
    print(f"written: {split.path}")


def _not_with_from(folds: int, group_near_duplicates: bool) -> None:
    if folds or group_near_duplicates:
        from medseg.errors import ManifestError

        rule = "--folds and --group-near-duplicates make a new split, --from takes one over"
        raise ManifestError("--from", rule, "leave one of them out")


def _near_duplicates(read: Manifest, data_root: Path | None) -> list[Pair]:
    from medseg.manifest.near import near_duplicates
    from medseg.manifest.table import check_data_root
    from medseg.progress import bar

    with bar("comparing") as show:
        return near_duplicates(read, check_data_root(data_root), show)
