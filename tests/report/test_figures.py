from __future__ import annotations

import numpy as np
import pytest

from medseg.images import read_image
from medseg.labels import LabelSet
from medseg.metrics.counts import confusion
from medseg.report.figures import best_median_worst, overlay_sheet
from medseg.types import CaseResult

LABELS = LabelSet.of("tongue")


def case(name: str, hits: int) -> CaseResult:
    """A 10-pixel tongue of which `hits` are found; -1 for a case that has none and predicts none."""
    reference = np.zeros((4, 5), np.uint8)
    prediction = reference.copy()
    if hits >= 0:
        reference.ravel()[:10] = 1
        prediction.ravel()[:hits] = 1
    return CaseResult(name, name, confusion(reference, prediction, LABELS))


def test_the_kinds_are_chosen_by_score_and_cases_without_one_stay_out():
    order = [5, -1, 9, 1, 7, -1, 3, 8, 2, 6, 4]
    kinds = best_median_worst([case(f"c{place:02d}_{hits}", hits) for place, hits in enumerate(order)], LABELS)
    found = {kind: [int(each.sample_id.split("_")[1]) for each in cases] for kind, cases in kinds.items()}
    assert found == {"best": [9, 8, 7], "median": [6, 5, 4], "worst": [1, 2, 3]}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 30])
def test_no_case_stands_twice(count):
    kinds = best_median_worst([case(f"c{place}", place % 11) for place in range(count)], LABELS)
    chosen = [each.sample_id for cases in kinds.values() for each in cases]
    assert len(chosen) == len(set(chosen)) == min(count, 12)


def test_the_sheet_shows_each_case(tmp_path):
    def read(result):
        mask = np.zeros((40, 50), np.uint8)
        mask[10:30, 10:30] = 1
        return np.full((40, 50, 3), 120, np.uint8), mask, mask.T[:40, :40].repeat(2, axis=1)[:, :50]

    overlay_sheet(tmp_path / "sheet.jpg", [case(f"c{place}", place) for place in range(6)], LABELS, read)
    sheet = read_image(tmp_path / "sheet.jpg")
    assert sheet.std() > 10
    overlay_sheet(tmp_path / "none.jpg", [case("c", -1)], LABELS, read)
    assert not (tmp_path / "none.jpg").exists()
