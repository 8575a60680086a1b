"""Config -> objects: the only place that knows both. What `auto` stands for is decided here, once, and written to the run's config.yaml."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_module

from medseg.config import Config, NetworkConfig
from medseg.config.volume import VolumeConfig
from medseg.data.cache import CHANNELS, Cache
from medseg.data.decode import refuse_volumes
from medseg.data.decoded import DecodedSet, decode_all, undecoded
from medseg.data.patches import VERSION as INDEX_VERSION
from medseg.data.patches import PatchIndex, build_index, most_bytes, read_index
from medseg.data.realised import asked, set_shares
from medseg.data.sampling import (
    check_centres,
    check_names,
    check_patches,
    equals_uniform,
    image_weights,
    pixel_counts,
    presence,
    rank_places,
)
from medseg.data.volume.store import VolumeStore
from medseg.data.volume.volumeset import VolumeSet, check_patch, unprepared
from medseg.engine.average import WeightAverage
from medseg.engine.optim import make_optimizer
from medseg.engine.ranks import Ranks
from medseg.engine.train import Training
from medseg.environment import processor_flags
from medseg.errors import ConfigError, counted
from medseg.labels import LabelSet
from medseg.losses import class_weights, make_loss
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import select
from medseg.models.contract import Adapter, Task
from medseg.models.quick import hasten
from medseg.models.weights import Loaded, Source, load
from medseg.models.zoo import adapt, build_network
from medseg.seeding import seed_of
from medseg.types import Row, Size

log = logging.getLogger(__name__)
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the axes of a tensor
# Pixels to be shown (steps x batch x height x width) from which compiling is chosen. On two cores in float32 it took about 45 s and saved
# 0.3 s of a step of 8 x 256 x 256, so it repays from 1e8 on; 4e8 leaves room for slower compilers. The GPU's is not measured yet.
COMPILE_REPAYS_PX = {"cpu": 4e8, "cuda": 2e10}
# Fabric announces the precision at every set-up, which config.yaml tells already, and each process that joins.
rank_zero_module.log.setLevel(logging.WARNING)
logging.getLogger("lightning_fabric.utilities.distributed").setLevel(logging.WARNING)
FABRIC_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed", "float64": "64-true"}
PHOTOGRAPH_CHANNELS = 3
LONGEST_WAIT = timedelta(days=1)  # of a process for the others: the first may decode for hours; torchrun ends the others where one dies
OnDecode = Callable[[str, int, int], None]  # (part of the split or "class positions", done, total)


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


def resolve_length(config: Config, images: int, trouble: Callable[[str], str | None] | None = None) -> Config:
    """`auto` compile replaced, now that the training set's size tells the steps to come; ConfigError where compiling is asked and fails.

    trouble: device -> what keeps it from compiling, None where it can; asked where compiling is chosen only. By default it is tried.
    """
    if config.images_per_step > (number := config.sampling.draws_per_epoch or images):
        rule = f"an epoch shows {number} images, and a step learns from {config.images_per_step} (train.batch_size x train.accumulate)"
        raise ConfigError("train.batch_size", rule, "lower it, or raise sampling.draws_per_epoch")
    asked, device = config.train.compile, config.train.device
    if not config.model.compiles:
        if asked == "always":
            raise ConfigError("train.compile", f"{config.model.name} cannot be compiled", "set train.compile=auto")
        return _compiled(config, "never")
    shown_px = config.steps_per_epoch(images) * config.train.epochs * config.train.batch_size * math.prod(_shown(config))
    if asked == "never" or (asked == "auto" and shown_px < COMPILE_REPAYS_PX[device]):
        return _compiled(config, "never")
    why = (trouble or compile_trouble)(device)
    if why is None:
        return _compiled(config, "always")
    if asked == "always":
        raise ConfigError("train.compile", f"torch.compile does not work here: {why}", "install g++, or set train.compile=auto")
    log.warning("training is not compiled, as torch.compile does not work here: %s", why)
    return _compiled(config, "never")


def _compiled(config: Config, choice: Literal["always", "never"]) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"compile": choice})})


def compile_trouble(device: str) -> str | None:
    """What torch.compile says against a small function, None where it works: a compiler that is there may still fail. Takes seconds."""
    try:
        torch.compile(lambda values: values.sin() + 1, dynamic=False)(torch.ones(64, device=device))
    except Exception as cause:  # of many kinds: torch's own, the compiler's, the system's
        return str(cause).partition("\n")[0]
    return None


def _shown(config: Config) -> tuple[int, ...]:
    """The sides of what the network learns from."""
    return config.sampling.patch_px or config.data.size_px


def _has_bfloat16(device: str) -> bool:
    """Whether bfloat16 has arithmetic of its own here; without it autocast only costs."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(processor_flags())


