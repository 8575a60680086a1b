"""`medseg manifest VERB`: describe a data set, check it, split it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.imports import import_app

manifest_app = typer.Typer(help="Describe a data set: import, check, split.", no_args_is_help=True)
manifest_app.add_typer(import_app, name="import")


@manifest_app.command("split")
def split_command(
    manifest: Annotated[Path, typer.Argument(help="a manifest's folder")],
    name: Annotated[str, typer.Option(help="the split's name")] = "main",
    from_: Annotated[Path | None, typer.Option("--from", help="CSV with image or sample, and split: train, val, test")] = None,
    ratios: Annotated[tuple[float, float, float], typer.Option(help="shares of train, val, test")] = (0.7, 0.1, 0.2),
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write splits/NAME.csv: grouped, stratified by class presence and seeded, or taken from a file."""
    from medseg.manifest.split import describe, given_split, make_split
    from medseg.manifest.table import read_manifest

    read = read_manifest(manifest)
    warnings: list[str] = []
    if from_ is None:
        split = make_split(read, name, ratios, seed)
    else:
        split, warnings = given_split(read, name, from_)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(describe(read, split).to_string(index=False))
    print(f"written: {split.path}")
