"""Phantoms: repeatable, true to the pixel, and not solvable by colour."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medseg.errors import MedsegError
from medseg.images import read_image, resize_image
from medseg.labels import LabelSet
from medseg.phantom.tongue import PHANTOM_CLASSES, PHANTOM_REGIONS, Phantom, draw_tongue
from medseg.phantom.write import lesion_indices, write_phantoms
from medseg.rasterise import Shape, draw
from medseg.types import Size

SIZE = Size(256, 256)
SMALL = Size(96, 128)
LABELS = LabelSet.of(*PHANTOM_CLASSES, regions=PHANTOM_REGIONS)


def mask_of(phantom: Phantom, size: Size = SIZE, only: str | None = None) -> np.ndarray:
    return draw([(s, LABELS.id_of(s.label)) for s in phantom.shapes if only in (None, s.label)], size)


@pytest.fixture(scope="module")
def with_lesion() -> list[Phantom]:
    return [draw_tongue(1, index, SIZE, has_lesion=True) for index in range(70)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_image_depends_on_its_identity_alone():
    first = draw_tongue(3, 5, SMALL, True)
    draw_tongue(3, 6, SMALL, False)
    again = draw_tongue(3, 5, SMALL, True)
    assert np.array_equal(first.image_HWC, again.image_HWC) and first.shapes == again.shapes
    assert not np.array_equal(first.image_HWC, draw_tongue(4, 5, SMALL, True).image_HWC)


def test_the_lesion_is_all_that_tells_a_pair_apart():
    ill, well = draw_tongue(0, 2, SIZE, True), draw_tongue(0, 2, SIZE, False)
    assert ill.shapes[:-1] == well.shapes
    differs = np.any(ill.image_HWC != well.image_HWC, axis=-1)
    inside = mask_of(ill, only="lesion") > 0
    assert differs[inside].mean() > 0.9 and differs[~inside].mean() < 0.01


@pytest.mark.parametrize("size", [SMALL, Size(320, 240)])
def test_any_size_keeps_the_tongue_in_the_frame(size: Size):
    for index in range(4):
        phantom = draw_tongue(0, index, size, index % 2 == 0)
        assert phantom.image_HWC.shape == (*size, 3) and phantom.image_HWC.dtype == np.uint8
        points = np.concatenate([np.array(shape.points) for shape in phantom.shapes])
        assert points.min() >= 0 and np.all(points.max(0) <= (size.width_px - 1, size.height_px - 1))


def test_shapes_come_in_paint_order_and_give_every_class(with_lesion: list[Phantom]):
    for phantom in with_lesion:
        ids = [LABELS.id_of(shape.label) for shape in phantom.shapes]
        assert ids == sorted(ids) and set(np.unique(mask_of(phantom))) == {0, 1, 2, 3}


def test_coating_and_lesion_lie_on_the_tongue(with_lesion: list[Phantom]):
    for phantom in with_lesion:
        tongue = mask_of(phantom, only="tongue") > 0
        assert not np.any(mask_of(phantom, only="coating")[~tongue])
        assert not np.any(mask_of(phantom, only="lesion")[~tongue])


def test_the_lesion_is_small_and_the_coating_is_not(with_lesion: list[Phantom]):
    for phantom in with_lesion:
        share = np.bincount(mask_of(phantom).ravel(), minlength=4) / (SIZE.height_px * SIZE.width_px)
        assert 0.001 < share[3] < 0.005
        assert 0.12 < share[2] / share[1:].sum() < 0.55


@pytest.mark.parametrize("count, lesions", [(10, 1), (200, 20), (1000, 100), (0, 0)])
def test_one_image_in_ten_has_a_lesion(count: int, lesions: int):
    chosen = lesion_indices(0, count)
    assert len(chosen) == lesions and chosen <= set(range(count))
    assert count < 200 or chosen != lesion_indices(1, count)


def test_the_global_generator_is_left_alone():
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    draw_tongue(0, 0, SMALL, True)
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]


def test_the_bytes_do_not_depend_on_jobs(tmp_path: Path):
    heard: list[int] = []
    write_phantoms(tmp_path / "one", 20, size=SMALL, jobs=1, on_done=heard.append)
    write_phantoms(tmp_path / "two", 20, size=SMALL, jobs=2)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two") and len(one) == 41 and heard == list(range(1, 21))


def test_the_files_are_labelme_annotations_of_the_drawing(tmp_path: Path):
    write_phantoms(tmp_path / "p", 3, seed=7, size=SMALL, jobs=1)
    phantom = draw_tongue(7, 1, SMALL, 1 in lesion_indices(7, 3))
    page = json.loads((tmp_path / "p" / "phantom_0001.json").read_text())
    assert (page["imagePath"], page["imageHeight"], page["imageWidth"]) == ("phantom_0001.jpg", *SMALL)
    read = tuple(Shape(s["label"], s["shape_type"], tuple(map(tuple, s["points"]))) for s in page["shapes"])
    assert read == phantom.shapes
    image = read_image(tmp_path / "p" / page["imagePath"])
    assert np.abs(image.astype(int) - phantom.image_HWC).mean() < 6  # JPEG


def test_a_finished_folder_is_kept_and_an_unfinished_one_mended(tmp_path: Path):
    write_phantoms(tmp_path, 3, size=SMALL, jobs=1)
    before, heard = contents(tmp_path), []  # type: ignore[var-annotated]
    write_phantoms(tmp_path, 3, size=SMALL, jobs=1, on_done=heard.append)
    assert heard == []
    (tmp_path / "phantom_0002.jpg").unlink()
    write_phantoms(tmp_path, 3, size=SMALL, jobs=1)
    assert contents(tmp_path) == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path):
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(MedsegError, match=r"is not empty and has no phantom\.json"):
        write_phantoms(tmp_path, 2, size=SMALL, jobs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_folder_of_another_order_is_refused(tmp_path: Path):
    write_phantoms(tmp_path, 2, size=SMALL, jobs=1)
    with pytest.raises(MedsegError, match="holds other phantoms"):
        write_phantoms(tmp_path, 2, seed=1, size=SMALL, jobs=1)


def pixels(phantoms: list[Phantom]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) colours in [0, 1] and (N,) whether a lesion's, of every image as a camera shrinks it to 128 x 128."""
    half = Size(128, 128)
    colours = [resize_image(p.image_HWC, half).reshape(-1, 3) / 255 for p in phantoms]
    return np.concatenate(colours), np.concatenate([mask_of(p)[::2, ::2].ravel() == 3 for p in phantoms])


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sum(found & truth) / np.sum(found | truth))


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_colour_alone_does_not_find_the_lesion(with_lesion: list[Phantom], class_weight: str | None):
    colour, truth = pixels(with_lesion[:30])
    unseen_colour, unseen_truth = pixels(with_lesion[30:])
    model = LogisticRegression(class_weight=class_weight).fit(colour, truth)
    assert iou(model.predict(unseen_colour), unseen_truth) < 0.40
    probability = model.predict_proba(unseen_colour)[:, 1]
    thresholds = np.quantile(probability, np.linspace(0.9, 0.9995, 25))
    assert max(iou(probability > t, unseen_truth) for t in thresholds) < 0.40  # not even at the best threshold
