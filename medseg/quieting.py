"""Libraries that tell their own makers of each step, for a while without their lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quieted(*names: str, least: int = logging.CRITICAL) -> Iterator[None]:
    """Inside, these loggers and those below them that have no level of their own say nothing less than `least`; "root": all of them.

    >>> noisy = logging.getLogger("noisy")
    >>> with quieted("noisy", least=logging.ERROR):
    ...     noisy.isEnabledFor(logging.WARNING), noisy.isEnabledFor(logging.ERROR)
    (False, True)
    >>> noisy.isEnabledFor(logging.WARNING)
    True
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(least)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
