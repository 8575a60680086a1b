"""Each network of the zoo learns four phantoms by heart: if its adapter called or upsampled it wrongly, it could not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from medseg.config.model import CLASS_OF
from medseg.labels import LabelSet
from medseg.models.contract import Adapter, Task
from medseg.models.listing import config_of
from medseg.phantom.tongue import PHANTOM_CLASSES, draw_tongue
from medseg.rasterise import draw
from medseg.types import Batch, Size
from tests.models.contract import as_the_engine_gets_it

SIDE = 128
BAR, COARSE_BAR = 0.95, 0.88
COARSE = ("fcn_resnet18", "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2")  # a score for 32 x 32 pixels; masks of 28 x 28
MOST_STEPS, LOOK_EVERY = 300, 20
TRANSFORMERS = ("unetr", "swin_unetr", "dpt", "segformer", "mask2former", "smp:segformer/mit_b0", "smp:dpt/tu-vit_small_patch16_224")
PAIRS = (
    "smp:unet/resnet34", "smp:unetplusplus/resnet34", "smp:manet/resnet34", "smp:linknet/resnet34", "smp:fpn/efficientnet-b0",
    "smp:pspnet/resnet34", "smp:deeplabv3/resnet34", "smp:deeplabv3plus/resnet34", "smp:pan/resnet34", "smp:upernet/resnet34",
    "smp:segformer/mit_b0", "smp:dpt/tu-vit_small_patch16_224",
)  # fmt: skip


@cache
def phantoms() -> Batch:
    """Four, one of them with a lesion."""
    drawn = [draw_tongue(0, index, Size(SIDE, SIDE), has_lesion=index == 0) for index in range(4)]
    ids = {name: place for place, name in enumerate(PHANTOM_CLASSES, 1)}
    masks = [draw([(shape, ids[shape.label]) for shape in each.shapes], Size(SIDE, SIDE)) for each in drawn]
    image = torch.from_numpy(np.stack([each.image_HWC for each in drawn])).permute(0, 3, 1, 2).float() / 255
    return Batch(image.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.stack(masks)).long(), ("a", "b", "c", "d"))


def whole_tongue_iou(net: Adapter, batch: Batch) -> float:
    """Pooled over the four, in eval mode."""
    with torch.inference_mode():
        found, wanted = net.eval()(batch.image_BCHW).mask_BHW > 0, batch.mask_BHW > 0
    return float((found & wanted).sum() / (found | wanted).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLASS_OF, *PAIRS])
def test_four_phantoms_by_heart(name):
    config, labels, batch = config_of(name), LabelSet.of(*PHANTOM_CLASSES), phantoms()
    if name.startswith("maskrcnn"):  # four small pictures need no 512 regions each, which would take hours
        config = config.model_copy(update={"roi_samples": 64})
    task = Task(labels.num_classes, (SIDE, SIDE))
    torch.manual_seed(0)
    net = as_the_engine_gets_it(config, task, labels)
    rate = 3e-4 if name in TRANSFORMERS else 1e-3
    optimizer = torch.optim.AdamW([parameter for parameter in net.parameters() if parameter.requires_grad], rate)
    bar, found = COARSE_BAR if name in COARSE else BAR, []
    for step in range(1, MOST_STEPS + 1):
        optimizer.zero_grad(set_to_none=True)
        net.train()(batch).total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % LOOK_EVERY == 0:
            found.append(round(whole_tongue_iou(net, batch), 3))
            if found[-1] >= bar:
                break
    print(f"{name}: whole_tongue IoU {found[-1]} after {step} steps")
    assert found[-1] >= bar, found
