"""Two processes train as one does: same weights, same counts, one writer; and what they cannot share is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medseg import api
from medseg.build import check_shared
from medseg.config import load_config
from medseg.engine.checkpoint import read_checkpoint
from medseg.errors import ConfigError
from medseg.runfolder import RunFolder
from tests.mlflow_server import free_port
from tests.tiny import make_all

LONG = ["train.epochs=17", "train.preview_every=17", "train.validate_every=17"]  # 51 steps
EXACT = [*LONG, "train.precision=float64", "optim.name=sgd", "optim.lr=0.05"]
DRAWS_ALIKE = ("train/drawn_image_share/square", "train/drawn_pixel_share/disc", "train/lr")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, data root, experiment), made once, with the images decoded."""
    root = tmp_path_factory.mktemp("ranks")
    _, _, data_root, experiment = make_all(root)
    return root, data_root, experiment


def torchrun(*arguments: str | Path, processes: int = 2) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, "-m", "medseg", *map(str, arguments)]


def shared(world, verb: str, *arguments: str | Path, processes: int = 2, code: int = 0) -> tuple[str, str]:
    """(output, errors) of a verb that processes do together."""
    command = torchrun(verb, *arguments, "--data-root", world[1], processes=processes)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=world[0])
    assert (done.returncode == 0) == (code == 0), done.stderr
    return done.stdout, done.stderr


def trained_by_two(world, runs: Path, *overrides: str) -> RunFolder:
    shared(world, "train", world[2], *overrides, "--runs", runs)
    [path] = [path for path in runs.iterdir() if path.is_dir()]
    return RunFolder(path)


def largest_difference(one: RunFolder, two: RunFolder) -> float:
    first, second = (read_checkpoint(run.checkpoint("last"))[0] for run in (one, two))
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(["loss.reduction=image"], marks=pytest.mark.slow),
        pytest.param(["loss.reduction=batch"], marks=pytest.mark.slow),
        pytest.param(["loss.name=unified_focal"], marks=pytest.mark.slow),
        pytest.param(["model.freeze=encoder", "model.freeze_epochs=8"], marks=pytest.mark.slow),
        pytest.param(["loss.name=focal_tversky", "loss.reduction=batch", "optim.lr=0.01"], marks=pytest.mark.slow),
        pytest.param(["loss.name=dice_focal", "loss.class_weights=median_frequency", "train.accumulate=3"], marks=pytest.mark.slow),
    ],
)
def test_two_processes_with_half_the_batch_come_to_the_weights_of_one(world, tmp_path, loss):
    one = api.train(world[2], [*EXACT, *loss], world[1], tmp_path / "one")
    two = trained_by_two(world, tmp_path / "two", *EXACT, *loss)
    start = torch.cat([tensor.flatten() for tensor in read_checkpoint(one.checkpoint("last"))[0].values()])
    assert start.dtype == torch.float64
    assert largest_difference(one, two) < 1e-8
    for alone, together in zip(one.metrics(), two.metrics(), strict=True):
        for name in DRAWS_ALIKE:
            assert alone["metrics"][name] == together["metrics"][name], name
        for name in alone["metrics"]:
            if name.startswith("train/loss/") and alone["metrics"][name] is not None:
                assert together["metrics"][name] == pytest.approx(alone["metrics"][name], rel=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_one_run_folder_one_writer_and_the_same_counts(world, tmp_path, processes):
    """A run of one process, evaluated by one and by more: 4 test images in batches of 1 are shared out evenly by two, not by three."""
    run = api.train(world[2], ["infer.batch_size=1"], world[1], tmp_path)
    api.evaluate(run.path, "test", world[1])
    names = ("per_case.csv", "scores.json", "confusion.npy", "table.csv")  # table.md says how often test was scored
    alone = {name: (run.evaluation("test") / name).read_bytes() for name in names}
    masks = {path.name: path.read_bytes() for path in (run.evaluation("test") / "predictions").iterdir()}
    out, _ = shared(world, "evaluate", run.path, processes=processes)
    assert out.count("written: ") == 1
    for name, content in alone.items():
        assert (run.evaluation("test") / name).read_bytes() == content, name
    assert masks == {path.name: path.read_bytes() for path in (run.evaluation("test") / "predictions").iterdir()}


@pytest.mark.slow
def test_validation_counts_each_image_once(world, tmp_path):
    """A learning rate of nearly nothing leaves the weights as they were: the val scores must be one process's."""
    still = ["train.epochs=1", "optim.lr=1e-30", "optim.weight_decay=0", "infer.batch_size=1"]
    one, two = api.train(world[2], still, world[1], tmp_path / "one"), trained_by_two(world, tmp_path / "two", *still)
    for name, value in one.metrics()[0]["metrics"].items():
        if name.startswith("val/"):
            assert two.metrics()[0]["metrics"][name] == value, name


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_told(world, tmp_path):
    _, errors = shared(world, "train", world[2], "train.batch_size=3", "--runs", tmp_path, code=1)
    assert "train.batch_size: a batch of 3 cannot be shared evenly by 2 processes; make it a multiple of 2, for example 4" in errors


def test_what_two_processes_cannot_share_is_told(world):
    topk = load_config(world[2], ["loss.name=dice_topk"])
    check_shared(topk, 1)
    with pytest.raises(ConfigError, match="loss.reduction: the worst pixels of a batch are not found by 2 processes"):
        check_shared(topk, 2)
    check_shared(load_config(world[2], ["loss.name=dice_topk", "loss.reduction=image"]), 2)
    with pytest.raises(ConfigError, match="train.batch_size: a batch of 4 cannot be shared evenly by 3 processes"):
        check_shared(load_config(world[2]), 3)


def test_a_verb_of_one_process_is_refused(tmp_path):
    command = [sys.executable, "-m", "medseg", "predict", str(tmp_path), str(tmp_path), "--out", str(tmp_path)]
    started = os.environ | {"TORCHELASTIC_RUN_ID": "x", "RANK": "0"}  # what torchrun tells its processes
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=started)
    assert done.returncode and "torchrun: predict runs in one process; start it without torchrun" in done.stderr


