"""A training that is stopped, killed or fails goes on to the very bytes it would have come to; and says so where it cannot."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medseg import api
from medseg.engine.checkpoint import read_checkpoint
from medseg.errors import CheckpointError, RunError, TrainingError
from medseg.manifest.split import make_split
from medseg.runfolder import RunFolder, open_run
from tests.tiny import make_all

EQUAL = ("metrics.jsonl", "checkpoints/best.safetensors", "checkpoints/last.safetensors", "previews/epoch_0004.jpg")
SCORES = ("evaluation/test/scores.json", "evaluation/test/per_case.csv")
BASE = ["train.epochs=4", "train.preview_every=4"]
VARIANTS = {
    "plain": [],
    "all": ["model.dropout=0.2", "optim.ema_decay=0.9", "augment.noise=0.1", "sampling.name=uniform", "train.prefetch=0"],
    "crops": ["sampling.patch_px=[16, 24]", "sampling.centre_ratios={square: 1, anywhere: 1}", "train.validate_every=2"],
    "accumulated": ["train.batch_size=2", "train.accumulate=2", "optim.name=sgd", "optim.schedule=polynomial", "loss.reduction=image"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, data root, experiment), made once."""
    root = tmp_path_factory.mktemp("resume")
    manifest, _, data_root, experiment = make_all(root)
    return root, data_root, experiment


@pytest.fixture(scope="module")
def whole(world):
    """variant -> a run of it that nothing has stopped, with its scores; each made once."""
    root, data_root, experiment = world
    made: dict[str, RunFolder] = {}

    def run_of(variant: str) -> RunFolder:
        if variant not in made:
            made[variant] = api.train(experiment, [*BASE, *VARIANTS[variant]], data_root, root / "runs")
            api.evaluate(made[variant].path, "test", data_root)
        return made[variant]

    return run_of


def stopped(world, overrides: list[str], at: int, runs: Path) -> RunFolder:
    """A run that was stopped after `at` steps."""
    seen: list[RunFolder] = []

    def on_step(step: int, val_score: float | None) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.train(
            world[2], [*BASE, *overrides], world[1], runs, api.Progress(on_start=lambda run, total: seen.append(run), on_step=on_step)
        )
    return seen[0]


def assert_equal(run: RunFolder, expected: RunFolder, names=EQUAL) -> None:
    for name in names:
        assert (run.path / name).read_bytes() == (expected.path / name).read_bytes(), name


@pytest.mark.parametrize(
    ("variant", "at"),
    [("plain", 6)]
    + [pytest.param(name, 5, marks=pytest.mark.slow) for name in ("all", "crops", "accumulated")]
    + [pytest.param(name, at, marks=pytest.mark.slow) for name in VARIANTS for at in (1, 2, 3, 4, 8, 11)],
)
def test_a_stopped_training_comes_to_the_same_bytes(world, whole, tmp_path, variant, at):
    """Steps 1 and 5 are within an epoch of 3 steps, step 6 ends one; 12 end the training."""
    run = stopped(world, VARIANTS[variant], at, tmp_path)
    assert run.state()["status"] == "interrupted" and run.resume_point.exists()
    assert api.resume(run.path, world[1]).path == run.path
    assert run.state()["status"] == "finished" and not run.resume_point.exists() and len(run.state()["resumed"]) == 1
    assert_equal(run, whole(variant))
    api.evaluate(run.path, "test", world[1])
    assert_equal(run, whole(variant), SCORES)


@pytest.mark.slow
def test_it_may_be_stopped_again_and_again(world, whole, tmp_path):
    run = stopped(world, VARIANTS["all"], 2, tmp_path)
    for at in (3, 4, 9, 11):

        def on_step(step: int, val_score: float | None, at: int = at) -> None:
            if step == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            api.resume(run.path, world[1], api.Progress(on_step=on_step))
    api.resume(run.path, world[1])
    assert_equal(run, whole("all"))


