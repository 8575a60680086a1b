"""DICOM series written by pydicom and SEG written by highdicom: right voxels in the right place, and no name in what is written."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import shutil
import stat
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless, generate_uid

from medseg.errors import AnnotationError, ImageError, LabelError, ManifestError
from medseg.files import sha256_array
from medseg.manifest.importers.common import IMPORT_FILE
from medseg.manifest.importers.dicom import import_dicom
from medseg.manifest.importers.dicom_key import pseudonym
from medseg.manifest.importers.dicom_series import coded_size
from medseg.manifest.schema import Manifest, Row
from medseg.manifest.table import read_manifest
from medseg.volumes import read_header, read_label_volume, read_volume

ROWS, COLUMNS, DEPTH = 5, 7, 4
NAME, PATIENT, BORN, DAY = "Doe^Secretia", "PID-778899", "19700203", "20240506"
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)  # a coronal slice turned by 37 degrees
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def stored_values(seed: int = 0) -> np.ndarray:
    """(slices, rows, columns) as stored."""
    return np.random.default_rng(seed).integers(0, 2000, (DEPTH, ROWS, COLUMNS)).astype(np.uint16)


def make_slice(values: np.ndarray, position: Sequence[float], series: str, study: str = "1.2.3", **changes: Any) -> FileDataset:
    """One CT slice; `changes` replace elements, None removes one."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    elements = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "CT", "PatientName": NAME,
        "PatientID": PATIENT, "PatientBirthDate": BORN, "PatientSex": "F", "StudyDate": DAY, "StudyTime": "101112",
        "AccessionNumber": "ACC-5566", "StudyID": "STUDY-9", "StudyInstanceUID": study, "SeriesInstanceUID": series, "SeriesNumber": 1,
        "FrameOfReferenceUID": f"{series}.99", "PositionReferenceIndicator": "", "Laterality": "", "Manufacturer": "Acme",
        "Rows": values.shape[0], "Columns": values.shape[1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0, "ImagePositionPatient": list(position),
        "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [0.75, 0.5], "SliceThickness": 2.0, "InstanceNumber": 1,
        "RescaleSlope": 1.0, "RescaleIntercept": -1024.0, "ReferringPhysicianName": "Quack^Doctor",
    }  # fmt: skip
    for name, value in (elements | changes).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = values.tobytes()
    return dataset


def save_series(
    folder: Path,
    values: np.ndarray,
    orientation: Sequence[float] = AXIAL,
    step: float = 2.0,
    series: str = "1.2.3.4",
    seed: int = 0,
    **changes: Any,
) -> list[FileDataset]:
    """A series under shuffled names without suffix, instance numbers reversed; the slices in their order in space."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    names = [f"IM{number:04d}" for number in range(len(values))]
    random.Random(seed).shuffle(names)
    slices = []
    for index, (name, plane) in enumerate(zip(names, values, strict=True)):
        position = np.array([10.0, -20.0, 30.0]) + index * step * normal
        own = {"ImageOrientationPatient": list(orientation), "InstanceNumber": len(values) - index}
        slices.append(make_slice(plane, position, series, **(own | changes)))
        slices[-1].save_as(folder / name, enforce_file_format=True)
        slices[-1].filename = str(folder / name)
    return slices


def description(number: int, label: str) -> hd.seg.SegmentDescription:
    tissue = codes.SCT.Tissue
    return hd.seg.SegmentDescription(number, label, tissue, tissue, hd.seg.SegmentAlgorithmTypeValues.MANUAL)


def save_seg(
    path: Path, slices: Sequence[FileDataset], array: np.ndarray, labels: Sequence[str], kind: str = "BINARY", **more: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seg = hd.seg.Segmentation(
        list(slices), array.copy(), kind, [description(number, label) for number, label in enumerate(labels, start=1)], generate_uid(), 2,
        generate_uid(), 1, "Acme", "model", "1", "serial", **more,
    )  # fmt: skip
    seg.save_as(path)
    return path


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return tmp_path / "dicom"


def imported(src: Path, **options: Any) -> tuple[Any, Manifest]:
    out = src.parent / "out"
    report = import_dicom(src, out, **({"key_file": src.parent / "key"} | options))
    return report, read_manifest(out)


def only(manifest: Manifest) -> Row:
    (row,) = list(manifest)
    return row


def volume(manifest: Manifest) -> np.ndarray:
    return read_volume(manifest.folder / only(manifest).image)[0]


def labels_in(manifest: Manifest) -> np.ndarray:
    row = only(manifest)
    assert row.mask is not None
    return read_label_volume(manifest.folder / row.mask)


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_slices_are_sorted_by_position_and_rescaled(src: Path, orientation: Sequence[float]) -> None:
    """Each voxel's place is computed by DICOM's own equation (PS3.3 C.7.6.2.1.1), voxel by voxel, and must be the affine's in RAS."""
    values = stored_values()
    slices = save_series(src, values, orientation)
    report, manifest = imported(src, classes=["lesion"])
    row = only(manifest)
    array = volume(manifest)
    assert array.dtype == np.int16 and np.array_equal(array, values.transpose(2, 1, 0).astype(np.int16) - 1024)
    affine = read_header(manifest.folder / row.image).affine
    for z, one in enumerate(slices):
        for y, x in ((0, 0), (0, 6), (4, 0), (3, 5)):
            iop, (between_rows, between_columns) = np.array(one.ImageOrientationPatient, float), one.PixelSpacing
            lps = np.array(one.ImagePositionPatient, float) + iop[:3] * between_columns * x + iop[3:] * between_rows * y
            assert np.allclose((affine @ (x, y, z, 1))[:3], lps * (-1, -1, 1), atol=1e-4)
    assert (row.size.width_px, row.size.height_px, row.depth_px, row.spacing_mm) == (COLUMNS, ROWS, DEPTH, (0.5, 0.75, 2.0))
    assert row.mask is None and row.image_sha256 == sha256_array(array) and manifest.dataset.images_under == "manifest"
    assert (report.imported, report.unlabelled, report.data_root) == (0, 1, src.parent / "out")


