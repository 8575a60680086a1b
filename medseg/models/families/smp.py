"""segmentation_models.pytorch: smp:<architecture>/<encoder>, any of its architectures on any of its encoders, or on one of timm's (`tu-`).

What the library says of no pair (the smallest side, the parts that nothing reads, the order of the encoder's parts) is found out by letting
small images through. Differences from the library: its logits are upsampled with aligned corners by each architecture, which is kept, and
sides that are no multiple of the encoder's stride are padded; encoders of one size only are built for the task's grid. Each pair's paper is
the architecture's, whose own encoder may be another one.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from torch import Tensor, nn
from torch.func import functional_call

from medseg.config import NetworkConfig
from medseg.config.model import SmpConfig
from medseg.errors import ConfigError, WeightsError
from medseg.models.contract import Network, Task, is_below, retire
from medseg.models.weights import Source, first_words
from medseg.models.zoo import Entry

ARCHITECTURES: dict[str, type] = smp.MODEL_ARCHITECTURES_MAPPING
OURS = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params"}  # of the task, or not the contract's
# what timm takes beside an architecture's own: with `checkpoint_path` it would read any file that a config names
NO_ARCHITECTURE = {
    *inspect.signature(timm.create_model).parameters, *inspect.signature(timm.models.build_model_with_cfg).parameters,
    "in_chans", "num_classes", "features_only", "out_indices",
}  # fmt: skip
FIXED_STEP_PX = 32  # the sides of an encoder of one size
TRIED_TIMES = (1, 2, 4, 8)  # the encoder's stride; PAN needs eight
Names = tuple[str, ...]


def build(config: NetworkConfig, task: Task) -> Network:
    """A fresh network; ConfigError for a name that the library does not know, and for a pair or arguments that it cannot make."""
    assert isinstance(config, SmpConfig)
    net, grid = _made(config, task)
    found = _find_out(net, task, grid)
    retire(net, *found.unread)
    return Network(
        net,
        divisor=net.encoder.output_stride,
        least=found.least,
        grid=grid,
        least_batch=found.least_batch,
        head=("segmentation_head",),
        encoder=_stages(net, found),
        first_conv=_first_conv(net, task.in_channels),
    )


def _made(config: SmpConfig, task: Task) -> tuple[Any, tuple[int, ...] | None]:
    """The module, and its grid where it takes one only."""
    _check_names(config)
    _check_arguments(config)
    trouble = None
    for grid, arguments in _tries(config, task):
        try:
            net = _create(config, task.in_channels, task.num_classes, arguments)
            with torch.no_grad():
                if grid is not None:
                    _through(net, 2, task.in_channels, grid)
            return net, grid
        except Exception as cause:  # of many kinds: each architecture, encoder and timm check in ways of their own
            trouble = cause
    where = "model.arguments" if config.arguments else "model.name"
    rule = f"{config.name} cannot be built ({first_words(trouble)})"
    raise ConfigError(where, rule, "take another pair, or see smp.readthedocs.io for what each architecture takes") from None


def _tries(config: SmpConfig, task: Task) -> list[tuple[tuple[int, ...] | None, dict[str, Any]]]:
    """Grids and arguments: an encoder of one size is made for the task's where it can be, else it keeps its own."""
    given = dict(config.arguments)
    known = timm.models.get_pretrained_cfg(_timm_name(config.encoder) or "")
    if "img_size" in given:
        side = given["img_size"]
        return [((side, side) if isinstance(side, int) else tuple(side), given)]
    if known is None or not known.fixed_input_size or given.get("dynamic_img_size"):
        return [(None, given)]
    grid = tuple(-(-side // FIXED_STEP_PX) * FIXED_STEP_PX for side in task.grid)
    return [(grid, {**given, "img_size": grid}), (tuple(known.input_size[1:]), given)]


def _create(config: SmpConfig, channels: int, classes: int, arguments: Mapping[str, Any], weights: str | None = None) -> Any:
    with _quiet():
        return smp.create_model(config.architecture, config.encoder, weights, channels, classes, **arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the library says nothing of names that it will drop, and of weights that a timm name has already chosen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_names(config: SmpConfig) -> None:
    known = list(ARCHITECTURES)
    if config.architecture not in known:
        near = get_close_matches(config.architecture, known)
        fix = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError("model.name", f"the library has no architecture {config.architecture!r}", f"{fix}it has {', '.join(known)}")
    if config.encoder in smp.encoders.encoders or timm.is_model(_timm_name(config.encoder) or ""):
        return
    encoders = [*smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]
    near = get_close_matches(config.encoder, encoders, 5) or smp.encoders.get_encoder_names()[:5]
    raise ConfigError("model.name", f"the library has no encoder {config.encoder!r}", f"it has {', '.join(near)} and many more")


def _check_arguments(config: SmpConfig) -> None:
    """The library keeps silent on arguments of an encoder that is not timm's, and reads none of them."""
    taken = set(inspect.signature(ARCHITECTURES[config.architecture]).parameters) - OURS - {"kwargs"}
    for key in config.arguments:
        if key in NO_ARCHITECTURE:
            raise ConfigError("model.arguments", f"{key!r} is no part of an architecture", "leave it out; model.weights names weights")
        if key in OURS or (key not in taken and _timm_name(config.encoder) is None):
            near = get_close_matches(key, taken) or sorted(taken)
            raise ConfigError("model.arguments", f"{config.architecture} takes no {key!r} here", f"it takes {', '.join(near)}")


def _timm_name(encoder: str) -> str | None:
    """What timm calls an encoder; None of one that is smp's own."""
    current = _current_name(encoder)
    return current.removeprefix("tu-") if current.startswith("tu-") else None


def _current_name(encoder: str) -> str:
    """What the library makes of some names of old."""
    if not smp.encoders.is_equivalent_to_timm_universal(encoder):
        return encoder
    return encoder.replace("timm-", "tu-").replace("tu-mobilenetv3", "tu-tf_mobilenetv3")


def _first_conv(net: Any, channels: int) -> str | None:
    """The first convolution of so many channels, as the library itself finds it."""
    convolutions = ((name, module) for name, module in net.encoder.named_modules() if isinstance(module, nn.Conv2d))
    return next((f"encoder.{name}" for name, module in convolutions if module.in_channels == channels), None)


# --- what the library does not say


class Found(NamedTuple):
    """least, least_batch: as of Network.  unread: parameters without influence on the logits.  order: the encoder's modules that have
    parameters of their own, as they are used.
    """

    least: int
    least_batch: int
    unread: Names
    order: Names


def _find_out(net: Any, task: Task, grid: tuple[int, ...] | None) -> Found:
    """By small images, in train mode. The network and torch's generator are left as they are."""
    net.train()
    stride, channels = net.encoder.output_stride, task.in_channels
    with torch.random.fork_rng(devices=[]):
        with torch.no_grad():
            least = 1 if grid else next((stride * times for times in TRIED_TIMES if _passes(net, 2, channels, (stride * times,) * 2)), 0)
            if not least:
                raise ConfigError("model.name", f"no image of {stride * TRIED_TIMES[-1]} pixels passes the network", "take another pair")
            shown = grid or tuple(max(least, min(-(-side // stride), 4) * stride) for side in task.grid)  # more tells no more
            least_batch = 1 if _passes(net, 1, channels, shown) else 2
        unread, order = _used(net, channels, grid or (max(least, 2 * stride),) * 2)
    return Found(least, least_batch, unread, order)


def _passes(net: nn.Module, images: int, channels: int, sides: tuple[int, ...]) -> bool:
    try:
        _through(net, images, channels, sides)
    except (ValueError, RuntimeError):  # a norm of a single value; a map that is pooled to nothing
        return False
    return True


def _through(net: nn.Module, images: int, channels: int, sides: tuple[int, ...]) -> Tensor:
    """Logits of black images, with copies of the batch norms' running values."""
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    logits: Tensor = functional_call(net, buffers, (torch.zeros(images, channels, *sides),))
    return logits


def _used(net: Any, channels: int, sides: tuple[int, ...]) -> tuple[Names, Names]:
    """Names of the parameters without a gradient, and of the encoder's modules with parameters in the order of their first use."""
    order = list[str]()
    named = [(f"encoder.{name}", module) for name, module in net.encoder.named_modules() if list(module.parameters(recurse=False))]
    hooks = [module.register_forward_pre_hook(lambda *_, name=name: order.append(name)) for name, module in named]
    logits = _through(net, 2, channels, sides)
    for hook in hooks:
        hook.remove()
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    unread = tuple(name for name, gradient in zip(names, gradients, strict=True) if gradient is None)
    return unread, tuple(dict.fromkeys(order))


def _parts(net: Any) -> list[str]:
    """Modules of the encoder that are worth a stage: its children, those of a single child, and the blocks within lists of them."""
    parts, inside = list[str](), "encoder"
    while len(children := _children(net, inside)) == 1:
        inside = children[0]
    for child in children:
        inner = _children(net, child)
        is_list = type(net.get_submodule(child)) in (nn.Sequential, nn.ModuleList) and any(_children(net, block) for block in inner)
        parts += inner if is_list else [child]
    return parts


def _children(net: nn.Module, inside: str) -> list[str]:
    """Names of the children that have parameters."""
    return [f"{inside}.{name}" for name, child in net.get_submodule(inside).named_children() if next(child.parameters(), None) is not None]


def _stages(net: Any, found: Found) -> tuple[Names, ...]:
    """The parts in the order of their use; a norm belongs to what is before it, and what belongs to no part (a token) to the first."""
    parts = _parts(net)
    used = dict.fromkeys(next((part for part in parts if is_below(module, (part,))), module) for module in found.order)
    names = [f"encoder.{name}" for name, _ in net.encoder.named_parameters()]
    loose = [name for name in names if name not in found.unread and not is_below(name, tuple(used))]
    stages: list[list[str]] = []
    for part in used:
        is_norm = all(parameter.ndim < 2 for parameter in net.get_submodule(part).parameters())
        if is_norm and stages:
            stages[-1].append(part)
        else:
            stages.append([part])
    return tuple((*stage, *(loose if place == 0 else ())) for place, stage in enumerate(stages))


# --- published weights


def published(config: NetworkConfig, spec: str, task: Task) -> Source | None:
    """smp:imagenet, or another of the encoder's weights by the library's name, as the library itself loads them; None for others.

    WeightsError where they cannot be had.
    """
    scheme, _, name = spec.partition(":")
    if scheme != "smp":
        return None
    assert isinstance(config, SmpConfig)
    _check_names(config)
    offered = _offered(config)
    if name not in offered:
        raise WeightsError(spec, f"the encoder {config.encoder} has no such weights", f"it has {', '.join(offered) or 'none'}")
    place = offered[name]
    with torch.random.fork_rng(devices=[]):
        _, grid = _made(config, task)
        arguments = next(arguments for tried, arguments in _tries(config, task) if tried == grid)
        try:
            place.reach()
            net = _create(config, 3, task.num_classes, arguments, name)
            looks = smp.encoders.get_preprocessing_params(_current_name(config.encoder), name)
        except Exception as cause:  # of many kinds: no network, a file that is not there or is damaged
            raise WeightsError(spec, f"{place.repository} cannot be fetched ({first_words(cause)})", place.how) from None
    mean, deviation = _normalisation(looks, task.in_channels, spec)
    state = {f"encoder.{key}": value for key, value in net.encoder.state_dict().items()}
    return Source(state, f"{spec} ({place.repository} {place.commit[:12]})", mean, deviation)


class Place(NamedTuple):
    """Where on Hugging Face's hub an encoder's weights are."""

    repository: str
    revision: str
    files: str

    def reach(self) -> None:
        """Ask for the repository where a file is missing: it fails at once without a network, which a download tries for half a minute."""
        cached = (try_to_load_from_cache(self.repository, file, revision=self.revision) for file in self.files.split())
        if not all(isinstance(each, str) for each in cached):
            HfApi().model_info(self.repository, revision=self.revision)

    @property
    def commit(self) -> str:
        """Of the files in the cache: a revision may be a branch, which moves."""
        cached = try_to_load_from_cache(self.repository, self.files.split()[-1], revision=self.revision)
        return Path(cached).parent.name if isinstance(cached, str) else self.revision

    @property
    def how(self) -> str:
        """To do without a network."""
        folder = f"models--{self.repository.replace('/', '--')}"
        return (
            f"where there is a network run `hf download {self.repository} {self.files} --revision {self.revision}` "
            f"and copy the folder {folder} of its cache to {constants.HF_HUB_CACHE}/{folder}"
        )


def _offered(config: SmpConfig) -> dict[str, Place]:
    """Weights of the encoder by name; timm's are chosen by the encoder's name, and called imagenet here."""
    if (name := _timm_name(config.encoder)) is not None:
        known = timm.models.get_pretrained_cfg(name)
        return {"imagenet": Place(known.hf_hub_id, "main", "model.safetensors")} if known and known.hf_hub_id else {}
    settings = smp.encoders.encoders[config.encoder]["pretrained_settings"]
    return {name: Place(each["repo_id"], each["revision"], "config.json model.safetensors") for name, each in settings.items()}


def _normalisation(looks: Mapping[str, Any], channels: int, spec: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of an image in [0, 1], one number for all where the network takes other channels than the weights."""
    if looks["input_space"] != "RGB":
        raise WeightsError(spec, f"was trained on {looks['input_space']} images, and medseg shows RGB", "take another encoder")
    brightest = looks["input_range"][1]
    mean, deviation = looks["mean"], looks["std"]
    if len(mean) != channels:
        mean, deviation = ([sum(each) / len(each)] for each in (mean, deviation))
    return tuple(each / brightest for each in mean), tuple(each / brightest for each in deviation)


_PAPERS = {
    "unet/resnet34": "Ronneberger et al. 2015", "unetplusplus/resnet34": "Zhou et al. 2018", "manet/resnet34": "Fan et al. 2020",
    "linknet/resnet34": "Chaurasia and Culurciello 2017", "fpn/efficientnet-b0": "Kirillov et al. 2017",
    "pspnet/resnet34": "Zhao et al. 2017",
    "deeplabv3/resnet34": "Chen et al. 2017", "deeplabv3plus/resnet34": "Chen et al. 2018", "pan/resnet34": "Li et al. 2018",
    "upernet/resnet34": "Xiao et al. 2018", "segformer/mit_b0": "Xie et al. 2021", "dpt/tu-vit_small_patch16_224": "Ranftl et al. 2021",
}  # fmt: skip
ENTRIES = tuple(Entry(f"smp:{pair}", "segmentation_models.pytorch", paper, "MIT", ("smp:imagenet",)) for pair, paper in _PAPERS.items())
