import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants
from torch.nn.functional import interpolate

from medseg.config import LossConfig
from medseg.config.model import DptConfig, Mask2FormerConfig, SegformerConfig
from medseg.errors import ConfigError, WeightsError
from medseg.files import sha256_file
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.models.contract import Task, is_below
from medseg.models.families.huggingface import KINDS, _one_mask_a_class
from medseg.models.weights import Source, load, other_channels, read_source, with_source
from medseg.models.zoo import adapt, build_network
from medseg.types import Batch
from tests.models.contract import NetworkContract

TINY_DPT = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "image_size": 64,
}  # fmt: skip
TINY_SEGFORMER = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 32}
TINY_SWIN = {"embed_dim": 12, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 3, 4], "window_size": 4}
TINY_MASK2FORMER = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "dim_feedforward": 32,
    "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 2, "num_queries": 6, "train_num_points": 128,
    "backbone_config": TINY_SWIN,
}  # fmt: skip
DPT = DptConfig(name="dpt", architecture=TINY_DPT)
SEGFORMER = SegformerConfig(name="segformer", architecture=TINY_SEGFORMER)
MASK2FORMER = Mask2FormerConfig(name="mask2former", architecture=TINY_MASK2FORMER)
THREE = pytest.mark.parametrize("config", [DPT, SEGFORMER, MASK2FORMER], ids=lambda config: config.name)
LABELS = LabelSet.of("tongue", "coating")
TASK = Task(3, (64, 64))


class TestDpt(NetworkContract):
    config = DPT
    grid = (64, 96)
    rate = 1e-2


class TestDptWithoutAuxiliaryHead(NetworkContract):
    config = DPT.model_copy(update={"auxiliary_weight": 0.0})
    rate = 1e-2


class TestSegformer(NetworkContract):
    config = SEGFORMER
    grid = (64, 96)


class TestMask2Former(NetworkContract):
    config = MASK2FORMER
    grid = (64, 96)


def built(config, task=TASK, seed=0):
    torch.manual_seed(seed)
    return adapt(build_network(config, task), config, task, make_loss(LossConfig(name="cross_entropy"), LABELS))


def batch(sides=(64, 64)):
    """The second image is ignored but for its background."""
    image, mask = torch.rand(2, 3, *sides), torch.zeros(2, *sides, dtype=torch.int64)
    mask[0, 8:40, 8:40], mask[0, 40:, :32], mask[:, :4] = 1, 2, 255
    mask[1, 32:] = 255
    return Batch(image, mask, ("a", "b"))


# --- as the library itself


@pytest.mark.parametrize("config", [DPT, SEGFORMER], ids=lambda config: config.name)
def test_probabilities_are_those_of_the_library_s_own_forward(config):
    net, image = built(config).eval(), batch().image_BCHW
    with torch.inference_mode():
        logits = net.net((image - 0.5) / 0.25).logits
        expected = interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False).softmax(1)
        assert torch.allclose(net(image).probs_BKHW, expected, atol=1e-6)


@pytest.mark.parametrize("config", [DPT, SEGFORMER], ids=lambda config: config.name)
def test_cross_entropy_is_the_library_s_own_loss(config):
    net, shown = built(config).train(), batch()
    torch.manual_seed(3)  # of the heads' dropout
    losses = net(shown)
    torch.manual_seed(3)
    theirs = net.net((shown.image_BCHW - 0.5) / 0.25, labels=shown.mask_BHW).loss
    assert torch.allclose(losses.total, theirs, atol=1e-6)
    assert set(losses.terms) == {"cross_entropy", *(["auxiliary_cross_entropy"] if config is DPT else [])}


def test_the_auxiliary_weight_scales_its_term_and_0_leaves_the_head_out():
    values = {}
    for weight in (0.4, 0.8, 0.0):
        net = built(DPT.model_copy(update={"auxiliary_weight": weight})).train()
        torch.manual_seed(3)
        values[weight] = net(batch()).terms.get("auxiliary_cross_entropy")
        assert (net.net.auxiliary_head is None) is (weight == 0)
    assert values[0.0] is None and torch.allclose(2 * values[0.4], values[0.8])


