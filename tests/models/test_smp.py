import json
from dataclasses import replace

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants

from medseg.config import LossConfig
from medseg.config.model import SmpConfig
from medseg.errors import ConfigError, WeightsError
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.models.contract import Task, is_below
from medseg.models.families.smp import ENTRIES
from medseg.models.weights import load, other_channels, read_source, with_source
from medseg.models.zoo import adapt, build_network
from medseg.types import Batch
from tests.models.contract import NetworkContract
from tests.models.test_huggingface import cache, hub, use_endpoint  # noqa: F401 (a fixture)

TASK = Task(3, (64, 64))


class TestUnet(NetworkContract):
    config = SmpConfig(name="smp:unet/resnet18", arguments={"decoder_channels": [32, 16, 16, 8, 8]})


# --- the pairs that the zoo lists, as they are


@pytest.mark.slow
class TestUnetOnResNet34(NetworkContract):
    config = SmpConfig(name="smp:unet/resnet34")
    mean_tolerance = 0.01


@pytest.mark.slow
class TestUnetPlusPlus(NetworkContract):
    config = SmpConfig(name="smp:unetplusplus/resnet34")
    mean_tolerance = 0.01


@pytest.mark.slow
class TestMAnet(NetworkContract):
    config = SmpConfig(name="smp:manet/resnet34")
    mean_tolerance = 0.01


@pytest.mark.slow
class TestLinknet(NetworkContract):
    config = SmpConfig(name="smp:linknet/resnet34")


@pytest.mark.slow
class TestFpn(NetworkContract):
    config = SmpConfig(name="smp:fpn/efficientnet-b0")


@pytest.mark.slow
class TestPspNet(NetworkContract):
    config = SmpConfig(name="smp:pspnet/resnet34")


@pytest.mark.slow
class TestDeepLabV3(NetworkContract):
    config = SmpConfig(name="smp:deeplabv3/resnet34")


@pytest.mark.slow
class TestDeepLabV3Plus(NetworkContract):
    config = SmpConfig(name="smp:deeplabv3plus/resnet34")


@pytest.mark.slow
class TestPan(NetworkContract):
    config = SmpConfig(name="smp:pan/resnet34")
    mean_tolerance = 0.01


@pytest.mark.slow
class TestUPerNet(NetworkContract):
    config = SmpConfig(name="smp:upernet/resnet34")


@pytest.mark.slow
class TestSegformer(NetworkContract):
    config = SmpConfig(name="smp:segformer/mit_b0")


@pytest.mark.slow
class TestDpt(NetworkContract):
    config = SmpConfig(name="smp:dpt/tu-vit_small_patch16_224")
    mean_tolerance = 0.01
    grid = (64, 96)


# --- encoders that are made otherwise


@pytest.mark.slow
class TestUnetPlusPlusOnMobileNet(NetworkContract):
    config = SmpConfig(name="smp:unetplusplus/mobilenet_v2")


@pytest.mark.slow
class TestMAnetOnATimmEncoderByItsOldName(NetworkContract):
    config = SmpConfig(name="smp:manet/timm-mobilenetv3_small_100")


@pytest.mark.slow
class TestUPerNetOnConvNeXt(NetworkContract):
    config = SmpConfig(name="smp:upernet/tu-convnext_atto")


def pair(name, **settings):
    return SmpConfig(name=f"smp:{name}", **settings)


def built(config, task=TASK, seed=0):
    torch.manual_seed(seed)
    return build_network(config, task)


