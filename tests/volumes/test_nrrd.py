"""NRRD headers by hand: what they mean, which are refused, and that hostile ones cost no memory."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import ImageError
from medseg.volumes import forms_disagree, id_counts, read_header, read_label_volume, read_volume, verify_volume
from medseg.volumes.fields import MAX_HEADER
from tests.test_volumes import REFUSED, peak_mib

READERS = (read_header, read_volume, read_label_volume, verify_volume)
VOXELS = bytes(range(120))
FOUR = {"dimension": "4", "sizes": "2 4 5 3", "kinds": None, "space directions": "none (1,0,0) (0,2,0) (0,0,3)"}


def header(changes: dict[str, str | None] | None = None, magic: str = "NRRD0004") -> bytes:
    """The header of 4 x 5 x 6 voxels of uint8, 1 x 2 x 3 mm in LPS; `changes` replace fields by name, add or take them out."""
    fields: dict[str, str | None] = {
        "type": "uint8", "dimension": "3", "space": "left-posterior-superior", "space dimension": None, "sizes": "4 5 6",
        "space directions": "(1,0,0) (0,2,0) (0,0,3)", "kinds": "domain domain domain", "encoding": "raw", "space origin": "(7,8,9)",
    }  # fmt: skip
    lines = [f"{key}: {value}" for key, value in (fields | (changes or {})).items() if value is not None]
    return "\n".join([magic, "# a comment", *lines, "DWMRI_b-value:=1000: or so", "", ""]).encode()


def save(folder: Path, content: bytes) -> Path:
    (folder / "a.nrrd").write_bytes(content)
    return folder / "a.nrrd"


@pytest.mark.parametrize(
    ("changes", "orientation", "placed"),
    [
        ({}, "LPS", True),
        ({"space": "LPS"}, "LPS", True),
        ({"space": "right-anterior-superior"}, "RAS", True),
        ({"space": "RAS"}, "RAS", True),
        ({"space": "left-anterior-superior"}, "LAS", True),
        ({"space": "LAS"}, "LAS", True),
        ({"space": "scanner-xyz"}, "LPS", False),
        ({"space": None, "space dimension": "3"}, "LPS", False),
        ({"space directions": "(0,0,1) (-2,0,0) (0,-3,0)"}, "SRA", True),
        ({"space directions": "(0.6,0.8,0) (-0.8,0.6,0.0) (0,0,1)", "space": "RAS"}, "ALS", True),
        ({"space": None, "space directions": None, "space origin": None, "spacings": "1 2 3"}, "LPS", False),
        ({"space": None, "space directions": None, "space origin": None, "kinds": None, "spacings": "1 2 3"}, "LPS", False),
    ],
)
def test_affines_are_those_of_simpleitk(tmp_path: Path, changes: dict[str, str | None], orientation: str, placed: bool) -> None:
    path = save(tmp_path, header(changes) + VOXELS)
    found = read_header(path)
    assert (found.orientation, found.placed, forms_disagree(path)) == (orientation, placed, False)
    image = sitk.ReadImage(path)
    for index in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5)):
        ras = np.array([-1, -1, 1]) * image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(ras, (found.affine @ [*index, 1])[:3])


def test_an_affine_by_hand(tmp_path: Path) -> None:
    found = read_header(save(tmp_path, header({"space": "LAS", "space directions": "(0,-1,0) (2,0,0) (0,0,3)"}) + VOXELS))
    assert found.affine.tolist() == [[0, -2, 0, -7], [-1, 0, 0, 8], [0, 0, 3, 9], [0, 0, 0, 1]] and found.spacing_mm == (1, 2, 3)


def test_units_count(tmp_path: Path) -> None:
    found = read_header(save(tmp_path, header({"space units": '"cm" "cm" "cm"'}) + VOXELS))
    assert found.spacing_mm == (10, 20, 30) and found.affine[:3, 3].tolist() == [-70, -80, 90]
    bare: dict[str, str | None] = {
        "space": None,
        "space directions": None,
        "space origin": None,
        "spacings": "1 2 3",
        "units": '"um" "mm" ""',
    }
    assert np.allclose(read_header(save(tmp_path, header(bare) + VOXELS)).spacing_mm, (0.001, 2, 3))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("unsigned short", ">u2"), ("short int", "<i2"), ("int64_t", ">i8"), ("float", ">f4"), ("double", "<f8"), ("signed char", "i1")],
)
def test_types_and_byte_orders_are_those_of_simpleitk(tmp_path: Path, name: str, dtype: str) -> None:
    values = np.arange(120).reshape(4, 5, 6).astype(dtype)
    path = save(tmp_path, header({"type": name, "endian": "big" if dtype[0] == ">" else "little"}) + values.tobytes("F"))
    assert read_header(path).dtype == np.dtype(dtype)
    assert np.array_equal(read_volume(path)[0], values) and np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)).T, values)


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, True),
        ({"kinds": "list domain domain domain"}, True),
        ({"sizes": "4 5 3 2", "space directions": "(1,0,0) (0,2,0) (0,0,3) none"}, False),
        ({"sizes": "4 5 3 2", "space directions": None, "spacings": "1 2 3 nan", "kinds": "domain domain domain list"}, False),
        ({"sizes": "4 5 3 2", "space": "left-posterior-superior-time", "space origin": "(7,8,9,0)",
          "space directions": "(1,0,0,0) (0,2,0,0) (0,0,3,0) (0,0,0,1.5)"}, False),
    ],
)  # fmt: skip
def test_the_axis_outside_space_holds_the_channels(tmp_path: Path, changes: dict[str, str | None], first: bool) -> None:
    path = save(tmp_path, header(FOUR | changes) + VOXELS)
    array, _ = read_volume(path)
    found = read_header(path)
    assert (found.shape, found.channels, found.spacing_mm) == ((4, 5, 3), 2, (1, 2, 3))
    assert array.shape == (4, 5, 3, 2) and array[:2, 0, 0].tolist() == ([[0, 1], [2, 3]] if first else [[0, 60], [1, 61]])
    with pytest.raises(ImageError, match="three axes, this one is 4 x 5 x 3 x 2"):
        read_label_volume(path)


def test_one_slice_and_a_picture_in_space(tmp_path: Path) -> None:
    found = read_header(save(tmp_path, header({"sizes": "4 30 1"}) + VOXELS))
    assert (found.shape, found.spacing_mm, found.placed) == ((4, 30, 1), (1, 2, 3), True)
    flat = {"dimension": "2", "sizes": "4 30", "kinds": None, "space directions": "(1,0,0) (0,0,-2)"}
    found = read_header(save(tmp_path, header(flat) + VOXELS))
    assert (found.shape, found.spacing_mm, found.orientation) == ((4, 30, 1), (1, 2, 1), "LIP")
    assert read_label_volume(tmp_path / "a.nrrd").shape == (4, 30, 1)


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    path = save(tmp_path, header().replace(b"\n", b"\r\n") + VOXELS)
    assert read_volume(path)[0].ravel("F").tobytes() == VOXELS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": "30000 30000 30000"}, r"30000 x 30000 x 30000 voxels, the limit is 536,870,912"),
        ({"sizes": "4 5"}, "dimension must be 2, as there are sizes, it is '3'"),
        ({"sizes": "4 5 0"}, "sizes must be whole numbers of 1 or more"),
        ({"sizes": "4 5 " + "9" * 5000}, "sizes must be whole numbers of 1 or more"),
        ({"sizes": None}, "has no sizes"),
        ({"dimension": None}, "has no dimension"),
        ({"dimension": "5", "sizes": "1 1 1 1 1"}, "5 axes; a volume has three"),
        ({"dimension": "1", "sizes": "120", "kinds": None, "space directions": "(1,0,0)"}, "gives 1 axes in space"),
        (FOUR | {"sizes": "4 2 5 3", "space directions": "(1,0,0) none (0,2,0) (0,0,3)"}, "neither the first nor the last axis"),
        (FOUR | {"space directions": "(1,0,0) (0,2,0) (0,0,3) (0,0,3)"}, "gives 0 of 4 axes for channels"),
        (FOUR | {"space directions": "none none (0,2,0) (0,0,3)"}, "gives 2 of 4 axes for channels"),
        (FOUR | {"space directions": None, "spacings": "1 1 1 1"}, "gives 0 of 4 axes for channels; .* export it with `kinds`"),
        (FOUR | {"space directions": "(1,0,0,0) (0,2,0,0) (0,0,3,0) (1,0,0,1)"}, "gives 0 of 4 axes for channels"),
        (FOUR | {"space directions": "(1,0,0,1) (0,2,0,0) (0,0,3,0) (0,0,0,1)"}, "space directions must be 3 vectors in space"),
        ({"kinds": "domain domain"}, "kinds must be 3 words"),
        ({"space directions": None}, "has neither space directions nor spacings; export it with its spacing"),
        ({"space directions": None, "spacings": "0 1 1"}, "spacing must be positive, the header's spacings says 0, 1, 1"),
        ({"space directions": None, "spacings": "1 1 nan"}, "spacing must be positive, .* 1, 1, nan"),
        ({"space directions": None, "spacings": "1 1"}, "spacings must be 3 numbers"),
        ({"space directions": "(0,0,0) (0,2,0) (0,0,3)"}, "affine is not finite or flat"),
        ({"space directions": "(1,0,0) (2,0,0) (0,0,3)"}, "affine is not finite or flat"),
        ({"space directions": "(nan,0,0) (0,2,0) (0,0,3)"}, "affine is not finite or flat"),
        ({"space directions": "(inf,0,0) (0,2,0) (0,0,3)"}, "affine is not finite or flat"),
        ({"space directions": "(1,0) (0,2) (0,0)"}, "space directions must be 3 vectors in space"),
        ({"space directions": "(1,0,0) (0,2) (0,0,3)"}, "space directions must be 3 vectors of one length"),
        ({"space directions": "(1,0,0) (0,2,0)"}, "space directions must be 3 vectors of one length"),
        ({"space directions": "(1,0,0) (0,2,0) (0,0,3) x"}, "space directions must be 3 vectors of one length"),
        ({"space directions": "(1,0,0) (0,2,0) (0,0,x)"}, "space directions must be 3 vectors of one length"),
        ({"space origin": "(nan,0,0)"}, "affine is not finite or flat"),
        ({"space origin": "(1,2)"}, "space origin must be a vector of 3 numbers"),
        ({"space origin": "none"}, "space origin must be a vector of 3 numbers"),
        ({"type": "block"}, "of type block"),
        ({"type": "bool"}, "of type bool"),
        ({"type": None}, "has no type"),
        ({"type": "short"}, "has no endian"),
        ({"type": "short", "endian": "middle"}, "endian must be little or big"),
        ({"encoding": "ascii"}, "its voxels are written as ascii"),
        ({"encoding": "bzip2"}, "its voxels are written as bzip2; export it with encoding raw or gzip"),
        ({"encoding": None}, "has no encoding"),
        ({"data file": "a.raw"}, r"the header alone; its voxels lie in another file .a.raw.; save it as one file"),
        ({"datafile": "LIST"}, "lie in another file .LIST."),
        ({"byte skip": "-1"}, "byte skip must be 0"),
        ({"lineskip": "3"}, "line skip must be 0"),
        ({"SIZES": "4 5 6"}, "says sizes twice"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    path = save(tmp_path, header(changes) + VOXELS)
    for read in READERS:
        with pytest.raises(ImageError, match=message):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a NRRD file"),
        (header(magic="NRRD0009"), "not a NRRD file .of version 1 to 5"),
        (b"\x89PNG\r\n\x1a\n" + VOXELS, "not a NRRD file"),
        (b"NRRD0004\n", "the file ends within its header"),
        (header().rstrip() + b"\n", "the file ends within its header"),
        (b"NRRD0004\nno field\n\n", "a line without a field .'no field'."),
        (b"NRRD0004\n" + b"# a comment\n" * (MAX_HEADER // 12 + 1), "does not end within 1,048,576 bytes"),
        (b"NRRD0004\nkey:=" + b"a" * (2 * MAX_HEADER), "does not end within 1,048,576 bytes"),
        (b"NRRD0004\nspace directions: " + b"(" * (MAX_HEADER // 2) + b"\nsizes: 4 5 6\n\n", "has no encoding"),
        (header({"space directions": "(" * (MAX_HEADER // 2)}), "space directions must be 3 vectors"),
    ],
)
def test_what_is_no_whole_header(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_header(save(tmp_path, content))


def test_a_header_alone_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.nhdr").write_bytes(header({"data file": "a.raw"}))
    with pytest.raises(
        ImageError, match=r"a.nhdr: a header alone; its voxels lie in another file; save it as one file: .mha, .nrrd or .nii.gz"
    ):
        read_volume(tmp_path / "a.nhdr")


PACKED = header({"encoding": "gzip"})
ZIPPED = gzip.compress(VOXELS, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header() + VOXELS[:-1], r"truncated: \d+ bytes, its header needs"),
        (header() + VOXELS + bytes(5000), "goes on after the last voxel"),
        (PACKED + ZIPPED[:-30], "truncated or damaged .its compressed stream breaks off"),
        (PACKED + ZIPPED[:-1], "truncated or damaged"),
        (PACKED + ZIPPED[:-8] + b"\1\2\3\4" + ZIPPED[-4:], "its header says gzip, but it is no whole gzip file"),
        (PACKED + VOXELS, "its header says gzip, but it is no whole gzip file"),
        (PACKED, "truncated: 0 bytes of voxels"),
        (PACKED + gzip.compress(VOXELS[:-1]), "truncated: 119 bytes of voxels, its header needs 120"),
        (PACKED + gzip.compress(VOXELS + bytes(5000)), "goes on after the last voxel"),
    ],
)
def test_truncated_and_overlong_voxels(tmp_path: Path, content: bytes, message: str) -> None:
    for read in (read_volume, read_label_volume, verify_volume):
        with pytest.raises(ImageError, match=message):
            read(save(tmp_path, content))
    assert id_counts(read_label_volume(save(tmp_path, PACKED + ZIPPED))).sum() == 120


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packed=st.booleans(), at=st.integers(0, 400), put=st.binary(max_size=6), cut=st.integers(0, 6))
def test_spoilt_bytes_end_in_one_error(tmp_path: Path, packed: bool, at: int, put: bytes, cut: int) -> None:
    whole = PACKED + ZIPPED if packed else header() + VOXELS
    path = save(tmp_path, whole[:at] + put + whole[at + cut :])
    for read in READERS:
        try:
            read(path)
        except ImageError as error:
            assert error.fix


@pytest.mark.slow
def test_a_header_bomb_and_a_gzip_bomb_stay_small(tmp_path: Path) -> None:
    """A header of 512 million voxels before nothing; 2 GiB of zeros behind a header of 120 voxels."""
    claims = save(tmp_path, header({"encoding": "gzip", "sizes": "800 800 800"}) + ZIPPED)
    peak, output = peak_mib(REFUSED, claims)
    assert output.split("\n")[1:] == ["the volume is truncated: 120 bytes of voxels, its header needs 512,000,000"] * 3 and peak < 300
    bomb = save(tmp_path, PACKED)
    with bomb.open("ab") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as stream:
        for _ in range(128):
            stream.write(bytes(2**24))
    peak, output = peak_mib(REFUSED, bomb)
    assert output.split("\n") == ["read", *["it goes on after the last voxel that its header knows of"] * 3] and peak < 300
