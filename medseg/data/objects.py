"""The annotated objects of an image, each a number, beside its class mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.errors import ManifestError
from medseg.files import resolve_under, sha256_file
from medseg.instances import decode, read_instances
from medseg.manifest.schema import Manifest
from medseg.types import Row

MOST = 255  # objects of an image, where their numbers are kept as bytes


def annotated_objects(manifest: Manifest, row: Row, reference_HW: np.ndarray) -> np.ndarray:
    """int32 (H, W): the annotated objects by number, each where the reference shows its class; of two of one class the smaller has the
    pixels that both claim. Crowds, which are no single objects, are left out. ManifestError for a file that is not the manifest's."""
    if row.instances is None:
        fix = "take --instances components, or import the annotation with its shapes"
        raise ManifestError(manifest.where(row), "the manifest holds no separate objects of it", fix)
    path = resolve_under(manifest.folder, row.instances, ManifestError, manifest.where(row))
    found = read_instances(path)
    sizes = {each.size for each in found} | {row.size}
    if sha256_file(path) != row.instances_sha256 or len(sizes) > 1:
        raise ManifestError(path, "the file of the objects is not the one that the manifest describes", "import the annotation again")
    decoded = [(each.label, decode(each)) for each in found if not each.crowd and each.label in manifest.labels.names]
    drawn = np.zeros(reference_HW.shape, np.int32)
    for number, (label, shape_HW) in enumerate(sorted(decoded, key=lambda pair: -int(pair[1].sum())), start=1):
        drawn[shape_HW & (reference_HW == manifest.labels.id_of(label))] = number
    return drawn


def objects_as_bytes(manifest: Manifest, row: Row, reference_HW: np.ndarray) -> np.ndarray:
    """uint8 (H, W): the same, numbered without a gap; ManifestError where there are more than fit."""
    drawn = annotated_objects(manifest, row, reference_HW)
    counts = np.bincount(drawn.ravel())
    present = np.flatnonzero(counts[1:]) + 1
    if len(present) > MOST:
        rule = f"it holds {len(present)} annotated objects, and a network learns from {MOST} an image at the most"
        raise ManifestError(manifest.where(row), rule, "set model.instances=components, or cut the image into smaller ones")
    dense = np.zeros(len(counts), np.uint8)
    dense[present] = np.arange(1, len(present) + 1)
    return dense[drawn]


def refuse_without_objects(manifest: Manifest, rows: Sequence[Row]) -> None:
    """ManifestError where the manifest knows no separate objects of a row."""
    lacking = next((row for row in rows if row.instances is None), None)
    if lacking is not None:
        fix = "set model.instances=components, or import the annotation with its shapes"
        raise ManifestError(manifest.where(lacking), "the manifest holds no separate objects of it", fix)
