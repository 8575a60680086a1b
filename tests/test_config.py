from __future__ import annotations

import pytest

from medseg.config import load_config, validate_config
from medseg.errors import ConfigError

BASE = {"name": "x", "data": {"manifest": "m"}}


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_base_then_deviation_then_override(tmp_path):
    write(tmp_path, "base.yaml", "data: {manifest: m, size_px: [64, 64]}\noptim: {lr: 0.5, weight_decay: 0.1}\n")
    path = write(tmp_path, "mine.yaml", "base: base.yaml\noptim: {lr: 0.25}\n")
    config = load_config(path, ["optim.weight_decay=0.0", "train.epochs=3", "data.size_px=[128, 64]"])
    assert (config.name, config.optim.lr, config.optim.weight_decay, config.train.epochs, config.data.size_px) == (
        "mine",
        0.25,
        0.0,
        3,
        (128, 64),
    )


def test_numbers_that_yaml_takes_for_text(tmp_path):
    assert load_config(write(tmp_path, "c.yaml", "data: {manifest: m}\noptim: {lr: 1e-4}\n")).optim.lr == 1e-4


def test_canonical_yaml_round_trips(tmp_path):
    config = validate_config(BASE, "w")
    assert load_config(write(tmp_path, "c.yaml", config.to_yaml())) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim.lrr: .*the keys here are lr, weight_decay"),
        ("optim.lr=fast", "optim.lr: Input should be a valid number.*got 'fast'"),
        ("optim.lr=-1", "optim.lr: Input should be greater than 0"),
        ("optim.lr=.nan", "optim.lr: Input should be a finite number"),
        ("nonsense=1", "nonsense: .*the keys here are name, seed"),
        ("loss.name=huber", "loss.name: Input should be 'dice_ce' or 'dice_focal'"),
        ("loss.gamma=2", "loss: gamma belongs to dice_focal"),
        ("model.strides=[2, 2]", "model: 5 channels need 4 strides, got 2"),
        ("data.size_px=[250, 256]", r"data.size_px \(250, 256\) must be divisible by 16"),
        ("data.size_px=[16, 256]", r"data.size_px \(16, 256\) must be .* at least twice that"),
        ("model={channels: [8], strides: []}", "a U-Net needs two levels or more"),
        ("train.epochs=true", "train.epochs: must not be true or false"),
        ("infer.flip_tta=no way", "infer.flip_tta: must be true or false"),
        ("name=2024-13-45", "the value is not valid YAML"),
        ("train.epochs=0", "train.epochs: Input should be greater than or equal to 1"),
        ("optim.lr", "an override is written section.key=value"),
        ("data.size_px=[1", "not valid YAML"),
        ("name.x=1", "name is not a section"),
    ],
)
def test_each_mistake_is_one_clear_error(tmp_path, override, message):
    path = write(tmp_path, "c.yaml", "data: {manifest: m}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "must hold a mapping"),
        ("data: {manifest: m}\ndata: {manifest: n}", "the key 'data' stands twice"),
        ("base: other.yaml", "other.yaml: there is no such file"),
        ("base: c.yaml", "leads back to itself"),
        ("base: [a]", "must be one file name"),
        ("seed: 1", "data: Field required"),
    ],
)
def test_broken_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, "c.yaml", text))


def test_no_yaml_object_is_built(tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(write(tmp_path, "c.yaml", "data: !!python/object/apply:os.system ['true']\n"))


def test_flat_names_every_leaf():
    flat = validate_config(BASE, "w").flat()
    assert flat["optim.lr"] == "0.001" and flat["data.size_px"] == "[256, 256]" and "tracking.enabled" in flat
