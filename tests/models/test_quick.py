"""What the quick layers compute, against the library's own."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from medseg.models.quick import QuickInstanceNorm2d, QuickInstanceNorm3d, QuickPReLU, hasten

SHAPES = {2: (3, 4, 6, 5), 3: (2, 4, 3, 5, 4)}
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def values_of(dims: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(dims)
    return torch.randn(SHAPES[dims], generator=generator, dtype=dtype).contiguous(memory_format=LAYOUTS[dims]).requires_grad_()


def results(net: nn.Module, values: Tensor) -> list[Tensor]:
    """What comes out, and the gradients of a sum with unequal weights."""
    net, values = copy.deepcopy(net), values.detach().clone().requires_grad_()
    out = net(values)
    out.mul(torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
    return [out, values.grad, *(parameter.grad for parameter in net.parameters())]


def both(layer: nn.Module, values: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """(by the library, the quick way, in which the library's own code must not run)."""
    library = results(layer, values)
    own = nn.Sequential(copy.deepcopy(layer))
    hasten(own)
    with monkeypatch.context() as patch:
        patch.setattr(type(layer), "forward", lambda self, values: pytest.fail("the library's own code ran"))
        return library, results(own, values)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_instance_norm_image_by_image_is_the_librarys(dims, affine, monkeypatch):
    norm = NORMS[dims](4, affine=affine, dtype=torch.float64)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, -1, 2)
    library, quick = both(norm, values_of(dims), monkeypatch)
    torch.testing.assert_close(quick, library, rtol=1e-9, atol=1e-12)
    assert quick[0].is_contiguous(memory_format=LAYOUTS[dims])


def test_a_prelu_with_one_slope_is_the_librarys(monkeypatch):
    values = values_of(2).detach()
    values[0, 0, 0] = 0
    library, quick = both(nn.PReLU(init=0.3, dtype=torch.float64), values, monkeypatch)
    torch.testing.assert_close(quick, library, rtol=1e-12, atol=1e-12)
    negative = both(nn.PReLU(init=-0.3, dtype=torch.float64), values, monkeypatch)
    torch.testing.assert_close(negative[1], negative[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", [nn.InstanceNorm2d(4, affine=True), nn.PReLU()])
def test_in_mixed_precision_results_have_the_librarys_type_and_are_near(layer, monkeypatch):
    half = values_of(2, torch.float32).detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        library, quick = both(layer, half, monkeypatch)
    assert [each.dtype for each in quick] == [each.dtype for each in library]
    exact = results(layer.double(), half.double())
    for ours, theirs, right in zip(quick, library, exact, strict=True):
        assert (ours - right).abs().max() <= 1.05 * (theirs - right).abs().max() + 0.02 * right.abs().max()


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (nn.InstanceNorm2d(4), values_of(2).detach().contiguous()),
        (nn.InstanceNorm2d(4).eval(), values_of(2)),
        (nn.InstanceNorm2d(4, track_running_stats=True).double(), values_of(2)),
        (nn.PReLU(4, dtype=torch.float64), values_of(2)),
        (nn.PReLU(dtype=torch.float64).eval(), values_of(2)),
    ],
    ids=["channels first", "evaluation", "running statistics", "a slope a channel", "prelu in evaluation"],
)
def test_elsewhere_the_library_computes(layer, values, monkeypatch):
    own, ran = nn.Sequential(copy.deepcopy(layer)), []
    hasten(own)
    forward = type(layer).forward
    monkeypatch.setattr(type(layer), "forward", lambda self, values: ran.append(1) or forward(self, values))
    own(values)
    assert ran


def test_too_few_values_are_refused_as_the_library_refuses_them():
    own = nn.Sequential(nn.InstanceNorm2d(4))
    hasten(own)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        own(torch.zeros(2, 4, 1, 1))


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

    own = nn.Sequential(Own(4))
    hasten(own)
    assert type(own[0]) is Own and not isinstance(own[0], QuickInstanceNorm3d)
