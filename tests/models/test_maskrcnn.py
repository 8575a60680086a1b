"""Mask R-CNN's adapter against torchvision's own forward, hand cases of targets and painting, and a run from training to AP.

ResNet-50 takes seconds a step, so what is of the adapter alone is tested on a small network of torchvision's same parts.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torchvision.models import detection, resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d

from medseg import api, images
from medseg.build import check_objects
from medseg.config import Config
from medseg.config.model import MaskRcnnConfig
from medseg.errors import ConfigError, ManifestError
from medseg.evaluation import Asked
from medseg.models.contract import Adapter, Task
from medseg.models.families.maskrcnn import (
    MaskRcnn,
    MaskRcnnNetwork,
    anchors,
    build,
    found_of,
    hold_stages,
    keep_boxes_exact,
    published,
    scaled_anchors,
    shown_classes,
    targets_of,
)  # fmt: skip
from medseg.models.weights import load
from medseg.models.zoo import adapt
from medseg.types import Size
from tests.models.contract import NetworkContract
from tests.tiny import make_all

TASK = Task(3, (64, 64))
V1, V2 = MaskRcnnConfig(name="maskrcnn_resnet50_fpn"), MaskRcnnConfig(name="maskrcnn_resnet50_fpn_v2")
TERMS = {"classifier", "box_reg", "mask", "objectness", "rpn_box_reg"}


class TwoLevels(nn.Module):
    """A backbone of two levels."""

    out_channels = 16

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, image):
        one = self.one(image)
        return OrderedDict([("0", one), ("1", self.two(one))])


def small_net(num_classes: int) -> MaskRCNN:
    """torchvision's Mask R-CNN, every part of it small; its own transform leaves images of 64 pixels as they are."""
    return MaskRCNN(
        TwoLevels(), min_size=64, max_size=64, image_mean=[0.0] * 3, image_std=[1.0] * 3, _skip_resize=True,
        rpn_anchor_generator=anchors((12.0, 28.0)), rpn_post_nms_top_n_train=100, rpn_post_nms_top_n_test=50,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 5, 2), box_head=TwoMLPHead(16 * 25, 32),
        box_predictor=FastRCNNPredictor(32, num_classes),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, 2), mask_head=MaskRCNNHeads(16, (16,), 1),
        mask_predictor=MaskRCNNPredictor(16, 16, num_classes), box_batch_size_per_image=64, box_detections_per_img=20,
    )  # fmt: skip


class TestSmall(NetworkContract):
    config = V1
    probabilities = exports = False
    rate = 3e-3

    @classmethod
    @cache
    def _built(cls, num_foreground: int) -> Adapter:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = small_net(num_foreground + 1)
        keep_boxes_exact(net)
        parts = {"head": ("roi_heads.box_predictor",), "encoder": (("backbone.one",), ("backbone.two",)), "adapter": MaskRcnnNetwork}
        return adapt(MaskRcnn(net, **parts), cls.config, Task(num_foreground + 1, cls.grid))


@pytest.mark.slow
class TestV1(NetworkContract):
    config = V1
    probabilities = exports = False
    rate = 1e-4


@pytest.mark.slow
class TestV2(NetworkContract):
    config = V2
    probabilities = exports = False
    rate = 1e-4


def small() -> Adapter:
    return TestSmall().network()


# --- against torchvision's own


def slow_targets(mask: torch.Tensor, ignore_id: int) -> dict[str, torch.Tensor]:
    """Class by class with SciPy, pixel by pixel for the boxes."""
    boxes, labels, masks = [], [], []
    for class_id in (1, 2):
        parts, number = ndimage.label(mask.numpy() == class_id, np.ones((3, 3)))
        for part in range(1, number + 1):
            rows, columns = np.nonzero(parts == part)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            labels.append(class_id)
            masks.append(parts == part)
    return {
        "boxes": torch.tensor(np.array(boxes)).float(), "labels": torch.tensor(labels), "masks": torch.tensor(np.array(masks)).byte(),
    }  # fmt: skip


