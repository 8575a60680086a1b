import http.server
import os
import pickle
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision import models

from medseg.config.model import CLASS_OF, FcnResnet18Config, FlexibleUnetConfig, LrasppConfig, SmpConfig, TorchvisionConfig, UnetConfig
from medseg.errors import RunError, WeightsError
from medseg.files import sha256_file
from medseg.models.contract import Task, is_below
from medseg.models.weights import Source, fetch_torch, load, other_channels, read_source, with_source
from medseg.models.zoo import build_network
from medseg.monai_parts import EFFICIENTNET_URLS
from medseg.runfolder import create_run

FLEXIBLE = FlexibleUnetConfig(name="flexible_unet")
DEEPLAB = TorchvisionConfig(name="deeplabv3_mobilenet_v3_large")
DENSE = SmpConfig(name="smp:unet/densenet121")  # its stages lie a module deeper
UNET = UnetConfig(channels=(8, 16, 32), strides=(2, 2))
TASK = Task(3, (32, 32))


def built(config=UNET, task=TASK, seed=0):
    torch.manual_seed(seed)
    return build_network(config, task)


def loaded_from(weights, network=None, classes=None, config=UNET):
    config = config.model_copy(update={"weights": weights})
    network = network or built(config, seed=1)
    return network, load(network, read_source(config, TASK), config, classes)


@pytest.mark.parametrize("form", ["weights.safetensors", "weights.pth", "wrapped.pth", "nested.ckpt"])
def test_a_file_in_each_form_that_people_hand_on(form, tmp_path):
    state = built(seed=0).net.state_dict()
    path = tmp_path / form
    if form.endswith("safetensors"):
        safetensors.torch.save_file(state, path)
    elif form == "nested.ckpt":
        torch.save(
            {"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": {f"module.net.{name}": value for name, value in state.items()}}, path
        )
    else:
        torch.save({f"module.{name}": value for name, value in state.items()} if form == "wrapped.pth" else state, path)
    network, loaded = loaded_from(f"file:{path}")
    assert len(loaded.loaded) == len(state) and not loaded.skipped and not loaded.new
    assert all(torch.equal(value, state[name]) for name, value in network.net.state_dict().items())
    assert sha256_file(path)[:12] in loaded.origin


def test_a_head_of_other_classes_is_made_afresh_and_told(tmp_path):
    state = built(task=replace(TASK, num_classes=7)).net.state_dict()
    safetensors.torch.save_file(state, tmp_path / "seven.safetensors")
    fresh = built(seed=1)
    before = {name: value.clone() for name, value in fresh.net.state_dict().items()}
    network, loaded = loaded_from(f"file:{tmp_path}/seven.safetensors", fresh)
    changed = {name for name in state if is_below(name, network.head)}
    assert {name for name, value in state.items() if value.shape != before[name].shape} < changed, "a PReLU's slope fits any classes"
    assert set(loaded.new) == set(loaded.skipped) == changed
    assert re.search(r"\(\d+, 7, 3, 3\) there, \(\d+, 3, 3, 3\) here|\(7,.*there, \(3,.*here", " ".join(loaded.skipped.values()))
    for name, value in network.net.state_dict().items():
        assert torch.equal(value, before[name] if name in changed else state[name])
    assert f"{len(state) - len(changed)} tensors loaded, {len(changed)} skipped, {len(changed)} made new (model.2." in str(loaded)


@pytest.mark.parametrize(("classes", "kept"), [(("background", "tongue", "lesion"), False), (("background", "tongue", "coating"), True)])
def test_a_head_of_as_many_other_classes_is_not_taken_over(classes, kept):
    state = built(seed=0).net.state_dict()
    network = built(seed=1)
    loaded = load(network, Source(state, "here", classes=("background", "tongue", "coating")), UNET, classes)
    assert any(name.startswith("model.2.") for name in loaded.loaded) is kept
    assert any(why == "of other classes" for why in loaded.new.values()) is not kept


@pytest.mark.parametrize(
    ("config", "place"), [(FcnResnet18Config(name="fcn_resnet18"), "trunk"), (FLEXIBLE, "encoder"), (DENSE, "encoder")]
)
def test_the_file_of_an_encoder_alone(config, place, tmp_path):
    """As a classifier's, or one that learnt without labels; here in a wrapper."""
    state = built(config).net.state_dict()
    inner = {f"module.{name.removeprefix(place + '.')}": value for name, value in state.items() if name.startswith(f"{place}.")}
    torch.save(inner, tmp_path / "encoder.pth")
    network, loaded = loaded_from(f"file:{tmp_path}/encoder.pth", config=config)
    assert loaded.share == 1 and set(loaded.loaded) == {name for name in state if name.startswith(f"{place}.")} and not loaded.skipped
    assert all(torch.equal(network.net.state_dict()[name], state[name]) for name in loaded.loaded)


