from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseg.config import OptimConfig
from medseg.engine.infer import Passes, objects_to_original_grid, on_own_grid, predict, predict_image, predict_probs, to_original_grid
from medseg.engine.optim import learning_rate, make_optimizer
from medseg.instances import class_mask
from medseg.labels import LabelSet
from medseg.letterbox import fit_letterbox, place_image, place_mask
from medseg.models.contract import Adapter, Network, Task
from medseg.types import Found, Prediction, Size

FRAME = Size(64, 96)


class Brightness(nn.Module):
    """Class 1 where the red channel is bright: a network whose right answer is known on every grid."""

    def forward(self, image_BCHW):
        red = image_BCHW[:, 0]
        probs = torch.stack([1 - red, red], dim=1)
        return Prediction(probs, probs.argmax(1))


class LeftHalf(nn.Module):
    """Class 1 in the left half of the frame, whatever the image: the worst case for a mirror average."""

    def forward(self, image_BCHW):
        probs = torch.zeros(len(image_BCHW), 2, *image_BCHW.shape[2:])
        half = image_BCHW.shape[-1] // 2
        probs[:, 1, :, :half] = 1.0
        probs[:, 0, :, half:] = 1.0
        return Prediction(probs, probs.argmax(1))


class Finder(nn.Module):
    """One object of class 1, where the red channel is bright, and no probabilities."""

    def forward(self, image_BCHW):
        red = image_BCHW[:, :1]
        height, width = red.shape[2:]
        box = torch.tensor([[0.0, 0.0, width, height]])
        found = tuple(Found(torch.tensor([1]), torch.tensor([0.9]), soft, box, torch.tensor([True])) for soft in red)
        return Prediction(None, (red[:, 0] >= 0.5).long(), found)


def disc(size: Size) -> np.ndarray:
    y, x = np.mgrid[: size.height_px, : size.width_px]
    return ((y / size.height_px - 0.55) ** 2 + (x / size.width_px - 0.4) ** 2 < 0.09).astype(np.uint8)


@pytest.mark.parametrize("network", [Brightness, Finder])
@pytest.mark.parametrize("size", [Size(64, 96), Size(200, 80), Size(37, 411), Size(20, 30), Size(333, 500)])
def test_a_prediction_comes_back_to_where_the_image_was(size, network):
    truth = disc(size)
    image = np.repeat(truth[..., None] * 255, 3, axis=2).astype(np.uint8)
    found = predict_image(network().eval(), image, FRAME, torch.device("cpu"))
    assert found.shape == truth.shape and found.dtype == np.uint8
    shrink = max(1.0, size.height_px / 64, size.width_px / 96)
    border = int(2 * np.pi * 0.3 * max(size)) + 8
    assert (found != truth).sum() <= border * shrink  # at most about one network pixel along the outline


def test_padding_never_reaches_the_result():
    size = Size(10, 100)
    box = fit_letterbox(size, FRAME)
    probs = torch.zeros(2, *FRAME)
    probs[1] = 1.0  # class 1 everywhere, also in the padding
    probs[:, box.top_px : box.top_px + box.inner.height_px] = torch.tensor([1.0, 0.0])[:, None, None]
    assert (to_original_grid(probs, box).argmax(dim=0) == 0).all()


HALF = fit_letterbox(Size(10, 20), Size(40, 40))  # twice as large on the frame, ten rows below its top


def found_by_hand(*objects: tuple[int, float, slice, slice, bool]) -> Found:
    """Of (class, score, rows, columns, shown) on the frame of HALF."""
    soft = torch.zeros(len(objects), 40, 40)
    boxes = []
    for place, (_, _, rows, columns, _) in enumerate(objects):
        soft[place, rows, columns] = 1.0
        boxes.append([columns.start, rows.start, columns.stop, rows.stop])
    ids, scores, _, _, shown = zip(*objects, strict=True)
    return Found(torch.tensor(ids), torch.tensor(scores), soft, torch.tensor(boxes).float(), torch.tensor(shown))


