"""Experiment settings: strict YAML in, frozen records, canonical YAML out.

A file may name one `base:` (relative to itself) and hold deviations only; `section.key=value` overrides come last. An unknown key, a wrong
type or an impossible pair is one ConfigError. What `auto` stands for is resolved once, when a run starts, and written to its config.yaml.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from medseg.errors import ConfigError
from medseg.yamlio import dump_yaml, first_problem, parse_value, read_yaml

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
PixelSize = Annotated[int, Field(ge=16, le=4096)]


class Section(BaseModel):
    """Shared rules: frozen, no unknown key, no infinity. Numbers may be written as YAML 1.1 misreads them (1e-3 is a text there)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        wants_truth = cls.model_fields[info.field_name].annotation is bool
        if wants_truth is not isinstance(value, bool) and (wants_truth or isinstance(value, bool)):
            raise ValueError("must be true or false" if wants_truth else "must not be true or false")
        return value


class DataConfig(Section):
    """Where the images are described and the grid the network sees (letterboxed: aspect kept, padding ignored)."""

    manifest: str
    split: str = "main"
    size_px: tuple[PixelSize, PixelSize] = Field((256, 256), description="height, width of the network's grid")
    cache: str = Field("cache", description="folder of decoded images; may be removed at any time")


class ModelConfig(Section):
    """The network. unet: MONAI's residual U-Net (Kerfoot et al. 2019)."""

    name: Literal["unet"] = "unet"
    channels: tuple[Count, ...] = (32, 64, 128, 256, 512)
    strides: tuple[Count, ...] = (2, 2, 2, 2)
    num_res_units: Annotated[int, Field(ge=0)] = 2
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _one_stride_less(self) -> ModelConfig:
        if len(self.channels) < 2:
            raise ValueError(f"a U-Net needs two levels or more, got channels {list(self.channels)}")
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(f"{len(self.channels)} channels need {len(self.channels) - 1} strides, got {len(self.strides)}")
        return self


class LossConfig(Section):
    """dice_ce: soft Dice + cross-entropy.  dice_focal: soft Dice + focal loss (Lin et al. 2017)."""

    name: Literal["dice_ce", "dice_focal"] = "dice_ce"
    dice_weight: Annotated[float, Field(ge=0)] = 1.0
    pixel_weight: Annotated[float, Field(ge=0, description="weight of the cross-entropy or focal term")] = 1.0
    gamma: Annotated[float, Field(ge=0)] | None = Field(None, description="focal only; 2.0 where not given")
    dice_over: Literal["batch", "image"] = Field("batch", description="sums of the Dice term over the whole batch, or image by image")
    include_background: bool = Field(False, description="whether the Dice term counts the background as a class")

    @model_validator(mode="after")
    def _gamma_is_focal(self) -> LossConfig:
        if self.gamma is not None and self.name != "dice_focal":
            raise ValueError(f"gamma belongs to dice_focal, the loss is {self.name}")
        if self.dice_weight + self.pixel_weight == 0:
            raise ValueError("dice_weight and pixel_weight are both 0")
        return self


class SamplingConfig(Section):
    """How often each training image is drawn; see medseg.data.sampling."""

    name: Literal["repeat_factor", "inverse_frequency", "uniform"] = "repeat_factor"
    threshold: Share = Field(0.5, description="repeat_factor: classes in a smaller share of the images than this are drawn more")
    draws_per_epoch: Count | None = Field(None, description="images drawn in an epoch; the number of training images where not given")


class AugmentConfig(Section):
    """Ranges of the random changes of a training image. 0 (or probability 0) switches one off."""

    flip_probability: Share = Field(0.5, description="left-right; named left-right pairs of classes are swapped")
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 20.0
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="zoom drawn log-uniformly in [1 - scale, 1 / (1 - scale)]")
    shift: Share = Field(0.1, description="share of the height and width")
    brightness: Share = 0.2
    contrast: Share = 0.2
    gamma: Share = 0.2
    saturation: Share = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(0.02, description="share of the colour circle")


class OptimConfig(Section):
    """AdamW (Loshchilov and Hutter 2019); linear warm-up, then cosine decay to `lr * final_lr_share`, counted in steps."""

    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    final_lr_share: Share = 0.0
    clip_norm: Positive | None = 1.0


class TrainConfig(Section):
    """Length, batch, precision and how often to look."""

    epochs: Count = 24
    batch_size: Count = 8
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validate_every: Count = Field(1, description="epochs")
    preview_every: Count = Field(5, description="epochs")


class InferConfig(Section):
    """Evaluation and prediction."""

    batch_size: Count = 8
    flip_tta: bool = Field(False, description="average the probabilities of the image and its mirror image")


class TrackingConfig(Section):
    """MLflow. The URI is MLFLOW_TRACKING_URI where set, else `uri`."""

    enabled: bool = True
    uri: str = "sqlite:///mlflow.db"


class Config(Section):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="the file's name where not given")]
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    infer: InferConfig = InferConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _grid_fits_the_network(self) -> Config:
        factor = math.prod(self.model.strides)
        if any(side % factor or side < 2 * factor for side in self.data.size_px):
            rule = f"must be divisible by {factor}, the product of model.strides, and at least twice that"
            raise ValueError(f"data.size_px {self.data.size_px} {rule}")
        return self

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

    The run is named after the file where no `name` is given.
    """
    content = _with_base(path, ())
    content.setdefault("name", path.stem)
    for override in overrides:
        _apply(content, override)
    return validate_config(content, path)


def validate_config(content: dict[str, Any], where: object) -> Config:
    """A Config from plain data; the first problem becomes a ConfigError that names the key."""
    try:
        return Config.model_validate(content)
    except ValidationError as cause:
        key, message = first_problem(cause)
        unknown = cause.errors()[0]["type"] == "extra_forbidden"
        raise ConfigError(where, f"{key}: {'there is no such key' if unknown else message}", _way_out(cause)) from None


def _way_out(cause: ValidationError) -> str:
    problem = cause.errors()[0]
    if problem["type"] != "extra_forbidden":
        return "correct the value (docs/experiments.md lists every key)"
    section: Any = Config
    for part in problem["loc"][:-1]:
        section = section.model_fields[part].annotation
    return f"the keys here are {', '.join(section.model_fields)}"


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(path, "its `base:` leads back to itself", "let bases form a line")
    content = read_yaml(path, ConfigError)
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError(path, f"base: must be one file name, got {base!r}", "write `base: base.yaml`")
    return _merge(_with_base(path.parent / base, (*seen, path.resolve())), content)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


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
    content[last] = value