@pytest.mark.parametrize("name", ["linknet/mobilenet_v2", pytest.param("pan/resnet18", marks=pytest.mark.slow)])
def test_probabilities_and_loss_are_those_of_the_library_s_own_module(name):
    config, task, labels = pair(name), replace(TASK, grid=(128, 160)), LabelSet.of("tongue", "coating")
    net = adapt(built(config, task), config, task, make_loss(LossConfig(name="cross_entropy"), labels)).eval()
    image, mask = torch.rand(2, 3, 128, 160), torch.randint(0, 3, (2, 128, 160))
    theirs = smp.create_model(config.architecture, config.encoder, None, 3, 3)
    theirs.load_state_dict(net.net.state_dict())
    with torch.inference_mode():
        logits = theirs.eval()((image - 0.5) / 0.25)
        assert torch.allclose(net(image).probs_BKHW, logits.softmax(1), atol=1e-5)
        torch.manual_seed(3)  # of dropout
        expected = torch.nn.functional.cross_entropy(theirs.train()((image - 0.5) / 0.25), mask)
        torch.manual_seed(3)
        assert torch.allclose(net.train()(Batch(image, mask, ("a", "b"))).total, expected, atol=1e-4)


# --- what is found out by letting images through


@pytest.mark.parametrize(
    ("name", "divisor", "least", "least_batch"),
    [
        ("unet/resnet18", 32, 32, 1), ("pspnet/resnet18", 8, 8, 1), ("segformer/mit_b0", 32, 32, 1),
        ("deeplabv3plus/resnet18", 16, 16, 2), ("pan/resnet18", 16, 128, 2),
    ],
)  # fmt: skip
def test_sides_and_batches_that_a_pair_needs(name, divisor, least, least_batch):
    network = built(pair(name))
    assert (network.divisor, network.least, network.least_batch) == (divisor, least, least_batch)


def test_a_grid_of_one_pixel_in_the_coarsest_map_needs_two_images():
    assert built(pair("unet/resnet18"), replace(TASK, grid=(32, 32))).least_batch == 2


@pytest.mark.parametrize("name", ["pspnet/resnet18", "fpn/efficientnet-b0"])
def test_what_nothing_reads_is_retired(name):
    config = pair(name)
    network = built(config)
    unread = {name for name, parameter in network.net.named_parameters() if not parameter.requires_grad}
    parts = ("encoder.layer3", "encoder.layer4") if "psp" in name else ("encoder._conv_head", "encoder._bn1")
    assert unread == {name for name, _ in network.net.named_parameters() if is_below(name, parts)}
    assert not any(is_below(part, parts) for stage in network.encoder for part in stage)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("unet/resnet18", ("encoder.conv1", "encoder.bn1"), ("encoder.layer4.1",)),
        ("segformer/mit_b0", ("encoder.patch_embed1",), ("encoder.block4.1", "encoder.norm4")),
        (
            "unet/densenet121",
            ("encoder.features.conv0", "encoder.features.norm0"),
            ("encoder.features.denseblock4", "encoder.features.norm5"),
        ),
        pytest.param(
            "dpt/tu-vit_tiny_patch16_224",
            ("encoder.model.patch_embed", "encoder.model.cls_token", "encoder.model.pos_embed"),
            ("encoder.model.blocks.11",),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_encoder_s_stages_are_all_of_it_in_the_order_of_use(name, first, last):
    network = built(pair(name))
    stages = network.encoder
    assert stages[0] == first and stages[-1] == last
    for parameter in (f"encoder.{name}" for name, values in network.net.encoder.named_parameters() if values.requires_grad):
        assert sum(is_below(parameter, stage) for stage in stages) == 1, parameter
    if "densenet" in name:
        inner = [stage[0].rpartition(".")[2] for stage in stages]
        assert inner[1:6] == ["denseblock1", "transition1", "denseblock2", "transition2", "denseblock3"]


def test_finding_out_leaves_network_and_generator_as_they_were():
    config = pair("unet/mobilenet_v2")
    torch.manual_seed(5)
    theirs = smp.create_model("unet", "mobilenet_v2", None, 3, 3)
    after = torch.rand(1)
    ours = built(config, seed=5).net
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


@pytest.mark.slow
def test_an_encoder_of_one_size_is_made_for_the_task_s_or_as_it_is_told():
    name = "unet/tu-swin_tiny_patch4_window7_224"
    assert built(pair(name), replace(TASK, grid=(60, 90))).grid == (64, 96)
    assert built(pair(name, arguments={"img_size": 128})).grid == (128, 128)
    free = built(pair("dpt/tu-vit_tiny_patch16_224", arguments={"dynamic_img_size": True}))
    assert free.grid is None and free.divisor == 16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            pair("unett/resnet18"),
            "model.name: the library has no architecture 'unett'; did you mean unet or .* it has unet, ",
        ),
        (pair("unet/resnet19"), "model.name: the library has no encoder 'resnet19'; it has resnet18, "),
        (pair("unet/tu-resnet18x"), "model.name: the library has no encoder 'tu-resnet18x'; it has tu-resnet18"),
        (pair("dpt/resnet18"), "model.name: smp:dpt/resnet18 cannot be built .*Only Timm encoders are supported"),
        (pair("unetplusplus/mit_b0"), "model.name: smp:unetplusplus/mit_b0 cannot be built .*is not support encoder_name=mit_b0"),
        (pair("unet/resnet18", arguments={"depth": 3}), "model.arguments: unet takes no 'depth' here; it takes .*encoder_depth"),
        (pair("unet/resnet18", arguments={"activation": "softmax"}), "model.arguments: unet takes no 'activation' here"),
        (pair("unet/tu-resnet18", arguments={"classes": 5}), "model.arguments: unet takes no 'classes' here"),
        (pair("unet/resnet18", arguments={"encoder_depth": 3}), "model.arguments: smp:unet/resnet18 cannot be built .*decoder_channels"),
        *(
            (pair("unet/tu-resnet18", arguments={key: value}), f"model.arguments: {key!r} is no part of an architecture; .*model.weights")
            for key, value in [("checkpoint_path", "x.pth"), ("pretrained", True), ("cache_dir", "x"), ("pretrained_cfg", {"file": "x"})]
        ),
        (pair("unet/tu-resnet18", arguments={"bogus": 3}), "model.arguments: smp:unet/tu-resnet18 cannot be built .*bogus"),
    ],
)
def test_what_the_library_cannot_make(config, message):
    with pytest.raises(ConfigError, match=message):
        build_network(config, TASK)


