"""The parts that measurements are made with: programs that take turns, and what becomes of them."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import bench_train
import pytest
import torch
import zoo_figure
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
    def line(network, images_per_s, machine="here", way=zoo_page.WAY, date="2026-01-01"):
        return {"network": network, "images_per_s": images_per_s, "machine": machine, "way": way, "date": date}

    costs = [line("a", 9, machine="there"), line("a", 8, way="old"), line("a", 3), line("b", 2), line("a", 2.5)]
    assert zoo_page.fastest(costs) == {"a": line("a", 3), "b": line("b", 2)}
    later, slower = line("a", 1, machine="there", date="2026-01-02"), line("a", 1, machine="there")
    assert zoo_page.fastest([later, line("a", 3)]) == {"a": later} == zoo_page.fastest([line("a", 3), later])
    assert zoo_page.fastest([line("a", 3), slower]) == {"a": line("a", 3)} == zoo_page.fastest([slower, line("a", 3)]), "on one day"
    assert zoo_page.fastest([]) == {}


def zoo_line(iou, network="unet", seed=0, precision="float32"):
    scores = dict.fromkeys(("iou_pooled", "iou_per_image", "recall_pooled", "precision_pooled"), [iou, iou - 0.1, iou + 0.05])
    return {"network": network, "seed": seed, "recipe": "a", "steps": 300, "scores": scores, "lr": 0.001, "n_test": 100,
            "date": "2026-01-01", "machine": "here", "commit": "a" * 40, "device": "cpu", "precision": precision}  # fmt: skip


def cost_line(images_per_s, network="unet", **said):
    return {"network": network, "images_per_s": images_per_s, "machine": "here", "way": zoo_page.WAY, "parameters": 2_000_000,
            "multiply_adds": 3_000_000_000, "peak_mib": 1234, "date": "2026-01-01", "commit": "b" * 40, **said}  # fmt: skip


def row_of(network, page):
    """The cells of a network's row of the zoo's table."""
    (row,) = (line for line in page if line.startswith("|") and f"`{network}`" in line)
    return [cell.strip() for cell in row.strip("|").split("|")]


ON_CUDA = {"device": "cuda", "machine": "here, A GPU"}


def test_a_row_of_the_zoo_has_the_costs_of_the_device_that_it_was_trained_on():
    zoo = [zoo_line(0.9) | ON_CUDA, zoo_line(0.8, "segresnet") | ON_CUDA]
    processor, gpu = cost_line(9.5), cost_line(400, **ON_CUDA)
    alone = zoo_page.section(zoo, [processor])
    assert row_of("unet", alone)[-5:] == ["float32", "2.00 M", "3.00 G", "not measured", "not measured"]
    assert row_of("segresnet", alone)[-4:] == ["", "", "not measured", "not measured"] and "images/zoo" not in "".join(alone)
    for costs in ([processor, gpu], [gpu, processor]):
        page = zoo_page.section(zoo, costs)
        assert row_of("unet", page)[-2:] == ["400.0", "1,234 MiB"] and row_of("segresnet", page)[-1] == "not measured"
        assert "here, A GPU" in page[2] and "(cuda)" in page[4] and "images/zoo-300-cuda.svg" in "".join(page)


def test_a_table_of_the_zoo_of_two_devices_tells_them_apart(tmp_path):
    zoo = [zoo_line(0.9), zoo_line(0.8, "segresnet") | ON_CUDA]
    costs = [cost_line(speed, name, **said) for name in ("unet", "segresnet") for speed, said in ((400, ON_CUDA), (9.5, {}))]
    page = zoo_page.section(zoo, costs)
    assert [row_of(name, page)[8] for name in ("unet", "segresnet")] == ["float32, cpu", "float32, cuda"]
    assert [row_of(name, page)[-2] for name in ("unet", "segresnet")] == ["9.5", "400.0"]
    zoo_figure.write_figures(tmp_path, zoo, costs, 300)
    drawn = {path.name: re.findall(r"<!-- \d  (\w+) -->", path.read_text()) for path in tmp_path.iterdir()}  # the legend
    assert drawn == {"zoo-300.svg": ["unet"], "zoo-300-cuda.svg": ["segresnet"]}
    assert all(f"](images/{name})" in "".join(page) for name in drawn)


@pytest.mark.parametrize(
    ("zoo", "told"),
    [
        (
            [zoo_line(0.9)],
            "A table of 3,000 steps is not recorded: all of the zoo was trained and measured on cpu, and it wants a GPU.",
        ),
        ([zoo_line(0.9) | ON_CUDA], "A table of 3,000 steps is not recorded."),
        ([zoo_line(0.9) | {"steps": 3000}], ""),
        ([], ""),
    ],
)
def test_a_long_table_of_the_zoo_that_is_not_there_is_said_to_be_missing(zoo, told):
    assert next((line for line in zoo_page.section(zoo, []) if line.startswith("A table of")), "") == told


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_costs_of_the_zoo_are_measured_where_a_training_would_run(device, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: device == "cuda")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "A GPU")
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 5 * 2**20 + 1)
    monkeypatch.setattr(zoo_table, "training_step", lambda name, **said: asked.append(said) or (lambda: None))
    monkeypatch.setattr(zoo_table, "machine", lambda: "here")
    found = zoo_table.cost("fcn_resnet18")
    assert asked == [{"device": device}] and found["parameters"] > 1e7 and found["images_per_s"] > 0
    of_gpu = {"machine": "here, A GPU", "peak_mib": 5}
    assert {"machine": "here", **found}.items() >= {"device": device, **(of_gpu if device == "cuda" else {"machine": "here"})}.items()
    assert ("peak_mib" in found) == (device == "cuda")  # of a processor it is the whole process's, seen from outside


def test_a_step_of_the_zoos_costs_trains():
    step = zoo_table.training_step("lraspp_mobilenet_v3_large")
    (model,) = (cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, torch.nn.Module))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step()
    assert all(bool((now != then).any()) for now, then in zip(model.parameters(), before, strict=True))


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