def test_losses_are_torchvision_s_of_the_same_targets():
    net, batch = small().train(), TestSmall().batch()
    batch.mask_BHW[0, 40:50, 5:30] = 2  # a second object of a class
    torch.manual_seed(3)
    ours = net(batch).terms
    torch.manual_seed(3)
    images = list((batch.image_BCHW - 0.5) / 0.25)
    theirs = net.net(images, [slow_targets(mask, 255) for mask in batch.mask_BHW])
    assert set(ours) == TERMS and {f"loss_{name}" for name in ours} == set(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[f"loss_{name}"], rtol=1e-5, atol=1e-6)


def test_objects_are_torchvision_s():
    net, image = small().eval(), TestSmall().image()
    with torch.inference_mode():
        prediction, theirs = net(image), net.net(list((image - 0.5) / 0.25))
    for found, one in zip(prediction.found, theirs, strict=True):
        assert len(found.ids_N) > 5 and (found.scores_N.diff() <= 0).all()
        for ours, key in zip(found[:4], ("labels", "scores", "masks", "boxes"), strict=True):
            assert torch.equal(ours, one[key][:, 0] if key == "masks" else one[key]), key


def test_a_side_that_does_not_fit_is_padded_and_boxes_stay_inside():
    with torch.inference_mode():
        prediction = small().eval()(TestSmall().image(50, 81))
    for found in prediction.found:
        assert found.soft_NHW.shape[1:] == (50, 81) and found.boxes_N4.min() >= 0
        assert (found.boxes_N4[:, 2] <= 81).all() and (found.boxes_N4[:, 3] <= 50).all()


def test_mixed_precision_keeps_boxes_and_losses_in_full():
    net, batch = small(), TestSmall().batch()
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = net.train()(batch)
            with torch.inference_mode():
                found = net.eval()(batch.image_BCHW).found[0]
        assert all(term.dtype == torch.float32 for term in losses.terms.values())
        assert found.boxes_N4.dtype == found.scores_N.dtype == found.soft_NHW.dtype == torch.float32
        assert (found.boxes_N4.bfloat16().float() != found.boxes_N4).any(), "boxes were rounded to eight bits"
        values.append(losses.total.item())
    assert values[1] == pytest.approx(values[0], rel=0.05)


def test_images_without_an_object_train_too():
    net, batch = small().train(), TestSmall().batch()
    for empty in ([0], [0, 1]):
        batch.mask_BHW[empty] = 0
        losses = net(batch)
        losses.total.backward()
        assert torch.isfinite(losses.total) and (len(empty) < 2) is bool(losses.terms["mask"] > 0)
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.net.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_objects_are_given_on_the_processor_and_the_mask_where_the_image_is():
    net, batch = small().cuda(), TestSmall().batch()
    moved = batch._replace(image_BCHW=batch.image_BCHW.cuda(), mask_BHW=batch.mask_BHW.cuda())
    with torch.autocast("cuda", torch.bfloat16):
        net.train()(moved).total.backward()
    with torch.inference_mode():
        prediction = net.eval()(moved.image_BCHW)
    assert prediction.mask_BHW.is_cuda and not any(tensor.is_cuda for found in prediction.found for tensor in found)


# --- targets and painting by hand


def test_targets_are_the_connected_parts_of_each_class():
    mask = torch.zeros(2, 16, 20, dtype=torch.int64)
    mask[0, 2:6, 3:8] = 1
    mask[0, 6:9, 8:12] = 1  # touches at a corner
    mask[0, 9:12, 8:12] = 2  # touches, of another class
    mask[0, 14, 0:9] = 2  # one pixel high
    mask[0, 2:4, 14:20] = 255
    one, none = targets_of(mask, None, TASK, torch.float32)
    assert one["boxes"].tolist() == [[3, 2, 12, 9], [8, 9, 12, 12]] and one["labels"].tolist() == [1, 2]
    assert torch.equal(one["masks"][0].bool(), mask[0] == 1) and one["masks"][1].sum() == 12
    assert [tuple(none[key].shape) for key in ("boxes", "labels", "masks")] == [(0, 4), (0,), (0, 16, 20)]


