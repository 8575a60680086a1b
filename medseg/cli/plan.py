"""`medseg plan`: an experiment from a data set's fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medseg.cli.options import DataRoot


def plan(
    manifest: Annotated[Path, typer.Argument(help="folder of the manifest's version, e.g. data_manifests/liver/v1")],
    data_root: DataRoot = None,
    split: Annotated[str, typer.Option(help="whose training rows are measured: no val, no test")] = "main",
    fold: Annotated[int | None, typer.Option(min=0, help="of a split with folds: the one that is val; else all are measured")] = None,
    network: Annotated[
        Literal["unet", "dynunet", "resenc"] | None, typer.Option(help="dynunet (volumes) or unet (photographs) where not given")
    ] = None,
    memory_gib: Annotated[float, typer.Option(min=0.25, help="what a training step may take")] = 8.0,
    slices: Annotated[bool, typer.Option("--slices", help="a network of two dimensions, for volumes whose slices are far apart")] = False,
    modality: Annotated[
        Literal["ct", "mr", "photograph"] | None, typer.Option(help="by the import's dataset.json or the intensities where not given")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="length of the training; nnU-Net's is 250000")] = 1200,
    out: Annotated[Path | None, typer.Option(help="experiments/DATASET/plan.yaml where not given")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a plan that is there")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="processes; 0: one a processor")] = 0,
) -> None:
    """Measure the training images and write an experiment by nnU-Net's rules, with the reason of each value beside it."""
    from medseg.manifest.table import read_manifest

    read_manifest(manifest)  # before torch is imported, which takes seconds: a wrong path is told at once
    from medseg.planning.propose import Wanted
    from medseg.planning.write import Source, fingerprint_path, write_plan
    from medseg.progress import bar

    source, wanted = Source(manifest, data_root, split, fold), Wanted(network, memory_gib, slices, steps)
    with bar("measuring") as show:
        path = write_plan(source, wanted, modality, out, overwrite, show, jobs)
    print(path.read_text(encoding="utf-8"), end="")
    print(f"\nwritten: {path}, {fingerprint_path(path)}")
