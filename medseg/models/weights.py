"""What a network starts from: published weights, a file, another run. Each tensor is told as loaded, skipped or new; no pickle runs."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medseg.config import NetworkConfig, read_config
from medseg.errors import WeightsError
from medseg.files import sha256_file
from medseg.models.contract import Network, Task, is_below, not_finite
from medseg.models.listed import listed
from medseg.models.zoo import family_of
from medseg.runfolder import open_run

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision states them
MOST_NAMED = 4  # modules made new, in the one line of a log; weights.json has all
SCHEMES = ("torchvision", "smp", "monai", "hf", "file", "run")
_WRAPPERS = ("module.", "model.", "net.", "network.", "_orig_mod.")  # what training scripts put before a network's own names
_INSIDE = ("state_dict", "model_state_dict", "model_state", "model", "network_weights", "net", "weights")  # where they put it
_RUNS = Path("runs")
COUNTER = "num_batches_tracked"  # of a batch norm, which old files lack
MOST_CHARACTERS = 200  # of a library's words in one of our messages
UNREAD_PICKLE = "it is pickled in another way than torch reads safely"
NO_WEIGHTS = "it is no file that torch.save wrote, or a damaged one"


@dataclass(frozen=True)
class Source:
    """Weights as a network names them. mean, deviation: of the channels they were trained on, in [0, 1], None where nobody says.

    classes: that their head tells apart, None where nobody says: then it is taken over where its shape fits.  origin: for the record.
    update: keys of the network's section that follow from the weights, such as an architecture.
    """

    state: Mapping[str, Tensor]
    origin: str
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    update: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Loaded:
    """What became of each tensor. skipped, new: name -> why.  share: of the values of `part`, how many were loaded, in [0, 1].  part:
    encoder, or network where it names no encoder.  misfits: tensors of it that the weights have in another shape."""

    origin: str
    part: str
    share: float
    misfits: tuple[str, ...]
    loaded: tuple[str, ...]
    skipped: Mapping[str, str]
    new: Mapping[str, str]

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} tensors loaded, {len(self.skipped)} skipped, {len(self.new)} made new"
        fresh = list(dict.fromkeys(name.rpartition(".")[0] for name in self.new))
        more = f" and {len(fresh) - MOST_NAMED} more modules" if len(fresh) > MOST_NAMED else ""
        told = f"weights of {self.origin} for {self.share:.1%} of the {self.part}: {counts}"
        told += f" ({', '.join(fresh[:MOST_NAMED])}{more})" if fresh else ""
        return told + (
            f"; {len(self.misfits)} of the {self.part} have another shape there, first {self.misfits[0]!r}" if self.misfits else ""
        )


def read_source(config: NetworkConfig, task: Task) -> Source | None:
    """What `model.weights` names, fetched where it must be; None where training starts from scratch.

    WeightsError for what is not there, cannot be read, or is not of this network.
    """
    if config.weights is None:
        return None
    scheme, _, rest = config.weights.partition(":")
    if scheme not in SCHEMES or not rest:
        raise WeightsError(
            f"model.weights={config.weights}", f"weights are named {', '.join(f'{each}:...' for each in SCHEMES)}", "see docs/zoo.md"
        )
    if scheme == "file":
        return _of_file(Path(rest))
    if scheme == "run":
        return _of_run(rest)
    published = getattr(family_of(config), "published", None)
    source = published(config, config.weights, task) if published else None
    if source is None:
        there = next((line.weights for line in listed() if line.name == config.name), ())
        fix = f"it has {', '.join(there)}" if there else "`medseg zoo` lists those of every network"
        raise WeightsError(f"model.weights={config.weights}", f"{config.name} has no such weights", fix)
    return source  # type: ignore[no-any-return]


def with_source(config: NetworkConfig, source: Source | None, in_channels: int = 3) -> NetworkConfig:
    """The section as it is written down: what follows from the weights is in it, so that a run needs them no more.

    A normalisation of other channels than the image has is taken as the mean over its channels.
    """
    found: dict[str, Any] = dict(source.update or {}) if source else {}
    if config.mean is None:
        mean, deviation = (source.mean, source.deviation) if source else (None, None)
        mean, deviation = mean or (0.5,), deviation or (0.25,)
        if len(mean) not in (1, in_channels):
            mean, deviation = (fmean(mean),), (fmean(deviation),)
        found |= {"mean": mean, "deviation": deviation}
    return config.model_copy(update=found)


def load(network: Network, source: Source, config: NetworkConfig, classes: Sequence[str] | None = None) -> Loaded:
    """Put the weights into the network, in place. A head of other classes stays as it was initialised.

    WeightsError where none of the network's encoder, or of the whole where it names none, is among them.
    """
    given = _named_alike(source.state, network)
    own = {name: value for name, value in network.net.state_dict().items() if not is_below(name, network.settled)}
    if odd := next((name for name, value in given.items() if value.layout != torch.strided or value.is_quantized), None):
        raise WeightsError(source.origin, f"its tensor {odd!r} is sparse or quantised", "save plain tensors: a dense state dict")
    taken, kept = _sorted(network, own, given, _fits_head(network, own, given, source.classes, classes), config.first_conv)
    encoder = {name for name in own if not network.encoder or any(is_below(name, stage) for stage in network.encoder)}
    wanted = encoder & set(taken)
    if not wanted:
        raise WeightsError(source.origin, f"none of its {len(given)} tensors fits {config.name}", _example(given, own))
    if odd := not_finite(taken, own):
        raise WeightsError(source.origin, f"its tensor {odd!r} holds values that are not finite", "fetch it or save it again")
    with torch.no_grad():
        network.net.load_state_dict(taken, strict=False)
    share = sum(own[name].numel() for name in wanted) / sum(own[name].numel() for name in encoder)
    others = (name for name in given if name not in own)
    skipped = kept | {name: "of the settings" if is_below(name, network.settled) else "not of this network" for name in others}
    new = kept | {name: "not among the weights" for name in own if name not in given}
    misfits = tuple(name for name in kept if name in encoder and not is_below(name, network.head))
    return Loaded(source.origin, "encoder" if network.encoder else "network", share, misfits, tuple(taken), skipped, new)


def _fits_head(
    network: Network,
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    theirs: Sequence[str] | None,
    ours: Sequence[str] | None,
) -> bool:
    """Whether the head is of the same classes, so far as both say theirs, and of the same shapes: it is taken over whole or not at all, but
    for modules of it that the weights lack altogether."""
    same = theirs is None or ours is None or tuple(theirs) == tuple(ours)
    modules = ([name for name in own if is_below(name, (part,)) and not name.endswith(COUNTER)] for part in network.head)
    there = [name for module in modules if any(name in given for name in module) for name in module]
    return same and all(name in given and own[name].shape == given[name].shape for name in there)


def _sorted(
    network: Network, own: Mapping[str, Tensor], given: Mapping[str, Tensor], with_head: bool, first_conv: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Of the tensors that both have: those to load, as they will be loaded, and why the others are not."""
    taken, kept = dict[str, Tensor](), dict[str, str]()
    for name, target in own.items():
        if name not in given:
            continue
        value = given[name]
        if value.shape == target.shape:
            if is_below(name, network.head) and not with_head:
                kept[name] = "of other classes"
            else:
                taken[name] = value
        elif name == f"{network.first_conv}.weight" and (value.shape[0], *value.shape[2:]) == (target.shape[0], *target.shape[2:]):
            taken[name] = other_channels(value, target.shape[1], first_conv)
        else:
            kept[name] = f"{tuple(value.shape)} there, {tuple(target.shape)} here"
    return taken, kept


