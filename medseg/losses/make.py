"""LossConfig -> loss: the named terms of an experiment, on one output or on several of falling resolution.

Legend: B batch, K classes, H W space (or D H W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce

import numpy as np
import torch
from torch import Tensor, nn

from medseg.config import LossConfig
from medseg.labels import LabelSet
from medseg.losses.grid import Grid, lay
from medseg.losses.pixels import cross_entropy, focal, topk_cross_entropy
from medseg.losses.regions import focal_tversky, soft_dice, tversky
from medseg.losses.unified import LAMBDA, asymmetric_focal, asymmetric_focal_tversky
from medseg.types import Loss

Term = Callable[[Grid], Tensor]
DEFAULT_GAMMAS = {"focal": 2.0, "dice_focal": 2.0, "focal_tversky": 0.75, "unified_focal": 0.5}  # of their papers
PIXEL_TERMS = {"dice_ce": "cross_entropy", "dice_focal": "focal", "dice_topk": "topk"}  # what stands beside the Dice term


class WeightedTerms(nn.Module):
    """Terms and their weights as one function: (logits, mask_BHW) -> {name: weighted scalar}, float32 whatever the autocast.

    logits: (B, K, H, W), or several of falling resolution, the full one first: then each term is the mean over them with weights 1, 1/2,
    1/4, ... (nnU-Net, Isensee et al. 2021, which leaves the coarsest out, though; here all that are given count).
    A module only so that the class weights travel to the device with the network that holds it: nothing to learn, nothing in the state
    dict.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Term]], labels: LabelSet, class_weights_K: Tensor | None, shared: bool = False):
        super().__init__()
        self.terms = dict(terms)
        self.labels = labels
        self.shared = shared
        self.class_weights_K: Tensor | None
        self.register_buffer("class_weights_K", class_weights_K, persistent=False)

    def forward(self, logits: Tensor | Sequence[Tensor], mask_BHW: Tensor) -> dict[str, Tensor]:
        """Each term's weighted value; 0 without gradient where the mask is all ignored."""
        levels = [logits] if isinstance(logits, Tensor) else list(logits)
        assert levels[0].shape[2:] == mask_BHW.shape[1:], f"logits of {levels[0].shape}, mask of {mask_BHW.shape}"
        grids = [lay(level, mask_BHW, self.labels, self.class_weights_K, self.shared) for level in levels]
        shares = level_shares(len(grids))
        return {
            name: weight * reduce(torch.add, [share * term(grid) for share, grid in zip(shares, grids, strict=True)])
            for name, (weight, term) in self.terms.items()
        }


def level_shares(levels: int) -> list[float]:
    """What each level of deep supervision counts: 1, 1/2, 1/4, ... over their sum.

    >>> level_shares(2)
    [0.6666666666666666, 0.3333333333333333]
    """
    halves = [0.5**level for level in range(levels)]
    return [half / sum(halves) for half in halves]


def make_loss(config: LossConfig, labels: LabelSet, class_weights: np.ndarray | Tensor | None = None, processes: int = 1) -> Loss:
    """The loss an experiment names. `class_weights` (K,) are given if and only if the config asks for them; see weights.py.

    processes: that hold equal parts of each batch. A term over the batch then adds its sums up over them (torch.distributed), so that each
    has the whole batch's loss; of one image by image each has that of its own, and the mean of their gradients is the batch's.
    """
    assert (class_weights is None) == (config.class_weights == "none"), "class weights belong to a config that names them"
    weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
    assert weights is None or weights.shape == (labels.num_classes,), "one weight a class"
    every = _every_term(config)
    return WeightedTerms({name: (weight, every[name]) for name, weight in _weights(config).items()}, labels, weights, processes > 1)


def _weights(config: LossConfig) -> dict[str, float]:
    """The terms a loss is made of, and the weight of each."""
    if config.name in PIXEL_TERMS:
        return {"dice": config.dice_weight, PIXEL_TERMS[config.name]: config.pixel_weight}
    if config.name == "unified_focal":
        return {"asymmetric_focal": LAMBDA, "asymmetric_focal_tversky": 1 - LAMBDA}
    return {config.name: 1.0}


def _every_term(config: LossConfig) -> dict[str, Term]:
    """All terms there are, with the config's settings; the reduction is given to all in one place, so that no term can miss it."""
    alpha, beta, delta, background = config.alpha, config.beta, config.delta, config.include_background
    gamma = DEFAULT_GAMMAS.get(config.name, 0.0) if config.gamma is None else config.gamma
    terms: dict[str, Callable[..., Tensor]] = {
        "dice": partial(soft_dice, include_background=background),
        "cross_entropy": cross_entropy,
        "focal": partial(focal, gamma=gamma),
        "topk": partial(topk_cross_entropy, share=config.topk_share),
        "tversky": partial(tversky, alpha=alpha, beta=beta, include_background=background),
        "focal_tversky": partial(focal_tversky, alpha=alpha, beta=beta, exponent=gamma, include_background=background),
        "asymmetric_focal": partial(asymmetric_focal, delta=delta, gamma=gamma),
        "asymmetric_focal_tversky": partial(asymmetric_focal_tversky, delta=delta, gamma=gamma),
    }
    return {name: partial(term, over_batch=config.reduction == "batch") for name, term in terms.items()}
