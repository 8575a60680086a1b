"""Soft Dice and Tversky: MONAI's numbers, hand cases, identities, absent classes."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss, TverskyLoss
from torch.nn.functional import one_hot

from medseg.losses.grid import power
from medseg.losses.regions import focal_tversky, soft_dice, tversky, tversky_misses
from tests.losses.common import grid, random_pair

reductions = pytest.mark.parametrize("over_batch, background", [(True, False), (True, True), (False, False), (False, True)])


def logits_of(*probs: list[float]) -> torch.Tensor:
    """One image of one row of pixels: a list of class probabilities a pixel."""
    return torch.tensor(probs).log().T[None, :, None]


def masked_sides(logits, mask):
    keep = (mask != 255)[:, None]
    return torch.softmax(logits, 1) * keep, (one_hot(torch.where(mask == 255, 0, mask), 3).movedim(-1, 1) * keep).float()


@reductions
def test_dice_is_monai_s_to_the_bit_and_so_is_its_gradient(over_batch, background):
    for seed in range(5):
        logits, mask = random_pair(seed, (33, 50))
        ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        value = soft_dice(grid(ours, mask), over_batch, background)
        other = DiceLoss(include_background=background, batch=over_batch)(*masked_sides(theirs, mask))
        value.backward()
        other.backward()
        assert value == other and torch.equal(ours.grad, theirs.grad)


@reductions
def test_tversky_is_monai_s(over_batch, background):
    logits, mask = random_pair()
    theirs = TverskyLoss(include_background=background, alpha=0.2, beta=0.9, batch=over_batch)(*masked_sides(logits, mask))
    assert tversky(grid(logits, mask), 0.2, 0.9, over_batch, background).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_by_hand():
    pixels = logits_of([0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8])
    seen = grid(pixels, torch.tensor([[[1, 1, 0, 2]]]))
    # tongue: tp 0.5 + 0.8, fp 0.3 + 0.1, fn 0.5 + 0.2; coating: tp 0.8, fp 0.3 + 0.1 + 0.1, fn 0.2
    assert soft_dice(seen, True, False).item() == pytest.approx(1 - (2.6 / 3.7 + 1.6 / 2.3) / 2, abs=1e-5)
    misses = [1 - 1.3 / (1.3 + 0.2 * 0.4 + 0.9 * 0.7), 1 - 0.8 / (0.8 + 0.2 * 0.5 + 0.9 * 0.2)]
    assert tversky_misses(seen, 0.2, 0.9, True, False).tolist() == pytest.approx(misses, abs=1e-5)
    assert focal_tversky(seen, 0.2, 0.9, 0.5, True, False).item() == pytest.approx(sum(m**0.5 for m in misses) / 2, abs=1e-5)


@reductions
def test_tversky_of_equal_weights_is_dice(over_batch, background):
    seen = grid(*random_pair())
    assert tversky(seen, 0.5, 0.5, over_batch, background).item() == pytest.approx(soft_dice(seen, over_batch, background).item(), abs=1e-6)


@reductions
def test_focal_tversky_of_exponent_1_is_tversky(over_batch, background):
    seen = grid(*random_pair())
    assert focal_tversky(seen, 0.3, 0.7, 1.0, over_batch, background) == tversky(seen, 0.3, 0.7, over_batch, background)


def test_alpha_weighs_false_positives_and_beta_false_negatives():
    too_much, too_little = logits_of([0.01, 0.99], [0.1, 0.9]), logits_of([0.9, 0.1], [0.99, 0.01])
    mask = torch.tensor([[[1, 0]]])
    misses = {(a, b, side): tversky_misses(grid(x, mask), a, b, True, False).item()
              for a, b in ((0.9, 0.1), (0.1, 0.9)) for side, x in (("much", too_much), ("little", too_little))}  # fmt: skip
    assert misses[0.9, 0.1, "much"] > misses[0.1, 0.9, "much"] and misses[0.9, 0.1, "little"] < misses[0.1, 0.9, "little"]


@pytest.mark.parametrize("term", [soft_dice, lambda *args: tversky(args[0], 0.5, 0.5, *args[1:])])
def test_an_absent_class_costs_nothing_or_nearly_1(term):
    mask = torch.tensor([[[0, 1, 1, 0]]])
    sure = torch.full((1, 3, 1, 4), -100.0).scatter_(1, mask[:, None], 100.0)
    assert term(grid(sure, mask), True, False).item() == pytest.approx(0, abs=1e-6)  # coating: neither true nor shown
    unsure = sure.clone()
    unsure[0, 2, 0, 0] = unsure[0, 0, 0, 0]  # half a pixel of coating: its loss is 1, the mean a half
    assert term(grid(unsure, mask), True, False).item() == pytest.approx(0.5, abs=1e-4)


def test_a_power_below_1_has_a_finite_slope_at_0():
    miss = torch.tensor([0.0, 1e-9, 1e-4, 0.25], requires_grad=True)
    values = power(miss, 0.5)
    values.sum().backward()
    assert values.tolist() == pytest.approx([0.0, 1e-9 * 1e-7**-0.5, 1e-2, 0.5])
    assert miss.grad.tolist() == pytest.approx([1e-7**-0.5, 1e-7**-0.5, 0.5 * 1e4**0.5, 1.0], rel=1e-5)
