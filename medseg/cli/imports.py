"""`medseg manifest import KIND`: one command a kind of annotation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.cli.options import Classes, GroupPattern, MasksOut, Out, SetName, SkipRefused, names

import_app = typer.Typer(help="Make a manifest from annotations.", no_args_is_help=True)


@import_app.command("labelme")
def import_labelme_command(
    src: Annotated[Path, typer.Argument(help="folder of labelme JSON and images; becomes the data root")],
    out: Out,
    masks_out: MasksOut = None,
    classes: Classes = None,
    name: SetName = None,
    group_pattern: GroupPattern = None,
    skip_refused: SkipRefused = False,
) -> None:
    """Import labelme annotations: shapes become masks by labelme's own rule."""
    from medseg.manifest.importers.labelme import import_labelme
    from medseg.progress import bar

    with bar("importing") as show:
        report = import_labelme(
            src, out, masks_out=masks_out, classes=names(classes), dataset_name=name, group_pattern=group_pattern,
            skip_refused=skip_refused, on_progress=show,
        )  # fmt: skip
    _print_import(report)


@import_app.command("masks")
def import_masks_command(
    images: Annotated[Path, typer.Option(help="folder of images")],
    masks: Annotated[Path, typer.Option(help="folder of id masks, matched by stem")],
    out: Out,
    classes: Classes = None,
    mask_suffix: Annotated[str, typer.Option(help="what a mask's stem has after the image's, e.g. _mask")] = "",
    name: SetName = None,
    data_root: Annotated[Path | None, typer.Option(help="folder that holds both; their common parent where not given")] = None,
    group_pattern: GroupPattern = None,
    skip_refused: SkipRefused = False,
) -> None:
    """Import id masks (grey or palette PNG and the like) that lie beside their images."""
    from medseg.manifest.importers.masks import import_masks
    from medseg.progress import bar

    with bar("importing") as show:
        report = import_masks(
            images, masks, out, classes=names(classes), mask_suffix=mask_suffix, dataset_name=name, data_root=data_root,
            group_pattern=group_pattern, skip_refused=skip_refused, on_progress=show,
        )  # fmt: skip
    _print_import(report)


def _print_import(report: Any) -> None:
    print(f"{report.manifest_folder}: {report.imported} annotated images, {report.unlabelled} unlabelled, {len(report.refused)} refused")
    for file, reason in report.refused:
        print(f"  refused {file}: {reason}")
    for note in report.notes:
        print(f"  note: {note}")
    print(f"next: medseg manifest split {report.manifest_folder} --name main     data root: {report.data_root}")
