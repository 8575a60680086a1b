"""Windows, slabs and planes: against the network itself, MONAI's own sliding window, and torch's trilinear interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from medseg.config.volume import VolumeConfig
from medseg.data.volume.decode import Stored
from medseg.engine.volumes import (
    LEAST,
    Mirrors,
    Windows,
    gaussian,
    network_mask,
    on_file_grid,
    planes_on_box,
    predicted_planes,
    window_probs,
    windows_of,
)
from medseg.grid import turn_of
from medseg.labels import LabelSet
from medseg.monai_parts import sliding_window_inference
from medseg.types import Prediction

CPU = torch.device("cpu")
PAIR = LabelSet.of("left", "right", left_right_pairs=[["left", "right"]])


class Net(nn.Module):
    """Any function of the image to logits."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers, self.seen = layers, []

    def forward(self, image):
        self.seen.append(tuple(image.shape))
        probs = torch.softmax(self.layers(image), dim=1)
        return Prediction(probs, probs.argmax(1))


def pointwise(channels: int = 1, dims: int = 3) -> Net:
    torch.manual_seed(0)
    return Net((nn.Conv3d if dims == 3 else nn.Conv2d)(channels, 3, 1)).eval()


def wide(dims: int = 3) -> Net:
    """Sees its surroundings, so that windows disagree."""
    torch.manual_seed(1)
    conv = nn.Conv3d if dims == 3 else nn.Conv2d
    return Net(nn.Sequential(conv(1, 4, 5, padding=2), nn.ReLU(), conv(4, 3, 5, padding=2))).eval()


def volume(*sides: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, *sides)).astype(np.float32)


def planes(models, image, windows) -> torch.Tensor:
    return torch.stack(list(predicted_planes(models, image, windows, CPU)), dim=1)


@torch.inference_mode()
def whole(net: nn.Module, image: np.ndarray) -> torch.Tensor:
    return net(torch.from_numpy(image)[None]).probs_BKHW[0]


