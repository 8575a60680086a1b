"""What the tests of the augmentation share: a change that does nothing, settings with everything on, a random batch."""

from __future__ import annotations

import torch

from medseg.config import AugmentConfig
from medseg.data.augment import Change
from medseg.labels import LabelSet
from medseg.types import Batch

LABELS = LabelSet.of("left", "right", "tongue", left_right_pairs=[["left", "right"]])
STILL = Change(
    flip=False, turn_rad=0.0, zoom=1.0, shift_x=0.0, shift_y=0.0, brightness=1.0, contrast=1.0, gamma=1.0, saturation=1.0, hue_rad=0.0
)
EVERYTHING = AugmentConfig(crop=0.4, elastic=0.1, noise=0.1, blur_px=2.0, cutout=0.5)
COLOURLESS = {"brightness": 0, "contrast": 0, "gamma": 0, "saturation": 0, "hue": 0}
MOTIONLESS = {"flip_probability": 0, "rotate_deg": 0, "scale": 0, "shift": 0}


def random_batch(size: tuple[int, int] = (24, 32), count: int = 3, seed: int = 0) -> Batch:
    """Noise and random ids of LABELS, the first two rows ignored."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 3, *size, generator=generator)
    mask = torch.randint(0, LABELS.num_classes, (count, *size), generator=generator)
    mask[:, :2] = LABELS.ignore_id
    return Batch(image, mask, tuple("abcdefgh"[:count]))
