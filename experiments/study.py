"""Does balancing help, and which loss? Experiments that differ in one section only, each trained with every seed and scored on test.

python experiments/study.py {sampling,loss} --data-root DIR [--seeds 0 1 2] [--runs runs] [--set train.epochs=1 ...] [--record]

A finished run of the same config, manifest and split is used again, so that an interrupted study goes on where it stopped. The table goes
to standard output and, with a forest plot, to RUNS/studies/; --record adds its figures to bench/results.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
from study_report import Study, figures, forest_plot, heading, markdown, rarest_class
from study_scores import estimate

from medseg import api
from medseg.build import resolve, resolve_length, task_of
from medseg.config import Config, load_config, validate_config
from medseg.errors import ConfigError, MedsegError, RunError
from medseg.files import write_text
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.table import check_data_root, read_manifest, read_split, select
from medseg.models.weights import read_source
from medseg.report.tables import read_scores
from medseg.runfolder import RunFolder, mark_dead_runs, open_run
from medseg.training import normalised_as
from medseg.yamlio import read_yaml

HERE = Path(__file__).parent
ARMS = {  # the first is what the others are compared with
    "sampling": ("uniform", "repeat_factor", "inverse_frequency", "effective_number"),
    "loss": ("cross_entropy", "dice", "focal", "dice_focal", "dice_ce"),
}
TELL_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Arm:
    """One experiment file with one seed. config: everything resolved, as the run's config.yaml will hold it."""

    experiment: Path
    overrides: tuple[str, ...]
    config: Config

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.config.name}, seed {self.config.seed}"


def experiments(name: str) -> list[Path]:
    """The experiment files of a study, the first to be compared with."""
    return [HERE / "phantom" / f"{name}_{arm}.yaml" for arm in ARMS[name]]


def load_arm(experiment: Path, overrides: Iterable[str], seed: int) -> Arm:
    """An experiment as it will be run here; ConfigError, or WeightsError, where it cannot be."""
    overrides = (*overrides, f"seed={seed}")
    config = resolve(load_config(experiment, overrides))
    manifest = read_manifest(Path(config.data.manifest))
    config = normalised_as(config, read_source(config.model, task_of(config, manifest.labels)))
    images = len(select(manifest, read_split(manifest, config.data.split), "train"))
    return Arm(experiment, overrides, resolve_length(config, images))


def check_arms(configs: Sequence[Config], studied: str, images: int) -> int:
    """The optimiser steps of every arm; ConfigError where arms differ in them, or in anything but the section that is studied."""
    first, *others = configs
    steps = [config.steps_per_epoch(images) * config.train.epochs for config in configs]
    for config, its_steps in zip(configs, steps, strict=True):
        if its_steps != steps[0]:
            rule = f"{its_steps} optimiser steps, and {steps[0]} in {first.name}"
            raise ConfigError(config.name, rule, "give all arms the same epochs, batch and draws")
    for config in others:
        for key, value in config.flat().items():
            there = first.flat().get(key)
            if value != there and key not in ("name", "seed") and not key.startswith(f"{studied}."):
                raise ConfigError(config.name, f"{key} is {value}, and {there} in {first.name}", f"let arms differ in {studied} only")
    return steps[0]


def fingerprint(config: Config, manifest_sha256: str, split_sha256: str) -> tuple[str, str, str]:
    """What a run's numbers follow from, besides the code; its name has no say."""
    return config.model_copy(update={"name": "x"}).to_yaml(), manifest_sha256, split_sha256


def finished_runs(runs: Path) -> dict[tuple[str, str, str], RunFolder]:
    """The finished trainings below `runs` by fingerprint, the latest of equals; folders of another version are left out."""
    found: dict[tuple[str, str, str], tuple[str, RunFolder]] = {}
    for path in runs.glob("*/run.json"):
        try:
            run = open_run(path.parent)
            state, digests = run.state(), read_yaml(run.digests_json, RunError)
            config = validate_config(read_yaml(run.config_yaml, ConfigError), run.config_yaml)
        except MedsegError:
            continue
        key = fingerprint(config, str(digests.get("manifest_sha256")), str(digests.get("split_sha256")))
        if state["status"] == "finished" and (key not in found or found[key][0] < state["started"]):
            found[key] = state["started"], run
    return {key: run for key, (_, run) in found.items()}


class Clock:
    """Tells on standard error which training is under way, and when all will have ended by the pace so far."""

    def __init__(self, steps: int):
        self.steps, self.started, self.told = steps, time.monotonic(), time.monotonic()  # the first steps are slow

    def tell(self, title: str, done: int) -> None:
        """So many of the steps of all trainings are done."""
        now = time.monotonic()
        if done and now - self.told >= TELL_EVERY_S:
            self.told = now
            ends = datetime.now() + timedelta(seconds=(now - self.started) / done * (self.steps - done))
            print(f"{title}: step {done} of {self.steps} in all, the last ends about {ends:%d %b %H:%M}", file=sys.stderr, flush=True)


def run_arm(arm: Arm, data_root: Path, runs: Path, clock: Clock, before: int) -> RunFolder:
    """Train one arm; `before`: the steps of the trainings before it."""
    progress = api.Progress(on_step=lambda step, val_score: clock.tell(arm.title, before + step))
    return api.train(arm.experiment, arm.overrides, data_root, runs, progress)


