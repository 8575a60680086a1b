from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from scipy.stats import chisquare

from medseg.config import SamplingConfig
from medseg.data.patches import PatchIndex, build_index
from medseg.data.sampling import (
    check_centres,
    check_patches,
    draw_epoch,
    epoch_draws,
    equals_uniform,
    image_weights,
    of_rank,
    pixel_counts,
    presence,
    rank_places,
)
from medseg.errors import ConfigError
from medseg.labels import LabelSet
from medseg.types import Draws, Row, Size

# ten images: class a in all, class b in the first alone
PRESENT = np.array([[True, place == 0] for place in range(10)])
LABELS = LabelSet.of("tongue", "coating", "lesion")
FRAME = Size(20, 30)
IMAGES = 12
RATIOS = {"lesion": 1.0, "anywhere": 2.0, "tongue": 1.0}
FIELDS = [field.name for field in fields(Draws)]


def mask_of(place: int) -> np.ndarray:
    """Tongue in all, lesion (a few pixels) in every fourth, coating in none, two columns ignored."""
    mask = np.zeros(FRAME, np.uint8)
    mask[3:15, 5 + place : 15 + place] = 1
    if place % 4 == 0:
        mask[6:8, 8 + place : 10 + place] = 3
    mask[:, :2] = LABELS.ignore_id
    return mask


@pytest.fixture(scope="module")
def index() -> PatchIndex:
    return build_index([f"file {place}" for place in range(IMAGES)], mask_of, LABELS, FRAME)


def crops(ratios: dict[str, float] | None = None) -> SamplingConfig:
    return SamplingConfig(name="uniform", patch_px=(16, 16), centre_ratios=ratios or {})


def equal(first: Draws, second: Draws) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def test_repeat_factor_by_hand():
    weights = image_weights(SamplingConfig(threshold=0.4), PRESENT)
    assert weights.tolist() == [pytest.approx(math.sqrt(0.4 / 0.1)), *[1.0] * 9]


def test_inverse_frequency_by_hand():
    weights = image_weights(SamplingConfig(name="inverse_frequency"), PRESENT)
    assert weights.tolist() == [10.0, *[1.0] * 9]


def test_square_root_by_hand():
    weights = image_weights(SamplingConfig(name="square_root"), PRESENT)
    assert weights.tolist() == [pytest.approx(math.sqrt(10)), *[1.0] * 9]


def test_effective_number_by_hand():
    """n = 10 and 1, beta = 1/2: (1/2) / (1 - 2^-10) and (1/2) / (1/2); the smaller becomes 1."""
    weights = image_weights(SamplingConfig(name="effective_number", beta=0.5), PRESENT)
    assert weights.tolist() == [pytest.approx(1023 / 512), *[1.0] * 9]


def test_the_largest_factor_of_the_classes_in_an_image_counts():
    present = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0], [1, 1, 0]], bool)
    assert image_weights(SamplingConfig(name="inverse_frequency"), present).tolist() == [2.0, 4.0, 1.0, 2.0]


def random_presence() -> np.ndarray:
    """200 images, five classes from common to rare, the first in all."""
    return np.random.default_rng(0).random((200, 5)) < [1.0, 0.7, 0.4, 0.1, 0.03]


@pytest.mark.parametrize("settings", [{"name": "uniform"}, {"name": "effective_number", "beta": 0.0}, {"threshold": 0.0}])
def test_what_balances_nothing_is_uniform(settings):
    assert (image_weights(SamplingConfig(**settings), random_presence()) == 1.0).all()


def test_classes_that_all_reach_the_threshold_are_drawn_uniformly():
    present = random_presence()[:, :3]
    assert (image_weights(SamplingConfig(threshold=0.3), present) == 1.0).all()
    assert image_weights(SamplingConfig(threshold=0.6), present).max() > 1.0


@pytest.mark.parametrize("beta", [1 - 1e-9, 1 - 1e-15])
def test_effective_number_nears_inverse_frequency_as_beta_nears_one(beta):
    present = random_presence()
    effective = image_weights(SamplingConfig(name="effective_number", beta=beta), present)
    assert effective == pytest.approx(image_weights(SamplingConfig(name="inverse_frequency"), present), rel=1e-6)


def test_effective_number_lies_between_uniform_and_inverse_frequency():
    present = random_presence()
    rare = present[:, 4]
    each = [image_weights(SamplingConfig(name="effective_number", beta=beta), present)[rare].min() for beta in (0.0, 0.9, 0.99, 0.999)]
    assert each == sorted(set(each)) and each[-1] < image_weights(SamplingConfig(name="inverse_frequency"), present)[rare].min()


