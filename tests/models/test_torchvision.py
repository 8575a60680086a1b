from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchvision import models

from medseg.config import LossConfig
from medseg.config.model import LrasppConfig, TorchvisionConfig
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.models.contract import Task
from medseg.models.zoo import adapt, build_network
from medseg.types import Batch
from tests.models.contract import NetworkContract


class TestLraspp(NetworkContract):
    config = LrasppConfig(name="lraspp_mobilenet_v3_large")


@pytest.mark.slow
class TestDeepLabMobile(NetworkContract):
    config = TorchvisionConfig(name="deeplabv3_mobilenet_v3_large")


@pytest.mark.slow
class TestFcn50(NetworkContract):
    config = TorchvisionConfig(name="fcn_resnet50")


@pytest.mark.slow
class TestFcn101(NetworkContract):
    config = TorchvisionConfig(name="fcn_resnet101")
    mean_tolerance = 0.01  # logits of 1,400, right to 0.8 % in bfloat16


@pytest.mark.slow
class TestDeepLab50(NetworkContract):
    config = TorchvisionConfig(name="deeplabv3_resnet50", auxiliary_weight=0)


@pytest.mark.slow
class TestDeepLab101(NetworkContract):
    config = TorchvisionConfig(name="deeplabv3_resnet101")
    mean_tolerance = 0.01  # logits of 130, right to 0.9 % in bfloat16


def mobile(**more):
    config = TorchvisionConfig(name="deeplabv3_mobilenet_v3_large", **more)
    labels, task = LabelSet.of("a", "b"), Task(3, (64, 64))
    torch.manual_seed(0)
    return adapt(build_network(config, task), config, task, make_loss(LossConfig(name="cross_entropy"), labels))


def test_terms_are_torchvision_s_own_outputs_and_weight():
    """torchvision's reference criterion: cross-entropy of `out` plus 0.5 of that of `aux`."""
    net = mobile().train()
    image, mask = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    own = models.get_model("deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3, aux_loss=True).train()
    own.load_state_dict(net.net.state_dict())
    torch.manual_seed(1)
    found = own((image - 0.5) / 0.25)
    torch.manual_seed(1)  # dropout
    terms = net(Batch(image, mask, ("a", "b"))).terms
    assert terms["cross_entropy"].item() == pytest.approx(cross_entropy(found["out"], mask).item(), rel=1e-5)
    assert terms["auxiliary_cross_entropy"].item() == pytest.approx(0.5 * cross_entropy(found["aux"], mask).item(), rel=1e-5)


def test_the_auxiliary_head_is_dropped_in_inference_and_where_it_has_no_weight():
    net = mobile().eval()
    calls = []
    net.net.aux_classifier.register_forward_hook(lambda *_: calls.append(1))
    image = torch.rand(1, 3, 64, 64)
    assert net.network.call(net.net, image).auxiliary == {} and calls == []
    bare = mobile(auxiliary_weight=0)
    assert not any(name.startswith("aux") for name in bare.net.state_dict())
    assert set(bare.train()(Batch(image.expand(2, -1, -1, -1), torch.zeros(2, 64, 64).long(), ("a", "b"))).terms) == {"cross_entropy"}


def test_eval_is_torchvision_s_own_output():
    net, image = mobile().eval(), torch.rand(2, 3, 70, 61)
    own = models.get_model("deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3, aux_loss=True).eval()
    own.load_state_dict(net.net.state_dict())
    with torch.inference_mode():
        assert torch.allclose(net(image).probs_BKHW, own((image - 0.5) / 0.25)["out"].softmax(1), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels(channels):
    config, task = LrasppConfig(name="lraspp_mobilenet_v3_large"), replace(Task(3, (64, 64)), in_channels=channels)
    net = adapt(build_network(config, task), config, task).eval()
    with torch.inference_mode():
        assert net(torch.rand(1, channels, 64, 64)).mask_BHW.shape == (1, 64, 64)
