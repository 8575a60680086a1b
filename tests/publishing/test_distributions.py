"""The distributions of the case scores: what is drawn of them, told by the SVG."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from medseg.metrics.protocol import Protocol
from medseg.publishing.distributions import MOST_DOTS, _line, _set_scale, _spread, distribution_plot
from medseg.publishing.sources import Source


def source(label: str, scores: dict[str, list[float]], seeds: int = 1, metrics: tuple[str, ...] = ("iou",)) -> Source:
    """Scores of the images by class, equal in every seed and metric."""
    rows = [
        {"seed": seed, "fold": -1, "sample_id": f"case_{place}", "group_id": f"case_{place}", "name": name, "kind": "class"}
        | dict.fromkeys(metrics, score)
        for seed in range(seeds)
        for name, values in {"background": [1.0], **scores}.items()
        for place, score in enumerate(values)
    ]
    return Source(label, pd.DataFrame(rows), Protocol(), {}, {})


def draw(path: Path, sources: list[Source], metrics: list[str]) -> tuple[list[str], int]:
    """(texts, panels) of the SVG."""
    distribution_plot(path, sources, metrics)
    content = path.read_text()
    texts = [part.partition(" -->")[0] for part in content.split("<!-- ")[1:]]
    return texts, content.count('<g id="axes_')


def test_a_dot_an_image_and_a_text_where_a_score_is_undefined(tmp_path):
    one = source("U-Net", {"liver": [0.0, 0.5, 0.9, 1.0], "lesion": [0.5, math.nan, math.nan, 0.1], "spleen": [math.nan] * 4})
    path = tmp_path / "a.svg"
    texts, panels = draw(path, [one], ["iou"])
    assert panels == 1 and {"liver", "lesion", "spleen", "IoU", "2 undefined", "4 undefined"} <= set(texts)
    assert "background" not in texts and "U-Net" not in texts  # one source needs no name
    assert sum(text.endswith("undefined") for text in texts) == 2
    draw(tmp_path / "three.svg", [source("U-Net", {"liver": [0.5], "lesion": [0.5], "spleen": [0.5]})], ["iou"])
    assert uses(path) - uses(tmp_path / "three.svg") == 4 + 2 - 3


def uses(path: Path) -> int:
    """Markers in an SVG: dots and the ticks of the axes; letters are drawn within a text."""
    return sum("<use" in line and ' style="' in line for line in path.read_text().splitlines())


def test_equal_scores_write_equal_bytes(tmp_path):
    metrics = ("iou", "recall", "precision", "dice", "hd95_px")
    scores = {"liver": [0.2, 0.5, 0.9], "lesion": [0.1, math.nan, 0.9]}
    sources = [source(label, scores, metrics=metrics) for label in ("baseline", "larger")]
    for name in ("a", "b"):
        texts, panels = draw(tmp_path / f"{name}.svg", sources, list(metrics))
    assert panels == 5 and {"baseline", "larger", "HD95, px", "liver", "lesion"} <= set(texts)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_a_source_without_a_score_or_a_class_says_so(tmp_path):
    both, less = source("A", {"liver": [0.5], "lesion": [0.5]}, metrics=("iou", "hd95_mm")), source("B", {"liver": [0.4]})
    texts, _ = draw(tmp_path / "a.svg", [both, less], ["iou", "hd95_mm"])
    assert texts.count("not measured") == 1 + 2  # the lesion's IoU; no distance of either class


def test_many_images_are_a_histogram(tmp_path):
    scores = np.linspace(0, 1, MOST_DOTS + 1).tolist()
    few, many = source("U-Net", {"liver": scores[:-1]}), source("U-Net", {"liver": scores})
    texts, _ = draw(tmp_path / "few.svg", [few], ["iou"])
    assert any("dots: images" in text for text in texts) and uses(tmp_path / "few.svg") >= MOST_DOTS
    texts, _ = draw(tmp_path / "many.svg", [many], ["iou"])
    assert any("bars: images" in text for text in texts) and uses(tmp_path / "many.svg") < 20


def test_so_many_dots_that_they_are_pixels(tmp_path, monkeypatch):
    one = source("U-Net", {"liver": np.linspace(0, 1, 50).tolist()})
    draw(tmp_path / "lines.svg", [one], ["iou"])
    monkeypatch.setattr("medseg.publishing.distributions._RASTER_DOTS", 49)
    draw(tmp_path / "pixels.svg", [one], ["iou"])
    assert "<image" in (tmp_path / "pixels.svg").read_text() and "<image" not in (tmp_path / "lines.svg").read_text()
    assert uses(tmp_path / "lines.svg") == uses(tmp_path / "pixels.svg") + 50


def test_an_image_is_the_mean_over_its_seeds():
    two = source("U-Net", {"liver": [0.2, math.nan, 0.4]}, seeds=2)
    two.cases.loc[(two.cases["seed"] == 1) & (two.cases["name"] == "liver"), "iou"] = [0.4, math.nan, math.nan]
    line = _line(two, "liver", "iou")
    assert line.scores.tolist() == pytest.approx([0.3, 0.4]) and line.undefined == 1 and line.measured


def test_dots_at_one_place_are_spread_and_lone_ones_are_not():
    axis = Figure().subplots()
    _set_scale(axis, "iou", np.zeros(0))
    off = _spread(axis, np.array([0.0] * 30 + [0.5]))
    assert len(set(off[:30].round(6))) == 30 and abs(off[:30]).max() > 0.3 and abs(off).max() <= 0.4
    assert abs(off[30]) < 0.02


@pytest.mark.parametrize(("most", "scale"), [(30.0, "linear"), (500.0, "symlog")])
def test_distances_with_a_few_far_beyond_are_logarithmic(most, scale):
    axis = Figure().subplots()
    _set_scale(axis, "hd95_px", np.array([0.0, 3.0, 4.0, 5.0, most]))
    assert axis.get_xscale() == scale and axis.get_xlim()[0] < 0 < most < axis.get_xlim()[1]
    assert (axis.get_xlabel() == "logarithmic above 1") == (scale == "symlog")


def test_distances_that_are_nowhere_defined():
    axis = Figure().subplots()
    _set_scale(axis, "hd95_px", np.zeros(0))
    assert axis.get_xlim()[1] > 0
