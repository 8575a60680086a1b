"""A network whose code cannot be followed with free sides in any time."""

from __future__ import annotations

import signal
import time

import pytest
import torch
from torch import nn

from medseg.exporting.graph import AXES, SlowError, exported
from medseg.types import Prediction, Size


class Endless(nn.Module):
    """Like a formula that is simplified for ever: no step of it looks at the clock, and what is raised within is passed over."""

    def forward(self, image_BCHW):
        while isinstance(image_BCHW.shape[2], torch.SymInt):
            try:
                time.sleep(0.01)
            except Exception:
                continue
        probs = torch.softmax(image_BCHW, dim=1)
        return Prediction(probs, probs.argmax(1))


def test_free_sides_are_given_up_in_time_and_the_frame_s_own_are_not(monkeypatch):
    assert exported(Endless(), Size(16, 16), ("batch",)).varying == ("batch",)  # first: what torch imports for it takes seconds
    monkeypatch.setattr("medseg.exporting.graph.PATIENCE_S", 0.5)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(SlowError, match=r"not followed in 0\.5 s"):
        exported(Endless(), Size(16, 16), AXES)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and signal.getsignal(signal.SIGALRM) is before
    assert exported(Endless(), Size(16, 16), ("batch",)).varying == ("batch",)
