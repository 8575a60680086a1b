"""DPT, SegFormer and Mask2Former of Hugging Face's transformers. From scratch they are smaller than the library's defaults, and no network
is contacted; with `hf:` weights they are as the repository's config.json says, which is then written into the run's config.

Differences from the library:
- sides are padded to what the network divides by, where the library scales every image to one size;
- DPT takes grids that are not square (the library's semantic network takes the root of the number of patches for both sides), and its
  auxiliary head says its logits, which the library keeps to itself;
- Mask2Former's masks are brought to the image's own grid, as in the paper's code, where the library's post-processing goes by 384 x 384;
  the scores of the classes are divided by their sum. Pixels that are ignored are of no class's mask, as in the library, so queries learn
  that nothing is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
import transformers
from torch import Tensor, nn

from medseg.config import NetworkConfig
from medseg.config.model import DptConfig, HuggingFaceConfig, Mask2FormerConfig
from medseg.errors import ConfigError, WeightsError
from medseg.files import sha256_file
from medseg.models.contract import Adapter, Heads, Network, Task, fitting, padded, resized, retire
from medseg.models.weights import Source, first_words
from medseg.models.zoo import Entry
from medseg.types import Prediction

SWIN_STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN_PX = 32  # by which Mask2Former's encoder divides a side
FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PICKLED = (
    "pytorch_model.bin",
    "pytorch_model-*.bin",
    "pytorch_model.bin.index.json",
)  # of old repositories; read without running any of it
DPT_SCRATCH = {
    "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "neck_hidden_sizes": [32, 64, 128, 192],
    "fusion_hidden_size": 64,
}  # fmt: skip
MASK2FORMER_SCRATCH = {
    "encoder_layers": 3, "decoder_layers": 4, "hidden_dim": 128, "feature_size": 128, "mask_feature_size": 128,
    "encoder_feedforward_dim": 512, "dim_feedforward": 512, "num_queries": 20, "train_num_points": 4096,
    "backbone_config": {"model_type": "swin", "embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]},
}  # fmt: skip


class Kind(NamedTuple):
    """How a network is made. config, model: classes of transformers.  scratch: keys of its configuration that differ from the library's.

    ours: keys that are no one's choice, as the task, this module or another key of the section sets them.
    """

    config: str
    model: str
    scratch: Mapping[str, Any]
    ours: frozenset[str]
    wrap: Callable[[Any], Network]

    @property
    def config_class(self) -> Any:
        """Of transformers, which imports it only now."""
        return getattr(transformers, self.config)

    @property
    def model_class(self) -> Any:
        """As config_class; it takes seconds."""
        return getattr(transformers, self.model)


def build(config: NetworkConfig, task: Task) -> Network:
    """A fresh network; ConfigError where the library cannot make one of the architecture."""
    assert isinstance(config, HuggingFaceConfig)
    kind = KINDS[config.name]
    settings = _merged(kind.scratch, _checked(config.architecture, kind)) | _settled(config, task)
    if "backbone_config" in settings:
        settings["backbone_config"] |= {"num_channels": task.in_channels, "out_features": SWIN_STAGES}
    try:
        with _quiet():
            net = kind.model_class(kind.config_class(**settings))
            if config.architecture:
                _try(net, task)
    except Exception as cause:  # of many kinds: the library checks types only, and torch the rest
        if not config.architecture:
            raise
        rule = f"{config.name} cannot be built of it ({first_words(cause)})"
        raise ConfigError("model.architecture", rule, f"see transformers.{kind.config}") from None
    return kind.wrap(net)


def _settled(config: HuggingFaceConfig, task: Task) -> dict[str, Any]:
    """What the task and the section's other keys say, by the library's names."""
    settled: dict[str, Any] = {"num_labels": task.num_classes}
    if isinstance(config, DptConfig):
        weight = config.auxiliary_weight
        settled |= {"use_auxiliary_head": weight > 0, "auxiliary_loss_weight": weight}
    if not isinstance(config, Mask2FormerConfig):  # it has them in its encoder's configuration
        settled |= {"num_channels": task.in_channels}
    return settled


def _checked(architecture: Mapping[str, Any], kind: Kind) -> Mapping[str, Any]:
    """The architecture itself; ConfigError for a key that it cannot have: the library would keep it and not read it."""
    inner = architecture.get("backbone_config", {})
    if not isinstance(inner, Mapping) or inner.get("model_type", "swin") != "swin":
        raise ConfigError(
            "model.architecture.backbone_config", "the encoder is a Swin transformer", "give the keys of transformers.SwinConfig"
        )
    for where, given, known in (("", architecture, _keys(kind)), (".backbone_config", inner, _swin_keys())):
        for key in given:
            if key not in known:
                near = get_close_matches(key, known, 3) or sorted(known)
                raise ConfigError(f"model.architecture{where}", f"{kind.config} has no key {key!r} to choose", f"it has {', '.join(near)}")
    return architecture


def _keys(kind: Kind) -> set[str]:
    """The keys of the library's configuration that are a choice."""
    return _own_keys(kind.config_class) - kind.ours


