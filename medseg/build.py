"""Config -> objects: the only place that knows both. What `auto` stands for is decided here, once, and written to the run's config.yaml."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.rank_zero import rank_zero_module

from medseg.config import Config
from medseg.data.decode import DecodedSet, decode_all
from medseg.data.sampling import equals_uniform, image_weights, presence
from medseg.engine.optim import make_optimizer
from medseg.engine.train import Training
from medseg.environment import processor_flags
from medseg.errors import ConfigError
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import select
from medseg.models.contract import SemanticNetwork
from medseg.models.zoo import build_network
from medseg.seeding import seed_of
from medseg.types import Size

log = logging.getLogger(__name__)
rank_zero_module.log.setLevel(logging.WARNING)  # Fabric announces the precision at every set-up; config.yaml tells it already
FABRIC_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
OnDecode = Callable[[str, int, int], None]  # (part of the split, done, total)


def resolve(config: Config) -> Config:
    """`auto` device and precision replaced by what this machine has; ConfigError where the machine lacks what is asked."""
    device = config.train.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device", "cuda is asked for and torch sees no GPU", "set train.device=auto")
    precision = config.train.precision
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(device) else "float32"
    chosen = config.train.model_copy(update={"device": device, "precision": precision})
    return config.model_copy(update={"train": chosen})


def _has_bfloat16(device: str) -> bool:
    """Whether bfloat16 has arithmetic of its own here; without it autocast only costs."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(processor_flags())


def make_fabric(config: Config) -> Fabric:
    """One process on the resolved device and precision."""
    assert config.train.precision != "auto" and config.train.device != "auto", "resolve() the config first"
    return Fabric(accelerator=config.train.device, devices=1, precision=FABRIC_PRECISION[config.train.precision])  # type: ignore[arg-type]


def build_model(config: Config, labels: LabelSet) -> SemanticNetwork:
    """The network with its loss, initialised from the run's seed; the global random state is left as found."""
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(config.seed, "weights"))
        return SemanticNetwork(build_network(config.model, labels.num_classes), make_loss(config.loss, labels))


def build_training(config: Config, manifest: Manifest, split: Split, data_root: Path, on_decode: OnDecode | None = None) -> Training:
    """Decode both sets, build network, optimiser and sampler. `config` must be resolved."""
    fabric = make_fabric(config)
    model = build_model(config, manifest.labels)
    wrapped, optimizer = fabric.setup(model, make_optimizer(config.optim, model))
    split.ids("val")  # a split without val is told before an hour of decoding
    train_set = decode_part(config, manifest, split, "train", data_root, on_decode)
    val_set = decode_part(config, manifest, split, "val", data_root, on_decode)
    return Training(config, fabric, wrapped, optimizer, train_set, val_set, sampling_weights(config, train_set))


def decode_part(
    config: Config, manifest: Manifest, split: Split, part: str, data_root: Path, on_decode: OnDecode | None = None
) -> DecodedSet:
    """One part of a split on the network's grid, from the cache where it is there."""
    progress = None if on_decode is None else lambda done, total: on_decode(part, done, total)
    return decode_all(manifest, select(manifest, split, part), data_root, Size(*config.data.size_px), Path(config.data.cache), progress)


def sampling_weights(config: Config, train_set: DecodedSet) -> np.ndarray:
    """The sampler's weight of each training image; warns where a balanced sampler would draw like a uniform one."""
    present = presence(train_set.rows, train_set.labels)
    weights = image_weights(config.sampling, present)
    if config.sampling.name != "uniform" and equals_uniform(weights, present):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(train_set.labels.foreground, present.mean(axis=0), strict=True))
        log.warning("sampling %s equals uniform here: images with each class: %s", config.sampling.name, shares)
    return weights
