"""What the figures of a report have in common: colours, and how they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from medseg.files import atomic_path

COLOURS = ("#3366aa", "#c06020", "#2f8050", "#8a4f9e", "#7a6a20", "#a03050", "#40808f", "#555555")  # of the sources, in turn
INK, QUIET = "#333333", "#dddddd"
_UNDATED: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # equal scores write equal files


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Write by the suffix, whole or not at all; an SVG is transparent, for pages that may be dark."""
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "medseg"}):
        figure.savefig(temporary, format=path.suffix[1:], metadata=_UNDATED.get(path.suffix), transparent=path.suffix == ".svg", **options)
