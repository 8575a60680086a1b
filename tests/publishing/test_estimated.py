"""Every published value is the score's own, and n, shares and seeds are counted as they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from medseg.publishing.estimated import AVERAGES, MEAN, Cell, cells, ratios_of, shares
from medseg.publishing.sources import Source, read_sources
from medseg.statistics.intervals import wilson


def by_key(found: list[Cell]) -> dict[tuple[str, str, str], Cell]:
    return {(cell.name, cell.metric, cell.average): cell for cell in found}


@pytest.fixture(scope="module")
def baseline(scored) -> Source:
    return read_sources([str(scored / "baseline")])[0]


def seeded(source: Source, spoil: float = 0.01) -> Source:
    """A second training, a little worse everywhere."""
    again = source.cases.assign(seed=1, iou=(source.cases["iou"] - spoil).clip(lower=0))
    return Source(source.label, pd.concat([source.cases.assign(seed=0), again], ignore_index=True), source.protocol, {}, {})


def test_values_are_those_of_scores_json(scored, baseline):
    stored = json.loads((scored / "baseline" / "scores.json").read_text())
    found = by_key(cells(baseline, ["iou", "recall", "precision", "dice", "specificity", "volume_similarity", "hd95_px"], AVERAGES))
    for name in ("liver", "lesion"):
        for metric in ("iou", "recall", "precision", "dice", "specificity"):
            assert found[name, metric, "pooled"].estimate.value == pytest.approx(stored["pooled"][name][metric])
            assert found[name, metric, "per_group"].estimate.value == pytest.approx(stored["per_group"][name][metric]["mean"])
        for metric in ("iou", "recall", "precision", "dice", "specificity", "volume_similarity"):
            cell, mean = found[name, metric, "per_image"], stored["per_image"][name][metric]
            assert cell.estimate.value == pytest.approx(mean["mean"]) and cell.n_defined == (mean["n"], mean["n"])
        cell, mean = found[name, "hd95_px", "per_image"], stored["boundary"][name]["hd95_px"]
        assert cell.estimate.value == pytest.approx(mean["mean"]) and cell.n_defined == (mean["n"], mean["n"])
    assert (name, "volume_similarity", "pooled") not in found and (MEAN, "hd95_px", "per_image") not in found
    for average in ("pooled", "per_image"):
        assert found[MEAN, "iou", average].estimate.value == pytest.approx(stored["summary"][f"miou_{average}/without_background"]["mean"])
    assert found["liver", "iou", "per_image"].n_cases == 28 and found["liver", "iou", "per_image"].n_groups == 14


def test_intervals_hold_their_value_and_stay_in_their_range(baseline):
    for cell in cells(baseline, ["iou", "recall", "hd95_px"], AVERAGES):
        if not math.isnan(cell.estimate.low):
            assert 0 <= cell.estimate.low <= cell.estimate.value <= cell.estimate.high
            assert cell.metric == "hd95_px" or cell.estimate.high <= 1


def test_a_class_that_is_never_predicted_has_precision_0(baseline):
    cases = baseline.cases.copy()
    lesion = cases["name"] == "lesion"
    cases.loc[lesion, "fn"] += cases.loc[lesion, "tp"]
    cases.loc[lesion, ["tp", "fp"]] = 0
    ratios = ratios_of(Source("a", cases, baseline.protocol, {}, {}), "lesion", "precision", "pooled")
    assert ratios is not None and ratios.values().tolist() == [0.0]


def test_several_seeds_give_the_mean_of_their_scores(baseline):
    both = seeded(baseline)
    cell = by_key(cells(both, ["iou"]))["liver", "iou", "per_image"]
    assert len(cell.seeds) == 2 and cell.estimate.value == pytest.approx(np.mean(cell.seeds))
    assert cell.seeds[0] - cell.seeds[1] == pytest.approx(0.01) and cell.n_cases == 28
    assert cell.components is not None and cell.components.n_groups == 14 and cell.components.n_seeds == 2
    assert cell.components.seed.deviation == pytest.approx(0.01 / 2**0.5) and cell.components.rest.deviation == pytest.approx(0, abs=1e-9)


def test_missed_and_invented_by_group(baseline):
    found = {(share.name, share.kind): share for share in shares(baseline)}
    cases = baseline.cases[baseline.cases["name"] == "lesion"]
    there = cases["tp"] + cases["fn"] > 0
    missed = cases[there & (cases["tp"] + cases["fp"] == 0)]["group_id"].nunique()
    one = found["lesion", "missed"]
    assert (one.successes, one.n, one.unit) == (missed, cases[there]["group_id"].nunique(), "groups")
    assert (one.low, one.high) == wilson(one.successes, one.n)
    assert found["liver", "invented"].n == 0 and math.isnan(found["liver", "invented"].low)


def test_images_that_are_groups_of_their_own_are_counted_as_images(baseline):
    alone = baseline.cases.assign(group_id=baseline.cases["sample_id"])
    units = {share.unit for share in shares(Source("a", alone, baseline.protocol, {}, {}))}
    assert units == {"images"}
