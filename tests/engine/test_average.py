"""The average of the weights: against torch's, and out of the way when it is not looked at."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medseg.engine.average import WeightAverage


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)


def test_it_is_torchs_average_once_the_decay_is_reached():
    model = network()
    ours, theirs = WeightAverage(model, 0.9), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(model)  # its first update copies
    for step in range(100, 105):  # (1 + step) / (10 + step) > 0.9
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        model(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step)))  # moves the running mean
        ours.update(model, step)
        theirs.update_parameters(model)
    for name, expected in theirs.module.state_dict().items():
        if expected.is_floating_point():
            torch.testing.assert_close(ours.weights[name], expected)
    assert ours.weights["1.num_batches_tracked"] == model[1].num_batches_tracked == 5  # torch's rounds such a counter to 0


def test_the_first_weights_weigh_little():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.999)
    nn.init.ones_(model.weight)
    expected = 0.0
    for step in (1, 2, 3):
        average.update(model, step)
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay)
    assert average.weights["weight"].item() == pytest.approx(expected)


def test_the_own_weights_come_back_to_the_bit_even_after_an_error():
    model = network()
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model[0].weight.add_(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), average.in_place(model):
        assert torch.equal(model[0].weight, average.weights["0.weight"])
        raise ZeroDivisionError
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
