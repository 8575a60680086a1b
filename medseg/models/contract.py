"""The contract every network keeps, after torchvision's detection models: one `forward`, losses in train mode, a Prediction in eval mode.

Legend: B batch, C channels, K classes, S one, two or three axes of space (H W, or D H W), h w a coarser grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from medseg.types import Batch, Loss, Losses, Prediction

MEAN, DEVIATION = 0.5, 0.25  # of a channel in [0, 1]; brings photographs to about zero mean and unit deviation
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Task:
    """What a network is built for. grid: (H, W) or (D, H, W) of what it learns from.  num_classes: the background included.

    ignore_id: of the masks, pixels that nothing is learned from.  normalised: the images come normalised, as volumes do, each by its own
    numbers; else the network takes them in [0, 1] and normalises them itself.  trains: it is built to learn, not to load a
    checkpoint.  autocast: it learns in bfloat16 on a processor.
    """

    num_classes: int
    grid: tuple[int, ...]
    in_channels: int = 3
    ignore_id: int = 255
    normalised: bool = False
    trains: bool = True
    autocast: bool = False

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.grid)


class Heads(NamedTuple):
    """What a network says in one pass; logits of any resolution, which the adapter brings to the image's.

    out: (B, K, S).  levels: of deep supervision, on falling resolution, the loss of which is shared by `losses.make.level_shares`.
    auxiliary: name -> (weight of its loss, logits); a head that is there to train the encoder.
    """

    out: Tensor
    levels: tuple[Tensor, ...] = ()
    auxiliary: Mapping[str, tuple[float, Tensor]] = {}


def plain_call(net: nn.Module, image_BCHW: Tensor) -> Heads:
    """Of a module that takes an image and gives logits."""
    return Heads(net(image_BCHW))


@dataclass(frozen=True)
class Network:
    """A library's module, with what an adapter must know of it. Names of parts are those of `net`'s submodules.

    call: net, normalised image (B, C, S) -> Heads; looks at `net.training` where a net has more heads in training.
    divisor: the sides of what it takes are multiples of it; the adapter pads.  least: the smallest side.  grid: where it takes one size
    only; the adapter scales to it and back.  least_batch: images that training needs in a batch (a batch norm of one value cannot train).
    head: what depends on the classes, and is made afresh for others.  encoder: its stages from the image on, for freezing and layer decay.
    first_conv: the layer that takes the image, for weights of another number of channels.  settled: buffers that the settings fill, and no
    weights.  adapter: what makes it keep the contract.
    chosen: what settings became that were left open (null), for the record.
    """

    net: nn.Module
    call: Callable[[nn.Module, Tensor], Heads] = plain_call
    divisor: int | tuple[int, ...] = 1
    least: int | tuple[int, ...] = 1
    grid: tuple[int, ...] | None = None
    least_batch: int = 1
    head: tuple[str, ...] = ()
    encoder: tuple[tuple[str, ...], ...] = ()
    first_conv: str | None = None
    settled: tuple[str, ...] = ()
    adapter: type[Adapter] | None = None  # SemanticNetwork where not given
    chosen: Mapping[str, Any] = field(default_factory=dict)


class Adapter(nn.Module):
    """What build.py hands to the engine. `net` is the library's module: the state dict is its own, below `net.`.

    A family whose networks bring losses or results of their own derives `_loss_terms` and `_predict`; the loss is injected and has no
    parameters. One that only predicts has none.  mean, deviation: of each channel, or one for all.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        loss: Loss | None = None,
        mean: tuple[float, ...] = (MEAN,),
        deviation: tuple[float, ...] = (DEVIATION,),
    ):
        super().__init__()
        self.net, self.network, self.task, self.loss = network.net, network, task, loss
        ones = (1,) * task.spatial_dims
        self.mean_C: Tensor
        self.deviation_C: Tensor
        self.register_buffer("mean_C", torch.tensor(mean).view(-1, *ones), persistent=False)
        self.register_buffer("deviation_C", torch.tensor(deviation).view(-1, *ones), persistent=False)
        self.norms_held = False
        self._encoder_held = False
        self._unused = {name for name, parameter in network.net.named_parameters() if not parameter.requires_grad}
        self._terms = self._loss_terms

    def forward(self, inputs: Batch | Tensor) -> Losses | Prediction:
        """A Batch in train mode gives Losses; image_BCHW in [0, 1] in eval mode gives a Prediction, on the image's own grid."""
        if self.training:
            assert isinstance(inputs, Batch), "in train mode the network takes a Batch"
            return Losses(self._terms(inputs.image_BCHW, inputs.mask_BHW, inputs.objects_BHW))
        assert isinstance(inputs, Tensor), "in eval mode the network takes image_BCHW"
        return self._predict(inputs)

    def compile_training(self) -> None:
        """Have torch.compile make one program of network and loss, at the first training batch; evaluation stays eager.

        Not of `forward`: a batch's sample ids are texts, each new one of which would have it compiled again.
        """
        self._terms = self._compile_terms

    def _compile_terms(self, image_BCHW: Tensor, mask_BHW: Tensor, objects_BHW: Tensor | None) -> dict[str, Tensor]:
        self._terms = torch.compile(self._loss_terms, dynamic=False)  # only now: the compiler takes seconds to import
        return self._terms(image_BCHW, mask_BHW, objects_BHW)

    def _loss_terms(self, image_BCHW: Tensor, mask_BHW: Tensor, objects_BHW: Tensor | None) -> dict[str, Tensor]:
        """The named, weighted terms of a batch. Overridden by networks with losses of their own."""
        raise NotImplementedError

    def _predict(self, image_BCHW: Tensor) -> Prediction:
        """Overridden by every adapter."""
        raise NotImplementedError

    def _normalised(self, image_BCHW: Tensor) -> Tensor:
        return (image_BCHW - self.mean_C) / self.deviation_C

    # --- fine-tuning

    def hold_encoder(self, held: bool) -> None:
        """Leave the encoder as it is, its batch norms' running values included, or let it learn (again)."""
        self._encoder_held = held
        for name, parameter in self.net.named_parameters():
            if self.stage_of(name) is not None and name not in self._unused:
                parameter.requires_grad_(not held)
        self.train(self.training)

    def train(self, mode: bool = True) -> Adapter:
        """As torch's, but for batch norms that are held."""
        super().train(mode)
        if mode and (self.norms_held or self._encoder_held):
            for name, module in self.net.named_modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and self.stage_of(name) is not None:
                    module.eval()
        return self

    def stage_of(self, name: str) -> int | None:
        """The encoder's stage, from 0, that a parameter or submodule of `net` is in; None for one of the decoder or head."""
        return next((place for place, parts in enumerate(self.network.encoder) if is_below(name, parts)), None)

    def learning_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names, as `net` has them, and weights that training changes, the encoder's also while it is held."""
        return ((name, parameter) for name, parameter in self.net.named_parameters() if name not in self._unused)


