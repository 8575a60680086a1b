"""Experiment settings: strict YAML in, frozen records, canonical YAML out.

A file may name one `base:` (relative to itself) and hold deviations only; `section.key=value` overrides come last. An unknown key, a wrong
type or an impossible pair is one ConfigError. What `auto` stands for is resolved once, when a run starts, and written to its config.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from medseg.config.model import CLASS_OF, EVERY, IMPORT_PATH, ModelConfig, UnetConfig
from medseg.config.model import NetworkConfig as NetworkConfig  # what others take a network's settings as
from medseg.config.section import LEAST_PX, Count, PixelSize, Positive, Section, Share, section_of
from medseg.config.volume import Axis, PatchSide, VolumeConfig
from medseg.errors import ConfigError
from medseg.yamlio import dump_yaml, first_problem, parse_value, read_yaml, telling


class DataConfig(Section):
    """Where the images are described and the grid the network sees (letterboxed: aspect kept, padding ignored)."""

    manifest: str
    split: str = "main"
    fold: Annotated[int, Field(ge=0)] | None = Field(None, description="which fold of a split with folds is val, and the others train")
    size_px: tuple[PixelSize, PixelSize] = Field((256, 256), description="height, width of the network's grid; photographs")
    volume: VolumeConfig | None = Field(None, description="how volumes come onto the network's grid; `medseg plan` writes it")
    cache: str = Field("cache", description="folder of decoded images; may be removed at any time")
    cache_gib: Positive = Field(20.0, description="size of that folder up to which images not used the longest are kept")


LossName = Literal[
    "dice", "cross_entropy", "focal", "tversky", "focal_tversky", "unified_focal", "dice_ce", "dice_focal", "dice_topk"
]  # fmt: skip


class LossConfig(Section):
    """What is minimised: one of medseg.losses, or soft Dice and a pixel term together (dice_ce, dice_focal, dice_topk)."""

    name: LossName = "dice_ce"
    dice_weight: Annotated[float, Field(ge=0, description="of the Dice term where there are two")] = 1.0
    pixel_weight: Annotated[float, Field(ge=0, description="of the pixel term where there are two")] = 1.0
    gamma: Annotated[float, Field(ge=0)] | None = Field(
        None, description="exponent of a focal loss; where not given that of its paper: focal 2, focal_tversky 0.75, unified_focal 0.5"
    )
    class_weights: Literal["none", "median_frequency", "inverse_frequency"] = Field(
        "none", description="of the classes in a pixel term, from the training images' pixel counts; a list of own weights is not taken"
    )
    alpha: Share = Field(0.3, description="Tversky losses: weight of false positives")
    beta: Share = Field(0.7, description="Tversky losses: weight of false negatives")
    delta: Share = Field(0.6, description="unified_focal: weight of the foreground classes")
    topk_share: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="dice_topk: share of the pixels, the worst, that count")
    reduction: Literal["batch", "image"] = Field(
        "batch", description="sums of every term over the whole batch, or image by image, then the mean over the images"
    )
    include_background: bool = Field(False, description="whether a region term counts the background as a class")

    @model_validator(mode="after")
    def _only_what_the_loss_has(self) -> LossConfig:
        for key, losses in LOSS_KEYS.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.name not in losses:
                raise ValueError(f"{key} belongs to {', '.join(losses)}; the loss is {self.name}")
        return self

    @model_validator(mode="after")
    def _something_to_minimise(self) -> LossConfig:
        if self.dice_weight + self.pixel_weight == 0:
            raise ValueError("dice_weight and pixel_weight are both 0")
        if self.alpha + self.beta == 0:
            raise ValueError("alpha and beta are both 0")
        if self.class_weights != "none" and self.pixel_weight == 0:
            raise ValueError("class_weights are of the pixel term, and pixel_weight is 0")
        if self.name == "unified_focal" and self.gamma is not None and self.gamma >= 1:
            raise ValueError(f"gamma of unified_focal is in [0, 1), got {self.gamma:g}; the paper's is 0.5")
        if self.name == "focal_tversky" and self.gamma == 0:
            raise ValueError("focal_tversky to the power of 0 is 1 everywhere; the paper's gamma is 0.75, and 1 gives tversky")
        return self


_TWO_TERMS = ("dice_ce", "dice_focal", "dice_topk")
_TVERSKY = ("tversky", "focal_tversky")
LOSS_KEYS: dict[str, tuple[str, ...]] = {  # which losses read a key; a key that is not here, all of them
    "dice_weight": _TWO_TERMS, "pixel_weight": _TWO_TERMS, "alpha": _TVERSKY, "beta": _TVERSKY, "delta": ("unified_focal",),
    "gamma": ("focal", "dice_focal", "focal_tversky", "unified_focal"), "topk_share": ("dice_topk",),
    "class_weights": ("cross_entropy", "focal", "dice_ce", "dice_focal", "dice_topk"),
    "include_background": ("dice", *_TVERSKY, *_TWO_TERMS),
}  # fmt: skip


class SamplingConfig(Section):
    """How often each training image is drawn, and what is cut out of it; see medseg.data.sampling."""

    name: Literal["uniform", "repeat_factor", "square_root", "inverse_frequency", "effective_number"] = "repeat_factor"
    threshold: Share = Field(0.5, description="repeat_factor: classes in a smaller share of the images than this are drawn more")
    beta: Annotated[float, Field(ge=0, lt=1)] = Field(0.999, description="effective_number: 0 draws uniformly, near 1 by inverse frequency")
    draws_per_epoch: Count | None = Field(
        None, description="draws in an epoch; the number of training images where not given. A rest that fills no step is not drawn"
    )
    patch_px: tuple[PatchSide, ...] | None = Field(
        None,
        description="height, width of the crops the network learns from; whole images where not given. Of volumes: D, H, W, "
        "or H, W for a network of two dimensions that learns from slices across D",
    )
    centre_ratios: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="patches: class -> ratio of crops centred on it; `anywhere` for crops without a wish. All anywhere where not given"
    )

    @field_validator("patch_px")
    @classmethod
    def _two_or_three_sides(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(value) not in (2, 3):
            raise ValueError(f"a patch has two sides, of a volume three, got {list(value)}")
        if value is not None and len(value) == 2 and min(value) < LEAST_PX:
            raise ValueError(f"the sides should be {LEAST_PX} pixels or more, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _ratios_need_patches(self) -> SamplingConfig:
        if self.centre_ratios and self.patch_px is None:
            raise ValueError("centre_ratios are of patches: give patch_px too")
        if self.centre_ratios and not sum(self.centre_ratios.values()):
            raise ValueError("centre_ratios are all 0")
        return self


class AugmentConfig(Section):
    """Ranges of the random changes of a training image. 0 (or probability 0) switches one off.

    Volumes are turned (in their plane alone, where they are very anisotropic or shown as slices), zoomed, mirrored, blurred, changed in
    brightness, contrast and gamma, and given noise; the rest is of photographs.
    """

    flip_probability: Share = Field(0.5, description="of a mirror image; left-right pairs of classes that are named are then exchanged")
    flip_axes: tuple[Axis, ...] = Field(
        ("x",), description="volumes: along which axes of RAS, each by itself; x is left-right, the only one of photographs"
    )
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 20.0
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="zoom drawn log-uniformly in [1 - scale, 1 / (1 - scale)]")
    shift: Share = Field(0.1, description="share of the height and width")
    crop: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="largest share of the sides cut away, drawn uniformly, at a random place; the rest fills the frame"
    )
    elastic: Annotated[float, Field(ge=0, le=0.12)] = Field(  # beyond 0.122 the warp may fold: medseg.data.augment.geometry
        0.0, description="largest displacement of a smooth random warp, as a share of the frame's side"
    )
    brightness: Share = 0.2
    contrast: Share = 0.2
    gamma: Share = 0.2
    saturation: Share = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(0.02, description="share of the colour circle")
    noise: Annotated[float, Field(ge=0, le=0.5)] = Field(0.0, description="largest standard deviation of Gaussian noise, of a range of 1")
    blur_px: Annotated[float, Field(ge=0, le=10)] = Field(0.0, description="largest standard deviation of a Gaussian blur, pixels")
    cutout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="largest side of a rectangle painted black and ignored, as a share of the frame's sides"
    )
    probability: Share = Field(0.5, description="of each of crop, elastic, noise, blur and cut-out, where they are on")


class OptimConfig(Section):
    """The optimiser (AdamW: Loshchilov and Hutter 2019; SGD with Nesterov's momentum) and the course of its rate, counted in steps.

    The rate rises to `lr` linearly over the warm-up, then falls to `lr * final_lr_share`; see medseg.engine.optim.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    schedule: Literal["cosine", "polynomial", "one_cycle", "constant"] = "cosine"
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="of all steps; of one_cycle the share that rises")
    final_lr_share: Share = 0.0
    power: Positive = Field(0.9, description="polynomial: exponent of the share of steps to go")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="sgd")
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    head_lr_multiplier: Positive = Field(
        1.0, description="rate of the layers made afresh for the classes, as a multiple of `lr`; 10 is usual"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="rate of each of the encoder's stages as a share of that of the next; 1: all learn at one rate"
    )
    clip_norm: Positive | None = Field(1.0, description="largest norm of the gradients of all weights together; null: not clipped")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="validate and keep the exponential moving average of the weights, with this decay a step; 0.999 is usual"
    )

    @model_validator(mode="after")
    def _only_what_is_read(self) -> OptimConfig:
        for key, reader, chosen in (("power", "polynomial", self.schedule), ("momentum", "sgd", self.name)):
            if getattr(self, key) != type(self).model_fields[key].default and chosen != reader:
                raise ValueError(f"{key} belongs to {reader}; {chosen} is chosen")
        if self.schedule == "constant" and self.final_lr_share:
            raise ValueError("final_lr_share has no say in a constant schedule")
        return self


