"""Losses against identities and independent code, and the ignore id in all of them."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch.nn.functional import cross_entropy

from medseg.config import LossConfig
from medseg.labels import LabelSet
from medseg.losses import focal, make_loss, soft_dice

LABELS = LabelSet.of("tongue", "coating")


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 9, 7, generator=generator), torch.randint(0, 3, (2, 9, 7), generator=generator)


def everywhere(mask):
    return torch.ones_like(mask, dtype=torch.bool)


def test_focal_at_gamma_0_is_the_cross_entropy(pair):
    logits, mask = pair
    assert focal(logits, mask, everywhere(mask), 0.0) == pytest.approx(cross_entropy(logits, mask).item(), abs=1e-6)


def test_focal_by_its_equation(pair):
    logits, mask = pair
    p = torch.softmax(logits.double(), 1)
    terms = [
        -((1 - p[b, mask[b, y, x], y, x]) ** 2) * torch.log(p[b, mask[b, y, x], y, x]) for b in range(2) for y in range(9) for x in range(7)
    ]
    assert focal(logits, mask, everywhere(mask), 2.0).item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-6)


def test_cross_entropy_with_ignored_pixels_equals_torch(pair):
    logits, mask = pair
    mask[:, :4] = 255
    assert focal(logits, mask, LABELS.valid(mask), 0.0) == pytest.approx(cross_entropy(logits, mask, ignore_index=255).item(), abs=1e-6)


@pytest.mark.parametrize("over_batch", [True, False])
def test_dice_equals_monai_where_nothing_is_ignored(pair, over_batch):
    logits, mask = pair
    theirs = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, batch=over_batch)(logits, mask[:, None])
    assert soft_dice(logits, mask, everywhere(mask), over_batch, include_background=False) == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize("name", ["dice_ce", "dice_focal"])
@pytest.mark.parametrize("dice_over", ["batch", "image"])
def test_what_is_ignored_has_no_say_and_no_gradient(pair, name, dice_over):
    logits, mask = pair
    loss = make_loss(LossConfig(name=name, dice_over=dice_over), LABELS)
    mask[:, :, 5:] = 255
    cut = sum(loss(logits[..., :5].contiguous(), mask[..., :5].contiguous()).values())
    logits.requires_grad_()
    whole = sum(loss(logits, mask).values())
    whole.backward()
    assert whole.item() == pytest.approx(cut.item(), abs=1e-6)
    assert (logits.grad[..., 5:] == 0).all() and (logits.grad[..., :5] != 0).any()


def test_dice_ce_equals_monai_s(pair):
    logits, mask = pair
    theirs = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, batch=True)(logits, mask[:, None])
    ours = make_loss(LossConfig(), LABELS)(logits, mask)
    assert sum(ours.values()).item() == pytest.approx(theirs.item(), abs=1e-5)
    assert list(ours) == ["dice", "cross_entropy"]


def test_weights_scale_their_terms(pair):
    plain = make_loss(LossConfig(name="dice_focal"), LABELS)(*pair)
    weighted = make_loss(LossConfig(name="dice_focal", dice_weight=0.5, pixel_weight=3.0), LABELS)(*pair)
    assert weighted["dice"] == pytest.approx(0.5 * plain["dice"].item()) and weighted["focal"] == pytest.approx(3 * plain["focal"].item())


def test_nothing_valid_is_finite(pair):
    logits, mask = pair
    losses = make_loss(LossConfig(name="dice_focal"), LABELS)(logits.requires_grad_(), torch.full_like(mask, 255))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("truth", [0, 1])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_sure_pixel_keeps_a_finite_focal_gradient(truth, gamma):
    logits = torch.tensor([[[[200.0]], [[-200.0]], [[0.0]]]], requires_grad=True)
    loss = focal(logits, torch.tensor([[[truth]]]), torch.tensor([[[True]]]), gamma)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
