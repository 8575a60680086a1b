"""Where a voxel stands on a plane, whatever the file's orientation; proportions; what is chosen to be shown."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.grid import turn_of
from medseg.images import read_image
from medseg.labels import LabelSet
from medseg.report.casefiles import VolumeFiles
from medseg.report.figures import overlay_sheet
from medseg.report.planes import GAP_PX, SIDE_PX, TALLEST_PX, Seen, best_planes, grey, grey_window, montage, plane, plane_size
from medseg.types import CaseResult
from tests.data.volume.made import make_volumes, stored

SHAPE, SPACING_MM = (6, 8, 10), (1.0, 1.5, 2.0)  # along x, y, z
ENDS = {"R": 5, "L": 0, "A": 7, "P": 0, "S": 9, "I": 0}


def voxel(corner: str) -> np.ndarray:
    """A volume of RAS, (X, Y, Z), with one voxel in a corner, told as in 'RAS'."""
    volume = np.zeros(SHAPE, np.uint8)
    volume[tuple(ENDS[letter] for letter in corner)] = 1
    return volume


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize(
    ("corner", "spots"),  # of the axial, coronal and sagittal plane: row, column
    [
        ("RAS", [(0, 0), (0, 0), (0, 0)]),
        ("LPI", [(7, 5), (9, 5), (9, 7)]),
        ("LAI", [(0, 5), (9, 5), (9, 0)]),
        ("RPS", [(7, 0), (0, 0), (0, 7)]),
    ],
)
def test_a_corner_of_the_patient_is_where_a_radiologist_looks_for_it(code, corner, spots):
    """Right at the left, front or head above; on a sagittal plane the front at the left."""
    file = stored(voxel(corner), SPACING_MM, code)
    turned = turn_of(file.shape, file.affine, "a").forward(np.asarray(file.dataobj))
    places = best_planes([turned], 255)
    found = [np.argwhere(plane(turned, axis, place)).tolist() for axis, place in enumerate(places)]
    assert found == [[list(spot)] for spot in spots]


def seen(shape, spacing_mm=(1.0, 1.0, 1.0), placed=True) -> Seen:
    """A black volume (D, H, W)."""
    return Seen(np.zeros(shape), turn_of(shape[::-1], np.diag([*spacing_mm[::-1], 1.0]), "a"), placed)


def test_planes_have_the_patients_proportions():
    shape, spacing_mm = (10, 8, 6), (2.0, 1.5, 1.0)  # 20 mm high, 12 mm deep, 6 mm wide
    assert [plane_size(shape, spacing_mm, axis, 10) for axis in range(3)] == [(120, 60), (200, 60), (200, 120)]
    picture, [layer] = montage(seen(shape, spacing_mm), [np.ones(shape, np.uint8)], 255)
    scale = TALLEST_PX / 20  # the height is what bounds it
    assert picture.shape == (*layer.shape, 3) == (12 * scale + 2 * TALLEST_PX + 2 * GAP_PX, 12 * scale, 3)
    assert (layer[0] > 0).sum() == 6 * scale and (layer[-1] > 0).all() and not layer[int(12 * scale) : int(12 * scale) + GAP_PX].any()
    flat, _ = montage(seen((2, 8, 16)), [np.zeros((2, 8, 16), np.uint8)], 255)
    assert flat.shape[1] == SIDE_PX and flat.shape[0] == 128 + 32 + 32 + 2 * GAP_PX


def test_the_planes_are_those_of_the_reference_and_what_is_ignored_is_nothing_to_see():
    reference, prediction = np.zeros((5, 6, 7), np.uint8), np.ones((5, 6, 7), np.uint8)
    assert best_planes([reference, reference], 255) == (2, 3, 3), "the middle where there is nothing"
    reference[4] = 255
    assert best_planes([reference, np.where(prediction, 0, 0)], 255) == (2, 3, 3)
    reference[1, 2, 3] = 1
    assert best_planes([reference, prediction], 255) == (1, 2, 3)
    assert best_planes([np.zeros_like(reference), np.roll(reference, 1, axis=1)], 255) == (1, 3, 3), "of the next where the first is empty"


def test_sides_are_named_only_where_the_file_tells_them():
    mask = [np.zeros((40, 40, 40), np.uint8)]
    known, _ = montage(seen((40, 40, 40)), mask, 255)
    unknown, _ = montage(seen((40, 40, 40), placed=False), mask, 255)
    middle = slice(SIDE_PX // 2 - 10, SIDE_PX // 2 + 10)
    assert known[middle, :20].any() and known[middle, -20:].any() and known[:20, middle].any()
    assert not unknown[middle].any() and not unknown[:20].any() and unknown[SIDE_PX - 20 : SIDE_PX, :60].any(), "its name is there"


def test_soft_tissue_of_a_ct_is_seen_and_of_all_else_what_is_not_an_outlier():
    ct = np.full((10, 10, 10), -1000.0)
    ct[3:8] = 40
    ct[9] = 3000
    assert grey_window(ct) == (-160, 240)
    assert grey(np.array([-1000.0, -160, 40, 240, 3000]), (-160, 240)).tolist() == [0, 0, 128, 255, 255]
    mr = np.concatenate([np.arange(1000.0), [1e9]])
    assert grey_window(mr) == pytest.approx((5, 995), abs=1)
    assert grey(np.full((2, 2), 7), grey_window(np.full((2, 2), 7))).tolist() == [[0, 0], [0, 0]]
    assert grey_window(np.tile(np.arange(250.0), 40_000).reshape(100, 1000, 100)) == pytest.approx((1, 248), abs=3), "of a sample"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> VolumeFiles:
    """Of four cases, each in another orientation."""
    manifest, data_root = make_volumes(tmp_path_factory.mktemp("volumes"), 4)
    return VolumeFiles(manifest, data_root)


def test_pictures_of_any_orientation_show_the_ball_at_the_right_of_the_page(files):
    """It is at the patient's left; the reference and a prediction that is right lie on what is bright."""
    for row in files.manifest:
        reference = files.reference(row)
        picture, (one, other) = files.pictures(row, [reference, reference])
        axial = one[: one.shape[1]]  # 22 mm high, as the widest plane, the sagittal one, is wide
        columns = [np.flatnonzero((axial == class_id).any(axis=0)).mean() for class_id in (1, 2)]
        assert columns[0] > columns[1] and np.array_equal(one, other), row.sample_id
        assert picture[one > 0].mean() > 2 * picture[one == 0].mean()


def test_the_sheet_of_volumes_is_high_enough_to_see_three_planes(files, tmp_path):
    rows = {row.sample_id: row for row in files.manifest}
    confusion = np.array([[90, 0, 0], [0, 5, 0], [0, 0, 5]])
    cases = [CaseResult(name, name, confusion) for name in rows]

    def read(case):
        row = rows[case.sample_id]
        picture, (reference, prediction) = files.pictures(row, [files.reference(row)] * 2)
        return picture, reference, prediction

    overlay_sheet(tmp_path / "sheet.jpg", cases[:3], LabelSet.of("ball", "box"), read)
    height, width = read_image(tmp_path / "sheet.jpg").shape[:2]
    assert width == round(3.6 * 110) and height > 3 * 0.8 * width, "three kinds of one case each, each higher than wide"
