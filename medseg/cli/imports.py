"""`medseg manifest import KIND`: one command a kind of annotation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import Classes, GroupPattern, Instances, MasksOut, Out, SetName, SharedRoot, SkipRefused, ValueMap, names

if TYPE_CHECKING:
    from medseg.manifest.importers.common import ImportReport, Progress

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
    ignore_label: Annotated[list[str] | None, typer.Option(help="paint shapes of this label with the ignore id; repeatable")] = None,
    instances: Instances = True,
    only_corrected: Annotated[
        bool, typer.Option("--only-corrected", help="predictions of `medseg annotate` that nobody has corrected or checked stay unlabelled")
    ] = False,
) -> None:
    """Import labelme annotations: shapes become masks by labelme's own rule."""
    from medseg.manifest.importers.labelme import import_labelme

    _import(
        lambda show: import_labelme(
            src, out, masks_out=masks_out, classes=names(classes), dataset_name=name, group_pattern=group_pattern,
            skip_refused=skip_refused, on_progress=show, instances=instances, ignore_labels=ignore_label or (),
            only_corrected=only_corrected,
        )
    )  # fmt: skip


@import_app.command("masks")
def import_masks_command(
    images: Annotated[Path, typer.Option(help="folder of images")],
    masks: Annotated[Path, typer.Option(help="folder of masks, matched by name")],
    out: Out,
    classes: Classes = None,
    mask_suffix: Annotated[str, typer.Option(help="what a mask's stem has after the image's, e.g. _mask")] = "",
    name: SetName = None,
    data_root: SharedRoot = None,
    group_pattern: GroupPattern = None,
    skip_refused: SkipRefused = False,
    mask_pattern: Annotated[str | None, typer.Option(help="instead: regular expression on a mask's path; its group is the image's")] = None,
    image_pattern: Annotated[
        str | None, typer.Option(help="regular expression: take only images whose path (with or without suffix) it finds")
    ] = None,
    value_map: ValueMap = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="record masks as stored, for `manifest check --fix`")] = False,
) -> None:
    """Import masks (BMP, PNG, TIFF, GIF, NPY; ids, two values, grey steps or colours) that lie beside their images."""
    from medseg.manifest.importers.masks import import_masks

    _import(
        lambda show: import_masks(
            images, masks, out, classes=names(classes), mask_suffix=mask_suffix, dataset_name=name, data_root=data_root,
            group_pattern=group_pattern, skip_refused=skip_refused, on_progress=show, mask_pattern=mask_pattern,
            image_pattern=image_pattern, value_map=value_map or (), as_is=as_is,
        )
    )  # fmt: skip


@import_app.command("voc")
def import_voc_command(
    root: Annotated[Path, typer.Argument(help="folder with JPEGImages and SegmentationClass (or the one above); becomes the data root")],
    out: Out,
    image_set: Annotated[list[str] | None, typer.Option(help="list in ImageSets/Segmentation, e.g. train; repeatable")] = None,
    classes: Classes = None,
    name: SetName = None,
    group_pattern: GroupPattern = None,
    skip_refused: SkipRefused = False,
    value_map: ValueMap = None,
) -> None:
    """Import a Pascal VOC folder: palette masks, or RGB ones in VOC's colours or those of dataset.yaml."""
    from medseg.manifest.importers.voc import import_voc

    _import(
        lambda show: import_voc(
            root, out, image_sets=image_set or (), classes=names(classes), dataset_name=name, group_pattern=group_pattern,
            skip_refused=skip_refused, on_progress=show, value_map=value_map or (),
        )
    )  # fmt: skip


@import_app.command("nifti")
def import_nifti_command(
    images: Annotated[Path, typer.Option(help="folder of volumes (.nii, .nii.gz, .mha, .nrrd)")],
    masks: Annotated[Path, typer.Option(help="folder of label volumes, of the same formats, matched by stem")],
    out: Out,
    classes: Classes = None,
    mask_suffix: Annotated[str, typer.Option(help="what a mask's stem has after the image's, e.g. _seg")] = "",
    name: SetName = None,
    data_root: SharedRoot = None,
    group_pattern: GroupPattern = None,
    skip_refused: SkipRefused = False,
) -> None:
    """Import volumes and label volumes (NIfTI, MetaImage .mha, NRRD); grid, orientation and affine of each pair are compared."""
    from medseg.manifest.importers.nifti import import_nifti

    _import(
        lambda show: import_nifti(
            images, masks, out, classes=names(classes), mask_suffix=mask_suffix, dataset_name=name, data_root=data_root,
            group_pattern=group_pattern, skip_refused=skip_refused, on_progress=show,
        )
    )  # fmt: skip