class TrainConfig(Section):
    """Length, batch, precision and how often to look."""

    epochs: Count = 24
    batch_size: Count = Field(8, description="images of a batch, of all processes together")
    accumulate: Count = Field(1, description="batches whose gradients make one optimiser step")
    patience: Count | None = Field(None, description="stop after so many validations in a row without a better val score; null: never")
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = Field(False, description="kernels that repeat to the bit on a GPU too; slower, and some networks have none")
    compile: Literal["auto", "always", "never"] = Field("auto", description="torch.compile; auto: where the steps to come repay it")
    channels_last: bool = Field(True, description="memory format of images and weights; only the speed depends on it")
    prefetch: Annotated[int, Field(ge=0, le=16)] = Field(2, description="batches made ready beside the computation; 0: none")
    validate_every: Count = Field(1, description="epochs")
    preview_every: Count = Field(5, description="epochs")
    checkpoint_minutes: Positive = Field(10.0, description="longest time within an epoch after which training can be resumed")


class InferConfig(Section):
    """Evaluation and prediction."""

    batch_size: Count = Field(8, description="images at once; of volumes windows")
    flip_tta: bool = Field(False, description="average the probabilities of the image and its mirror image")
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="of the windows, as a share of their sides; windows are used where sampling.patch_px is given, and have its size"
    )


