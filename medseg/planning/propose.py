"""A fingerprint -> the settings of an experiment, each with its reason.

Legend: D H W the axes of the network's grid, depth first; Z Y X those of RAS, in which a fingerprint tells spacings and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from medseg.config import LossConfig, NetworkConfig
from medseg.config.model import DynUnetConfig, UnetConfig
from medseg.config.section import LEAST_PX
from medseg.config.volume import Axis
from medseg.data.patches import ANYWHERE
from medseg.errors import ConfigError
from medseg.labels import LabelSet
from medseg.models.contract import Task
from medseg.models.cost import cost_of
from medseg.models.families.monai import MOST_FEATURES, nnunet_strides
from medseg.models.weights import IMAGENET_DEVIATION, IMAGENET_MEAN
from medseg.planning.fingerprint import ClassSize, PhotographFingerprint, VolumeFingerprint
from medseg.planning.memory import Use, use_of
from medseg.planning.rules import (
    LEAST_BATCH,
    MOST_SHARE,
    Modality,
    Spacing,
    batch_size,
    depth_axis,
    in_network_order,
    is_anisotropic,
    median_shape,
    normalisation,
    target_spacing,
)  # fmt: skip
from medseg.planning.topology import Topology, fitted
from medseg.types import by

NetworkName = Literal["unet", "dynunet", "resenc"]
FEATURES = 32  # of the first level, nnU-Net's
STEPS_PER_EPOCH = 250  # nnU-Net's, at the most
EPOCHS = 12  # of a short training: so often its val score is looked at
LONG_STEPS = 25_000  # a tenth of nnU-Net's: from here on its own optimiser and course are taken
MOST_IMAGES = 12  # of a batch in two dimensions: with which nnU-Net fills 8 GB
WHOLE_BODY_MM = 600.0  # a field of view longer than a trunk: up and down are not alike there
MULTIPLE_PX = 32  # of a photograph's frame, which five levels divide
RARE = 0.5  # share of the images that hold a class below which it is drawn more, as repeat_factor's threshold
GIB = 2**30


class Setting(NamedTuple):
    """key: dotted, as in an override.  why: the reason, with the number that it comes from; nothing for what goes with the line above."""

    key: str
    value: Any
    why: str = ""


class Wanted(NamedTuple):
    """What the user decides. network: None for the usual one.  slices: of volumes, across D."""

    network: NetworkName | None = None
    memory_gib: float = 8.0
    slices: bool = False
    steps: int = 1200

    @property
    def budget_bytes(self) -> float:
        """Memory that a step may take."""
        return self.memory_gib * GIB

    @property
    def budget(self) -> str:
        """The option, as an error names it."""
        return f"--memory-gib {self.memory_gib:g}"


class Plan(NamedTuple):
    """settings: in the order of the file.  network: its name in words.  facts: sentences for the file's header."""

    settings: tuple[Setting, ...]
    network: str
    facts: tuple[str, ...]


# --- volumes


class _Grid(NamedTuple):
    """What a network sees. spacing_mm, shape: of its two or three axes; shape is the median volume's.  set_voxels: of the training set."""

    spacing_mm: tuple[float, ...]
    shape: tuple[float, ...]
    set_voxels: float


class _Fit(NamedTuple):
    """What fits: a network, its patches, what they take, how many of them memory would hold, and how many a batch is."""

    config: NetworkConfig
    levels: Topology
    use: Use
    in_memory: int
    batch: int


def plan_volumes(found: VolumeFingerprint, labels: LabelSet, modalities: Sequence[Modality], told: str, wanted: Wanted) -> Plan:
    """Of volumes. modalities: of each channel; told: how they are known. ConfigError where nothing fits into the memory."""
    target_zyx = target_spacing(found.spacings_mm, found.cropped_shapes)
    depth = depth_axis(target_zyx)
    spacing_mm = in_network_order(target_zyx, depth)
    shape = in_network_order(median_shape(found.spacings_mm, found.cropped_shapes, target_zyx), depth)
    set_voxels = math.prod(shape) * found.cases
    grid = _Grid(spacing_mm[1:], shape[1:], set_voxels) if wanted.slices else _Grid(spacing_mm, shape, set_voxels)
    name: NetworkName = wanted.network or "dynunet"
    fit = _fitted(name, grid, labels, len(modalities), wanted)
    settings = (
        *_volume_settings(found, spacing_mm, depth, modalities, told),
        *_network_settings(name, fit.config, fit.levels),
        Setting("loss.name", "dice_ce", "soft Dice and cross-entropy together, nnU-Net's"),
        *_sampling_settings(found.classes, grid, fit, wanted),
        *_augment_settings(labels, found, depth, spacing_mm, wanted.slices),
        *_optim_settings(wanted.steps),
        *_length_settings(wanted.steps, fit.batch, _why_batch(grid, fit, wanted)),
    )
    cost = _cost(fit.config, fit.levels.patch, labels, len(modalities), fit.batch)
    return Plan(settings, _named(name, wanted.slices), (*_remarks(spacing_mm, wanted), cost))


