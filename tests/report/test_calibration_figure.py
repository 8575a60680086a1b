from __future__ import annotations

import warnings

import pytest
import torch
from matplotlib.figure import Figure

from medseg.images import read_image
from medseg.metrics.calibration import Calibration, CalibrationCounts, calibration_of, count_calibration
from medseg.report.calibration import reliability_figure


def calibration(names: list[str], pixels: int = 5_000) -> Calibration:
    """Of a network that is too sure."""
    draw = torch.Generator().manual_seed(0)
    logits_KN = 2 * torch.randn(len(names), pixels, generator=draw)
    reference_N = torch.multinomial((logits_KN / 2).softmax(0).T, 1, generator=draw)[:, 0]
    return calibration_of(count_calibration(logits_KN.softmax(0), reference_N), names)


def draw(path, monkeypatch, found: Calibration) -> Figure:
    """Write the figure, without a warning, and give back what was drawn."""
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reliability_figure(path, found)
    return drawn[0]


@pytest.mark.parametrize("classes", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_every_text_can_be_read(tmp_path, monkeypatch, classes):
    names = ["background", "lesion of the left lateral border", *("n" * 63 + str(number) for number in range(18))][:classes]
    figure = draw(tmp_path / "f.png", monkeypatch, calibration(names))
    assert read_image(tmp_path / "f.png").shape[0] > 800
    texts = [axis.title for axis in figure.axes] + [axis.xaxis.label for axis in figure.axes] + [axis.yaxis.label for axis in figure.axes]
    boxes = [text.get_window_extent() for text in (*texts, figure.legends[0], figure._suptitle)]
    boxes = [box for box in boxes if box.width > 1]
    assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= figure.bbox.x1, "a text is cut off"
    assert min(box.y0 for box in boxes) >= 0 and max(box.y1 for box in boxes) <= figure.bbox.y1, "a text is cut off"
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place]), "texts overlap"


def test_the_bars_and_dots_stand_at_the_accuracies(tmp_path, monkeypatch):
    found = calibration(["background", "tongue", "lesion"])
    figure = draw(tmp_path / "f.png", monkeypatch, found)
    upper, lower = figure.axes[:2]
    held = [place for place, n in enumerate(found.top.pixels) if n]
    assert [bar.get_height() for bar in upper.patches] == [found.top.accuracy[place] for place in held]
    assert [bar.get_x() for bar in upper.patches] == pytest.approx([place / 15 for place in held])
    assert [bar.get_height() for bar in lower.patches] == pytest.approx([found.top.pixels[place] / 5_000 for place in held])
    dots = next(line for line in upper.lines if line.get_marker() == "o")
    assert [dots.get_xdata()[place] for place in held] == [found.top.confidence[place] for place in held]
    assert upper.get_title() == f"top label, 5,000 pixels\nECE {found.ece:.3f}   Brier {found.brier:.3f}"
    assert (lower.get_xlabel(), upper.get_ylabel()) == ("confidence (predicted probability)", "share that is right")
    assert figure.axes[4].get_title() == f"tongue\nECE {found.classwise_ece['tongue']:.3f}"


@pytest.mark.slow
def test_of_many_classes_the_worst_are_drawn_and_the_others_counted(tmp_path, monkeypatch):
    found = calibration([f"class {number}" for number in range(20)])
    figure = draw(tmp_path / "f.png", monkeypatch, found)
    drawn = [axis.get_title().split("\n")[0] for axis in figure.axes[2::2]]
    worst = sorted(found.classwise_ece, key=found.classwise_ece.__getitem__)[-12:]
    assert sorted(drawn) == sorted(worst) and drawn == [name for name in found.by_class if name in drawn]
    assert "12 of 20 classes with the largest error (8 left out)" in figure._suptitle.get_text().replace("\n", " ")


def test_without_a_pixel_there_is_still_a_figure(tmp_path, monkeypatch):
    empty = calibration_of(CalibrationCounts.zeros(2), ["background", "tongue"])
    assert "ECE undefined" in draw(tmp_path / "f.png", monkeypatch, empty).axes[0].get_title()
