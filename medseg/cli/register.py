"""`medseg register`: a run for MLflow's model registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import TrustCode

if TYPE_CHECKING:
    from medseg.registering import Registered


def register(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder below runs/, its val scored")],
    name: Annotated[str | None, typer.Option(help="of the registered model (the data set's name)")] = None,
    alias: Annotated[
        str | None, typer.Option(help="such as champion: moved to this version where it is shown to be no worse than today's")
    ] = None,
    export: Annotated[Path | None, typer.Option(metavar="EXPORT", help="an export of this very run; made anew where not given")] = None,
    metric: Annotated[str, typer.Option(help="what the two are compared by: iou, dice, recall, precision ...")] = "iou",
    margin: Annotated[float, typer.Option(help="the alias moves where the interval of the difference lies above -MARGIN")] = 0.005,
    trust_code: TrustCode = False,
) -> None:
    """Put a run into MLflow's model registry, to be named by models:/NAME@ALIAS wherever a model is asked for, and served by MLflow."""
    from medseg.progress import steps
    from medseg.registering import register as write

    with steps() as tell:
        done = write(run, name, alias, export, metric, margin, tell)
    _say(done)


def _say(done: Registered) -> None:
    from medseg.tracking.address import reading_uri, without_secrets

    print(f"registered: models:/{done.name}/{done.version} at {without_secrets(done.uri)}")
    if done.compared is not None:
        print(f"against version {done.before}: {done.compared.told()}")
    if done.alias is not None:
        print(f"models:/{done.name}@{done.alias} is this version{'' if done.before is None else f', and was version {done.before}'}")
    if reading_uri() != done.uri:
        print(f"note: where models:/{done.name} is asked for, set MLFLOW_TRACKING_URI to {without_secrets(done.uri)}")