def test_rescale_of_each_slice(src: Path) -> None:
    """PET: each slice has its own slope; a whole-valued first slice must not fix the type."""
    values = stored_values()
    slices = save_series(src, values, RescaleIntercept=0.0)
    for index, one in enumerate(slices):
        one.RescaleSlope = [1.0, 0.5, 0.25, 3.0][index]
        one.save_as(one.filename)
    array = volume(imported(src, classes=["lesion"])[1])
    expected = values * np.array([1.0, 0.5, 0.25, 3.0])[:, None, None]
    assert array.dtype == np.float32 and np.array_equal(array, expected.transpose(2, 1, 0).astype(np.float32))


def test_values_over_16_bits_become_float(src: Path) -> None:
    values = np.full((DEPTH, ROWS, COLUMNS), 60_000, np.uint16)
    save_series(src, values, RescaleSlope=None, RescaleIntercept=None)
    array = volume(imported(src, classes=["lesion"])[1])
    assert array.dtype == np.float32 and (array == 60_000).all()


def test_signed_values(src: Path) -> None:
    values = stored_values().astype(np.int16) - 1000
    save_series(src, values, PixelRepresentation=1, RescaleIntercept=0.0)
    assert np.array_equal(volume(imported(src, classes=["lesion"])[1]), values.transpose(2, 1, 0))


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_monochrome1_is_mirrored(src: Path, slope: float) -> None:
    """The darkest value becomes the brightest, in the same range and type; what was done is said and kept."""
    values = stored_values()
    save_series(src, values, PhotometricInterpretation="MONOCHROME1", RescaleSlope=slope)
    report, manifest = imported(src, classes=["lesion"])
    plain = values.transpose(2, 1, 0) * slope - 1024.0
    found = volume(manifest)
    assert np.array_equal(found, plain.max() + plain.min() - plain) and found.dtype == (np.int16 if slope == 1 else np.float32)
    assert any(note.startswith("MONOCHROME1, a higher value is darker: mirrored") for note in report.notes)
    assert json.loads((manifest.folder / IMPORT_FILE).read_text())["monochrome1_mirrored"] == [only(manifest).sample_id]


def test_a_localizer_by_its_image_type_is_left_out(src: Path) -> None:
    save_series(src / "a", stored_values(), ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    save_series(src / "b", stored_values()[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], series="1.2.3.5")
    report, manifest = imported(src, classes=["lesion"])
    assert len(manifest) == 1 and "a localizer, left out: 1 file (IM0000)" in report.notes


def test_links_out_of_the_folder(src: Path, tmp_path: Path) -> None:
    """A slice that is a link out of SRC is refused, and its series with it; a link inside of SRC is taken."""
    slices = save_series(src, stored_values())
    last = Path(slices[3].filename)
    last.rename(tmp_path / "elsewhere")
    last.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AnnotationError, match=rf"{last.name}: the file lies outside {src} \(through a symbolic link\)"):
        imported(src, classes=["lesion"])
    save_series(src / "b", stored_values(1), series="1.2.3.5")
    assert len(imported(src, classes=["lesion"], skip_refused=True)[1]) == 1
    (tmp_path / "elsewhere").rename(src / ".kept")
    last.unlink()
    last.symlink_to(src / ".kept")
    assert len(list(read_manifest(import_dicom(src, tmp_path / "again", tmp_path / "key", classes=["lesion"]).manifest_folder))) == 2


