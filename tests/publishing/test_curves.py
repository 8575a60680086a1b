"""Learning curves: what is read of the runs, what is drawn, and when there is nothing to draw."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from medseg.engine import train
from medseg.metrics.protocol import Protocol
from medseg.publishing import curves
from medseg.publishing.curves import _best_epoch, _classes, learning_curves, read_histories
from medseg.publishing.sources import Source


def history(miou: list[float | None], names: tuple[str, ...] = ("background", "disc", "square")) -> list[dict]:
    """A record an epoch; None where nothing was validated."""
    return [
        {"epoch": epoch, "step": 10 * epoch, "metrics": {curves.LOSS: 1 / epoch} | ({} if score is None else scores(score, names))}
        for epoch, score in enumerate(miou, start=1)
    ]


def scores(value: float, names: tuple[str, ...]) -> dict[str, float | None]:
    return {curves.CHOSEN_BY: value} | {curves.OF_CLASS + name: value for name in names}


def drawn(path: Path) -> tuple[list[str], int, int]:
    """(texts, panels, rings) of an SVG."""
    content = path.read_text()
    texts = [part.partition(" -->")[0] for part in content.split("<!-- ")[1:]]
    ids = [element.get("id") or "" for element in ElementTree.fromstring(content).iter()]
    return texts, sum(one.startswith("axes_") for one in ids), sum(one == "best" for one in ids)


def test_the_keys_are_those_of_the_training():
    assert curves.CHOSEN_BY == train.CHOSEN_BY


def test_one_source_with_several_classes_has_three_panels(tmp_path):
    runs = [history([0.2, 0.6, 0.5]), history([0.3, None, 0.4])]
    assert learning_curves(tmp_path / "a.svg", {"U-Net": runs})
    texts, panels, rings = drawn(tmp_path / "a.svg")
    assert panels == 3 and {"disc", "square", "Training loss"} <= set(texts) and not {"background", "U-Net"} & set(texts)
    assert rings == 2 * (1 + 1 + 2)  # in each run's loss, mIoU and two classes
    learning_curves(tmp_path / "b.svg", {"U-Net": runs})
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_several_sources_or_one_class_have_two_panels(tmp_path):
    learning_curves(tmp_path / "two.svg", {"U-Net": [history([0.2, 0.6])], "nothing": [], "larger": [history([0.3, 0.4])]})
    texts, panels, rings = drawn(tmp_path / "two.svg")
    assert panels == 2 and rings == 4 and {"U-Net", "larger"} <= set(texts) and not {"nothing", "disc"} & set(texts)
    learning_curves(tmp_path / "one.svg", {"U-Net": [history([0.2, 0.6], ("background", "disc"))]})
    assert drawn(tmp_path / "one.svg")[1] == 2


@pytest.mark.parametrize("histories", [{}, {"U-Net": []}, {"U-Net": [[]], "larger": [[], []]}])
def test_nothing_to_draw(tmp_path, histories):
    assert not learning_curves(tmp_path / "a.svg", histories)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("miou", "best"), [([0.2, 0.6, 0.5], 2), ([0.6, 0.6], 1), ([None, 0.1, None], 2), ([None, None], None), ([float("nan"), 0.1], 2)]
)
def test_the_chosen_epoch_is_the_first_of_the_best(miou, best):
    assert _best_epoch(history(miou)) == best


def test_a_training_that_was_never_validated_is_drawn_without_a_ring(tmp_path):
    assert learning_curves(tmp_path / "a.svg", {"U-Net": [history([None, None])]})
    assert drawn(tmp_path / "a.svg")[1:] == (2, 0)


def test_classes_are_without_the_background():
    assert _classes(history([None, 0.5])) == ["disc", "square"]


def test_histories_are_those_of_the_run_folders(tmp_path):
    records = history([0.2, None, 0.5])
    content = {
        "whole": "".join(json.dumps(record) + "\n" for record in records), "cut": '{"epoch": 1, "metr', "other": '{"a": 1}\n', "empty": "",
    }  # fmt: skip
    for name, text in content.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text)
    runs = {(seed, -1): tmp_path / name for seed, name in enumerate([*content, "missing"])}
    sources = [Source("U-Net", pd.DataFrame(), Protocol(), {}, {}, runs), Source("masks", pd.DataFrame(), Protocol(), {}, {})]
    assert read_histories(sources) == {"U-Net": [records], "masks": []}
