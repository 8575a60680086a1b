"""In what runs differ besides the network."""

from __future__ import annotations

from medseg.config import Config
from medseg.publishing.trained import Trained, unlike


def trained(**changes) -> Trained:
    """Of 100 training images, 12 steps of 8 an epoch."""
    data = {"manifest": "m", "split": "s", "size_px": [64, 64]} | changes.pop("data", {})
    return Trained(Config.model_validate({"name": "a", "data": data, **changes}), None, {"images": {"train": 100}}, {})


def test_networks_and_rates_may_differ():
    assert unlike({"A": trained(), "B": trained(model={"name": "dynunet"}, optim={"lr": 0.1}, seed=4)}) == []
    assert unlike({"A": trained()}) == [] and unlike({}) == []


def test_what_else_differs_is_named_with_each_run_s_value():
    long, small = trained(train={"epochs": 10}), trained(data={"size_px": [32, 48]}, train={"epochs": 10, "batch_size": 4})
    tuned = trained(train={"epochs": 10}, model={"name": "unet", "weights": "run:x"})
    assert unlike({"A": long, "B": small, "C": tuned}) == [
        "optimiser steps: A 120; B 250; C 120",
        "images a step: A 8; B 4; C 8",
        "pixels: A 64 x 64; B 32 x 48; C 64 x 64",
        "start: A from scratch; B from scratch; C run:x",
    ]


def test_a_run_that_does_not_say_its_images_has_an_unknown_length():
    silent = Trained(trained().config, None, {}, {})
    assert unlike({"A": trained(train={"epochs": 1}), "B": silent})[0] == "optimiser steps: A 12; B unknown"
