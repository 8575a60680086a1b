"""Training that starts from weights: what is loaded and told, what is held, which rates learn, and that a run needs the weights no more."""

from __future__ import annotations

import json
import sys

import pytest
import safetensors.torch
import torch

from medseg import api
from medseg.build import build_model, check_tunable
from medseg.config import load_config, read_config
from medseg.engine.checkpoint import read_checkpoint
from medseg.errors import ConfigError, RunError, WeightsError
from medseg.files import sha256_file
from medseg.run import load_run
from medseg.training import resume
from medseg.trust import trust_all
from tests.tiny import make_all

BRIEF = ["train.epochs=1", "train.compile=never"]
ENCODER = "net.model.0."


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, data root, experiment, a run trained from scratch)."""
    root = tmp_path_factory.mktemp("world")
    _, _, data_root, experiment = make_all(root)
    return root, data_root, experiment, api.train(experiment, BRIEF, data_root, root / "runs")


def weights_of(run, checkpoint="best"):
    return read_checkpoint(run.checkpoint(checkpoint))[0]


def test_from_scratch_there_is_no_account_of_weights(world):
    assert not world[-1].weights_json.exists()
    assert read_config(world[-1].config_yaml).model.mean == (0.5,)
    values = sum(value.numel() for value in weights_of(world[-1]).values())  # a U-Net with instance norms has nothing but parameters
    assert json.loads(world[-1].network_json.read_text()) == {"parameters": values, "chosen": {}}


def test_a_run_goes_on_from_another_one_and_says_what_it_took(world):
    root, data_root, experiment, first = world
    again = api.train(experiment, [*BRIEF, f"model.weights=run:{first.path}", "optim.lr=1e-9", "seed=5"], data_root, root / "again")
    account = json.loads(again.weights_json.read_text())
    assert (
        account["origin"] == f"run:{first.id} (sha256 {sha256_file(first.checkpoint('best'))[:12]})"
        and not account["misfits"]
        and not account["skipped"]
        and not account["new"]
    )
    before, after = weights_of(first), weights_of(again)
    assert len(account["loaded"]) == len(before) and account["share"] == 1
    assert all(torch.allclose(before[name], value, atol=1e-6) for name, value in after.items()), "at so small a rate nothing moves"


def test_weights_that_hardly_fit_are_a_warning(world, caplog):
    root, data_root, experiment, first = world
    again = api.train(experiment, [*BRIEF, f"model.weights=run:{first.path}", "model.channels=[12,24]"], data_root, root / "hardly")
    [told] = [record for record in caplog.records if "weights of run:" in record.message]
    assert told.levelname == "WARNING" and json.loads(again.weights_json.read_text())["share"] < 0.01
    assert "% of the encoder" in told.message


def test_weights_of_another_encoder_are_a_warning_though_most_of_them_fit(world, caplog):
    root, data_root, experiment, first = world
    state = {name.removeprefix("net."): value for name, value in weights_of(first).items()}
    odd = next(name for name, value in state.items() if name.startswith("model.0.") and value.ndim == 4)
    safetensors.torch.save_file(state | {odd: torch.zeros(1, 2, 3, 3)}, root / "odd.safetensors")
    again = api.train(experiment, [*BRIEF, f"model.weights=file:{root}/odd.safetensors"], data_root, root / "odd")
    [told] = [record for record in caplog.records if "weights of file:" in record.message]
    account = json.loads(again.weights_json.read_text())
    assert account["share"] > 0.5 and account["misfits"] == [odd] and told.levelname == "WARNING"
    assert f"; 1 of the encoder have another shape there, first '{odd}'" in told.message


def test_the_encoder_is_held_for_the_first_epochs_and_learns_afterwards(world):
    root, data_root, experiment, first = world
    more = [f"model.weights=run:{first.path}", "model.freeze=encoder", "train.epochs=2", "train.compile=never"]
    start = weights_of(first)
    held = weights_of(api.train(experiment, more, data_root, root / "held"), "last")
    run = api.train(experiment, [*more, "model.freeze_epochs=1", "optim.head_lr_multiplier=10"], data_root, root / "freed")
    rates = [json.loads(line)["metrics"] for line in run.metrics_jsonl.read_text().splitlines()]
    assert [line["train/lr_head"] for line in rates] == [pytest.approx(10 * line["train/lr"]) for line in rates]
    freed = weights_of(run, "last")
    encoder = [name for name in start if name.startswith(ENCODER)]
    assert encoder and all(torch.equal(start[name], held[name]) for name in encoder)
    assert any(not torch.equal(start[name], freed[name]) for name in encoder)
    assert any(not torch.equal(start[name], held[name]) for name in start if name not in encoder)


def test_held_training_goes_on_as_if_it_had_never_stopped(world):
    root, data_root, experiment, first = world
    more = [f"model.weights=run:{first.path}", "model.freeze=encoder", "model.freeze_epochs=1", "train.epochs=3", "train.compile=never"]
    whole = api.train(experiment, more, data_root, root / "whole")

    def stop(step, val_score):
        if step == 5:  # of 3 an epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.train(experiment, more, data_root, root / "halves", api.Progress(on_step=stop))
    [stopped] = (root / "halves").iterdir()
    half = resume(stopped, data_root)
    assert half.metrics_jsonl.read_bytes() == whole.metrics_jsonl.read_bytes()
    assert all(torch.equal(value, weights_of(whole, "last")[name]) for name, value in weights_of(half, "last").items())


def test_a_finished_run_needs_its_weights_no_more(world, tmp_path):
    root, data_root, experiment, first = world
    path = tmp_path / "start.safetensors"
    safetensors.torch.save_file({name.removeprefix("net."): value.clone() for name, value in weights_of(first).items()}, path)
    run = api.train(experiment, [*BRIEF, f"model.weights=file:{path}"], data_root, root / "f")
    assert len(json.loads(run.weights_json.read_text())["loaded"]) == len(weights_of(first))
    path.unlink()
    assert load_run(run.path).model.network is not None
    with pytest.raises(WeightsError, match="start.safetensors: there is no such file"):
        api.train(experiment, [*BRIEF, f"model.weights=file:{path}"], data_root, root / "f")
    assert len(list((root / "f").iterdir())) == 1, "no run folder is begun for weights that are not there"


def test_the_batch_norms_of_the_encoder_keep_their_values(world):
    root, data_root, experiment, _ = world
    more = ["model.name=lraspp_mobilenet_v3_large", "model.batch_norm=frozen", "data.size_px=[64, 64]"]
    run = api.train(experiment, [*BRIEF, *more], data_root, root / "norms")
    state = weights_of(run, "last")
    fresh = build_model(read_config(run.config_yaml), load_run(run.path).labels).state_dict()
    running = [name for name in state if name.endswith("running_mean")]
    moved = {name for name in running if not torch.equal(state[name], fresh[name])}
    assert moved == {name for name in running if not name.startswith("net.backbone.")} and moved


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optim.head_lr_multiplier=10"],
            "optim.head_lr_multiplier: tests.models.test_own:make names no head; name its modules in model.head",
        ),
        (["model.freeze=encoder"], "model.freeze: tests.models.test_own:make names no encoder; name its modules in model.encoder"),
        (["optim.layer_decay=0.5"], "optim.layer_decay: tests.models.test_own:make names no encoder"),
        (["model.batch_norm=frozen"], "model.batch_norm: tests.models.test_own:make names no encoder"),
    ],
)
def test_parts_that_a_network_does_not_name(world, labels, overrides, message):
    config = load_config(world[2], ["model.name=tests.models.test_own:make", *overrides])
    with pytest.raises(ConfigError, match=message):
        check_tunable(config, build_model(config, labels))


def test_a_batch_of_one_where_the_network_needs_two(world, labels):
    config = load_config(world[2], ["model.name=deeplabv3_mobilenet_v3_large", "train.batch_size=2"])
    model = build_model(config, labels)
    check_tunable(config, model)
    with pytest.raises(
        ConfigError, match="train.batch_size: deeplabv3_mobilenet_v3_large needs 2 images .*, and 2 processes share it; raise it"
    ):
        check_tunable(config, model, world=2)


def test_an_encoder_that_is_held_at_random_is_told(world, labels, caplog):
    config = load_config(world[2], ["model.freeze=encoder"])
    check_tunable(config, build_model(config, labels))
    assert "holds an encoder that starts at random" in caplog.text


def test_weights_that_say_no_normalisation_are_told(world, tmp_path, caplog):
    root, data_root, experiment, first = world
    path = tmp_path / "start.safetensors"
    safetensors.torch.save_file({name.removeprefix("net."): value.clone() for name, value in weights_of(first).items()}, path)
    api.train(experiment, [*BRIEF, f"model.weights=file:{path}"], data_root, root / "said")
    assert "start.safetensors" in caplog.text and "says no normalisation: 0.5 and 0.25 are taken" in caplog.text
    caplog.clear()
    api.train(experiment, [*BRIEF, f"model.weights=run:{first.path}"], data_root, root / "said")
    assert "normalisation" not in caplog.text


def test_a_network_that_cannot_be_built_is_told_before_anything_is_decoded(world):
    root, data_root, experiment, _ = world

    def decoded(*_):
        raise AssertionError("decoding began")

    with pytest.raises(ConfigError, match="model.name=nowhere:Net: cannot be imported"):
        api.train(
            experiment, [*BRIEF, "model.name=nowhere:Net", "data.size_px=[48, 32]"], data_root, root / "x", api.Progress(on_decode=decoded)
        )


def train_again(run):
    """By the config of a run folder, which is no more the user's own than the folder is."""
    api.train(run / "config.yaml", [], run)