def test_annotated_objects_are_taken_as_they_are_numbered():
    """Two that touch are two, one in two parts is one; what the mask ignores is nobody's."""
    mask, numbers = torch.zeros(1, 16, 20, dtype=torch.int64), torch.zeros(1, 16, 20, dtype=torch.int64)
    mask[0, 2:6, 2:12], numbers[0, 2:6, 2:7], numbers[0, 2:6, 7:12] = 1, 4, 7
    mask[0, 10:12, 2:5], mask[0, 10:12, 10:14], numbers[0, 10:12] = 2, 2, 9
    mask[0, 10:12, 13] = 255
    (found,) = targets_of(mask, numbers, TASK, torch.float64)
    assert found["boxes"].tolist() == [[2, 2, 7, 6], [7, 2, 12, 6], [2, 10, 13, 12]] and found["boxes"].dtype == torch.float64
    assert found["labels"].tolist() == [1, 1, 2] and [int(one.sum()) for one in found["masks"]] == [20, 20, 2 * 3 + 2 * 3]


def test_the_surest_object_lies_on_top_and_the_unsure_are_not_painted():
    boxes = torch.tensor([[0.0, 0.0, 28.0, 28.0], [14.0, 14.0, 42.0, 42.0], [4.0, 4.0, 60.0, 60.0]])
    detected = {
        "boxes": boxes,
        "labels": torch.tensor([1, 2, 1]),
        "scores": torch.tensor([0.6, 0.9, 0.4]),
        "masks": torch.ones(3, 1, 28, 28),
    }
    found = found_of(detected, Size(64, 64), 0.5)
    assert found.scores_N.tolist() == pytest.approx([0.9, 0.6, 0.4]) and found.shown_N.tolist() == [True, True, False]
    assert found.boxes_N4.tolist() == boxes[[1, 0, 2]].tolist() and found.soft_NHW.shape == (3, 64, 64)
    expected = np.zeros((64, 64), np.uint8)
    expected[1:27, 1:27], expected[15:41, 15:41] = 1, 2
    inner = np.ones_like(expected, bool)  # without the outlines, where a pasted mask fades over a pixel
    for start in (0, 27, 14, 41):
        inner[start : start + 2], inner[:, start : start + 2] = False, False
    assert (shown_classes(found, Size(64, 64)) == expected)[inner].all()
    assert (shown_classes(found_of(detected, Size(64, 64), 0.3), Size(64, 64))[50:55, 50:55] == 1).all()
    nothing = {key: value[:0] for key, value in detected.items()}
    assert not shown_classes(found_of(nothing, Size(64, 64), 0.5), Size(64, 64)).any()


# --- what is built


def on_meta(config: MaskRcnnConfig, task: Task = TASK):
    with torch.device("meta"):
        return build(config, task)


@pytest.mark.parametrize("config", [V1, V2])
def test_from_scratch_the_norms_learn_and_all_of_the_encoder(config):
    network = on_meta(config)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in network.net.modules())
    assert all(parameter.requires_grad for parameter in network.net.parameters())
    for parts in (network.head, *network.encoder):
        assert all(network.net.get_submodule(part) is not None for part in parts)
    sizes = {network.net.get_submodule(part).weight.shape[0] for part in ("roi_heads.box_predictor.cls_score", network.head[1])}
    assert sizes == {TASK.num_classes} and network.net.get_submodule(network.first_conv).in_channels == 3


@pytest.mark.parametrize("number", range(6))
def test_the_stages_that_learn_are_those_of_torchvision(number):
    with torch.device("meta"):
        body = resnet50()
        theirs = detection.backbone_utils._resnet_fpn_extractor(body, number)
        net = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        hold_stages(net, 5 - number)
    assert {name: p.requires_grad for name, p in net.backbone.named_parameters()} == {
        n: p.requires_grad for n, p in theirs.named_parameters()
    }


