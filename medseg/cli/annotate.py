"""`medseg annotate`: predicted outlines for a person to correct."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import TrustCode


def annotate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run folder, an export, or models:/NAME@ALIAS")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="photographs, or folders of them")],
    out: Annotated[Path, typer.Option(help="folder for the labelme files; new, or empty")],
    tolerance: Annotated[float, typer.Option(metavar="PX", help="how far an outline may pass by the predicted border")] = 0.5,
    backend: Annotated[str, typer.Option(help="auto, openvino, onnxruntime, bfloat16, compiled or eager")] = "auto",
    checkpoint: Annotated[str, typer.Option(help="of a run: best (chosen on val) or last")] = "best",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier OUT in which nobody has corrected anything")] = False,
    copy: Annotated[bool, typer.Option("--copy/--no-copy", help="put a numbered copy of each photograph beside its file")] = True,
    trust_code: TrustCode = False,
) -> None:
    """Write labelme files with predicted outlines, the most uncertain first, so that correcting replaces drawing."""
    from medseg import annotating
    from medseg.progress import bar
    from medseg.watching import Progress

    with bar("annotating") as show:
        done = annotating.annotate(run, paths, out, tolerance, backend, checkpoint, overwrite, copy, Progress(on_case=show))
    print(f"{len(done)} labelme files are in {out}; the most uncertain is {done[0].file.name} ({done[0].uncertainty:.3f})")
    if copy:
        print(f"next: labelme {out}")
        print(f"then: medseg manifest import labelme {out} --classes {','.join(done[0].area_px)} --out data_manifests/NAME/vN")
    else:
        print(f"next: labelme FOLDER_OF_THE_PHOTOGRAPHS --output {out}")
