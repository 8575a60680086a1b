"""How fast the augmentation is, against kornia's on the same batch, in interleaved blocks of one run.

python bench/augment_kornia.py [--blocks 9] [--record]      kornia is no dependency; how to get it is said where it is missing

Images and masks of 256 x 256, eight a batch, on the CPU with all its threads; the draws are made within the time, as both have to in
training. "default": our configuration as it is, and kornia's flip, affine map, colours and gamma with the same ranges. "everything":
crop, elastic warp, noise, blur and cut-out too, each on half of the images. kornia's crop and hidden rectangle are RandomResizedCrop
and RandomErasing, and its mask goes through the same container (nearest, as ours). A figure is the median of the blocks; the last line
is one JSON object.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from record import command_line, tell

from medseg.config import AugmentConfig
from medseg.data.augment import apply_changes, draw_change
from medseg.labels import LabelSet
from medseg.types import Batch

try:
    import kornia
    from kornia import augmentation
except ImportError:
    raise SystemExit(
        "augment_kornia: the peer, kornia, is not installed. It is no dependency of medseg; put it into a throw-away environment:\n"
        "    .venv/bin/python -m venv --system-site-packages /tmp/peer\n"
        "    /tmp/peer/bin/pip install kornia\n"
        "and run this script with an interpreter that finds both (PYTHONPATH=$(echo /tmp/peer/lib/python*/site-packages))."
    ) from None

warnings.filterwarnings("ignore", category=UserWarning, module="kornia")  # of its own calls of torch, each time
SIZE, BATCH, BLOCK_S = 256, 8, 2.0
LABELS = LabelSet.of("tongue", "coating")
DEFAULT = AugmentConfig()
EVERYTHING = AugmentConfig(crop=0.3, elastic=0.05, noise=0.1, blur_px=2.0, cutout=0.3)
KERNEL_PX = 17  # 4 standard deviations of the widest blur to each side, as ours


def ours(config: AugmentConfig, batch: Batch) -> Callable[[], object]:
    """A function that augments the batch once, another way each time."""
    epochs = itertools.count()

    def step() -> object:
        epoch = next(epochs)
        return apply_changes(batch, [draw_change(config, 0, epoch, place) for place in range(BATCH)], LABELS)

    return step


def theirs(config: AugmentConfig, batch: Batch) -> Callable[[], object]:
    """The same by kornia's own modules, in our order."""
    mask = batch.mask_BHW[:, None].float()
    pipeline = augmentation.AugmentationSequential(*_kornia_parts(config), data_keys=["input", "mask"], same_on_batch=False)
    return torch.no_grad()(lambda: pipeline(batch.image_BCHW, mask))


def _kornia_parts(config: AugmentConfig) -> list[Any]:
    rare: dict[str, Any] = {"p": config.probability}
    zoom, cut = 1.0 - config.scale, 1.0 - config.crop
    warp = [
        augmentation.RandomHorizontalFlip(p=config.flip_probability),
        augmentation.RandomAffine(config.rotate_deg, (config.shift, config.shift), (zoom, 1 / zoom), p=1.0),
    ]
    if config.crop:
        warp.append(augmentation.RandomResizedCrop((SIZE, SIZE), scale=(cut**2, 1.0), ratio=(1.0, 1.0), **rare))
    if config.elastic:
        warp.append(augmentation.RandomElasticTransform(align_corners=False, **rare))  # its default kernel: 63 pixels wide
    if config.blur_px:
        warp.append(augmentation.RandomGaussianBlur((KERNEL_PX, KERNEL_PX), (0.01, config.blur_px), **rare))
    tail = [
        augmentation.ColorJiggle(config.brightness, config.contrast, config.saturation, config.hue, p=1.0),
        augmentation.RandomGamma((1 / (1 + config.gamma), 1 + config.gamma), p=1.0),
    ]
    if config.noise:
        tail.append(augmentation.RandomGaussianNoise(std=config.noise / 2, **rare))
    if config.cutout:
        tail.append(augmentation.RandomErasing(scale=(0.001, config.cutout**2), **rare))
    return [*warp, *tail]


def images_per_s(step: Callable[[], object], seconds: float) -> float:
    """Speed over a block of about so many seconds."""
    started, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        step()
        steps += 1
    return steps * BATCH / spent


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Median images/s of each of the four, in turn block by block, and the median of the ratios of neighbouring blocks."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    batch = Batch(image, torch.randint(0, LABELS.num_classes, (BATCH, SIZE, SIZE), generator=generator), ("",) * BATCH)
    found = {}
    for name, config in {"default": DEFAULT, "everything": EVERYTHING}.items():
        steps = (ours(config, batch), theirs(config, batch))
        for step in steps:
            images_per_s(step, BLOCK_S / 2)  # warm
        pairs = [[images_per_s(step, BLOCK_S) for step in steps] for _ in range(blocks)]
        speeds = [round(median(column), 1) for column in zip(*pairs, strict=True)]
        ratio = median(one / other for one, other in pairs)
        found[name] = {"images_per_s": speeds[0], "kornia_images_per_s": speeds[1], "times_kornia": round(ratio, 2)}
    return found


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--blocks", type=int, default=9)
    options = parser.parse_args()
    figures = {**measure(options.blocks), "threads": torch.get_num_threads(), "kornia": kornia.__version__, "torch": torch.__version__}
    tell("Augmentation of 256 x 256, batches of 8", f"python bench/augment_kornia.py --blocks {options.blocks}", figures, options.record)
