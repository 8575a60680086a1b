"""Ctrl-C and SIGTERM between two steps of a training.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a destructor or a callback from C (autograd's, a weak
reference's) it is printed and lost, and the training would go on; between two lines of the optimiser it would leave half a step. SIGTERM
(kill, SLURM, a container that is stopped) would end the process with nothing kept.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 2.0  # a repeat before that is the same wish: a whole job is often signalled by more than one hand


class Stopped(KeyboardInterrupt):
    """Ctrl-C. agreed: whether all processes of a training stop at this step."""

    exit_code = 130
    agreed = False


class Terminated(Stopped):
    """SIGTERM: a Ctrl-C by somebody else."""

    exit_code = 143


KINDS: dict[int, type[Stopped]] = {signal.SIGINT: Stopped, signal.SIGTERM: Terminated}
Asked = Callable[[], Stopped | None]


@contextmanager
def stop_between_steps() -> Iterator[Asked]:
    """Yield a question that is answered with what to raise, once a signal has come.

    A second signal after PATIENCE_S acts at once, as it did before; under torchrun, which kills what does not end, none does. Outside the
    main thread, where signals cannot be caught, the answer is None; so it is to a signal that the shell has ignored (SIGINT in a
    background job).
    """
    asked: list[tuple[Stopped, float]] = []
    before = {number: signal.getsignal(number) for number in KINDS}
    caught = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    if threading.current_thread() is not threading.main_thread():
        caught = []

    def ask(number: int, frame: Any) -> None:
        now = time.monotonic()
        if not asked:
            asked.append((KINDS[number](), now))
        elif now - asked[0][1] >= PATIENCE_S and "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(number, before[number])
            os.kill(os.getpid(), number)

    for number in caught:
        signal.signal(number, ask)
    try:
        yield lambda: asked[0][0] if asked else None
    finally:
        for number in caught:
            signal.signal(number, before[number])
