"""What the quick layers compute, against the library's own and against the norm written out."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from medseg.build import LAYOUTS
from medseg.models.quick import MOST_VALUES, QuickInstanceNorm2d, QuickInstanceNorm3d, QuickPReLU, hasten

MOST_SIDE = int(MOST_VALUES**0.5)
SHAPES = {2: (3, 4, 6, 5), 3: (2, 4, 3, 5, 4)}
NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normally distributed values in channels-last."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype).contiguous(memory_format=LAYOUTS[len(shape)])


def results(net: nn.Module, values: Tensor, above: Tensor | None = None) -> list[Tensor]:
    """What comes out, and the gradients of a sum with unequal weights, which lie in channels-last."""
    net, values = copy.deepcopy(net), values.detach().clone().requires_grad_()
    out = net(values)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape) if above is None else above.to(out.dtype)
    out.backward(weights.contiguous(memory_format=LAYOUTS[out.ndim]))
    return [out, values.grad, *(parameter.grad for parameter in net.parameters())]


def quick(layer: nn.Module) -> nn.Module:
    """A copy in a network that was hastened."""
    own = nn.Sequential(copy.deepcopy(layer))
    hasten(own)
    return own


def both(layer: nn.Module, values: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """(by the library, the quick way, in which the library's own code must not run)."""
    library = results(layer, values)
    with monkeypatch.context() as patch:
        patch.setattr(type(layer), "forward", lambda self, values: pytest.fail("the library's own code ran"))
        return library, results(quick(layer), values)


class WrittenOut(nn.Module):
    """An instance norm by its definition (Ulyanov et al. 2016, equation 3)."""

    def forward(self, values: Tensor) -> Tensor:
        axes = tuple(range(2, values.ndim))
        centred = values - values.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()


class Scale(nn.Module):
    """What an affine norm of images does afterwards, in float64."""

    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(norm.weight.detach().double()), nn.Parameter(norm.bias.detach().double())

    def forward(self, values: Tensor) -> Tensor:
        return values * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_instance_norm_image_by_image_is_the_librarys(dims, affine, monkeypatch):
    norm = NORMS[dims](4, affine=affine, dtype=torch.float64)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, -1, 2)
    values = drawn(*SHAPES[dims])
    library, ours = both(norm, values, monkeypatch)
    torch.testing.assert_close(ours, library, rtol=1e-9, atol=1e-12)
    assert ours[0].is_contiguous(memory_format=LAYOUTS[values.ndim])


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (2, 4, 6, 5), (1, 3, 4, 3, 5), (2, 3, 4, 3, 5)], ids=str)
def test_the_gradient_of_one_image_is_right_too_which_the_librarys_is_not(shape, last):
    values = drawn(*shape) if last else drawn(*shape).contiguous()
    torch.testing.assert_close(results(quick(NORMS[len(shape) - 2](shape[1])), values), results(WrittenOut(), values))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize("side", [MOST_SIDE, 2 * MOST_SIDE])
def test_values_and_gradients_are_exact_up_to_the_bound_and_beyond_it(side, mean, batch):
    norm, values = nn.InstanceNorm2d(2, affine=True), drawn(batch, 2, side, side, dtype=torch.float32) + mean
    above = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    found, right = results(quick(norm), values, above), results(nn.Sequential(WrittenOut(), Scale(norm)), values.double(), above)
    assert (found[0] - right[0]).abs().max() < 5e-5
    for ours, exact in zip(found[1:], right[1:], strict=True):
        assert (ours - exact).norm() < 2e-5 * exact.norm()


@pytest.mark.parametrize("slope", [0.3, -0.3])
def test_a_prelu_with_one_slope_is_the_librarys(slope, monkeypatch):
    values = drawn(*SHAPES[2])
    values[0, 0, 0] = 0
    library, ours = both(nn.PReLU(init=slope, dtype=torch.float64), values, monkeypatch)
    torch.testing.assert_close(ours, library, rtol=1e-12, atol=1e-12)


def test_an_infinite_gradient_at_a_positive_value_leaves_the_slopes_alone():
    values, above = torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[torch.inf, 3.0]]]])
    assert results(quick(nn.PReLU()), values, above)[2].item() == results(nn.PReLU(), values, above)[2].item() == -6


