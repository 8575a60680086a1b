"""`medseg export`: a run for other people's programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import DataRoot, TrustCode


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder below runs/")],
    out: Annotated[Path | None, typer.Option(help="the folder to write (RUN/export)")] = None,
    formats: Annotated[list[str] | None, typer.Option("--format", help="onnx or torch-export; repeatable (onnx)")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="8 bits, calibrated on train; refused where val IoU falls by more than 0.002")
    ] = False,
    data_root: DataRoot = None,
    checkpoint: Annotated[str, typer.Option(help="best (chosen on val) or last")] = "best",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier export in OUT")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Write a run's network as ONNX or torch.export, with a description (model.json) and a model card beside it."""
    from medseg.runfolder import open_run

    open_run(run)  # a wrong path is told before torch is loaded
    from medseg.exporting.verb import export as write
    from medseg.progress import steps

    with steps() as tell:
        done = write(run, out, tuple(formats or ["onnx"]), int8, data_root, checkpoint, overwrite, tell)  # type: ignore[arg-type]
    if done.int8:
        print(f"8 bits: val IoU {done.int8.after:.4f}, without them {done.int8.before:.4f}; calibrated on {done.int8.images} train images")
    print(f"written: {done.folder} ({', '.join(sorted(path.name for path in done.folder.iterdir()))})")
