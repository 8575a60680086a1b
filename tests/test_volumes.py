"""Volume files: what is written is read back, nibabel agrees, and hostile headers and streams cost no memory."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.errors import ImageError
from medseg.images import is_volume
from medseg.volumes import (
    forms_disagree,
    id_counts,
    read_header,
    read_label_volume,
    read_volume,
    same_affine,
    verify_volume,
    volume_stem,
    write_labels,
    write_volume,
)  # fmt: skip

READERS = (read_header, read_volume, read_label_volume, verify_volume)


def affine_of(angles: tuple[float, float, float], zooms: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    """Rotations about x, y and z (rad), spacing (mm), position of the first voxel (mm)."""
    turn = nib.eulerangles.euler2mat(*angles)
    return nib.affines.from_matvec(turn @ np.diag(zooms), origin)


def block(**fields: object) -> bytearray:
    """The 352 bytes before the voxels of a 4 x 5 x 6 uint8 volume, 1 mm; `fields` replace header values by name, unchecked."""
    header = nib.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), 1)
    header.set_data_offset(352)
    for name, value in fields.items():
        header.structarr[name] = value
    return bytearray(header.structarr.tobytes() + b"\0" * 4)


def save(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_names() -> None:
    assert [is_volume(Path(name)) for name in ("a.nii", "b.NII.GZ", "c.gz", "d.png")] == [True, True, False, False]
    assert volume_stem("b/x_0000.nii.gz") == "b/x_0000"


@settings(max_examples=60, deadline=None)
@given(
    array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 255)),
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    zooms=st.tuples(*[st.floats(0.2, 5)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
def test_labels_come_back_as_written(tmp_path_factory, array, angles, zooms, origin, suffix) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("v") / f"a{suffix}"
    affine = affine_of(angles, zooms, origin)
    write_labels(path, array, affine)
    assert np.array_equal(read_label_volume(path), array) and np.array_equal(np.asarray(nib.load(path).dataobj), array)
    header = read_header(path)
    assert header.shape == array.shape and same_affine(affine, header.affine) and not forms_disagree(path)
    assert np.allclose(header.spacing_mm, zooms, rtol=1e-5)
    assert header.orientation == "".join(nib.aff2axcodes(nib.load(path).affine))


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "u2", "i4", "f4", ">f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_equal_nibabel(tmp_path: Path, dtype: str, suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 200, (3, 4, 5, 2)).astype(dtype)
    image = nib.Nifti1Image(values, np.eye(4), dtype=np.dtype(dtype))
    if dtype.startswith(">"):
        image = nib.Nifti1Image(values, np.eye(4), nib.Nifti1Header(endianness=">"), dtype=np.dtype(dtype))
    nib.save(image, tmp_path / f"a{suffix}")
    array, _ = read_volume(tmp_path / f"a{suffix}")
    assert np.array_equal(array, np.asarray(nib.load(tmp_path / f"a{suffix}").dataobj)) and array.dtype.isnative
    assert array.dtype == (np.float32 if "f" in dtype else np.dtype(dtype).newbyteorder("="))
    assert read_header(tmp_path / f"a{suffix}").channels == 2


def test_scaling_is_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", bytes(block(scl_slope=0.5, scl_inter=-10)) + bytes(range(120)))
    array, _ = read_volume(path)
    assert array.dtype == np.float32 and np.array_equal(array, nib.load(path).get_fdata(dtype=np.float32))
    save(path, bytes(block(scl_slope=1 / 50)) + bytes([0, 50, 100] * 40))
    assert read_label_volume(path).ravel(order="F")[:3].tolist() == [0, 1, 2]


def test_nifti2_units_and_trailing_axis(tmp_path: Path) -> None:
    image = nib.Nifti2Image(np.ones((3, 4, 5, 1), np.int16), np.diag([200, 300, 400, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii")
    assert (header.shape, header.channels) == ((3, 4, 5), 1) and np.allclose(header.spacing_mm, (0.2, 0.3, 0.4))
    assert read_label_volume(tmp_path / "a.nii").shape == (3, 4, 5)


def test_equal_arrays_make_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        write_volume(tmp_path / f"{name}.nii.gz", np.ones((3, 4, 5), np.int16), np.eye(4))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    with pytest.raises(ImageError, match="40000 voxels along one axis"):
        write_volume(tmp_path / "c.nii", np.ones((40_000, 1, 1), np.int16), np.eye(4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_a_sheared_grid_is_kept(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    write_volume(tmp_path / "a.nii", np.ones((3, 4, 5), np.int16), affine)
    assert same_affine(affine, read_header(tmp_path / "a.nii").affine) and not forms_disagree(tmp_path / "a.nii")


OBLIQUE = affine_of((0.1, 0.07, 0.03), (0.7, 0.9, 2.1), (3.3, -7.7, 1.1))


@pytest.mark.parametrize(("sform", "qform"), [(0, 1), (2, 1), (4, 0), (0, 0), (1, 1)])
def test_a_label_volume_lies_as_its_image_bit_for_bit(tmp_path: Path, sform: int, qform: int) -> None:
    """A quaternion's matrix is in float64 and fits in no sform; programs that prefer either form find both files in one place."""
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), OBLIQUE)
    image.set_qform(OBLIQUE if qform else None, qform)
    image.set_sform(OBLIQUE if sform else None, sform)
    if sform and qform:
        image.set_qform(np.diag([-1.0, 1, 1, 1]) @ OBLIQUE, qform)
    nib.save(image, tmp_path / "image.nii.gz")
    affine = read_header(tmp_path / "image.nii.gz").affine
    write_labels(tmp_path / "mask.nii.gz", np.ones((3, 4, 5)), affine, like=tmp_path / "image.nii.gz")
    found, source = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "image.nii.gz")
    assert np.array_equal(found.affine, source.affine) and np.array_equal(read_header(tmp_path / "mask.nii.gz").affine, affine)
    assert np.array_equal(found.get_qform(), source.get_qform()) and found.get_data_dtype() == np.uint8
    assert (found.get_sform(coded=True)[1], found.get_qform(coded=True)[1]) == (sform, qform)


