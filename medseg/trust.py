"""Whose code may run. A network named by an import path runs what stands there: a user who writes it into an experiment has said yes; a
run folder, which may be somebody else's, is asked about."""

from __future__ import annotations

import os

from medseg.errors import RunError

VARIABLE = "MEDSEG_TRUST_CODE"
_trusted: set[str] = set()


def trust(name: str) -> None:
    """An import path that the user has named, for this process."""
    _trusted.add(name)


def trust_all() -> None:
    """Of every run that is opened, by this process and those that it starts: the user has said --trust-code."""
    os.environ[VARIABLE] = "1"


def check_trusted(name: str, run: object) -> None:
    """RunError where a run folder names code that the user has not said may run."""
    if name not in _trusted and os.environ.get(VARIABLE) != "1":
        fix = f"if you know where the run comes from, allow it with --trust-code (in Python: {VARIABLE}=1)"
        raise RunError(run, f"its network is {name}, code that would be imported and run", fix)