def test_square_root_is_the_repeat_factor_at_threshold_one():
    present = random_presence()
    weights = image_weights(SamplingConfig(name="square_root"), present)
    assert weights == pytest.approx(image_weights(SamplingConfig(threshold=1.0), present))
    assert weights**2 == pytest.approx(image_weights(SamplingConfig(name="inverse_frequency"), present))


@pytest.mark.parametrize("name", ["uniform", "repeat_factor", "square_root", "inverse_frequency", "effective_number"])
def test_every_rule_takes_a_class_that_no_image_holds_and_images_without_class(name):
    present = np.array([[True, False], [True, False], [False, False]])
    weights = image_weights(SamplingConfig(name=name), present)
    assert np.isfinite(weights).all() and weights.min() == weights[2] == 1.0


def test_an_image_without_any_class_has_weight_one():
    present = np.array([[True], [False]])
    assert image_weights(SamplingConfig(name="inverse_frequency"), present).tolist() == [2.0, 1.0]


def test_a_class_in_no_image_has_no_say():
    present = np.array([[True, False], [True, False]])
    assert equals_uniform(image_weights(SamplingConfig(), present), present)


def test_weights_that_differ_without_changing_any_class_s_share_are_uniform():
    present = np.array([[True], [True], [False], [False]])
    assert equals_uniform(np.array([3.0, 1.0, 2.0, 2.0]), present) and not equals_uniform(np.array([3.0, 1.0, 1.0, 1.0]), present)


def test_uniform_draws_each_image_once():
    assert sorted(epoch_draws(np.ones(17), 17, seed=3, epoch=1).tolist()) == list(range(17))


def test_draws_are_within_one_of_the_weights():
    weights = np.array([5.0, 1.0, 2.5, 1.0, 0.5])
    for epoch in range(50):
        times = np.bincount(epoch_draws(weights, 40, seed=0, epoch=epoch), minlength=5)
        assert (abs(times - weights * 4) < 1).all()


def test_draws_follow_the_weights_in_the_long_run():
    weights = np.array([3.0, 1.0, 1.0])
    times = sum(np.bincount(epoch_draws(weights, 3, seed=0, epoch=epoch), minlength=3) for epoch in range(2000))
    assert times / 6000 == pytest.approx(weights / 5, abs=0.02)


def test_draws_depend_on_seed_and_epoch_alone_and_leave_the_global_state():
    state = np.random.get_state()[1].copy()
    first = epoch_draws(np.ones(50), 50, seed=1, epoch=2)
    assert (first == epoch_draws(np.ones(50), 50, seed=1, epoch=2)).all()
    assert (first != epoch_draws(np.ones(50), 50, seed=1, epoch=3)).any()
    assert (first != epoch_draws(np.ones(50), 50, seed=2, epoch=2)).any()
    assert (np.random.get_state()[1] == state).all()


def test_presence():
    labels = LabelSet.of("a", "b")
    rows = [Row(str(i), str(i), "x", "y", Size(2, 2), "h", "h", {"background": 1, "a": 3, "b": int(i == 0)}) for i in range(4)]
    assert presence(rows, labels).tolist() == [[True, True], *[[True, False]] * 3]


def test_pixel_counts_are_those_of_the_letterboxed_grid():
    rows = [Row("s", "s", "x", "y", Size(10, 20), "h", "h", {"background": 150, "a": 50, "ignored": 7}),
            Row("l", "l", "x", "y", Size(400, 400), "h", "h", {"background": 0, "a": 160_000})]  # fmt: skip
    counts = pixel_counts(rows, LabelSet.of("a"), Size(40, 40))
    assert counts == pytest.approx(np.array([[600.0, 200.0], [0.0, 1600.0]]))


def test_the_draws_of_whole_images_are_epoch_draws():
    weights = np.array([3.0, 1.0, 1.0, 2.0])
    draws = draw_epoch(SamplingConfig(), weights, None, 8, seed=1, epoch=2)
    assert (draws.images == epoch_draws(weights, 8, seed=1, epoch=2)).all()
    assert draws.centres is None and draws.wanted is None


