"""Runs and exports to register, made by hand: their val scores are those of stored masks, their networks tell colours apart."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from medseg.config import validate_config
from medseg.files import sha256_file, write_json, write_text
from medseg.runfolder import RunFolder, create_run
from medseg.scoring import Asked, score_folders
from tests.exports import write_export
from tests.publishing.stored import STORED

SETS = ("baseline", "larger")
EPOCH = 7


def score_sets(folder: Path) -> Path:
    """What `medseg score` says of the stored predictions, a folder each: 28 images of 14 patients."""
    asked = replace(Asked(classes=("liver", "lesion"), group_pattern=r"(patient\d+)", jobs=1), boundary=False)
    for name in SETS:
        score_folders(STORED / "reference", STORED / name, folder / name, asked)
    return folder


def make_run(runs: Path, scores: Path, name: str, tracked_at: str = "sqlite:///mlflow.db") -> RunFolder:
    """A finished run whose val has these scores."""
    run = create_run(runs, "organs", name, 0)
    settings = {"name": name, "data": {"manifest": "m", "split": "main"}, "tracking": {"uri": tracked_at}}
    write_text(run.config_yaml, validate_config(settings, "test").to_yaml())
    write_json(run.environment_json, {"git": {"commit": "f" * 40, "dirty": False}})
    write_json(run.digests_json, {"manifest_sha256": "ab" * 32, "split_sha256": "cd" * 32})
    run.checkpoint("best").write_bytes(name.encode())
    shutil.copytree(scores, run.evaluation("val"))
    facts = {"split": "val", "checkpoint": {"checkpoint": "best", "epoch": EPOCH}}
    change_scores(run, **facts)
    run.set_status("finished")
    return run


def change_scores(run: RunFolder, **facts: object) -> None:
    path = run.evaluation("val") / "scores.json"
    write_json(path, json.loads(path.read_text()) | facts)


def export_of(run: RunFolder, target: Path | None = None) -> Path:
    """As if exported from it."""
    origin = {"run": run.id, "dataset": "organs", "epoch": EPOCH}
    origin |= {"weights_sha256": sha256_file(run.checkpoint("best")), "config_sha256": sha256_file(run.config_yaml)}
    return write_export(target or run.path / "export", origin=origin)
