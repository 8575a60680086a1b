"""The asymmetric unified focal loss: limits, MONAI's parts for two classes, what delta and gamma do."""

from __future__ import annotations

import pytest
import torch
from monai.losses.unified_focal_loss import AsymmetricFocalLoss, AsymmetricFocalTverskyLoss
from torch.nn.functional import one_hot

from medseg.losses.pixels import cross_entropy
from medseg.losses.regions import soft_dice, tversky
from medseg.losses.unified import asymmetric_focal, asymmetric_focal_tversky
from tests.losses.common import grid, random_pair


def two_classes():
    logits, mask = random_pair(ignored=False)
    return logits[:, :2], mask.clamp(max=1)


@pytest.mark.parametrize("over_batch", [True, False])
def test_gamma_0_is_weighted_cross_entropy_and_tversky(over_batch):
    logits, mask = random_pair()
    seen = grid(logits, mask)
    assert asymmetric_focal(seen, 0.5, 0.0, over_batch).item() == pytest.approx(cross_entropy(seen, over_batch).item() / 2, rel=1e-6)
    assert asymmetric_focal_tversky(seen, 0.7, 0.0, over_batch).item() == pytest.approx(tversky(seen, 0.3, 0.7, over_batch, True).item())
    assert asymmetric_focal_tversky(seen, 0.5, 0.0, over_batch).item() == pytest.approx(soft_dice(seen, over_batch, True).item(), abs=1e-6)


def test_delta_1_counts_the_foreground_alone_and_delta_0_the_background():
    logits, mask = random_pair()
    foreground, background = (torch.where(keep, mask, 255) for keep in (mask > 0, mask == 0))
    valid, held = (mask != 255).sum(), (background != 255).sum()
    assert asymmetric_focal(grid(logits, mask), 1.0, 0.5, True).item() == pytest.approx(
        (cross_entropy(grid(logits, foreground), True) * (valid - held) / valid).item(), rel=1e-6
    )
    assert asymmetric_focal(grid(logits, mask), 0.0, 0.0, True).item() == pytest.approx(
        (cross_entropy(grid(logits, background), True) * held / valid).item(), rel=1e-6
    )


@pytest.mark.parametrize("delta, gamma", [(0.6, 0.5), (0.8, 0.2)])
def test_both_parts_are_monai_s_for_two_classes(delta, gamma):
    logits, mask = two_classes()
    probs, truth = torch.softmax(logits, 1), one_hot(mask, 2).movedim(-1, 1).float()
    theirs = AsymmetricFocalLoss(delta=delta, gamma=gamma)(probs, truth)  # a mean over the two classes too
    assert asymmetric_focal(grid(logits, mask), delta, gamma, True).item() == pytest.approx(2 * theirs.item(), rel=1e-5)
    theirs = AsymmetricFocalTverskyLoss(delta=delta, gamma=gamma)(probs, truth)
    assert asymmetric_focal_tversky(grid(logits, mask), delta, gamma, over_batch=False).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_gamma_suppresses_easy_background_and_enhances_foreground():
    logits, mask = random_pair()
    seen, plain = grid(logits, mask), grid(logits, torch.where(mask == 0, 255, mask))
    assert asymmetric_focal(seen, 0.6, 0.9, True) < asymmetric_focal(seen, 0.6, 0.1, True)
    assert asymmetric_focal(plain, 0.6, 0.9, True) == asymmetric_focal(plain, 0.6, 0.1, True)
    assert asymmetric_focal_tversky(seen, 0.6, 0.9, True) > asymmetric_focal_tversky(seen, 0.6, 0.1, True)