def make_fabric(config: Config) -> Fabric:
    """This process on the resolved device and precision, joined to those that torchrun has started beside it.

    ConfigError where a GPU each is asked of a machine with fewer.
    """
    device, precision = config.train.device, config.train.precision
    assert precision != "auto" and device != "auto", "resolve() the config first"
    here, world = _processes()
    if device == "cuda" and here > torch.cuda.device_count():
        rule = f"{here} processes were started on a machine with {counted(torch.cuda.device_count(), 'GPU')}"
        raise ConfigError("torchrun --nproc-per-node", rule, "start one a GPU, or set train.device=cpu")
    held = config.model.freeze != "none"  # then some parameters have no gradient, for which the processes must not wait
    strategy = DDPStrategy(timeout=LONGEST_WAIT, find_unused_parameters=held) if world > 1 else "auto"
    fabric = Fabric(accelerator=device, strategy=strategy, devices=here, num_nodes=world // here, precision=FABRIC_PRECISION[precision])  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def _processes() -> tuple[int, int]:
    """(on this machine, in all), as torchrun says; without it one."""
    if not torch.distributed.is_torchelastic_launched():
        return 1, 1
    return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])


@contextmanager
def deterministic_kernels(config: Config) -> Iterator[None]:
    """Inside, torch takes kernels that repeat to the bit only, where the config asks for them; its settings are put back afterwards."""
    if not config.train.deterministic:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses; read when CUDA starts
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def task_of(config: Config, labels: LabelSet) -> Task:
    """What the network is built for."""
    volume = config.data.volume
    channels = len(volume.channels) if volume else PHOTOGRAPH_CHANNELS
    autocast = config.train.precision == "bfloat16" and config.train.device == "cpu"
    return Task(labels.num_classes, _shown(config), channels, labels.ignore_id, normalised=volume is not None, autocast=autocast)


def build_model(
    config: Config,
    labels: LabelSet,
    rows: Sequence[Row] | None = None,
    ranks: Ranks | None = None,
    source: Source | None = None,
    on_loaded: Callable[[Loaded], None] | None = None,
) -> Adapter:
    """The network, initialised from the run's seed and then from `source`; the global random state is left as found.

    rows: the training images, by whose classes the loss may be weighted; without them the network predicts only.  ranks: the processes
    that share a batch out, where there are several.
    """
    task = replace(task_of(config, labels), trains=rows is not None)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(config.seed, "weights"))
        network = build_network(config.model, task)
    if source:
        loaded = load(network, source, config.model, labels.names)
        if on_loaded:
            on_loaded(loaded)
    loss = None if rows is None else make_loss(config.loss, labels, class_weights(config.loss, rows, labels), ranks.world if ranks else 1)
    model = adapt(network, config.model, task, loss)
    hasten(model.net)
    if config.train.channels_last:
        lay_channels_last(model)
    return model


def lay_channels_last(model: Adapter) -> None:
    """The memory format of the weights, in place; values and names stay."""
    axes = model.task.spatial_dims + 2
    for parameter in model.net.parameters():  # not by `to`, which stops at a parameter of four axes in a network of three dimensions
        if parameter.ndim == axes:
            parameter.data = parameter.data.contiguous(memory_format=LAYOUTS[axes])


def build_training(
    config: Config,
    manifest: Manifest,
    split: Split,
    data_root: Path,
    fabric: Fabric,
    on_decode: OnDecode | None = None,
    source: Source | None = None,
    on_loaded: Callable[[Loaded], None] | None = None,
) -> Training:
    """Decode both sets, build network, optimiser and sampler. `config` must be resolved, and `fabric` of it.

    source: what the network starts from; on_loaded is told what became of it.
    """
    check_objects(config)
    check_grid(config, manifest)
    check_shared(config, fabric.world_size)
    model = build_model(config, manifest.labels, select(manifest, split, "train"), Ranks(fabric), source, on_loaded)
    check_tunable(config, model, fabric.world_size)  # before the images are decoded, which may take long
    with fabric.rank_zero_first(local=True):  # the others of a machine find the decoded images there
        train_set, val_set = _decode_both(config, manifest, split, data_root, on_decode)
        index = patch_index(config, train_set, on_decode)
    if config.train.compile == "always":
        model.compile_training()
    wrapped, optimizer = fabric.setup(model, make_optimizer(config.optim, model))
    average = WeightAverage(model, config.optim.ema_decay) if config.optim.ema_decay else None
    weights = sampling_weights(config, train_set)
    shares = _shares(config, train_set, weights)
    return Training(config, fabric, wrapped, optimizer, train_set, val_set, weights, index, shares, average)