def test_dpt_lays_a_grid_that_is_not_square_as_it_is():
    """64 x 144 pixels are 4 x 9 patches, which the library's own forward would lay out as 6 x 6."""
    net, row, column, change = built(DPT, replace(TASK, grid=(64, 144))).eval(), 1, 7, torch.zeros(())

    def touch(neck, states):
        """A patch of the finest map, from where it is seen by its neighbours only."""
        finest, *others = states[0]
        return ([finest.index_add(1, torch.tensor([1 + 9 * row + column]), change.expand(1, 1, 32)), *others], *states[1:])

    net.net.neck.register_forward_pre_hook(touch)
    image = torch.rand(1, 3, 64, 144)
    with torch.inference_mode():
        before = net.logits(image)
        change += 5
        weight_HW = (net.logits(image) - before).abs().sum((0, 1))
    weight_HW = weight_HW / weight_HW.sum()
    assert abs((weight_HW.sum(1) * torch.arange(64)).sum() - 16 * (row + 0.5)) < 10
    assert abs((weight_HW.sum(0) * torch.arange(144)).sum() - 16 * (column + 0.5)) < 10


def test_mask2former_s_terms_add_up_to_the_library_s_own_loss():
    net, shown = built(MASK2FORMER).train(), batch()
    torch.manual_seed(3)  # of the points where masks are compared
    losses = net(shown)
    ids, masks = _one_mask_a_class(shown.mask_BHW, 255)
    torch.manual_seed(3)
    theirs = net.net((shown.image_BCHW - 0.5) / 0.25, mask_labels=masks, class_labels=ids).loss
    assert torch.allclose(losses.total, theirs, rtol=1e-5)
    assert set(losses.terms) == {"cross_entropy", "mask", "dice"}


def test_a_mask_of_each_class_that_is_there_and_none_of_what_is_ignored():
    ids, masks = _one_mask_a_class(batch().mask_BHW, 255)
    assert [each.tolist() for each in ids] == [[0, 1, 2], [0]]
    assert masks[0].sum(0).max() == 1 and masks[0].sum() == 60 * 64 and masks[1].sum() == 28 * 64
    assert (masks[0].argmax(0)[8:40, 8:40] == 1).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_mask2former_on_images_that_are_ignored_in_whole_or_part(autocast):
    net, shown = built(MASK2FORMER).train(), batch((64, 80))  # 80 is padded to 96
    for mask in (shown.mask_BHW, shown.mask_BHW.index_fill(0, torch.tensor([0]), 255), torch.full_like(shown.mask_BHW, 255)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = net(shown._replace(mask_BHW=mask))
        losses.total.backward()
        assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in losses.terms.values())
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_mask2former_s_mask_is_that_of_the_library_s_post_processing():
    """On 384 x 384, to which it brings all masks first."""
    net, image = built(MASK2FORMER, replace(TASK, grid=(384, 384))).eval(), torch.rand(1, 3, 384, 384)
    with torch.no_grad():
        net.net.class_predictor.weight.mul_(20)  # queries that disagree
        net.net.model.pixel_level_module.decoder.mask_projection.weight.mul_(200)
        out, prediction = net.net((image - 0.5) / 0.25), net(image)
    processor = transformers.Mask2FormerImageProcessor()
    (told,) = processor.post_process_semantic_segmentation(out, [(384, 384)], return_segmentation_scores=True)
    assert (prediction.mask_BHW[0] == told["segmentation"]).all() and len(prediction.mask_BHW.unique()) > 1
    scores = told["segmentation_scores"]
    assert torch.allclose(prediction.probs_BKHW[0], scores / scores.sum(0), atol=1e-5)


def test_scores_of_nothing_are_even():
    net = built(MASK2FORMER).eval()
    with torch.no_grad():
        net.net.class_predictor.bias[-1] = 1e4  # every query is sure that there is nothing
        probs = net(torch.rand(1, 3, 64, 64)).probs_BKHW
    assert torch.allclose(probs, torch.tensor(1 / 3), atol=1e-4)


def test_building_says_nothing_and_changes_no_setting_of_the_library(capfd):
    before = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    built(MASK2FORMER)
    assert (transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("config", "architecture", "message"),
    [
        (SEGFORMER, {"depth": [1, 1, 1, 1]}, "model.architecture: SegformerConfig has no key 'depth' to choose; it has depths"),
        (SEGFORMER, {"num_channels": 5}, "has no key 'num_channels' to choose"),
        (SEGFORMER, {"depths": "deep"}, "segformer cannot be built of it .*depths.*see transformers.SegformerConfig"),
        (SEGFORMER, {"hidden_sizes": [8, 8]}, "segformer cannot be built of it"),
        (DPT, {"hidden_size": 30, "num_attention_heads": 4}, "dpt cannot be built of it .*not a multiple"),
        (DPT, {**TINY_DPT, "backbone_out_indices": [0, 1]}, "dpt cannot be built of it .*number of hidden states"),
        (DPT, {"is_hybrid": True}, "DPTConfig has no key 'is_hybrid' to choose"),
        (
            MASK2FORMER,
            {"backbone_config": {"embed": 12}},
            "model.architecture.backbone_config: .*no key 'embed' to choose; it has embed_dim",
        ),
        (MASK2FORMER, {"backbone_config": {"model_type": "resnet"}}, "backbone_config: the encoder is a Swin transformer"),
        (MASK2FORMER, {"backbone_config": "swin"}, "backbone_config: the encoder is a Swin transformer"),
    ],
)
def test_an_architecture_that_cannot_be(config, architecture, message):
    with pytest.raises(ConfigError, match=message):
        build_network(type(config)(name=config.name, architecture=architecture), TASK)


