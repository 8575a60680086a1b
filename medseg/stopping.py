"""Ctrl-C between two steps of a training.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a destructor or a callback from C (autograd's, a weak
reference's) it is printed and lost, and the training would go on (a test hung on it).
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

    Outside the main thread, where signals cannot be caught, the check does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before, asked = signal.getsignal(signal.SIGINT) or signal.default_int_handler, threading.Event()

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
