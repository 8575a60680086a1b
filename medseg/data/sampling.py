"""What an epoch shows: how often each image is drawn, from the manifest's pixel counts alone, and where crops are laid.

With f(c) = share of the training images that hold the foreground class c, and n(c) = their number, a class has the factor

uniform            1
repeat_factor      max(1, sqrt(t / f(c))), t = threshold              (Gupta, Dollar, Girshick: LVIS, CVPR 2019, section 4.1)
square_root        1 / sqrt(f(c)); repeat_factor with t = 1           (Kang et al., ICLR 2020, section 3: q = 1/2)
inverse_frequency  1 / f(c)
effective_number   (1 - beta) / (1 - beta^n(c)), smallest factor = 1  (Cui et al., CVPR 2019, section 4)

and an image the largest factor of the classes in it, 1 where it holds none.

An epoch has a fixed number of draws, so that samplers are compared at equal optimiser steps. The draws follow the weights by systematic
resampling: an image of expected count m is drawn floor(m) or ceil(m) times, and by a uniform sampler exactly once. An epoch's draws are
one list that depends on (seed, epoch) alone; a process of several takes its part of each batch out of it (`of_rank`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medseg.config import SamplingConfig
from medseg.data.patches import ANYWHERE, PatchIndex
from medseg.errors import ConfigError
from medseg.labels import LabelSet
from medseg.seeding import numpy_generator
from medseg.types import Draws, Row, Size, by


def presence(rows: Sequence[Row], labels: LabelSet) -> np.ndarray:
    """bool (N, K - 1): which image holds which foreground class."""
    return np.array([[row.px[name] > 0 for name in labels.foreground] for row in rows], dtype=bool).reshape(len(rows), -1)


def pixel_counts(rows: Sequence[Row], labels: LabelSet, frame: Size) -> np.ndarray:
    """float64 (N, K): pixels of each class on the network's grid, to within rounding: a letterbox scales both sides by one factor.

    On that grid, not on the images' own, because there a large photograph counts no more than a small one, as in what is drawn.
    """
    scales = [min(frame.height_px / row.size.height_px, frame.width_px / row.size.width_px) for row in rows]
    counts = [[row.px[name] * scale**2 for name in labels.names] for row, scale in zip(rows, scales, strict=True)]
    return np.array(counts, dtype=np.float64).reshape(len(rows), labels.num_classes)


def image_weights(config: SamplingConfig, present: np.ndarray) -> np.ndarray:
    """float64 (N,): relative frequency of each image, at least 1. `present` is bool (N, classes); a class in no image has no say."""
    factor = np.ones(present.shape[1])
    held = present.sum(axis=0)
    factor[held > 0] = _class_factors(config, held[held > 0], len(present))
    return np.where(present, factor, 1.0).max(axis=1, initial=1.0)


def _class_factors(config: SamplingConfig, held: np.ndarray, images: int) -> np.ndarray:
    """float64 (C,), at least 1: the factor of each class that `held` > 0 of the images hold."""
    share = held / images
    if config.name == "repeat_factor":
        return np.maximum(1.0, np.sqrt(config.threshold / share))
    if config.name == "square_root":
        return 1.0 / np.sqrt(share)
    if config.name == "inverse_frequency":
        return 1.0 / share
    if config.name == "effective_number" and config.beta > 0:  # at 0 each class counts as one image: uniform
        factor = -1.0 / np.expm1(held * math.log(config.beta))  # expm1, because 1 - beta^n loses its digits as beta nears 1
        return factor / factor.min(initial=np.inf)
    return np.ones_like(share)


def draw_epoch(config: SamplingConfig, weights: np.ndarray, index: PatchIndex | None, draws: int, seed: int, epoch: int) -> Draws:
    """The `draws` draws of one epoch, shuffled; whole images, or crops where `patch_px` is given (then `index` must be, too).

    weights: float64 (N,), positive, of `image_weights`.  Crops without a wish show the same images in the same order as whole images do.
    Raises ConfigError where `centre_ratios` name what is no class, or a class that no image holds.
    """
    if config.patch_px is None:
        return Draws(epoch_draws(weights, draws, seed, epoch))
    assert index is not None, "crops need a PatchIndex; PatchIndex.anywhere(frame) where centre_ratios are not given"
    generator = numpy_generator(seed, epoch, "crops")
    if not config.centre_ratios:
        images = epoch_draws(weights, draws, seed, epoch)
        return Draws(images, _centres_anywhere(images, index, generator), np.full(draws, -1, np.int16))
    assert len(weights) == len(index), f"{len(weights)} weights for an index of {len(index)} images"
    ids, ratios = _wishes(config.centre_ratios, index)
    wanted = ids[_systematic(ratios, draws, generator)]
    return _draw_crops(wanted, weights, index, generator)


def epoch_draws(weights: np.ndarray, draws: int, seed: int, epoch: int) -> np.ndarray:
    """int64 (draws,): image positions of one epoch, shuffled; depends on (seed, epoch) alone.

    Raises nothing; `weights` must be positive. Systematic resampling in a random order of the images.
    """
    return _systematic(weights, draws, numpy_generator(seed, epoch, "draws"))


def _systematic(weights: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """int64 (draws,): positions drawn by positive weights, each floor or ceil of its expected count, shuffled."""
    order = generator.permutation(len(weights))
    edges = np.cumsum(weights[order]) * (draws / weights.sum())
    ticks = np.arange(draws) + generator.random()
    chosen = order[np.minimum(np.searchsorted(edges, ticks, side="right"), len(weights) - 1)]
    return generator.permutation(chosen)


def _draw_crops(wanted: np.ndarray, weights: np.ndarray, index: PatchIndex, generator: np.random.Generator) -> Draws:
    """For each wanted class an image among those that hold it, by their weights, and one of its indexed pixels there."""
    dims = index.shapes(np.zeros(1, np.int64)).shape[1]
    images, centres = np.empty(len(wanted), np.int64), np.empty((len(wanted), dims), np.int32)
    for class_id in np.unique(wanted):
        places = np.flatnonzero(wanted == class_id)
        held = np.arange(len(index)) if class_id < 0 else index.holding(class_id)
        images[places] = held[_systematic(weights[held], len(places), generator)]
        if class_id < 0:
            centres[places] = _centres_anywhere(images[places], index, generator)
        else:
            centres[places] = index.draw(images[places], class_id, generator)
    return Draws(images, centres, wanted)


def _centres_anywhere(images: np.ndarray, index: PatchIndex, generator: np.random.Generator) -> np.ndarray:
    """int32 (D, 2 or 3), uniform over the grid of each of the images.

    Over the pixels, not over the places of the window: the window is moved inside afterwards, so that pixels near the border are
    shown too, where windows drawn uniformly would show the corner in one place only.
    """
    return generator.integers(0, index.shapes(images), dtype=np.int32)


def check_patches(config: SamplingConfig, frame: Size, labels: LabelSet) -> None:
    """What can be refused before any image is read: ConfigError where a patch is larger than the frame or a ratio's name is no class."""
    patch = config.patch_px
    if patch is None:
        return
    if len(patch) == 3:
        raise ConfigError("sampling.patch_px", "photographs have no depth", "give height and width")
    if patch[0] > frame.height_px or patch[1] > frame.width_px:
        rule = f"a patch of {by(patch)} does not fit in the frame of {by(frame)} pixels"
        raise ConfigError("sampling.patch_px", rule, "make it smaller, or data.size_px larger")
    check_names(config.centre_ratios, labels.names)


