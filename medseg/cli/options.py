"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _trust(said: bool) -> bool:
    from medseg.trust import trust_all

    if said:
        trust_all()
    return said


DataRoot = Annotated[Path | None, typer.Option(envvar="MEDSEG_DATA", help="the folder that image paths hang on")]
Out = Annotated[Path, typer.Option(help="folder of the manifest's version, e.g. data_manifests/tongue/v1")]
MasksOut = Annotated[Path | None, typer.Option(help="where derived masks go; OUT/masks where not given")]
Classes = Annotated[str | None, typer.Option(help="comma-separated, in the order of their ids 1, 2, ...")]
SetName = Annotated[str | None, typer.Option("--name", help="the data set's name")]
GroupPattern = Annotated[str | None, typer.Option(help="regular expression with one group: the patient's part of a sample's name")]
SkipRefused = Annotated[bool, typer.Option("--skip-refused", help="import the rest and list the refused files in refused.csv")]
Instances = Annotated[bool, typer.Option(help="write the separate objects to OUT/instances")]
SharedRoot = Annotated[Path | None, typer.Option(help="folder that holds both; their common parent where not given")]
StoredAs = Annotated[list[str] | None, typer.Option("--map", help="VALUE=CLASS (or background, ignore) in both folders; repeatable")]
ValueMap = Annotated[list[str] | None, typer.Option("--map", help="VALUE=CLASS (or background, ignore); VALUE may be #RRGGBB; repeatable")]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="a run whose network is named by an import path: let that code run", callback=_trust),
]


def names(classes: str | None) -> list[str] | None:
    """The names of a comma-separated list, None where none is given."""
    return None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