def _swin_keys() -> set[str]:
    return (_own_keys(transformers.SwinConfig) | {"model_type"}) - {"num_channels", "_out_features", "_out_indices"}


def _own_keys(config_class: Any) -> set[str]:
    """Without those that every configuration has, of labels, versions and results."""
    common = {field.name for field in fields(transformers.PretrainedConfig)}
    return {field.name for field in fields(config_class)} - common


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` before `base`, also within the encoder's configuration."""
    merged = {**base, **over}
    if "backbone_config" in merged:
        merged["backbone_config"] = {**base.get("backbone_config", {}), **over.get("backbone_config", {})}
    return merged


def _try(net: nn.Module, task: Task) -> None:
    """Let a small image through, as many architectures can be made that do not run. In eval mode this draws and changes nothing."""
    with torch.inference_mode():
        net.eval()(torch.zeros(1, task.in_channels, 64, 64))
    net.train()


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers keeps its warnings and bars to itself: what became of each tensor is told by medseg.models.weights."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


# --- DPT


def _dpt(net: Any) -> Network:
    """Ranftl et al., ICCV 2021; the library's default is ViT-B with a neck of 256 features, from scratch this is ViT-Ti with 64."""
    # The last norm is of the class token's head, and the first fusion has nothing to add to.
    retire(net, "dpt.layernorm", "neck.fusion_stage.layers.0.residual_layer1")
    layers = tuple((f"dpt.encoder.layer.{place}",) for place in range(net.config.num_hidden_layers))
    head = ("head.head.4", *(("auxiliary_head.head.4",) if net.auxiliary_head is not None else ()))
    return Network(
        net,
        _dpt_call,
        divisor=net.config.patch_size,
        head=head,
        encoder=(("dpt.embeddings",), *layers),
        first_conv="dpt.embeddings.patch_embeddings.projection",
    )


def _dpt_call(net: Any, image: Tensor) -> Heads:
    """The library's forward, with the sides of the grid of patches, and with what the auxiliary head says."""
    height, width = (side // net.config.patch_size for side in image.shape[2:])
    states = net.dpt(image, output_hidden_states=True).hidden_states[1:]
    features = net.neck([state for place, state in enumerate(states) if place in net.config.backbone_out_indices], height, width)
    if not (net.training and net.auxiliary_head is not None):
        return Heads(net.head(features))
    return Heads(net.head(features), auxiliary={"auxiliary": (net.config.auxiliary_loss_weight, net.auxiliary_head(features[-1]))})


# --- SegFormer


def _segformer(net: Any) -> Network:
    """Xie et al., NeurIPS 2021; the library's default is the paper's smallest, MiT-B0."""
    stages = list[tuple[str, ...]]()
    for place, depth in enumerate(net.config.depths):
        stage = f"segformer.stages.{place}"
        *blocks, last = (f"{stage}.blocks.{block}" for block in range(depth))
        stages += [(f"{stage}.patch_embeddings",), *((block,) for block in blocks), (last, f"{stage}.layer_norm")]
    first = "segformer.stages.0.patch_embeddings.proj"
    return Network(net, _segformer_call, SWIN_PX, head=("decode_head.classifier",), encoder=tuple(stages), first_conv=first)


def _segformer_call(net: nn.Module, image: Tensor) -> Heads:
    return Heads(net(image).logits)


# --- Mask2Former


def _mask2former(net: Any) -> Network:
    """Cheng et al., CVPR 2022; from scratch its encoder is half as wide and deep as Swin-T, and its decoder has 3 layers of 20 queries."""
    swin = "model.pixel_level_module.encoder.swin"
    retire(net, f"{swin}.layernorm")  # each stage has a norm of its own
    stages = list[tuple[str, ...]]([(f"{swin}.embeddings",)])
    for place, depth in enumerate(net.config.backbone_config.depths):
        layer = f"{swin}.encoder.layers.{place}"
        *blocks, last = (f"{layer}.blocks.{block}" for block in range(depth))
        after = (f"model.pixel_level_module.encoder.hidden_states_norms.stage{place + 1}", f"{layer}.downsample")
        stages += [*((block,) for block in blocks), (last, *after[: 2 if place + 1 < len(SWIN_STAGES) else 1])]
    return Network(
        net,
        divisor=SWIN_PX,
        head=("class_predictor",),
        encoder=tuple(stages),
        first_conv=f"{swin}.embeddings.patch_embeddings.projection",
        settled=("criterion",),  # the weights of its classes' loss, of architecture.no_object_weight
        adapter=Mask2FormerNetwork,
    )


class Mask2FormerNetwork(Adapter):
    """Queries that each predict a class and a mask. It trains by the library's losses, on one mask of each class that an image shows."""

    def _loss_terms(self, image_BCHW: Tensor, mask_BHW: Tensor, objects_BHW: Tensor | None) -> dict[str, Tensor]:
        """The library's three losses, weighted as its configuration says, each summed over the layers of the decoder."""
        net: Any = self.net
        image = self._fitted(image_BCHW)
        out = net(image, output_auxiliary_logits=True)
        ids, masks = _one_mask_a_class(padded(mask_BHW, tuple(image.shape[2:]), self.task.ignore_id), self.task.ignore_id)
        with torch.autocast(image.device.type, enabled=False):  # it samples points of masks, which are float32
            auxiliary = [{name: values.float() for name, values in layer.items()} for layer in out.auxiliary_logits]
            terms = net.get_loss_dict(out.masks_queries_logits.float(), out.class_queries_logits.float(), masks, ids, auxiliary)
        summed = dict[str, Tensor]()
        for name, value in terms.items():
            kind = re.sub(r"^loss_|_\d+$", "", name)
            summed[kind] = summed[kind] + value if kind in summed else value
        return summed

    def _predict(self, image_BCHW: Tensor) -> Prediction:
        """What each query says a pixel is, summed over the queries; how sure it is that there is nothing is left out."""
        height, width = image_BCHW.shape[2:]
        image = self._fitted(image_BCHW)
        out = self.net(image)
        with torch.autocast(image.device.type, enabled=False):
            classes_BQK = out.class_queries_logits.float().softmax(-1)[..., :-1]
            masks_BQHW = resized(out.masks_queries_logits.float(), tuple(image.shape[2:])).sigmoid()[..., :height, :width]
            scores_BKHW = torch.einsum("bqk,bqhw->bkhw", classes_BQK, masks_BQHW) + torch.finfo(torch.float32).tiny  # their sum is not 0
        probs = scores_BKHW / scores_BKHW.sum(1, keepdim=True)
        return Prediction(probs, probs.argmax(1))

    def _fitted(self, image_BCHW: Tensor) -> Tensor:
        size = fitting(tuple(image_BCHW.shape[2:]), self.network.divisor, self.network.least)
        return padded(self._normalised(image_BCHW), size, 0.0)


def _one_mask_a_class(mask_BHW: Tensor, ignore_id: int) -> tuple[list[Tensor], list[Tensor]]:
    """Of each image the N classes that it shows, and their masks (N, H, W)."""
    ids = [present[present != ignore_id] for present in (mask_HW.unique() for mask_HW in mask_BHW)]
    return ids, [(mask_HW == present[:, None, None]).float() for mask_HW, present in zip(mask_BHW, ids, strict=True)]


_DPT_OURS = (
    "num_channels use_auxiliary_head auxiliary_loss_weight semantic_loss_ignore_index is_hybrid backbone_config backbone_featmap_shape "
    "neck_ignore_stages add_projection pooler_output_size pooler_act"
)
KINDS = {
    "dpt": Kind("DPTConfig", "DPTForSemanticSegmentation", DPT_SCRATCH, frozenset(_DPT_OURS.split()), _dpt),
    "segformer": Kind(
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        {},
        frozenset({"num_channels", "semantic_loss_ignore_index", "reshape_last_stage"}),
        _segformer,
    ),
    "mask2former": Kind(
        "Mask2FormerConfig",
        "Mask2FormerForUniversalSegmentation",
        MASK2FORMER_SCRATCH,
        frozenset({"ignore_value", "use_auxiliary_loss", "output_auxiliary_logits"}),
        _mask2former,
    ),
}


# --- published weights


def published(config: NetworkConfig, spec: str, task: Task) -> Source | None:
    """hf:OWNER/NAME, or hf: and a folder as `save_pretrained` writes it; None for others. Its configuration becomes the architecture.

    WeightsError where it cannot be had, or is of another network.
    """
    scheme, _, name = spec.partition(":")
    if scheme != "hf":
        return None
    assert isinstance(config, HuggingFaceConfig)
    kind = KINDS[config.name]
    folder, revision = _fetched(name)
    try:
        with _quiet(), torch.random.fork_rng():  # what the repository lacks is drawn, and dropped
            library = _library_config(folder, config, kind, spec)
            mean, deviation = _normalisation(folder, task.in_channels)
            state = _state(folder, kind.model_class)
    except WeightsError:
        raise
    except Exception as cause:  # of many kinds, from a missing file to a tensor of the wrong shape
        raise WeightsError(spec, f"cannot be read as {config.name} ({first_words(cause)})", how_to_place(name)) from None
    labels = tuple(str(library.id2label[place]) for place in range(library.num_labels))
    named = not all(re.fullmatch(r"LABEL_\d+", label) for label in labels)
    architecture = _merged(_plain(library, _keys(kind)), config.architecture)
    return Source(state, f"{spec}{revision}", mean, deviation, labels if named else None, {"architecture": architecture})


def _fetched(name: str) -> tuple[Path, str]:
    """The folder of the files, from the cache where they are there, and what to call their revision: the commit, or a folder's digests."""
    if Path(name).is_dir():
        files = sorted(Path(name).glob("*.safetensors")) or sorted(Path(name).glob("pytorch_model*.bin"))
        return Path(name), f" (sha256 {', '.join(sha256_file(path)[:12] for path in files)})" if files else ""
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
        if not list(folder.glob("*.safetensors")):
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*FILES, *PICKLED]))
    except Exception as cause:  # of many kinds: no such repository, a name that cannot be one, no network, a proxy's refusal
        raise WeightsError(f"hf:{name}", f"cannot be fetched ({first_words(cause)})", how_to_place(name)) from None
    return folder, f" (commit {folder.name[:12]})"


def how_to_place(name: str) -> str:
    """What to do where there is no network, or a folder is not what it should be."""
    if Path(name).is_dir():
        return (
            f"put config.json, preprocessor_config.json and model.safetensors of this network into {name}, as `save_pretrained` writes them"
        )
    files, cache = "config.json preprocessor_config.json model.safetensors", huggingface_hub.constants.HF_HUB_CACHE
    place = f"models--{name.replace('/', '--')}"
    return (
        f"where there is a network run `hf download {name} {files}` and copy the folder {place} of its cache to {cache}/{place}, "
        f"or put the files {files} into any folder and name it: model.weights=hf:/path/to/folder, "
        "or of `medseg predict zoo:NAME` --weights hf:/path/to/folder"
    )


def _library_config(folder: Path, config: HuggingFaceConfig, kind: Kind, spec: str) -> Any:
    """The repository's configuration; WeightsError where it is of a network that this one cannot be."""
    found = json.loads((folder / "config.json").read_text()).get("model_type")
    if found != kind.config_class.model_type:
        raise WeightsError(spec, f"holds a network of type {found!r}, and model.name is {config.name}", "name a repository of this network")
    library = kind.config_class.from_pretrained(folder, local_files_only=True)
    inner = getattr(library, "backbone_config", None)
    if getattr(library, "is_hybrid", False) or (inner is not None and inner.model_type != "swin"):
        raise WeightsError(
            spec, "has an encoder that is not offered here", "name one with a vision transformer (dpt) or Swin (mask2former)"
        )
    return library


def _state(folder: Path, model_class: Any) -> dict[str, Tensor]:
    """The tensors by the network's own names, whatever version of the library saved them; without those that the repository lacks."""
    safe = bool(list(folder.glob("*.safetensors")))
    net, told = model_class.from_pretrained(  # eager: the file's own choice could name a kernel of the hub, which is compiled code
        folder, use_safetensors=safe, weights_only=True, local_files_only=True, dtype=torch.float32, attn_implementation="eager",
        output_loading_info=True,
    )  # fmt: skip
    return {name: value for name, value in net.state_dict().items() if name not in told["missing_keys"]}


def _normalisation(folder: Path, channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation of an image in [0, 1], one number for all where the weights are of other channels; None where nobody says."""
    if not (folder / "preprocessor_config.json").is_file():
        return None, None
    processor: Any = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    brightest = 255 * (processor.rescale_factor if processor.do_rescale else 1)  # of what it normalises
    mean, deviation = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0], [1.0])
    if len(mean) != channels:
        mean, deviation = ([sum(each) / len(each)] for each in (mean, deviation))
    return tuple(each / brightest for each in mean), tuple(each / brightest for each in deviation)


def _plain(library: Any, keys: set[str]) -> dict[str, Any]:
    """Those keys of a configuration as YAML can say them."""
    values = {key: getattr(library, key) for key in sorted(keys)}
    if "backbone_config" in values:
        values["backbone_config"] = _plain(values["backbone_config"], _swin_keys())
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


LICENCE = "Apache-2.0"
PUBLISHED = {  # of ADE20K's classes, the ones of the field's tutorials; any other repository of the same network will do
    "dpt": "hf:Intel/dpt-large-ade",
    "segformer": "hf:nvidia/segformer-b0-finetuned-ade-512-512",
    "mask2former": "hf:facebook/mask2former-swin-small-ade-semantic",
}
_PAPERS = {"dpt": "Ranftl et al. 2021", "segformer": "Xie et al. 2021", "mask2former": "Cheng et al. 2022"}
ENTRIES = tuple(Entry(name, "transformers", paper, LICENCE, (PUBLISHED[name],)) for name, paper in _PAPERS.items())
