from __future__ import annotations

import json
from typing import get_args

import pytest

from medseg.config import LOSS_KEYS, LossName, load_config, read_config, validate_config
from medseg.config.model import CLASS_OF, FcnResnet18Config, SegResNetConfig, UnetConfig
from medseg.errors import ConfigError

BASE = {"name": "x", "data": {"manifest": "m"}}


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_base_then_deviation_then_override(tmp_path):
    write(tmp_path, "base.yaml", "data: {manifest: m, size_px: [64]}\noptim: {lr: 0.5, weight_decay: 0.1}\n")
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
        ("optim.lrr=1", "optim.lrr: .*did you mean lr\\? The keys here are name, lr, schedule"),
        ("optim.lr=fast", "optim.lr: Input should be a valid number.*got 'fast'"),
        ("optim.lr=-1", "optim.lr: Input should be greater than 0"),
        ("optim.lr=.nan", "optim.lr: Input should be a finite number"),
        ("nonsense=1", "nonsense: .*the keys here are name, seed"),
        ("loss.name=huber", "loss.name: Input should be 'dice', 'cross_entropy', .* or 'dice_topk'"),
        ("loss.gamma=2", "loss: gamma belongs to focal, dice_focal, focal_tversky, unified_focal; the loss is dice_ce"),
        ("loss.gamma=-1", "loss.gamma: Input should be greater than or equal to 0"),
        ("loss={name: dice, pixel_weight: 2}", "loss: pixel_weight belongs to dice_ce, dice_focal, dice_topk; the loss is dice"),
        ("loss={name: focal, dice_weight: 0}", "loss: dice_weight belongs to dice_ce, dice_focal, dice_topk; the loss is focal"),
        ("loss={dice_weight: 0, pixel_weight: 0}", "loss: dice_weight and pixel_weight are both 0"),
        ("loss={name: tversky, alpha: 0, beta: 0}", "loss: alpha and beta are both 0"),
        ("loss.alpha=0.5", "loss: alpha belongs to tversky, focal_tversky; the loss is dice_ce"),
        ("loss={name: tversky, beta: 1.5}", "loss.beta: Input should be less than or equal to 1"),
        ("loss={name: unified_focal, gamma: 1}", r"loss: gamma of unified_focal is in \[0, 1\), got 1"),
        ("loss={name: focal_tversky, gamma: 0}", "loss: focal_tversky to the power of 0 is 1 everywhere"),
        ("loss={class_weights: median_frequency, pixel_weight: 0}", "loss: class_weights are of the pixel term, and pixel_weight is 0"),
        ("augment.elastic=0.2", "augment.elastic: Input should be less than or equal to 0.12"),
        ("loss.delta=0.5", "loss: delta belongs to unified_focal; the loss is dice_ce"),
        ("loss.topk_share=0.5", "loss: topk_share belongs to dice_topk; the loss is dice_ce"),
        ("loss={name: dice_topk, topk_share: 0}", "loss.topk_share: Input should be greater than 0"),
        ("loss={name: dice, class_weights: median_frequency}", "loss: class_weights belongs to cross_entropy, .*; the loss is dice"),
        ("loss.class_weights=balanced", "loss.class_weights: Input should be 'none', 'median_frequency' or 'inverse_frequency'"),
        ("loss.reduction=pixel", "loss.reduction: Input should be 'batch' or 'image'"),
        ("loss={name: unified_focal, include_background: true}", "loss: include_background belongs to .*; the loss is unified_focal"),
        ("sampling.name=balanced", "sampling.name: Input should be 'uniform', 'repeat_factor', .* or 'effective_number'"),
        ("sampling.beta=1", "sampling.beta: Input should be less than 1"),
        ("sampling.draws_per_epoch=0", "sampling.draws_per_epoch: Input should be greater than or equal to 1"),
        (
            "sampling.draws_per_epoch=7",
            "sampling.draws_per_epoch 7 is less than train.batch_size 8: an epoch is whole optimiser steps, .*; raise it, or lower train",
        ),
        ("sampling.centre_ratios={lesion: 1}", "sampling: centre_ratios are of patches: give patch_px too"),
        ("sampling={patch_px: [64, 64], centre_ratios: {lesion: 0, anywhere: 0}}", "sampling: centre_ratios are all 0"),
        ("sampling={patch_px: [64, 64], centre_ratios: {lesion: -1}}", "sampling.centre_ratios.lesion: Input should be greater than or eq"),
        ("sampling.patch_px=[8, 64]", r"sampling.patch_px: the sides should be 16 pixels or more"),
        ("data.cache_gib=0", "data.cache_gib: Input should be greater than 0"),
        ("train.compile=true", "train.compile: must not be true or false"),
        ("train.compile=maybe", "train.compile: Input should be 'auto', 'always' or 'never'"),
        ("train.channels_last=1", "train.channels_last: must be true or false"),
        ("train.prefetch=-1", "train.prefetch: Input should be greater than or equal to 0"),
        ("infer.overlap=1", "infer.overlap: Input should be less than 1"),
        ("model.strides=[2, 2]", "model: 5 channels need 4 strides, got 2"),
        ("model={channels: [8], strides: []}", "a U-Net needs two levels or more"),
        (
            "model.name=vnet",
            "model.name=vnet: model.name: there is no such network; `medseg zoo` lists them, .*; did you mean unet or unetr",
        ),
        ("model.name=smp:unet", "model.name: there is no such network; .*; did you mean smp:unet/resnet34?"),
        ("model.name=maskrcnn", "did you mean maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2?"),
        ("model.name=my/nets.py:Net", "did you mean my.nets:Net?"),
        ("model.name=UNet", "did you mean unet or "),
        ("model.num_classes=21", "model.num_classes: there is no such key; leave it out: that is the manifest's to say"),
        ("data.size_px=64", r"data.size_px: .*; write a list, as in \[64\]"),
        ("model.name=3", "model.name=3: model.name: there is no such network"),
        (
            "model.blocks=3",
            "model.blocks: there is no such key; the keys here are name, weights, .*, channels, strides, num_res_units, dro",
        ),
        ("model={name: dynunet, channels: [8, 16]}", "model.channels: the network needs three levels or more"),
        ("model={name: segresnet, blocks_up: [1]}", "model: 4 blocks_down need 3 blocks_up, got 1"),
        ("model={name: segresnet, init_filters: 12}", "model.init_filters: Input should be a multiple of 8"),
        ("model={name: unetr, num_heads: 5}", "model: hidden_size 768 is not divisible by num_heads 5"),
        ("model={name: swin_unetr, num_heads: [3, 5, 12, 24]}", "model: stage 2 has 48 features, which its num_heads 5 do not divide"),
        (
            "model={name: lraspp_mobilenet_v3_large, auxiliary_weight: 0.9}",
            "model.auxiliary_weight: there is no such key; it is of fcn_resnet50",
        ),
        ("model=fcn_resnet50", "model: must be a section with the key name, as in model.name=unet"),
        ("model=null", "model: must be a section"),
        (
            "model={mean: [0.5, 0.5], deviation: [1, 1]}",
            "model: mean and deviation are one number, or one of each of the three channels, got 2",
        ),
        ("model.freeze_epochs=3", "model: freeze_epochs is of freeze: encoder"),
        ("model.mean=[0.5]", "model: mean and deviation are given together"),
        ("model={mean: [0.5], deviation: [1, 1, 1]}", "model: mean and deviation need one number a channel each"),
        ("model.deviation=[0]", "model.deviation.0: Input should be greater than 0"),
        ("optim.layer_decay=1.5", "optim.layer_decay: Input should be less than or equal to 1"),
        ("optim.head_lr_multiplier=0", "optim.head_lr_multiplier: Input should be greater than 0"),
        ("data.volume={spacing_m: [1, 1, 1]}", "data.volume.spacing_m: there is no such key; did you mean spacing_mm?"),
        ("data.volume={}", "data.volume.spacing_mm: Field required; write it"),
        (
            "data.volume={spacing_mm: [1, 1, 1], channels: [{normalize: zscore}]}",
            "data.volume.channels.0.normalize: there is no such key; did you mean normalise?",
        ),
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


