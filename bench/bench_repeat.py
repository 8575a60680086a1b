"""Train and evaluate the phantom experiment twice with one seed and compare the files that must be equal byte for byte.

python bench/bench_repeat.py [section.key=value ...]      needs `make phantom` first
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from record import append

from medseg import api
from medseg.environment import describe_git

EQUAL = ("metrics.jsonl", "evaluation/test/per_case.csv", "evaluation/test/scores.json", "checkpoints/best.safetensors")
EXPERIMENT = Path("experiments/phantom/unet.yaml")


def train_once(folder: Path, overrides: list[str]) -> Path:
    """One tracked-nowhere training and its test scores."""
    run = api.train(EXPERIMENT, ["tracking.enabled=false", *overrides], "data/phantom", folder)
    api.evaluate(run.path, "test", "data/phantom")
    return run.path


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        first, second = (train_once(Path(folder) / name, sys.argv[1:]) for name in "ab")
        equal = {name: (first / name).read_bytes() == (second / name).read_bytes() for name in EQUAL}
    git = describe_git(Path.cwd())
    append({"what": "repeat", "experiment": str(EXPERIMENT), "overrides": sys.argv[1:], "equal": equal, "commit": git["commit"]})
    print(json.dumps(equal))
    sys.exit(0 if all(equal.values()) else 1)
