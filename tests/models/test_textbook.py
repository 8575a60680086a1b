import torch
from torch.nn.functional import interpolate

from medseg.config.model import FcnResnet18Config
from medseg.models.contract import Task
from medseg.models.families.textbook import bilinear_kernel
from medseg.models.zoo import build_network
from tests.models.contract import NetworkContract


class TestFcnResnet18(NetworkContract):
    config = FcnResnet18Config(name="fcn_resnet18")


def test_the_transposed_convolution_starts_as_bilinear_interpolation():
    net = build_network(FcnResnet18Config(name="fcn_resnet18"), Task(3, (64, 64))).net
    scores = torch.rand(1, 3, 6, 5)
    assert net.upsample.kernel_size == (64, 64) and net.upsample.stride == (32, 32) and net.upsample.padding == (16, 16)
    with torch.inference_mode():
        found, wanted = net.upsample(scores), interpolate(scores, scale_factor=32, mode="bilinear", align_corners=False)
    inner = (..., slice(16, -16), slice(16, -16))  # beyond the outermost centres one repeats the border, the other fades out
    assert found.shape == wanted.shape and torch.allclose(found[inner], wanted[inner], atol=1e-5)


def test_the_book_s_own_kernel():
    """Zhang et al., Dive into Deep Learning, listing of 14.10 (bilinear_kernel), in numpy's terms."""
    size = 64
    factor = (size + 1) // 2
    centre = factor - 0.5
    rows, columns = torch.arange(size).reshape(-1, 1), torch.arange(size).reshape(1, -1)
    filt = (1 - torch.abs(rows - centre) / factor) * (1 - torch.abs(columns - centre) / factor)
    weight = bilinear_kernel(2, size)
    assert torch.allclose(weight[0, 0], filt) and torch.allclose(weight[1, 1], filt) and not weight[0, 1].any()
