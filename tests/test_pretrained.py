"""zoo:NAME on files in each library's own format, against that library's own way from photograph to classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn.functional import interpolate
from torchvision import models

from medseg import api, palettes, pretrained
from medseg.errors import ConfigError, ImageError, WeightsError
from medseg.letterbox import place_image
from medseg.models.contract import Adapter, Network, Task
from medseg.models.listed import listed
from medseg.pretrained import SHOWCASES, Segmenter, Showcase, largest_at, segmenter
from medseg.report.legend import overlay_with_legend
from medseg.types import Found, Letterbox, Prediction, Size

LRASPP = "lraspp_mobilenet_v3_large"


@pytest.fixture
def published(torch_home):
    """torchvision's LR-ASPP with weights that show several classes, in its cache: the module."""
    torch.manual_seed(0)
    net = models.get_model(LRASPP, weights=None, weights_backbone=None, num_classes=21).eval()
    for head in (net.classifier.low_classifier, net.classifier.high_classifier):
        torch.nn.init.normal_(head.weight, std=1.0)
    torch.save(net.state_dict(), torch_home / Path(models.get_model_weights(LRASPP)["DEFAULT"].url).name)
    return net


@pytest.fixture
def photograph(tmp_path):
    """Smooth, so that two ways to resize it hardly differ."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 255, (300, 400, 3)), (25, 25, 0))
    values = np.clip((noise - noise.min()) / np.ptp(noise) * 255, 0, 255).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(values).save(path)
    return path, values


def test_the_classes_are_those_of_torchvision_s_own_preset(published, photograph, tmp_path):
    path, values = photograph
    [written] = api.predict(f"zoo:{LRASPP}", [path], tmp_path / "out")
    preset = models.get_model_weights(LRASPP)["DEFAULT"].transforms()
    with torch.inference_mode():
        logits = published(preset(Image.fromarray(values))[None])["out"]
        theirs = interpolate(logits, size=values.shape[:2], mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    with Image.open(written.mask) as image:
        ours = np.asarray(image)
        assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0] and image.size == (400, 300)
    assert len(np.unique(theirs)) > 2 and (ours == theirs).mean() > 0.99
    with Image.open(written.overlay) as image:
        assert image.height == 300 and image.width > 400, "a legend stands beside the photograph"


def test_without_a_network_one_error_says_where_the_file_goes(torch_home, photograph, tmp_path, monkeypatch):
    weights = models.get_model_weights(LRASPP)["DEFAULT"]
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    with pytest.raises(WeightsError, match=f"{weights.url}: cannot be fetched .*place it at {torch_home}/{Path(weights.url).name}"):
        api.predict(f"zoo:{LRASPP}", [photograph[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def refuse(*_, **__):
    raise OSError("no network")


@pytest.mark.parametrize(
    ("name", "threshold", "message"),
    [
        ("unet", None, "zoo:unet: there are no published weights of everyday classes for 'unet'; name one of fcn_resnet50, "),
        ("fcn_resnet500", None, "zoo:fcn_resnet500: there are no .*; did you mean zoo:fcn_resnet50?"),
        (LRASPP, 0.5, "--score-threshold: lraspp_mobilenet_v3_large gives classes of pixels, not objects with scores"),
        ("maskrcnn_resnet50_fpn", 1.5, r"--score-threshold: must be in \[0, 1\], got 1.5"),
    ],
)
def test_each_mistake_is_one_error(name, threshold, message):
    with pytest.raises(ConfigError, match=message):
        segmenter(name, threshold)


def test_what_belongs_to_the_other_kind_is_refused(photograph, tmp_path):
    with pytest.raises(ConfigError, match="--weights: is of networks named zoo:NAME"):
        api.predict(tmp_path, [photograph[0]], tmp_path / "out", weights="hf:x")
    with pytest.raises(ConfigError, match="--checkpoint: zoo:dpt has no checkpoints"):
        api.predict("zoo:dpt", [photograph[0]], tmp_path / "out", checkpoint="last")


def test_an_image_that_is_not_there_is_told_before_anything_is_fetched(torch_home, tmp_path):
    with pytest.raises(ImageError, match="typo.png"):
        api.predict(f"zoo:{LRASPP}", [tmp_path / "typo.png"], tmp_path / "out")


def test_a_network_whose_head_is_not_among_the_weights(published, torch_home):
    path = torch_home / Path(models.get_model_weights(LRASPP)["DEFAULT"].url).name
    state = {name: value for name, value in published.state_dict().items() if "low_classifier" not in name}
    torch.save(state, path)
    with pytest.raises(WeightsError, match=f"2 tensors of {LRASPP} are not among the weights; name weights of the whole network"):
        segmenter(LRASPP)


@pytest.mark.parametrize("classes", [3, 8, 9, 20])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_largest_a_few_classes_at_a_time_is_the_largest_of_all(classes, mode):
    logits = torch.randn(1, classes, 6, 5, generator=torch.Generator().manual_seed(0))
    wanted = interpolate(logits, size=(21, 17), mode=mode, align_corners=False)[0].argmax(0)
    assert (largest_at(logits, Size(21, 17), mode) == wanted.numpy()).all()


class Finds(Adapter):
    """Finds one ring, with a score of 0.6."""

    def _predict(self, image_BCHW):
        soft = torch.zeros(1, 64, 64)
        soft[0, 10:50, 10:50], soft[0, 20:40, 20:40] = 1.0, 0.0
        boxes = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
        found = Found(torch.tensor([2]), torch.tensor([0.6]), soft, boxes, torch.tensor([True]))
        return Prediction(None, torch.zeros(1, 64, 64, dtype=torch.int64), (found,))


def test_the_holes_of_objects_are_filled():
    adapter = Finds(Network(torch.nn.Identity()), Task(3, (64, 64))).eval()
    shown = Segmenter(adapter, Showcase("x", "coco", square_px=64), ("background", "a", "b"), palettes.voc(256), 0, torch.device("cpu"))
    mask = shown.mask(np.zeros((64, 64, 3), np.uint8))
    assert (mask[10:50, 10:50] == 2).all() and mask.sum() == 2 * 40 * 40


@pytest.mark.parametrize("auxiliary", [True, False])  # a head that inference does not ask
def test_dpt_is_the_library_s_own_with_bicubic_upsampling(auxiliary, photograph, tmp_path):
    """A tiny network in a folder as save_pretrained writes it, by the library's processor and head, and by zoo:dpt."""
    import transformers

    config = transformers.DPTConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, backbone_out_indices=[0, 1, 2, 3], image_size=480,
        neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, num_labels=150, id2label={place: f"thing {place}" for place in range(150)},
        use_auxiliary_head=auxiliary,
    )  # fmt: skip
    torch.manual_seed(0)
    net = transformers.DPTForSemanticSegmentation(config).eval()
    net.save_pretrained(tmp_path / "dpt")
    mean = deviation = [0.5, 0.5, 0.5]
    processor = transformers.DPTImageProcessor(
        size={"height": 480, "width": 480}, keep_aspect_ratio=False, ensure_multiple_of=1, resample=2, image_mean=mean, image_std=deviation
    )
    processor.save_pretrained(tmp_path / "dpt")
    [written] = api.predict("zoo:dpt", [photograph[0]], tmp_path / "out", weights=f"hf:{tmp_path}/dpt")
    with torch.inference_mode():
        logits = net(**processor(images=Image.fromarray(photograph[1]), return_tensors="pt")).logits
        theirs = interpolate(logits, size=(300, 400), mode="bicubic", align_corners=False)[0].argmax(0).numpy()
    with Image.open(written.mask) as image:
        assert len(np.unique(theirs)) > 2 and (np.asarray(image) == theirs).mean() > 0.98
        assert image.getpalette()[:3] == [120, 120, 120]