def retire(net: nn.Module, *parts: str) -> None:
    """Parts that a library makes and nothing reads: no training changes them, and no process waits for their gradients."""
    for name, parameter in net.named_parameters():
        if is_below(name, parts):
            parameter.requires_grad_(False)


def is_below(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of these parts, or inside one.

    >>> is_below("head.4.weight", ("head.4",)), is_below("head.40.weight", ("head.4",))
    (True, False)
    """
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def not_finite(values: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> str | None:
    """The first tensor that has an infinity or NaN, and had none before: a mask of attention may be made of them.

    >>> not_finite({"weight": torch.tensor([1.0, torch.nan])}, {"weight": torch.zeros(2)})
    'weight'
    """
    odd = (name for name, value in values.items() if not torch.isfinite(value).all())
    return next((name for name in odd if torch.isfinite(before[name]).all()), None)


class SemanticNetwork(Adapter):
    """A network of per-pixel logits: image_BCHW in [0, 1] -> float32 probabilities of the same H and W."""

    def _loss_terms(self, image_BCHW: Tensor, mask_BHW: Tensor, objects_BHW: Tensor | None) -> dict[str, Tensor]:
        assert self.loss is not None, "this network was built to predict"
        image, mask = self._fitted(self._normalised(image_BCHW)), mask_BHW
        if self.network.grid is None:  # a grid of its own is scaled to, and back
            mask = padded(mask_BHW, tuple(image.shape[2:]), self.task.ignore_id)
        heads = self.network.call(self.net, image)
        out = resized(heads.out, tuple(mask.shape[1:]))
        terms = self.loss([out, *heads.levels] if heads.levels else out, mask)
        for name, (weight, logits) in heads.auxiliary.items():
            of_head = self.loss(resized(logits, tuple(mask.shape[1:])), mask)
            terms |= {f"{name}_{term}": weight * value for term, value in of_head.items()}
        return terms

    def _predict(self, image_BCHW: Tensor) -> Prediction:
        probs = torch.softmax(self.logits(image_BCHW).float(), dim=1)
        return Prediction(probs, probs.argmax(dim=1))

    def logits(self, image_BCHW: Tensor) -> Tensor:
        """(B, K, S) on the image's own grid."""
        size = tuple(image_BCHW.shape[2:])
        image = self._fitted(self._normalised(image_BCHW))
        out = self.network.call(self.net, image).out
        if self.network.grid is not None:
            return resized(out, size)
        out = resized(out, tuple(image.shape[2:]))
        if not any(_may_differ(*each) for each in zip(out.shape[2:], size, strict=True)):
            return out
        return out[(slice(None), slice(None), *(slice(side) for side in size))]

    def _fitted(self, image_BCHW: Tensor) -> Tensor:
        """On a grid that the network takes: scaled to its own, or padded with the mean at the right and below."""
        network = self.network
        if network.grid is not None:
            return resized(image_BCHW, network.grid)
        return padded(image_BCHW, fitting(tuple(image_BCHW.shape[2:]), network.divisor, network.least), 0.0)


def fitting(size: tuple[int, ...], divisor: int | tuple[int, ...], least: int | tuple[int, ...]) -> tuple[int, ...]:
    """The smallest sides that hold these, are multiples of the divisor, and no smaller than the least; one number an axis, or one for all.

    >>> fitting((30, 70), 32, 64), fitting((20, 70), (4, 64), (8, 128))
    ((64, 96), (20, 128))
    """
    divisors, smallest = (each if isinstance(each, tuple) else (each,) * len(size) for each in (divisor, least))
    # upwards without negative numbers, which ONNX divides towards zero
    return tuple(_at_least(low, (side + step - 1) // step * step) for side, step, low in zip(size, divisors, smallest, strict=True))


def _at_least(low: int, side: int) -> int:
    """The larger one; of a side that is a symbol, as it is while a network is exported, without asking which."""
    larger: int = max(low, side) if isinstance(side, int) else torch.sym_max(low, side)
    return larger


def padded(values: Tensor, size: tuple[int, ...], fill: float) -> Tensor:
    """The last axes brought to `size` by `fill` at their ends; the tensor itself where nothing is missing."""
    missing = [wanted - have for wanted, have in zip(size, values.shape[-len(size) :], strict=True)]
    if not any(_may_differ(each, 0) for each in missing):
        return values
    return pad(values, [each for side in reversed(missing) for each in (0, side)], value=fill)


def _may_differ(one: int, other: int) -> bool:
    """True of symbols, too: an exported network must not take the example's sizes for every image's."""
    return not (isinstance(one, int) and isinstance(other, int)) or one != other


def resized(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, S) by linear interpolation without aligned corners; the tensor itself where it has the size."""
    if tuple(values.shape[2:]) == size:
        return values
    return interpolate(values, size=size, mode=_LINEAR[len(size)], align_corners=False)
