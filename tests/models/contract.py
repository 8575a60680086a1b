"""What every network must do. A network's own test inherits this and names its config; see test_monai.py."""

from __future__ import annotations

import copy
import random
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from medseg.build import LAYOUTS, lay_channels_last
from medseg.config import LossConfig, NetworkConfig
from medseg.engine.checkpoint import load_weights, save_checkpoint
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.models.contract import MEAN, Adapter, Task, fitting, is_below
from medseg.models.quick import hasten
from medseg.models.zoo import adapt, build_network
from medseg.types import Batch, Losses, Prediction


def other_generators() -> tuple[object, ...]:
    """The states of Python's and numpy's global generators: the engine seeds torch's at each step, and these it leaves to the user.

    All of numpy's: its keys change only once in 624 draws, its place among them with each.
    """
    name, keys, *place = np.random.get_state()
    return random.getstate(), name, keys.tobytes(), *place


def as_the_engine_gets_it(config: NetworkConfig, task: Task, labels: LabelSet) -> Adapter:
    """A fresh network with its quick layers and memory format."""
    built = adapt(build_network(config, task), config, task, make_loss(LossConfig(), labels))
    hasten(built.net)
    lay_channels_last(built)
    return built


class NetworkContract:
    """config: small, or as it is.  grid: (H, W) or (D, H, W) that it is built for.  What a network cannot do is said with the reason.

    tolerance: of bfloat16 against float32, in probability, at most; mean_tolerance: instead, of the mean over all, where untrained logits
    are so large that single pixels change their class.  rate: at which the losses fall within 12 steps.
    """

    config: NetworkConfig
    grid: tuple[int, ...] = (64, 64)
    exports = True
    probabilities = True
    tolerance = 0.05
    mean_tolerance: float | None = None
    rate = 1e-3

    @classmethod
    @lru_cache(maxsize=3)  # one class's; of all that a slow run builds they would fill the memory
    def _built(cls, num_foreground: int) -> Adapter:
        labels = LabelSet.of(*(f"class{place}" for place in range(num_foreground)))
        task = Task(labels.num_classes, cls.grid, ignore_id=labels.ignore_id)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return as_the_engine_gets_it(cls.config, task, labels)

    def network(self, num_foreground: int = 2) -> Adapter:
        """A copy: building one may take a second."""
        torch.manual_seed(0)
        return copy.deepcopy(self._built(num_foreground))

    def image(self, *sides: int) -> torch.Tensor:
        return torch.rand(2, 3, *(sides or self.grid), generator=torch.Generator().manual_seed(1))

    def batch(self, *sides: int) -> Batch:
        """Two images, each class a block of them with a colour of its own, so that there is something to learn; a strip is ignored."""
        num_classes, sides = 3, sides or self.grid
        mask = torch.zeros(2, *sides, dtype=torch.int64)
        half = [side // 2 for side in sides]
        for place in range(1, num_classes):
            corner = [(place >> axis) % 2 * side for axis, side in enumerate(half)]
            mask[(slice(None), *(slice(start, start + side - 2) for start, side in zip(corner, half, strict=True)))] = place
        image = 0.2 * self.image(*sides) + (mask[:, None] * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, *(1 for _ in sides)) % 4) / 5
        mask[..., :3] = 255
        return Batch(image.contiguous(memory_format=LAYOUTS[image.ndim]), mask, ("a", "b"))

    @pytest.mark.parametrize("num_foreground", [1, 2, 20])
    def test_eval_gives_a_prediction_on_the_input_grid(self, num_foreground):
        net, image = self.network(num_foreground).eval(), self.image(*(side + 5 for side in self.grid))
        with torch.inference_mode():
            prediction = net(image)
        assert isinstance(prediction, Prediction) and prediction.mask_BHW.shape == (2, *image.shape[2:])
        assert prediction.mask_BHW.dtype == torch.int64 and 0 <= prediction.mask_BHW.min() <= prediction.mask_BHW.max() <= num_foreground
        assert (prediction.probs_BKHW is not None) is self.probabilities
        if prediction.probs_BKHW is not None:
            assert prediction.probs_BKHW.shape == (2, num_foreground + 1, *image.shape[2:]) and prediction.probs_BKHW.dtype == torch.float32
            assert torch.allclose(prediction.probs_BKHW.sum(1), torch.ones(()), atol=1e-4)
            assert (prediction.mask_BHW == prediction.probs_BKHW.argmax(1)).all()

    def test_training_has_losses_that_fall_and_finite_gradients_everywhere(self):
        net, batch = self.network().train(), self.batch()
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], self.rate)
        values = []
        for step in range(12):
            losses = net(batch)
            assert isinstance(losses, Losses) and all(term.ndim == 0 for term in losses.terms.values())
            optimizer.zero_grad()
            losses.total.backward()
            if step == 0:
                for name, parameter in net.net.named_parameters():
                    if parameter.requires_grad:
                        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            optimizer.step()
            values.append(losses.total.item())
        assert min(values[-3:]) < 0.9 * values[0], values

    def test_the_smallest_batch_that_it_says_trains_it(self):
        net, batch = self.network().train(), self.batch()
        least = net.network.least_batch
        net(Batch(batch.image_BCHW[:least], batch.mask_BHW[:least], batch.sample_ids[:least])).total.backward()
        for name, parameter in net.learning_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name

    def test_odd_sides_train_it_without_what_is_padded_and_it_draws_from_torch_alone(self):
        """Sides that none of the networks takes as they are. What is padded is as if the images came padded, with those pixels ignored."""
        net, batch = self.network().train(), self.batch(*(side + 5 for side in self.grid))
        others = other_generators()
        torch.manual_seed(0)  # of dropout and of sampled points
        losses = net(batch)
        losses.total.backward()
        assert other_generators() == others
        for name, parameter in net.learning_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if net.network.grid is None and self.probabilities:  # one scales; objects' boxes end where the image does
            torch.manual_seed(0)
            with torch.no_grad():
                assert net(self._padded(net, batch)).total.item() == pytest.approx(losses.total.item(), rel=1e-4)

    @staticmethod
    def _padded(net: Adapter, batch: Batch) -> Batch:
        """To the sides that the network takes: with the mean, which is ignored."""
        sides = batch.mask_BHW.shape[1:]
        missing = [wanted - have for wanted, have in zip(fitting(sides, net.network.divisor, net.network.least), sides, strict=True)]
        assert any(missing) or net.network.divisor == 1
        ends = [each for side in reversed(missing) for each in (0, side)]
        return Batch(pad(batch.image_BCHW, ends, value=MEAN), pad(batch.mask_BHW, ends, value=255), batch.sample_ids)

    def test_weights_survive_a_checkpoint(self, tmp_path):
        first, second = self.network().eval(), self.network().eval()
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.add_(1.0)
        save_checkpoint(tmp_path / "a.safetensors", first, {"epoch": 3})
        assert load_weights(tmp_path / "a.safetensors", second) == {"epoch": 3}
        state = first.state_dict()
        assert all((value == state[name]).all() for name, value in second.state_dict().items())

    def test_bfloat16_is_close_to_float32_and_eval_draws_nothing(self):
        net, image = self.network().eval(), self.image()
        before, others = torch.get_rng_state(), other_generators()
        with torch.inference_mode():
            fine = net(image)
            with torch.autocast("cpu", torch.bfloat16):
                rough = net(image)
            assert (net(image).mask_BHW == fine.mask_BHW).all() and (torch.get_rng_state() == before).all()
        assert other_generators() == others
        if fine.probs_BKHW is not None:
            away, by_mean = (rough.probs_BKHW - fine.probs_BKHW).abs(), self.mean_tolerance is not None
            assert rough.probs_BKHW.dtype == torch.float32
            assert away.mean() <= self.mean_tolerance if by_mean else away.max() <= self.tolerance

    @pytest.mark.slow
    def test_it_learns_in_bfloat16(self):
        net, batch = self.network().train(), self.batch()
        with torch.autocast("cpu", torch.bfloat16):
            net(batch).total.backward()
        for name, parameter in net.learning_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name

    def test_building_leaves_the_global_random_state(self):
        """Under a fork, as build.py has it: a library that seeds by itself would show in numpy's or python's state too."""
        before = other_generators()
        with torch.random.fork_rng():
            build_network(self.config, Task(3, self.grid))
        assert other_generators() == before

    def test_the_parts_it_names_are_there_and_the_encoder_can_be_held(self):
        net = self.network().train()
        names = [name for name, _ in net.net.named_parameters()]
        for part in (*net.network.head, *(part for stage in net.network.encoder for part in stage)):
            assert any(is_below(name, (part,)) for name in names), part
        held = {name for name in names if net.stage_of(name) is not None}
        assert held and not any(is_below(name, net.network.head) for name in held)
        before = {name: value.clone() for name, value in net.net.state_dict().items() if net.stage_of(name) is not None}
        net.hold_encoder(True)
        net(self.batch()).total.backward()
        assert not any(parameter.requires_grad for name, parameter in net.net.named_parameters() if name in held)
        assert all((net.net.state_dict()[name] == value).all() for name, value in before.items())
        net.hold_encoder(False)
        assert {name for name, p in net.net.named_parameters() if p.requires_grad} == {name for name, _ in net.learning_parameters()}

    def test_the_wrong_input_for_the_mode_is_our_bug(self):
        with pytest.raises(AssertionError):
            self.network().train()(self.image())

    @pytest.mark.slow
    def test_it_can_be_exported(self):
        if not self.exports:
            pytest.skip("the network does not export")
        net, image = self.network().eval(), self.image()
        program = torch.export.export(net, (image,)).module()
        with torch.inference_mode():
            assert torch.allclose(program(image).probs_BKHW, net(image).probs_BKHW, atol=1e-5)