def test_what_was_kept_within_an_epoch_by_the_clock_is_as_good(world, whole, tmp_path):
    """The folder as a kill after step 5 leaves it: the place is that of step 4, within the second epoch."""
    copies = tmp_path / "copy"
    seen: list[RunFolder] = []

    def on_step(step: int, val_score: float | None) -> None:
        if step == 5 and not copies.exists():  # what step 4 kept is there, step 5 is not kept yet
            shutil.copytree(seen[0].path, copies)

    progress = api.Progress(on_start=lambda run, total: seen.append(run), on_step=on_step)
    overrides = [*BASE, *VARIANTS["plain"], "train.checkpoint_minutes=1e-9"]
    run = api.train(world[2], overrides, world[1], tmp_path / "runs", progress)
    assert_equal(run, whole("plain"), EQUAL[:1])
    facts = read_checkpoint(copies / "resume.safetensors")[1]
    assert (facts["epoch"], facts["step"], facts["terms"]) == (1, 4, ["cross_entropy", "dice", "total"])
    (copies / "run.json").write_text((copies / "run.json").read_text().replace('"running"', '"killed"'))
    api.resume(copies, world[1])
    assert_equal(RunFolder(copies), whole("plain"), EQUAL[:1])


def test_metrics_that_are_ahead_of_what_was_kept_are_cut_back(world, whole, tmp_path):
    run = stopped(world, [], 4, tmp_path)
    with run.metrics_jsonl.open("a") as stream:
        stream.write('{"epoch": 2, "step": 6, "metrics": {}}\n{"epoch": 3, "st')
    with run.timings_jsonl.open("a") as stream:
        stream.write('{"epo')
    api.resume(run.path, world[1])
    assert_equal(run, whole("plain"))
    assert [json.loads(line)["epoch"] for line in run.timings_jsonl.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_line_that_was_kept_and_not_yet_told_is_told(world, whole, tmp_path):
    """A kill between the two writes of an epoch's end."""
    run = stopped(world, [], 6, tmp_path)
    lines = run.metrics_jsonl.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    run.metrics_jsonl.write_text(lines[0])
    api.resume(run.path, world[1])
    assert_equal(run, whole("plain"))


def test_without_anything_kept_it_starts_anew(world, whole, tmp_path):
    run = stopped(world, [], 4, tmp_path)
    run.resume_point.unlink()
    api.resume(run.path, world[1])
    assert_equal(run, whole("plain"))


@pytest.mark.slow
def test_patience_ends_a_training_and_a_resumed_one_at_the_same_epoch(world, tmp_path):
    overrides = ["train.patience=2", "train.epochs=40", "optim.lr=1e-12"]  # nothing is learnt: the first epoch stays the best
    run = api.train(world[2], overrides, world[1], tmp_path / "a")
    assert [line["epoch"] for line in run.metrics()] == [1, 2, 3]
    assert run.state()["status"] == "finished"
    again = stopped(world, overrides, 7, tmp_path / "b")
    api.resume(again.path, world[1])
    assert_equal(again, run, EQUAL[:3])


def test_a_finished_run_is_not_resumed(world, whole):
    with pytest.raises(RunError, match="this training has finished; evaluate it"):
        api.resume(whole("plain").path, world[1])


def test_a_run_at_work_is_not_resumed(world, tmp_path):
    run = stopped(world, [], 1, tmp_path)
    run.take_over()
    with pytest.raises(RunError, match=f"process {os.getpid()} is at work on it; wait for it, or stop it first"):
        api.resume(run.path, world[1])


def test_a_run_that_never_began_is_not_resumed(world, tmp_path):
    run = stopped(world, [], 1, tmp_path)
    run.digests_json.unlink()
    with pytest.raises(RunError, match="ended before it had begun; remove the folder"):
        api.resume(run.path, world[1])


def test_another_split_is_refused(tmp_path):
    manifest, _, data_root, experiment = make_all(tmp_path)
    run = stopped((tmp_path, data_root, experiment), [], 1, tmp_path / "runs")
    (tmp_path / "manifest/splits/main.csv").unlink()
    make_split(manifest, "main", (0.5, 0.3, 0.2), seed=1, unlock="drawn anew")
    with pytest.raises(RunError, match="the split has changed since this run was trained"):
        api.resume(run.path, data_root)


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b.replace(b"optimizer/0/", b"optimizer/9/")])
def test_what_was_kept_and_is_damaged_is_refused_by_name(world, tmp_path, spoil):
    run = stopped(world, [], 1, tmp_path)
    run.resume_point.write_bytes(spoil(run.resume_point.read_bytes()))
    with pytest.raises(CheckpointError, match="resume.safetensors: "):
        api.resume(run.path, world[1])
    assert run.state()["status"] == "failed"


