"""What the adapter costs: a training step (forward, loss, backward) and a prediction by it and by the library's own module, turn by turn.

python bench/bench_adapter.py [--record]

The plain way gets an image that is normalised beforehand, calls the module as its library's documentation does, brings the logits to the
image's size and takes the same loss, auxiliary head with its weight; Mask R-CNN is given its targets, Mask2Former its masks. In inference
it does what has to be done anyway: probabilities at the image's size and the classes of the largest; Mask R-CNN's pasted objects are
painted, the surest on top; Mask2Former's queries are summed up at the image's size, not at the 384 x 384 of its library. torchvision's
forward asks DeepLabV3's auxiliary head in inference too, which the adapter does not.

One network a family, 4 images of 128 x 128. Exits 1 where the median of the ratios of one turn is over 1.05.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from medseg.types import Batch, Loss

SIDE, IMAGES, TURNS, LIMIT = 128, 4, 15, 1.05
SURE = 0.5  # of a pixel of an object, and of an object that is painted


def batch() -> Batch:
    """Images with one block of a class each."""
    mask = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.int64)
    mask[:, 30:90, 40:100] = 1
    return Batch(torch.rand(IMAGES, 3, SIDE, SIDE), mask, ("a",) * IMAGES)


# --- the library's own ways


@dataclass(frozen=True)
class Own:
    """A library's module and what it is given. image: normalised (B, C, H, W)."""

    net: Any
    image: Tensor
    mask: Tensor
    terms: Loss

    def loss(self, logits: Tensor) -> Tensor:
        """Of logits of any size."""
        return sum(self.terms(at_size(logits), self.mask).values())


def at_size(logits: Tensor) -> Tensor:
    """Logits at the image's size."""
    same = tuple(logits.shape[2:]) == (SIDE, SIDE)
    return logits if same else interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def classes(logits: Tensor) -> Tensor:
    """Of logits of any size: the classes of the largest probabilities."""
    return at_size(logits).softmax(1).argmax(1)


def dynunet_loss(own: Own) -> Tensor:
    """MONAI's forward brings every level to the full size; its chain of blocks is what nnU-Net's loss wants."""
    out = own.net.output_block(own.net.skip_layers(own.image))
    return sum(own.terms([out, *own.net.heads], own.mask).values())


def deeplab_loss(own: Own) -> Tensor:
    """With the auxiliary head at torchvision's weight."""
    found = own.net(own.image)
    return own.loss(found["out"]) + 0.5 * own.loss(found["aux"])


def dpt_loss(own: Own) -> Tensor:
    """The library's forward gives no auxiliary logits: its parts, in its order."""
    net = own.net
    hidden = net.dpt(own.image, output_hidden_states=True).hidden_states[1:]
    features = net.neck([hidden[place] for place in net.config.backbone_out_indices])
    return own.loss(net.head(features)) + 0.4 * own.loss(net.auxiliary_head(features[-1]))  # the library's auxiliary_loss_weight


def mask2former_loss(own: Own) -> Tensor:
    """Of a mask a class."""
    masks = [torch.stack([one == place for place in (0, 1)]).float() for one in own.mask]
    return own.net(pixel_values=own.image, mask_labels=masks, class_labels=[torch.tensor([0, 1])] * IMAGES).loss


def mask2former_classes(own: Own) -> Tensor:
    """What each query says a pixel is, summed over the queries."""
    out = own.net(pixel_values=own.image)
    each_BQK, masks_BQHW = out.class_queries_logits.softmax(-1)[..., :-1], at_size(out.masks_queries_logits).sigmoid()
    return torch.einsum("bqk,bqhw->bkhw", each_BQK, masks_BQHW).argmax(1)


def mask_rcnn_at_size(net: Any) -> Any:
    """The module, which leaves images as they are."""
    net.transform.min_size, net.transform.max_size = (SIDE,), SIDE
    net.transform.image_mean, net.transform.image_std = [0.0] * 3, [1.0] * 3
    return net


def mask_rcnn_loss(own: Own) -> Tensor:
    """Of the one block that each image shows."""
    block = {"boxes": torch.tensor([[40.0, 30.0, 100.0, 90.0]]), "labels": torch.tensor([1]), "masks": own.mask[0][None].to(torch.uint8)}
    return sum(mask_rcnn_at_size(own.net)(list(own.image), [dict(block) for _ in range(IMAGES)]).values())


