"""What an exported network is worth: one photograph, a folder, and whether it still answers as PyTorch does.

python bench/bench_deploy.py [--data-root TONGUE600] [--record]

The network is that of experiments/tongue/unet.yaml (256 x 256, one pass), trained for one step: its speed is any trained one's.
One photograph of 400 x 400, model loaded, in turns within one process: Pillow's resize, eager float32 PyTorch, softmax, interpolation to
the photograph's size, argmax; against medseg's own way with each backend. Medians of 60 turns: milliseconds, and the turns' ratios.
The folder: 600 photographs by bench/monai_predict.py and by `medseg predict EXPORT`, each a process of its own; images a second of the work
itself, and of the process with its imports. The loop writes no overlays, so medseg is measured without them, too, and that is the ratio.
Exits 1 where a number of the issue is missed: 2 times as fast, 3 times the images a second, 0.9999 of the pixels on 100 photographs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_train import drawn
from PIL import Image
from record import command_line, tell
from torch.nn.functional import interpolate

from medseg import api, images
from medseg.deployed import open_model
from medseg.engine.infer import predict_image
from medseg.exporting.verb import export
from medseg.run import LoadedRun, load_run
from medseg.runfolder import RunFolder
from medseg.types import Size

TURNS, SIDE, COUNT, COMPARED = 60, 400, 600, 100
FASTER, FOLDER_FASTER, AGREEMENT = 2.0, 3.0, 0.9999
STEP = ["train.epochs=1", "sampling.name=uniform", "sampling.draws_per_epoch=8", "infer.flip_tta=false", "tracking.enabled=false"]


def trained(scratch: Path, root: Path) -> RunFolder:
    """For one step."""
    manifest = scratch / "manifest"
    api.import_masks(root / "images", root / "masks", manifest, classes=["tongue"])
    api.given_split(api.read_manifest(manifest), "official", root / "pairs.csv")
    places = [f"data.manifest={manifest}", f"data.cache={scratch / 'cache'}"]
    return api.train("experiments/tongue/unet.yaml", STEP + places, root, scratch / "runs")


def photographs(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".bmp", ".png") and "mask" not in str(path).lower())


def plain(loaded: LoadedRun) -> Callable[[np.ndarray], np.ndarray]:
    """As one writes it by hand."""
    network, (height, width) = loaded.model.network.float(), loaded.config.data.size_px

    @torch.inference_mode()
    def mask(image_HWC: np.ndarray) -> np.ndarray:
        small = np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BILINEAR))
        logits = network.logits(torch.from_numpy(small.copy()).permute(2, 0, 1)[None].float() / 255)
        whole = interpolate(torch.softmax(logits, 1), size=image_HWC.shape[:2], mode="bilinear", align_corners=False)
        return whole.argmax(1)[0].to(torch.uint8).numpy()

    return mask


def seconds(way: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> float:
    started = time.perf_counter()
    way(image)
    return time.perf_counter() - started


def one_photograph(loaded: LoadedRun, folder: Path, path: Path) -> dict[str, Any]:
    """Median milliseconds of each way."""
    image = np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE)))
    torch.set_num_threads(2)
    with (
        open_model(folder, "openvino") as vino,
        open_model(folder, "onnxruntime") as ort,
        open_model(loaded.run.path, "compiled") as compiled,
    ):
        ways = {"plain PyTorch": plain(loaded)} | {
            each.network.backend: (lambda image, each=each: each.segment(image).mask_HW) for each in (vino, ort, compiled)
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                way(image)  # the threads of the way before it may still be awake
                taken[name].append(seconds(way, image))
    ms = {name: round(1000 * statistics.median(times), 1) for name, times in taken.items()}
    ratios = {name: [first / each for first, each in zip(taken["plain PyTorch"], times, strict=True)] for name, times in taken.items()}
    return {"ms_of_one_photograph": ms, "times_as_fast": {name: round(statistics.median(each), 2) for name, each in ratios.items()}}


def agreement(loaded: LoadedRun, folder: Path, paths: list[Path]) -> dict[str, float]:
    """The share of pixels on which each backend shows PyTorch's class."""
    found = {}
    for backend in ("onnxruntime", "openvino"):
        same = pixels = 0
        with open_model(folder, backend) as model:
            for path in paths:
                image = images.read_image(path)
                wanted = predict_image(loaded.model, image, Size(*loaded.config.data.size_px), loaded.device, loaded.passes)
                same, pixels = same + int((model.segment(image).mask_HW == wanted).sum()), pixels + wanted.size
        found[backend] = same / pixels
    return found


