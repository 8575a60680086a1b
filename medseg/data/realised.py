"""What an epoch really showed, beside what was asked for and what the training set holds.

An image share is the share of the images (or crops) that hold a class; a pixel share is a class's share of the valid pixels, background
included. `sampling/set_...` is of the training set, `sampling/asked_...` what the sampler expects to draw, `train/drawn_...` what the
network was shown, after cropping and augmentation. A share of nothing is NaN.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medseg.config import SamplingConfig
from medseg.data.patches import ANYWHERE
from medseg.labels import LabelSet
from medseg.types import Draws

IDS = 256  # of a uint8 mask


class Seen:
    """Counts what the batches of an epoch hold, on their own device; only `shares` waits for it.

    counts_2K: int64, valid pixels of each class and images that hold it; summed over ranks by whoever has several, as `images` is.
    Eight masks of 256 x 256 cost about 1.5 ms of one core of a CPU (Xeon, 2.5 GHz), whatever the number of classes.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.images = 0
        self.counts_2K: Tensor | None = None

    def add(self, mask_BHW: Tensor) -> None:
        """Count a batch: int64 class ids, or the ignore id, which is no class and so counts nowhere."""
        pixels_BK = (_on_processor if mask_BHW.device.type == "cpu" else _on_device)(mask_BHW.flatten(1))[:, : self.num_classes]
        counts_2K = torch.stack([pixels_BK.sum(0), (pixels_BK > 0).sum(0)])
        self.counts_2K = counts_2K if self.counts_2K is None else self.counts_2K + counts_2K
        self.images += len(mask_BHW)

    def shares(self, labels: LabelSet) -> dict[str, float]:
        """`train/drawn_image_share/<class>` of the foreground and `train/drawn_pixel_share/<class>` of all classes. CPU-GPU sync point."""
        counts_2K = np.zeros((2, self.num_classes), np.int64) if self.counts_2K is None else self.counts_2K.cpu().numpy()
        return _shares("train/drawn", counts_2K[0], counts_2K[1, 1:], self.images, labels)


def _on_processor(ids_BP: Tensor) -> Tensor:
    """int64 (B, IDS): pixels of each id in each image. A quarter of the time that `_on_device` takes on two busy cores."""
    return torch.from_numpy(np.stack([np.bincount(ids, minlength=IDS) for ids in ids_BP.numpy()]))


def _on_device(ids_BP: Tensor) -> Tensor:
    """The same without a CPU-GPU sync point; torch.bincount has one (it asks for the largest id), and a pass a class grows with them."""
    ones = torch.ones((), dtype=torch.int64, device=ids_BP.device).expand_as(ids_BP)
    return ids_BP.new_zeros(len(ids_BP), IDS).scatter_add_(1, ids_BP, ones)


def set_shares(present: np.ndarray, pixels_NK: np.ndarray, labels: LabelSet) -> dict[str, float]:
    """`sampling/set_image_share/<class>` and `sampling/set_pixel_share/<class>` of the training set.

    present: bool (N, K - 1) of `sampling.presence`.  pixels_NK: of `sampling.pixel_counts`, or exactly, of a PatchIndex.
    """
    return _shares("sampling/set", pixels_NK.sum(axis=0), present.sum(axis=0), len(present), labels)


def _shares(prefix: str, pixels_K: np.ndarray, images: np.ndarray, total: int, labels: LabelSet) -> dict[str, float]:
    """pixels_K: of each class.  images: how many of the `total` hold each foreground class."""
    by_image = {f"{prefix}_image_share/{name}": _ratio(count, total) for name, count in zip(labels.foreground, images, strict=True)}
    valid = pixels_K.sum()
    return by_image | {f"{prefix}_pixel_share/{name}": _ratio(count, valid) for name, count in zip(labels.names, pixels_K, strict=True)}


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def asked(config: SamplingConfig, weights: np.ndarray, present: np.ndarray, labels: LabelSet) -> dict[str, float]:
    """What the sampler is expected to draw: `sampling/asked_image_share/<class>`, and with centre_ratios their shares of the crops.

    weights: float64 (N,), positive.  present: bool (N, K - 1).  The image share is of the *images* drawn. A crop holds at most what its
    image does, so a class's share of the crops lies between `sampling/asked_centre_ratio/<class>` and its image share.
    Every image counts as holding background.
    """
    ratios = {name: ratio / sum(config.centre_ratios.values()) for name, ratio in config.centre_ratios.items() if ratio}
    expected = sum(ratio * _image_share(name, weights, present, labels) for name, ratio in (ratios or {ANYWHERE: 1.0}).items())
    shares = zip(labels.foreground, (expected @ present).tolist(), strict=True)
    image_shares = {f"sampling/asked_image_share/{name}": round(share, 12) for name, share in shares}  # 1, where the sum gives 1 - 4e-15
    return image_shares | {f"sampling/asked_centre_ratio/{name}": ratio for name, ratio in ratios.items()}


def _image_share(wish: str, weights: np.ndarray, present: np.ndarray, labels: LabelSet) -> np.ndarray:
    """float64 (N,), summing to 1: how often each image is drawn for a crop with this wish."""
    if wish not in labels.foreground:
        return weights / weights.sum()
    held = weights * present[:, labels.foreground.index(wish)]
    assert held.any(), f"no image holds {wish!r}: sampling.check_centres refuses it"
    return held / held.sum()


def centre_shares(config: SamplingConfig, draws: Draws, labels: LabelSet) -> dict[str, float]:
    """`train/drawn_centre_ratio/<class or anywhere>`: the share of an epoch's crops that were drawn for each; empty for whole images.

    What was asked for and not drawn is told as 0, so that a mean over the epochs is the share over them.
    """
    if draws.wanted is None:
        return {}
    names = [name for name, ratio in config.centre_ratios.items() if ratio] or [ANYWHERE]
    ids = {-1 if name == ANYWHERE else labels.names.index(name): name for name in names}
    return {f"train/drawn_centre_ratio/{ids[class_id]}": float((draws.wanted == class_id).mean()) for class_id in sorted(ids)}