@pytest.mark.parametrize("sides", [(8, 8, 8), (5, 8, 6), (7, 3, 8), (1, 2, 3)])
def test_a_volume_no_larger_than_the_window_is_the_network_s_own(sides):
    """In the middle of the window, 0 around it."""
    image, net = volume(*sides), wide()
    missing = [8 - side for side in sides]
    padded = np.pad(image, ((0, 0), *((each // 2, each - each // 2) for each in missing)))
    inner = tuple(slice(each // 2, each // 2 + side) for each, side in zip(missing, sides, strict=True))
    found = planes([net], image, Windows((8, 8, 8)))
    assert found.shape == (3, *sides) and torch.allclose(found, whole(net, padded)[(slice(None), *inner)], atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("sides", [(8, 9, 10), (23, 17, 11), (9, 30, 8)])
def test_a_pointwise_network_is_itself_on_any_volume(sides, overlap):
    image, net = volume(*sides, channels=2), pointwise(2)
    found = planes([net], image, Windows((8, 8, 8), overlap))
    assert torch.allclose(found, whole(net, image), atol=1e-5)
    assert torch.allclose(found.sum(0), torch.ones(sides), atol=1e-5), "every voxel is covered"


@pytest.mark.parametrize("sides", [(20, 13, 9), (16, 8, 8), (11, 21, 17)])
def test_slabs_make_the_mean_that_monai_makes_of_all_windows_at_once(sides):
    image, net, side = volume(*sides), wide(), 8
    line = gaussian(side)
    plane = (line[:, None] * line[None, :]).clamp_min(LEAST)
    weights = line[:, None, None] * plane[None]
    expected = sliding_window_inference(
        torch.from_numpy(image)[None], (side,) * 3, 4, lambda x: net(x).probs_BKHW, 0.5, roi_weight_map=weights
    )  # fmt: skip
    assert torch.allclose(planes([net], image, Windows((side,) * 3)), expected[0], atol=1e-5)


def test_windows_that_disagree_are_not_averaged_away():
    """Else the tests above could not fail."""
    image, net = volume(20, 13, 9), wide()
    assert not torch.allclose(planes([net], image, Windows((8, 8, 8))), whole(net, image), atol=1e-2)


@pytest.mark.parametrize("sides", [(3, 20, 9), (19, 8, 8)])
def test_a_network_of_slices_sees_each_plane_by_itself(sides):
    image, net = volume(*sides), wide(dims=2)
    found = planes([net], image, Windows((24, 24)))
    for plane in range(sides[0]):
        high, wide_ = 24 - sides[1], 24 - sides[2]
        around = (wide_ // 2, wide_ - wide_ // 2, high // 2, high - high // 2)
        alone = whole(net, pad(torch.from_numpy(image[:, plane]), around).numpy())
        assert torch.allclose(
            found[:, plane], alone[:, high // 2 : high // 2 + sides[1], wide_ // 2 : wide_ // 2 + sides[2]], atol=1e-5
        )  # fmt: skip
    assert all(len(shape) == 4 for shape in net.seen)


@pytest.mark.parametrize("at_once", [1, 3, 20])
def test_no_more_slices_at_once_than_told(at_once):
    net = wide(dims=2)
    found = planes([net], volume(19, 20, 30), Windows((8, 8), at_once=at_once))
    assert max(shape[0] for shape in net.seen) <= at_once
    assert torch.allclose(found, planes([wide(dims=2)], volume(19, 20, 30), Windows((8, 8))), atol=1e-5)


def test_models_are_averaged():
    image, first, second = volume(9, 9, 9), pointwise(), wide()
    both = window_probs([first, second], Windows((9, 9, 9)))(torch.from_numpy(image)[None])[0]
    assert torch.allclose(both, (whole(first, image) + whole(second, image)) / 2, atol=1e-6)


@pytest.mark.parametrize("axes", [(2,), (0, 1, 2)])
def test_mirror_images_are_averaged_and_left_is_right_in_them(axes):
    image, net, left_right = volume(8, 8, 8), wide(), 2
    mirrors, total = Mirrors(axes, left_right, PAIR), torch.zeros(3, 8, 8, 8)
    assert len(mirrors.combinations) == 2 ** len(axes)
    for chosen in mirrors.combinations:
        flipped = whole(net, np.flip(image, [axis + 1 for axis in chosen]).copy()).flip([axis + 1 for axis in chosen])
        total += flipped[[0, 2, 1]] if left_right in chosen else flipped
    found = planes([net], image, Windows((8, 8, 8), mirrors=mirrors))
    assert torch.allclose(found, total / len(mirrors.combinations), atol=1e-5)


@pytest.mark.parametrize("sides", [(9, 14, 7), (3, 5, 4), (6, 6, 6), (1, 13, 2), (30, 6, 9)])
def test_planes_are_brought_to_the_box_as_torch_does_it_at_once(sides):
    probs = torch.from_numpy(volume(6, 6, 8, channels=3))
    found = torch.stack(list(planes_on_box((probs[:, plane] for plane in range(6)), 6, sides)), dim=1)
    expected = interpolate(probs[None], size=sides, mode="trilinear", align_corners=False)[0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_planes_are_made_one_after_the_other():
    """The first is asked for before the last is made: memory does not hold them all."""
    net = pointwise()
    iterator = predicted_planes([net], volume(40, 8, 8), Windows((8, 8, 8)), CPU)
    next(iterator)
    assert len(net.seen) == 1
    assert len(list(iterator)) == 39 and len(net.seen) == 9


@pytest.mark.parametrize("depth_axis", ["z", "y", "x"])
def test_the_result_lies_where_the_file_has_it(depth_axis):
    """A net that says what it sees: bright voxels of an oblique left-handed grid are found where they were."""
    affine = np.array([[0, -2.0, 0, 5], [1.0, 0, 0, -3], [0, 0, -4.0, 9], [0, 0, 0, 1]])
    shape = (6, 9, 7)
    turn = turn_of(shape, affine, "a", depth_axis)
    stored = Stored(shape, affine, turn, 1)
    marked = np.zeros(shape, np.float32)
    marked[1, 2, 3], marked[5, 8, 0] = 1.0, 1.0
    net = Net(nn.Conv3d(1, 2, 1)).eval()
    with torch.no_grad():
        net.layers.weight.copy_(torch.tensor([0.0, 40.0]).view(2, 1, 1, 1, 1))
        net.layers.bias.copy_(torch.tensor([0.0, -20.0]))
    image = np.ascontiguousarray(turn.forward(marked)[None])
    box = tuple((0, side) for side in turn.shape)
    found = on_file_grid([net], image, box, stored, Windows((4, 4, 4)), CPU, num_classes=2)
    assert np.array_equal(found.mask_XYZ, marked) and found.mask_XYZ.dtype == np.uint8
    assert found.probs_KXYZ.shape == (2, *shape) and torch.equal(found.probs_KXYZ.argmax(0), torch.from_numpy(marked).long())
    assert np.array_equal(network_mask([net], image, Windows((4, 4, 4)), CPU), turn.forward(marked))


def test_what_was_cropped_away_is_background():
    turn = turn_of((10, 11, 12), np.eye(4), "a")
    stored, net = Stored((10, 11, 12), np.eye(4), turn, 1), pointwise()
    with torch.no_grad():
        net.layers.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    found = on_file_grid([net], volume(4, 5, 6), ((2, 6), (3, 8), (1, 7)), stored, Windows((8, 8, 8)), CPU, 3)
    expected = np.zeros((12, 11, 10), np.uint8)
    expected[2:6, 3:8, 1:7] = 1
    assert np.array_equal(turn.forward(found.mask_XYZ), expected)
    assert float(found.probs_KXYZ[0, 0, 0, 0]) == 1.0


def test_slices_have_no_mirror_image_across_themselves():
    """Across x it would be the same slice, with left and right exchanged: each would be half of both."""
    sagittal = VolumeConfig(spacing_mm=(1, 1, 1), depth_axis="x")
    assert windows_of(sagittal, (16, 16), 0.5, ("x",), PAIR).mirrors is None
    flat, solid = (windows_of(sagittal, size, 0.5, ("x", "y"), PAIR).mirrors for size in ((16, 16), (8, 16, 16)))
    assert flat is not None and solid is not None and (flat.axes, solid.axes) == ((2,), (0, 2))