def _fitted(name: NetworkName, grid: _Grid, labels: LabelSet, channels: int, wanted: Wanted) -> _Fit:
    use_for = _counting(name, labels, channels, True)
    levels = fitted(grid.spacing_mm, grid.shape, lambda tried: use_for(tried).of(LEAST_BATCH) <= wanted.budget_bytes, wanted.budget)
    if wanted.slices and min(levels.patch) < LEAST_PX:
        rule = f"slices of {by([round(side) for side in grid.shape])} pixels are too small for a network of two dimensions"
        raise ConfigError("--slices", rule, "plan without it")
    in_memory = use_for(levels).most(wanted.budget_bytes)
    batch = batch_size(in_memory, grid.set_voxels, math.prod(levels.patch), MOST_IMAGES if wanted.slices else None)
    return _Fit(network_of(name, levels, len(grid.shape)), levels, use_for(levels), in_memory, batch)


def network_of(name: NetworkName, levels: Topology, dims: int) -> NetworkConfig:
    """The network of a topology. unet: halves all axes alike, so as often as the one that is halved the least, at least once.

    dynunet: strides and kernels by the spacing, as nnU-Net's; told only where they are not those the network takes by itself.
    """
    if name == "unet":
        number = max(1, min(levels.halvings)) + 1
        return UnetConfig(channels=_features(number, dims), strides=(2,) * (number - 1))
    channels = _features(len(levels.strides), dims)
    return DynUnetConfig(
        name="dynunet",
        channels=channels,
        strides=_strides(levels),
        kernels=_kernels(levels),
        residual=name == "resenc",
        deep_supervision=True,
    )


def _strides(levels: Topology) -> tuple[Any, ...] | None:
    own = nnunet_strides(levels.patch, len(levels.strides))
    return None if [tuple(step) for step in own] == list(levels.strides) else tuple(_short(step) for step in levels.strides[1:])


def _kernels(levels: Topology) -> tuple[Any, ...] | None:
    return None if {side for kernel in levels.kernels for side in kernel} == {3} else tuple(_short(kernel) for kernel in levels.kernels)


def _short(numbers: tuple[int, ...]) -> int | tuple[int, ...]:
    """One number where all axes have the same."""
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _features(levels: int, dims: int) -> tuple[int, ...]:
    """Doubled from level to level.

    >>> _features(5, 3)
    (32, 64, 128, 256, 320)
    """
    return tuple(min(FEATURES * 2**level, MOST_FEATURES[dims]) for level in range(levels))


def _counting(name: NetworkName, labels: LabelSet, channels: int, normalised: bool) -> Callable[[Topology], Use]:
    """What a step takes, each topology counted once."""

    @cache
    def use(levels: Topology) -> Use:
        config = network_of(name, levels, len(levels.patch))
        task = Task(labels.num_classes, levels.patch, channels, labels.ignore_id, normalised)
        return use_of(config, task, labels, LossConfig())

    return use


def _volume_settings(
    found: VolumeFingerprint, spacing_mm: Spacing, depth: Axis, modalities: Sequence[Modality], told: str
) -> tuple[Setting, ...]:
    each = np.asarray(found.spacings_mm)
    low, high = in_network_order(each.min(axis=0).tolist(), depth), in_network_order(each.max(axis=0).tolist(), depth)
    cropped, channels = 1 - found.kept_share, zip(modalities, found.intensities, strict=True)
    how = [normalisation(modality, values, found.kept_share).model_dump(exclude_none=True) for modality, values in channels]
    usual = "10th percentile along D, median of the others" if _is_low(found, spacing_mm, depth) else "median"
    values = "; ".join(f"{one.percentile_00_5:.4g} to {one.percentile_99_5:.4g}, mean {one.mean:.4g}" for one in found.intensities)
    return (
        Setting("data.volume.spacing_mm", list(spacing_mm), f"D, H, W: {usual} of {_mm(low)} to {_mm(high)} mm"),
        Setting(
            "data.volume.depth_axis", depth, "the coarsest axis" if max(spacing_mm) > 1.001 * min(spacing_mm) else "all axes are alike"
        ),
        Setting("data.volume.channels", how, f"{', '.join(modalities)} {told}; the foreground's percentiles 0.5 to 99.5: {values}"),
        Setting("data.volume.crop", "nonzero", f"takes {cropped:.0%} of the voxels off on median"),
    )


