"""Every loss a config can name: against slow NumPy, with pixels ignored, at the edges of the numbers, on several levels."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn.functional import interpolate

from medseg.config import LOSS_KEYS, LossConfig
from medseg.losses import make_loss
from medseg.losses.grid import resize
from medseg.losses.make import level_shares
from tests.losses.common import LABELS, NAMES, WEIGHTS, configs, random_pair, total
from tests.losses.slow_losses import slow_terms

every_loss = pytest.mark.parametrize("name", NAMES)
SETTINGS = {  # away from the defaults and from each other
    "tversky": {"alpha": 0.2, "beta": 0.9}, "focal_tversky": {"alpha": 0.2, "beta": 0.9, "gamma": 0.6}, "focal": {"gamma": 1.5},
    "unified_focal": {"delta": 0.7, "gamma": 0.3}, "dice_ce": {"dice_weight": 0.5, "pixel_weight": 3.0},
    "dice_focal": {"dice_weight": 0.5, "pixel_weight": 3.0, "gamma": 0.5}, "dice_topk": {"dice_weight": 0.5, "topk_share": 0.23},
}  # fmt: skip


@every_loss
@pytest.mark.parametrize("changed", [False, True])
def test_every_loss_equals_slow_numpy(name, changed):
    for seed, config in enumerate(configs(name, **(SETTINGS.get(name, {}) if changed else {}))):
        logits, mask = random_pair(seed)
        ours, slow = make_loss(config, LABELS)(logits, mask), slow_terms(config, logits.numpy(), mask.numpy())
        assert {term: value.item() for term, value in ours.items()} == pytest.approx(slow, rel=2e-6), config
        assert list(ours) == list(slow) and all(value.dtype == torch.float32 and value.ndim == 0 for value in ours.values())


@pytest.mark.parametrize("name", LOSS_KEYS["class_weights"])
def test_class_weights_equal_slow_numpy(name):
    for config in configs(name, class_weights="median_frequency", **SETTINGS.get(name, {})):
        logits, mask = random_pair(3)
        ours, slow = make_loss(config, LABELS, WEIGHTS)(logits, mask), slow_terms(config, logits.numpy(), mask.numpy(), WEIGHTS.numpy())
        assert {term: value.item() for term, value in ours.items()} == pytest.approx(slow, rel=2e-6), config


@pytest.mark.parametrize("config", configs("dice_ce"))
def test_dice_ce_is_monai_s(config):
    """Where no pixel is ignored, each image has as many, and the cross-entropy has one value for both reductions."""
    logits, mask = random_pair(ignored=False)
    theirs = DiceCELoss(softmax=True, to_onehot_y=True, batch=config.reduction == "batch", include_background=config.include_background)
    assert total(make_loss(config, LABELS)(logits, mask)).item() == pytest.approx(theirs(logits, mask[:, None]).item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSS_KEYS["class_weights"])
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_equal_class_weights_are_none(name, factor):
    for config in configs(name):
        weighted = make_loss(config.model_copy(update={"class_weights": "median_frequency"}), LABELS, np.full(3, factor))
        pair = random_pair()
        assert total(weighted(*pair)).item() == pytest.approx(total(make_loss(config, LABELS)(*pair)).item(), rel=1e-6)


@every_loss
def test_gradients_equal_finite_differences(name):
    for config in configs(name, **SETTINGS.get(name, {})):
        loss, (logits, mask) = make_loss(config, LABELS), random_pair(1, (3, 4), spread=1.0)
        mask[:, 2] = 1
        assert torch.autograd.gradcheck(lambda x: total(loss(x, mask)), logits.double().requires_grad_(), fast_mode=True)  # noqa: B023


@every_loss
def test_what_is_ignored_has_no_say_and_no_gradient(name):
    for config in configs(name):
        loss, (logits, mask) = make_loss(config, LABELS), random_pair()
        ignored = (mask == 255)[:, None].expand_as(logits)
        other = torch.where(ignored, 50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(9)), logits)
        values, gradients = [], []
        for each in (logits, other):
            leaf = each.clone().requires_grad_()
            values.append(total(loss(leaf, mask)))
            values[-1].backward()
            gradients.append(leaf.grad)
        assert values[0] == values[1] and torch.equal(*gradients), config
        assert (gradients[0][ignored] == 0).all() and (gradients[0][~ignored] != 0).any()


@every_loss
def test_ignored_pixels_cut_off_change_nothing(name):
    for config in configs(name):
        loss, (logits, mask) = make_loss(config, LABELS), random_pair(ignored=False)
        mask[:, :, 5:] = 255
        whole, cut = loss(logits, mask), loss(logits[..., :5].contiguous(), mask[..., :5].contiguous())
        assert total(whole).item() == pytest.approx(total(cut).item(), rel=1e-6), config


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_where_nothing_is_valid_all_is_0(name, weighted):
    weighted = weighted and name in LOSS_KEYS["class_weights"]
    for config in configs(name, **({"class_weights": "median_frequency"} if weighted else {})):
        logits, mask = random_pair()
        terms = make_loss(config, LABELS, WEIGHTS if weighted else None)(logits.requires_grad_(), torch.full_like(mask, 255))
        total(terms).backward()
        assert all(value == 0 for value in terms.values()) and (logits.grad == 0).all(), config


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_image_by_image_is_the_mean_of_the_single_images(name, weighted):
    """On one level and on two; the images have unlike numbers of ignored pixels, and the third has no other."""
    weighted = weighted and name in LOSS_KEYS["class_weights"]
    settings = SETTINGS.get(name, {}) | ({"class_weights": "median_frequency"} if weighted else {})
    logits, mask = (torch.cat([random_pair(seed)[part] for seed in (1, 2)]) for part in (0, 1))
    mask[0, :5], mask[2] = 255, 255
    for config in configs(name, **settings):
        loss = make_loss(config, LABELS, WEIGHTS if weighted else None)
        for levels in ([logits], [logits, logits[..., ::2, ::2]]):
            alone = [loss([level[[image]] for level in levels], mask[[image]]) for image in range(4)]
            for term, value in loss(levels, mask).items():
                mean = sum(each[term].item() for each in alone) / 4
                assert (value.item() == pytest.approx(mean, rel=1e-6)) is (config.reduction == "image"), (config, term)


@every_loss
@pytest.mark.parametrize("images", [1, 3])
def test_both_reductions_agree_on_equal_images(name, images):
    share = {"topk_share": 0.25} if name == "dice_topk" else {}  # 16 of 64 pixels: nothing is rounded
    logits, mask = random_pair(size=(10, 8), ignored=False)
    mask[:, 2:4] = 255
    both = [config.model_copy(update={"reduction": reduction}) for config in configs(name, **share) for reduction in ("batch", "image")]
    terms = [make_loss(config, LABELS)(logits[:1].expand(images, -1, -1, -1), mask[:1].expand(images, -1, -1)) for config in both]
    for batch, image in zip(terms[::2], terms[1::2], strict=True):
        tolerance = 1e-6 if images == 1 else 1e-5  # SMOOTH stands once in the sums over the batch, and once for each image
        assert {term: value.item() for term, value in batch.items()} == pytest.approx(
            {term: value.item() for term, value in image.items()}, rel=tolerance
        )


@every_loss
def test_an_image_without_a_valid_pixel_counts_as_0(name):
    for config in configs(name):
        loss, (logits, mask) = make_loss(config, LABELS), random_pair()
        mask[1] = 255
        both, alone = loss(logits.requires_grad_(), mask), loss(logits[:1], mask[:1])
        total(both).backward()
        assert torch.isfinite(logits.grad).all() and (logits.grad[1] == 0).all() and (logits.grad[0] != 0).any()
        for term, value in both.items():
            expected = alone[term].item() / (2 if config.reduction == "image" else 1)
            assert value.item() == pytest.approx(expected, rel=1e-6), (config, term)


@every_loss
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saturated_logits_keep_finite_gradients(name, right, dtype):
    mask = random_pair()[1]
    shown = torch.where(mask == 255, 0, mask) if right else (torch.where(mask == 255, 0, mask) + 1) % 3
    for config in configs(name):
        logits = (200.0 * torch.nn.functional.one_hot(shown, 3).movedim(-1, 1) - 100).to(dtype).requires_grad_()
        value = total(make_loss(config, LABELS)(logits, mask))
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(logits.grad).all(), config
        assert value < 1e-3 if right else value > 0.1, config


@every_loss
def test_half_precision_and_autocast_are_computed_in_float32(name):
    logits, mask = random_pair()
    loss, rough = make_loss(LossConfig(name=name), LABELS), logits.bfloat16()
    expected = loss(rough.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(rough, mask)
    for term, value in loss(rough, mask).items():
        assert value.dtype == under[term].dtype == torch.float32 and value == under[term] == expected[term]


@every_loss
def test_the_order_of_the_images_does_not_matter(name):
    for config in configs(name):
        loss, (logits, mask) = make_loss(config, LABELS), random_pair()
        assert total(loss(logits.flip(0), mask.flip(0))).item() == pytest.approx(total(loss(logits, mask)).item(), rel=1e-6), config


@every_loss
def test_volumes_are_images_of_one_more_axis(name):
    for config in configs(name):
        loss, (logits, mask) = make_loss(config, LABELS), random_pair(size=(4, 3, 5))
        flat = loss(logits.reshape(2, 3, 12, 5), mask.reshape(2, 12, 5))
        assert total(loss(logits, mask)).item() == pytest.approx(total(flat).item(), rel=1e-6), config


@every_loss
def test_nothing_is_read_back_from_the_device(name):
    """On the meta device a value does not exist, and a tensor left on the CPU is an error."""
    settings = {"class_weights": "median_frequency"} if name in LOSS_KEYS["class_weights"] else {}
    loss = make_loss(LossConfig(name=name, **settings), LABELS, WEIGHTS if settings else None).to("meta")
    full, half = (torch.empty(2, 3, *size, device="meta", requires_grad=True) for size in ((8, 8), (4, 4)))
    total(loss((full, half), torch.zeros(2, 8, 8, dtype=torch.int64, device="meta"))).backward()
    assert full.grad is not None and half.grad is not None


@every_loss
def test_one_level_is_the_plain_loss(name):
    loss, (logits, mask) = make_loss(LossConfig(name=name), LABELS), random_pair()
    assert loss([logits], mask) == loss(logits, mask)


@every_loss
def test_levels_count_1_a_half_a_quarter(name):
    loss, (_, mask) = make_loss(LossConfig(name=name), LABELS), random_pair(size=(12, 8))
    levels = [random_pair(seed, (12 // 2**seed, 8 // 2**seed))[0].requires_grad_() for seed in range(3)]
    masks = [mask, mask[:, 1::2, 1::2], mask[:, 2::4, 2::4]]
    alone = [total(loss(level, each)).item() for level, each in zip(levels, masks, strict=True)]
    value = total(loss(tuple(levels), mask))
    value.backward()
    assert value.item() == pytest.approx((4 * alone[0] + 2 * alone[1] + alone[2]) / 7, rel=1e-6)
    assert all((level.grad != 0).any() for level in levels)
    assert all((level.grad[(each == 255)[:, None].expand_as(level)] == 0).all() for level, each in zip(levels, masks, strict=True))


def test_the_shares_of_the_levels_sum_to_1():
    assert level_shares(1) == [1.0] and level_shares(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


@pytest.mark.parametrize("size", [(6, 4), (4, 3), (5, 4), (12, 8), (24, 16), (3, 6, 4), (5, 12, 3)])
def test_the_mask_goes_to_a_level_as_torch_s_nearest_exact(size):
    mask = random_pair(size=(12, 8) if len(size) == 2 else (6, 12, 8))[1]
    theirs = interpolate(mask[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
    assert torch.equal(resize(mask, torch.Size(size)), theirs) and (theirs == 255).any()


def test_logits_of_another_size_than_the_mask_are_our_bug():
    with pytest.raises(AssertionError, match="mask of"):
        make_loss(LossConfig(), LABELS)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5, dtype=torch.int64))


def test_class_weights_travel_with_the_module_and_leave_no_trace_in_its_state():
    loss = make_loss(LossConfig(class_weights="inverse_frequency"), LABELS, WEIGHTS.numpy())
    assert loss.state_dict() == {} and list(loss.parameters()) == []
    assert copy.deepcopy(loss).to("meta").class_weights_K.device.type == "meta"


@pytest.mark.parametrize("config, weights", [("none", WEIGHTS), ("median_frequency", None), ("median_frequency", WEIGHTS[:2])])
def test_class_weights_that_do_not_fit_the_config_are_our_bug(config, weights):
    with pytest.raises(AssertionError):
        make_loss(LossConfig(class_weights=config), LABELS, weights)