def test_each_architecture_of_the_library_is_in_the_zoo():
    assert {entry.name.removeprefix("smp:").partition("/")[0] for entry in ENTRIES} == set(smp.MODEL_ARCHITECTURES_MAPPING)
    assert len(ENTRIES) == 12


# --- published weights

MOBILENET = pair("linknet/mobilenet_v2", weights="smp:imagenet")
PLACE = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]
LOOKS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_space": "RGB", "input_range": [0, 1]}


def published_encoder(folder, looks=LOOKS, name="mobilenet_v2"):
    """The files of an encoder's repository; its state dict."""
    torch.manual_seed(7)
    state = smp.encoders.get_encoder(name, weights=None).state_dict()
    folder.mkdir(parents=True)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(looks))
    return state


def place_in_cache(cache):  # noqa: F811
    """Where the error says that the files must be."""
    return cache / f"models--{PLACE['repo_id'].replace('/', '--')}" / "snapshots" / PLACE["revision"]


def test_an_encoder_is_fetched_once(cache, tmp_path, monkeypatch):  # noqa: F811
    state = published_encoder(tmp_path / "www" / PLACE["repo_id"])
    before = torch.get_rng_state()
    with hub(tmp_path / "www", PLACE["revision"]) as (address, _):
        use_endpoint(address, monkeypatch)
        source = read_source(MOBILENET, TASK)
    use_endpoint("http://127.0.0.1:9", monkeypatch)
    assert torch.equal(before, torch.get_rng_state())
    written = with_source(MOBILENET, source)
    assert written.mean == (0.485, 0.456, 0.406) and written.deviation == (0.229, 0.224, 0.225)
    network = built(written)
    loaded = load(network, read_source(MOBILENET, TASK), written)
    assert set(loaded.loaded) == {f"encoder.{name}" for name in state} and not loaded.skipped
    assert loaded.new and all(not name.startswith("encoder.") for name in loaded.new)
    assert all(torch.equal(value, network.net.encoder.state_dict()[name]) for name, value in state.items())
    assert loaded.origin == f"smp:imagenet ({PLACE['repo_id']} {PLACE['revision'][:12]})"


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels(channels, cache):  # noqa: F811
    state = published_encoder(place_in_cache(cache), {**LOOKS, "input_range": [0, 255], "mean": [51.0] * 3, "std": [255.0] * 3})
    task = replace(TASK, in_channels=channels)
    source, network = read_source(MOBILENET, task), built(MOBILENET, task)
    assert source.mean == pytest.approx((0.2,)) and source.deviation == (1.0,)
    load(network, source, MOBILENET)
    assert torch.equal(network.net.encoder.features[0][0].weight, other_channels(state["features.0.0.weight"], channels, "mean"))