def _is_low(found: VolumeFingerprint, spacing_mm: Spacing, depth: Axis) -> bool:
    medians = in_network_order(np.median(np.asarray(found.spacings_mm), axis=0).tolist(), depth)
    return abs(medians[0] - spacing_mm[0]) > 1e-5


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _network_settings(name: NetworkName, config: NetworkConfig, levels: Topology) -> tuple[Setting, ...]:
    halved = by(levels.halvings)
    if isinstance(config, UnetConfig):
        why = f"the axes can be halved {halved} times; this network halves all alike"
        return Setting("model.name", "unet", "MONAI's residual U-Net"), *(
            Setting("model.channels", list(config.channels), f"twice as many a level; {why}"),
            Setting("model.strides", list(config.strides)),
        )
    assert isinstance(config, DynUnetConfig)
    residual = "with one residual block a level, where nnU-Net's ResEnc has 1, 3, 4, 6, 6, ..."
    return (
        Setting("model.name", "dynunet", f"nnU-Net's network{f', {residual}' if name == 'resenc' else ''}"),
        Setting(
            "model.channels", list(config.channels or ()), f"twice as many a level; the axes are halved {halved} times, to 4 voxels or more"
        ),
        *((Setting("model.strides", _listed(config.strides), _WHY_STRIDES),) if config.strides else ()),
        *((Setting("model.kernels", _listed(config.kernels), _WHY_KERNELS),) if config.kernels else ()),
        *((Setting("model.residual", True),) if name == "resenc" else ()),
        Setting("model.deep_supervision", True, "the loss at every level, as nnU-Net's"),
    )


_WHY_STRIDES = "an axis is halved once the others are as coarse, so the volume becomes isotropic on the way down"
_WHY_KERNELS = "no neighbours along an axis that is twice as coarse as another, nnU-Net's rule"


def _listed(levels: Sequence[int | tuple[int, ...]]) -> list[int | list[int]]:
    return [level if isinstance(level, int) else list(level) for level in levels]


def _needs(use: Use, batch: int) -> str:
    return f"a step takes about {use.of(batch) / GIB:.1f} GiB in float32"


def _sampling_settings(classes: Sequence[ClassSize], grid: _Grid, fit: _Fit, wanted: Wanted) -> tuple[Setting, ...]:
    median = by([round(side) for side in grid.shape])
    what, needs = "slice" if wanted.slices else "volume", _needs(fit.use, fit.batch)
    why = f"the median {what} on this grid is {median}; {needs}, of {wanted.memory_gib:g}"
    steps_each, _ = _epochs(wanted.steps)
    return (
        Setting("sampling.name", "uniform", "each case alike; what is rare is drawn by the centres below"),
        Setting("sampling.patch_px", list(fit.levels.patch), why),
        Setting("sampling.centre_ratios", centre_ratios(classes), "a third of the patches is laid around a class, as in nnU-Net"),
        Setting("sampling.draws_per_epoch", steps_each * fit.batch, f"{steps_each} steps of {fit.batch}"),
    )


def centre_ratios(classes: Sequence[ClassSize]) -> dict[str, float]:
    """Two thirds anywhere, one third shared alike by the classes that a training case holds."""
    held = [one.name for one in classes if one.cases]
    return {ANYWHERE: 2.0, **{name: round(1 / len(held), 6) for name in held}}


def _augment_settings(labels: LabelSet, found: VolumeFingerprint, depth: Axis, spacing_mm: Spacing, slices: bool) -> tuple[Setting, ...]:
    axes, why = flip_axes(labels, found)
    if slices:
        axes = tuple(axis for axis in axes if axis != depth)
    turned = "in the plane alone, where voxels are so much deeper than wide" if slices or is_anisotropic(spacing_mm) else "about each axis"
    return (
        Setting("augment.flip_axes", list(axes), why),
        Setting("augment.rotate_deg", 30, f"nnU-Net's; {turned}"),
        Setting("augment.scale", 0.3, "nnU-Net zooms from 0.7 to 1.4"),
        Setting("augment.brightness", 0.25, "nnU-Net's ranges, here and below; there each is tried on 15 % of the patches"),
        Setting("augment.contrast", 0.25),
        Setting("augment.gamma", 0.3),
        Setting("augment.noise", 0.1),
        Setting("augment.blur_px", 1.0),
        Setting("augment.probability", 0.15, "of noise and of blur"),
    )