def test_one_slice(src: Path) -> None:
    save_series(src, stored_values()[:1], SliceThickness=None)
    row = only(imported(src, classes=["lesion"])[1])
    assert (row.depth_px, row.spacing_mm) == (1, (0.5, 0.75, None))


def jpeg_2000(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG2000", irreversible=False, no_jp2=True, num_resolutions=1)
    return stream.getvalue()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_slices(src: Path, syntax: Any) -> None:
    values = stored_values()
    for one, plane in zip(save_series(src, values), values, strict=True):
        if syntax == JPEG2000Lossless:  # Pillow writes it; pydicom needs a further package to
            one.PixelData, one.file_meta.TransferSyntaxUID = pydicom.encaps.encapsulate([jpeg_2000(plane)]), syntax
            one["PixelData"].is_undefined_length = True
        else:
            one.compress(syntax, generate_instance_uid=False)
        one.save_as(one.filename)
        code = next(pydicom.encaps.generate_frames(one.PixelData, number_of_frames=1))
        assert coded_size(code) == (None if syntax == RLELossless else (ROWS, COLUMNS))
    assert np.array_equal(volume(imported(src, classes=["lesion"])[1]), values.transpose(2, 1, 0).astype(np.int16) - 1024)


def edit(slices: Sequence[FileDataset], index: int, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(slices[index], name, value)
    slices[index].save_as(slices[index].filename)


BROKEN: dict[str, tuple[Callable[[list[FileDataset]], object], str]] = {
    "missing slice": (lambda s: Path(s[2].filename).unlink(), r"a slice is missing: 4 mm between IM\d+ and IM\d+, elsewhere 2 mm; export"),
    "two phases": (
        lambda s: edit(s, 2, ImagePositionPatient=list(s[1].ImagePositionPatient)), r"two slices in one place \(IM\d+ and IM\d+\)",
    ),
    "copied file": (lambda s: s[1].save_as(s[1].filename + "_copy"), r"IM\d+_copy: the same instance as IM\d+; remove one"),
    "uneven": (lambda s: edit(s, 1, ImagePositionPatient=[10.0, -20.0, 32.4]), "do not lie evenly on a line"),
    "shifted": (lambda s: edit(s, 1, ImagePositionPatient=[15.0, -20.0, 32.0]), "do not lie evenly on a line"),
    "localizer": (lambda s: edit(s, 3, ImageOrientationPatient=list(OBLIQUE)), r"another direction than IM\d+ \(a localizer"),
    "spacing": (lambda s: edit(s, 3, PixelSpacing=[1, 1]), r"a pixel spacing of \(1.0, 1.0\)"),
    "patient": (lambda s: edit(s, 3, PatientID="other"), "another patient or study"),
    "size": (lambda s: edit(s, 3, Rows=7, Columns=5), "a slice with 5 x 7 pixels"),
    "no position": (lambda s: edit(s, 3, ImagePositionPatient=None), "ImagePositionPatient is missing or not 3 numbers"),
    "no spacing": (lambda s: edit(s, 3, PixelSpacing=[0, 1]), "orientation or pixel spacing makes no sense"),
    "skewed": (lambda s: edit(s, 3, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "orientation or pixel spacing makes no sense"),
    "colour": (lambda s: edit(s, 3, SamplesPerPixel=3), "a colour image"),
    "multi-frame": (lambda s: edit(s, 3, NumberOfFrames=2), r"a multi-frame \(enhanced\) file"),
    "enhanced": (lambda s: edit(s, 3, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), r"a multi-frame \(enhanced\) file"),
    "slope": (lambda s: edit(s, 3, RescaleSlope=0.0), "a rescale slope of 0.0"),
    "huge": (lambda s: edit(s, 3, Rows=60_000, Columns=60_000), "60000 x 60000 pixels, the limit is"),
    "short pixels": (lambda s: edit(s, 3, PixelData=s[3].PixelData[:-20]), "its pixels cannot be decoded"),
    "no series": (lambda s: edit(s, 3, SeriesInstanceUID=""), "does not say of which series"),
    "burned in": (
        lambda s: edit(s, 3, BurnedInAnnotation="YES"), r"IM\d+: BurnedInAnnotation is YES: names may stand in its pixels; blank the text",
    ),
    "two orders": (lambda s: edit(s, 3, PhotometricInterpretation="MONOCHROME1"), "the opposite order of brightness"),
    "palette": (lambda s: edit(s, 3, PhotometricInterpretation="PALETTE COLOR"), "no brightness but an index of colours"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_series_that_are_no_volume(src: Path, name: str) -> None:
    breaks, message = BROKEN[name]
    breaks(save_series(src, stored_values()))
    with pytest.raises(ImageError, match=message):
        imported(src, classes=["lesion"])
    assert not (src.parent / "out").exists() and not (src.parent / "key").exists()


def test_a_syntax_that_cannot_be_decoded_is_named(src: Path) -> None:
    for one in save_series(src, stored_values()):
        one.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(20)])
        one["PixelData"].is_undefined_length = True
        one.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        one.save_as(one.filename)
    rule = r"compressed as JPEG Lossless, Non-Hierarchical, First-Order.*no decoder installed here reads; install pylibjpeg"
    with pytest.raises(ImageError, match=rule):
        imported(src, classes=["lesion"])


def test_a_compressed_picture_that_claims_another_size(src: Path) -> None:
    """A JPEG-LS header of 65,535 x 65,535 in a slice of 5 x 7 is refused before a decoder believes it."""
    code = b"\xff\xd8\xff\xf7\x00\x0b\x10\xff\xff\xff\xff\x01\x01\x11\x00" + bytes(30)
    assert coded_size(code) == (65_535, 65_535)
    (one,) = save_series(src, stored_values()[:1])
    one.PixelData = pydicom.encaps.encapsulate([code])
    one["PixelData"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    one.save_as(one.filename)
    with pytest.raises(ImageError, match="the compressed picture in it is 65535 x 65535, its header says 7 x 5"):
        imported(src, classes=["lesion"])


def test_deflated_and_broken_files(src: Path) -> None:
    slices = save_series(src, stored_values())
    (src / "cut").write_bytes(Path(slices[1].filename).read_bytes()[:600])
    (src / "broken").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)) * 4)
    slices[0].file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    slices[0].save_as(src / "deflated")
    with pytest.raises(ImageError) as caught:
        imported(src, classes=["lesion"])
    assert "deflated: a deflated file" in str(caught.value)
    shared = r"its DICOM header breaks off before the size of the image; copy or export it again: 2 files \(broken, cut\)"
    assert re.search(shared, str(caught.value))


@pytest.mark.slow
def test_fuzzed_headers_never_end_in_a_traceback(src: Path) -> None:
    slices = save_series(src, stored_values())
    whole = Path(slices[1].filename).read_bytes()
    dice = random.Random(0)
    for _ in range(150):
        broken = bytearray(whole[: dice.choice([len(whole), dice.randrange(132, len(whole))])])
        for _ in range(dice.randrange(1, 6)):
            broken[dice.randrange(132, len(broken))] = dice.randrange(256)
        Path(slices[1].filename).write_bytes(broken)
        try:
            import_dicom(src, src.parent / "fuzz" / "out", src.parent / "key", classes=["lesion"])
        except (ImageError, AnnotationError):
            continue
        shutil.rmtree(src.parent / "fuzz")


# --- segmentations


def box(*segments: tuple[slice, slice, slice]) -> np.ndarray:
    """uint8 (slices, rows, columns, segments) with a box in each."""
    array = np.zeros((DEPTH, ROWS, COLUMNS, len(segments)), np.uint8)
    for number, inside in enumerate(segments):
        array[(*inside, number)] = 1
    return array


LIVER = (slice(0, 2), slice(0, 3), slice(0, 4))
LESION = (slice(2, 4), slice(1, 2), slice(5, 7))


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_segments_land_on_their_series(src: Path, kind: str, orientation: Sequence[float]) -> None:
    slices = save_series(src, stored_values(), orientation)
    array = box(LIVER, LESION)
    save_seg(src / "seg" / "s", slices[::-1], array[::-1], ["liver", "a lesion"], kind)
    report, manifest = imported(src)
    assert manifest.labels.names == ("background", "a lesion", "liver") and manifest.dataset.masks_under == "manifest"
    expected = (2 * array[..., 0] + array[..., 1]).transpose(2, 1, 0)
    found = labels_in(manifest)
    assert np.array_equal(found, expected)
    row = only(manifest)
    assert row.px == {"background": 140 - 24 - 4, "a lesion": 4, "liver": 24} and row.mask_sha256 == sha256_array(found)
    assert np.allclose(read_header(manifest.folder / str(row.mask)).affine, read_header(manifest.folder / row.image).affine)
    assert (report.imported, report.unlabelled) == (1, 0)
    how = json.loads((manifest.folder / IMPORT_FILE).read_text())
    assert how == {"importer": "dicom", "threshold": 0.5, "overlap": "refuse", "refused": 0, "monochrome1_mirrored": []}


@pytest.mark.parametrize(("threshold", "count"), [(0.5, 2), (0.25, 3), (1.0, 1)])
def test_fractional_segments_have_a_threshold(src: Path, threshold: float, count: int) -> None:
    slices = save_series(src, stored_values())
    share = np.zeros((DEPTH, ROWS, COLUMNS, 1), np.float32)
    share[1, 2, :4, 0] = 0.2, 0.4, 0.6, 1.0
    save_seg(src / "seg", slices, share, ["lesion"], "FRACTIONAL", max_fractional_value=250)
    report, manifest = imported(src, threshold=threshold)
    assert only(manifest).px["lesion"] == count
    assert any(f"taken from a share of {threshold:g}" in note for note in report.notes)
    with pytest.raises(ManifestError, match="must lie above 0 and at most at 1, got 0"):
        imported(src, threshold=0)


def test_overlapping_segments_are_refused_or_ordered(src: Path) -> None:
    slices = save_series(src, stored_values())
    inside = (slice(0, 1), slice(0, 2), slice(0, 2))
    save_seg(src / "seg", slices, box(LIVER, inside), ["liver", "lesion"])
    with pytest.raises(AnnotationError, match=r"seg: the segments 'liver' and 'lesion' overlap in 4 voxels; pass --overlap order"):
        imported(src)
    report, manifest = imported(src, overlap="order")
    assert only(manifest).px == {"background": 116, "lesion": 4, "liver": 20}
    assert labels_in(manifest)[0, 0, 0] == 1 and any("segments overlap; the later one wins" in note for note in report.notes)
    assert json.loads((manifest.folder / IMPORT_FILE).read_text())["overlap"] == "order"


def bare(path: Path, meta: bool) -> None:
    """The file as old exports write it: without the preamble, or as its elements alone, in implicit VR."""
    if meta:
        path.write_bytes(path.read_bytes()[132:])
        return
    plain = pydicom.Dataset()
    plain.update({element.tag: element for element in pydicom.dcmread(path)})
    plain.save_as(path, implicit_vr=True, little_endian=True)


@pytest.mark.parametrize("spoil", ["empty", "noise", "cut off"])
def test_a_lost_slice_is_refused_by_name_and_its_series_never_looks_whole(src: Path, spoil: str) -> None:
    """The last slice: no gap between the others tells that it is gone."""
    slices = save_series(src / "a", stored_values())
    save_series(src / "b", stored_values(1), series="1.2.3.5")
    lost = Path(str(slices[-1].filename))
    lost.write_bytes({"empty": b"", "noise": b"noise" * 99, "cut off": lost.read_bytes()[:100]}[spoil])
    why = "the file is empty" if spoil == "empty" else "not DICOM, or damaged, though named like the slice IM000[0-3]"
    rule = rf"a/{lost.name}: {why}: it may be a slice, so no series of its folder can be told whole; export or copy it again"
    with pytest.raises(ImageError, match=rule):
        imported(src, classes=["lesion"])
    report, manifest = imported(src, classes=["lesion"], skip_refused=True)
    assert len(manifest) == 1 and only(manifest).depth_px == DEPTH and len(report.refused) == 1
    assert np.array_equal(volume(manifest), stored_values(1).transpose(2, 1, 0).astype(np.int16) - 1024)


def test_the_folder_of_a_slice_whose_series_cannot_be_told_is_left_out(src: Path) -> None:
    slices = save_series(src / "a", stored_values())
    save_series(src / "b", stored_values(1), series="1.2.3.5")
    lost = Path(str(slices[-1].filename))
    lost.write_bytes(lost.read_bytes()[:132] + b"noise" * 99)
    with pytest.raises(ImageError, match=f"a/{lost.name}: "):
        imported(src, classes=["lesion"])
    _, manifest = imported(src, classes=["lesion"], skip_refused=True)
    assert only(manifest).depth_px == DEPTH


def test_a_name_that_says_dicom_is_believed_before_the_content(src: Path) -> None:
    save_series(src, stored_values())
    (src / "x.DCM").write_bytes(b"something else")
    with pytest.raises(ImageError, match=r"x.DCM: not DICOM, or damaged: it may be a slice"):
        imported(src, classes=["lesion"])


@pytest.mark.parametrize("meta", [True, False])
def test_files_without_preamble_are_slices_like_others(src: Path, meta: bool) -> None:
    values = stored_values()
    slices = save_series(src, values)
    for one in slices[1:3]:
        bare(Path(str(one.filename)), meta)
    _, manifest = imported(src, classes=["lesion"])
    assert only(manifest).depth_px == DEPTH and np.array_equal(volume(manifest), values.transpose(2, 1, 0).astype(np.int16) - 1024)


def test_files_of_another_kind_beside_a_series_are_noted(src: Path) -> None:
    save_series(src, stored_values())
    for name, content in {"notes.txt": b"", "README": b"text", "list.csv": b"a,b", "odd": b"\x08\0\x05\0CS" + b"?" * 300}.items():
        (src / name).write_bytes(content)
    report, manifest = imported(src, classes=["lesion"])
    assert only(manifest).depth_px == DEPTH
    assert any(note.startswith("not DICOM, left out: 4 files (README, list.csv, notes.txt") for note in report.notes)


def test_classes_fix_the_ids_and_bound_the_labels(src: Path) -> None:
    slices = save_series(src, stored_values())
    save_seg(src / "seg", slices, box(LIVER, LESION), ["liver", "lesion"])
    with pytest.raises(LabelError, match=r"the segment 'liver' is no class of the data set \(lesion, vessel\)"):
        imported(src, classes=["lesion", "vessel"])
    _, manifest = imported(src, classes=["vessel", "liver", "lesion"])
    assert labels_in(manifest)[0, 0, 0] == 2 and only(manifest).px["vessel"] == 0


def test_two_series_two_files_and_an_unlabelled_one(src: Path, tmp_path: Path) -> None:
    """Two SEG of one series are put together; another series has none; SEG may lie in a folder of their own."""
    slices = save_series(src / "a", stored_values())
    save_series(src / "b", stored_values(1), series="1.2.3.5")
    save_seg(tmp_path / "segs" / "1", slices, box(LIVER), ["liver"])
    save_seg(tmp_path / "segs" / "2", slices, box(LESION), ["lesion"])
    report, manifest = imported(src, seg=tmp_path / "segs")
    assert (report.imported, report.unlabelled) == (1, 1)
    assert len({row.group_id for row in manifest}) == 1 and len(set(manifest.frame["study_id"])) == 1
    labelled = next(row for row in manifest if row.mask)
    assert labelled.px == {"background": 112, "lesion": 4, "liver": 24}
    save_seg(tmp_path / "segs" / "3", slices, box(LESION), ["lesion"])
    with pytest.raises(AnnotationError, match="3: the segment 'lesion' of this series is in 2 too"):
        import_dicom(src, tmp_path / "again", tmp_path / "key", seg=tmp_path / "segs")


def test_segmentations_that_do_not_fit(src: Path, tmp_path: Path) -> None:
    slices = save_series(src, stored_values())
    other = save_series(tmp_path / "elsewhere", stored_values(), series="1.2.3.9")
    save_seg(src / "seg", other, box(LIVER), ["liver"])
    with pytest.raises(AnnotationError, match="seg: the series it refers to is not here; add its series"):
        imported(src)
    save_seg(src / "seg", slices, box(LIVER), ["liver"])
    moved = pydicom.dcmread(src / "seg")
    for item in moved.PerFrameFunctionalGroupsSequence:
        item.PlanePositionSequence[0].ImagePositionPatient = [10, -20, 31]
    moved.save_as(src / "seg")
    with pytest.raises(AnnotationError, match=r"another grid than its series: no slice at \(10, -20, 31\), the nearest is 1 mm away"):
        imported(src)
    for item in moved.PerFrameFunctionalGroupsSequence:
        item.PlanePositionSequence[0].ImagePositionPatient = [10, -20, 30]
    moved.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1, 1]
    moved.save_as(src / "seg")
    with pytest.raises(AnnotationError, match=r"another grid than its series \(direction or pixel spacing differ\)"):
        imported(src)
    (src / "seg").write_bytes((src / "seg").read_bytes()[:-3])
    with pytest.raises(AnnotationError, match="seg: "):
        imported(src)