def test_a_label_volume_lies_as_its_image_whatever_that_is(tmp_path: Path) -> None:
    metres = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), OBLIQUE)
    metres.header.set_xyzt_units("meter")
    nib.save(metres, tmp_path / "metres.nii")
    nib.save(nib.Nifti2Image(np.zeros((3, 4, 5), np.int16), OBLIQUE), tmp_path / "two.nii")
    save(tmp_path / "flat.nii", bytes(block(dim=[2, 4, 5, 1, 1, 1, 1, 1], pixdim=[0, 1, 1, 0, 0, 0, 0, 0])) + bytes(20))
    for name in ("metres", "two", "flat"):
        header = read_header(tmp_path / f"{name}.nii")
        write_labels(tmp_path / "mask.nii.gz", np.ones(header.shape), header.affine, like=tmp_path / f"{name}.nii")
        assert same_affine(read_header(tmp_path / "mask.nii.gz").affine, header.affine), name
        assert same_affine(nib.load(tmp_path / "mask.nii.gz").affine, header.affine), name


def test_forms_that_disagree(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4))
    image.set_qform(np.eye(4), 1)
    image.set_sform(np.diag([-1.0, 1, 1, 1]), 1)
    nib.save(image, tmp_path / "flipped.nii")
    assert forms_disagree(tmp_path / "flipped.nii")
    assert forms_disagree(save(tmp_path / "zooms.nii", bytes(block(pixdim=[1, 2, 1, 1, 0, 0, 0, 0])) + bytes(120)))
    assert forms_disagree(save(tmp_path / "quatern.nii", bytes(block(qform_code=1, quatern_b=3)) + bytes(120)))
    assert not forms_disagree(save(tmp_path / "good.nii", bytes(block()) + bytes(120)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0.5], r"whole numbers, found 0.5; resample labels by the nearest"),
        ([0, np.nan], r"whole numbers, found nan"),
        ([0, np.inf], r"whole numbers, found inf"),
        ([0, -1], r"must lie in 0..255, found -1..0"),
        ([0, 256], r"must lie in 0..255, found 0..256"),
    ],
)
def test_values_that_are_no_ids(tmp_path: Path, values: list[float], message: str) -> None:
    nib.save(nib.Nifti1Image(np.array(values * 4, np.float32).reshape(2, 2, 2), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match=message):
        read_label_volume(tmp_path / "a.nii.gz")


def test_whole_floats_are_ids_and_channels_are_not(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.array([0, 7] * 4, np.float64).reshape(2, 2, 2), np.eye(4)), tmp_path / "a.nii.gz")
    assert id_counts(read_label_volume(tmp_path / "a.nii.gz"))[[0, 7]].tolist() == [4, 4]
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.uint8), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(ImageError, match="three axes, this one is 2 x 2 x 2 x 3"):
        read_label_volume(tmp_path / "b.nii.gz")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, 30_000, 30_000, 30_000, 1, 1, 1, 1]}, r"30000 x 30000 x 30000 voxels, the limit is 536,870,912"),
        ({"dim": [5, 2, 2, 2, 2, 2, 1, 1]}, "5 axes .2 x 2 x 2 x 2 x 2."),
        ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, "dimensions make no sense"),
        ({"dim": [9, 4, 5, 6, 1, 1, 1, 1]}, "dimensions make no sense"),
        ({"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, r"spacing must be positive, the header's pixdim says 0, 1, 1"),
        ({"pixdim": [1, -1, 1, 1, 0, 0, 0, 0]}, r"spacing must be positive, .* -1, 1, 1"),
        ({"pixdim": [1, np.nan, 1, 1, 0, 0, 0, 0]}, r"spacing must be positive, .* nan, 1, 1"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "affine is not finite or flat"),
        ({"srow_x": [0, 0, 0, 0]}, "affine is not finite or flat"),
        ({"srow_x": [0, 1, 0, 0]}, "affine is not finite or flat"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3}, "affine cannot be read"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, "affine (is not finite|cannot be read)"),
        ({"datatype": 32}, "of type complex64"),
        ({"datatype": 9999}, "unknown data type 9999"),
        ({"vox_offset": 1e30}, r"would begin at byte 1e\+30"),
        ({"vox_offset": 8}, "would begin at byte 8"),
        ({"scl_slope": 2, "scl_inter": np.inf}, "its scaling cannot be used"),
        ({"magic": b"ni1"}, "the header alone"),
        ({"magic": b"xyz"}, "not a NIfTI file"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_headers_that_are_refused(tmp_path: Path, fields: dict[str, object], message: str, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", bytes(block(**fields)) + bytes(120))
    for read in READERS:
        with pytest.raises(ImageError, match=message):
            read(path)


def test_truncated_and_overlong_files(tmp_path: Path) -> None:
    whole = bytes(block()) + bytes(np.random.default_rng(0).integers(0, 3, 120, np.uint8))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(gzip.compress(whole)[:-30])
    cases = {
        cut: "truncated or damaged",
        save(tmp_path / "short.nii", whole[:-1]): r"truncated: 471 bytes, its header needs 472",
        save(tmp_path / "short.nii.gz", whole[:-1]): r"truncated: 119 bytes of voxels, its header needs 120",
        save(tmp_path / "long.nii.gz", whole + bytes(5000)): "goes on after the last voxel",
        save(tmp_path / "empty.nii", b""): "not a NIfTI file",
        tmp_path / "none.nii": "there is no such file",
    }
    plain = tmp_path / "plain.nii.gz"
    plain.write_bytes(whole)
    broken = tmp_path / "crc.nii.gz"
    broken.write_bytes(gzip.compress(whole)[:-8] + b"\1\2\3\4" + gzip.compress(whole)[-4:])
    for path, message in {**cases, plain: "no whole gzip file", broken: "no whole gzip file"}.items():
        for read in (read_volume, read_label_volume, verify_volume):
            with pytest.raises(ImageError, match=message):
                read(path)
    assert read_label_volume(save(tmp_path / "padded.nii.gz", whole + bytes(8))).shape == (4, 5, 6)


def peak_mib(code: str, *arguments: object) -> tuple[int, str]:
    """(peak memory, output) of a fresh Python that runs `code`, with 3 GiB of address space at most."""
    # VmHWM, not ru_maxrss: that one is inherited from this process, which holds torch when the whole suite runs
    script = f"import sys\n{code}\nprint(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    limit = 3 * 1024**3
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    output, _, peak = done.stdout.rstrip().rpartition("\n")
    return int(peak) // 1024, output


REFUSED = "from medseg.volumes import *\nfrom medseg.errors import ImageError\nfrom pathlib import Path\n" + (
    "for read in (read_header, verify_volume, read_label_volume, read_volume):\n"
    "    try: read(Path(sys.argv[1])); print('read')\n"
    "    except ImageError as error: print(error.rule)"
)


@pytest.mark.slow
def test_a_header_bomb_and_a_gzip_bomb_stay_small(tmp_path: Path) -> None:
    """A header of 500 million voxels before nothing; 2 GiB of zeros behind a header of 120 voxels."""
    claims = save(tmp_path / "header.nii.gz", bytes(block(dim=[3, 800, 800, 800, 1, 1, 1, 1])))
    peak, output = peak_mib(REFUSED, claims)
    assert output.split("\n")[1:] == ["the volume is truncated: 0 bytes of voxels, its header needs 512,000,000"] * 3 and peak < 300
    bomb = tmp_path / "bomb.nii.gz"
    with gzip.GzipFile(bomb, "wb", compresslevel=1) as stream:
        stream.write(bytes(block()))
        for _ in range(128):
            stream.write(bytes(2**24))
    peak, output = peak_mib(REFUSED, bomb)
    assert output.split("\n") == ["read", *["it goes on after the last voxel that its header knows of"] * 3] and peak < 300


@pytest.mark.slow
def test_the_largest_label_volume_stays_under_1_gib(tmp_path: Path) -> None:
    path = tmp_path / "large.nii.gz"
    with gzip.GzipFile(path, "wb", compresslevel=1) as stream:
        stream.write(bytes(block(dim=[3, 1024, 1024, 512, 1, 1, 1, 1], datatype=64, bitpix=64)))
        for _ in range(256):
            stream.write(bytes(2**24))
    code = "from medseg.volumes import *\nfrom pathlib import Path\nprint(id_counts(read_label_volume(Path(sys.argv[1])))[0])"
    peak, output = peak_mib(code, path)
    assert output == str(2**29) and peak < 1024