def test_crops_without_a_wish_show_the_same_images_and_lie_anywhere():
    weights, frame = np.array([3.0, 1.0, 1.0, 2.0]), Size(20, 30)
    draws = draw_epoch(crops(), weights, PatchIndex.anywhere(frame), 6000, seed=1, epoch=2)
    assert (draws.images == epoch_draws(weights, 6000, seed=1, epoch=2)).all() and (draws.wanted == -1).all()
    cells = np.ravel_multi_index(tuple(draws.centres.T), frame)
    assert chisquare(np.bincount(cells, minlength=600)).pvalue > 0.01
    assert (draws.centres.dtype, draws.wanted.dtype, draws.images.dtype) == (np.int32, np.int16, np.int64)


@pytest.mark.parametrize("ratios", [None, RATIOS])
def test_an_epoch_s_draws_depend_on_seed_and_epoch_alone(index, ratios):
    state = np.random.get_state()[1].copy()
    weights = np.linspace(1, 2, IMAGES)
    first = draw_epoch(crops(ratios), weights, index, 40, seed=1, epoch=2)
    assert equal(first, draw_epoch(crops(ratios), weights, index, 40, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        other = draw_epoch(crops(ratios), weights, index, 40, seed, epoch)
        assert not np.array_equal(first.images, other.images) and not np.array_equal(first.centres, other.centres)
    assert (np.random.get_state()[1] == state).all()


def test_the_order_in_which_ratios_are_written_has_no_say(index):
    turned = dict(reversed(RATIOS.items()))
    assert equal(*(draw_epoch(crops(ratios), np.ones(IMAGES), index, 40, 0, 1) for ratios in (RATIOS, turned)))


def test_the_pixel_at_the_centre_is_of_the_class_that_was_wanted(index):
    draws = draw_epoch(crops({**RATIOS, "background": 1.0}), np.ones(IMAGES), index, 500, seed=0, epoch=1)
    found = np.array([mask_of(image)[tuple(centre)] for image, centre in zip(draws.images, draws.centres, strict=True)])
    wished = draws.wanted >= 0
    assert set(draws.wanted.tolist()) == {-1, 0, 1, 3}
    assert (found[wished] == draws.wanted[wished]).all()
    assert (found[~wished] == LABELS.ignore_id).any(), "anywhere is anywhere, the ignored border too"


def test_the_ignored_border_is_never_a_wished_centre(index):
    draws = draw_epoch(crops({"background": 1.0}), np.ones(IMAGES), index, 3000, seed=0, epoch=1)
    assert draws.centres[:, 1].min() == 2


@pytest.mark.parametrize("draws", [37, 40, 400])
def test_realised_centres_are_the_asked_ones_within_one_draw_an_epoch(index, draws):
    for epoch in range(20):
        wanted = draw_epoch(crops(RATIOS), np.ones(IMAGES), index, draws, seed=0, epoch=epoch).wanted
        counts = {class_id: int((wanted == class_id).sum()) for class_id in (-1, 1, 3)}
        assert sum(counts.values()) == draws
        assert all(abs(counts[c] - draws * share) < 1 for c, share in ((-1, 0.5), (1, 0.25), (3, 0.25)))


def test_a_small_ratio_is_met_over_many_epochs(index):
    """0.35 draws an epoch are asked: none or one in each."""
    config = crops({"lesion": 0.05, "anywhere": 0.95})
    times = [int((draw_epoch(config, np.ones(IMAGES), index, 7, 0, epoch).wanted == 3).sum()) for epoch in range(2000)]
    assert set(times) == {0, 1} and np.mean(times) == pytest.approx(0.35, abs=0.03)


def test_a_ratio_of_zero_is_never_drawn_and_need_not_be_held(index):
    draws = draw_epoch(crops({"coating": 0.0, "tongue": 1.0}), np.ones(IMAGES), index, 50, 0, 1)
    assert (draws.wanted == 1).all()


def test_images_of_a_wish_follow_their_weights(index):
    """The three images with a lesion, weights 1 : 2 : 5, over many epochs; each epoch within one of the expectation."""
    weights = np.ones(IMAGES)
    weights[[0, 4, 8]] = 1.0, 2.0, 5.0
    times = np.zeros(IMAGES)
    for epoch in range(100):
        images = draw_epoch(crops({"lesion": 1.0}), weights, index, 20, 0, epoch).images
        here = np.bincount(images, minlength=IMAGES)
        assert (abs(here[[0, 4, 8]] - [2.5, 5.0, 12.5]) < 1).all()
        times += here
    assert times.sum() == times[[0, 4, 8]].sum() and times[[0, 4, 8]] == pytest.approx([250, 500, 1250], abs=20)


def test_the_pixels_of_a_class_are_centres_equally_often(index):
    """The lesion's four pixels in each of three images, over many epochs."""
    found = []
    for epoch in range(50):
        draws = draw_epoch(crops({"lesion": 1.0}), np.ones(IMAGES), index, 48, 0, epoch)
        found.extend(zip(draws.images.tolist(), *draws.centres.T.tolist(), strict=True))
    counts = list({place: found.count(place) for place in set(found)}.values())
    assert len(counts) == 12 and chisquare(counts).pvalue > 0.01


def test_wishes_and_images_are_spread_over_the_epoch(index):
    """Shuffled together: each quarter of an epoch holds about a quarter of each wish, and of each image within a wish."""
    draws = draw_epoch(crops(RATIOS), np.ones(IMAGES), index, 4000, 0, 1)
    for class_id, image in ((-1, 0), (1, 5), (3, 8)):
        of_wish = draws.wanted.reshape(4, -1) == class_id
        of_both = of_wish & (draws.images.reshape(4, -1) == image)
        assert chisquare(of_wish.sum(1)).pvalue > 0.01 and chisquare(of_both.sum(1)).pvalue > 0.01


def test_a_class_that_no_image_holds_is_refused(index):
    config = crops({"coating": 0.5, "anywhere": 1.0})
    message = (
        r"sampling.centre_ratios.coating: crops centred on 'coating' are asked \(0.5\), and no training image holds it .*; leave it out"
    )
    with pytest.raises(ConfigError, match=message):
        check_centres(config, index)
    with pytest.raises(ConfigError, match=message):
        draw_epoch(config, np.ones(IMAGES), index, 8, 0, 1)
    check_centres(crops(RATIOS), index)


def test_a_name_that_is_no_class_is_refused(index):
    message = "'lession' is neither a class nor 'anywhere'; the classes are background, tongue, coating, lesion"
    for refuse in (lambda config: check_centres(config, index), lambda config: check_patches(config, FRAME, LABELS)):
        with pytest.raises(ConfigError, match=message):
            refuse(crops({"lession": 1.0}))
    with pytest.raises(ConfigError, match="a class is named 'anywhere'"):
        check_patches(crops({"anywhere": 1.0}), FRAME, LabelSet.of("anywhere"))


def test_a_patch_larger_than_the_frame_is_refused():
    check_patches(crops(), Size(16, 16), LABELS)
    check_patches(SamplingConfig(), Size(1, 1), LABELS)
    for frame in (Size(15, 16), Size(16, 15)):
        with pytest.raises(
            ConfigError, match=f"sampling.patch_px: a patch of 16 x 16 does not fit in the frame of {frame[0]} x {frame[1]}"
        ):
            check_patches(crops(), frame, LABELS)


@pytest.mark.parametrize("world", [1, 2, 3, 6])
@pytest.mark.parametrize("ratios", [None, RATIOS])
def test_the_ranks_parts_of_each_step_are_the_global_batch(index, world, ratios):
    batch, share = 6, 6 // world
    draws = draw_epoch(crops(ratios), np.ones(IMAGES), index, 24, 0, 1)
    parts = [of_rank(draws, rank, world, batch) for rank in range(world)]
    for step in range(4):
        pieces = [part.part(slice(step * share, (step + 1) * share)) for part in parts]
        together = Draws(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in FIELDS))
        assert equal(together, draws.part(slice(step * batch, (step + 1) * batch)))


def test_ranks_share_whole_images_too_and_know_their_places():
    draws = draw_epoch(SamplingConfig(), np.ones(9), None, 8, 0, 1)
    part = of_rank(draws, 1, 2, 4)
    assert part.images.tolist() == draws.images[[2, 3, 6, 7]].tolist() and part.centres is None and part.wanted is None
    assert draws.places.dtype == np.int64 and draws.places.tolist() == list(range(8))
    assert part.places.tolist() == [2, 3, 6, 7] and part.part(slice(2, 4)).places.tolist() == [6, 7]
    assert sorted(np.concatenate([rank_places(24, rank, 3, 6) for rank in range(3)])) == list(range(24))


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    draws = Draws(np.arange(8))
    with pytest.raises(
        ConfigError, match="train.batch_size: a batch of 4 cannot be shared evenly by 3 processes; .* multiple of 3, for example 6"
    ):
        of_rank(draws, 0, 3, 4)