# --- published weights


def repository(folder, config, names=("background", "tongue", "coating"), processor=None, seed=7):
    """A model and its processor as the library saves them; the model itself."""
    kind = KINDS[config.name]
    settings = {**config.architecture, "id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    if config is MASK2FORMER:
        settings["backbone_config"] = {**TINY_SWIN, "model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    torch.manual_seed(seed)
    model = kind.model_class(kind.config_class(**settings)).eval()
    model.save_pretrained(folder)
    if processor is not False:
        (processor or transformers.SegformerImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3])).save_pretrained(folder)
    return model


def bare(config, folder):
    """Of the network alone: all else is the repository's."""
    return type(config)(name=config.name, weights=f"hf:{folder}")


@THREE
def test_a_repository_brings_its_architecture_weights_classes_and_normalisation(config, tmp_path):
    theirs = repository(tmp_path, config)
    before = torch.get_rng_state()
    source = read_source(bare(config, tmp_path), TASK)
    assert (torch.get_rng_state() == before).all()
    written = with_source(bare(config, tmp_path), source)
    assert (written.mean, written.deviation) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3)) and source.classes == LABELS.names
    written = type(config).model_validate(json.loads(json.dumps(written.model_dump(mode="json"))))
    net = built(written)
    loaded = load(net.network, source, written, LABELS.names)
    settled = {name for name in net.net.state_dict() if is_below(name, net.network.settled)}
    assert set(loaded.loaded) == set(net.net.state_dict()) - settled and set(loaded.skipped) == settled and not loaded.new
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        out, again = theirs((image - net.mean_C) / net.deviation_C), net.eval().net((image - net.mean_C) / net.deviation_C)
    assert all(torch.equal(a, b) for a, b in zip(out.to_tuple(), again.to_tuple(), strict=True) if isinstance(a, torch.Tensor))


@THREE
def test_a_head_of_other_classes_is_made_afresh(config, tmp_path):
    repository(tmp_path, config, names=("background", "a", "b", "c", "d"))
    source = read_source(bare(config, tmp_path), TASK)
    network = build_network(with_source(bare(config, tmp_path), source), TASK)
    loaded = load(network, source, config, LABELS.names)
    heads = {name for name in network.net.state_dict() if is_below(name, network.head)}
    settled = {name for name in network.net.state_dict() if is_below(name, network.settled)}
    assert heads and set(loaded.new) == heads and set(loaded.skipped) == heads | settled
    same = replace(
        source, state={**source.state, **{name: value[:3] for name, value in source.state.items() if is_below(name, network.head)}}
    )
    assert heads <= set(load(network, same, config, LABELS.names).new), "as many, and others"


@THREE
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels(config, channels, tmp_path):
    theirs = repository(tmp_path, config)
    task = replace(TASK, in_channels=channels)
    source = read_source(bare(config, tmp_path), task)
    assert source.mean == (0.5,) and source.deviation == pytest.approx((0.2,))
    net = built(with_source(bare(config, tmp_path), source), task)
    loaded = load(net.network, source, config)
    first = f"{net.network.first_conv}.weight"
    assert first in loaded.loaded and all(why == "of the settings" for why in loaded.skipped.values())
    assert torch.equal(net.net.state_dict()[first], other_channels(theirs.state_dict()[first], channels, "mean"))
    with torch.inference_mode():
        assert net.eval()(torch.rand(1, channels, 64, 64)).mask_BHW.shape == (1, 64, 64)


