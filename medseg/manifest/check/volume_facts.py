"""What a volume and its label volume hold; apart from facts.py, so that a set of photographs does not wait for nibabel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.errors import ImageError
from medseg.images import RawMask
from medseg.manifest.check.record import AGAIN, Facts, FractionError, Job, Seen, check_hash, fingerprint
from medseg.manifest.near import middle_slice, thumbnail
from medseg.types import Row
from medseg.volumes import Header, forms_disagree, read_header, read_volume, same_affine


def examine_volume(job: Job, path: Path, facts: Facts) -> Seen:
    """Read a volume and judge its header and voxels; raises ImageError where it cannot be read."""
    header = read_header(path)
    array, _ = read_volume(path)
    check_hash(facts, path, job.row.image_sha256, array if job.image_derived else None, job.row.channels)
    stated = (job.row.size.width_px, job.row.size.height_px, job.row.depth_px)
    if header.shape != stated:
        shown = " x ".join(map(str, stated))
        facts.add("size-mismatch", path, f"the volume is {_by(header.shape)} voxels, the manifest says {shown}", AGAIN)
    _check_spacing(job.row, header, path, facts)
    if forms_disagree(path):
        facts.add("forms-disagree", path, "its qform and sform place it differently", "write one of the two, so that every reader agrees")
    _check_voxels(facts, path, array)
    facts.pixels, facts.image_px = fingerprint(array), int(np.prod(header.shape))
    facts.thumb = thumbnail(middle_slice(array))
    return Seen(None, None, header.shape, header=header)


def _by(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))


def _check_spacing(row: Row, header: Header, path: Path, facts: Facts) -> None:
    stated = [value for value in row.spacing_mm if value is not None]
    if len(stated) == 3 and not np.allclose(stated, header.spacing_mm, rtol=1e-3, atol=0):
        rule = f"the volume's spacing is {_mm(header.spacing_mm)} mm, the manifest says {_mm(stated)}"
        facts.add("spacing-mismatch", path, rule, AGAIN)


def _mm(values: object) -> str:
    return " x ".join(f"{value:.4g}" for value in np.asarray(values, float))


def _check_voxels(facts: Facts, path: Path, array: np.ndarray) -> None:
    not_finite = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
    if not_finite:
        facts.add("nan-image", path, f"{not_finite:,} voxels are NaN or infinite", "export the volume again")
    elif array.min() == array.max():
        facts.add("constant-image", path, "all voxels are equal: it shows nothing", "export the volume again, or remove the row")
    if min(array.shape[:2]) < 8:
        facts.add("tiny-image", path, f"the volume is {_by(array.shape)} voxels", "remove it, or find the original")


def raw_volume(path: Path) -> RawMask:
    """A label volume as stored; ImageError where it holds fractions, NaN or several channels."""
    array, _ = read_volume(path)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.rint(array)).any():
            strays = int((~(array == np.rint(array))).sum())
            rule = f"{strays:,} voxels hold fractions: labels were interpolated, or these are probabilities"
            raise FractionError(path, rule, "resample labels by the nearest neighbour only")
        array = array.astype(np.int32)
    if array.ndim != 3:
        raise ImageError(path, f"a label volume has three axes, this one is {_by(array.shape)}", "export the class ids as one volume")
    return RawMask(array, None, str(array.dtype), "NIFTI", 1)


def flat_mask(raw: RawMask) -> RawMask:
    """A volume's values as one (X, Y * Z) picture: what `content_of` counts."""
    if raw.format != "NIFTI":
        return raw
    return RawMask(raw.values.reshape(raw.values.shape[0], -1), None, raw.mode, raw.format, 1)


def check_volume_grid(path: Path, seen: Seen | None, facts: Facts) -> None:
    """Whether a label volume lies on its volume's grid."""
    if seen is None or seen.header is None:
        return
    header, image = read_header(path), seen.header
    if header.shape != image.shape:
        facts.add(
            "size-mismatch",
            path,
            f"the mask is {_by(header.shape)} voxels, its volume {_by(image.shape)}",
            "export it on the volume's grid",
        )
        return
    if not np.allclose(header.spacing_mm, image.spacing_mm, rtol=1e-3, atol=0):
        rule = f"the mask's spacing is {_mm(header.spacing_mm)} mm, its volume's {_mm(image.spacing_mm)}"
        facts.add("spacing-mismatch", path, rule, "export it on the volume's grid")
    elif not same_affine(header.affine, image.affine):
        turned = f" (orientation {header.orientation}, the volume {image.orientation})" if header.orientation != image.orientation else ""
        far = float(np.linalg.norm(header.affine[:3, 3] - image.affine[:3, 3]))
        rule = f"the mask's affine is not its volume's{turned}; the origins are {far:.4g} mm apart"
        facts.add("affine-mismatch", path, rule, "export it on the volume's grid, in the volume's orientation")
