"""What a run folder says of its network, start and training, in words: for the checklist's items, and for who compares runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import Config, NetworkConfig, read_config
from medseg.errors import MedsegError, RunError, counted
from medseg.manifest.schema import Dataset
from medseg.manifest.table import read_dataset
from medseg.models.listed import listed
from medseg.runfolder import RunFolder
from medseg.types import by
from medseg.yamlio import read_yaml


@dataclass(frozen=True)
class Trained:
    """What a run folder says. dataset: None where its dataset.yaml cannot be read; the others are empty then.

    network: its size, and what the settings that were left open became.  weights: what became of those it started from.  steps: of the
    optimiser, that its curves know of; 0 where there are none.
    """

    config: Config
    dataset: Dataset | None
    digests: Mapping[str, Any]
    environment: Mapping[str, Any]
    network: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0


def read_trained(path: Path) -> Trained | None:
    """None where the configuration cannot be read: the rest is of no use without it."""
    folder = RunFolder(path)
    try:
        config = read_config(folder.config_yaml)
    except (MedsegError, OSError):
        return None
    files = (folder.digests_json, folder.environment_json, folder.network_json, folder.weights_json)
    digests, environment, network, weights = map(_read, files)
    return Trained(config, _read_dataset(folder.dataset_yaml), digests, environment, network, weights, _steps(folder))


def _steps(folder: RunFolder) -> int:
    """Of the last line of the curves."""
    try:
        return int(folder.metrics()[-1]["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _read_dataset(path: Path) -> Dataset | None:
    try:
        return read_dataset(path)
    except (MedsegError, OSError):
        return None


def _read(path: Path) -> dict[str, Any]:
    """A JSON of the run folder; empty where it is missing or broken."""
    try:
        return read_yaml(path, RunError)  # JSON is YAML
    except (MedsegError, OSError):
        return {}


# --- in words


def network_text(run: Trained) -> str:
    """Every value that the network has of its own; what it starts from and its normalisation are told elsewhere."""
    content = run.config.model.model_dump(mode="json", exclude={*NetworkConfig.model_fields} - {"name"})
    name = content.pop("name")
    papers = {line.name: f" ({line.paper})" for line in listed()}
    values = {key: value for key, value in (content | dict(run.network.get("chosen") or {})).items() if value not in (None, {}, [])}
    parts = [f"{key} {_value(value)}" for key, value in values.items()]
    parts += [f"{run.network['parameters']:,} parameters"] if run.network.get("parameters") else []
    classes = f" Outputs: {', '.join(run.dataset.labels.names)}." if run.dataset else ""
    return f"Network {name}{papers.get(name, '')}{': ' if parts else ''}{'; '.join(parts)}.{classes}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(" x ".join(map(_value, each)) if isinstance(each, list) else _value(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def start_text(runs: Sequence[Trained]) -> str:
    """What the parameters of one network were before training, in every run of it."""
    seeds = sorted({run.config.seed for run in runs})
    of = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}, a run each"
    started = [_origin(run) for run in runs if run.config.model.weights]
    if not started:
        return f"Trained from scratch, no weights taken over: initial weights drawn at random, {of}."
    some = "" if len(started) == len(runs) else f" in {len(started)} of {len(runs)} runs"
    rest = f"what they lack, such as the layer of the classes, drawn at random, {of}."
    return f"Fine-tuned from the weights {', '.join(sorted(set(started)))}{some}; {rest}"


def _origin(run: Trained) -> str:
    """Of which file exactly, and how much of the network it was."""
    loaded, skipped, new = (len(run.weights.get(key) or ()) for key in ("loaded", "skipped", "new"))
    share = f"{run.weights['share']:.1%} of the {run.weights['part']}; " if "share" in run.weights else ""
    told = f" ({share}{loaded} tensors taken over, {skipped} left, {new} made new)" if run.weights else ""
    return f"{_public(str(run.weights.get('origin') or run.config.model.weights))}{told}"


def _public(origin: str) -> str:
    """Without the folders of this computer, which are in no paper.

    >>> _public("file:/home/me/net.pth (sha256 12ab)"), _public("hf:Intel/dpt-large-ade (commit 34cd)")
    ('file:net.pth (sha256 12ab)', 'hf:Intel/dpt-large-ade (commit 34cd)')
    """
    scheme, _, rest = origin.partition(":")
    local = scheme in ("file", "run") or rest.startswith(("/", ".", "~"))
    return f"{scheme}:{rest.rpartition('/')[2]}" if local else origin


def training_text(run: Trained) -> str:
    """How the network learnt: length, loss, optimiser, what was held, sampling, precision."""
    config = run.config
    train, optim, sampling = config.train, config.optim, config.sampling
    parts = [f"{counted(train.epochs, 'epoch')} in batches of {train.batch_size}"]
    parts += [f"gradients of {train.accumulate} batches a step"] if train.accumulate > 1 else []
    parts += [f"stopped after {train.patience} validations without a better score"] if train.patience else []
    parts += [f"loss {'of the network itself' if config.model.own_losses else config.loss.name}"]
    parts += [f"optimiser {optim.name}, weight decay {optim.weight_decay:g}"]
    parts += [f"learning rate {optim.lr:g}, {optim.schedule} schedule, warm-up over {optim.warmup_share:.0%} of the steps"]
    parts += _fine_tuning(config)
    parts += [f"gradient norm clipped at {optim.clip_norm:g}"] if optim.clip_norm else []
    parts += [f"exponential moving average of the weights, decay {optim.ema_decay:g}"] if optim.ema_decay else []
    parts += [f"images drawn by {sampling.name}"]
    parts += [f"{sampling.draws_per_epoch:,} draws an epoch"] if sampling.draws_per_epoch else []
    gpus = (run.environment.get("hardware") or {}).get("gpus") if train.device == "cuda" else None
    return f"{'; '.join(parts)}; precision {train.precision} on {', '.join(gpus or [train.device])}."


def _fine_tuning(config: Config) -> list[str]:
    """What learns slower, faster or not at all."""
    model, optim = config.model, config.optim
    parts = [f"the head's learning rate times {optim.head_lr_multiplier:g}"] if optim.head_lr_multiplier != 1 else []
    parts += [f"each stage of the encoder at {optim.layer_decay:g} of the rate of the next"] if optim.layer_decay != 1 else []
    if model.freeze == "encoder":
        how_long = f"for the first {counted(model.freeze_epochs, 'epoch')}" if model.freeze_epochs else "throughout"
        parts.append(f"the encoder held as it started {how_long}")
    return parts + (["the encoder's batch norms held"] if model.batch_norm == "frozen" else [])


# --- runs beside each other


def unlike(runs: Mapping[str, Trained]) -> list[str]:
    """In what of their training the runs (label -> run) differ besides the network, as far as their files say it."""
    told = {label: _alike_told(run) for label, run in runs.items()}
    keys = dict.fromkeys(key for each in told.values() for key in each)
    apart = ((key, {label: each[key] for label, each in told.items() if key in each}) for key in keys)
    return [f"{key}: {'; '.join(f'{label} {text}' for label, text in of.items())}" for key, of in apart if len(set(of.values())) > 1]


def _alike_told(run: Trained) -> dict[str, str]:
    """What a fair comparison of networks holds equal. Rates are left out: each network has its own."""
    config, volume = run.config, run.config.data.volume
    grid = by(config.sampling.patch_px or config.data.size_px)
    steps = {"optimiser steps": f"{run.steps:,}"} if run.steps else {}
    return steps | {
        "images a step": str(config.images_per_step),
        "seen at once": f"{grid} voxels of {by(volume.spacing_mm)} mm" if volume else f"{grid} pixels",
        "start": config.model.weights or "from scratch",
    }
