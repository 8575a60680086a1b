"""Cross-entropy, focal and top-k: torch's and MONAI's numbers, hand cases, identities."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import FocalLoss
from torch.nn import functional

from medseg.losses.pixels import cross_entropy, focal, topk_cross_entropy, weighted_mean
from tests.losses.common import WEIGHTS, grid, random_pair

both_reductions = pytest.mark.parametrize("over_batch", [True, False])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torch_s(weights):
    logits, mask = random_pair()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value, other = cross_entropy(grid(ours, mask, weights), True), functional.cross_entropy(theirs, mask, weights, ignore_index=255)
    value.backward()
    other.backward()
    assert value.item() == pytest.approx(other.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


@both_reductions
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_of_gamma_0_is_the_cross_entropy(weights, over_batch):
    seen = grid(*random_pair(), weights)
    assert focal(seen, 0.0, over_batch) == cross_entropy(seen, over_batch)


def test_focal_near_gamma_0_is_near_the_cross_entropy():
    seen = grid(*random_pair())
    assert focal(seen, 1e-6, True).item() == pytest.approx(cross_entropy(seen, True).item(), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_monai_s(gamma):
    logits, mask = random_pair(ignored=False)
    theirs = FocalLoss(to_onehot_y=True, gamma=gamma, use_softmax=True)(logits, mask[:, None])  # a mean over the classes too
    assert focal(grid(logits, mask), gamma, True).item() == pytest.approx(3 * theirs.item(), rel=1e-5)


def test_focal_by_hand():
    logits = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).log().T[None, :, None]
    assert focal(grid(logits, torch.tensor([[[1, 255]]])), 2.0, True).item() == pytest.approx(0.25 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("truth", [0, 1])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_sure_pixel_keeps_a_finite_focal_gradient(truth, gamma):
    logits = torch.tensor([[[[200.0]], [[-200.0]], [[0.0]]]], requires_grad=True)
    focal(grid(logits, torch.tensor([[[truth]]])), gamma, True).backward()
    assert torch.isfinite(logits.grad).all()


@both_reductions
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_topk_of_share_1_is_the_cross_entropy(weights, over_batch):
    seen = grid(*random_pair(), weights)
    assert topk_cross_entropy(seen, 1.0, over_batch).item() == pytest.approx(cross_entropy(seen, over_batch).item(), rel=1e-6)


def two_class_losses(*losses: float) -> torch.Tensor:
    """Logits (1, 2, 1, N) whose cross-entropy is `losses` where the truth is class 0."""
    p = torch.exp(-torch.tensor(losses, dtype=torch.float64))
    return torch.stack([p, 1 - p]).log()[None, :, None]


def test_a_mean_goes_over_the_batch_or_image_by_image_by_hand():
    """Two pixels of four valid in the first image, all four in the second; with weights the second pixel of the first counts 3."""
    logits = torch.cat([two_class_losses(1.0, 2.0, 9.0, 9.0), two_class_losses(3.0, 4.0, 5.0, 6.0)])
    mask = torch.tensor([[[0, 0, 255, 255]], [[0, 0, 0, 0]]])
    seen = grid(logits, mask)
    assert cross_entropy(seen, True).item() == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) / 6)
    assert cross_entropy(seen, False).item() == pytest.approx((1.5 + 4.5) / 2)
    values, weight = torch.tensor([[[1.0, 2.0, 9.0, 9.0]], [[3.0, 4.0, 5.0, 6.0]]]), torch.tensor([[[1.0, 3, 0, 0]], [[1, 1, 1, 1]]])
    assert weighted_mean(seen, values, weight, True).item() == pytest.approx((7 + 18) / 8)
    assert weighted_mean(seen, values, weight, False).item() == pytest.approx((7 / 4 + 18 / 4) / 2)


def test_topk_is_of_the_valid_pixels():
    logits = two_class_losses(1.0, 5.0, 3.0, 2.0, 9.0, 9.0, 9.0, 9.0)
    seen = grid(logits, torch.tensor([[[0, 0, 0, 0, 255, 255, 255, 255]]]))
    chosen = {share: topk_cross_entropy(seen, share, True).item() for share in (0.01, 0.25, 0.5, 0.75, 1.0)}
    assert chosen == pytest.approx({0.01: 5.0, 0.25: 5.0, 0.5: 4.0, 0.75: 10 / 3, 1.0: 11 / 4})


def test_topk_goes_over_the_batch_or_image_by_image():
    logits = torch.cat([two_class_losses(4.0, 3.0), two_class_losses(2.0, 1.0)])
    seen = grid(logits, torch.zeros(2, 1, 2, dtype=torch.int64))
    assert topk_cross_entropy(seen, 0.5, True).item() == pytest.approx(3.5)
    assert topk_cross_entropy(seen, 0.5, False).item() == pytest.approx(3.0)


def test_topk_gives_the_gradient_to_the_worst_alone():
    logits = two_class_losses(1.0, 5.0, 3.0, 2.0).requires_grad_()
    topk_cross_entropy(grid(logits, torch.zeros(1, 1, 4, dtype=torch.int64)), 0.5, True).backward()
    assert (logits.grad[0, 0, 0] != 0).tolist() == [False, True, True, False]
