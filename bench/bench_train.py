"""How fast training is, against MONAI's tutorial recipe on the same images, network, batch and size, in turn in one run.

python bench/bench_train.py [--data-root DIR] [--turns 12] [--set train.precision=float32 ...] [--record]

DIR holds images/, masks/ (ids of one class) and pairs.csv, as tongue600 does; without it tongues are drawn.

Five programs take turns of a few seconds (bench/turns.py): the peer (bench/monai_tutorial.py: float32, eager, its images in memory),
medseg's training eager and compiled (`engine.train.train` as `medseg train` runs it, validation left out), and of both the optimiser steps
alone, on one batch that stays where it is. `of_pure_compute` is the lesser of the trainings' shares of these. `first_batch_s`: from the
config to the first batch, decoded images there. Memory is the peak of the anonymous pages (RssAnon) up to the end of the turns, tracking
off (bench_memory.py measures whole trainings). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from record import command_line, tell
from turns import in_turn

from medseg.images import read_image, read_mask, write_image, write_mask
from medseg.labels import LabelSet
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.table import read_manifest
from medseg.phantom.write import write_phantoms
from medseg.types import Size

HERE = Path(__file__).parent
SIZE, BATCH, DRAWN, TURN_S = 256, 8, 200, 20.0
MODES = ("eager", "eager_pure", "compiled", "compiled_pure")
EXPERIMENT = """
data: {{manifest: {folder}/v1, split: official, size_px: [{size}, {size}], cache: {folder}/cache}}
train: {{epochs: 1, batch_size: {batch}}}
tracking: {{enabled: false}}
"""


def drawn(folder: Path) -> Path:
    """Drawn tongues in the layout of tongue600, their coating and lesions left out."""
    write_phantoms(folder / "phantom", DRAWN, 0, Size(400, 400), jobs=0)
    manifest = read_manifest(import_labelme(folder / "phantom", folder / "drawn").manifest_folder)
    for name in ("images", "masks"):
        (folder / "root" / name).mkdir(parents=True)
    lines = ["image,mask,split"]
    for place, row in enumerate(manifest):
        image, mask = f"images/{row.sample_id}.png", f"masks/{row.sample_id}.png"
        write_image(folder / "root" / image, read_image(manifest.image_path(row, folder / "phantom")))
        ids = read_mask(manifest.mask_path(row, folder / "phantom"))
        write_mask(folder / "root" / mask, (ids > 0).astype(ids.dtype), LabelSet.of("tongue").palette)
        lines.append(f"{image},{mask},{'train' if place < 0.8 * DRAWN else 'val' if place < 0.9 * DRAWN else 'test'}")
    (folder / "root" / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "root"


def prepare(data_root: Path, folder: Path) -> Path:
    """A manifest with the peer's split, and an experiment on it."""
    medseg = [sys.executable, "-m", "medseg", "manifest"]
    masks = ["--images", str(data_root / "images"), "--masks", str(data_root / "masks")]
    subprocess.run([*medseg, "import", "masks", *masks, "--classes", "tongue", "--out", str(folder / "v1")], check=True, stdout=sys.stderr)
    source = ["--from", str(data_root / "pairs.csv"), "--name", "official"]
    subprocess.run([*medseg, "split", str(folder / "v1"), *source], check=True, stdout=sys.stderr)
    path = folder / "bench.yaml"
    path.write_text(EXPERIMENT.format(folder=folder, size=SIZE, batch=BATCH))
    return path


def peer(data_root: Path) -> list[str]:
    """The recipe, a line a step."""
    source = ["--pairs", str(data_root / "pairs.csv"), "--root", str(data_root)]
    return [
        sys.executable,
        str(HERE / "monai_tutorial.py"),
        *source,
        "--size",
        str(SIZE),
        "--batch",
        str(BATCH),
        "--epochs",
        "1000",
        "--steps",
    ]


