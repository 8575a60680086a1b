"""Sources held against the first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medseg.errors import ConfigError, RunError
from medseg.publishing.compared import compare_sources
from medseg.publishing.sources import Source, read_sources
from medseg.statistics.intervals import METHODS


@pytest.fixture(scope="module")
def sources(scored) -> list[Source]:
    return read_sources([str(scored / "baseline"), str(scored / "larger")])


def test_each_class_and_score_against_the_first(sources):
    found = compare_sources(sources, ["iou", "recall"])
    assert [(one.label, one.against, one.name, one.metric) for one in found] == [
        ("larger", "baseline", name, metric) for name in ("liver", "lesion") for metric in ("iou", "recall")
    ]
    liver = found[0]
    cases = [source.cases[source.cases["name"] == "liver"].set_index("sample_id")["iou"] for source in sources]
    assert liver.test.difference.value == pytest.approx((cases[1] - cases[0]).mean()) and liver.significant
    assert all(one.test.p_holm >= one.test.p_permutation for one in found)


def test_three_runs_are_one_family(sources):
    third = replace(sources[0], label="third")
    two, three = compare_sources(sources, ["iou"]), compare_sources([*sources, third], ["iou"])
    assert len(three) == 2 * len(two) and three[0].test.p_holm == pytest.approx(2 * two[0].test.p_holm)
    assert all(one.test.p_permutation == 1 and one.for_it == one.against_it == () for one in three if one.label == "third")


def test_the_cases_that_decide(sources):
    liver = compare_sources(sources, ["iou"])[0]
    gains = sources[1].cases.set_index(["name", "sample_id"])["iou"] - sources[0].cases.set_index(["name", "sample_id"])["iou"]
    assert [case.sample_id for case in liver.for_it] == gains["liver"].nlargest(3).index.tolist()
    assert all(case.second > case.first and case.group_id == case.sample_id[:9] for case in liver.for_it)
    assert liver.influential in set(sources[0].cases["group_id"])


def test_a_distance_is_better_when_it_is_smaller(sources):
    found = compare_sources(sources, ["hd95_px"])[0]
    assert found.test.difference.value < 0 and found.test.p_better > 0.9
    assert all(case.second < case.first for case in found.for_it)


def test_pooled_scores(sources):
    found = compare_sources(sources, ["iou"], "pooled")[0]
    sums = [source.cases[source.cases["name"] == "liver"][["tp", "fp", "fn"]].sum() for source in sources]
    pooled = [one["tp"] / one.sum() for one in sums]
    assert (found.test.first, found.test.second) == pytest.approx(tuple(pooled))
    assert found.test.difference.value == pytest.approx(np.subtract(*pooled[::-1]))
    with pytest.raises(ConfigError, match="hd95_px has no pooled value"):
        compare_sources(sources, ["hd95_px"], "pooled")


def test_what_cannot_be_asked(sources):
    with pytest.raises(RunError, match="needs two runs or more, got one"):
        compare_sources(sources[:1], ["iou"])
    with pytest.raises(ConfigError, match="--metric: 'jaccard' is not among iou, recall"):
        compare_sources(sources, ["jaccard"])
    with pytest.raises(ConfigError, match="--class: 'kidney' is not among liver, lesion"):
        compare_sources(sources, ["iou"], names=["kidney"])


def test_the_method_asked_for_is_that_of_the_differences_too(sources):
    methods = {method: compare_sources(sources, ["iou"], names=["liver"], method=method)[0].test.difference for method in METHODS}
    assert {method: one.method for method, one in methods.items()} == {method: method for method in METHODS}
    assert len({(one.low, one.high) for one in methods.values()}) == len(METHODS)
