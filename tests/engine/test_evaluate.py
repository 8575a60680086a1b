"""What is counted on the network's device: the same numbers as `metrics.counts`, in little memory."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medseg.engine import evaluate
from medseg.engine.evaluate import PIECE, _confusion, has_probs
from medseg.labels import LabelSet
from medseg.metrics.counts import confusion

LABELS = LabelSet.of("a", "b")


class Largest(TorchDispatchMode):
    """Elements of the largest tensor of wide numbers that is made inside."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype.itemsize >= 4:
            self.elements = max(self.elements, made.numel())
        return made


def masks(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randint(0, 4, shape, generator=generator, dtype=torch.uint8)
    reference[reference == 3] = 255
    return reference, torch.randint(0, 3, shape, generator=generator, dtype=torch.uint8)


def test_the_confusion_is_that_of_the_metrics(monkeypatch):
    for shape in ((9, 11), (5, 9, 11), (1, 1)):
        reference, prediction = masks(shape)
        expected = confusion(reference.numpy(), prediction.numpy(), LABELS)
        for piece in (2**20, 7):
            monkeypatch.setattr(evaluate, "PIECE", piece)
            assert np.array_equal(_confusion(reference, prediction, LABELS).numpy(), expected)


def test_a_volume_is_counted_without_copies_eight_times_as_large():
    reference, prediction = masks((5, 700, 700))
    assert reference.numel() > 2 * PIECE
    with Largest() as largest:
        counts = _confusion(reference, prediction, LABELS)
    assert counts.sum() == (reference != 255).sum() and 0 < largest.elements <= PIECE


def test_probabilities_of_a_large_ct_are_not_looked_at():
    assert has_probs(512 * 512 * 200, LabelSet.of("a", "b", "c", "d")) and not has_probs(512 * 512 * 600, LABELS)
