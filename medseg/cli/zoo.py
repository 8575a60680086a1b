"""`medseg zoo`: the networks, and what each costs."""

from __future__ import annotations

from typing import Annotated

import typer


def zoo(
    classes: Annotated[
        int | None, typer.Option(min=2, help="that a network tells apart, the background among them: counted anew, a minute; 2 are at hand")
    ] = None,
) -> None:
    """List the networks: library, size, cost of one 256 x 256 image, published weights, licence, paper."""
    from rich.console import Console
    from rich.table import Table

    from medseg.models.listing import count, counted, lines
    from medseg.progress import bar

    if classes is None:
        costs = counted()
    else:
        with bar("counting") as show:
            costs = count(classes, show)
    table = Table("network", "library", "parameters", "multiply-adds", "dims", "weights", "licence", "paper", box=None, pad_edge=False)
    for line in lines(costs):
        table.add_row(*line)
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    console.print(
        f"\nparameters and multiply-adds of {classes or 2} classes, the latter of one image of 256 x 256 pixels with three channels. "
        "Weights beside file:PATH and run:ID. Licences are of the code; published weights may have their own. docs/zoo.md tells more."
    )
