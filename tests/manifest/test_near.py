"""Near-duplicates: each kind of copy is found, different pictures are not, on every path that proposes candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medseg.manifest import near
from medseg.phantom.tongue import draw_tongue
from medseg.types import Size
from tests.manifest.planting import NEAR, turned

COUNT = 24


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Phantoms: one kind of subject in one pose, the hardest to tell apart."""
    return [Image.fromarray(draw_tongue(11, index, Size(128, 128), False).image_HWC) for index in range(COUNT)]


def thumbs_of(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([near.thumbnail(np.asarray(picture.convert("RGB"))) for picture in pictures])


def pairs_of(pictures: list[Image.Image]) -> dict[tuple[str, str], near.Pair]:
    names = [f"s{place:03d}" for place in range(len(pictures))]
    return {(pair.first, pair.second): pair for pair in near.near_pairs(names, thumbs_of(pictures))}


def copied(picture: Image.Image, kind: str, tmp_path: Path) -> Image.Image:
    change, form, options = NEAR[kind]
    image, _ = change(picture, Image.new("L", picture.size), np.random.default_rng(2))
    path = tmp_path / f"copy.{form.lower()}"
    image.save(path, form, **options)
    return Image.open(path)


def test_phantoms_of_their_own_are_no_pair(pictures: list[Image.Image]) -> None:
    assert pairs_of(pictures) == {}


def test_random_textures_are_no_pair() -> None:
    rng = np.random.default_rng(0)
    grey = [ndimage.gaussian_filter(rng.normal(size=(80, 80)), sigma) for sigma in (1, 2, 4, 8) for _ in range(10)]
    scaled = [(255 * (values - values.min()) / np.ptp(values)).astype(np.uint8) for values in grey]
    assert pairs_of([Image.fromarray(values) for values in scaled]) == {}


def test_flat_pictures_are_like_none() -> None:
    assert pairs_of([Image.new("RGB", (50, 50), (value, 0, 0)) for value in (0, 0, 90, 255)]) == {}


def test_none_or_one_picture_has_no_pair(pictures: list[Image.Image]) -> None:
    assert near.near_pairs([], np.zeros((0, 64, 64), np.uint8)) == [] and pairs_of(pictures[:1]) == {}


@pytest.mark.parametrize("kind", NEAR)
def test_each_kind_of_copy_is_found_and_no_other_pair(kind: str, pictures: list[Image.Image], tmp_path: Path) -> None:
    copies = [copied(pictures[place], kind, tmp_path).copy() for place in (0, 7, 15)]
    found = pairs_of([*pictures, *copies])
    assert set(found) == {("s000", "s024"), ("s007", "s025"), ("s015", "s026")}
    assert all(near.NEAR < pair.correlation <= 1 for pair in found.values())
    assert {pair.how for pair in found.values()} <= {"as it is", "mirrored", "turned by 270 degrees", "turned by 90 degrees"}


def test_how_the_copy_lies_is_said(pictures: list[Image.Image], tmp_path: Path) -> None:
    found = pairs_of([pictures[0], copied(pictures[0], "mirrored", tmp_path), pictures[1]])
    assert [pair.how for pair in found.values()] == ["mirrored"]


@pytest.mark.parametrize("kind", ["jpeg 30", "half the size", "brighter", "gamma", "noise", "mirrored", "turned 90 degrees"])
@pytest.mark.parametrize("path", ["whole pictures", "hash bands"])
def test_larger_sets_propose_fewer_pairs_and_still_find_these(
    path: str, kind: str, pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near, "ALL_CROPS", 5)
    if path == "hash bands":
        monkeypatch.setattr(near, "ALL_PAIRS", 6)
    found = pairs_of([*pictures, copied(pictures[3], kind, tmp_path)])
    assert set(found) == {("s003", "s024")}


def test_hash_bands_do_not_compare_all(pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "ALL_PAIRS", 6)
    rng = np.random.default_rng(1)
    thumbs = rng.integers(0, 256, (60, 64, 64), np.uint8)
    thumbs[59] = thumbs[0]
    proposed = list(near.candidates(thumbs, "as it is"))
    assert (0, 59) in proposed and len(proposed) < 30 and len(set(proposed)) == len(proposed)


def test_a_block_more_than_one_gives_the_same_pairs(pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [*pictures, copied(pictures[1], "crop 5 %", tmp_path)]
    whole = pairs_of(everything)
    monkeypatch.setattr(near, "BLOCK", 7)
    assert pairs_of(everything) == whole and len(whole) == 1


def test_a_turn_by_half_is_found(pictures: list[Image.Image]) -> None:
    copy, _ = turned(180)(pictures[2], Image.new("L", (128, 128)), np.random.default_rng(0))
    assert [pair.how for pair in pairs_of([*pictures[:6], copy]).values()] == ["turned by 180 degrees"]


def test_what_the_whole_set_has_in_common_makes_no_pair() -> None:
    """Faint speckle in one bright round frame: each picture correlates with each other above NEAR, and none is a copy."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:64, :64] - 31.5
    frame = np.where(np.hypot(rows, columns) < 28, 190.0, 5.0)
    made = [np.clip(frame + 105 * ndimage.gaussian_filter(rng.normal(size=(64, 64)), 2), 0, 255).astype(np.uint8) for _ in range(20)]
    flat = np.stack(made).reshape(20, -1).astype(float)
    apart = np.corrcoef(flat)[np.triu_indices(20, 1)]
    assert apart.min() > near.NEAR and apart.max() < near.SAME  # else the test says nothing
    copy = np.clip(made[4] * 0.8 + 10, 0, 255).astype(np.uint8)
    found = pairs_of([Image.fromarray(values) for values in [*made, copy]])
    assert set(found) == {("s004", "s020")}


def test_what_is_no_image_of_the_set_does_not_change_what_its_images_have_in_common() -> None:
    """The speckle above beside drawings without a mask, dark where the frame is bright, such as a second observer's masks."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:64, :64] - 31.5
    frame = np.where(np.hypot(rows, columns) < 28, 190.0, 5.0)
    images = [np.clip(frame + 105 * ndimage.gaussian_filter(rng.normal(size=(64, 64)), 2), 0, 255).astype(np.uint8) for _ in range(20)]
    drawings = [
        np.where(frame + 400 * ndimage.gaussian_filter(rng.normal(size=(64, 64)), 3) > 100, 0, 255).astype(np.uint8) for _ in range(20)
    ]
    thumbs = np.stack([near.thumbnail(np.repeat(one[..., None], 3, axis=2)) for one in (*images, *drawings)])
    names = [f"s{place:03d}" for place in range(40)]
    of_images = [[pair for pair in near.near_pairs(names, thumbs, known) if pair.second < "s020"] for known in (None, np.arange(40) < 20)]
    assert of_images[0] and not of_images[1]  # without the first the test says nothing


def test_the_middle_slice_of_a_volume_is_shown() -> None:
    array = np.zeros((6, 4, 5), np.float32)
    array[1, 2, 2], array[0, 0, 2] = 10, np.nan
    picture = near.middle_slice(array)
    assert picture.shape == (4, 6, 3) and picture[2, 1].tolist() == [255] * 3 and picture[0, 0].tolist() == [0] * 3
    assert near.middle_slice(np.ones((3, 3, 3, 2), np.int16)).shape == (3, 3, 3)
