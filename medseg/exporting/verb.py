"""The verb export as a short story: a run in, a folder out that needs neither the run nor medseg."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from medseg.deploy.description import CARD, GRAPHS, Description, Frame, Graph, Origin, StepPart, is_export
from medseg.deploy.model import Model
from medseg.deploy.networks import Backend, open_network
from medseg.deploy.scored import are_of, read_scores, scored_name
from medseg.errors import ExportError
from medseg.exporting.card import card_of
from medseg.exporting.graph import FREEDOMS, OPSET, Axis, exported, write_onnx, write_program
from medseg.exporting.quantise import Int8, quantise
from medseg.files import read_json, sha256_file, staged_folder, write_text
from medseg.manifest.table import check_data_root
from medseg.metrics.protocol import Protocol
from medseg.models.contract import Adapter
from medseg.run import LoadedRun, load_run
from medseg.runfolder import RunFolder, open_run
from medseg.types import Size
from medseg.watching import PathLike, as_path

Format = Literal["onnx", "torch-export"]
Tell = Callable[[str], None]
FOLDER = "export"


@dataclass(frozen=True)
class Exported:
    """The folder that was written. int8: what calibration and val said, where 8 bits were asked for."""

    folder: Path
    description: Description
    int8: Int8 | None = None


def export(
    run: PathLike,
    out: PathLike | None = None,
    formats: tuple[Format, ...] = ("onnx",),
    int8: bool = False,
    data_root: PathLike | None = None,
    checkpoint: str = "best",
    overwrite: bool = False,
    tell: Tell | None = None,
) -> Exported:
    """Write a run's network, its description and its model card to `out` (RUN/export where not given), whole or not at all.

    int8: weights and activations of 8 bits, calibrated on train below `data_root`; refused where val IoU falls by more than 0.002.
    tell: is called with each step's name. ExportError for networks without probabilities, for volumes, and where a folder is in the way.
    """
    path, tell = Path(run), tell or (lambda step: None)
    target = Path(out) if out is not None else path / FOLDER
    _check_target(target, overwrite)
    _check_asked(formats, int8, path)
    root = check_data_root(as_path(data_root)) if int8 else None
    tell("loading the run")
    weights = _digest(path, checkpoint)
    loaded = load_run(path, checkpoint)
    network = check_exportable(loaded)
    with staged_folder(target) as folder:
        description = write_graphs(folder, loaded, network, formats, tell)
        found = None
        if int8:
            tell("calibrating on train, scoring val twice")
            found = quantise(folder, description, loaded, root)
            description = found.description
        if description.origin.weights_sha256 != weights:
            raise ExportError(path, f"its checkpoint {checkpoint} has changed meanwhile", "export it when its training has ended")
        description.write(folder)
        write_text(folder / CARD, card_of(loaded, description, found))
    return Exported(target, description, found)


def _digest(run: Path, checkpoint: str) -> str | None:
    """Of the weights, before they are read; None where there are none, which reading them tells."""
    path = open_run(run).checkpoint(checkpoint)
    return sha256_file(path) if path.is_file() else None


def _check_target(target: Path, overwrite: bool) -> None:
    """A folder is replaced only where it is an export."""
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not is_export(target)):
        raise ExportError(target, "is there already, and no export", "choose another --out")
    if is_export(target) and not overwrite:
        raise ExportError(target, "holds an export already", "choose another --out, or allow it with --overwrite")


def _check_asked(formats: tuple[Format, ...], int8: bool, run: Path) -> None:
    if unknown := [each for each in formats if each not in get_args(Format)]:
        raise ExportError("--format", f"there is no format {unknown[0]!r}", f"name {' or '.join(get_args(Format))}")
    if int8 and "onnx" not in formats:
        raise ExportError("--int8", "is of ONNX graphs", "add --format onnx")


def check_exportable(loaded: LoadedRun) -> Adapter:
    """The run's network in float32 on the processor; ExportError where it has no probabilities of photographs."""
    where = loaded.run.path
    if loaded.config.data.volume is not None:
        raise ExportError(where, "is of volumes, and exports are of photographs", "medseg predict RUN scan.nii.gz segments volumes")
    if loaded.config.model.objects:
        raise ExportError(where, "finds objects and has no probabilities of pixels", "medseg predict RUN segments photographs with it")
    network = loaded.model.network
    assert isinstance(network, Adapter)
    return network.float().cpu().eval()


