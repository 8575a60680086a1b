"""What runs an exported graph: ONNX Runtime or OpenVINO. Legend: B batch, K classes, H W space."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg.deploy.description import INPUT, OUTPUT
from medseg.errors import ExportError
from medseg.parallel import processors

Backend = Literal["openvino", "onnxruntime"]
SCALE = np.float32(1 / 255)


class Network(ABC):
    """What gives probabilities of images that are on its grid. backend: told with every answer.  Any thread may call it."""

    backend: str

    @abstractmethod
    def probs(self, image_BCHW: np.ndarray) -> np.ndarray:
        """float32 (B, K, H, W) of float32 (B, 3, H, W) in [0, 1]."""


class OnnxRuntimeNetwork(Network):
    """ONNX Runtime on the processor, all its threads."""

    backend = "onnxruntime"

    def __init__(self, graph: Path, threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_cpu_mem_arena = False  # it keeps the most that any request has needed, for as long as the server lives
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # its errors have no class of their own
            raise _unreadable(graph, cause) from None

    def probs(self, image_BCHW: np.ndarray) -> np.ndarray:  # noqa: D102
        found: np.ndarray = self._session.run([OUTPUT], {INPUT: image_BCHW})[0]
        return found


class OpenVinoNetwork(Network):
    """OpenVINO on the processor. It compiles a program for every shape it meets, so that each is planned for its cache; the last few stay.

    at_once: images that different threads may have worked on together, each by its share of the processors.
    """

    KEPT = 8  # a server meets a shape for every size of its batches

    def __init__(self, graph: Path, at_once: int = 1, bfloat16: bool = False):
        self.backend = "openvino bfloat16" if bfloat16 else "openvino"
        self._core = _core()
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY" if at_once == 1 else "THROUGHPUT",
            "NUM_STREAMS": at_once,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        self._lock, self._places = threading.Lock(), threading.Semaphore(at_once)
        self._programs: dict[tuple[int, ...], _Compiled] = {}
        try:
            self._model = self._core.read_model(graph)  # once: the file may be gone when a new shape is met
        except Exception as cause:
            raise _unreadable(graph, cause) from None

    def probs(self, image_BCHW: np.ndarray) -> np.ndarray:  # noqa: D102
        with self._places:
            program = self._program(image_BCHW.shape)
            request = program.request()
            found = np.array(request.infer([np.ascontiguousarray(image_BCHW)])[OUTPUT])
            program.idle.append(request)
        return found

    def _program(self, shape: tuple[int, ...]) -> _Compiled:
        with self._lock:
            program = self._programs.pop(shape, None)
            if program is None:
                model = self._model.clone()
                model.reshape(list(shape))
                program = _Compiled(self._core.compile_model(model, "CPU", self._options))
            self._programs[shape] = program  # the last used at the end
            while len(self._programs) > self.KEPT:
                self._programs.pop(next(iter(self._programs)))
            return program


@cache
def _core() -> Any:
    """The process's one Core, which is never closed.

    Each Core gives its thread a stack for signal handlers, and on its end the one that it found: of two that end in the order of their
    beginning the second gives back the first's, whose memory is gone by then, and the next signal that Python catches ends the process.
    """
    import openvino

    return openvino.Core()


class _Compiled:
    """A program of one shape. idle: requests that no thread is using; a deque's ends need no lock."""

    def __init__(self, program: Any):
        self._program, self.idle = program, deque[Any]()

    def request(self) -> Any:
        try:
            return self.idle.pop()
        except IndexError:
            return self._program.create_infer_request()


def _unreadable(graph: Path, cause: Exception) -> ExportError:
    said = " ".join(str(cause).split())[:200]
    return ExportError(graph, f"is no graph that can be run ({said})", "export the run again: medseg export RUN")


def open_network(graph: Path, backend: Backend, bfloat16: bool = False, at_once: int = 1) -> Network:
    """The graph in one of the two. at_once: images that different threads bring at one time; each then has its share of the processors."""
    if backend == "openvino":
        return OpenVinoNetwork(graph, at_once, bfloat16)
    return OnnxRuntimeNetwork(graph, threads=0 if at_once == 1 else max(1, processors() // at_once))
