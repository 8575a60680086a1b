"""Time a manifest of a million rows: read, validate and group-check; and a grouped split. Each in a fresh process.

python bench/bench_manifest.py [--rows N] [--record]      --record adds the line to bench/results
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from record import command_line, tell

from medseg.labels import LabelSet
from medseg.manifest.schema import COLUMNS, Dataset
from medseg.manifest.split import make_split
from medseg.manifest.table import dataset_text, read_manifest, read_split

LABELS = LabelSet.of("tongue", "coating", "lesion")
SHOWN = {"tongue": (0.95, 60_000), "coating": (0.4, 20_000), "lesion": (0.05, 2_000)}  # share of images, most pixels
SIDE_PX, IMAGES_A_GROUP = 512, 5


def make_manifest(folder: Path, rows: int) -> None:
    """A manifest of `rows` rows of invented names, hashes and counts."""
    draw = np.random.default_rng(0)
    group = np.sort(draw.integers(0, rows // IMAGES_A_GROUP, rows))
    sample = [f"p{patient:06d}/{image:07d}" for image, patient in enumerate(group)]
    hashes = [f"{number:064x}" for number in range(rows)]
    pixels = {name: (draw.random(rows) < share) * draw.integers(1, most, rows) for name, (share, most) in SHOWN.items()}
    table = {"sample_id": sample, "group_id": [name[:7] for name in sample], "image": [f"images/{name}.png" for name in sample]}
    table |= {"mask": [f"masks/{name}.png" for name in sample], "height_px": SIDE_PX, "width_px": SIDE_PX}
    table |= {"image_sha256": hashes, "mask_sha256": hashes, "px_background": SIDE_PX**2 - sum(pixels.values())}
    table |= {f"px_{name}": counts for name, counts in pixels.items()}
    folder.mkdir(parents=True)
    frame = pd.DataFrame(table)
    blank = {name: "" for name in COLUMNS if name not in frame}
    frame.assign(**blank)[[*COLUMNS, *(f"px_{name}" for name in LABELS.names)]].to_csv(folder / "manifest.csv", index=False)
    (folder / "dataset.yaml").write_text(dataset_text(Dataset(name="million", labels=LABELS)))


def measure(what: str, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of one step, as this process sees it."""
    started, cpu = time.perf_counter(), time.process_time()
    manifest = read_manifest(folder)
    split = make_split(manifest, "main") if what == "split" else read_split(manifest, "main")
    assert len(split.frame) == len(manifest)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"wall_s": round(wall_s, 1), "cpu_s": round(cpu_s, 1), "peak_gib": round(peak_gib, 2)}


def in_a_fresh_process(what: str, folder: Path) -> dict[str, float]:
    """`measure` in a process that has held nothing else."""
    done = subprocess.run([sys.executable, __file__, "--measure", what, str(folder)], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"))
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]))))
        sys.exit()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "million" / "v1"
        make_manifest(place, options.rows)
        line = {"rows": options.rows, "groups": options.rows // IMAGES_A_GROUP}
        line |= {f"{name}_{key}": value for name in ("split", "read") for key, value in in_a_fresh_process(name, place).items()}
    tell(f"A manifest of {options.rows:,} rows", "python bench/bench_manifest.py", line, options.record)
