"""The documents say what the code does."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from torchvision import models

from medseg import api
from medseg.config import Config, load_config
from medseg.manifest.split import make_split
from medseg.metrics.boundary import Boundary
from medseg.metrics.protocol import Protocol, boundary_rules
from medseg.report.evaluation import CALIBRATION_RULE, DETECTION_RULES
from tests.data.volume.made import make_volumes
from tests.tiny import make_data

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(path for path in (ROOT / "experiments").glob("*/*.yaml") if not path.stem.endswith("base"))


def test_the_table_of_keys_is_the_config_s_own():
    page = (ROOT / "docs/experiments.md").read_text()
    assert runpy.run_path(str(ROOT / "docs/reference.py"))["with_table"](page) == page, "run `make reference`"
    assert all(f"`{key}`" in page for key in Config(name="x", data={"manifest": "m"}).flat())


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_experiment_loads_and_its_header_holds_question_and_command(path):
    config = load_config(path)
    assert config.name == path.stem
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# Question: ")
    assert re.search(rf"# Command:  make experiment EXP={path.parent.name}/{path.stem} DATA_ROOT=", path.read_text())
    assert f"{path.parent.name}/{path.stem}`" in (ROOT / "docs/experiments.md").read_text()


@pytest.mark.parametrize(
    "path",
    [path if path == ROOT / "experiments/phantom/unet.yaml" else pytest.param(path, marks=pytest.mark.slow) for path in EXPERIMENTS],
    ids=[f"{path.parent.name}/{path.stem}" for path in EXPERIMENTS],
)
def test_each_experiment_comes_to_its_first_steps(path, tmp_path, monkeypatch):
    """What the header's command does, on a tiny data set that stands at the place of the experiment's own."""
    config = load_config(path)
    monkeypatch.chdir(tmp_path)
    if config.data.volume:
        manifest, _ = make_volumes(tmp_path, 10, out=tmp_path / config.data.manifest)
    else:
        manifest = make_data(tmp_path, count=20, out=tmp_path / config.data.manifest)
    make_split(manifest, config.data.split, (0.6, 0.2, 0.2))
    short = ["train.epochs=1", "sampling.draws_per_epoch=8", "tracking.enabled=false"]
    if config.model.weights:  # fetched in earnest: a file of the same form lies in the cache
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
        name = Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
        torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "torch/hub/checkpoints" / name)
        short.append("train.batch_size=4")
    wish = "ball" if config.data.volume else "disc"
    short += [f"sampling.centre_ratios={{{wish}: 1, anywhere: 1}}"] if config.sampling.centre_ratios else []
    run = api.train(path, short, tmp_path / "data")
    assert json.loads(run.metrics_jsonl.read_text())["metrics"]["train/loss/total"] > 0


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))], ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_protocol_s_sentence_names_every_rule():
    rules = boundary_rules(Boundary.of("px"))
    protocol = Protocol(**rules, regions=("whole = a + b",), calibration=CALIBRATION_RULE, detection=DETECTION_RULES["components"])
    fields = {key: value for key, value in protocol.to_dict().items() if key not in ("version", "background")}
    said = {key: ", ".join(value) if isinstance(value, (list, tuple)) else str(value) for key, value in fields.items()}
    assert all(rule in protocol.sentence() for rule in said.values())
    assert "Boundary" not in Protocol().sentence()  # what was not measured has no rule


def test_the_results_page_comes_from_the_recorded_lines(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    results = runpy.run_path(str(ROOT / "bench/results.py"))
    assert results["page"]() == (ROOT / "docs/results.md").read_text(), "run `make results`"