@pytest.mark.parametrize("how", ["repository", "file"])
def test_the_settings_of_a_loss_outlive_the_weights(how, tmp_path):
    """It is a buffer of the network, and so in every file of its weights."""
    theirs = repository(tmp_path, MASK2FORMER)
    own = bare(MASK2FORMER, tmp_path).model_copy(update={"architecture": {"no_object_weight": 0.7}})
    source = read_source(own, TASK)
    written = with_source(own, source)
    network = build_network(written, TASK)
    loaded = load(network, source if how == "repository" else Source(theirs.state_dict(), "here"), written, LABELS.names)
    assert theirs.criterion.empty_weight[-1] == pytest.approx(0.1) and network.net.criterion.empty_weight[-1] == pytest.approx(0.7)
    assert loaded.skipped == {"criterion.empty_weight": "of the settings"}


def test_what_the_user_says_of_the_architecture_stays(tmp_path):
    repository(tmp_path, MASK2FORMER)
    own = {"num_queries": 5, "backbone_config": {"drop_path_rate": 0.0}}
    update = read_source(bare(MASK2FORMER, tmp_path).model_copy(update={"architecture": own}), TASK).update
    assert update["architecture"]["num_queries"] == 5 and update["architecture"]["hidden_dim"] == 32
    assert update["architecture"]["backbone_config"]["drop_path_rate"] == 0.0
    assert update["architecture"]["backbone_config"]["embed_dim"] == TINY_SWIN["embed_dim"]


def test_a_classifier_s_encoder(tmp_path):
    library = transformers.SegformerConfig(**TINY_SEGFORMER, num_labels=7)
    transformers.SegformerForImageClassification(library).save_pretrained(tmp_path)
    source = read_source(bare(SEGFORMER, tmp_path), TASK)
    assert sha256_file(tmp_path / "model.safetensors")[:12] in source.origin
    assert source.classes is None and source.mean is None, "LABEL_0 is no name, and nobody says how it was normalised"
    network = build_network(with_source(bare(SEGFORMER, tmp_path), source), TASK)
    loaded = load(network, source, SEGFORMER)
    assert all(name.startswith("decode_head.") for name in loaded.new) and len(loaded.new) > 5
    assert set(loaded.loaded) == {name for name in network.net.state_dict() if name.startswith("segformer.")}


@pytest.mark.parametrize(
    ("settings", "mean", "deviation"),
    [
        ({"do_normalize": False}, (0.0,), (1.0,)),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [0.5] * 3}, (0.5,) * 3, (0.25,) * 3),
        ({"do_rescale": False, "image_mean": [51.0] * 3, "image_std": [255.0] * 3}, (0.2,) * 3, (1.0,) * 3),
    ],
)
def test_the_normalisation_is_brought_to_0_to_1(settings, mean, deviation, tmp_path):
    processor = transformers.SegformerImageProcessor(do_resize=False, **settings)
    repository(tmp_path, SEGFORMER, processor=processor)
    source = read_source(bare(SEGFORMER, tmp_path), TASK)
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours = (image / 255 - torch.tensor(source.mean).view(-1, 1, 1)) / torch.tensor(source.deviation).view(-1, 1, 1)
    assert source.mean == pytest.approx(mean) and source.deviation == pytest.approx(deviation)
    assert torch.allclose(ours, theirs.float(), atol=1e-5)


def test_a_repository_of_another_network(tmp_path):
    repository(tmp_path, SEGFORMER)
    with pytest.raises(WeightsError, match="holds a network of type 'segformer', and model.name is dpt; name a repository of this network"):
        read_source(bare(DPT, tmp_path), TASK)


