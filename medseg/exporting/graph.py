"""A network -> a graph of probabilities, in ONNX or as a program of torch.export, held against the network itself.

Legend: B batch, K classes, H W space.
"""

from __future__ import annotations

import contextlib
import io
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from medseg.deploy.description import INPUT, OUTPUT
from medseg.deploy.networks import OnnxRuntimeNetwork
from medseg.models.contract import Adapter
from medseg.quieting import quieted
from medseg.types import Size

OPSET = 20
TOLERANCE = 1e-3  # of a probability: another order of the same float32 sums, through a hundred layers
Axis = Literal["batch", "height", "width"]
AXES: tuple[Axis, ...] = ("batch", "height", "width")
FREEDOMS: tuple[tuple[Axis, ...], ...] = (AXES, ("batch",), ())  # tried in this order: not every network's code allows every size
PLACES = {"batch": 0, "height": 2, "width": 3}
PATIENCE_S = 300.0  # of free sides torch makes formulas, and simplifies those of Swin's shifted windows without end
NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._export")


class DifferentError(Exception):
    """An exported network that does not answer as the network itself."""


class SlowError(Exception):
    """A network whose code is not followed in PATIENCE_S."""


class _LateError(BaseException):
    """No Exception: torch passes over those while it follows code."""


class Probabilities(nn.Module):
    """What is exported: image_BCHW in [0, 1] -> float32 probabilities (B, K, H, W)."""

    def __init__(self, network: Adapter):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Normalisation and softmax are in it."""
        probs: Tensor = self.network(image).probs_BKHW
        return probs


@dataclass(frozen=True)
class Program:
    """An exported network. varying: its axes that may have any size; the others have the frame's, and one image at a time."""

    program: ExportedProgram
    varying: tuple[Axis, ...]


def exported(network: Adapter, frame: Size, varying: tuple[Axis, ...]) -> Program:
    """The network as a program whose axes `varying` may have any size; whatever torch raises where it cannot follow the network's code,
    SlowError where free sides take it too long, DifferentError where it follows it to other probabilities."""
    wrapped = Probabilities(network).eval()
    found = Program(_traced(wrapped, frame, varying), varying)
    # without its guards, which take the example's odd sides for a rule: what it gives at other sizes is looked at instead
    check_same(found.program.module(check_guards=False), wrapped, frame, varying)
    return found


def _traced(wrapped: nn.Module, frame: Size, varying: Sequence[Axis]) -> ExportedProgram:
    """Of an example whose sides are no multiples of anything, so that no size is taken for granted."""
    batch = 2 if "batch" in varying else 1
    sides = tuple(side + 3 for side in frame) if "height" in varying else tuple(frame)
    shapes = {INPUT: {PLACES[axis]: Dim.DYNAMIC for axis in varying}}
    with torch.no_grad(), _exporting(), _at_most(PATIENCE_S) if "height" in varying else contextlib.nullcontext():
        return torch.export.export(wrapped, (torch.rand(batch, 3, *sides),), dynamic_shapes=shapes)


def check_same(program: Any, wrapped: nn.Module, frame: Size, varying: Sequence[Axis]) -> None:
    """DifferentError where the two give other probabilities, of the frame and of another size where the sides may vary."""
    for sides in dict.fromkeys([tuple(frame), (frame.height_px + 5, frame.width_px * 2 - 1) if "height" in varying else tuple(frame)]):
        image = torch.rand(3 if "batch" in varying else 1, 3, *sides, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            off = float((program(image) - wrapped(image)).abs().max())
        if not off <= TOLERANCE:
            raise DifferentError(f"probabilities differ by {off:.1e}")


def write_onnx(path: Path, found: Program, network: Adapter, frame: Size) -> None:
    """The program as an ONNX file, which ONNX Runtime answers as torch does; DifferentError or what they raise where it does not."""
    with _exporting():
        graph = torch.onnx.export(
            found.program, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, dynamo=True, verbose=False
        )
        assert graph is not None
        _name_axes(graph, found.varying)
        graph.save(str(path), external_data=False)
    runtime = OnnxRuntimeNetwork(path)
    wrapped = Probabilities(network).eval()
    check_same(lambda image: torch.from_numpy(runtime.probs(image.numpy())), wrapped, frame, found.varying)


def _name_axes(graph: Any, varying: Sequence[Axis]) -> None:
    """A reader of the file sees `batch`, `height`, `width` where torch writes s77."""
    shape = graph.model.graph.inputs[0].shape
    names = {str(shape[PLACES[axis]]): axis for axis in varying}
    for value in (*graph.model.graph.inputs, *graph.model.graph.outputs):
        value.shape = type(value.shape)([names.get(str(side), side) for side in value.shape])


def write_program(path: Path, found: Program) -> None:
    """The program as torch.export writes it, for torch, ExecuTorch and AOTInductor."""
    with _exporting():
        torch.export.save(found.program, str(path))


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """SlowError after so long: a formula that is simplified has no step at which it could be asked. In the main thread alone, and not on
    Windows; elsewhere it takes as long as it takes."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(number: int, frame: Any) -> None:
        raise _LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # and again: within a destructor the first would be lost
    try:
        yield
    except _LateError:
        raise SlowError(f"its code was not followed in {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """Without the exporters' own progress and their warnings to their makers. Attention step by step: the ONNX exporter takes the fused
    one apart into steps that do not fit the way in which its result lies in memory (Swin's in Mask2Former)."""
    with quieted(*NOISY), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")
        yield
