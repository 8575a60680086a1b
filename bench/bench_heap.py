"""What it is worth that a training keeps the memory it frees (medseg/heap.py): steps with and without, turn by turn in one process.

python bench/bench_heap.py [--record]

Networks of the zoo, each in a process of its own, a batch of 8 x 192 x 192. A ratio is the median over the turns of the
time without, over the time with; the peaks are of resident memory after the first steps. A few minutes; nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

from record import command_line, tell
from zoo_table import seconds_of, training_step

from medseg.heap import kept_blocks

NAMES, TURNS, KIB_A_MIB = ("unetplusplus", "basic_unet", "dynunet", "unet", "smp:unet/resnet34"), 4, 1024


def measured(name: str) -> dict[str, float]:
    """The ratio of one network, and its peaks of memory in MiB."""
    step = training_step(name)
    step()
    step()
    peaks = {"peak_mib_without": _peak_mib()}
    ratios = []
    for _ in range(TURNS):
        step()  # the first after the memory went back to the system takes what even plain malloc then keeps
        without = seconds_of(step)
        with kept_blocks():
            step()
            ratios.append(without / seconds_of(step))
    return {"ratio": round(statistics.median(ratios), 3), **peaks, "peak_mib_with": _peak_mib()}


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIB_A_MIB


def main() -> None:
    """The command line; --one is for its own processes."""
    parser = command_line(__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one)))
        return
    figures = {}
    for name in NAMES:
        run = subprocess.run([sys.executable, __file__, "--one", name], stdout=subprocess.PIPE, text=True, check=True)
        figures |= {f"{name} {key}": value for key, value in json.loads(run.stdout).items()}
    tell("A training that keeps the memory it frees", "python bench/bench_heap.py", figures, options.record)


if __name__ == "__main__":
    main()
