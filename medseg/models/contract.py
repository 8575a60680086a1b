"""The contract every network keeps, after torchvision's detection models: one `forward`, losses in train mode, a Prediction in eval mode.

Legend: B batch, C channels, K classes, H W space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.types import Batch, Loss, Losses, Prediction

MEAN, DEVIATION = 0.5, 0.25  # of a channel in [0, 1]; brings photographs to about zero mean and unit deviation


class SemanticNetwork(nn.Module):
    """A network of per-pixel logits as an adapter: image_BCHW in [0, 1] -> logits_BKHW of the same H and W.

    The loss is injected by build.py and has no parameters, so the state dict is the network's own.
    """

    def __init__(self, net: nn.Module, loss: Loss):
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, inputs: Batch | Tensor) -> Losses | Prediction:
        """A Batch in train mode gives Losses; image_BCHW in eval mode gives a Prediction with float32 probabilities."""
        if self.training:
            assert isinstance(inputs, Batch), "in train mode the network takes a Batch"
            return Losses(self.loss(self._logits(inputs.image_BCHW), inputs.mask_BHW))
        assert isinstance(inputs, Tensor), "in eval mode the network takes image_BCHW"
        probs = torch.softmax(self._logits(inputs).float(), dim=1)
        return Prediction(probs, probs.argmax(dim=1))

    def _logits(self, image_BCHW: Tensor) -> Tensor:
        return self.net((image_BCHW - MEAN) / DEVIATION)