def test_objects_come_back_to_where_they_were_the_surest_on_top():
    sure = (2, 0.9, slice(10, 20), slice(0, 20), True)
    below = (1, 0.6, slice(14, 30), slice(10, 40), True)
    unsure = (1, 0.3, slice(10, 30), slice(0, 40), False)
    found = found_by_hand(sure, below, unsure)
    expected = np.zeros((10, 20), np.uint8)
    expected[2:10, 5:20] = 1
    expected[0:5, 0:10] = 2
    grid = on_own_grid(Prediction(None, torch.zeros(1, 40, 40), (found,)), 0, HALF)
    assert (grid.mask_HW == expected).all() and grid.mask_HW.dtype == np.uint8 and grid.probs_KHW is None
    assert [each.box for each in grid.objects.found] == [(0, 0, 10, 5), (5, 2, 20, 10), (0, 0, 20, 10)]
    assert [int(each.patch.pixels_HW.sum()) for each in grid.objects.found] == [50, 120, 200], "whole, though another hides a part"
    assert (class_mask(grid.objects.found, grid.objects.numbers_HW) == expected).all()
    assert np.bincount(grid.objects.numbers_HW.ravel()).tolist() == [45, 50, 105]


def test_nothing_of_an_object_comes_from_the_padding():
    """Its box is cut to the image, too; one that lies in the padding alone has no pixel."""
    everywhere, outside = objects_to_original_grid(
        found_by_hand((1, 0.9, slice(0, 40), slice(0, 40), True), (1, 0.8, slice(0, 8), slice(0, 40), True)), HALF
    )
    assert everywhere.patch.pixels_HW.shape == (10, 20) and everywhere.patch.pixels_HW.all() and everywhere.box == (0, 0, 20, 10)
    assert outside.patch.pixels_HW.size == 0 and outside.box == (0, 0, 20, 0)


def test_an_image_without_an_object_is_background():
    nothing = Found(torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 40, 40), torch.zeros(0, 4), torch.zeros(0).bool())
    grid = on_own_grid(Prediction(None, torch.zeros(1, 40, 40), (nothing,)), 0, HALF)
    assert grid.objects.found == () and (grid.mask_HW == 0).all() and grid.mask_HW.shape == (10, 20)


def test_several_passes_need_probabilities():
    """A config that asks for them is refused before (build.check_objects): here it is our bug."""
    image = torch.rand(1, 3, 16, 16)
    assert predict(Finder().eval(), image).probs_BKHW is None
    with pytest.raises(AssertionError, match="gives no probabilities"):
        predict(Finder().eval(), image, Passes(LabelSet.of("tongue")))


def test_image_and_mask_are_placed_alike():
    size = Size(50, 100)
    box, mask = fit_letterbox(size, FRAME), disc(size)
    image = place_image(np.repeat(mask[..., None] * 255, 3, axis=2).astype(np.uint8), box)
    placed = place_mask(mask, box, 255)
    inside = placed != 255
    assert ((image[0] > 127) == (placed == 1))[inside].mean() > 0.98


def test_the_mirror_average_is_the_mean_of_both():
    image, labels = torch.rand(1, 3, 8, 8), LabelSet.of("tongue")
    assert (predict_probs(LeftHalf().eval(), image, Passes(labels)) == 0.5).all()
    plain, mirrored = (predict_probs(Brightness().eval(), image, Passes(mirror)) for mirror in (None, labels))
    assert torch.allclose(plain, mirrored)


def test_the_mirror_average_exchanges_left_and_right():
    class Sides(nn.Module):
        """Left half is class 1 (left), right half class 2 (right): right on every image and on its mirror image."""

        def forward(self, image_BCHW):
            probs = torch.zeros(1, 3, 4, 8)
            probs[:, 1, :, :4] = probs[:, 2, :, 4:] = 1.0
            return Prediction(probs, probs.argmax(1))

    labels = LabelSet.of("left", "right", left_right_pairs=[["left", "right"]])
    net, image = Sides().eval(), torch.rand(1, 3, 4, 8)
    assert (predict_probs(net, image, Passes(labels)) == net(image).probs_BKHW).all()


class Shapes(Brightness):
    """Brightness that keeps the sizes it was shown."""

    def __init__(self):
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def forward(self, image_BCHW):
        self.seen.add(tuple(image_BCHW.shape[2:]))
        return super().forward(image_BCHW)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
