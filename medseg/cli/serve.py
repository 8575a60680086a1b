"""`medseg serve`: a model behind HTTP and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import TrustCode


def serve(
    where: Annotated[str, typer.Argument(metavar="WHERE", help="a run, an export, models:/NAME@ALIAS or models:/NAME/VERSION")],
    host: Annotated[str, typer.Option(help="any address but this machine's own needs a token: MEDSEG_SERVE_TOKEN")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8000,
    backend: Annotated[str, typer.Option(help="auto, openvino, onnxruntime, eager, compiled or bfloat16")] = "auto",
    max_mb: Annotated[float, typer.Option(min=0.01, max=1000, help="of one photograph's file")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.01, max=120, help="of one photograph")] = 50,
    max_seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="for one upload")] = 30,
    queue: Annotated[int, typer.Option(min=1, max=10_000, help="requests in hand at one time; further ones are answered 429")] = 64,
    batch: Annotated[int, typer.Option(min=1, max=256, help="photographs that go through the network together at most")] = 8,
    token_file: Annotated[Path | None, typer.Option(metavar="PATH", help="a file that holds the token")] = None,
    checkpoint: Annotated[str, typer.Option(help="best (chosen on val) or last")] = "best",
    trust_code: TrustCode = False,
) -> None:
    """Serve a model over HTTP: an API (documented at /docs) and a page. Nothing of an image is kept, written to disk or logged."""
    from medseg.serving.limits import MEGABYTE, MEGAPIXEL, Limits
    from medseg.serving.run import serve as run

    limits = Limits(round(max_mb * MEGABYTE), round(max_megapixels * MEGAPIXEL), max_seconds, queue, batch)
    code = run(where, host, port, backend, limits, token_file, checkpoint, lambda line: print(line, flush=True))
    if code:
        raise typer.Exit(code)
