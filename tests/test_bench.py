"""The parts that measurements are made with: programs that take turns, and what becomes of them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import bench_train
import pytest
import zoo_page
import zoo_table
from turns import Program, family, in_turn

from medseg.build import resolve
from medseg.config import load_config
from medseg.files import write_json, write_text
from medseg.manifest.table import read_manifest, read_split
from medseg.runfolder import RunFolder, create_run
from medseg.training import normalised_as

STEPS = "import time\nprint('hello', flush=True)\nwhile True:\n    print('step', flush=True)\n    time.sleep(0.002)"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {STEPS!r}], start_new_session=True)"


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def state(pid: int) -> str:
    """T for one that is stopped; X where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def all_stop(pids: list[int]) -> bool:
    """Whether they do within ten seconds: on a busy machine a signal waits until its process's turn comes."""
    deadline = time.monotonic() + 10
    while {state(pid) for pid in pids} != {"T"} and time.monotonic() < deadline:
        time.sleep(0.01)
    return {state(pid) for pid in pids} == {"T"}


def test_programs_in_turn_tell_their_steps_and_are_gone_afterwards(tmp_path):
    speeds, programs = in_turn({"one": program(STEPS), "two": program(PARENT)}, tmp_path, 2, 0.2)
    assert speeds.keys() == programs.keys() == {"one", "two"} and min(speeds.values()) > 0
    for found in programs.values():
        assert found.lines == ["hello\n"] and found.peak.mib > 1 and found.process.poll() is not None


def test_what_a_program_has_started_is_stopped_with_it_in_a_session_of_its_own_too(tmp_path):
    found = Program(program(PARENT), tmp_path / "log")
    found.warm_up()
    pids = family(found.process.pid)
    assert len(pids) == 2 and all_stop(pids)
    seen = found.seen
    done, wall_s = found.turn(0.2)
    assert found.seen >= seen + done > seen and wall_s >= 0.2 and all_stop(pids)
    found.end()
    assert {state(pid) for pid in pids} <= {"X", "Z"}


def test_a_program_that_ends_early_is_told_with_its_words(tmp_path):
    with pytest.raises(SystemExit, match="no such thing"):
        in_turn({"one": program("raise ValueError('no such thing')")}, tmp_path, 1, 0.1)


@pytest.mark.slow
def test_the_drawn_set_of_the_benches_can_be_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_train, "DRAWN", 10)
    data_root = bench_train.drawn(tmp_path)
    config = load_config(bench_train.prepare(data_root, tmp_path))
    manifest = read_manifest(Path(config.data.manifest))
    parts = read_split(manifest, config.data.split).frame["split"].value_counts().to_dict()
    assert parts == {"train": 8, "val": 1, "test": 1} and manifest.labels.foreground == ("tongue",)
    assert all((data_root / row.image).exists() and row.px["tongue"] for row in manifest)


def begin(runs: Path, *said: str) -> RunFolder:
    """A training of the zoo's table as it lies on the disk after its first steps."""
    run = create_run(runs, "tongue", "zoo", 0)
    config = load_config(zoo_table.EXPERIMENT, [*zoo_table.Plan().overrides("unet", 0), *said])
    write_text(run.config_yaml, normalised_as(resolve(config), None).to_yaml())
    write_json(run.digests_json, {})
    return run


def test_the_zoos_table_goes_on_with_the_last_run_of_its_recipe(tmp_path):
    wanted = zoo_table.Plan().config("unet", 0)
    assert zoo_table.begun(tmp_path, wanted) is None
    run = begin(tmp_path)
    begin(tmp_path, "train.epochs=9")
    begin(tmp_path, "train.precision=bfloat16")
    begin(tmp_path).digests_json.unlink()  # ended before its first step
    write_text(begin(tmp_path).config_yaml, "of: another version")
    assert zoo_table.begun(tmp_path, wanted) == run