def write_graphs(folder: Path, loaded: LoadedRun, network: Adapter, formats: tuple[Format, ...], tell: Tell) -> Description:
    """The graphs in `folder`, with every axis free that the network's code allows, and their description, which is not written.

    ExportError where a network cannot be exported, or an exported one gives other probabilities than the network itself.
    """
    frame, reason = Size(*(loaded.config.sampling.patch_px or loaded.config.data.size_px)), ""
    for varying in FREEDOMS:
        try:
            return describe(loaded, _graphs(folder, network, frame, varying, formats, tell))
        except (OSError, MemoryError):  # a full disk says nothing of the network
            raise
        except Exception as cause:  # torch's, its exporters', the network's own
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
    rule = f"its network cannot be exported as {' and '.join(formats)} ({reason})"
    raise ExportError(loaded.run.path, rule, "try another --format, or serve the run itself: medseg serve RUN --backend eager")


def _graphs(
    folder: Path, network: Adapter, frame: Size, varying: tuple[Axis, ...], formats: tuple[Format, ...], tell: Tell
) -> dict[Format, Graph]:
    tell("following the network's code")
    program = exported(network, frame, varying)
    for kind in formats:
        tell(f"writing {GRAPHS[kind]}")
        if kind == "onnx":
            write_onnx(folder / GRAPHS[kind], program, network, frame)
        else:
            write_program(folder / GRAPHS[kind], program)
    return {kind: _graph(folder / GRAPHS[kind], varying, OPSET if kind == "onnx" else None) for kind in formats}


def _graph(path: Path, varying: tuple[Axis, ...], opset: int | None) -> Graph:
    return Graph(file=path.name, sha256=sha256_file(path), opset=opset, varying=varying)


def describe(loaded: LoadedRun, graphs: dict[Format, Graph]) -> Description:
    """What model.json says of a run."""
    labels, passes = loaded.labels, loaded.passes
    height, width = loaded.config.data.size_px
    window = (passes.window[0], passes.window[1]) if passes.window else None
    description = Description(
        graphs=graphs,
        labels=labels,
        colours={name: labels.colour_of(name) for name in labels.names},
        frame=Frame(height_px=height, width_px=width, window_px=window, overlap=passes.overlap, mirrored_too=passes.mirror is not None),
        steps=tuple(StepPart(name=one.name, kind=one.kind, least=one.least, unit=one.unit) for one in loaded.steps),
        origin=_origin(loaded),
    )
    return _with_protocol(description, loaded.run)


def _origin(loaded: LoadedRun) -> Origin:
    run = loaded.run
    environment, digests = read_json(run.environment_json, ExportError), read_json(run.digests_json, ExportError)
    git: dict[str, Any] = environment.get("git") or {}
    checkpoint = str(loaded.facts["checkpoint"])
    return Origin(
        run=run.id,
        dataset=loaded.dataset.name,
        network=loaded.config.model.name,
        checkpoint=checkpoint,
        epoch=loaded.facts.get("epoch"),
        commit=git.get("commit"),
        dirty=git.get("dirty"),
        medseg=metadata.version("medseg"),
        packages={name: str(version) for name, version in (environment.get("packages") or {}).items()},
        manifest_sha256=digests.get("manifest_sha256"),
        split=digests.get("split"),
        split_sha256=digests.get("split_sha256"),
        weights_sha256=sha256_file(run.checkpoint(checkpoint)),
        config_sha256=sha256_file(run.config_yaml),
        exported=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _with_protocol(description: Description, run: RunFolder) -> Description:
    """With the rules of the scores of exactly this network on test, else on val; none where it was never scored."""
    for part in ("test", "val"):
        scores = read_scores(run, scored_name(part, description.origin.checkpoint))
        if scores is not None and are_of(scores, description):
            return description.model_copy(update={"protocol": Protocol.read(scores["protocol"], run.path).sentence()})
    return description


def model_of_run(run: PathLike, backend: Backend, scratch: Path, bfloat16: bool = False, checkpoint: str = "best") -> Model:
    """A run as a model without an export that stays: its graph goes to `scratch`, which may be removed once the model is closed."""
    loaded = load_run(run, checkpoint)
    description = write_graphs(scratch, loaded, check_exportable(loaded), ("onnx",), lambda step: None)
    network = open_network(description.graph_file(scratch), backend, bfloat16)
    return Model(description, network, card_of(loaded, description, None))