def test_a_seg_without_reference_is_known_by_its_frame_of_reference(src: Path) -> None:
    slices = save_series(src, stored_values())
    save_seg(src / "seg", slices, box(LIVER), ["liver"])
    dataset = pydicom.dcmread(src / "seg")
    del dataset.ReferencedSeriesSequence
    dataset.save_as(src / "seg")
    assert imported(src)[0].imported == 1


def test_no_seg_and_no_classes(src: Path) -> None:
    save_series(src, stored_values())
    (src / "notes.txt").write_text("hello")
    with pytest.raises(ManifestError, match="no SEG file was found, so no class has a name; give --classes"):
        imported(src)
    report, _ = imported(src, classes=["lesion"])
    assert "not DICOM, left out: 1 file (notes.txt)" in report.notes
    with pytest.raises(AnnotationError, match="no DICOM image series"):
        (src.parent / "empty").mkdir()
        imported(src.parent / "empty", classes=["lesion"])


def test_skip_refused_keeps_the_good_series(src: Path) -> None:
    save_series(src / "good", stored_values())
    bad = save_series(src / "bad", stored_values(1), series="1.2.3.5")
    Path(bad[2].filename).unlink()
    report, manifest = imported(src, classes=["lesion"], skip_refused=True)
    assert len(manifest) == 1 and "a slice is missing" in report.refused[0][1]
    assert not (manifest.folder / "refused.csv").exists() and any("not written to refused.csv" in note for note in report.notes)