def test_costs_of_the_zoo_are_of_one_machine_and_one_way_and_the_fastest_counts():
    def line(network, images_per_s, machine="here", way=zoo_page.WAY):
        return {"network": network, "images_per_s": images_per_s, "machine": machine, "way": way}

    costs = [line("a", 9, machine="there"), line("a", 8, way="old"), line("a", 3), line("b", 2), line("a", 2.5)]
    assert zoo_page.fastest(costs) == {"a": line("a", 3), "b": line("b", 2)}
    assert zoo_page.fastest([]) == {}


def zoo_line(iou, network="unet", seed=0, precision="float32"):
    scores = dict.fromkeys(("iou_pooled", "iou_per_image", "recall_pooled", "precision_pooled"), [iou, iou - 0.1, iou + 0.05])
    return {"network": network, "seed": seed, "recipe": "a", "steps": 300, "scores": scores, "lr": 0.001, "n_test": 100,
            "date": "2026-01-01", "machine": "here", "commit": "a" * 40, "device": "cpu", "precision": precision}  # fmt: skip


def test_networks_whose_costs_are_not_measured_have_their_scores_told():
    page = "\n".join(zoo_page.section([zoo_line(0.9)], []))
    assert "0.900 (0.800 to 0.950)" in page and "bfloat16" not in page


def test_a_row_of_the_zoo_is_in_float32_where_it_was_trained_in_both_and_says_so():
    first, half, other = zoo_line(0.9), zoo_line(0.91, precision="bfloat16"), zoo_line(0.8, "segresnet", precision="bfloat16")
    seconds = [zoo_line(0.7, seed=1, precision="bfloat16"), zoo_line(0.85, "segresnet", 1), zoo_line(0.81, "segresnet", 1, "bfloat16")]
    lines = [first, half, other, *seconds]
    assert zoo_page.latest(lines, 300)[:2] == [first, other]
    page = zoo_page.section(lines, [])
    assert "unet (seed 0) +0.0100" in " ".join(page) and "segresnet (seed 1) -0.0400" in " ".join(page)
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")] for line in page if line.startswith("|") and "`" in line}
    assert "bfloat16" in rows["segresnet"] and "0.810" in rows["segresnet"] and "float32" in rows["unet"] and "0.700" not in rows["unet"]


def test_the_second_seed_of_a_row_of_the_zoo_is_trained_in_the_rows_precision(monkeypatch):
    lines = [zoo_line(0.9), zoo_line(0.91, precision="bfloat16"), zoo_line(0.8, "segresnet", precision="bfloat16")]
    monkeypatch.setattr(zoo_table, "recorded", lambda what: lines)
    best = zoo_table.best(300)
    assert best == {"unet": "float32", "segresnet": "bfloat16"}
    trained = [zoo_line(0.7, name, 1, precision) for name, precision in best.items()]
    assert zoo_page.seconds([*lines, *trained], zoo_page.latest(lines, 300)) == {line["network"]: line for line in trained}


def test_the_heading_of_the_zoo_names_every_machine_and_commit_behind_a_number_and_no_other():
    def of(place, *line):
        return zoo_line(*line) | {"machine": f"machine-{place}", "commit": place * 40}

    lines = [of("a", 0.9), of("b", 0.91, "unet", 0, "bfloat16"), of("c", 0.8, "segresnet", 0, "bfloat16"), of("d", 0.7, "segresnet", 1)]
    heading = zoo_page.section(lines, [])[2]
    assert [place in heading for place in ("machine-a", "b" * 10, "machine-c", "machine-d", "d" * 10)] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("asked", "left"), [(None, ["segresnet"]), ("float32", ["basic_unet", "segresnet"]), ("bfloat16", ["unet", "segresnet"])]
)
def test_what_the_zoo_has_in_another_precision_is_trained_again_only_where_one_is_asked_for(asked, left, monkeypatch):
    plan = zoo_table.Plan(precision=asked)
    lines = [zoo_line(0.9), zoo_line(0.9, "basic_unet", precision="bfloat16")]
    lines = [line | {"recipe": zoo_table.recipe(zoo_table.Plan().config(line["network"], 0))} for line in lines]
    monkeypatch.setattr(zoo_table, "recorded", lambda what: lines)
    assert zoo_table.missing(["unet", "basic_unet", "segresnet"], 0, plan) == left
