"""Peak anonymous memory of a training, by the length of its manifest.

python bench/bench_memory.py [--data-root DIR] [--times 50] [--record]      DIR as in bench_train.py

`medseg train` of a few steps, tracking off, on a manifest and on one that lists each training image so many times over (hard links,
so that no image is decoded twice). Val is the same, so that only the length differs. Once from whole images, once from crops around
the classes, whose positions the measured training looks up in each mask. The last line is one JSON object.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from anonymous import Peak
from bench_train import drawn, prepare
from record import command_line, tell

MEDSEG = [sys.executable, "-m", "medseg"]
SHORT = ["sampling.draws_per_epoch=80", "train.epochs=1"]
ARMS = {"": [], "crops: ": ["sampling.patch_px=[128, 128]", "sampling.centre_ratios={tongue: 1, anywhere: 1}"]}


def lengthened(data_root: Path, folder: Path, times: int) -> tuple[Path, Path]:
    """(data root, experiment) with each training image listed `times` times."""
    root = folder / "long"
    shutil.copytree(data_root / "masks", root / "masks")
    shutil.copytree(data_root / "images", root / "images")
    manifest, split = pd.read_csv(folder / "v1" / "manifest.csv"), pd.read_csv(data_root / "pairs.csv")
    part = dict(zip(split["image"], split["split"], strict=True))
    of_train = manifest[manifest["image"].map(part) == "train"]
    tables = [manifest]
    for copy in range(1, times):
        (root / f"images_{copy}").mkdir()
        more = of_train.copy()
        more["image"] = more["image"].str.replace("images/", f"images_{copy}/", regex=False)
        more["sample_id"] = more["group_id"] = more["sample_id"] + f"_{copy}"
        for old, new in zip(of_train["image"], more["image"], strict=True):
            os.link(root / old, root / new)
        tables.append(more)
    long = pd.concat(tables)
    (folder / "v2").mkdir()
    shutil.copy(folder / "v1" / "dataset.yaml", folder / "v2" / "dataset.yaml")
    for column in ("depth_px", "spacing_x_mm", "spacing_y_mm", "spacing_z_mm"):
        long[column] = ""
    long.sort_values("sample_id").to_csv(folder / "v2" / "manifest.csv", index=False)
    long.assign(split=long["image"].map(part).fillna("train"))[["image", "mask", "split"]].to_csv(folder / "long.csv", index=False)
    source = ["--from", str(folder / "long.csv"), "--name", "official"]
    subprocess.run([*MEDSEG, "manifest", "split", str(folder / "v2"), *source], check=True, stdout=sys.stderr)
    experiment = folder / "long.yaml"
    experiment.write_text((folder / "bench.yaml").read_text().replace(f"{folder}/v1", f"{folder}/v2"))
    return root, experiment


def peak_mib(experiment: Path, data_root: Path, overrides: list[str], runs: Path) -> float:
    """Of one training in a process of its own."""
    command = [*MEDSEG, "train", str(experiment), *SHORT, *overrides, "--data-root", str(data_root), "--runs", str(runs)]
    process = subprocess.Popen(command, stdout=sys.stderr)
    with Peak(process.pid) as peak:
        process.wait()
    assert process.returncode == 0
    return peak.mib


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--times", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data_root = options.data_root or drawn(folder)
        short = prepare(data_root, folder)
        peak_mib(short, data_root, [], folder / "runs")  # decodes
        long_root, long = lengthened(data_root, folder, options.times)
        figures = {"rows": len(pd.read_csv(folder / "v2" / "manifest.csv"))}
        for arm, overrides in ARMS.items():
            once, often = (peak_mib(*which, overrides, folder / "runs") for which in ((short, data_root), (long, long_root)))
            figures[f"{arm}peak_mib"], figures[f"{arm}peak_mib_{options.times}_times_as_long"] = round(once), round(often)
            figures[f"{arm}grows_mib"] = round(often - once)
    where = " --data-root tongue600" if options.data_root else ""
    tell("Memory of a training by the manifest's length", f"python bench/bench_memory.py{where}", figures, options.record)