@pytest.mark.parametrize("window", [Size(16, 24), Size(20, 33), Size(40, 96), Size(64, 96)])
def test_windows_of_a_pointwise_network_give_what_the_whole_frame_gives(window, overlap):
    image, net = torch.rand(3, 3, *FRAME, generator=torch.Generator().manual_seed(0)), Shapes().eval()
    whole = predict_probs(net, image)
    assert net.seen == {tuple(FRAME)}
    net.seen.clear()
    windows = predict_probs(net, image, Passes(window=window, overlap=overlap))
    assert net.seen == {tuple(window)}, "the network sees what it learnt from"
    assert windows.shape == whole.shape and windows.dtype == torch.float32 and torch.allclose(windows, whole, atol=1e-5)


def test_windows_show_the_network_less_than_the_frame():
    """LeftHalf calls the left half of all it sees class 1: in two windows side by side that is the first and the third quarter."""
    probs = predict_probs(LeftHalf().eval(), torch.rand(1, 3, 16, 64), Passes(window=Size(16, 32), overlap=0.0))
    assert (probs[0, 1] > 0.5).float().mean(0).reshape(4, 16).mean(1).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_window_counts_least_at_its_border():
    """Two windows of 32 that overlap by half of each: in [16, 32) the first says class 0, the second class 1."""
    probs = predict_probs(LeftHalf().eval(), torch.rand(1, 3, 16, 48), Passes(window=Size(16, 32), overlap=0.5))
    overlap = probs[0, 1, 8, 16:32]
    assert (overlap[1:] > overlap[:-1]).all() and overlap[0] < 0.25 and overlap[-1] > 0.75, "the nearer centre has the say"


def test_the_mirror_average_in_windows():
    labels, image = LabelSet.of("left", "right", left_right_pairs=[["left", "right"]]), torch.rand(2, 3, *FRAME)

    class Three(nn.Module):
        """Left where red is bright, right where green is: its answer to a mirror image is the mirrored answer, the sides kept."""

        def forward(self, image_BCHW):
            probs = torch.softmax(torch.stack([image_BCHW[:, 2], image_BCHW[:, 0], image_BCHW[:, 1]], dim=1), dim=1)
            return Prediction(probs, probs.argmax(1))

    net = Three().eval()
    whole, windows = (predict_probs(net, image, Passes(labels, window)) for window in (None, Size(32, 32)))
    plain = net(image).probs_BKHW
    assert torch.allclose(windows, whole, atol=1e-5)
    assert torch.allclose(whole, (plain + plain[:, [0, 2, 1]]) / 2, atol=1e-6), "the mirrored pass has its sides exchanged"


@pytest.mark.parametrize("size", [Size(64, 96), Size(200, 80), Size(37, 411)])
def test_an_image_is_predicted_in_windows_as_in_one(size):
    image = np.repeat(disc(size)[..., None] * 255, 3, axis=2).astype(np.uint8)
    net = Shapes().eval()
    whole = predict_image(net, image, FRAME, torch.device("cpu"))
    net.seen.clear()
    windows = predict_image(net, image, FRAME, torch.device("cpu"), Passes(window=Size(32, 48)))
    assert net.seen == {(32, 48)} and windows.shape == tuple(size) and windows.dtype == np.uint8
    assert (windows != whole).mean() < 0.001, "only where the red is half bright"


def test_biases_and_norms_do_not_decay():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.PReLU())
    model = Adapter(Network(net), Task(2, (8, 8)))
    decayed, plain = make_optimizer(OptimConfig(weight_decay=0.1), model).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3)] and decayed["weight_decay"] == 0.1
    assert len(plain["params"]) == 4 and plain["weight_decay"] == 0.0


def test_the_rate_warms_up_and_decays_and_is_never_negative():
    config = OptimConfig(lr=0.01, warmup_share=0.2, final_lr_share=0.1)
    rates = [learning_rate(config, step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([0.001 * k for k in range(1, 11)]) and max(rates) == 0.01
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False)) and rates[-1] >= 0.001
    assert learning_rate(OptimConfig(warmup_share=0.0), 0, 1) == 1e-3
