"""The section `model`: one record a network, chosen by `name`. Which library builds a network is told here (`family`), how is told in
medseg.models.families; no deep-learning library is imported."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from medseg.config.section import Count, Positive, Section, Share

Features = tuple[Count, Count, Count, Count, Count, Count]
ENCODERS = re.compile(r"smp:\w+/[\w.-]+")
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class NetworkConfig(Section):
    """What the settings of every network have in common. `medseg zoo` lists the networks."""

    family: ClassVar[str]  # the module of medseg.models.families that builds it
    dims: ClassVar[tuple[int, ...]] = (2,)  # of the images it can be built for
    objects: ClassVar[bool] = False  # whether it learns from separate objects instead of a class mask
    own_losses: ClassVar[bool] = False  # whether it trains by losses of its own, and the section `loss` is not read
    runs_code: ClassVar[bool] = False  # whether the name is an import path: code of anybody's
    compiles: ClassVar[bool] = True  # whether torch.compile can make one program of it and its loss
    name: str = Field(description="which network; `unet` where the section names none")
    weights: str | None = Field(
        None,
        description="what training starts from: torchvision:DEFAULT, torchvision:BACKBONE, monai:DEFAULT, smp:imagenet, hf:OWNER/NAME, "
        "file:PATH, run:ID",
    )
    first_conv: Literal["mean", "repeat"] = Field(
        "mean", description="weights of another number of input channels: their mean over the channels, or the channels in turn"
    )
    freeze: Literal["none", "encoder"] = Field("none", description="what is left as it started")
    freeze_epochs: Count | None = Field(None, description="for how many epochs at the start; null: for all")
    batch_norm: Literal["train", "frozen"] = Field(
        "train", description="frozen: the encoder's batch norms keep the mean and deviation of the weights they started from"
    )
    mean: tuple[float, ...] | None = Field(
        None, description="of each channel, in [0, 1], taken from the image; null: the one of the weights, 0.5 from scratch"
    )
    deviation: tuple[Positive, ...] | None = Field(
        None, description="by which each channel is then divided; null: the one of the weights, 0.25 from scratch"
    )

    @model_validator(mode="after")
    def _only_what_is_read(self) -> NetworkConfig:
        if self.freeze_epochs is not None and self.freeze == "none":
            raise ValueError("freeze_epochs is of freeze: encoder")
        if (self.mean is None) is not (self.deviation is None):
            raise ValueError("mean and deviation are given together")
        if self.mean is not None and self.deviation is not None and len(self.mean) != len(self.deviation):
            raise ValueError("mean and deviation need one number a channel each")
        if self.mean is not None and len(self.mean) not in (1, 3):
            raise ValueError(f"mean and deviation are one number, or one of each of the three channels, got {len(self.mean)}")
        return self


# --- MONAI


class UnetConfig(NetworkConfig):
    """MONAI's residual U-Net (Kerfoot et al. 2019); a convolutional one with num_res_units 0."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["unet"] = "unet"
    channels: tuple[Count, ...] = (32, 64, 128, 256, 512)
    strides: tuple[Count, ...] = (2, 2, 2, 2)
    num_res_units: Annotated[int, Field(ge=0)] = 2
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _levels(self) -> UnetConfig:
        _check_levels(self.channels, self.strides)
        return self


class AttentionUnetConfig(NetworkConfig):
    """U-Net with attention gates (Oktay et al. 2018), MONAI's."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["attention_unet"]
    channels: tuple[Count, ...] = (32, 64, 128, 256, 512)
    strides: tuple[Count, ...] = (2, 2, 2, 2)
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _levels(self) -> AttentionUnetConfig:
        _check_levels(self.channels, self.strides)
        return self


def _check_levels(channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    if len(channels) < 2:
        raise ValueError(f"a U-Net needs two levels or more, got channels {list(channels)}")
    if len(strides) != len(channels) - 1:
        raise ValueError(f"{len(channels)} channels need {len(channels) - 1} strides, got {len(strides)}")


class BasicUnetConfig(NetworkConfig):
    """MONAI's plain U-Net (Falk et al. 2019). features: of five levels, and of the last upsampling."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["basic_unet"]
    features: Features = (32, 32, 64, 128, 256, 32)
    dropout: Share = 0.0