def ours(experiment: Path, data_root: Path, mode: str, overrides: Sequence[str], script: str = __file__) -> list[str]:
    """`run_steps`, as a program that `script` runs."""
    settings = ["--set", *overrides] if overrides else []
    return [sys.executable, script, "--data-root", str(data_root), "--mode", mode, "--experiment", str(experiment), *settings]


def run_steps(experiment: Path, data_root: Path, mode: str, overrides: Sequence[str]) -> None:
    """Train without end, a line a step; first the seconds to the first batch. mode: eager or compiled, and _pure on one batch alone."""
    from medseg.build import build_training, make_fabric, resolve
    from medseg.config import load_config
    from medseg.data.realised import Seen
    from medseg.engine.course import Course
    from medseg.engine.train import optimise, train
    from medseg.manifest.table import read_manifest, read_split
    from medseg.runfolder import create_run

    compiled = "always" if mode.startswith("compiled") else "never"
    endless = ["train.epochs=100000", "train.validate_every=100000", "train.preview_every=100000", f"train.compile={compiled}"]
    config = resolve(load_config(experiment, [*endless, *overrides]))
    started = time.perf_counter()
    manifest = read_manifest(Path(config.data.manifest))
    training = build_training(config, manifest, read_split(manifest, config.data.split), data_root, make_fabric(config))
    course = Course(Seen(training.train_set.labels.num_classes))
    first = next(training.batches(training.draws(1), 1))
    print(json.dumps({"first_batch_s": time.perf_counter() - started, "precision": config.train.precision}), flush=True)
    if mode.endswith("pure"):
        training.model.train()
        while True:
            optimise(training, [first], config.optim.lr, course)
            print("step", flush=True)
    done = 0

    def on_step(step: int, val_score: float | None) -> None:
        nonlocal done
        if step > done:  # the last of an epoch is told twice
            done = step
            print("step", flush=True)

    train(training, create_run(experiment.parent / "runs", "bench", mode, 0), course, on_step)


def compare(data_root: Path | None, turns: int, overrides: Sequence[str]) -> dict[str, object]:
    """All five in turn; ratios of their speeds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data_root = data_root or drawn(folder)
        experiment = prepare(data_root, folder)
        in_turn({"fill": ours(experiment, data_root, "eager_pure", overrides)}, folder, 1, 0.1)  # decodes
        commands = {"peer": peer(data_root)} | {mode: ours(experiment, data_root, mode, overrides) for mode in MODES}
        steps_per_s, programs = in_turn(commands, folder, turns, TURN_S)
        told = json.loads(programs["eager"].lines[0])
    speed = {name: BATCH * value for name, value in steps_per_s.items()}
    pure = {name: speed[name] / speed[f"{name}_pure"] for name in ("eager", "compiled")}
    return {
        "ratio_eager": round(speed["eager"] / speed["peer"], 2), "ratio_compiled": round(speed["compiled"] / speed["peer"], 2),
        "of_pure_compute": round(min(pure.values()), 3), "of_pure_compute_eager": round(pure["eager"], 3),
        "of_pure_compute_compiled": round(pure["compiled"], 3), "precision": told["precision"],
        "first_batch_s": round(told["first_batch_s"], 2), "turns": turns,
        **{f"{name}_images_per_s": round(value, 2) for name, value in speed.items()},
        **{f"{name}_peak_mib": round(programs[name].peak.mib) for name in ("peer", "eager", "compiled")},
    }  # fmt: skip


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--set", nargs="+", default=[], help="overrides of the experiment, medseg's side only")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--experiment", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        run_steps(options.experiment, options.data_root, options.mode, options.set)
    figures = compare(options.data_root, options.turns, options.set)
    where = (" --data-root tongue600" if options.data_root else "") + "".join(f" --set {one}" for one in options.set)
    tell("Training against MONAI's tutorial recipe", f"python bench/bench_train.py{where}", figures, options.record)
