"""Tensors in safetensors, written whole or not at all, with what they are in the file's own header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medseg.errors import CheckpointError
from medseg.files import atomic_path
from medseg.models.contract import not_finite

FORMAT = "medseg-checkpoint-1"
WAY_OUT = "train again, or take the run's other checkpoint (best, last)"


def save_checkpoint(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write a model's weights; `facts` (epoch, score, classes, ...) go into the header as JSON."""
    write_tensors(path, model.state_dict(), facts)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """A safetensors file: temporary file, fsync, rename. CheckpointError where the disk is full; what stood at `path` stays then."""
    on_host = _unshared({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    with atomic_path(path) as temporary:
        try:
            # one key only: safetensors writes several in random order, and equal runs shall have equal bytes
            save_file(on_host, temporary, metadata={FORMAT: json.dumps(facts, sort_keys=True)})
        except SafetensorError as cause:  # how its Rust tells what the operating system says
            reason = str(cause).rpartition(": ")[2]
            raise CheckpointError(path, f"cannot be written ({reason})", "make room there; the file that stood there is kept") from None


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own, as safetensors asks: some libraries know one weight by two names."""
    seen = set[int]()
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            tensors[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    return tensors


def read_checkpoint(path: Path, way_out: str = WAY_OUT) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, facts) of a checkpoint; CheckpointError, with this way out, where it is missing, truncated or not ours.

    The tensors may be views of the file: who keeps one keeps the file's space.
    """
    if not path.is_file():
        raise CheckpointError(path, "there is no such checkpoint", "the checkpoints are best and last, written after the first epoch")
    try:
        with safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (safe_open is no dict)
        facts = json.loads(header[FORMAT]) if FORMAT in header else None
    except (SafetensorError, OSError, KeyError, ValueError) as cause:
        raise CheckpointError(path, f"truncated, or not a checkpoint ({str(cause).splitlines()[0]})", way_out) from None
    if facts is None:
        raise CheckpointError(path, f"a safetensors file, but not of format {FORMAT}", way_out)
    return weights, facts


def load_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load a checkpoint into a model and return its facts; CheckpointError where names or shapes differ."""
    weights, facts = read_checkpoint(path)
    take_weights(model, weights, path)
    return facts


def take_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path, way_out: str = WAY_OUT) -> None:
    """Copy weights into a model; CheckpointError, naming their file, where names or shapes differ or a value is no number."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(weights)) or [name for name in own if own[name].shape != weights[name].shape]
    if wrong:
        raise CheckpointError(path, f"made for another network ({len(wrong)} tensors differ, first {wrong[0]!r})", way_out)
    if odd := not_finite(weights, own):
        rule = f"its {odd!r} holds values that are not finite: the file is damaged, or the training came apart"
        raise CheckpointError(path, rule, f"copy the file again, or {way_out}")
    with torch.no_grad():
        model.load_state_dict(weights)