def check_tunable(config: Config, model: Adapter, world: int = 1) -> None:
    """ConfigError where the network has not the parts that the config's fine-tuning is of, or cannot learn from so few images at once."""
    if config.optim.head_lr_multiplier != 1 and not model.network.head:
        raise ConfigError("optim.head_lr_multiplier", f"{config.model.name} names no head", _name_parts(config, "head"))
    wants = {"optim.layer_decay": config.optim.layer_decay != 1, "model.freeze": config.model.freeze == "encoder"}
    wants["model.batch_norm"] = config.model.batch_norm == "frozen"
    for key, wanted in wants.items():
        if wanted and not model.network.encoder:
            raise ConfigError(key, f"{config.model.name} names no encoder", _name_parts(config, "encoder"))
    if config.train.batch_size // world < model.network.least_batch:
        least = model.network.least_batch
        rule = f"{config.model.name} needs {least} images or more in a batch: it cannot train on fewer, as a batch norm of one value cannot"
        raise ConfigError("train.batch_size", rule + (f", and {world} processes share it" if world > 1 else ""), "raise it")
    if config.model.weights is None and (wants["model.freeze"] or wants["model.batch_norm"]):
        log.warning("model.freeze or model.batch_norm holds an encoder that starts at random: model.weights names nothing")


def _name_parts(config: Config, key: str) -> str:
    return f"name its modules in model.{key}" if key in type(config.model).model_fields else "leave the key out"


def trained_on(network: NetworkConfig) -> Literal["components", "annotated"] | None:
    """What the objects are that a network learns from; None where it learns from classes alone."""
    return getattr(network, "instances", "components") if network.objects else None


def check_objects(config: Config) -> None:
    """ConfigError where several passes should make one result, and the network has no probabilities of which they could."""
    if not config.model.objects:
        return
    rule = f"{config.model.name} gives objects, not probabilities, and so has no"
    if config.infer.flip_tta:
        raise ConfigError("infer.flip_tta", f"{rule} mean of two", "set it to false")
    if config.sampling.patch_px is not None:
        raise ConfigError("sampling.patch_px", f"{rule} mean of overlapping windows", "leave it out; augment.crop shows parts, too")


def check_grid(config: Config, manifest: Manifest) -> None:
    """ConfigError or ManifestError where the config is of photographs and the manifest of volumes, or the other way round, or where the
    patches are not of this grid."""
    if config.data.volume is None:
        refuse_volumes(manifest, list(manifest))
        check_patches(config.sampling, Size(*config.data.size_px), manifest.labels)
        return
    check_patch(config.sampling.patch_px)
    _check_mirrors(config, config.data.volume)
    if config.sampling.patch_px and len(config.sampling.patch_px) not in config.model.dims:
        fix = "choose one of those that `medseg zoo` lists as 3-D, or give the patch as H, W: then it learns from slices"
        raise ConfigError("model.name", f"{config.model.name} is of two dimensions, and sampling.patch_px has three sides", fix)
    check_names(config.sampling.centre_ratios, manifest.labels.names)
    if config.model.objects:
        raise ConfigError("model.name", f"{config.model.name} finds objects in photographs", "choose a network of per-pixel classes")
    if config.model.mean is not None:
        raise ConfigError("model.mean", "volumes come normalised, each by its own numbers", "leave it out; data.volume.channels says how")


def _check_mirrors(config: Config, volume: VolumeConfig) -> None:
    """ConfigError where the mean over mirror images is asked of volumes, and there are none."""
    if config.infer.flip_tta and not volume.mirrored(config.augment.flip_axes, len(config.sampling.patch_px or ())):
        rule = "the mirror images of volumes are along augment.flip_axes, which names no axis"
        rule += f" but {volume.depth_axis}, across the slices" if config.augment.flip_axes else ""
        raise ConfigError("infer.flip_tta", rule, "name one there, or set it to false")


def check_shared(config: Config, world: int) -> None:
    """ConfigError where several processes cannot train this: a batch not shared evenly, a loss that has no sums to add up."""
    rank_places(config.train.batch_size, 0, world, config.train.batch_size)
    if world > 1 and config.loss.name == "dice_topk" and config.loss.reduction == "batch":
        rule = f"the worst pixels of a batch are not found by {world} processes that hold a part of it each"
        raise ConfigError("loss.reduction", rule, "set loss.reduction=image, or train in one process")


def decode_part(
    config: Config, manifest: Manifest, split: Split, part: str, data_root: Path, on_decode: OnDecode | None = None
) -> DecodedSet | VolumeSet:
    """One part of a split on the network's grid, from the cache where it is there."""
    rows, frame = select(manifest, split, part), Size(*config.data.size_px)
    if config.data.volume is not None:
        volumes = unprepared(manifest, rows, data_root, _store(config), config.data.volume)
        volumes.store.make_room(volumes.most)
        volumes.fill(_named(on_decode, part))
        return volumes
    return decode_all(manifest, rows, data_root, frame, Path(config.data.cache), config.data.cache_gib, _named(on_decode, part))


