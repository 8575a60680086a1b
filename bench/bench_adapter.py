"""What the adapter costs: a training step (forward, loss, backward) through it and through the library's own module, turn by turn.

python bench/bench_adapter.py [--record]

The plain way gets an image that is normalised beforehand, calls the module as its library's documentation does, brings the logits to the
image's size and takes the same loss, auxiliary head with its weight; Mask R-CNN is given its targets, Mask2Former its masks. One network a
family, 4 images of 128 x 128. Exits 1 where the median of the ratios of one turn is over 1.05.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from record import command_line, tell
from torch import Tensor
from torch.nn.functional import interpolate

from medseg.config import LossConfig
from medseg.labels import LabelSet
from medseg.losses import make_loss
from medseg.models.contract import Adapter, Task
from medseg.models.listing import config_of
from medseg.models.zoo import adapt, build_network
from medseg.types import Batch

SIDE, IMAGES, TURNS, LIMIT = 128, 4, 15, 1.05
NAMES = ("unet", "dynunet", "deeplabv3_mobilenet_v3_large", "fcn_resnet18", "segformer", "dpt", "smp:unet/resnet18", "mask2former",
         "maskrcnn_resnet50_fpn")  # fmt: skip


def batch() -> Batch:
    """Images with one block of a class each."""
    mask = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.int64)
    mask[:, 30:90, 40:100] = 1
    return Batch(torch.rand(IMAGES, 3, SIDE, SIDE), mask, ("a",) * IMAGES)


def plain(name: str, model: Adapter, given: Batch) -> Callable[[], Tensor]:
    """The library's own way to the loss that the adapter's terms sum up to."""
    net: Any = model.net
    image, mask, size = model._normalised(given.image_BCHW), given.mask_BHW, (SIDE, SIDE)

    def loss(logits: Tensor) -> Tensor:
        logits = logits if tuple(logits.shape[2:]) == size else interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return sum(model.loss(logits, mask).values())

    if name == "dynunet":  # MONAI's forward brings every level to the full size; its chain of blocks is what nnU-Net's loss wants
        return lambda: sum(model.loss([net.output_block(net.skip_layers(image)), *net.heads], mask).values())
    if name.startswith("deeplabv3"):
        return lambda: (lambda found: loss(found["out"]) + 0.5 * loss(found["aux"]))(net(image))
    if name == "segformer":
        return lambda: loss(net(pixel_values=image).logits)
    if name == "dpt":
        return lambda: _dpt(net, image, loss)
    if name == "mask2former":
        targets = [torch.stack([one == place for place in (0, 1)]).float() for one in mask]
        labels = [torch.tensor([0, 1])] * IMAGES
        return lambda: net(pixel_values=image, mask_labels=targets, class_labels=labels).loss
    if name.startswith("maskrcnn"):
        box, shape = torch.tensor([[40.0, 30.0, 100.0, 90.0]]), mask[0][None].to(torch.uint8)
        targets = [{"boxes": box, "labels": torch.tensor([1]), "masks": shape} for _ in range(IMAGES)]
        net.transform.min_size, net.transform.max_size, net.transform.image_mean, net.transform.image_std = (
            (SIDE,),
            SIDE,
            [0.0] * 3,
            [1.0] * 3,
        )
        return lambda: sum(net(list(image), targets).values())
    return lambda: loss(net(image))


def _dpt(net: Any, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The library's forward gives no auxiliary logits: its parts, in its order."""
    hidden = net.dpt(image, output_hidden_states=True).hidden_states[1:]
    features = net.neck([hidden[place] for place in net.config.backbone_out_indices])
    return loss(net.head(features)) + 0.4 * loss(net.auxiliary_head(features[-1]))  # the library's auxiliary_loss_weight


def step(model: Adapter, way: Callable[[], Tensor]) -> float:
    """Seconds of forward, loss and backward."""
    torch.manual_seed(0)
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    way().backward()
    return time.perf_counter() - started


def ratio(name: str) -> float:
    """Median over the turns of the adapter's time over the plain way's."""
    config, task = config_of(name), Task(2, (SIDE, SIDE))
    torch.manual_seed(0)
    model = adapt(build_network(config, task), config, task, make_loss(LossConfig(), LabelSet.of("a"))).train()
    given = batch()
    ways = (lambda: model(given).total), plain(name, model, given)
    for way in ways:
        step(model, way)
    found = []
    for turn in range(TURNS):
        times = {place: step(model, ways[place]) for place in ((0, 1) if turn % 2 else (1, 0))}
        found.append(times[0] / times[1])
    return statistics.median(found)


if __name__ == "__main__":
    options = command_line(__doc__).parse_args()
    figures = {name: round(ratio(name), 3) for name in NAMES}
    tell("An adapter against the library's own module", "python bench/bench_adapter.py", figures | {"turns": TURNS}, options.record)
    sys.exit(max(figures.values()) > LIMIT)