def test_anchors_shrink_with_the_grid_unless_they_are_given():
    assert on_meta(V1, Task(3, (800, 1000))).net.rpn.anchor_generator.sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert scaled_anchors((200, 300)) == (8.0, 16.0, 32.0, 64.0, 128.0)
    given = V1.model_copy(update={"anchor_sizes": (10.0, 20.0, 30.0, 40.0, 50.0)})
    assert on_meta(given).net.rpn.anchor_generator.sizes == ((10.0,), (20.0,), (30.0,), (40.0,), (50.0,))


@pytest.mark.parametrize(("threshold", "asked"), [(0.5, 0.05), (0.01, 0.01), (0.0, 0.0)])
def test_the_library_leaves_out_nothing_that_is_to_be_painted(threshold, asked):
    network = build(V1.model_copy(update={"score_threshold": threshold}), TASK)
    assert network.net.roi_heads.score_thresh == asked


def test_volumes_and_other_channels():
    with pytest.raises(ConfigError, match="takes images, not volumes"):
        build(V1, Task(3, (32, 32, 32)))
    assert on_meta(V1, Task(3, (64, 64), in_channels=5)).net.backbone.body.conv1.in_channels == 5


@pytest.mark.slow
@pytest.mark.parametrize("config", [V1, V2])
def test_published_weights_are_all_taken_but_the_head(config, tmp_path, monkeypatch):
    """From torch.hub's cache, where a network of the same shapes lies in place of the published one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    hub = tmp_path / "hub/checkpoints"
    theirs = getattr(detection, config.name)(weights=None, weights_backbone=None, num_classes=91)
    name = {V1.name: "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", V2.name: "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"}[config.name]
    torch.save(theirs.state_dict(), hub / name)
    torch.save(resnet50().state_dict(), hub / "resnet50-0676ba61.pth")
    for spec in ("torchvision:DEFAULT", "torchvision:BACKBONE"):
        chosen = config.model_copy(update={"weights": spec})
        network, source = build(chosen, TASK), published(chosen, spec, TASK)
        told = load(network, source, chosen, ("background", "disc", "square"))
        frozen = [module for module in network.net.modules() if isinstance(module, FrozenBatchNorm2d)]
        assert bool(frozen) is (config is V1) and source.mean == (0.485, 0.456, 0.406)
        if spec == "torchvision:DEFAULT":
            assert all(any(name.startswith(head) for head in network.head) for name in told.new) and len(told.new) == 6
            assert {module.eps for module in frozen} <= {0.0}
        else:
            assert not any(name.startswith("backbone.body") for name in told.new) and {module.eps for module in frozen} <= {1e-5}
    assert published(config, "torchvision:OTHER", TASK) is None


# --- what needs probabilities


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"infer": {"flip_tta": True}},
            "infer.flip_tta: maskrcnn_resnet50_fpn gives objects, not probabilities, and so has no mean of two; ",
        ),
        (
            {"sampling": {"patch_px": [32, 32]}},
            "sampling.patch_px: maskrcnn_resnet50_fpn gives objects, not probabilities, and so has no mean of",
        ),
    ],
)
def test_what_needs_probabilities_is_refused(change, message):
    content = {"name": "a", "data": {"manifest": "m", "split": "s"}}
    check_objects(Config.model_validate(content | change))  # of a network that has them
    with pytest.raises(ConfigError, match=message):
        check_objects(Config.model_validate(content | change | {"model": {"name": "maskrcnn_resnet50_fpn"}}))


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("infer.flip_tta=true", ConfigError, "has no mean of two; set it to false"),
        ("model.instances=annotated", ManifestError, "holds no separate objects of it; set model.instances=components"),
    ],
)
def test_a_run_is_refused_before_anything_is_decoded(tmp_path, override, error, message):
    _, _, data_root, experiment = make_all(tmp_path)
    with pytest.raises(error, match=message):
        api.train(experiment, ["model.name=maskrcnn_resnet50_fpn", override], data_root, tmp_path / "runs")
    assert not (tmp_path / "cache").exists() and not (tmp_path / "runs").exists()


# --- a run


def touching_discs(root) -> None:
    """Labelme: two rectangles of one class side by side in each photograph."""
    for number in range(8):
        photograph = np.full((48, 64, 3), 40, np.uint8)
        photograph[12:36, 8:32], photograph[12:36, 32:56] = (220, 60, 60), (200, 90, 60)
        images.write_image(root / f"case_{number}.png", photograph)
        shapes = [
            {"label": "disc", "points": [[left, 12], [left + 24, 36]], "group_id": None, "shape_type": "rectangle", "flags": {}}
            for left in (8, 32)
        ]
        content = {"version": "5.6.1", "flags": {}, "shapes": shapes, "imagePath": f"case_{number}.png", "imageData": None}
        (root / f"case_{number}.json").write_text(json.dumps(content | {"imageHeight": 48, "imageWidth": 64}))


@pytest.mark.slow
def test_a_run_from_annotated_objects_to_average_precision(tmp_path, caplog):
    """Trained, evaluated and asked for masks: two touching objects are two, found by the network's own scores."""
    touching_discs(tmp_path / "data")
    api.import_labelme(tmp_path / "data", tmp_path / "manifest", instances=True)
    api.make_split(api.read_manifest(tmp_path / "manifest"), "main", (0.5, 0.25, 0.25), seed=0)
    experiment = tmp_path / "objects.yaml"
    settings = "train: {epochs: 4, batch_size: 2, precision: float32, validate_every: 4}\ntracking: {enabled: false}\noptim: {lr: 0.0003}\n"
    settings += "augment: {flip_probability: 0, rotate_deg: 0, scale: 0, shift: 0}\n"
    data = f"data: {{manifest: {tmp_path / 'manifest'}, split: main, size_px: [64, 64], cache: {tmp_path / 'cache'}}}\n"
    experiment.write_text(data + "model: {name: maskrcnn_resnet50_fpn, instances: annotated, score_threshold: 0.3}\n" + settings)
    run = api.train(experiment, [], tmp_path / "data", tmp_path / "runs")
    metrics = [json.loads(line)["metrics"] for line in run.metrics_jsonl.read_text().splitlines()]
    assert {f"train/loss/{name}" for name in TERMS} < set(metrics[0]) and metrics[-1]["train/loss/total"] < metrics[0]["train/loss/total"]
    folder = api.evaluate(run.path, "test", tmp_path / "data", "last").folder
    stored, table = json.loads((folder / "scores.json").read_text()), (folder / "table.md").read_text()
    found = stored["detection"]["disc"]
    assert found["n_reference"] == 2 * stored["n_cases"] and 0 <= found["mask_ap"] <= found["mask_ap50"] <= 1 and found["box_ap50"] >= 0
    assert "Mask AP" in table and "Calibration is left out: the network gives objects, not probabilities." in table
    assert (
        "own scores and boxes" in stored["protocol"]["detection"]
        and "of those with a score of 0.3 or more" in stored["protocol"]["test_time"]
    )
    assert stored["protocol"]["calibration"] is None and "calibration" not in stored
    again = api.evaluate(run.path, "test", tmp_path / "data", "last", asked=Asked(instances="components")).folder
    assert json.loads((again / "scores.json").read_text())["detection"]["disc"]["n_reference"] == stored["n_cases"]
    (written,) = api.predict(run.path, [tmp_path / "data/case_0.png"], tmp_path / "out", "last")
    mask = images.read_mask(written.mask)
    assert mask.shape == (48, 64) and set(np.unique(mask)) <= {0, 1} and written.overlay.exists()
    (shown,) = api.predict(run.path, [tmp_path / "data/case_0.png"], tmp_path / "all", "last", score_threshold=0.0)
    assert images.read_mask(shown.mask).any()
    (none,) = api.predict(run.path, [tmp_path / "data/case_0.png"], tmp_path / "none", "last", score_threshold=1.0)
    assert not images.read_mask(none.mask).any() and "nothing but background in 1 of 1 image: " in caplog.text
