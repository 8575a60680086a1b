"""What the minutes are worth: val IoU after the same training time, medseg's and that of MONAI's tutorial recipe.

python bench/budget.py --data-root DIR [--minutes 5 10 20] [--record]     DIR with images/, masks/ and pairs.csv, as tongue600

The peer (bench/monai_tutorial.py) has no schedule, so one training is scored at each budget; its scoring is not counted. medseg is
trained once a budget, its schedule fitted: as many epochs as an epoch's time, measured first, lets in; its compiling, validation and
checkpoints are counted. Neither counts decoding. Both are scored on val, on each image's own grid, by the last weights, without test-time
augmentation; IoU is the mean over the images. The last line is one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_train import BATCH, HERE, prepare
from record import command_line, tell

from medseg import api
from medseg.runfolder import RunFolder

SCORE = "iou_per_image_class1"
COMPILED = "train.compile=always"  # measured and trained alike: `auto` leaves short trainings eager, and their epochs take longer


def peer(data_root: Path, minutes: list[float]) -> dict[float, dict[str, float]]:
    """Budget -> images seen and val IoU."""
    command = [sys.executable, str(HERE / "monai_tutorial.py"), "--pairs", str(data_root / "pairs.csv"), "--root", str(data_root)]
    done = subprocess.run([*command, "--minutes", *map(str, minutes)], check=True, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["minutes"]: {"images": line["images"], "iou": line[SCORE]} for line in found if "minutes" in line}


def ours(experiment: Path, data_root: Path, runs: Path, minutes: float, epoch_s: float, once_s: float) -> dict[str, float]:
    """The same of a training that fits in a budget, and how long it took."""
    epochs = max(1, int((60 * minutes - once_s) / epoch_s))
    run, wall_s = _train(experiment, data_root, runs, [f"train.epochs={epochs}", f"train.validate_every={epochs}", COMPILED])
    scores = api.evaluate(run.path, "val", data_root, "last").scores
    images = json.loads(run.timings_jsonl.read_text().splitlines()[-1])["step"] * BATCH
    return {"images": images, "iou": scores.per_image["tongue"]["iou"].mean, "wall_s": wall_s, "epochs": epochs}


def _train(experiment: Path, data_root: Path, runs: Path, overrides: list[str]) -> tuple[RunFolder, float]:
    """A run, and its seconds from the first step to the end."""
    started = [0.0]

    def on_start(run: RunFolder, total_steps: int) -> None:
        started[0] = time.perf_counter()

    run = api.train(experiment, overrides, data_root, runs, api.Progress(on_start=on_start))
    return run, time.perf_counter() - started[0]


def epoch_time(experiment: Path, data_root: Path, runs: Path) -> tuple[float, float]:
    """(seconds of an epoch, seconds spent once: compiling, the last validation and preview), by trainings of one and of three epochs."""
    often = "train.validate_every=100"
    _, three_s = _train(experiment, data_root, runs, ["train.epochs=3", often, COMPILED])
    _, one_s = _train(experiment, data_root, runs, ["train.epochs=1", often, COMPILED])
    epoch_s = (three_s - one_s) / 2
    return epoch_s, max(0.0, one_s - epoch_s)


def compare(data_root: Path, minutes: list[float]) -> dict[str, object]:
    """Both at each budget, and whether ours at the smallest is as good as the peer's at the largest."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        experiment = prepare(data_root, folder)
        epoch_s, once_s = epoch_time(experiment, data_root, folder / "runs")
        print(json.dumps({"epoch_s": epoch_s, "once_s": once_s}), file=sys.stderr, flush=True)
        medseg = {}
        for budget in minutes:
            medseg[budget] = ours(experiment, data_root, folder / "runs", budget, epoch_s, once_s)
            print(json.dumps({"medseg": budget, **medseg[budget]}), file=sys.stderr, flush=True)
    found = peer(data_root, minutes)
    figures: dict[str, object] = {}
    for budget in minutes:
        for name, of in (("medseg", medseg[budget]), ("peer", found[budget])):
            figures |= {f"{name}_{budget:g}_min_{key}": round(value, 4) for key, value in of.items()}
    over_s = max(medseg[budget]["wall_s"] - 60 * budget for budget in minutes)
    figures["medseg_longest_over_budget_s"] = round(over_s, 1)
    return figures | {"ours_at_least_minus_peer_at_most": round(medseg[minutes[0]]["iou"] - found[minutes[-1]]["iou"], 4)}


if __name__ == "__main__":
    parser = command_line(__doc__, needs_photographs=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0, 10.0, 20.0])
    options = parser.parse_args()
    figures = compare(options.data_root, sorted(options.minutes))
    tell("Val IoU at equal minutes of training", "python bench/budget.py --data-root tongue600", figures, options.record)
