"""Whether each class of a run's last scoring reaches a bar: exit code 1 where one misses it.

python experiments/organ/bar.py runs/ID [--split test] [--least 0.80]

The bar is of the pooled IoU and of its mean over the volumes, both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.labels import BACKGROUND
from medseg.report.tables import read_scores

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", type=Path)
parser.add_argument("--split", default="test")
parser.add_argument("--least", type=float, default=0.80)
options = parser.parse_args()
scores = read_scores(options.run / "evaluation" / options.split / "scores.json")
missed = []
for name in [name for name in scores["pooled"] if name != BACKGROUND]:
    found = {"pooled": scores["pooled"][name]["iou"], "mean over volumes": scores["per_image"][name]["iou"]["mean"]}
    told = ", ".join(f"{value:.3f} {how}" for how, value in found.items())
    if not min(found.values()) >= options.least:
        missed.append(name)
    print(f"{name}: IoU {told}{'  BELOW THE BAR' if name in missed else ''}")
if missed:
    sys.exit(f"the bar of {options.least:g} is missed by {', '.join(missed)}")
