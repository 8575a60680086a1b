"""How fast training is, against MONAI's tutorial recipe on the same images, network, batch and size, in turn in one run.

python bench/bench_train.py [--data-root DIR] [--rounds 1] [--record]

DIR holds images/, masks/ (ids of one class) and pairs.csv, as tongue600 does; without it tongues are drawn.

Each trainer runs in a process of its own: the peer (bench/monai_tutorial.py: float32, eager, its images in memory), medseg eager,
medseg compiled; its last epoch counts, so that caches are warm and everything is compiled. `of_pure_compute`: medseg's whole loop
against the same optimiser steps on one batch that stays where it is, in alternating blocks of a few steps. `first_batch_s`: from the
config to the first batch, decoded images there. Memory is the peak of the process's anonymous pages (RssAnon), tracking off. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

from anonymous import Peak
from record import proof

from medseg.images import read_image, read_mask, write_image, write_mask
from medseg.labels import LabelSet
from medseg.manifest.importers.labelme import import_labelme
from medseg.phantom.write import write_phantoms
from medseg.types import Size

HERE = Path(__file__).parent
SIZE, BATCH, BLOCK, DRAWN = 256, 8, 5, 200
EXPERIMENT = """
data: {{manifest: {folder}/v1, split: official, size_px: [{size}, {size}], cache: {folder}/cache}}
train: {{epochs: 1, batch_size: {batch}}}
tracking: {{enabled: false}}
"""


def drawn(folder: Path) -> Path:
    """Drawn tongues in the layout of tongue600, their coating and lesions left out."""
    write_phantoms(folder / "phantom", DRAWN, 0, Size(400, 400), jobs=0)
    manifest = import_labelme(folder / "phantom", folder / "drawn")
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


def peer(data_root: Path) -> dict[str, float]:
    """images/s of the recipe's last epoch of two, and its peak memory."""
    command = [sys.executable, str(HERE / "monai_tutorial.py"), "--pairs", str(data_root / "pairs.csv"), "--root", str(data_root)]
    process = subprocess.Popen([*command, "--size", str(SIZE), "--batch", str(BATCH), "--epochs", "2"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with Peak(process.pid) as peak:
        epochs = []
        for line in process.stdout:
            epochs.append(json.loads(line))
            if len(epochs) == 2:
                process.terminate()  # what follows is its test
    process.wait()
    return {"images_per_s": epochs[1]["images_per_s"], "peak_mib": peak.mib}


def ours(experiment: Path, data_root: Path, mode: str) -> dict[str, float]:
    """What `measure` prints, in a process of its own, and its peak memory."""
    command = [sys.executable, __file__, "--data-root", str(data_root), "--measure", mode, "--experiment", str(experiment)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with Peak(process.pid) as peak:
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found | {"peak_mib": peak.mib}


def measure(experiment: Path, data_root: Path, mode: str) -> dict[str, float]:
    """The training loop as it is, block by block in turn with its optimiser steps alone."""
    from medseg.build import build_training, resolve
    from medseg.config import load_config
    from medseg.data.loaders import train_batches
    from medseg.data.realised import Seen
    from medseg.engine.train import optimise
    from medseg.manifest.table import read_manifest, read_split

    config = resolve(load_config(experiment, [f"train.compile={'always' if mode == 'compiled' else 'never'}"]))
    started = time.perf_counter()
    manifest = read_manifest(Path(config.data.manifest))
    training = build_training(config, manifest, read_split(manifest, config.data.split), data_root)
    seen, rate = Seen(manifest.labels.num_classes), config.optim.lr
    training.model.train()
    batches = train_batches(training.train_set, training.draws(1), 1, training.loading)
    fixed = next(batches)
    first_batch_s = time.perf_counter() - started
    for _ in range(BLOCK):  # compile, and let each kernel be chosen
        optimise(training, fixed, rate)
    loop, pure, steps, wait = 0.0, 0.0, 0, _waiter(training.fabric.device.type)
    for _ in range(training.steps_per_epoch // BLOCK - 1):
        started = time.perf_counter()
        for _ in range(BLOCK):
            batch = next(batches)
            optimise(training, batch, rate)
            seen.add(batch.mask_BHW)
        wait()
        loop, steps = loop + time.perf_counter() - started, steps + BLOCK
        started = time.perf_counter()
        for _ in range(BLOCK):
            optimise(training, fixed, rate)
        wait()
        pure += time.perf_counter() - started
    settings = {"precision": config.train.precision, "device": config.train.device}
    return settings | {"images_per_s": steps * BATCH / loop, "pure_images_per_s": steps * BATCH / pure, "first_batch_s": first_batch_s}


def _waiter(device: str):  # type: ignore[no-untyped-def]
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def compare(data_root: Path | None, rounds: int) -> dict[str, object]:
    """All three in turn, as often as asked; ratios of their mean speeds."""
    found: dict[str, list[dict[str, float]]] = {"peer": [], "eager": [], "compiled": []}
    with tempfile.TemporaryDirectory() as temporary:
        data_root = data_root or drawn(Path(temporary))
        experiment = prepare(data_root, Path(temporary))
        ours(experiment, data_root, "eager")  # fills the cache of decoded images
        for _ in range(rounds):
            for name in found:
                found[name].append(peer(data_root) if name == "peer" else ours(experiment, data_root, name))
                print(name, json.dumps(found[name][-1]), file=sys.stderr, flush=True)
    speed = {name: fmean(run["images_per_s"] for run in runs) for name, runs in found.items()}
    pure = {name: speed[name] / fmean(run["pure_images_per_s"] for run in found[name]) for name in ("eager", "compiled")}
    memory = {f"{name}_peak_mib": round(max(run["peak_mib"] for run in runs)) for name, runs in found.items()}
    return {
        "ratio_eager": round(speed["eager"] / speed["peer"], 2), "ratio_compiled": round(speed["compiled"] / speed["peer"], 2),
        "of_pure_compute": round(min(pure.values()), 3), "of_pure_compute_eager": round(pure["eager"], 3),
        "of_pure_compute_compiled": round(pure["compiled"], 3), "precision": found["eager"][0]["precision"],
        "first_batch_s": round(max(run["first_batch_s"] for run in found["eager"]), 2), "rounds": rounds,
        **{f"{name}_images_per_s": round(value, 2) for name, value in speed.items()}, **memory,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--measure", choices=["eager", "compiled"], help=argparse.SUPPRESS)
    parser.add_argument("--experiment", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.experiment, options.data_root, options.measure)))
        sys.exit()
    figures = compare(options.data_root, options.rounds)
    if options.record:
        where = " --data-root tongue600" if options.data_root else ""
        proof("Training against MONAI's tutorial recipe", f"python bench/bench_train.py{where}", figures)
    print(json.dumps(figures))