def test_a_held_slope_stays_held():
    own = quick(nn.PReLU())
    own[0].weight.requires_grad_(False)
    assert results(own, drawn(*SHAPES[2], dtype=torch.float32))[2] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("layer", "dims"),
    [(nn.InstanceNorm2d(4, affine=True), 2), (nn.InstanceNorm2d(4), 2), (nn.InstanceNorm3d(4), 3), (nn.PReLU(), 2)],
    ids=["affine", "2-D", "3-D", "prelu"],
)
def test_in_mixed_precision_results_have_the_librarys_type_and_are_near(layer, dims, dtype):
    values = drawn(*SHAPES[dims]).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        library, ours = results(layer, values), results(quick(layer), values)
    assert [each.dtype for each in ours] == [each.dtype for each in library]
    exact = results(copy.deepcopy(layer).double(), values.double())
    for found, theirs, right in zip(ours, library, exact, strict=True):
        assert (found - right).abs().max() <= 1.05 * (theirs - right).abs().max() + 0.02 * right.abs().max()


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (nn.InstanceNorm2d(4), drawn(2, 4, 6, 5).contiguous()),
        (nn.InstanceNorm2d(1), drawn(2, 1, 300, 300, dtype=torch.float32)),
        (nn.InstanceNorm2d(4).eval(), drawn(2, 4, 6, 5)),
        (nn.InstanceNorm2d(4, track_running_stats=True).double(), drawn(2, 4, 6, 5)),
        (nn.PReLU(4, dtype=torch.float64), drawn(2, 4, 6, 5)),
        (nn.PReLU(dtype=torch.float64).eval(), drawn(2, 4, 6, 5)),
    ],
    ids=["channels first", "large", "evaluation", "running statistics", "a slope a channel", "prelu in evaluation"],
)
def test_elsewhere_the_library_computes(layer, values, monkeypatch):
    own, ran = quick(layer), []
    forward = type(layer).forward
    monkeypatch.setattr(type(layer), "forward", lambda self, values: ran.append(1) or forward(self, values))
    own(values)
    assert ran


@pytest.mark.parametrize(
    ("layer", "values", "said"),
    [
        (nn.InstanceNorm2d(4), torch.zeros(2, 4, 1, 1), "more than 1 spatial element"),
        (nn.InstanceNorm2d(4), torch.zeros(1, 4, 1, 1), "more than 1 spatial element"),
        (nn.InstanceNorm2d(4), drawn(2, 4, 2, 3, 3), "expected 3D or 4D input"),
        (nn.InstanceNorm2d(4, affine=True), drawn(2, 3, 6, 5, dtype=torch.float32), "num_features"),
        (nn.PReLU(), drawn(2, 3, 6, 5).bfloat16(), "Type promoting"),
    ],
    ids=["one value", "one value of one image", "volumes", "channels", "types"],
)
def test_what_the_library_refuses_is_refused_in_its_words(layer, values, said):
    for each in (layer, quick(layer)):
        with pytest.raises((ValueError, RuntimeError), match=said):
            each(values)


def test_a_volume_without_a_batch_is_no_batch_of_images():
    volume = drawn(4, 3, 6, 5)  # (C, D, H, W)
    torch.testing.assert_close(quick(nn.InstanceNorm3d(4))(volume), nn.InstanceNorm3d(4)(volume))


@pytest.mark.parametrize("channels", [3, 8, 15])
@pytest.mark.parametrize("side", [48, 49])
def test_a_strided_convolution_of_a_pixel_has_the_right_gradient(channels, side):
    """torch's own writes past its memory here: without the quick way this ends in a crash."""
    conv, values = nn.Conv2d(channels, 16, 1, stride=2), drawn(2, channels, side, side, dtype=torch.float32)
    for found, right in zip(results(quick(conv), values), results(copy.deepcopy(conv).double(), values.double()), strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4 * right.abs().max().item())


def test_other_convolutions_are_the_librarys():
    several = [
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(16, 16, 1, 2),
        nn.Conv2d(8, 16, 3, 2),
        nn.Conv2d(8, 16, 1, 2, 1),
        nn.Conv2d(8, 16, 1, 2, groups=2),
    ]
    assert all(type(quick(conv)[0]) is nn.Conv2d for conv in several)


def test_a_network_learns_the_same_and_keeps_its_names():
    torch.manual_seed(0)
    net = UNet(2, 3, 2, channels=(8, 16, 32), strides=(2, 2), num_res_units=2).double().to(memory_format=torch.channels_last)
    own = copy.deepcopy(net)
    hasten(own)
    assert {QuickInstanceNorm2d, QuickPReLU} <= {type(module) for module in own.modules()}
    assert own.state_dict().keys() == net.state_dict().keys()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(results(own, image), results(net, image), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(torch.compile(own, backend="eager", fullgraph=True)(image), net(image))


def test_a_layer_with_a_forward_of_its_own_keeps_it():
    class Own(nn.InstanceNorm3d):
        """Somebody's own."""

    own = quick(Own(4))
    assert type(own[0]) is Own and not isinstance(own[0], QuickInstanceNorm3d)