def start_long(world, runs: Path, *overrides: str) -> tuple[subprocess.Popen[str], RunFolder]:
    """A training by two processes of which one epoch is done."""
    command = torchrun("train", world[2], "train.epochs=5000", *overrides, "--runs", runs, "--data-root", world[1])
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, ours)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if found := [path for path in runs.glob("*/metrics.jsonl") if path.stat().st_size]:
            return process, RunFolder(found[0].parent)
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
def test_a_signal_stops_all_at_one_step_and_another_number_of_processes_may_go_on(world, tmp_path):
    process, run = start_long(world, tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert run.state()["status"] == "interrupted" and process.returncode
    kept = read_checkpoint(run.resume_point)[1]
    text = run.config_yaml.read_text()
    run.config_yaml.write_text(text.replace("epochs: 5000", f"epochs: {kept['epoch'] + 2}"))
    shared(world, "train", "--resume", run.path)
    assert run.state()["status"] == "finished" and len(run.metrics()) == kept["epoch"] + 2
    assert [line["step"] for line in run.metrics()] == [3 * (place + 1) for place in range(kept["epoch"] + 2)]


@pytest.mark.slow
def test_the_batch_script_of_the_docs_trains_stops_is_queued_again_and_goes_on(world, tmp_path):
    """SLURM's part is played by two stand-ins: srun starts what follows its options, scontrol names this machine and notes the requeue."""
    page = (Path(__file__).parent.parent / "docs/processes.md").read_text()
    script = page.split("```bash\n")[1].split("```")[0]
    for name, text in (
        ("srun", 'shift; exec "$@"'),
        ("scontrol", f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {tmp_path}/queued; fi'),
        ("torchrun", f'exec {sys.executable} -m torch.distributed.run "$@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("")
    experiment = tmp_path / "experiments/tongue/unet.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(world[2].read_text().replace("epochs: 2", "epochs: 400").replace("preview_every: 1", "preview_every: 400"))
    (tmp_path / "tongue.sbatch").write_text(script.replace("/data/tongue", str(world[1])).replace(":29500", f":{free_port()}"))
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def job() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["bash", "tongue.sbatch"], cwd=tmp_path, env=environment, start_new_session=True)

    process, deadline = job(), time.monotonic() + 120
    while not list(tmp_path.glob("runs/job-7/*/metrics.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    [run] = [RunFolder(path.parent) for path in tmp_path.glob("runs/job-7/*/metrics.jsonl")]
    [agent] = children_of(process.pid)  # SLURM signals the step, not the script
    os.kill(agent, signal.SIGTERM)
    assert process.wait(timeout=90) != 0 and run.state()["status"] == "interrupted"
    assert (tmp_path / "queued").read_text() == "requeue 7\n"
    assert job().wait(timeout=240) == 0 and run.state()["status"] == "finished" and len(run.metrics()) == 400
    assert (tmp_path / "queued").read_text() == "requeue 7\n"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_the_death_of_a_process_ends_the_others_and_can_be_resumed(world, tmp_path):
    process, run = start_long(world, tmp_path)
    writer = run.state()["pid"]
    [other] = [pid for pid in children_of(process.pid) if pid != writer]
    os.kill(other, signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode and run.resume_point.exists()
    told = "error: torchrun: another process of this training has ended"
    assert told in errors and "Traceback" not in errors.split(told)[0], errors  # torchrun's own account, which follows, has one
    state = json.loads((run.path / "run.json").read_text())
    assert state["status"] in ("failed", "interrupted")
    whole = read_checkpoint(run.resume_point)[1]["epoch"]
    assert len(run.metrics()) in (whole - 1, whole)
