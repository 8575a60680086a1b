"""Config -> objects: what `auto` becomes, what is kept between runs, and that settings reach the parts they are meant for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from medseg.build import build_model, build_training, decode_part, make_fabric, patch_index, resolve, resolve_length
from medseg.config import Config, load_config
from medseg.data.patches import PatchIndex, most_bytes
from medseg.data.sampling import draw_epoch
from medseg.errors import ConfigError
from medseg.manifest.table import select
from medseg.types import Size
from tests.tiny import make_all

CROPS = ["sampling.patch_px=[16, 24]", "sampling.centre_ratios={square: 1, anywhere: 1}"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(manifest, split, data root, experiment), made once."""
    return make_all(tmp_path_factory.mktemp("build"))


def config_of(world, *overrides: str) -> Config:
    return resolve(load_config(world[-1], ["train.device=cpu", *overrides]))


def built(config: Config, manifest, split, data_root, *rest):
    return build_training(config, manifest, split, data_root, make_fabric(config), *rest)


def compiles(device: str) -> str | None:
    """For tests of the choice alone: trying takes seconds."""
    assert device == "cpu"
    return None


def test_auto_compiles_where_there_is_much_to_show(world):
    few = config_of(world, "train.epochs=1")
    many = config_of(world, "train.epochs=100000")
    assert resolve_length(few, 12, compiles).train.compile == "never" and resolve_length(many, 12, compiles).train.compile == "always"
    assert resolve_length(many, 12, compiles) == many.model_copy(update={"train": many.train.model_copy(update={"compile": "always"})})


def test_a_step_of_more_images_than_an_epoch_shows_is_refused(world):
    with pytest.raises(ConfigError, match="train.batch_size: an epoch shows 12 images, and a step learns from 16 .*lower it"):
        resolve_length(config_of(world, "train.accumulate=4"), 12, compiles)


def test_auto_counts_the_pixels_that_are_shown(world):
    """Draws an epoch in place of the images, and crops in place of the frame."""
    images = 12

    def chosen(images: int, *overrides: str) -> str:
        return resolve_length(config_of(world, *overrides), images, compiles).train.compile

    epochs = next(2**power for power in range(40) if chosen(images, f"train.epochs={2**power}") == "always")
    long = f"train.epochs={epochs}"
    assert chosen(images, long, "sampling.draws_per_epoch=4") == "never"
    assert chosen(images, long, "sampling.patch_px=[16, 16]") == "never"
    assert chosen(images // 3, long, "data.size_px=[64, 96]") == "always"


@pytest.mark.parametrize("asked", ["always", "never"])
def test_what_is_asked_stays(world, asked):
    config = config_of(world, f"train.compile={asked}", "train.epochs=100000")
    assert resolve_length(config, 12, compiles) == config


def test_what_is_not_chosen_is_not_tried(world):
    for config in (config_of(world, "train.epochs=1"), config_of(world, "train.compile=never", "train.epochs=100000")):
        assert resolve_length(config, 12, pytest.fail).train.compile == "never"


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [pytest.param("/nowhere/g++", marks=pytest.mark.slow), "/bin/false"])
def test_without_a_working_compiler_auto_is_never_and_always_is_one_error(world, monkeypatch, caplog, tmp_path, compiler):
    """One that is missing and one that fails; CXX alone counts where it is set, as for torch. A g++ may stand on the PATH."""
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    with torch._inductor.config.patch("cpp.cxx", (None, compiler)):  # read from CXX when torch is imported
        assert resolve_length(config_of(world, "train.epochs=100000"), 12).train.compile == "never"
        assert "training is not compiled, as torch.compile does not work here" in caplog.text
        with pytest.raises(
            ConfigError, match=r"^train.compile: torch.compile does not work here: .*; install g\+\+, or set train.compile=auto$"
        ):
            resolve_length(config_of(world, "train.compile=always"), 12)


def index_files(config: Config) -> list[Path]:
    return sorted((Path(config.data.cache) / "positions").glob("*"))


def same(first: PatchIndex, second: PatchIndex) -> bool:
    return np.array_equal(first.positions, second.positions) and np.array_equal(first.offsets, second.offsets)


def test_the_index_is_made_once_and_read_back(world, tmp_path):
    manifest, split, data_root, _ = world
    config = config_of(world, *CROPS, f"data.cache={tmp_path / 'cache'}")
    data = decode_part(config, manifest, split, "train", data_root)
    made = patch_index(config, data)
    [path] = index_files(config)
    assert len(made) == len(data) and path.suffix == ".i32"
    for place in range(len(data)):
        assert made.of(place, 2).tolist() == np.flatnonzero(data.mask(place) == 2).tolist()
    told = []
    assert same(patch_index(config, data, lambda *call: told.append(call)), made) and not told, "what lies there is read, not made again"
    path.unlink()
    assert same(patch_index(config, data, lambda *call: told.append(call)), made)
    assert told == [("class positions", done, len(data)) for done in range(1, len(data) + 1)]


def test_other_images_or_another_grid_have_an_index_of_their_own(world, tmp_path):
    manifest, split, data_root, _ = world
    cache = f"data.cache={tmp_path / 'cache'}"
    config, larger = config_of(world, *CROPS, cache), config_of(world, *CROPS, cache, "data.size_px=[48, 48]")
    for part, settings in (("train", config), ("val", config), ("train", larger), ("train", config)):
        data = decode_part(settings, manifest, split, part, data_root)
        index = patch_index(settings, data)
        assert len(index) == len(data) and index.frame == data.frame
    assert len(index_files(config)) == 3


