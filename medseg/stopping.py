"""Ctrl-C between two steps of a training.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a destructor or a callback from C (autograd's, a weak
reference's) it is printed and lost, and the training would go on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_between_steps() -> Iterator[Callable[[], None]]:
    """Yield a check that raises KeyboardInterrupt once Ctrl-C was pressed; a second Ctrl-C acts at once, as it did before.

    Outside the main thread, where signals cannot be caught, and where the shell has SIGINT ignored (a background job), the check does
    nothing.
    """
    before, asked = signal.getsignal(signal.SIGINT), threading.Event()
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield lambda: None
        return

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, ask)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
