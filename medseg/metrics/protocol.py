"""The rules a set of scores was made by, stored and printed with them; scores of different protocols are not compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Protocol:
    """How masks became numbers. `background` names the class that means leave out or take in, as each mean's name says."""

    version: int = 1
    grid: str = "each image's own pixels"
    pooled: str = "ratio of counts summed over all images"
    per_image: str = "mean of the images' ratios over the n images in which the score is defined"
    both_empty: str = "undefined: left out, not in n"
    missed: str = "IoU, recall, precision and Dice are 0"
    reference_empty: str = "a false positive scores IoU, precision and Dice 0; recall is undefined"
    ignore_id: int = 255
    background: str = "background"
    test_time: str = "single forward pass"
    checkpoint: str = "chosen on val"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for scores.json."""
        return asdict(self)

    def sentence(self) -> str:
        """The footnote under a table."""
        return (
            f"Scored on {self.grid}. Pooled: {self.pooled}. Per image: {self.per_image}. Class in neither mask: {self.both_empty}. "
            f"Missed: {self.missed}. Reference empty: {self.reference_empty}. Ignored id: {self.ignore_id}. "
            f"Prediction: {self.test_time}; checkpoint {self.checkpoint}."
        )
