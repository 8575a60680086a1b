"""`medseg zoo`: the networks, and what each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.models.listed import Listed


def zoo(
    classes: Annotated[
        int | None, typer.Option(min=2, help="that a network tells apart, the background among them: counted anew, a minute; 2 are at hand")
    ] = None,
) -> None:
    """List the networks: library, size, cost of one 256 x 256 image, published weights, licence, paper."""
    from rich.console import Console
    from rich.table import Table

    from medseg.models.listed import listed

    lines = listed() if classes is None else _counted(classes)
    table = Table("network", "library", "parameters", "multiply-adds", "dims", "weights", "licence", "paper", box=None, pad_edge=False)
    for line in lines:
        table.add_row(*line.texts)
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    console.print(
        f"\nParameters and multiply-adds are of {classes or 2} classes, from scratch, the latter of one RGB image of 256 x 256; "
        "with hf: weights a network is as large as they are.\nEvery network takes weights file:PATH and run:ID, too, those of transformers "
        "any repository of the same network (hf:OWNER/NAME).\nLicences are of the code; published weights may have their own. "
        "docs/zoo.md tells more."
    )


def _counted(classes: int) -> list[Listed]:
    from medseg.models.listing import count
    from medseg.progress import bar

    with bar("counting") as show:
        return count(classes, show)
