"""`medseg zoo`: the networks, and what each costs."""

from __future__ import annotations

from typing import Annotated

import typer


def zoo(
    cost: Annotated[bool, typer.Option(help="count parameters and multiply-adds: seconds")] = True,
    classes: Annotated[int, typer.Option(min=2, help="that a network tells apart, the background among them")] = 2,
) -> None:
    """List the networks: library, size, cost of one 256 x 256 image, published weights, licence, paper."""
    from rich.console import Console
    from rich.table import Table

    from medseg.models.listing import lines
    from medseg.progress import bar

    with bar("counting") as show:
        found = lines(classes, show if cost else None)
    table = Table("network", "library", "parameters", "multiply-adds", "dims", "weights", "licence", "paper", box=None, pad_edge=False)
    for line in found:
        table.add_row(*line)
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    console.print(
        f"\nparameters and multiply-adds of {classes} classes, the latter of one image of 256 x 256 pixels with three channels. Weights "
        "beside file:PATH and run:ID. Licences are of the code; published weights may have their own. docs/zoo.md tells more."
    )
