"""Every 2-D network of the zoo from scratch on tongue600: 300 steps of 8 images at 192 x 192, one recipe; the best five with a second seed.

python bench/zoo_table.py --data-root tongue600 [--steps 300] [--work runs/zoo] [--only NAME ...] [--skip-costs] [--costs-again]
                    [--skip-trainings] [--precision bfloat16]

What bench/results holds of the same recipe is not done again, so the same command goes on where it stopped, on another machine, too; a
training that was stopped half way goes on from the working folder. Trainings are in float32; --precision bfloat16 trains in that what does
not stand in it, and the table says of each row what it was trained in. Costs (images/s of training steps, peak memory) are measured in
processes of their own, with nothing else running, on the device that a training here would take: the GPU where there is one. The table is
part of docs/results.md, its figures in docs/images; both are written at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anonymous import Peak
from record import RESULTS, append, lines, machine
from zoo_figure import write_figures
from zoo_page import CPU, LONG_STEPS, OTHER, USUAL, WAY, rows

from medseg.config import Config, load_config, read_config
from medseg.environment import describe_git
from medseg.errors import MedsegError
from medseg.files import write_text
from medseg.heap import kept_blocks
from medseg.models.listed import listed
from medseg.runfolder import RunFolder

ROOT = Path(__file__).parents[1]
EXPERIMENT, MANIFEST = ROOT / "experiments" / "tongue" / "zoo.yaml", Path("data_manifests/tongue/v1")
COMMIT = "commit"  # file beside the runs of one network, seed, length and precision: what the last of them began at
SECOND_SEED = 5  # so many of the best have one
EPOCH_STEPS = 60  # as zoo.yaml has them
STEPS = {"cpu": 4, "cuda": 50}  # of which the first warms up, and on a GPU more, until its clock is up; the fastest of the others counts
# Adam's usual rate for U-Nets is too high for a transformer without warm-up of thousands of steps (Xiong et al., ICML 2020)
TRANSFORMERS = ("unetr", "swin_unetr", "dpt", "segformer", "mask2former", "smp:segformer/mit_b0", "smp:dpt/tu-vit_small_patch16_224")
RATES = dict.fromkeys(TRANSFORMERS, 2e-4)


@dataclass(frozen=True)
class Plan:
    """How the networks are trained. precision: None for zoo.yaml's, and then a row in any counts as done."""

    steps: int = 300
    precision: str | None = None

    def overrides(self, name: str, seed: int) -> list[str]:
        """What the experiment of one network says beside zoo.yaml."""
        rate = [f"optim.lr={RATES[name]}"] if name in RATES else []
        precision = [f"train.precision={self.precision}"] if self.precision else []
        return [f"model.name={name}", f"name=zoo-{name.translate(str.maketrans(':/', '--'))}", f"seed={seed}", "tracking.enabled=false",
                *rate, f"train.epochs={self.steps // EPOCH_STEPS}", *precision]  # fmt: skip

    def config(self, name: str, seed: int) -> Config:
        """The whole experiment of one network."""
        return load_config(EXPERIMENT, self.overrides(name, seed))


def recipe(config: Config) -> str:
    """A short digest of everything but the network and its rate, seed, name, place and what only the speed depends on.

    What is left at its default does not count: a new option of medseg's must not put aside what was trained without it.
    """
    content = config.model_dump(mode="json", exclude_defaults=True) | {"seed": 0, "name": "", "tracking": None}
    content |= {"model": None, "optim": content.get("optim", {}) | {"lr": 0}}
    content["data"] |= {"cache": "", "cache_gib": 0, "manifest": ""}
    content["train"] |= dict.fromkeys(("device", "precision", "prefetch", "channels_last", "checkpoint_minutes", "preview_every"))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def medseg(*arguments: object, cwd: Path) -> None:
    """A command that succeeds; its progress goes to standard error."""
    with subprocess.Popen([sys.executable, "-m", "medseg", *map(str, arguments)], cwd=cwd, stdout=subprocess.DEVNULL) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal's Ctrl-C has reached it, too: it writes down where it is, and subprocess.run would not let it
            raise
    if code:
        raise subprocess.CalledProcessError(code, process.args)


def prepared(work: Path, data: Path) -> None:
    """The manifest and split of tongue600 below the working folder."""
    if (work / MANIFEST / "splits" / "official.csv").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    medseg("manifest", "import", "masks", "--images", data / "images", "--masks", data / "masks", "--classes", "tongue",
           "--out", MANIFEST, cwd=work)  # fmt: skip
    medseg("manifest", "split", MANIFEST, "--name", "official", "--from", data / "pairs.csv", cwd=work)


