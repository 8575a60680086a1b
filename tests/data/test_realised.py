from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from medseg.config import SamplingConfig
from medseg.data.realised import Seen, _on_device, _on_processor, asked, centre_shares, set_shares
from medseg.data.sampling import draw_epoch, epoch_draws, image_weights
from medseg.labels import LabelSet
from medseg.types import Draws

LABELS = LabelSet.of("tongue", "lesion")


def batches() -> list[torch.Tensor]:
    """Masks of three classes and the ignore id, lesions in some only; the last batch smaller."""
    generator = np.random.default_rng(0)
    masks = generator.choice([0, 1, 255], size=(11, 20, 30))
    for place in (0, 3, 4, 9):
        masks[place, :2, : place + 1] = 2
    return [torch.from_numpy(masks[start : start + 4].astype(np.int64)) for start in (0, 4, 8)]


def test_seen_counts_what_numpy_counts():
    seen = Seen(3)
    for mask in batches():
        seen.add(mask)
    masks = torch.cat(batches()).numpy()
    assert seen.counts_2K[0].tolist() == [int((masks == class_id).sum()) for class_id in range(3)]
    assert seen.counts_2K[1].tolist() == [int((masks == class_id).any(axis=(1, 2)).sum()) for class_id in range(3)]
    valid = (masks != 255).sum()
    shares = seen.shares(LABELS)
    assert shares == {
        "train/drawn_image_share/tongue": 1.0,
        "train/drawn_image_share/lesion": 4 / 11,
        **{f"train/drawn_pixel_share/{name}": (masks == class_id).sum() / valid for class_id, name in enumerate(LABELS.names)},
    }
    assert sum(share for name, share in shares.items() if "pixel" in name) == pytest.approx(1.0)


def test_both_ways_of_counting_agree():
    for mask in batches():
        assert torch.equal(_on_processor(mask.flatten(1)), _on_device(mask.flatten(1)))


def test_a_mask_whose_memory_is_not_in_order_is_counted_right():
    mask = batches()[0]
    first, second = Seen(3), Seen(3)
    first.add(mask)
    second.add(mask.transpose(1, 2))
    assert torch.equal(first.counts_2K, second.counts_2K)


