import pytest
import torch

from medseg.config.model import (
    AttentionUnetConfig,
    BasicUnetConfig,
    DynUnetConfig,
    FlexibleUnetConfig,
    SegResNetConfig,
    SwinUnetrConfig,
    UnetConfig,
    UnetPlusPlusConfig,
    UnetrConfig,
)
from medseg.errors import ConfigError
from medseg.models.contract import Task
from medseg.models.families.monai import build
from tests.models.contract import NetworkContract

SIX = (8, 8, 16, 16, 16, 8)


class TestUnet(NetworkContract):
    config = UnetConfig(channels=(8, 16, 32), strides=(2, 2))
    grid = (32, 48)


@pytest.mark.slow
class TestUnetWithoutResidualUnits(NetworkContract):
    config = UnetConfig(channels=(8, 16), strides=(2,), num_res_units=0)
    grid = (16, 24)
    rate = 1e-2


class TestUnetOfVolumes(NetworkContract):
    config = UnetConfig(channels=(8, 16, 32), strides=(2, 2))
    grid = (16, 16, 24)


@pytest.mark.slow
class TestAttentionUnet(NetworkContract):
    config = AttentionUnetConfig(name="attention_unet", channels=(8, 16, 32), strides=(2, 2))


@pytest.mark.slow
class TestAttentionUnetOfVolumes(NetworkContract):
    config = AttentionUnetConfig(name="attention_unet", channels=(8, 16), strides=(2,))
    grid = (16, 16, 24)
    rate = 1e-2


@pytest.mark.slow
class TestBasicUnet(NetworkContract):
    config = BasicUnetConfig(name="basic_unet", features=SIX)


@pytest.mark.slow
class TestBasicUnetOfVolumes(NetworkContract):
    config = BasicUnetConfig(name="basic_unet", features=SIX)
    grid = (32, 32, 32)


@pytest.mark.slow
class TestUnetPlusPlus(NetworkContract):
    config = UnetPlusPlusConfig(name="unetplusplus", features=SIX)


@pytest.mark.slow
class TestUnetPlusPlusSupervised(NetworkContract):
    config = UnetPlusPlusConfig(name="unetplusplus", features=SIX, deep_supervision=True)


@pytest.mark.slow
class TestUnetPlusPlusOfVolumes(NetworkContract):
    config = UnetPlusPlusConfig(name="unetplusplus", features=SIX)
    grid = (32, 32, 32)


class TestDynUnet(NetworkContract):
    config = DynUnetConfig(name="dynunet", channels=(8, 16, 16, 16))


class TestDynUnetWithoutSupervision(NetworkContract):
    config = DynUnetConfig(name="dynunet", channels=(8, 16, 16), deep_supervision=False, residual=True)


class TestDynUnetOfVolumes(NetworkContract):
    config = DynUnetConfig(name="dynunet", channels=(8, 8, 16))
    grid = (8, 32, 32)


class TestDynUnetOfThickSlices(NetworkContract):
    config = DynUnetConfig(name="dynunet", channels=(8, 8, 16), strides=((1, 2, 2), 2), kernels=((1, 3, 3), 3, 3))
    grid = (8, 32, 32)


def test_a_network_s_strides_and_kernels_are_those_that_are_told():
    config = DynUnetConfig(name="dynunet", channels=(8, 8, 16), strides=((1, 2, 2), 2), kernels=((1, 3, 3), 3, 3))
    network = build(config, Task(2, (8, 32, 32), 1, 255, True))
    blocks = [network.net.input_block, *network.net.downsamples, network.net.bottleneck, *(up.conv_block for up in network.net.upsamples)]
    firsts = [next(each for each in block.modules() if isinstance(each, torch.nn.Conv3d)) for block in blocks]
    thick = (3, 3, 3)
    assert [each.kernel_size for each in firsts] == [(1, 3, 3), thick, thick, thick, (1, 3, 3)], "down, and up to the same levels"
    assert [each.stride for each in firsts[:3]] == [(1, 1, 1), (1, 2, 2), (2, 2, 2)]
    assert network.divisor == (2, 4, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strides": (2,)}, "three levels or more"),
        ({"strides": (2, 2), "channels": (8, 8, 8, 8)}, "they tell of .*levels"),
        ({"kernels": (3, 3), "strides": (2, 2)}, "three levels or more"),
        ({"kernels": (3, 2, 3)}, "1, 3, 5 or 7"),
    ],
)
def test_levels_that_disagree_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        DynUnetConfig(name="dynunet", **settings)


def test_a_level_of_another_number_of_axes_is_told():
    config = DynUnetConfig(name="dynunet", strides=((1, 2, 2), 2))
    with pytest.raises(ConfigError, match=r"model.strides: \[1, 2, 2\] is 3 numbers, and the network is of 2 dimensions"):
        build(config, Task(2, (32, 32), 1, 255, True))


@pytest.mark.slow
class TestFlexibleUnet(NetworkContract):
    config = FlexibleUnetConfig(name="flexible_unet")


@pytest.mark.slow
class TestFlexibleUnetOfResNet(NetworkContract):
    config = FlexibleUnetConfig(name="flexible_unet", encoder="resnet10")


@pytest.mark.slow
class TestFlexibleUnetOfVolumes(NetworkContract):
    config = FlexibleUnetConfig(name="flexible_unet", decoder_channels=(32, 16, 16, 8, 8))
    grid = (32, 32, 32)


@pytest.mark.slow
class TestSegResNet(NetworkContract):
    config = SegResNetConfig(name="segresnet", init_filters=8)


@pytest.mark.slow
class TestSegResNetOfVolumes(NetworkContract):
    config = SegResNetConfig(name="segresnet", init_filters=8, blocks_down=(1, 2), blocks_up=(1,))
    grid = (16, 16, 24)


@pytest.mark.slow
class TestUnetr(NetworkContract):
    config = UnetrConfig(name="unetr", feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4)


@pytest.mark.slow
class TestUnetrOfVolumes(NetworkContract):
    config = UnetrConfig(name="unetr", feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4)
    grid = (32, 32, 32)


@pytest.mark.slow
class TestSwinUnetr(NetworkContract):
    config = SwinUnetrConfig(name="swin_unetr", feature_size=12)


@pytest.mark.slow
class TestSwinUnetrOfVolumes(NetworkContract):
    config = SwinUnetrConfig(name="swin_unetr", feature_size=12)
    grid = (32, 32, 32)