def test_a_mistake_on_the_command_line_is_told_of_it_and_one_in_the_file_of_the_file(tmp_path):
    path = write(tmp_path, "c.yaml", "data: {manifest: m}\ntrain: {epochs: 0}\n")
    with pytest.raises(ConfigError, match=r"^optim\.lr=-1: optim\.lr: Input should be greater than 0"):
        load_config(path, ["train.epochs=1", "optim.lr=-1"])
    with pytest.raises(ConfigError, match=r"c\.yaml \(overridden: model.channels=\[8\]\): model: a U-Net needs two levels or more"):
        load_config(path, ["model.channels=[8]", "train.epochs=1"])
    with pytest.raises(ConfigError, match=r"^data.size_px=\[64,-1\]: data.size_px.1: Input should be"):
        load_config(path, ["data.size_px=[64,-1]", "train.epochs=1"])
    with pytest.raises(ConfigError, match=r"c\.yaml: train\.epochs: Input"):
        load_config(path, ["optim.lr=1"])


@pytest.mark.parametrize("name", get_args(LossName))
def test_each_loss_takes_its_own_keys(tmp_path, name):
    """A value other than the default for every key that the loss reads, all at once."""
    other = {"dice_weight": 2, "pixel_weight": 0.5, "alpha": 0.4, "beta": 0.6, "delta": 0.5, "gamma": 0.7, "topk_share": 0.2}
    other |= {"class_weights": "median_frequency", "reduction": "image", "include_background": True}
    own = {key: value for key, value in other.items() if name in LOSS_KEYS.get(key, (name,))}
    path = write(tmp_path, "c.yaml", f"data: {{manifest: m}}\nloss: {{name: {name}}}\n")
    loss = load_config(path, [f"loss.{key}={json.dumps(value)}" for key, value in own.items()]).loss
    assert own and {key: getattr(loss, key) for key in own} == own
    for key in set(other) - set(own):
        with pytest.raises(ConfigError, match=f"loss: {key} belongs to"):
            load_config(path, [f"loss.{key}={json.dumps(other[key])}"])