def run_all(arms: Sequence[Arm], manifest: Manifest, split: Split, data_root: Path, runs: Path, steps: int) -> list[RunFolder]:
    """Every arm trained and scored on test, what is finished used again."""
    mark_dead_runs(runs)
    keys = [fingerprint(arm.config, manifest.digest, split.digest) for arm in arms]
    found = finished_runs(runs)
    clock, before = Clock(steps * len({*keys} - {*found})), 0
    for arm, key in zip(arms, keys, strict=True):
        if key in found:
            print(f"{arm.title}: {found[key].path} is finished and used again", file=sys.stderr, flush=True)
        else:
            found[key] = run_arm(arm, data_root, runs, clock, before)
            before += steps
        if not (found[key].evaluation("test") / "scores.json").exists():
            api.evaluate(found[key].path, "test", data_root)
    return [found[key] for key in keys]


def read_cases(runs: Sequence[RunFolder]) -> tuple[np.ndarray, list[str]]:
    """int64 (R, N, K, K) confusions of the test images and their groups; RunError unless all runs scored the same images."""
    confusions, first = [], pd.DataFrame()
    for run in runs:
        folder = run.evaluation("test")
        read_scores(folder / "scores.json")
        table = pd.read_csv(folder / "per_case.csv", usecols=["sample_id", "group_id"], dtype=str, keep_default_na=False)
        cases = table.drop_duplicates("sample_id", ignore_index=True)
        confusions.append(np.load(folder / "confusion.npy"))
        first = cases if first.empty else first
        if not cases.equals(first) or len(confusions[-1]) != len(cases):
            raise RunError(run.path, f"its test images are not those of {runs[0].id}", "evaluate both again: medseg evaluate RUN")
    return np.stack(confusions), first["group_id"].tolist()


def shown_share(run: RunFolder, name: str) -> float:
    """Share of the training images (or crops) shown that held the class, mean over the epochs, which have one length."""
    return fmean(line["metrics"][f"train/drawn_image_share/{name}"] for line in run.metrics())


def commits(runs: Iterable[RunFolder]) -> str:
    """The commits the runs were made at: a run that is used again may be older than the code that stands here."""
    git = [json.loads(run.environment_json.read_text(encoding="utf-8"))["git"] for run in runs]
    return ", ".join(sorted({f"{str(one['commit'])[:10]}{' with uncommitted changes' if one['dirty'] else ''}" for one in git}))


def study(
    name: str, files: Sequence[Path], data_root: Path | None, runs: Path, seeds: Sequence[int], overrides: Iterable[str] = ()
) -> Study:
    """Run a study's experiments, and write RUNS/studies/<name>.md and .png. Raises MedsegError for anything a user can mend.

    The heading goes to standard output before the first training, the table after the last.
    """
    if len(set(seeds)) != len(seeds):
        raise ConfigError("--seeds", f"a seed stands twice: {' '.join(map(str, seeds))}", "name each once")
    root, extra = check_data_root(data_root), tuple(overrides)
    arms = [load_arm(file, extra, seed) for file in files for seed in seeds]
    data = arms[0].config.data
    manifest = read_manifest(Path(data.manifest))
    split, labels = read_split(manifest, data.split), manifest.labels
    train, test = select(manifest, split, "train"), select(manifest, split, "test")
    steps, rarest = check_arms([arm.config for arm in arms], name, len(train)), rarest_class(train, test, labels)
    if len({row.group_id for row in test}) < 2:
        raise ConfigError("split 'test'", "it has one group of images, and an interval needs two or more", "make a split with more")
    print(heading(name, rarest), flush=True)

    done = run_all(arms, manifest, split, root, runs, steps)
    confusion_RNKK, groups = read_cases(done)
    found = estimate(confusion_RNKK.reshape(len(files), len(seeds), *confusion_RNKK.shape[1:]), groups, labels.id_of(rarest.name))
    shown = [fmean(shown_share(run, rarest.name) for run in done[i : i + len(seeds)]) for i in range(0, len(done), len(seeds))]
    notes: tuple[str, ...] = (
        f"Manifest {manifest.digest[:12]}, split `{split.name}` {split.digest[:12]}; runs made at commit {commits(done)}.",
    )
    notes += (f"Set for every arm: `{' '.join(extra)}`.",) if extra else ()
    names = tuple(file.stem.removeprefix(f"{name}_") for file in files)
    result = Study(name, names, tuple(seeds), steps, rarest, found, tuple(shown), len(set(groups)), notes)
    print(markdown(result))
    write_text(runs / "studies" / f"{name}.md", f"{heading(name, rarest)}\n{markdown(result)}")
    forest_plot(runs / "studies" / f"{name}.png", result)
    print(f"written: {runs / 'studies' / name}.md and .png", file=sys.stderr)
    return result


def record(result: Study) -> Path:
    """Add the study's figures to bench/results, from where docs/results.md takes them."""
    sys.path.insert(0, str(HERE.parent / "bench"))
    from record import proof

    return proof(f"Study of {result.name}", f"python {shlex.join(['experiments/study.py', *sys.argv[1:]])}", figures(result))


def main() -> None:
    """The command line: one line and exit code 2 for what a user can mend, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(ARMS))
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--set", nargs="+", default=[], metavar="section.key=value", help="for every arm alike")
    parser.add_argument("--record", action="store_true", help="add the figures to bench/results")
    options = parser.parse_args()
    try:
        result = study(options.name, experiments(options.name), options.data_root, options.runs, options.seeds, options.set)
        if options.record:
            print(record(result), file=sys.stderr)
    except MedsegError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the runs that are finished", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
