"""What the quick layers (medseg/models/quick.py) are worth: training steps with and without, turn by turn in one process.

python bench/bench_quick.py [--record]

Networks of the zoo on a batch of 8 x 192 x 192, in each precision that the processor has arithmetic for. A ratio is the median over the
turns of the time without, over the time with. A few minutes; nothing else may run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from unittest.mock import patch

from record import command_line, tell
from zoo_table import seconds_of, training_step

from medseg.environment import processor_flags
from medseg.heap import kept_blocks

NAMES, TURNS = ("unet", "basic_unet", "dynunet", "unetplusplus"), 4
PRECISIONS = ("float32", "bfloat16") if processor_flags() else ("float32",)


def ratio(step: Callable[[], None], plain: Callable[[], None]) -> float:
    """The time of a plain step over the time of a quick one."""
    step(), plain()
    return statistics.median(seconds_of(plain) / seconds_of(step) for _ in range(TURNS))


def measured(name: str, precision: str) -> float:
    """The ratio of one network."""
    with patch("medseg.build.hasten"):
        plain = training_step(name, precision)
    with kept_blocks():
        return round(ratio(training_step(name, precision), plain), 2)


if __name__ == "__main__":
    options = command_line(__doc__).parse_args()
    figures = {f"{name} {precision}": measured(name, precision) for name in NAMES for precision in PRECISIONS}
    tell("Quick layers: a step without them over one with them", "python bench/bench_quick.py", figures, options.record)
