import pytest

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


class TestAttentionUnet(NetworkContract):
    config = AttentionUnetConfig(name="attention_unet", channels=(8, 16, 32), strides=(2, 2))


@pytest.mark.slow
class TestAttentionUnetOfVolumes(NetworkContract):
    config = AttentionUnetConfig(name="attention_unet", channels=(8, 16), strides=(2,))
    grid = (16, 16, 24)
    rate = 1e-2


class TestBasicUnet(NetworkContract):
    config = BasicUnetConfig(name="basic_unet", features=SIX)


@pytest.mark.slow
class TestBasicUnetOfVolumes(NetworkContract):
    config = BasicUnetConfig(name="basic_unet", features=SIX)
    grid = (32, 32, 32)


@pytest.mark.slow
class TestUnetPlusPlus(NetworkContract):
    config = UnetPlusPlusConfig(name="unetplusplus", features=SIX)


class TestUnetPlusPlusSupervised(NetworkContract):
    config = UnetPlusPlusConfig(name="unetplusplus", features=SIX, deep_supervision=True)


class TestDynUnet(NetworkContract):
    config = DynUnetConfig(name="dynunet", channels=(8, 16, 16, 16))


class TestDynUnetWithoutSupervision(NetworkContract):
    config = DynUnetConfig(name="dynunet", channels=(8, 16, 16), deep_supervision=False, residual=True)


class TestDynUnetOfVolumes(NetworkContract):
    config = DynUnetConfig(name="dynunet", channels=(8, 8, 16))
    grid = (8, 32, 32)


@pytest.mark.slow
class TestFlexibleUnet(NetworkContract):
    config = FlexibleUnetConfig(name="flexible_unet")


@pytest.mark.slow
class TestFlexibleUnetOfResNet(NetworkContract):
    config = FlexibleUnetConfig(name="flexible_unet", encoder="resnet10")


class TestSegResNet(NetworkContract):
    config = SegResNetConfig(name="segresnet", init_filters=8)


@pytest.mark.slow
class TestSegResNetOfVolumes(NetworkContract):
    config = SegResNetConfig(name="segresnet", init_filters=8, blocks_down=(1, 2), blocks_up=(1,))
    grid = (16, 16, 24)


class TestUnetr(NetworkContract):
    config = UnetrConfig(name="unetr", feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4)


@pytest.mark.slow
class TestUnetrOfVolumes(NetworkContract):
    config = UnetrConfig(name="unetr", feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4)
    grid = (32, 32, 32)


class TestSwinUnetr(NetworkContract):
    config = SwinUnetrConfig(name="swin_unetr", feature_size=12)


@pytest.mark.slow
class TestSwinUnetrOfVolumes(NetworkContract):
    config = SwinUnetrConfig(name="swin_unetr", feature_size=12)
    grid = (32, 32, 32)