def flip_axes(labels: LabelSet, found: VolumeFingerprint) -> tuple[tuple[Axis, ...], str]:
    """Along which axes of RAS a mirror image still shows what could be, and why."""
    extent_mm = float(np.median([shape[0] * spacing[0] for shape, spacing in zip(found.cropped_shapes, found.spacings_mm, strict=True)]))
    if labels.left_right_pairs:
        return ("x",), "left and right are told apart: a mirror image exchanges them, and there is none upside down"
    if extent_mm > WHOLE_BODY_MM:
        return ("x",), f"{extent_mm:.0f} mm from top to bottom: a body is not seen upside down"
    return ("x", "y", "z"), "no left-right pairs are named: all three, nnU-Net's"


def _optim_settings(steps: int) -> tuple[Setting, ...]:
    if steps < LONG_STEPS:
        return (
            Setting("optim.name", "adamw", f"{steps:,} steps are few; nnU-Net's slow SGD is made for 250,000"),
            Setting("optim.lr", 0.002),
            Setting("optim.schedule", "one_cycle", "up and down within the budget (Smith and Topin 2018)"),
            Setting("optim.warmup_share", 0.2),
        )
    return (
        Setting("optim.name", "sgd", f"nnU-Net's, for {steps:,} steps"),
        Setting("optim.lr", 0.01),
        Setting("optim.momentum", 0.99),
        Setting("optim.weight_decay", 0.00003),
        Setting("optim.schedule", "polynomial"),
        Setting("optim.power", 0.9),
        Setting("optim.warmup_share", 0),
        Setting("optim.clip_norm", 12),
    )