# --- privacy


def every_byte(folder: Path) -> bytes:
    """Names and contents of all files under a folder, inflated."""
    parts = []
    for path in sorted(folder.rglob("*")):
        parts.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            content = path.read_bytes()
            parts += [content, gzip.decompress(content)] if content[:2] == b"\x1f\x8b" else [content]
    return b"\n".join(parts)


def test_nothing_that_names_a_patient_is_written(src: Path) -> None:
    slices = save_series(src / NAME, stored_values())
    seg = save_seg(src / f"{NAME}.seg", slices, box(LIVER), ["liver"])
    bad = save_series(src / f"{NAME} 2", stored_values(1), series="1.2.3.5", seed=3)
    Path(bad[2].filename).unlink()
    imported(src, skip_refused=True)
    written = every_byte(src.parent / "out")
    assert b"liver" in written and zlib.crc32(written)
    identifying = {NAME, "Doe", "Secretia", PATIENT, BORN, DAY, "101112", "ACC-5566", "STUDY-9", "Quack", "Acme"}
    for dataset in (*slices, *bad, pydicom.dcmread(seg)):
        identifying |= {str(element.value) for element in dataset.iterall() if element.VR == "UI"}
        identifying.add(Path(dataset.filename or "").name)
    identifying = {text for text in identifying if len(text) > 2}
    assert not [text for text in identifying if text.encode() in written]


