"""`medseg score` on 10,000 pairs of 512 x 512: does its memory grow with the number of pairs, and are all processors busy?

python bench/bench_score.py [--pairs 10000] [--record]

A tenth of the pairs is scored first, then all of them; each time the peak of the anonymous memory (Pss_Anon) of the command and its
processes, the seconds, and the processors' seconds. A hundred masks are drawn; the others are links to them. Distances are measured too.
`grows_mib` is what nine times more pairs add. The last line is one JSON object.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from anonymous import Peak
from record import command_line, tell

from medseg.images import write_mask
from medseg.labels import LabelSet

SIDE, DRAWN, CLASSES = 512, 100, ("liver", "kidney", "spleen", "lesion")


def draw(folder: Path, pairs: int) -> None:
    """reference/ and prediction/, each file a hard link to one of a hundred."""
    palette = LabelSet.of(*CLASSES).palette
    y, x = np.mgrid[:SIDE, :SIDE]
    for name, shift in (("reference", 0), ("prediction", 4)):
        (folder / name).mkdir()
        for number in range(pairs):
            path = folder / name / f"case_{number:06d}.png"
            if number >= DRAWN:
                os.link(folder / name / f"case_{number % DRAWN:06d}.png", path)
                continue
            generator, mask = np.random.default_rng(number), np.zeros((SIDE, SIDE), np.uint8)
            for class_id in range(1, len(CLASSES) + 1):
                (top, left), radius = generator.integers(80, SIDE - 80, 2), generator.integers(12, 70)
                mask[(y - top) ** 2 + (x - left - shift) ** 2 < radius**2] = class_id
            write_mask(path, mask, palette)


def score(folder: Path, out: Path) -> dict[str, float]:
    """Seconds, processors' seconds and the peak of memory of the command."""
    command = [
        sys.executable,
        "-m",
        "medseg",
        "score",
        "--reference",
        str(folder / "reference"),
        "--prediction",
        str(folder / "prediction"),
    ]
    before, started = os.times(), time.perf_counter()
    process = subprocess.Popen(
        [*command, "--classes", ",".join(CLASSES), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with Peak(process.pid, forks=True) as peak:
        code = process.wait()
    after, wall_s = os.times(), time.perf_counter() - started
    assert code == 0, code
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mib": peak.mib}


def measure(pairs: int) -> dict[str, object]:
    """A tenth, then all."""
    found = {}
    for name, number in (("tenth", pairs // 10), ("all", pairs)):
        with tempfile.TemporaryDirectory() as temporary:
            draw(Path(temporary), number)
            found[name] = score(Path(temporary), Path(temporary) / "out")
    every, processors = found["all"], len(os.sched_getaffinity(0))
    figures: dict[str, object] = {"pairs": pairs, "pairs_per_s": round(pairs / every["wall_s"], 1)}
    figures |= {"processors_busy": round(every["cpu_s"] / every["wall_s"], 2), "processors": processors}
    return figures | {"peak_mib": round(every["peak_mib"]), "grows_mib": round(every["peak_mib"] - found["tenth"]["peak_mib"], 1)}


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--pairs", type=int, default=10_000)
    options = parser.parse_args()
    figures = measure(options.pairs)
    tell("medseg score", f"python bench/bench_score.py --pairs {options.pairs}", figures, options.record)
    sys.exit(figures["processors_busy"] < 0.9 * figures["processors"])  # type: ignore[operator]
