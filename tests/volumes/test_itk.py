"""MetaImage, NRRD and NIfTI against SimpleITK: what one writes, the other reads, voxel by voxel and millimetre by millimetre."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.images import is_volume
from medseg.volumes import read_header, read_label_volume, read_volume, same_affine, verify_volume, volume_stem, write_volume

TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
RAS = np.diag([-1.0, -1, 1, 1])  # ITK's world is LPS
ANGLES = st.tuples(*[st.floats(-3.1, 3.1)] * 3)
ZOOMS = st.tuples(*[st.floats(0.2, 5)] * 3)
ORIGINS = st.tuples(*[st.floats(-300, 300)] * 3)
SIGNS = st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)


def itk_image(array: np.ndarray, turn: np.ndarray, zooms: tuple[float, ...], origin: tuple[float, ...]) -> sitk.Image:
    """An image of an array (X, Y, Z[, C]) with the direction cosines `turn` in LPS."""
    image = sitk.GetImageFromArray(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), isVector=array.ndim == 4)
    image.SetDirection(turn.ravel().tolist())
    image.SetSpacing(zooms)
    image.SetOrigin(origin)
    return image


def itk_array(image: sitk.Image) -> np.ndarray:
    """(X, Y, Z[, C]) of an image of three dimensions."""
    return np.moveaxis(sitk.GetArrayFromImage(image), (0, 1, 2), (2, 1, 0))


def itk_affine(image: sitk.Image) -> np.ndarray:
    """Index -> mm in RAS of the first three axes."""
    dims = image.GetDimension()
    turn = np.reshape(image.GetDirection(), (dims, dims))[:3, :3]
    return RAS @ nib.affines.from_matvec(turn @ np.diag(image.GetSpacing()[:3]), image.GetOrigin()[:3])


def filled(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values over the whole range of a type; of real numbers, values of all sizes and what is no number."""
    rng = np.random.default_rng(sum(shape))
    if dtype.startswith("f"):
        values = (rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, shape)).astype(dtype)
        values.flat[:3] = [np.nan, np.inf, -np.inf]
        return values
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, np.dtype(dtype), endpoint=True)


def test_names() -> None:
    assert [is_volume(Path(name)) for name in ("a.mha", "b.NRRD", "c.mhd", "d.nhdr")] == [True, True, False, False]
    assert (volume_stem("b/x_0000.mha"), volume_stem("x.1.NRRD"), volume_stem("a.mhd")) == ("b/x_0000", "x.1", "a.mhd")


@settings(max_examples=40, deadline=None)
@given(
    shape=hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6),
    channels=st.sampled_from([0, 0, 2, 3]),
    dtype=st.sampled_from(TYPES),
    suffix=st.sampled_from([".mha", ".nrrd"]),
    compressed=st.booleans(),
    angles=ANGLES,
    signs=SIGNS,
    zooms=ZOOMS,
    origin=ORIGINS,
)
def test_all_that_simpleitk_writes(tmp_path_factory, shape, channels, dtype, suffix, compressed, angles, signs, zooms, origin) -> None:  # type: ignore[no-untyped-def]
    array = filled(dtype, (*shape, channels) if channels else shape)
    image = itk_image(array, nib.eulerangles.euler2mat(*angles) @ np.diag(signs), zooms, origin)
    path = tmp_path_factory.mktemp("v") / f"a{suffix}"
    sitk.WriteImage(image, path, useCompression=compressed)
    found, affine = read_volume(path)
    assert found.dtype == (np.float32 if "f" in dtype else np.dtype(dtype))
    with np.errstate(over="ignore"):
        assert np.array_equal(found, array.astype(found.dtype), equal_nan="f" in dtype)
    assert np.allclose(affine, itk_affine(image), rtol=0, atol=1e-9)
    header = verify_volume(path)
    assert (header.shape, header.channels, header.placed, header.dtype) == (shape, max(1, channels), True, np.dtype(dtype))
    assert np.allclose(header.spacing_mm, zooms, rtol=1e-9) and np.array_equal(header.affine, read_header(path).affine)
    assert header.orientation == "".join(nib.aff2axcodes(itk_affine(image)))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_labels_of_simpleitk(tmp_path: Path, suffix: str, dtype: str) -> None:
    mask = np.random.default_rng(0).integers(0, 256 if dtype != "u1" else 4, (4, 5, 6))
    sitk.WriteImage(itk_image(mask.astype(dtype), np.eye(3), (1, 2, 3), (0, 0, 0)), tmp_path / f"a{suffix}", useCompression=True)
    found = read_label_volume(tmp_path / f"a{suffix}")
    assert found.dtype == np.uint8 and np.array_equal(found, mask)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_four_axes_of_simpleitk_are_channels(tmp_path: Path, suffix: str) -> None:
    values = filled("i2", (6, 5, 4, 3))  # t, z, y, x
    image = sitk.GetImageFromArray(values, isVector=False)
    image.SetSpacing((1.5, 2, 3, 7))
    image.SetOrigin((4, 5, 6, 9))
    sitk.WriteImage(image, tmp_path / f"a{suffix}")
    array, affine = read_volume(tmp_path / f"a{suffix}")
    assert np.array_equal(array, values.transpose(3, 2, 1, 0)) and np.array_equal(affine, itk_affine(image))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_two_axes_of_simpleitk_are_a_slice(tmp_path: Path, suffix: str) -> None:
    values = filled("u2", (4, 3))
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.5, 2))
    image.SetOrigin((4, 5))
    image.SetDirection((0, -1, 1, 0))
    sitk.WriteImage(image, tmp_path / f"a{suffix}")
    array, affine = read_volume(tmp_path / f"a{suffix}")
    header = read_header(tmp_path / f"a{suffix}")
    assert np.array_equal(array[:, :, 0], values.T) and header.shape == (3, 4, 1)
    assert header.spacing_mm == (1.5, 2, 1) and not header.placed
    assert affine.tolist() == [[0, 2, 0, -4], [-1.5, 0, 0, -5], [0, 0, 1, 0], [0, 0, 0, 1]]


@settings(max_examples=20, deadline=None)
@given(angles=ANGLES, zooms=ZOOMS, origin=ORIGINS, dtype=st.sampled_from(["u1", "i2", "f4"]), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_nifti_of_nibabel_and_of_ours_is_the_same_to_simpleitk(tmp_path_factory, angles, zooms, origin, dtype, suffix) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("v")
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles) @ np.diag(zooms), origin)
    image = nib.Nifti1Image(filled(dtype, (4, 5, 6)), affine)
    image.set_qform(affine, 1)
    nib.save(image, folder / f"a{suffix}")
    write_volume(folder / f"b{suffix}", filled(dtype, (4, 5, 6)), affine)
    for name in "ab":
        theirs = sitk.ReadImage(folder / f"{name}{suffix}")
        array, found = read_volume(folder / f"{name}{suffix}")
        finite = np.where(np.isfinite(array), array, 0)  # of NIfTI alone, ITK (5.4) reads NaN and infinity as 0
        assert np.array_equal(finite, itk_array(theirs)) and same_affine(found, itk_affine(theirs))
        assert np.array_equal(array, filled(dtype, (4, 5, 6)), equal_nan=True)
