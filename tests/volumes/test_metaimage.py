"""MetaImage headers by hand: what they mean, which are refused, and that hostile ones cost no memory."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medseg.errors import ImageError
from medseg.volumes import forms_disagree, id_counts, read_header, read_label_volume, read_volume, verify_volume
from medseg.volumes.fields import MAX_HEADER
from tests.test_volumes import REFUSED, peak_mib

READERS = (read_header, read_volume, read_label_volume, verify_volume)
VOXELS = bytes(range(120))


def header(**changes: str | None) -> bytes:
    """The header of 4 x 5 x 6 voxels of uint8, 1 x 2 x 3 mm; `changes` replace lines by key or take them out, others follow NDims."""
    fields: dict[str, str | None] = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "7 8 9", "ElementSpacing": "1 2 3", "DimSize": "4 5 6",
        "ElementType": "MET_UCHAR",
    }  # fmt: skip
    first = {key: fields[key] for key in ("ObjectType", "NDims")}  # where SimpleITK, too, wants them
    fields = first | {key: value for key, value in changes.items() if key not in fields} | fields | changes
    last = fields.pop("ElementDataFile", "LOCAL")
    lines = [f"{key} = {value}" for key, value in fields.items() if value is not None]
    return "\n".join([*lines, *([f"ElementDataFile = {last}"] if last else []), ""]).encode()


def save(folder: Path, content: bytes) -> Path:
    (folder / "a.mha").write_bytes(content)
    return folder / "a.mha"


@pytest.mark.parametrize(
    ("changes", "affine"),
    [
        ({}, [[-1, 0, 0, -7], [0, -2, 0, -8], [0, 0, 3, 9], [0, 0, 0, 1]]),
        ({"TransformMatrix": "0 1 0 -1 0 0 0 0 -1"}, [[0, 2, 0, -7], [-1, 0, 0, -8], [0, 0, -3, 9], [0, 0, 0, 1]]),
        ({"Offset": None, "Position": "7 8 9"}, [[-1, 0, 0, -7], [0, -2, 0, -8], [0, 0, 3, 9], [0, 0, 0, 1]]),
        ({"Offset": None, "Origin": "7 8 9"}, [[-1, 0, 0, -7], [0, -2, 0, -8], [0, 0, 3, 9], [0, 0, 0, 1]]),
        ({"Offset": None}, [[-1, 0, 0, 0], [0, -2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]),
        ({"TransformMatrix": None, "Orientation": "1 0 0 0 0 1 0 1 0"}, [[-1, 0, 0, -7], [0, 0, -3, -8], [0, 2, 0, 9], [0, 0, 0, 1]]),
        ({"ElementSpacing": None, "ElementSize": "1 2 3"}, [[-1, 0, 0, -7], [0, -2, 0, -8], [0, 0, 3, 9], [0, 0, 0, 1]]),
    ],
)
def test_affines_are_those_of_simpleitk(tmp_path: Path, changes: dict[str, str | None], affine: list[list[float]]) -> None:
    path = save(tmp_path, header(**changes) + VOXELS)
    found = read_header(path)
    assert found.affine.tolist() == affine and found.placed and not forms_disagree(path)
    image = sitk.ReadImage(path)
    for index in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5)):
        ras = np.array([-1, -1, 1]) * image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(ras, (found.affine @ [*index, 1])[:3])


def test_without_directions_the_axes_are_itks_and_the_file_unplaced(tmp_path: Path) -> None:
    found = read_header(save(tmp_path, header(TransformMatrix=None) + VOXELS))
    assert (found.orientation, found.placed, found.spacing_mm) == ("LPS", False, (1, 2, 3))


def test_units_count(tmp_path: Path) -> None:
    found = read_header(save(tmp_path, header(DistanceUnits="cm") + VOXELS))
    assert found.spacing_mm == (10, 20, 30) and found.affine[:3, 3].tolist() == [-70, -80, 90]
    assert read_header(save(tmp_path, header(DistanceUnits="?") + VOXELS)).spacing_mm == (1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"ElementType": "MET_USHORT", "BinaryDataByteOrderMSB": "True"}, ">u2"),
        ({"ElementType": "MET_DOUBLE", "BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "True"}, ">f8"),
        ({"ElementType": "MET_LONG"}, "<i4"),
        ({"ElementType": "MET_ULONG", "BinaryData": None}, "<u4"),
        ({"ElementType": "MET_SHORT_ARRAY"}, "<i2"),
    ],
)
def test_types_and_byte_orders_are_those_of_simpleitk(tmp_path: Path, changes: dict[str, str | None], dtype: str) -> None:
    values = np.arange(120).reshape(4, 5, 6).astype(dtype)
    path = save(tmp_path, header(**changes) + values.tobytes("F"))
    assert read_header(path).dtype == np.dtype(dtype)
    assert np.array_equal(read_volume(path)[0], values) and np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)).T, values)


def test_channels_lie_side_by_side(tmp_path: Path) -> None:
    path = save(tmp_path, header(DimSize="4 5 3", ElementNumberOfChannels="2") + VOXELS)
    array, _ = read_volume(path)
    assert array.shape == (4, 5, 3, 2) and array[0, 0, 0].tolist() == [0, 1] and array[1, 0, 0].tolist() == [2, 3]
    with pytest.raises(ImageError, match="three axes, this one is 4 x 5 x 3 x 2"):
        read_label_volume(path)


def test_lines_may_end_as_on_windows_and_compressed_data_as_gzip(tmp_path: Path) -> None:
    path = save(tmp_path, header().replace(b"\n", b"\r\n") + VOXELS)
    assert read_volume(path)[0].ravel("F").tobytes() == VOXELS
    packed = gzip.compress(VOXELS)
    path = save(tmp_path, header(CompressedData="True", CompressedDataSize=str(len(packed))) + packed)
    assert np.array_equal(read_volume(path)[0].T, sitk.GetArrayFromImage(sitk.ReadImage(path)))


def test_the_words_of_other_formats_are_passed_by(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.diag([1, 2, 3, 1])), tmp_path / "a.nii")
    image = sitk.ReadImage(tmp_path / "a.nii")
    image.SetMetaData("0008|0005", "two\nlines = 1")
    sitk.WriteImage(image, tmp_path / "a.mha")
    assert b"dim[0] = 3\n" in (tmp_path / "a.mha").read_bytes()
    one, other = read_volume(tmp_path / "a.nii"), read_volume(tmp_path / "a.mha")
    assert np.array_equal(one[0], other[0]) and np.allclose(one[1], other[1])


def test_one_slice(tmp_path: Path) -> None:
    found = read_header(save(tmp_path, header(DimSize="4 30 1") + VOXELS))
    assert (found.shape, found.spacing_mm, found.placed) == ((4, 30, 1), (1, 2, 3), True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DimSize": "30000 30000 30000"}, r"30000 x 30000 x 30000 voxels, the limit is 536,870,912"),
        ({"DimSize": "4 5"}, r"DimSize must be 3 whole numbers of 1 or more, it is '4 5'"),
        ({"DimSize": "4 5 0"}, "DimSize must be 3 whole numbers"),
        ({"DimSize": "4 5 -6"}, "DimSize must be 3 whole numbers"),
        ({"DimSize": "4 5 6.5"}, "DimSize must be 3 whole numbers"),
        ({"DimSize": "4 5 " + "9" * 5000}, "DimSize must be 3 whole numbers"),
        ({"DimSize": None}, "has no DimSize"),
        ({"NDims": "5", "DimSize": "1 1 1 1 1"}, "5 axes; a volume has three"),
        ({"NDims": "1", "DimSize": "120"}, "1 axes; a volume has three"),
        ({"NDims": "four"}, "NDims must be 1 whole number of 1"),
        (
            {"NDims": "4", "DimSize": "2 2 2 3", "ElementNumberOfChannels": "5", "TransformMatrix": None, "Offset": None,
             "ElementSpacing": "1 1 1 1"}, "5 axes .2 x 2 x 2 x 3 x 5.",
        ),
        (
            {"NDims": "4", "DimSize": "2 2 2 3", "TransformMatrix": "1 0 0 1 0 1 0 0 0 0 1 0 0 0 0 1", "Offset": None,
             "ElementSpacing": "1 1 1 1"}, "turns space into the fourth axis",
        ),
        ({"ElementSpacing": "0 1 1"}, "spacing must be positive, the header's ElementSpacing says 0, 1, 1"),
        ({"ElementSpacing": "1 -1 1"}, "spacing must be positive, .* 1, -1, 1"),
        ({"ElementSpacing": "1 nan 1"}, "spacing must be positive, .* 1, nan, 1"),
        ({"ElementSpacing": "1 inf 1"}, "spacing must be positive, .* 1, inf, 1"),
        ({"ElementSpacing": "1 1"}, "ElementSpacing must be 3 numbers, it is '1 1'"),
        ({"ElementSpacing": "1 1 x"}, "ElementSpacing must be 3 numbers"),
        ({"ElementSpacing": None}, "has no ElementSpacing; export it with its spacing"),
        ({"TransformMatrix": "1 0 0 0 1 0 1 0 0"}, "affine is not finite or flat"),
        ({"TransformMatrix": "0 0 0 0 1 0 0 0 1"}, "affine is not finite or flat"),
        ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "affine is not finite or flat"),
        ({"TransformMatrix": "1e308 0 0 0 1 0 0 0 1"}, "affine is not finite or flat"),
        ({"TransformMatrix": "1 0 0 1"}, "TransformMatrix must be 9 numbers"),
        ({"Offset": "inf 0 0"}, "affine is not finite or flat"),
        ({"Offset": "1 2"}, "Offset must be 3 numbers"),
        ({"Position": "1 2 3"}, "Offset and Position contradict each other"),
        ({"Rotation": "1 0 0 0 1 0 0 0 -1"}, "TransformMatrix and Rotation contradict"),
        ({"ElementType": "MET_STRING"}, "of type MET_STRING"),
        ({"ElementType": "bool"}, "of type bool"),
        ({"ElementType": None}, "has no ElementType"),
        ({"BinaryData": "False"}, "written as text"),
        ({"BinaryData": "maybe"}, "BinaryData must be True or False, it is 'maybe'"),
        ({"ObjectType": "Tube"}, "ObjectType must be Image"),
        ({"HeaderSize": "-1"}, "HeaderSize must be 0"),
        ({"ElementToIntensityFunctionSlope": "2"}, "ElementToIntensityFunctionSlope must be 1"),
        ({"ElementDataFile": "a.raw"}, r"the header alone; its voxels lie in another file .a.raw.; save it as one file"),
        ({"ElementDataFile": "LIST"}, "lie in another file .LIST."),
        ({"CompressedData": "True", "CompressedDataSize": "0"}, "CompressedDataSize must be 1 whole number of 1"),
        ({"CompressedData": "True", "CompressedDataSize": "9000"}, "truncated: .* bytes, its header needs"),
    ],
)  # fmt: skip
def test_headers_that_are_refused(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    path = save(tmp_path, header(**changes) + VOXELS)
    for read in READERS:
        with pytest.raises(ImageError, match=message):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file ends within its header"),
        (header(ElementDataFile=""), "the file ends within its header"),
        (b"\x89PNG\r\n\x1a\n" + VOXELS, "not a MetaImage file"),
        (b"ObjectType Image\n", "not a MetaImage file"),
        (b"A" + b" " * (MAX_HEADER // 2) + b"\n", "not a MetaImage file"),
        (b"NDims = 3\nNDims = 3\n", "says NDims twice"),
        (b"Comment = a\n" * (MAX_HEADER // 12 + 1), "does not end within 1,048,576 bytes"),
        (b"Comment = " + b"a" * (2 * MAX_HEADER), "does not end within 1,048,576 bytes"),
    ],
)
def test_what_is_no_whole_header(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_header(save(tmp_path, content))


def test_a_header_alone_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_bytes(header(ElementDataFile="a.raw"))
    with pytest.raises(
        ImageError, match=r"a.mhd: a header alone; its voxels lie in another file; save it as one file: .mha, .nrrd or .nii.gz"
    ):
        read_header(tmp_path / "a.mhd")


PACKED = header(CompressedData="True")
DEFLATED = zlib.compress(VOXELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header() + VOXELS[:-1], r"truncated: \d+ bytes, its header needs"),
        (header() + VOXELS + bytes(5000), "goes on after the last voxel"),
        (PACKED + DEFLATED[:-30], "truncated or damaged .its compressed stream breaks off"),
        (PACKED + DEFLATED[:-1], "truncated or damaged"),
        (PACKED + DEFLATED[:-4] + b"\1\2\3\4", "truncated or damaged"),
        (PACKED + b"no zlib" * 30, "truncated or damaged"),
        (PACKED, "truncated or damaged"),
        (PACKED + zlib.compress(VOXELS[:-1]), "truncated: 119 bytes of voxels, its header needs 120"),
        (PACKED + zlib.compress(VOXELS + bytes(5000)), "goes on after the last voxel"),
    ],
)
def test_truncated_and_overlong_voxels(tmp_path: Path, content: bytes, message: str) -> None:
    for read in (read_volume, read_label_volume, verify_volume):
        with pytest.raises(ImageError, match=message):
            read(save(tmp_path, content))
    assert id_counts(read_label_volume(save(tmp_path, PACKED + DEFLATED))).sum() == 120


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packed=st.booleans(), at=st.integers(0, 400), put=st.binary(max_size=6), cut=st.integers(0, 6))
@example(packed=False, at=0, put=b"\xff", cut=0)
def test_spoilt_bytes_end_in_one_error(tmp_path: Path, packed: bool, at: int, put: bytes, cut: int) -> None:
    whole = PACKED + DEFLATED if packed else header() + VOXELS
    path = save(tmp_path, whole[:at] + put + whole[at + cut :])
    for read in READERS:
        try:
            read(path)
        except ImageError as error:
            assert error.fix


@pytest.mark.slow
def test_a_header_bomb_and_a_zlib_bomb_stay_small(tmp_path: Path) -> None:
    """A header of 512 million voxels before nothing; 2 GiB of zeros behind a header of 120 voxels."""
    claims = save(tmp_path, header(CompressedData="True", DimSize="800 800 800") + DEFLATED)
    peak, output = peak_mib(REFUSED, claims)
    assert output.split("\n")[1:] == ["the volume is truncated: 120 bytes of voxels, its header needs 512,000,000"] * 3 and peak < 300
    deflate = zlib.compressobj(1)
    bomb = save(tmp_path, PACKED + b"".join(deflate.compress(bytes(2**24)) for _ in range(128)) + deflate.flush())
    peak, output = peak_mib(REFUSED, bomb)
    assert output.split("\n") == ["read", *["it goes on after the last voxel that its header knows of"] * 3] and peak < 300