@import_app.command("decathlon")
def import_decathlon_command(
    src: Annotated[Path, typer.Argument(help="dataset.json, or the folder that holds it; the folder becomes the data root")],
    out: Out,
    name: SetName = None,
    group_pattern: GroupPattern = None,
    skip_refused: SkipRefused = False,
    left_right: Annotated[
        list[str] | None, typer.Option(metavar="LEFT=RIGHT", help="classes that change places in a mirror image; repeatable")
    ] = None,
) -> None:
    """Import a set in the Medical Segmentation Decathlon's layout."""
    from medseg.manifest.importers.decathlon import import_decathlon

    _import(lambda show: import_decathlon(src, out, name, group_pattern, skip_refused, show, left_right or ()))


@import_app.command("nnunet")
def import_nnunet_command(
    src: Annotated[Path, typer.Argument(help="nnU-Net raw folder, DatasetXXX_NAME; becomes the data root")],
    out: Out,
    name: SetName = None,
    group_pattern: GroupPattern = None,
    skip_refused: SkipRefused = False,
) -> None:
    """Import an nnU-Net raw folder (imagesTr, labelsTr, dataset.json of version 1 or 2)."""
    from medseg.manifest.importers.nnunet import import_nnunet

    _import(lambda show: import_nnunet(src, out, name, group_pattern, skip_refused, on_progress=show))


@import_app.command("dicom")
def import_dicom_command(
    src: Annotated[Path, typer.Argument(help="folder of DICOM files, in any order and under any name")],
    out: Out,
    key_file: Annotated[Path, typer.Option(help="key of the hashes that stand for patients; made where it is not there")],
    seg: Annotated[Path | None, typer.Option(help="folder of further DICOM SEG files")] = None,
    classes: Classes = None,
    threshold: Annotated[float, typer.Option(help="share from which a fractional segment counts")] = 0.5,
    overlap: Annotated[str, typer.Option(help="refuse | order: whether the later of two overlapping segments wins")] = "refuse",
    name: SetName = None,
    skip_refused: SkipRefused = False,
) -> None:
    """Import DICOM series and SEG as NIfTI under OUT, with patients, studies and series as keyed hashes."""
    from medseg.errors import ConfigError
    from medseg.manifest.importers.dicom import import_dicom

    if overlap not in ("refuse", "order"):
        raise ConfigError("--overlap", f"must be refuse or order, got {overlap!r}", "choose one of the two")
    _import(
        lambda show: import_dicom(
            src, out, key_file, seg=seg, classes=names(classes), threshold=threshold, overlap=overlap,  # type: ignore[arg-type]
            dataset_name=name, skip_refused=skip_refused, on_progress=show,
        )
    )  # fmt: skip


@import_app.command("coco")
def import_coco_command(
    annotations: Annotated[Path, typer.Argument(help="COCO JSON with images, annotations and categories")],
    images: Annotated[Path, typer.Option(help="folder that file_name is relative to; becomes the data root")],
    out: Out,
    masks_out: MasksOut = None,
    classes: Classes = None,
    name: SetName = None,
    group_pattern: GroupPattern = None,
    crowd: Annotated[str, typer.Option(help="what iscrowd = 1 becomes: ignore (the ignore id), paint (its class) or skip")] = "ignore",
    paint: Annotated[str, typer.Option(help="which annotation is on top: area (the smaller) or order (the later)")] = "area",
    empty_is_background: Annotated[
        bool, typer.Option("--empty-is-background", help="listed images without annotation are background; else unlabelled")
    ] = False,
    instances: Instances = True,
    large: Annotated[bool, typer.Option("--large", help="take a file of up to 2 GB, which may need as much memory and more")] = False,
    skip_refused: SkipRefused = False,
) -> None:
    """Import a COCO file: polygons, run-length codes and crowds, painted by pycocotools' rule."""
    from medseg.manifest.importers.coco import import_coco

    _import(
        lambda show: import_coco(
            annotations, images, out, masks_out=masks_out, classes=names(classes), dataset_name=name, group_pattern=group_pattern,
            skip_refused=skip_refused, on_progress=show, instances=instances, crowd=crowd, paint=paint,
            empty_is_background=empty_is_background, large=large,
        )
    )  # fmt: skip


def _import(importer: Callable[[Progress], ImportReport]) -> None:
    """Run an importer under a bar and print what it did."""
    from medseg.errors import counted
    from medseg.manifest.importers.common import listed
    from medseg.progress import bar

    with bar("importing") as show:
        report = importer(show)
    first = f" ({listed(report.without_mask, 3)})" if report.without_mask else ""
    annotated = counted(report.imported, "annotated image")
    print(f"{report.manifest_folder}: {annotated}, {report.unlabelled} unlabelled{first}, {len(report.refused)} refused")
    for file, reason in report.refused:
        print(f"  refused {file}: {reason}")
    for note in report.notes:
        print(f"  note: {note}")
    print(f"next: medseg manifest check {report.manifest_folder} --data-root {report.data_root}")
    print(f"then: medseg manifest split {report.manifest_folder} --name main --group-near-duplicates --data-root {report.data_root}")
