"""The mean over classes of two sources, held against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medseg.errors import ConfigError, RunError
from medseg.publishing.overall import compare_overall
from medseg.publishing.sources import Source, read_sources


@pytest.fixture(scope="module")
def sources(scored) -> list[Source]:
    return read_sources([str(scored / "baseline"), str(scored / "larger")])


def mean_of_classes(source: Source) -> float:
    return float(source.cases[source.cases["name"].isin(source.classes)].groupby("name")["iou"].mean().mean())


def test_it_is_the_difference_of_the_means_over_classes(sources):
    found = compare_overall(*sources, "iou")
    assert found.test.difference.value == pytest.approx(mean_of_classes(sources[1]) - mean_of_classes(sources[0]))
    assert found.names == ("liver", "lesion") and not found.equal and found.n_cases == 28
    back = compare_overall(*sources[::-1], "iou")
    assert back.test.difference.low == pytest.approx(-found.test.difference.high)


def test_the_margin_is_held_against_the_lower_end(sources):
    found = compare_overall(*sources, "iou")
    low = found.test.difference.low
    assert low < 0 and found.not_inferior(-low + 1e-6) and not found.not_inferior(-low)


def test_equal_scores_have_no_interval_and_are_no_worse(sources):
    found = compare_overall(sources[0], replace(sources[0], label="again"), "iou")
    assert found.equal and found.not_inferior(1e-9) and "the same in every image" in found.told()


def test_too_few_groups_decide_nothing(sources):
    few = [replace(source, cases=source.cases[source.cases["group_id"].isin(source.groups[:4])]) for source in sources]
    found = compare_overall(*few, "iou")
    assert found.not_inferior(0.9) is None and "too few groups that differ for an interval" in found.told()


def test_a_class_that_one_of_them_never_has_is_left_out(sources):
    cases = sources[0].cases.copy()
    cases.loc[cases["name"] == "lesion", "iou"] = float("nan")
    assert compare_overall(replace(sources[0], cases=cases), sources[1], "iou").names == ("liver",)
    cases["iou"] = float("nan")
    with pytest.raises(RunError, match="no class in which the iou of both is defined"):
        compare_overall(replace(sources[0], cases=cases), sources[1], "iou")


def test_distances_have_no_mean_over_classes(sources):
    with pytest.raises(ConfigError, match="--metric: 'hd95_px' is not among iou, recall"):
        compare_overall(*sources, "hd95_px")
