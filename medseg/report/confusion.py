"""The confusion matrix of all images together, as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from medseg.files import atomic_path
from medseg.labels import LabelSet

WRITTEN_UP_TO = 12  # classes whose shares are written into the cells
LARGEST_IN, TICKS = 14.0, 40  # inches of the matrix, and names that have room beside it


def confusion_figure(path: Path, confusion_KK: np.ndarray, labels: LabelSet) -> None:
    """Each row is a class of the reference: the shares of its pixels by predicted class, which add up to 100 %; its pixels at its name."""
    of_reference = confusion_KK.sum(axis=1)
    shares = np.full(confusion_KK.shape, np.nan)
    np.divide(100.0 * confusion_KK, of_reference[:, None], out=shares, where=of_reference[:, None] > 0)
    side = min(max(3.2, 0.55 * len(shares)), LARGEST_IN)
    figure = Figure(figsize=(side + 2.6, side + 1.0), layout="constrained", dpi=120)
    axis = figure.subplots()
    colours = axis.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=100)
    ticks = range(0, len(shares), -(-len(shares) // TICKS))
    axis.set_xticks(ticks, [labels.names[place] for place in ticks], rotation=45, ha="right")
    axis.set_yticks(ticks, [f"{labels.names[place]} ({of_reference[place]:,} px)" for place in ticks])
    axis.set(xlabel="predicted", ylabel="reference")
    axis.set_title("Share of a reference class's pixels,\npooled over all images", fontsize=10)
    for row, column in np.ndindex(shares.shape) if len(shares) <= WRITTEN_UP_TO else ():
        _write(axis, row, column, float(shares[row, column]))
    figure.colorbar(colours, ax=axis, label="% of the row", shrink=0.8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight")


def _write(axis, row: int, column: int, share: float) -> None:  # type: ignore[no-untyped-def]
    text = "–" if np.isnan(share) else "0" if share == 0 else "<0.1" if share < 0.1 else f"{share:.1f}"
    axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 60 else "black")