def test_weights_that_do_not_say_their_classes(published, tmp_path):
    torch.save(published.state_dict(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="net.pth: the weights do not say their classes"):
        segmenter(LRASPP, weights=f"file:{tmp_path}/net.pth")


def test_predictions_that_are_there_are_kept(published, photograph, tmp_path):
    api.predict(f"zoo:{LRASPP}", [photograph[0]], tmp_path / "out")
    with pytest.raises(ImageError, match="is there already"):
        api.predict(f"zoo:{LRASPP}", [photograph[0]], tmp_path / "out")


def test_the_list_names_the_weights_that_are_shown():
    first = {line.name: line.weights[0] for line in listed() if line.weights}
    assert all(first[name] == each.weights for name, each in SHOWCASES.items())


def test_what_the_network_sees():
    assert Showcase("x", "voc", short_px=520).frame(Size(300, 400)) == (520, 693)
    assert SHOWCASES["maskrcnn_resnet50_fpn"].frame(Size(1080, 1920)) == (750, 1333), "as torchvision's own min_size and max_size"
    assert SHOWCASES["fcn_resnet50"].frame(Size(200, 10000)) == (42, 2080), "a strip does not fill the memory"
    assert Showcase("x", "ade20k", square_px=480).frame(Size(300, 400)) == (480, 480)
    assert {each.upsampling for name, each in SHOWCASES.items() if name == "dpt"} == {"bicubic"}


def mottled(name: str) -> torch.nn.Module:
    """torchvision's Mask R-CNN with random weights that find anchors, large ones too, with masks that are above and below a half."""
    torch.manual_seed(0)
    net = models.get_model(name, weights=None, weights_backbone=None, num_classes=91)
    for regression in (net.rpn.head.bbox_pred, net.roi_heads.box_predictor.bbox_pred):
        torch.nn.init.zeros_(regression.weight)
    scores = net.roi_heads.mask_predictor.mask_fcn_logits.weight.data
    scores -= scores.mean(1, keepdim=True)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_mask_rcnn_shows_objects_without_holes(name, torch_home, photograph):
    """The real way from weights to a mask, against the network's own objects, painted here one by one: they do have holes."""
    torch.save(mottled(name).state_dict(), torch_home / Path(models.get_model_weights(name)["DEFAULT"].url).name)
    shown, values = segmenter(name, 0.0), photograph[1]
    assert shown.classes[1] == "person" and len(shown.classes) == 91
    frame = Size(800, 1067)
    image = torch.from_numpy(place_image(values, Letterbox(Size(300, 400), frame, frame, 0, 0))).float().div_(255)
    with torch.inference_mode():
        [found] = shown.model(image[None]).found
    raw, whole = np.zeros((300, 400), np.uint8), np.zeros((300, 400), np.uint8)
    for class_id, soft in zip(found.ids_N.flip(0), found.soft_NHW.flip(0), strict=True):  # the surest comes first, and lies on top
        inside = interpolate(soft[None, None], size=(300, 400), mode="bilinear", align_corners=False)[0, 0].numpy() >= 0.5
        raw[inside] = whole[ndimage.binary_fill_holes(inside)] = class_id
    assert (raw != whole).any()
    assert (shown.mask(values) == whole).all()
    assert not segmenter(name, 1.0).mask(values).any(), "nothing is so sure"


# --- colours and the legend


def test_ade20k_has_150_colours_and_voc_s_are_torchvision_s_order():
    assert palettes.ade20k().shape == (150, 3) and palettes.ade20k()[[0, 149]].tolist() == [[120, 120, 120], [92, 0, 255]]
    assert palettes.voc().shape == (21, 3) and len(np.unique(palettes.voc(256), axis=0)) == 256
    assert palettes.voc()[20].tolist() == [0, 64, 128]  # tv/monitor


def test_the_legend_names_the_classes_that_are_there_and_the_background_keeps_its_pixels():
    image, mask = np.full((120, 80, 3), 200, np.uint8), np.zeros((120, 80), np.uint8)
    mask[:60] = 2
    palette = np.array([[0, 0, 0], [0, 255, 0], [255, 0, 0]], np.uint8)
    found = overlay_with_legend(image, mask, ("background", "cat", "dog"), palette, 0)
    assert (found[60:, :80] == 200).all() and (found[:60, :80] == [228, 100, 100]).all()
    legend = found[:, 80:].reshape(-1, 3)
    assert (legend == [255, 0, 0]).all(1).any() and not (legend == [0, 255, 0]).all(1).any()
    everywhere = overlay_with_legend(image, mask, ("wall", "cat", "dog"), palette, None)
    assert (everywhere[60:, :80] == 100).all(), "in ADE20K each pixel has a class"


def test_many_classes_do_not_run_out_of_the_legend():
    mask = np.arange(150, dtype=np.uint8).repeat(40).reshape(60, 100)
    found = overlay_with_legend(np.zeros((60, 100, 3), np.uint8), mask, [f"class {i}" for i in range(150)], palettes.ade20k(), None)
    assert found.shape[0] == 60 and found.shape[1] < 400
    assert pretrained._colours(SHOWCASES["dpt"], 150)[0].shape == (256, 3)
