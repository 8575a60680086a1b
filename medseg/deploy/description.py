"""model.json: what stands beside an exported network, enough to use it in any language.

EXPORT/
  model.json      this description
  model.onnx      image (B, 3, H, W) float32 in [0, 1] -> probs (B, K, H, W) float32; normalisation and softmax are in it
  model.pt2       the same as a program of torch.export, where that was asked for
  MODEL_CARD.md   data, split, scores with intervals, protocol, limits of use

A photograph comes upright (EXIF applied) as RGB, is scaled by bilinear interpolation (antialiased where it shrinks) to the largest place
of its aspect in the frame, centred, black around it. The probabilities of that place are brought to the photograph's own pixels
(bilinear, pixel centres), the most probable class is taken, and `steps` are done to the mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg.errors import ExportError
from medseg.files import read_json, sha256_file, write_json
from medseg.labels import Colour, LabelSet
from medseg.postprocess import Kind, Step, Unit
from medseg.types import Size

NAME = "model.json"
CARD = "MODEL_CARD.md"
GRAPHS = {"onnx": "model.onnx", "torch-export": "model.pt2"}
INPUT, OUTPUT = "image", "probs"
AGAIN = "export the run again: medseg export RUN"
Side = Annotated[int, Field(ge=1, le=8192)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Frame(_Part):
    """What the network is shown. window: the sides it was trained on, where that were crops; `overlap` of theirs then, weights Gaussian."""

    height_px: Side
    width_px: Side
    window_px: tuple[Side, Side] | None = None
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mirrored_too: bool = False


class StepPart(_Part):
    """One step of post-processing, as `medseg.postprocess` has it."""

    name: str
    kind: Kind
    least: float = 0.0
    unit: Unit = "px"


class Graph(_Part):
    """A file of the network. varying: its axes that may have any size.  int8: weights and activations of 8 bits."""

    file: str = Field(pattern=r"^[\w-][\w.-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    opset: int | None = None
    varying: tuple[Literal["batch", "height", "width"], ...] = ()
    int8: bool = False


class Origin(_Part):
    """Where the network comes from: enough to find the run, its data and its code again."""

    run: str
    dataset: str
    network: str
    checkpoint: str
    epoch: int | None = None
    commit: str | None = None
    dirty: bool | None = None
    medseg: str
    packages: dict[str, str] = {}
    manifest_sha256: str | None = None
    split: str | None = None
    split_sha256: str | None = None
    weights_sha256: str
    config_sha256: str
    exported: str


class Description(_Part):
    """All that is known of an exported network."""

    format: Literal[1] = 1
    graphs: dict[Literal["onnx", "torch-export"], Graph]
    labels: LabelSet
    colours: dict[str, Colour]
    frame: Frame
    steps: tuple[StepPart, ...] = ()
    protocol: str = ""
    origin: Origin

    @property
    def size(self) -> Size:
        """The frame's."""
        return Size(self.frame.height_px, self.frame.width_px)

    @property
    def post_steps(self) -> tuple[Step, ...]:
        """What is done to a mask afterwards."""
        return tuple(Step(**one.model_dump()) for one in self.steps)

    def colour_of(self, name: str) -> Colour:
        """Of a class or region: the one that is stated, else that of the labels."""
        return self.colours.get(name) or self.labels.colour_of(name)

    @property
    def palette(self) -> np.ndarray:
        """uint8 (256, 3): RGB by class id; ids that are no class have the labels' colours."""
        table = self.labels.palette.copy()
        for class_id, name in self.labels.classes.items():
            table[class_id] = self.colour_of(name)
        return table

    def write(self, folder: Path) -> None:
        """model.json of an export."""
        write_json(folder / NAME, self.model_dump(mode="json"))

    def graph_file(self, folder: Path, kind: Literal["onnx", "torch-export"] = "onnx") -> Path:
        """The network's file, unchanged since the export; ExportError where it is not there, or another."""
        if kind not in self.graphs:
            raise ExportError(folder, f"holds no {kind} graph", f"medseg export RUN --format {kind}")
        path = folder / self.graphs[kind].file
        if not path.is_file():
            raise ExportError(path, "there is no such file", AGAIN)
        if sha256_file(path) != self.graphs[kind].sha256:
            raise ExportError(path, "is not the file that model.json describes (another SHA-256)", "copy the whole folder again")
        return path


def is_export(folder: Path) -> bool:
    """Whether a folder is one that `medseg export` wrote."""
    return (folder / NAME).is_file()


def read_description(folder: Path) -> Description:
    """model.json of an export; ExportError where there is none, or it is not of this format."""
    path = folder / NAME
    if not path.is_file():
        raise ExportError(folder, "holds no model.json, so it is no export", AGAIN)
    content: Any = read_json(path, ExportError, AGAIN)
    try:
        found = Description.model_validate(content)
    except ValidationError as cause:
        first = cause.errors()[0]
        raise ExportError(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", AGAIN) from None
    foreground = set(found.labels.foreground)
    if stray := [step.name for step in found.steps if step.name not in foreground]:
        raise ExportError(path, f"its steps name {stray[0]!r}, which is no class", AGAIN)
    return found