class UnetPlusPlusConfig(NetworkConfig):
    """U-Net++ (Zhou et al. 2018), MONAI's. deep_supervision: of its four outputs, with equal weights."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["unetplusplus"]
    features: Features = (32, 32, 64, 128, 256, 32)
    deep_supervision: bool = False
    dropout: Share = 0.0


class DynUnetConfig(NetworkConfig):
    """nnU-Net's network (Isensee et al. 2021), MONAI's DynUNet, by nnU-Net's plan: as many levels as the images allow."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["dynunet"]
    channels: tuple[Count, ...] | None = Field(
        None, description="of each level; null: 32, 64, ... up to 512 (320 of volumes), down to 4 pixels"
    )
    strides: tuple[Literal[1, 2] | tuple[Literal[1, 2], ...], ...] | None = Field(
        None, description="of each level after the first, one number or one an axis (D, H, W); null: 2 as long as 4 pixels stay"
    )
    kernels: tuple[Literal[1, 3, 5, 7] | tuple[Literal[1, 3, 5, 7], ...], ...] | None = Field(
        None, description="of the convolutions of each level, one number or one an axis, such as [1, 3, 3] of thick slices; null: 3"
    )
    residual: bool = False
    deep_supervision: bool = True
    dropout: Share = 0.0

    @field_validator("channels", "strides", "kernels")
    @classmethod
    def _enough(cls, value: tuple[Any, ...] | None, info: ValidationInfo) -> tuple[Any, ...] | None:
        if value is not None and len(value) + (info.field_name == "strides") < 3:
            raise ValueError(f"the network needs three levels or more, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _levels_agree(self) -> DynUnetConfig:
        told = {"channels": self.channels, "strides": self.strides and (1, *self.strides), "kernels": self.kernels}
        numbers = {name: len(value) for name, value in told.items() if value is not None}
        if len(set(numbers.values())) > 1:
            raise ValueError(f"channels and kernels have one entry a level, strides one less; they tell of {numbers} levels")
        return self


class FlexibleUnetConfig(NetworkConfig):
    """U-Net decoder on an EfficientNet or ResNet encoder, MONAI's FlexibleUNet."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["flexible_unet"]
    encoder: Annotated[str, Field(pattern=r"^(efficientnet-(b[0-8]|l2)|resnet(10|18|34|50|101|152|200))$")] = "efficientnet-b0"
    decoder_channels: tuple[Count, Count, Count, Count, Count] = (256, 128, 64, 32, 16)
    dropout: Share = 0.0


class SegResNetConfig(NetworkConfig):
    """SegResNet (Myronenko 2018), MONAI's, without its autoencoder branch."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["segresnet"]
    init_filters: Annotated[int, Field(ge=8, multiple_of=8, description="a multiple of the 8 groups of its norm")] = 16
    blocks_down: tuple[Count, ...] = (1, 2, 2, 4)
    blocks_up: tuple[Count, ...] = (1, 1, 1)
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _one_up_less(self) -> SegResNetConfig:
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError(f"{len(self.blocks_down)} blocks_down need {len(self.blocks_down) - 1} blocks_up, got {len(self.blocks_up)}")
        return self


class UnetrConfig(NetworkConfig):
    """UNETR (Hatamizadeh et al. 2022), MONAI's: a vision transformer of 12 layers on patches of 16 pixels. Of one grid only."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["unetr"]
    feature_size: Count = 16
    hidden_size: Count = 768
    mlp_dim: Count = 3072
    num_heads: Count = 12
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _heads_share(self) -> UnetrConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        return self


class SwinUnetrConfig(NetworkConfig):
    """Swin UNETR (Hatamizadeh et al. 2022), MONAI's."""

    family: ClassVar[str] = "monai"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["swin_unetr"]
    feature_size: Annotated[int, Field(ge=12, multiple_of=12)] = 24
    depths: tuple[Count, Count, Count, Count] = (2, 2, 2, 2)
    num_heads: tuple[Count, Count, Count, Count] = (3, 6, 12, 24)
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _heads_share(self) -> SwinUnetrConfig:
        for stage, heads in enumerate(self.num_heads):
            if (width := self.feature_size * 2**stage) % heads:
                raise ValueError(f"stage {stage + 1} has {width} features, which its num_heads {heads} do not divide")
        return self


# --- torchvision


class TorchvisionConfig(NetworkConfig):
    """torchvision's FCN (Long et al. 2015) and DeepLabV3 (Chen et al. 2017)."""

    family: ClassVar[str] = "torchvision"
    name: Literal["fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large"]
    auxiliary_weight: Share = Field(
        0.5, description="of the auxiliary head's loss, as in torchvision's reference training; 0: no such head"
    )


class LrasppConfig(NetworkConfig):
    """torchvision's LR-ASPP (Howard et al. 2019). It has no auxiliary head."""

    family: ClassVar[str] = "torchvision"
    name: Literal["lraspp_mobilenet_v3_large"]

    @model_validator(mode="before")
    @classmethod
    def _of_old(cls, content: Any) -> Any:
        """Without a key that config.yaml of older runs has, and that nothing ever read."""
        if isinstance(content, dict) and content.get("auxiliary_weight") == TorchvisionConfig.model_fields["auxiliary_weight"].default:
            return {key: value for key, value in content.items() if key != "auxiliary_weight"}
        return content


class FcnResnet18Config(NetworkConfig):
    """The textbook FCN (Long et al. 2015; Dive into Deep Learning 14.11): ResNet-18, a 1 x 1 and a transposed convolution of stride 32."""

    family: ClassVar[str] = "textbook"
    name: Literal["fcn_resnet18"]


# --- Hugging Face


class HuggingFaceConfig(NetworkConfig):
    """What the networks of Hugging Face's transformers have in common."""

    family: ClassVar[str] = "huggingface"
    architecture: dict[str, Any] = Field({}, description="keys of the library's own configuration; those of `hf:` weights where not given")


class DptConfig(HuggingFaceConfig):
    """DPT (Ranftl et al. 2021): a vision transformer read at four depths."""

    name: Literal["dpt"]
    auxiliary_weight: Share = Field(0.4, description="of the auxiliary head's loss; 0: no such head")


class SegformerConfig(HuggingFaceConfig):
    """SegFormer (Xie et al. 2021); from scratch its smallest, MiT-B0."""

    name: Literal["segformer"]


class Mask2FormerConfig(HuggingFaceConfig):
    """Mask2Former (Cheng et al. 2022) on a Swin encoder. It trains by its own losses: the section `loss` is not read."""

    own_losses: ClassVar[bool] = True
    compiles: ClassVar[bool] = False
    name: Literal["mask2former"]


# --- objects


class MaskRcnnConfig(NetworkConfig):
    """torchvision's Mask R-CNN (He et al. 2017; v2: Li et al. 2021). It trains by its own losses: the section `loss` is not read."""

    family: ClassVar[str] = "maskrcnn"
    objects: ClassVar[bool] = True
    own_losses: ClassVar[bool] = True
    compiles: ClassVar[bool] = False
    name: Literal["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"]
    instances: Literal["components", "annotated"] = Field(
        "components", description="what an object is: a connected component of a class, or a shape as it was annotated"
    )
    score_threshold: Share = Field(0.5, description="objects with a lower score are not painted into the class mask")
    trainable_layers: Annotated[int, Field(ge=0, le=5)] = Field(
        5, description="of the encoder's five, from the last; the weights of the others are fixed"
    )
    roi_samples: Count = Field(
        512,
        description="regions of an image that its heads learn from at once; with small images most of the time goes there: 64 is fast",
    )
    anchor_sizes: tuple[Positive, Positive, Positive, Positive, Positive] | None = Field(
        None, description="pixels, finest level first; null: torchvision's 32 to 512, as much smaller as the shorter side is than 800"
    )


# --- by a name of several parts


class SmpConfig(NetworkConfig):
    """segmentation_models.pytorch (Iakubovskii 2019): smp:<architecture>/<encoder>, for example smp:unet/resnet34."""

    family: ClassVar[str] = "smp"
    name: Annotated[str, Field(pattern=ENCODERS.pattern)]
    arguments: dict[str, Any] = Field({}, description="further arguments of the library's architecture")

    @property
    def architecture(self) -> str:
        """The part before the slash."""
        return self.name.removeprefix("smp:").partition("/")[0]

    @property
    def encoder(self) -> str:
        """The part after the slash."""
        return self.name.partition("/")[2]


class OwnConfig(NetworkConfig):
    """A network of your own: package.module:Name of a class or function that takes num_classes and gives a torch module."""

    family: ClassVar[str] = "own"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    runs_code: ClassVar[bool] = True
    compiles: ClassVar[bool] = False
    name: Annotated[str, Field(pattern=IMPORT_PATH.pattern)]
    arguments: dict[str, Any] = Field({}, description="further arguments of it")
    head: tuple[str, ...] = Field((), description="modules that are made afresh for other classes, for optim.head_lr_multiplier")
    encoder: tuple[str, ...] = Field((), description="modules from the image on, for freeze and optim.layer_decay")


NETWORKS: tuple[type[NetworkConfig], ...] = (
    UnetConfig, BasicUnetConfig, DynUnetConfig, AttentionUnetConfig, UnetPlusPlusConfig, FlexibleUnetConfig, SegResNetConfig, UnetrConfig,
    SwinUnetrConfig, TorchvisionConfig, LrasppConfig, FcnResnet18Config, DptConfig, SegformerConfig, Mask2FormerConfig, MaskRcnnConfig,
)  # fmt: skip


def names_of(network: type[NetworkConfig]) -> tuple[str, ...]:
    """The names that choose it; none of one that is chosen by a name of several parts."""
    annotation = network.model_fields["name"].annotation
    return tuple(getattr(annotation, "__args__", ()))


CLASS_OF = {name: network for network in NETWORKS for name in names_of(network)}
UNKNOWN = "there is no such network; `medseg zoo` lists them, and your own is named package.module:Name"


def _tag(value: Any) -> str | None:
    if isinstance(value, NetworkConfig):
        return type(value).__name__
    name = value.get("name", "unet") if isinstance(value, dict) else None
    if not isinstance(name, str):
        return None
    if name.startswith("smp:"):
        return SmpConfig.__name__ if ENCODERS.fullmatch(name) else None
    if IMPORT_PATH.fullmatch(name):
        return OwnConfig.__name__
    return CLASS_OF[name].__name__ if name in CLASS_OF else None


ModelConfig = Annotated[
    Annotated[UnetConfig, Tag("UnetConfig")]
    | Annotated[BasicUnetConfig, Tag("BasicUnetConfig")]
    | Annotated[DynUnetConfig, Tag("DynUnetConfig")]
    | Annotated[AttentionUnetConfig, Tag("AttentionUnetConfig")]
    | Annotated[UnetPlusPlusConfig, Tag("UnetPlusPlusConfig")]
    | Annotated[FlexibleUnetConfig, Tag("FlexibleUnetConfig")]
    | Annotated[SegResNetConfig, Tag("SegResNetConfig")]
    | Annotated[UnetrConfig, Tag("UnetrConfig")]
    | Annotated[SwinUnetrConfig, Tag("SwinUnetrConfig")]
    | Annotated[TorchvisionConfig, Tag("TorchvisionConfig")]
    | Annotated[LrasppConfig, Tag("LrasppConfig")]
    | Annotated[FcnResnet18Config, Tag("FcnResnet18Config")]
    | Annotated[DptConfig, Tag("DptConfig")]
    | Annotated[SegformerConfig, Tag("SegformerConfig")]
    | Annotated[Mask2FormerConfig, Tag("Mask2FormerConfig")]
    | Annotated[MaskRcnnConfig, Tag("MaskRcnnConfig")]
    | Annotated[SmpConfig, Tag("SmpConfig")]
    | Annotated[OwnConfig, Tag("OwnConfig")],
    Discriminator(_tag, custom_error_type="network", custom_error_message=UNKNOWN),
]
EVERY: tuple[type[NetworkConfig], ...] = (*NETWORKS, SmpConfig, OwnConfig)
