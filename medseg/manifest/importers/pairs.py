"""Left-right pairs that a user names, for formats that cannot state them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.errors import LabelError, ManifestError
from medseg.labels import LabelSet
from medseg.manifest.table import DATASET_FILE


def with_pairs(labels: LabelSet, stated: Sequence[str]) -> LabelSet:
    """The label set with its pairs, each stated as LEFT=RIGHT; LabelError for what is none, or a class that stands in two.

    >>> with_pairs(LabelSet.of("eye_left", "eye_right"), ["eye_left=eye_right"]).mirrored_ids
    (0, 2, 1)
    """
    pairs = [tuple(part.strip() for part in one.split("=")) for one in stated]
    named = [name for pair in pairs for name in pair]
    if any(len(pair) != 2 for pair in pairs) or len(set(named)) < len(named) or not set(named) <= set(labels.foreground):
        rule = f"pairs are LEFT=RIGHT, of two classes that stand in no other pair, got {list(stated)}"
        raise LabelError("--left-right", rule, f"the classes are {', '.join(labels.foreground)}")
    return labels.model_copy(update={"left_right_pairs": tuple(pairs)}) if pairs else labels


def check_pairs(kept: LabelSet, stated: LabelSet, out: Path) -> None:
    """ManifestError where the dataset.yaml that an import keeps has other pairs than the user states now."""
    if stated.left_right_pairs and set(kept.left_right_pairs) != set(stated.left_right_pairs):
        rule = f"it says left_right_pairs {list(kept.left_right_pairs)}, --left-right {list(stated.left_right_pairs)}"
        raise ManifestError(out / DATASET_FILE, rule, "correct the file, or leave the option out")