def trained(name: str, seed: int, plan: Plan, work: Path, data: Path) -> RunFolder:
    """The run of one network, trained and scored: the last one that was begun below the working folder goes on, else a new one begins."""
    config = plan.config(name, seed)
    runs = work / "runs" / f"{config.name}-{seed}-{plan.steps}-{config.train.precision}"
    run = begun(runs, config)
    if run is None:
        write_text(runs / COMMIT, _commit())  # the working folder may lie outside this repository, whose commit the run then does not know
        medseg("train", EXPERIMENT, *plan.overrides(name, seed), "--data-root", data, "--runs", runs, cwd=work)
    elif run.state()["status"] != "finished":
        medseg("train", "--resume", run.path, "--data-root", data, cwd=work)
    run = begun(runs, config)
    assert run is not None
    if not run.evaluation("test").exists():
        medseg("evaluate", run.path, "--data-root", data, "--no-boundary", cwd=work)
    return run


def begun(runs: Path, wanted: Config) -> RunFolder | None:
    """The last run of this recipe and precision below `runs`; one that has not begun its first step or cannot be read is passed by."""
    found = []
    for run in (RunFolder(path.parent) for path in runs.glob("*/digests.json")):
        with suppress(MedsegError):
            config = read_config(run.config_yaml)
            if (recipe(config), config.train.precision) == (recipe(wanted), wanted.train.precision):
                found.append((run.state()["started"], run))
    return max(found, key=lambda each: each[0])[1] if found else None


def train(name: str, seed: int, plan: Plan, work: Path, data: Path) -> None:
    """Train and score one network, and record it with the commit that its training began at."""
    from medseg.publishing.published import publish

    run = trained(name, seed, plan, work, data)
    resolved = read_config(run.config_yaml)
    cells = publish([f"{name}={run.path}"], metrics=["iou", "recall", "precision"]).cells
    scores = {
        f"{cell.metric}_{cell.average}": [cell.estimate.value, cell.estimate.low, cell.estimate.high]
        for cell in cells
        if cell.name == "tongue" and cell.metric in ("iou", "recall", "precision")
    }
    record = {"what": "zoo", "network": name, "seed": seed, "recipe": recipe(resolved), "lr": resolved.optim.lr, "scores": scores}
    gpus = json.loads(run.environment_json.read_text(encoding="utf-8"))["hardware"]["gpus"]
    record |= {
        "n_test": cells[0].n_cases,
        "machine": place(resolved.train.device, gpus),
        "device": resolved.train.device,
        "precision": resolved.train.precision,
        "steps": plan.steps,
        "commit": (run.path.parent / COMMIT).read_text(encoding="utf-8"),
    }
    append(record)


def costs(name: str) -> None:
    """Measure one network in a process of its own, and record it."""
    process = subprocess.Popen([sys.executable, __file__, "--cost", name], stdout=subprocess.PIPE, text=True)
    with Peak(process.pid) as peak:
        text, _ = process.communicate()
    assert process.returncode == 0, name
    record = {"what": "zoo-cost", "network": name, "way": WAY, "peak_mib": round(peak.mib), "commit": _commit()}
    append(record | json.loads(text))  # on a GPU the process says its machine's whole name, and has a peak of its own


def _commit() -> str:
    git = describe_git(ROOT)
    return f"{git['commit']}{'+' if git['dirty'] else ''}"


def place(device: str, gpus: Sequence[str]) -> str:
    """The machine by name, with its GPU where that computes (the first of several): two that differ in this alone are two."""
    return machine() if device == CPU else f"{machine()}, {gpus[0]}"


def here() -> tuple[str, str]:
    """(device, place) of a training that would begin here."""
    import torch

    from medseg.build import resolve

    device = resolve(load_config(EXPERIMENT)).train.device
    return device, place(device, [] if device == CPU else [torch.cuda.get_device_name()])


def training_step(name: str, precision: str = USUAL, device: str = CPU) -> Callable[[], None]:
    """A step of the training of one network, AdamW's included, on one batch of 8; it is over when the call is, on a GPU, too."""
    import torch

    from medseg.build import build_model
    from medseg.engine.optim import make_optimizer
    from medseg.labels import LabelSet
    from medseg.types import Batch, Row, Size

    config, labels = Plan().config(name, 0), LabelSet.of("tongue")
    row = Row("a", "a", "a.png", "a.png", Size(192, 192), "", "", {"background": 30000, "tongue": 6864})
    model = build_model(config, labels, [row]).train().to(device)
    optimizer, image = make_optimizer(config.optim, model), torch.rand(8, 3, *config.data.size_px)
    mask = torch.zeros(8, *config.data.size_px, dtype=torch.int64)
    mask[:, 60:140, 50:150] = 1
    batch = Batch(image.contiguous(memory_format=torch.channels_last).to(device), mask.to(device), ("a",) * 8)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == OTHER):
            total = model(batch).total
        total.backward()
        optimizer.step()
        if device != CPU:
            torch.cuda.synchronize()  # what was called is only queued until here

    return step