OURS = """
import json, sys, time
from pathlib import Path
from medseg import predicting
started = time.perf_counter()
found = predicting.predict(sys.argv[1], [sys.argv[2]], sys.argv[3], overlays=len(sys.argv) < 5)
print(json.dumps({"images": len(found), "seconds": time.perf_counter() - started}))
"""


def whole_folder(run: Path, folder: Path, photos: Path, scratch: Path) -> dict[str, Any]:
    """Images a second: of the work from the first image to the last, and of the process."""
    bench = Path(__file__).parent
    commands = {
        "MONAI loop": [bench / "monai_predict.py", "--run", run, "--images", photos, "--out", scratch / "theirs"],
        "MONAI loop, 2 workers": [bench / "monai_predict.py", "--run", run, "--images", photos, "--out", scratch / "two", "--workers", "2"],
        "medseg predict EXPORT": ["-c", OURS, folder, photos, scratch / "ours"],
        "medseg predict EXPORT --no-overlays": ["-c", OURS, folder, photos, scratch / "masks", "masks"],
    }
    found: dict[str, Any] = {"images_per_second": {}, "of_the_process": {}}
    for name, command in commands.items():
        started = time.perf_counter()
        said = subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.PIPE, text=True).stdout
        done = json.loads(said.splitlines()[-1])
        found["images_per_second"][name] = round(done["images"] / done["seconds"], 2)
        found["of_the_process"][name] = round(done["images"] / (time.perf_counter() - started), 2)
    rates = found["images_per_second"]
    best = max(rate for name, rate in rates.items() if name.startswith("MONAI"))
    return found | {"times_the_images_per_second": round(rates["medseg predict EXPORT --no-overlays"] / best, 2)}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--only", choices=["photograph", "folder"], help="one of the two")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        root = options.data_root or drawn(scratch)
        run = trained(scratch, root)
        folder = export(run.path).folder
        loaded, paths = load_run(run.path), photographs(root)
        if options.only != "folder":
            figures = one_photograph(loaded, folder, paths[0]) | {"agreement": agreement(loaded, folder, paths[:COMPARED])}
            done("An exported network: one photograph", figures, options, photograph_missed(figures))
        if options.only != "photograph":
            figures = whole_folder(run.path, folder, linked(scratch, paths), scratch)
            done("An exported network: a folder", figures, options, figures["times_the_images_per_second"] < FOLDER_FASTER)


def linked(scratch: Path, paths: list[Path]) -> Path:
    """A folder of COUNT photographs."""
    photos = scratch / "photos"
    photos.mkdir()
    for place in range(COUNT):
        path = paths[place % len(paths)]
        (photos / f"{place:04d}{path.suffix}").symlink_to(path.resolve())
    return photos


def photograph_missed(figures: dict[str, Any]) -> bool:
    return figures["times_as_fast"]["openvino"] < FASTER or min(figures["agreement"].values()) < AGREEMENT


def done(name: str, figures: dict[str, Any], options: argparse.Namespace, missed: bool) -> None:
    where = " --data-root tongue600" if options.data_root else ""
    tell(name, f"python bench/bench_deploy.py{where}", figures, options.record)
    if missed:
        sys.exit(f"missed: {name}")


if __name__ == "__main__":
    main()