def test_a_folder_that_lacks_its_files(tmp_path):
    repository(tmp_path, DPT)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="cannot be read as dpt"):
        read_source(bare(DPT, tmp_path), TASK)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be read as dpt"):
        read_source(bare(DPT, tmp_path), TASK)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_an_old_repository_s_pickle_is_read_without_running_it(tmp_path, capsys):
    theirs = repository(tmp_path, SEGFORMER)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    source = read_source(bare(SEGFORMER, tmp_path), TASK)
    assert all(torch.equal(value, source.state[name]) for name, value in theirs.state_dict().items())
    torch.save({**theirs.state_dict(), "x": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be read as segformer"):
        read_source(bare(SEGFORMER, tmp_path), TASK)
    assert "code ran" not in capsys.readouterr().out


def test_code_of_a_repository_is_never_run(tmp_path, capsys):
    repository(tmp_path, SEGFORMER)
    (tmp_path / "evil.py").write_text("print('code ran')\nclass Evil: pass\n")
    for name, auto in (("config.json", "AutoConfig"), ("preprocessor_config.json", "AutoImageProcessor")):
        content = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps({**content, "auto_map": {auto: "evil.Evil"}}))
    assert read_source(bare(SEGFORMER, tmp_path), TASK).mean == (0.4, 0.5, 0.6)
    assert "code ran" not in capsys.readouterr().out


# --- the hub


@contextmanager
def hub(folder: Path, commit: str = "c" * 40):
    """A server of the repositories owner/name below `folder`, each of one commit: its address, and the paths that it is asked for."""
    asked = list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):  # noqa: N802
            self.answer(False)

        def do_GET(self):  # noqa: N802
            self.answer(True)

        def answer(self, wanted):
            asked.append(self.path)
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"] and (folder / parts[2] / parts[3]).is_dir():
                files = sorted(path for path in (folder / parts[2] / parts[3]).iterdir())
                entries = [{"type": "file", "path": each.name, "size": each.stat().st_size, "oid": digest(each)} for each in files]
                about = {"id": "/".join(parts[2:4]), "sha": commit, "siblings": [{"rfilename": each.name} for each in files]}
                self.send(json.dumps(entries if "tree" in parts else about).encode(), "json", wanted)
            elif parts[2:3] == ["resolve"] and (path := folder / parts[0] / parts[1] / parts[-1]).is_file():
                self.send(path.read_bytes(), digest(path), wanted)
            else:
                self.send(b"", "none", wanted, 404)

        def send(self, content, tag, wanted, status=200):
            self.send_response(status)
            headers = {"Content-Length": len(content), "ETag": f'"{tag}"', "X-Repo-Commit": commit}
            if status == 404:
                headers["X-Error-Code"] = "RepoNotFound"
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            if wanted:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def digest(path: Path) -> str:
    return sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty, and an address where nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    use_endpoint("http://127.0.0.1:9", monkeypatch)
    return tmp_path / "cache"


def use_endpoint(address, monkeypatch):
    """As the environment's HF_ENDPOINT, which the library reads when it is imported."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)


def test_a_repository_is_fetched_once(cache, tmp_path, monkeypatch):
    theirs = repository(tmp_path / "www" / "some" / "net", SEGFORMER)
    (tmp_path / "www" / "some" / "net" / "tf_model.h5").write_bytes(b"of another library")
    with hub(tmp_path / "www") as (address, asked):
        use_endpoint(address, monkeypatch)
        source = read_source(bare(SEGFORMER, "some/net"), TASK)
        assert not [path for path in asked if path.endswith(".h5")], "only what is read"
    assert source.origin == "hf:some/net (commit cccccccccccc)" and source.mean == (0.4, 0.5, 0.6)
    use_endpoint("http://127.0.0.1:9", monkeypatch)
    again = read_source(bare(SEGFORMER, "some/net"), TASK)
    assert all(torch.equal(value, again.state[name]) for name, value in theirs.state_dict().items())


def test_an_old_repository_without_safetensors_is_fetched(cache, tmp_path, monkeypatch):
    folder = tmp_path / "www" / "some" / "old"
    theirs = repository(folder, SEGFORMER)
    (folder / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    with hub(tmp_path / "www") as (address, _):
        use_endpoint(address, monkeypatch)
        source = read_source(bare(SEGFORMER, "some/old"), TASK)
    assert set(source.state) == set(theirs.state_dict())


def test_without_a_network_the_error_says_where_to_place_the_files(cache):
    place = "models--nvidia--mit-b0"
    message = (
        rf"hf:nvidia/mit-b0: cannot be fetched .*`hf download nvidia/mit-b0 config.json .*model.safetensors` .*{cache}/{place}, or put"
    )
    with pytest.raises(WeightsError, match=message):
        read_source(bare(SEGFORMER, "nvidia/mit-b0"), TASK)


@pytest.mark.parametrize("content", [None, "[1]", '{"model_type": "segformer"}'])
def test_a_folder_that_is_not_one_of_weights(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="cannot be read as segformer .*; put config.json, .* into .*as `save_pretrained` writes"):
        read_source(bare(SEGFORMER, tmp_path), TASK)


def test_a_repository_that_is_not_there(cache, tmp_path, monkeypatch):
    (tmp_path / "www").mkdir()
    with hub(tmp_path / "www") as (address, _):
        use_endpoint(address, monkeypatch)
        with pytest.raises(WeightsError, match="hf:some/body: cannot be fetched .*404"):
            read_source(bare(SEGFORMER, "some/body"), TASK)
    with pytest.raises(WeightsError, match="hf:a/b/c: cannot be fetched .*Repo id"):
        read_source(bare(SEGFORMER, "a/b/c"), TASK)


def test_what_is_not_of_the_hub():
    with pytest.raises(WeightsError, match="dpt has no such weights"):
        read_source(DPT.model_copy(update={"weights": "torchvision:DEFAULT"}), TASK)
