"""Failures by group, against cases counted by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from medseg.metrics.protocol import Protocol
from medseg.publishing.failures import GroupFailures, failures_by_group
from medseg.publishing.sources import Source, read_sources


def source(rows: list[tuple]) -> Source:
    """(seed, sample, group, name, kind, tp, fp, fn, iou): a row each."""
    columns = ["seed", "sample_id", "group_id", "name", "kind", "tp", "fp", "fn", "iou"]
    return Source("by hand", pd.DataFrame(rows, columns=columns).assign(fold=-1, tn=10), Protocol(), {}, {})


def test_missed_invented_poor_and_the_worst_by_hand():
    nan = math.nan
    found = failures_by_group(
        source(
            [
                (0, "a1", "anna", "background", "class", 1, 9, 9, 0.0),  # never counted
                (0, "a1", "anna", "lesion", "class", 0, 0, 5, 0.0),  # missed
                (0, "a1", "anna", "organ", "region", 4, 6, 0, 0.4),  # poor
                (0, "a2", "anna", "lesion", "class", 0, 0, 0, nan),  # rightly left alone
                (0, "a2", "anna", "organ", "region", 8, 2, 0, 0.8),
                (0, "b1", "bert", "lesion", "class", 0, 3, 0, 0.0),  # invented
                (0, "b1", "bert", "organ", "region", 5, 5, 0, 0.5),  # not below a half
                (0, "c1", "cleo", "lesion", "class", 0, 0, 0, nan),
                (0, "c1", "cleo", "organ", "region", 9, 1, 0, 0.9),
            ]
        )
    )
    assert found == [
        GroupFailures("bert", 1, 0, 1, 0, "b1", "lesion", 0.0, 0.25),  # one failure of one image, as many as anna; the lower mean
        GroupFailures("anna", 2, 1, 0, 1, "a1", "lesion", 0.0, pytest.approx(0.4)),
        GroupFailures("cleo", 1, 0, 0, 0, "c1", "organ", 0.9, 0.9),
    ]
    assert [group.failures for group in found] == [1, 2, 0]


def test_failures_add_over_seeds_and_scores_are_their_mean():
    rows = [
        (0, "a1", "anna", "lesion", "class", 0, 0, 5, 0.0), (1, "a1", "anna", "lesion", "class", 5, 0, 0, 1.0),
        (0, "a2", "anna", "lesion", "class", 4, 6, 0, 0.4), (1, "a2", "anna", "lesion", "class", 3, 7, 0, 0.3),
    ]  # fmt: skip
    (anna,) = failures_by_group(source(rows))
    assert (anna.n_images, anna.missed, anna.invented, anna.poor) == (2, 1, 0, 2)
    assert (anna.worst_sample, anna.worst_score, anna.mean_score) == ("a2", pytest.approx(0.35), pytest.approx(0.425))
    (strict,) = failures_by_group(source(rows), poor_below=0.35)
    assert strict.poor == 1


def test_a_group_without_any_score_has_no_worst_case_and_stands_last():
    rows = [(0, sample, sample, "lesion", "class", tp, 0, 0, iou) for sample, tp, iou in (("a", 0, math.nan), ("b", 9, 1.0))]
    last = failures_by_group(source(rows))[-1]
    assert (last.group_id, last.worst_sample, last.worst_name, last.failures) == ("a", None, None, 0)
    assert math.isnan(last.worst_score) and math.isnan(last.mean_score)


def test_groups_that_are_equal_stand_by_name_and_distances_are_refused():
    rows = [(0, name, name, "lesion", "class", 9, 1, 0, 0.9) for name in ("zoe", "10", "9")]
    assert [group.group_id for group in failures_by_group(source(rows))] == ["10", "9", "zoe"]
    with pytest.raises(AssertionError, match="hd95_px"):
        failures_by_group(source(rows), "hd95_px")


def test_the_stored_predictions(scored):
    """Every structure missed or invented is in one of the groups, and the better run's groups have the better scores."""
    baseline, larger = read_sources([str(scored / "baseline"), str(scored / "larger")])
    found = failures_by_group(baseline)
    assert len(found) == 14 and sum(group.n_images for group in found) == 28
    lesions = baseline.cases[baseline.cases["name"] == "lesion"]
    there, seen = lesions["tp"] + lesions["fn"] > 0, lesions["tp"] + lesions["fp"] > 0
    assert sum(group.missed for group in found) == (there & ~seen).sum() > 0
    assert sum(group.invented for group in found) == (~there & seen).sum() > 0
    assert sum(group.mean_score for group in found) < sum(group.mean_score for group in failures_by_group(larger))