def test_an_epoch_is_whole_batches_of_the_draws_asked():
    config = validate_config(BASE | {"train": {"batch_size": 8}}, "w")
    assert [config.steps_per_epoch(images) for images in (1, 8, 15, 16, 400)] == [1, 1, 1, 2, 50]
    drawn = validate_config(BASE | {"train": {"batch_size": 8}, "sampling": {"draws_per_epoch": 100}}, "w")
    assert [drawn.steps_per_epoch(images) for images in (1, 400)] == [12, 12]
    one = validate_config(BASE | {"train": {"batch_size": 8}, "sampling": {"draws_per_epoch": 8}}, "w")
    assert one.steps_per_epoch(400) == 1


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


def test_another_network_s_settings_are_not_those_of_the_base(tmp_path):
    write(tmp_path, "base.yaml", "data: {manifest: m}\nmodel: {channels: [8, 16], strides: [2], freeze: encoder}\n")
    same = write(tmp_path, "same.yaml", "base: base.yaml\nmodel: {num_res_units: 0}\n")
    other = write(tmp_path, "other.yaml", "base: base.yaml\nmodel: {name: fcn_resnet18}\n")
    assert load_config(same).model == UnetConfig(channels=(8, 16), strides=(2,), num_res_units=0, freeze="encoder")
    assert load_config(other).model == FcnResnet18Config(name="fcn_resnet18")
    changed = load_config(same, ["model.init_filters=8", "model.name=segresnet"])
    assert changed.model == SegResNetConfig(name="segresnet", init_filters=8), "whatever the order of the overrides"


@pytest.mark.parametrize("name", [*CLASS_OF, "smp:unet/resnet18", "my.nets:Net"])
def test_every_network_comes_back_from_its_canonical_text(tmp_path, name):
    config = load_config(write(tmp_path, "c.yaml", f"data: {{manifest: m}}\nmodel: {{name: '{name}'}}\n"))
    assert config.model.name == name and "model.name" in config.flat()
    assert read_config(write(tmp_path, "again.yaml", config.to_yaml())) == config