def _epochs(steps: int) -> tuple[int, int]:
    """(steps an epoch, epochs): EPOCHS of them, or more where they would be longer than nnU-Net's.

    >>> _epochs(1200), _epochs(250_000), _epochs(5)
    ((100, 12), (250, 1000), (1, 5))
    """
    each = max(1, min(STEPS_PER_EPOCH, steps // EPOCHS))
    return each, -(-steps // each)


def _length_settings(steps: int, batch: int, why: str) -> tuple[Setting, ...]:
    each, epochs = _epochs(steps)
    return (
        Setting("train.epochs", epochs, f"{epochs} x {each} steps"),
        Setting("train.batch_size", batch, why),
        Setting("infer.batch_size", batch, "windows at once; without gradients they take less"),
        Setting("infer.overlap", 0.5, "nnU-Net's"),
    )


def _why_batch(grid: _Grid, fit: _Fit, wanted: Wanted) -> str:
    covered = grid.set_voxels * MOST_SHARE / math.prod(fit.levels.patch)
    most = f", and {MOST_IMAGES} slices are enough" if wanted.slices else ""
    least = f"; {LEAST_BATCH} at least" if fit.batch == LEAST_BATCH else ""
    return (
        f"{fit.in_memory} would fit into {wanted.memory_gib:g} GiB, {covered:.1f} are {MOST_SHARE:.0%} of the training voxels{most}{least}"
    )


def _remarks(spacing_mm: Spacing, wanted: Wanted) -> tuple[str, ...]:
    if is_anisotropic(spacing_mm) and not wanted.slices:
        return ("The slices are far apart: a network of two dimensions may do as well (--slices), and nnU-Net trains both.",)
    return ()


def _named(name: NetworkName, slices: bool) -> str:
    words = {"unet": "MONAI's residual U-Net", "dynunet": "nnU-Net's network", "resenc": "nnU-Net's network with residual blocks"}
    return f"{words[name]}{' on slices' if slices else ''}"


def _cost(config: NetworkConfig, grid: tuple[int, ...], labels: LabelSet, channels: int, batch: int) -> str:
    """Forward and back are about three times the forward's multiply-adds."""
    counted = cost_of(config, Task(labels.num_classes, grid, channels, labels.ignore_id, normalised=True))
    step = 3 * batch * counted.multiply_adds
    return f"{counted.parameters / 1e6:.1f} million parameters; a step is about {step / 1e12:.2g} x 10^12 multiply-adds."


# --- photographs


def plan_photographs(found: PhotographFingerprint, labels: LabelSet, wanted: Wanted) -> Plan:
    """Of photographs: whole ones, letterboxed to the median size, or smaller where memory is short. ConfigError as `plan_volumes`."""
    if wanted.slices:
        raise ConfigError("--slices", "photographs are slices already", "leave it out")
    name: NetworkName = wanted.network or "unet"
    median = np.median(np.asarray(found.sizes_px), axis=0).tolist()
    fit = _photographs_fitted(name, median, found.cases, labels, wanted)
    shown = by([round(side) for side in median])
    why = f"the median photograph is {shown}, in multiples of {MULTIPLE_PX}; {_needs(fit.use, fit.batch)}"
    settings = (
        Setting("data.size_px", list(fit.levels.patch), why),
        *_network_settings(name, fit.config, fit.levels),
        *_imagenet(found),
        Setting("loss.name", "dice_ce", "soft Dice and cross-entropy together"),
        *_rare(found),
        Setting("optim.name", "adamw", "medseg's usual one, as in its experiments on photographs"),
        Setting("optim.lr", 0.001),
        *_photograph_length(found, fit, wanted),
    )
    return Plan(settings, _named(name, False), (_cost(fit.config, fit.levels.patch, labels, 3, fit.batch),))


def _photographs_fitted(name: NetworkName, median_px: Sequence[float], cases: int, labels: LabelSet, wanted: Wanted) -> _Fit:
    use_for = _counting(name, labels, 3, False)
    levels = _frame(median_px, lambda tried: use_for(tried).of(LEAST_BATCH) <= wanted.budget_bytes, wanted.budget)
    in_memory = use_for(levels).most(wanted.budget_bytes)
    batch = max(LEAST_BATCH, min(in_memory, round(cases * MOST_SHARE), MOST_IMAGES))
    return _Fit(network_of(name, levels, 2), levels, use_for(levels), in_memory, batch)


def _photograph_length(found: PhotographFingerprint, fit: _Fit, wanted: Wanted) -> tuple[Setting, ...]:
    each, share = max(1, found.cases // fit.batch), round(found.cases * MOST_SHARE)
    fits = f"{fit.in_memory} would fit into {wanted.memory_gib:g} GiB"
    return (
        Setting("train.epochs", max(1, round(wanted.steps / each)), f"about {wanted.steps:,} steps, {each} an epoch"),
        Setting("train.batch_size", fit.batch, f"{fits}, {share} are {MOST_SHARE:.0%} of the training set, {MOST_IMAGES} are enough"),
        Setting("infer.batch_size", fit.batch),
    )


def _frame(median_px: Sequence[float], fits: Callable[[Topology], bool], budget: str) -> Topology:
    """Multiples of MULTIPLE_PX near the median size, five levels below it; both sides smaller by a tenth until two images fit."""
    scale = 1.0
    while True:
        height, width = (max(1, round(side * scale / MULTIPLE_PX)) * MULTIPLE_PX for side in median_px)
        size = min(height, 2048), min(width, 2048)
        found = Topology(size, ((1, 1), *[(2, 2)] * 4), ((3, 3),) * 5)
        if fits(found):
            return found
        if max(size) == MULTIPLE_PX:
            raise ConfigError(budget, f"not even two images of {by(size)} pixels fit", "give more, or choose another --network")
        scale *= 0.9


def _imagenet(found: PhotographFingerprint) -> tuple[Setting, ...]:
    own = ", ".join(f"{mean:.3f} +- {deviation:.3f}" for mean, deviation in zip(found.mean_rgb, found.deviation_rgb, strict=True))
    return (
        Setting("model.mean", list(IMAGENET_MEAN), f"ImageNet's, which published weights expect; these photographs' own: {own}"),
        Setting("model.deviation", list(IMAGENET_DEVIATION)),
    )


def _rare(found: PhotographFingerprint) -> tuple[Setting, ...]:
    shares = {one.name: one.cases / found.cases for one in found.classes}
    shown = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    if min(shares.values()) < RARE:
        return Setting("sampling.name", "repeat_factor", f"images with a rare class are drawn more; they hold: {shown}"), Setting(
            "sampling.threshold", RARE
        )
    return (Setting("sampling.name", "uniform", f"no class is rare: images that hold {shown}"),)