@pytest.mark.parametrize("harm", [lambda content: content[: len(content) // 2], lambda content: bytes([content[0] ^ 1]) + content[1:]])
def test_a_damaged_index_is_made_again(world, tmp_path, harm):
    manifest, split, data_root, _ = world
    config = config_of(world, *CROPS, f"data.cache={tmp_path / 'cache'}")
    data = decode_part(config, manifest, split, "train", data_root)
    made = patch_index(config, data)
    [path] = index_files(config)
    whole = path.read_bytes()
    path.unlink()  # `made` is mapped to it
    path.write_bytes(harm(whole))
    assert same(patch_index(config, data), made) and path.read_bytes() == whole


def test_the_cache_must_hold_both_sets_and_the_positions_and_says_so_before_anything_is_decoded(world, tmp_path):
    manifest, split, data_root, _ = world
    cache, record = tmp_path / "cache", 4 * 32 * 48 + 4
    images = sum(len(select(manifest, split, part)) for part in ("train", "val"))
    whole, crops = [f"data.cache={cache}"], [f"data.cache={cache}", *CROPS]
    positions = most_bytes(len(select(manifest, split, "train")), 3, Size(32, 48))
    for overrides, needed in ((whole, images * record), (crops, images * record + positions)):
        with pytest.raises(
            ConfigError, match=f"data.cache_gib: these {images} images .*take .* KiB decoded, the limit is .* KiB; raise it"
        ):
            built(config_of(world, *overrides, f"data.cache_gib={(needed - 1) / 2**30!r}"), manifest, split, data_root)
        assert not cache.exists()
    built(config_of(world, *crops, f"data.cache_gib={(images * record + positions) / 2**30!r}"), manifest, split, data_root)
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert len(kept) == images + 1 and sum(path.stat().st_size for path in kept) <= images * record + positions


def test_a_training_tells_what_it_decodes_part_by_part(world, tmp_path):
    manifest, split, data_root, _ = world
    told = []
    config = config_of(world, *CROPS, f"data.cache={tmp_path / 'cache'}")
    built(config, manifest, split, data_root, lambda *call: told.append(call))
    lengths = {part: len(select(manifest, split, part)) for part in ("train", "val")}
    parts = {**lengths, "class positions": lengths["train"]}
    assert told == [(part, done, total) for part, total in parts.items() for done in range(1, total + 1)]


def test_only_crops_around_classes_read_the_masks(world, tmp_path):
    manifest, split, data_root, _ = world
    cache = f"data.cache={tmp_path / 'cache'}"
    data = decode_part(config_of(world, cache), manifest, split, "train", data_root)
    assert patch_index(config_of(world, cache), data) is None
    anywhere = config_of(world, cache, CROPS[0])
    index = patch_index(anywhere, data)
    assert len(draw_epoch(anywhere.sampling, np.ones(len(data)), index, 8, 0, 1).centres) == 8
    assert not index_files(anywhere)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "sampling.patch_px=[64, 64]",
            "sampling.patch_px: a patch of 64 x 64 does not fit in the frame of 32 x 48 pixels; make it smaller",
        ),
        (
            "sampling.centre_ratios={ring: 1}",
            "sampling.centre_ratios: 'ring' is neither a class nor 'anywhere'; the classes are background",
        ),
    ],
)
def test_patches_that_cannot_be_are_refused_before_anything_is_decoded(world, tmp_path, override, message):
    manifest, split, data_root, _ = world
    config = config_of(world, *CROPS, override, f"data.cache={tmp_path / 'cache'}")
    with pytest.raises(ConfigError, match=message):
        built(config, manifest, split, data_root)
    assert not (tmp_path / "cache").exists()


def test_class_weights_reach_the_loss(world):
    """The cross-entropy term against torch's own, with weights counted here: all pixels over those of the class, scaled to mean 1."""
    manifest, split, _, _ = world
    rows = select(manifest, split, "train")
    config = config_of(world, "loss.name=cross_entropy", "loss.class_weights=inverse_frequency")
    pixels = np.array([sum(row.px[name] for row in rows) for name in manifest.labels.names], float)
    weights = pixels.sum() / pixels
    weights /= weights.mean()
    generator = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(2, 3, 8, 8, generator=generator), torch.randint(0, 3, (2, 8, 8), generator=generator)
    logits[:, 0] -= 10.0  # the background, which weighs little, is what is missed: a wrong weight of it would show
    [term] = build_model(config, manifest.labels, rows).loss(logits, mask).values()
    assert term.item() == pytest.approx(cross_entropy(logits, mask, torch.tensor(weights, dtype=torch.float32)).item(), rel=1e-5)
    assert weights[2] > 3 * weights[0], "squares are rare here"


def test_class_weights_are_of_the_training_images_alone(world):
    manifest, split, data_root, _ = world
    config = config_of(world, "loss.class_weights=median_frequency")
    trained = built(config, manifest, split, data_root).model.module.loss.class_weights_K
    [train, val] = [build_model(config, manifest.labels, select(manifest, split, part)).loss.class_weights_K for part in ("train", "val")]
    assert torch.equal(trained, train) and not torch.equal(train, val)


def test_weights_in_memory_are_channels_last_where_asked_and_compute_the_same(world):
    labels = world[0].labels
    plain, last = (build_model(config_of(world, f"train.channels_last={text}"), labels).eval() for text in ("false", "true"))
    for parameter, other in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.equal(parameter, other)
    kernels = [parameter for parameter in last.parameters() if parameter.ndim == 4 and parameter.shape[1] > 1]
    assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert all(parameter.is_contiguous() for parameter in plain.parameters())
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain(image).probs_BKHW, last(image).probs_BKHW, atol=1e-5)


def test_a_network_that_predicts_needs_no_loss(world):
    config = config_of(world, "loss.class_weights=median_frequency")
    assert build_model(config, world[0].labels).loss is None