def check_centres(config: SamplingConfig, index: PatchIndex) -> None:
    """What can be refused once the masks are read: ConfigError where a class that centres are asked of is in no image."""
    if config.centre_ratios:
        _wishes(config.centre_ratios, index)


def check_names(ratios: Mapping[str, float], names: Sequence[str]) -> None:
    """ConfigError where a ratio's name is no class."""
    unknown = sorted(set(ratios) - {*names, ANYWHERE})
    if unknown:
        rule = f"{unknown[0]!r} is neither a class nor {ANYWHERE!r}; the classes are {', '.join(names)}"
        raise ConfigError("sampling.centre_ratios", rule, "correct the name or leave it out")
    if ANYWHERE in ratios and ANYWHERE in names:
        rule = f"a class is named {ANYWHERE!r}, which stands for crops without a wish"
        raise ConfigError("sampling.centre_ratios", rule, "rename the class in dataset.yaml")


def _wishes(ratios: Mapping[str, float], index: PatchIndex) -> tuple[np.ndarray, np.ndarray]:
    """int16 (W,) class ids in ascending order, -1 for anywhere, and their ratios, all above 0; the file's order has no say."""
    check_names(ratios, index.names)
    wishes = sorted((-1 if name == ANYWHERE else index.names.index(name), ratio) for name, ratio in ratios.items() if ratio > 0)
    for class_id, ratio in wishes:
        if class_id >= 0 and len(index.holding(class_id)) == 0:
            name = index.names[class_id]
            rule = f"crops centred on {name!r} are asked ({ratio:g}), and no training image holds it on the network's grid"
            raise ConfigError(f"sampling.centre_ratios.{name}", rule, "leave it out, enlarge data.size_px, or use a split with it in train")
    return np.array([class_id for class_id, _ in wishes], np.int16), np.array([ratio for _, ratio in wishes], np.float64)


def rank_places(draws: int, rank: int, world: int, batch_size: int) -> np.ndarray:
    """int64 (draws / world,): which places of an epoch's list belong to a rank, its contiguous share of each global batch.

    A draw keeps its place in the one list on whatever rank it lands, so that its augmentation (seed, epoch, place) is the same there.
    Raises ConfigError where the ranks cannot share a batch evenly.

    >>> rank_places(8, 0, 2, 4).tolist(), rank_places(8, 1, 2, 4).tolist()
    ([0, 1, 4, 5], [2, 3, 6, 7])
    """
    assert 0 <= rank < world and draws % batch_size == 0, (rank, world, draws, batch_size)
    if batch_size % world:
        rule = f"a batch of {batch_size} cannot be shared evenly by {world} processes"
        raise ConfigError("train.batch_size", rule, f"make it a multiple of {world}, for example {world * -(-batch_size // world)}")
    return np.arange(draws).reshape(-1, world, batch_size // world)[:, rank].ravel()


def of_rank(draws: Draws, rank: int, world: int, batch_size: int) -> Draws:
    """A rank's part of an epoch: its step s holds its share of the global batch s of `batch_size` draws; see `rank_places`."""
    return draws.part(rank_places(len(draws), rank, world, batch_size))


def equals_uniform(weights: np.ndarray, present: np.ndarray) -> bool:
    """True where drawing by the weights shows each class in the same share of images as drawing uniformly (within half a per cent)."""
    drawn = weights @ present / weights.sum()
    return bool(np.allclose(drawn, present.mean(axis=0), atol=0.005))
