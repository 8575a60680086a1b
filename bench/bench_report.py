"""`medseg report` of tongue600's test split: all tables, the page with every picture, everything sent to MLflow; under 60 s?

python bench/bench_report.py --data-root tongue600 [--record]

A network is trained for one epoch, twice (what it has learnt does not change the time), and scored. Timed from the command line, imports
and all, three times each: the report of one run, and of both with their tests. Exits 1 where the slowest of one run takes 60 s or more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anonymous import Peak
from record import command_line, tell

LIMIT_S, TIMES, EXPERIMENTS = 60.0, 3, Path(__file__).parents[1] / "experiments"


def medseg(*arguments: object, cwd: Path) -> tuple[float, float]:
    """(seconds, MiB of anonymous memory at the peak) of a command that succeeds."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{cwd / 'mlflow.db'}"}
    started, quiet = time.perf_counter(), subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-m", "medseg", *map(str, arguments)], cwd=cwd, env=environment, stdout=quiet, stderr=quiet)
    with Peak(process.pid) as peak:
        code = process.wait()
    assert code == 0, (arguments, code)
    return time.perf_counter() - started, peak.mib


def trained(data: Path, cwd: Path) -> tuple[list[Path], float]:
    """Two runs with their scores, and the seconds of the slower scoring."""
    manifest = Path("data_manifests/tongue/v1")
    medseg("manifest", "import", "masks", "--images", data / "images", "--masks", data / "masks", "--classes", "tongue",
           "--out", manifest, cwd=cwd)  # fmt: skip
    medseg("manifest", "split", manifest, "--name", "official", "--from", data / "pairs.csv", cwd=cwd)
    for name in ("unet", "unet_dice_focal"):
        medseg("train", EXPERIMENTS / "tongue" / f"{name}.yaml", "train.epochs=1", "--data-root", data, cwd=cwd)
    runs = sorted((cwd / "runs").iterdir())
    return runs, max(medseg("evaluate", run, "--data-root", data, cwd=cwd)[0] for run in runs)


def measure(data: Path) -> dict[str, float]:
    """Seconds and memory of the reports, and how large the page is."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        cwd = Path(temporary)
        runs, figures["evaluate_s"] = trained(data, cwd)
        for name, given in (("one_run", runs[:1]), ("two_runs", runs)):
            found = [medseg("report", *given, "--out", name, "--data-root", data, cwd=cwd) for _ in range(TIMES)]
            figures[f"{name}_median_s"] = sorted(seconds for seconds, _ in found)[TIMES // 2]
            figures[f"{name}_slowest_s"] = max(seconds for seconds, _ in found)
            figures[f"{name}_peak_mib"] = max(mib for _, mib in found)
            figures[f"{name}_page_mb"] = (cwd / name / "report.html").stat().st_size / 1e6
    return {name: round(value, 1) for name, value in figures.items()}


if __name__ == "__main__":
    options = command_line(__doc__, needs_photographs=True).parse_args()
    figures = measure(options.data_root.resolve())
    tell("Report of tongue600's test split", "python bench/bench_report.py --data-root tongue600", figures, options.record)
    sys.exit(figures["one_run_slowest_s"] >= LIMIT_S)