def mask_rcnn_classes(own: Own) -> Tensor:
    """The library pastes; what is sure enough is painted, the surest, which comes first, on top."""
    painted = torch.zeros_like(own.mask)
    for one, found in zip(painted, mask_rcnn_at_size(own.net)(list(own.image)), strict=True):
        objects = zip(found["labels"].tolist(), found["scores"].tolist(), found["masks"][:, 0] >= SURE, strict=True)
        for class_id, score, inside in reversed(list(objects)):
            if score >= SURE:
                one[inside] = class_id
    return painted


class Ways(NamedTuple):
    """loss: what the adapter's terms sum up to, in train mode.  classes: (B, H, W), in eval mode."""

    loss: Callable[[Own], Tensor] = lambda own: own.loss(own.net(own.image))
    classes: Callable[[Own], Tensor] = lambda own: classes(own.net(own.image))


WAYS = {
    "unet": Ways(),
    "dynunet": Ways(loss=dynunet_loss),
    "deeplabv3_mobilenet_v3_large": Ways(deeplab_loss, lambda own: classes(own.net(own.image)["out"])),
    "fcn_resnet18": Ways(),
    "segformer": Ways(
        lambda own: own.loss(own.net(pixel_values=own.image).logits), lambda own: classes(own.net(pixel_values=own.image).logits)
    ),
    "dpt": Ways(dpt_loss, lambda own: classes(own.net(pixel_values=own.image).logits)),
    "smp:unet/resnet18": Ways(),
    "mask2former": Ways(mask2former_loss, mask2former_classes),
    "maskrcnn_resnet50_fpn": Ways(mask_rcnn_loss, mask_rcnn_classes),
}


# --- what is measured


def step(model: Adapter, way: Callable[[], Tensor]) -> float:
    """Seconds of forward, loss and backward."""
    torch.manual_seed(0)
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    way().backward()
    return time.perf_counter() - started


def prediction(model: Adapter, way: Callable[[], Tensor]) -> float:
    """Seconds of an image's way to classes."""
    with torch.inference_mode():
        started = time.perf_counter()
        way()
        return time.perf_counter() - started


def ratio(seconds: Callable[[int], float]) -> float:
    """Median over the turns of the time of way 0, the adapter's, over that of way 1, the library's."""
    for way in (0, 1):
        seconds(way)
    found = []
    for turn in range(TURNS):
        times = {way: seconds(way) for way in ((0, 1) if turn % 2 else (1, 0))}
        found.append(times[0] / times[1])
    return round(statistics.median(found), 3)


def agree(name: str, learn: Sequence[Callable[[], Tensor]], show: Sequence[Callable[[], Tensor]], model: Adapter) -> None:
    """Stop where the two ways compute different things: their times would say nothing.

    The losses up to a hundredth: torchvision draws one of its one image sizes first, and so other regions for Mask R-CNN to learn from.
    """
    losses = []
    with torch.no_grad():
        model.train()
        for way in learn:
            torch.manual_seed(0)
            losses.append(way().item())
        model.eval()  # only now: training moves the batch norms' running values
        one, other = (way() for way in show)
    differ = (one != other).float().mean().item()
    if abs(losses[0] - losses[1]) > 1e-2 * losses[1] or differ > 1e-3:
        sys.exit(f"{name}: losses {losses[0]:.5f} and {losses[1]:.5f}, {differ:.1%} of the classes differ")


def ratios(name: str) -> dict[str, float]:
    """Of a training step, and of a prediction."""
    config, task = config_of(name), Task(2, (SIDE, SIDE))
    torch.manual_seed(0)
    model = adapt(build_network(config, task), config, task, make_loss(LossConfig(), LabelSet.of("a")))
    given, ways = batch(), WAYS[name]
    own = Own(model.net, model._normalised(given.image_BCHW), given.mask_BHW, model.loss)
    learn = (lambda: model(given).total, lambda: ways.loss(own))
    show = (lambda: model(given.image_BCHW).mask_BHW, lambda: ways.classes(own))
    agree(name, learn, show, model)
    model.train()
    training = ratio(lambda way: step(model, learn[way]))
    model.eval()
    return {name: training, f"{name}, inference": ratio(lambda way: prediction(model, show[way]))}


if __name__ == "__main__":
    options = command_line(__doc__).parse_args()
    figures = {key: value for name in WAYS for key, value in ratios(name).items()}
    tell("An adapter against the library's own module", "python bench/bench_adapter.py", figures | {"turns": TURNS}, options.record)
    sys.exit(max(figures.values()) > LIMIT)
