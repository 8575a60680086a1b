"""Batch -> Batch: random geometry, colour and spoiling on the training device, parameters drawn per draw, then applied to the whole batch.

A draw is named by (seed, epoch, position), so an image drawn twice in an epoch is changed in two ways, and one draw replayed alone
equals its place in the batch to the last bit: no step adds up over more than one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medseg.data.augment.change import Change, draw_change
from medseg.data.augment.colour import recolour
from medseg.data.augment.geometry import warp, warp_objects
from medseg.data.augment.spoil import add_noise, blur, cut_out
from medseg.labels import LabelSet
from medseg.types import Batch

__all__ = ["Change", "apply_changes", "draw_change"]


@torch.no_grad()
def apply_changes(batch: Batch, changes: Sequence[Change], labels: LabelSet) -> Batch:
    """Warp, blur, recolour, add noise and cut out, in the order in which a camera would: optics, sensor, then what hides the picture.

    image_BCHW: float32 RGB in [0, 1], and stays so.  mask_BHW: any integer ids, returned as int64.  What comes from outside the frame has
    the ignore id (and is black before the change of contrast).  objects_BHW: goes where its pixels' classes go; none is where nothing
    is known.  The batch itself is left as it was, and so is the memory format.
    """
    image, layout = batch.image_BCHW, torch.contiguous_format
    if image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous():
        layout = torch.channels_last
    with torch.autocast(image.device.type, enabled=False):  # in bfloat16 the grid would round to pixels and the blur to 8 bits
        image, mask = warp(image.contiguous(), batch.mask_BHW, changes, labels)
        blur(image, changes)
        image = recolour(image, changes)
        add_noise(image, changes)
        cut_out(image, mask, changes, labels.ignore_id)
        objects = None if batch.objects_BHW is None else warp_objects(batch.objects_BHW, changes).masked_fill_(~labels.valid(mask), 0)
    return batch._replace(image_BCHW=image.contiguous(memory_format=layout), mask_BHW=mask, objects_BHW=objects)
