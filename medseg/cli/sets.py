"""`medseg data VERB`: public data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.fetch.entries import Entry

WIDTH = 80  # columns of the table, whatever it is printed to

data_app = typer.Typer(help="Public data sets: list, fetch.", no_args_is_help=True)


@data_app.command("list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False) -> None:
    """List the public data sets: address, size, checksum, licence and citation of each."""
    from medseg.fetch.entries import ENTRIES

    if as_json:
        import json

        print(json.dumps([entry.to_dict() for entry in ENTRIES], indent=1))
        return
    _print_table(ENTRIES)


def _print_table(entries: tuple[Entry, ...]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("set", "what it is, and what its source states"):
        table.add_column(heading, overflow="fold")  # an address cut short would be none
    for entry in entries:
        table.add_row(f"[bold]{entry.name}", escape(entry.what))
        for name, value in _stated(entry).items():
            table.add_row(f"  {name}", escape(value))
        table.add_row()
    Console(width=WIDTH, highlight=False).print(table)
    print("the same for programs: medseg data list --json")


def _stated(entry: Entry) -> dict[str, str]:
    """The facts of one set as the table shows them; what no source states is said to be so, never guessed."""
    from medseg.fetch.entries import NOT_STATED

    size = f"{entry.size_bytes / 2**30:.1f} GiB ({entry.size_bytes:,} bytes; {entry.size_source})" if entry.size_bytes else NOT_STATED
    checksum = f"{entry.checksum} ({entry.checksum_source})" if entry.checksum else f"{NOT_STATED}; the first fetch pins the one it sees"
    return {"address": entry.url, "size": size, "checksum": checksum, "licence": entry.licence, "citation": entry.citation}


@data_app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="as `medseg data list` names it")],
    out: Annotated[Path, typer.Option(help="the set goes to OUT/NAME")] = Path("data"),
    cache: Annotated[Path | None, typer.Option(envvar="MEDSEG_CACHE", help="where archives are kept")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace OUT/NAME")] = False,
) -> None:
    """Download a public data set, verify it and unpack it; an interrupted download goes on where it broke off."""
    from medseg.fetch.entries import entry
    from medseg.fetch.fetcher import fetch
    from medseg.progress import bar

    chosen = entry(name)
    print(f"{chosen.name}: {chosen.what}\nlicence: {chosen.licence}\ncite: {chosen.citation}\nfrom: {chosen.page}")
    with bar("KiB") as show:
        done = fetch(chosen, out, cache, force, lambda at, total: show(at >> 10, total >> 10))
    print(f"{done.files} files are in {done.folder} (archive: {done.archive}, sha256 {done.sha256})")
    if done.newly_pinned:
        print("note: no source states this file's checksum; the SHA-256 seen now is pinned, and a later fetch that differs is refused")
    print(f"next: {chosen.next_step.format(folder=done.folder)}")
