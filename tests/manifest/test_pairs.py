"""Left-right pairs that a user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import LabelError, ManifestError
from medseg.labels import LabelSet
from medseg.manifest.importers.pairs import check_pairs, with_pairs

LABELS = LabelSet.of("liver", "left", "right", "eye l", "eye r")


def test_pairs_are_named() -> None:
    found = with_pairs(LABELS, ["left=right", "eye l = eye r"])
    assert found.left_right_pairs == (("left", "right"), ("eye l", "eye r")) and found.mirrored_ids == (0, 1, 3, 2, 5, 4)
    assert with_pairs(LABELS, []) is LABELS


@pytest.mark.parametrize(
    "stated", [["left"], ["left=right=liver"], ["left=left"], ["left=spleen"], ["left=right", "liver=left"], ["background=left"]]
)
def test_what_is_no_pair_is_refused(stated: list[str]) -> None:
    with pytest.raises(LabelError, match="--left-right: pairs are LEFT=RIGHT, of two classes that stand in no other pair"):
        with_pairs(LABELS, stated)


def test_a_dataset_yaml_that_says_otherwise_is_not_passed_over(tmp_path: Path) -> None:
    stated = with_pairs(LABELS, ["left=right"])
    check_pairs(stated, stated, tmp_path)
    check_pairs(stated, LABELS, tmp_path)  # nothing stated: the file's pairs stay
    with pytest.raises(ManifestError, match=r"dataset\.yaml: it says left_right_pairs \[\], --left-right \[\('left', 'right'\)\]"):
        check_pairs(LABELS, stated, tmp_path)
