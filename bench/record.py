"""Evaluated runs -> one JSON line each in bench/results/<date>_<machine>.jsonl, the only store of measured numbers.

python bench/record.py [--untimed] runs/<id> [runs/<id> ...]      untimed: other jobs ran beside the training, so its time is not told
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg.environment import describe_environment, describe_git
from medseg.errors import RunError
from medseg.report.tables import read_scores
from medseg.runfolder import RunFolder, open_run
from medseg.yamlio import dump_yaml, read_yaml

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """A short name of this machine: processor and usable cores."""
    hardware = describe_environment(Path.cwd())["hardware"]
    model = "".join(c if c.isalnum() else "-" for c in str(hardware["cpu"]).lower()).strip("-")
    return f"{model}_{hardware['cpu_cores_usable']}cores"


def append(record: dict[str, Any]) -> Path:
    """Append one line, dated and with the machine's name."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    path = RESULTS / f"{date}_{machine()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"date": date, "machine": machine(), **record}, sort_keys=True) + "\n")
    return path


def proof(name: str, command: str, figures: Mapping[str, Any]) -> Path:
    """Append what one script measured: the figures by name, and the command that measures them again."""
    git = describe_git(Path.cwd())
    commit = f"{git['commit']}{'+' if git['dirty'] else ''}"
    return append({"what": "proof", "name": name, "command": command, "figures": dict(figures), "commit": commit})


def command_line(about: str | None, needs_photographs: bool = False) -> argparse.ArgumentParser:
    """The command line of a script that measures: --record, and --data-root, which `make bench` may give to all."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="add the figures to bench/results")
    parser.add_argument("--data-root", type=Path, required=needs_photographs, help="photographs, such as tongue600")
    return parser


def tell(name: str, command: str, figures: Mapping[str, Any], record: bool) -> None:
    """The figures as one JSON line on standard output, and to bench/results where asked."""
    if record:
        proof(name, command, figures)
    print(json.dumps(figures))


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of_run(run: RunFolder, timed: bool = True) -> dict[str, Any]:
    """What an evaluated run measured on its test split, and how long its training took."""
    config = read_yaml(run.config_yaml, RunError)
    environment = json.loads(run.environment_json.read_text(encoding="utf-8"))
    scores = read_scores(run.evaluation("test") / "scores.json")
    timings = [line["timings"] for line in lines(run.timings_jsonl)]
    return {
        "what": "experiment",
        "experiment": f"{run.state()['dataset']}/{config['name']}",
        "run": run.id,
        "seed": config["seed"],
        "config_sha256": hashlib.sha256(dump_yaml({**config, "seed": None}).encode()).hexdigest(),
        "commit": environment["git"]["commit"],
        "dirty": environment["git"]["dirty"],
        "epochs": config["train"]["epochs"],
        "size_px": config["data"]["size_px"],
        "patch_px": config["sampling"].get("patch_px"),
        "precision": config["train"]["precision"],
        "training_s": round(sum(t["train_s"] + t["val_s"] for t in timings), 1) if timed else None,
        "n_test": scores["n_cases"],
        "best_epoch": scores["checkpoint"]["epoch"],
        "pooled": scores["pooled"],
        "per_image": scores["per_image"],
        "miou_pooled": scores["summary"]["miou_pooled/without_background"]["mean"],
        "protocol_sha256": hashlib.sha256(json.dumps(scores["protocol"], sort_keys=True).encode()).hexdigest(),
        "manifest_sha256": scores["manifest_sha256"],
        "split_sha256": scores["split_sha256"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--untimed", action="store_true")
    given = parser.parse_args()
    for folder in given.runs:
        print(append(of_run(open_run(folder), not given.untimed)))