def test_without_a_network_the_error_says_where_to_place_the_files(cache):  # noqa: F811
    repository, folder = PLACE["repo_id"], f"models--{PLACE['repo_id'].replace('/', '--')}"
    command = f"`hf download {repository} config.json model.safetensors --revision {PLACE['revision']}`"
    with pytest.raises(
        WeightsError, match=f"smp:imagenet: {repository} cannot be fetched .*{command} and .*{folder} of .* to {cache}/{folder}"
    ):
        read_source(MOBILENET, TASK)
    assert str(cache) == constants.HF_HUB_CACHE


def test_a_damaged_file_in_the_cache(cache):  # noqa: F811
    published_encoder(place_in_cache(cache))
    (place_in_cache(cache) / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="smp:imagenet: .* cannot be fetched"):
        read_source(MOBILENET, TASK)


def test_weights_of_images_that_medseg_does_not_show(cache):  # noqa: F811
    published_encoder(place_in_cache(cache), {**LOOKS, "input_space": "BGR"})
    with pytest.raises(WeightsError, match="was trained on BGR images, and medseg shows RGB"):
        read_source(MOBILENET, TASK)


def test_weights_that_an_encoder_has_not():
    with pytest.raises(WeightsError, match="smp:voc: the encoder mobilenet_v2 has no such weights; it has imagenet"):
        read_source(MOBILENET.model_copy(update={"weights": "smp:voc"}), TASK)
    with pytest.raises(WeightsError, match="smp:linknet/mobilenet_v2 has no such weights"):
        read_source(MOBILENET.model_copy(update={"weights": "hf:a/b"}), TASK)


def test_timm_s_own_weights(cache, tmp_path, monkeypatch):  # noqa: F811
    config = pair("unet/tu-mobilenetv3_small_050", weights="smp:imagenet")
    known = timm.models.get_pretrained_cfg("mobilenetv3_small_050")
    theirs = timm.create_model("mobilenetv3_small_050", pretrained=False)
    folder = tmp_path / "www" / known.hf_hub_id
    folder.mkdir(parents=True)
    safetensors.torch.save_file(theirs.state_dict(), folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{known.hf_hub_id} cannot be fetched .*hf download {known.hf_hub_id} model.safetensors"):
        read_source(config, TASK)
    with hub(tmp_path / "www") as (address, _):
        use_endpoint(address, monkeypatch)
        source = read_source(config, TASK)
    network = built(config)
    loaded = load(network, source, config)
    assert source.mean == tuple(known.mean) and not loaded.skipped
    assert loaded.origin == f"smp:imagenet ({known.hf_hub_id} {'c' * 12})", "not the branch, which moves"
    assert all(not name.startswith("encoder.") for name in loaded.new)
    assert torch.equal(network.net.encoder.model.conv_stem.weight, theirs.conv_stem.weight)