@pytest.mark.parametrize("how", ["mean", "repeat"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_a_gray_image_gives_the_first_convolution_what_it_gave(how, channels):
    weight, gray = torch.rand(5, 3, 3, 3), torch.rand(1, 1, 8, 8)
    if how == "repeat":  # only whole turns hold exactly
        weight = weight.mean(1, keepdim=True).expand(-1, 3, -1, -1) if channels % 3 else weight
    found = torch.nn.functional.conv2d(gray.expand(-1, channels, -1, -1), other_channels(weight, channels, how))
    assert torch.allclose(found, torch.nn.functional.conv2d(gray.expand(-1, 3, -1, -1), weight), atol=1e-5)


def test_the_first_convolution_of_published_weights_is_adapted(torch_home):
    state = models.resnet18(weights=None).state_dict()
    torch.save(state, torch_home / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name)
    config = FcnResnet18Config(name="fcn_resnet18", weights="torchvision:BACKBONE")
    task = Task(3, (64, 64), in_channels=1)
    network = built(config, task)
    loaded = load(network, read_source(config, task), config)
    assert torch.allclose(network.net.trunk.conv1.weight, state["conv1.weight"].mean(1, keepdim=True) * 3)
    assert set(loaded.skipped) == {"trunk.fc.weight", "trunk.fc.bias"}
    assert set(loaded.new) == {"score.weight", "score.bias", "upsample.weight", "upsample.bias"}


def test_a_first_convolution_of_another_width_is_made_afresh():
    config = FcnResnet18Config(name="fcn_resnet18")
    network = built(config, Task(3, (64, 64)))
    state = network.net.state_dict() | {"trunk.conv1.weight": torch.rand(40, 3, 7, 7)}
    loaded = load(network, Source(state, "here"), config)
    assert loaded.new == {"trunk.conv1.weight": "(40, 3, 7, 7) there, (64, 3, 7, 7) here"}


def test_weights_of_three_channels_normalise_an_image_of_one():
    source = Source({}, "x", (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    found = with_source(UNET, source, in_channels=1)
    assert found.mean == pytest.approx((0.5,)) and found.deviation == pytest.approx((0.7 / 3,))
    assert with_source(UNET, source).mean == (0.4, 0.5, 0.6)


def test_published_weights_bring_their_normalisation_and_a_new_head(torch_home):
    config = LrasppConfig(name="lraspp_mobilenet_v3_large", weights="torchvision:DEFAULT")
    theirs = models.get_model(config.name, weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), torch_home / Path(models.get_model_weights(config.name)["DEFAULT"].url).name)
    source = read_source(config, TASK)
    assert source.classes[:2] == ("background", "aeroplane") and len(source.classes) == 21
    written = with_source(config, source)
    assert written.mean == (0.485, 0.456, 0.406) and written.deviation == (0.229, 0.224, 0.225)
    network = built(config)
    loaded = load(network, source, config, ("background", "a", "b"))
    assert set(loaded.new) == {f"classifier.{part}_classifier.{kind}" for part in ("low", "high") for kind in ("weight", "bias")}
    assert torch.equal(network.net.backbone["0"][0].weight, theirs.backbone["0"][0].weight)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_the_backbone_of_a_classifier(name, torch_home):
    classifier = models.mobilenet_v3_large(weights=None)
    torch.save(classifier.state_dict(), torch_home / Path(models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.url).name)
    config = CLASS_OF[name](name=name, weights="torchvision:BACKBONE")
    network = built(config, Task(3, (64, 64)))
    loaded = load(network, read_source(config, TASK), config)
    encoder = {name for name in network.net.state_dict() if name.startswith("backbone.")}
    assert set(loaded.loaded) == encoder and all(name.startswith("backbone.classifier.") for name in loaded.skipped)


def test_from_scratch_has_the_photographs_normalisation_and_a_user_s_own_is_kept():
    assert (with_source(UNET, None).mean, with_source(UNET, None).deviation) == ((0.5,), (0.25,))
    own = UNET.model_copy(update={"mean": (0.1,), "deviation": (1.0,)})
    assert with_source(own, Source({}, "x", (0.4,), (0.2,))) == own


# --- what cannot be had


@pytest.fixture
def mirror(tmp_path):
    """A web server of a folder on this machine: (folder, address)."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_torch_hub_fetches_once_and_verifies(mirror, torch_home):
    folder, address = mirror
    torch.save({"a": torch.ones(2)}, folder / "net.pth")
    name = f"net-{sha256_file(folder / 'net.pth')[:8]}.pth"
    (folder / "net.pth").rename(folder / name)
    assert torch.equal(fetch_torch(f"{address}/{name}")["a"], torch.ones(2))
    (folder / name).unlink()
    assert torch.equal(fetch_torch(f"{address}/{name}")["a"], torch.ones(2))  # from the cache


def test_a_file_that_was_tampered_with_on_its_way(mirror, torch_home):
    folder, address = mirror
    torch.save({"a": torch.ones(2)}, folder / "net-00000000.pth")
    with pytest.raises(WeightsError, match=r"cannot be fetched \(invalid hash value.*place it at .*net-00000000.pth"):
        fetch_torch(f"{address}/net-00000000.pth")
    assert not list(torch_home.iterdir())


def test_without_a_network_the_error_says_where_to_place_the_file(torch_home):
    url = "http://127.0.0.1:9/models/net-01234567.pth"  # nobody listens there
    with pytest.raises(
        WeightsError, match=rf"cannot be fetched .*where there is a network fetch {url}, and place it at {torch_home}/net-0"
    ):
        fetch_torch(url)


def test_a_damaged_file_in_the_cache(torch_home):
    (torch_home / "net-01234567.pth").write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="net-01234567.pth: cannot be read .*remove it, and fetch it again from http"):
        fetch_torch("http://127.0.0.1:9/net-01234567.pth")


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


class Worse:
    def __reduce__(self):
        return os.system, ("echo code ran",)


@pytest.mark.parametrize("what", [Evil, Worse])  # torch has other words for modules that it blocks
def test_a_pickle_that_would_run_code_does_not(what, tmp_path, capfd):
    torch.save({"a": torch.ones(2), "b": what()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="more than tensors, which could run code.*save its state dict alone"):
        loaded_from(f"file:{tmp_path}/evil.pth")
    assert "code ran" not in capfd.readouterr().out


def test_a_pickle_of_another_protocol_is_told_in_our_words_alone(tmp_path, recwarn):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"b": Evil()}, protocol=4))
    with pytest.raises(WeightsError, match="pickled in another way than torch reads safely"):
        loaded_from(f"file:{tmp_path}/evil.pkl")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as weights"),
        (b"\x89PNG\r\n\x1a\n and more", "it is no file that torch.save wrote"),
        (b"BM and more", "it is no file"),
        (b"PK\x03\x04 and then nothing", "cannot be read as weights"),
        (None, "there is no such file"),
    ],
)
def test_a_file_that_is_none(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        loaded_from(f"file:{tmp_path}/a.pth")


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_that_cannot_be_copied(tmp_path):
    state = built().net.state_dict()
    torch.save({name: value.to_sparse() if value.ndim == 1 else value for name, value in state.items()}, tmp_path / "sparse.pth")
    with pytest.raises(WeightsError, match="sparse.pth.*its tensor .* is sparse or quantised; save plain tensors"):
        loaded_from(f"file:{tmp_path}/sparse.pth")


def test_a_head_of_which_a_part_is_missing_is_made_afresh():
    state = {name: value for name, value in built(DEEPLAB).net.state_dict().items() if name != "classifier.4.bias"}
    loaded = load(built(DEEPLAB, seed=1), Source(state, "here"), DEEPLAB)
    assert {"classifier.4.weight", "classifier.4.bias", "aux_classifier.4.weight"} <= set(loaded.new)
    without = {name: value for name, value in built(DEEPLAB).net.state_dict().items() if not name.startswith("aux_")}
    loaded = load(built(DEEPLAB, seed=1), Source(without, "here"), DEEPLAB)
    assert "classifier.4.weight" in loaded.loaded, "a head that the weights lack altogether is no reason"


def test_a_head_of_other_classes_is_no_misfit_where_no_encoder_is_named():
    network = built(seed=1)
    bare = replace(network, encoder=())
    loaded = load(bare, Source(built(seed=0).net.state_dict(), "here", classes=("background", "a", "b")), UNET, ("background", "c", "d"))
    assert loaded.new and not loaded.misfits


def test_tensors_of_values_that_are_no_numbers(tmp_path):
    state = built().net.state_dict()
    name = next(iter(state))
    safetensors.torch.save_file(state | {name: torch.full_like(state[name], torch.inf)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=rf"a.safetensors .*: its tensor '{name}' holds values that are not finite; fetch it or save"):
        loaded_from(f"file:{tmp_path}/a.safetensors")


def test_a_folder_in_place_of_a_file_and_a_run_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="is a folder; name the file in it"):
        loaded_from(f"file:{tmp_path}")
    with pytest.raises(RunError, match="^runs/nope: there is no such run folder"):
        loaded_from("run:runs/nope")
    with pytest.raises(RunError, match="^runs/nope: there is no such run folder"):
        loaded_from("run:nope")


def test_a_broken_safetensors_file_and_one_without_tensors(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing of it")
    with pytest.raises(WeightsError, match="is no safetensors file"):
        loaded_from(f"file:{tmp_path}/a.safetensors")
    torch.save({"epoch": 3}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="holds no named tensors"):
        loaded_from(f"file:{tmp_path}/b.pth")


def test_a_run_whose_checkpoint_is_truncated(tmp_path):
    run = create_run(tmp_path, "x", "y", 0, None)
    run.config_yaml.write_text("name: y\ndata: {manifest: m}\n")
    run.checkpoint("best").write_bytes(b"cut")
    with pytest.raises(WeightsError, match="best.safetensors: is no safetensors file"):
        read_source(UNET.model_copy(update={"weights": f"run:{run.path}"}), TASK)


def test_weights_of_another_network(tmp_path):
    safetensors.torch.save_file({"layer.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="none of its 1 tensors fits unet; .*named like 'layer.weight', the network's like 'model.0"):
        loaded_from(f"file:{tmp_path}/a.safetensors")


@pytest.mark.parametrize("spec", ["DEFAULT", "somewhere:x", "file:", "torchvision:"])
def test_a_spec_that_is_none(spec):
    with pytest.raises(WeightsError, match="weights are named torchvision:..., smp:"):
        read_source(UNET.model_copy(update={"weights": spec}), TASK)


def test_a_network_without_published_weights():
    with pytest.raises(WeightsError, match="torchvision:DEFAULT: unet has no such weights; `medseg zoo` lists"):
        read_source(UNET.model_copy(update={"weights": "torchvision:DEFAULT"}), TASK)


def as_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """MONAI's names in those of the published file, whose author numbers the blocks from first to last, without stages."""
    blocks = list(dict.fromkeys(tuple(name.split(".")[1:3]) for name in state if name.startswith("_blocks.")))
    renamed = {}
    for name, value in state.items():
        first, *rest = name.split(".")
        renamed[".".join([first, str(blocks.index(tuple(rest[:2]))), *rest[2:]]) if first == "_blocks" else name] = value
    return renamed


def test_monai_s_efficientnet_as_monai_itself_loads_it(torch_home):
    """By MONAI's own loader, from the same file in torch.hub's cache."""
    from monai.networks.nets import EfficientNetBN

    torch.manual_seed(0)
    state = EfficientNetBN("efficientnet-b0", pretrained=False).state_dict()
    torch.save(as_published(state), torch_home / Path(EFFICIENTNET_URLS["efficientnet-b0"]).name)
    theirs = EfficientNetBN("efficientnet-b0", pretrained=True).state_dict()
    assert theirs.keys() == state.keys() and all(torch.equal(value, state[name]) for name, value in theirs.items()), "MONAI took all of it"
    config = FlexibleUnetConfig(name="flexible_unet", weights="monai:DEFAULT")
    network = built(config, Task(3, (64, 64)), seed=5)
    loaded = load(network, read_source(config, Task(3, (64, 64))), config)
    encoder = network.net.encoder.state_dict()
    assert encoder.keys() <= theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in encoder.items())
    assert len(loaded.loaded) == len(encoder) and not loaded.skipped and all(not name.startswith("encoder.") for name in loaded.new)
    with pytest.raises(WeightsError, match="monai:DEFAULT: MONAI names no weights for efficientnet-b8; take one of efficientnet-b0"):
        read_source(config.model_copy(update={"encoder": "efficientnet-b8"}), Task(3, (64, 64)))


def test_running_values_follow_at_torch_s_pace_whatever_the_library_thinks():
    theirs = {module.momentum for module in models.mobilenet_v3_large().modules() if isinstance(module, torch.nn.BatchNorm2d)}
    ours = built(LrasppConfig(name="lraspp_mobilenet_v3_large"), TASK).net.modules()
    assert theirs == {0.01} and {module.momentum for module in ours if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}
