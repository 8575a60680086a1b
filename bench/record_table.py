"""The published cells of runs, averaged over their seeds, with their intervals, as one line of bench/results.

python bench/record_table.py --data-root DIR [--metric dice iou recall precision hd95_mm nsd_1mm] [--record] runs/ID [runs/ID ...]

What `medseg report` writes into table.csv: the mean over the images (or volumes) of test and its 95 % interval over the patients.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from record import command_line, tell

from medseg.labels import BACKGROUND

METRICS = ("dice", "iou", "recall", "precision", "hd95_mm", "nsd_1mm")


def cells(runs: list[Path], data_root: Path, metrics: list[str]) -> dict[str, dict[str, object]]:
    """{class and score: value, low, high, n, the value of each seed} of the means over images."""
    with tempfile.TemporaryDirectory() as folder:
        asked = [argument for metric in metrics for argument in ("--metric", metric)]
        labelled = [f"runs={run}" for run in runs]
        command = [sys.executable, "-m", "medseg", "report", *labelled, *asked, "--data-root", str(data_root), "--out", f"{folder}/tables"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        with open(f"{folder}/tables/table.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
    shown = [row for row in rows if row["average"] == "per_image" and row["class"] != BACKGROUND and row["score"] in metrics]
    return {f"{row['class']} {row['score']}": _cell(row) for row in shown}


def _cell(row: dict[str, str]) -> dict[str, object]:
    numbers = {key: round(float(row[key]), 4) for key in ("value", "low", "high") if row[key]}
    return numbers | {"n": int(row["n_defined"]), "of_seeds": [round(float(value), 4) for value in row["of_seeds"].split()]}


if __name__ == "__main__":
    parser = command_line(__doc__, needs_photographs=True)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--metric", nargs="+", default=list(METRICS))
    options = parser.parse_args()
    found = cells(options.runs, options.data_root, options.metric)
    names = sorted({key.partition(" ")[0] for key in found})
    dice = [found[f"{name} dice"]["value"] for name in names if f"{name} dice" in found]
    figures = {"mean_dice": round(sum(dice) / len(dice), 4)} | found if dice else found  # type: ignore[arg-type]
    tell(
        "Test scores of " + options.runs[0].name.rsplit("-s", 1)[0],
        "python bench/record_table.py --data-root DIR RUNS",
        figures,
        options.record,
    )