def cost(name: str) -> dict[str, Any]:
    """Where it was measured, parameters, multiply-adds of an image at 192 x 192, and images/s of the fastest training step, memory kept as
    a training keeps it; on a GPU the most of its memory that tensors held, too."""
    import torch

    from medseg.models.contract import Task
    from medseg.models.cost import cost_of

    config, (device, where) = Plan().config(name, 0), here()
    counted, step = cost_of(config.model, Task(2, config.data.size_px)), training_step(name, device=device)
    with kept_blocks():
        seconds = [seconds_of(step) for _ in range(STEPS[device])]
    rate = 8 / min(seconds[1:])  # what shares the machine only ever slows a step
    told = {"device": device, "machine": where, "parameters": counted.parameters, "multiply_adds": counted.multiply_adds}
    peak = {} if device == CPU else {"peak_mib": torch.cuda.max_memory_allocated() >> 20}
    return told | {"images_per_s": round(rate, 2)} | peak


def seconds_of(step: Callable[[], None]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def recorded(what: str) -> list[dict[str, Any]]:
    """The lines of one kind."""
    return [line for path in sorted(RESULTS.glob("*.jsonl")) for line in lines(path) if line["what"] == what]


def missing(names: Iterable[str], seed: int, plan: Plan) -> list[str]:
    """The networks that are not yet trained by the recipe as it stands, in the precision that the plan asks for, if any."""
    done = {(line["network"], line["seed"], line["recipe"]) for line in recorded("zoo") if plan.precision in (None, line["precision"])}
    return [name for name in names if (name, seed, recipe(plan.config(name, seed))) not in done]


def best(steps: int) -> dict[str, str]:
    """The networks that have a second seed, and the precision of their rows."""
    return {name: line["precision"] for name, line in list(rows(recorded("zoo"), steps).items())[:SECOND_SEED]}


def train_all(names: Sequence[str], seed: int, plan: Plan, work: Path, data: Path) -> None:
    """One after the other; one that fails is told, and the others go on."""
    for name in names:
        print(f"{name}: seed {seed}", file=sys.stderr, flush=True)
        try:
            train(name, seed, plan, work, data)
        except subprocess.CalledProcessError as cause:
            print(f"{name}: failed with exit code {cause.returncode}, left out", file=sys.stderr, flush=True)


def go(options: argparse.Namespace) -> None:
    """Everything that is missing, the cheapest first; then the figure."""
    price = {line.name: line.multiply_adds for line in listed() if 2 in line.dims}
    names = sorted(options.only or price, key=lambda name: price[name])
    priced = {(line["network"], line["machine"]) for line in recorded("zoo-cost") if line.get("way") == WAY}
    if not options.skip_costs:
        _, where = here()  # which differs between the devices of a machine
        for name in [name for name in names if options.costs_again or (name, where) not in priced]:
            print(f"{name}: cost", file=sys.stderr, flush=True)
            costs(name)
    if not options.skip_trainings:
        data, work = options.data_root.resolve(), options.work.resolve()
        plan = Plan(options.steps, options.precision)
        prepared(work, data)
        train_all(missing(names, 0, plan), 0, plan, work, data)
        for name, precision in best(options.steps).items():
            second = Plan(options.steps, precision)  # as the row is that it stands in
            train_all(missing([name] if name in names else [], 1, second), 1, second, work, data)
    for steps in {int(line["steps"]) for line in recorded("zoo")}:
        write_figures(ROOT / "docs" / "images", recorded("zoo"), recorded("zoo-cost"), steps)
    subprocess.run([sys.executable, str(Path(__file__).parent / "results.py")], check=True)


def main() -> None:
    """The command line: exit code 2 for what a user can mend, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="tongue600")
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="manifests, cache and runs")
    parser.add_argument("--steps", type=int, default=300, help=f"a multiple of 60; {LONG_STEPS:,} where a GPU is at hand")
    parser.add_argument("--precision", choices=[USUAL, OTHER], help="train in this one what is not recorded in it")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks alone")
    parser.add_argument("--skip-costs", action="store_true", help="other jobs run beside")
    parser.add_argument("--costs-again", action="store_true", help="of every network, the recorded ones, too; the fastest of both counts")
    parser.add_argument("--skip-trainings", action="store_true", help="costs and the figure alone")
    parser.add_argument("--cost", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cost:
        print(json.dumps(cost(options.cost)))
        return
    if options.data_root is None and not options.skip_trainings:
        parser.error("--data-root is missing: the folder of tongue600")
    try:
        go(options)
    except MedsegError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        os._exit(130)


if __name__ == "__main__":
    main()