NAMING = {
    "name": ("liver of Doe", {}), "name in capitals": ("SECRETIA liver", {}), "inside a word": ("liver_doe2", {}),
    "number": ("liver 778899", {}), "birth date": ("liver 19700203", {}), "birth date, spelled": ("liver 1970-02-03", {}),
    "two letters": ("\u5c71\u7530 liver", {"PatientName": "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "SpecificCharacterSet": "ISO_IR 192"}),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMING)
@pytest.mark.parametrize("seg_states_it", [True, False])
def test_a_label_that_repeats_an_identifying_field(src: Path, name: str, seg_states_it: bool) -> None:
    label, changes = NAMING[name]
    slices = save_series(src, stored_values(), **changes)
    save_seg(src / "seg", slices, box(LIVER), [label])
    if not seg_states_it:
        blank = pydicom.dcmread(src / "seg")
        blank.PatientName = blank.PatientID = blank.PatientBirthDate = ""
        blank.save_as(src / "seg")
    with pytest.raises(LabelError, match="seg: the label of a segment repeats an identifying field .*; rename the segment") as caught:
        imported(src)
    assert label not in str(caught.value) and not (src.parent / "out").exists()
    with pytest.raises(LabelError) as caught:
        imported(src, classes=["liver"])
    assert label not in str(caught.value)


def test_class_names_of_the_files_are_told_and_those_given_are_taken(src: Path) -> None:
    """A patient called LIVER-001 does not forbid the class liver to a user who names it."""
    slices = save_series(src, stored_values(), PatientID="LIVER-001")
    save_seg(src / "seg", slices, box(LIVER, LESION), ["liver", "lesion"])
    with pytest.raises(LabelError, match="if it names nobody, name the classes yourself by --classes"):
        imported(src)
    report, _ = imported(src, classes=["liver", "lesion"])
    assert not any("class names come from" in note for note in report.notes)
    shutil.rmtree(src)
    shutil.rmtree(src.parent / "out")
    save_seg(src / "seg", save_series(src, stored_values()), box(LIVER, LESION), ["liver", "lesion"])
    report, _ = imported(src)
    assert "class names come from the SEG files: lesion, liver; check that none names a person: 1 file (seg)" in report.notes
    assert not any("perhaps one class" in note for note in report.notes)


def test_segments_of_like_names_are_told(src: Path) -> None:
    save_seg(src / "seg", save_series(src, stored_values()), box(LIVER, LESION), ["liver", "Livers"])
    report, _ = imported(src)
    assert report.notes[0] == "class names that differ by case, blanks or one letter alone, perhaps one class: 'Livers' and 'liver'"


def test_the_issuer_is_part_of_the_patient(src: Path, tmp_path: Path) -> None:
    save_series(src / "a", stored_values(), IssuerOfPatientID="North")
    save_series(src / "b", stored_values(1), series="1.2.3.5", IssuerOfPatientID="South")
    save_series(src / "c", stored_values(2), series="1.2.3.6", PatientID="other", IssuerOfPatientID="South")
    report, manifest = imported(src, classes=["lesion"])
    key = bytes.fromhex((tmp_path / "key").read_text())
    groups = {pseudonym(key, "patient", f"{PATIENT}\0North"), pseudonym(key, "patient", f"{PATIENT}\0South")}
    assert groups < {row.group_id for row in manifest} and len({row.group_id for row in manifest}) == 3
    assert any(note.startswith("its patient ID stands under another issuer") and "2 files" in note for note in report.notes)
    assert b"North" not in every_byte(tmp_path / "out")


def test_paths_of_the_wrong_kind(src: Path, tmp_path: Path) -> None:
    save_series(src, stored_values())
    (tmp_path / "file").write_text("x")
    for options, message in (
        ({"seg": tmp_path / "file"}, "file: a file, where the SEG folder is expected; give the folder"),
        ({"key_file": tmp_path}, "a folder, where the key file is expected"),
        ({"key_file": tmp_path / "file" / "key"}, r"the key cannot be read \(Not a directory\)"),
    ):
        with pytest.raises((AnnotationError, ManifestError), match=message):
            imported(src, classes=["lesion"], **options)
    with pytest.raises(AnnotationError, match="file: a file, where the source folder is expected"):
        import_dicom(tmp_path / "file", tmp_path / "out", tmp_path / "key")
    with pytest.raises(ManifestError, match="file: a file, where the output folder is expected"):
        import_dicom(src, tmp_path / "file", tmp_path / "key", classes=["lesion"])
    assert not (tmp_path / "out").exists()


def test_the_key_makes_the_names(src: Path, tmp_path: Path) -> None:
    save_series(src, stored_values())
    report, manifest = imported(src, classes=["lesion"])
    key_file = tmp_path / "key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600 and len(bytes.fromhex(key_file.read_text())) == 32
    key, row = bytes.fromhex(key_file.read_text()), only(manifest)
    assert row.group_id == pseudonym(key, "patient", PATIENT) and row.sample_id == f"{row.group_id}/{pseudonym(key, 'volume', '1.2.3.4')}"
    assert manifest.frame["study_id"].iloc[0] == pseudonym(key, "study", "1.2.3")
    assert [len(part) for part in row.sample_id.split("/")] == [18, 18]
    assert any("a new key was made" in note for note in report.notes)
    again = import_dicom(src, tmp_path / "again", key_file, classes=["lesion"])
    assert only(read_manifest(tmp_path / "again")).sample_id == row.sample_id and again.notes == []
    import_dicom(src, tmp_path / "other", tmp_path / "key2", classes=["lesion"])
    assert only(read_manifest(tmp_path / "other")).group_id != row.group_id


def test_the_key_stays_apart(src: Path, tmp_path: Path) -> None:
    save_series(src, stored_values())
    for place in (tmp_path / "out/key", src / "key", tmp_path / "out/../out/sub/key"):
        with pytest.raises(ManifestError, match="the key may not lie under"):
            imported(src, classes=["lesion"], key_file=place)
    for text in ("", "abc", "00" * 31, "zz" * 32):
        (tmp_path / "short").write_text(text)
        with pytest.raises(ManifestError, match="a key is at least 64 hexadecimal digits"):
            imported(src, classes=["lesion"], key_file=tmp_path / "short")
    (tmp_path / "linked").symlink_to(src, target_is_directory=True)
    with pytest.raises(ManifestError, match="the key may not lie under"):
        imported(src, classes=["lesion"], key_file=tmp_path / "linked" / "key")


def test_without_patient_id_the_study_is_the_group(src: Path) -> None:
    save_series(src / "a", stored_values(), PatientID="")
    save_series(src / "b", stored_values(1), series="1.2.3.5", PatientID="", StudyInstanceUID="1.2.77")
    report, manifest = imported(src, classes=["lesion"])
    assert len({row.group_id for row in manifest}) == 2
    assert any(note.startswith("no patient ID: the study is taken as the group: 2 files") for note in report.notes)


def test_a_second_import_is_nothing(src: Path) -> None:
    slices = save_series(src, stored_values())
    save_seg(src / "seg", slices, box(LIVER), ["liver"])
    first = imported(src)[1]
    assert imported(src)[1].digest == first.digest


def test_a_full_disk_names_no_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.manifest.importers.dicom.write_volume", full)
    save_series(tmp_path / "dicom", stored_values())
    with pytest.raises(ManifestError, match=r"out: the disk is full \(No space left on device\), so nothing was written") as caught:
        imported(tmp_path / "dicom", classes=["lesion"])
    assert PATIENT not in str(caught.value) and "1.2." not in str(caught.value)
