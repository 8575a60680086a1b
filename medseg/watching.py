"""How a caller names files, and what it may watch while a verb works. Needs nothing that takes time to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseg.runfolder import RunFolder

PathLike = str | Path


def as_path(path: PathLike | None) -> Path | None:
    """None stays None."""
    return None if path is None else Path(path)


@dataclass(frozen=True)
class Progress:
    """What a caller may watch; each is called often, by the first process alone, and must be quick."""

    on_decode: Callable[[str, int, int], None] | None = None  # part, done, total
    on_start: Callable[[RunFolder, int], None] = lambda run, total_steps: None
    on_step: Callable[[int, float | None], None] = lambda step, val_score: None
    on_case: Callable[[int, int], None] = lambda done, total: None