def _store(config: Config) -> VolumeStore:
    return VolumeStore(Path(config.data.cache), int(config.data.cache_gib * 2**30))


def _prepare_both(
    config: Config, volume: VolumeConfig, manifest: Manifest, split: Split, data_root: Path, on_decode: OnDecode | None
) -> tuple[VolumeSet, VolumeSet]:
    """The same of volumes."""
    store = _store(config)
    train_set, val_set = (unprepared(manifest, select(manifest, split, part), data_root, store, volume) for part in ("train", "val"))
    positions = _positions_file(config, train_set)
    most = most_bytes(len(train_set), manifest.labels.num_classes, train_set.largest) if positions else 0
    store.make_room(train_set.most | val_set.most, positions, most)
    train_set.fill(_named(on_decode, "train"))
    val_set.fill(_named(on_decode, "val"))
    return train_set, val_set


def _decode_both(
    config: Config, manifest: Manifest, split: Split, data_root: Path, on_decode: OnDecode | None
) -> tuple[DecodedSet, DecodedSet] | tuple[VolumeSet, VolumeSet]:
    """Train and val; that the split has both and the cache can hold all of them is told before an hour of decoding."""
    if config.data.volume is not None:
        return _prepare_both(config, config.data.volume, manifest, split, data_root, on_decode)
    channels = CHANNELS + (trained_on(config.model) == "annotated")
    cache = Cache(Path(config.data.cache), Size(*config.data.size_px), int(config.data.cache_gib * 2**30), channels)
    train_set, val_set = (undecoded(manifest, select(manifest, split, part), data_root, cache) for part in ("train", "val"))
    positions = _positions_file(config, train_set)
    most = most_bytes(len(train_set), manifest.labels.num_classes, cache.frame) if positions else 0
    cache.make_room([*train_set.keys, *val_set.keys], positions, most)
    train_set.fill(_named(on_decode, "train"))
    val_set.fill(_named(on_decode, "val"))
    return train_set, val_set


def _named(on_decode: OnDecode | None, part: str) -> Callable[[int, int], None] | None:
    return None if on_decode is None else partial(on_decode, part)


def sampling_weights(config: Config, train_set: DecodedSet | VolumeSet) -> np.ndarray:
    """The sampler's weight of each training image; warns where a balanced sampler would draw like a uniform one."""
    present = presence(train_set.rows, train_set.labels)
    weights = image_weights(config.sampling, present)
    if config.sampling.name != "uniform" and equals_uniform(weights, present):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(train_set.labels.foreground, present.mean(axis=0), strict=True))
        log.warning("sampling %s equals uniform here: images with each class: %s", config.sampling.name, shares)
    return weights


def patch_index(config: Config, train_set: DecodedSet | VolumeSet, on_decode: OnDecode | None = None) -> PatchIndex | None:
    """Where the pixels of each class lie, for crops around them; made once for the same masks, and kept beside the decoded images."""
    if config.sampling.patch_px is None:
        return None
    path, labels, frame = _positions_file(config, train_set), train_set.labels, train_set.frame
    if path is None:
        return PatchIndex.anywhere(frame)
    index = read_index(path, len(train_set), labels.names, frame)
    if index is None:
        index = build_index(_mask_keys(train_set), train_set.mask, labels, frame, _named(on_decode, "class positions"), path)
    check_centres(config.sampling, index)
    return index


def _positions_file(config: Config, train_set: DecodedSet | VolumeSet) -> Path | None:
    """Where the index of this set is kept; None where crops are laid around no class."""
    if config.sampling.patch_px is None or not config.sampling.centre_ratios:
        return None
    labels = train_set.labels
    grid = (train_set.keys,) if isinstance(train_set, VolumeSet) else tuple(train_set.frame)
    facts = (INDEX_VERSION, _mask_keys(train_set), labels.names, labels.ignore_id, grid)
    folder = train_set.store if isinstance(train_set, VolumeSet) else train_set.cache
    return folder.positions_path(hashlib.sha256(repr(facts).encode()).hexdigest()[:32])


def _mask_keys(train_set: DecodedSet | VolumeSet) -> list[str]:
    return [str(row.mask_sha256) for row in train_set.rows]


def _shares(config: Config, train_set: DecodedSet | VolumeSet, weights: np.ndarray) -> dict[str, float]:
    """What the training set holds and what the sampler is asked for, beside which an epoch's realised shares are read."""
    present, labels = presence(train_set.rows, train_set.labels), train_set.labels
    pixels = train_set.pixel_counts() if isinstance(train_set, VolumeSet) else pixel_counts(train_set.rows, labels, train_set.frame)
    held = set_shares(present, pixels, labels)
    return held | asked(config.sampling, weights, present, labels)
