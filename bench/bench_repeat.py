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
from medseg.errors import RunError
from medseg.yamlio import read_yaml

EQUAL = ("metrics.jsonl", "evaluation/test/per_case.csv", "evaluation/test/scores.json", "checkpoints/best.safetensors")
EXPERIMENT = Path("experiments/phantom/unet.yaml")


def train_once(folder: Path, overrides: list[str]) -> Path:
    """One tracked-nowhere training and its test scores."""
    run = api.train(EXPERIMENT, ["tracking.enabled=false", *overrides], "data/phantom", folder)
    api.evaluate(run.path, "test", "data/phantom")
    return run.path


def compare(first: Path, second: Path) -> dict[str, bool]:
    """Which of EQUAL are equal byte for byte; both runs must be of one config, tracked or not."""
    configs = [{**read_yaml(run / "config.yaml", RunError), "tracking": None} for run in (first, second)]
    assert configs[0] == configs[1], "the two runs are of different configs"
    return {name: (first / name).read_bytes() == (second / name).read_bytes() for name in EQUAL}


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) == 2 and all(Path(argument).is_dir() for argument in arguments):
        equal, overrides = compare(Path(arguments[0]), Path(arguments[1])), []
    else:
        overrides = arguments
        with tempfile.TemporaryDirectory() as folder:
            equal = compare(*(train_once(Path(folder) / name, overrides) for name in "ab"))
    git = describe_git(Path.cwd())
    append({"what": "repeat", "experiment": str(EXPERIMENT), "overrides": overrides, "equal": equal, "commit": git["commit"]})
    print(json.dumps(equal))
    sys.exit(0 if all(equal.values()) else 1)