def test_shares_of_nothing_are_not_a_number():
    empty, ignored = Seen(3), Seen(3)
    ignored.add(torch.full((2, 4, 4), 255))
    assert all(math.isnan(share) for share in empty.shares(LABELS).values())
    shares = ignored.shares(LABELS)
    assert shares["train/drawn_image_share/lesion"] == 0.0 and math.isnan(shares["train/drawn_pixel_share/background"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_counting_on_a_gpu_waits_for_nothing():
    seen, moved = Seen(3), [mask.cuda() for mask in batches()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for mask in moved:
            seen.add(mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = Seen(3)
    for mask in batches():
        here.add(mask)
    assert seen.shares(LABELS) == here.shares(LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [3, 30])
def test_counting_costs_less_than_a_hundredth_of_a_step(num_classes):
    """Under 3 ms for eight masks of 256 x 256: 1 % of a step of 300 ms. The best of many, because others share the processor."""
    mask, seen, times = torch.randint(0, num_classes, (8, 256, 256)), Seen(num_classes), []
    for _ in range(50):
        started = time.perf_counter()
        seen.add(mask)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.003


def presence() -> np.ndarray:
    return np.random.default_rng(0).random((40, 2)) < [1.0, 0.2]


def test_the_set_s_shares_by_hand():
    present = np.array([[True, True], [True, False]])
    shares = set_shares(present, np.array([[70, 20, 10], [90, 10, 0]]), LABELS)
    assert shares == {
        "sampling/set_image_share/tongue": 1.0,
        "sampling/set_image_share/lesion": 0.5,
        "sampling/set_pixel_share/background": 0.8,
        "sampling/set_pixel_share/tongue": 0.15,
        "sampling/set_pixel_share/lesion": 0.05,
    }


def test_asked_by_hand():
    """Weights 3 and 1, the lesion in the first image: it is in three of four images drawn."""
    present = np.array([[True, True], [True, False]])
    shares = asked(SamplingConfig(), np.array([3.0, 1.0]), present, LABELS)
    assert shares == {"sampling/asked_image_share/tongue": 1.0, "sampling/asked_image_share/lesion": 0.75}


def test_asked_with_centres_by_hand():
    """One crop in two on the lesion (always the first image), the others anywhere (three in four): 1/2 + 3/8."""
    config = SamplingConfig(patch_px=(16, 16), centre_ratios={"lesion": 2.0, "anywhere": 1.0, "background": 1.0, "tongue": 0.0})
    present = np.array([[True, True], [True, False]])
    assert asked(config, np.array([3.0, 1.0]), present, LABELS) == {
        "sampling/asked_image_share/tongue": 1.0,
        "sampling/asked_image_share/lesion": 0.875,
        "sampling/asked_centre_ratio/lesion": 0.5,
        "sampling/asked_centre_ratio/anywhere": 0.25,
        "sampling/asked_centre_ratio/background": 0.25,
    }


@pytest.mark.parametrize("name", ["uniform", "repeat_factor", "square_root", "inverse_frequency", "effective_number"])
def test_what_is_drawn_over_many_epochs_is_what_was_asked(name):
    config, present = SamplingConfig(name=name, beta=0.9), presence()
    weights = image_weights(config, present)
    drawn = np.concatenate([epoch_draws(weights, 40, 0, epoch) for epoch in range(200)])
    wished = asked(config, weights, present, LABELS)["sampling/asked_image_share/lesion"]
    assert present[drawn, 1].mean() == pytest.approx(wished, abs=0.01)
    assert bool(wished > present[:, 1].mean() + 0.05) is (name != "uniform")


def test_what_is_drawn_with_centres_is_what_was_asked():
    from medseg.data.patches import build_index
    from medseg.types import Size

    present = presence()

    def mask_of(place: int) -> np.ndarray:
        mask = np.zeros((16, 16), np.uint8)
        mask[4:8, 4:8] = 1
        mask[6, 6] = 2 if present[place, 1] else 1
        return mask

    config = SamplingConfig(name="square_root", patch_px=(16, 16), centre_ratios={"lesion": 1.0, "anywhere": 2.0, "tongue": 1.0})
    weights = image_weights(config, present)
    index = build_index([str(place) for place in range(40)], mask_of, LABELS, Size(16, 16))
    drawn = [draw_epoch(config, weights, index, 40, 0, epoch) for epoch in range(200)]
    wished = asked(config, weights, present, LABELS)
    share = np.mean([present[draws.images, 1].mean() for draws in drawn])
    assert share == pytest.approx(wished["sampling/asked_image_share/lesion"], abs=0.01)
    assert centre_shares(config, drawn[0], LABELS) == {
        "train/drawn_centre_ratio/anywhere": wished["sampling/asked_centre_ratio/anywhere"],
        "train/drawn_centre_ratio/tongue": wished["sampling/asked_centre_ratio/tongue"],
        "train/drawn_centre_ratio/lesion": wished["sampling/asked_centre_ratio/lesion"],
    }


def test_whole_images_have_no_centres():
    assert centre_shares(SamplingConfig(), Draws(np.arange(4)), LABELS) == {}


def test_what_was_asked_and_not_drawn_is_told_as_zero():
    """Eight crops of which a twentieth is asked for: most epochs have none, and the mean over the epochs is still the share."""
    config = SamplingConfig(patch_px=(16, 16), centre_ratios={"lesion": 0.05, "tongue": 0.95, "background": 0.0})
    told = []
    for epoch in range(400):
        wanted = np.where(np.random.default_rng(epoch).random(8) < 0.05, 2, 1).astype(np.int16)
        told.append(centre_shares(config, Draws(np.arange(8), np.zeros((8, 2), np.int32), wanted), LABELS))
    assert all(set(shares) == {"train/drawn_centre_ratio/lesion", "train/drawn_centre_ratio/tongue"} for shares in told)
    assert any(shares["train/drawn_centre_ratio/lesion"] == 0 for shares in told)
    assert np.mean([shares["train/drawn_centre_ratio/lesion"] for shares in told]) == pytest.approx(0.05, abs=0.01)
