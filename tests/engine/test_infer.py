from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseg.config import OptimConfig
from medseg.data.decode import fit_letterbox, place_image, place_mask
from medseg.engine.infer import Passes, predict_image, predict_probs, to_original_grid
from medseg.engine.optim import learning_rate, make_optimizer
from medseg.labels import LabelSet
from medseg.types import Prediction, Size

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


def disc(size: Size) -> np.ndarray:
    y, x = np.mgrid[: size.height_px, : size.width_px]
    return ((y / size.height_px - 0.55) ** 2 + (x / size.width_px - 0.4) ** 2 < 0.09).astype(np.uint8)


@pytest.mark.parametrize("size", [Size(64, 96), Size(200, 80), Size(37, 411), Size(20, 30), Size(333, 500)])
def test_a_prediction_comes_back_to_where_the_image_was(size):
    truth = disc(size)
    image = np.repeat(truth[..., None] * 255, 3, axis=2).astype(np.uint8)
    found = predict_image(Brightness().eval(), image, FRAME, torch.device("cpu"))
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
    decayed, plain = make_optimizer(OptimConfig(weight_decay=0.1), net).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3)] and decayed["weight_decay"] == 0.1
    assert len(plain["params"]) == 4 and plain["weight_decay"] == 0.0


def test_the_rate_warms_up_and_decays_and_is_never_negative():
    config = OptimConfig(lr=0.01, warmup_share=0.2, final_lr_share=0.1)
    rates = [learning_rate(config, step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([0.001 * k for k in range(1, 11)]) and max(rates) == 0.01
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False)) and rates[-1] >= 0.001
    assert learning_rate(OptimConfig(warmup_share=0.0), 0, 1) == 1e-3