def test_a_loss_that_is_no_number_leaves_the_last_good_place(world, tmp_path):
    run = stopped(world, [], 3, tmp_path)  # an epoch is to come, in which a bad step is followed by others
    kept = run.resume_point.read_bytes()
    text = run.config_yaml.read_text()
    run.config_yaml.write_text(text.replace("lr: 0.01", "lr: 1.0e+30").replace("clip_norm: 1.0", "clip_norm: null"))
    with pytest.raises(TrainingError, match=r"epoch \d: (the loss is|.* weights that are) not finite .*; lower optim.lr"):
        api.resume(run.path, world[1])
    assert run.state()["status"] == "failed"
    assert run.resume_point.read_bytes() == kept


def start(world, runs: Path, *overrides: str, **options) -> subprocess.Popen[str]:
    """`medseg train` as a process of its own; Ctrl-C reaches it, where a script's background job would inherit an ignored one."""
    command = [sys.executable, "-m", "medseg", "train", str(world[2]), *BASE, *overrides]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "--data-root", str(world[1]), "--runs", str(runs)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    signal.signal(signal.SIGINT, ours)
    return process


def wait_for_epoch(runs: Path, process: subprocess.Popen[str]) -> RunFolder:
    """The run of a process once an epoch of it is done."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if found := [path for path in runs.glob("*/metrics.jsonl") if path.stat().st_size]:
            return open_run(found[0].parent)
        time.sleep(0.02)
    raise AssertionError(f"no epoch was done:\n{process.stderr.read() if process.stderr else ''}")


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_kept_marked_and_says_how_to_go_on(world, tmp_path, number, code):
    process = start(world, tmp_path, "train.epochs=5000")
    run = wait_for_epoch(tmp_path, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in errors
    assert f"go on with it by: medseg train --resume {run.path}" in " ".join(errors.split("\n"))
    assert run.state()["status"] == "interrupted" and run.resume_point.exists()


@pytest.mark.slow
def test_a_full_disk_is_one_error_and_what_was_kept_stays(world, whole, tmp_path):
    """The limit on a file's size stands for it: the system refuses to write more."""
    size = whole("plain").checkpoint("last").stat().st_size
    limit = size + 4000  # of weights it has room, of what is kept to resume it has not
    # away from the repository, whose diff is written to a run first, and may be larger
    process = start(world, tmp_path, cwd=world[0], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in errors
    assert "resume.safetensors: cannot be written (" in errors and "make room there" in errors
    [run] = [RunFolder(path) for path in tmp_path.iterdir()]
    assert run.state()["status"] == "failed" and not list(run.path.rglob("*.part*"))
    api.resume(run.path, world[1])
    assert_equal(run, whole("plain"))


@pytest.mark.slow
def test_memory_that_runs_out_is_one_error_with_the_knob(world, tmp_path):
    """The limit on a process's addresses stands for a small machine."""
    limit = 12 * 2**30
    large = ["train.batch_size=12", "data.size_px=[2048, 2048]", "model.channels=[256, 512]", "sampling.draws_per_epoch=12"]
    process = start(world, tmp_path, *large, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2 and "Traceback" not in errors, errors
    assert "cpu memory ran out, with train.batch_size 12 and images of 2048 x 2048 pixels; lower train.batch_size" in errors


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_comes_to_the_same_bytes(world, tmp_path):
    """kill -9 from the first import to the last write; some of them while something is being written."""
    overrides = [*VARIANTS["all"], "train.epochs=400", "train.checkpoint_minutes=1e-9", "train.preview_every=400"]
    expected = api.train(world[2], [*BASE, *overrides], world[1], tmp_path / "whole")
    api.evaluate(expected.path, "test", world[1])
    runs = tmp_path / "killed"
    process = start(world, runs, *overrides)
    run = wait_for_epoch(runs, process)
    process.kill()
    process.wait()

    command = [sys.executable, "-m", "medseg", "train", "--resume", str(run.path), "--data-root", str(world[1])]
    chance, killed, writing = random.Random(0), 1, 0
    while killed < 20:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if killed % 3 == 0:  # at any moment from its first import
            time.sleep(chance.uniform(0.5, 9))
        else:
            wait_until(lambda process=process: run.state()["pid"] == process.pid)
            time.sleep(chance.uniform(0, 3))
        if killed % 3 == 2:  # while the place is being written
            wait_until(lambda: list(run.path.glob(".resume.*.part*")))
        assert process.poll() is None, run.state()
        process.kill()
        process.wait()
        killed, writing = killed + 1, writing + bool(list(run.path.glob(f".resume.{process.pid}.*.part*")))
    assert killed == 20 and writing >= 3, writing
    api.resume(run.path, world[1])
    api.evaluate(run.path, "test", world[1])
    assert_equal(run, expected, (*EQUAL[:3], *SCORES))