def train_by_base(run):
    """By an experiment of one's own that takes over the config of somebody's run folder."""
    (run.parent / "mine.yaml").write_text(f"base: {run.name}/config.yaml\nseed: 3\n")
    api.train(run.parent / "mine.yaml", [], run)


def train_by_link(run):
    """By another name of a run folder's config."""
    (run.parent / "link.yaml").symlink_to(run / "config.yaml")
    api.train(run.parent / "link.yaml", [], run)


def train_by_another_file(run):
    """Of a run folder whose experiment has another name, and is linked to."""
    (run / "settings.yaml").write_text((run / "config.yaml").read_text())
    api.train(run / "settings.yaml", [], run)


def test_somebody_else_s_code_needs_a_word(world, monkeypatch):
    root, data_root, experiment, _ = world
    monkeypatch.setattr("medseg.trust._trusted", set())
    monkeypatch.delenv("MEDSEG_TRUST_CODE", raising=False)
    run = api.train(experiment, [*BRIEF, "model.name=tests.models.test_own:make"], data_root, root / "own")
    assert load_run(run.path), "the user has named it in this process"
    monkeypatch.setattr("medseg.trust._trusted", set())
    sys.modules.pop("tests.models.test_own", None)
    for verb in (load_run, train_again, train_by_base, train_by_link, train_by_another_file, resume):
        if verb is resume:
            (run.path / "run.json").write_text((run.path / "run.json").read_text().replace("finished", "failed"))
        with pytest.raises(
            RunError, match="its network is tests.models.test_own:make, code that would be imported and run; .*--trust-code"
        ):
            verb(run.path)
    assert "tests.models.test_own" not in sys.modules, "refused before it is imported"
    (root / "mine.yaml").write_text(f"base: {world[-1].path}/config.yaml\nmodel: {{name: nowhere:Net}}\n")
    with pytest.raises(ConfigError, match="nowhere:Net: cannot be imported"):  # the user's own word, whatever lies below
        api.train(root / "mine.yaml", ["data.size_px=[48,32]"], data_root, root / "y")
    monkeypatch.setenv("MEDSEG_TRUST_CODE", "0")
    trust_all()
    assert load_run(run.path)
