"""What every network must do. A network's own test inherits this and names its config; see test_unet.py."""

from __future__ import annotations

import math

import pytest
import torch

from medseg.config import LossConfig, ModelConfig
from medseg.engine.checkpoint import load_weights, save_checkpoint
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.models.contract import SemanticNetwork
from medseg.models.zoo import build_network
from medseg.types import Batch, Losses, Prediction


class NetworkContract:
    config: ModelConfig

    def network(self, num_foreground: int = 2) -> SemanticNetwork:
        labels = LabelSet.of(*(f"class{place}" for place in range(num_foreground)))
        torch.manual_seed(0)
        return SemanticNetwork(build_network(self.config, labels.num_classes), make_loss(LossConfig(), labels))

    def batch(self, num_classes: int = 3, side: int = 0) -> Batch:
        side = side or 4 * math.prod(self.config.strides)
        generator = torch.Generator().manual_seed(1)
        mask = torch.randint(0, num_classes, (2, side, side), generator=generator)
        mask[:, :3] = 255
        return Batch(torch.rand(2, 3, side, side, generator=generator), mask, ("a", "b"))

    @pytest.mark.parametrize("num_foreground", [1, 2, 20])
    def test_eval_gives_probabilities_on_the_input_grid(self, num_foreground):
        net, image = self.network(num_foreground).eval(), self.batch().image_BCHW
        prediction = net(image)
        assert isinstance(prediction, Prediction)
        assert prediction.probs_BKHW.shape == (2, num_foreground + 1, *image.shape[2:])
        assert torch.allclose(prediction.probs_BKHW.sum(1), torch.ones(()), atol=1e-5)
        assert (prediction.mask_BHW == prediction.probs_BKHW.argmax(1)).all()

    def test_train_gives_losses_and_finite_gradients_everywhere(self):
        net = self.network().train()
        losses = net(self.batch())
        assert isinstance(losses, Losses) and set(losses.terms) == {"dice", "cross_entropy"}
        losses.total.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name

    def test_the_loss_falls(self):
        net, batch = self.network().train(), self.batch(side=2 * math.prod(self.config.strides))
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
        values = []
        for _ in range(20):
            total = net(batch).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            values.append(total.item())
        assert values[-1] < 0.8 * values[0]

    def test_weights_survive_a_checkpoint(self, tmp_path):
        first, second = self.network().eval(), self.network().eval()
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.add_(1.0)
        save_checkpoint(tmp_path / "a.safetensors", first, {"epoch": 3})
        assert load_weights(tmp_path / "a.safetensors", second) == {"epoch": 3}
        image = self.batch().image_BCHW
        assert (first(image).probs_BKHW == second(image).probs_BKHW).all()

    def test_bfloat16_is_close_to_float32(self):
        net, image = self.network().eval(), self.batch().image_BCHW
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(image).probs_BKHW
        assert rough.dtype == torch.float32 and torch.allclose(rough, net(image).probs_BKHW, atol=0.05)

    def test_eval_draws_nothing(self):
        net, image = self.network().eval(), self.batch().image_BCHW
        before = torch.get_rng_state()
        assert (net(image).mask_BHW == net(image).mask_BHW).all() and (torch.get_rng_state() == before).all()

    def test_the_wrong_input_for_the_mode_is_our_bug(self):
        with pytest.raises(AssertionError):
            self.network().train()(self.batch().image_BCHW)
