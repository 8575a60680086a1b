from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from medseg.images import read_image
from medseg.labels import LabelSet
from medseg.report.sampling import sampling_figure


def shares(labels: LabelSet, prefix: str, values: np.ndarray) -> dict[str, float]:
    """Image shares of the foreground as given, pixel shares a tenth of them, the background the rest."""
    of_images = {f"{prefix}_image_share/{name}": float(value) for name, value in zip(labels.foreground, values, strict=True)}
    of_pixels = {f"{prefix}_pixel_share/{name}": float(value) / 10 for name, value in zip(labels.foreground, values, strict=True)}
    return of_images | of_pixels | {f"{prefix}_pixel_share/background": 1 - float(np.sum(values)) / 10}


CROPS = "Shown: crops that hold the class.  Line and \u25c7: whole images that hold it"


def draw(path, monkeypatch, labels, values, epochs=5, wanted=None, crops=False) -> Figure:
    """Write the figure and give back what was drawn."""
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    by_epoch = {epoch: shares(labels, "train/drawn", values * (1 - 0.01 * epoch)) | {"train/lr": 0.1} for epoch in range(1, epochs + 1)}
    goal = {f"sampling/asked_image_share/{name}": float(value) for name, value in zip(labels.foreground, values, strict=True)}
    sampling_figure(path, shares(labels, "sampling/set", values / 2), goal | (wanted or {}), by_epoch, labels, crops)
    return drawn[0]


@pytest.mark.parametrize("classes", [2, 3, 20, 30])
def test_each_class_has_a_row_that_can_be_read(tmp_path, monkeypatch, classes):
    labels = LabelSet.of(*(f"class number {place}" for place in range(1, classes)))
    figure = draw(tmp_path / "f.png", monkeypatch, labels, np.linspace(0.1, 0.9, classes - 1) / 10)
    picture = read_image(tmp_path / "f.png")
    assert picture.shape[1] > 1000 and picture.shape[0] > 30 * classes
    axis = figure.axes[0]
    texts = [text for text in axis.get_yticklabels() if text.get_text()]
    assert [text.get_text() for text in texts] == list(labels.names)
    boxes = [text.get_window_extent() for text in texts]
    assert all(upper.y0 > lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False)), "names overlap"
    assert min(box.x0 for box in boxes) >= 0, "a name is cut off"


def points(axis, marker: str) -> list[tuple[float, int]]:
    """(share, row) of every marker of a kind."""
    lines = [line for line in axis.lines if line.get_marker() == marker]
    return [(float(x), round(float(y))) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_the_markers_stand_at_their_shares(tmp_path, monkeypatch):
    labels = LabelSet.of("tongue", "lesion")
    wanted = {"sampling/asked_centre_ratio/lesion": 0.3}
    figure = draw(tmp_path / "f.png", monkeypatch, labels, np.array([0.8, 0.4]), epochs=3, wanted=wanted, crops=True)
    left, right = figure.axes
    assert points(left, "D") == [(0.8, 1), (0.4, 2)] and points(left, ">") == [(0.3, 2)]
    assert points(left, "o") == [(pytest.approx(0.8 * f), 1) for f in (0.99, 0.98, 0.97)] + [
        (pytest.approx(0.4 * f), 2) for f in (0.99, 0.98, 0.97)
    ]
    assert {row for _, row in points(right, "o")} == {0, 1, 2} and not points(right, "D")
    in_set = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "None"]
    assert in_set == [0.4, 0.2]
    assert left.get_title() == CROPS
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "shown in each of 3 epochs, from top to bottom"


@pytest.mark.parametrize(("crops", "centred"), [(False, False), (True, False), (True, True)])
def test_the_title_says_what_was_shown_and_the_legend_what_was_asked(tmp_path, monkeypatch, crops, centred):
    """Crops laid anywhere are crops too."""
    wanted = {"sampling/asked_centre_ratio/tongue": 0.3} if centred else None
    figure = draw(tmp_path / "f.png", monkeypatch, LabelSet.of("tongue"), np.array([0.8]), wanted=wanted, crops=crops)
    assert figure.axes[0].get_title() == (CROPS if crops else "Images that hold the class")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("asked: crops centred on it" in texts) is centred


def test_the_axis_is_logarithmic_where_classes_differ_by_more_than_thirty(tmp_path, monkeypatch):
    labels = LabelSet.of("tongue", "lesion")
    figure = draw(tmp_path / "near.png", monkeypatch, labels, np.array([0.8, 0.1]))
    assert figure.axes[0].get_xscale() == "linear"
    figure = draw(tmp_path / "far.png", monkeypatch, labels, np.array([0.8, 0.01]))
    assert figure.axes[0].get_xscale() == "log"


def test_a_class_that_was_never_drawn_stands_at_the_left_end_of_a_log_axis(tmp_path, monkeypatch):
    labels = LabelSet.of("tongue", "lesion", "crack")
    axis = draw(tmp_path / "f.png", monkeypatch, labels, np.array([0.8, 0.001, 0.0])).axes[0]
    low, high = axis.get_xlim()
    never = {share for share, row in points(axis, "o") if row == 3}
    assert len(never) == 1 and low < never.pop() < 0.0004 and "0 stands at the left end" in axis.get_xlabel()


def test_undefined_shares_and_no_epochs_are_drawn_as_nothing(tmp_path, monkeypatch):
    labels = LabelSet.of("tongue", "lesion")
    sampling_figure(tmp_path / "none.png", {}, {}, {}, labels, crops=False)
    metrics = {"train/drawn_image_share/tongue": None, "train/drawn_pixel_share/tongue": math.nan}
    sampling_figure(tmp_path / "null.png", {}, {}, {1: metrics}, labels, crops=False)
    figure = draw(tmp_path / "one.png", monkeypatch, labels, np.array([0.8, 0.5]), epochs=1)
    assert all((tmp_path / name).exists() for name in ("none.png", "null.png"))
    assert figure.legends[0].get_texts()[-1].get_text() == "shown in the epoch"


def test_no_figure_stays_in_pyplot(tmp_path, monkeypatch):
    from matplotlib import pyplot

    draw(tmp_path / "f.png", monkeypatch, LabelSet.of("tongue"), np.array([0.8]))
    assert pyplot.get_fignums() == []
