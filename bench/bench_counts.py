"""Counting 1,000 masks of 512 x 512 with 20 classes, against MONAI's ConfusionMatrixMetric in the same run: time and memory.

python bench/bench_counts.py [--images 1000] [--record]

Each image is counted by both, one after the other, so that a machine whose speed drifts is as fast for one as for the other; both begin
with class ids as uint8, one thread each. `ratio` is MONAI's seconds over ours, `memory_ratio` our peak of memory beyond the masks over
MONAI's, each measured in a process of its own. The counts are compared on every image. The last line is one JSON object.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.metrics import ConfusionMatrixMetric
from monai.networks.utils import one_hot
from record import command_line, tell

from medseg.labels import LabelSet
from medseg.metrics.counts import confusion, counts_table, members

CLASSES, SIDE, MEMORY_IMAGES = 20, 512, 30
LABELS = LabelSet.of(*(f"class {number}" for number in range(1, CLASSES)))


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(reference, prediction), uint8: blocks of classes, shifted."""
    generator = np.random.default_rng(number)
    reference = np.kron(generator.integers(0, CLASSES, (SIDE // 16, SIDE // 16)), np.ones((16, 16))).astype(np.uint8)
    return reference, np.roll(reference, generator.integers(1, 6, 2), axis=(0, 1))


class Ours:
    """tp, fp, fn, tn of each class, pooled and of the image."""

    def __init__(self) -> None:
        self.total_KK, self.members = np.zeros((CLASSES, CLASSES), np.int64), members(LABELS)

    def add(self, reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """(K, 4) of one image."""
        matrix = confusion(reference, prediction, LABELS)
        self.total_KK += matrix
        return counts_table(matrix, self.members)


class Theirs:
    """MONAI's, of which the sums over images are asked at the end; its columns are tp, fp, tn, fn."""

    def __init__(self) -> None:
        self.metric = ConfusionMatrixMetric(include_background=True, metric_name="recall", reduction="sum_batch")

    def add(self, reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """(K, 4) of one image, in our order."""
        hot = [one_hot(torch.from_numpy(mask)[None, None], CLASSES) for mask in (prediction, reference)]
        found = self.metric(y_pred=hot[0], y=hot[1])
        return found[0].numpy()[:, [0, 1, 3, 2]].astype(np.int64)


def seconds(images: int) -> tuple[float, float]:
    """(ours, theirs), image by image in turn."""
    ours, theirs, spent = Ours(), Theirs(), [0.0, 0.0]
    for number in range(images):
        pair = draw(number)
        found = []
        for place, counter in enumerate((ours, theirs)):
            started = time.perf_counter()
            found.append(counter.add(*pair))
            spent[place] += time.perf_counter() - started
        assert (found[0] == found[1]).all(), number
    return spent[0], spent[1]


def peak_mib(make: Callable[[], Ours | Theirs]) -> float:
    """What counting adds to a process that has drawn the masks and imported everything."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (make,))


def _peak_here(make: Callable[[], Ours | Theirs]) -> float:
    torch.set_num_threads(1)
    pairs, counter = [draw(number) for number in range(MEMORY_IMAGES)], make()
    counter.add(*(mask[:16, :16] for mask in pairs[0]))  # what a first call loads
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    before = _status_kib("VmRSS:")
    for pair in pairs:
        counter.add(*pair)
    return (_status_kib("VmHWM:") - before) / 1024


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours_s, theirs_s = seconds(options.images)
    ours_mib, theirs_mib = peak_mib(Ours), peak_mib(Theirs)
    figures = {"images": options.images, "ratio": round(theirs_s / ours_s, 2), "ours_s": round(ours_s, 2), "monai_s": round(theirs_s, 2)}
    figures |= {"memory_ratio": round(ours_mib / theirs_mib, 3), "ours_mib": round(ours_mib, 1), "monai_mib": round(theirs_mib, 1)}
    tell("Counting masks of 512 x 512, 20 classes", f"python bench/bench_counts.py --images {options.images}", figures, options.record)
    sys.exit(figures["ratio"] < 5 or figures["memory_ratio"] > 0.2)
