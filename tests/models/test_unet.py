from medseg.config import ModelConfig
from tests.models.contract import NetworkContract


class TestUnet(NetworkContract):
    config = ModelConfig(channels=(8, 16, 32), strides=(2, 2), num_res_units=2)


class TestUnetWithoutResidualUnits(NetworkContract):
    config = ModelConfig(channels=(8, 16), strides=(2,), num_res_units=0)
