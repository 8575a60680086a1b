"""Losses over logits that leave the ignored pixels out, on both sides.

    grid -> regions, pixels -> unified -> make      each imports only from those before it
            weights                                 class weights from the manifest's pixel counts

Every value is a float32 scalar, 0 or more, with finite gradients at saturated logits; nothing waits for the device, and torch.compile
takes each loss as one graph.
"""

from __future__ import annotations

from medseg.losses.make import make_loss
from medseg.losses.weights import class_weights

__all__ = ["class_weights", "make_loss"]
