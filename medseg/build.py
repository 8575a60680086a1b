"""Config -> objects: the only place that knows both. What `auto` stands for is decided here, once, and written to the run's config.yaml."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.rank_zero import rank_zero_module

from medseg.config import Config
from medseg.data.decoded import DecodedSet, decode_all
from medseg.data.patches import VERSION as INDEX_VERSION
from medseg.data.patches import PatchIndex, build_index
from medseg.data.realised import asked, set_shares
from medseg.data.sampling import check_centres, check_patches, equals_uniform, image_weights, pixel_counts, presence
from medseg.engine.optim import make_optimizer
from medseg.engine.train import Training
from medseg.environment import processor_flags
from medseg.errors import ConfigError
from medseg.labels import LabelSet
from medseg.losses import class_weights, make_loss
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import select
from medseg.models.contract import SemanticNetwork
from medseg.models.zoo import build_network
from medseg.seeding import seed_of
from medseg.types import Row, Size

log = logging.getLogger(__name__)
_AND_TRITON = ", and on a GPU Triton,"
# Pixels to be shown (steps x batch x height x width) from which compiling is chosen. On two cores in float32 it took about 45 s and saved
# 0.3 s of a step of 8 x 256 x 256, so it repays from 1e8 on; 4e8 leaves room for slower compilers. The GPU's is not measured yet.
COMPILE_REPAYS_PX = {"cpu": 4e8, "cuda": 2e10}
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


def resolve_length(config: Config, images: int) -> Config:
    """`auto` compile replaced, now that the training set's size tells the steps to come; ConfigError where nothing can compile."""
    can = _can_compile(config.train.device)
    if config.train.compile == "always" and not can:
        raise ConfigError(
            "train.compile", f"torch.compile needs a C++ compiler{_AND_TRITON} here", "install g++, or set train.compile=auto"
        )
    if config.train.compile != "auto":
        return config
    shown_px = config.steps_per_epoch(images) * config.train.epochs * config.train.batch_size * math.prod(_shown(config))
    chosen = "always" if can and shown_px >= COMPILE_REPAYS_PX[config.train.device] else "never"
    return config.model_copy(update={"train": config.train.model_copy(update={"compile": chosen})})


def _shown(config: Config) -> tuple[int, int]:
    """Height and width of what the network learns from."""
    return config.sampling.patch_px or config.data.size_px


def _can_compile(device: str) -> bool:
    compiler = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
    return compiler and (device == "cpu" or importlib.util.find_spec("triton") is not None)


def _has_bfloat16(device: str) -> bool:
    """Whether bfloat16 has arithmetic of its own here; without it autocast only costs."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(processor_flags())


def make_fabric(config: Config) -> Fabric:
    """One process on the resolved device and precision."""
    assert config.train.precision != "auto" and config.train.device != "auto", "resolve() the config first"
    return Fabric(accelerator=config.train.device, devices=1, precision=FABRIC_PRECISION[config.train.precision])  # type: ignore[arg-type]


def build_model(config: Config, labels: LabelSet, rows: Sequence[Row] | None = None) -> SemanticNetwork:
    """The network, initialised from the run's seed; the global random state is left as found.

    rows: the training images, by whose classes the loss may be weighted; without them the network predicts only.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(config.seed, "weights"))
        net = build_network(config.model, labels.num_classes)
    loss = None if rows is None else make_loss(config.loss, labels, class_weights(config.loss, rows, labels))
    model = SemanticNetwork(net, loss)
    return model.to(memory_format=torch.channels_last) if config.train.channels_last else model  # type: ignore[call-overload, no-any-return]


def build_training(config: Config, manifest: Manifest, split: Split, data_root: Path, on_decode: OnDecode | None = None) -> Training:
    """Decode both sets, build network, optimiser and sampler. `config` must be resolved."""
    check_patches(config.sampling, Size(*config.data.size_px), manifest.labels)
    split.ids("val")  # a split without val is told before an hour of decoding
    train_set = decode_part(config, manifest, split, "train", data_root, on_decode)
    val_set = decode_part(config, manifest, split, "val", data_root, on_decode, beside=train_set)
    fabric, model = make_fabric(config), build_model(config, manifest.labels, train_set.rows)
    if config.train.compile == "always":
        model.compile_training()
    wrapped, optimizer = fabric.setup(model, make_optimizer(config.optim, model))
    weights, index = sampling_weights(config, train_set), patch_index(config, train_set)
    return Training(config, fabric, wrapped, optimizer, train_set, val_set, weights, index, _shares(config, train_set, weights))


def decode_part(
    config: Config,
    manifest: Manifest,
    split: Split,
    part: str,
    data_root: Path,
    on_decode: OnDecode | None = None,
    beside: DecodedSet | None = None,
) -> DecodedSet:
    """One part of a split on the network's grid, from the cache where it is there; the records of `beside` stay in it."""
    progress = None if on_decode is None else lambda done, total: on_decode(part, done, total)
    rows, frame = select(manifest, split, part), Size(*config.data.size_px)
    return decode_all(manifest, rows, data_root, frame, Path(config.data.cache), config.data.cache_gib, progress, beside)


def sampling_weights(config: Config, train_set: DecodedSet) -> np.ndarray:
    """The sampler's weight of each training image; warns where a balanced sampler would draw like a uniform one."""
    present = presence(train_set.rows, train_set.labels)
    weights = image_weights(config.sampling, present)
    if config.sampling.name != "uniform" and equals_uniform(weights, present):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(train_set.labels.foreground, present.mean(axis=0), strict=True))
        log.warning("sampling %s equals uniform here: images with each class: %s", config.sampling.name, shares)
    return weights


def patch_index(config: Config, train_set: DecodedSet) -> PatchIndex | None:
    """Where the pixels of each class lie, for crops around them; made once for the same masks, and kept beside the decoded images."""
    if config.sampling.patch is None:
        return None
    if not config.sampling.centre_ratios:
        return PatchIndex.anywhere(train_set.frame)
    keys, labels = [str(row.mask_sha256) for row in train_set.rows], train_set.labels
    digest = hashlib.sha256(repr((INDEX_VERSION, keys, labels.names, labels.ignore_id, tuple(train_set.frame))).encode()).hexdigest()
    path = Path(config.data.cache) / "positions" / f"{digest[:32]}.npz"
    if path.exists():
        index = PatchIndex.load(path)
    else:
        index = build_index(keys, train_set.mask, labels, train_set.frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        index.save(path)
    check_centres(config.sampling, index)
    return index


def _shares(config: Config, train_set: DecodedSet, weights: np.ndarray) -> dict[str, float]:
    """What the training set holds and what the sampler is asked for, beside which an epoch's realised shares are read."""
    present, labels = presence(train_set.rows, train_set.labels), train_set.labels
    held = set_shares(present, pixel_counts(train_set.rows, labels, train_set.frame), labels)
    return held | asked(config.sampling, weights, present, labels)