class TrackingConfig(Section):
    """MLflow. The URI is MLFLOW_TRACKING_URI where set, else `uri`."""

    enabled: bool = True
    uri: str = "sqlite:///mlflow.db"


class Config(Section):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="the file's name where not given")]
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig
    model: ModelConfig = UnetConfig()
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    infer: InferConfig = InferConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _an_epoch_holds_a_batch(self) -> Config:
        draws, step = self.sampling.draws_per_epoch, self.images_per_step
        if draws is not None and draws < step:  # a number that is written down is not overruled; a small training set just fills a step
            what = "train.batch_size" if self.train.accumulate == 1 else "train.batch_size x train.accumulate"
            rule = f"is less than {what} {step}: an epoch is whole optimiser steps, at least one"
            raise ValueError(f"sampling.draws_per_epoch {draws} {rule}; raise it, or lower train.batch_size")
        return self

    @property
    def images_per_step(self) -> int:
        """Images that one optimiser step learns from."""
        return self.train.batch_size * self.train.accumulate

    def steps_per_epoch(self, images: int) -> int:
        """Optimiser steps an epoch of a training set of so many images: whole ones only, at least one."""
        return max(1, (self.sampling.draws_per_epoch or images) // self.images_per_step)

    def to_yaml(self) -> str:
        """The canonical text: every key, in the order of this file."""
        return dump_yaml(self.model_dump(mode="json"))

    def flat(self) -> dict[str, str]:
        """Dotted keys to printed values, as MLflow's params take them."""
        return dict(_flatten(self.model_dump(mode="json"), ""))


def _flatten(content: dict[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read an experiment, its base and the overrides; raises ConfigError.

    The run is named after the file (and the network, where an override names it) where no `name` is given.
    """
    content = reduce(_merge, reversed([layer for _, layer in _layers(path)]))
    overrides = list(overrides)
    content.setdefault("name", _default_name(path, overrides))
    for override in sorted(overrides, key=lambda text: text.partition("=")[0].strip() != "model.name"):  # it empties its section
        _apply(content, override)
    return validate_config(content, path, {override.partition("=")[0].strip(): override for override in overrides})


def _default_name(path: Path, overrides: Iterable[str]) -> str:
    """The file's, and the network's where the command line names one: runs of several networks must be told apart."""
    pairs = dict(override.split("=", 1) for override in overrides if "=" in override)
    network = re.sub(r"[^\w.-]+", "-", pairs.get("model.name", "")).strip("-")
    return f"{path.stem}-{network}" if network else path.stem


def read_config(path: Path) -> Config:
    """The config.yaml of a run folder, which is whole in itself; raises ConfigError."""
    return validate_config(read_yaml(path, ConfigError), path)


def validate_config(content: dict[str, Any], where: object, overrides: Mapping[str, str] | None = None) -> Config:
    """A Config from plain data; the first problem becomes a ConfigError that names the key, and the override that gave it."""
    try:
        return Config.model_validate(content)
    except ValidationError as cause:
        problem = telling(cause)
        key, message = first_problem(cause)
        key = ".".join(part for part in key.split(".") if part not in _TAGS)
        if problem["type"] == "network":
            given = problem["input"].get("name") if isinstance(problem["input"], dict) else None
            key = "model" if given is None else "model.name"
            said = "" if key in (overrides or {}) else f"; got {given!r}"  # an override is quoted before it
            message = NO_SECTION if given is None else f"{message}{said}"
        unknown = problem["type"] == "extra_forbidden"
        raise ConfigError(
            _whence(key, where, overrides or {}), f"{key}: {'there is no such key' if unknown else message}", _way_out(problem)
        ) from None


def _whence(key: str, where: object, overrides: Mapping[str, str]) -> object:
    """The override that gave a key or what holds it, else the file, and the overrides of what it holds: a rule may be of several keys."""
    if above := [name for name in overrides if f"{key}.".startswith(f"{name}.")]:
        return overrides[max(above, key=len)]
    below = [text for name, text in overrides.items() if name.startswith(f"{key}.")]
    return f"{where} (overridden: {' '.join(below)})" if below else where


_MANIFESTS = ("num_classes", "classes", "in_channels")  # what other libraries want to be told of a network
NO_SECTION = "must be a section with the key name, as in model.name=unet"
_TAGS = {network.__name__: network for network in EVERY}


def _way_out(problem: Mapping[str, Any]) -> str:
    """What to write instead: a name that looks like the one given, whose a key is, or the keys there are."""
    if problem["type"] == "network":
        given = problem["input"].get("name") if isinstance(problem["input"], dict) else None
        if near := names_like(str(given)):
            return f"did you mean {' or '.join(near)}?"
    if problem["type"] == "tuple_type":
        return f"write a list, as in [{problem['input']}]"
    if problem["type"] == "extra_forbidden" and problem["loc"][-1] in _MANIFESTS:
        return "leave it out: that is the manifest's to say"
    if problem["type"] != "extra_forbidden":
        return f"{'write it' if problem['type'] == 'missing' else 'correct the value'} (docs/experiments.md lists every key)"
    section: Any = Config
    for part in problem["loc"][:-1]:
        if not isinstance(part, int):  # of a list each entry is a section
            section = _TAGS[part] if part in _TAGS else section_of(section.model_fields[part].annotation)
    key = str(problem["loc"][-1])
    if near := get_close_matches(key, section.model_fields, 1):
        return f"did you mean {near[0]}? The keys here are {', '.join(section.model_fields)}"
    owners = [name for name, network in CLASS_OF.items() if section in EVERY and key in network.model_fields]
    whose = f"it is of {', '.join(owners)}; " if owners else ""
    return f"{whose}the keys here are {', '.join(section.model_fields)}"


def network_names(path: Path) -> list[tuple[Path, str]]:
    """The network that an experiment, its base, the base of that name, each where it names one; raises ConfigError."""
    named = ((file, layer["model"].get("name")) for file, layer in _layers(path) if isinstance(layer.get("model"), dict))
    return [(file, name) for file, name in named if isinstance(name, str)]


def names_like(given: str) -> list[str]:
    """Names of networks that somebody may have meant, at most three.

    >>> names_like("maskrcnn"), names_like("UNet"), names_like("smp:unet"), names_like("nets/mine.py:Net"), names_like("nonsense")
    (['maskrcnn_resnet50_fpn', 'maskrcnn_resnet50_fpn_v2'], ['unet', 'unetplusplus', 'unetr'], ['smp:unet/resnet34'], ['nets.mine:Net'], [])
    """
    if given.startswith("smp:"):
        return ["smp:unet/resnet34"]
    if ":" in given:
        path = given.replace("/", ".").replace(".py:", ":")
        return [path] if path != given and given.partition(":")[0].endswith(".py") and IMPORT_PATH.fullmatch(path) else []
    small = given.lower()
    longer = [name for name in CLASS_OF if small and name.startswith(small)]
    return list(dict.fromkeys([*longer, *get_close_matches(small, CLASS_OF, 3)]))[:3]


def _layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Each file with what it says itself, the experiment first."""
    layers: list[tuple[Path, dict[str, Any]]] = []
    below: Path | None = path
    while below is not None:
        if below.resolve() in (file.resolve() for file, _ in layers):
            raise ConfigError(below, "its `base:` leads back to itself", "let bases form a line")
        content = read_yaml(below, ConfigError)
        base = content.pop("base", None)
        if not isinstance(base, str | None):
            raise ConfigError(below, f"base: must be one file name, got {base!r}", "write `base: base.yaml`")
        layers.append((below, content))
        below = None if base is None else below.parent / base
    return layers


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Deviations laid over what is below; another network's section is taken whole, since the settings of one are not the other's."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if key == "model" and _names_another(inner, value):
            inner = {}
        merged[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _names_another(below: Any, above: Any) -> bool:
    return isinstance(below, dict) and isinstance(above, dict) and above.get("name", below.get("name", "unet")) != below.get("name", "unet")


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(override, "an override is written section.key=value", "for example optim.lr=0.001")
    try:
        value = parse_value(text)
    except (yaml.YAMLError, ValueError, TypeError):
        raise ConfigError(
            override, "the value is not valid YAML", "quote it for the shell, for example 'data.size_px=[256, 256]'"
        ) from None
    *sections, last = key.strip().split(".")
    for section in sections:
        inner = content.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(override, f"{section} is not a section", "see docs/experiments.md for the keys")
        content = inner
    if key.strip() == "model.name" and _names_another(content, {"name": value}):
        content.clear()
    content[last] = value