def _example(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    theirs, ours = next(iter(given), "none"), next(iter(own))
    return f"name weights of the same network: the file's tensors are named like {theirs!r}, the network's like {ours!r}"


def other_channels(weight: Tensor, channels: int, how: str) -> Tensor:
    """The first convolution (O, C, ...) for another number of input channels.

    mean: every channel has the mean of the old ones; the same value in every channel gives what it gave.  repeat: the old ones in turn,
    scaled alike, so that this holds where the channels are a multiple of the old ones. The values are those after the normalisation: a
    gray photograph gives nearly what it gave, as the three means and deviations it was normalised by become one.
    """
    old = weight.shape[1]
    if how == "mean":
        picked = weight.mean(1, keepdim=True).expand(-1, channels, *weight.shape[2:])
    else:
        picked = weight[:, [place % old for place in range(channels)]]
    return picked * (old / channels)


def _named_alike(state: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The names without what wrappers put before all of them, or below the encoder where it is an encoder's file, so far as more of them
    then are the network's."""
    own = set(network.net.state_dict())
    trials = [dict(state)]
    while trials[-1] and (prefix := next((each for each in _WRAPPERS if all(name.startswith(each) for name in trials[-1])), None)):
        trials.append({name.removeprefix(prefix): value for name, value in trials[-1].items()})
    parts = network.encoder[0][0].split(".") if network.encoder else []
    places = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    trials += [{f"{place}.{name}": value for name, value in trial.items()} for trial in trials for place in places]
    return max(trials, key=lambda trial: len(own & set(trial)))  # the first of equals


# --- published by an address, files and runs


def fetch_torch(url: str) -> dict[str, Tensor]:
    """A state dict by torch.hub, from its cache where it is there; nothing in it runs. WeightsError where it cannot be had."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    try:
        state = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True, weights_only=True
        )
    except Exception as cause:  # of the network, the disk, or of many kinds from torch, which reads a damaged file as it comes
        if path.exists():
            raise WeightsError(path, f"cannot be read ({_first_line(cause)})", f"remove it, and fetch it again from {url}") from None
        fix = f"where there is a network fetch {url}, and place it at {path} (the folder is set by TORCH_HOME)"
        raise WeightsError(url, f"cannot be fetched ({_first_line(cause)})", fix) from None
    return dict(state)


def _of_file(path: Path) -> Source:
    if path.is_dir():
        raise WeightsError(path, "is a folder", "name the file in it, or run: and a run folder, hf: and a folder of `save_pretrained`")
    if not path.is_file():
        raise WeightsError(path, "there is no such file", "check the path (it is taken from the working folder)")
    state = _read_safetensors(path)[0] if path.suffix == ".safetensors" else _read_torch(path)
    return Source(state, f"file:{path} (sha256 {sha256_file(path)[:12]})")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header's texts."""
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (safe_open is no dict)
            return tensors, stream.metadata() or {}
    except (SafetensorError, OSError) as cause:
        raise WeightsError(path, f"is no safetensors file ({_first_line(cause)})", "fetch or save it again") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    """What torch.save wrote, without running any of it: tensors and plain containers only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks to be told of other pickles than its own
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # of many kinds from torch, which reads a damaged file as it comes
        reason = _first_line(cause)
        if isinstance(cause, pickle.UnpicklingError):  # torch's own words advise to run what it holds
            reason = _refused(cause, path)
        elif isinstance(cause, KeyError | IndexError | EOFError):
            reason = NO_WEIGHTS
        fix = "save its state dict alone, best as safetensors: safetensors.torch.save_file(net.state_dict(), path)"
        raise WeightsError(path, f"cannot be read as weights ({reason})", fix) from None
    for _ in range(3):  # a training script's checkpoint holds the weights beside other things
        inner = next((content[key] for key in _INSIDE if isinstance(content, dict) and isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise WeightsError(path, "holds no named tensors", "save the network's state dict")
    return tensors


def _refused(cause: pickle.UnpicklingError, path: Path) -> str:
    """Why torch would not read a pickle: for a function or class in it, for how it was pickled, or because it is none."""
    if any(words in str(cause) for words in ("GLOBAL", "unrecognized function", "Can only create new object", "Can only build")):
        return "it holds more than tensors, which could run code"
    with path.open("rb") as stream:
        return UNREAD_PICKLE if stream.read(2) in (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(3, 6))) else NO_WEIGHTS


def first_words(cause: Exception | None) -> str:
    """What a library says, on one line and no longer than one."""
    words = " ".join(str(cause).split()) or type(cause).__name__
    return words if len(words) <= MOST_CHARACTERS else f"{words[:MOST_CHARACTERS]} ..."


def _first_line(cause: Exception) -> str:
    return (str(cause) or type(cause).__name__).splitlines()[0]


def _of_run(name: str) -> Source:
    """The best checkpoint of a run, named by its folder, or by its id below runs/."""
    run = open_run(Path(name) if Path(name).exists() or len(Path(name).parts) > 1 else _RUNS / name)
    path = run.checkpoint("best")
    if not path.is_file():
        raise WeightsError(path, "the run has no checkpoint yet", "wait for its first epoch, or name another run")
    config = read_config(run.config_yaml).model
    tensors, facts = _read_safetensors(path)
    classes = next((json.loads(text).get("classes") for text in facts.values()), None)
    state = {name.removeprefix("net."): value for name, value in tensors.items()}
    return Source(
        state, f"run:{run.id} (sha256 {sha256_file(path)[:12]})", config.mean, config.deviation, tuple(classes) if classes else None
    )
