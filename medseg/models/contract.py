"""The contract every network keeps, after torchvision's detection models: one `forward`, losses in train mode, a Prediction in eval mode.

Legend: B batch, C channels, K classes, H W space.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medseg.types import Batch, Loss, Losses, Prediction

MEAN, DEVIATION = 0.5, 0.25  # of a channel in [0, 1]; brings photographs to about zero mean and unit deviation


class SemanticNetwork(nn.Module):
    """A network of per-pixel logits as an adapter: image_BCHW in [0, 1] -> logits_BKHW of the same H and W.

    The loss is injected by build.py and has no parameters, so the state dict is the network's own. A network that only predicts has none.
    """

    def __init__(self, net: nn.Module, loss: Loss | None = None):
        super().__init__()
        self.net = net
        self.loss = loss
        self._terms: Callable[[Tensor, Tensor], dict[str, Tensor]] = self._loss_terms

    def forward(self, inputs: Batch | Tensor) -> Losses | Prediction:
        """A Batch in train mode gives Losses; image_BCHW in eval mode gives a Prediction with float32 probabilities."""
        if self.training:
            assert isinstance(inputs, Batch), "in train mode the network takes a Batch"
            return Losses(self._terms(inputs.image_BCHW, inputs.mask_BHW))
        assert isinstance(inputs, Tensor), "in eval mode the network takes image_BCHW"
        probs = torch.softmax(self._logits(inputs).float(), dim=1)
        return Prediction(probs, probs.argmax(dim=1))

    def compile_training(self) -> None:
        """Have torch.compile make one program of network and loss, at the first training batch; evaluation stays eager.

        Not of `forward`: a batch's sample ids are texts, each new one of which would have it compiled again.
        """
        self._terms = self._compile_terms

    def _compile_terms(self, image_BCHW: Tensor, mask_BHW: Tensor) -> dict[str, Tensor]:
        self._terms = torch.compile(self._loss_terms, dynamic=False)  # only now: the compiler takes seconds to import
        return self._terms(image_BCHW, mask_BHW)

    def _loss_terms(self, image_BCHW: Tensor, mask_BHW: Tensor) -> dict[str, Tensor]:
        assert self.loss is not None, "this network was built to predict"
        return self.loss(self._logits(image_BCHW), mask_BHW)

    def _logits(self, image_BCHW: Tensor) -> Tensor:
        return self.net((image_BCHW - MEAN) / DEVIATION)
