"""In what runs differ besides the network."""

from __future__ import annotations

from medseg.config import Config
from medseg.publishing.trained import Trained, network_text, unlike


def trained(**changes) -> Trained:
    """With curves up to a step."""
    steps = changes.pop("steps", 120)
    data = {"manifest": "m", "split": "s", "size_px": [64, 64]} | changes.pop("data", {})
    return Trained(Config.model_validate({"name": "a", "data": data, **changes}), None, {}, {}, steps=steps)


def test_networks_and_rates_may_differ():
    assert unlike({"A": trained(), "B": trained(model={"name": "dynunet"}, optim={"lr": 0.1}, seed=4)}) == []
    assert unlike({"A": trained()}) == [] and unlike({}) == []


def test_what_else_differs_is_named_with_each_run_s_value():
    small = trained(data={"size_px": [32, 48]}, train={"batch_size": 4}, steps=250)
    tuned = trained(model={"name": "unet", "weights": "run:x"})
    assert unlike({"A": trained(), "B": small, "C": tuned}) == [
        "optimiser steps: A 120; B 250; C 120",
        "images a step: A 8; B 4; C 8",
        "seen at once: A 64 x 64 pixels; B 32 x 48 pixels; C 64 x 64 pixels",
        "start: A from scratch; B from scratch; C run:x",
    ]


def test_a_run_without_curves_is_not_held_against_others():
    assert unlike({"A": trained(), "B": trained(steps=0)}) == []
    assert unlike({"A": trained(), "B": trained(steps=0), "C": trained(steps=7)}) == ["optimiser steps: A 120; C 7"]


def test_settings_of_any_depth_are_told():
    model = {"name": "my.nets:Net", "arguments": {"blocks": [["conv", "relu"], [1, None]], "deep": [[[1, 2], [3]]], "on": True}}
    told = network_text(trained(model=model))
    assert told == "Network my.nets:Net: arguments blocks conv x relu, 1 x none, deep 1, 2 x 3, on yes."
